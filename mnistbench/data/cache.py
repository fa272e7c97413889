"""Prepared datasets in the user's cache folder: made once, whole or not at all, and found again in milliseconds."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistbench.cell import canonical_json
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data.arrays import ARRAY_NAMES, DESCRIPTION, Arrays, check, checksum, load
from mnistbench.errors import UserError
from mnistbench.files.cache_folder import cache_folder
from mnistbench.files.whole import read_regular

ENTRY_VERSION = 1
"""Stands in each entry; an entry of another version is made anew."""


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """One prepared dataset.

    Attributes:
        directory: holds four `.npy` files and their description.
        sha256: checksum of the arrays (`arrays.checksum`).
        notes: those of the arrays, said again each time the entry is used.
    """

    directory: Path
    spec: DataSpec
    sha256: str
    notes: tuple[str, ...] = ()


def entry_directory(name: str) -> Path:
    """Where the entry of that name lies, or will lie."""
    return cache_folder() / "prepared" / name


def read_entry(directory: Path) -> CacheEntry | None:
    """The entry, if it is there and whole.

    Sizes and modification times must be those noted when it was written; a file that was only touched is hashed.
    """
    try:
        note = json.loads(read_regular(directory / DESCRIPTION))
        if note["version"] != ENTRY_VERSION or note.pop("note_sha256") != _note_sha256(note):
            return None
        entry = CacheEntry(
            directory=directory,
            spec=DataSpec.from_json(note["spec"]),
            sha256=str(note["sha256"]),
            notes=tuple(map(str, note["notes"])),
        )
        stamps = _stamps(directory)
        if {name: stamp[0] for name, stamp in stamps.items()} != {n: s[0] for n, s in note["stamps"].items()}:
            return None
        arrays = load(directory)
        check(arrays, values=False)
        if stamps != note["stamps"]:  # copied, or restored from a backup
            if checksum(arrays) != entry.sha256:
                return None
            with contextlib.suppress(OSError):
                _write_note(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
        return None
    return entry


def find_or_make(name: str, make: Callable[[], Arrays], waiting: Callable[[], None] = lambda: None) -> CacheEntry:
    """The entry of that name; the first one to ask makes it, others wait for it.

    Args:
        name: of the entry's folder.
        make: gives the arrays; called under the entry's lock, and not at all where a whole entry is there.
        waiting: called once if another process is making the entry.

    Raises:
        UserError: if the arrays are not fit for use, or the cache folder cannot be written.
    """
    directory = entry_directory(name)
    if entry := read_entry(directory):
        return entry
    with entry_lock(name, waiting):
        if entry := read_entry(directory):
            return entry
        arrays = make()
        check(arrays)
        return write_entry(directory, arrays)


@contextlib.contextmanager
def entry_lock(name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of an entry; the system frees that of a process which died."""
    import filelock

    folder = entry_directory(name).parent
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0.2)
        except filelock.Timeout:
            waiting()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_entry(directory: Path, arrays: Arrays) -> CacheEntry:
    """Write into a temporary folder beside `directory`, then rename it into place; nothing half-written stays.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    with writing_to(directory.parent):
        _remove_abandoned(directory)
        temporary = directory.with_name(f"{directory.name}.making-{os.getpid()}")
        temporary.mkdir()  # with the user's own mask, unlike `tempfile`'s: other users may be meant to read it
        try:
            for name, array in arrays.items():
                _write_array(temporary / f"{name}.npy", array)
            entry = CacheEntry(directory=temporary, spec=arrays.spec, sha256=checksum(arrays), notes=arrays.notes)
            _write_note(entry)
            if directory.exists():  # damaged: set it aside first, since a folder is not replaced in one step
                old = Path(tempfile.mkdtemp(prefix=f"{directory.name}.old-", dir=directory.parent))
                directory.rename(old / directory.name)
                shutil.rmtree(old, ignore_errors=True)
            temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return replace(entry, directory=directory)


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn the system's errors of writing into ones that say what to do."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise UserError(
            f"the cache folder {folder} cannot be written: {reason}\n"
            "set MNISTBENCH_CACHE to a folder with room for 100 MB"
        ) from error


def _write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a `.npy` file through to the disk. (`np.save` hides why a write failed, such as a full disk.)"""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
        file.flush()
        os.fsync(file.fileno())


def _remove_abandoned(directory: Path) -> None:
    """Delete what a maker that was killed left behind; its lock is ours now."""
    for kind in ("making", "old"):
        for left in directory.parent.glob(f"{directory.name}.{kind}-*"):
            shutil.rmtree(left, ignore_errors=True)


def _stamps(directory: Path) -> dict[str, list[int]]:
    """Size in bytes and time of modification in nanoseconds of each array's file."""
    stamps = {}
    for name in ARRAY_NAMES:
        status = (directory / f"{name}.npy").stat()
        stamps[name] = [status.st_size, status.st_mtime_ns]
    return stamps


def _write_note(entry: CacheEntry) -> None:
    note: dict[str, Any] = {
        "version": ENTRY_VERSION,
        "spec": entry.spec.to_json(),
        "sha256": entry.sha256,
        "notes": list(entry.notes),
        "stamps": _stamps(entry.directory),
    }
    note["note_sha256"] = _note_sha256(note)
    temporary = entry.directory / f"{DESCRIPTION}.{os.getpid()}"
    temporary.write_text(json.dumps(note, indent=1), encoding="utf-8")
    temporary.replace(entry.directory / DESCRIPTION)


def _note_sha256(note: dict[str, Any]) -> str:
    """Of the note without its own checksum: a mean with a flipped bit would change results without a word."""
    return hashlib.sha256(canonical_json(note).encode()).hexdigest()
