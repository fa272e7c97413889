"""What a command draws while it works; plain lines where nobody looks at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Downloaded = Callable[[str, int, int | None], None]
"""Called with what is being done, bytes done, and bytes in all, where that is known."""


@contextmanager
def download_bar() -> Iterator[Downloaded]:
    """A bar per file in a terminal, one line per file elsewhere; on standard error, so that output can be piped."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        said: set[str] = set()

        def line(what: str, done: int, total: int | None) -> None:
            if what not in said:
                said.add(what)
                console.print(what, markup=False, highlight=False)

        yield line
        return
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, object] = {}

        def move(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield move
