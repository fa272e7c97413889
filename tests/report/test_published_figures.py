"""Figures in the docs that come from published records are those of the records."""

from __future__ import annotations

import re
from pathlib import Path

from mnistbench.report.blocks import blocks_frame
from mnistbench.report.frame import results_frame
from mnistbench.report.sections.levers import lever_effects
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.speed import read_sessions
from mnistbench.words.wording import interval_text, significant

ROOT = Path(__file__).parents[2]


def test_the_table_of_levers_is_that_of_the_published_folder() -> None:
    folder = ResultsFolder(ROOT / "results" / "reference" / "levers")
    effects = lever_effects(results_frame(folder.records()), blocks_frame(read_sessions(folder)[0])).frame
    published = {}
    for row in effects.itertuples():
        shown = f"**{significant(row.ratio)}**" if row.verdict in ("faster", "slower") else significant(row.ratio)
        text = f"{shown} {interval_text(row.low, row.high)}"
        published[row.kind, row.profile, row.lever.partition("=")[0], row.batch_size] = text
    docs = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    section = docs.partition("## What each lever buys")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)`[^|]*\| (.+) \|$", section, re.MULTILINE)
    assert len(lines) == 7
    columns = [(kind, size) for kind in (("leave-one-out", "fast"), ("add-one", "plain")) for size in (1024, 64)]
    for lever, cells in lines:
        assert cells.split(" | ") == [published.get((*kind, lever, size), "–") for kind, size in columns], lever
    assert published["profile", "plain", "fast", 1024] == "**3.87** [3.73, 4.01]"
    assert "3.87 × [3.73, 4.01]" in docs
