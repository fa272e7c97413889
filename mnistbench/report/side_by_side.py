"""Settings of two sets of results, matched: speeds by the sessions of their blocks, accuracies seed by seed."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mnistbench.report import statistics
from mnistbench.report.blocks import is_clean, undisturbed
from mnistbench.report.estimator import SAME, holm
from mnistbench.report.repeats import Repeats, repeats
from mnistbench.report.samples import Metric, blocks_of, obstacle, steps_to_target, unranked
from mnistbench.report.statistics import ACCURACY_FLOOR, INTERVAL_SEEDS, RANK_TEST_SEEDS, Floats
from mnistbench.report.verdicts import NOT_TIMED, PROVEN
from mnistbench.results.records import RESULTS

ENOUGH_SESSIONS = 3
"""Sessions a side, alternated, below which a difference may as well be the session's."""

Row = dict[str, Any]
"""Of the table of a `Comparison`, but for its label and what a threshold says of it."""


@dataclass(frozen=True)
class Side:
    """The runs of one side, and the blocks that it timed."""

    frame: pd.DataFrame
    blocks: pd.DataFrame


def speed_rows(a: Side, b: Side, metric: Metric) -> list[Row]:
    """Speeds or times to target of the settings that both sides have, with verdicts that hold for all of them."""
    to_target = metric == "seconds_to_target"
    rows: list[Row] = []
    judged: list[tuple[Row, statistics.Welch]] = []
    for first, second in _matched(a.frame, b.frame, metric):
        values = _values(a, first, b, second, metric)
        row = _about(first, second, metric) | _shown_speeds(first, second, values, metric)
        row["reason"] = _no_verdict(first, second, row, values)
        if values is not None:
            row |= {
                "n_a": len(values.a), "n_b": len(values.b), "unit": values.unit, "sessions_a": values.turns[0],
                "sessions_b": values.turns[1], "disturbed": values.disturbed,
                "confounded": not row["reason"] and min(values.turns) < ENOUGH_SESSIONS,
                "protocol": a.blocks["protocol"].iloc[0],
            }  # fmt: skip
            if not row["reason"]:
                efforts = [math.log(steps_to_target(runs)) if to_target else 0.0 for runs in (first, second)]
                judged.append((row, statistics.welch(values.b - efforts[1], values.a - efforts[0])))
        rows.append(row)
    rejected, levels = holm(np.array([test.p for _, test in judged]), PROVEN)
    for (row, test), proven, level in zip(judged, rejected, levels, strict=True):
        low, high = test.interval(float(level))
        if proven:
            row["verdict"] = "faster" if test.estimate > 0 else "slower"
        else:
            row["verdict"] = "same" if max(-low, high) <= SAME else "open"
        row |= {"low": math.exp(low), "high": math.exp(min(high, 700.0))}
    return rows


def _matched(a: pd.DataFrame, b: pd.DataFrame, metric: Metric) -> Iterator[tuple[Repeats, Repeats]]:
    """The same settings of both sides by machine and GPU; across machines only where they have none in common, and
    across builds of torch only where they have none in common on that machine.
    """
    theirs: defaultdict[str, list[Repeats]] = defaultdict(list)
    for runs in _runs(b, metric):
        theirs[runs.settings].append(runs)
    pairs: defaultdict[str, list[tuple[Repeats, Repeats]]] = defaultdict(list)
    for first in _runs(a, metric):
        others = (other for other in theirs[first.settings] if first.first("protocol") == other.first("protocol"))
        pairs[first.settings] += [(first, other) for other in others]
    for matched in pairs.values():
        near = [pair for pair in matched if _same_machine(*pair)] or matched
        have_common = {first.first("machine_id") for first, other in near if _same_build(first, other)}
        for first, other in near:
            if first.first("machine_id") not in have_common or _same_build(first, other):
                yield first, other


def _same_machine(a: Repeats, b: Repeats) -> bool:
    """Whether the speeds of two sides may be compared; two GPUs may carry one machine id (rented machines)."""
    return a.first("machine_id") == b.first("machine_id") and not _differ(a, b, "device_id", "device_name")


def _differ(a: Repeats, b: Repeats, *columns: str) -> bool:
    """Whether the first of these columns that both sides say is not the same in both."""
    known = ((a.texts(column) - {""}, b.texts(column) - {""}) for column in columns)
    return next((ours.isdisjoint(theirs) for ours, theirs in known if ours and theirs), False)


