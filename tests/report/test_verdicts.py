"""Which differences get a verdict, and which are refused one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from speed_sessions import make_blocks, make_session
from synthetic import HOSTILE_NAMES, all_runs, make_cell, make_environment, make_grid_records, make_record

from mnistbench.cell import Component, Training
from mnistbench.report.blocks import blocks_frame
from mnistbench.report.labels import labels
from mnistbench.report.sections.noise import disturbances as noise
from mnistbench.report.summary import verdict_sentences
from mnistbench.report.verdicts import pairwise
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


def blocks_like(records: Sequence[CellRecord], **options: Any) -> pd.DataFrame:
    """Sixteen cycles of the records' settings at the speed of their first seed."""
    rates = {
        record.cell: record.epochs[0].examples / record.epochs[0].train_seconds
        for record in records
        if record.epochs and record.cell.seed == 0 and record.cell.repeat == 0
    }
    return make_blocks(rates, **options)


def only_pair(records: Sequence[CellRecord], metric: Any = "examples_per_second", **options: Any) -> dict[Any, Any]:
    """The one pair that the records make, with blocks at their speed."""
    rows = pairwise(all_runs(records), metric, blocks_like(records, **options)).frame.to_dict("records")
    assert len(rows) == 1
    return rows[0]


def test_a_pair_names_both_sides_the_ratio_and_its_interval() -> None:
    pair = only_pair([*runs(10_000, 1), *runs(20_000, 1, cell={"architecture": "lenet5"})])
    assert pair["label_a"] == "lenet5"
    assert pair["ratio"] == pytest.approx(2.0, rel=0.1)
    assert 1.8 < pair["low"] < 2.0 < pair["high"] < 2.2
    assert (pair["verdict"], pair["reason"], pair["n"], pair["method"]) == ("faster", "", 16, "t")
    assert pair["level"] == 0.04


@pytest.mark.parametrize("seeds", [1, 3, 10])
def test_speed_is_told_from_one_seed_on_and_only_by_blocks(seeds: int) -> None:
    """Rules 15, 18 and 22: runs of seeds are values and ranges, and no repeats of speed."""
    records = [*runs(10_000, seeds), *runs(20_000, seeds, cell={"batch_size": 64})]
    assert only_pair(records)["verdict"] == "faster"
    pair = pairwise(all_runs(records)).frame.to_dict("records")[0]
    assert (pair["verdict"], pair["reason"]) == ("", "no blocks of speed")
    assert pair["ratio"] == pytest.approx(2.0)
    assert math.isnan(pair["low"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"execution_resolved": {"isolation": "shared"}}, "ran beside other cells"),
        ({"equivalence": "failed: gradient"}, "equivalence: failed: gradient"),
        ({"equivalence": "outcome untested"}, "equivalence: outcome untested"),
    ],
)
def test_speed_is_ranked_only_alone_and_past_the_gate(changes: dict[str, Any], reason: str) -> None:
    """Rule 14: each obstacle alone takes the verdict away."""
    records = [*runs(10_000, 5), *runs(20_000, 5, cell={"batch_size": 64})]
    assert only_pair(records)["verdict"] == "faster"
    records[-1] = runs(20_000, 5, cell={"batch_size": 64}, **changes)[-1]
    pair = only_pair(records)
    assert (pair["verdict"], pair["reason"]) == ("", reason)
    assert math.isnan(pair["ratio"]) is ("failed" in reason), "no ratio is printed where the gate failed"


@pytest.mark.parametrize(
    ("said", "reason"),
    [(None, "equivalence: not checked"), ("failed: loss", "equivalence: failed: loss"), ("passed", "")],
)
def test_the_gate_may_be_known_from_the_blocks_alone(said: str | None, reason: str) -> None:
    records = [*runs(10_000, 1, equivalence=None), *runs(20_000, 1, equivalence=None, cell={"batch_size": 64})]
    assert only_pair(records, equivalence=said)["reason"] == reason


