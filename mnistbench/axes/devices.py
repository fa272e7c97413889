"""Grid axis: what this machine can train on, and how to wait for it. torch is imported only when asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.errors import UserError

if TYPE_CHECKING:
    import torch

KINDS = ("cpu", "cuda", "mps")


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

    found = [DeviceInfo("cpu", cpu_model(), psutil.virtual_memory().total)]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        found.append(DeviceInfo("cuda" if index == 0 else f"cuda:{index}", properties.name, properties.total_memory))
    if torch.backends.mps.is_available():
        found.append(DeviceInfo("mps", "Apple GPU", None))
    return found


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
    place = "this machine" if here is None else "the cluster"
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


def accelerator_may_be_here() -> bool:
    """False only if it is certain that torch can find nothing but a CPU: no driver has left its file."""
    drivers = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd", "/proc/driver/nvidia")
    return sys.platform != "linux" or any(Path(driver).exists() for driver in drivers)


def synchronizer(device: torch.device) -> Callable[[], None]:
    """The function that returns when the device has done what it was asked."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return nothing_to_wait_for


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes allocated on the device since the last reset; None on the CPU, whose process is measured instead."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return torch.mps.driver_allocated_memory() if device.type == "mps" else None


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


def gpu_slowdown(index: int) -> bool | None:
    """True if the GPU has slowed down for heat or power-brake since; None where NVML does not answer."""
    try:
        import pynvml

        pynvml.nvmlInit()
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(pynvml.nvmlDeviceGetHandleByIndex(index))
        wanted = (
            pynvml.nvmlClocksThrottleReasonHwSlowdown
            | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
            | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
            | pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
        )
        return bool(reasons & wanted)
    except Exception:  # no driver, no library, an old one: what cannot be observed is unknown
        return None
