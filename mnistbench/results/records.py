"""What happened: the record of one attempt at a cell, as it lies in `results/<grid>/cells/`.

Raw quantities are stored (examples, seconds, bytes), rates are derived where they are shown. The fields' types say
what a record can truthfully say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mnistbench.cell import Cell
from mnistbench.cell.checked import (
    Accuracy,
    Bytes,
    Cores,
    Count,
    Epochs,
    Flops,
    Joules,
    MeanLoss,
    Moment,
    Ordinal,
    PlainData,
    RecordId,
    Seconds,
    ShareOfTime,
    Whole,
    read_checked,
    shown,
)

SCHEMA_VERSION = 4
"""Goes up with each new field (4: options of losses). A reader takes its own version and every older one."""
TRAINING_REVISION = 3
"""Goes up when a mended fault changes what equal settings train; `outdated` says which older records that concerns."""

Status = Literal["finished", "diverged", "out_of_memory", "failed", "timed_out", "killed", "skipped"]
RESULTS: frozenset[Status] = frozenset({"finished", "diverged", "out_of_memory"})
"""Statuses that are answers: kept, and not rerun without `--force`."""
FAILURES: frozenset[Status] = frozenset({"failed", "timed_out", "killed"})
"""Statuses that the next `run` tries again."""


WITH_BATCHNORM = frozenset({"resnet", "speedrun"})
"""Our networks that revision 1 could train from other statistics than asked for."""


class NewerRecord(ValueError):
    """A record that a newer mnistbench wrote: nothing is wrong with it, and nothing may be done to it."""


def _square(confusion: list[list[int]]) -> list[list[int]]:
    if any(len(row) != len(confusion) for row in confusion):
        raise ValueError("it is not square")
    return confusion


def _going_up(epochs: list[EpochMeasurement]) -> list[EpochMeasurement]:
    numbers = [epoch.epoch for epoch in epochs]
    if numbers != sorted(set(numbers)):
        raise ValueError(f"their numbers do not go up: {shown(numbers)}")
    return epochs


@dataclass(frozen=True, kw_only=True)
class EpochMeasurement:
    """One pass over the training data and the evaluation after it. Losses that are not finite are None.

    Attributes:
        examples, steps: trained in this epoch.
        train_seconds: shuffling, batches, forward, backward, update; the device synchronized at both ends.
        eval_seconds: evaluation of test (and validation) data; on no training clock.
        train_loss, train_accuracy: means over the epoch's examples, taken while the weights were changing.
        cold_seconds: from the start of the cell's process to the end of this evaluation, without the seconds in which
            kernels were chosen, which only the first cell of its kind on a machine spends.
        train_joules: energy of the device over `train_seconds` (`Environment.energy_source` says whose); None where it
            is not measurable, and in records before schema 3.
        ended_at: UTC, ISO 8601.
    """

    epoch: Epochs
    examples: Count
    steps: Count
    train_seconds: Seconds
    eval_seconds: Seconds
    train_loss: MeanLoss | None
    train_accuracy: Accuracy | None
    test_loss: MeanLoss | None
    test_accuracy: Accuracy | None
    validation_loss: MeanLoss | None = None
    validation_accuracy: Accuracy | None = None
    cold_seconds: Seconds
    ended_at: Moment
    train_joules: Joules | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one attempt; set-up, warm-up, training and evaluation add to at most the wall (rule 5)."""

    setup_seconds: Seconds
    warmup_seconds: Seconds
    train_seconds: Seconds
    eval_seconds: Seconds
    wall_seconds: Seconds


