"""A grid with `tune:` from end to end: its trials are told apart from what was measured, in records and report."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_pages import Page, rendered
from synthetic import all_runs, make_cell, make_record

from mnistbench import run_grid
from mnistbench.cell import Component
from mnistbench.grid.grid import Grid
from mnistbench.grid.options import lr_of
from mnistbench.report import render
from mnistbench.report.sections.first import leaderboard
from mnistbench.report.sections.large_batches import accuracy_by_batch
from mnistbench.report.sections.optimizers import best_after_trials, optimizer_ranking
from mnistbench.report.summary import verdict_sentences
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord
from mnistbench.run.executors import InlineExecutor
from mnistbench.train.watcher import Watcher

pytestmark = pytest.mark.slow

GRID = """
name: fair
dataset: digits
architectures: [mlp]
optimizers: [sgd, adam]
batch_sizes: [256]
devices: [cpu]
seeds: [0, 1]
twins: 0
training: {epochs: 1}
speed: off
execution: {profile: fast, chunk: 0, memory_format: contiguous, threads: 1}
tune:
  learning_rates: {sgd: [1.0e-4, 0.1], adam: [1.0e-6, 1.0e-2]}
  validation_examples: 300
"""


@pytest.fixture(scope="module")
def fair(tmp_path_factory: pytest.TempPathFactory) -> ResultsFolder:
    """A small grid, really trained in this process."""
    folder = ResultsFolder(tmp_path_factory.mktemp("trials") / "fair")
    summary = run_grid(Grid.from_text(GRID), out=folder.path, tracking=False, executor="inline")
    assert summary.counts == {"finished": 8}, [record.error for record in folder.records() if record.error]
    return folder


def test_trials_run_first_and_what_they_pick_is_measured_on_fresh_seeds(fair: ResultsFolder) -> None:
    records = fair.records()
    trials = [record for record in records if record.cell.seed == 1000]
    measured = [record for record in records if record.cell.seed != 1000]
    assert {record.status for record in records} == {"finished"}
    assert sorted(record.checks["tuning"] for record in trials) == ["trial 1", "trial 1", "trial 2", "trial 2"]
    assert [record.checks["tuning"] for record in measured] == ["tuned over 2 trials"] * 4
    assert max(record.started_at for record in trials) <= min(record.started_at for record in measured)
    assert {lr_of(record.cell.optimizer) for record in measured} == {0.1, 1e-2}
    assert all("equivalence" in record.checks for record in records)


def test_the_report_of_a_tuned_grid_says_so(fair: ResultsFolder) -> None:
    page = Page.of(render([fair], fair.report_file).read_text(encoding="utf-8"))
    (section,) = [element for element in page.all("section") if element.attributes["id"] == "optimizers"]
    assert page.source.count("Settings of the optimizers: tuned over 2 trials.") == 1
    assert "after 1 trial" in section.text
    assert "after 2 trials" in section.text
    assert "sgd, lr 0.1" in section.text
    assert "tuned over 2 trials" in fair.report_file.with_name("summary.md").read_text(encoding="utf-8")


def test_records_of_an_earlier_tuning_are_kept_and_said(fair: ResultsFolder) -> None:
    class Told(Watcher):
        said: list[str] = []  # noqa: RUF012

        def say(self, text: str) -> None:
            self.said.append(text)

    told = Told()
    again = Grid.from_text(GRID.replace("[1.0e-4, 0.1]", "[1.0e-4, 0.1, 1.0e-5]").replace("1.0e-2]", "1.0e-2, 1.0e-7]"))
    summary = run_grid(again, out=fair.path, tracking=False, executor=InlineExecutor(), watchers=[told])
    assert summary.ran == 2
    assert any("made before `tune:` changed" in text for text in told.said)


def tried(optimizer: str, batch_size: int, accuracies: dict[float, float], picked: float) -> list[CellRecord]:
    """Trials with these validation accuracies, and three measured seeds at the rate that they picked."""
    records = []
    for number, (lr, accuracy) in enumerate(accuracies.items(), start=1):
        cell = make_cell(optimizer=Component(name=optimizer, options={"lr": lr}), batch_size=batch_size, seed=1000)
        record = make_record(cell, accuracies=(0.5, 0.999), checks={"tuning": f"trial {number}"})
        last = [type(epoch)(**{**vars(epoch), "validation_accuracy": accuracy}) for epoch in record.epochs]
        records.append(record.with_changes(epochs=last))
    for seed in range(3):
        cell = make_cell(optimizer=Component(name=optimizer, options={"lr": picked}), batch_size=batch_size, seed=seed)
        checks = {"tuning": f"tuned over {len(accuracies)} trials", "equivalence": "passed"}
        records.append(make_record(cell, accuracies=(0.5, 0.95), checks=checks))
    return records


@pytest.fixture
def records() -> list[CellRecord]:
    return [
        *tried("sgd", 64, {0.5: 0.90, 0.2: 0.93, 0.3: 0.91, 0.7: 0.99}, 0.7),
        *tried("adam", 64, {0.5: 0.95, 0.2: 0.92, 0.3: 0.94, 0.7: 0.96}, 0.7),
        *tried("sgd", 512, {0.5: 0.90, 0.2: 0.99, 0.3: 0.91, 0.7: 0.92}, 0.2),
    ]


def test_trials_take_no_part_in_what_was_measured(records: list[CellRecord]) -> None:
    frame = all_runs(records)
    assert set(leaderboard(frame).frame["seeds"]) == {3}
    assert set(leaderboard(frame).frame["test_accuracy"]) == {0.95}
    assert set(accuracy_by_batch(frame).frame["n"]) == {3}
    assert set(optimizer_ranking(frame).frame["n"]) == {3}
    assert "99.9" not in " ".join(verdict_sentences(frame))


def test_an_optimizer_is_one_series_whatever_rate_was_picked_for_each_batch(records: list[CellRecord]) -> None:
    table = accuracy_by_batch(all_runs(records)).frame
    assert sorted(table[table["series"].str.contains("sgd")]["batch_size"]) == [64, 512]
    assert table["series"].nunique() == 2
    assert set(table["optimizer_label"]) == {"sgd(lr=tuned)", "adam(lr=tuned)"}


def test_a_default_rate_as_given_is_another_series_than_a_tuned_one() -> None:
    given = make_record(make_cell(optimizer=Component(name="adam")), accuracies=(0.5, 0.9))
    tuned = make_record(
        make_cell(optimizer=Component(name="adam"), batch_size=64), checks={"tuning": "tuned over 2 trials"}
    )
    assert accuracy_by_batch(all_runs([given, tuned])).frame["series"].nunique() == 2


def test_the_best_optimizer_is_shown_after_one_three_and_all_trials(records: list[CellRecord]) -> None:
    found = best_after_trials(all_runs(records))
    table = found.frame[(found.frame["batch_size"] == 64) & found.frame["best"]]
    shown = list(zip(table["trials"], table["optimizer_label"], table["lr"], strict=True))
    assert shown == [(1, "adam", 0.5), (3, "adam", 0.5), (4, "sgd", 0.7)]
    assert "after 1 trial adam (95.0 %)" in found.notes[0]
    assert "after 4 trials sgd (99.0 %)" in found.notes[0]


def test_a_trial_that_diverged_is_spent_and_counts_as_nothing(records: list[CellRecord]) -> None:
    cell = make_cell(optimizer=Component(name="sgd", options={"lr": 9.0}), batch_size=64, seed=1000)
    diverged = make_record(cell, status="diverged", checks={"tuning": "trial 5"})
    table = best_after_trials(all_runs([*records, diverged])).frame
    last = table[(table["optimizer_label"] == "sgd") & (table["batch_size"] == 64) & (table["trials"] == 5)]
    assert last["lr"].tolist() == [0.7]


def test_the_page_shows_trials_apart(tmp_path: Path, records: list[CellRecord]) -> None:
    page = rendered(tmp_path / "fair", records)
    (section,) = [element for element in page.all("section") if element.attributes["id"] == "optimizers"]
    assert "after 3 trials" in section.text
    assert "99.9" not in section.text
