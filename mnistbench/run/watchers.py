"""Several watchers as one, and the watcher that makes a report at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from mnistbench.errors.problems import message_of
from mnistbench.train.watcher import Ending, Remarks, Watcher

if TYPE_CHECKING:
    from mnistbench.results.folder import ResultsFolder


def _telling_each(name: str) -> Callable[..., None]:
    """A method of `Watchers` that calls that of each of them."""

    def tell(self: Watchers, *what: Any, **more: Any) -> None:
        for watcher in self._watchers:
            getattr(watcher, name)(*what, **more)

    return tell


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

    download, say, speed, started, epoch, record = map(
        _telling_each, ("download", "say", "speed", "started", "epoch", "record")
    )

    @override
    def begin(self, cells: int, kept: int) -> None:
        for watcher in reversed(self._watchers):
            watcher.begin(cells, kept)

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