@dataclass(frozen=True, kw_only=True)
class Model:
    """The trained network.

    Attributes:
        parameters: number of trainable numbers.
        train_flops_per_example: forward and backward, by torch's own counter; None where it cannot count.
        confusion: rows are true classes, columns predicted ones, on the test data after the last epoch.
        weights_sha256: of the state dict's tensors in order.
        weights: file names of kept models, relative to the results folder.
    """

    parameters: Count
    train_flops_per_example: Flops | None = None
    confusion: Annotated[list[list[Count]], AfterValidator(_square)] | None = None
    weights_sha256: str | None = None
    weights: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak bytes: resident set of the cell's process, and allocations on the device (None on the CPU), those of a
    captured graph included.

    The process's peak begins after kernels were chosen, where the system lets it (Linux); None for a cell that ran in
    the runner's own process.
    """

    process_peak_bytes: Bytes | None = None
    device_peak_bytes: Bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Causes of noise over the timed region (rule 12). None means that it could not be observed: unknown.

    Attributes:
        probe: seconds of the shared probe before and after the cell, by name: `compute`, `copy`, `launch`.
        foreign_cpu: CPU time of other processes as a share of the machine's capacity.
        steal, throttled: shares of time taken by the hypervisor, by the cgroup quota.
        gpu_slowdown: the GPU was slowed down for heat or by its power brake during the training.
        flags: names of what was over its limit, and `short` (rule 8), `shared`.
    """

    probe: dict[str, list[Seconds]] = field(default_factory=dict)
    foreign_cpu: ShareOfTime | None = None
    steal: ShareOfTime | None = None
    throttled: ShareOfTime | None = None
    gpu_slowdown: bool | None = None
    flags: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data really used."""

    sha256: str
    fallback: bool = False
    train_examples: Count | None = None
    test_examples: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where it ran. Hashes stand for the host and its GPU; no user name, host name or path is kept.

    Attributes:
        machine_id: hash that is the same for the same machine.
        machine_id_source: what the hash stays with: `system` (an id that the system has), `cache` (a random one in the
            user's cache folder), `boot` (neither: until the machine starts again); None in records before 0.2.0.
        device_name, device_id: of the GPU: its model, and a hash of its UUID. The id, `driver`, `cudnn` (its version
            as a number) and `power_limit_watts` are None on a CPU, where the driver does not tell, and before 0.2.0.
        energy_source: what counted `train_joules`: `nvml` (the GPU), `rapl` (its sockets); None if nothing could.
        peak_flops: GEMM rate measured on this machine in the session, by `device/precision`, FLOP/s.
    """

    machine_id: str
    machine_id_source: str | None = None
    machine: str
    os: str
    cpu: str
    physical_cores: Cores | None
    logical_cores: Cores | None
    memory_bytes: Bytes | None
    device_name: str | None = None
    device_id: str | None = None
    driver: str | None = None
    cudnn: Whole | None = None
    power_limit_watts: float | None = None
    smt: bool | None = None
    governor: str | None = None
    frequency_mhz: Annotated[float, Field(ge=0, le=1e9)] | None = None
    python: str
    torch: str
    cuda: str | None = None
    mnistbench: str
    git_commit: str | None = None
    git_dirty: bool | None = None
    energy_source: str | None = None
    peak_flops: dict[str, Flops] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Error:
    """Why a cell did not finish.

    Attributes:
        type: exception's class, signal's name, or `timeout`.
        message: one line.
        step: the step at which the loss stopped being finite.
        log: last lines the worker printed.
        stack: where the worker stood, for a hang.
    """

    type: str
    message: str
    step: Count | None = None
    log: str = ""
    stack: str = ""


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One attempt at one cell. Immutable; written once, whole, or not at all.

    Attributes:
        record_id: a uuid minted when the attempt starts; MLflow runs carry it as a tag.
        execution_resolved: the levers as they were really used, with what stepped aside under `stepped_aside`.
        round, position: place in the session's shuffled order.
        checks: `{"equivalence": "passed" | "failed: …" | "equivalent up to masks" | "outcome untested" | "reference"}`,
            and under `outputs` what a reader should know of the network's outputs.
        noisy_rerun: made because noise was seen in its round; that is done once (rule 12).
        protocol: version of the measurement protocol; different ones are never compared.
        training_revision: of the code that trained it; 1 where a record of an older schema does not say.
    """

    record_id: RecordId
    cell_id: str
    attempt: Ordinal = 1
    status: Status
    cell: Cell
    execution_resolved: PlainData = field(default_factory=dict)
    started_at: Moment
    round: Count = 0
    position: Count = 0
    epochs: Annotated[list[EpochMeasurement], AfterValidator(_going_up)] = field(default_factory=list)
    timing: Timing | None = None
    model: Model | None = None
    memory: Memory | None = None
    noise: Noise | None = None
    checks: dict[str, str] = field(default_factory=dict)
    data: Data | None = None
    environment: Environment | None = None
    error: Error | None = None
    noisy_rerun: bool = False
    protocol: Ordinal = 1
    training_revision: Ordinal = 1
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite become None, since JSON has no NaN, and halves of characters `?`."""
        plain: dict[str, Any] = plain_of(self)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> CellRecord:
        """Read a record.

        Raises:
            NewerRecord: if it is of a newer schema.
            ValueError: if it lacks a field, has one too many or one of another type or out of its bounds, or if its
                `cell_id` is not its cell's.
        """
        if not isinstance(plain, Mapping):
            raise ValueError("a record is a mapping")
        version = plain.get("schema_version")
        if type(version) is not int or version < 1:
            raise ValueError(f"schema version {version!r}, which there never was")
        if version > SCHEMA_VERSION:
            raise NewerRecord(f"schema version {version}, this mnistbench reads up to {SCHEMA_VERSION}")
        record = read_checked(cls, {**plain, "schema_version": SCHEMA_VERSION}, "record")
        if record.cell.cell_id != record.cell_id:
            raise ValueError(f"cell_id {record.cell_id} is not that of its settings, {record.cell.cell_id}")
        return record

    @property
    def outdated(self) -> str | None:
        """Why its numbers may not be those of its settings: older code trained some of them wrongly.

        None for a record that is up to date, or that no mended fault can have touched.
        """
        if self.training_revision >= TRAINING_REVISION or self.status not in RESULTS:
            return None
        if ":" in self.cell.dataset.name and self.cell.dataset.options.get("normalize"):
            return "a plug-in's data that was normalized once more"
        if self.training_revision >= 2:
            return None
        reasons = [
            (":" in self.cell.optimizer.name, "a plug-in's optimizer"),
            (":" in self.cell.architecture.name, "a plug-in's network"),
            (self.cell.architecture.name in WITH_BATCHNORM, "BatchNorm"),
            (self.checks.get("equivalence", "").startswith("failed"), "a failed equivalence gate"),
            (
                self.status == "finished" and any(epoch.test_loss is None for epoch in self.epochs),
                "a loss that was not finite",
            ),
        ]
        return next((reason for applies, reason in reasons if applies), None)

    def with_changes(self, **changes: Any) -> CellRecord:
        """A copy with some fields replaced."""
        return replace(self, **changes)


def plain_of(value: Any) -> Any:
    """Dataclasses as plain data; numbers that are not finite become None, and halves of characters `?`."""
    if isinstance(value, Cell):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_of(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {plain_of(str(key)): plain_of(field) for key, field in value.items()}
    if isinstance(value, list | tuple):
        return [plain_of(field) for field in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dump(record: CellRecord) -> str:
    """The record's file content."""
    return json.dumps(record.to_json(), allow_nan=False, ensure_ascii=False, indent=1)


def utc_now() -> str:
    """The time for people, as records write it; durations never come from it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
