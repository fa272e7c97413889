"""Which is first at the target, and what time buys (rules 9, 11, 17, 18)."""

from __future__ import annotations

import pandas as pd

from mnistbench.analysis.exhibit import Exhibit


def leaderboard(frame: pd.DataFrame, *, clock: str = "train") -> Exhibit:
    """Settings of each group by median time to target; without any target, by test accuracy (then throughput).

    Columns: group, rank (1 + number proven better; ties share it; NA where no verdict is possible), rank_reason, order
    (1, 2, … by median), settings, label, architecture_label, optimizer_label, schedule_label, batch_size, device,
    execution_label, target_accuracy, seeds (that gave a result), reached (k), reached_low, reached_high
    (Clopper–Pearson 95 %, shares), seconds_to_target (median; inf when most seeds did not reach it), seconds_low,
    seconds_high, interval ("one run", "range of 3", "95 % of 5", …), seconds_text (for show: `3.1 s`, `> 4.2 s`,
    `not reached (best 98.7 %)`), seconds_values (list: one per seed, inf where not reached: the dots),
    cold_seconds_to_target (median), epochs_to_target (median), test_accuracy (median), best_test_accuracy (best of any
    seed and epoch), examples_per_second (median), flags, equivalence.

    Args:
        clock: "train" for the training clock, "cold" for process start to target.
    """
    raise NotImplementedError


def time_curves(frame: pd.DataFrame, epochs: pd.DataFrame) -> Exhibit:
    """Test error over training seconds: one row per settings and epoch, medians over seeds with their range.

    Columns: group, settings, label, architecture_label, optimizer_label, batch_size, device, epoch, n, seconds
    (median training clock), error (median of 1 − test accuracy), error_low, error_high (range over seeds), pareto
    (nothing in the group is both faster and better), target_error.
    """
    raise NotImplementedError
