"""Questions about trust: what is noise, what failed, how to repeat it."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

import numpy as np
import pandas as pd

from mnistbench.report import frame as frames
from mnistbench.report import inventory, noise_charts, verdicts
from mnistbench.report.labels import labels
from mnistbench.report.page_rows import rows_of
from mnistbench.report.sections.section import Log, Part, Question, Section, Study, groups, unanswered
from mnistbench.report.tables import Column, Table, table
from mnistbench.results.measures import MEASURES, TARGET_MEASURES
from mnistbench.words.wording import byte_count, clipped, listed, missing, percent, plural

MOST_LOGS = 50
MOST_LOG_CHARACTERS = 6000
THROUGHPUT = "examples per second"
STEMS = {THROUGHPUT: "examples-per-second"}

SETTINGS = [
    Column("architecture_label", "architecture", "name", filtered=True),
    Column("optimizer_label", "optimizer", "name", filtered=True),
    Column("lr", "learning rate", "number", hidden=True),
    Column("tuning", "tuning", filtered=True, hidden=True),
    Column("schedule_label", "schedule", "name", hidden=True),
    Column("batch_size", "batch", "count", filtered=True),
    Column("device", "device", filtered=True),
    Column("execution_label", "execution", "name", filtered=True, hidden=True),
    Column("seed", "seed", "count"),
    Column("repeat", "twin", "count", hidden=True),
    Column("kind", "kind", filtered=True, hidden=True),
    Column("status", "status", "tag", filtered=True),
    Column("outdated", "outdated", "words"),
]
"""Of the table of every run: what was asked, before what was measured."""
ENERGY_SOURCES = {
    "nvml": "counted by the GPU (NVML)",
    "rapl": "counted by the processor's sockets (RAPL), everything else that ran on them included",
}
MARKS = [Column("flags", "flags", "words"), Column("cell_id", "cell", "code", hidden=True)]


def noise(study: Study) -> Section:
    """Is it noise?"""
    question = Question("noise", "Is it noise?", "Is it noise")
    disturbances, deviations = verdicts.noise(study.frame, study.blocks), _deviations(study.frame)
    targets = frames.targets_in(study.frame)
    pairs = {
        _to_target(target, targets): verdicts.pairwise(
            frames.at_target(study.frame, target), "seconds_to_target", study.blocks
        )
        for target in targets
    }
    pairs[THROUGHPUT] = verdicts.pairwise(study.frame, "examples_per_second", study.blocks)
    if not disturbances and not any(pairs.values()):
        return unanswered(question, disturbances)
    parts: list[Part] = []
    for heading, suffix, rows in groups(disturbances.frame) if disturbances else []:
        own = deviations[deviations["group"] == rows["group"].iloc[0]]
        charts = [noise_charts.seed_dots(own, f"seeds{suffix}")] if len(own) else []
        parts.append(Part(heading, charts=charts, table=_noise_table(rows, suffix), disclosed=False))
    for place, (metric, exhibit) in enumerate(pairs.items()):
        for heading, suffix, rows in groups(exhibit.frame) if exhibit else []:
            title = " · ".join(part for part in (f"Differences in {metric}", heading) if part)
            number = f"-{place + 1}" if len(targets) > 1 and metric != THROUGHPUT else ""
            stem = f"pairs-{STEMS.get(metric, 'seconds-to-target')}{number}{suffix}"
            best, others = against_first(rows)
            drawn = bool(len(others)) and (others["verdict"] != "").any()
            alone = f"{best} against every other setting, {metric}"
            charts = [noise_charts.pair_differences(others, stem, alone)] if drawn else []
            said = [] if drawn else [_no_verdicts(rows)]
            parts.append(Part(title, sentences=said, charts=charts, table=_pairs_table(rows, stem)))
    lead = (
        "Each run against the median of its seeds; then the best setting against all others, by blocks of training that"
        " were timed in the same cycles. The tests hold for all pairs together; each interval is at the level of its"
        " own step. Runs of different seeds have no verdict on speed."
    )
    notes = [
        *disturbances.notes,
        *(note for exhibit in pairs.values() for note in (*exhibit.notes, exhibit.reason) if note),
    ]
    return Section(question, lead=lead, parts=parts, notes=list(dict.fromkeys(notes)))


def failures(study: Study) -> Section:
    """What failed?"""
    question = Question("failures", "What failed?", "Failures")
    exhibit = inventory.failures(study.runs)
    unread = [
        Part(
            "Files that are no record",
            table=table(
                pd.DataFrame(study.unread, columns=["file", "reason"]),
                [Column("file", "file", "code"), Column("reason", "reason", "long")],
                name="unread",
                caption="Files that were set aside",
            ),
            disclosed=False,
        )
    ] if study.unread else []  # fmt: skip
    if not exhibit:
        empty = unanswered(question, exhibit)
        return empty if not unread else Section(question, lead=exhibit.reason, parts=unread, notes=exhibit.notes)
    columns = [
        Column("label", "cell", "name"),
        Column("status", "status", "tag", filtered=True),
        Column("reason", "reason", "long"),
        Column("step", "step", "count"),
        Column("rerun", "command that reruns it", "command"),
        Column("cell_id", "id", "code", hidden=True),
    ]
    shown = table(exhibit.frame, columns, name="failures-table", caption="Cells that did not finish", most=500)
    logs = [
        Log(f"{row.label}: {row.status}", "\n".join(part for part in (_tail(row.log), _tail(row.stack)) if part))
        for row in rows_of(exhibit.frame)
        if _tail(row.log) or _tail(row.stack)
    ]
    parts = [Part(table=shown, disclosed=False)]
    if logs:
        more = f" The first {MOST_LOGS} of {len(logs)} are shown." if len(logs) > MOST_LOGS else ""
        parts.append(Part("Last lines", sentences=[f"What the worker printed last.{more}"], logs=logs[:MOST_LOGS]))
    lead = (
        "Diverged and out-of-memory cells are answers and are kept; failed, timed-out and killed ones run again with"
        " the grid."
    )
    return Section(question, lead=lead, parts=[*parts, *unread], notes=exhibit.notes)


def repeat(study: Study) -> Section:
    """Can I repeat it?"""
    question = Question("repeat", "Can I repeat it?", "Repeat it")
    exhibit = inventory.environments(study.runs)
    timed = ", ".join(f"speeds by protocol {number}" for number in sorted(set(study.blocks["protocol"])))
    parts = [Part(facts=_environment(row, timed)) for row in exhibit.frame.head(12).to_dict("records")]
    headings = [
        f"{row['machine']}: {row['device'] if missing(row['device_name']) else row['device_name']}"
        for row in exhibit.frame.head(12).to_dict("records")
    ]
    parts = [Part(clipped(heading, 80), facts=part.facts) for heading, part in zip(headings, parts, strict=True)]
    grids = [
        Log(f"{name}: grid.yaml as resolved", text, open=len(study.grids) == 1) for name, text in study.grids.items()
    ]
    if grids:
        parts.append(Part("Grid", logs=grids))
    if len(study.runs):
        shown = _every_run(study.runs)
        parts.append(Part("Every run", table=shown))
    lead = (
        "Take the grid below and run it; equal seeds give equal losses on a CPU. The CSV files hold every cell and"
        " every epoch."
    )
    return Section(question, lead=lead, parts=parts, notes=exhibit.notes, downloads=True)


def _every_run(runs: pd.DataFrame) -> Table:
    """What was asked of each run, what it reached at each target, and what was measured."""
    targets = frames.targets_in(runs)
    columns = list(SETTINGS)
    for place, target in enumerate(targets):
        answered = frames.at_target(runs, target)
        for measure in TARGET_MEASURES:
            if measure.title:
                key = f"{measure.name}_{place}"
                runs = runs.assign(**{key: answered[measure.name]})
                title = measure.title if len(targets) == 1 else measure.title.replace("target", percent(target, 1))
                columns.append(Column(key, title, measure.shown, hidden=measure.hidden))
    columns += [
        Column(measure.name, measure.title, measure.shown, hidden=measure.hidden)
        for measure in MEASURES
        if measure.title
    ]
    return table(runs, [*columns, *MARKS], name="runs", caption="Every run")


def _to_target(target: float, targets: Sized) -> str:
    return f"time to {percent(target, 1)}" if len(targets) > 1 else "time to target"


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
    gain = known["ratio"].astype(float).map(math.log)
    score = gain.groupby(known["settings_a"]).sum().sub(gain.groupby(known["settings_b"]).sum(), fill_value=0)
    best = score.idxmax()
    mine = known[(known["settings_a"] == best) | (known["settings_b"] == best)]
    turned = (mine["settings_b"] == best).to_numpy()
    ratio, low, high = (mine[key].astype(float).to_numpy() for key in ("ratio", "low", "high"))
    verdict = mine["verdict"].map({"faster": "ahead", "slower": "behind"}).fillna(mine["verdict"]).to_numpy()
    flipped = {"ahead": "behind", "behind": "ahead"}
    found = pd.DataFrame(
        {
            "label": np.where(turned, mine["label_a"], mine["label_b"]),
            "ratio": np.where(turned, 1 / ratio, ratio),
            "low": np.where(turned, 1 / high, low),
            "high": np.where(turned, 1 / low, high),
            "verdict": [flipped.get(text, text) if turn else text for text, turn in zip(verdict, turned, strict=True)],
            "reason": mine["reason"].to_numpy(),
        }
    )
    label = mine.iloc[0]["label_b"] if turned[0] else mine.iloc[0]["label_a"]
    return str(label), found.sort_values("ratio").reset_index(drop=True)


def _no_verdicts(rows: pd.DataFrame) -> str:
    reasons = [f"{reason} ({number})" for reason, number in rows["reason"].replace("", np.nan).value_counts().items()]
    return f"No pair has a verdict: {listed(reasons)}." if reasons else "No pair has a verdict."


def _deviations(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs of settings that ran more than once, each against their median."""
    known = frame[frame["examples_per_second"].notna() & (frame["examples_per_second"] > 0)]
    by = known.groupby(["group", "settings"])["examples_per_second"]
    middle, runs = by.transform("median"), by.transform("size")
    label = known["settings"].map(labels(frame))
    found = known.assign(deviation=known["examples_per_second"].astype(float) / middle.astype(float) - 1, label=label)
    return found.loc[runs > 1, ["group", "label", "device", "deviation", "noisy"]]


