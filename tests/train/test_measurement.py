"""The stopwatch, the counters of noise, and what they may say."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import pytest
import torch

from mnistbench.train import clocks as measurement
from mnistbench.train.clocks import (
    Counters,
    Interference,
    InterferenceMeter,
    ProbeHistory,
    Stopwatch,
    is_short,
    probe_is_off,
)
from mnistbench.train.probe import SIZE, take_probe


class LazyDevice:
    """Does its work only when it is waited for, as a GPU seems to."""

    def __init__(self) -> None:
        self.now, self.queued = 0.0, 0.0

    def launch(self, seconds: float) -> None:
        self.queued += seconds

    def synchronize(self) -> None:
        self.now += self.queued
        self.queued = 0.0

    def clock(self) -> float:
        return self.now


def test_the_clock_waits_for_the_device_at_both_reads() -> None:
    """Work queued before a region is not counted, work launched within is, though the device lags behind (rule 4)."""
    device = LazyDevice()
    watch = Stopwatch(device.synchronize, device.clock)
    device.launch(5.0)
    with watch.region("train"):
        device.launch(2.0)
    assert watch["train"] == pytest.approx(2.0)


def test_regions_add_up_by_name() -> None:
    ticks = itertools.count()
    watch = Stopwatch(clock=lambda: float(next(ticks)))
    for name in ("train", "eval", "train"):
        with watch.region(name):
            pass
    assert (watch["train"], watch["eval"], watch["never"]) == (2.0, 1.0, 0.0)


def test_a_region_that_raises_is_still_counted() -> None:
    ticks = itertools.count()
    watch = Stopwatch(clock=lambda: float(next(ticks)))
    with pytest.raises(ValueError), watch.region("train"):
        raise ValueError
    assert watch["train"] == 1.0


def test_a_jump_of_the_wall_clock_changes_no_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations come from a monotonic clock."""
    watch = Stopwatch()
    with watch.region("train"):
        monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= watch["train"] < 5


@pytest.mark.parametrize(
    ("seconds", "steps", "short"), [(0.9, 1000, True), (5.0, 49, True), (1.0, 50, False), (0.1, 3, True)]
)
def test_a_timed_region_under_a_second_or_50_steps_is_short(seconds: float, steps: int, short: bool) -> None:
    """Rule 8."""
    assert is_short(seconds, steps) is short


def interference(before: Counters, after: Counters) -> Interference:
    meter = InterferenceMeter()
    meter.add(before, after)
    return meter.found()


def test_a_busy_neighbour_is_seen_as_foreign_cpu() -> None:
    """A planted noisy neighbour: a real process that spins while we sleep (rule 12)."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)  # until it spins
        before = measurement.read_counters()
        time.sleep(1.0)
        found = interference(before, measurement.read_counters())
    finally:
        neighbour.kill()
        neighbour.wait()
    if before.busy_cpu is None:
        assert found.foreign_cpu is None  # no /proc: unknown, and not quiet
    else:
        assert "foreign_cpu" in found.flags


def test_our_own_work_is_not_foreign() -> None:
    before = Counters(wall=0, own_cpu=0, busy_cpu=0, steal=0, throttled=0, capacity=2)
    after = Counters(wall=1, own_cpu=1.9, busy_cpu=1.95, steal=0, throttled=0, capacity=2)
    assert interference(before, after).flags == []


def test_steal_and_throttling_over_one_percent_are_flagged() -> None:
    before = Counters(wall=0, own_cpu=0, busy_cpu=0, steal=0, throttled=0, capacity=1)
    after = Counters(wall=1, own_cpu=1, busy_cpu=1, steal=0.02, throttled=0.02, capacity=1)
    assert interference(before, after).flags == ["steal", "throttled"]


def test_what_cannot_be_observed_is_unknown_and_not_quiet() -> None:
    before, after = Counters(wall=0, own_cpu=0), Counters(wall=1, own_cpu=1)
    found = interference(before, after)
    assert (found.foreign_cpu, found.steal, found.throttled) == (None, None, None)


def test_interference_is_a_mean_over_the_timed_regions_only() -> None:
    """What happens between two epochs, during evaluation, is on no account."""
    meter = InterferenceMeter()

    def counters(wall: float, busy: float) -> Counters:
        return Counters(wall=wall, own_cpu=0, busy_cpu=busy, steal=0, throttled=0, capacity=1)

    meter.add(counters(0, 0), counters(1, 0.2))
    meter.add(counters(100, 90), counters(103, 90))
    assert meter.found().foreign_cpu == pytest.approx(0.05)
    meter.add(counters(200, 90), counters(201, 91))
    assert meter.found().flags == ["foreign_cpu"]


def test_ticks_do_not_make_short_epochs_look_disturbed() -> None:
    """The kernel books 10 ms at a time: to one epoch of 1 ms in ten, and nothing to the others."""
    meter = InterferenceMeter()
    for number in range(1000):
        before = Counters(wall=0, own_cpu=0, busy_cpu=0, steal=0, throttled=0, capacity=2)
        busy = 0.0 if number % 10 else 0.01
        meter.add(before, Counters(wall=0.001, own_cpu=0.001, busy_cpu=busy, steal=0, throttled=0, capacity=2))
    assert meter.found().foreign_cpu == pytest.approx(0.0)
    assert meter.found().flags == []


@pytest.mark.parametrize(("seconds", "off"), [(1.04, False), (1.2, True), (0.8, True)])
def test_a_probe_off_its_sessions_median_is_flagged(seconds: float, off: bool) -> None:
    """By more than max(5 %, 4 scaled MAD)."""
    assert probe_is_off(seconds, [0.99, 1.0, 1.0, 1.01, 1.0, seconds]) is off


def test_a_wide_session_needs_a_wider_miss() -> None:
    session = [0.8, 0.9, 1.0, 1.1, 1.2]
    assert not probe_is_off(1.3, session)


def test_threads_follow_the_cgroup_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 13: the least of affinity, quota and physical cores, and at least one."""
    monkeypatch.setattr(measurement, "cpu_quota", lambda: 1.5)
    assert measurement.usable_threads(8) == 1
    monkeypatch.setattr(measurement, "cpu_quota", lambda: 0.2)
    assert measurement.usable_threads(8) == 1


def test_threads_leave_second_hardware_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "cpu_quota", lambda: None)
    monkeypatch.setattr(measurement.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert measurement.usable_threads(8) == 8


def test_a_cell_whose_probe_is_off_the_sessions_is_flagged() -> None:
    """Only once the session has seen enough, and only among its like."""
    history = ProbeHistory()
    assert not history.is_off("cpu", {"compute": [9.0]})
    for _ in range(5):
        assert not history.is_off("cpu", {"copy": [1.0, 1.01]})
    assert history.is_off("cpu", {"copy": [1.0, 1.5]})
    assert not history.is_off("cuda", {"copy": [0.1, 0.1]})


def test_a_probe_is_short_and_measures_what_it_says() -> None:
    """Compute and copy on the CPU; a queueing device also gets empty launches."""
    probe = take_probe(torch.device("cpu"), "fp32", lambda: None)
    assert set(probe.seconds) == {"compute", "copy"}
    assert probe.flops_per_second == pytest.approx(2 * SIZE["cpu"] ** 3 / probe.seconds["compute"])
