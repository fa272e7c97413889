"""Two sets of results against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from speed_sessions import sessions_at
from synthetic import HOSTILE_NAMES, all_runs, make_cell, make_environment, make_record

from mnistbench.errors import UserError
from mnistbench.report.blocks import blocks_frame
from mnistbench.report.compare import Comparison, Threshold, compare, parse_threshold
from mnistbench.results.records import Environment, Model

SLOWER = Threshold("slower", 0.05)


@dataclass(frozen=True)
class Side:
    """The runs of a version, and the sessions in which it timed blocks."""

    runs: pd.DataFrame
    blocks: pd.DataFrame = field(default_factory=blocks_frame)


def side(
    rate: float | Sequence[float], *, hours: Sequence[int] = (0,), seeds: int = 1, cell: dict[str, Any] | None = None,
    environment: Environment | None = None, timed: dict[str, Any] | None = None, **changes: Any,
) -> Side:  # fmt: skip
    """Every seed once, and a session of blocks at each of the hours, at this rate or these."""
    cells = [make_cell(seed=seed, **(cell or {})) for seed in range(seeds)]
    rates = [rate] * len(hours) if isinstance(rate, int | float) else list(rate)
    records = [make_record(one, examples_per_second=rates[0], environment=environment, **changes) for one in cells]
    sessions = sessions_at([{cells[0]: own} for own in rates], hours=hours, environment=environment, **(timed or {}))
    return Side(all_runs(records), blocks_frame(sessions))


def compared(a: Side, b: Side, **options: Any) -> Comparison:
    return compare(a.runs, b.runs, blocks_a=a.blocks, blocks_b=b.blocks, **options)


def throughput(found: Comparison) -> dict[Any, Any]:
    table = found.table.frame
    return table[table["metric"] == "examples_per_second"].to_dict("records")[0]


def accuracy(found: Comparison) -> dict[Any, Any]:
    table = found.table.frame
    return table[table["metric"] == "test_accuracy"].to_dict("records")[0]


BEFORE, AFTER = (0, 2, 4), (1, 3, 5)
"""Hours of three sessions a side, in turns."""


def test_a_slower_version_is_a_regression() -> None:
    found = compared(side(10_000, hours=BEFORE), side(8_000, hours=AFTER), fail_on=SLOWER)
    row = throughput(found)
    assert (row["verdict"], row["ratio"]) == ("slower", pytest.approx(0.8, rel=0.05))
    assert (row["n_a"], row["n_b"], row["unit"], row["confounded"]) == (3, 3, "sessions in turns", False)
    assert row["regression"]
    assert found.exit_code == 5


@pytest.mark.parametrize("rate", [10_000, 9_700, 9_480, 20_000])
def test_no_regression_unless_the_whole_interval_is_beyond(rate: float) -> None:
    """Rule 21: 5.2 % slower with an interval across the threshold of 5 % is none."""
    found = compared(side(10_000, hours=BEFORE), side(rate, hours=AFTER), fail_on=SLOWER)
    assert found.regressions == 0
    assert found.exit_code != 5


def test_a_slower_version_whose_interval_reaches_across_the_threshold_is_undecided() -> None:
    """That it is slower is told, and whether by more than is allowed is not."""
    tenth = Threshold("slower", 0.1)
    found = compared(side(10_000, hours=BEFORE), side(9_000, hours=AFTER), fail_on=tenth)
    row = throughput(found)
    assert (row["verdict"], row["low"] < 0.9 <= row["high"]) == ("slower", True)
    assert (found.regressions, found.undecided, found.exit_code) == (0, 1, 6)
    timed = {"spread": 0.01, "drift": 0.01}
    narrow = compared(side(10_000, hours=BEFORE, timed=timed), side(9_500, hours=AFTER, timed=timed), fail_on=tenth)
    assert (throughput(narrow)["verdict"], narrow.exit_code) == ("slower", 0)


def test_what_is_surely_no_regression_ends_well() -> None:
    quiet = {"spread": 0.01, "drift": 0.01}
    found = compared(side(10_000, hours=BEFORE, timed=quiet), side(10_000, hours=AFTER, timed=quiet), fail_on=SLOWER)
    assert (throughput(found)["verdict"], found.undecided, found.exit_code) == ("same", 0, 0)


def test_one_session_a_side_is_confounded_and_never_a_regression() -> None:
    """Rule 21: the verdict stands, about these sessions; the threshold is undecided."""
    found = compared(side(10_000), side(5_000, hours=(1,)), fail_on=SLOWER)
    row = throughput(found)
    assert (row["confounded"], row["verdict"], row["unit"]) == (True, "slower", "blocks")
    assert any("confounded" in note for note in found.notes)
    assert "slower, confounded" in found.to_text()
    assert "examples/s on quiet box (c303c869), protocol 2" in found.to_text(), (
        "blocks told it, whatever the records are of"
    )
    assert (found.regressions, found.exit_code) == (0, 6)
    assert compared(side(10_000), side(5_000, hours=(1,)), fail_on=SLOWER, allow_undecided=True).exit_code == 0


def test_sessions_that_were_not_alternated_are_confounded() -> None:
    found = compared(side(10_000, hours=(0, 1, 2)), side(8_000, hours=(3, 4, 5)), fail_on=SLOWER)
    row = throughput(found)
    assert (row["confounded"], row["unit"], row["n_a"], row["sessions_a"]) == (True, "sessions", 3, 1)
    assert found.exit_code == 6


def test_alternated_sessions_are_compared_by_their_means() -> None:
    """A session moves all its blocks: hundreds of blocks in three wandering sessions are not many proofs."""
    many = {"cycles": 200, "spread": 0.02}
    found = compared(
        side((9_000, 10_000, 11_000), hours=BEFORE, timed=many), side((8_500, 9_400, 10_300), hours=AFTER, timed=many)
    )
    row = throughput(found)
    assert (row["verdict"], row["n_a"]) == ("open", 3)


@pytest.mark.slow
def test_one_version_in_six_sessions_is_hardly_ever_told_apart() -> None:
    """Twenty times: sessions drift by 5 %, blocks by another 5 %, and neither is the version's."""
    random = np.random.default_rng(11)
    runs, told = side(10_000).runs, 0
    for number in range(20):
        rates = 10_000 * np.exp(random.normal(0, 0.05, 6))
        sessions = [
            sessions_at([{make_cell(): rate} for rate in rates[start::2]], hours=[6 * number + hour for hour in hours])
            for start, hours in ((0, BEFORE), (1, AFTER))
        ]
        found = compared(*(Side(runs, blocks_frame(some)) for some in sessions))
        told += throughput(found)["verdict"] in ("faster", "slower")
    assert told <= 1


