"""One record as a row: what its settings were, what happened, where it ran."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mnistbench.axes.optimizers import OPTIMIZERS
from mnistbench.cell import Cell, canonical_json
from mnistbench.grid.product import AS_GIVEN, TRIAL, TUNED
from mnistbench.results.measures import MEASURES, TARGET_MEASURES, parts, whole
from mnistbench.results.records import FAILURES, TRAINING_REVISION, CellRecord
from mnistbench.results.targets import evaluations, time_to_target
from mnistbench.results.this_machine import recognized

NOT_NOISE = {"short", "shared"}
"""Flags that say how a cell was run, not that something disturbed it."""


def digest(plain: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, the same for the same data."""
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()


@dataclass(frozen=True)
class _Settings:
    """What follows from a cell's settings alone, worked out once for all its seeds."""

    settings: str
    targets: tuple[float, ...]
    columns: dict[str, Any]
    if_tuned: dict[str, Any]
    """Columns that differ if the learning rate was picked: one series, whatever was picked for each batch size."""


_SETTINGS: dict[str, _Settings] = {}


def settings_of(cell: Any) -> _Settings:
    """What follows from the settings of a cell, or of its plain JSON."""
    plain = cell.to_json() if isinstance(cell, Cell) else cell
    key = canonical_json({**plain, "seed": 0, "repeat": 0})
    if key not in _SETTINGS:
        if len(_SETTINGS) > 50_000:
            _SETTINGS.clear()
        _SETTINGS[key] = _describe(Cell.from_json({**plain, "seed": 0, "repeat": 0}))
    return _SETTINGS[key]


def _describe(cell: Cell) -> _Settings:
    hashed = cell.hashed_settings()
    for part in ("seed", "repeat"):
        del hashed[part]

    def without(*parts: str, settings: Mapping[str, Any] = hashed) -> str:
        return digest({key: value for key, value in settings.items() if key not in parts})[:16]

    any_rate = {key: value for key, value in hashed["optimizer"].items() if key != "lr"}
    if_tuned = {**hashed, "optimizer": any_rate, "lr": "tuned"}

    settings = cell.without_seed()
    tuned = replace(cell.optimizer, options={**cell.optimizer.options, "lr": "tuned"})
    training, options = cell.training.hashed_settings(), cell.execution.options
    if "loss" in training:
        training["loss"] = cell.training.loss.label
    in_fp32 = replace(cell.execution, options={key: options[key] for key in options if key != "precision"})
    optimizer = cell.optimizer  # a cell stores only what differs from the default
    lr = optimizer.options.get("lr", getattr(OPTIMIZERS.get(optimizer.name), "lr", None))
    return _Settings(
        settings,
        cell.training.targets,
        {
            "settings": settings,
            "any_batch": without("batch_size"),
            "any_device": without("device"),
            "any_batch_device": without("batch_size", "device"),
            "any_execution": without("execution"),
            "any_optimizer": without("optimizer", "schedule"),
            "any_lr": without("device", settings=if_tuned),
            "tuned_label": tuned.label,
            "fp32_settings": replace(cell, execution=in_fp32).without_seed(),
            **{
                column: text
                for axis in ("dataset", "architecture", "optimizer", "schedule", "execution")
                for column, text in ((axis, getattr(cell, axis).name), (f"{axis}_label", getattr(cell, axis).label))
            },
            "loss": cell.training.loss.name,
            "training_label": ", ".join(f"{key}={value}" for key, value in training.items()),
            "lr": float(lr) if isinstance(lr, int | float) else None,
            "lr_scaling": str(cell.optimizer.options.get("lr_scaling", "none")),
            "batch_size": cell.batch_size,
            "device": cell.device,
            "device_kind": cell.device.partition(":")[0],
            "epochs": cell.training.epochs,
            "stops_at": cell.training.stops_at,
        },
        {
            "any_batch": without("batch_size", settings=if_tuned),
            "any_batch_device": without("batch_size", "device", settings=if_tuned),
            "optimizer_label": tuned.label,
        },
    )


