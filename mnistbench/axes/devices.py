"""Grid axis: what this machine can train on, and how to wait for it. torch is imported only when asked."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench.errors import UserError
from mnistbench.errors.problems import did_you_mean

if TYPE_CHECKING:
    import torch

KINDS = ("cpu", "cuda", "mps")
NAME = re.compile(rf"(?:{'|'.join(KINDS)})(?::\d{{1,3}})?")


def nothing_to_wait_for() -> None:
    """The `synchronize` of a device that has finished when its call returns."""


@dataclass(frozen=True)
class DeviceInfo:
    """One device.

    Attributes:
        name: what a grid writes: `cpu`, `cuda` for the first GPU, `cuda:1`, `mps`.
        model: the hardware's own name.
        memory_bytes: its memory, None where it cannot be read.
    """

    name: str
    model: str
    memory_bytes: int | None


def available() -> list[DeviceInfo]:
    """All devices that torch can use here, the CPU first."""
    import psutil
    import torch

    infos = [DeviceInfo("cpu", cpu_model(), psutil.virtual_memory().total)]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        infos.append(DeviceInfo("cuda" if index == 0 else f"cuda:{index}", properties.name, properties.total_memory))
    if torch.backends.mps.is_available():
        infos.append(DeviceInfo("mps", "Apple GPU", None))
    return infos


def resolve(
    wanted: str | Sequence[str], *, on_missing: str = "error", here: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Turn a grid's `devices` into names; `auto` is one device per kind.

    Args:
        wanted: names, or `auto`.
        on_missing: `error` or `skip`.
        here: the devices there are, if cells run elsewhere; this machine's if left out.

    Returns:
        The devices that are here, and those that are not (empty unless `on_missing` is `skip`).

    Raises:
        UserError: if a device is absent and `on_missing` is `error`.
    """
    asked = [wanted] if isinstance(wanted, str) else list(wanted)
    if here is None and (asked == ["cpu"] or (asked == ["auto"] and not accelerator_may_be_here())):
        return ["cpu"], []  # without torch, whose import takes longer than finding that nothing is left to run
    place = "this machine" if here is None else "the machine or cluster that runs it"
    here = [device.name for device in available()] if here is None else here
    if asked == ["auto"]:
        return [name for name in here if name in KINDS], []
    names = ["cuda" if name == "cuda:0" else name for name in asked]
    absent = [name for name in names if name not in here]
    if absent and on_missing == "error":
        raise UserError(
            f"device {', '.join(absent)} is not on {place}, which has {', '.join(here)}: "
            "take it out of `devices`, or set `on_missing_device: skip`"
        )
    return [name for name in names if name in here], absent


def nearest_device(text: str) -> str:
    """The end of a message about what names no device: `; did you mean `cuda`?` where one is close."""
    return did_you_mean("cuda" if text == "gpu" else text, KINDS)


def accelerator_may_be_here() -> bool:
    """False only if it is certain that torch can find nothing but a CPU: no driver has left its file."""
    drivers = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd", "/proc/driver/nvidia")
    return sys.platform != "linux" or any(Path(driver).exists() for driver in drivers)


def synchronizer(device: torch.device) -> Callable[[], None]:
    """The function that returns when the device has done what it was asked.

    It does not start CUDA: the clock of the set-up waits for the device first, and CUDA's start is part of set-up.
    """
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device) if torch.cuda.is_initialized() else None
    if device.type == "mps":
        return torch.mps.synchronize
    return nothing_to_wait_for


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes allocated on the device since the last reset; None on the CPU, whose process is measured instead.

    What a captured graph writes at each replay counts as free once it is recorded, and is nobody else's: it is added.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) + held_by_graphs(torch.cuda.memory_snapshot(), device.index or 0)
    return torch.mps.driver_allocated_memory() if device.type == "mps" else None


def held_by_graphs(segments: Sequence[Mapping[str, Any]], index: int) -> int:
    """Bytes in the private memory pools of graphs that count as free, from `torch.cuda.memory_snapshot()`."""
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in segments
        if tuple(segment["segment_pool_id"]) != (0, 0) and segment["device"] == index
    )


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak that warm-up reached."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    import platform

    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def slowed_seconds(device: torch.device) -> dict[str, float] | None:
    """Seconds that a GPU has been slowed down for so far, by cause; None where NVML does not answer.

    Counters and not the present state: heat of the fourth second is over in the sixth.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml

        handle = _nvml_handle(device)
        causes = {"heat": pynvml.NVML_PERF_POLICY_THERMAL, "power brake": pynvml.NVML_PERF_POLICY_BOARD_LIMIT}
        return {
            cause: pynvml.nvmlDeviceGetViolationStatus(handle, policy).violationTime / 1e9
            for cause, policy in causes.items()
        }
    except Exception:  # no driver, no library, an old one: what cannot be observed is unknown
        return None


def has_slowed(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> bool | None:
    """Whether a GPU was slowed down between two readings; None if that is unknown."""
    return None if before is None or after is None else any(after[cause] > before[cause] for cause in after)


def gpu_energy_counter(device: torch.device) -> Callable[[], float] | None:
    """Reads the joules that a GPU took since its driver was loaded; None where NVML does not tell (before Volta)."""
    try:
        import pynvml

        handle = _nvml_handle(device)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no driver, no library, an old GPU
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """What a record's environment says of a GPU: its name, which one it is, and what drives and limits it.

    A hash stands for its UUID. What the driver does not tell is left out.
    """
    import torch

    described: dict[str, Any] = {"device_name": torch.cuda.get_device_name(device)}
    with contextlib.suppress(Exception):
        described["cudnn"] = torch.backends.cudnn.version()
    with contextlib.suppress(Exception):
        described["device_id"] = hashlib.sha256(_uuid(device).encode()).hexdigest()[:12]
    with contextlib.suppress(Exception):
        import pynvml

        handle = _nvml_handle(device)
        described["driver"] = str(pynvml.nvmlSystemGetDriverVersion())
        described["power_limit_watts"] = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
    return described


def _uuid(device: torch.device) -> str:
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _nvml_handle(device: torch.device) -> Any:
    """By its UUID: NVML counts all GPUs of the machine, torch those that CUDA_VISIBLE_DEVICES leaves."""
    import pynvml

    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(_uuid(device))