def test_a_session_beside_busy_loops_is_slower_and_said_to_be_disturbed() -> None:
    busy = {"disturbed": {(cycle, make_cell()): "waited" for cycle in range(16)}}
    found = compared(side(10_000), side(2_800, hours=(1,), timed=busy))
    row = throughput(found)
    assert (row["verdict"], row["disturbed"], row["ratio"]) == ("slower", True, pytest.approx(0.28, rel=0.1))
    assert "slower, confounded, in a session that was disturbed" in found.to_text(200)


def test_runs_without_blocks_are_values_and_undecided() -> None:
    """An old folder: values, no verdict on speed, and nothing that a CI could take for a proof."""
    a, b = (Side(side(rate, seeds=5).runs) for rate in (10_000, 5_000))
    found = compared(a, b, fail_on=SLOWER)
    row = throughput(found)
    assert (row["verdict"], row["reason"], row["ratio"]) == ("", "no blocks of speed", pytest.approx(0.5))
    assert (found.undecided, found.exit_code) == (1, 6)
    assert any("1 setting undecided" in note and "--allow-undecided" in note for note in found.notes)


def test_a_setting_on_one_side_only_is_undecided() -> None:
    both = side(10_000, hours=BEFORE), side(20_000, hours=AFTER)
    more = side(10_000, hours=BEFORE, cell={"batch_size": 64})
    found = compared(Side(pd.concat([both[0].runs, more.runs]), both[0].blocks), both[1], fail_on=SLOWER)
    assert (found.regressions, found.undecided, found.exit_code) == (0, 1, 6)


def test_a_setting_that_failed_on_one_side_is_undecided() -> None:
    failed = Side(all_runs([make_record(status="failed", epochs=[])]))
    assert compared(side(10_000), failed, fail_on=SLOWER).exit_code == 6


def test_a_regression_goes_before_what_is_undecided() -> None:
    slow = side(10_000, hours=BEFORE), side(5_000, hours=AFTER)
    more = side(10_000, cell={"batch_size": 64})
    found = compared(Side(pd.concat([slow[0].runs, more.runs]), slow[0].blocks), slow[1], fail_on=SLOWER)
    assert (found.undecided, found.exit_code) == (1, 5)


