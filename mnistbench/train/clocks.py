"""The stopwatch and the counters of noise: how long a region took, and what else the machine did meanwhile.

No torch here: a device is known only by the function that waits for it. Rules are those of docs/measurement.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mnistbench.axes.devices import nothing_to_wait_for

FOREIGN_CPU_LIMIT = 0.05
STOLEN_LIMIT = 0.01
SHORT_SECONDS, SHORT_STEPS = 1.0, 50
PROBE_LIMIT, PROBE_MADS = 0.05, 4.0

KEPT_ALLOCATOR = {-4: 0, -1: -1, -2: 256 << 20}
"""glibc's M_MMAP_MAX (no block is mapped apart), M_TRIM_THRESHOLD (none is given back), M_TOP_PAD (the heap's step)."""

Clock = Callable[[], float]


@dataclass
class Stopwatch:
    """Adds up seconds by name; waits for the device at both ends of each region (rule 4).

    Attributes:
        synchronize: returns when the device has done all that was asked of it.
        clock: monotonic seconds; a jump of the wall clock changes nothing.
    """

    synchronize: Callable[[], None] = nothing_to_wait_for
    clock: Clock = time.perf_counter
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Time what happens inside and add it to `seconds[name]`, also when it raises."""
        self.synchronize()
        start = self.clock()
        try:
            yield
        finally:
            self.synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - start

    def __getitem__(self, name: str) -> float:
        return self.seconds.get(name, 0.0)


@dataclass(frozen=True)
class Counters:
    """One reading of the system's counters, in seconds since boot or start; None where they cannot be read."""

    wall: float
    own_cpu: float
    busy_cpu: float | None = None
    steal: float | None = None
    throttled: float | None = None
    capacity: int = 1


def read_counters() -> Counters:
    """Read CPU use of this process, of the machine, and what the hypervisor and the cgroup took away."""
    own = time.process_time()
    busy = steal = None
    try:
        numbers = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _iowait, irq, softirq, stolen = numbers
        busy, steal = (user + nice + system + irq + softirq) / tick, stolen / tick
    except (OSError, ValueError):
        pass
    return Counters(time.perf_counter(), own, busy, steal, throttled_seconds(), os.cpu_count() or 1)


def own_cgroup_files(controller: str, unified: str, legacy: str) -> list[Path]:
    """Files of this process's cgroup and of those above it, the nearest first: by version 2's name, and version 1's.

    In a container the mount may begin at the cgroup itself, whatever /proc says of its path; files may not be there.
    """
    root = Path("/sys/fs/cgroup")
    files: list[Path] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            mount, name = (root / controller, legacy) if controllers else (root, unified)
            own = mount / path.lstrip("/")
            files += [folder / name for folder in (own, *own.parents) if folder.is_relative_to(mount)]
    return files


def throttled_seconds() -> float | None:
    """For how long the cgroups of this process were not let run so far; None where nobody tells."""
    throttled: float | None = None
    for path in own_cgroup_files("cpu", "cpu.stat", "cpu.stat"):
        try:
            lines = dict(line.split() for line in path.read_text().splitlines())
        except (OSError, ValueError):
            continue
        for key, unit in (("throttled_usec", 1e-6), ("throttled_time", 1e-9)):
            if key in lines:
                throttled = (throttled or 0.0) + int(lines[key]) * unit
    return throttled


def waited_seconds() -> dict[str, float] | None:
    """For how long each thread of this process was ready to run and had no core so far; None where nobody tells."""
    waited: dict[str, float] = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            waited[path.parent.name] = int(path.read_text().split()[1]) * 1e-9
    return waited or None


def difference(before: float | None, after: float | None) -> float | None:
    """Between two readings of what only grows; None if that is unknown."""
    return None if before is None or after is None else max(0.0, after - before)


