"""Records to tables: one row a record, one row an epoch, and the CSV files made of them."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mnistbench.atomic import write_whole
from mnistbench.cell import Cell, Component, canonical_json
from mnistbench.errors import UserError
from mnistbench.records import FAILURES, CellRecord

Record = CellRecord | Mapping[str, Any]
"""A record, or the plain JSON of one: ten thousand need not become objects to be counted."""

CSV_COLUMNS = [
    "cell_id", "status", "dataset", "architecture", "optimizer", "schedule", "lr", "batch_size", "device", "seed",
    "repeat", "execution", "epochs", "examples_per_second", "train_seconds", "eval_seconds", "setup_seconds",
    "warmup_seconds", "wall_seconds", "seconds_to_target", "cold_seconds_to_target", "train_loss", "train_accuracy",
    "test_loss", "test_accuracy", "best_test_accuracy", "validation_loss", "validation_accuracy", "parameters",
    "flops_per_second", "peak_share", "process_peak_bytes", "device_peak_bytes", "machine_id", "machine",
    "device_name", "torch", "cuda", "python", "protocol", "flags", "equivalence", "fallback", "isolation", "tuning",
    "target_accuracy", "architecture_label", "optimizer_label", "schedule_label", "dataset_label", "execution_label",
    "settings", "record_id", "attempt", "round", "position", "started_at", "source", "error",
]  # fmt: skip
"""Columns of `results.csv`, in order."""

NOT_NOISE = {"short", "shared"}
"""Flags that say how a cell was run, not that something disturbed it."""


def results_frame(records: Iterable[Record], *, source: str = "") -> pd.DataFrame:
    """One row a record, in the order given.

    Columns (a cell's settings):
        cell_id, record_id, attempt, status, settings (the same for all seeds and twins of the same settings),
        any_batch, any_device, any_batch_device, any_execution, any_optimizer (the same, for all values of that axis
        too), fp32_settings (the settings in full precision, for the outcome test of reduced ones),
        dataset, architecture, optimizer, schedule, execution (names), the same with `_label` (options that differ
        from the default), training_label, lr, lr_scaling, batch_size, device, device_kind (cpu, cuda, mps), seed,
        repeat, epochs (asked for), target_accuracy, isolation, tuning ("as given", or "tuned over k trials").
    Columns (what happened; missing is NaN or None):
        epochs_done, examples, steps, examples_per_second, eval_examples_per_second, setup_seconds, warmup_seconds,
        train_seconds, eval_seconds, wall_seconds, cold_seconds (process start to the last evaluation),
        reached (True, False, None without a target), seconds_to_target, cold_seconds_to_target, epochs_to_target
        (NaN when not reached), train_loss, train_accuracy, test_loss, test_accuracy, validation_loss,
        validation_accuracy (last epoch), best_test_accuracy, parameters, flops_per_example, flops_per_second,
        peak_share (of the GEMM rate of that device and precision), process_peak_bytes, device_peak_bytes,
        flags (text, `; `), noisy (a flag other than short and shared), short, noise_known (at least one cause was
        observable), equivalence, stepped_aside (`lever: why; …`), fallback, data_sha256.
    Columns (where):
        group (machine, torch build and protocol version: what may be compared), machine_id, machine, device_name, os,
        cpu, memory_bytes, python, torch, cuda, mnistbench, git_commit, git_dirty, protocol, round, position,
        started_at, source, error (`Type: message`), error_type, error_message, error_step, error_log, error_stack.

    Args:
        records: records, or their plain JSON; read one at a time.
        source: a name for where they come from, kept in the column `source`.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _DTYPES}
    for record in records:
        row = _row(parts(record), source)
        for name, values in columns.items():
            values.append(row[name])
    return _frame(columns, _DTYPES)


