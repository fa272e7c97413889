"""mnistbench: what training costs here, and what it reaches.

The same pieces as the command line, for notebooks and scripts; each is imported when it is first used:

    from mnistbench import Grid, ResultsFolder, load_model, report, results_frame, run_grid

`report` is the room that makes pages: `report.render(["results/quick"], Path("report.html"))`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnistbench import report
    from mnistbench.analysis import results_frame
    from mnistbench.grid import Grid
    from mnistbench.models import load_model
    from mnistbench.results import ResultsFolder
    from mnistbench.runner import run_grid

__version__ = "0.1.0"
__all__ = ["Grid", "ResultsFolder", "__version__", "load_model", "report", "results_frame", "run_grid"]

_ROOMS = {
    "Grid": "mnistbench.grid",
    "ResultsFolder": "mnistbench.results",
    "load_model": "mnistbench.models",
    "results_frame": "mnistbench.analysis",
    "run_grid": "mnistbench.runner",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "report":
        return import_module("mnistbench.report")
    if name not in _ROOMS:
        raise AttributeError(f"module 'mnistbench' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), "report", *_ROOMS])
