"""What was noise, and which differences are real (rules 3, 14 to 18)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from mnistbench.report import charts, palette
from mnistbench.report import frame as frames
from mnistbench.report.blocks import NO_BLOCKS, cycle_table, halves, is_clean
from mnistbench.report.estimator import SAME
from mnistbench.report.exhibit import Exhibit, highest, nothing, rows_of
from mnistbench.report.labels import labels
from mnistbench.report.palette import BAD, FAINT, MUTED, PAPER, series_colour
from mnistbench.report.repeats import counted
from mnistbench.report.samples import blocks_of
from mnistbench.report.sections.section import Answer, Part, Question, Section, Study, groups
from mnistbench.report.svg import legible
from mnistbench.report.tables import Column, of_kind, shared, table
from mnistbench.report.verdicts import pairwise
from mnistbench.words.wording import accuracy_text, listed, more_time, percent, plural, points

MOST_PAIRS = 14
NOISE = [
    Column("device", "device"),
    *of_kind("count", "runs quiet noisy shared"),
    Column("unknown", "not observable", "count"),
    *of_kind("count", "twin_pairs"),
    Column("twin_gap", "twins differ by", "share"),
    Column("sessions", "sessions of blocks", "count"),
    *of_kind("count", "blocks"),
    Column("disturbed", "disturbed blocks", "count"),
    Column("half_gap", "halves of blocks differ by", "share"),
    *of_kind("long", "flags"),
]
PAIRS = [
    Column("label_a", "first", "name"),
    Column("label_b", "second", "name"),
    Column("ratio", "times as fast", "ratio"),
    *of_kind("ratio", "low high"),
    *of_kind("count", "n"),
    Column("verdict", "first is", "tag", filtered=True),
    *shared("text"),
    Column("new_seeds", "for new seeds", "tag", hidden=True),
    Column("level", "level of its step", "number", hidden=True),
    Column("method", "method", hidden=True),
]


def _answer(study: Study) -> Answer:
    """Is it noise?"""
    question = Question("noise", "Is it noise?", "Is it noise")
    noise, deviations = disturbances(study.frame, study.blocks), _deviations(study.frame)
    targets = frames.targets_in(study.frame)
    pairs: list[tuple[str, str, Exhibit]] = []  # name and stem of the metric, and its differences
    for place, target in enumerate(targets, 1):
        name = f"time to {accuracy_text(target)}" if len(targets) > 1 else "time to target"
        number = f"-{place}" if len(targets) > 1 else ""
        times = pairwise(frames.at_target(study.frame, target), "seconds_to_target", study.blocks)
        pairs.append((name, f"seconds-to-target{number}", times))
    speeds = pairwise(study.frame, "examples_per_second", study.blocks)
    pairs.append(("examples per second", "examples-per-second", speeds))
    if not noise and not any(exhibit for *_, exhibit in pairs):
        return Answer.without(question, noise)
    parts: list[Part] = []
    for heading, suffix, rows in groups(noise.frame) if noise else []:
        own = deviations[deviations["group"] == rows["group"].iloc[0]]
        figures = [seed_dots(own, f"seeds{suffix}")] if len(own) else []
        shown = table(rows, NOISE, name=f"noise-table{suffix}", caption="What the noise was")
        parts.append(Part(heading, charts=figures, table=shown, disclosed=False))
    for metric, metric_stem, exhibit in pairs:
        for heading, suffix, rows in groups(exhibit.frame) if exhibit else []:
            title = " · ".join(part for part in (f"Differences in {metric}", heading) if part)
            stem = f"pairs-{metric_stem}{suffix}"
            best, others = against_first(rows)
            drawn = bool(len(others)) and (others["verdict"] != "").any()
            alone = f"{best} against the others, {metric}"
            figures = [pair_differences(others, stem, alone)] if drawn else []
            said = [] if drawn else [_no_verdicts(rows)]
            shown = table(rows, PAIRS, name=f"{stem}-table", caption="Pairs of settings", most=150)
            parts.append(Part(title, sentences=said, charts=figures, table=shown))
    lead = (
        "Each run against the median of its seeds; then the best setting against all others, by blocks of training that"
        " were timed in the same cycles. The tests hold for all pairs together; each interval is at the level of its"
        " own step. Runs of different seeds have no verdict on speed."
    )
    notes = [
        *noise.notes,
        *(f"{metric.capitalize()}, {note}" for metric, _, exhibit in pairs for note in exhibit.notes),
        *(exhibit.reason for *_, exhibit in pairs if exhibit.reason),
    ]
    return Answer(question, lead=lead, parts=parts, notes=list(dict.fromkeys(notes)))


def against_first(rows: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The setting that nothing beats by its estimate, and every other seen from it, nearest first.

    Args:
        rows: `pairwise` of one group.

    Returns:
        The label of the best, and columns label, ratio (how many times as fast the best is), low, high, verdict
        (`ahead`, `behind`, `same`, `open`, ""), reason.
    """
    known = rows[rows["ratio"].astype(float).between(1e-9, 1e9)]
    decided = known[known["verdict"] != ""]
    known = decided if len(decided) else known
    if known.empty:
        return "", known
    sides = {"settings_a": "settings_b", "settings_b": "settings_a", "label_a": "label_b", "label_b": "label_a"}
    turned = known.rename(columns=sides).assign(
        ratio=1 / known["ratio"], low=1 / known["high"], high=1 / known["low"],
        verdict=known["verdict"].replace({"faster": "behind", "slower": "ahead"}),
    )  # fmt: skip
    known = known.assign(verdict=known["verdict"].replace({"faster": "ahead", "slower": "behind"}))
    both = pd.concat([known, turned], ignore_index=True)
    best = np.log(both["ratio"]).groupby(both["settings_a"]).sum().idxmax()
    mine = both[both["settings_a"] == best].rename(columns={"label_b": "label"}).sort_values("ratio", ignore_index=True)
    return str(mine["label_a"].iloc[0]), mine[["label", "ratio", "low", "high", "verdict", "reason"]]


