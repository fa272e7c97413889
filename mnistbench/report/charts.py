"""What all charts share: how they look, how a series keeps its colour, marker and line style, and how text stays text.

Charts are drawn on figures of their own (no pyplot state), maps, bars and medians by seaborn, small enough to be
read on a phone; wide screens put several side by side.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import itertools
import math
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnistbench.report import svg
from mnistbench.report.palette import BAD, DASHES, FAINT, INK, MARKERS, MUTED, PAPER, RULE, series_colour
from mnistbench.words.wording import clipped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from pandas import DataFrame

WIDTH = 5.6
"""Inches of a full chart: 403 units, so that 11-point text stays above 9 pixels on a phone."""
MOST_BANDS = 4
"""Lines of one chart that may have a band each; of more, each has its name and an interval at its end."""
SMALL = 3.6
"""Inches of one panel of small multiples."""
MOST_PANELS = 12
"""Small multiples that are drawn; the notice says how many are not."""

STYLE: dict[str, Any] = {
    "figure.facecolor": PAPER.light, "axes.facecolor": PAPER.light, "savefig.facecolor": PAPER.light,
    "text.color": INK.light, "axes.labelcolor": MUTED.light, "xtick.color": RULE.light, "ytick.color": RULE.light,
    "xtick.labelcolor": MUTED.light, "ytick.labelcolor": MUTED.light, "axes.edgecolor": RULE.light,
    "grid.color": RULE.light, "grid.linewidth": 0.6, "axes.linewidth": 0.8, "axes.grid": True, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "xtick.bottom": True, "ytick.left": False,
    "xtick.direction": "out", "xtick.major.size": 3, "font.size": 10.5, "axes.labelsize": 10.5,
    "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 10, "legend.frameon": False,
    "lines.linewidth": 1.8, "lines.markersize": 5.5, "lines.solid_capstyle": "round", "hatch.linewidth": 1.0,
    "hatch.color": FAINT.light, "text.parse_math": False, "axes.unicode_minus": True, "svg.fonttype": "none",
    "svg.hashsalt": "mnistbench", "path.simplify": True, "figure.constrained_layout.use": True,
}  # fmt: skip

FONTS = [
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei",
    "WenQuanYi Zen Hei", "Noto Sans Arabic", "Noto Sans Hebrew", "Arial Unicode MS",
]  # fmt: skip
"""For PNG files: the first that has a glyph draws it. In SVG the reader's own fonts do."""


_RIGHT_TO_LEFT = {"R", "AL", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "FSI"}


@dataclass(frozen=True)
class Look:
    """How one series is told from another, three ways at once."""

    colour: str
    marker: str
    dashes: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """One figure of the report.

    Attributes:
        name: stem of its file names, and prefix of its ids.
        title: says what is drawn, for the heading above it.
        alt: a sentence made from the data, for those who do not see it; also its caption.
        figure: the drawing.
    """

    name: str
    title: str
    alt: str
    figure: Figure

    def svg(self) -> str:
        """The figure as an SVG file."""
        with style():
            return svg.standalone(self.figure)

    def png(self) -> bytes:
        """The figure as a PNG file, 150 dots an inch."""
        buffer = io.BytesIO()
        with style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            self.figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
        return buffer.getvalue()


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, whatever the user's own matplotlib settings are."""
    import matplotlib as mpl

    with warnings.catch_warnings(), mpl.rc_context():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        settings: Any = {**STYLE, "font.family": _installed_fonts()}
        mpl.rcParams.update(settings)
        yield


@functools.cache
def _installed_fonts() -> list[str]:
    from matplotlib import font_manager

    known = set(font_manager.fontManager.get_font_names())
    return [name for name in FONTS if name in known]


