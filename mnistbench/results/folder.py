"""The folder `results/<grid>/`: the record of truth, one JSON file per cell, and what is made from it.

Standard library only, so that it is read in no time wherever it lies.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mnistbench.cell import Cell
from mnistbench.errors import UserError
from mnistbench.files.locking import Held, hold
from mnistbench.files.whole import move_whole, read_regular, sync, write_whole, writing
from mnistbench.results.ownership import (
    GRID_HEADER,
    is_empty,
    is_grid_of_ours,
    is_marked,
    is_part_of_ours,
    is_record_name,
    write_mark,
)
from mnistbench.results.records import RESULTS, CellRecord, NewerRecord, dump
from mnistbench.results.this_machine import recognized

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

    @property
    def is_named_as_record(self) -> bool:
        """Whether it is named as a record; a file of another name is somebody's own, and stays where it is."""
        return is_record_name(self.file)


NEWER = "a newer mnistbench wrote it"
"""How the reason begins for a file that is fine, but not for this version."""


class ResultsFolder:
    """One grid's results.

    `cells/<cell_id>.json` holds the attempt that counts, `attempts/` the others, `set_aside/` what could not be read,
    `models/<record_id>/` the weights that were kept, and `cells.json` the ids of the cells that the grid now has:
    records of other cells stay on disk, but are no longer among `records()`. `.mnistbench.json` marks it as ours.

    Attributes:
        cells, attempts_folder, set_aside_folder: of the records that count, of earlier attempts, and of files that were
            found among the records and are none.
        speed: of the blocks of speed, one file a session.
        models, unfinished: of kept weights, one folder a record, and of weights whose record is not there yet.
        cells_file: ids of the cells that the grid has now.
        report_file: the report.
        mirrored_file: what was mirrored to which tracking server.

    Raises:
        UserError: if the path is empty text, which would be the working folder.
    """

    def __init__(self, path: Path | str) -> None:
        if path == "":
            raise UserError("a results folder needs a path, and an empty text was given: name one, or leave it out")
        self.path = Path(path)
        self.cells = self.path / "cells"
        self.attempts_folder = self.path / "attempts"
        self.set_aside_folder = self.path / "set_aside"
        self.speed = self.path / "speed"
        self.models = self.path / "models"
        self.unfinished = self.path / ".unfinished"
        self.cells_file = self.path / "cells.json"
        self.report_file = self.path / "report.html"
        self.mirrored_file = self.path / "mirrored.jsonl"

    def __repr__(self) -> str:
        return f"ResultsFolder({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The grid's name, as the folder carries it."""
        return self.path.resolve().name

    @property
    def grid_file(self) -> Path:
        """The grid as it was resolved; `grid.yaml` by name, unless that is a file of the user's."""
        beside = self.path / "grid.resolved.yaml"
        return beside if beside.is_file() else self.path / "grid.yaml"

    def create(self) -> None:
        """Make the folder and those inside it, and mark it as ours.

        Raises:
            UserError: if it cannot be made, or is somebody else's.
        """
        self.refuse_foreign()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if not is_marked(self.path):
            write_mark(self.path)
        with writing(self.path):
            for folder in (self.cells, self.attempts_folder):
                folder.mkdir(exist_ok=True)

    def refuse_foreign(self) -> None:
        """Stop before anything is written into a folder that is not ours. Ours are: a new or empty one, one with our
        mark, and one from before there were marks, with at least one record in `cells/`.

        Raises:
            UserError: if it is somebody else's.
        """
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise UserError(f"{self.path} is no folder: give another --out")
        with writing(self.path):
            if is_marked(self.path) or is_empty(self.path):
                return
        if not any(isinstance(content, CellRecord) or content.startswith(NEWER) for _, content in self.scan()):
            raise UserError(
                f"{self.path} has files in it and is no results folder of mnistbench; nothing was changed:"
                " give another --out, a new or empty folder"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one runner; a lock left by a dead one does not block, since the kernel dropped it.

        Raises:
            UserError: if another process holds it, saying which and since when.
        """
        with contextlib.ExitStack() as held:
            try:
                with writing(self.path):
                    held.enter_context(hold(self.path / ".lock", self.path / ".holder.json"))
            except Held as other:
                raise UserError(
                    f"{self.path} is in use by {other}: wait for it, stop it, or give another --out"
                ) from None
            yield

    def write(self, record: CellRecord) -> Path | None:
        """Store an attempt. It counts, unless it is a failure and the cell already has a result.

        In a merged folder it takes the place of the record of its own machine and build, where there is one.

        The attempt it replaces is copied to `attempts/` before, so that at each moment every attempt is in a file. A
        file under its name that is no record is set aside.

        Returns:
            The file, if the attempt now counts.

        Raises:
            UserError: if the folder cannot be written.
        """
        path = self._place_of(record)
        earlier = self._read_or_none(path)
        counts = True
        if earlier is None and path.exists():
            self.set_aside([path])
        elif earlier is not None and earlier.record_id != record.record_id:
            counts = record.status in RESULTS or earlier.status not in RESULTS
            if counts and earlier.status != "skipped":
                write_whole(self.attempt_file(earlier), dump(earlier))
        write_whole(path if counts else self.attempt_file(record), dump(record))
        self._forget_unfinished(record.record_id)
        return path if counts else None

    def records(self) -> list[CellRecord]:
        """The records that count: one for each cell of the present grid that was tried, in order of file names."""
        return self.read()[0]

    def read(self) -> tuple[list[CellRecord], list[SetAside]]:
        """The records that count, and the files that are none, with the reason; nothing is moved."""
        wanted = self.cell_ids()
        records: list[CellRecord] = []
        aside: list[SetAside] = []
        if wanted is None and self.cells_file.exists():
            aside.append(
                SetAside(self.cells_file, "it does not say which cells the grid has, so that all records count")
            )
        for path, content in self.scan():
            if isinstance(content, str):
                aside.append(SetAside(path, content))
            elif wanted is None or content.cell_id in wanted:
                records.append(content)
        for path in _json_files(self.set_aside_folder):
            content = read_record(path)
            aside.append(SetAside(path, content if isinstance(content, str) else "it was set aside earlier"))
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
        contents = (read_record(path) for path in _json_files(self.attempts_folder))
        attempts = [record for record in contents if isinstance(record, CellRecord)]
        # A runner killed between the copy and the replacement leaves the attempt in both places.
        tried = {record.cell_id for record in attempts}
        files = (path for path in _json_files(self.cells) if path.stem.partition("@")[0] in tried)
        counting = {there.record_id for path in files if (there := self._read_or_none(path))}
        return [record for record in attempts if record.record_id not in counting]

    def attempt_file(self, record: CellRecord) -> Path:
        """Where an attempt lies that does not count."""
        return self.attempts_folder / f"{record.cell_id}.{record.attempt}.{record.record_id}.json"

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
            plain = json.loads(read_regular(self.cells_file))
            return set(plain["cells"]) if plain["schema_version"] == CELLS_FILE_VERSION else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def targets(self) -> tuple[float, ...] | None:
        """Target accuracies that the present grid names; None if the folder does not say, see `targets_asked`."""
        try:
            return tuple(map(float, json.loads(read_regular(self.cells_file))["targets"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def write_cells(self, cells: Iterable[Cell]) -> None:
        """Store which cells the grid has, and which targets it names.

        Raises:
            UserError: if the folder cannot be written.
        """
        cells = list(cells)
        targets = {target for cell in cells for target in cell.training.targets}
        self.write_asked([cell.cell_id for cell in cells], targets)

    def write_asked(self, cell_ids: Iterable[str], targets: Iterable[float]) -> None:
        """As `write_cells`, for cells of which only the ids are known.

        Raises:
            UserError: if the folder cannot be written.
        """
        plain = {"schema_version": CELLS_FILE_VERSION, "targets": sorted(set(targets)), "cells": list(cell_ids)}
        write_whole(self.cells_file, json.dumps(plain, indent=0))

    def write_grid(self, text: str) -> None:
        """Store the grid that is run as `grid.yaml`, or as `grid.resolved.yaml` where a file of the user's is so named.

        Raises:
            UserError: if the folder cannot be written.
        """
        path = self.grid_file
        if path.name == "grid.yaml" and os.path.lexists(path) and not is_grid_of_ours(path):
            path = self.path / "grid.resolved.yaml"
        write_whole(path, GRID_HEADER + text)

    def weights_directory(self, record_id: str) -> Path:
        """A fresh folder for a worker's weights; `keep_weights` moves it to its place.

        It lies in a folder named after the attempt, which stays until the record is written: by it, a later run knows
        `models/<record_id>/` as the work of a killed one.

        Raises:
            UserError: if it cannot be made.
        """
        directory = self._weights(record_id)
        with writing(directory):
            directory.mkdir(parents=True)
        return directory

    def keep_weights(self, record: CellRecord) -> CellRecord:
        """Move the weights that a worker left to `models/<record_id>/`, and name them so in the record.

        Raises:
            UserError: if the folder cannot be written.
        """
        directory = self._weights(record.record_id)
        if not directory.is_dir():
            return record
        names = sorted(path.name for path in directory.iterdir())
        if not names or record.model is None or record.status not in RESULTS:
            self._forget_unfinished(record.record_id)
            return record
        with writing(self.models):
            self.models.mkdir(exist_ok=True)
            for name in names:
                with (directory / name).open("rb") as file:
                    sync(file.fileno())
        move_whole(directory, self.models / record.record_id)
        weights = [f"models/{record.record_id}/{Path(name).name}" for name in record.model.weights or names]
        return record.with_changes(model=replace(record.model, weights=weights))

    def clean(self) -> None:
        """Clear what a killed runner left, and nothing else: half-written files, and weights of attempts that have no
        record. Nothing behind a symbolic link is touched.
        """
        for folder in (self.path, self.cells, self.attempts_folder):
            for path in folder.glob(".*") if folder == self.path or not folder.is_symlink() else ():
                with contextlib.suppress(OSError):
                    if is_part_of_ours(path):
                        path.unlink()
        if self.unfinished.is_symlink() or not self.unfinished.is_dir():
            return
        for note in self.unfinished.iterdir():
            if not _is_record_id(note.name) or note.is_symlink():
                continue
            orphan = self.models / note.name
            if orphan.is_dir() and not self.models.is_symlink() and not self._mentions(note.name):
                shutil.rmtree(orphan, ignore_errors=True)
            shutil.rmtree(note, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.unfinished.rmdir()

    def _weights(self, record_id: str) -> Path:
        return self.unfinished / record_id / "weights"

    def _forget_unfinished(self, record_id: str) -> None:
        if not self.unfinished.is_symlink():
            shutil.rmtree(self.unfinished / record_id, ignore_errors=True)

    def _mentions(self, record_id: str) -> bool:
        """Whether any record here is of this attempt: one that counts or does not, of any machine, damaged or whole."""
        folders = (self.cells, self.attempts_folder, self.set_aside_folder)
        return any(record_id.encode() in _content(path) for folder in folders for path in _json_files(folder))

    def _place_of(self, record: CellRecord) -> Path:
        """The file in which an attempt counts: in a merged folder that of its own machine and build, if it has one."""
        plain = self.cells / f"{record.cell_id}.json"
        beside = [path for path in _json_files(self.cells) if path.name.startswith(f"{record.cell_id}@")]
        if not beside or origin(record) is None:
            return plain
        there = ((path, self._read_or_none(path)) for path in [plain, *beside])
        return next((path for path, other in there if other and _same_build(other, record)), plain)

    @staticmethod
    def _read_or_none(path: Path) -> CellRecord | None:
        content = read_record(path)
        return content if isinstance(content, CellRecord) else None


Origin = tuple[str, str, int] | None
"""Machine, torch build and protocol: of one cell, one record of each counts. None if it never got to say."""


def origin(record: CellRecord) -> Origin:
    """Where a record is from."""
    where = record.environment
    return (recognized(where.machine_id), where.torch, record.protocol) if where else None


def _same_build(one: CellRecord, other: CellRecord) -> bool:
    """Whether two records are of one origin and GPU, as far as they say; two GPUs may carry one machine id."""
    gpus = {where.device_id for where in (one.environment, other.environment) if where and where.device_id}
    return origin(one) == origin(other) and len(gpus) < 2


def read_record(path: Path) -> CellRecord | str:
    """A record file's content, or the reason why it is not a record. Never raises, never reads half a record."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "it is no file"
        if status.st_size > LARGEST_RECORD_BYTES:
            return "it is too large for a record"
        content = path.read_bytes()
        plain = json.loads(content, parse_constant=_no_constant)
        if b"\\ud" in content.lower():  # it may be half a character, which neither a page nor a server can show
            json.dumps(plain, ensure_ascii=False).encode()
        return CellRecord.from_json(plain)
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = "it is not text"
    except UnicodeEncodeError:
        reason = "it holds half a character (a lone surrogate)"
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
    content = read_record(path)
    if isinstance(content, CellRecord) and path.stem.partition("@")[0] != content.cell_id:
        own = read_record(path.with_name(f"{content.cell_id}.json"))
        if isinstance(own, CellRecord) and own.record_id == content.record_id:
            return f"it is a copy of {content.cell_id}.json"
        return f"it holds the record of another cell, {content.cell_id}"
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _json_files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".json"))
    except OSError:
        return []
    return [folder / name for name in names]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def _is_record_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