def test_nothing_to_compare_is_undecided_where_a_threshold_asks() -> None:
    one_side = compared(side(10_000), side(10_000, cell={"batch_size": 64}), fail_on=SLOWER)
    assert (one_side.undecided, one_side.exit_code) == (2, 6)
    nothing = Side(all_runs([]))
    assert compared(nothing, nothing).exit_code == 0
    assert compared(nothing, nothing, fail_on=SLOWER).exit_code == 6


def test_time_to_target_follows_the_epochs_and_the_blocks() -> None:
    """Half as many epochs at the same speed: twice as fast there, whatever the throughput says."""
    quiet = {"spread": 0.01, "drift": 0.0}
    a = side(10_000, hours=BEFORE, timed=quiet, accuracies=(0.9, 0.98))
    b = side(10_000, hours=AFTER, timed=quiet, accuracies=(0.98, 0.98))
    table = compared(a, b).table.frame.set_index("metric")
    assert table.loc["seconds_to_target", "ratio"] == pytest.approx(2.0, rel=0.05)
    assert (table.loc["seconds_to_target", "verdict"], table.loc["examples_per_second", "verdict"]) == (
        "faster",
        "same",
    )


def test_different_protocols_are_not_compared() -> None:
    """Rule 22."""
    found = compared(side(10_000), side(8_000, hours=(1,), protocol=2))
    assert not found.table
    assert any("Protocol versions: A has [1], B has [2]" in note for note in found.notes)


def test_different_machines_are_shown_without_verdict() -> None:
    found = compared(side(10_000), side(1_000, environment=make_environment("slow box")), fail_on=SLOWER)
    row = throughput(found)
    assert (row["verdict"], row["reason"]) == ("", "different machines: speeds are not ranked")
    assert row["machine"] == "quiet box (c303c869) → slow box (998cc4d6)"
    assert found.exit_code == 6


def test_a_new_torch_is_compared_on_the_same_machine_and_named() -> None:
    newer = make_environment(torch="2.16.0")
    found = compared(side(10_000, hours=BEFORE), side(8_000, hours=AFTER, environment=newer))
    row = throughput(found)
    assert (row["verdict"], row["torch_a"], row["torch_b"]) == ("slower", "2.15.0+cu132", "2.16.0")
    assert "torch: A has 2.15.0+cu132, B has 2.16.0." in found.notes


def test_two_gpus_under_one_machine_id_are_two_machines() -> None:
    """Rented machines and containers share ids: the version did not make the other GPU faster."""
    gpus = [
        make_environment(device_name=name, device_id=name) for name in ("NVIDIA H100", "NVIDIA H200", "NVIDIA H200")
    ]
    on_gpu = {"cell": {"device": "cuda"}}
    a, b, again = (
        side(rate, hours=hours, environment=gpu, **on_gpu)
        for rate, hours, gpu in zip((10_000, 20_000, 20_000), (BEFORE, AFTER, (7, 9, 11)), gpus, strict=True)
    )
    found = compared(a, b, fail_on=SLOWER)
    row = throughput(found)
    assert (row["verdict"], row["reason"]) == ("", "different GPUs: speeds are not ranked")
    assert row["machine"] == "quiet box (c303c869) (NVIDIA H100) → quiet box (c303c869) (NVIDIA H200)"
    assert found.exit_code == 6
    both = Side(pd.concat([a.runs, again.runs]), pd.concat([a.blocks, again.blocks]))
    rows = compared(both, b).table.frame
    assert list(rows.loc[rows["metric"] == "examples_per_second", "machine"]) == ["quiet box (c303c869)"]


def test_the_same_build_is_compared_where_both_sides_have_it() -> None:
    """A folder with runs of two builds against one with the newer: its older runs say nothing of the version."""
    newer = make_environment(torch="2.16.0")
    older_side, newer_side = side(5_000, hours=BEFORE), side(10_000, hours=BEFORE, environment=newer)
    a = Side(pd.concat([older_side.runs, newer_side.runs]), pd.concat([older_side.blocks, newer_side.blocks]))
    table = compared(a, side(10_000, hours=AFTER, environment=newer)).table.frame
    (row,) = table[table["metric"] == "examples_per_second"].to_dict("records")
    assert (row["torch_a"], row["torch_b"], row["ratio"]) == ("2.16.0", "2.16.0", pytest.approx(1.0, rel=0.1))


