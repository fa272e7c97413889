"""What there is and what is missing: counts, failures, machines, and what to be warned of."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from mnistbench.analysis.exhibit import Exhibit


@dataclass(frozen=True)
class Completeness:
    """How many cells gave an answer.

    Attributes:
        asked: cells of the grid (or of the records, when the grid is not known).
        answered: finished, diverged or out of memory.
        by_status: count by status, in a fixed order, without zeros.
        sentence: for example `574 of 600 cells answered; 26 failed`.
    """

    asked: int
    answered: int
    by_status: dict[str, int] = field(default_factory=dict)
    sentence: str = ""


def completeness(frame: pd.DataFrame, asked: int | None = None) -> Completeness:
    """Counts by status; `asked` is the number of the grid's cells, so that cells without a record are said."""
    raise NotImplementedError


def failures(frame: pd.DataFrame, *, command: str = "mnistbench run grid.yaml") -> Exhibit:
    """Every cell that did not finish, with its reason.

    Columns: group, cell_id, label, status, reason (one line), step, log (last lines), stack, rerun (the command that
    runs it again; "" for diverged and out of memory, which are answers, unless forced), seed, device.
    """
    raise NotImplementedError


def environments(frame: pd.DataFrame) -> Exhibit:
    """Machines, builds and data: one row per different environment.

    Columns: group, machine, machine_id, device, device_name, os, cpu, memory_bytes, python, torch, cuda, mnistbench,
    git_commit, git_dirty, protocol, dataset, data_sha256, fallback, cells, first, last (started_at).
    """
    raise NotImplementedError


def banners(frame: pd.DataFrame) -> list[str]:
    """Warnings that belong at the top, made from the data: fallback data, noisy, short or shared cells, several
    machines, builds or protocol versions, uncommitted code. Empty when all is well.
    """
    raise NotImplementedError