def test_the_gate_of_blocks_is_that_of_their_machine_and_any_failure_there_counts() -> None:
    """Two machines: one passes; the other passes in its first session and fails in the second."""
    cells = {make_cell(batch_size=size): 1e4 for size in (64, 512)}
    quiet, other = make_environment(cpu="one processor"), make_environment("other box", cpu="another")
    sessions = [
        make_session(cells, environment=where, equivalence=said, seed=number)
        for number, (where, said) in enumerate([(quiet, "passed"), (other, "passed"), (other, "failed: loss")])
    ]
    frame = all_runs(
        make_record(cell, equivalence=None, environment=where) for cell in cells for where in (quiet, other)
    )
    rows = pairwise(frame, "examples_per_second", blocks_frame(sessions)).frame
    reasons = dict(zip(rows["group"].str.partition(" (")[0], rows["reason"], strict=True))
    assert reasons == {"one processor quiet box": "", "another other box": "equivalence: failed: loss"}


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
        records = [*runs(10_000, 5), *runs(20_000, 5, cell=other, **changes)]
        exhibit = pairwise(all_runs(records), "examples_per_second", blocks_like(records))
        assert not exhibit
        assert exhibit.reason


def test_blocks_of_another_machine_or_build_say_nothing() -> None:
    records = [*runs(10_000, 1), *runs(20_000, 1, cell={"batch_size": 64})]
    for place in (make_environment("other box"), make_environment(torch="2.16.0")):
        assert only_pair(records, environment=place)["reason"] == "no blocks of speed"


def test_blocks_of_an_unknown_gpu_are_pooled_with_none_of_several() -> None:
    """Sessions of CPU and GPU cells did not say which GPU it was; of a machine that had one, it is that one."""
    cells = {make_cell(batch_size=size, device="cuda"): 1e4 for size in (64, 512)}
    gpus = [make_environment(device_name=name, device_id=name) for name in ("one", "two")]
    unknown = blocks_frame([make_session(cells)])
    one, two = ([make_record(cell, environment=gpu) for cell in cells] for gpu in gpus)
    alone = pairwise(all_runs(one), "examples_per_second", unknown).frame
    both = pairwise(all_runs([*one, *two]), "examples_per_second", unknown).frame
    assert list(alone["n"]) == [16]
    assert list(both["reason"]) == ["no blocks of speed"] * 2
    said = verdict_sentences(all_runs([*one, *two]), unknown)
    assert said.count("Speeds are values without a verdict: no blocks of speed.") == 2
    known = blocks_frame(
        [make_session(cells, environment=gpu, cycles=cycles) for gpu, cycles in zip(gpus, (12, 14), strict=True)]
    )
    assert sorted(pairwise(all_runs([*one, *two]), "examples_per_second", known).frame["n"]) == [12, 14]


def test_only_common_cycles_are_paired() -> None:
    """Rule 15, and settings of different shards share none (rule 20)."""
    records = [*runs(10_000, 1), *runs(20_000, 1, cell={"batch_size": 64})]
    late = make_cell(batch_size=64)
    pair = only_pair(records, missing=[(cycle, late) for cycle in range(4)])
    assert (pair["n"], pair["verdict"]) == (12, "faster")
    pair = only_pair(records, missing=[(cycle, late) for cycle in range(7)])
    assert (pair["verdict"], pair["reason"]) == ("", "9 common cycles, 10 are needed")
    apart = [make_session({record.cell: 1e4}) for record in records]
    (row,) = pairwise(all_runs(records), "examples_per_second", blocks_frame(apart)).frame.to_dict("records")
    assert (row["verdict"], row["reason"]) == ("", "timed in no common cycle")


