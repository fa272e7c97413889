"""A control group of its own for processes that a test starts, where the machine lets a test make one."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def cgroup(controller: str, limits: dict[str, str]) -> Iterator[Path]:
    """A group with these limits, by the names of version 2 or of version 1, whichever are there; else a skip.

    Yields:
        Its folder; who writes its process id into `cgroup.procs` there belongs to it.
    """
    version1 = (ROOT / controller).is_dir()
    folder = (ROOT / controller if version1 else ROOT) / f"mnistbench-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        written = 0
        for name, value in limits.items():
            with contextlib.suppress(OSError):
                if (folder / name).exists():
                    (folder / name).write_text(value)
                    written += 1
        if not written:
            pytest.skip(f"control groups here do not limit {controller}")
        yield folder
    finally:
        for _ in range(50):  # the last process in it must have been collected
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.1)
