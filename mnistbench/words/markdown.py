"""Tables as Markdown that an issue renders, whatever names the records hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_\[\]#|$~@])")
_CODE = re.compile(r"\\`([\w ./=-]+)\\`")


def one_line(text: object) -> str:
    """Text without line breaks and control characters, for a terminal or a table."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


def escape(text: object) -> str:
    """Text that Markdown shows as it is: no HTML, no mention, one line, no mark-up but plain words as `code`."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _CODE.sub(r"`\1`", _SPECIAL.sub(r"\\\1", plain))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A pipe table; every cell is escaped."""
    lines = [headers, ["---"] * len(headers)]
    body = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    return "\n".join([*body, *("| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows)])
