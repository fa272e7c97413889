"""One worker as its parent sees it: the pipes to it, its time limit, and what to write down when it has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from mnistbench.errors.redaction import redact
from mnistbench.results.records import RESULTS, CellRecord, EpochMeasurement, Error, Status, utc_now
from mnistbench.run import channel as messages
from mnistbench.run.forkserver import ForkServer, kill_group
from mnistbench.run.worker import STACK_SIGNAL, Began
from mnistbench.train.job import Job

TAIL_BYTES = 16_384
"""What is kept of the output of a worker that prints a lot."""
STACK_SECONDS = 1.0
"""Time that a worker over its limit has to say where it stands."""
GIVE_UP_SECONDS = 10.0
"""After KILL: a process that hangs inside the kernel is left behind, and the grid goes on."""
STOPPED_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}

Step = Literal["training", "asked for its stack", "asked to end", "killed"]


class Pipes(NamedTuple):
    """The parent's ends: messages both ways, what the worker prints, where it stood when it hung or crashed."""

    channel: socket.socket
    log: int
    stack: int


class Running:
    """An attempt that a worker process is making. `start` makes it; the executor feeds it events and asks `ended`."""

    def __init__(self, job: Job, server: ForkServer, pid: int, pipes: Pipes, grace_seconds: float) -> None:
        self.job = job
        self.server = server
        self.pid = pid
        self.ended = False
        self._channel, self._log, self._stack = pipes
        self._grace_seconds = grace_seconds
        self._open = {self._channel.fileno(), self._log, self._stack}
        self._inbox = messages.Inbox()
        self._log_tail, self._stack_text = bytearray(), bytearray()
        self._began = Began(None)
        self._epochs: list[EpochMeasurement] = []
        self._record: CellRecord | None = None
        self._code: int | None = None
        self._started_at = utc_now()
        self._kills_before = kills_for_memory()
        self._step: Step = "training"
        self._ending: Error | None = None
        self._next = float("inf") if job.timeout_seconds is None else time.monotonic() + job.timeout_seconds

    @classmethod
    def start(cls, job: Job, server: ForkServer, train: str, import_path: list[str], grace_seconds: float) -> Running:
        """Start a worker and give it the job.

        Raises:
            ServerLost: if no process could be started.
        """
        ours, theirs = socket.socketpair()
        log, log_end = os.pipe()
        stack, stack_end = os.pipe()
        try:
            pid = server.start_worker(theirs, log_end, stack_end)
        except BaseException:
            ours.close()
            os.close(log)
            os.close(stack)
            raise
        finally:
            theirs.close()
            os.close(log_end)
            os.close(stack_end)
        running = cls(job, server, pid, Pipes(ours, log, stack), grace_seconds)
        with contextlib.suppress(OSError):  # it may be dead already, which is found out below
            messages.send(ours, (job, train, import_path))
        for descriptor in running._open:
            os.set_blocking(descriptor, False)
        return running

    def descriptors(self) -> set[int]:
        """What to wait for; `read` when one of them is ready."""
        return self._open

    def read(self) -> list[EpochMeasurement]:
        """Take in what the worker has sent and printed; return the epochs, after which it waits for `go_on`."""
        self._drain(self._log, self._log_tail)
        self._drain(self._stack, self._stack_text)
        epochs: list[EpochMeasurement] = []
        for message in self._messages():
            if isinstance(message, list):
                self._epochs += message
                epochs += message
            elif isinstance(message, CellRecord):
                self._record = message
            elif isinstance(message, Began):
                self._began = message
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
        now = time.monotonic()
        if now < self._next or self.ended:
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

    def exited(self, code: int | None) -> None:
        """The worker's process is gone; the code is negative for a signal, None if nobody knows."""
        self._code = code
        self.ended = True

    def finish(self) -> CellRecord:
        """Close what led to the worker, and say how the attempt ended."""
        self.read()
        self._channel.close()
        os.close(self._log)
        os.close(self._stack)
        log = redact(_text_of_tail(self._log_tail))
        if self._record is not None:
            error = self._record.error
            return (
                self._record
                if error is None or self._record.status in RESULTS - {"out_of_memory"}
                else (self._record.with_changes(error=replace(error, log=log)))
            )
        status, error = self._how_it_ended()
        stack = error.stack or redact(bytes(self._stack_text).decode(errors="replace"))
        return self.job.record(
            status,
            self._started_at,
            epochs=self._epochs,
            environment=self._began.environment,
            error=replace(error, log=log, stack=stack),
        )

    def _how_it_ended(self) -> tuple[Status, Error]:
        if self._ending is not None:
            return ("timed_out" if self._ending.type == "timeout" else "killed"), self._ending
        if self._code is None:
            return "killed", Error(type="killed", message="the process that starts workers was killed, and it with it")
        if self._code >= 0:
            return "failed", Error(
                type="exit", message=f"its process ended with status {self._code} before it was done"
            )
        name = signal_name(-self._code)
        if -self._code == signal.SIGKILL and kills_for_memory() > self._kills_before:
            return "out_of_memory", Error(type=name, message="the system killed it because memory was used up")
        if -self._code in STOPPED_FROM_OUTSIDE:
            return "killed", Error(type=name, message=f"its process was killed by {name}")
        return "failed", Error(type=name, message=f"its process crashed with {name}")

    def _end_by(self, number: int, step: Step, seconds: float, ending: Error | None = None) -> None:
        self._step, self._next = step, time.monotonic() + seconds
        self._ending = ending or self._ending
        if number == STACK_SIGNAL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)
        else:
            kill_group(self.pid, number)

    def _messages(self) -> list[object]:
        found: list[object] = []
        while self._channel.fileno() in self._open:
            try:
                piece = self._channel.recv(messages.CHUNK_BYTES)
            except BlockingIOError:
                break
            except OSError:
                piece = b""
            if not piece:
                self._open.discard(self._channel.fileno())
                break
            found += self._inbox.feed(piece)
        return found

    def _drain(self, descriptor: int, into: bytearray) -> None:
        while descriptor in self._open:
            try:
                piece = os.read(descriptor, messages.CHUNK_BYTES)
            except BlockingIOError:
                return
            if not piece:
                self._open.discard(descriptor)
            into += piece
            del into[:-TAIL_BYTES]


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
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat"):
        with contextlib.suppress(OSError, ValueError):
            for line in Path(path).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
