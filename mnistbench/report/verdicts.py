"""Which differences are real: pairs of settings with intervals and verdicts (rules 14 to 18)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from mnistbench.report import statistics
from mnistbench.report.blocks import NO_BLOCKS, CycleTable, cycle_table
from mnistbench.report.estimator import ENOUGH_CYCLES, cycles_wanted, holm, judge
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.samples import Metric, Sample, blocks_of, samples
from mnistbench.report.statistics import ACCURACY_FLOOR, INTERVAL_SEEDS, RANK_TEST_SEEDS
from mnistbench.words.wording import between, plural

MOST_COMPARED = 60
"""Only so many settings of a group are shown pair by pair, and tested for accuracy; all pairs count all the same."""
NOT_TIMED = "no blocks of speed"
PROVEN = 0.05


@dataclass(frozen=True)
class Pair:
    """What can be said of two settings. `ratio` is how many times faster a is than b; for accuracies, a less b.

    Attributes:
        n: common cycles, for accuracies common seeds.
        busy: judged on disturbed blocks too, because fewer than ten common cycles were undisturbed.
        new_seeds: the verdict on a time to target for seeds that were not run, from ten seeds on.
        more_seconds: about how much longer to time the settings until an open pair is settled.
        cycles: that a run plans for this, those that were taken among them.
        timed: the ratio is one of blocks, and not of the runs' own clock.
    """

    a: Sample
    b: Sample
    n: int
    ratio: float
    low: float = math.nan
    high: float = math.nan
    level: float = math.nan
    verdict: str = ""
    reason: str = ""
    method: str = "t"
    busy: bool = False
    new_seeds: str = ""
    more_seconds: float = math.nan
    cycles: float = math.nan
    timed: bool = False

    @property
    def text(self) -> str:
        """The verdict in words: `faster, busy`, or between what and what an open difference lies."""
        if self.verdict == "open" and math.isfinite(self.low + self.high):
            said = f"open: {between(self.low, self.high)}"
        else:
            said = {"same": "same (within 10 %)"}.get(self.verdict, self.verdict) or self.reason
        return f"{said}, busy" if self.busy else said


def pairwise(frame: pd.DataFrame, metric: Metric = "examples_per_second", blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """Every pair of settings (`settings`: a cell without its seed) of one group, with a verdict.

    A row has the columns of `Pair`, and of its sides settings, label and device (`settings_a`); no number where the
    equivalence gate did not pass.
    """
    rows, notes = [], []
    for group, pairs in compare(frame, metric, blocks).items():
        best_first = list(dict.fromkeys(side.settings for pair in pairs for side in (pair.a, pair.b)))
        shown = set(best_first[:MOST_COMPARED])
        rows += [{"group": group, **_columns(pair)} for pair in pairs if {pair.a.settings, pair.b.settings} <= shown]
        if len(best_first) > MOST_COMPARED:
            notes.append(f"{group}: the {MOST_COMPARED} best of {len(best_first)} settings are shown.")
        notes += _told(group, pairs)
    if not rows:
        return nothing("Differences need at least two settings that finished on one machine and build.", notes)
    return Exhibit(pd.DataFrame(rows), notes=tuple(notes))


def _told(group: str, pairs: Sequence[Pair]) -> Iterator[str]:
    counts = pd.Series([pair.verdict for pair in pairs if pair.verdict], dtype="str").value_counts()
    if len(counts):
        told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        busy = sum(pair.busy for pair in pairs)
        marked = f"; {busy} judged on disturbed blocks too (busy)" if busy else ""
        yield f"{group}: of {plural(int(counts.sum()), 'difference')} with a verdict, {told}{marked}."


def compare(
    frame: pd.DataFrame, metric: Metric, blocks: pd.DataFrame, chosen: Sequence[tuple[str, str]] | None = None
) -> dict[str, list[Pair]]:
    """Pairs of settings by group: all, best first, or the chosen ones that the group has, in the order given.

    Holm's procedure steps down over all of them.
    """
    by_group = {}
    for group, group_samples in samples(frame, metric, blocks).items():
        unit: Literal["examples", "steps"] = "steps" if metric == "seconds_to_target" else "examples"
        table = cycle_table(blocks_of(blocks, frame, group), unit=unit)
        best_first = sorted(group_samples, key=lambda sample: _worse(estimate(sample, metric, table), metric))
        if chosen is not None:
            by_settings = {sample.settings: sample for sample in best_first}
            wanted = [(by_settings[a], by_settings[b]) for a, b in chosen if {a, b} <= by_settings.keys()]
        else:
            most = MOST_COMPARED if metric == "test_accuracy" else None
            wanted = list(itertools.combinations(best_first[:most], 2))
        if metric == "test_accuracy":
            every = math.comb(len(best_first), 2)
            by_group[group] = _accuracy_pairs(wanted, len(wanted) if chosen is not None else every)
        else:
            by_group[group] = _speed_pairs(wanted, table, metric)
    return by_group


def estimate(sample: Sample, metric: Metric, table: CycleTable) -> float:
    """What is shown of a setting: by blocks where it has them, else the median of its seeds."""
    if sample.settings in table.settings and metric in ("examples_per_second", "seconds_to_target"):
        speed = table.speed(sample.settings).value
        if metric == "examples_per_second":
            return speed
        return math.inf if sample.bounded else sample.steps / speed
    return sample.median


def _worse(value: float, metric: Metric) -> float:
    """Sorts the best first, and what has no value last."""
    if math.isnan(value):
        return math.inf
    return -value if metric in ("examples_per_second", "test_accuracy") else value


def _speed_pairs(wanted: Sequence[tuple[Sample, Sample]], table: CycleTable, metric: Metric) -> list[Pair]:
    """Pairs judged by the blocks that both have in the same cycles; a time to target is steps × seconds a step."""
    to_target = metric == "seconds_to_target"
    place = {settings: number for number, settings in enumerate(table.settings)}
    steps = {side.settings: side.steps for pair in wanted for side in pair} if to_target else {}
    efforts = np.array([math.log(effort) if (effort := steps.get(key, 1.0)) > 0 else math.nan for key in place])
    reasons = [_no_verdict(a, b, place, metric) for a, b in wanted]
    judged = [pair for pair, reason in zip(wanted, reasons, strict=True) if not reason]
    numbers = np.array([(place[a.settings], place[b.settings]) for a, b in judged], np.int64).reshape(-1, 2)
    differences = judge(table.values - efforts, table.clean, table.looks, numbers)
    more = cycles_wanted(differences, int(table.looks.max(initial=0)) + 1)
    told = iter(zip(differences, more, strict=True))
    pairs = [
        _value_pair(a, b, table, metric, reason) if reason else _judged_pair(a, b, *next(told), table)
        for (a, b), reason in zip(wanted, reasons, strict=True)
    ]
    return _for_new_seeds(pairs) if to_target else pairs


def _value_pair(a: Sample, b: Sample, table: CycleTable, metric: Metric, reason: str) -> Pair:
    """A pair without a verdict: how many times faster a is by blocks where both have them, else by their seeds."""
    timed = metric != "cold_seconds" and {a.settings, b.settings} <= set(table.settings)
    counts = [len(table.column(side.settings)[0]) if timed else len(side.values) for side in (a, b)]
    first, second = (estimate(side, metric, table) if timed else side.median for side in (a, b))
    if metric != "examples_per_second":
        first, second = second, first
    known = math.isfinite(first) and math.isfinite(second) and second > 0
    return Pair(a, b, min(counts), first / second if known else math.nan, reason=reason, timed=timed)


def _judged_pair(a: Sample, b: Sample, difference: np.void, more: int, table: CycleTable) -> Pair:
    n, verdict = int(difference["n"]), str(difference["verdict"])
    if not verdict:
        said = f"{plural(n, 'common cycle')}, {ENOUGH_CYCLES} are needed" if n else "timed in no common cycle"
        return Pair(a, b, n, math.exp(difference["estimate"]) if n else math.nan, reason=said, timed=True)
    ratio, low, high = (math.exp(min(difference[name], 700.0)) for name in ("estimate", "low", "high"))
    if a.bounded or b.bounded:
        # A seed beyond the last evaluation is a bound: it can only prove that its setting is the slower one.
        consistent = (verdict == "faster" and not a.bounded) or (verdict == "slower" and not b.bounded)
        ratio, low, high = math.nan, math.nan, math.nan
        verdict, more = (verdict if consistent else "open"), 0
    level, busy = float(difference["level"]), bool(difference["busy"])
    pair = Pair(a, b, n, ratio, low, high, level, verdict, busy=busy, timed=True)
    return replace(pair, more_seconds=more * table.seconds_a_cycle, cycles=table.taken + more) if more else pair


def _no_verdict(a: Sample, b: Sample, place: Mapping[str, int], metric: Metric) -> str:
    if hindered := a.obstacle or b.obstacle:
        return hindered
    if metric == "cold_seconds":
        return "by the clock of the runs: values"
    return NOT_TIMED if a.settings not in place or b.settings not in place else ""


def _for_new_seeds(pairs: Sequence[Pair]) -> list[Pair]:
    """Times to target for seeds that were not run: an exact rank test of the seeds' times, from ten of each on."""
    told = list(pairs)
    asked = [
        place
        for place, pair in enumerate(pairs)
        if min(len(pair.a.values), len(pair.b.values)) >= INTERVAL_SEEDS and pair.verdict
    ]
    rejected, _ = holm(np.array([_rank_p(pairs[place].b, pairs[place].a) for place in asked]), PROVEN)
    for place, proven in zip(asked, rejected, strict=True):
        direction = "faster" if pairs[place].a.median < pairs[place].b.median else "slower"
        told[place] = replace(pairs[place], new_seeds=direction if proven else "open")
    return told


