"""Blocks of speed, as they lie in `speed/<session>.jsonl` of a results folder: one line a session, setting, or block.

A setting is a cell without its seed and twin. Its speed is timed in cycles, each of which takes every setting once, in
a fresh process (docs/measurement.md). Records know nothing of it. Only the runner writes these files, a line at a time,
so that a run that is killed loses at most one block.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from mnistbench.cell import Cell
from mnistbench.cell.checked import Count, Moment, PlainData, Seconds, Whole, read_checked
from mnistbench.errors import UserError
from mnistbench.files.whole import fsync_directory, read_regular, sync, write_whole, writing
from mnistbench.results.folder import NEWER, ResultsFolder, SetAside
from mnistbench.results.records import Environment, plain_of

SPEED_SCHEMA_VERSION = 1
"""Goes up with each new field. A reader takes its own version and every older one."""
PROTOCOL = 2
"""Of measurement: the first one whose speeds come from blocks."""
SESSION_FILE = re.compile(r"\d{8}T\d{6}-[0-9a-f]{12}\.jsonl")
UNKNOWN = "unknown"
"""The cause of a block of which nothing could be observed; it counts as clean."""
LARGEST_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class SpeedSession:
    """The first line: who took the blocks below it, and on what.

    Attributes:
        machine, build: the machine's id and the torch build; settings are compared where both are the same.
        data: checksum of the dataset.
        seed: that the order of the settings in each cycle was drawn from.
        cycles: how many were planned.
    """

    protocol: int = PROTOCOL
    schema_version: int = SPEED_SCHEMA_VERSION
    machine: str
    build: str
    data: str
    seed: Whole
    cycles: Count
    started_at: Moment
    environment: Environment | None = None


@dataclass(frozen=True, kw_only=True)
class SpeedSetting:
    """What was timed: said once in a session, before its first block.

    Attributes:
        setting: `Cell.without_seed` of the cell.
        resolved: the levers as they were really used.
        equivalence: what the equivalence gate said, as in a record's checks; None where it did not run.
        steps: in each block.
    """

    setting: str
    cell: Cell
    resolved: PlainData = field(default_factory=dict)
    equivalence: str | None = None
    steps: Count

    @property
    def label(self) -> str:
        """The cell's, without the seed."""
        return self.cell.label.rpartition(" · seed ")[0]


@dataclass(frozen=True, kw_only=True)
class SpeedBlock:
    """Some steps of one setting, timed in a fresh process. Its key is (session, cycle, setting).

    Attributes:
        position: its place in the order of the cycle.
        waited_seconds: that its threads together waited for a core; None where the system does not tell.
        throttled_seconds: that its group of processes was held back by a quota; None where the system does not tell.
        gpu_slowdown: the GPU reported that it was slowed down.
        cause: what disturbed it, which makes the block count as missing; `UNKNOWN` if nothing could be observed, which
            does not; None if it was observed and nothing did.
        error: why there is no time.
        wall_seconds: from the start of its process to its end, by which the rest of a run is estimated.
    """

    cycle: Count
    position: Count
    setting: str
    pid: Count | None = None
    steps: Count
    examples: Count
    seconds: Seconds | None
    waited_seconds: Seconds | None = None
    throttled_seconds: Seconds | None = None
    gpu_slowdown: bool | None = None
    cause: str | None = None
    error: str | None = None
    wall_seconds: Seconds | None = None

    @property
    def examples_per_second(self) -> float | None:
        """None where there is no time."""
        return None if self.seconds is None else self.examples / self.seconds

    @property
    def is_clean(self) -> bool:
        """Whether there is a time, and nothing that was observed disturbed it."""
        return self.seconds is not None and self.cause in (None, UNKNOWN)


Line = SpeedSession | SpeedSetting | SpeedBlock
KINDS: dict[str, type[Line]] = {"session": SpeedSession, "setting": SpeedSetting, "block": SpeedBlock}


class TimedSession(NamedTuple):
    """What a session's file holds: its name, its settings by their keys, its blocks by (cycle, setting)."""

    name: str
    about: SpeedSession
    settings: dict[str, SpeedSetting]
    blocks: dict[tuple[int, str], SpeedBlock]


