"""Two sets of results, cell by cell: did anything become slower? (rule 21)"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import pandas as pd

from mnistbench.errors import UserError
from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.exhibit import Exhibit, nothing
from mnistbench.report.frame import ask, at_target, targets_in
from mnistbench.report.labels import labels, shared
from mnistbench.report.repeats import without_equal_seeds, without_older, without_trials
from mnistbench.report.samples import with_gate_of_blocks
from mnistbench.report.side_by_side import ENOUGH_SESSIONS, Row, Side, accuracy_rows, speed_rows
from mnistbench.report.tables import SETTING
from mnistbench.words import markdown
from mnistbench.words.wording import accuracy_text, interval_text, percent, plural, seconds_text, times


@dataclass(frozen=True)
class Threshold:
    """What counts as a regression: throughput lower by a share, or test accuracy by points (0.003 for `worse=0.3%`)."""

    kind: Literal["slower", "worse"]
    share: float

    @property
    def metric(self) -> str:
        """What it asks about."""
        return "examples_per_second" if self.kind == "slower" else "test_accuracy"

    def judge(self, row: Row) -> dict[str, bool]:
        """Whether a row is a regression (its whole interval is beyond, and no session explains that), or undecided."""
        asked = row["metric"] == self.metric
        limit = 1 - self.share if self.kind == "slower" else -self.share
        unclear = not row["verdict"] or row["confounded"] or not math.isfinite(row["high"])
        across = row["low"] < limit <= row["high"]
        return {
            "regression": bool(asked and not row["reason"] and not row["confounded"] and row["high"] < limit),
            "undecided": bool(asked and row["verdict"] not in ("identical", "better") and (unclear or across)),
        }

    def __str__(self) -> str:
        return f"{self.kind} by over {percent(self.share)}"


def parse_threshold(text: str) -> Threshold:
    """Read `slower=5%` or `worse=0.3%`.

    Raises:
        UserError: if it is neither.
    """
    match = re.fullmatch(r"(slower|worse)=(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None or not 0 <= float(match[2]) < 100:
        raise UserError(f"--fail-on {text}: expected `slower=5%` (throughput) or `worse=0.3%` (points of accuracy)")
    return Threshold(cast("Literal['slower', 'worse']", match[1]), float(match[2]) / 100)


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

    def to_text(self, width: int = 120) -> str:
        """The comparison as plain text for a terminal of so many columns: a table for each metric and machine."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        text = io.StringIO()
        console = Console(emoji=False, file=text, width=width, color_system=None)
        cells = [list(map(markdown.one_line, row)) for row in (self._rows() if self.table else ())]
        rows = pd.DataFrame(cells or None, columns=_HEADERS)
        for (metric, machine), own in rows.groupby(["metric", "machine"], sort=False):
            title = Text(f"{metric} on {machine}")
            table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
            shown = own.drop(columns=["metric", "machine"]).loc[:, lambda frame: (frame != "").any()]
            for name in map(str, shown):
                right = name in ("A", "B", "B over A", "interval")
                table.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
            for row in shown.itertuples(index=False):
                table.add_row(*map(Text, row))
            console.print(table, "")
        for line in [*[self.table.reason] * (not self.table), *self.notes]:
            console.print(Text(markdown.one_line(line)), soft_wrap=True)
        return "\n".join(map(str.rstrip, text.getvalue().splitlines())).strip()

    def to_markdown(self) -> str:
        """The comparison as Markdown for a file or an issue."""
        body = markdown.table(_HEADERS, self._rows()) if self.table else markdown.escape(self.table.reason)
        return "\n\n".join(["# B compared with A", body, *(f"- {markdown.escape(note)}" for note in self.notes)]) + "\n"

    def _rows(self) -> list[list[str]]:
        builds = self.table.frame[["torch_a", "torch_b"]]
        named = len(set(builds.to_numpy().ravel())) > 1
        return [_shown(row, with_builds=named) for row in self.table.frame.to_dict("records")]


_HEADERS = ["cell", "machine", "metric", "A", "B", "n", "B over A", "interval", "verdict"]
_WORDS = {
    "examples_per_second": "examples/s",
    "seconds_to_target": "time to {target}",
    "test_accuracy": "test accuracy",
}


