"""The arithmetic of doubt: intervals, noise floor, exact rank test, verdict (rules 15–18). Plain numbers in and out."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
SMALLEST_FLOOR = 0.02
"""No speed difference under 2 % is ever called one: A/A pairs on a quiet machine differ by that much."""
ENOUGH_TWINS = 20
"""From so many A/A pairs on, their own 95th percentile replaces the assumption of normal noise."""
POOLED_CELLS = 12
"""Above so many cells one common error variance is no longer believed; each pair stands on its own."""

Floats = NDArray[np.float64]
Verdict = Literal["faster", "slower", "same", "unresolved", ""]


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
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, "no run")
    if n == 1:
        return Interval(float(data[0]), float(data[0]), float(data[0]), 1, "one run")
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


def t_interval(data: Floats) -> tuple[float, float]:
    """Student's interval of the mean of at least two values."""
    half = _t_quantile(0.5 + CONFIDENCE / 2, len(data) - 1) * data.std(ddof=1) / math.sqrt(len(data))
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


@functools.lru_cache(maxsize=10_000)
def reached_interval(reached: int, runs: int) -> tuple[float, float]:
    """Clopper–Pearson interval of the share of seeds that reached the target."""
    interval = stats.binomtest(reached, runs).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Spread:
    """Relative standard deviation of one run, and the degrees of freedom that it rests on."""

    sd: float
    df: int


def pooled_spread(table: Floats) -> Spread | None:
    """Spread of the error in `log value = cell + round + error`, cells in columns, rounds in rows, NaN where missing.

    None when nothing is left over to judge it by.
    """
    rows, columns = np.nonzero(np.isfinite(table))
    if len(rows) < 2:
        return None
    design = np.zeros((len(rows), sum(table.shape)))
    design[np.arange(len(rows)), columns] = 1
    design[np.arange(len(rows)), table.shape[1] + rows] = 1
    values = table[rows, columns]
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    df = len(rows) - int(rank)
    if df < 1:
        return None
    return Spread(math.sqrt(float(((values - design @ solution) ** 2).sum()) / df), df)


def twin_spread(differences: Sequence[float] | Floats) -> float | None:
    """Standard deviation of one run from the log ratios of A/A pairs; None without pairs."""
    data = np.asarray(differences, dtype=float)
    return math.sqrt(float((data**2).mean()) / 2) if len(data) else None


def noise_floor(pooled_sd: float | None, twin_differences: Sequence[float] | Floats, rounds: int) -> float:
    """The smallest difference that counts, as a share (rule 16): 0.02 for 2 %."""
    rounds = max(rounds, 1)
    twins = np.abs(np.asarray(twin_differences, dtype=float))
    if len(twins) >= ENOUGH_TWINS:
        return max(SMALLEST_FLOOR, float(np.percentile(twins, 95)) / math.sqrt(rounds))
    sd = max(pooled_sd or 0.0, twin_spread(twins) or 0.0)
    return max(SMALLEST_FLOOR, 2 * sd * math.sqrt(2 / rounds))


@dataclass(frozen=True)
class Difference:
    """a less b, on the scale that the test used (logarithms for speeds), with its interval and p value."""

    estimate: float
    low: float
    high: float
    p: float


def pooled_error(a: Spread | None, b: Spread | None, rounds: int) -> tuple[float, float] | None:
    """Standard error of a difference of two means over `rounds` from the pooled spreads of both devices, and its df."""
    if a is None or b is None:
        return None
    return math.sqrt((a.sd**2 + b.sd**2) / rounds), min(a.df, b.df)


def paired_difference(
    differences: Sequence[float] | Floats, *, pooled: tuple[float, float] | None, comparisons: int = 1
) -> Difference:
    """The mean of paired differences with a Bonferroni interval (rule 15).

    The standard error is the larger of the pooled and the pair's own, t on the degrees of freedom of the one taken.

    Args:
        differences: one per common round.
        pooled: from `pooled_error`; None above 12 cells, where the pair stands on its own.
        comparisons: pairs of the exhibit.
    """
    data = np.asarray(differences, dtype=float)
    n = len(data)
    candidates = [] if pooled is None else [pooled]
    if n > 1:
        candidates.append((float(data.std(ddof=1)) / math.sqrt(n), n - 1))
    if not candidates:
        return Difference(float(data.mean()), -math.inf, math.inf, 1.0)
    return _t_difference(float(data.mean()), *max(candidates), comparisons)


def unpaired_difference(
    a: Sequence[float] | Floats, b: Sequence[float] | Floats, *, comparisons: int = 1, confidence: float = CONFIDENCE
) -> Difference:
    """Difference of means of two independent samples of at least two each, by Welch."""
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    parts = [float(side.var(ddof=1)) / len(side) for side in (first, second)]
    error = math.sqrt(sum(parts))
    below = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (first, second), strict=True))
    df = sum(parts) ** 2 / below if below > 0 else float(len(first) + len(second) - 2)
    return _t_difference(float(first.mean() - second.mean()), error, df, comparisons, confidence)


def _t_difference(
    estimate: float, error: float, df: float, comparisons: int, confidence: float = CONFIDENCE
) -> Difference:
    half = _t_quantile(1 - (1 - confidence) / 2 / max(comparisons, 1), df) * error
    p = float(2 * stats.t.sf(abs(estimate) / error, df)) if error > 0 else float(estimate == 0)
    return Difference(estimate, estimate - half, estimate + half, p)


@functools.lru_cache(maxsize=10_000)
def _t_quantile(probability: float, df: float) -> float:
    return float(stats.t.ppf(probability, df))


def verdict_within(difference: Difference, band: float) -> Verdict:
    """Verdict on a difference against a band of half-width `band` on the same scale; above 0 is `faster` (rule 17)."""
    if -band <= difference.low and difference.high <= band:
        return "same"
    if difference.low > 0 and difference.estimate > band:
        return "faster"
    if difference.high < 0 and difference.estimate < -band:
        return "slower"
    return "unresolved"


def speed_verdict(difference: Difference, floor: float) -> Verdict:
    """Verdict on a log ratio of speeds against the noise floor (rule 17); a ratio above 1 is `faster`."""
    return verdict_within(difference, math.log1p(floor))


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
