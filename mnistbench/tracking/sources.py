"""What a run in MLflow mirrors: a record, or a session of speed. No mlflow here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.files.whole import read_regular
from mnistbench.results.records import CellRecord, dump
from mnistbench.results.speed import TimedSession, read_session, session_files
from mnistbench.tracking.content import RECORD_ID, SESSION, RunContent, milliseconds, run_content, session_content

if TYPE_CHECKING:
    from mnistbench.results.folder import ResultsFolder

RECORD_FILE = "record.json"
_SPEED = "speed/"
MODEL_SUFFIXES = (".safetensors", ".json")


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """A record or a session, and what its run gets of it.

    Attributes:
        key: in the journal; that of a session ends with the size of its file, so that one which gained blocks has
            another.
        identity: what all its keys and its run have in common, see `identity_in`.
        started: in milliseconds since 1970, as its run says.
        content: makes what the run shows.
        file, data: the artifact that holds it whole: its name, and what reads it.
        size: of a session's file, which only ever grows; 0 for a record, which stays as it is.
        models: folder of a record's kept weights; it need not exist.
    """

    key: str
    identity: str
    started: int
    content: Callable[[], RunContent]
    file: str
    data: Callable[[], bytes]
    size: int = 0
    models: Path | None = None

    def kept_models(self) -> list[Path]:
        """Weights and their settings; no links, since a folder of somebody else's may name any file with them."""
        if self.models is None or self.models.is_symlink() or not self.models.is_dir():
            return []
        files = (path for path in sorted(self.models.iterdir()) if path.suffix in MODEL_SUFFIXES)
        return [path for path in files if path.is_file() and not path.is_symlink()]


def of_record(record: CellRecord, results: ResultsFolder, targets: Sequence[float] | None = None) -> RunSource:
    """A record; `targets` as for `run_content`."""
    return RunSource(
        key=record.record_id,
        identity=record.record_id,
        started=milliseconds(record.started_at),
        content=partial(run_content, record, targets),
        file=RECORD_FILE,
        data=lambda: dump(record).encode(),
        models=results.models / record.record_id,
    )


def of_session(session: TimedSession, path: Path, grid: str) -> RunSource:
    """A session and its file."""
    size = path.stat().st_size
    return RunSource(
        key=session_key(session.name, size),
        identity=f"{_SPEED}{session.name}",
        started=milliseconds(session.about.started_at),
        content=partial(session_content, session, grid),
        file=path.name,
        data=partial(read_regular, path),
        size=size,
    )


def sessions_of(results: ResultsFolder, grid: str) -> list[RunSource]:
    """The sessions of a folder; a file that cannot be read as one has nothing to show."""
    read = [(read_session(path)[0], path) for path in session_files(results)]
    return [of_session(session, path, grid) for session, path in read if session is not None]


def session_key(name: str, size: int) -> str:
    """In the journal: the session when its file had so many bytes."""
    return f"{_SPEED}{name}@{size}"


def session_identities(results: ResultsFolder) -> set[str]:
    """Of all files of sessions in a folder."""
    return {f"{_SPEED}{path.stem}" for path in session_files(results)}


def identity_in(tags: Mapping[str, str]) -> str:
    """What a run with these tags mirrors; "" if it is no record and no session of ours."""
    return f"{_SPEED}{tags[SESSION]}" if SESSION in tags else tags.get(RECORD_ID, "")


def tag_of(key: str) -> tuple[str, str]:
    """The tag by which the run of a key in the journal is found, and its value."""
    if key.startswith(_SPEED):
        return SESSION, key.removeprefix(_SPEED).partition("@")[0]
    return RECORD_ID, key
