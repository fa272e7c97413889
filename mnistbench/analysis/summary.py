"""The answer in sentences, and the text one pastes into an issue."""

from __future__ import annotations

import pandas as pd


def verdict_sentences(frame: pd.DataFrame) -> list[str]:
    """What the data say, the most wanted first: who is first at the target, device speed-ups with their crossover
    batch, what is unresolved. One sentence each; every ratio names its clock, n and interval (rule 22).
    """
    raise NotImplementedError


def summary_markdown(frame: pd.DataFrame, *, name: str, asked: int | None = None) -> str:
    """The text of `summary.md`: sentences, completeness, banners, leaderboard, speed-ups, failures, environment.

    Names from records are escaped for Markdown.
    """
    raise NotImplementedError
