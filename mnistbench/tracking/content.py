"""What an MLflow run shows of a record: its name, params, metrics by epoch, and tags. Plain data, no MLflow here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mnistbench.cell import Component
from mnistbench.errors import UserError
from mnistbench.grid.product import AS_GIVEN, TRIAL
from mnistbench.results.measures import MEASURES, TARGET_MEASURES, by_epoch, whole
from mnistbench.results.records import CellRecord
from mnistbench.results.targets import evaluations, reachable, time_to_target
from mnistbench.words.wording import percent, plural, seconds_text

RECORD_ID = "mnistbench.record_id"
KIND, WHAT = "mnistbench.kind", "kind"
"""`KIND` tells runs that mirror a record (`cell`) from the summary; `WHAT` tells people what a run is."""
STATUS = "mnistbench.status"
RUN_STATUS = {"finished": "FINISHED", "killed": "KILLED"}
"""All other statuses are shown as FAILED; the tag `mnistbench.status` tells them apart."""

LONGEST_PARAM, LONGEST_TAG, LONGEST_NAME = 6000, 5000, 240


@dataclass(frozen=True)
class Point:
    """One value of a metric; `timestamp` in milliseconds since 1970, `step` is the epoch."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """All that a run gets besides the record itself. The same record always gives the same content.

    Timestamps come from the record, not from the clock: MLflow keeps a metric once per (key, value, timestamp, step),
    so that mirroring twice changes nothing.
    """

    name: str
    status: str
    started: int
    ended: int
    params: dict[str, str]
    points: list[Point]
    tags: dict[str, str]


def run_content(record: CellRecord, targets: Sequence[float] | None = None) -> RunContent:
    """Make a run's content from a record; metrics that are not finite are left out.

    Args:
        record: what the run shows.
        targets: test accuracies that the grid asks about now, in ascending order; the record's own if left out. Of the
            largest, which the tag `mnistbench.target_accuracy` names, the metric is `speed/seconds_to_target`; of each
            other one `speed/seconds_to_target_0.9`.
    """
    training = record.cell.training
    asked = reachable(training.targets if targets is None else targets, training.stops_at)
    started = milliseconds(record.started_at)
    ended = milliseconds(record.epochs[-1].ended_at) if record.epochs else started
    if record.timing:
        ended = max(ended, started + round(record.timing.wall_seconds * 1000))
    return RunContent(
        name=record.cell.label[:LONGEST_NAME],
        status=RUN_STATUS.get(record.status, "FAILED"),
        started=started,
        ended=ended,
        params={key: value[:LONGEST_PARAM] for key, value in params(record).items()},
        points=[point for point in _points(record, ended, asked) if math.isfinite(point.value)],
        tags={key: value[:LONGEST_TAG] for key, value in (tags(record) | _target_tag(asked)).items()},
    )


def params(record: CellRecord) -> dict[str, str]:
    """One key an axis, and one for each option that differs from its default."""
    cell = record.cell
    shown = {
        "tuning": _tuning(record),
        "dataset": cell.dataset.label,
        "architecture": cell.architecture.label,
        "optimizer": _without_lr(cell.optimizer).label,
        "lr": _lr(cell.optimizer),
        "schedule": cell.schedule.label,
        "batch_size": str(cell.batch_size),
        "device": cell.device,
        "seed": str(cell.seed),
        "repeat": str(cell.repeat),
        "epochs": str(cell.training.epochs),
        "loss": cell.training.loss,
        "validation_examples": str(cell.training.validation_examples),
        "execution": cell.execution.label,
    }
    shown |= {key: str(value) for key, value in cell.training.to_json().items() if key not in shown}
    for axis in ("architecture", "optimizer"):
        for key, value in getattr(cell, axis).options.items():
            if (axis, key) != ("optimizer", "lr"):
                shown[f"{axis}.{key}"] = str(value)
    return shown


def tags(record: CellRecord) -> dict[str, str]:
    """What identifies the run, and how it went; `mlflow.note.content` is the description that the UI shows."""
    environment = record.environment
    shown = {
        KIND: "cell",
        WHAT: what(record),
        RECORD_ID: record.record_id,
        "mnistbench.cell_id": record.cell_id,
        "mnistbench.attempt": str(record.attempt),
        STATUS: record.status,
        "mnistbench.protocol": str(record.protocol),
        "mlflow.source.name": "mnistbench",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": description(record),
    }
    if record.noise and record.noise.flags:
        shown["mnistbench.flags"] = ", ".join(record.noise.flags)
    if record.data and record.data.fallback:
        shown["mnistbench.fallback_dataset"] = record.cell.dataset.name
    if record.error:
        shown["mnistbench.error"] = f"{record.error.type}: {record.error.message}"
    if environment:
        shown["mnistbench.machine_id"] = environment.machine_id
        shown["mnistbench.device_name"] = environment.device_name or environment.cpu
        shown["mnistbench.torch"] = environment.torch
        if environment.git_commit:
            shown["mlflow.source.git.commit"] = environment.git_commit
    return shown


def what(record: CellRecord) -> str:
    """`trial`: it only tried a learning rate; `twin`: it repeats another with the same seed; else `measured`."""
    if _tuning(record).startswith(TRIAL):
        return "trial"
    return "twin" if record.cell.repeat else "measured"


def description(record: CellRecord) -> str:
    """A sentence or two, in Markdown."""
    text = f"`{record.cell.label}`: **{record.status}**"
    last = record.epochs[-1] if record.epochs else None
    if last and last.test_accuracy is not None:
        text += f", test accuracy {percent(last.test_accuracy, 2)} after {plural(last.epoch, 'epoch')}"
        text += f" and {seconds_text(whole(record).train_seconds)} of training"
    if record.error:
        text += f"\n\n{record.error.type}: {record.error.message}"
    return f"{text}.\n\nA mirror of cell `{record.cell_id}`; its record is the artifact `record.json`."


def milliseconds(moment: str) -> int:
    """ISO 8601 to milliseconds since 1970; a moment without a zone is UTC."""
    read = datetime.fromisoformat(moment)
    return round((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1000)


def _points(record: CellRecord, ended: int, targets: Sequence[float]) -> Iterator[Point]:
    for so_far, epoch in zip(by_epoch(record), record.epochs, strict=True):
        at = milliseconds(epoch.ended_at)
        for measure in MEASURES:
            if measure.by_epoch and (value := measure.value(so_far)) is not None:
                yield Point(measure.by_epoch, value, at, epoch.epoch)
    last = record.epochs[-1].epoch if record.epochs else 0
    for key, value in _final(record, targets):
        if value is not None:
            yield Point(key, float(value), ended, last)


def _final(record: CellRecord, targets: Sequence[float]) -> Iterator[tuple[str, float | None]]:
    trained, evaluated = whole(record), evaluations(record.epochs)
    for measure in MEASURES:
        if measure.at_end:
            yield measure.at_end, measure.value(trained)
    for target in targets:
        ending = "" if target == targets[-1] else f"_{target:g}"
        if passed := time_to_target(evaluated, target):
            for at_target in TARGET_MEASURES:
                if at_target.at_end:
                    yield f"{at_target.at_end}{ending}", at_target.value(passed)


def _target_tag(targets: Sequence[float]) -> dict[str, str]:
    return {"mnistbench.target_accuracy": f"{targets[-1]:g}"} if targets else {}


def _tuning(record: CellRecord) -> str:
    return record.checks.get("tuning", AS_GIVEN)


def _without_lr(optimizer: Component) -> Component:
    return Component(name=optimizer.name, options={key: item for key, item in optimizer.options.items() if key != "lr"})


def _lr(optimizer: Component) -> str:
    from mnistbench.axes.optimizers import scaled_lr

    lr_only = {key: value for key, value in optimizer.options.items() if key == "lr"}
    try:
        return f"{scaled_lr(Component(name=optimizer.name, options=lr_only), 1):g}"
    except UserError:  # a plug-in that has no lr of its own
        return "unknown"
