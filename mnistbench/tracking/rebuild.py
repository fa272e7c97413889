"""Read records, sessions of speed and kept models back from MLflow, so that a report needs only the server."""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mnistbench.errors import UserError
from mnistbench.files.whole import move_whole, read_regular, write_whole
from mnistbench.results.folder import ResultsFolder, read_record
from mnistbench.results.merging import machine_of, merge_folders
from mnistbench.results.ownership import is_marked
from mnistbench.results.records import CellRecord
from mnistbench.results.speed import SESSION_FILE, longer_of, read_session, write_sessions
from mnistbench.results.targets import targets_of_grid_file
from mnistbench.tracking.address import checked, default_uri, place, reason, shown, sqlite_path
from mnistbench.tracking.content import RECORD_ID, SESSION
from mnistbench.tracking.identity import is_grid_id, write_grid_id
from mnistbench.tracking.journal import Journal
from mnistbench.tracking.server import Server, download_model, prepare
from mnistbench.tracking.sources import RECORD_FILE, session_key

AT_ONCE = 8
"""Downloads at once: each is two short requests, and waits for the server most of its time."""


@dataclass(frozen=True)
class Rebuilt:
    """What was read back.

    Attributes:
        written: records, attempts that do not count among them.
        set_aside: run id and reason, for each run whose record or session could not be used.
        sessions: of speed.
    """

    written: int
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    sessions: int = 0


def rebuild(experiment: str, uri: str | None, results: ResultsFolder) -> Rebuilt:
    """Make a results folder of the records and sessions of speed that an experiment's runs carry as artifacts.

    The same cell of two machines stays two records. The folder's journal says that what it holds is on this server.
    All is put together in `.<name>.read-back` beside it, and then renamed: what is killed leaves no folder.

    Args:
        experiment: its name.
        uri: tracking URI; None is `default_uri()`.
        results: a new folder.

    Raises:
        UserError: if the folder is not empty or cannot be written, if the server cannot be used or has no such
            experiment, or nothing in it can be used.
    """
    uri = checked(uri or default_uri())
    if results.path.exists() and (not results.path.is_dir() or any(results.path.iterdir())):
        raise UserError(f"{results.path}: is no folder, or not empty; give a new folder with --out")
    with tempfile.TemporaryDirectory() as temporary:
        downloads = Path(temporary)
        try:
            server = _server(uri, experiment)
            records, set_aside = _download(server, downloads)
            sessions, no_sessions = _download_sessions(server, downloads)
            grid = server.fetch_grid(downloads)
            if not records and not sessions:
                raise UserError(_nothing_there(server, experiment, uri, set_aside + no_sessions))
        except UserError:
            raise
        except Exception as error:
            raise UserError(reason(error, uri)) from None
        target = results.path.resolve()
        draft = ResultsFolder(target.with_name(f".{target.name}.read-back"))
        if is_marked(draft.path):  # of a command that was killed
            shutil.rmtree(draft.path)
        merge_folders(_by_machine([record for _, record in records], downloads / "machines"), draft)
        write_sessions(draft, {f"{name}.jsonl": content for name, (_, content) in sessions.items()})
        if grid is not None:
            write_whole(draft.grid_file, grid.read_bytes())
            targets = targets_of_grid_file(draft)
            if server.grid_id and targets is not None:  # where several folders share the experiment it is one's grid
                draft.write_asked(draft.cell_ids() or (), targets)
        if server.grid_id:
            write_grid_id(draft, server.grid_id)
        journal = Journal.read(draft.mirrored_file, server.key, place(uri, experiment))
        for run_id, record in records:
            journal.complete(record.record_id, run_id)
        for name, (run_id, content) in sessions.items():
            journal.complete(session_key(name, len(content)), run_id)
        move_whole(draft.path, target)
    return Rebuilt(len(records), set_aside + no_sessions, len(sessions))


def _nothing_there(server: Server, experiment: str, uri: str, set_aside: Sequence[tuple[str, str]]) -> str:
    """Why no folder is made, and where the records may be."""
    said = f"{shown(uri)}: the experiment {experiment!r} has no record and no session of speed"
    if set_aside:
        run_id, why = set_aside[0]
        return f"{said} that can be used: run {run_id}: {why}{f'; {len(set_aside) - 1} more' if set_aside[1:] else ''}"
    others = server.successors(experiment)
    return f"{said}{f'; did you mean {others[0]!r}?' if others else ''}"