def canvas(width: float = WIDTH, height: float = 3.7) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def panel(width: float = SMALL, height: float = 2.6) -> tuple[Figure, Axes]:
    """Axes of small multiples: the same margins in each, so that they line up, and drawn once instead of twice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")
    return figure, figure.add_axes((0.17, 0.17, 0.81, 0.79))


def panels_of(frame: DataFrame, columns: Sequence[str]) -> Iterator[tuple[str, DataFrame]]:
    """The rows of each combination of these columns, with a title of those that vary."""
    varied = [column for column in columns if frame[column].nunique() > 1] or list(columns[:1])
    for values, rows in frame.groupby(varied):
        yield " · ".join(map(str, values)), rows


def stem(*parts: object) -> str:
    """A chart's name: letters and digits of these, and a short hash where that loses something."""
    text = "-".join(str(part) for part in parts)
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48]
    lost = re.sub(r"[ ._]+", "-", text.lower()) != plain
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if lost else plain


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for each label, in the order given: the same in every chart that is given the same labels."""
    unique = list(dict.fromkeys(labels))
    return {
        label: Look(series_colour(place), MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)])
        for place, label in enumerate(unique)
    }


def legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    """A legend below the plot, as many columns as fit, for which the figure grows; none where there is one label."""
    if len(labels) < 2:
        return
    shown = [one_line(label, 54) for label in labels]
    widest = max((len(label) for label in shown), default=1)
    room = figure.get_figwidth() * 72
    columns = max(1, min(len(shown), int(room // (34 + 5.6 * widest))))
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(shown) // columns))
    figure.legend(
        handles, shown, loc="outside lower left", ncols=columns, handlelength=2.6, columnspacing=1.4, borderpad=0.1
    )


def ranges(axes: Axes, rows: DataFrame, names: tuple[str, str, str], colour: str, *, band: bool) -> None:
    """The range around a line: a band, or where many lines would hide each other an interval at its last point.

    Args:
        rows: of one line, from left to right.
        names: of the columns across, low and high.
    """
    across, low, high = (rows[name].astype(float) for name in names)
    if band:
        axes.fill_between(across, low, high, color=colour, alpha=0.15, linewidth=0)
    elif len(rows):
        axes.vlines(across.iloc[-1], low.iloc[-1], high.iloc[-1], color=colour, linewidth=1.4, alpha=0.7)


@dataclass(frozen=True)
class LineEnd:
    """The last point of a line, and how its name is written there; at the right edge where `across` is None."""

    name: str
    up: float
    across: float | None = None
    colour: str = INK.light


def name_ends(axes: Axes, ends: Sequence[LineEnd], gap: float = 0.085) -> None:
    """The name of each line at its end, moved apart where they would touch."""
    low, high = axes.get_ylim()
    heights = [_height(end.up, low, high, log=axes.get_yscale() == "log") for end in ends]
    for end, height in zip(ends, spread(heights, gap, most=1.0), strict=True):
        where = ("axes fraction", "axes fraction") if end.across is None else ("data", "axes fraction")
        across = 1.0 if end.across is None else end.across
        axes.annotate(one_line(end.name, 40), (across, height), xycoords=where, xytext=(6, 0), color=end.colour,
                      textcoords="offset points", fontsize=9, va="center")  # fmt: skip


def _height(value: float, low: float, high: float, *, log: bool) -> float:
    if log:
        value, low, high = (math.log(max(number, 1e-12)) for number in (value, low, high))
    return min(max((value - low) / (high - low), 0.02), 0.98)


def handle(look: Look, **changes: Any) -> Line2D:
    """A legend entry for a look."""
    from matplotlib.lines import Line2D

    own = {"color": look.colour, "marker": look.marker, "markeredgecolor": PAPER.light, "markeredgewidth": 0.6}
    properties: dict[str, Any] = own | changes
    line = Line2D([], [], **properties)
    if look.dashes and properties.get("linestyle", "-") not in ("none", "None"):
        line.set_dashes(look.dashes)
    return line


DOT: dict[str, Any] = {"edgecolors": PAPER.light, "linewidths": 0.5, "zorder": 3}
"""How a dot stands out before lines and other dots."""
_CROSS: dict[str, Any] = {"marker": "x", "color": BAD.light, "markersize": 8, "markeredgewidth": 2, "linestyle": "none"}


def cross(axes: Axes, across: float, up: float) -> None:
    """The mark of what went wrong, also at the edge of the plot."""
    axes.plot([across], [up], clip_on=False, zorder=5, **_CROSS)


def cross_handle() -> Line2D:
    """Its legend entry."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **_CROSS | {"markersize": 5.5})


