"""Records to tables: one row a record, one row an epoch, and the CSV files made of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mnistbench.cell import Cell, Component, canonical_json
from mnistbench.errors import UserError
from mnistbench.records import CellRecord

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


def results_frame(records: Iterable[Record], *, source: str = "") -> pd.DataFrame:
    """One row a record, in the order given.

    Columns (a cell's settings):
        cell_id, record_id, attempt, status, settings (the same for all seeds and twins of the same settings),
        dataset, architecture, optimizer, schedule, execution (names), the same with `_label` (options that differ
        from the default), lr, lr_scaling, batch_size, device, device_kind (cpu, cuda, mps), seed, repeat,
        epochs (asked for), target_accuracy, isolation, tuning ("as given", or "tuned over k trials").
    Columns (what happened; missing is NaN or None):
        epochs_done, examples, steps, examples_per_second, eval_examples_per_second, setup_seconds, warmup_seconds,
        train_seconds, eval_seconds, wall_seconds, cold_seconds (process start to the last evaluation),
        reached (True, False, None without a target), seconds_to_target, cold_seconds_to_target, epochs_to_target
        (None when not reached), train_loss, train_accuracy, test_loss, test_accuracy, validation_loss,
        validation_accuracy (last epoch), best_test_accuracy, parameters, flops_per_example, flops_per_second,
        peak_share (of the GEMM rate of that device and precision), process_peak_bytes, device_peak_bytes,
        flags (text, `; `), noisy (a flag other than short and shared), short, equivalence, fallback, data_sha256.
    Columns (where):
        group (machine, torch build and protocol version: what may be compared), machine_id, machine, device_name, os,
        cpu, memory_bytes, python, torch, cuda, mnistbench, git_commit, git_dirty, protocol, round, position,
        started_at, source, error (`Type: message`), error_type, error_message, error_step, error_log, error_stack.

    Args:
        records: records, or their plain JSON; read one at a time.
        source: a name for where they come from, kept in the column `source`.
    """
    raise NotImplementedError


def epochs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row an epoch of a record.

    Columns: cell_id, record_id, machine_id, attempt, settings, epoch, examples, steps, train_seconds, eval_seconds,
    seconds (training clock so far), cold_seconds, train_loss, train_accuracy, test_loss, test_accuracy,
    validation_loss, validation_accuracy, examples_per_second, ended_at.
    """
    raise NotImplementedError


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame of `results_frame` (the columns of CSV_COLUMNS) or of `epochs_frame` (all) as CSV, atomically."""
    raise NotImplementedError


def merge(folders: Mapping[str, Iterable[Record]]) -> list[Record]:
    """All records of several folders: the same record once, the same cell of two machines twice.

    Args:
        folders: records by the name of where they lie, which errors then say.

    Raises:
        UserError: naming every record_id that has two different contents.
    """
    raise NotImplementedError
