"""What counts as a repeat: each seed of a setting once, up to date, and different from the others."""

from __future__ import annotations

import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_pages import Page, study_of, write_folder
from rich.console import Console
from synthetic import START, make_cell, make_environment, make_grid_records, make_record

from mnistbench.cell import Cell, Component, Training
from mnistbench.cli.outcome import print_best
from mnistbench.grid.grid import Grid
from mnistbench.grid.tune import pick
from mnistbench.report import render
from mnistbench.report.frame import KINDS, epochs_frame, results_frame
from mnistbench.report.inventory import banners
from mnistbench.report.page import read_study
from mnistbench.report.repeats import counted
from mnistbench.report.sections.classes import confusion
from mnistbench.report.sections.first import leaderboard
from mnistbench.report.sections.large_batches import accuracy_by_batch
from mnistbench.report.sections.optimizers import best_after_trials, optimizer_ranking
from mnistbench.report.sections.time import time_curves
from mnistbench.report.summary import summary_markdown, verdict_sentences
from mnistbench.report.verdicts import pairwise
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.merging import merge_folders
from mnistbench.results.records import CellRecord, Model
from mnistbench.run.status import status_lines

FREE = Training(epochs=2)
"""Without a target, so that accuracy is what is ranked."""
FAILED = "failed: gradient 1e-1"


def folder_of(path: Path, records: list[CellRecord], cells: list[Cell] | None = None) -> ResultsFolder:
    folder = ResultsFolder(write_folder(path, records))
    folder.write_cells(cells or [record.cell for record in records])
    return folder


def in_session(day: int, seeds: range, **changes: Any) -> list[CellRecord]:
    return [
        make_record(
            make_cell(seed=seed, training=FREE),
            accuracies=(0.9, 0.95 + 0.01 * seed),
            started_at=START + timedelta(days=day),
            **changes,
        )
        for seed in seeds
    ]


def test_two_seeds_in_five_sessions_are_two_repeats(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / f"day{day}", in_session(day, range(2))) for day in range(5)]
    study = read_study(folders)
    assert leaderboard(study.runs).frame["seeds"].tolist() == [2]
    assert "median of 2 seeds" in " ".join(verdict_sentences(study.runs))
    frame = results_frame([record for day in range(5) for record in in_session(day, range(2))])
    assert len(frame) == 10
    assert leaderboard(frame).frame["seeds"].tolist() == [2]
    assert accuracy_by_batch(frame).frame["n"].tolist() == [2]
    assert counted(frame)["started_at"].nunique() == 1


def test_ten_runs_of_two_seeds_settle_no_outcome() -> None:
    """G4 wants ten seeds a side, and a seed run five times is one."""
    bf16 = Component(name="fast", options={"precision": "bf16"})
    records = [
        make_record(
            make_cell(seed=seed, execution=execution),
            started_at=START + timedelta(days=day),
            equivalence="outcome untested" if execution is bf16 else "passed",
        )
        for execution in (Component(name="fast"), bf16)
        for seed in range(2)
        for day in range(5)
    ]
    assert pairwise(results_frame(records)).frame["reason"].tolist() == ["equivalence: outcome untested"]


MACHINES = ("one", "two")


