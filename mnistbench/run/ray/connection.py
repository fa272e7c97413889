"""To a Ray that is there, or to one that is started on this machine for the time of a run."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mnistbench.errors import UserError
from mnistbench.run.worker import one_line

LOCAL_STORE_BYTES = 256 * 2**20
"""Ray's shared memory on this machine: kept weights pass through it; its own choice would be a third of all memory."""
ANSWER_SECONDS = 5.0
"""For a cluster to take a connection; Ray itself would try for over a minute."""


def connect(address: str | None, folder: Path) -> Any:
    """Connect this process, and return the module `ray`.

    Args:
        address: `auto`, `host:port` or `ray://host:port`; None starts a Ray here, which ends with the process.
        folder: becomes the working folder on every node.

    Raises:
        UserError: if Ray is not installed, connected elsewhere, or does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody outside
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would let a cell give way to whatever else runs
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise UserError("--executor ray needs Ray: pip install 'mnistbench[ray]'") from error
    if ray.is_initialized():
        raise UserError("this process is connected to a Ray already: call ray.shutdown() before")
    local = {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES} if address is None else {}
    where = f"no Ray answers at {address}" if address else "no Ray could be started here"
    try:
        _reach(address)
        with _keeping_sigterm():
            # `local` beside it: with nothing named, Ray would look for a cluster by an environment variable.
            ray.init(
                address or "local",
                runtime_env={"working_dir": str(folder)},
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local,
            )
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{where}: {one_line(str(error))}") from error
    return ray


def _reach(address: str | None) -> None:
    """Raise OSError if nothing listens at `[ray://]host:port`."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()


@contextlib.contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which the runner has use for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