def test_rows_of_several_builds_name_them() -> None:
    later = [side(10_000, hours=AFTER, environment=make_environment(torch=build)) for build in ("2.16.0", "2.17.0")]
    b = Side(*(pd.concat(frames) for frames in zip(*[(each.runs, each.blocks) for each in later], strict=True)))
    text = compared(side(10_000, hours=BEFORE), b).to_text()
    assert "quiet box (c303c869), torch 2.15.0+cu132 → 2.16.0, protocol 1" in text
    assert "quiet box (c303c869), torch 2.15.0+cu132 → 2.17.0, protocol 1" in text


def test_a_session_that_both_sets_hold_counts_on_one_side_only() -> None:
    """B began as a copy of A, and got three sessions of the new version, which is 20 % slower: B is not a mixture."""
    a = side(10_000, hours=BEFORE)
    new = side(8_000, hours=AFTER)
    found = compared(a, Side(new.runs, pd.concat([a.blocks, new.blocks])), fail_on=SLOWER)
    row = throughput(found)
    assert (row["sessions_a"], row["sessions_b"], row["ratio"]) == (3, 3, pytest.approx(0.8, rel=0.05))
    assert found.exit_code == 5
    assert any(note.startswith("3 sessions of speed in both sets") for note in found.notes)


def test_sessions_that_are_all_in_both_sets_tell_nothing() -> None:
    a = side(10_000, hours=BEFORE, timed={"spread": 0.01, "drift": 0.01})
    found = compared(a, a, fail_on=SLOWER)
    assert (throughput(found)["verdict"], throughput(found)["reason"]) == ("", "the same sessions on both sides")
    assert found.exit_code == 6


def test_a_run_that_both_sets_hold_is_no_pair_of_seeds() -> None:
    """Seven of ten seeds were not run again: three differences are all there is."""
    old = [make_record(make_cell(seed=seed), accuracies=(0.9, 0.97 + 0.001 * seed)) for seed in range(10)]
    new = [make_record(record.cell, accuracies=(0.9, 0.95)) for record in old[7:]]
    found = compared(Side(all_runs(old)), Side(all_runs([*old[:7], *new])))
    assert (accuracy(found)["n_a"], accuracy(found)["reason"]) == (3, "needs 7 common seeds, 3 ran")
    assert any(note.startswith("7 runs in both sets") for note in found.notes)


def test_a_side_past_no_gate_is_not_judged() -> None:
    found = compared(
        side(10_000, hours=BEFORE), side(8_000, hours=AFTER, equivalence="failed: gradient"), fail_on=SLOWER
    )
    assert throughput(found)["reason"] == "equivalence: failed: gradient"
    assert found.exit_code == 6


WORSE = Threshold("worse", 0.005)


def with_accuracies(*accuracies: float, weights: str = "") -> Side:
    records = [make_record(make_cell(seed=seed), accuracies=(0.9, got)) for seed, got in enumerate(accuracies)]
    if weights:
        records = [
            record.with_changes(model=Model(parameters=1, weights_sha256=f"{weights}{record.cell.seed}"))
            for record in records
        ]
    return Side(all_runs(records))


@pytest.mark.parametrize("seeds", [1, 3, 10])
def test_equal_bits_are_identical_from_the_first_seed_on(seeds: int) -> None:
    got = [0.97 + 0.001 * seed for seed in range(seeds)]
    found = compared(with_accuracies(*got), with_accuracies(*got), fail_on=WORSE)
    assert accuracy(found)["verdict"] == "identical"
    assert f"identical in {seeds} of {seeds} seed" in found.to_text()
    assert (found.undecided, found.exit_code) == (0, 0)


def test_one_seed_or_other_weights_that_differ_are_not_identical() -> None:
    a, b = with_accuracies(0.97, 0.98, 0.975), with_accuracies(0.97, 0.98, 0.976)
    found = compared(a, b, fail_on=WORSE)
    assert (accuracy(found)["verdict"], accuracy(found)["reason"]) == ("", "needs 7 common seeds, 3 ran")
    assert accuracy(found)["ratio"] == pytest.approx(0.001 / 3)
    assert found.exit_code == 6
    other = compared(with_accuracies(0.97, weights="a"), with_accuracies(0.97, weights="b"))
    assert accuracy(other)["verdict"] == ""


