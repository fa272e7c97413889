"""Seeds, determinism, and the description of where a cell ran. torch is imported only when asked."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench.axes.devices import cpu_model, describe_gpu
from mnistbench.cell import __version__
from mnistbench.results.records import Environment
from mnistbench.results.this_machine import first_line, identify_machine, machine_id, memory_bytes

if TYPE_CHECKING:
    import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave no trace in what `seed_everything` seeds, from all of which a network may draw; GPUs are left out."""
    import numpy
    import torch

    python, numbers = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(numbers)


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
    """Checksum of the state dict in order: equal bits, equal text."""
    import torch

    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        if not isinstance(value, torch.Tensor):  # an extra state may be anything that can be saved
            digest.update(pickle.dumps(value))
            continue
        # As bytes: numpy has no bfloat16.
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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

    about_device: dict[str, Any] = {}
    if device.startswith("cuda"):
        about_device = describe_gpu(torch.device(device))
    elif device == "mps":
        about_device = {"device_name": "Apple GPU"}
    commit, dirty = git_state()
    cores, logical = physical_cores(), os.cpu_count()
    files = ("smt/active", "cpu0/cpufreq/scaling_governor", "cpu0/cpufreq/scaling_cur_freq")
    smt, governor, kilohertz = (first_line(f"/sys/devices/system/cpu/{name}") for name in files)
    return Environment(
        machine_id=machine_id(),
        machine_id_source=identify_machine().source,
        machine=platform.machine(),
        os=f"{platform.system()} {platform.release()}",
        cpu=cpu_model(),
        physical_cores=cores,
        logical_cores=logical,
        memory_bytes=memory_bytes(),
        **about_device,
        smt=None if smt is None else smt == "1",
        governor=governor,
        frequency_mhz=float(kilohertz) / 1000 if kilohertz else None,
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
    here = Path(__file__).resolve().parents[1]

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
