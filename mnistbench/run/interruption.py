"""The user, or the system, wants the run to stop: once, the present cell ends and everything is written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

COMMANDS = (signal.SIGINT, signal.SIGTERM)
"""Somebody says it; who says it twice wants the process to end at once."""
WARNINGS = (signal.SIGHUP, signal.SIGUSR1)
"""The terminal is gone, or a scheduler's time is nearly up; these may come several times, and before SIGTERM."""
_SHOW_CURSOR = b"\x1b[?25h"


class Interruption:
    """Whether the run is to stop.

    Args:
        own_process: whether the process is the run's alone, as with the command line. SIGTERM, SIGHUP and SIGUSR1 then
            end the run as Ctrl-C does, and a second Ctrl-C or SIGTERM leaves the process. Otherwise only Ctrl-C is
            looked at, and the process is its host's: nothing here ends it.
        last_acts: what is done at the end (`writing the report`), for what the user is told.

    Attributes:
        signum: the first signal that came, None while none did.
        records_kept: set by the runner when no cell runs any more and every record is written.
    """

    def __init__(self, *, own_process: bool = False, last_acts: Sequence[str] = ()) -> None:
        self.signum: int | None = None
        self.records_kept = False
        self._own_process = own_process
        self._last_acts = last_acts
        self._commanded = False

    @property
    def name(self) -> str:
        """How the user says it."""
        return "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum or signal.SIGTERM).name

    @contextlib.contextmanager
    def watched(self, stop: Callable[[str], None]) -> Iterator[None]:
        """Call `stop` at the first signal inside the block.

        A second Ctrl-C or SIGTERM leaves the process if it is the run's own. In a host's process a second Ctrl-C does
        nothing until every record is kept, and then raises KeyboardInterrupt.

        Signals reach the main thread only; in another thread nothing is changed. SIGHUP and SIGUSR1 stay ignored where
        they are (`nohup`).

        Args:
            stop: called from the signal handler with a reason; ends what runs without raising.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(signum: int, _: FrameType | None) -> None:
            commanded, self._commanded = self._commanded, self._commanded or signum in COMMANDS
            if self.signum is None:
                self.signum = signum
                self._say()
                stop(f"stopped by {self.name}")
            elif self._own_process and commanded and signum in COMMANDS:
                # Workers notice that their parent is gone; records are whole at every moment.
                with contextlib.suppress(OSError):
                    os.write(2, _SHOW_CURSOR if os.isatty(2) else b"")
                os._exit(128 + signum)
            elif not self._own_process and self.records_kept:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, handle) for number in self._signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _signals(self) -> list[signal.Signals]:
        """Those to look at."""
        if not self._own_process:
            return [signal.SIGINT]
        return [*COMMANDS, *(number for number in WARNINGS if signal.getsignal(number) is not signal.SIG_IGN)]

    def _say(self) -> None:
        text = " and ".join(["ending the present cell" if not self.records_kept else "ending", *self._last_acts])
        text += "; once more to leave at once" if self._own_process else ""
        with contextlib.suppress(OSError):
            os.write(2, f"\n{text}\n".encode())
