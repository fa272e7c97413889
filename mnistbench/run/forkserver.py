"""A server process that has torch loaded and forks one worker per cell: 0.02 s each instead of 2 s.

The standard library's forkserver allows one server per parent, and runs the parent's main script again in each worker.
Here each process environment (such as the allocator's settings, which count only if they are there when a process
starts) has a server of its own, and no script needs a `__main__` guard.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, NoReturn

from mnistbench.run.worker import run_worker

PRELOAD: tuple[str, ...] = (
    "torch",
    "torch._dynamo",
    "torch.utils.flop_counter",
    "platformdirs",
    "mnistbench.train.train",
    "mnistbench.axes.architectures",
    "mnistbench.train.steps",
)
"""Imported before the first fork; torch's first optimizer would import `torch._dynamo`, which takes over a second."""
if sys.platform == "darwin":
    PRELOAD = ()  # the system's frameworks do not survive a fork: each worker imports for itself
_NEWS = struct.Struct("!ciq")
_FORKED, _EXITED = b"f", b"x"
_ORDER = b"w"
_DESCRIPTORS = 3


class ForkServer:
    """The parent's side: a server in one process environment, started when it is first needed.

    Args:
        environment: variables that the server and its workers have beside the parent's own.
        preload: modules that are imported before the first fork.
    """

    def __init__(self, environment: Mapping[str, str], preload: Sequence[str] = PRELOAD) -> None:
        self._environment = dict(environment)
        self._preload = tuple(preload)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._alive: int | None = None
        self._output: IO[bytes] | None = None
        self._pieces = b""
        self._ended: list[tuple[int, int]] = []

    def start_worker(self, channel: socket.socket, log: int, stack: int) -> int:
        """Start a worker that talks over these descriptors, and return its process id.

        Raises:
            ServerLost: if the server does not start, or is gone.
        """
        self.start()
        assert self._control is not None
        try:
            socket.send_fds(self._control, [_ORDER], [channel.fileno(), log, stack])
            kind, pid, code = self._wait_for_news()
            while kind == _EXITED:  # another worker, that ended meanwhile
                self._ended.append((pid, code))
                kind, pid, code = self._wait_for_news()
        except OSError as error:
            raise ServerLost(self._last_words()) from error
        return pid

    def news(self) -> list[tuple[int, int]]:
        """Workers that ended since the last call: process id and exit code (negative for a signal). Never waits.

        Raises:
            ServerLost: if the server is gone; its workers are then to be ended by the caller.
        """
        while self._control is not None and _readable(self._control):
            _, pid, code = self._wait_for_news()
            self._ended.append((pid, code))
        ended, self._ended = self._ended, []
        return ended

    @property
    def has_news(self) -> bool:
        """Whether `news` has something to tell although `fileno` may not be readable."""
        return bool(self._ended)

    def fileno(self) -> int:
        """Descriptor that is readable when there are news."""
        return -1 if self._control is None else self._control.fileno()

    @property
    def running(self) -> bool:
        """Whether a server process is there."""
        return self._process is not None

    def close(self) -> None:
        """End the server, and with it every worker that is left."""
        self._end()
        if self._output is not None:
            self._output.close()
            self._output = None

    def _end(self) -> None:
        if self._process is None:
            return
        assert self._control is not None and self._alive is not None
        self._control.close()
        os.close(self._alive)
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = self._control = self._alive = None
        self._pieces = b""
        self._ended = []

    def start(self) -> None:
        """Start the server if it is not there, without waiting until it has imported."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        alive, self._alive = os.pipe()
        if self._output is not None:
            self._output.close()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # what a server that cannot start has to say
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; from mnistbench.run.forkserver import serve;"
            f" serve({theirs.fileno()}, {alive}, {self._preload!r})"
        )
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    env={**os.environ, **self._environment},
                    pass_fds=(theirs.fileno(), alive),
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    start_new_session=True,  # Ctrl-C in the terminal is for the parent to handle
                )
            finally:
                os.close(alive)
        self._control = ours

    def _wait_for_news(self) -> tuple[bytes, int, int]:
        assert self._control is not None
        while len(self._pieces) < _NEWS.size:
            piece = self._control.recv(_NEWS.size - len(self._pieces))
            if not piece:
                raise ServerLost(self._last_words())
            self._pieces += piece
        news, self._pieces = _NEWS.unpack(self._pieces), b""
        return news

    def _last_words(self) -> str:
        self._end()
        if self._output is None:
            return ""
        self._output.seek(0)
        return self._output.read()[-4000:].decode(errors="replace")


class ServerLost(Exception):
    """The server process did not start, or was killed; the text is what it printed."""


def serve(control_descriptor: int, alive: int, preload: Sequence[str]) -> None:
    """The server's side: import, then fork a worker for each order until the parent is gone."""
    control = socket.socket(fileno=control_descriptor)
    not_loaded: Exception | None = None
    for name in preload:
        try:
            importlib.import_module(name)
        except Exception as error:  # the record of a worker that needs it says so
            not_loaded = not_loaded or error
    with contextlib.suppress(Exception):
        _remember_environment(preload)
    gc.collect()
    gc.freeze()  # the workers' collector leaves what is loaded here alone, and the pages shared
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # A scheduler warns every process of a job; what comes of it is for the runner to say.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    workers: set[int] = set()
    with contextlib.suppress(OSError):  # a parent that dies while news are on their way
        while True:
            ready, _, _ = select.select([control.fileno(), woken], [], [])
            if woken in ready:
                os.read(woken, 4096)
                _report_ended(control, workers)
            if control.fileno() in ready:
                order, descriptors, _, _ = socket.recv_fds(control, 1, _DESCRIPTORS)
                if not order:
                    break
                pid = os.fork()
                if pid == 0:
                    _become_worker([control.detach(), woken, wake], descriptors, alive, not_loaded)
                for descriptor in descriptors:
                    os.close(descriptor)
                workers.add(pid)
                control.sendall(_NEWS.pack(_FORKED, pid, 0))
    for pid in workers:
        kill_group(pid, signal.SIGKILL)


def _remember_environment(preload: Sequence[str]) -> None:
    """Ask git and the processor once for all workers, who find the answers in memory."""
    if preload:
        from mnistbench.train.machine import describe_environment

        describe_environment("cpu")


def _become_worker(
    servers_own: Sequence[int], descriptors: Sequence[int], alive: int, not_loaded: Exception | None
) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in servers_own:
        os.close(descriptor)
    channel, log, stack = descriptors
    run_worker(socket.socket(fileno=channel), log, stack, alive, not_loaded)


def _report_ended(control: socket.socket, workers: set[int]) -> None:
    for pid in list(workers):
        # What the worker left behind goes before its id can name another process.
        if _has_ended(pid):
            kill_group(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            workers.discard(pid)
            control.sendall(_NEWS.pack(_EXITED, pid, os.waitstatus_to_exitcode(status)))


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_group(leader: int, number: int) -> None:
    """Send a signal to a worker and everything it started; nothing happens if they are gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _readable(control: socket.socket) -> bool:
    return bool(select.select([control], [], [], 0)[0])