def _by_machine(records: Sequence[CellRecord], folder: Path) -> list[ResultsFolder]:
    """A results folder for each machine, in order of time, so that of a cell's attempts the last one counts."""
    folders: dict[str, ResultsFolder] = {}
    for record in sorted(records, key=lambda record: (record.attempt, record.started_at)):
        machine = machine_of(record)
        if machine not in folders:
            folders[machine] = ResultsFolder(folder / machine)
            folders[machine].create()
        folders[machine].write(record)
    return list(folders.values())


def download_weights(run_id: str, uri: str | None, folder: Path) -> list[Path]:
    """Copy the models that a run kept into a folder; its `.safetensors` files, with their settings beside them.

    Raises:
        UserError: if the server cannot be used or has no such run.
    """

    uri = checked(uri or default_uri())
    if not is_grid_id(run_id):  # MLflow's ids look alike
        raise UserError(f"{run_id!r} is no MLflow run id: those are 32 hex digits")
    try:
        prepare(uri, create=False)
        models = download_model(uri, run_id, folder)
        return sorted(models.rglob("*.safetensors")) if models else []
    except Exception as error:
        raise UserError(reason(error, uri)) from None


def _server(uri: str, experiment: str) -> Server:
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
    records_by_id: dict[str, tuple[str, CellRecord]] = {}
    aside: list[tuple[str, str]] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = server.mirroring_runs(RECORD_ID)
        records = pool.map(lambda run: _record(server, run[0], run[1], downloads), runs)
        for (run_id, _), record in zip(runs, records, strict=True):
            if isinstance(record, str):
                aside.append((run_id, record))
            elif record.record_id not in records_by_id:
                records_by_id[record.record_id] = (run_id, record)
            elif records_by_id[record.record_id][1] != record:
                aside.append((run_id, f"another run has a different record {record.record_id}"))
    return list(records_by_id.values()), aside


def _record(server: Server, run_id: str, record_id: str, downloads: Path) -> CellRecord | str:
    path = _fetched(server, run_id, RECORD_FILE, downloads)
    if isinstance(path, str):
        return path
    record = read_record(path)
    path.unlink()
    if isinstance(record, CellRecord) and record.record_id != record_id:
        return "its record is not the one its tag names"
    return record


def _download_sessions(server: Server, downloads: Path) -> tuple[dict[str, tuple[str, bytes]], list[tuple[str, str]]]:
    """By name, the run and the file of each session of speed, and the runs whose file cannot be used."""
    sessions: dict[str, tuple[str, bytes]] = {}
    aside: list[tuple[str, str]] = []
    for run_id, name in server.mirroring_runs(SESSION):
        content = _session(server, run_id, f"{name}.jsonl", downloads)
        known_run, known = sessions.get(name, (run_id, b""))
        if isinstance(content, str):
            aside.append((run_id, content))
        elif (longer := longer_of(content, known)) is None:
            aside.append((run_id, f"another run has a different session {name}"))
        else:
            sessions[name] = (run_id if longer is content else known_run, longer)
    return sessions, aside


def _session(server: Server, run_id: str, file: str, downloads: Path) -> bytes | str:
    """A session's file, or why it is none; its name comes from the server and is to be one of ours."""
    if not SESSION_FILE.fullmatch(file):
        return "its tag names no session of speed"
    path = _fetched(server, run_id, file, downloads)
    if isinstance(path, str):
        return path
    session, problems = read_session(path)
    if session is None:
        return f"{file} is no session of speed: {problems[0].reason if problems else 'it is empty'}"
    return read_regular(path)


def _fetched(server: Server, run_id: str, file: str, downloads: Path) -> Path | str:
    """An artifact in a folder of its own, or why there is none."""
    folder = downloads / run_id
    folder.mkdir()
    return (
        server.fetch_if_there(run_id, file, folder)
        or f"it has no {file}: it was cut off while it was mirrored, or lost it since"
    )
