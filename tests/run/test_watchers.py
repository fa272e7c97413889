"""Who is told what of a run, in which order, and what happens when one of them fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mnistbench import run_grid
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.run.executors import InlineExecutor
from mnistbench.run.options import RunOptions
from mnistbench.run.watchers import ReportWriter, Watchers
from mnistbench.train.watcher import Ending, Remarks, Watcher

GRID = """
name: watched
dataset: {name: sum3, rows: 100}
architectures: [mlp]
optimizers: [sgd]
batch_sizes: [8]
devices: [cpu]
seeds: [0]
twins: 0
training: {epochs: 2}
speed: off
"""


class Diary(Watcher):
    """Writes down what it is told, with its name."""

    def __init__(self, name: str, pages: list[str]) -> None:
        self.name, self.pages = name, pages

    def begin(self, cells: int, kept: int) -> None:
        self.pages.append(f"{self.name} begin {cells} {kept}")

    def started(self, job: Any) -> None:
        self.pages.append(f"{self.name} started")

    def epoch(self, job: Any, measurement: Any) -> None:
        self.pages.append(f"{self.name} epoch {measurement.epoch}")

    def record(self, record: Any, *, runs_again: bool = False, interrupted: bool = False) -> None:
        self.pages.append(f"{self.name} record {record.status}")

    def end(self, ending: Ending | None) -> Remarks | None:
        self.pages.append(f"{self.name} end {ending.changed if ending else None}")
        return None


class Failing(Watcher):
    def end(self, ending: Ending | None) -> Remarks | None:
        raise ValueError("no more ink")


def run(folder: Path, *watchers: Watcher, text: str = GRID, train: str = "quick") -> Any:
    options = RunOptions(out=folder, executor=InlineExecutor(train=f"stand_ins:{train}"))
    return run_grid(Grid.from_text(text), options, watchers=watchers, tracking=False)


def test_all_are_told_and_the_first_begins_when_the_others_are_ready(tmp_path: Path) -> None:
    pages: list[str] = []
    run(tmp_path / "out", Diary("display", pages), Diary("mirror", pages))
    each = ["started", "epoch 1", "epoch 2", "record finished", "end True"]
    told = [f"{name} {what}" for what in each for name in ("display", "mirror")]
    assert pages == ["mirror begin 1 0", "display begin 1 0", *told]
    pages.clear()
    run(tmp_path / "out", Diary("display", pages))
    assert pages == ["display end False"]


def test_one_that_fails_at_the_end_costs_the_others_nothing(tmp_path: Path) -> None:
    pages: list[str] = []
    summary = run(tmp_path / "out", Failing(), Diary("mirror", pages))
    assert "Failing failed at the end of the run (ValueError: no more ink)" in summary.warnings
    assert pages[-1] == "mirror end True"
    assert summary.exit_code == 0


def test_a_run_that_an_error_ends_is_told_once(tmp_path: Path) -> None:
    pages: list[str] = []
    with pytest.raises(UserError):
        run(tmp_path / "out", Diary("display", pages), text=GRID.replace("[cpu]", "[cuda:7]"))
    assert pages == ["display end None"]


def test_remarks_of_several_are_put_together() -> None:
    class Mirror(Watcher):
        def end(self, ending: Ending | None) -> Remarks | None:
            return Remarks(
                warnings=("slow",), tracking="here", experiment="course", not_mirrored=2, not_mirrored_sessions=1
            )

    both = Watchers([Failing(), Mirror()])
    remarks = both.end(None)
    assert (remarks.tracking, remarks.experiment, remarks.not_mirrored) == ("here", "course", 2)
    assert remarks.not_mirrored_sessions == 1
    assert remarks.warnings[-1] == "slow"
    assert both.end(None) == Remarks()


def test_the_user_hears_of_a_report_only_where_one_is_written() -> None:
    assert Watchers([Watcher()]).last_acts == []
    assert Watchers([Watcher(), ReportWriter(print)]).last_acts == ["writing the report"]


def test_options_and_flags_say_the_same_and_do_not_mix(tmp_path: Path) -> None:
    executor = InlineExecutor(train="stand_ins:quick")
    assert run_grid(Grid.from_text(GRID), out=tmp_path / "out", executor=executor, tracking=False).ran == 1
    with pytest.raises(TypeError, match="options or flags"):
        run_grid(Grid.from_text(GRID), RunOptions(), force=True, tracking=False)
    with pytest.raises(TypeError, match="forse"):
        run_grid(Grid.from_text(GRID), forse=True, tracking=False)
