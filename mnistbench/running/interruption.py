"""Ctrl-C and SIGTERM: once, the present cell ends and everything is written; twice, at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"


class Interruption:
    """Whether the user wants to stop.

    Attributes:
        signum: the first signal that came, None while none did.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    @property
    def name(self) -> str:
        """How the user says it."""
        return "Ctrl-C" if self.signum == signal.SIGINT else "SIGTERM"

    @contextlib.contextmanager
    def watched(self, stop: Callable[[str], None]) -> Iterator[None]:
        """Call `stop` at the first signal inside the block; leave the process at the second.

        Signals reach the main thread only; in another thread nothing is changed.

        Args:
            stop: called from the signal handler with a reason; ends what runs without raising.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(signum: int, _: FrameType | None) -> None:
            if self.signum is not None:
                # Workers notice that their parent is gone; records are whole at every moment.
                with contextlib.suppress(OSError):
                    os.write(2, _SHOW_CURSOR if os.isatty(2) else b"")
                os._exit(128 + signum)
            self.signum = signum
            with contextlib.suppress(OSError):
                os.write(2, b"\nending the present cell and writing the report; once more to leave at once\n")
            stop(f"stopped by {self.name}")

        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