def test_a_pair_that_causes_leave_short_is_judged_on_all_blocks_and_marked() -> None:
    records = [*runs(10_000, 1), *runs(20_000, 1, cell={"batch_size": 64})]
    slow = make_cell(batch_size=64)
    pair = only_pair(records, disturbed={(cycle, slow): "waited" for cycle in range(9)})
    assert (pair["n"], pair["busy"], pair["text"]) == (16, True, "faster, busy")
    pair = only_pair(records, disturbed={(cycle, slow): "unknown" for cycle in range(9)})
    assert (pair["n"], pair["busy"], pair["text"]) == (16, False, "faster")


def test_an_open_difference_says_between_what_and_what_and_what_it_takes() -> None:
    records = [*runs(10_000, 1), *runs(10_500, 1, cell={"batch_size": 64})]
    pair = only_pair(records, spread=0.15)
    assert pair["verdict"] == "open"
    slower, faster = 100 * (1 - pair["low"]), 100 * (pair["high"] - 1)
    assert pair["text"] == f"open: between {slower:.0f} % slower and {faster:.0f} % faster"
    more = (pair["cycles"] - 16) * 0.3 * 2
    assert pair["more_seconds"] == pytest.approx(more)
    assert more > 0
    assert math.isnan(only_pair([*runs(10_000, 1), *runs(30_000, 1, cell={"batch_size": 64})])["more_seconds"])


def test_equal_speeds_are_the_same_within_ten_per_cent() -> None:
    pair = only_pair([*runs(10_000, 1), *runs(10_000, 1, cell={"batch_size": 64})], spread=0.02)
    assert (pair["verdict"], pair["text"]) == ("same", "same (within 10 %)")


def test_time_to_target_is_epochs_times_steps_at_the_speed_of_the_blocks() -> None:
    """Rule 9: one reaches 97 % after one epoch, the other after two of 8 times the steps at 8 times the rate."""
    slow = runs(10_000, 1, accuracies=(0.98, 0.98))
    many_steps = runs(40_000, 1, cell={"batch_size": 64}, accuracies=(0.9, 0.98))
    pair = only_pair([*slow, *many_steps], "seconds_to_target", spread=0.0)
    assert pair["label_a"].endswith("batch 64")
    # 118 steps of 512 a 60,000 examples, 938 of 64: the last, smaller step is counted as a whole one
    expected = (118 * 512 / 10_000) / (2 * 938 * 64 / 40_000)
    assert pair["ratio"] == pytest.approx(expected)
    assert pair["verdict"] == "faster"


def test_a_target_that_was_not_reached_is_a_bound() -> None:
    """Rules 11 and 18: it can prove a setting slower than one that was faster there, and nothing else."""
    never = {"cell": {"batch_size": 64}, "accuracies": (0.9, 0.95)}
    pair = only_pair([*runs(20_000, 1), *runs(10_000, 1, **never)], "seconds_to_target")
    assert (pair["label_a"], pair["verdict"]) == ("batch 512", "faster")
    assert math.isnan(pair["ratio"])
    pair = only_pair([*runs(10_000, 1), *runs(40_000, 1, **never)], "seconds_to_target")
    assert pair["verdict"] == "open"


def test_two_cells_that_never_reach_the_target_are_open() -> None:
    never = [
        record
        for batch_size, rate in ((64, 10_000), (512, 40_000))
        for record in runs(rate, 3, cell={"batch_size": batch_size}, accuracies=(0.9, 0.95))
    ]
    assert only_pair(never, "seconds_to_target")["verdict"] == "open"


def test_from_ten_seeds_on_times_are_told_for_new_seeds_too() -> None:
    """Rule 18: an exact rank test of the seeds' times."""
    for seeds, told in ((9, ""), (10, "faster")):
        records = [*runs(10_000, seeds), *runs(20_000, seeds, cell={"batch_size": 64})]
        assert only_pair(records, "seconds_to_target")["new_seeds"] == told
    mixed = [
        make_record(make_cell(seed=seed, batch_size=64), examples_per_second=20_000, accuracies=(0.9, accuracy))
        for seed, accuracy in enumerate([0.98] * 6 + [0.95] * 4)
    ]
    assert only_pair([*runs(12_000, 10), *mixed], "seconds_to_target")["new_seeds"] == "open"