def _noise_table(rows: pd.DataFrame, suffix: str) -> Table:
    return table(
        rows,
        [
            Column("device", "device"),
            Column("runs", "runs", "count"),
            Column("quiet", "quiet", "count"),
            Column("noisy", "noisy", "count"),
            Column("shared", "shared", "count"),
            Column("unknown", "not observable", "count"),
            Column("twin_pairs", "twin pairs", "count"),
            Column("twin_gap", "twins differ by", "share"),
            Column("sessions", "sessions of blocks", "count"),
            Column("blocks", "blocks", "count"),
            Column("disturbed", "disturbed blocks", "count"),
            Column("half_gap", "halves of blocks differ by", "share"),
            Column("flags", "flags", "long"),
        ],
        name=f"noise-table{suffix}",
        caption="What the noise was",
    )


def _pairs_table(rows: pd.DataFrame, stem: str) -> Table:
    return table(
        rows,
        [
            Column("label_a", "first", "name"),
            Column("label_b", "second", "name"),
            Column("ratio", "first ÷ second", "ratio"),
            Column("low", "low", "ratio"),
            Column("high", "high", "ratio"),
            Column("n", "n", "count"),
            Column("verdict", "first is", "tag", filtered=True),
            Column("text", "in words", "long"),
            Column("new_seeds", "for new seeds", "tag", hidden=True),
            Column("level", "level of its step", "number", hidden=True),
            Column("method", "method", hidden=True),
        ],
        name=f"{stem}-table",
        caption="Pairs of settings",
        most=150,
    )


