"""Records that cannot be true are no records, and one odd record never costs the report of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_pages import write_folder
from synthetic import make_cell, make_grid_records, make_record

from mnistbench.report import render
from mnistbench.results.folder import ResultsFolder, read_record
from mnistbench.results.records import dump

RECORD = make_record()
HUGE = "1" + 400 * "0"
IMPOSSIBLE: list[tuple[str, str, str]] = [
    ("epochs.0.train_seconds", "-1.0", "record.epochs[0].train_seconds: -1.0 should be greater than or equal to 0"),
    ("epochs.0.train_seconds", "5e-324", "shorter than any clock can tell"),
    ("epochs.0.eval_seconds", "1e999", "record.epochs[0].eval_seconds: inf should be a finite number"),
    ("epochs.0.test_accuracy", "5.0", "record.epochs[0].test_accuracy: 5.0 should be less than or equal to 1"),
    ("epochs.0.test_accuracy", "-0.1", "-0.1 should be greater than or equal to 0"),
    ("epochs.0.epoch", "-3", "record.epochs[0].epoch: -3 should be greater than or equal to 1"),
    ("epochs.1.epoch", "1", "their numbers do not go up: [1, 1]"),
    ("epochs.0.examples", "1" + 30 * "0", "record.epochs[0].examples"),
    ("epochs.0.examples", HUGE, "record.epochs[0].examples: a number of 1329 bits should be less than"),
    ("epochs.0.test_loss", "1e39", "1e+39 should be less than"),
    ("epochs.0.test_loss", "5e-324", "smaller than any loss can be"),
    ("epochs.0.ended_at", '"yesterday"', "record.epochs[0].ended_at: 'yesterday' is no time"),
    ("started_at", '"0001-01-01T00:00:00"', "is no time"),
    ("attempt", "0", "record.attempt: 0"),
    ("record_id", '"../../.ssh"', "record.record_id: String should match"),
    ("record_id", '"/home/somebody"', "record.record_id: String should match"),
    ("record_id", '""', "record.record_id"),
    ("round", "-1", "record.round: -1"),
    ("timing.wall_seconds", "1e10", "record.timing.wall_seconds"),
    ("model.parameters", "-1", "record.model.parameters"),
    ("model.confusion", "[[1, 2], [3]]", "record.model.confusion: it is not square"),
    ("model.confusion", "[[1, 2], [3, -4]]", "record.model.confusion[1][1]: -4"),
    ("model.train_flops_per_example", "-1.0", "record.model.train_flops_per_example"),
    ("memory.process_peak_bytes", "-5", "record.memory.process_peak_bytes"),
    ("noise.probe", '{"compute": [-1.0]}', "record.noise.probe.compute[0]"),
    ("noise.foreign_cpu", "1e308", "record.noise.foreign_cpu"),
    ("environment.physical_cores", "0", "record.environment.physical_cores"),
    ("environment.peak_flops", '{"cpu/fp32": -1}', "record.environment.peak_flops"),
    ("execution_resolved", '{"threads": ' + HUGE + "}", "record.execution_resolved.threads"),
    ("cell.batch_size", "0", "record.cell.batch_size: 0"),
    ("cell.seed", HUGE, "record.cell.seed: a number of 1329 bits"),
    ("cell.seed", '"one"', "record.cell.seed: 'one' should be a valid integer"),
    ("cell.training.target_accuracy", "7.5", "training.target_accuracy: 7.5 should be less than or equal to 1"),
]


def changed(place: str, value: str) -> str:
    """The text of a record in which one value is replaced by this JSON."""
    plain = json.loads(dump(RECORD))
    *path, last = (int(key) if key.isdigit() else key for key in place.split("."))
    holder = plain
    for key in path:
        holder = holder[key]
    holder[last] = "HERE"
    return json.dumps(plain).replace('"HERE"', value)


@pytest.mark.parametrize(("place", "value", "reason"), IMPOSSIBLE)
def test_a_record_that_says_what_cannot_be_is_no_record(tmp_path: Path, place: str, value: str, reason: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(changed(place, value))
    found = read_record(path)
    assert isinstance(found, str)
    assert reason in found
    assert len(found) < 200


@pytest.mark.slow
def test_odd_records_cost_no_report_of_the_others(tmp_path: Path) -> None:
    """Each of the impossible ones lies among sound ones, and is named with its reason."""
    folder = write_folder(tmp_path / "odd", make_grid_records(batch_sizes=[64], seeds=2, twins=0))
    sound = len(ResultsFolder(folder).records())
    for number, (place, value, _) in enumerate(IMPOSSIBLE):
        (Path(folder) / "cells" / f"{number:016x}.json").write_text(changed(place, value))
    assert len(ResultsFolder(folder).records()) == sound
    page = render([folder], tmp_path / "page.html").read_text()
    assert f"{len(IMPOSSIBLE)} files could not be read as a record" in page


def edges(high: bool) -> dict[str, Any]:
    """The least or the most that the fields of an epoch may say."""
    seconds, accuracy = (1e9, 1.0) if high else (1e-9, 0.0)
    return {
        "examples": 10**15 if high else 0,
        "steps": 10**15 if high else 0,
        "train_seconds": seconds,
        "eval_seconds": seconds,
        "cold_seconds": seconds,
        "train_loss": 1e38 if high else 1e-60,
        "test_loss": 1e38 if high else -1e38,
        "train_accuracy": accuracy,
        "test_accuracy": accuracy,
    }


@pytest.mark.slow
@pytest.mark.parametrize("high", [True, False], ids=["most", "least"])
def test_what_is_still_possible_is_drawn(tmp_path: Path, high: bool) -> None:
    """A record at every limit at once, among sound ones."""
    records = make_grid_records(batch_sizes=[64, 512], seeds=2, twins=0)
    odd = make_record(make_cell(seed=7))
    plain = json.loads(dump(odd))
    for number, epoch in enumerate(plain["epochs"], start=1):
        epoch |= {**edges(high), "epoch": (10**9 - 2 + number) if high else number}
    plain["timing"] = dict.fromkeys(plain["timing"], 1e9 if high else 0.0)
    plain["model"]["parameters"] = 10**15 if high else 0
    plain["model"]["train_flops_per_example"] = 1e30 if high else 0.0
    plain["started_at"] = "9000-01-01T00:00:00+00:00" if high else "1970-01-01"
    folder = write_folder(tmp_path / "edges", records)
    (Path(folder) / "cells" / f"{odd.cell_id}.json").write_text(json.dumps(plain))
    assert len(ResultsFolder(folder).records()) == len(records) + 1
    assert "could not be read" not in render([folder], tmp_path / "page.html").read_text()