def _rank_p(a: Sample, b: Sample) -> float:
    return statistics.rank_test(list(a.values.values()), list(b.values.values()))


def _accuracy_pairs(wanted: Sequence[tuple[Sample, Sample]], comparisons: int) -> list[Pair]:
    """Values below seven seeds, an exact rank test from there on, a paired interval from ten common seeds on."""
    pairs = []
    for a, b in wanted:
        common = sorted(set(a.values) & set(b.values))
        n, gap = len(common), a.median - b.median
        few = min(len(a.values), len(b.values))
        reason = a.unranked or b.unranked
        if not reason and few < RANK_TEST_SEEDS:
            reason = f"needs {RANK_TEST_SEEDS} seeds, {few} ran"
        if reason:
            pairs.append(Pair(a, b, n, gap, reason=reason))
        elif n < INTERVAL_SEEDS:
            proven = _rank_p(a, b) * comparisons < PROVEN and gap != 0
            verdict = ("better" if gap > 0 else "worse") if proven else "open"
            pairs.append(Pair(a, b, n, gap, verdict=verdict, method="rank"))
        else:
            gaps = [a.values[seed] - b.values[seed] for seed in common]
            difference = statistics.paired_difference(gaps, comparisons=comparisons)
            verdict = statistics.verdict_within(difference, ACCURACY_FLOOR)
            level = PROVEN / comparisons
            pairs.append(Pair(a, b, n, difference.estimate, difference.low, difference.high, level, verdict))
    return pairs


def _columns(pair: Pair) -> dict[str, Any]:
    sides = {
        f"{name}_{letter}": getattr(side, name)
        for letter, side in (("a", pair.a), ("b", pair.b))
        for name in ("settings", "label", "device")
    }
    row = {**sides, **{name: value for name, value in vars(pair).items() if name not in ("a", "b")}, "text": pair.text}
    if hidden := pair.a.hidden or pair.b.hidden:
        row |= {"ratio": math.nan, "low": math.nan, "high": math.nan, "reason": hidden, "text": hidden}
    return row


def ratios(
    frame: pd.DataFrame, metric: Metric, blocks: pd.DataFrame, chosen: Sequence[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """The chosen pairs as rows of `pairwise`."""
    for group, pairs in compare(frame, metric, blocks, chosen).items():
        for pair in pairs:
            yield {"group": group, **_columns(pair)}
