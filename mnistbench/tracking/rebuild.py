"""Read records and kept models back from an MLflow server, so that a report needs only the server."""

from __future__ import annotations

import difflib
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.errors import UserError
from mnistbench.records import CellRecord
from mnistbench.results import read_record
from mnistbench.tracking.address import checked, default_uri, place, reason, shown, sqlite_path
from mnistbench.tracking.journal import Journal

if TYPE_CHECKING:
    from mnistbench.results import ResultsFolder
    from mnistbench.tracking.server import Server

AT_ONCE = 8
"""Downloads at once: each is two short requests, and waits for the server most of its time."""


@dataclass(frozen=True)
class Rebuilt:
    """What was read back.

    Attributes:
        written: records that are new in the folder.
        already: records that it had.
        set_aside: run id and reason, for each run whose record could not be used.
    """

    written: int
    already: int
    set_aside: list[tuple[str, str]] = field(default_factory=list)


def rebuild(experiment: str, uri: str | None, results: ResultsFolder) -> Rebuilt:
    """Fill a results folder with the records that an experiment's runs carry as artifacts.

    Records that are there already are left as they are. The folder's journal says afterwards that its records are on
    this server.

    Args:
        experiment: its name.
        uri: tracking URI; None is `default_uri()`.
        results: the folder, made if it is missing; it is locked meanwhile.

    Raises:
        UserError: if the server cannot be used or has no such experiment, or the folder cannot be written.
    """
    uri = checked(uri or default_uri())
    with tempfile.TemporaryDirectory() as downloads:
        try:
            server = _server(uri, experiment)
            found, set_aside = _download(server, Path(downloads))
            grid = server.fetch_grid(Path(downloads))
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise UserError(reason(error, uri)) from None
        results.create()
        with results.lock():
            journal = Journal.read(results.mirrored_file, server.key, place(uri, experiment))
            had = {record.record_id: record for record in _in_folder(results)}
            new = [(run_id, record) for run_id, record in found if record.record_id not in had]
            for run_id, record in found:
                if had.get(record.record_id, record) != record:
                    set_aside.append((run_id, f"the folder has another record {record.record_id}"))
            # In order of time, so that of a cell's attempts the last one counts.
            for run_id, record in sorted(new, key=lambda item: (item[1].attempt, item[1].started_at)):
                results.write(record)
                if record.record_id not in journal.done:
                    journal.complete(record.record_id, run_id)
            if grid is not None and not results.grid_file.exists():
                results.grid_file.write_bytes(grid.read_bytes())
    return Rebuilt(len(new), len(found) - len(new), set_aside)


def download_weights(run_id: str, uri: str | None, folder: Path) -> list[Path]:
    """Copy the models that a run kept into a folder; its `.safetensors` files, with their settings beside them.

    Raises:
        UserError: if the server cannot be used or has no such run.
    """
    from mnistbench.tracking.server import download_model, prepare

    uri = checked(uri or default_uri())
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise UserError(f"{run_id!r} is no MLflow run id: those are 32 hex digits")
    try:
        prepare(uri, create=False)
        return sorted(download_model(uri, run_id, folder).rglob("*.safetensors"))
    except LookupError:
        return []
    except Exception as error:
        raise UserError(reason(error, uri)) from None


def _server(uri: str, experiment: str) -> Server:
    from mnistbench.tracking.server import Server, prepare

    if (path := sqlite_path(uri)) and not path.exists():
        raise UserError(f"there is no database {shown(uri)}")
    prepare(uri, create=False)
    try:
        return Server(uri, experiment, create=False)
    except LookupError as error:
        names = [name for name in error.args if name != "Default"]
        close = difflib.get_close_matches(experiment, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(names)[:20]) or 'none'}"
        raise UserError(f"{shown(uri)} has no experiment {experiment!r}; {hint}") from None


def _download(server: Server, downloads: Path) -> tuple[list[tuple[str, CellRecord]], list[tuple[str, str]]]:
    """Each run's record, once for each record_id, and the runs whose record cannot be used."""
    found: dict[str, tuple[str, CellRecord]] = {}
    aside: list[tuple[str, str]] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = list(server.recorded_runs())
        for (run_id, _), record in zip(
            runs, pool.map(lambda run: _record(server, run[0], run[1], downloads), runs), strict=True
        ):
            if isinstance(record, str):
                aside.append((run_id, record))
            elif record.record_id not in found:
                found[record.record_id] = (run_id, record)
            elif found[record.record_id][1] != record:
                aside.append((run_id, f"another run has a different record {record.record_id}"))
    return list(found.values()), aside


def _record(server: Server, run_id: str, record_id: str, downloads: Path) -> CellRecord | str:
    from mnistbench.tracking.server import RECORD_FILE

    folder = downloads / run_id
    folder.mkdir()
    path = server.fetch_if_there(run_id, RECORD_FILE, folder)
    if path is None:
        return "it has no record.json: it was cut off while it was mirrored"
    record = read_record(path)
    path.unlink()
    # A record_id becomes part of a file name: one from a server is not trusted to be a plain one.
    if isinstance(record, CellRecord) and not re.fullmatch(r"[\w-]{1,64}", record.record_id):
        return "its record_id is not a plain one"
    if isinstance(record, CellRecord) and record.record_id != record_id:
        return "its record is not the one its tag names"
    return record


def _in_folder(results: ResultsFolder) -> list[CellRecord]:
    return [record for _, record in results.scan() if isinstance(record, CellRecord)] + results.attempts()
