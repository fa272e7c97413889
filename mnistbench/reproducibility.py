"""Seeds, determinism, and the description of where a cell ran. torch is imported only when asked."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import random
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from mnistbench import __version__
from mnistbench.devices import cpu_model
from mnistbench.errors import UserError
from mnistbench.records import Environment

if TYPE_CHECKING:
    import torch

SYSTEM_ID_FILE = Path("/etc/machine-id")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_deterministic() -> None:
    """Switches of cuDNN and cuBLAS that give the same numbers each time; the CPU needs none."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def order_of_examples(examples: int, seed: int, epoch: int, *, shuffle: bool) -> torch.Tensor:
    """Indices of one epoch, drawn on the CPU for every device: CPU and CUDA draw differently from one seed.

    Returns:
        int64 tensor of shape [examples].
    """
    import torch

    if not shuffle:
        return torch.arange(examples)
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(examples, generator=generator)


def derived_seed(seed: int, *purpose: object) -> int:
    """A seed of its own for each purpose, so that no two draws share a stream."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def weights_sha256(model: torch.nn.Module) -> str:
    """Checksum of the state dict's tensors in order: equal bits, equal text."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
        source, host = "boot", _first_line("/proc/sys/kernel/random/boot_id") or str(uuid.getnode())
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
    from mnistbench.data.cache import cache_folder

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
        if _first_line(str(path)) is None:
            part = path.with_name(f".machine_id.{uuid.uuid4().hex}")
            part.write_text(uuid.uuid4().hex)
            try:
                os.link(part, path)  # of several processes the first decides
            except OSError:
                if _first_line(str(path)) is None:  # a file system without links, or a file without content
                    part.replace(path)
            part.unlink(missing_ok=True)
        return _first_line(str(path))
    except (OSError, RuntimeError, UserError):  # RuntimeError: the user has no home folder
        return None


def memory_bytes() -> int | None:
    """Bytes of main memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


@functools.cache
def physical_cores() -> int | None:
    """Cores without their second threads."""
    try:
        import psutil
    except ImportError:
        return None
    cores: int | None = psutil.cpu_count(logical=False)
    return cores


def describe_environment(device: str = "cpu") -> Environment:
    """What a reader needs to know of the machine and the build, without names of hosts, users or paths."""
    import torch

    device_name = None
    if device.startswith("cuda"):
        device_name = torch.cuda.get_device_name(torch.device(device))
    elif device == "mps":
        device_name = "Apple GPU"
    commit, dirty = git_state()
    cores, logical = physical_cores(), os.cpu_count()
    return Environment(
        machine_id=machine_id(),
        machine_id_source=identify_machine().source,
        machine=platform.machine(),
        os=f"{platform.system()} {platform.release()}",
        cpu=cpu_model(),
        physical_cores=cores,
        logical_cores=logical,
        memory_bytes=memory_bytes(),
        device_name=device_name,
        smt=_smt(),
        governor=_first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        frequency_mhz=_frequency(),
        python=platform.python_version(),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        mnistbench=__version__,
        git_commit=commit,
        git_dirty=dirty,
    )


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether it was changed since; None if it is not one."""
    here = Path(__file__).resolve().parent

    # A hook of git sets GIT_DIR and others, which go before -C: the answer would be about another checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
        return done.stdout.strip()

    try:
        if not (here.parent / ".git").exists():
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().split("\n", 1)[0].strip() or None
    except OSError:
        return None


def _smt() -> bool | None:
    active = _first_line("/sys/devices/system/cpu/smt/active")
    return None if active is None else active == "1"


def _frequency() -> float | None:
    kilohertz = _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return float(kilohertz) / 1000 if kilohertz else None
