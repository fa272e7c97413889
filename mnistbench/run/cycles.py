"""Which cycles of blocks a results folder lacks: what a plan tells, and what a run then takes (`blocks.py`).

A setting is a cell without its seed and twin. A cycle takes every setting once, each in a fresh process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from mnistbench.cell import Cell
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.speed import PROTOCOL, TimedSession, read_sessions
from mnistbench.results.this_machine import machine_id, torch_build
from mnistbench.run.executors import is_shared
from mnistbench.words.wording import plural, rough_time

TRIES = 2
"""Blocks of a setting that may fail before it leaves the cycles."""
GUESSED_SECONDS = 0.35
"""Of a block with its process, before one was taken here."""


@dataclass(frozen=True, kw_only=True)
class CyclePlan:
    """What is to be timed.

    Attributes:
        cells: one cell of each setting, with its lowest seed.
        cycles: that are lacking; 0 where every pair of settings has as many in common as are planned.
        planned: as the grid file says.
        left_out: settings (their labels) that are not timed, with the reason.
        seconds: estimate for the lacking cycles, the settling of settings left out.
    """

    cells: list[Cell]
    cycles: int
    planned: int
    left_out: dict[str, str]
    seconds: float

    @property
    def is_open(self) -> bool:
        """Whether there is something to take."""
        return bool(self.cells and self.cycles)

    def line(self) -> str:
        """What will be taken, in one line."""
        if not self.cells:
            return "no speed is timed: " + "; ".join(sorted(set(self.left_out.values()))) if self.left_out else ""
        settings = plural(len(self.cells), "setting")
        if not self.cycles:
            return f"speed: {self.planned} cycles of {settings} are there"
        return f"speed: {plural(self.cycles, 'cycle')} of {settings}, about {rough_time(self.seconds)}"


def plan_cycles(
    results: ResultsFolder, cells: Sequence[Cell], planned: int | None, *, data: str | None, force: bool = False
) -> CyclePlan:
    """Find out what is lacking in a results folder.

    Args:
        cells: that the run is about, whose devices are there; seeds and twins of a setting are one.
        planned: cycles that the grid asks for; None for `speed: off`.
        data: checksum of the dataset; None if it is not here yet, and nothing can have been timed with it.
        force: take all cycles again.
    """
    settings: dict[str, Cell] = {}
    for cell in sorted(cells, key=lambda cell: (cell.seed, cell.repeat)):
        settings.setdefault(cell.without_seed(), cell)
    left_out = {cell.label: "cells that share the machine are not" for cell in settings.values() if is_shared(cell)}
    settings = {key: cell for key, cell in settings.items() if not is_shared(cell)}
    if not planned:
        return CyclePlan(cells=[], cycles=0, planned=0, left_out=left_out, seconds=0.0)
    sessions = [] if data is None or force else [each for each in read_sessions(results)[0] if _counts(each, data)]
    for session in sessions:
        left_out |= {settings[key].label: why for key, why in _has_left(session).items() if key in settings}
    settings = {key: cell for key, cell in settings.items() if cell.label not in left_out}
    taken = {key: _cycles_of(key, sessions) for key in settings}
    pairs = list(combinations(settings, 2)) or [(key, key) for key in settings]
    least = min((len(taken[one] & taken[other]) for one, other in pairs), default=planned)
    cycles = max(0, planned - least)
    known = [block.wall_seconds for session in sessions for block in session.blocks.values() if block.wall_seconds]
    seconds = cycles * len(settings) * (median(known) if known else GUESSED_SECONDS)
    return CyclePlan(cells=list(settings.values()), cycles=cycles, planned=planned, left_out=left_out, seconds=seconds)


def _counts(session: TimedSession, data: str) -> bool:
    """Whether its blocks may stand beside those of a session that begins now."""
    about = session.about
    return (about.machine, about.build, about.protocol, about.data) == (machine_id(), torch_build(), PROTOCOL, data)


def _has_left(session: TimedSession) -> dict[str, str]:
    """Settings that were not timed any more in a session, and why; another session would find the same."""
    reasons = {}
    for key, setting in session.settings.items():
        errors = [block.error for (_, of), block in session.blocks.items() if of == key and block.error]
        if setting.equivalence is not None and setting.equivalence.startswith("failed"):
            reasons[key] = "settings whose gate failed are not"
        elif len(errors) >= TRIES:
            reasons[key] = f"its blocks failed ({errors[-1]})"
    return reasons


def _cycles_of(setting: str, sessions: Sequence[TimedSession]) -> set[tuple[str, int]]:
    return {
        (session.name, cycle)
        for session in sessions
        for (cycle, key), block in session.blocks.items()
        if key == setting and block.seconds is not None
    }
