"""Two sets of results, cell by cell: did anything become slower? (rule 21)"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from mnistbench.errors import UserError
from mnistbench.report import statistics
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.frame import ask, at_target, targets_in
from mnistbench.report.labels import labels
from mnistbench.report.repeats import Repeats, repeats, without_equal_seeds, without_older
from mnistbench.report.samples import ACCURACY_FLOOR, NEEDED, Field, Metric, fields, measured, obstacle, unranked
from mnistbench.report.statistics import Difference, Floats
from mnistbench.report.trials import without_trials
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
            test_accuracy), target_accuracy (of a time to target, else NaN), a, b (medians), n_a, n_b, sessions_a,
            sessions_b, ratio (how many times faster b is than a; for accuracy b − a), low, high, floor, verdict (of b),
            confounded (bool), reason, regression (bool), torch_a, torch_b, protocol.
        only_a, only_b: labels of settings that only one side has.
        notes: what the reader must know: confounded sessions, versions that differ, protocols that were not compared.
        regressions: number of rows whose whole interval lies beyond the threshold.
    """

    table: Exhibit
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    notes: tuple[str, ...]
    regressions: int

    @property
    def exit_code(self) -> int:
        """5 on a regression, else 0."""
        return 5 if self.regressions else 0

    def to_text(self) -> str:
        """The comparison as plain text for a terminal."""
        head = "\n".join(self.notes)
        if not self.table:
            return f"{self.table.reason}\n{head}".strip()
        rows = pd.DataFrame(self._rows(), columns=_HEADERS)
        return f"{rows.to_string(index=False)}\n\n{head}".rstrip()

    def to_markdown(self) -> str:
        """The comparison as Markdown for a file or an issue."""
        body = markdown.table(_HEADERS, self._rows()) if self.table else markdown.escape(self.table.reason)
        return "\n\n".join(["# B compared with A", body, *(f"- {markdown.escape(note)}" for note in self.notes)]) + "\n"

    def _rows(self) -> list[list[str]]:
        return [_shown(row) for row in self.table.frame.to_dict("records")]


