"""What one sees while a grid runs: a live line in a terminal, plain lines elsewhere. Nothing is drawn between epochs.

The runner calls these methods between timed regions only, and no thread refreshes in the background, so that drawing
costs no cell its time.
"""

from __future__ import annotations

import sys
import time
from typing import IO, TYPE_CHECKING, Protocol

from mnistbench.results.records import RESULTS, CellRecord, EpochMeasurement
from mnistbench.words.wording import percent, plural, rate, rough_time

if TYPE_CHECKING:
    from mnistbench.train.job import Job


class Progress(Protocol):
    """What the runner tells while it works."""

    def download(self, what: str, done: int, total: int | None) -> None:
        """Data comes: what is being done, bytes done, and bytes in all, where that is known."""

    def begin(self, cells: int, kept: int) -> None:
        """So many cells are to run; so many had their result before."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def started(self, job: Job) -> None:
        """A cell begins."""

    def epoch(self, job: Job, measurement: EpochMeasurement) -> None:
        """A cell has trained and evaluated an epoch."""

    def finished(self, record: CellRecord) -> None:
        """A cell has ended, in whatever way."""

    def end(self) -> None:
        """No more cells run."""


class Count:
    """How far the run is, and how long the rest will take at the pace of the cells so far."""

    def __init__(self) -> None:
        self.cells = self.kept = self.done = self.failed = 0
        self._began = time.monotonic()

    def begin(self, cells: int, kept: int) -> None:
        """Start the clock, or go on with more cells."""
        if self.cells == 0:
            self._began = time.monotonic()
        self.cells += cells
        self.kept = kept

    def add(self, record: CellRecord) -> None:
        """One cell less to go."""
        self.done += 1
        self.failed += record.status not in RESULTS

    @property
    def seconds_left(self) -> float | None:
        """None before the first cell has ended."""
        return (time.monotonic() - self._began) / self.done * (self.cells - self.done) if self.done else None


class Silent:
    """Tells nothing."""

    def download(self, what: str, done: int, total: int | None) -> None:
        """See `Progress`."""

    def begin(self, cells: int, kept: int) -> None:
        """See `Progress`."""

    def say(self, text: str) -> None:
        """See `Progress`."""

    def started(self, job: Job) -> None:
        """See `Progress`."""

    def epoch(self, job: Job, measurement: EpochMeasurement) -> None:
        """See `Progress`."""

    def finished(self, record: CellRecord) -> None:
        """See `Progress`."""

    def end(self) -> None:
        """See `Progress`."""


class PlainLines(Silent):
    """One line per cell, for logs and pipes."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._count = Count()
        self._downloads: set[str] = set()

    def download(self, what: str, done: int, total: int | None) -> None:
        """See `Progress`; said once."""
        if what not in self._downloads:
            self._downloads.add(what)
            self.say(what)

    def begin(self, cells: int, kept: int) -> None:
        """See `Progress`."""
        self._count.begin(cells, kept)
        self.say(f"{plural(cells, 'cell')} to run, {kept} kept from before")

    def say(self, text: str) -> None:
        """See `Progress`."""
        print(text, file=self._stream, flush=True)

    def finished(self, record: CellRecord) -> None:
        """See `Progress`."""
        self._count.add(record)
        left = self._count.seconds_left
        rest = f", {rough_time(left)} left" if left and self._count.done < self._count.cells else ""
        self.say(f"[{self._count.done}/{self._count.cells}{rest}] {record.cell.label}: {outcome(record)}")


class LiveLine(Silent):
    """A bar and the present cell's figures, drawn again after each epoch."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        self._console = Console(file=stream or sys.stderr)
        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        )
        self._bar = Progress(*columns, console=self._console, auto_refresh=False)
        self._task = self._bar.add_task("", total=None, left="")
        self._count = Count()

    def download(self, what: str, done: int, total: int | None) -> None:
        """See `Progress`; one line that counts up."""
        share = f" {percent(done / total, 0)}" if total else f" {done / 2**20:.1f} MiB"
        self._console.print(f"{what}{share}", end="\r", markup=False, highlight=False)
        if total is not None and done >= total:
            self._console.print()

    def begin(self, cells: int, kept: int) -> None:
        """See `Progress`."""
        self._count.begin(cells, kept)
        self.say(f"{plural(cells, 'cell')} to run, {kept} kept from before")
        self._bar.start()
        self._draw("starting")

    def say(self, text: str) -> None:
        """See `Progress`."""
        self._console.print(text, markup=False, highlight=False)

    def started(self, job: Job) -> None:
        """See `Progress`."""
        self._draw(job.cell.label)

    def epoch(self, job: Job, measurement: EpochMeasurement) -> None:
        """See `Progress`."""
        self._draw(f"{job.cell.label} · {figures(measurement, job.cell.training.epochs)}")

    def finished(self, record: CellRecord) -> None:
        """See `Progress`."""
        self._count.add(record)
        if record.status != "finished":
            self.say(f"{record.cell.label}: {outcome(record)}")
        self._draw(f"{record.cell.label}: {outcome(record)}")

    def end(self) -> None:
        """See `Progress`."""
        self._bar.stop()

    def _draw(self, text: str) -> None:
        left = self._count.seconds_left
        self._bar.update(
            self._task,
            total=self._count.cells,
            completed=self._count.done,
            description=text,
            left="" if left is None else f"{rough_time(left)} left",
        )
        self._bar.refresh()


def for_stream(stream: IO[str] | None = None) -> Progress:
    """The live line if the stream (standard error) is a terminal, else plain lines."""
    stream = stream or sys.stderr
    return LiveLine(stream) if stream.isatty() else PlainLines(stream)


def figures(measurement: EpochMeasurement, epochs: int) -> str:
    """Epoch, loss, accuracy and speed, as one reads them while waiting."""
    parts = [f"epoch {measurement.epoch}/{epochs}"]
    if measurement.train_loss is not None:
        parts.append(f"loss {measurement.train_loss:.4f}")
    if measurement.test_accuracy is not None:
        parts.append(f"test {percent(measurement.test_accuracy, 2)}")
    if measurement.train_seconds > 0:
        parts.append(f"{rate(measurement.examples / measurement.train_seconds)} examples/s")
    return " · ".join(parts)


def outcome(record: CellRecord) -> str:
    """How a cell ended, in a few words."""
    if record.status != "finished":
        return f"{record.status} ({record.error.message})" if record.error else record.status
    ended = figures(record.epochs[-1], record.cell.training.epochs) if record.epochs else "finished"
    kept = record.checks.get("kept_model", "")
    return f"{ended} · model {kept}" if kept.startswith("not kept") else ended
