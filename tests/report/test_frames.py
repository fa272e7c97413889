"""Records to tables."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from synthetic import HOSTILE_NAMES, all_runs, make_cell, make_environment, make_grid_records, make_record

from mnistbench.cell import Component, Training
from mnistbench.errors import UserError
from mnistbench.report.frame import CSV_COLUMNS, epochs_frame, merge, write_csv
from mnistbench.results.records import CellRecord


def test_one_row_a_record_whatever_became_of_it() -> None:
    records = make_grid_records(failing=0.5, hostile=True)
    frame = all_runs(records)
    assert list(frame["record_id"]) == [record.record_id for record in records]
    assert set(frame["status"]) == {record.status for record in records}
    assert len(set(frame["status"])) == 7


def test_plain_json_gives_the_same_frame_as_records() -> None:
    records = make_grid_records(failing=0.3)
    texts = [json.dumps(record.to_json()) for record in records]
    pd.testing.assert_frame_equal(all_runs(json.loads(text) for text in texts), all_runs(records))
    pd.testing.assert_frame_equal(epochs_frame(json.loads(text) for text in texts), epochs_frame(records))


def test_synthetic_records_are_readable_as_real_ones() -> None:
    for record in make_grid_records(failing=0.3, hostile=True, seeds=1):
        assert CellRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_no_records_give_the_same_columns() -> None:
    assert list(all_runs([])) == list(all_runs([make_record()]))
    assert list(epochs_frame([])) == list(epochs_frame([make_record()]))


def test_throughput_is_all_examples_over_all_training_seconds() -> None:
    """Rule 7: not a mean of rates, and evaluation is on no training clock."""
    record = make_record(examples_per_second=20_000)
    slow = record.epochs[1].__class__(**{**vars(record.epochs[1]), "train_seconds": 9.0})
    frame = all_runs([record.with_changes(epochs=[record.epochs[0], slow])])
    assert frame["examples_per_second"][0] == pytest.approx(120_000 / (3.0 + 9.0))
    assert frame["train_seconds"][0] == pytest.approx(12.0)


def test_time_to_target_is_the_clock_at_the_first_evaluation_that_passes() -> None:
    """Rule 9: no interpolation; a later fall below the target changes nothing."""
    cell = make_cell(training=Training(epochs=4, target_accuracy=0.97))
    record = make_record(cell, examples_per_second=20_000, accuracies=(0.95, 0.97, 0.96, 0.99), startup_seconds=2.0)
    row = all_runs([record]).iloc[0]
    assert row["seconds_to_target"] == pytest.approx(6.0)
    assert row["cold_seconds_to_target"] == pytest.approx(2.0 + 2 * (3.0 + 0.2))
    assert row["epochs_to_target"] == 2
    assert row["reached"]


def test_an_unreached_target_is_no_number() -> None:
    row = all_runs([make_record(accuracies=(0.9, 0.95))]).iloc[0]
    assert row["reached"] is not pd.NA and not row["reached"]
    assert math.isnan(row["seconds_to_target"])


def test_without_a_target_nothing_is_reached_or_missed() -> None:
    row = all_runs([make_record(make_cell(training=Training(epochs=2)))]).iloc[0]
    assert row["reached"] is pd.NA


def test_a_failed_cell_neither_reached_nor_missed_its_target() -> None:
    assert all_runs([make_record(status="skipped")])["reached"][0] is pd.NA


def test_seeds_and_twins_share_settings() -> None:
    frame = all_runs(make_record(make_cell(seed=seed, repeat=repeat)) for seed in (0, 1) for repeat in (0, 1))
    assert frame["settings"].nunique() == 1
    assert frame["cell_id"].nunique() == 4
    assert frame["settings"][0] == make_cell().without_seed()


@pytest.mark.parametrize(
    ("column", "changes"),
    [
        ("any_batch", {"batch_size": 64}),
        ("any_device", {"device": "cuda"}),
        ("any_execution", {"execution": "plain"}),
        ("any_optimizer", {"optimizer": "adam", "schedule": "cosine"}),
        ("fp32_settings", {"execution": Component(name="fast", options={"precision": "bf16"})}),
    ],
)
def test_a_series_joins_cells_that_differ_in_one_axis_only(column: str, changes: dict[str, object]) -> None:
    same, other = make_cell(**changes), make_cell(**changes, architecture="lenet5")
    frame = all_runs([make_record(make_cell()), make_record(same), make_record(other)])
    assert frame[column][0] == frame[column][1] != frame[column][2]
    assert frame["settings"].nunique() == 3


def test_the_default_learning_rate_is_shown_though_cells_do_not_store_it() -> None:
    frame = all_runs([make_record(make_cell(optimizer="adam")), make_record(make_cell(optimizer="mine:Sgd"))])
    assert frame["lr"][0] == 0.001
    assert math.isnan(frame["lr"][1])


def test_machines_builds_and_protocols_are_groups_of_their_own() -> None:
    records = [
        make_record(environment=make_environment("one")),
        make_record(environment=make_environment("two")),
        make_record(environment=make_environment("one", torch="2.16.0")),
        make_record(environment=make_environment("one"), protocol=2),
        make_record(environment=make_environment("one")),
    ]
    groups = all_runs(records)["group"]
    assert groups.nunique() == 4
    assert groups[0] == groups[4]


def test_peak_share_is_of_the_gemm_of_device_and_precision() -> None:
    bf16 = make_cell(execution=Component(name="fast", options={"precision": "bf16"}))
    frame = all_runs([make_record(examples_per_second=33_000), make_record(bf16, examples_per_second=33_000)])
    assert frame["peak_share"][0] == pytest.approx(33_000 * 2.5e6 / 3.3e11)
    assert frame["peak_share"][1] == pytest.approx(33_000 * 2.5e6 / 2.2e12)


def test_short_and_shared_are_no_noise() -> None:
    frame = all_runs([make_record(flags=["short", "shared"]), make_record(flags=["steal"])])
    assert list(frame["noisy"]) == [False, True]
    assert list(frame["short"]) == [True, False]


def test_csv_has_the_promised_columns_and_keeps_hostile_names(tmp_path: Path) -> None:
    frame = all_runs(make_record(make_cell(architecture=name)) for name in HOSTILE_NAMES)
    write_csv(frame, tmp_path / "results.csv")
    read = pd.read_csv(tmp_path / "results.csv")
    assert list(read) == CSV_COLUMNS
    assert list(read["architecture"]) == HOSTILE_NAMES
    promised = (
        "cell_id status dataset architecture optimizer schedule lr batch_size device seed repeat execution epochs "
        "examples_per_second train_seconds eval_seconds warmup_seconds wall_seconds seconds_to_target train_loss "
        "train_accuracy test_loss test_accuracy parameters machine_id flags error"
    )
    assert set(promised.split()) <= set(read)
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_epochs_csv_holds_every_epoch_with_the_training_clock(tmp_path: Path) -> None:
    frame = epochs_frame([make_record(examples_per_second=20_000)])
    write_csv(frame, tmp_path / "epochs.csv")
    read = pd.read_csv(tmp_path / "epochs.csv")
    assert list(read["epoch"]) == [1, 2]
    assert list(read["seconds"]) == pytest.approx([3.0, 6.0])


def test_merge_keeps_the_same_cell_of_two_machines_apart() -> None:
    one = make_grid_records(machines=["one"], seeds=1)
    two = make_grid_records(machines=["two"], seeds=1)
    merged = merge({"one": one, "two": two})
    frame = all_runs(merged)
    assert len(frame) == len(one) + len(two)
    assert frame["cell_id"].nunique() == len(one)
    assert frame["group"].nunique() == 2


def test_merge_counts_a_record_that_lies_in_two_folders_once() -> None:
    records = make_grid_records(seeds=1)
    copies = [CellRecord.from_json(record.to_json()) for record in records]
    assert merge({"a": records, "b": copies}) == records


def test_merge_refuses_two_records_of_one_id() -> None:
    record = make_record()
    edited = record.with_changes(status="failed")
    with pytest.raises(UserError, match=f"{record.record_id} in laptop is not the one in server"):
        merge({"server": [record], "laptop": [edited]})


def test_analysis_needs_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys, mnistbench.report.frame, synthetic\n"
        "mnistbench.report.frame.results_frame([synthetic.make_record()])\n"
        "assert not {'torch', 'mlflow'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
