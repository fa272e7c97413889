"""One attempt at a cell, as it is handed to whoever trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mnistbench.cell import Cell
from mnistbench.results.records import TRAINING_REVISION, CellRecord, Data, Status


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at a cell, as it is handed to whoever trains it.

    Attributes:
        cell: what to train.
        record_id: the attempt's name, minted by the parent.
        attempt: 1 for the first.
        round, position: place in the session's shuffled order.
        data_directory: the prepared data that the worker maps into memory.
        data: checksum and sizes of that data, for the record.
        weights_directory: where to leave kept models; the parent moves them.
        plugins: modules or files that the command line allowed.
        timeout_seconds: the parent ends the attempt after this time; None for never.
        environment_extra: what the parent measured once for all cells, for the record's environment.
        resolved: the `execution_resolved` of an earlier record, to be taken as it is instead of chosen anew.
        without_graph: why no CUDA graph is captured: what an earlier worker said that tried; empty if none did.
        own_process: False where it trains in the runner's process, whose memory is not the cell's.
    """

    cell: Cell
    record_id: str
    attempt: int = 1
    round: int = 0
    position: int = 0
    data_directory: str
    data: Data
    weights_directory: str | None = None
    plugins: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    environment_extra: Mapping[str, Any] = field(default_factory=dict)
    resolved: Mapping[str, Any] | None = None
    without_graph: str = ""
    own_process: bool = True

    def record(self, status: Status, started_at: str, **changes: Any) -> CellRecord:
        """A record of this attempt that says no more than how it ended; `changes` fill in other fields."""
        same = ("record_id", "attempt", "cell", "round", "position", "data")
        told: dict[str, Any] = {name: getattr(self, name) for name in same}
        told |= {"cell_id": self.cell.cell_id, "status": status, "started_at": started_at}
        return CellRecord(**told | {"training_revision": TRAINING_REVISION} | changes)