def epochs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row an epoch of a record.

    Columns: cell_id, record_id, machine_id, attempt, settings, epoch, examples, steps, train_seconds, eval_seconds,
    seconds (training clock so far), cold_seconds, train_loss, train_accuracy, test_loss, test_accuracy,
    validation_loss, validation_accuracy, examples_per_second, ended_at.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _EPOCH_DTYPES}
    for record in records:
        plain = parts(record)
        settings = _settings(plain["cell"]).settings
        machine_id = parts(plain["environment"]).get("machine_id")
        seconds = 0.0
        for item in plain["epochs"]:
            epoch = parts(item)
            seconds += epoch["train_seconds"]
            row = {
                **epoch,
                "cell_id": plain["cell_id"],
                "record_id": plain["record_id"],
                "machine_id": machine_id,
                "attempt": plain["attempt"],
                "settings": settings,
                "seconds": seconds,
                "examples_per_second": _ratio(epoch["examples"], epoch["train_seconds"]),
            }
            for name, values in columns.items():
                values.append(row.get(name))
    return _frame(columns, _EPOCH_DTYPES)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame of `results_frame` (the columns of CSV_COLUMNS) or of `epochs_frame` (all) as CSV, atomically."""
    shown = frame[CSV_COLUMNS] if "error_log" in frame else frame
    write_whole(path, shown.to_csv(index=False, lineterminator="\n"))


def merge(folders: Mapping[str, Iterable[Record]]) -> list[Record]:
    """All records of several folders: the same record once, the same cell of two machines twice.

    Args:
        folders: records by the name of where they lie, which errors then say.

    Raises:
        UserError: naming every record_id that has two different contents.
    """
    found: dict[str, tuple[str, str]] = {}
    merged: list[Record] = []
    clashes = []
    for name, records in folders.items():
        for record in records:
            record_id = parts(record)["record_id"]
            digest = _digest(record.to_json() if isinstance(record, CellRecord) else dict(record))
            if record_id not in found:
                found[record_id] = (digest, name)
                merged.append(record)
            elif found[record_id][0] != digest:
                clashes.append(f"record {record_id} in {name} is not the one in {found[record_id][1]}")
    if clashes:
        raise UserError(
            "\n".join([*clashes, "a record never changes once written: take out the folder that was edited"])
        )
    return merged


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()


def parts(value: Any) -> Mapping[str, Any]:
    """A dataclass' or a JSON object's fields, without copying what lies deeper; None has none."""
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else vars(value)


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over is not None and under else None


@dataclass(frozen=True)
class _Settings:
    """What follows from a cell's settings alone, worked out once for all its seeds."""

    settings: str
    columns: dict[str, Any]


_SETTINGS: dict[str, _Settings] = {}


def _settings(cell: Any) -> _Settings:
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

    def without(*parts: str) -> str:
        return _digest({key: value for key, value in hashed.items() if key not in parts})[:16]

    settings = cell.without_seed()
    training = {key: value for key, value in cell.training.to_json().items() if key != "target_accuracy"}
    lr = cell.optimizer.options.get("lr", _default_lr(cell.optimizer.name))
    return _Settings(
        settings,
        {
            "settings": settings,
            "any_batch": without("batch_size"),
            "any_device": without("device"),
            "any_batch_device": without("batch_size", "device"),
            "any_execution": without("execution"),
            "any_optimizer": without("optimizer", "schedule"),
            "fp32_settings": replace(cell, execution=_in_fp32(cell.execution)).without_seed(),
            **{
                column: text
                for axis in ("dataset", "architecture", "optimizer", "schedule", "execution")
                for column, text in (
                    (axis, getattr(cell, axis).name),
                    (f"{axis}_label", getattr(cell, axis).label),
                )
            },
            "training_label": ", ".join(f"{key}={value}" for key, value in training.items()),
            "lr": float(lr) if isinstance(lr, int | float) else None,
            "lr_scaling": str(cell.optimizer.options.get("lr_scaling", "none")),
            "batch_size": cell.batch_size,
            "device": cell.device,
            "device_kind": cell.device.partition(":")[0],
            "epochs": cell.training.epochs,
            "target_accuracy": cell.training.target_accuracy,
        },
    )


def _in_fp32(execution: Component) -> Component:
    return replace(execution, options={key: value for key, value in execution.options.items() if key != "precision"})


@functools.cache
def _default_lr(optimizer: str) -> float | None:
    """The learning rate that our own table declares: cells store only what differs from it."""
    from mnistbench.optimizers import OPTIMIZERS

    if optimizer not in OPTIMIZERS:
        return None
    declared = inspect.signature(OPTIMIZERS[optimizer]).parameters.get("lr")
    return None if declared is None or declared.default is inspect.Parameter.empty else declared.default