def _same_build(a: Repeats, b: Repeats) -> bool:
    return bool(a.first("torch") == b.first("torch"))


def _runs(frame: pd.DataFrame, metric: Metric) -> Iterator[Repeats]:
    """One run a seed of each settings: the same seed in another session is no other training."""
    rows = frame[(frame["repeat"] == 0) & (frame["group"] != "")]
    if metric == "seconds_to_target":
        rows = rows[rows["status"].isin(RESULTS) & rows["reached"].notna()]
    else:
        rows = rows[(rows["status"] == "finished") & rows[metric].notna()]
    latest = rows.sort_values("started_at", kind="stable").drop_duplicates(["group", "settings", "seed"], keep="last")
    return repeats(latest)


def _about(a: Repeats, b: Repeats, metric: Metric) -> Row:
    """What a row says of both sides before anything is compared."""
    machines = [f"{side.first('machine')} ({side.first('machine_id')[:8]})" for side in (a, b)]
    if a.first("machine_id") == b.first("machine_id") and not _same_machine(a, b):
        machines = [f"{machine} ({side.first('device_name')})" for machine, side in zip(machines, (a, b), strict=True)]
    return {
        "settings": a.settings, "device": a.first("device"), "metric": metric, "protocol": a.first("protocol"),
        "machine": machines[0] if _same_machine(a, b) else " → ".join(machines),
        "torch_a": a.first("torch"), "torch_b": b.first("torch"),
        "n_a": len(a), "n_b": len(b), "unit": "seeds", "sessions_a": 0, "sessions_b": 0,
        "low": math.nan, "high": math.nan, "verdict": "", "confounded": False, "disturbed": False,
    }  # fmt: skip


@dataclass(frozen=True)
class SpeedValues:
    """The values by which two sides are compared: logarithms of rates, each side's own, and what they are.

    Attributes:
        same_sessions: both sides are the very same sessions, which tell nothing of a difference.
    """

    a: Floats
    b: Floats
    unit: str
    turns: tuple[int, int]
    disturbed: bool
    same_sessions: bool


def _values(a: Side, first: Repeats, b: Side, second: Repeats, metric: Metric) -> SpeedValues | None:
    """A session's mean is one value, and sessions of one side that follow each other are one turn.

    Where one folder began as a copy of the other, a session that both hold counts on the side that has no others.
    """
    unit = "steps" if metric == "seconds_to_target" else "examples"
    sessions = []  # when, number of the side, name, logarithms of the rates of its blocks, whether it was disturbed
    for number, side, runs in ((0, a, first), (1, b, second)):
        blocks = blocks_of(side.blocks, side.frame, runs.group)
        own = blocks[(blocks["settings"] == runs.settings) & blocks["seconds"].notna()]
        for (started_at, name), rows in own.groupby(["started_at", "session"]):
            rates = np.log((rows[unit] / rows["seconds"]).to_numpy())
            sessions.append((started_at, number, name, *undisturbed(rates, is_clean(rows).to_numpy())))
    names = [{name for _, side, name, *_ in sessions if side == number} for number in (0, 1)]
    shared = names[0] & names[1]
    sessions = [each for each in sessions if each[2] not in shared or names[each[1]] <= shared]
    sessions.sort(key=lambda session: session[:3])
    own_rates = [[rates for _, side, _, rates, _ in sessions if side == number] for number in (0, 1)]
    if not all(own_rates):
        return None
    turns = [
        (number, float(np.mean([rates.mean() for _, _, _, rates, _ in turn])))
        for number, turn in itertools.groupby(sessions, key=lambda session: session[1])
    ]
    units = {
        "sessions in turns": [np.array([mean for side, mean in turns if side == number]) for number in (0, 1)],
        "sessions": [np.array([rates.mean() for rates in own]) for own in own_rates],
        "blocks": [np.concatenate(own) for own in own_rates],
    }
    chosen = next((name for name, values in units.items() if min(map(len, values)) >= ENOUGH_SESSIONS), "blocks")
    counts = len(units["sessions in turns"][0]), len(units["sessions in turns"][1])
    disturbed = any(session[-1] for session in sessions)
    return SpeedValues(
        units[chosen][0], units[chosen][1], chosen, counts, disturbed, bool(shared) and names[0] == names[1]
    )


