"""`mirrored.jsonl`: which records and sessions of speed of a results folder are on which tracking server.

A line is written before a run is created and another when it is complete, so that after any crash only what is in
between needs to be looked up on the server. A `record_id` is here that of a record, or the key of a session
(`sources.py`). Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mnistbench.files.whole import read_regular

VERSION = 1


@dataclass
class Journal:
    """The lines that concern one experiment on one server.

    Attributes:
        path: the file; it need not exist.
        experiment_key: names the experiment for good, whatever address its server is reached at (see `server.py`).
        place: experiment and address; stored as a hash, since an address may hold host names and credentials.
        done: record_id to run_id of complete runs.
        open: record_ids of runs that may have been created.
        created: record_id to run_id of runs that are known to be there, whole or not.
        doubtful: done, but created after an earlier attempt to create it failed or hung: a server may carry out even
            that one, late, so that there are two.
    """

    path: Path
    experiment_key: str
    place: str = ""
    done: dict[str, str] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    created: dict[str, str] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path, experiment_key: str, place: str = "") -> Journal:
        """Read the folder's journal. A line that was cut off by a crash is passed over: its record is looked up."""
        journal = cls(path=path, experiment_key=experiment_key, place=_hash(place))
        for line in _lines(journal.path):
            if line.get("experiment") != experiment_key:
                continue
            record_id, run_id = line.get("record_id"), line.get("run_id")
            if not isinstance(record_id, str):
                continue
            if isinstance(run_id, str):
                journal._set_done(record_id, run_id, line.get("doubtful") is True)
            elif record_id not in journal.done:
                journal.open.add(record_id)
        return journal

    def intend(self, record_id: str) -> None:
        """Say that a run for this record is about to be created."""
        self.open.add(record_id)
        self._append(record_id=record_id)

    def complete(self, record_id: str, run_id: str, *, doubtful: bool = False) -> None:
        """Say that the record's run is whole."""
        self._append(record_id=record_id, run_id=run_id, **({"doubtful": True} if doubtful else {}))
        self._set_done(record_id, run_id, doubtful)

    def forget(self, record_id: str) -> None:
        """The record's run is not there any more, or not whole, whatever the file says; a later line will say it is."""
        self.done.pop(record_id, None)
        self.doubtful.discard(record_id)

    def _set_done(self, record_id: str, run_id: str, doubtful: bool) -> None:
        self.done[record_id] = run_id
        self.open.discard(record_id)
        self.doubtful.discard(record_id)
        if doubtful:
            self.doubtful.add(record_id)

    def _append(self, **what: str | bool) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        plain = {"version": VERSION, "experiment": self.experiment_key, "place": self.place, **what, "at": now}
        line = json.dumps(plain) + "\n"
        # One write to a file opened for appending: lines of two processes never mix.
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            cut_off = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (("\n" if cut_off else "") + line).encode())
        finally:
            os.close(descriptor)


def done_at(path: Path, place: str) -> set[str]:
    """The record_ids that are complete at this place, for when it cannot be asked for its experiment's key."""
    lines = (line for line in _lines(path) if line.get("place") == _hash(place) and "run_id" in line)
    return {str(line["record_id"]) for line in lines if "record_id" in line}


def named_in(path: Path) -> tuple[set[str], set[str]]:
    """The record_ids and the experiment keys in all lines, whatever the server."""
    lines = _lines(path)
    return {str(line.get("record_id")) for line in lines}, {str(line.get("experiment")) for line in lines}


def _hash(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:12]


def _lines(path: Path) -> list[dict[str, object]]:
    try:
        text = read_regular(path).decode(errors="replace")
    except FileNotFoundError:
        return []
    entries = []
    for line in text.splitlines():
        try:
            plain = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(plain, dict) and plain.get("version") == VERSION:
            entries.append(plain)
    return entries
