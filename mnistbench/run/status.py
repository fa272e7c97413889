"""How far a run is, told from another terminal: counts from the records, the present cell from a note beside them."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from mnistbench.files.whole import read_regular
from mnistbench.results.index import read_index
from mnistbench.results.records import CellRecord, EpochMeasurement
from mnistbench.results.speed import read_sessions
from mnistbench.run.budget import seconds_by_setting
from mnistbench.run.progress import Count, figures, outcome
from mnistbench.train.watcher import Ending, Watcher
from mnistbench.words.wording import plural, rough_time

if TYPE_CHECKING:
    from mnistbench.results.folder import ResultsFolder, SetAside
    from mnistbench.train.job import Job

NOTE = ".now.json"


class StatusFile(Watcher):
    """Leaves a note of the present cell in the results folder.

    The note is written between timed regions, without fsync: losing it loses nothing.
    """

    def __init__(self, results: ResultsFolder) -> None:
        self._note = results.path / NOTE
        self._count = Count()

    @override
    def begin(self, cells: int, kept: int) -> None:
        self._count.begin(cells)

    @override
    def speed(self, text: str) -> None:
        self._write(text)

    @override
    def started(self, job: Job) -> None:
        self._write(job.cell.label)

    @override
    def epoch(self, job: Job, measurement: EpochMeasurement) -> None:
        self._write(f"{job.cell.label} · {figures(measurement, job.cell.training.epochs)}")

    @override
    def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
        if not runs_again:
            self._count.end_cell()
            self._write(f"{record.cell.label}: {outcome(record)}")

    @override
    def end(self, ending: Ending | None) -> None:
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        note = {
            "pid": os.getpid(),
            "now": text,
            "done": self._count.done,
            "cells": self._count.cells,
            "seconds_left": self._count.seconds_left,
        }
        part = self._note.with_name(f"{NOTE}.part")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(note), encoding="utf-8")
            part.replace(self._note)


def status_lines(results: ResultsFolder) -> list[str]:
    """Counts by status, and either what runs now or what is left; reads only."""
    index, aside = read_index(results)
    wanted = results.cell_ids()
    known = {cell_id: known_cell for cell_id, known_cell in index.items() if wanted is None or cell_id in wanted}
    counts = Counter(str(known_cell.status) for known_cell in known.values())
    total = len(known) if wanted is None else len(wanted)
    if pending := total - len(known):
        counts["not run yet"] = pending
    said = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())
    lines = [f"{results.path}: {plural(total, 'cell')}: {said or 'none'}"]
    if old := [known_cell.outdated for known_cell in known.values() if known_cell.outdated]:
        why = ", ".join(sorted(set(old)))
        lines.append(f"{len(old)} of them outdated: an older release could train them wrongly ({why})")
    lines += [f"set aside {other.file.name}: {other.reason}" for other in aside]
    lines += unread_lines(read_sessions(results)[1])
    if note := _note(results.path):
        left = note.get("seconds_left")
        rest = f", {rough_time(left)} left" if isinstance(left, int | float) and 0 <= left < 1e9 else ""
        counted = f"{note.get('done')} of {note.get('cells')} in this session{rest}; " if note.get("cells") else ""
        lines.append(f"running: {counted}{note.get('now')}")
    elif open_ := sum(not known_cell.is_result for known_cell in known.values()) + pending:
        typical = list(seconds_by_setting(known.values()).values())
        rest = f", about {rough_time(sum(typical) / len(typical) * open_)}" if typical else ""
        lines.append(f"nothing is running; {plural(open_, 'cell')} without a result yet{rest}: `run` the grid again")
    return lines


def unread_lines(unread: Iterable[SetAside]) -> Iterator[str]:
    """Files in which something could not be read, each once, with the first reason."""
    reasons: dict[Path, list[str]] = {}
    for item in unread:
        reasons.setdefault(item.file, []).append(item.reason)
    for file, said in reasons.items():
        more = f", and {len(said) - 1} more" if said[1:] else ""
        yield f"not read: {file.parent.name}/{file.name}: {said[0]}{more}"


def _note(folder: Path) -> dict[str, object] | None:
    """The note of a runner that is alive."""
    try:
        plain = json.loads(read_regular(folder / NOTE))
        os.kill(int(plain["pid"]), 0)
    except PermissionError:  # alive, and another user's
        return plain if isinstance(plain, dict) else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return plain if isinstance(plain, dict) else None
