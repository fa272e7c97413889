"""Records to tables: one row a run, one row an epoch, and the CSV files made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mnistbench.errors import UserError
from mnistbench.files.whole import write_whole
from mnistbench.report.rows import answers, digest, environment_of, row_of, settings_of
from mnistbench.results.measures import MEASURES, TARGET_MEASURES, parts, ratio_of
from mnistbench.results.records import CellRecord, EpochMeasurement
from mnistbench.results.targets import reachable

Record = CellRecord | Mapping[str, Any]
"""A record, or the plain JSON of one: ten thousand need not become objects to be counted."""

_TO_TARGET = [measure.name for measure in TARGET_MEASURES]

CSV_COLUMNS = [
    "cell_id", "status", "kind", "outdated", "dataset", "architecture", "optimizer", "schedule", "lr", "batch_size",
    "device", "seed", "repeat", "execution", "epochs", *_TO_TARGET,
    *(measure.name for measure in MEASURES if measure.csv), "machine_id",
    "machine", "device_name", "torch", "cuda", "python", "protocol", "flags", "equivalence", "fallback", "isolation",
    "tuning", "target_accuracy", "architecture_label", "optimizer_label", "schedule_label", "dataset_label",
    "execution_label", "settings", "record_id", "attempt", "round", "position", "started_at", "source", "error",
    "weights_sha256",
]  # fmt: skip
"""Columns of `results.csv`, in order."""

Kind = Literal["measured", "trial", "twin"]
KINDS: tuple[Kind, ...] = ("measured", "trial", "twin")
"""What a run was for: to be counted, to try a learning rate, or to show the noise (the second run of an A/A pair)."""


def results_frame(
    records: Iterable[Record],
    *,
    source: str = "",
    targets: Sequence[float] | None = None,
    kinds: Collection[Kind] = KINDS[:1],
) -> pd.DataFrame:
    """One row a run, in the order given: of the measured ones, so that they may be grouped and averaged.

    Columns (a cell's settings):
        cell_id, record_id, attempt, status, kind (measured, trial, twin), outdated (why older code may have trained
        it wrongly, else missing), settings (the same for all seeds and twins of the same settings),
        any_batch, any_device, any_batch_device, any_execution, any_optimizer (the same, for all values of that axis
        too; of tuned cells any_batch and any_batch_device for all learning rates as well), any_lr (for all learning
        rates and devices), fp32_settings (the settings in full precision, for the outcome test of reduced ones),
        dataset, architecture, optimizer, schedule, execution (names), the same with `_label` (options that differ
        from the default; `sgd(lr=tuned)` where the rate was picked), tuned_label (so for any optimizer),
        training_label, lr, lr_scaling, batch_size, device, device_kind (cpu, cuda, mps), seed, repeat, epochs (asked
        for), stops_at (the test accuracy that ends the training), isolation, tuning ("as given", "tuned over k trials",
        or "trial 2" for what only tried a rate and is no measurement).
    Columns (what happened; missing is NaN or None):
        each of `MEASURES` (results/measures.py), over all epochs or of the last; target_accuracy (the largest of the
        targets), reached (True, False, None without a target), each of `TARGET_MEASURES` (NaN when not reached;
        `at_target` gives them for another target),
        targets (those asked of this run), evaluations (list of `CurvePoint`), weights_sha256, flags (text, `; `), noisy
        (a flag other than short and shared), short, noise_known (at least one cause was observable), equivalence,
        outputs (what was found of the network that is hardly meant), stepped_aside (`lever: why; …`),
        fallback, data_sha256.
    Columns (where):
        group (machine, torch build and protocol version, and the GPU where one machine's were several: what may be
        compared), machine_id, machine, device_name, device_id, os, cpu, memory_bytes, python, torch, cuda, mnistbench,
        git_commit, git_dirty, energy_source, protocol, round, position, started_at, source, error (`Type: message`),
        error_type, error_message, error_step, error_log, error_stack.

    Args:
        records: records, or their plain JSON; read one at a time.
        source: a name for where they come from, kept in the column `source`.
        targets: test accuracies that are asked for, of every run; `targets_asked(folder)` are those of a folder's
            present grid. All that the records themselves name, if left out.
        kinds: the kinds of runs to give; `KINDS` for all.
    """
    named: set[float] = set()

    def rows() -> Iterator[dict[str, Any]]:
        for record in records:
            named.update(settings_of(parts(record)["cell"]).targets)
            row = row_of(record, source)
            if row["kind"] in kinds:
                yield row

    return ask(_apart_by_gpu(frame_of(rows(), _DTYPES)), named if targets is None else targets)


def _apart_by_gpu(frame: pd.DataFrame) -> pd.DataFrame:
    """Where one machine's `cuda` was several GPUs (rented machines, containers), each is a group of its own.

    Nobody knows then which of them the machine's CPU cells ran beside: they stay without, and no ratio is made.
    """
    named = frame["device_name"].fillna("") + " " + frame["device_id"].fillna("")
    on_gpu = (frame["device_kind"] == "cuda") & (named != " ")
    several = named[on_gpu].groupby([frame["group"], frame["device"]]).transform("nunique") > 1
    groups = frame["group"].copy()
    apart = several[several].index
    groups[apart] = groups[apart] + " · " + named[apart].str.strip()
    return frame.assign(group=groups)


def ask(frame: pd.DataFrame, targets: Iterable[float]) -> pd.DataFrame:
    """The frame with these targets asked of each run, but for those above the accuracy that ended its training."""
    asked = sorted(set(targets))
    known = [reachable(asked, stops_at) for stops_at in frame["stops_at"]]
    frame = frame.assign(targets=pd.Series(known, index=frame.index, dtype="object"))
    return at_target(frame, asked[-1] if asked else None)


def targets_in(frame: pd.DataFrame) -> list[float]:
    """The targets that are asked of the runs in a frame of `results_frame`, in ascending order."""
    return sorted({target for targets in set(frame["targets"]) for target in targets})


def at_target(frame: pd.DataFrame, target: float | None) -> pd.DataFrame:
    """The frame with `target_accuracy`, `reached`, `seconds_to_target` and their like for one of `targets_in`."""
    asked = frame[["status", "targets", "evaluations"]].to_dict("records")
    rows = (answers({str(name): value for name, value in row.items()}, target) for row in asked)
    dtypes = {name: _DTYPES[name] for name in (*_TO_TARGET, "reached", "target_accuracy")}
    return frame.assign(**frame_of(rows, dtypes).set_axis(frame.index))


def epochs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row an epoch of a record.

    Columns: cell_id, record_id, machine_id, attempt, settings, each field of `EpochMeasurement`, seconds (training
    clock so far), examples_per_second (of this epoch alone).
    """
    return frame_of((row for record in records for row in _epoch_rows(parts(record))), _EPOCH_DTYPES)


def _epoch_rows(plain: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    about = {name: plain[name] for name in ("cell_id", "record_id", "attempt")}
    about["machine_id"] = environment_of(plain).get("machine_id")
    about["settings"] = settings_of(plain["cell"]).settings
    seconds = 0.0
    for epoch in map(parts, plain["epochs"]):
        seconds += epoch["train_seconds"]
        rate = ratio_of(epoch["examples"], epoch["train_seconds"])
        yield {**epoch, **about, "seconds": seconds, "examples_per_second": rate}


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame of `results_frame` (as `csv_frame`) or of `epochs_frame` (all of it) as CSV, atomically."""
    shown = csv_frame(frame) if "error_log" in frame else frame
    write_whole(path, shown.to_csv(index=False, lineterminator="\n"))


def csv_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """What `results.csv` holds of a frame: CSV_COLUMNS, and for each target below the largest `seconds_to_target_0.9`
    and its like.
    """
    more = {
        f"{name}_{target:g}": values[name]
        for target in targets_in(frame)[:-1]
        for values in [at_target(frame, target)]
        for name in _TO_TARGET
    }
    return frame[CSV_COLUMNS].assign(**more)


def merge(folders: Mapping[str, Iterable[Record]]) -> list[Record]:
    """All records of several folders: the same record once, the same cell of two machines twice.

    Args:
        folders: records by the name of where they lie, which errors then say.

    Raises:
        UserError: naming every record_id that has two different contents.
    """
    contents: dict[str, tuple[str, str]] = {}
    merged: list[Record] = []
    clashes = []
    for name, records in folders.items():
        for record in records:
            record_id = parts(record)["record_id"]
            content = digest(record.to_json() if isinstance(record, CellRecord) else dict(record))
            if record_id not in contents:
                contents[record_id] = (content, name)
                merged.append(record)
            elif contents[record_id][0] != content:
                clashes.append(f"record {record_id} in {name} is not the one in {contents[record_id][1]}")
    if clashes:
        raise UserError(
            "\n".join([*clashes, "a record never changes once written: take out the folder that was edited"])
        )
    return merged


def frame_of(rows: Iterable[Mapping[str, Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """The columns of these types of each row; text that is missing is NaN too, so that `isna` asks the same of all."""
    columns: dict[str, list[Any]] = {name: [] for name in dtypes}
    for row in rows:
        for name, values in columns.items():
            values.append(row.get(name))
    return pd.DataFrame({name: pd.Series(values, dtype=dtypes[name]) for name, values in columns.items()})


_COLUMNS = [
    "cell_id", "record_id", "attempt", "status", "kind", "outdated", "settings", "any_batch", "any_device",
    "any_batch_device", "any_execution", "any_optimizer", "any_lr", "tuned_label", "fp32_settings", "dataset",
    "dataset_label", "architecture", "architecture_label", "optimizer", "optimizer_label", "schedule", "schedule_label",
    "execution", "execution_label", "training_label", "loss", "lr", "lr_scaling", "batch_size", "device", "device_kind",
    "seed", "repeat", "epochs", "stops_at", "target_accuracy", "isolation", "tuning", "stepped_aside",
    *(measure.name for measure in MEASURES), "targets", "evaluations", "reached", *_TO_TARGET, "weights_sha256",
    "flags", "noisy", "short", "noise_known", "equivalence", "outputs", "fallback", "data_sha256", "group",
    "machine_id", "machine", "device_name", "device_id", "os", "cpu", "memory_bytes", "python", "torch", "cuda",
    "mnistbench", "git_commit", "git_dirty", "energy_source", "protocol", "round", "position", "started_at", "source",
    "error", "error_type", "error_message", "error_step", "error_log", "error_stack",
]  # fmt: skip
_DTYPES: dict[str, str] = {
    **dict.fromkeys(_COLUMNS, "str"),
    **dict.fromkeys(["attempt", "batch_size", "seed", "repeat", "epochs", "protocol", "round", "position"], "int64"),
    **dict.fromkeys(["lr", "stops_at", "target_accuracy", *_TO_TARGET], "float64"),
    **dict.fromkeys(["noisy", "short", "noise_known", "fallback"], "bool"),
    **dict.fromkeys(["reached", "git_dirty"], "boolean"),
    **dict.fromkeys(["memory_bytes", "error_step"], "Int64"),
    **dict.fromkeys(["targets", "evaluations"], "object"),
    **{measure.name: measure.dtype for measure in MEASURES},
}

_EPOCH_DTYPES: dict[str, str] = {
    "cell_id": "str", "record_id": "str", "machine_id": "str", "attempt": "int64", "settings": "str",
    **{field.name: "float64" for field in fields(EpochMeasurement)},
    "epoch": "int64", "examples": "int64", "steps": "int64", "ended_at": "str",
    "seconds": "float64", "examples_per_second": "float64",
}  # fmt: skip