def new_session_name() -> str:
    """A name that sorts by time and that no other session has."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"


def line_of(item: Line) -> bytes:
    """One line of the file, its end included."""
    kind = next(name for name, type_ in KINDS.items() if isinstance(item, type_))
    return json.dumps({"kind": kind, **plain_of(item)}, allow_nan=False, ensure_ascii=False).encode() + b"\n"


class SpeedWriter(AbstractContextManager["SpeedWriter"]):
    """Appends to a session's own new file; every line is on the disk before the next block is timed.

    Args:
        results: the folder, which the caller holds locked.
        about: written at once.
        name: of the session.

    Raises:
        UserError: if the file cannot be made or written.
    """

    def __init__(self, results: ResultsFolder, about: SpeedSession, *, name: str) -> None:
        self.path = results.speed / f"{name}.jsonl"
        with writing(self.path):
            results.speed.mkdir(exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            fsync_directory(results.speed)
        self.append(about)

    def append(self, item: SpeedSetting | SpeedBlock | SpeedSession) -> None:
        """Write one line through to the disk.

        Raises:
            UserError: if the disk is full or gone.
        """
        with writing(self.path):
            rest = memoryview(line_of(item))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            sync(self._descriptor)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def read_sessions(results: ResultsFolder) -> tuple[list[TimedSession], list[SetAside]]:
    """The sessions of a folder in order of time, and what in `speed/` could not be read: whole files, and single lines.

    A last line without its end was cut off by a kill, and is passed over without a word. Nothing is moved.
    """
    return read_all_sessions([results])


def read_all_sessions(folders: Iterable[ResultsFolder]) -> tuple[list[TimedSession], list[SetAside]]:
    """As `read_sessions` of several folders; of a session that lies in two of them the longer file.

    Raises:
        UserError: if neither of two is the beginning of the other.
    """
    found: list[TimedSession] = []
    aside = []
    for path in _longest_files(folders).values():
        session, problems = read_session(path)
        aside += problems
        if session is None:
            continue
        twin = next((other for other in found if _same_beginning(session, other)), None)
        if twin is None:
            found.append(session)
        else:
            less, more = sorted((session, twin), key=lambda each: len(each.blocks))
            aside.append(SetAside(path.with_name(f"{less.name}.jsonl"), f"it is a copy of {more.name}.jsonl"))
            found[found.index(twin)] = more
    return sorted(found, key=lambda session: (session.about.started_at, session.name)), aside


def _same_beginning(one: TimedSession, other: TimedSession) -> bool:
    """Whether one file is a copy of the other under another name: its blocks would count twice."""
    shared = one.blocks.keys() & other.blocks.keys()
    return bool(shared) and one.about == other.about and all(one.blocks[key] == other.blocks[key] for key in shared)


def session_files(results: ResultsFolder) -> list[Path]:
    """The files in `speed/` that are named as sessions; others are somebody's own."""
    try:
        return sorted(path for path in results.speed.iterdir() if SESSION_FILE.fullmatch(path.name))
    except OSError:
        return []


def read_session(path: Path) -> tuple[TimedSession | None, list[SetAside]]:
    """A session's file, and which of its lines are none; no session where its first line is not that of one."""
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            return None, [SetAside(path, "it is too large for blocks of speed")]
        *lines, _cut_off = read_regular(path).split(b"\n")
    except OSError as error:
        return None, [SetAside(path, f"it cannot be read: {error.strerror}")]
    read = [_read_line(line) for line in lines]
    if not read:
        return None, []
    if not isinstance(read[0], SpeedSession):
        reason = read[0] if isinstance(read[0], str) and read[0].startswith(NEWER) else "it does not begin as a session"
        return None, [SetAside(path, reason)]
    session = TimedSession(path.stem, read[0], {}, {})
    problems = []
    for number, item in enumerate(read[1:], start=2):
        problem = item if isinstance(item, str) else _add(session, item)
        if problem:
            problems.append(SetAside(path, f"line {number}: {problem}"))
    return session, problems


def _add(session: TimedSession, item: Line) -> str:
    """Put a line into its session; why it does not belong there, or ""."""
    if isinstance(item, SpeedSession):
        return "a second beginning of a session"
    if isinstance(item, SpeedSetting):
        if item.setting != item.cell.without_seed():
            return "the setting is not that of its cell"
        session.settings.setdefault(item.setting, item)
        return ""
    key = item.cycle, item.setting
    checks = [
        (item.setting not in session.settings, "a block of a setting that no line before it names"),
        (key in session.blocks, "a second block of its setting in one cycle"),
        (item.seconds is None and item.error is None, "a block without seconds that has no error"),
        (item.seconds == 0, "a block that took no time"),
        (item.seconds is not None and min(item.steps, item.examples) < 1, "a block that trained nothing"),
    ]
    problem = next((reason for applies, reason in checks if applies), "")
    if not problem:
        session.blocks[key] = item
    return problem


