"""The target belongs to the question: one training answers every target that is asked now, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from report_pages import Page, write_folder
from synthetic import make_cell, make_environment, make_record

from mnistbench import run_grid
from mnistbench.cell import Component, Training
from mnistbench.cli.outcome import write_outcome
from mnistbench.data.digits import TRAIN_EXAMPLES
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.report import render
from mnistbench.report.compare import compare
from mnistbench.report.frame import at_target, results_frame, targets_in, write_csv
from mnistbench.report.page import read_study
from mnistbench.report.sections.first import leaderboard
from mnistbench.report.summary import verdict_sentences
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.merging import merge_folders
from mnistbench.results.records import CellRecord, dump
from mnistbench.results.targets import targets_asked
from mnistbench.run.executors import InlineExecutor
from mnistbench.run.options import RunOptions
from mnistbench.run.plan import make_plan
from mnistbench.run.watchers import ReportWriter
from mnistbench.tracking.content import run_content

GRID = """
name: targets
dataset: digits
architectures: [logistic]
optimizers: [{{name: sgd, lr: 0.5}}]
batch_sizes: [1000]
devices: [cpu]
seeds: {seeds}
twins: 0
training: {{epochs: 2, target_accuracy: {target}}}
speed: off
execution: {{profile: plain, data: resident}}
"""


def grid(target: str, seeds: str = "[0]") -> Grid:
    return Grid.from_text(GRID.format(target=target, seeds=seeds))


def cells(loaded: Grid) -> list[str]:
    return [cell.cell_id for cell in loaded.cells(Component(name="digits"), 60_000, ["cpu"])]


def test_several_targets_are_one_training() -> None:
    several = grid("[0.99, 0.5]")
    assert several.count() == 1
    assert cells(several) == cells(grid("0.5")) == cells(grid("null"))
    assert several.training.targets == several.targets == (0.5, 0.99)
    assert Grid.from_text(several.to_yaml()).targets == (0.5, 0.99)


def test_a_training_that_stops_is_named_by_the_largest_target() -> None:
    def stopping(target: str) -> list[str]:
        text = GRID.format(target=target, seeds="[0]").replace("epochs: 2", "epochs: 2, stop_at_target: true")
        return cells(Grid.from_text(text))

    assert stopping("[0.5, 0.9]") == stopping("0.9") != stopping("0.5")
    assert Training(epochs=2, target_accuracy=(0.9, 0.5), stop_at_target=True).stops_at == 0.9


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("[[0.5], [0.9]]", "several targets are questions about one training, not an axis"),
        ("[]", "found an empty list"),
        ("[0.5, 97]", "found `97`"),
    ],
)
def test_what_is_no_list_of_targets_is_refused_with_its_place(target: str, message: str) -> None:
    with pytest.raises(UserError, match="grid:10:") as refused:
        grid(target)
    assert message in str(refused.value)


def test_an_included_cell_with_another_target_is_in_the_grid_already() -> None:
    more = (
        "include: [{architecture: logistic, optimizer: {name: sgd, lr: 0.5}, batch_size: 1000, training: {epochs: 2}}]"
    )
    with pytest.raises(UserError, match="in the grid already"):
        Grid.from_text(GRID.format(target="0.5", seeds="[0]") + more)


def test_cells_that_fall_together_are_counted_once(tmp_path: Path) -> None:
    whole = GRID.format(target="0.5", seeds="[0]").replace("[1000]", f"[full, {TRAIN_EXAMPLES}]")
    assert make_plan(Grid.from_text(whole), RunOptions(out=tmp_path / "none")).total == 1


def test_a_record_with_several_targets_is_read_back() -> None:
    record = make_record(make_cell(training=Training(epochs=2, target_accuracy=(0.5, 0.9))))
    assert CellRecord.from_json(json.loads(dump(record))) == record


def test_each_target_is_answered_from_the_same_epochs(tmp_path: Path) -> None:
    cell = make_cell(training=Training(epochs=3, target_accuracy=(0.9, 0.97, 0.99)))
    frame = results_frame([make_record(cell, examples_per_second=20_000, accuracies=(0.95, 0.97, 0.98))])
    assert targets_in(frame) == [0.9, 0.97, 0.99]
    assert [at_target(frame, target)["seconds_to_target"][0] for target in (0.9, 0.97)] == pytest.approx([3.0, 6.0])
    assert not at_target(frame, 0.99)["reached"][0]
    board = leaderboard(frame).frame
    assert list(board["target_accuracy"]) == [0.9, 0.97, 0.99]
    assert list(board["reached"]) == [1, 1, 0]
    said = " ".join(verdict_sentences(frame))
    assert all(text in said for text in ("time to 90 %: 3.00 s", "time to 97 %: 6.00 s", "No cell reached 99 %"))
    write_csv(frame, tmp_path / "results.csv")
    row = pd.read_csv(tmp_path / "results.csv").iloc[0]
    assert (row["target_accuracy"], row["seconds_to_target_0.9"], row["epochs_to_target_0.97"]) == (0.99, 3.0, 2)


def test_a_training_that_stopped_says_nothing_of_higher_targets() -> None:
    stopped = make_cell(training=Training(epochs=5, target_accuracy=0.9, stop_at_target=True))
    frame = results_frame([make_record(stopped, accuracies=(0.95,))], targets=[0.5, 0.97])
    assert targets_in(frame) == [0.5]
    assert at_target(frame, 0.97)["reached"][0] is pd.NA


@pytest.mark.slow
def test_a_new_target_is_asked_of_old_and_new_records_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid that ran at one target with one seed, then at another with two seeds in the same folder."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    folder = ResultsFolder(tmp_path / "targets")

    def run(target: str, seeds: str) -> str:
        text = GRID.format(target=target, seeds=seeds).replace("digits", "{name: sum3, rows: 100}")
        summary = run_grid(
            Grid.from_text(text.replace("[logistic]", "[mlp]").replace("[1000]", "[8]")),
            out=folder.path,
            tracking=False,
            executor=InlineExecutor(train="stand_ins:improving"),
            watchers=[ReportWriter(lambda results: write_outcome([results]))],
        )
        assert summary.left == 0
        page = Page.of(folder.report_file.read_text(encoding="utf-8"))
        return page.all("ul", "verdict")[0].text.replace("\u00a0", " ")

    assert "time to 40 %" in run("0.4", "[0]")
    verdict = run("0.6", "[0, 1]")
    assert {record.cell.training.target_accuracy for record in folder.records()} == {0.4, 0.6}
    assert targets_asked(folder) == (0.6,)
    assert set(pd.read_csv(folder.path / "results.csv")["target_accuracy"]) == {0.6}
    assert "time to 60 %" in verdict
    assert "2 of 2 seeds reached it" in verdict
    assert "40 %" not in verdict
    both = run("[0.4, 0.6]", "[0, 1]")
    assert "to 40 %" in both
    assert "to 60 %" in both


def test_a_folder_of_an_older_release_is_asked_what_its_grid_file_says(tmp_path: Path) -> None:
    text = GRID.format(target="0.5", seeds="[0]")
    folder = ResultsFolder(write_folder(tmp_path / "old", [make_record()], text))
    assert targets_asked(folder) == (0.5,)
    assert targets_asked(ResultsFolder(write_folder(tmp_path / "unknown", [make_record()], "name: x\n"))) is None


def test_merged_folders_ask_what_each_of_them_asks(tmp_path: Path) -> None:
    folders = []
    for name, target in (("one", 0.9), ("two", 0.97)):
        record = make_record(
            make_cell(training=Training(epochs=2, target_accuracy=target)), environment=make_environment(name)
        )
        folders.append(ResultsFolder(write_folder(tmp_path / name, [record])))
        folders[-1].write_cells([record.cell])
    merge_folders(folders, ResultsFolder(tmp_path / "both"))
    assert targets_asked(ResultsFolder(tmp_path / "both")) == (0.9, 0.97)
    boards = [leaderboard(read_study(some).runs).frame for some in (folders, [ResultsFolder(tmp_path / "both")])]
    pd.testing.assert_frame_equal(*boards)
    assert len(boards[0]) == 4


def test_two_sets_are_compared_at_every_target_that_either_asks() -> None:
    old, new = (
        results_frame([make_record(make_cell(training=Training(epochs=2, target_accuracy=target)))])
        for target in (0.9, 0.97)
    )
    table = compare(old, new).table.frame
    assert list(table[table["metric"] == "seconds_to_target"]["target_accuracy"]) == [0.9, 0.97]


def test_mlflow_shows_the_time_to_each_target_that_is_asked_now() -> None:
    record = make_record(make_cell(training=Training(epochs=2, target_accuracy=0.5)), examples_per_second=20_000)
    content = run_content(record, (0.96, 0.97))
    shown = {point.key: point.value for point in content.points}
    assert (shown["speed/seconds_to_target_0.96"], shown["speed/seconds_to_target"]) == pytest.approx((3.0, 6.0))
    assert content.tags["mnistbench.target_accuracy"] == "0.97"
    assert run_content(record).tags["mnistbench.target_accuracy"] == "0.5"


@pytest.mark.slow
def test_the_page_has_a_leaderboard_of_each_target(tmp_path: Path) -> None:
    cell = make_cell(training=Training(epochs=2, target_accuracy=(0.9, 0.97)))
    folder = write_folder(tmp_path / "both", [make_record(cell)])
    page = Page.of(render([folder], tmp_path / "page.html").read_text(encoding="utf-8"))
    headings = [heading.text for heading in page.all("h3", inside="first")]
    assert headings == ["target 90 %", "target 97 %"]
