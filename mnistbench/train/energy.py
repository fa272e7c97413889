"""Joules of the timed regions, where the machine counts them: a processor's sockets (RAPL), an NVIDIA GPU (NVML).

Like the counters of noise, they are read right before and right after each timed region, never within. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnistbench.axes.devices import gpu_energy_counter

if TYPE_CHECKING:
    import torch

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyCounter:
    """A counter that only goes up.

    Attributes:
        joules: reads it.
        largest: it begins anew at 0 behind this value; None if it never does.
    """

    joules: Callable[[], float]
    largest: float | None = None


@dataclass(frozen=True)
class EnergyMeter:
    """What tells the energy of a cell.

    Attributes:
        source: `nvml` for the GPU's counter, `rapl` for those of the processor's sockets; None: not measurable here.
    """

    source: str | None = None
    counters: Sequence[EnergyCounter] = ()

    def read(self) -> tuple[float, ...] | None:
        """Each counter, in joules; None where there is none, or one cannot be read."""
        try:
            return tuple(counter.joules() for counter in self.counters) or None
        except Exception:  # a file that went, a driver's error: what cannot be observed is unknown
            return None

    def between(self, before: tuple[float, ...] | None, after: tuple[float, ...] | None) -> float | None:
        """Joules between two readings; a counter may have begun anew once in between."""
        if before is None or after is None:
            return None
        used = [end - start for start, end in zip(before, after, strict=True)]
        for place, counter in enumerate(self.counters):
            if used[place] < 0 and counter.largest is not None:
                used[place] += counter.largest
        return sum(used) if min(used) >= 0 else None


NOT_MEASURABLE = EnergyMeter()


def energy_meter(device: torch.device, isolation: str, powercap: Path = POWERCAP) -> EnergyMeter:
    """What tells the energy that a cell takes on this device.

    Args:
        isolation: a cell that is `shared` gets none, since the counters are of all cells that share a socket or GPU.
        powercap: the folder in which Linux shows RAPL.
    """
    if isolation != "alone":
        return NOT_MEASURABLE
    if device.type == "cuda":
        joules = gpu_energy_counter(device)
        return NOT_MEASURABLE if joules is None else EnergyMeter("nvml", [EnergyCounter(joules)])
    return _processor(powercap) if device.type == "cpu" else NOT_MEASURABLE


def _processor(powercap: Path) -> EnergyMeter:
    """All sockets, or nothing; many systems let nobody but root read them."""
    try:
        # A zone `intel-rapl:0:1` is a part of its socket, `intel-rapl-mmio:0` the same socket once more, and one named
        # `psys` the whole board. AMD's are called so as well.
        zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        sockets = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        counters = [_socket(zone) for zone in sockets]
        meter = EnergyMeter("rapl", counters)
    except (OSError, ValueError):
        return NOT_MEASURABLE
    return meter if meter.read() is not None else NOT_MEASURABLE


def _socket(zone: Path) -> EnergyCounter:
    microjoules = zone / "energy_uj"
    return EnergyCounter(
        joules=lambda: int(microjoules.read_text()) / 1e6,
        largest=int((zone / "max_energy_range_uj").read_text()) / 1e6,
    )