def _shown_speeds(a: Repeats, b: Repeats, values: SpeedValues | None, metric: Metric) -> dict[str, float]:
    """What stands in the columns of both sides, and how many times faster b is."""
    to_target = metric == "seconds_to_target"
    own = [float(np.median(side.floats(metric, missing=math.inf))) for side in (a, b)]
    if values is not None:
        rates = [math.exp(side.mean()) for side in (values.a, values.b)]
        if to_target:
            timed = [steps_to_target(side) / rate for side, rate in zip((a, b), rates, strict=True)]
            own = [time if math.isfinite(old) else math.inf for time, old in zip(timed, own, strict=True)]
        else:
            own = rates
    over = own if to_target else own[::-1]
    known = all(map(math.isfinite, own)) and over[1] > 0
    return {"a": own[0], "b": own[1], "ratio": over[0] / over[1] if known else math.nan}


def _no_verdict(a: Repeats, b: Repeats, row: Row, values: SpeedValues | None) -> str:
    checks = [
        (a.first("machine_id") != b.first("machine_id"), "different machines: speeds are not ranked"),
        (not _same_machine(a, b), "different GPUs: speeds are not ranked"),
        (bool(obstacle(a) or obstacle(b)), obstacle(a) or obstacle(b)),
        (values is None, NOT_TIMED),
        (values is not None and values.same_sessions, "the same sessions on both sides"),
        (values is not None and min(len(values.a), len(values.b)) < 2, "one block a side"),
        (math.isnan(row["ratio"]), "a side has seeds that did not reach the target"),
    ]
    return next((reason for applies, reason in checks if applies), "")


def accuracy_rows(a: pd.DataFrame, b: pd.DataFrame) -> list[Row]:
    """Accuracies seed by seed: equal bits, or the paired differences of the seeds that both sides ran."""
    matched = list(_matched(a, b, "test_accuracy"))
    rows = []
    for first, second in matched:
        _, ours, theirs = np.intersect1d(first["seed"], second["seed"], return_indices=True)
        apart = first["record_id"][ours] != second["record_id"][theirs]
        if apart.any():  # a run that both hold tells nothing of a difference
            ours, theirs = ours[apart], theirs[apart]
        values = [side.floats("test_accuracy") for side in (first, second)]
        gaps, n = values[1][theirs] - values[0][ours], len(ours)
        row = _about(first, second, "test_accuracy") | {
            "a": float(np.median(values[0])), "b": float(np.median(values[1])),
            "ratio": float(gaps.mean()) if n else float(np.median(values[1]) - np.median(values[0])),
            "n_a": n or len(first), "n_b": n or len(second), "reason": unranked(first) or unranked(second),
        }  # fmt: skip
        if not row["reason"]:
            alike = n > 0 and all(_identical(first, *places, second) for places in zip(ours, theirs, strict=True))
            row |= {"verdict": "identical"} if alike else _paired_accuracies(gaps, len(matched))
        rows.append(row)
    return rows


def _identical(a: Repeats, place: int, other: int, b: Repeats) -> bool:
    """Whether two trainings with one seed did the same to the last bit, as far as their records tell."""
    hashes = {a["weights_sha256"][place], b["weights_sha256"][other]}
    if all(isinstance(value, str) for value in hashes) and len(hashes) > 1:
        return False
    evaluations = a["evaluations"][place], b["evaluations"][other]
    first, second = ([point.test_accuracy for point in points] for points in evaluations)
    return first == second


def _paired_accuracies(gaps: Floats, comparisons: int) -> Row:
    """The verdict on differences of the same seeds: an exact signed rank test, with an interval from ten on."""
    if len(gaps) < RANK_TEST_SEEDS:
        return {"reason": f"needs {RANK_TEST_SEEDS} common seeds, {len(gaps)} ran"}
    if len(gaps) < INTERVAL_SEEDS:
        exact = stats.PermutationMethod(n_resamples=2 ** len(gaps))
        p = stats.wilcoxon(gaps, zero_method="pratt", method=exact).pvalue if gaps.any() else 1.0
        verdict = ("better" if gaps.mean() > 0 else "worse") if p * comparisons < PROVEN else "open"
        return {"verdict": verdict}
    difference = statistics.paired_difference(gaps, comparisons=comparisons)
    verdict = statistics.verdict_within(difference, ACCURACY_FLOOR)
    return {"low": difference.low, "high": difference.high, "verdict": verdict}
