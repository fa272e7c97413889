"""Run a cell again with the same choices, and say whether weights and metrics came out the same."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from pathlib import Path

from mnistbench.axes.plugins import load_plugins
from mnistbench.data import datasets
from mnistbench.errors import UserError
from mnistbench.results.records import RESULTS, CellRecord, Data
from mnistbench.results.this_machine import recognized
from mnistbench.run.executors import ProcessExecutor
from mnistbench.train.job import Job

COMPARED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "validation_loss", "validation_accuracy")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the rerun gave the same, and what was looked at, line by line."""

    same: bool
    lines: list[str]


def compare(before: CellRecord, after: CellRecord) -> Verdict:
    """Compare two records of one cell: choices, every epoch's metrics, the weights' checksum; to the last bit."""
    lines: list[str] = []
    same = before.status == after.status
    if not same:
        lines.append(
            f"status: {before.status}, now {after.status}" + (f" ({after.error.message})" if after.error else "")
        )
    for key in sorted(set(before.execution_resolved) | set(after.execution_resolved)):
        was, now = before.execution_resolved.get(key), after.execution_resolved.get(key)
        if was != now:
            lines.append(f"choice {key}: {was}, now {now} (bits are promised for equal choices only)")
    if len(before.epochs) != len(after.epochs):
        same = False
        lines.append(f"epochs: {len(before.epochs)}, now {len(after.epochs)}")
    older = before.training_revision < 2 <= after.training_revision
    if older:
        lines.append("an older release added the training losses up in another order: they are compared to 1e-6")
    for was, now in zip(before.epochs, after.epochs, strict=False):
        for name in COMPARED:
            rounding = 1e-6 if older and name == "train_loss" else 0.0
            if not _is_same(getattr(was, name), getattr(now, name), rounding):
                same = False
                lines.append(f"epoch {was.epoch} {name}: {getattr(was, name)}, now {getattr(now, name)}")
    weights = tuple(record.model.weights_sha256 if record.model else None for record in (before, after))
    if weights[0] != weights[1]:
        same = False
        lines.append(f"weights: {weights[0]}, now {weights[1]}")
    if same:
        lines.append(f"epochs: {len(after.epochs)}, every loss and accuracy is the same")
        lines.append(
            f"weights: the same SHA-256, {weights[0]}" if weights[0] else "weights: the record holds no checksum"
        )
    versions = tuple(record.environment.torch if record.environment else None for record in (before, after))
    if versions[0] != versions[1]:
        lines.append(f"torch: {versions[0]}, now {versions[1]}")
    machines = tuple(
        recognized(record.environment.machine_id) if record.environment else None for record in (before, after)
    )
    if machines[0] != machines[1]:
        lines.append("another machine than the record's")
    return Verdict(same=same, lines=lines)


def _is_same(was: float | None, now: float | None, rounding: float) -> bool:
    if was is None or now is None:
        return was is now
    return math.isclose(was, now, rel_tol=rounding, abs_tol=0.0)


def rerun_and_compare(record: CellRecord, *, data_dir: Path | None = None, plugins: tuple[str, ...] = ()) -> Verdict:
    """Train the record's cell again in a process of its own, with the levers that it resolved to, and compare.

    Args:
        record: a result, that is, one with epochs to compare.
        data_dir: where data is looked for first.
        plugins: modules that the cell's own network, optimizer or dataset comes from.

    Raises:
        UserError: if the record holds nothing to compare, its data is not to be had any more, or the cell cannot be
            trained here, as without its plug-in.
    """

    if record.status not in RESULTS or not record.epochs:
        raise UserError(f"cell {record.cell_id} is {record.status}: there is nothing to compare; run it first")
    loaded = load_plugins(plugins)
    prepared = datasets.prepare(record.cell.dataset, data_dir=data_dir, plugins=loaded)
    if record.data is not None and prepared.sha256 != record.data.sha256:
        raise UserError(f"the data found here is not the record's: SHA-256 {prepared.sha256}, not {record.data.sha256}")
    job = Job(
        cell=record.cell,
        record_id=str(uuid.uuid4()),
        data_directory=str(prepared.directory),
        data=record.data or Data(sha256=prepared.sha256),
        plugins=loaded.needed_by(record.cell),
        resolved=record.execution_resolved,
    )
    executor = ProcessExecutor()
    try:
        (again,) = executor.run([job], lambda job, epoch: None)
    finally:
        executor.close()
    if again.status not in RESULTS:
        reason = again.error.message if again.error else "no reason was recorded"
        raise UserError(f"cell {record.cell_id} could not be trained again ({again.status}): {reason}")
    return compare(record, again)