def waited_since(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> float | None:
    """Of all threads together between two readings; None if that is unknown."""
    if before is None or after is None:
        return None
    return sum(seconds - before.get(thread, 0.0) for thread, seconds in after.items())


@dataclass(frozen=True)
class Interference:
    """What differed between two readings, as shares of the time (or of the capacity) between them."""

    foreign_cpu: float | None
    steal: float | None
    throttled: float | None

    @property
    def flags(self) -> list[str]:
        """Causes over their limit (rule 12); what could not be observed raises none."""
        limits = [
            ("foreign_cpu", self.foreign_cpu, FOREIGN_CPU_LIMIT),
            ("steal", self.steal, STOLEN_LIMIT),
            ("throttled", self.throttled, STOLEN_LIMIT),
        ]
        return [name for name, share, limit in limits if share is not None and share > limit]


class InterferenceMeter:
    """Adds up timed regions: counters are read right before and after each, never within.

    Sums are compared and not regions: the kernel books CPU time in ticks of 10 ms, which say nothing of one region of
    1 ms, and much of a thousand.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float | None] = dict.fromkeys(("wall", "own_cpu", "busy_cpu", "steal", "throttled"), 0.0)
        self._capacity = 1

    def add(self, before: Counters, after: Counters) -> None:
        """Count one timed region."""
        self._capacity = after.capacity
        for name, so_far in self._sums.items():
            start, end = getattr(before, name), getattr(after, name)
            self._sums[name] = None if so_far is None or start is None or end is None else so_far + end - start

    def found(self) -> Interference:
        """Over all regions; None where it could not be observed."""
        sums, wall = self._sums, max(self._sums["wall"] or 0.0, 1e-9)
        busy, own = sums["busy_cpu"], sums["own_cpu"]

        def share(seconds: float | None, of: float) -> float | None:
            return None if seconds is None else max(0.0, seconds) / of

        return Interference(
            foreign_cpu=share(None if busy is None or own is None else busy - own, wall * self._capacity),
            steal=share(sums["steal"], wall * self._capacity),
            throttled=share(sums["throttled"], wall),
        )


def is_short(train_seconds: float, steps: int) -> bool:
    """True if the timed region is too short for a verdict (rule 8)."""
    return train_seconds < SHORT_SECONDS or steps < SHORT_STEPS


def probe_is_off(seconds: float, session: Sequence[float]) -> bool:
    """True if a probe is off its session's median by more than max(5 %, 4 scaled MAD) (rule 12)."""
    median = statistics.median(session)
    scaled_mad = 1.4826 * statistics.median(abs(value - median) for value in session)
    return abs(seconds - median) > max(PROBE_LIMIT * median, PROBE_MADS * scaled_mad)


@dataclass
class ProbeHistory:
    """The probes of a session: a cell whose own are off their median is flagged (rule 12)."""

    enough: int = 8
    """Values before a median says anything."""
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def is_off(self, group: str, probe: Mapping[str, Sequence[float]]) -> bool:
        """Remember a cell's probes, and say whether one of them is off what the session has seen so far.

        Args:
            group: what probes can be compared within: device, precision and threads.
            probe: seconds before and after the cell, by the part's name.
        """
        off = False
        for name, values in probe.items():
            session = self.seconds.setdefault(f"{group}/{name}", [])
            session += values
            off |= len(session) >= self.enough and any(probe_is_off(value, session) for value in values)
        return off


def keep_allocated() -> None:
    """Have glibc keep large blocks for this process, instead of faulting them in again at each step.

    Where there is no glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in KEPT_ALLOCATOR.items():
            mallopt(option, value)


class HeapPages:
    """The pages of memory that this process has touched for the first time since this was made, where the system tells.

    A heap goes on growing for some steps after the first, since it breaks into pieces: to about twice of what the first
    one needed. Clearing these pages took 2 to 7 % of a block of two steps at batch 8192 (docs/measurement.md).
    """

    def __init__(self) -> None:
        self._before = _first_touches()

    def touch_as_many_again(self) -> None:
        """Have the system clear pages for the heap's growth now."""
        import torch

        torch.empty((_first_touches() - self._before) * mmap.PAGESIZE, dtype=torch.uint8).fill_(0)


def _first_touches() -> int:
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def reset_process_peak() -> None:
    """Let the peak of this process's memory begin anew, where the system can: Linux, with a /proc that may be written.

    What glibc keeps of freed memory is given back before, since it would count.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def process_peak() -> int | None:
    """Highest resident set of this process in bytes, since `reset_process_peak`, or its start where that cannot be."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:
        return None


def cpu_quota() -> float | None:
    """CPUs that the cgroups let this process use, None if they set no limit."""
    quotas: list[float] = []
    for path in own_cgroup_files("cpu", "cpu.max", "cpu.cfs_quota_us"):
        with contextlib.suppress(OSError, ValueError):
            quota, *period = path.read_text().split()
            period = period or [path.with_name("cpu.cfs_period_us").read_text()]
            if quota not in {"max", "-1"}:
                quotas.append(int(quota) / int(period[0]))
    return min(quotas, default=None)


def usable_threads(physical_cores: int | None) -> int:
    """Threads for a cell that runs alone: min(affinity, cgroup quota, physical cores), rule 13."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [float(affinity), cpu_quota() or affinity, float(physical_cores or affinity)]
    return max(1, int(min(limits)))
