"""Worker processes as their parent sees them: the server that forks one per cell, and what became of each.

The server has torch loaded, so that a worker starts in 0.02 s instead of 2 s. The standard library's fork server is
not taken: see docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

from mnistbench.cell.checked import prepare_to_read
from mnistbench.cell.data_spec import DataSpec
from mnistbench.errors.redaction import redact
from mnistbench.results.records import RESULTS, EpochMeasurement, Error, Status, utc_now
from mnistbench.run.worker import LENGTH, STACK_SIGNAL, WorkerStarted, be_killed_first, run_worker, send
from mnistbench.train import machine
from mnistbench.train.clocks import own_cgroup_files
from mnistbench.train.job import Job

PRELOAD: tuple[str, ...] = (
    "torch",
    "torch._dynamo",
    "torch.utils.flop_counter",
    "platformdirs",
    "mnistbench.train.block",
    "mnistbench.train.equivalence.gates",
    "mnistbench.train.steps.convolution",
    "mnistbench.train.steps.tuning",
    "mnistbench.train.train",
)
"""Imported before the first fork, so that no worker imports them anew; torch's first optimizer would import
`torch._dynamo`, which takes over a second."""
if sys.platform == "darwin":
    PRELOAD = ()  # the system's frameworks do not survive a fork: each worker imports for itself
TAIL_BYTES = 16_384
"""What is kept of the output of a worker that prints a lot."""
STACK_SECONDS = 1.0
"""Time that a worker over its limit has to say where it stands."""
GIVE_UP_SECONDS = 10.0
"""After KILL: a process that hangs inside the kernel is left behind, and the grid goes on."""
STOPPED_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
_CHUNK_BYTES, _CHUNKS = 1 << 16, 16
_STATUS = struct.Struct("!q")

Phase = Literal["training", "asked for its stack", "asked to end", "killed"]


class ForkServer:
    """The parent's side of the server, which is started when it is first needed and again when it is gone.

    Args:
        preload: modules that are imported before the first fork.
    """

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        self._preload = tuple(preload)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._alive: int | None = None
        self._output: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the server's process, None while there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server if it does not run, without waiting until it has imported."""
        if self._process is not None and self._process.poll() is None and not self._has_hung_up():
            return
        self.close()
        self._control, servers_control = socket.socketpair()
        alive, self._alive = os.pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # what a server that cannot start has to say
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; from mnistbench.run.processes import serve;"
            f" serve({servers_control.fileno()}, {alive}, {self._preload!r})"
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=(servers_control.fileno(), alive),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,  # Ctrl-C in the terminal is for the parent to handle
            )
        finally:
            servers_control.close()
            os.close(alive)

    def _has_hung_up(self) -> bool:
        """Whether it is dying: killed on a busy machine, it closes its files well before `poll` finds it gone."""
        assert self._control is not None
        try:
            return not self._control.recv(1, socket.MSG_DONTWAIT)  # it never says anything here
        except BlockingIOError:
            return False
        except OSError:
            return True

    def order_worker(self, channel: int, log: int, stack: int, status: int) -> None:
        """Have a worker forked that talks over these descriptors; see `serve` for what comes over `status`."""
        self.start()
        assert self._control is not None
        with contextlib.suppress(OSError):  # it has died just now: `status` ends and tells
            socket.send_fds(self._control, [b"w"], [channel, log, stack, status])

    def last_words(self) -> str:
        """What the server printed."""
        if self._output is None:
            return ""
        self._output.seek(0)
        return self._output.read()[-4000:].decode(errors="replace")

    def close(self) -> None:
        """End the server: no worker is left that needs it, and a server that still imports would not listen."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for end in (self._control, self._output):
            if end is not None:
                end.close()
        if self._alive is not None:
            os.close(self._alive)
        self._process = self._control = self._output = self._alive = None


def serve(control_descriptor: int, alive: int, preload: Sequence[str]) -> None:
    """The server's side: import, then fork a worker for each order until the parent is gone.

    An order brings a worker's descriptors and `status`, over which the parent is told the worker's process id, and when
    it has ended its exit code (negative for a signal). `status` without them means that the server is gone.
    """
    control = socket.socket(fileno=control_descriptor)
    # A scheduler warns every process of a job; what comes of it is for the runner to say.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    be_killed_first(400)
    not_loaded = _load(preload, alive)
    gc.collect()
    gc.freeze()  # the workers' collector leaves what is loaded here alone, and the pages shared
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    workers: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for pid in [pid for pid in workers if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)]:
                # What the worker left behind goes before its id can name another process.
                kill_group(pid, signal.SIGKILL)
                _, ended = os.waitpid(pid, 0)
                _tell(workers[pid], os.waitstatus_to_exitcode(ended))
                os.close(workers.pop(pid))
        if control.fileno() in ready:
            order, descriptors, _, _ = socket.recv_fds(control, 1, 4)
            if not order:
                break
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                channel, log, stack, status = descriptors
                for descriptor in (control.detach(), woken, wake, status, *workers.values()):
                    os.close(descriptor)
                run_worker(channel, log, stack, alive, not_loaded)
            for descriptor in descriptors[:-1]:
                os.close(descriptor)
            workers[pid] = descriptors[-1]
            _tell(workers[pid], pid)
    for pid in workers:
        kill_group(pid, signal.SIGKILL)


def _load(preload: Sequence[str], alive: int) -> Exception | None:
    """Import, unless the parent is gone meanwhile; returns what stood in the way first."""
    loaded = threading.Event()

    def watch() -> None:
        while not loaded.wait(0.1):
            if select.select([alive], [], [], 0)[0]:
                os._exit(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    not_loaded: Exception | None = None
    for name in preload:
        try:
            importlib.import_module(name)
        except Exception as error:  # the record of a worker that needs it says so
            not_loaded = not_loaded or error
    if preload:
        with contextlib.suppress(Exception):  # git and the processor are asked once for all workers
            prepare_to_read(DataSpec)
            machine.describe_environment("cpu")
    loaded.set()
    watcher.join()  # no thread is there when workers are forked
    return not_loaded


def _tell(status: int, number: int) -> None:
    with contextlib.suppress(OSError):  # a parent that has given the worker up, or is gone
        os.write(status, _STATUS.pack(number))


def kill_group(leader: int, number: int) -> None:
    """Send a signal to a worker and everything it started; nothing happens if they are gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


