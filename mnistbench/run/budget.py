"""How long cells will take, from records of the same settings, and how many rounds fit into a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from mnistbench.cell import Cell
from mnistbench.results.index import Known

FIXED_SECONDS = 0.1
"""Of a cell beside its own wall time: starting its process, writing its record."""


def seconds_by_setting(index: Iterable[Known], machine_id: str | None = None) -> dict[str, float]:
    """Median wall time of each setting (`Cell.without_seed`), over its seeds and twins.

    Args:
        index: what is known of earlier records.
        machine_id: leave records of other machines out.
    """
    seen: dict[str, list[float]] = {}
    for known_cell in index:
        if known_cell.seconds is not None and known_cell.is_result and machine_id in (None, known_cell.machine_id):
            seen.setdefault(known_cell.setting, []).append(known_cell.seconds + FIXED_SECONDS)
    return {setting: median(seconds) for setting, seconds in seen.items()}


def estimate(cells: Sequence[Cell], known: Mapping[str, float]) -> float | None:
    """Seconds that the cells will take one after the other.

    A setting that never ran is taken to last as long as the known ones do on average.

    Returns:
        None if no setting among them ever ran.
    """
    seconds = [known[setting] for setting in (cell.without_seed() for cell in cells) if setting in known]
    return sum(seconds) / len(seconds) * len(cells) if seconds else None


def rounds_that_fit(rounds: Sequence[Sequence[Cell]], known: Mapping[str, float], budget_seconds: float) -> int | None:
    """How many rounds will be run: each that begins before the budget is used up is run to its end.

    Returns:
        None if nothing is known of how long they take.
    """
    spent = 0.0
    for number, cells in enumerate(rounds):
        if spent >= budget_seconds:
            return number
        seconds = estimate(cells, known)
        if seconds is None:
            return None
        spent += seconds
    return len(rounds)
