"""Which differences are real: pairs of cells with intervals, noise floor and verdict (rules 14–18)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mnistbench.report import statistics
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.repeats import counted
from mnistbench.report.samples import ACCURACY_FLOOR, NEEDED, Field, Metric, Sample, fields

MOST_COMPARED = 60
"""Only so many settings of a group are compared pair by pair; Bonferroni still counts every pair there could be."""


@dataclass(frozen=True)
class Pair:
    """What can be said of two samples. `ratio` is how many times faster a is than b; for accuracies, a less b."""

    a: Sample
    b: Sample
    n: int
    ratio: float
    low: float
    high: float
    floor: float
    verdict: str
    reason: str
    method: str = "t"


def pairwise(frame: pd.DataFrame, metric: Metric = "examples_per_second") -> Exhibit:
    """Every pair of settings (`settings`: a cell without its seed) of one group, with a verdict.

    Columns: group, device (of both, or `cpu / cuda`), metric, settings_a, settings_b, label_a, label_b, n (rounds both
    ran), ratio (how many times faster a is than b; for test_accuracy the difference a − b, as a share), low, high
    (Bonferroni over the pairs of the group; NaN where there is no interval), floor (noise floor, as a share: 0.02),
    verdict (`faster`, `slower`, `same`, `unresolved` for a seen from b; `better`/`worse` for accuracy; "" when there
    is none), reason (why there is no verdict: "one run", "short", "equivalence not checked", …), method (`t`, `rank`).
    """
    rows, notes = [], []
    for found in fields(frame, metric):
        total = len(found.samples)
        pairs = compare_all(found, metric)
        rows += [{"group": found.group, "metric": metric, **_columns(pair)} for pair in pairs]
        if total > MOST_COMPARED:
            notes.append(f"{found.group}: the {MOST_COMPARED} best of {total} settings are compared.")
        counts = pd.Series([pair.verdict for pair in pairs if pair.verdict], dtype="str").value_counts()
        if len(counts):
            told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
            notes.append(f"{found.group}: of {counts.sum()} differences with a verdict, {told}.")
    if not rows:
        return nothing("Differences need at least two settings that finished on one machine and build.", notes)
    return Exhibit(pd.DataFrame(rows), notes=tuple(notes))


def compare_all(found: Field, metric: Metric, *, limit: int = MOST_COMPARED) -> list[Pair]:
    """All pairs of a group, best first, at most `limit` settings; intervals hold for all pairs at once."""
    ordered = sorted(found.samples, key=lambda sample: -sample.median)
    comparisons = math.comb(len(ordered), 2)
    return [compare_pair(found, a, b, metric, comparisons) for a, b in itertools.combinations(ordered[:limit], 2)]


def compare_chosen(frame: pd.DataFrame, metric: Metric, chosen: Sequence[tuple[str, str]]) -> list[tuple[str, Pair]]:
    """Given pairs of settings, group by group: (group, pair) for each that both ran there, in the order given.

    Bonferroni counts the pairs of the group.
    """
    result = []
    for found in fields(frame, metric):
        samples = {sample.settings: sample for sample in found.samples}
        here = [(samples[a], samples[b]) for a, b in chosen if a in samples and b in samples]
        result += [(found.group, compare_pair(found, a, b, metric, len(here))) for a, b in here]
    return result


def compare_pair(found: Field, a: Sample, b: Sample, metric: Metric, comparisons: int) -> Pair:
    """The verdict on two samples, or the reason why there is none (rules 14–18)."""
    common = [block for block in a.values if block in b.values]
    n = len(common)
    floor = ACCURACY_FLOOR if metric == "test_accuracy" else found.floor({a.device, b.device}, n)
    reason = _no_verdict(a, b, n, metric)
    first, second = (np.array([side.values[block] for block in common]) for side in (a, b))
    if not n or not np.isfinite([*first, *second]).all():
        return _ranked(a, b, n, floor=floor, reason=reason, comparisons=comparisons)
    pooled = None
    if metric != "test_accuracy":
        pooled = statistics.pooled_error(found.spreads.get(a.device), found.spreads.get(b.device), n)
    difference = statistics.paired_difference(first - second, pooled=pooled, comparisons=comparisons)
    value, low, high = difference.estimate, difference.low, difference.high
    if n < 3:
        low = high = math.nan
    if metric == "test_accuracy":
        verdict: str = statistics.verdict_within(difference, floor)
        verdict = {"faster": "better", "slower": "worse"}.get(verdict, verdict)
    else:
        verdict = statistics.speed_verdict(difference, floor)
        value, low, high = _exp(value), _exp(low), _exp(high)
    return Pair(a, b, n, value, low, high, floor, "" if reason else verdict, reason)


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def _ranked(a: Sample, b: Sample, n: int, *, floor: float, reason: str, comparisons: int) -> Pair:
    """Seeds that never reached the target: an exact rank test with them tied last (rule 18); it never says `same`."""
    gap = a.median - b.median if math.isfinite(a.median) or math.isfinite(b.median) else 0.0
    ratio = _exp(gap) if math.isfinite(gap) else math.nan
    if n == 0 and not reason:
        reason = "no common round"
    verdict = ""
    if not reason:
        p = statistics.rank_test([-value for value in a.values.values()], [-value for value in b.values.values()])
        proven = p * comparisons < 1 - statistics.CONFIDENCE and abs(gap) > math.log1p(floor)
        verdict = ("faster" if gap > 0 else "slower") if proven else "unresolved"
    return Pair(a, b, n, ratio, math.nan, math.nan, floor, verdict, reason, "rank")


def _no_verdict(a: Sample, b: Sample, n: int, metric: Metric) -> str:
    for side in (a, b):
        if hindered := side.unranked if metric == "test_accuracy" else side.obstacle:
            return hindered
    if n < 3:
        return ("no common round", "one run", "two runs")[n]
    needed = NEEDED[metric]
    return "" if n >= needed else f"needs {needed} seeds, {n} ran"


def _columns(pair: Pair) -> dict[str, Any]:
    devices = dict.fromkeys((pair.a.device, pair.b.device))
    return {
        "device": " / ".join(devices),
        "settings_a": pair.a.settings,
        "settings_b": pair.b.settings,
        "label_a": pair.a.label,
        "label_b": pair.b.label,
        "n": pair.n,
        "ratio": pair.ratio,
        "low": pair.low,
        "high": pair.high,
        "floor": pair.floor,
        "verdict": pair.verdict,
        "reason": pair.reason,
        "method": pair.method,
    }


def noise(frame: pd.DataFrame) -> Exhibit:
    """What the noise was: one row per group and device.

    Columns: group, device, runs, quiet (runs without a flag), noisy, short, shared, unknown (noise not observable),
    pooled_sd, twin_sd (A/A; NaN without twins), twin_pairs, rounds, floor (rule 16, as a share), flags (text: count by
    flag).
    """
    frame = counted(frame)
    rows = []
    for found in fields(frame, "examples_per_second"):
        here = frame[(frame["group"] == found.group) & (frame["status"] == "finished")]
        for kind, part in here.groupby("device"):
            device = str(kind)
            spread = found.spreads.get(device)
            twins = found.twins.get(device, [])
            counts = [len(sample.values) for sample in found.samples if sample.device == device]
            rounds = int(np.median(counts)) if counts else 0
            flags = part["flags"].str.split("; ").explode()
            rows.append(
                {
                    "group": found.group,
                    "device": device,
                    "runs": len(part),
                    "quiet": int((part["flags"] == "").sum()),
                    "noisy": int(part["noisy"].sum()),
                    "short": int(part["short"].sum()),
                    "shared": int((part["isolation"] != "alone").sum()),
                    "unknown": int((~part["noise_known"]).sum()),
                    "pooled_sd": spread.sd if spread else math.nan,
                    "twin_sd": statistics.twin_spread(twins) if twins else math.nan,
                    "twin_pairs": len(twins),
                    "rounds": rounds,
                    "floor": found.floor({device}, rounds),
                    "flags": ", ".join(f"{flag} {count}" for flag, count in flags[flags != ""].value_counts().items()),
                }
            )
    return Exhibit(pd.DataFrame(rows)) if rows else nothing("No cell finished, so nothing is known of the noise.")
