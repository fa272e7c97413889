"""Numbers as text, the same everywhere: seconds, shares, ratios, intervals."""

from __future__ import annotations

import math


def seconds_text(value: float) -> str:
    """`3.14 s`, `250 ms`, `12 min`; infinite is `not reached`."""
    if math.isinf(value):
        return "not reached"
    if value < 1:
        return f"{_digits(value * 1000)} ms"
    if value < 600:
        return f"{_digits(value)} s"
    return f"{_digits(value / 60)} min" if value < 7200 else f"{_digits(value / 3600)} h"


def percent(share: float, digits: int = 1) -> str:
    """0.971 as `97.1 %`."""
    return f"{100 * share:.{digits}f} %"


def accuracy_text(share: float) -> str:
    """0.9 as `90 %`, 0.985 as `98.5 %`."""
    return f"{round(100 * share, 2):g} %"


def times(ratio: float) -> str:
    """1.234 as `1.23×`."""
    return f"{_digits(ratio)}×"


def interval_text(low: float, high: float) -> str:
    """`13.2–15.1`; "" when there is none."""
    return f"{_digits(low)}–{_digits(high)}" if math.isfinite(low + high) else ""


def between(low: float, high: float) -> str:
    """A ratio of speeds from 0.96 to 1.12 as `between 4 % slower and 12 % faster`."""
    return f"between {_faster(low)} and {_faster(high)}"


def _faster(ratio: float) -> str:
    if ratio >= 2 or ratio <= 0.5:
        return f"{times(max(ratio, 1 / ratio) if ratio else math.inf)} {'as fast' if ratio >= 1 else 'slower'}"
    share = 100 * abs(ratio - 1)
    return f"{share:.{0 if share >= 1 else 1}f} % {'faster' if ratio >= 1 else 'slower'}"


def more_time(seconds: float) -> str:
    """What an open difference would take: ``about 4 minutes more (`--budget 4m`)``."""
    minutes = max(1, math.ceil(seconds / 60))
    if minutes < 90:
        return f"about {plural(minutes, 'minute')} more (`--budget {minutes}m`)"
    hours = math.ceil(minutes / 60)
    return f"about {plural(hours, 'hour')} more (`--budget {hours}h`)"


def plural(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`, `1,200 cells`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _digits(value: float) -> str:
    """Three significant digits, without exponents."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