def _no_verdicts(rows: pd.DataFrame) -> str:
    """Why nothing is drawn."""
    if (rows["verdict"] != "").any():
        return "All differences are open: what did not reach the target has no time."
    reasons = [f"{reason} ({number})" for reason, number in rows["reason"].replace("", np.nan).value_counts().items()]
    return f"No pair has a verdict: {listed(reasons)}." if reasons else "No pair has a verdict."


def _deviations(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs of settings that ran more than once, each against their median."""
    known = frame[frame["examples_per_second"] > 0]
    by = known.groupby(["group", "settings"])["examples_per_second"]
    middle, runs = by.transform("median"), by.transform("size")
    label = known["settings"].map(labels(frame))
    deviations = known.assign(deviation=known["examples_per_second"] / middle - 1, label=label)
    return deviations.loc[runs > 1, ["group", "label", "device", "deviation", "noisy"]]


def disturbances(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> Exhibit:
    """What the noise was: one row per group and device. It sets no floor.

    A/A: by how much the second run of the same cell differs (`twin_gap`), and two random halves of a setting's blocks
    (`half_gap`), as medians.
    """
    counting = counted(frame)
    rows = []
    for group in [name for name in dict.fromkeys(counting["group"]) if name]:
        done = counting[(counting["group"] == group) & (counting["status"] == "finished")]
        timed = blocks_of(blocks, counting, group)
        for kind, part in done.groupby("device"):
            own = timed[timed["device"] == kind]
            gaps = np.abs(list(halves(cycle_table(own)).values()))
            twins = _twin_gaps(part)
            flags = part["flags"].str.split("; ").explode()
            rows.append(
                {
                    "group": group,
                    "device": str(kind),
                    "runs": len(part),
                    "quiet": int((part["flags"] == "").sum()),
                    "noisy": int(part["noisy"].sum()),
                    "shared": int((part["isolation"] != "alone").sum()),
                    "unknown": int((~part["noise_known"]).sum()),
                    "twin_pairs": len(twins),
                    "twin_gap": math.expm1(np.median(twins)) if len(twins) else math.nan,
                    "blocks": len(own),
                    "disturbed": int((~is_clean(own)).sum()),
                    "sessions": own["session"].nunique(),
                    "half_gap": math.expm1(np.median(gaps)) if len(gaps) else math.nan,
                    "flags": ", ".join(f"{flag} {count}" for flag, count in flags[flags != ""].value_counts().items()),
                }
            )
    return Exhibit(pd.DataFrame(rows)) if rows else nothing("No cell finished, so nothing is known of the noise.")


def _twin_gaps(rows: pd.DataFrame) -> Sequence[float]:
    """How far the second run of a cell is from its first, in logarithms."""
    known = rows[rows["examples_per_second"] > 0]
    speeds = known.set_index(["settings", "seed", "repeat"])["examples_per_second"].groupby(level=[0, 1, 2]).last()
    wide = np.log(speeds).unstack("repeat")
    if 0 not in wide or wide.shape[1] < 2:
        return []
    gaps = wide.drop(columns=0).sub(wide[0], axis=0).abs().to_numpy().ravel()
    return [float(gap) for gap in gaps if math.isfinite(gap)]


def _sentences(frame: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[str]:
    speeds = pairwise(frame, "examples_per_second", blocks)
    if not speeds:
        return
    judged = speeds.frame[speeds.frame["verdict"] != ""]
    if judged.empty:
        reasons = speeds.frame["reason"].value_counts()
        yield f"Speeds are values without a verdict: {reasons.index[0]}."
        return
    still_open = judged[judged["verdict"] == "open"]
    if still_open.empty:
        yield f"No difference in throughput is open, of {len(judged)} that were judged."
        return
    longest = still_open[["more_seconds", "cycles"]].dropna().max()
    more = f"; to tell all of them takes {more_time(*longest)}" if longest.notna().all() else ""
    is_ = "is" if len(still_open) == 1 else "are"
    yield f"{len(still_open)} of {plural(len(judged), 'difference')} in throughput {is_} open{more}."


def pair_differences(rows: pd.DataFrame, name: str, title: str) -> charts.Chart:
    """How far the first lies before others: ratios with intervals, hollow when open.

    The grey band is what `same` has to lie inside of.

    Args:
        rows: `against_first` of pairs: label (of the other), ratio, low, high, verdict, reason, sorted.
    """
    shown = rows.head(MOST_PAIRS)
    colours = {"ahead": series_colour(0), "behind": series_colour(1), "same": series_colour(2)}
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 0.85 + 0.36 * len(shown))
        axes.axvspan(math.exp(-SAME), math.exp(SAME), color=palette.RULE.light, alpha=0.6, linewidth=0)
        axes.axvline(1, color=MUTED.light, linewidth=1)
        for place, row in enumerate(rows_of(shown)):
            colour = colours.get(row.verdict, MUTED.light)
            if pd.notna(row.low) and pd.notna(row.high):
                axes.hlines(place, row.low, row.high, color=colour, linewidth=2)
            axes.plot([row.ratio], [place], marker="o", color=colour if row.verdict in colours else PAPER.light,
                      markeredgecolor=colour, markeredgewidth=1.5, markersize=7)  # fmt: skip
            axes.annotate(
                charts.two_lines(row.verdict or row.reason or "", 24), (1, place), xytext=(6, 0), va="center",
                fontsize=9, xycoords=("axes fraction", "data"), textcoords="offset points", color=MUTED.light,
            )  # fmt: skip
        left, right = _limits(shown)
        charts.log_axis(axes, "x", left, right, lambda value: f"{value:g}×", most=5, one=True)
        charts.row_labels(axes, [charts.two_lines(label) for label in shown["label"]])
        axes.set(xlabel="times as fast as this setting (log)")
    words = {"ahead": "ahead of", "behind": "behind", "same": "the same as", "open": "open against", "": "not judged:"}
    verdicts = rows["verdict"].value_counts()
    alt = (
        f"{title}: {listed([f'{words[str(verdict)]} {number}' for verdict, number in verdicts.items()], 6)}"
        f" of {plural(len(rows), 'other')}."
        + (f" The nearest {len(shown)} are drawn." if len(shown) < len(rows) else "")
        + " The grey band is what counts as the same, ±10 %."
    )
    return charts.Chart(name, title, alt, figure)


def seed_dots(runs: pd.DataFrame, name: str) -> charts.Chart:
    """Every run's throughput against the median of its settings, in per cent; flagged runs crossed.

    Args:
        runs: columns label, device, deviation (a share), noisy.
    """
    devices = list(dict.fromkeys(runs["device"]))
    rng = np.random.default_rng(0)
    with charts.style():
        figure, axes = charts.canvas(charts.WIDTH, 0.9 + 0.8 * len(devices))
        for place, device in enumerate(devices):
            own = runs[runs["device"] == device]
            heights = place + rng.uniform(-0.3, 0.3, len(own))
            for noisy, marker, colour in ((False, "o", series_colour(0)), (True, "X", BAD.light)):
                chosen = (own["noisy"].astype(bool) == noisy).to_numpy()
                size = 20 if noisy else 14
                across = 100 * own.loc[chosen, "deviation"]
                axes.scatter(across, heights[chosen], size, colour, marker=marker, alpha=0.8, linewidths=0)
        axes.axvline(0, color=FAINT.light, linewidth=1, zorder=0)
        axes.set_yticks(range(len(devices)), [legible(device) for device in devices])
        axes.set_ylim(len(devices) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="run against the median of its seeds, % of examples/s", ylabel="")
        if runs["noisy"].astype(bool).any():
            look = charts.Look(series_colour(0), "o", ())
            noisy_dot = charts.handle(look, linestyle="none", marker="X", color=BAD.light)
            charts.legend(
                figure, [charts.handle(look, linestyle="none"), noisy_dot], ["quiet or unknown", "flagged as noisy"]
            )
    far = highest(runs.assign(distance=runs["deviation"].abs()), "distance")
    alt = (
        f"{plural(len(runs), 'run')} against the median of the same settings: half lie within"
        f" ±{percent(runs['deviation'].abs().median(), 1)}, the farthest is {far.label} at {points(far.deviation)} %;"
        f" {int(runs['noisy'].astype(bool).sum())} are flagged as noisy."
    )
    return charts.Chart(name, "Every run against its seeds' median", alt, figure)


def _limits(pairs: pd.DataFrame) -> tuple[float, float]:
    """Of the axis: all estimates, and intervals as far as three times beyond them; longer ones leave the plot."""
    least, most = min(float(pairs["ratio"].min()), 0.97), max(float(pairs["ratio"].max()), 1.03)
    low, high = pairs["low"].min(), pairs["high"].max()
    left = least if pd.isna(low) else max(float(low), least / 3)
    right = most if pd.isna(high) else min(float(high), most * 3)
    return min(left, least), max(right, most)


SECTION = Section(_answer, _sentences)