def _read_line(line: bytes) -> Line | str:
    """A line, or why it is none."""
    try:
        plain = json.loads(line)
        kind = plain.pop("kind")
        version = plain.get("schema_version")
        if kind == "session" and isinstance(version, int) and version > SPEED_SCHEMA_VERSION:
            return f"{NEWER}: schema version {version}, this mnistbench reads up to {SPEED_SCHEMA_VERSION}"
        return read_checked(KINDS[kind], plain, kind)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"it is no line of ours: {type(error).__name__}: {error}"[:200]


def longer_of(one: bytes, other: bytes) -> bytes | None:
    """The longer of two files of one session, whichever line ends a checkout gave them; None if the other is not its
    beginning.
    """
    (short, _), (long, content) = sorted(((each.replace(b"\r\n", b"\n"), each) for each in (one, other)), key=_length)
    return content if long.startswith(short) else None


def _length(item: tuple[bytes, bytes]) -> int:
    return len(item[0])


def merged_files(sources: Iterable[ResultsFolder]) -> dict[str, bytes]:
    """The contents of all sessions' files by name; of two under one name the longer one, which begins as the other.

    Raises:
        UserError: if neither of two is the beginning of the other, or one cannot be read.
    """
    return {name: _content(path) for name, path in _longest_files(sources).items()}


def _longest_files(folders: Iterable[ResultsFolder]) -> dict[str, Path]:
    """Of each session, by the name of its file, the longest that there is."""
    longest: dict[str, Path] = {}
    for path in (path for folder in folders for path in session_files(folder)):
        known = longest.setdefault(path.name, path)
        if known == path:
            continue
        ours, content = _content(known), _content(path)
        long = longer_of(ours, content)
        if long is None:
            raise UserError(
                f"{path} is not the session in {known}, and lines are only ever added to one: take out the folder that"
                " was edited"
            )
        longest[path.name] = path if long is content else known
    return longest


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): move it away, or mend it") from None


def write_sessions(target: ResultsFolder, contents: Mapping[str, bytes]) -> None:
    """Fill `speed/` of a folder with files by their names.

    Raises:
        UserError: if the folder cannot be written.
    """
    if contents:
        with writing(target.speed):
            target.speed.mkdir(exist_ok=True)
    for name, content in contents.items():
        write_whole(target.speed / name, content)


def mean_rates(session: TimedSession) -> dict[str, tuple[float, int]]:
    """By setting: the geometric mean of its clean blocks' rates in examples/s, and how many they are; one at least."""
    rates: dict[str, list[float]] = {}
    for block in session.blocks.values():
        if block.is_clean and block.examples_per_second is not None:
            rates.setdefault(block.setting, []).append(block.examples_per_second)
    return {setting: (geometric_mean(values), len(values)) for setting, values in rates.items()}


def rows_of_blocks(sessions: Iterable[TimedSession]) -> list[dict[str, Any]]:
    """All blocks as rows, those of `speed.csv`: what the session, the setting and the block say, and the rate."""
    return [_row(session, block) for session in sessions for block in session.blocks.values()]


def _row(session: TimedSession, block: SpeedBlock) -> dict[str, Any]:
    setting = session.settings[block.setting]
    return {
        "session": session.name,
        "started_at": session.about.started_at,
        "protocol": session.about.protocol,
        "machine_id": session.about.machine,
        "torch": session.about.build,
        "device_id": session.about.environment.device_id if session.about.environment else None,
        "cycle": block.cycle,
        "position": block.position,
        "settings": block.setting,
        "device": setting.cell.device,
        "label": setting.label,
        "equivalence": setting.equivalence,
        "pid": block.pid,
        "steps": block.steps,
        "examples": block.examples,
        "seconds": block.seconds,
        "examples_per_second": block.examples_per_second,
        "waited_seconds": block.waited_seconds,
        "throttled_seconds": block.throttled_seconds,
        "gpu_slowdown": block.gpu_slowdown,
        "cause": block.cause,
        "error": block.error,
        "wall_seconds": block.wall_seconds,
    }
