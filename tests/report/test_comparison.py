"""Two sets of results against each other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from synthetic import HOSTILE_NAMES, START, all_runs, make_cell, make_environment, make_record

from mnistbench.errors import UserError
from mnistbench.report.compare import Threshold, compare, parse_threshold

WOBBLE = (1.0, 1.004, 0.997, 1.002, 0.999)


def side(rate: float, *, hours: tuple[int, ...] = (0,), seeds: int = 5, **changes: Any) -> pd.DataFrame:
    """One session at each of the hours, every seed in each."""
    cell = changes.pop("cell", {})
    return all_runs(
        make_record(
            make_cell(seed=seed, **cell),
            examples_per_second=rate * WOBBLE[(seed + hour) % 5],
            started_at=START + timedelta(hours=hour, minutes=seed),
            **changes,
        )
        for hour in hours
        for seed in range(seeds)
    )


def throughput(table: pd.DataFrame) -> dict[Any, Any]:
    return table[table["metric"] == "examples_per_second"].to_dict("records")[0]


SLOWER = Threshold("slower", 0.05)


def test_a_slower_version_is_a_regression() -> None:
    found = compare(side(10_000), side(8_000, hours=(1,)), fail_on=SLOWER)
    row = throughput(found.table.frame)
    assert (row["verdict"], row["ratio"]) == ("slower", pytest.approx(0.8, rel=0.01))
    assert row["regression"]
    assert found.exit_code == 5


@pytest.mark.parametrize("rate", [10_000, 9_700, 9_480, 20_000])
def test_no_regression_unless_the_whole_interval_is_beyond(rate: float) -> None:
    """Rule 21: 5.2 % slower with an interval across the threshold of 5 % passes."""
    assert compare(side(10_000), side(rate, hours=(1,)), fail_on=SLOWER).exit_code == 0


def test_one_session_a_side_is_confounded() -> None:
    """Rule 21: the verdict stands, and so does the warning beside it."""
    found = compare(side(10_000), side(8_000, hours=(1,)))
    row = throughput(found.table.frame)
    assert (row["confounded"], row["verdict"]) == (True, "slower")
    assert any("confounded" in note for note in found.notes)
    assert "slower, confounded" in found.to_text()


def test_three_alternated_sessions_a_side_are_not() -> None:
    found = compare(side(10_000, hours=(0, 2, 4)), side(8_000, hours=(1, 3, 5)))
    row = throughput(found.table.frame)
    assert (row["sessions_a"], row["sessions_b"], row["confounded"]) == (3, 3, False)
    assert row["verdict"] == "slower"


def test_sessions_that_were_not_alternated_count_once() -> None:
    found = compare(side(10_000, hours=(0, 1, 2)), side(8_000, hours=(3, 4, 5)))
    assert throughput(found.table.frame)["confounded"]


def test_alternated_sessions_are_compared_by_their_means() -> None:
    """A session moves all its runs: many runs in three wandering sessions are not many proofs."""
    frames = [
        pd.concat([side(rate, hours=(hour,)) for hour, rate in zip(hours, rates, strict=True)], ignore_index=True)
        for hours, rates in (((0, 2, 4), (9_700, 10_000, 10_300)), ((1, 3, 5), (9_100, 9_400, 9_700)))
    ]
    assert throughput(compare(*frames).table.frame)["verdict"] == "unresolved"


def test_equal_sides_are_the_same() -> None:
    frame = side(10_000, seeds=5)
    found = compare(frame, frame, fail_on=SLOWER)
    assert throughput(found.table.frame)["verdict"] == "same"
    assert found.exit_code == 0


@pytest.mark.parametrize(("seeds", "reason"), [(1, "one run"), (2, "two runs")])
def test_one_or_two_runs_are_never_a_regression(seeds: int, reason: str) -> None:
    found = compare(side(10_000, seeds=seeds), side(1_000, seeds=seeds, hours=(1,)), fail_on=SLOWER)
    assert throughput(found.table.frame)["reason"] == reason
    assert found.exit_code == 0
    assert any("Nothing could be judged" in note for note in found.notes)


def test_different_protocols_are_not_compared() -> None:
    """Rule 22."""
    found = compare(side(10_000), side(8_000, hours=(1,), protocol=2))
    assert not found.table
    assert any("Protocol versions: A has [1], B has [2]" in note for note in found.notes)


def test_different_machines_are_shown_without_verdict() -> None:
    found = compare(side(10_000), side(1_000, environment=make_environment("slow box")), fail_on=SLOWER)
    row = throughput(found.table.frame)
    assert (row["verdict"], row["reason"]) == ("", "different machines: speeds are not ranked")
    assert row["machine"] == "quiet box → slow box"
    assert found.exit_code == 0


def test_a_new_torch_is_compared_on_the_same_machine_and_named() -> None:
    found = compare(side(10_000), side(8_000, hours=(1,), environment=make_environment(torch="2.16.0")))
    row = throughput(found.table.frame)
    assert (row["verdict"], row["torch_a"], row["torch_b"]) == ("slower", "2.15.0+cu132", "2.16.0")
    assert "torch: A has 2.15.0+cu132, B has 2.16.0." in found.notes


def test_a_side_past_no_gate_is_not_judged() -> None:
    found = compare(side(10_000), side(8_000, hours=(1,), equivalence="failed: gradient"), fail_on=SLOWER)
    assert throughput(found.table.frame)["reason"] == "equivalence: failed: gradient"
    assert found.exit_code == 0


def test_accuracy_that_became_worse() -> None:
    frames = [
        all_runs(
            make_record(make_cell(seed=seed), accuracies=(0.9, accuracy + 1e-4 * (seed % 3))) for seed in range(10)
        )
        for accuracy in (0.98, 0.97)
    ]
    found = compare(*frames, fail_on=Threshold("worse", 0.005))
    row = found.table.frame[found.table.frame["metric"] == "test_accuracy"].to_dict("records")[0]
    assert (row["verdict"], row["ratio"]) == ("worse", pytest.approx(-0.01))
    assert found.exit_code == 5


def test_cells_of_one_side_only_are_named() -> None:
    found = compare(side(10_000), side(10_000, cell={"batch_size": 64}))
    assert not found.table
    assert found.only_a == ("mlp · sgd(lr=0.1) · batch 512",)
    assert found.only_b == ("mlp · sgd(lr=0.1) · batch 64",)


def test_nothing_in_common_is_said() -> None:
    found = compare(all_runs([]), all_runs([]))
    assert found.to_text() == "The two sets have no finished cell in common."


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_break_neither_terminal_nor_markdown(name: str) -> None:
    cell = {"architecture": name + "\x1b[2J\nnew line"}
    found = compare(side(10_000, cell=cell), side(8_000, hours=(1,), cell=cell))
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
