"""Two sets of results, cell by cell: did anything become slower? (rule 21)"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from scipy import stats

from mnistbench.errors import UserError
from mnistbench.report import statistics
from mnistbench.report.blocks import NO_BLOCKS, is_clean, undisturbed
from mnistbench.report.estimator import SAME, holm
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.frame import ask, at_target, targets_in
from mnistbench.report.labels import labels, shared
from mnistbench.report.repeats import Repeats, repeats, without_equal_seeds, without_older, without_trials
from mnistbench.report.samples import (
    ACCURACY_FLOOR,
    INTERVAL_SEEDS,
    RANK_TEST_SEEDS,
    Metric,
    blocks_of,
    obstacle,
    steps_to_target,
    unranked,
    with_gate_of_blocks,
)
from mnistbench.report.statistics import Floats
from mnistbench.report.verdicts import NOT_TIMED, PROVEN
from mnistbench.results.records import RESULTS
from mnistbench.words import markdown
from mnistbench.words.wording import accuracy_text, interval_text, percent, plural, seconds_text, times

METRICS: tuple[Metric, ...] = ("examples_per_second", "seconds_to_target", "test_accuracy")
ENOUGH_SESSIONS = 3
"""Sessions a side, alternated, below which a difference may as well be the session's."""


@dataclass(frozen=True)
class Threshold:
    """What counts as a regression: throughput lower by a share, or test accuracy by points (0.003 for `worse=0.3%`)."""

    kind: Literal["slower", "worse"]
    share: float


def parse_threshold(text: str) -> Threshold:
    """Read `slower=5%` or `worse=0.3%`.

    Raises:
        UserError: if it is neither.
    """
    found = re.fullmatch(r"(slower|worse)=(\d+(?:\.\d+)?)\s*%", text.strip())
    if found is None or not 0 <= float(found[2]) < 100:
        raise UserError(f"--fail-on {text}: expected `slower=5%` (throughput) or `worse=0.3%` (points of accuracy)")
    return Threshold(cast(Literal["slower", "worse"], found[1]), float(found[2]) / 100)


@dataclass(frozen=True)
class Comparison:
    """B seen from A.

    Attributes:
        table: columns settings, label, device, machine, metric (examples_per_second, seconds_to_target,
            test_accuracy), target_accuracy (of a time to target, else NaN), a, b (medians, or means of blocks), n_a,
            n_b, unit (what n counts: sessions, blocks, seeds), sessions_a, sessions_b (in turns), ratio (how many times
            faster b is than a; for accuracy b − a), low, high, verdict (of b), confounded (bool), disturbed (bool),
            reason, regression, undecided (bool), torch_a, torch_b, protocol.
        only_a, only_b: labels of settings that only one side has.
        notes: what the reader must know: confounded sessions, versions that differ, protocols that were not compared.
        regressions: number of rows whose whole interval lies beyond the threshold.
        undecided: number of settings of which the threshold could not be judged.
        allow_undecided: they are no reason to fail.
    """

    table: Exhibit
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    notes: tuple[str, ...]
    regressions: int
    undecided: int = 0
    allow_undecided: bool = False

    @property
    def exit_code(self) -> int:
        """5 on a regression, else 6 where anything was undecided and may not be, else 0."""
        if self.regressions:
            return 5
        return 6 if self.undecided and not self.allow_undecided else 0

    def to_text(self) -> str:
        """The comparison as plain text for a terminal."""
        head = "\n".join(map(markdown.one_line, self.notes))
        if not self.table:
            return f"{markdown.one_line(self.table.reason)}\n{head}".strip()
        rows = pd.DataFrame([list(map(markdown.one_line, row)) for row in self._rows()], columns=_HEADERS)
        return f"{rows.to_string(index=False)}\n\n{head}".rstrip()

    def to_markdown(self) -> str:
        """The comparison as Markdown for a file or an issue."""
        body = markdown.table(_HEADERS, self._rows()) if self.table else markdown.escape(self.table.reason)
        return "\n\n".join(["# B compared with A", body, *(f"- {markdown.escape(note)}" for note in self.notes)]) + "\n"

    def _rows(self) -> list[list[str]]:
        return [_shown(row) for row in self.table.frame.to_dict("records")]


_HEADERS = ["cell", "machine", "metric", "A", "B", "n", "B over A", "interval", "verdict"]
_WORDS = {
    "examples_per_second": "examples/s",
    "seconds_to_target": "time to {target}",
    "test_accuracy": "test accuracy",
}


