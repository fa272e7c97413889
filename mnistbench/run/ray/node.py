"""What happens on a node: find or unpack the data, run a cell in a process of its own, tell its epochs."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from mnistbench.data.arrays import Arrays, checksum
from mnistbench.data.cache import entry_directory, find_or_make, read_entry
from mnistbench.errors import UserError
from mnistbench.results.records import CellRecord, EpochMeasurement
from mnistbench.run.executors import ProcessExecutor
from mnistbench.train.job import Job


class Delivery(NamedTuple):
    """What comes back of an attempt: its record, and the kept weights as files' names and contents."""

    record: CellRecord
    weights: dict[str, bytes]


class Mailbox:
    """An actor through which epochs reach the driver while their cells still run."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[str, EpochMeasurement]] = asyncio.Queue()

    async def put(self, record_id: str, measurement: EpochMeasurement) -> None:
        """Leave an epoch of an attempt."""
        await self._waiting.put((record_id, measurement))

    async def take(self) -> list[tuple[str, EpochMeasurement]]:
        """Wait until there is something, and take all of it."""
        taken = [await self._waiting.get()]
        while not self._waiting.empty():
            taken.append(self._waiting.get_nowait())
        return taken


def find_data(data_directory: str, sha256: str, sent: Sequence[Any]) -> str | None:
    """Where the prepared data lies on this node.

    Args:
        data_directory: where it lies at the driver.
        sha256: of the arrays.
        sent: holds the reference to the arrays in Ray's store, so that they come only if they are needed.

    Returns:
        The folder; None if the data is not here and was not sent.

    Raises:
        UserError: if what was sent is not what it should be, or the cache cannot be written.
    """
    prepared = Path(data_directory).name
    name = f"{prepared}-{sha256[:12]}"
    for directory in map(entry_directory, (prepared, name)):
        entry = read_entry(directory)
        if entry is not None and entry.sha256 == sha256:
            return str(directory)
    if not sent:
        return None
    # The entry's lock lets one process of the node unpack; the others find what it made.
    return str(find_or_make(name, partial(_unpack, sha256, sent[0])).directory)


def _unpack(sha256: str, reference: Any) -> Arrays:
    import ray

    arrays: Arrays = ray.get(reference)
    if checksum(arrays) != sha256:
        raise UserError(f"the data came damaged: its checksum is not {sha256[:12]}…")
    return arrays


def run_cell(job: Job, train: str, preload: tuple[str, ...], mailbox: Any) -> Delivery:
    """Run one attempt in a process of its own, which this process forks and watches."""
    # In the working folder that Ray made: what a killed process leaves there goes with it.
    with tempfile.TemporaryDirectory(prefix="weights-", dir=Path.cwd()) as folder:
        here = replace(job, weights_directory=folder if job.weights_directory else None)
        executor = _processes(train, preload, os.environ.get("CUDA_VISIBLE_DEVICES"))
        (record,) = executor.run([here], lambda job, epoch: mailbox.put.remote(job.record_id, epoch))
        return Delivery(record, {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())})


@cache
def _processes(train: str, preload: tuple[str, ...], gpus: str | None) -> ProcessExecutor:
    """Kept from cell to cell, with torch loaded; another one where Ray has given this process other GPUs."""
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to the CPUs asked for; cells choose for themselves (rule 13)
    return ProcessExecutor(train=train, preload=preload)
