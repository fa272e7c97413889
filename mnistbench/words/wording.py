"""Numbers as a reader wants them, the same everywhere: three digits, a unit, and a word where there is no number."""

from __future__ import annotations

import math
from typing import Any

MISSING = "–"


def missing(value: Any) -> bool:
    """Whether this is None, NaN or pandas' NA."""
    if isinstance(value, list | tuple | dict | str):
        return False
    try:
        return value is None or bool(value != value)  # noqa: PLR0124  # what NaN is known by, without pandas
    except TypeError:  # pandas' NA is neither true nor false
        return True


def significant(value: float, digits: int = 3) -> str:
    """`32345.6` as `32,300`, `3.1416` as `3.14`, without powers of ten in the usual range."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) < 1e-4 or abs(value) >= 1e12:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(places, 0)}f}".replace("-", "−")


def seconds_text(value: Any) -> str:
    """`0.5` as `500 ms`, `3.14` as `3.14 s`, `754` as `12 min 34 s`, `7300` as `2 h 1 min`; ∞ is `not reached`."""
    if missing(value):
        return MISSING
    value = float(value)
    if not math.isfinite(value):
        return "not reached"
    if value < 0.9995:
        return f"{significant(value * 1000)} ms"
    if value < 119.5:
        return f"{significant(value)} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def seconds_interval(low: float, high: float) -> str:
    """`[2.90, 3.40]` beside a value in seconds, else with its units: `[477 ms, 551 ms]`; "" where there is none."""
    if missing(low) or missing(high) or low == high or math.isinf(low):
        return ""
    first, last = seconds_text(low), seconds_text(high)
    if all(text.endswith(" s") and text.count(" ") == 1 for text in (first, last) if text != "not reached"):
        first, last = first.removesuffix(" s"), last.removesuffix(" s")
    return f"[{first}, {last}]"


def rough_time(seconds: float) -> str:
    """Of an estimate: `45 s`, `3 min`, `2 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: Any, digits: int = 1) -> str:
    """0.971 as `97.1 %`."""
    return MISSING if missing(share) else f"{100 * float(share):.{digits}f} %".replace("-", "−")


def accuracy_text(share: float) -> str:
    """0.9 as `90 %`, 0.985 as `98.5 %`."""
    return f"{round(100 * share, 2):g} %"


def points(value: Any) -> str:
    """A difference of shares in percentage points: `−1.20`."""
    return MISSING if missing(value) else f"{100 * float(value):+.2f}".replace("-", "−").replace("+0.00", "0.00")


def count(value: Any) -> str:
    """`60000` as `60,000`; `never` for a number that is not reached."""
    if missing(value):
        return MISSING
    return f"{round(float(value)):,}" if math.isfinite(float(value)) else "never"


def whole(value: Any) -> str:
    """A number of epochs: `2`, or `1.5` as a median; a dash where there is none."""
    return MISSING if missing(value) or not math.isfinite(float(value)) else f"{float(value):.3g}"


def rate(value: Any) -> str:
    """Examples per second, three digits: `32,300`."""
    return MISSING if missing(value) else significant(float(value))


def short_rate(value: Any) -> str:
    """The same for an axis: `32k`, `1.5M`."""
    value = float(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def times(ratio: Any) -> str:
    """1.234 as `1.23×`."""
    return MISSING if missing(ratio) else f"{significant(float(ratio))}×"


def rank_text(first: int, last: int) -> str:
    """`2`, or `2–4` for the ranks that a setting may have."""
    return f"{first}" if first == last else f"{first}–{last}"


def ratio_range(low: Any, high: Any) -> str:
    """`1.20–1.41×`, or a dash."""
    return MISSING if missing(low) or missing(high) else f"{significant(float(low))}–{significant(float(high))}×"


def interval_text(low: float, high: float) -> str:
    """`[13.2, 15.1]`; "" when there is none."""
    return f"[{significant(low)}, {significant(high)}]" if math.isfinite(low + high) else ""


def byte_count(value: Any) -> str:
    """`2147483648` as `2.0 GiB`."""
    if missing(value):
        return MISSING
    value = float(value)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{value:.1f} {unit}"
        value /= 1024
    return MISSING


def joules(value: Any) -> str:
    """`0.0123` as `12.3 mJ`, `754` as `754 J`, `12345` as `12.3 kJ`."""
    if missing(value):
        return MISSING
    value = float(value)
    for limit, unit, factor in ((1, "mJ", 1e3), (1e3, "J", 1.0), (1e6, "kJ", 1e-3)):
        if value < limit and value:
            return f"{significant(value * factor)} {unit}"
    return f"{significant(value * 1e-6)} MJ" if value else "0 J"


def between(low: float, high: float) -> str:
    """A ratio of speeds from 0.96 to 1.12 as `between 4 % slower and 12 % faster`."""
    return f"between {_faster(low)} and {_faster(high)}"


def _faster(ratio: float) -> str:
    if ratio >= 2 or ratio <= 0.5:
        return f"{times(max(ratio, 1 / ratio) if ratio else math.inf)} {'as fast' if ratio >= 1 else 'slower'}"
    share = 100 * abs(ratio - 1)
    return f"{share:.{0 if share >= 1 else 1}f} % {'faster' if ratio >= 1 else 'slower'}"


def more_time(seconds: float, cycles: float) -> str:
    """What an open difference would take: ``about 4 minutes more (`run` with `--set speed.cycles=52`)``.

    Args:
        seconds: of the cycles that are lacking.
        cycles: to plan in all, those that were taken among them.
    """
    minutes = max(1, math.ceil(seconds / 60))
    takes = plural(minutes, "minute") if minutes < 90 else plural(math.ceil(minutes / 60), "hour")
    return f"about {takes} more (`run` with `--set speed.cycles={cycles:.0f}`)"


def plural(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`, `1,200 cells`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def records_and_sessions(records: int, sessions: int) -> str:
    """`4 records and 1 session of speed`; sessions are left out where there are none."""
    return plural(records, "record") + (f" and {plural(sessions, 'session')} of speed" if sessions else "")


def clipped(text: Any, length: int = 44) -> str:
    """A label short enough for a chart, cut in its middle, since settings often differ at the end."""
    plain = " ".join(str(text).split())
    if len(plain) <= length:
        return plain
    head = (length - 1) * 3 // 5
    return f"{plain[:head].rstrip()}…{plain[head - length + 1 :].lstrip()}"


def listed(items: list[str], limit: int = 4) -> str:
    """`a, b and c`, or `a, b, c and 5 more`."""
    if len(items) > limit:
        items = [*items[: limit - 1], f"{len(items) - limit + 1} more"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