def one_line(label: str, width: int) -> str:
    """A label clipped to so many characters; parts that run from right to left keep to themselves."""
    return svg.legible(" · ".join(_isolated(part) for part in clipped(label, width).split(" · ")))


def _isolated(part: str) -> str:
    turns = any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in part)
    return f"\N{FIRST STRONG ISOLATE}{part}\N{POP DIRECTIONAL ISOLATE}" if turns else part


def two_lines(label: str, width: int = 32) -> str:
    """A label for the side of a row, on two lines where one is not enough."""
    lines = textwrap.wrap(str(label), width, break_long_words=False) or [""]
    return "\n".join(one_line(line, width) for line in [*lines[:1], *([" ".join(lines[1:])] if lines[1:] else [])])


def row_labels(axes: Axes, labels: Sequence[str]) -> None:
    """Rows from the top down, each with its label at the side."""
    axes.set_yticks(range(len(labels)), list(labels), fontsize=9, color=INK.light, linespacing=1.15)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set(ylabel="")
    axes.tick_params(axis="y", length=0)


def batch_axis(axes: Axes, batches: Iterable[int]) -> None:
    """A log2 axis with the batch sizes that were run as its ticks."""
    sizes = sorted(set(batches))
    axes.set_xscale("log", base=2)
    room = 2 if len(sizes) == 1 else 2**0.35
    apart = (sizes[-1] / sizes[0] * room**2) ** (1 / 8)  # an eighth of the axis has room for 16,384
    ticks = sizes[:1]
    for size in sizes[1:]:
        if size >= ticks[-1] * apart:
            ticks.append(size)
    axes.set_xticks(ticks, [f"{size:,}" if size < 10000 or size % 1000 else f"{size // 1000}k" for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("batch size")
    axes.set_xlim(sizes[0] / room, sizes[-1] * room)


def log_ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers between two positive limits: 1, 2, 5 × 10ⁿ, or evenly spaced ones where the limits are close."""
    from matplotlib.ticker import MaxNLocator

    if high / low < 4:
        even = [float(tick) for tick in MaxNLocator(most - 1).tick_values(low, high) if low <= tick <= high]
        return even or [low]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks: list[float] = []
    for multiples in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in multiples if low <= m * 10.0**e <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: -(-len(ticks) // most)]


def log_axis(axes: Axes, which: str, low: float, high: float, text: Any, *, most: int = 6, one: bool = False) -> None:
    """A log axis from `low` to `high`, a little widened, with plain numbers as ticks, and 1 among them if `one`."""
    room = max((high / low) ** 0.06, 1.04)
    low, high = low / room, high * room
    ticks = log_ticks(low, high, most=most)
    if one:
        apart = (high / low) ** 0.12
        ticks = sorted([1.0, *(tick for tick in ticks if max(tick, 1 / tick) > apart)])
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(ticks, [text(tick) for tick in ticks])
    axes.set(**{f"{which}lim": (low, high)})
    axes.minorticks_off()


def spread(values: Sequence[float], gap: float, *, most: float = math.inf) -> list[float]:
    """Positions near `values`, in the same order, at least `gap` apart, none beyond `most`: for ends of lines."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    placed = list(values)
    for _ in range(50):
        moved = False
        for below, above in itertools.pairwise(order):
            lack = gap - (placed[above] - placed[below])
            if lack > 1e-9:
                placed[below] -= lack / 2
                placed[above] += lack / 2
                moved = True
        if not moved:
            break
    for place in reversed(order):
        placed[place] = min(placed[place], most)
        most = placed[place] - gap
    return placed