_HEADERS = ["cell", "machine", "metric", "A", "B", "n", "B over A", "interval", "verdict"]
_WORDS = {
    "examples_per_second": "examples/s (training clock)",
    "seconds_to_target": "time to {target} (training clock)",
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
    marks = ["confounded"] * row["confounded"] + ["REGRESSION"] * row["regression"]
    machine = markdown.one_line(f"{row['machine']}, protocol {row['protocol']}")
    n = f"{row['n_a']} / {row['n_b']}"
    label = markdown.one_line(row["label"])
    medians = [text(row["a"]), text(row["b"])]
    words = _WORDS[row["metric"]].format(target=accuracy_text(row["target_accuracy"]))
    return [label, machine, words, *medians, n, ratio, proof, ", ".join([verdict, *marks])]


def compare(a: pd.DataFrame, b: pd.DataFrame, *, fail_on: Threshold | None = None) -> Comparison:
    """Compare two frames of `results_frame`, settings by settings, on the same machine, device and protocol.

    Times to target are compared at every target that either side asks about. A session of a side is a stretch of time
    in which no record of the other side was started on that machine. With at least three sessions a side the sessions'
    means are compared, else the runs, and the verdict is confounded. Accuracies are compared by seeds: n counts each
    seed once, in however many sessions it ran; so does n of a time to target.
    """
    a, b = (without_equal_seeds(without_older(without_trials(side))) for side in (a, b))
    names = labels(pd.concat([a, b], ignore_index=True)) if len(a) or len(b) else {}
    only_a, only_b = (_only(side, other, names) for side, other in ((a, b), (b, a)))
    rows: list[dict[str, Any]] = []
    targets = sorted({*targets_in(a), *targets_in(b)})
    for metric in METRICS:
        for target in targets if metric == "seconds_to_target" else [math.nan]:
            sides = (a, b)
            if not math.isnan(target):
                sides = (at_target(ask(a, targets), target), at_target(ask(b, targets), target))
            rows += [{**row, "target_accuracy": target} for row in _compare_metric(*sides, metric, names)]
    table = pd.DataFrame(rows)
    if rows:
        table["regression"] = [_is_regression(row, fail_on) for row in rows]
    notes = [*_notes(a, b, table, fail_on)]
    for side, only in (("A", only_a), ("B", only_b)):
        if only:
            notes.append(f"Only in {side}: {', '.join(only[:10])}{' …' if len(only) > 10 else ''}.")
    exhibit = Exhibit(table) if rows else nothing("The two sets have no finished cell in common.")
    return Comparison(exhibit, only_a, only_b, tuple(notes), int(table["regression"].sum()) if rows else 0)


def _only(side: pd.DataFrame, other: pd.DataFrame, names: dict[str, str]) -> tuple[str, ...]:
    there = set(other["settings"])
    return tuple(names[settings] for settings in dict.fromkeys(side["settings"]) if settings not in there)


def _compare_metric(a: pd.DataFrame, b: pd.DataFrame, metric: Metric, names: dict[str, str]) -> list[dict[str, Any]]:
    sides = [measured(side[side["repeat"] == 0], metric) for side in (a, b)]
    if any(side.empty for side in sides):
        return []
    runs = [list(repeats(side, [*_COLUMNS, metric])) for side in _with_sessions(*sides)]
    noise = [{found.group: found for found in fields(side, metric)} for side in (a, b)]
    pairs = list(_matched(*runs))
    rows = []
    for first, second in pairs:
        near = [noise[0].get(first.group), noise[1].get(second.group)]
        row = _compare_runs(first, second, metric, near, len(pairs))
        rows.append({"label": names[first.settings], **row})
    return rows


_COLUMNS = [
    "device", "machine", "machine_id", "torch", "protocol", "isolation", "short", "equivalence", "outdated", "seed",
    "_session", "_value",
]  # fmt: skip


def _matched(a: Sequence[Repeats], b: Sequence[Repeats]) -> Iterator[tuple[Repeats, Repeats]]:
    """The same settings of both sides by machine and build; across machines only where they have none in common."""
    by_settings: dict[str, list[Repeats]] = {}
    for runs in b:
        by_settings.setdefault(runs.settings, []).append(runs)
    machines_a: dict[str, set[str]] = {}
    for runs in a:
        machines_a.setdefault(runs.settings, set()).add(runs.first["machine_id"])
    for first in a:
        others = by_settings.get(first.settings, [])
        common = machines_a[first.settings] & {other.first["machine_id"] for other in others}
        for second in others:
            same_machine = first.first["machine_id"] == second.first["machine_id"]
            if first.first["protocol"] == second.first["protocol"] and (same_machine or not common):
                yield first, second


def _with_sessions(a: pd.DataFrame, b: pd.DataFrame) -> list[pd.DataFrame]:
    """Number the stretches of time, machine by machine, in which one side alone was started."""
    both = pd.concat([a.assign(_side="a"), b.assign(_side="b")], ignore_index=True)
    both["_when"] = pd.to_datetime(both["started_at"], utc=True, format="ISO8601", errors="coerce")
    both = both.sort_values(["machine_id", "_when", "_side"], kind="stable")
    turned = (both["_side"] != both["_side"].shift()) | (both["machine_id"] != both["machine_id"].shift())
    both["_session"] = turned.cumsum()
    return [both[both["_side"] == side] for side in ("a", "b")]


def _compare_runs(
    a: Repeats, b: Repeats, metric: Metric, noise: Sequence[Field | None], comparisons: int
) -> dict[str, Any]:
    sessions = [len(np.unique(side.columns["_session"])) for side in (a, b)]
    confounded = min(sessions) < ENOUGH_SESSIONS
    same_machine = a.first["machine_id"] == b.first["machine_id"]
    accuracy = metric == "test_accuracy"
    all_runs = a, b
    if metric != "examples_per_second":
        a, b = (_latest_of_each_seed(side) for side in (a, b))
    n = min(len(a), len(b))
    floor = ACCURACY_FLOOR
    if not accuracy:
        floors = [found.floor({a.first["device"]}, n) for found in noise if found is not None]
        floor = max(floors, default=statistics.SMALLEST_FLOOR)
    reason = _no_verdict(a, b, metric)
    if not (same_machine or accuracy):
        reason = "different machines: speeds are not ranked"
    if confounded or accuracy:
        units = [side.floats("_value") for side in (a, b)]
    else:
        units = [_session_means(side) for side in all_runs]
    difference = _difference(units[0], units[1], comparisons=comparisons)
    verdict: str = ""
    if difference is None:
        reason = reason or "a side has seeds that did not reach the target"
        value = low = high = math.nan
    else:
        value, low, high = difference.estimate, difference.low, difference.high
        if not reason:
            verdict = statistics.verdict_within(difference, floor if accuracy else math.log1p(floor))
        if accuracy:
            verdict = {"faster": "better", "slower": "worse"}.get(verdict, verdict)
        else:
            value, low, high = (math.exp(min(end, 700.0)) for end in (value, low, high))
        if n < 3:
            low = high = math.nan
    machines = [str(side.first["machine"]) for side in (a, b)]
    medians = [float(np.median(side.floats(metric, missing=math.inf))) for side in (a, b)]
    return {
        "settings": a.settings,
        "device": a.first["device"],
        "machine": machines[0] if same_machine else " → ".join(machines),
        "metric": metric,
        **dict(zip(("a", "b"), medians, strict=True)),
        "n_a": len(a),
        "n_b": len(b),
        "sessions_a": sessions[0],
        "sessions_b": sessions[1],
        "ratio": value,
        "low": low,
        "high": high,
        "floor": floor,
        "verdict": verdict,
        "confounded": confounded,
        "reason": reason,
        "torch_a": a.first["torch"],
        "torch_b": b.first["torch"],
        "protocol": a.first["protocol"],
    }


def _no_verdict(a: Repeats, b: Repeats, metric: Metric) -> str:
    hindrance = unranked if metric == "test_accuracy" else obstacle
    if hindered := hindrance(a) or hindrance(b):
        return hindered
    n = min(len(a), len(b))
    if n < 3:
        return ("one run", "two runs")[n - 1]
    return "" if n >= NEEDED[metric] else f"needs {NEEDED[metric]} seeds a side, {n} ran"


def _difference(a: Floats, b: Floats, *, comparisons: int) -> Difference | None:
    """b less a on the scale of the test, from runs, or from sessions' means where there are enough of them, since a
    session moves all its runs; None where a run did not reach the target.
    """
    if not all(np.isfinite(side).all() for side in (a, b)):
        return None
    if min(len(a), len(b)) < 2:
        return Difference(float(b.mean() - a.mean()), math.nan, math.nan, 1.0)
    return statistics.unpaired_difference(b, a, comparisons=comparisons)


def _latest_of_each_seed(runs: Repeats) -> Repeats:
    """One run a seed: the same seed in another session is no other training."""
    latest = {seed: place for place, seed in enumerate(runs.columns["seed"])}  # in order of time, see `_with_sessions`
    places = np.array(sorted(latest.values()), dtype=int)
    return replace(runs, columns={name: values[places] for name, values in runs.columns.items()})


def _session_means(runs: Repeats) -> Floats:
    values, sessions = runs.floats("_value"), runs.columns["_session"]
    return np.array([values[sessions == session].mean() for session in np.unique(sessions)])


def _is_regression(row: dict[str, Any], fail_on: Threshold | None) -> bool:
    """The whole interval lies beyond the threshold, and a verdict was possible at all."""
    if fail_on is None or row["reason"] or not math.isfinite(row["high"]):
        return False
    if fail_on.kind == "slower":
        return bool(row["metric"] == "examples_per_second" and row["high"] < 1 - fail_on.share)
    return bool(row["metric"] == "test_accuracy" and row["high"] < -fail_on.share)


def _notes(a: pd.DataFrame, b: pd.DataFrame, table: pd.DataFrame, fail_on: Threshold | None) -> Iterator[str]:
    for column, what in (("torch", "torch"), ("mnistbench", "mnistbench"), ("git_commit", "commit")):
        sides = [", ".join(sorted(set(side[column].dropna()))) for side in (a, b)]
        if sides[0] != sides[1]:
            yield f"{what}: A has {sides[0] or 'unknown'}, B has {sides[1] or 'unknown'}."
    protocols = [sorted(set(side["protocol"])) for side in (a, b)]
    if protocols[0] != protocols[1]:
        yield f"Protocol versions: A has {protocols[0]}, B has {protocols[1]}; different ones are not compared."
    if table.empty:
        return
    confounded = int(table["confounded"].sum())
    if confounded:
        yield (
            f"{confounded} of {plural(len(table), 'difference')} confounded: versions and sessions changed together. "
            f"Run at least {ENOUGH_SESSIONS} sessions a side, in turns, to tell them apart."
        )
    judged = table[table["verdict"] != ""]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in judged["verdict"].value_counts().items())
    yield f"{len(judged)} of {plural(len(table), 'difference')} judged{': ' + counts if counts else ''}."
    if fail_on is not None:
        metric = "examples_per_second" if fail_on.kind == "slower" else "test_accuracy"
        metric_rows = table[table["metric"] == metric]
        beyond = f"{fail_on.kind} by over {percent(fail_on.share)}"
        if (metric_rows["reason"] != "").all():
            yield f"Nothing could be judged against the threshold ({beyond}): this is no proof that all is well."
        else:
            yield f"{plural(int(table['regression'].sum()), 'regression')}: the whole interval is {beyond}."
