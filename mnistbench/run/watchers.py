"""Several watchers as one, and the watcher that makes a report at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import override

from mnistbench.errors.problems import message_of
from mnistbench.train.watcher import Ending, Remarks, Watcher

if TYPE_CHECKING:
    from mnistbench.results.folder import ResultsFolder
    from mnistbench.results.records import CellRecord, EpochMeasurement
    from mnistbench.train.job import Job


class Watchers(Watcher):
    """Tells each of several watchers, in their order.

    Only `begin` goes the other way: the first of them, mostly a display with a clock, begins when the others are ready.
    """

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = tuple(watchers)
        self._has_ended = False

    @property
    def last_acts(self) -> list[str]:
        """What they do at the end, where that takes a moment."""
        return [watcher.last_act for watcher in self._watchers if watcher.last_act]

    @override
    def download(self, what: str, done: int, total: int | None) -> None:
        for watcher in self._watchers:
            watcher.download(what, done, total)

    @override
    def say(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.say(text)

    @override
    def begin(self, cells: int, kept: int) -> None:
        for watcher in reversed(self._watchers):
            watcher.begin(cells, kept)

    @override
    def speed(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.speed(text)

    @override
    def started(self, job: Job) -> None:
        for watcher in self._watchers:
            watcher.started(job)

    @override
    def epoch(self, job: Job, measurement: EpochMeasurement) -> None:
        for watcher in self._watchers:
            watcher.epoch(job, measurement)

    @override
    def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
        for watcher in self._watchers:
            watcher.record(record, runs_again=runs_again, interrupted=interrupted)

    @override
    def end(self, ending: Ending | None) -> Remarks:
        """Tell each of them once, and put their remarks together; one that fails costs the others nothing."""
        if self._has_ended:
            return Remarks()
        self._has_ended = True
        remarks = [_end(watcher, ending) for watcher in self._watchers]
        mirror = next((remark for remark in remarks if remark.tracking is not None), Remarks())
        return replace(mirror, warnings=tuple(warning for remark in remarks for warning in remark.warnings))


class ReportWriter(Watcher):
    """Makes a page, or whatever else is made of records, when a run has ended; after an interruption too.

    Args:
        write: is given the results folder.
    """

    last_act = "writing the report"

    def __init__(self, write: Callable[[ResultsFolder], object]) -> None:
        self._write = write

    @override
    def end(self, ending: Ending | None) -> Remarks | None:
        if ending is None or (ending.results.report_file.exists() and not ending.changed):
            return None
        try:
            self._write(ending.results)
        except Exception as error:  # the records are written; a page can be made again
            said = f"the report could not be written ({type(error).__name__}: {error}); `report` makes it again"
            return Remarks(warnings=(said,))
        return None


def _end(watcher: Watcher, ending: Ending | None) -> Remarks:
    try:
        return watcher.end(ending) or Remarks()
    except Exception as error:
        said = f"{type(watcher).__name__} failed at the end of the run ({type(error).__name__}: {message_of(error)})"
        return Remarks(warnings=(said,))
