"""Which differences get a verdict, and which are refused one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from synthetic import HOSTILE_NAMES, all_runs, make_cell, make_environment, make_grid_records, make_record

from mnistbench.cell import Component, Training
from mnistbench.report.labels import labels
from mnistbench.report.verdicts import noise, pairwise
from mnistbench.results.records import CellRecord

WOBBLE = (1.0, 1.004, 0.997, 1.002, 0.999, 1.003, 0.998, 1.001, 1.0, 0.996, 1.002, 1.0)


def runs(rate: float, seeds: int, *, cell: dict[str, Any] | None = None, **changes: Any) -> list[CellRecord]:
    """The same settings once a seed, at nearly the same speed."""
    return [
        make_record(
            make_cell(seed=seed, **(cell or {})), examples_per_second=rate * WOBBLE[seed % len(WOBBLE)], **changes
        )
        for seed in range(seeds)
    ]


def only_pair(records: Sequence[CellRecord], metric: Any = "examples_per_second") -> dict[Any, Any]:
    """The one pair that the records make."""
    rows = pairwise(all_runs(records), metric).frame.to_dict("records")
    assert len(rows) == 1
    return rows[0]


def test_a_pair_names_both_sides_the_ratio_and_its_interval() -> None:
    pair = only_pair([*runs(10_000, 5), *runs(20_000, 5, cell={"architecture": "lenet5"})])
    assert pair["label_a"] == "lenet5 · sgd(lr=0.1) · batch 512"
    assert pair["ratio"] == pytest.approx(2.0)
    assert 1.9 < pair["low"] < 2.0 < pair["high"] < 2.1
    assert (pair["verdict"], pair["reason"], pair["n"], pair["method"]) == ("faster", "", 5, "t")


@pytest.mark.parametrize(("seeds", "reason"), [(1, "one run"), (2, "two runs")])
def test_one_or_two_runs_have_no_verdict_and_no_interval(seeds: int, reason: str) -> None:
    pair = only_pair([*runs(10_000, seeds), *runs(20_000, seeds, cell={"batch_size": 64})])
    assert pair["reason"] == reason
    assert pair["verdict"] == ""
    assert math.isnan(pair["low"])
    assert pair["ratio"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"flags": ["short"]}, "short: timed under 1 s or 50 steps"),
        ({"execution_resolved": {"isolation": "shared"}}, "ran beside other cells"),
        ({"equivalence": None}, "equivalence: not checked"),
        ({"equivalence": "failed: gradient"}, "equivalence: failed: gradient"),
        ({"equivalence": "outcome untested"}, "equivalence: outcome untested"),
    ],
)
def test_speed_is_ranked_only_alone_long_enough_and_past_the_gate(changes: dict[str, Any], reason: str) -> None:
    """Rules 8 and 14: each obstacle alone takes the verdict away."""
    records = [*runs(10_000, 5), *runs(20_000, 5, cell={"batch_size": 64})]
    assert only_pair(records)["verdict"] == "faster"
    records[-1] = runs(20_000, 5, cell={"batch_size": 64}, **changes)[-1]
    pair = only_pair(records)
    assert (pair["verdict"], pair["reason"]) == ("", reason)


@pytest.mark.parametrize("outcome", ["reference", "equivalent up to masks"])
def test_the_reference_and_dropout_nets_pass_the_gate(outcome: str) -> None:
    records = [*runs(10_000, 5), *runs(20_000, 5, cell={"batch_size": 64}, equivalence=outcome)]
    assert only_pair(records)["verdict"] == "faster"


def test_machines_builds_and_protocols_are_never_compared() -> None:
    """Rules 14 and 22."""
    other = {"batch_size": 64}
    for changes in (
        {"environment": make_environment("other box")},
        {"environment": make_environment(torch="2.16.0")},
        {"protocol": 2},
    ):
        exhibit = pairwise(all_runs([*runs(10_000, 5), *runs(20_000, 5, cell=other, **changes)]))
        assert not exhibit
        assert exhibit.reason


def test_only_common_rounds_are_paired() -> None:
    pair = only_pair([*runs(10_000, 5), *runs(20_000, 3, cell={"batch_size": 64})])
    assert pair["n"] == 3


def test_time_to_target_needs_five_seeds() -> None:
    """Rule 18."""
    for seeds, verdict, reason in ((4, "", "needs 5 seeds, 4 ran"), (5, "faster", "")):
        records = [*runs(10_000, seeds), *runs(20_000, seeds, cell={"batch_size": 64})]
        pair = only_pair(records, "seconds_to_target")
        assert (pair["verdict"], pair["reason"]) == (verdict, reason)
        assert pair["ratio"] == pytest.approx(2.0)


def test_unreached_seeds_make_it_a_rank_test() -> None:
    """Rules 11 and 18: beyond the last evaluation, tied last, and never a mean."""
    never = runs(20_000, 6, cell={"batch_size": 64}, accuracies=(0.9, 0.95))
    pair = only_pair([*runs(10_000, 6), *never], "seconds_to_target")
    assert (pair["method"], pair["verdict"]) == ("rank", "faster")
    assert pair["label_a"] == "mlp · sgd(lr=0.1) · batch 512"
    assert math.isnan(pair["ratio"])


def test_one_unreached_seed_among_overlapping_times_proves_nothing() -> None:
    mixed = [
        make_record(make_cell(seed=seed, batch_size=64), examples_per_second=rate, accuracies=(0.9, accuracy))
        for seed, (rate, accuracy) in enumerate(
            [(13e3, 0.98), (7e3, 0.98), (12e3, 0.98), (7e3, 0.98), (7e3, 0.98), (7e3, 0.9)]
        )
    ]
    pair = only_pair([*runs(10_000, 6), *mixed], "seconds_to_target")
    assert (pair["method"], pair["verdict"]) == ("rank", "unresolved")
    assert pair["ratio"] == pytest.approx(10 / 7, rel=0.01)


def test_two_cells_that_never_reach_the_target_are_unresolved() -> None:
    never = [
        record
        for batch_size in (64, 512)
        for record in runs(20_000, 6, cell={"batch_size": batch_size}, accuracies=(0.9, 0.95))
    ]
    assert only_pair(never, "seconds_to_target")["verdict"] == "unresolved"


def test_accuracy_needs_ten_seeds_and_is_better_or_worse() -> None:
    for seeds, verdict in ((9, ""), (10, "better")):
        worse = runs(20_000, seeds, cell={"batch_size": 64}, accuracies=(0.9, 0.95))
        pair = only_pair([*runs(10_000, seeds), *worse], "test_accuracy")
        assert pair["verdict"] == verdict
        assert pair["ratio"] == pytest.approx(0.025)


def test_twins_raise_the_floor() -> None:
    """Rule 16: where the same cell twice differs by 20 %, 10 % is no difference, and the floor beside it says so."""
    records = [*runs(10_000, 5), *runs(11_000, 5, cell={"batch_size": 64})]
    assert only_pair(records)["verdict"] == "faster"
    noisy = [
        make_record(make_cell(seed=seed, repeat=1), examples_per_second=10_000 * (1.2 if seed % 2 else 0.8))
        for seed in range(5)
    ]
    pair = only_pair([*records, *noisy])
    assert pair["floor"] > 0.1
    assert pair["verdict"] == "same"


def test_many_settings_are_compared_among_the_best_only() -> None:
    frame = all_runs(
        record for number in range(70) for record in runs(10_000 + 100 * number, 3, cell={"batch_size": 64 + number})
    )
    exhibit = pairwise(frame)
    assert len(exhibit.frame) == 60 * 59 / 2
    assert "60 best of 70" in exhibit.notes[0]


def test_reduced_precision_is_settled_by_ten_seeds_a_side() -> None:
    """G4: the 90 % interval of the accuracy difference inside ±0.3 points."""
    bf16 = {"execution": Component(name="fast", options={"precision": "bf16"})}
    for seeds, accuracies, reason in (
        (9, (0.96, 0.975), "equivalence: outcome untested"),
        (10, (0.96, 0.975), ""),
        (10, (0.96, 0.97), "equivalence: failed: outcome differs by over 0.3 points"),
    ):
        reduced = runs(20_000, seeds, cell=bf16, equivalence="outcome untested", accuracies=accuracies)
        wobbling = [
            record.with_changes(
                epochs=[
                    epoch.__class__(**{**vars(epoch), "test_accuracy": epoch.test_accuracy + 1e-4 * number})
                    for epoch in record.epochs
                ]
            )
            for number, record in enumerate(reduced)
        ]
        assert only_pair([*runs(10_000, seeds), *wobbling])["reason"] == reason


def test_noise_is_told_by_device() -> None:
    frame = all_runs(
        [
            *make_grid_records(devices=("cpu", "cuda"), seeds=5, noise_sd=0.01),
            make_record(make_cell(optimizer="sgd", seed=99), flags=["steal"]),
            make_record(make_cell(optimizer="sgd", seed=98), flags=["short"]),
        ]
    )
    rows = noise(frame).frame.set_index("device")
    assert list(rows.index) == ["cpu", "cuda"]
    assert rows.loc["cpu", "pooled_sd"] == pytest.approx(0.01, rel=0.5)
    assert rows.loc["cpu", "twin_pairs"] == 5
    assert (rows.loc["cpu", "noisy"], rows.loc["cpu", "short"]) == (1, 1)
    assert "steal 1" in rows.loc["cpu", "flags"]
    assert rows.loc["cpu", "quiet"] == rows.loc["cpu", "runs"] - 2


def test_nothing_finished_is_said() -> None:
    frame = all_runs([make_record(status="failed")])
    for exhibit in (pairwise(frame), noise(frame), pairwise(all_runs([]))):
        assert exhibit.frame.empty
        assert exhibit.reason.endswith(".")


def test_labels_leave_out_what_does_not_differ() -> None:
    frame = all_runs([make_record(make_cell()), make_record(make_cell(device="cuda"))])
    assert sorted(labels(frame).values()) == [
        "mlp · sgd(lr=0.1) · batch 512 · cpu",
        "mlp · sgd(lr=0.1) · batch 512 · cuda",
    ]


def test_labels_are_never_shared() -> None:
    """Numbers that print alike and names that hold each other's separators."""
    cells = [make_cell(optimizer=Component(name="sgd", options={"lr": lr})) for lr in (0.1234567, 0.1234568)]
    cells += [make_cell(architecture=name) for name in HOSTILE_NAMES]
    cells += [make_cell(training=Training(epochs=epochs)) for epochs in (3, 4)]
    frame = all_runs(make_record(cell) for cell in cells)
    named = pd.Series(labels(frame))
    assert named.is_unique
    assert len(named) == len(cells)
