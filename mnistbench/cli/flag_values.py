"""What a user types for a time, a part of the grid or a path, as what it stands for. Standard library only."""

from __future__ import annotations

import re
from pathlib import Path

from mnistbench.errors import UserError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str | None, flag: str) -> float | None:
    """`90`, `90s`, `10m`, `1.5h` in seconds; None stays None.

    Raises:
        UserError: for anything else, and for what is not above zero.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smh]?)", text.strip())
    if not found or not float(found[1]):
        raise UserError(f"{flag} {text}: give a time such as 90s, 10m or 1.5h")
    return float(found[1]) * UNITS[found[2] or "s"]


def shard(text: str | None) -> tuple[int, int] | None:
    """`2/5` as (2, 5); None stays None.

    Raises:
        UserError: unless it is one of that many parts.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard {text}: give the part and the number of parts, such as 2/5 for the second of five")
    return int(found[1]), int(found[2])


def path(text: str) -> Path:
    """A path; empty text (`--out "$UNSET"`) would be the working folder, which nobody meant.

    Raises:
        UserError: for empty text.
    """
    if not text.strip():
        raise UserError("an empty path was given: name one, or leave the flag out")
    return Path(text)
