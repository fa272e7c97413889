"""One process at a time: by the kernel's lock where the file system has it, else by a file that names its owner."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mnistbench.files.whole import note_weakness, read_regular

UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
"""What flock says where a file system (NFS without its lock service, some FUSE and CIFS mounts) has no locks."""
UNWRITTEN_SECONDS = 60.0
"""An owner's file that is empty for so long was left by a process that was killed before it could write its name."""


class Held(Exception):
    """Another process has the lock; the text says which and since when."""


@contextlib.contextmanager
def hold(lock: Path, owner: Path) -> Iterator[None]:
    """Hold a lock; that of a dead process does not block.

    Args:
        lock: the file that the kernel locks; its content says nothing.
        owner: says who holds the lock, and is the lock itself where the kernel has none.

    Raises:
        Held: if another process holds it.
        OSError: if the files cannot be written.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if _flock(descriptor, owner):
            owner.unlink(missing_ok=True)  # it may be anything, such as a pipe
            owner.write_text(_myself(), encoding="utf-8")
        else:
            note_weakness(
                f"the file system of {lock.parent} has no locks: a file that names its owner stands in, as good"
                " as process ids are; do not start two runs there from two machines"
            )
            _own(owner)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                owner.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, owner: Path) -> bool:
    """Lock by the kernel; False where it cannot."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Held(_described(owner)) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    return True


def _own(owner: Path) -> None:
    """Make the owner's file, after that of a dead process was taken away."""
    if owner.exists() and _is_stale(owner):
        owner.unlink(missing_ok=True)
    try:
        with owner.open("x", encoding="utf-8") as file:
            file.write(_myself())
    except FileExistsError:
        raise Held(f"{_described(owner)} (if that is gone, delete {owner})") from None


def _is_stale(owner: Path) -> bool:
    """Whether its process was on this machine and is gone, or never wrote its name."""
    try:
        plain = json.loads(read_regular(owner))
        if plain.get("host", platform.node()) != platform.node():
            return False
        os.kill(int(plain["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return time.time() - owner.stat().st_mtime > UNWRITTEN_SECONDS
    except OSError:
        return False
    return False


def _myself() -> str:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since})


def _described(owner: Path) -> str:
    try:
        plain = json.loads(read_regular(owner))
        place = "" if plain.get("host", platform.node()) == platform.node() else f" on {plain['host']}"
        return f"process {int(plain['pid'])}{place}, since {plain['since']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return "another process"
