"""What an MLflow run shows of a record or a session of speed: its name, params, metrics, and tags. No MLflow here."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mnistbench.axes.optimizers import scaled_lr
from mnistbench.cell import Component
from mnistbench.errors import UserError
from mnistbench.grid.product import AS_GIVEN, TRIAL
from mnistbench.results.measures import MEASURES, TARGET_MEASURES, by_epoch, whole
from mnistbench.results.records import CellRecord, Environment
from mnistbench.results.speed import SpeedSetting, TimedSession, mean_rates
from mnistbench.results.targets import evaluations, reachable, time_to_target
from mnistbench.words.wording import percent, plural, seconds_text

RECORD_ID, SESSION = "mnistbench.record_id", "mnistbench.session"
KIND, WHAT = "mnistbench.kind", "kind"
"""`KIND` tells runs that mirror a record (`cell`), those of sessions of speed (`speed`) and the summary apart; `WHAT`
tells people what a run is."""
SPEED = "speed"
STATUS = "mnistbench.status"
RUN_STATUS = {"finished": "FINISHED", "killed": "KILLED"}
"""All other statuses are shown as FAILED; the tag `mnistbench.status` tells them apart."""

LONGEST_PARAM, LONGEST_TAG, LONGEST_NAME, LONGEST_METRIC = 6000, 5000, 240, 200
_SOURCE = {"mlflow.source.name": "mnistbench", "mlflow.source.type": "LOCAL"}


@dataclass(frozen=True)
class Point:
    """One value of a metric; `timestamp` in milliseconds since 1970, `step` is the epoch, or counts blocks."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """All that a run gets besides what it mirrors. The same record or session always gives the same content.

    Timestamps come from what is mirrored, not from the clock: MLflow keeps a metric once per (key, value, timestamp,
    step), so that mirroring twice changes nothing.
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


def session_content(session: TimedSession, grid: str) -> RunContent:
    """Make a run's content from a session of speed: a metric a setting that has a block which nothing disturbed.

    Its step is the number of blocks that it is the mean of, so that what is logged when the session has gained blocks
    is the later value.

    Args:
        session: what the run shows.
        grid: whose settings were timed.
    """
    about = session.about
    started = milliseconds(about.started_at)
    lasted = sum(block.wall_seconds or block.seconds or 0.0 for block in session.blocks.values())
    ended = started + round(lasted * 1000)
    names = _metric_names(session.settings)
    rates = mean_rates(session)
    clean = sum(block.is_clean for block in session.blocks.values())
    shown = {
        "session": session.name,
        "machine": about.machine,
        "build": about.build,
        "cycles": str(about.cycles),
        "protocol": str(about.protocol),
    }
    told = {
        KIND: SPEED,
        WHAT: SPEED,
        SESSION: session.name,
        STATUS: "finished",
        "mnistbench.grid": grid,
        "mnistbench.machine_id": about.machine,
        "mnistbench.torch": about.build,
        "mnistbench.protocol": str(about.protocol),
        "mnistbench.blocks": str(len(session.blocks)),
        "mlflow.note.content": (
            f"Speed of {plural(len(session.settings), 'setting')} of the grid `{grid}`: each metric is a setting's mean"
            f" rate in examples/s over its clean blocks. Of {plural(len(session.blocks), 'block')}, {clean} are clean;"
            f" the others were disturbed or failed.\n\nA mirror of the session, which is the artifact"
            f" `{session.name}.jsonl`."
        ),
        **_SOURCE,
        **_environment_tags(about.environment),
    }
    return RunContent(
        name=f"speed {session.name}",
        status="FINISHED",
        started=started,
        ended=ended,
        params={key: value[:LONGEST_PARAM] for key, value in shown.items()},
        points=[Point(names[key], mean, ended, blocks) for key, (mean, blocks) in rates.items()],
        tags={key: value[:LONGEST_TAG] for key, value in told.items()},
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
        "loss": cell.training.loss.label,
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
    shown = {
        KIND: "cell",
        WHAT: what(record),
        RECORD_ID: record.record_id,
        "mnistbench.cell_id": record.cell_id,
        "mnistbench.attempt": str(record.attempt),
        STATUS: record.status,
        "mnistbench.protocol": str(record.protocol),
        "mlflow.note.content": description(record),
        **_SOURCE,
        **_environment_tags(record.environment),
    }
    if record.noise and record.noise.flags:
        shown["mnistbench.flags"] = ", ".join(record.noise.flags)
    if record.data and record.data.fallback:
        shown["mnistbench.fallback_dataset"] = record.cell.dataset.name
    if record.error:
        shown["mnistbench.error"] = f"{record.error.type}: {record.error.message}"
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
    source = record.environment.energy_source if record.environment else None
    trained, evaluated = whole(record), evaluations(record.epochs, source)
    for measure in MEASURES:
        if measure.at_end:
            yield measure.at_end, measure.value(trained)
    for target in targets:
        ending = "" if target == targets[-1] else f"_{target:g}"
        if passed := time_to_target(evaluated, target):
            for at_target in TARGET_MEASURES:
                if at_target.at_end:
                    yield f"{at_target.at_end}{ending}", at_target.value(passed)


def _environment_tags(environment: Environment | None) -> dict[str, str]:
    if environment is None:
        return {}
    shown = {
        "mnistbench.machine_id": environment.machine_id,
        "mnistbench.device_name": environment.device_name or environment.cpu,
        "mnistbench.torch": environment.torch,
    }
    return shown | ({"mlflow.source.git.commit": environment.git_commit} if environment.git_commit else {})


def _metric_names(settings: Mapping[str, SpeedSetting]) -> dict[str, str]:
    """By the settings' keys: their labels without the signs that MLflow refuses; where two are equal, also the key."""
    plain = {key: re.sub(r"[^\w.-]+", " ", setting.label).strip() for key, setting in settings.items()}
    names = {key: f"examples_per_second/{label[:LONGEST_METRIC]}" for key, label in plain.items()}
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else f"{name} {key}" for key, name in names.items()}


def _target_tag(targets: Sequence[float]) -> dict[str, str]:
    return {"mnistbench.target_accuracy": f"{targets[-1]:g}"} if targets else {}


def _tuning(record: CellRecord) -> str:
    return record.checks.get("tuning", AS_GIVEN)


def _without_lr(optimizer: Component) -> Component:
    options = {key: value for key, value in optimizer.options.items() if key != "lr"}
    return Component(name=optimizer.name, options=options)


def _lr(optimizer: Component) -> str:
    lr_only = {key: value for key, value in optimizer.options.items() if key == "lr"}
    try:
        return f"{scaled_lr(Component(name=optimizer.name, options=lr_only), 1):g}"
    except UserError:  # a plug-in that has no lr of its own
        return "unknown"
