"""Every colour of the report, once, for light and dark: charts draw in the light one, the page swaps it by a variable.

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
WARN = Colour("warn", "#8a6b00", "#e6c84c")
BAD = Colour("bad", "#b3361b", "#ff8f70")

SERIES = [
    Colour("series-0", "#0069aa", "#4a9be0"),
    Colour("series-1", "#d1520a", "#ffae5c"),
    Colour("series-2", "#2ba58c", "#9af0c8"),
    Colour("series-3", "#ac59ff", "#efd0ff"),
    Colour("series-4", "#4c0099", "#8456f5"),
    Colour("series-5", "#730000", "#d23c3c"),
]

DIVERGING = [  # slower than 1x ... 1x ... faster than 1x: vermillion to blue, neutral in the middle
    Colour("diverging-0", "#a63603", "#e2703a"),
    Colour("diverging-1", "#e0762f", "#96400f"),
    Colour("diverging-2", "#f6c79c", "#5e3213"),
    Colour("diverging-3", "#eef0f2", "#2a2f36"),
    Colour("diverging-4", "#b7d7ee", "#1c4461"),
    Colour("diverging-5", "#6aaddb", "#1f618f"),
    Colour("diverging-6", "#2273b3", "#3d92d0"),
    Colour("diverging-7", "#0b4f8a", "#6dbbf5"),
]
NEUTRAL = 3
"""Place in `DIVERGING` of 1x."""

SEQUENTIAL = [
    Colour("sequential-0", "#f4f6f8", "#1d2126"),
    Colour("sequential-1", "#dbe7f1", "#20364a"),
    Colour("sequential-2", "#b3d0e7", "#234c6d"),
    Colour("sequential-3", "#7fb2da", "#286594"),
    Colour("sequential-4", "#5b9fd3", "#2b6fa4"),
    Colour("sequential-5", "#1f6cab", "#59a5df"),
    Colour("sequential-6", "#0b4880", "#97cbf4"),
]

DEEP = {"diverging-0", "diverging-6", "diverging-7", "sequential-5", "sequential-6"}
"""Colours of the maps that are deep in light, and carry `ON_DEEP` text; all others carry `ON_LIGHT`."""
ON_LIGHT = Colour("on-pale", "#1c2025", "#eceef1")
"""Text on a cell of a map whose colour is pale in light and deep in dark."""
ON_DEEP = Colour("on-deep", "#fdfdfd", "#0e1013")
"""Text on a cell whose colour is deep in light and pale in dark."""

ALL = [INK, MUTED, RULE, PAPER, FAINT, GOOD, WARN, BAD, *SERIES, *DIVERGING, *SEQUENTIAL, ON_LIGHT, ON_DEEP]

MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<", ">"]
DASHES: list[tuple[float, ...]] = [(), (5, 1.6), (1.4, 1.4), (6, 1.6, 1.4, 1.6), (3, 1.2)]
"""Fewer than colours, so that a colour that comes again comes with another line style."""


def series_colour(index: int) -> str:
    """Colour of the n-th series; repeats after six, when markers and line styles still differ."""
    return SERIES[index % len(SERIES)].light


def ink_on(colour: Colour) -> str:
    """The text colour that reads on this colour of a map, in light and in dark."""
    return ON_DEEP.light if colour.name in DEEP else ON_LIGHT.light


def css() -> str:
    """The variables: light values for every browser, both where it knows `light-dark()`."""
    light = "".join(f"--{colour.name}:{colour.light};" for colour in ALL)
    both = "".join(f"--{colour.name}:light-dark({colour.light},{colour.dark});" for colour in ALL)
    return f":root{{{light}}}\n@supports (color:light-dark(#000,#fff)){{:root{{{both}}}}}\n"