class WorkerProcess:
    """An attempt that a process of its own makes. The executor lets it `read`, `act` on its time, and asks `ended`.

    Args:
        job: what it is to do.
        server: forks it.
        function: `module:function` that is given the job, and `arguments` beside it.
        grace_seconds: between TERM and KILL for a worker that is over its time.
    """

    def __init__(
        self, job: Job, server: ForkServer, function: str, arguments: Mapping[str, Any], grace_seconds: float
    ) -> None:
        self.job = job
        self.ended = False
        self.pid: int | None = None
        self._server = server
        self._grace_seconds = grace_seconds
        self._kills_before = kills_for_memory()
        self._started_at = utc_now()
        self._received, self._log_tail, self._stack_text, self._status = (bytearray() for _ in range(4))
        self._started = WorkerStarted(None)
        self._epochs: list[EpochMeasurement] = []
        self._result: Any = None
        self._code: int | None = None
        self._step: Phase = "training"
        self._ending: Error | None = None
        self._next = float("inf")
        channel, workers_channel = socket.socketpair()
        pipes = [os.pipe() for _ in range(3)]
        self._channel, self._pipes = channel, [reading for reading, _ in pipes]
        texts = (self._received, self._log_tail, self._stack_text, self._status)
        self._into = dict(zip((channel.fileno(), *self._pipes), texts, strict=True))
        self._open = set(self._into)
        workers_ends = [workers_channel.detach(), *(writing for _, writing in pipes)]
        try:
            server.order_worker(*workers_ends)
        finally:
            for descriptor in workers_ends:
                os.close(descriptor)
        with contextlib.suppress(OSError):  # it may be dead already, which is found out below
            send(channel, (job, function, arguments, sys.path))
        for descriptor in self._open:
            os.set_blocking(descriptor, False)

    def descriptors(self) -> set[int]:
        """What to wait for; `read` when one of them is ready."""
        return self._open

    def read(self) -> list[EpochMeasurement]:
        """Take in what the worker has sent and printed; return the epochs, after which it waits for `go_on`."""
        for descriptor in list(self._open):
            self._read(descriptor, self._into[descriptor])
        del self._log_tail[:-TAIL_BYTES], self._stack_text[:-TAIL_BYTES]
        epochs: list[EpochMeasurement] = []
        for message in self._messages():
            if isinstance(message, WorkerStarted):
                self._started = message
            elif isinstance(message, list):
                epochs += message
            else:
                self._result = message
        self._epochs += epochs
        self._take_status()
        return epochs

    def go_on(self) -> None:
        """Let the worker start its next epoch."""
        with contextlib.suppress(OSError):
            self._channel.send(b"+")

    def seconds_to_act(self) -> float:
        """Time until `act` has something to do."""
        return self._next - time.monotonic()

    def act(self) -> None:
        """Take the next step against a worker that is over its time: its stack, TERM, KILL."""
        if self.seconds_to_act() > 0 or self.ended:
            return
        if self._step == "training":
            message = f"it took longer than {self.job.timeout_seconds:g} s"
            self._end_by(STACK_SIGNAL, "asked for its stack", STACK_SECONDS, Error(type="timeout", message=message))
        elif self._step == "asked for its stack":
            self._end_by(signal.SIGTERM, "asked to end", self._grace_seconds)
        elif self._step == "asked to end":
            self._end_by(signal.SIGKILL, "killed", GIVE_UP_SECONDS)
        else:
            self.ended = True

    def stop(self, reason: str) -> None:
        """Kill it because the whole run ends; its record will be `killed`."""
        if self._ending is None:
            self._end_by(signal.SIGKILL, "killed", GIVE_UP_SECONDS, Error(type="killed", message=reason))
        # One that its server has not forked yet finds nobody to work for.
        self.ended = self.ended or self.pid is None

    @property
    def never_started(self) -> bool:
        """Whether no process was started for it, for want of a server."""
        return self.ended and self.pid is None and self._ending is None

    def finish(self) -> Any:
        """Close what led to the worker; return what it sent last, or a record of how it ended without."""
        self.read()
        self._channel.close()
        for descriptor in self._pipes:
            os.close(descriptor)
        log = redact(_text_of_tail(self._log_tail))
        if self._result is not None:
            error = getattr(self._result, "error", None)
            if error is None or self._result.status in RESULTS - {"out_of_memory"}:
                return self._result
            return self._result.with_changes(error=replace(error, log=log))
        status, error = self._how_it_ended()
        stack = error.stack or redact(bytes(self._stack_text).decode(errors="replace"))
        return self.job.record(
            status,
            self._started_at,
            epochs=self._epochs,
            environment=self._started.environment,
            error=replace(error, log=error.log or log, stack=stack),
        )

    def _how_it_ended(self) -> tuple[Status, Error]:
        if self._ending is not None:
            return ("timed_out" if self._ending.type == "timeout" else "killed"), self._ending
        killed_for_memory = kills_for_memory() > self._kills_before
        if self._code is None:
            return self._how_its_server_ended(killed_for_memory)
        if self._code >= 0:
            return "failed", Error(
                type="exit", message=f"its process ended with status {self._code} before it was done"
            )
        name = signal_name(-self._code)
        if -self._code == signal.SIGKILL and killed_for_memory:
            return "out_of_memory", Error(type=name, message="the system killed it because memory was used up")
        if -self._code in STOPPED_FROM_OUTSIDE:
            return "killed", Error(type=name, message=f"its process was killed by {name}")
        return "failed", Error(type=name, message=f"its process crashed with {name}")

    def _how_its_server_ended(self, killed_for_memory: bool) -> tuple[Status, Error]:
        if self.pid is not None:
            return "killed", Error(type="killed", message="the process that starts workers was killed, and it with it")
        log = redact(self._server.last_words())
        message = "no process could be started for it"
        if not killed_for_memory:
            return "failed", Error(type="ServerLost", message=message, log=log)
        message += ": the system killed what would start it because memory was used up"
        return "out_of_memory", Error(type="ServerLost", message=message, log=log)

    def _end_by(self, number: int, step: Phase, seconds: float, ending: Error | None = None) -> None:
        self._step, self._next = step, time.monotonic() + seconds
        self._ending = ending or self._ending
        if self.pid is not None and number == STACK_SIGNAL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)
        elif self.pid is not None:
            kill_group(self.pid, number)

    def _take_status(self) -> None:
        """The worker's process id, then its exit code; neither where its server is gone."""
        numbers = [number for (number,) in _STATUS.iter_unpack(self._status[: len(self._status) // 8 * 8])]
        if self.pid is None and numbers:
            self.pid = numbers[0]
            if self.job.timeout_seconds is not None:  # the server may have had to import first
                self._next = time.monotonic() + self.job.timeout_seconds
        if len(numbers) == 2:
            self._code, self.ended = numbers[1], True
        elif self._pipes[-1] not in self._open:  # the server is gone
            if self.pid is not None and not self.ended:
                kill_group(self.pid, signal.SIGKILL)
            self.ended = True

    def _messages(self) -> Iterable[Any]:
        """Those that have come whole: a worker that stopped in the middle of one keeps nobody waiting."""
        while len(self._received) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._received)[0]
            if len(self._received) < end:
                return
            content = bytes(self._received[LENGTH.size : end])
            del self._received[:end]
            yield pickle.loads(content)

    def _read(self, descriptor: int, into: bytearray) -> None:
        """What has come, but not without end from a worker that prints faster than this reads."""
        for _ in range(_CHUNKS):
            try:
                piece = os.read(descriptor, _CHUNK_BYTES)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            if not piece:
                self._open.discard(descriptor)
                return
            into += piece


def _text_of_tail(tail: bytearray) -> str:
    """What was printed last, from a line's beginning where it was cut: half an address shows its password."""
    text = bytes(tail).decode(errors="replace")
    return text.partition("\n")[2] or text if len(tail) >= TAIL_BYTES else text


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def kills_for_memory() -> int:
    """How many processes the kernel has killed for want of memory: in our cgroup, or on the machine; 0 if unknown."""
    counters = own_cgroup_files("memory", "memory.events", "memory.oom_control")
    for path in (*counters, Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
