"""The answer in sentences, and summary.md."""

from __future__ import annotations

import re
from typing import Any

import pytest
from report_pages import study_of
from synthetic import HOSTILE_NAMES, all_runs, make_cell, make_grid_records, make_record
from test_exhibits import gpu_and_cpu, reaching, runs
from test_verdicts import blocks_like

from mnistbench.cell import Component, Training
from mnistbench.report.summary import summary_markdown, verdict_sentences
from mnistbench.results.records import CellRecord, Data
from mnistbench.words.markdown import escape
from mnistbench.words.wording import accuracy_text, seconds_text, times


def told(records: list[CellRecord], **options: Any) -> list[str]:
    """What is said where blocks were timed at the records' speeds."""
    return verdict_sentences(all_runs(records), blocks_like(records, **options))


def test_a_proven_winner_is_first_and_says_how_far_ahead() -> None:
    said = told([*reaching([5.0]), *reaching([9.0], batch_size=8)], spread=0.01, drift=0.0)
    assert re.match(r"batch 64 is first to 97 % \(rank 1 of 2\): (4.9|5.0)\d s \[4.9\d, 5.\d+\], 1.\d+×", said[0])
    assert "95 % of 16 blocks, these seeds at the speed of the blocks, 1 of 1 seed reached it" in said[0]
    assert re.search(r"× \[1.\d+, 1.\d+\] ahead of batch 8 in 16 cycles \(95 %", said[0])


def test_a_tie_is_said_with_what_it_would_take() -> None:
    said = told([*reaching([5.0]), *reaching([5.1], batch_size=8)], spread=0.15)
    assert "1 other not proven slower" in said[0]
    assert re.search(r"is open: between \d+ % slower and \d+ % faster; to tell takes about \d+ minutes? more", said[1])
    (cycles,) = re.findall(r"\(`run` with `--set speed.cycles=(\d+)`\)", said[1])
    assert int(cycles) > 16  # those that are there do not count as lacking


def test_seeds_without_blocks_claim_no_first_place() -> None:
    said = verdict_sentences(all_runs([*reaching([5.0, 5.1, 5.2]), *reaching([9.0, 9.1, 9.2], batch_size=8)]))
    assert "has the shortest median time to 97 %: 5.10 s [5.00, 5.20] (range of 3, " in said[0]
    assert "not ranked: no blocks of speed" in said[0]
    assert "Speeds are values without a verdict: no blocks of speed." in said


def test_a_target_that_nobody_reached_is_no_time() -> None:
    said = verdict_sentences(all_runs(reaching([None, None, None])))
    assert said[0] == "No cell reached 97 %; the best came to 96.00 % (mlp · sgd · batch 64)."


def test_a_range_may_end_beyond_the_last_evaluation() -> None:
    said = verdict_sentences(all_runs(reaching([5.0, 6.0, None])))
    assert "6.00 s [5.00, not reached] (range of 3, training clock, 2 of 3 seeds reached it)" in said[0]


def test_without_a_target_the_levers_come_first_and_three_seeds_are_no_proof_of_accuracy() -> None:
    def five(rate: float, profile: str, **options: object) -> list[CellRecord]:
        execution, training = Component(name=profile, options=options), Training(epochs=2)
        return runs(rate, 5, cell={"execution": execution, "training": training})

    said = told([*five(10_000, "plain"), *five(40_000, "fast"), *five(20_000, "fast", data="loader")], spread=0.0)
    assert said[0].startswith("mlp · sgd · batch 512: fast makes 4.00× [4.00, 4.00] the examples/s of plain")
    assert "blocks of training, n = 16): faster." in said[0]
    assert said[1].startswith("1 of 1 setting with one lever left out proven slower than its profile: mlp")
    assert said[1].endswith("with data=loader 0.500×.")
    assert "has the highest median accuracy (so have 2 others): 97.50 % (median of 5 seeds); not ranked" in said[2]


def test_ratios_name_clock_interval_machine_and_protocol() -> None:
    """Rule 22."""
    said = told(gpu_and_cpu({64: 0.5, 512: 4.0}), spread=0.0)
    (steady,) = (text for text in said if "blocks of training, n = 16)" in text and "cuda" in text)
    assert "cuda is faster than cpu from batch 512 on, 4.00× [4.00, 4.00] at batch 512" in steady
    assert any("from process start to the last evaluation" in text for text in said)
    (where,) = (text for text in said if text.startswith("Measured on"))
    assert "x86-64, 2 cores quiet box (" in where and "protocol 2" in where
    assert "execution fast" in said[-1]


def test_a_ratio_names_the_clock_that_it_is_of() -> None:
    """Where no blocks were timed it is that of the runs, and where blocks are too few for a verdict still theirs."""
    sides = [*runs(10_000, 1, cell={"execution": "plain"}), *runs(20_000, 1, cell={"execution": "fast"})]
    for records in (gpu_and_cpu({64: 0.5, 512: 4.0}), sides):
        steady = [text for text in verdict_sentences(all_runs(records)) if "no blocks of speed" in text]
        assert "(training clock, n = " in steady[0]
    assert "(blocks of training, n = 4): 4 common cycles, 10 are needed" in told(sides, cycles=4)[0]
    untested = [record.with_changes(checks={"equivalence": "outcome untested"}) for record in sides]
    assert "(blocks of training, n = 16): equivalence: outcome untested" in told(untested)[0]


@pytest.mark.parametrize("records", [[], [make_record(status="failed", epochs=[])], [make_record(status="skipped")]])
def test_nothing_to_say_is_said(records: list[object]) -> None:
    assert len(verdict_sentences(all_runs(records))) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 10])
def test_every_number_of_seeds_makes_a_summary(seeds: int) -> None:
    records = make_grid_records(
        seeds=seeds, devices=("cpu", "cuda"), executions=("plain", "fast"), batch_sizes=(64, 512), failing=0.1
    )
    text = summary_markdown(study_of(all_runs(records), asked=len(records) + 3))
    for heading in ("# quick", "## First at the target", "## What did not finish", "## Where it ran"):
        assert heading in text
    assert "3 not run yet" in text
    assert "nan" not in text


def test_a_fallback_is_said_loudly() -> None:
    text = summary_markdown(study_of(all_runs([make_record(data=Data(sha256="x", fallback=True))])))
    assert "> **The dataset that was asked for was not at hand" in text


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_text(name: str) -> None:
    records = [
        make_record(make_cell(architecture=name)),
        make_record(make_cell(architecture=name, seed=1), status="failed"),
    ]
    text = summary_markdown(study_of(all_runs(records), name))
    assert "<script>" not in text
    assert "[f](" not in text
    for table in text.split("\n\n"):
        if table.startswith("| "):
            assert len({line.replace("\\|", "").count("|") for line in table.strip().splitlines()}) == 1


def test_a_command_in_a_sentence_stays_code() -> None:
    assert escape("longer (`--budget 4m`), a_b") == r"longer (`--budget 4m`), a\_b"
    assert escape("a`b[x](y)`") == r"a\`b\[x\](y)\`"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0314, "31.4 ms"), (3.14159, "3.14 s"), (599.4, "9 min 59 s"), (900.0, "15 min"), (9000.0, "2 h 30 min")],
)
def test_seconds_as_text(value: float, text: str) -> None:
    assert seconds_text(value) == text


def test_numbers_as_text() -> None:
    assert (accuracy_text(0.99), accuracy_text(0.9855)) == ("99 %", "98.55 %")
    assert (times(1234.5), times(0.0123)) == ("1,230×", "0.0123×")
