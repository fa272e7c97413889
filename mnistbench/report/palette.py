"""Every colour of the report, once, for light and for dark: charts draw in the light one, the page swaps it by a variable.

Series colours are told apart under deuteranopia, protanopia and tritanopia (a test simulates the three), hold 3:1
against the page, and never carry meaning alone: each series has its own marker and line style as well.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """One named colour: the page's CSS variable, the value charts are drawn in, and the one for dark."""

    name: str
    light: str
    dark: str


INK = Colour("ink", "#1b1f24", "#e8eaed")
MUTED = Colour("muted", "#59616b", "#a3abb5")
RULE = Colour("rule", "#d9dde2", "#363c45")
PAPER = Colour("paper", "#fefefe", "#15181c")
FAINT = Colour("faint", "#b4bac2", "#565d67")
GOOD = Colour("good", "#0b6e4f", "#4ccb9f")
BAD = Colour("bad", "#b3361b", "#ff8f70")

SERIES = [
    Colour("series-0", "#0069aa", "#5db4f0"),
    Colour("series-1", "#d1520a", "#ff9250"),
    Colour("series-2", "#00856f", "#2fd0ae"),
    Colour("series-3", "#a63d8c", "#f09ad6"),
    Colour("series-4", "#9c7a00", "#e6c84c"),
    Colour("series-5", "#32373e", "#d5d9de"),
    Colour("series-6", "#4a9fd8", "#a6dcff"),
    Colour("series-7", "#7a4b2a", "#d2a07a"),
]

DIVERGING = [  # slower than 1x ... 1x ... faster than 1x: vermillion to blue, neutral in the middle
    Colour("diverging-0", "#a63603", "#c24a12"),
    Colour("diverging-1", "#e0762f", "#96400f"),
    Colour("diverging-2", "#f6c79c", "#5e3213"),
    Colour("diverging-3", "#eef0f2", "#2a2f36"),
    Colour("diverging-4", "#b7d7ee", "#1c4461"),
    Colour("diverging-5", "#6aaddb", "#1f618f"),
    Colour("diverging-6", "#2a7ab9", "#2b80bf"),
    Colour("diverging-7", "#0b4f8a", "#4aa3e6"),
]
NEUTRAL = 3
"""Place in `DIVERGING` of 1x."""

SEQUENTIAL = [
    Colour("sequential-0", "#f4f6f8", "#1d2126"),
    Colour("sequential-1", "#dbe7f1", "#20364a"),
    Colour("sequential-2", "#b3d0e7", "#234c6d"),
    Colour("sequential-3", "#7fb2da", "#286594"),
    Colour("sequential-4", "#4790c8", "#3482bd"),
    Colour("sequential-5", "#1f6cab", "#59a5df"),
    Colour("sequential-6", "#0b4880", "#97cbf4"),
]

ON_LIGHT = Colour("on-pale", "#1c2025", "#eceef1")
"""Text on a cell of a map whose colour is pale in light and deep in dark."""
ON_DEEP = Colour("on-deep", "#fdfdfd", "#0e1013")
"""Text on a cell whose colour is deep in light and pale in dark."""

ALL = [INK, MUTED, RULE, PAPER, FAINT, GOOD, BAD, *SERIES, *DIVERGING, *SEQUENTIAL, ON_LIGHT, ON_DEEP]

MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<", ">"]
DASHES: list[tuple[float, ...]] = [(), (5, 1.6), (1.4, 1.4), (6, 1.6, 1.4, 1.6), (3, 1.2), (8, 2, 1.4, 2, 1.4, 2)]


def series_colour(index: int) -> str:
    """Colour of the n-th series; repeats after eight, when markers and line styles still differ."""
    return SERIES[index % len(SERIES)].light


def css() -> str:
    """The variables: light values for every browser, both where it knows `light-dark()`."""
    light = "".join(f"--{colour.name}:{colour.light};" for colour in ALL)
    both = "".join(f"--{colour.name}:light-dark({colour.light},{colour.dark});" for colour in ALL)
    return f":root{{{light}}}\n@supports (color:light-dark(#000,#fff)){{:root{{{both}}}}}\n"
