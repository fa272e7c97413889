"""Records to tables, intervals and verdicts (PROTOCOL rules 6–22): every number that a report or a comparison prints.

The report and the command line import from here only. Every function takes the frame that `results_frame` made, and
returns an `Exhibit` (a table, or the line that says why there is none), never HTML.
"""

from mnistbench.analysis.accuracy import (
    accuracy_by_batch,
    confusion,
    learning_curves,
    optimizer_ranking,
    per_class,
    worst_drops,
)
from mnistbench.analysis.comparison import Comparison, Threshold, compare, parse_threshold
from mnistbench.analysis.exhibit import Exhibit
from mnistbench.analysis.frames import (
    CSV_COLUMNS,
    KINDS,
    at_target,
    csv_frame,
    epochs_frame,
    merge,
    results_frame,
    targets_in,
    write_csv,
)
from mnistbench.analysis.inventory import (
    Completeness,
    banners,
    completeness,
    environments,
    equal_seed_sentences,
    failures,
)
from mnistbench.analysis.levers import lever_effects
from mnistbench.analysis.ranking import leaderboard, time_curves
from mnistbench.analysis.repeats import counted
from mnistbench.analysis.speed import crossovers, device_speedups, throughput_by_batch
from mnistbench.analysis.summary import summary_markdown, verdict_sentences
from mnistbench.analysis.trials import best_after_trials, without_trials
from mnistbench.analysis.verdicts import noise, pairwise

__all__ = [
    "CSV_COLUMNS",
    "KINDS",
    "Comparison",
    "Completeness",
    "Exhibit",
    "Threshold",
    "accuracy_by_batch",
    "at_target",
    "banners",
    "best_after_trials",
    "compare",
    "completeness",
    "confusion",
    "counted",
    "crossovers",
    "csv_frame",
    "device_speedups",
    "environments",
    "epochs_frame",
    "equal_seed_sentences",
    "failures",
    "leaderboard",
    "learning_curves",
    "lever_effects",
    "merge",
    "noise",
    "optimizer_ranking",
    "pairwise",
    "parse_threshold",
    "per_class",
    "results_frame",
    "summary_markdown",
    "targets_in",
    "throughput_by_batch",
    "time_curves",
    "verdict_sentences",
    "without_trials",
    "worst_drops",
    "write_csv",
]