def _row(plain: Mapping[str, Any], source: str) -> dict[str, Any]:
    cell = parts(plain["cell"])
    settings = _settings(plain["cell"]).columns
    resolved = plain.get("execution_resolved") or {}
    environment = parts(plain.get("environment"))
    return {
        "cell_id": plain["cell_id"],
        "record_id": plain["record_id"],
        "attempt": plain.get("attempt", 1),
        "status": plain["status"],
        **settings,
        "seed": cell["seed"],
        "repeat": cell["repeat"],
        "isolation": resolved.get("isolation", "alone"),
        "stepped_aside": "; ".join(f"{lever}: {why}" for lever, why in (resolved.get("stepped_aside") or {}).items()),
        "tuning": parts(plain.get("checks")).get("tuning", "as given"),
        **_training(plain, settings),
        **_resources(plain, settings["device"], resolved.get("precision", "fp32")),
        **_noise(plain),
        "group": _group(plain, environment),
        **{name: environment.get(name) for name in _ENVIRONMENT},
        "protocol": plain.get("protocol", 1),
        "round": plain.get("round", 0),
        "position": plain.get("position", 0),
        "started_at": plain["started_at"],
        "source": source,
        **_error(plain),
    }


_ENVIRONMENT = (
    "machine_id", "machine", "device_name", "os", "cpu", "memory_bytes", "python", "torch", "cuda", "mnistbench",
    "git_commit", "git_dirty",
)  # fmt: skip


