"""Time to target: when a training first reached a test accuracy, told from its epochs.

The target belongs to the question, not to the record: whatever shows a time to target asks `time_to_target`, for the
targets that the grid names now (`targets_asked`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mnistbench.files.whole import read_regular
from mnistbench.results.records import EpochMeasurement

if TYPE_CHECKING:
    from mnistbench.results.folder import ResultsFolder


class CurvePoint(NamedTuple):
    """What one evaluation told, and when.

    Attributes:
        seconds: on the training clock so far.
        cold_seconds: from the start of the cell's process.
        joules: of the training so far; None unless every epoch so far has some, and its counter can tell.
    """

    epoch: int
    seconds: float
    cold_seconds: float
    test_accuracy: float | None
    joules: float | None = None


COUNTED_SECONDS = {"nvml": 1.0, "rapl": 0.01}
"""Ten steps of the counter, by what counts: NVML's advances every tenth of a second on an H200, where epochs of 0.16 s
had 30 or 78 J by chance; RAPL's every millisecond."""


def counted_joules(joules: float | None, seconds: float, source: str | None) -> float | None:
    """Energy of a training of so many seconds; None where that is too short for its counter to tell."""
    return None if seconds < COUNTED_SECONDS.get(source or "", 0.0) else joules


def evaluations(
    epochs: Iterable[EpochMeasurement | Mapping[str, Any]], energy_source: str | None = None
) -> tuple[CurvePoint, ...]:
    """The evaluations of a record's epochs, or of their plain JSON, in order.

    Args:
        energy_source: what counted their joules, as the record's environment says.
    """
    points: list[CurvePoint] = []
    seconds, joules = 0.0, 0.0
    for item in epochs:
        epoch = item if isinstance(item, Mapping) else vars(item)
        seconds += epoch["train_seconds"]
        measured = epoch.get("train_joules")
        joules = math.nan if measured is None else joules + measured
        known = counted_joules(None if math.isnan(joules) else joules, seconds, energy_source)
        points.append(CurvePoint(epoch["epoch"], seconds, epoch["cold_seconds"], epoch["test_accuracy"], known))
    return tuple(points)


def time_to_target(evaluated: Iterable[CurvePoint], target: float) -> CurvePoint | None:
    """The first evaluation whose test accuracy is at least the target (PROTOCOL rule 9); None if there is none."""
    return next(
        (point for point in evaluated if point.test_accuracy is not None and point.test_accuracy >= target), None
    )


def reachable(targets: Iterable[float], stops_at: float | None) -> tuple[float, ...]:
    """Those of the targets that a training could reach: one that stops at an accuracy says nothing of higher ones."""
    return tuple(target for target in sorted(set(targets)) if stops_at is None or not target > stops_at)


def targets_asked(folder: ResultsFolder) -> tuple[float, ...] | None:
    """The targets that the folder's present grid names, in ascending order.

    Returns:
        None where the folder does not say, so that only its records' own are known.
    """
    asked = folder.targets()
    return targets_of_grid_file(folder) if asked is None else asked


def targets_of_grid_file(folder: ResultsFolder) -> tuple[float, ...] | None:
    """What the resolved grid says, for a folder that does not store the targets beside the cells' ids, or those of its
    records; None where it does not say.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        grid: Any = YAML(typ="safe", pure=True).load(read_regular(folder.grid_file).decode())
        trainings = [grid["training"], *(more["training"] for more in grid.get("include") or ())]
        named = [training.get("target_accuracy") for training in trainings]
        targets = [target for item in named for target in (item if isinstance(item, list) else [item])]
        return tuple(sorted({float(target) for target in targets if isinstance(target, int | float)}))
    except (OSError, UnicodeDecodeError, YAMLError, RecursionError, KeyError, TypeError, AttributeError, OverflowError):
        return None
