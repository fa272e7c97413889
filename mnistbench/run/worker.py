"""One cell in a process of its own: what the parent gives it, and what it does from its first act to its last."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import math
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mnistbench.axes.execution import levers_of
from mnistbench.axes.plugins import where_in_plugin
from mnistbench.errors.problems import message_of
from mnistbench.errors.redaction import redact
from mnistbench.results.records import EpochMeasurement, Error, Status, utc_now
from mnistbench.train import machine
from mnistbench.train.clocks import keep_allocated
from mnistbench.train.job import Job

if TYPE_CHECKING:
    from mnistbench.results.records import Environment

TRAIN_CELL = "mnistbench.train.train:train_cell"
STACK_SIGNAL = signal.SIGUSR1
"""Makes a worker write where it stands, even if Python code no longer runs there."""
TELL_SECONDS = 0.1
"""Epochs that follow each other faster are told together: telling one takes half a millisecond, and wakes the parent. A
worker that is killed takes those with it that it has not told."""

LENGTH = struct.Struct("!Q")
"""Comes before each message: a pickle of so many bytes."""

TrainFunction = Callable[..., Any]


@dataclass(frozen=True)
class WorkerStarted:
    """A worker's first message: where the attempt runs, for the record of one that cannot write its own."""

    environment: Environment | None


def train_safely(
    job: Job, train: TrainFunction, on_epoch: Callable[[EpochMeasurement], None], process_started: float
) -> Any:
    """What the function gives for this job; what it raises becomes a record. KeyboardInterrupt alone goes through."""
    started_at = utc_now()
    epochs: list[EpochMeasurement] = []

    def remember(measurement: EpochMeasurement) -> None:
        epochs.append(measurement)
        on_epoch(measurement)

    try:
        return train(job, on_epoch=remember, process_started=process_started)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() in a plug-in, too, ends the cell and not the grid
        status: Status = "out_of_memory" if is_out_of_memory(error) else "failed"
        described = describe(error)
        # The frames hold the tensors that filled the memory; let them go before anything else is made.
        error.__traceback__ = None
        return job.record(status, started_at, epochs=epochs, environment=environment_of(job), error=described)


def describe(error: BaseException) -> Error:
    """An exception as a record shows it: one line, and where it was raised."""
    message = message_of(error)
    if isinstance(error, SystemExit):
        message = f"exit with status {message or None}"
    where = where_in_plugin(error)
    notes = map(one_line, getattr(error, "__notes__", ()))
    said = "; ".join([one_line(message), *notes]) + (f" ({where})" if where else "")
    stack = "".join(traceback.format_exception(error, limit=-20))
    return Error(type=type(error).__name__, message=said, stack=redact(stack)[-8000:])


def one_line(text: str) -> str:
    """The first line of a message that says something, at most 500 characters."""
    lines = [line.strip() for line in redact(text).splitlines() if line.strip()]
    return lines[0][:500] if lines else "no message"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device had no memory left; torch says so in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = message_of(error)
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError) and "failed to map segment" in said:  # of a library; or its disk is `noexec`
        return "Cannot allocate memory" in said or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("can't allocate memory", "CUDA error: out of memory", "MPS backend out of memory")
    )


def environment_of(job: Job, *, ask_gpu: bool = True) -> Environment | None:
    """Where this process runs; None if even that cannot be found out.

    Args:
        ask_gpu: False before the training: the first question starts CUDA, and that belongs to set-up.
    """
    try:
        device = job.cell.device
        environment: Environment = machine.describe_environment(
            "cpu" if device.startswith("cuda") and not ask_gpu else device
        )
        return environment
    except Exception:
        return None


def run_worker(
    channel_descriptor: int, log: int, stack: int, alive: int, not_loaded: Exception | None = None
) -> NoReturn:
    """The whole life of a worker process: take a job, train it, send epochs and the record, and end.

    Args:
        channel_descriptor: to the parent: the job comes in; epochs and the record go out.
        log: descriptor for what the cell prints.
        stack: descriptor for the stack on a crash or on `STACK_SIGNAL`.
        alive: descriptor that ends when the parent is gone.
        not_loaded: what kept the server from loading a module beforehand.
    """
    process_started = time.perf_counter()
    with contextlib.suppress(PermissionError):  # it may lead its session already
        os.setsid()
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    _redirect_output(log)
    be_killed_first(500)
    faulthandler.enable(file=stack, all_threads=True)
    faulthandler.register(STACK_SIGNAL, file=stack, all_threads=True)
    status = 0
    try:
        _work(socket.socket(fileno=channel_descriptor), process_started, not_loaded)
    except EOFError:  # the parent is gone
        status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    # Without Python's and torch's own clean-up, which costs more than a small cell and can hang.
    os._exit(status)


def _work(channel: socket.socket, process_started: float, not_loaded: Exception | None) -> None:
    job, function, arguments, import_path = receive(channel)
    sys.path[:] = import_path
    worker = os.getpid()

    def tell(message: Any) -> None:
        if os.getpid() != worker:  # a plug-in forked, and its child came back into our code
            os._exit(1)
        send(channel, message)

    untold: list[EpochMeasurement] = []
    told_at = -math.inf

    def on_epoch(measurement: EpochMeasurement) -> None:
        nonlocal told_at
        untold.append(measurement)
        if time.monotonic() - told_at < TELL_SECONDS:
            return
        tell(untold)
        untold.clear()
        # The parent draws its progress now, and answers when it is done: it sleeps while the next epoch is timed.
        if not channel.recv(1):
            raise EOFError
        told_at = time.monotonic()

    tell(WorkerStarted(environment_of(job, ask_gpu=False)))
    if levers_of(job.cell.execution).allocator == "keep":
        keep_allocated()
    result = train_safely(job, partial(train_named, function, not_loaded, **arguments), on_epoch, process_started)
    if untold:
        tell(untold)
    tell(result)


def train_named(function: str, not_loaded: Exception | None, job: Job, **arguments: Any) -> Any:
    """Call the function of that name, `module:function`."""
    module, _, name = function.partition(":")
    try:
        train: TrainFunction = getattr(importlib.import_module(module), name)
    except ImportError as error:
        # Torch is never imported a second time: its error then hides why the first time failed.
        raise not_loaded or error  # noqa: B904
    return train(job, **arguments)


def send(channel: socket.socket, message: Any) -> None:
    """Send one message, waiting until the other side has taken it."""
    content = pickle.dumps(message)
    channel.sendall(LENGTH.pack(len(content)) + content)


def receive(channel: socket.socket) -> Any:
    """Wait for one message.

    Raises:
        EOFError: if the other side is gone.
    """
    with channel.makefile("rb") as file:
        header = file.read(LENGTH.size)
        length = LENGTH.unpack(header)[0] if len(header) == LENGTH.size else 0
        content = file.read(length)
    if not content or len(content) < length:
        raise EOFError("the other side is gone")
    return pickle.loads(content)


def _end_with_parent(alive: int) -> None:
    """Wait until the parent is gone, however it went, then take the whole session down."""
    while True:
        try:
            if os.read(alive, 1) == b"":
                break
        except OSError:
            break
    with contextlib.suppress(OSError):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _redirect_output(log: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for descriptor in (nothing, log):
        if descriptor > 2:
            os.close(descriptor)
    # Lines as they are printed: a worker that is killed leaves what it said before.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def be_killed_first(score: int) -> None:
    """When the machine's memory is used up, let the kernel take the cell and leave the runner with its records."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))
