"""What is wrong with a file, all of it at once, each with its place: `grid.yaml:3:1: unknown key …; did you mean …?`"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from mnistbench.errors import UserError

MAX_SHOWN = 50


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands: `grid.yaml:3:1`, counted from 1. Line 0 is a source without lines, such as `--set`."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Problems:
    """Everything that is wrong with one file, collected so that the user sees it at once."""

    def __init__(self) -> None:
        self._found: dict[tuple[Place, str], None] = {}
        self._added = 0

    def add(self, place: Place, message: str) -> None:
        """Note what is wrong at a place."""
        self._found[place, message] = None
        self._added += 1

    def __len__(self) -> int:
        """How often something was noted; a value that an alias repeats counts each time."""
        return self._added

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_if_any(self) -> None:
        """Raises:
        UserError: with one line per problem, in the order of the file.
        """
        if not self._found:
            return
        lines = [f"{place}: {message}" for place, message in sorted(self._found)]
        if more := len(lines) - MAX_SHOWN:
            lines[MAX_SHOWN:] = [f"and {more} more"] if more > 0 else []
        raise UserError("\n".join(lines))


def shown(text: str, longest: int = 60) -> str:
    """A text as it may appear in a message: one line, no control or bidi characters, not endless."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in cut)


def message_of(error: BaseException) -> str:
    """What an exception says; that of a plug-in may not even be able to say it."""
    try:
        return str(error)
    except BaseException as another:
        return f"its message cannot be read: str() of it raised {type(another).__name__}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The end of a message about a wrong word: `; did you mean …?` where one is close, else nothing."""
    lowered = {name.lower(): name for name in reversed(known)}
    close = difflib.get_close_matches(word.lower()[:100], list(lowered), n=1, cutoff=0.6)
    return f"; did you mean `{lowered[close[0]]}`?" if close else ""


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: `; did you mean …?`, or else what there is."""
    return did_you_mean(word, known) or (f"; there are {', '.join(known)}" if known else "")