def _shown(row: dict[Any, Any]) -> list[str]:
    text: Callable[[float], str] = {
        "examples_per_second": lambda value: f"{value:,.0f}",
        "seconds_to_target": seconds_text,
        "test_accuracy": accuracy_text,
    }[row["metric"]]
    if row["metric"] == "test_accuracy":
        ratio, proof = f"{100 * row['ratio']:+.2f} points", ""
        if math.isfinite(row["low"]):
            proof = f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}"
    else:
        ratio = f"{times(row['ratio'])} as fast" if math.isfinite(row["ratio"]) else ""
        proof = interval_text(row["low"], row["high"])
    verdict = row["verdict"] or f"none ({row['reason']})"
    if row["verdict"] == "identical":
        verdict = f"identical in {row['n_a']} of {plural(row['n_a'], 'seed')}"
    marks = [
        *["confounded"] * row["confounded"],
        *["in a session that was disturbed"] * row["disturbed"],
        *["REGRESSION"] * row["regression"],
    ]
    machine = markdown.one_line(f"{row['machine']}, protocol {row['protocol']}")
    n = f"{row['n_a']} / {row['n_b']} {row['unit']}"
    label = markdown.one_line(row["label"])
    medians = [text(row["a"]), text(row["b"])]
    words = _WORDS[row["metric"]].format(target=accuracy_text(row["target_accuracy"]))
    return [label, machine, words, *medians, n, ratio, proof, ", ".join([verdict, *marks])]


@dataclass(frozen=True)
class Side:
    """The runs of one side, and the blocks that it timed."""

    frame: pd.DataFrame
    blocks: pd.DataFrame

    def at(self, targets: Sequence[float], target: float) -> Side:
        """The same with one target asked of its runs."""
        return replace(self, frame=at_target(ask(self.frame, targets), target))


def compare(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    blocks_a: pd.DataFrame = NO_BLOCKS,
    blocks_b: pd.DataFrame = NO_BLOCKS,
    fail_on: Threshold | None = None,
    allow_undecided: bool = False,
) -> Comparison:
    """Compare two frames of `results_frame`, settings by settings, on the same machine, device and protocol.

    Speeds are compared by blocks (`blocks_frame`). With at least three sessions a side, in turns, the mean of each turn
    is one value; with fewer the verdict is about these sessions, and confounded. Times to target are compared at every
    target that either side asks about: steps to it, at the seconds a step of the blocks. Accuracies are compared seed
    by seed.
    """
    sides = [
        Side(without_equal_seeds(without_older(without_trials(with_gate_of_blocks(frame, blocks)))), blocks)
        for frame, blocks in ((a, blocks_a), (b, blocks_b))
    ]
    a, b = (side.frame for side in sides)
    both = pd.concat([a, b], ignore_index=True)
    names = labels(both) if len(both) else {}
    only_a, only_b = (_only(side, other, names) for side, other in ((a, b), (b, a)))
    targets = sorted({*targets_in(a), *targets_in(b)})
    rows = _speed_rows(sides[0], sides[1], "examples_per_second")
    for target in targets:
        asked = [side.at(targets, target) for side in sides]
        rows += [{**row, "target_accuracy": target} for row in _speed_rows(asked[0], asked[1], "seconds_to_target")]
    rows += _accuracy_rows(a, b)
    rows = [{"label": names[row["settings"]], "target_accuracy": math.nan, **row} for row in rows]
    rows = [{**row, "regression": _is_regression(row, fail_on), "undecided": _is_open(row, fail_on)} for row in rows]
    table = pd.DataFrame(rows)
    undecided = _undecided(a, b, table, fail_on) + (len(only_a) + len(only_b) if fail_on else 0)
    notes = [*_notes(a, b, table, fail_on, undecided)]
    notes += [markdown.one_line(text) for text in shared(both)] if len(both) else []
    for name, only in (("A", only_a), ("B", only_b)):
        if only:
            notes.append(f"Only in {name}: {', '.join(only[:10])}{' …' if len(only) > 10 else ''}.")
    exhibit = Exhibit(table) if rows else nothing("The two sets have no finished cell in common.")
    regressions = int(table["regression"].sum()) if rows else 0
    return Comparison(exhibit, only_a, only_b, tuple(notes), regressions, undecided, allow_undecided)


def _only(side: pd.DataFrame, other: pd.DataFrame, names: dict[str, str]) -> tuple[str, ...]:
    there = set(other["settings"])
    return tuple(names[settings] for settings in dict.fromkeys(side["settings"]) if settings not in there)


