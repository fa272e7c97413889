"""The folder `results/<grid>/`: the record of truth, one JSON file per cell, and what is made from it.

Standard library and filelock only, so that a machine with torch alone can write it and the report can read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from mnistbench.cell import Cell
from mnistbench.errors import UserError
from mnistbench.records import RESULTS, CellRecord, NewerRecord, dump
from mnistbench.storage.atomic import move_whole, remove_parts, write_whole, writing

CELLS_FILE_VERSION = 1
LARGEST_RECORD_BYTES = 64 * 2**20
"""5,000 epochs take 2 MB; what is larger than this is no record, and would only fill the memory."""


class SetAside(NamedTuple):
    """A file that is no record: where it lies, and why it is not read."""

    file: Path
    reason: str

    @property
    def is_newer(self) -> bool:
        """Whether it is the record of a newer mnistbench, which must stay where it is."""
        return self.reason.startswith(NEWER)


NEWER = "a newer mnistbench wrote it"
"""How the reason begins for a file that is fine, but not for this version."""


class ResultsFolder:
    """One grid's results.

    `cells/<cell_id>.json` holds the attempt that counts, `attempts/` the others, `set_aside/` what could not be read,
    `models/<record_id>/` the weights that were kept, and `cells.json` the ids of the cells that the grid now has:
    records of other cells stay on disk, but are no longer among `records()`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"ResultsFolder({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The grid's name, as the folder carries it."""
        return self.path.resolve().name

    @property
    def cells(self) -> Path:
        """Folder of the records that count."""
        return self.path / "cells"

    @property
    def attempts_folder(self) -> Path:
        """Folder of earlier attempts."""
        return self.path / "attempts"

    @property
    def set_aside_folder(self) -> Path:
        """Folder of files that were found among the records and are none."""
        return self.path / "set_aside"

    @property
    def models(self) -> Path:
        """Folder of kept weights, one folder per record."""
        return self.path / "models"

    @property
    def unfinished(self) -> Path:
        """Folder where workers put weights before their record is there."""
        return self.path / ".unfinished"

    @property
    def grid_file(self) -> Path:
        """The grid as it was resolved."""
        return self.path / "grid.yaml"

    @property
    def cells_file(self) -> Path:
        """Ids of the cells that the grid has now."""
        return self.path / "cells.json"

    @property
    def csv_file(self) -> Path:
        """One row a cell."""
        return self.path / "results.csv"

    @property
    def epochs_file(self) -> Path:
        """One row an epoch."""
        return self.path / "epochs.csv"

    @property
    def report_file(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def mirrored_file(self) -> Path:
        """What was mirrored to which tracking server."""
        return self.path / "mirrored.jsonl"

    def create(self) -> None:
        """Make the folder and those inside it.

        Raises:
            UserError: if it cannot be made.
        """
        with writing(self.path):
            for folder in (self.cells, self.attempts_folder):
                folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one runner; a lock left by a dead one does not block, since the kernel dropped it.

        Raises:
            UserError: if another process holds it, saying which and since when.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        holder = self.path / ".holder.json"
        with writing(self.path):
            try:
                lock.acquire()
            except Timeout:  # an OSError itself, which `writing` would call a disk that cannot be written
                raise UserError(
                    f"{self.path} is in use by {_described(holder)}: wait for it, stop it, or give another --out"
                ) from None
        try:
            write_whole(holder, json.dumps({"pid": os.getpid(), "since": _now()}))
            yield
        finally:
            with contextlib.suppress(OSError):
                holder.unlink(missing_ok=True)
            lock.release()

    def write(self, record: CellRecord) -> bool:
        """Store an attempt. It counts, unless it is a failure and the cell already has a result.

        The attempt it replaces is copied to `attempts/` before, so that at each moment every attempt is in a file.

        Returns:
            True if the attempt now counts.

        Raises:
            UserError: if the folder cannot be written.
        """
        path = self.cells / f"{record.cell_id}.json"
        earlier = self._read_or_none(path)
        if earlier is not None and earlier.record_id != record.record_id:
            if earlier.status in RESULTS and record.status not in RESULTS:
                write_whole(self._attempt_file(record), dump(record))
                return False
            if earlier.status != "skipped":
                write_whole(self._attempt_file(earlier), dump(earlier))
        write_whole(path, dump(record))
        return True

    def records(self) -> list[CellRecord]:
        """The records that count: one for each cell of the present grid that was tried, in order of file names."""
        return self.read()[0]

    def read(self) -> tuple[list[CellRecord], list[SetAside]]:
        """The records that count, and the files that are none, with the reason; nothing is moved."""
        wanted = self.cell_ids()
        records: list[CellRecord] = []
        aside: list[SetAside] = []
        for path, found in self.scan():
            if isinstance(found, str):
                aside.append(SetAside(path, found))
            elif wanted is None or found.cell_id in wanted:
                records.append(found)
        for path in _json_files(self.set_aside_folder):
            found = read_record(path)
            aside.append(SetAside(path, found if isinstance(found, str) else "it was set aside earlier"))
        return records, aside

    def scan(self) -> Iterator[tuple[Path, CellRecord | str]]:
        """Each file in `cells/`, one in memory at a time: its record, or why it is none."""
        for path in _json_files(self.cells):
            yield path, read_counting(path)

    def record(self, cell_id: str) -> CellRecord | None:
        """The record of one cell, or None."""
        return self._read_or_none(self.cells / f"{cell_id}.json")

    def attempts(self) -> list[CellRecord]:
        """Attempts that do not count any more: failures that were rerun, replaced results."""
        found = (read_record(path) for path in _json_files(self.attempts_folder))
        # A runner killed between the copy and the replacement leaves the attempt in both places.
        return [record for record in found if isinstance(record, CellRecord) and not self._counts(record)]

    def attempt_ids(self) -> set[str]:
        """Record ids of the attempts, by their file names."""
        return {path.stem.rpartition(".")[2] for path in _json_files(self.attempts_folder)}

    def set_aside(self, files: Iterable[Path]) -> None:
        """Move files out of `cells/`; only the runner does so, while it holds the lock.

        Raises:
            UserError: if the folder cannot be written.
        """
        for path in files:
            with writing(self.set_aside_folder):
                self.set_aside_folder.mkdir(exist_ok=True)
            target = self.set_aside_folder / path.name
            number = 1
            while target.exists():
                number += 1
                target = self.set_aside_folder / f"{path.stem}.{number}{path.suffix}"
            move_whole(path, target)

    def cell_ids(self) -> set[str] | None:
        """Ids of the present grid's cells; None if no run has written them yet, so that every record counts."""
        try:
            plain = json.loads(self.cells_file.read_text(encoding="utf-8"))
            if plain["schema_version"] == CELLS_FILE_VERSION:
                return set(plain["cells"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def targets(self) -> tuple[float, ...] | None:
        """Target accuracies that the present grid names; None if the folder does not say, see `targets_asked`."""
        try:
            return tuple(map(float, json.loads(self.cells_file.read_text(encoding="utf-8"))["targets"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_cells(self, cells: Iterable[Cell]) -> None:
        """Store which cells the grid has, and which targets it names.

        Raises:
            UserError: if the folder cannot be written.
        """
        cells = list(cells)
        self.write_asked([cell.cell_id for cell in cells], {item for cell in cells for item in cell.training.targets})

    def write_asked(self, cell_ids: Iterable[str], targets: Iterable[float]) -> None:
        """As `write_cells`, for cells of which only the ids are known.

        Raises:
            UserError: if the folder cannot be written.
        """
        plain = {"schema_version": CELLS_FILE_VERSION, "targets": sorted(set(targets)), "cells": list(cell_ids)}
        write_whole(self.cells_file, json.dumps(plain, indent=0))

    def weights_directory(self, record_id: str) -> Path:
        """A fresh folder for a worker's weights; `keep_weights` moves it to its place.

        Raises:
            UserError: if it cannot be made.
        """
        directory = self.unfinished / record_id
        with writing(directory):
            directory.mkdir(parents=True)
        return directory

    def keep_weights(self, record: CellRecord) -> CellRecord:
        """Move the weights that a worker left to `models/<record_id>/`, and name them so in the record.

        Raises:
            UserError: if the folder cannot be written.
        """
        directory = self.unfinished / record.record_id
        if not directory.is_dir():
            return record
        names = sorted(path.name for path in directory.iterdir())
        if not names or record.model is None or record.status not in RESULTS:
            shutil.rmtree(directory, ignore_errors=True)
            return record
        with writing(self.models):
            self.models.mkdir(exist_ok=True)
            for name in names:
                with (directory / name).open("rb") as file:
                    os.fsync(file.fileno())
        move_whole(directory, self.models / record.record_id)
        weights = [f"models/{record.record_id}/{Path(name).name}" for name in record.model.weights or names]
        return record.with_changes(model=replace(record.model, weights=weights))

    def clean(self, record_ids: Iterable[str]) -> None:
        """Clear what a killed runner left: half-written files, and weights of none of these records or any attempt."""
        for folder in (self.path, self.cells, self.attempts_folder):
            remove_parts(folder)
        shutil.rmtree(self.unfinished, ignore_errors=True)
        if self.models.is_dir():
            known = {*record_ids, *self.attempt_ids()}
            for directory in self.models.iterdir():
                if directory.name not in known:
                    shutil.rmtree(directory, ignore_errors=True)

    def _attempt_file(self, record: CellRecord) -> Path:
        return self.attempts_folder / f"{record.cell_id}.{record.attempt}.{record.record_id}.json"

    def _counts(self, record: CellRecord) -> bool:
        counting = self.record(record.cell_id)
        return counting is not None and counting.record_id == record.record_id

    def _read_or_none(self, path: Path) -> CellRecord | None:
        if not path.exists():
            return None
        found = read_record(path)
        return found if isinstance(found, CellRecord) else None


def read_record(path: Path) -> CellRecord | str:
    """A record file's content, or the reason why it is not a record. Never raises, never reads half a record."""
    try:
        if path.stat().st_size > LARGEST_RECORD_BYTES:
            return "it is too large for a record"
        return CellRecord.from_json(json.loads(path.read_bytes(), parse_constant=_no_constant))
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = "it is not text"
    except json.JSONDecodeError as error:
        reason = f"it is not JSON, or cut short: {error.msg} at line {error.lineno}"
    except RecursionError:
        reason = "it is nested too deeply"
    except NewerRecord as error:
        reason = f"{NEWER}: {error}"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        reason = f"it is not a record: {error}"
    return reason


def read_counting(path: Path) -> CellRecord | str:
    """As `read_record`, for a file in `cells/`, whose name must be its cell's: `<cell_id>[@<machine>].json`."""
    found = read_record(path)
    if isinstance(found, CellRecord) and path.stem.partition("@")[0] != found.cell_id:
        return f"it holds the record of another cell, {found.cell_id}"
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _json_files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".json"))
    except OSError:
        return []
    return [folder / name for name in names]


def _described(holder: Path) -> str:
    try:
        plain = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {int(plain['pid'])}, since {plain['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
