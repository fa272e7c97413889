"""Throughput by batch size, and what another device buys, steady and from cold (rules 7, 14, 20)."""

from __future__ import annotations

import pandas as pd

from mnistbench.analysis.exhibit import Exhibit


def throughput_by_batch(frame: pd.DataFrame) -> Exhibit:
    """Examples per second by batch size: one row per settings; out-of-memory cells are rows without a number.

    Columns: group, settings, label, series (all but the batch size), architecture_label, optimizer_label, device,
    execution_label, batch_size, n, examples_per_second (median), low, high, interval (text: "range of 3"), values
    (list), eval_examples_per_second (median), peak_share (median), status (`ok`, `out_of_memory`), flags.
    """
    raise NotImplementedError


def device_speedups(frame: pd.DataFrame) -> Exhibit:
    """How much faster each device trains than the baseline (the CPU where there is one): same cell, other device.

    Columns: group, clock (`steady`: training seconds; `cold`: process start to last evaluation), baseline, device,
    architecture_label, optimizer_label, schedule_label, execution_label, batch_size, series (all but device and batch
    size), n, ratio (> 1: the device is faster than the baseline; NaN when it may not be shown), low, high, floor,
    verdict (`faster`, `slower`, `same`, `unresolved`, ""), reason (why there is no ratio or no verdict).
    """
    raise NotImplementedError


def crossovers(frame: pd.DataFrame) -> Exhibit:
    """From which batch size on the device is faster: one row per series, device and clock.

    Columns: group, clock, baseline, device, series, architecture_label, optimizer_label, crossover_batch (smallest
    batch from which every larger one is `faster`; None when there is none), largest_ratio, at_batch, sentence.
    """
    raise NotImplementedError