def _shown(row: dict[Any, Any], *, with_builds: bool) -> list[str]:
    text: Callable[[float], str] = {
        "examples_per_second": lambda value: f"{value:,.0f}",
        "seconds_to_target": seconds_text,
        "test_accuracy": lambda value: percent(value, 2),
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
    builds = " → ".join(dict.fromkeys([row["torch_a"], row["torch_b"]]))
    build = f", torch {builds}" if with_builds else ""
    machine = markdown.one_line(f"{row['machine']}{build}, protocol {row['protocol']}")
    n = f"{row['n_a']} / {row['n_b']} {row['unit']}"
    label = markdown.one_line(row["label"])
    medians = [text(row["a"]), text(row["b"])]
    words = _WORDS[row["metric"]].format(target=accuracy_text(row["target_accuracy"]))
    return [label, machine, words, *medians, n, ratio, proof, ", ".join([verdict, *marks])]


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
    first, second = (
        Side(without_equal_seeds(without_older(without_trials(with_gate_of_blocks(frame, blocks)))), blocks)
        for frame, blocks in ((a, blocks_a), (b, blocks_b))
    )
    a, b = first.frame, second.frame
    both = pd.concat([a, b], ignore_index=True).sort_values(SETTING.split(), kind="stable")
    names = labels(both) if len(both) else {}
    only_a, only_b = (_only(side, other, names) for side, other in ((a, b), (b, a)))
    targets = sorted({*targets_in(a), *targets_in(b)})
    in_order = functools.partial(sorted, key=lambda row: list(names).index(row["settings"]))
    rows: list[Row] = in_order(speed_rows(first, second, "examples_per_second"))
    for target in targets:
        asked_a, asked_b = (Side(at_target(ask(side.frame, targets), target), side.blocks) for side in (first, second))
        timed = speed_rows(asked_a, asked_b, "seconds_to_target")
        rows += [{**row, "target_accuracy": target} for row in in_order(timed)]
    rows += in_order(accuracy_rows(a, b))
    unjudged = {"regression": False, "undecided": False}
    rows = [{**row, **(fail_on.judge(row) if fail_on else unjudged)} for row in rows]
    table = pd.DataFrame({"label": names[row["settings"]], "target_accuracy": math.nan, **row} for row in rows)
    undecided = _undecided(a, b, table, fail_on) + (len(only_a) + len(only_b) if fail_on else 0)
    if fail_on and table.empty:
        undecided = max(undecided, 1)
    notes = [*_in_both(first, second), *_notes(a, b, table, fail_on, undecided)]
    notes += [markdown.one_line(text) for text in shared(both)] if len(both) else []
    sides = (("A", a, b, only_a), ("B", b, a, only_b))
    lists = [(f"Only in {name}", list(only)) for name, _, _, only in sides]
    lists += [(f"Not finished in {name}", list(_unfinished(side, other, names))) for name, side, other, _ in sides]
    notes += [f"{what}: {', '.join(some[:10])}{' …' if len(some) > 10 else ''}." for what, some in lists if some]
    exhibit = Exhibit(table) if rows else nothing("The two sets have no finished cell in common.")
    regressions = int(table["regression"].sum()) if rows else 0
    return Comparison(exhibit, only_a, only_b, tuple(notes), regressions, undecided, allow_undecided)


def _in_both(a: Side, b: Side) -> Iterator[str]:
    """What tells nothing of a difference, where one set began as a copy of the other."""
    runs = len(set(a.frame["record_id"]) & set(b.frame["record_id"]))
    sessions = len(set(a.blocks["session"]) & set(b.blocks["session"]))
    parts = [plural(runs, "run")] * (runs > 0) + [f"{plural(sessions, 'session')} of speed"] * (sessions > 0)
    if parts:
        yield (
            f"{' and '.join(parts)} in both sets, as where one began as a copy of the other: they tell nothing of a"
            " difference."
        )


def _only(side: pd.DataFrame, other: pd.DataFrame, names: dict[str, str]) -> tuple[str, ...]:
    alone = set(side["settings"]) - set(other["settings"])
    return tuple(label for settings, label in names.items() if settings in alone)


def _unfinished(side: pd.DataFrame, other: pd.DataFrame, names: dict[str, str]) -> Iterator[str]:
    """Settings that finished on the other side alone, with what became of them here."""
    done, elsewhere = (set(frame.loc[frame["status"] == "finished", "settings"]) for frame in (side, other))
    for settings, label in names.items():
        statuses = sorted(set(side.loc[side["settings"] == settings, "status"]))
        if statuses and settings in elsewhere - done:
            yield f"{label} ({', '.join(statuses).replace('_', ' ')})"


def _undecided(a: pd.DataFrame, b: pd.DataFrame, table: pd.DataFrame, fail_on: Threshold | None) -> int:
    """Settings of both sides that the threshold asks about and that are open, or have no row at all."""
    if fail_on is None:
        return 0
    common = set(a["settings"]) & set(b["settings"])
    if table.empty:
        return len(common)
    rows = table[table["metric"] == fail_on.metric]
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
    if not table.empty:
        yield f"{plural(int(table['regression'].sum()), 'regression')}: the whole interval is {fail_on}."
    if undecided:
        yield (
            f"{plural(undecided, 'setting')} undecided against the threshold ({fail_on}): this is no proof that all is"
            " well, and ends with status 6 unless --allow-undecided is given."
        )
