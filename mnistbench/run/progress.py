"""What one sees while a grid runs: a live line in a terminal, plain lines elsewhere. Nothing is drawn between epochs.

The runner calls these methods between timed regions only, and no thread refreshes in the background, so that drawing
costs no cell its time.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from typing_extensions import override

from mnistbench.results.records import CellRecord, EpochMeasurement
from mnistbench.train.watcher import Ending, Watcher
from mnistbench.words.wording import percent, plural, rate, rough_time

if TYPE_CHECKING:
    from mnistbench.train.job import Job


class Count:
    """How far the run is, and how long the rest will take at the pace of the cells so far."""

    def __init__(self) -> None:
        self.cells = self.done = 0
        self._began = self._ended = time.monotonic()

    def begin(self, cells: int) -> None:
        """Start the clock, or go on with more cells."""
        if self.cells == 0:
            self._began = time.monotonic()
        self.cells += cells

    def end_cell(self) -> None:
        """One more is done."""
        self.done += 1
        self._ended = time.monotonic()

    @property
    def seconds_left(self) -> float | None:
        """None before the first cell has ended, and where the last one takes longer than the others did."""
        if not self.done:
            return None
        pace = (self._ended - self._began) / self.done
        left = pace * (self.cells - self.done) - (time.monotonic() - self._ended)
        return left if left > 0 else None


class PlainLines(Watcher):
    """One line per cell, for logs and pipes. A reader that is gone costs the lines alone."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._count = Count()
        self._downloads: set[str] = set()

    @override
    def download(self, what: str, done: int, total: int | None) -> None:
        if what not in self._downloads:
            self._downloads.add(what)
            self.say(what)

    @override
    def say(self, text: str) -> None:
        with suppress(OSError):
            print(text, file=self._stream, flush=True)

    @override
    def begin(self, cells: int, kept: int) -> None:
        self._count.begin(cells)
        self.say(f"{plural(cells, 'cell')} to run, {kept} kept from before")

    @override
    def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
        if runs_again:
            return
        self._count.end_cell()
        left = self._count.seconds_left
        rest = f", {rough_time(left)} left" if left else ""
        self.say(f"[{self._count.done}/{self._count.cells}{rest}] {record.cell.label}: {outcome(record)}")


class LiveLine(Watcher):
    """A bar and the present cell's figures, drawn again after each epoch. A terminal that is gone costs these alone."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        self._console = Console(emoji=False, file=stream or sys.stderr)
        columns = (
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn(  # gets what the others leave of the line
                "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
        )
        self._bar = Progress(*columns, console=self._console, auto_refresh=False, expand=True)
        self._task = self._bar.add_task("", total=None, left="")
        self._count = Count()

    @override
    def download(self, what: str, done: int, total: int | None) -> None:
        share = f" {percent(done / total, 0)}" if total else f" {done / 2**20:.1f} MiB"
        with suppress(OSError):
            self._console.print(f"{what}{share}", end="\r", markup=False, highlight=False)
            if total is not None and done >= total:
                self._console.print()

    @override
    def say(self, text: str) -> None:
        with suppress(OSError):
            self._console.print(text, markup=False, highlight=False)

    @override
    def begin(self, cells: int, kept: int) -> None:
        self._count.begin(cells)
        self.say(f"{plural(cells, 'cell')} to run, {kept} kept from before")
        with suppress(OSError):
            self._bar.start()
        self._draw("starting")

    @override
    def speed(self, text: str) -> None:
        with suppress(OSError):
            width = self._console.width - 1
            self._console.print(text[:width].ljust(width), end="\r", markup=False, highlight=False)

    @override
    def started(self, job: Job) -> None:
        self._draw(job.cell.label)

    @override
    def epoch(self, job: Job, measurement: EpochMeasurement) -> None:
        self._draw(f"{figures(measurement, job.cell.training.epochs)} · {job.cell.label}")

    @override
    def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
        if runs_again:
            return
        self._count.end_cell()
        if record.status != "finished":
            self.say(f"{record.cell.label}: {outcome(record)}")
        self._draw(f"{record.cell.label}: {outcome(record)}")

    @override
    def end(self, ending: Ending | None) -> None:
        with suppress(OSError):
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
        with suppress(OSError):
            self._bar.refresh()


def display_for(stream: IO[str] | None = None) -> Watcher:
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
