"""Which machine this is: a hash that stays with it, whatever releases or memory it gets."""

from __future__ import annotations

import functools
import hashlib
import os
import runpy
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from mnistbench.axes.devices import cpu_model
from mnistbench.errors import UserError
from mnistbench.files.cache_folder import cache_folder

SYSTEM_ID_FILE = Path("/etc/machine-id")


class MachineId(NamedTuple):
    """The hash that stands for a machine, and what it stays with."""

    text: str
    source: Literal["system", "cache", "boot"]


def machine_id() -> str:
    """A hash that stays with the machine; neither host name nor user can be read out of it."""
    return identify_machine().text


@functools.cache
def identify_machine() -> MachineId:
    """This machine's id, of the system's own id and the processor's name.

    A system that has no id of its own (containers, images that were not set up, macOS) gets a random one, which is kept
    in the user's cache folder. Where that cannot be written, the id stays until the next boot.
    """
    source: Literal["system", "cache", "boot"] = "system"
    host = system_id()
    if host is None:
        source, host = "cache", _kept_id()
    if host is None:
        source, host = "boot", first_line("/proc/sys/kernel/random/boot_id") or str(uuid.getnode())
    return MachineId(_hash(f"{host}/{cpu_model()}"), source)


def system_id() -> str | None:
    """What the system calls itself for good; None where it was never told."""
    try:
        text = SYSTEM_ID_FILE.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return text if text.strip("0-") and text != "uninitialized" else None


def kept_id_file() -> Path:
    """Where the random id of a machine that has none of its own is kept."""
    return cache_folder() / "machine_id"


def recognized(machine: str) -> str:
    """The present id of this machine, where an earlier release wrote its former one; every other id as it is.

    Former ids depended on the size of the memory too: one that was written before that changed stays unknown.
    """
    return machine_id() if machine == _former_machine_id() else machine


@functools.cache
def _former_machine_id() -> str | None:
    """As releases before 0.2.0 computed it; None where that told no machine apart, or differed in each process."""
    host = system_id()
    if (
        host is None and not SYSTEM_ID_FILE.exists() and not uuid.getnode() >> 40 & 1
    ):  # a real address, not a random one
        host = str(uuid.getnode())
    return None if host is None else _hash(f"{host}/{cpu_model()}/{memory_bytes()}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _kept_id() -> str | None:
    """The random id in the cache folder, which is made where there is none; None if it cannot be kept."""
    try:
        path = kept_id_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        if first_line(str(path)) is None:
            part = path.with_name(f".machine_id.{uuid.uuid4().hex}")
            part.write_text(uuid.uuid4().hex)
            try:
                os.link(part, path)  # of several processes the first decides
            except OSError:
                if first_line(str(path)) is None:  # a file system without links, or a file without content
                    part.replace(path)
            part.unlink(missing_ok=True)
        return first_line(str(path))
    except (OSError, RuntimeError, UserError):  # RuntimeError: the user has no home folder
        return None


def torch_build() -> str:
    """`torch.__version__` without loading torch, which takes seconds; its build (`+cu130`) included."""
    package = find_spec("torch")
    if package is None or package.origin is None:
        return "none"
    version: str = runpy.run_path(str(Path(package.origin).with_name("version.py")))["__version__"]
    return version


def memory_bytes() -> int | None:
    """Bytes of main memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def first_line(path: str) -> str | None:
    """The first line of a file, None where there is none."""
    try:
        return Path(path).read_text().split("\n", 1)[0].strip() or None
    except OSError:
        return None
