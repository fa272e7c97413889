"""Two sets of results, cell by cell: did anything become slower? (rule 21)"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from mnistbench.analysis.exhibit import Exhibit


@dataclass(frozen=True)
class Threshold:
    """What counts as a regression: `slower=5%`, or `worse=0.3%` (points of test accuracy)."""

    kind: str
    share: float


@dataclass(frozen=True)
class Comparison:
    """B seen from A.

    Attributes:
        table: columns settings, label, device, machine, metric (examples_per_second, seconds_to_target,
            test_accuracy), a, b (medians), n_a, n_b, ratio (b over a; for accuracy b − a), low, high, floor, verdict
            (of B), confounded (bool), reason, regression (bool), torch_a, torch_b.
        only_a, only_b: labels of settings that only one side has.
        notes: what the reader must know: confounded sessions, versions that differ, protocols that were not compared.
        regressions: number of rows whose whole interval lies beyond the threshold.
    """

    table: Exhibit
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    notes: tuple[str, ...]
    regressions: int

    @property
    def exit_code(self) -> int:
        """5 on a regression, else 0."""
        return 5 if self.regressions else 0

    def to_text(self) -> str:
        """The comparison as plain text for a terminal."""
        raise NotImplementedError

    def to_markdown(self) -> str:
        """The comparison as Markdown for a file or an issue."""
        raise NotImplementedError


def parse_threshold(text: str) -> Threshold:
    """Read `slower=5%` or `worse=0.3%`.

    Raises:
        UserError: if it is neither.
    """
    raise NotImplementedError


def compare(a: pd.DataFrame, b: pd.DataFrame, *, fail_on: Threshold | None = None) -> Comparison:
    """Compare two frames of `results_frame`, settings by settings, on the same machine and device."""
    raise NotImplementedError
