"""What a record measures: one row a quantity, from which frames, CSV files, MLflow, TensorBoard and the table of runs
are made.

A row computes its quantity from what a training was up to one of its epochs. So a curve by epoch says at each point
what the record would say had it ended there, and ends at the record's own value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from mnistbench.results.records import CellRecord
from mnistbench.results.targets import CurvePoint, counted_joules

Unit = Literal["s", "examples/s", "share", "", "count", "bytes", "FLOP", "FLOP/s", "J"]


def parts(value: Any) -> Mapping[str, Any]:
    """A dataclass' or a JSON object's fields, without copying what lies deeper; None has none."""
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else vars(value)


def ratio_of(over: float | None, under: float | None) -> float | None:
    """A quotient, None where either side is missing or the lower one is 0."""
    return over / under if over is not None and under else None


class TrainingSoFar(NamedTuple):
    """What a record holds up to one of its epochs: sums over them, the epoch itself, and what is told once.

    Attributes:
        record, last: the fields of the record and of the epoch; no epoch has none.
        counted: joules; None unless every epoch so far has some.
    """

    record: Mapping[str, Any]
    last: Mapping[str, Any] = MappingProxyType({})
    epochs: int = 0
    examples: int = 0
    steps: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    counted: float | None = 0.0
    best_test_accuracy: float | None = None

    def after(self, epoch: Mapping[str, Any]) -> TrainingSoFar:
        """The same with one epoch more."""
        joules, best, accuracy = epoch.get("train_joules"), self.best_test_accuracy, epoch["test_accuracy"]
        if best is None or (accuracy is not None and accuracy > best):
            best = accuracy
        return TrainingSoFar(
            self.record,
            epoch,
            self.epochs + 1,
            self.examples + epoch["examples"],
            self.steps + epoch["steps"],
            self.train_seconds + epoch["train_seconds"],
            self.eval_seconds + epoch["eval_seconds"],
            None if self.counted is None or joules is None else self.counted + joules,
            best,
        )

    def told(self, part: str, name: str) -> Any:
        """A field of a part of the record, such as `timing`; None where it has no such part."""
        return parts(self.record.get(part)).get(name)

    @property
    def joules(self) -> float | None:
        """What was counted, where that is long enough for its counter to tell."""
        source: str | None = self.told("environment", "energy_source")
        return counted_joules(self.counted, self.train_seconds, source)

    @property
    def flops_per_second(self) -> float | None:
        """By torch's count of an example's, at this rate."""
        rate, flops = ratio_of(self.examples, self.train_seconds), self.told("model", "train_flops_per_example")
        return None if rate is None or flops is None else rate * flops

    @property
    def peak_flops(self) -> float | None:
        """The GEMM rate that was measured for the device and the precision."""
        peaks = self.told("environment", "peak_flops") or {}
        precision = (self.record.get("execution_resolved") or {}).get("precision", "fp32")
        device = parts(self.record["cell"])["device"]
        known: float | None = peaks.get(f"{device}/{precision}", peaks.get(f"{device.partition(':')[0]}/{precision}"))
        return known


def by_epoch(record: CellRecord | Mapping[str, Any]) -> Iterator[TrainingSoFar]:
    """The training up to each of a record's epochs, in order."""
    training = TrainingSoFar(parts(record))
    for epoch in training.record.get("epochs") or ():
        training = training.after(parts(epoch))
        yield training