@st.composite
def sessions(draw: st.DrawFn) -> list[list[CellRecord]]:
    """Folders of the same few cells: other seeds, machines, builds, statuses; some records in several of them."""
    folders = []
    for number in range(draw(st.integers(1, 3))):
        machine, torch = draw(st.sampled_from(MACHINES)), draw(st.sampled_from(["2.15.0", "2.16.0"]))
        records = []
        for seed in draw(st.sets(st.integers(0, 3), max_size=3)):
            status = draw(st.sampled_from(["finished", "finished", "diverged", "failed", "skipped"]))
            lost = status in ("failed", "skipped") and draw(st.booleans())
            record = make_record(
                make_cell(seed=seed, optimizer=draw(st.sampled_from(["sgd", "adam"]))),
                status=status,
                accuracies=(0.95, draw(st.sampled_from([0.96, 0.98]))),
                started_at=START + timedelta(days=draw(st.integers(0, 2)), hours=number),
                environment=make_environment(machine, torch=torch),
                equivalence=draw(st.sampled_from(["passed", FAILED])),
                training_revision=draw(st.sampled_from([1, 2])),
            )
            records.append(record.with_changes(environment=None) if lost else record)
        if folders and folders[0] and draw(st.booleans()):
            records = [*(item for item in records if item.cell_id != folders[0][0].cell_id), folders[0][0]]
        folders.append(records)
    return folders


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions())
def test_a_report_of_folders_and_of_their_merge_agree(folders: list[list[CellRecord]]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        asked = [make_cell(seed=seed, optimizer="sgd") for seed in range(2)]
        sources = [
            folder_of(Path(scratch, str(number)), records, [*asked, *(record.cell for record in records)])
            for number, records in enumerate(folders)
        ]
        merged = ResultsFolder(Path(scratch, "merged"))
        merge_folders(sources, merged)
        apart, together = read_study(sources), read_study([merged])
        assert {record.record_id for record in apart.records} == {record.record_id for record in together.records}
        told = [
            sorted(summary_markdown(study_of(study.runs.sort_values("record_id"), "x", study.asked)).split("\n"))
            for study in (apart, together)
        ]
        assert told[0] == told[1]


@pytest.mark.slow
def test_two_finished_shards_are_one_finished_grid(tmp_path: Path) -> None:
    """Each shard's folder names all cells of the grid, and holds half of their records."""
    records = make_grid_records(batch_sizes=[64], twins=0)
    cells = [record.cell for record in records]
    halves = [folder_of(tmp_path / name, records[start::2], cells) for name, start in (("first", 0), ("second", 1))]
    render(halves, tmp_path / "both.html")
    assert "12 of 12 cells answered." in (tmp_path / "both-summary.md").read_text(encoding="utf-8")


def test_cells_that_nobody_ran_stay_missing_in_a_merged_folder(tmp_path: Path) -> None:
    records = make_grid_records(batch_sizes=[64], twins=0)
    cells = [record.cell for record in records]
    parts = [folder_of(tmp_path / name, records[start:5:2], cells) for name, start in (("first", 0), ("second", 1))]
    merge_folders(parts, ResultsFolder(tmp_path / "both"))
    for folders in (parts, [ResultsFolder(tmp_path / "both")]):
        assert read_study(folders).asked == 12


def test_a_cell_skipped_on_one_machine_and_run_on_another_is_one_cell(tmp_path: Path) -> None:
    done = make_record()
    skipped = make_record(status="skipped").with_changes(environment=None)
    study = read_study([folder_of(tmp_path / "cpu", [skipped]), folder_of(tmp_path / "gpu", [done])])
    assert [record.record_id for record in study.records] == [done.record_id]


def test_a_frame_holds_measured_runs_unless_others_are_asked_for() -> None:
    records = [
        make_record(make_cell(seed=0)),
        make_record(make_cell(seed=0, repeat=1)),
        make_record(make_cell(seed=1000), checks={"tuning": "trial 1"}),
    ]
    assert results_frame(records)["kind"].tolist() == ["measured"]
    assert results_frame(records, kinds=KINDS)["kind"].tolist() == ["measured", "twin", "trial"]
    assert results_frame(records, kinds=["trial"])["seed"].tolist() == [1000]


def with_weights(record: CellRecord, weights: str) -> CellRecord:
    return record.with_changes(model=Model(parameters=1, weights_sha256=weights))


def test_seeds_with_the_same_weights_are_one_run_and_are_said_to_be(tmp_path: Path) -> None:
    records = [with_weights(record, "same" if record.cell.seed < 3 else "other") for record in in_session(0, range(4))]
    frame = results_frame(records)
    assert leaderboard(frame).frame["seeds"].tolist() == [2]
    said = [text for text in banners(frame) if "These seeds are one run" in text]
    assert len(said) == 1
    assert "seeds 0, 1, 2" in said[0]
    folder = folder_of(tmp_path / "seeded", records)
    console = Console(record=True, width=200, force_terminal=True)
    print_best(folder, console)
    assert "seeds 0, 1, 2 trained to the same weights. These seeds are one run" in console.export_text()


def test_seeds_that_diverged_are_not_called_one_run() -> None:
    records = [with_weights(record, "nan") for record in in_session(0, range(3), status="diverged")]
    assert leaderboard(results_frame(records)).frame["seeds"].tolist() == [3]


def rivals(**changes: Any) -> list[CellRecord]:
    """Ten seeds of two optimizers, the better one of which has the changes."""
    return [
        make_record(
            make_cell(seed=seed, optimizer=optimizer, training=FREE),
            accuracies=(0.9, accuracy + 1e-4 * (seed % 3)),
            **(changes if optimizer == "adam" else {}),
        )
        for optimizer, accuracy in (("adam", 0.99), ("sgd", 0.96))
        for seed in range(10)
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"equivalence": FAILED}, f"equivalence: {FAILED}"),
        ({"training_revision": 1, "equivalence": FAILED}, "outdated: a failed equivalence gate"),
    ],
)
def test_what_may_not_be_ranked_is_shown_last_and_is_best_at_nothing(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    records = rivals(**changes)
    frame = results_frame(records)
    board = leaderboard(frame).frame
    assert board["optimizer_label"].tolist() == ["sgd", "adam"]
    assert board["rank"].tolist()[0] == 1
    assert board["rank"].isna().tolist() == [False, True]
    assert board["unranked"].tolist() == ["", reason]
    ranking = optimizer_ranking(frame).frame
    assert ranking["optimizer_label"].tolist() == ["sgd", "adam"]
    assert ranking["rank"].isna().tolist() == [False, True]
    assert pairwise(frame, "test_accuracy").frame["verdict"].tolist() == [""]
    assert "sgd" in confusion(records, frame).notes[0]
    curves = time_curves(frame, epochs_frame(records)).frame
    assert set(curves[curves["pareto"]]["optimizer_label"]) == {"sgd"}
    said = " ".join(verdict_sentences(frame))
    assert "adam is most accurate" not in said
    assert f"Shown and ranked nowhere, in accuracy neither: adam ({reason})." in said
    assert any("ranked nowhere" in text for text in banners(frame))
    console = Console(record=True, width=200, force_terminal=True)
    print_best(folder_of(tmp_path / "gate", records), console)
    assert f"(ranked nowhere: {reason})" in console.export_text()


@pytest.mark.slow
def test_outdated_runs_are_pooled_with_nothing_newer(tmp_path: Path) -> None:
    old = in_session(0, range(3), training_revision=1, equivalence=FAILED)
    new = in_session(1, range(2))
    frame = results_frame([*old, *new])
    assert frame["outdated"].notna().tolist() == [True] * 3 + [False] * 2
    board = leaderboard(frame).frame
    assert board["seeds"].tolist() == [2]
    assert board["unranked"].tolist() == [""]
    folder = folder_of(tmp_path / "old", old)
    assert any("3 of them outdated" in line for line in status_lines(folder))
    page = Page.of(render([folder], tmp_path / "old" / "report.html").read_text(encoding="utf-8"))
    assert "3 records outdated" in page.all("ul", "banners")[0].text
    assert set(pd.read_csv(folder.path / "results.csv")["outdated"]) == {"a failed equivalence gate"}


def test_plain_json_says_as_well_what_is_outdated() -> None:
    record = make_record(make_cell(architecture="resnet"), training_revision=1)
    plain = json.loads(json.dumps(record.to_json()))
    assert results_frame([plain])["outdated"].tolist() == results_frame([record])["outdated"].tolist() == ["BatchNorm"]


def test_diverged_seeds_are_marked_where_the_best_are_shown(tmp_path: Path) -> None:
    records = in_session(0, range(2), status="diverged")
    assert leaderboard(results_frame(records)).frame["diverged"].tolist() == [2]
    console = Console(record=True, width=200, force_terminal=True)
    print_best(folder_of(tmp_path / "diverged", records), console)
    assert "(2 of 2 seeds diverged)" in console.export_text()
    assert "(2 of 2 seeds diverged)" in summary_markdown(study_of(results_frame(records)))


TUNED = """
name: fair
dataset: digits
architectures: [logistic]
optimizers: [sgd]
batch_sizes: [256]
devices: [cpu]
seeds: [0]
twins: 0
training: {epochs: 2}
speed: off
tune: {learning_rates: {sgd: [0.1, 1.0]}, validation_examples: 300}
"""


@pytest.mark.parametrize("lost", ["status", "losses"])
def test_a_trial_that_diverged_counts_as_nothing_right(lost: str) -> None:
    """Also where only its losses say so: 8.5 % of the validation data may be right by chance."""
    tried = Grid.from_text(TUNED)
    assert tried.tune is not None
    records = []
    for lr in tried.tune.rates("sgd"):
        cell = make_cell(
            architecture="logistic",
            optimizer=Component(name="sgd", options={"lr": lr}),
            seed=1000,
            training=Training(epochs=2, validation_examples=300),
        )
        record = make_record(cell, checks={"tuning": tried.tune.role(cell)})
        bad = lr == 1.0
        epoch = {"validation_accuracy": 0.085 if bad else 0.05, "test_loss": None if bad else 1.0}
        epochs = [type(item)(**{**vars(item), **epoch}) for item in record.epochs]
        status = "diverged" if bad and lost == "status" else "finished"
        records.append(record.with_changes(epochs=epochs, status=status))
    assert [picked.lr for picked in pick(tried, records)] == [0.1]
    table = best_after_trials(results_frame(records, kinds=KINDS)).frame
    whole = table[table["trials"] == 2].iloc[0]
    assert (whole["lr"], whole["validation_accuracy"], whole["diverged"]) == (0.1, 0.05, 1)
