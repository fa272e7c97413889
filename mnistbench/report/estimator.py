"""Which settings are faster, told from blocks of the same cycles (rules 15 to 17). Plain numbers in and out.

Two settings are compared over the cycles in which both have a block: a paired t test of the logarithms of their rates,
stepped down over all pairs of an exhibit (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ENOUGH_CYCLES = 10
"""Common cycles below which a pair is not judged: with 4 to 8, simulated grids of equal settings had 7 % winners."""
SAME = math.log(1.10)
"""Two settings whose whole interval lies within this are the same (within 10 %)."""
FIRST_LOOK, LATER_LOOKS = 0.04, 0.01
"""Of the 5 % the first session spends 4, and look k from the second on 1/2^(k-1), so that all together stay below 5."""

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Differences = NDArray[np.void]
"""One row a pair: n (cycles), estimate, low, high (logarithms; first less second), level (of its own step), verdict
(`faster`, `slower`, `same`, `open`; "" below ten cycles), busy (judged on disturbed blocks too)."""
_FIELDS = np.dtype(
    [("n", int), *((name, float) for name in ("estimate", "low", "high", "level")), ("verdict", "U6"), ("busy", bool)]
)
_STRENGTH = {"": 0, "open": 1, "same": 2, "faster": 3, "slower": 3}


def level_of(look: int) -> float:
    """The share of false winners that a look may spend; 0 is the first."""
    return FIRST_LOOK if look == 0 else LATER_LOOKS / 2**look


def judge(values: Floats, clean: Booleans, looks: NDArray[np.int64], pairs: NDArray[np.int64]) -> Differences:
    """All pairs of an exhibit. What one look has proven stays proven, since each spends a share of its own.

    Args:
        values: logarithm of the rate [cycle, setting], NaN where there is no block.
        clean: [cycle, setting], whether the block has no cause.
        looks: of each cycle, the number of its session in order of time, from 0.
        pairs: indices of the settings [pair, 2].
    """
    told = np.zeros(len(pairs), _FIELDS)
    for look in range(int(looks.max(initial=0)) + 1):
        seen = looks <= look
        now = _judge_look(values[seen], clean[seen], pairs, level_of(look))
        before, after = (np.array([_STRENGTH[text] for text in rows["verdict"]], int) for rows in (told, now))
        told = np.where(after >= before, now, told)
    return told


def _judge_look(values: Floats, clean: Booleans, pairs: NDArray[np.int64], level: float) -> Differences:
    first, second = pairs.T
    gaps = values[:, first] - values[:, second]
    there = np.isfinite(gaps)
    undisturbed = there & clean[:, first] & clean[:, second]
    busy = (undisturbed.sum(axis=0) < ENOUGH_CYCLES) & (there.sum(axis=0) >= ENOUGH_CYCLES)
    used = np.where(busy, there, undisturbed)
    n = used.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.where(used, gaps, 0).sum(axis=0) / n
        error = np.sqrt(np.where(used, (gaps - estimate) ** 2, 0).sum(axis=0) / (n - 1) / n)
        p = np.where(estimate == 0, 1.0, 2 * stats.t.sf(np.abs(estimate) / error, n - 1))
    judged = n >= ENOUGH_CYCLES
    rejected, levels = np.zeros(len(pairs), bool), np.full(len(pairs), np.nan)
    rejected[judged], levels[judged] = holm(p[judged], level)
    half = stats.t.ppf(1 - levels / 2, np.maximum(n - 1, 1)) * error
    inside = np.abs(estimate) + half <= SAME
    verdict = np.select(
        [~judged, rejected & (estimate > 0), rejected, inside], ["", "faster", "slower", "same"], "open"
    )
    told = np.zeros(len(pairs), _FIELDS)
    columns = (n, estimate, estimate - half, estimate + half, levels, verdict, busy)
    for name, column in zip(_FIELDS.names or (), columns, strict=True):
        told[name] = column
    return told


def holm(p: Floats, level: float) -> tuple[Booleans, Floats]:
    """Which hypotheses are rejected, stepping down from the smallest p, and the level of each one's own step.

    Those that are kept have the level at which the procedure stopped.
    """
    order = np.argsort(p, kind="stable")
    levels = level / np.arange(len(p), 0, -1)
    passed = np.logical_and.accumulate(p[order] <= levels)
    levels = np.where(passed, levels, levels[min(int(passed.sum()), len(p) - 1)]) if len(p) else levels
    rejected, own = np.empty(len(p), bool), np.empty(len(p))
    rejected[order], own[order] = passed, levels
    return rejected, own


def cycles_wanted(differences: Differences, look: int) -> NDArray[np.int64]:
    """About how many more cycles would settle each pair in a further session, if its estimate and its noise stay.

    Either the test rejects then or the interval lies inside ±10 %, whichever takes fewer. 0 for a pair that is settled.

    Args:
        differences: of `judge`, with a verdict.
        look: number of the session that would take them.
    """
    n, estimate = differences["n"].astype(float), np.abs(differences["estimate"])
    half = (differences["high"] - differences["low"]) / 2
    deviation = half / stats.t.ppf(1 - differences["level"] / 2, n - 1) * np.sqrt(n)
    level = differences["level"] * level_of(look) / level_of(look - 1)
    needed = n
    for _ in range(20):  # the critical value depends on the number of cycles
        critical = stats.t.ppf(1 - level / 2, np.maximum(needed, ENOUGH_CYCLES) - 1)
        needed = (critical * deviation / np.maximum(estimate, SAME - estimate)) ** 2
    more = np.where(differences["verdict"] == "open", np.maximum(np.ceil(needed - n), 1), 0)
    return more.astype(np.int64)


def ranks(verdicts: NDArray[np.str_], pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Of each of `count` settings its rank and the last one it may have: [setting, 2].

    The rank is one more than the number proven faster; the range ends at the number of settings less those it beats.
    """
    won = np.bincount(np.concatenate([pairs[verdicts == "faster", 0], pairs[verdicts == "slower", 1]]), minlength=count)
    lost = np.bincount(
        np.concatenate([pairs[verdicts == "slower", 0], pairs[verdicts == "faster", 1]]), minlength=count
    )
    return np.stack([1 + lost, count - won], axis=1)
