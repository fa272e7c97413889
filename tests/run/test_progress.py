"""What a terminal and a log show while a grid runs."""

from __future__ import annotations

import errno
import io
import os
import time
from typing import NoReturn

import pytest
from synthetic import make_cell, make_record

from mnistbench.results.records import Data, Error
from mnistbench.run.progress import Count, LiveLine, PlainLines, display_for
from mnistbench.train.job import Job
from mnistbench.train.watcher import Watcher
from mnistbench.words.wording import rough_time

FAILED = Error(type="ValueError", message="on purpose")
JOB = Job(cell=make_cell(), record_id="r", data_directory="", data=Data(sha256=""))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(Terminal):
    """A terminal that was closed."""

    def write(self, text: str) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def show(display: Watcher) -> None:
    """Two cells, of which the second fails after its machine was lost once."""
    record = make_record(JOB.cell)
    failed = make_record(make_cell(seed=1), status="failed", error=FAILED)
    display.download("MNIST comes", 1, 2)
    display.download("MNIST comes", 2, 2)
    display.begin(2, 3)
    display.started(JOB)
    display.epoch(JOB, record.epochs[0])
    display.record(record)
    display.record(failed, runs_again=True)
    display.record(failed)
    display.end(None)


def test_a_log_has_a_line_for_each_cell_that_ended() -> None:
    stream = io.StringIO()
    show(PlainLines(stream))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["MNIST comes", "2 cells to run, 3 kept from before"]
    assert lines[2].startswith("[1/2") and "epoch 2/2 · loss" in lines[2] and "test 97.50 %" in lines[2]
    assert lines[3].startswith("[2/2] ") and lines[3].endswith(": failed (on purpose)")
    assert len(lines) == 4


def test_a_terminal_has_a_bar_and_keeps_what_failed() -> None:
    stream = Terminal()
    show(LiveLine(stream))
    said = stream.getvalue()
    assert "MNIST comes 50 %" in said and "MNIST comes 100 %" in said
    assert "2 cells to run, 3 kept from before" in said
    assert "2/2" in said
    assert said.count("failed (on purpose)\n") >= 1


def test_80_columns_show_how_long_it_takes_and_what_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the cell is what does not fit."""
    monkeypatch.setenv("COLUMNS", "80")
    stream, record = Terminal(), make_record(JOB.cell)
    display = LiveLine(stream)
    display.begin(9, 0)
    time.sleep(0.2)
    display.record(record)
    display.epoch(JOB, record.epochs[0])
    display.end(None)
    assert " s left epoch 1/2 · loss" in stream.getvalue()
    assert "test 96.00 %" in stream.getvalue()


def test_the_time_that_is_left_grows_shorter_while_a_cell_runs() -> None:
    """And nothing is said where a cell takes longer than those before it."""
    count = Count()
    count.begin(2)
    time.sleep(0.1)
    count.end_cell()
    first = count.seconds_left
    time.sleep(0.01)
    second = count.seconds_left
    assert first is not None and second is not None and second < first
    time.sleep(second)
    assert count.seconds_left is None


@pytest.mark.parametrize("display", [PlainLines, LiveLine])
def test_a_terminal_that_is_gone_costs_the_display_alone(display: type[PlainLines] | type[LiveLine]) -> None:
    show(display(Gone()))


def test_a_terminal_gets_the_bar_and_a_pipe_the_lines() -> None:
    assert isinstance(display_for(Terminal()), LiveLine)
    assert isinstance(display_for(io.StringIO()), PlainLines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89.0, "89 s"), (90.0, "2 min"), (5340.0, "89 min"), (7500.0, "2 h 5 min")]
)
def test_a_time_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert rough_time(seconds) == text
