"""What a runner must know of the records that are already there, without holding them or reading 10,000 files again.

`.index.json` in the results folder remembers, for each record file, its size and time of change and a few fields; a
file that differs is read and checked as usual. Deleting the index costs a second and nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mnistbench.errors import UserError
from mnistbench.files.whole import read_answer, write_answer
from mnistbench.results.folder import ResultsFolder, SetAside, read_counting
from mnistbench.results.records import RESULTS, TRAINING_REVISION, CellRecord, Status
from mnistbench.results.speed import read_sessions

INDEX_VERSION = 6
SAID_BY_DESIGN = {"short", "shared"}
"""Flags that say what a cell is, not that something disturbed it."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A record that counts, in short.

    Attributes:
        file: its name in `cells/`; a merged folder has `<cell_id>@<machine>.json` beside `<cell_id>.json`.
        setting: the cell without its seed (`Cell.without_seed`), for estimates.
        seconds: wall time of the attempt, None if it left no timing.
        torch: its build, without the part after `+`.
        noisy: a cause of noise was seen while it was timed.
        tuning: how its learning rate came about; None if the grid gave it.
        outdated: why older code may have trained it wrongly; None if it did not.
        older_data: checksum of the data that an older release made of a CSV file; None for all other records.
    """

    cell_id: str
    record_id: str
    file: str
    status: Status
    attempt: int
    setting: str
    seconds: float | None
    machine_id: str | None
    torch: str | None
    noisy: bool
    noisy_rerun: bool
    tuning: str | None
    outdated: str | None = None
    older_data: str | None = None

    @property
    def is_result(self) -> bool:
        """Whether the cell has its answer, and is not run again without `--force`."""
        return self.status in RESULTS and self.outdated is None


class Index(dict[str, Known]):
    """What is known of each cell, by its id.

    Attributes:
        read: how many records had to be read, because the remembered index did not have them.
    """

    read: int = 0


def known(record: CellRecord, file: str | None = None) -> Known:
    """The short form of a record; `file` is its name where that is not its cell's."""
    environment = record.environment
    is_older = record.training_revision < TRAINING_REVISION
    return Known(
        cell_id=record.cell_id,
        record_id=record.record_id,
        file=file or f"{record.cell_id}.json",
        status=record.status,
        attempt=record.attempt,
        setting=record.cell.without_seed(),
        seconds=record.timing.wall_seconds if record.timing else None,
        machine_id=environment.machine_id if environment else None,
        torch=environment.torch.partition("+")[0] if environment else None,
        noisy=is_noisy(record),
        noisy_rerun=record.noisy_rerun,
        tuning=record.checks.get("tuning"),
        outdated=record.outdated,
        older_data=record.data.sha256 if record.data and is_older and record.cell.dataset.name == "csv" else None,
    )


def is_noisy(record: CellRecord) -> bool:
    """Whether a cause of noise was seen while the cell was timed (rule 12)."""
    return record.noise is not None and bool(set(record.noise.flags) - SAID_BY_DESIGN)


def read_index(results: ResultsFolder) -> tuple[Index, list[SetAside]]:
    """What is known of each cell by its id, and the files in `cells/` that are no records."""
    remembered = _remembered(results)
    index = Index()
    aside: list[SetAside] = []
    for name, state in _files(results.cells):
        entry = remembered.get(name)
        if entry is not None and entry[0] == state:
            content: Known | str = entry[1]
        else:
            index.read += 1
            record = read_counting(results.cells / name)
            content = record if isinstance(record, str) else known(record, name)
        if isinstance(content, str):
            aside.append(SetAside(results.cells / name, content))
        elif content.cell_id not in index or _prefers(content, index[content.cell_id]):
            index[content.cell_id] = content
    return index, aside


def cells_by_status(results: ResultsFolder) -> Counter[str]:
    """How many cells of the present grid have a record of each status."""
    wanted = results.cell_ids()
    known = read_index(results)[0].values()
    return Counter(str(item.status) for item in known if wanted is None or item.cell_id in wanted)


def save_index(results: ResultsFolder, index: Iterable[Known]) -> None:
    """Remember the index for the next start; that it cannot be written loses nothing."""
    states = dict(_files(results.cells))
    files = {cell.file: [states[cell.file], vars(cell)] for cell in index if cell.file in states}
    write_answer(_index_file(results), {"version": INDEX_VERSION, "files": files})


def refuse_newer(results: ResultsFolder) -> None:
    """Stop before anything is written into a folder that holds records or blocks of a newer mnistbench.

    Raises:
        UserError: with one of them, and what to do.
    """
    records = [aside for aside in read_index(results)[1] if aside.is_newer and aside.is_named_as_record]
    newer = records or [aside for aside in read_sessions(results)[1] if aside.is_newer]
    if newer:
        many = f"{len(records)} such records are here, and " if records else ""
        raise UserError(
            f"{newer[0].file}: {newer[0].reason}; {many}nothing was changed: run that mnistbench, or give another --out"
        )


def attempts_made(results: ResultsFolder) -> dict[str, int]:
    """The highest attempt number of each cell that has any in `attempts/`."""
    made: dict[str, int] = {}
    for name, _ in _files(results.attempts_folder):
        parts = name.split(".")
        if len(parts) == 4 and parts[1].isdigit():
            made[parts[0]] = max(made.get(parts[0], 0), int(parts[1]))
    return made


def _prefers(new: Known, old: Known) -> bool:
    """Of two machines' records of one cell, a result speaks for the cell."""
    return (new.is_result, new.status in RESULTS) > (old.is_result, old.status in RESULTS)


def _remembered(results: ResultsFolder) -> dict[str, tuple[tuple[int, int], Known]]:
    kept = read_answer(_index_file(results))
    if kept is None or kept.get("version") != INDEX_VERSION:
        return {}
    return {name: ((state[0], state[1]), Known(**fields)) for name, (state, fields) in kept["files"].items()}


def _index_file(results: ResultsFolder) -> Path:
    return results.path / ".index.json"


def _files(folder: Path) -> list[tuple[str, tuple[int, int]]]:
    """Names of the JSON files of a folder, each with its time of change and its size."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted((entry.name, _state(entry)) for entry in entries if entry.name.endswith(".json"))
    return []


def _state(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:  # a link that leads nowhere, or a file that was just deleted: reading it says so
        return 0, 0
    return status.st_mtime_ns, status.st_size
