"""The libraries beyond the core, and what can be done without them: training and recording needs none of them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from mnistbench.errors import UserError

Layer = Literal["report", "tracking"]
LAYERS: dict[Layer, tuple[str, ...]] = {
    "report": ("pandas", "scipy", "seaborn", "jinja2", "itables"),
    "tracking": ("mlflow",),
}
"""Names to import, which are the packages' names too. `requirements/` has the same layers, with versions."""


def missing(layer: Layer) -> list[str]:
    """The libraries of a layer that are not installed here; nothing is loaded to find out."""
    return [name for name in LAYERS[layer] if not _is_here(name)]


def require(layer: Layer, command: str) -> None:
    """Stop a command that needs a layer.

    Raises:
        UserError: with what is missing.
    """
    if names := missing(layer):
        raise UserError(
            f"`{command}` needs {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not installed here:"
            f" `pip install {' '.join(names)}`, or do it where all is installed"
        )


def left_out(layers: tuple[Layer, ...], folder: object) -> str | None:
    """One line for what a run leaves out here, and how it is done elsewhere; None if nothing is missing.

    Args:
        layers: that the run would use.
        folder: its results folder.
    """
    absent = [layer for layer in layers if missing(layer)]
    if not absent:
        return None
    names = ", ".join(name for layer in absent for name in missing(layer))
    outputs = {"report": "the report", "tracking": "MLflow"}
    commands = {"report": f"`report {folder}`", "tracking": f"`sync {folder}`"}
    return (
        f"left out: {' and '.join(outputs[layer] for layer in absent)} (not installed here: {names});"
        f" {' and '.join(commands[layer] for layer in absent)} where all is installed"
    )


def _is_here(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