@pytest.mark.parametrize(
    ("seeds", "verdict", "method", "has_interval"),
    [(6, "", "t", False), (7, "better", "rank", False), (9, "better", "rank", False), (10, "better", "t", True)],
)
def test_accuracy_has_a_rank_test_from_seven_seeds_and_an_interval_from_ten(
    seeds: int, verdict: str, method: str, has_interval: bool
) -> None:
    """Rule 18."""
    worse = runs(20_000, seeds, cell={"batch_size": 64}, accuracies=(0.9, 0.95))
    pair = only_pair([*runs(10_000, seeds), *worse], "test_accuracy")
    assert (pair["verdict"], pair["method"], math.isfinite(pair["low"])) == (verdict, method, has_interval)
    assert pair["ratio"] == pytest.approx(0.025)
    assert pair["reason"] == ("" if seeds >= 7 else f"needs 7 seeds, {seeds} ran")


def test_twins_change_no_verdict() -> None:
    """Rule 3: where the same cell twice differs by 20 %, the blocks say the same, and the gap is shown."""
    records = [*runs(10_000, 5), *runs(11_000, 5, cell={"batch_size": 64})]
    noisy = [
        make_record(make_cell(seed=seed, repeat=1), examples_per_second=10_000 * (1.2 if seed % 2 else 0.8))
        for seed in range(5)
    ]
    alone, beside = (only_pair(some, spread=0.02) for some in (records, [*records, *noisy]))
    assert (alone["verdict"], alone["low"]) == (beside["verdict"], beside["low"]) == ("faster", alone["low"])
    (row,) = noise(all_runs([*records, *noisy])).frame.to_dict("records")
    assert (row["twin_pairs"], round(row["twin_gap"], 1)) == (5, 0.2)


def test_many_settings_are_all_judged_and_the_best_are_shown() -> None:
    records = [
        record for number in range(70) for record in runs(10_000 + 100 * number, 1, cell={"batch_size": 64 + number})
    ]
    exhibit = pairwise(all_runs(records), "examples_per_second", blocks_like(records))
    assert len(exhibit.frame) == 60 * 59 / 2
    assert "60 best of 70" in exhibit.notes[0]
    assert exhibit.frame["level"].min() < 0.04 / (60 * 59 / 2)


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
    assert 0.001 < rows.loc["cpu", "twin_gap"] < 0.04
    assert rows.loc["cpu", "twin_pairs"] == 5
    assert rows.loc["cpu", "noisy"] == 1
    assert "steal 1" in rows.loc["cpu", "flags"]
    assert rows.loc["cpu", "quiet"] == rows.loc["cpu", "runs"] - 2


def test_halves_of_the_blocks_and_disturbed_ones_are_shown() -> None:
    """Rule 3: A/A of each setting's own blocks."""
    records = [*runs(10_000, 1), *runs(20_000, 1, cell={"batch_size": 64})]
    blocks = blocks_like(records, spread=0.1, drift=0.0, disturbed={(3, records[0].cell): "waited"})
    (row,) = noise(all_runs(records), blocks).frame.to_dict("records")
    assert (row["blocks"], row["disturbed"], row["sessions"]) == (32, 1, 1)
    assert 0 < row["half_gap"] < 0.2


def test_nothing_finished_is_said() -> None:
    frame = all_runs([make_record(status="failed")])
    for exhibit in (pairwise(frame), noise(frame), pairwise(all_runs([]))):
        assert exhibit.frame.empty
        assert exhibit.reason.endswith(".")


def test_labels_leave_out_what_does_not_differ() -> None:
    frame = all_runs([make_record(make_cell()), make_record(make_cell(device="cuda"))])
    assert sorted(labels(frame).values()) == [
        "cpu",
        "cuda",
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
