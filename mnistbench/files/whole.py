"""Files that are written whole or not at all, whatever happens to the process or the disk in between."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnistbench.errors import UserError

PART = ".part"
"""Ending of a file that is still being written; a run clears what a killed one left."""

_WAYS_OUT = {
    errno.ENOSPC: "make room, and run again to go on",
    errno.EDQUOT: "make room, and run again to go on",
    errno.EROFS: "name a folder on another file system",
    errno.EACCES: "name a folder that you may write to",
    errno.EPERM: "name a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose another path",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away, or choose another path",
    errno.EEXIST: "a file stands where a folder is needed: move it away, or choose another path",
    errno.EISDIR: "a folder stands where a file is needed: move it away, or choose another path",
}
"""What helps, by what the system says; after anything else, running again does."""

weaknesses: list[str] = []
"""What the file systems that were written to in this process cannot do, and what is lost by it."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content`: a reader, or a restart after a power cut, sees the old file or the new one.

    Raises:
        UserError: if the disk is full, or the folder is read-only or gone. The old file is untouched then.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    with writing(path):
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                sync(file.fileno())
            part.replace(path)
            fsync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def read_regular(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: if it cannot be read, or is no regular file: reading a pipe would wait for ever.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")
    return path.read_bytes()


def write_answer(path: Path, content: dict[str, Any]) -> None:
    """Keep an answer that can be found again at some cost, with its checksum; `read_answer` gives it back.

    That it cannot be written costs time, not results, and is no error.
    """
    with contextlib.suppress(OSError, UserError):
        plain = json.loads(json.dumps(content, default=str))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({**plain, "sha256": _checksum(plain)}))


def read_answer(path: Path) -> dict[str, Any] | None:
    """What `write_answer` kept, or None: nothing is there, or it is not what was written, whatever it says."""
    try:
        plain = json.loads(read_regular(path))
        checksum = plain.pop("sha256")
        return plain if checksum == _checksum(plain) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _checksum(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def move_whole(source: Path, target: Path) -> None:
    """Rename a file or folder on one disk, durably.

    Raises:
        UserError: as `write_whole`.
    """
    with writing(target):
        source.rename(target)
        fsync_directory(target.parent)


def fsync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Write through to the disk. Some file systems cannot (CIFS, sshfs, drives of Windows: folders mostly); the content
    is written all the same, and `weaknesses` says what is lost.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF):
            raise
        note_weakness(
            f"this file system does not sync folders ({error.strerror}): a power cut may take the last records with it"
        )


def note_weakness(text: str) -> None:
    """Remember something that a file system cannot do, for the user to be told once."""
    if text not in weaknesses:
        weaknesses.append(text)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say clearly what could not be written, and why.

    Raises:
        UserError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        way_out = _WAYS_OUT.get(error.errno or 0, "run again to go on")
        raise UserError(f"cannot write {path}: {reason}. What was written before is whole; {way_out}.") from error
