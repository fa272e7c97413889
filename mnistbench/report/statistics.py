"""Intervals, the exact rank test, and the verdict on accuracies (rule 18). Plain numbers in and out."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
ACCURACY_FLOOR = 0.003
"""Accuracies within 0.3 points are the same: the margin of the gate's G4."""
RANK_TEST_SEEDS, INTERVAL_SEEDS = 7, 10
"""Seeds from which on accuracies get an exact rank test, and an interval (rule 18)."""

Floats = NDArray[np.float64]
Verdict = Literal["better", "worse", "same", "open"]


@dataclass(frozen=True)
class Interval:
    """A value with its interval.

    Attributes:
        kind: what the interval is, for print: `one run`, `2 runs`, `range of 3`, `95 % of 5`, `95 % of 12 (BCa)`.
    """

    value: float
    low: float
    high: float
    n: int
    kind: str

    def columns(self, value: str) -> dict[str, Any]:
        """As the columns of a table, in which the value has this name."""
        return {value: self.value, "low": self.low, "high": self.high, "n": self.n, "interval": self.kind}


def summarize(values: Sequence[float] | Floats, *, logarithmic: bool = True) -> Interval:
    """What is shown of repeats (rule 18).

    n = 1 the value; 2 both and their (geometric) mean; 3–4 median and range; 5–9 median and t interval, on logarithms
    for speeds and times; from 10 on BCa interval of the median. Infinite values (targets that were not reached) keep
    their place in the median and the range, and leave no room for an interval.
    """
    return _summarize(tuple(sorted(float(value) for value in values)), logarithmic)


@functools.lru_cache(maxsize=50_000)  # several exhibits ask for the same repeats, and the bootstrap costs milliseconds
def _summarize(values: tuple[float, ...], logarithmic: bool) -> Interval:
    data, n = np.array(values), len(values)
    if n < 2:
        value = float(data[0]) if n else math.nan
        return Interval(value, value, value, n, "one run" if n else "no run")
    low, high = float(data[0]), float(data[-1])
    if n == 2:
        return Interval(_mean(data, logarithmic), low, high, 2, "2 runs")
    median = float(np.median(data))
    if n < 5 or not np.isfinite(data).all() or low == high:
        return Interval(median, low, high, n, f"range of {n}")
    if n < 10:
        scaled = logarithmic and bool((data > 0).all())
        low, high = t_interval(np.log(data) if scaled else data)
        low, high = (math.exp(low), math.exp(high)) if scaled else (low, high)
        return Interval(median, min(low, median), max(high, median), n, f"95 % of {n}")
    low, high = _bca(data)
    return Interval(median, low, high, n, f"95 % of {n} (BCa)")


def _mean(data: Floats, logarithmic: bool) -> float:
    if not np.isfinite(data).all():
        return math.inf
    return float(np.exp(np.log(data).mean())) if logarithmic and (data > 0).all() else float(data.mean())


def t_interval(data: Floats, *, comparisons: int = 1) -> tuple[float, float]:
    """Student's interval of the mean of at least two values, which holds for so many comparisons (Bonferroni)."""
    quantile = _t_quantile(1 - (1 - CONFIDENCE) / 2 / max(comparisons, 1), len(data) - 1)
    half = quantile * data.std(ddof=1) / math.sqrt(len(data))
    return float(data.mean() - half), float(data.mean() + half)


RESAMPLES = 1999


def _bca(data: Floats) -> tuple[float, float]:
    """Bias-corrected, accelerated bootstrap interval of the median (Efron 1987); the range where it degenerates.

    The same resamples serve every sample of a size: a thousand intervals then cost a second (scipy's: five).
    """
    median = np.median(data)
    resampled = np.median(data[_resamples(len(data))], axis=1)
    below = float((resampled < median).mean() + (resampled == median).mean() / 2)
    left_out = np.array([np.median(np.delete(data, index)) for index in range(len(data))])
    gaps = left_out.mean() - left_out
    spread = float((gaps**2).sum())
    if not 0 < below < 1 or spread == 0:
        return float(data[0]), float(data[-1])
    bias = stats.norm.ppf(below)
    acceleration = float((gaps**3).sum()) / (6 * spread**1.5)
    tails = bias + stats.norm.ppf([0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    low, high = np.quantile(resampled, stats.norm.cdf(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)


@functools.lru_cache(maxsize=64)
def _resamples(size: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, size, (RESAMPLES, size))


def share_interval(reached: int, runs: int) -> tuple[float, float]:
    """Clopper–Pearson interval of the share of seeds that reach a target, where so many of these runs did."""
    interval = stats.binomtest(reached, runs).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Difference:
    """a less b, with its interval."""

    estimate: float
    low: float
    high: float


def paired_difference(differences: Sequence[float] | Floats, *, comparisons: int = 1) -> Difference:
    """The mean of at least two paired differences, with an interval that holds for all comparisons."""
    data = np.asarray(differences, dtype=float)
    return Difference(float(data.mean()), *t_interval(data, comparisons=comparisons))


@dataclass(frozen=True)
class Welch:
    """a less b of two independent samples, tested by Welch's t: its standard error, degrees of freedom and p."""

    estimate: float
    error: float
    df: float
    p: float

    def interval(self, level: float) -> tuple[float, float]:
        """The interval that misses the truth with this probability."""
        half = _t_quantile(1 - level / 2, self.df) * self.error
        return self.estimate - half, self.estimate + half


def welch(a: Floats, b: Floats) -> Welch:
    """Means of two independent samples of at least two values each."""
    parts = [float(side.var(ddof=1)) / len(side) for side in (a, b)]
    estimate, error = float(a.mean() - b.mean()), math.sqrt(sum(parts))
    below = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True))
    df = sum(parts) ** 2 / below if below > 0 else float(len(a) + len(b) - 2)
    p = float(2 * stats.t.sf(abs(estimate) / error, df)) if error > 0 else float(estimate == 0)
    return Welch(estimate, error, df, p)


@functools.lru_cache(maxsize=10_000)
def _t_quantile(probability: float, df: float) -> float:
    return float(stats.t.ppf(probability, df))


def verdict_within(difference: Difference, band: float) -> Verdict:
    """Verdict on a difference of accuracies against a band of half-width `band`; above 0 is `better`."""
    if -band <= difference.low and difference.high <= band:
        return "same"
    if difference.low > 0 and difference.estimate > band:
        return "better"
    if difference.high < 0 and difference.estimate < -band:
        return "worse"
    return "open"


def rank_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Exact two-sided p of the Wilcoxon–Mann–Whitney rank sum, ties included; infinite values are tied last.

    The distribution under exchange is counted, not approximated: the number of ways to pick len(a) of all midranks
    with each sum (scipy's exact method knows no ties, and its permutation test is too slow for all pairs of a grid).
    """
    ranks = np.rint(2 * stats.rankdata([*a, *b])).astype(int)
    observed = int(ranks[: len(a)].sum())
    ways = np.zeros((len(a) + 1, int(ranks.sum()) + 1))
    ways[0, 0] = 1
    for rank in ranks:
        for taken in range(len(a), 0, -1):
            ways[taken, rank:] += ways[taken - 1, : ways.shape[1] - rank]
    share = ways[len(a)] / ways[len(a)].sum()
    below, above = float(share[: observed + 1].sum()), float(share[observed:].sum())
    return min(1.0, 2 * min(below, above))