def _matched(a: pd.DataFrame, b: pd.DataFrame, metric: Metric) -> Iterator[tuple[Repeats, Repeats]]:
    """The same settings of both sides by machine and build; across machines only where they have none in common."""
    sides = [list(_runs(side, metric)) for side in (a, b)]
    by_settings: dict[str, list[Repeats]] = {}
    for runs in sides[1]:
        by_settings.setdefault(runs.settings, []).append(runs)
    machines_a: dict[str, set[str]] = {}
    for runs in sides[0]:
        machines_a.setdefault(runs.settings, set()).add(runs.first("machine_id"))
    for first in sides[0]:
        others = by_settings.get(first.settings, [])
        common = machines_a[first.settings] & {other.first("machine_id") for other in others}
        for second in others:
            same_machine = first.first("machine_id") == second.first("machine_id")
            if first.first("protocol") == second.first("protocol") and (same_machine or not common):
                yield first, second


def _runs(frame: pd.DataFrame, metric: Metric) -> Iterator[Repeats]:
    """One run a seed of each settings: the same seed in another session is no other training."""
    rows = frame[(frame["repeat"] == 0) & (frame["group"] != "")]
    if metric == "seconds_to_target":
        rows = rows[rows["status"].isin(RESULTS) & rows["reached"].notna()]
    else:
        rows = rows[(rows["status"] == "finished") & rows[metric].notna()]
    latest = rows.sort_values("started_at", kind="stable").drop_duplicates(["group", "settings", "seed"], keep="last")
    return repeats(latest)


@dataclass(frozen=True)
class SpeedValues:
    """The values by which two sides are compared: logarithms of rates, each side's own, and what they are."""

    a: Floats
    b: Floats
    unit: str
    turns: tuple[int, int]
    disturbed: bool

    @property
    def confounded(self) -> bool:
        """Versions and sessions changed together."""
        return min(self.turns) < ENOUGH_SESSIONS


def _speed_rows(a: Side, b: Side, metric: Metric) -> list[dict[str, Any]]:
    """Speeds or times to target of the settings that both sides have, with verdicts that hold for all of them."""
    to_target = metric == "seconds_to_target"
    rows: list[dict[str, Any]] = []
    tests: list[statistics.Welch | None] = []
    for first, second in _matched(a.frame, b.frame, metric):
        values = _values(a, first, b, second, metric)
        row = {**_about(first, second), "metric": metric, **_shown_speeds(first, second, values, metric)}
        row["reason"] = _no_verdict(first, second, row, values)
        test = None
        if values is not None:
            row |= {
                "n_a": len(values.a), "n_b": len(values.b), "unit": values.unit, "sessions_a": values.turns[0],
                "sessions_b": values.turns[1], "confounded": values.confounded, "disturbed": values.disturbed,
            }  # fmt: skip
            if not row["reason"]:
                efforts = [math.log(steps_to_target(runs)) if to_target else 0.0 for runs in (first, second)]
                test = statistics.welch(values.b - efforts[1], values.a - efforts[0])
        rows.append(row)
        tests.append(test)
    judged = [(row, test) for row, test in zip(rows, tests, strict=True) if test is not None]
    rejected, levels = holm(np.array([test.p for _, test in judged]), PROVEN)
    for (row, test), proven, level in zip(judged, rejected, levels, strict=True):
        low, high = test.interval(float(level))
        if proven:
            row["verdict"] = "faster" if test.estimate > 0 else "slower"
        else:
            row["verdict"] = "same" if max(-low, high) <= SAME else "open"
        row |= {"low": math.exp(low), "high": math.exp(min(high, 700.0))}
    return rows


def _about(a: Repeats, b: Repeats) -> dict[str, Any]:
    """What a row says of both sides before anything is compared."""
    machines = [str(side.first("machine")) for side in (a, b)]
    same_machine = a.first("machine_id") == b.first("machine_id")
    return {
        "settings": a.settings,
        "device": a.first("device"),
        "machine": machines[0] if same_machine else " → ".join(machines),
        "n_a": len(a),
        "n_b": len(b),
        "unit": "seeds",
        "sessions_a": 0,
        "sessions_b": 0,
        "low": math.nan,
        "high": math.nan,
        "verdict": "",
        "confounded": False,
        "disturbed": False,
        "torch_a": a.first("torch"),
        "torch_b": b.first("torch"),
        "protocol": a.first("protocol"),
    }