def row_of(record: CellRecord | Mapping[str, Any], source: str) -> dict[str, Any]:
    """The columns of `results_frame` for one record, but for those that answer a target (`answers`)."""
    plain = parts(record)
    cell = parts(plain["cell"])
    tuning = parts(plain.get("checks")).get("tuning", AS_GIVEN)
    about = settings_of(plain["cell"])
    settings = {**about.columns, **about.if_tuned} if tuning.startswith(TUNED) else about.columns
    resolved, error = plain.get("execution_resolved") or {}, parts(plain.get("error"))
    environment = environment_of(plain)
    trained = whole(plain)
    return {
        "cell_id": plain["cell_id"],
        "record_id": plain["record_id"],
        "attempt": plain.get("attempt", 1),
        "status": plain["status"],
        "outdated": _outdated(record),
        "kind": "trial" if tuning.startswith(TRIAL) else "twin" if cell["repeat"] else "measured",
        **settings,
        "seed": cell["seed"],
        "repeat": cell["repeat"],
        "isolation": resolved.get("isolation", "alone"),
        "stepped_aside": "; ".join(f"{lever}: {why}" for lever, why in (resolved.get("stepped_aside") or {}).items()),
        "tuning": tuning,
        **{measure.name: measure.value(trained) for measure in MEASURES},
        "evaluations": evaluations(plain.get("epochs") or (), trained.told("environment", "energy_source")),
        "weights_sha256": trained.told("model", "weights_sha256"),
        **_noise(plain),
        "group": _group(plain, environment),
        **{name: environment.get(name) for name in _ENVIRONMENT},
        "protocol": plain.get("protocol", 1),
        "round": plain.get("round", 0),
        "position": plain.get("position", 0),
        "started_at": plain["started_at"],
        "source": source,
        "error": f"{error['type']}: {error['message']}" if error else None,
        **{f"error_{name}": error.get(name) for name in ("type", "message", "step", "log", "stack")},
    }


def environment_of(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a record was made; empty if it does not say. This machine has one id, whichever release wrote it."""
    environment = parts(plain.get("environment"))
    return {**environment, "machine_id": recognized(environment["machine_id"])} if environment else environment


_ENVIRONMENT = (
    "machine_id", "machine", "device_name", "device_id", "os", "cpu", "memory_bytes", "python", "torch", "cuda",
    "mnistbench", "git_commit", "git_dirty", "energy_source",
)  # fmt: skip


def _group(plain: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    if not environment:
        return ""
    return (
        f"{environment.get('cpu') or ''} {environment['machine']} ({environment['machine_id'][:8]})".lstrip()
        + f" · torch {environment['torch']}"
        f" · protocol {plain.get('protocol', 1)}"
    )


def answers(row: Mapping[str, Any], target: float | None) -> dict[str, Any]:
    """The columns that say when a row's run reached a target accuracy; empty ones where it is not asked of that run."""
    asked = target is not None and target in row["targets"]
    judged = asked and bool(row["evaluations"] or row["status"] not in (*FAILURES, "skipped"))
    first = time_to_target(row["evaluations"], target) if judged and target is not None else None
    return {
        "target_accuracy": target if asked else None,
        "reached": first is not None if judged else None,
        **{measure.name: measure.value(first) if first else None for measure in TARGET_MEASURES},
    }


def _outdated(record: CellRecord | Mapping[str, Any]) -> str | None:
    if not isinstance(record, CellRecord):
        if record.get("training_revision", 1) >= TRAINING_REVISION:
            return None
        record = CellRecord.from_json(record)
    return record.outdated


def _noise(plain: Mapping[str, Any]) -> dict[str, Any]:
    noise, data, checks = (parts(plain.get(name)) for name in ("noise", "data", "checks"))
    flags = noise.get("flags") or []
    causes = ("foreign_cpu", "steal", "throttled", "gpu_slowdown")
    return {
        "flags": "; ".join(flags),
        "noisy": any(flag not in NOT_NOISE for flag in flags),
        "short": "short" in flags,
        "noise_known": any(noise.get(cause) is not None for cause in causes),
        "equivalence": checks.get("equivalence"),
        "outputs": checks.get("outputs"),
        "fallback": bool(data.get("fallback", False)),
        "data_sha256": data.get("sha256"),
    }