def test_accuracy_that_became_worse_is_told_by_the_differences_of_seeds() -> None:
    """Seeds that wander by 5 points and lose 1 point each: the paired differences are the data."""
    seeds = np.linspace(0.90, 0.95, 10)
    before, after = with_accuracies(*seeds), with_accuracies(*(seeds - 0.01 - 1e-4 * np.arange(10)))
    found = compared(before, after, fail_on=WORSE)
    row = accuracy(found)
    assert (row["verdict"], row["ratio"]) == ("worse", pytest.approx(-0.01045))
    assert found.exit_code == 5
    few = compared(
        with_accuracies(*seeds[:8]), with_accuracies(*(seeds[:8] - 0.01 - 1e-4 * np.arange(8))), fail_on=WORSE
    )
    assert accuracy(few)["verdict"] == "worse"
    assert math.isnan(accuracy(few)["low"])
    assert few.exit_code == 6


def test_seeds_that_are_proven_better_fail_no_threshold() -> None:
    """From seven to nine seeds the rank test has no interval, and a proof needs none."""
    before = np.linspace(0.90, 0.95, 8)
    found = compared(with_accuracies(*before), with_accuracies(*(before + 0.01)), fail_on=WORSE)
    assert (accuracy(found)["verdict"], found.undecided, found.exit_code) == ("better", 0, 0)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_comparison_fits_the_terminal_and_names_cells_in_order(width: int) -> None:
    cells = [make_cell(batch_size=size, optimizer=name) for name in ("muon", "adam") for size in (4096, 64, 512)]
    a, b = (
        Side(all_runs(map(make_record, cells)), blocks_frame(sessions_at([dict.fromkeys(cells, 9e3)], hours=[hour])))
        for hour in (0, 1)
    )
    speeds, *_ = compared(a, b).to_text(width).split("\n\n")
    assert max(map(len, speeds.splitlines())) <= width
    order = list(compared(a, b).table.frame["label"])[:6]
    assert order == [f"{name} · batch {size}" for name in ("adam", "muon") for size in (64, 512, 4096)]


def test_cells_of_one_side_only_are_named() -> None:
    found = compared(side(10_000), side(10_000, cell={"batch_size": 64}))
    assert not found.table
    assert found.only_a == ("batch 512",)
    assert found.only_b == ("batch 64",)


def test_the_same_sessions_on_both_sides_are_not_called_confounded() -> None:
    same = side(10_000)
    found = compared(same, same, fail_on=SLOWER)
    row = throughput(found)
    assert (row["reason"], row["confounded"]) == ("the same sessions on both sides", False)
    assert found.exit_code == 6 and not any("in turns" in note for note in found.notes)


@pytest.mark.parametrize("status", ["failed", "diverged", "out_of_memory"])
def test_a_cell_that_finishes_no_more_is_named(status: Any) -> None:
    """It has no row, and nothing else would say that it is gone."""
    found = compared(side(10_000), side(10_000, hours=(1,), status=status))
    assert f"Not finished in B: mlp · sgd · batch 512 ({status.replace('_', ' ')})." in found.notes
    assert not any("Not finished in A" in note for note in found.notes)


def test_nothing_in_common_is_said() -> None:
    found = compare(all_runs([]), all_runs([]))
    assert found.to_text() == "The two sets have no finished cell in common."


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_break_neither_terminal_nor_markdown(name: str) -> None:
    cell = {"architecture": name + "\x1b[2J\nnew line"}
    found = compared(side(10_000, cell=cell), side(8_000, hours=(1,), cell=cell))
    assert "\x1b" not in found.to_text()
    text = found.to_markdown()
    assert "<script>" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(found.table.frame)
    assert {line.replace("\\|", "").count("|") for line in table} == {10}


@pytest.mark.parametrize(
    ("text", "threshold"), [("slower=5%", Threshold("slower", 0.05)), ("worse=0.3 %", Threshold("worse", 0.003))]
)
def test_thresholds(text: str, threshold: Threshold) -> None:
    found = parse_threshold(text)
    assert (found.kind, found.share) == (threshold.kind, pytest.approx(threshold.share))


@pytest.mark.parametrize("text", ["", "slower", "slower=5", "faster=5%", "slower=-5%", "slower=nan%", "slower=500%"])
def test_a_threshold_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected `slower=5%`"):
        parse_threshold(text)
