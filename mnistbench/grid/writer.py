"""Writes a grid back as YAML: what the results folder keeps as the grid that was run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from mnistbench.cell import Component
from mnistbench.grid.product import Axes, Entry, GridFile, Pattern


def grid_to_yaml(grid: GridFile) -> str:
    """The grid as resolved: overrides applied and every default written out, without comments."""
    from ruamel.yaml import YAML

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = None
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 120
    writer.allow_unicode = True
    stream = io.StringIO()
    writer.dump(_plain(grid), stream)
    return stream.getvalue()


def _plain(grid: GridFile) -> dict[str, Any]:
    dataset = _options(grid.dataset)
    if grid.fallback is not None:
        dataset["fallback"] = _options(grid.fallback)
    axes = grid.axes
    document: dict[str, Any] = {
        "name": grid.name,
        "dataset": dataset,
        "architectures": _entries(axes.architectures),
        "optimizers": _entries(axes.optimizers),
        "batch_sizes": list(axes.batch_sizes),
        "devices": _devices(axes),
        "on_missing_device": grid.on_missing_device,
        "seeds": list(axes.seeds),
        "twins": grid.twins,
        "training": _training(axes),
        "execution": _entries(axes.executions, "profile"),
        "speed": "off" if grid.speed is None else {"cycles": grid.speed},
        "exclude": [_pattern(pattern) for pattern in grid.exclude],
        "include": [_included(more) for more in grid.include],
    }
    if grid.tune is not None:
        tune = grid.tune
        document["tune"] = {
            "learning_rates": {name: list(rates) for name, rates in tune.learning_rates.items()},
            "trials": tune.trials,
            "seeds": list(tune.seeds),
            "validation_examples": tune.validation_examples,
            "seed": tune.seed,
        }
    return document


def _options(component: Component) -> dict[str, Any]:
    return {key: value for key, value in component.to_json().items() if key != "sha256"}


def _entries(entries: Sequence[Entry], key: str = "name") -> list[Any]:
    return [entry.to_plain(key) for entry in entries]


def _devices(axes: Axes) -> Any:
    return "auto" if axes.devices == "auto" else list(axes.devices)


def _training(axes: Axes) -> Any:
    values = axes.trainings[0].values
    return {key: held[0] if len(held) == 1 else list(held) for key, held in values.items()}


def _pattern(pattern: Pattern) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key in ("architecture", "optimizer", "schedule", "execution"):
        if (entries := getattr(pattern, key)) is not None:
            plain[key] = _entries(entries, "profile" if key == "execution" else "name")
    if pattern.training is not None:
        plain["training"] = {key: list(held) for key, held in pattern.training[0].values.items()}
    for key in ("batch_size", "device", "seed"):
        if (values := getattr(pattern, key)) is not None:
            plain[key] = list(values)
    return plain


def _included(axes: Axes) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "architecture": _entries(axes.architectures),
        "optimizer": _entries(axes.optimizers),
        "batch_size": list(axes.batch_sizes),
        "training": _training(axes),
        "execution": _entries(axes.executions, "profile"),
        "seed": list(axes.seeds),
    }
    return plain if axes.devices == "auto" else {**plain, "device": list(axes.devices)}
