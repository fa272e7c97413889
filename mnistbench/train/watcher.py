"""What a run tells while it works, to whoever watches it: a display, a mirror, a writer of reports, a user's own class.

A watcher is called between timed regions only, in the process that writes the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnistbench.results.folder import ResultsFolder
    from mnistbench.results.records import CellRecord, EpochMeasurement
    from mnistbench.train.job import Job


@dataclass(frozen=True, kw_only=True)
class Ending:
    """A run that has written all its records.

    Attributes:
        results: the folder with the records.
        changed: whether its cells, records or targets are others than before the run.
        record_ids: of the records that count; `skipped` ones, which show nothing, are left out.
    """

    results: ResultsFolder
    changed: bool
    record_ids: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Remarks:
    """What a watcher has to say at the end, for the run's summary.

    Attributes:
        warnings: what the user should read.
        tracking, experiment: where the watcher mirrors records, as it may be shown.
        not_mirrored: records that are not there, and `not_mirrored_sessions` of speed; `not_mirrored_reason` says why.
    """

    warnings: Sequence[str] = ()
    tracking: str | None = None
    experiment: str | None = None
    not_mirrored: int = 0
    not_mirrored_sessions: int = 0
    not_mirrored_reason: str | None = None


class Watcher:
    """Is told what a run does. Every method does nothing here; a subclass has those that it needs.

    Attributes:
        last_act: what it does at the end that takes a moment (`writing the report`), for a user who presses Ctrl-C.
    """

    last_act: str | None = None

    def download(self, what: str, done: int, total: int | None) -> None:
        """Data comes: what is being done, bytes done, and bytes in all, where that is known."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def begin(self, cells: int, kept: int) -> None:
        """So many cells are to run, none of which has started; so many had their result before.

        A run may begin twice: a grid that tunes has cells that try learning rates, and cells that are measured.
        """

    def speed(self, text: str) -> None:
        """What is timed now, in a line; said before or after each cycle of blocks."""

    def started(self, job: Job) -> None:
        """A cell begins."""

    def epoch(self, job: Job, measurement: EpochMeasurement) -> None:
        """A cell has trained and evaluated an epoch."""

    def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
        """An attempt has ended, in whatever way, and its record is written.

        Args:
            record: the attempt.
            runs_again: it was lost through no fault of its cell, which runs again in this session.
            interrupted: the user wants the run to end: what can wait is done in `end`.
        """

    def end(self, ending: Ending | None) -> Remarks | None:
        """Nothing runs any more.

        Args:
            ending: what the run came to; None if an error ended it.
        """
