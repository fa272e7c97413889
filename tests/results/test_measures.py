"""One quantity is one row: what stands in the table of measures is everywhere, and says the same there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import all_runs, make_record

from mnistbench.results.measures import MEASURES, TARGET_MEASURES, by_epoch, whole
from mnistbench.tracking.content import run_content

MADE_UP = """
import json, sys
from pathlib import Path
from mnistbench.results import measures
from mnistbench.results.measures import Measure, TargetMeasure
measures.MEASURES += (
    Measure(name="steps_squared", unit="count", value=lambda run: run.steps**2, by_epoch="made/up",
            at_end="made/up_end", title="made-up steps"),
)
measures.TARGET_MEASURES += (
    TargetMeasure(name="epochs_squared", unit="count", value=lambda passed: passed.epoch**2, at_end="made/up_target",
                  title="squares to target"),
)
from report_pages import write_folder
from synthetic import make_record
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from mnistbench.report.frame import csv_frame, results_frame
from mnistbench.report.page import render
from mnistbench.tracking.content import run_content
from mnistbench.tracking.tensorboard import write_events
record, folder = make_record(accuracies=(0.95, 0.98)), Path(sys.argv[1])
frame = results_frame([record])
events = EventAccumulator(str(write_events([record], folder / "events")[0]))
events.Reload()
page = render([write_folder(folder / "made", [record])], folder / "page.html").read_text()
print(json.dumps({
    "steps": [epoch.steps for epoch in record.epochs],
    "frame": [int(frame[name][0]) for name in ("steps_squared", "epochs_squared")],
    "csv": [int(csv_frame(frame)[name][0]) for name in ("steps_squared", "epochs_squared")],
    "mlflow": [[point.key, point.value] for point in run_content(record).points if point.key.startswith("made/")],
    "tensorboard": [point.value for point in events.Scalars("made/up")],
    "table": ["made-up steps" in page, "squares to target" in page],
}))
"""


@pytest.mark.slow
def test_a_made_up_quantity_arrives_everywhere(tmp_path: Path) -> None:
    """One row each in the two tables, in a process of its own: frame, CSV, MLflow, TensorBoard, table of runs."""
    done = subprocess.run(
        [sys.executable, "-c", MADE_UP, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        timeout=200,
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    first, both = seen["steps"][0] ** 2, sum(seen["steps"]) ** 2
    assert seen["frame"] == seen["csv"] == [both, 4]
    assert seen["mlflow"] == [["made/up", first], ["made/up", both], ["made/up_end", both], ["made/up_target", 4]]
    assert seen["tensorboard"] == [first, both]
    assert seen["table"] == [True, True]


def test_a_curve_ends_at_what_the_record_says() -> None:
    """Throughput is all examples over all seconds so far, in a curve as in the frame."""
    record = make_record(examples_per_second=30_000)
    record = record.with_changes(epochs=[record.epochs[0], replace(record.epochs[1], train_seconds=8.0)])
    *_, last = by_epoch(record)
    assert last == whole(record)
    plain = whole(record.to_json())
    assert [measure.value(plain) for measure in MEASURES] == [measure.value(last) for measure in MEASURES]
    (row,) = all_runs([record]).to_dict("records")
    points = {point.key: point.value for point in run_content(record).points}
    assert row["examples_per_second"] == pytest.approx(120_000 / (record.epochs[0].train_seconds + 8.0))
    for measure in MEASURES:
        if measure.by_epoch in points:
            assert points[measure.by_epoch] == pytest.approx(row[measure.name]), measure.name


def test_no_quantity_has_the_name_of_another() -> None:
    rows = [*MEASURES, *TARGET_MEASURES]
    names = [measure.name for measure in rows]
    keys = [*(m.by_epoch for m in MEASURES if m.by_epoch), *(m.at_end for m in rows if m.at_end)]
    assert len(set(names)) == len(names)
    assert len(set(keys)) == len(keys)


def test_a_record_without_epochs_has_no_rates() -> None:
    trained = whole(make_record(status="failed", accuracies=()))
    assert {measure.value(trained) for measure in MEASURES if measure.by_epoch} == {None}