def _values(a: Side, first: Repeats, b: Side, second: Repeats, metric: Metric) -> SpeedValues | None:
    """A session's mean is one value, and sessions of one side that follow each other are one turn."""
    unit = "steps" if metric == "seconds_to_target" else "examples"
    found = [
        _sessions(blocks_of(side.blocks, side.frame, runs.group), runs.settings, unit)
        for side, runs in ((a, first), (b, second))
    ]
    if not all(found):
        return None
    order = sorted((session.started_at, number, session) for number, side in enumerate(found) for session in side)
    turns: list[tuple[int, list[float]]] = []
    for _, number, session in order:
        if not turns or turns[-1][0] != number:
            turns.append((number, []))
        turns[-1][1].append(session.mean)
    by_side = [np.array([np.mean(means) for side, means in turns if side == number]) for number in (0, 1)]
    counts = len(by_side[0]), len(by_side[1])
    disturbed = any(session.disturbed for side in found for session in side)
    if min(counts) >= ENOUGH_SESSIONS:
        return SpeedValues(by_side[0], by_side[1], "sessions in turns", counts, disturbed)
    if min(map(len, found)) >= ENOUGH_SESSIONS:
        means = [np.array([session.mean for session in side]) for side in found]
        return SpeedValues(means[0], means[1], "sessions", counts, disturbed)
    whole = [np.concatenate([session.values for session in side]) for side in found]
    return SpeedValues(whole[0], whole[1], "blocks", counts, disturbed)


@dataclass(frozen=True, order=True)
class SessionSpeed:
    """The blocks of one setting in one session."""

    started_at: str
    name: str
    values: Floats
    disturbed: bool

    @property
    def mean(self) -> float:
        """Mean of the logarithms."""
        return float(self.values.mean())


def _sessions(blocks: pd.DataFrame, settings: str, unit: str) -> list[SessionSpeed]:
    own = blocks[(blocks["settings"] == settings) & blocks["seconds"].notna()]
    own = own.assign(value=np.log(own[unit] / own["seconds"]), clean=is_clean(own))
    return [
        SessionSpeed(str(started_at), str(name), *undisturbed(rows["value"].to_numpy(), rows["clean"].to_numpy()))
        for (started_at, name), rows in own.groupby(["started_at", "session"])
    ]


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
    over = own[::-1] if not to_target else own
    known = all(map(math.isfinite, own)) and over[1] > 0
    return {"a": own[0], "b": own[1], "ratio": over[0] / over[1] if known else math.nan}


def _no_verdict(a: Repeats, b: Repeats, row: dict[str, Any], values: SpeedValues | None) -> str:
    checks = [
        (a.first("machine_id") != b.first("machine_id"), "different machines: speeds are not ranked"),
        (bool(obstacle(a) or obstacle(b)), obstacle(a) or obstacle(b)),
        (values is None, NOT_TIMED),
        (values is not None and min(len(values.a), len(values.b)) < 2, "one block a side"),
        (math.isnan(row["ratio"]), "a side has seeds that did not reach the target"),
    ]
    return next((reason for applies, reason in checks if applies), "")