def whole(record: CellRecord | Mapping[str, Any]) -> TrainingSoFar:
    """The training up to its end."""
    none = TrainingSoFar(parts(record))
    return deque(by_epoch(record), maxlen=1).pop() if none.record.get("epochs") else none


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A quantity that is computed from a training.

    Attributes:
        name: its column in `results_frame` and in `results.csv`.
        value: the quantity up to an epoch; None where it was not measured.
        unit: of the stored value.
        dtype: of its column.
        by_epoch: its name in MLflow and TensorBoard, where it is a curve over the epochs; "" for none.
        at_end: its name in MLflow, where it is one number; "" for none.
        csv: whether `results.csv` has it.
        title: its heading in the report's table of every run; "" leaves it out.
        shown: the kind of text there (see `report.tables`).
        hidden: only shown there when asked for.
    """

    name: str
    unit: Unit
    value: Callable[[TrainingSoFar], float | None]
    dtype: str = "float64"
    by_epoch: str = ""
    at_end: str = ""
    csv: bool = True
    title: str = ""
    shown: str = "number"
    hidden: bool = False


@dataclass(frozen=True, kw_only=True)
class TargetMeasure:
    """A quantity at the first evaluation that passes a target; fields as `Measure`, for each target once.

    Attributes:
        title: of several targets, each stands in the place of the word "target".
    """

    name: str
    unit: Unit
    value: Callable[[CurvePoint], float | None]
    at_end: str = ""
    title: str = ""
    shown: str = "number"
    hidden: bool = False


MEASURES: tuple[Measure, ...] = (
    Measure(name="epochs_done", unit="count", value=lambda run: run.epochs, dtype="int64", csv=False),
    Measure(name="examples", unit="count", value=lambda run: run.examples, dtype="int64", csv=False),
    Measure(name="steps", unit="count", value=lambda run: run.steps, dtype="int64", csv=False),
    # From the first epoch on: the last point is the protocol's throughput, sum over sum.
    Measure(
        name="examples_per_second", unit="examples/s", value=lambda run: ratio_of(run.examples, run.train_seconds),
        by_epoch="speed/examples_per_second", title="examples/s", shown="rate",
    ),
    Measure(
        name="eval_examples_per_second", unit="examples/s", csv=False,
        value=lambda run: ratio_of((run.told("data", "test_examples") or 0) * run.epochs or None, run.eval_seconds),
    ),
    Measure(
        name="train_seconds", unit="s", value=lambda run: run.train_seconds if run.epochs else None,
        by_epoch="speed/train_seconds", title="training", shown="seconds",
    ),
    Measure(
        name="eval_seconds", unit="s", value=lambda run: run.eval_seconds if run.epochs else None,
        at_end="speed/eval_seconds",
    ),
    Measure(name="setup_seconds", unit="s", value=lambda run: run.told("timing", "setup_seconds")),
    Measure(
        name="warmup_seconds", unit="s", value=lambda run: run.told("timing", "warmup_seconds"),
        at_end="speed/warmup_seconds",
    ),
    Measure(
        name="wall_seconds", unit="s", value=lambda run: run.told("timing", "wall_seconds"),
        at_end="speed/wall_seconds", title="wall", shown="seconds", hidden=True,
    ),
    Measure(name="cold_seconds", unit="s", value=lambda run: run.last.get("cold_seconds"), csv=False),
    Measure(name="train_loss", unit="", value=lambda run: run.last.get("train_loss"), by_epoch="train/loss"),
    Measure(name="train_accuracy", unit="share", value=lambda run: run.last.get("train_accuracy"),
            by_epoch="train/accuracy"),
    Measure(name="test_loss", unit="", value=lambda run: run.last.get("test_loss"), by_epoch="test/loss"),
    Measure(
        name="test_accuracy", unit="share", value=lambda run: run.last.get("test_accuracy"),
        by_epoch="test/accuracy", at_end="final/test_accuracy", title="test accuracy", shown="percent",
    ),
    Measure(name="best_test_accuracy", unit="share", value=lambda run: run.best_test_accuracy,
            at_end="final/best_test_accuracy"),
    Measure(name="validation_loss", unit="", value=lambda run: run.last.get("validation_loss"),
            by_epoch="validation/loss"),
    Measure(name="validation_accuracy", unit="share", value=lambda run: run.last.get("validation_accuracy"),
            by_epoch="validation/accuracy"),
    Measure(name="parameters", unit="count", value=lambda run: run.told("model", "parameters"), dtype="Int64",
            at_end="model/parameters"),
    Measure(name="flops_per_example", unit="FLOP", value=lambda run: run.told("model", "train_flops_per_example"),
            csv=False),
    Measure(name="flops_per_second", unit="FLOP/s", value=lambda run: run.flops_per_second),
    Measure(
        name="peak_share", unit="share", value=lambda run: ratio_of(run.flops_per_second, run.peak_flops),
        title="share of peak", shown="share", hidden=True,
    ),
    Measure(
        name="process_peak_bytes", unit="bytes", value=lambda run: run.told("memory", "process_peak_bytes"),
        dtype="Int64", at_end="memory/process_peak_bytes", title="peak memory", shown="bytes", hidden=True,
    ),
    Measure(
        name="device_peak_bytes", unit="bytes", value=lambda run: run.told("memory", "device_peak_bytes"),
        dtype="Int64", at_end="memory/device_peak_bytes", title="device peak", shown="bytes", hidden=True,
    ),
    Measure(
        name="train_joules", unit="J", value=lambda run: run.joules if run.epochs else None,
        by_epoch="energy/train_joules", title="energy", shown="joules", hidden=True,
    ),
    Measure(
        name="joules_per_1000_examples", unit="J", value=lambda run: ratio_of(run.joules, run.examples / 1000),
        title="energy per 1,000 examples", shown="joules",
    ),
)  # fmt: skip

TARGET_MEASURES: tuple[TargetMeasure, ...] = (
    TargetMeasure(
        name="seconds_to_target", unit="s", value=lambda passed: passed.seconds, at_end="speed/seconds_to_target",
        title="time to target", shown="seconds",
    ),
    TargetMeasure(name="cold_seconds_to_target", unit="s", value=lambda passed: passed.cold_seconds,
                  at_end="speed/cold_seconds_to_target"),
    TargetMeasure(name="epochs_to_target", unit="count", value=lambda passed: passed.epoch),
    TargetMeasure(
        name="joules_to_target", unit="J", value=lambda passed: passed.joules, at_end="energy/joules_to_target",
        title="energy to target", shown="joules",
    ),
)  # fmt: skip
