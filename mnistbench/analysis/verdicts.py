"""Which differences are real: pairs of cells with intervals, noise floor and verdict (rules 14–18)."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from mnistbench.analysis.exhibit import Exhibit

Metric = Literal["examples_per_second", "seconds_to_target", "cold_seconds_to_target", "test_accuracy"]


def pairwise(frame: pd.DataFrame, metric: Metric = "examples_per_second") -> Exhibit:
    """Every pair of settings (`settings`: a cell without its seed) of one group, with a verdict.

    Columns: group, device (of both, or `cpu / cuda`), metric, settings_a, settings_b, label_a, label_b, n (rounds both
    ran), ratio (a over b; for test_accuracy the difference a − b, as a share), low, high (Bonferroni over the pairs of
    the group), floor (noise floor, as a share: 0.02), verdict (`faster`, `slower`, `same`, `unresolved` for a seen from
    b; `better`/`worse` for accuracy; "" when there is none), reason (why there is no verdict: "one run", "short",
    "equivalence not passed", …), method (`t`, `rank`).
    """
    raise NotImplementedError


def noise(frame: pd.DataFrame) -> Exhibit:
    """What the noise was: one row per group and device.

    Columns: group, device, runs, quiet (runs without a flag), noisy, short, shared, unknown (noise not observable),
    pooled_sd, twin_sd (A/A; None without twins), twin_pairs, rounds, floor (rule 16, as a share), flags (text: count by
    flag).
    """
    raise NotImplementedError
