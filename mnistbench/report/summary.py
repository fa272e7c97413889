"""The answer in sentences, and the text one pastes into an issue."""

from __future__ import annotations

import pandas as pd

from mnistbench.report.blocks import NO_BLOCKS
from mnistbench.report.inventory import banners, completeness
from mnistbench.report.labels import shared
from mnistbench.report.samples import for_show
from mnistbench.report.sections import Study, sections
from mnistbench.words import markdown


def verdict_sentences(frame: pd.DataFrame, blocks: pd.DataFrame = NO_BLOCKS) -> list[str]:
    """What the data say of each question, in the order of the sections: what another device and the levers buy, where
    the grid varies them, who is first at each target, what is ranked nowhere, what a large batch costs, what is open,
    and what it would take. Every ratio names its clock, n and interval; the last sentences name machine, build,
    protocol and execution (rule 22), and what all settings share.
    """
    frame = for_show(frame, blocks)
    groups = [group for group in dict.fromkeys(frame["group"]) if group]
    if not groups:
        return ["No cell has run, so there is nothing to say yet."]
    sentences = []
    for group in groups:
        part = frame[frame["group"] == group]
        said = [sentence for section in sections(part) for sentence in section.sentences(part, blocks)]
        if said:
            sentences += [*said, f"Measured on {group}.", *shared(part)]
    return sentences or ["No cell finished, so there is nothing to say yet."]


def summary_markdown(study: Study) -> str:
    """The text of `summary.md`: sentences, completeness, banners, then what sections have there.

    Names from records are escaped for Markdown.
    """
    parts = [
        f"# {markdown.escape(study.name)}",
        "\n".join(f"- {markdown.escape(text)}" for text in verdict_sentences(study.frame, study.blocks)),
        markdown.escape(completeness(study.runs, study.asked).sentence) + ".",
        "\n".join(f"> **{markdown.escape(text)}**" for text in banners(study.runs)),
        *(text for section in sections(study.frame) for text in section.text(study)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
