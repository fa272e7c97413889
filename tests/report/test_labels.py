"""Names of settings: what tells them apart, and what all of them share, said once."""

from __future__ import annotations

from typing import Any

import pandas as pd
from synthetic import all_runs, make_cell, make_record
from test_verdicts import blocks_like

from mnistbench.cell import Component
from mnistbench.report.labels import labels, shared, shortened
from mnistbench.report.samples import for_show
from mnistbench.words.wording import seconds_interval


def sgd(**options: Any) -> Component:
    return Component(name="sgd", options=options)


def frame_of(*optimizers: Component, batch_sizes: tuple[int, ...] = (64,), tuning: str | None = None) -> pd.DataFrame:
    checks = {"equivalence": "passed", **({"tuning": tuning} if tuning else {})}
    cells = [make_cell(optimizer=optimizer, batch_size=size) for optimizer in optimizers for size in batch_sizes]
    return all_runs([make_record(cell, checks=checks) for cell in cells])


def test_only_what_differs_stands_in_a_label_and_the_rest_is_said_once() -> None:
    frame = frame_of(sgd(lr=0.1), sgd(lr=0.1, momentum=0.9), Component(name="adam"))
    assert set(labels(frame).values()) == {"sgd", "sgd, momentum 0.9", "adam"}
    said = shared(frame)
    assert said[0].startswith("The same in all: mnist · mlp · schedule constant · ")
    assert "batch 64 · cpu · execution fast." in said[0]
    assert said[1:] == ["sgd has lr 0.1.", "Settings of the optimizers: as given."]


def test_one_setting_still_has_a_name() -> None:
    assert list(labels(frame_of(sgd(lr=0.1))).values()) == ["mlp · sgd · batch 64"]
    assert "sgd(lr=0.1)" in shared(frame_of(sgd(lr=0.1)))[0]


def test_a_rate_that_was_picked_is_named() -> None:
    tuned = {"tuning": "tuned over 3 trials"}
    frame = frame_of(sgd(lr=0.3), Component(name="muon", options={"lr": 0.02}), **tuned)
    assert set(labels(frame).values()) == {"sgd, lr 0.3", "muon, lr 0.02"}
    assert set(shortened(frame)["optimizer_label"]) == {"sgd, lr 0.3", "muon, lr 0.02"}
    frame = frame_of(sgd(lr=0.3), Component(name="adam"), batch_sizes=(64, 512), **tuned)
    assert "sgd, lr 0.3 · batch 512" in labels(frame).values()
    assert set(shortened(frame)["optimizer_label"]) == {"sgd", "adam"}


def test_asking_twice_changes_nothing() -> None:
    once = shortened(frame_of(sgd(lr=0.1), sgd(lr=0.2)))
    assert shortened(once) is once
    assert set(once["optimizer_label"]) == {"sgd, lr 0.1", "sgd, lr 0.2"}


def test_the_protocol_is_that_of_the_blocks_where_there_are_any() -> None:
    records = [make_record(make_cell(batch_size=size)) for size in (8, 64)]
    shown = [for_show(all_runs(records), blocks) for blocks in (blocks_like(records), blocks_like(records).iloc[:0])]
    assert [" · protocol 2" in frame["group"].iloc[0] for frame in shown] == [True, False]
    assert " · protocol 1" in shown[1]["group"].iloc[0]


def test_an_interval_of_time_has_the_unit_of_the_value_that_it_stands_beside() -> None:
    assert seconds_interval(2.9, 3.4) == "[2.90, 3.40]"
    assert seconds_interval(0.477, 0.551) == "[477 ms, 551 ms]"
    assert seconds_interval(0.9, 1.1) == "[900 ms, 1.10 s]"
    assert seconds_interval(110.0, 754.0) == "[110 s, 12 min 34 s]"
    assert seconds_interval(2.9, float("inf")) == "[2.90, not reached]"