def _accuracy_rows(a: pd.DataFrame, b: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracies seed by seed: equal bits, or the paired differences of the seeds that both sides ran."""
    matched = list(_matched(a, b, "test_accuracy"))
    rows = []
    for first, second in matched:
        row = {**_about(first, second), "metric": "test_accuracy"}
        sides = [dict(zip(side["seed"].tolist(), range(len(side)), strict=True)) for side in (first, second)]
        seeds = sorted(set(sides[0]) & set(sides[1]))
        values = [side.floats("test_accuracy") for side in (first, second)]
        gaps = np.array([values[1][sides[1][seed]] - values[0][sides[0][seed]] for seed in seeds])
        n = len(seeds)
        row |= {
            "a": float(np.median(values[0])), "b": float(np.median(values[1])),
            "ratio": float(gaps.mean()) if n else float(np.median(values[1]) - np.median(values[0])),
            "n_a": n or len(first), "n_b": n or len(second), "reason": unranked(first) or unranked(second),
        }  # fmt: skip
        alike = n > 0 and all(_identical(first, sides[0][seed], second, sides[1][seed]) for seed in seeds)
        if not row["reason"] and alike:
            row["verdict"] = "identical"
        elif not row["reason"]:
            row |= _paired_accuracies(gaps, len(matched))
        rows.append(row)
    return rows


def _identical(a: Repeats, place: int, b: Repeats, other: int) -> bool:
    """Whether two trainings with one seed did the same to the last bit, as far as their records tell."""
    hashes = {a["weights_sha256"][place], b["weights_sha256"][other]}
    if all(isinstance(item, str) for item in hashes) and len(hashes) > 1:
        return False
    accuracies = [
        [item.test_accuracy for item in side["evaluations"][number]] for side, number in ((a, place), (b, other))
    ]
    return accuracies[0] == accuracies[1]


def _paired_accuracies(gaps: Floats, comparisons: int) -> dict[str, Any]:
    """The verdict on differences of the same seeds: an exact signed rank test, with an interval from ten on."""
    if len(gaps) < RANK_TEST_SEEDS:
        return {"reason": f"needs {RANK_TEST_SEEDS} common seeds, {len(gaps)} ran"}
    if len(gaps) < INTERVAL_SEEDS:
        exact = stats.PermutationMethod(n_resamples=2 ** len(gaps))
        p = stats.wilcoxon(gaps, zero_method="pratt", method=exact).pvalue if gaps.any() else 1.0
        verdict = ("better" if gaps.mean() > 0 else "worse") if p * comparisons < PROVEN else "open"
        return {"verdict": verdict}
    found = statistics.paired_difference(gaps, comparisons=comparisons)
    return {"low": found.low, "high": found.high, "verdict": statistics.verdict_within(found, ACCURACY_FLOOR)}


def _threshold_metric(fail_on: Threshold) -> Metric:
    return "examples_per_second" if fail_on.kind == "slower" else "test_accuracy"


def _is_regression(row: dict[str, Any], fail_on: Threshold | None) -> bool:
    """The whole interval lies beyond the threshold, and a verdict was possible that no session explains."""
    if fail_on is None or row["metric"] != _threshold_metric(fail_on) or row["reason"] or row["confounded"]:
        return False
    limit = 1 - fail_on.share if fail_on.kind == "slower" else -fail_on.share
    return bool(row["high"] < limit)


def _is_open(row: dict[str, Any], fail_on: Threshold | None) -> bool:
    """Whether it cannot be told if the threshold was passed."""
    if fail_on is None or row["metric"] != _threshold_metric(fail_on) or row["verdict"] == "identical":
        return False
    limit = 1 - fail_on.share if fail_on.kind == "slower" else -fail_on.share
    if not row["verdict"] or row["confounded"] or not math.isfinite(row["high"]):
        return True
    return bool(row["verdict"] == "open" and row["low"] < limit <= row["high"])


def _undecided(a: pd.DataFrame, b: pd.DataFrame, table: pd.DataFrame, fail_on: Threshold | None) -> int:
    """Settings of both sides that the threshold asks about and that are open, or have no row at all."""
    if fail_on is None:
        return 0
    common = set(a["settings"]) & set(b["settings"])
    if table.empty:
        return max(len(common), 1)
    rows = table[table["metric"] == _threshold_metric(fail_on)]
    return int(rows["undecided"].sum()) + len(common - set(rows["settings"]))


def _notes(
    a: pd.DataFrame, b: pd.DataFrame, table: pd.DataFrame, fail_on: Threshold | None, undecided: int
) -> Iterator[str]:
    for column, what in (("torch", "torch"), ("mnistbench", "mnistbench"), ("git_commit", "commit")):
        sides = [", ".join(sorted(set(side[column].dropna()))) for side in (a, b)]
        if sides[0] != sides[1]:
            yield f"{what}: A has {sides[0] or 'unknown'}, B has {sides[1] or 'unknown'}."
    protocols = [sorted(set(side["protocol"])) for side in (a, b)]
    if protocols[0] != protocols[1]:
        yield f"Protocol versions: A has {protocols[0]}, B has {protocols[1]}; different ones are not compared."
    if not table.empty:
        confounded = int(table["confounded"].sum())
        if confounded:
            yield (
                f"{confounded} of {plural(len(table), 'difference')} confounded: versions and sessions changed"
                f" together. Run at least {ENOUGH_SESSIONS} sessions a side, in turns, to tell them apart."
            )
        judged = table[table["verdict"] != ""]
        counts = ", ".join(f"{count} {verdict}" for verdict, count in judged["verdict"].value_counts().items())
        yield f"{len(judged)} of {plural(len(table), 'difference')} judged{': ' + counts if counts else ''}."
    if fail_on is None:
        return
    beyond = f"{fail_on.kind} by over {percent(fail_on.share)}"
    if not table.empty:
        yield f"{plural(int(table['regression'].sum()), 'regression')}: the whole interval is {beyond}."
    if undecided:
        yield (
            f"{plural(undecided, 'setting')} undecided against the threshold ({beyond}): this is no proof that all is"
            " well, and ends with status 6 unless --allow-undecided is given."
        )
