"""Machines made up for the estimator: many sessions side by side, in which each setting is timed once a cycle.

One session has one clock. The logarithm of a block's slowness adds up: a drift that all settings share (a part that
lasts seconds and one that lasts minutes), the luck of its process, its own noise (Student's t with five degrees of
freedom, smaller the longer the block), and rare outliers without a cause. Foreign jobs stall a busy machine for 5 to
40 s, and most of the blocks they hit have a cause. The figures resemble what 505 recorded runs showed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnistbench.report.estimator import Booleans, Differences, Floats, judge

PLANTED = (1, 1, 1.05, 1.10, 1.20, 1.5, 1.5, 1.575, 2, 2, 3, 3)
"""Speeds of twelve settings, for what is told of true differences."""
TOLD_RATIOS = (1.10, 1.20, 1.5, 3.0)


@dataclass(frozen=True)
class Machine:
    """Standard deviations of logarithms, and seconds.

    Attributes:
        fast, slow: the two parts of the drift: deviation, and the time over which it forgets.
        process: the luck of a process.
        block: a block's own noise at 1.5 s; shorter ones have more.
        uneven: how unequally noisy the settings are (deviation of the logarithm of a factor).
        five_times: number of a setting with five times the noise.
        two_valued: settings whose processes come in two speeds.
        outliers: share of blocks that are slower without a cause.
        stalls: a second.
    """

    fast: tuple[float, float] = (0.065, 8.0)
    slow: tuple[float, float] = (0.06, 150.0)
    process: float = 0.03
    block: float = 0.03
    uneven: float = 0.3
    five_times: int | None = None
    two_valued: tuple[int, ...] = ()
    outliers: float = 0.0
    stalls: float = 0.0


MACHINES: Mapping[str, Machine] = {
    "even": Machine(fast=(0.0, 8.0), slow=(0.02, 150.0), process=0.04, block=0.0, uneven=0.0),
    "quiet": Machine(),
    "one setting five times as noisy": Machine(five_times=1),
    "busy": Machine(process=0.04, block=0.06, uneven=0.5, two_valued=(0, 8), outliers=0.01, stalls=1 / 200),
}
TWO_VALUED = 0.40, 0.35
"""How much slower the slow processes of such a setting are (logarithm), and how many of them there are."""
STALL_SECONDS, STALL_FACTOR, STALLS_SEEN = (5.0, 40.0), (2.5, 20.0), 0.85


class Sessions:
    """So many sessions of so many settings side by side, each with its own clock and drift."""

    def __init__(self, machine: Machine, grids: int, settings: int, random: np.random.Generator) -> None:
        self.machine, self.random, self.grids = machine, random, np.arange(grids)
        self.clock = np.zeros(grids)
        self.drifts = [part[0] * random.standard_normal(grids) for part in (machine.fast, machine.slow)]
        self.noisiness = np.exp(machine.uneven * random.standard_normal((grids, settings)))
        if machine.five_times is not None:
            self.noisiness[:, machine.five_times] *= 5
        self.stall_begins = self.stall_ends = np.full(grids, -1.0)

    def wait(self, seconds: Floats) -> None:
        """Let time pass, and the drift with it."""
        self.clock = self.clock + seconds
        for place, (deviation, memory) in enumerate((self.machine.fast, self.machine.slow)):
            kept = np.exp(-seconds / memory)
            new = deviation * np.sqrt(1 - kept**2) * self.random.standard_normal(len(self.grids))
            self.drifts[place] = self.drifts[place] * kept + new

    def block(self, setting: NDArray[np.int64], seconds: float) -> tuple[Floats, Booleans]:
        """Time in a fresh process what takes so many seconds at no slowness: the log of the slowness, and if clean."""
        machine, random, size = self.machine, self.random, len(self.grids)
        noisiness = self.noisiness[self.grids, setting]
        luck = machine.process * noisiness * random.standard_normal(size)
        shift, share = TWO_VALUED
        slow_ones = random.random(size) < share
        luck += np.isin(setting, machine.two_valued) * shift * (slow_ones - share)
        own = machine.block * (seconds / 1.5) ** -0.3 * noisiness * random.standard_t(5, size) / np.sqrt(5 / 3)
        own += (random.random(size) < machine.outliers) * random.uniform(0.2, 0.6, size)
        before = sum(self.drifts)
        work = seconds * np.exp(np.clip(before + luck + own, -2, 2))
        took = self._stalled(work)
        seen = (took > 1.05 * work) & (random.random(size) < STALLS_SEEN)
        self.wait(took)
        slowness: Floats = np.log(took / seconds) + (sum(self.drifts) - before) / 2
        return slowness, ~seen

    def _stalled(self, work: Floats) -> Floats:
        """How long the work takes if a foreign job comes in between."""
        if not self.machine.stalls:
            return work
        size = len(self.grids)
        over = self.stall_ends <= self.clock
        begins = self.clock + self.random.exponential(1 / self.machine.stalls, size)
        lasts = np.exp(self.random.uniform(*np.log(STALL_SECONDS), size))
        self.stall_begins = np.where(over, begins, self.stall_begins)
        self.stall_ends = np.where(over, begins + lasts, self.stall_ends)
        undisturbed = np.clip(self.stall_begins - self.clock, 0, work)
        inside = self.stall_ends - np.maximum(self.stall_begins, self.clock)
        factor = np.exp(self.random.uniform(*np.log(STALL_FACTOR), size))
        left = work - undisturbed
        return undisturbed + np.where(left * factor <= inside, left * factor, inside + left - inside / factor)


def timed(
    machine: Machine, speeds: Sequence[float], *, grids: int, cycles: int, seconds: float, overhead: float, seed: int
) -> tuple[Floats, Booleans]:
    """Logarithms of rates [grid, cycle, setting], and which blocks have no cause."""
    random = np.random.default_rng(seed)
    sessions = Sessions(machine, grids, len(speeds), random)
    values, clean = np.empty((grids, cycles, len(speeds))), np.empty((grids, cycles, len(speeds)), bool)
    for cycle in range(cycles):
        order = random.random((grids, len(speeds))).argsort(axis=1)
        for setting in order.T:
            slowness, undisturbed = sessions.block(setting, seconds)
            values[sessions.grids, cycle, setting] = np.log(speeds)[setting] - slowness
            clean[sessions.grids, cycle, setting] = undisturbed
            sessions.wait(np.full(grids, overhead))
    return values, clean


def pairs_of(settings: int) -> NDArray[np.int64]:
    """All pairs of so many settings."""
    return np.array(list(itertools.combinations(range(settings), 2)))


def judged(values: Floats, clean: Booleans, looks: NDArray[np.int64] | None = None) -> list[Differences]:
    """What the estimator says of each grid."""
    pairs = pairs_of(values.shape[2])
    looks = np.zeros(values.shape[1], np.int64) if looks is None else looks
    return [judge(rates, undisturbed, looks, pairs) for rates, undisturbed in zip(values, clean, strict=True)]


def names_a_winner(rows: Differences) -> bool:
    """Whether any setting is told to be faster than another."""
    return bool(np.isin(rows["verdict"], ("faster", "slower")).any())


def false_winners(
    *,
    grids: int,
    settings: Sequence[int] = (2, 4, 12, 24),
    cycles: Sequence[int] = (10, 16, 24),
    told: Callable[[str], None] = lambda line: None,
) -> dict[tuple[str, int, int], float]:
    """Of grids whose settings are all equal, the share in which one is told to be faster than another.

    By machine, number of settings, and number of cycles; the cycles of one session are the first of a longer one.
    """
    found = {}
    for place, (name, machine) in enumerate(MACHINES.items()):
        for count in settings:
            plan = {"cycles": max(cycles), "seconds": 0.1, "overhead": 0.2, "seed": 100 * place + count}
            values, clean = timed(machine, [1.0] * count, grids=grids, **plan)
            for taken in cycles:
                wrong = [names_a_winner(rows) for rows in judged(values[:, :taken], clean[:, :taken])]
                found[name, count, taken] = float(np.mean(wrong))
                told(f"{name}: {count} settings, {taken} cycles: {found[name, count, taken]:.3f}")
    return found


def power(
    machine: Machine, *, grids: int, cycles: int, seconds: float, overhead: float, seed: int = 7
) -> dict[str, float]:
    """Of twelve settings with `PLANTED` speeds: the share of pairs told rightly, by their true ratio; of all pairs that
    with a verdict; of grids with a wrong direction; and of grids in which exactly the fastest are beaten by none.
    """
    speeds = np.array(PLANTED, float)
    values, clean = timed(machine, PLANTED, grids=grids, cycles=cycles, seconds=seconds, overhead=overhead, seed=seed)
    pairs = pairs_of(len(PLANTED))
    truth = np.log(speeds[pairs[:, 0]] / speeds[pairs[:, 1]])
    verdicts = np.array([rows["verdict"] for rows in judged(values, clean)])
    direction = np.select([verdicts == "faster", verdicts == "slower"], [1, -1], 0)
    right = direction == np.sign(truth)
    told = {
        f"{ratio:g}": float(right[:, np.abs(np.abs(truth) - np.log(ratio)) < 0.012].mean()) for ratio in TOLD_RATIOS
    }
    beaten = np.zeros((grids, len(speeds)), bool)
    for place, (first, second) in enumerate(pairs):
        beaten[:, second] |= direction[:, place] == 1
        beaten[:, first] |= direction[:, place] == -1
    return {
        **told,
        "all": float((verdicts != "open").mean()),
        "wrong": float(((direction != 0) & ~right).any(axis=1).mean()),
        "first set": float((~beaten == (speeds == speeds.max())).all(axis=1).mean()),
    }
