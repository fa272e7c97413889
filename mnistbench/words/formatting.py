"""Numbers as a reader wants them: three digits, units, and a word where there is no number."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

MISSING = "–"


def missing(value: Any) -> bool:
    """Whether this is None, NaN or pandas' NA."""
    return value is None or (not isinstance(value, list | tuple | dict | str) and bool(pd.isna(value)))


def significant(value: float, digits: int = 3) -> str:
    """`32345.6` as `32,300`, `3.1416` as `3.14`, without powers of ten in the usual range."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) < 1e-4 or abs(value) >= 1e12:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    return f"{rounded:,.{max(places, 0)}f}".replace("-", "−")


def seconds(value: Any) -> str:
    """`0.0123` as `12.3 ms`, `3.14` as `3.1 s`, `754` as `12 min 34 s`."""
    if missing(value):
        return MISSING
    value = float(value)
    if not math.isfinite(value):
        return "not reached"
    if value < 0.1:
        return f"{significant(value * 1000)} ms"
    if value < 120:
        return f"{significant(value)} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def seconds_range(low: Any, high: Any) -> str:
    """`2.9–3.4 s` where both ends carry the same unit, else `0.95 s to 2 min 3 s`."""
    first, last = seconds(low), seconds(high)
    if first == last:
        return first
    unit = first.rpartition(" ")[2]
    same = unit == last.rpartition(" ")[2] and first.count(" ") == last.count(" ") == 1
    return f"{first.removesuffix(f' {unit}')}–{last}" if same and "reached" not in last else f"{first} to {last}"


def percent(value: Any, places: int = 2) -> str:
    """A share as `98.73 %`."""
    return MISSING if missing(value) else f"{100 * float(value):.{places}f} %".replace("-", "−")


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


def ratio(value: Any) -> str:
    """`1.432` as `1.43×`."""
    return MISSING if missing(value) else f"{_ratio(float(value))}×"


def ratio_range(low: Any, high: Any) -> str:
    """`1.2–1.4×`, or a dash."""
    return MISSING if missing(low) or missing(high) else f"{_ratio(float(low))}–{_ratio(float(high))}×"


def _ratio(value: float) -> str:
    return significant(value, 2 if value < 0.995 or value >= 9.95 else 3)


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