def _environment(row: Any, timed: str) -> list[tuple[str, str]]:
    facts = {
        "cells": f"{plural(int(str(row['cells'])), 'run')} from {_day(row['first'])} to {_day(row['last'])}",
        "machine": f"{row['machine']} (id {row['machine_id']})",
        "device": row["device_name"] if not missing(row["device_name"]) else row["device"],
        "processor": row["cpu"],
        "memory": byte_count(row["memory_bytes"]),
        "system": row["os"],
        "versions": f"Python {row['python']}, torch {row['torch']}"
        + (f", CUDA {row['cuda']}" if not missing(row["cuda"]) else "")
        + f", mnistbench {row['mnistbench']}, protocol {row['protocol']}{f', {timed}' if timed else ''}",
        "commit": f"{row['git_commit']}{' with uncommitted changes' if row['git_dirty'] is True else ''}",
        "energy": ENERGY_SOURCES.get(str(row["energy_source"]), "not measurable here"),
        "data": f"{row['dataset']}{' (a fallback)' if row['fallback'] is True else ''}, SHA-256 {row['data_sha256']}",
    }
    return [
        (term, str(value))
        for term, value in facts.items()
        if not missing(value) and str(value) not in ("", "nan", "None")
    ]


def _day(value: object) -> str:
    return str(value)[:16].replace("T", " ")


def _tail(text: object) -> str:
    return "" if missing(text) or not isinstance(text, str) else text[-MOST_LOG_CHARACTERS:]