def _group(plain: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    if not environment:
        return ""
    return (
        f"{environment['machine']} ({environment['machine_id'][:8]}) · torch {environment['torch']}"
        f" · protocol {plain.get('protocol', 1)}"
    )


def _training(plain: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sums over epochs, the first evaluation at the target (rule 9), and the last epoch's losses and accuracies."""
    epochs = [parts(epoch) for epoch in plain.get("epochs") or ()]
    timing, data = parts(plain.get("timing")), parts(plain.get("data"))
    target = settings["target_accuracy"]
    train_seconds = examples = 0.0
    reached: dict[str, Any] = {}
    best: float | None = None
    for epoch in epochs:
        train_seconds += epoch["train_seconds"]
        examples += epoch["examples"]
        accuracy = epoch["test_accuracy"]
        if accuracy is not None and (best is None or accuracy > best):
            best = accuracy
        if target is not None and not reached and accuracy is not None and accuracy >= target:
            reached = {"seconds": train_seconds, "cold": epoch["cold_seconds"], "epoch": epoch["epoch"]}
    eval_seconds = sum(epoch["eval_seconds"] for epoch in epochs)
    tested = (data.get("test_examples") or 0) * len(epochs) or None
    last = epochs[-1] if epochs else {}
    judged = target is not None and bool(epochs or plain["status"] not in (*FAILURES, "skipped"))
    return {
        "epochs_done": len(epochs),
        "examples": int(examples),
        "steps": sum(epoch["steps"] for epoch in epochs),
        "examples_per_second": _ratio(examples, train_seconds),
        "eval_examples_per_second": _ratio(tested, eval_seconds),
        "setup_seconds": timing.get("setup_seconds"),
        "warmup_seconds": timing.get("warmup_seconds"),
        "train_seconds": train_seconds if epochs else None,
        "eval_seconds": eval_seconds if epochs else None,
        "wall_seconds": timing.get("wall_seconds"),
        "cold_seconds": last.get("cold_seconds"),
        "reached": bool(reached) if judged else None,
        "seconds_to_target": reached.get("seconds"),
        "cold_seconds_to_target": reached.get("cold"),
        "epochs_to_target": reached.get("epoch"),
        **{name: last.get(name) for name in _LAST_EPOCH},
        "best_test_accuracy": best,
    }


_LAST_EPOCH = (
    "train_loss", "train_accuracy", "test_loss", "test_accuracy", "validation_loss", "validation_accuracy",
)  # fmt: skip


def _resources(plain: Mapping[str, Any], device: str, precision: str) -> dict[str, Any]:
    model, memory = parts(plain.get("model")), parts(plain.get("memory"))
    epochs = [parts(epoch) for epoch in plain.get("epochs") or ()]
    rate = _ratio(sum(epoch["examples"] for epoch in epochs), sum(epoch["train_seconds"] for epoch in epochs))
    flops = model.get("train_flops_per_example")
    flops_per_second = rate * flops if rate is not None and flops is not None else None
    peaks = parts(plain.get("environment")).get("peak_flops") or {}
    peak = peaks.get(f"{device}/{precision}", peaks.get(f"{device.partition(':')[0]}/{precision}"))
    return {
        "parameters": model.get("parameters"),
        "flops_per_example": flops,
        "flops_per_second": flops_per_second,
        "peak_share": _ratio(flops_per_second, peak),
        "process_peak_bytes": memory.get("process_peak_bytes"),
        "device_peak_bytes": memory.get("device_peak_bytes"),
    }


def _noise(plain: Mapping[str, Any]) -> dict[str, Any]:
    noise, data = parts(plain.get("noise")), parts(plain.get("data"))
    flags = noise.get("flags") or []
    causes = ("foreign_cpu", "steal", "throttled", "gpu_slowdown")
    return {
        "flags": "; ".join(flags),
        "noisy": any(flag not in NOT_NOISE for flag in flags),
        "short": "short" in flags,
        "noise_known": any(noise.get(cause) is not None for cause in causes),
        "equivalence": parts(plain.get("checks")).get("equivalence"),
        "fallback": bool(data.get("fallback", False)),
        "data_sha256": data.get("sha256"),
    }


def _error(plain: Mapping[str, Any]) -> dict[str, Any]:
    error = parts(plain.get("error"))
    return {
        "error": f"{error['type']}: {error['message']}" if error else None,
        "error_type": error.get("type"),
        "error_message": error.get("message"),
        "error_step": error.get("step"),
        "error_log": error.get("log"),
        "error_stack": error.get("stack"),
    }


def _frame(columns: Mapping[str, list[Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Text that is missing is NaN too, so that `isna` asks the same of every column."""
    return pd.DataFrame({name: pd.Series(values, dtype=dtypes[name]) for name, values in columns.items()})


def _columns(dtype: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), dtype)


_DTYPES: dict[str, str] = {
    **_columns("str", "cell_id record_id"),
    **_columns("int64", "attempt"),
    **_columns("str", "status settings any_batch any_device any_batch_device"),
    **_columns("str", "any_execution any_optimizer fp32_settings dataset dataset_label"),
    **_columns("str", "architecture architecture_label optimizer optimizer_label schedule schedule_label"),
    **_columns("str", "execution execution_label training_label"),
    **_columns("float64", "lr"),
    **_columns("str", "lr_scaling"),
    **_columns("int64", "batch_size"),
    **_columns("str", "device device_kind"),
    **_columns("int64", "seed repeat epochs"),
    **_columns("float64", "target_accuracy"),
    **_columns("str", "isolation tuning stepped_aside"),
    **_columns("int64", "epochs_done examples steps"),
    **_columns("float64", "examples_per_second eval_examples_per_second setup_seconds warmup_seconds train_seconds"),
    **_columns("float64", "eval_seconds wall_seconds cold_seconds"),
    **_columns("boolean", "reached"),
    **_columns("float64", "seconds_to_target cold_seconds_to_target epochs_to_target train_loss train_accuracy"),
    **_columns("float64", "test_loss test_accuracy validation_loss validation_accuracy best_test_accuracy"),
    **_columns("Int64", "parameters"),
    **_columns("float64", "flops_per_example flops_per_second peak_share"),
    **_columns("Int64", "process_peak_bytes device_peak_bytes"),
    **_columns("str", "flags"),
    **_columns("bool", "noisy short noise_known"),
    **_columns("str", "equivalence"),
    **_columns("bool", "fallback"),
    **_columns("str", "data_sha256 group machine_id machine device_name os cpu"),
    **_columns("Int64", "memory_bytes"),
    **_columns("str", "python torch cuda mnistbench git_commit"),
    **_columns("boolean", "git_dirty"),
    **_columns("int64", "protocol round position"),
    **_columns("str", "started_at source error error_type error_message"),
    **_columns("Int64", "error_step"),
    **_columns("str", "error_log error_stack"),
}

_EPOCH_DTYPES: dict[str, str] = {
    **_columns("str", "cell_id record_id machine_id"),
    **_columns("int64", "attempt"),
    **_columns("str", "settings"),
    **_columns("int64", "epoch examples steps"),
    **_columns("float64", "train_seconds eval_seconds seconds cold_seconds train_loss train_accuracy test_loss"),
    **_columns("float64", "test_accuracy validation_loss validation_accuracy examples_per_second"),
    **_columns("str", "ended_at"),
}
