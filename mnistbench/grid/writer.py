"""Writes a grid back as YAML: what the results folder keeps as the grid that was run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mnistbench.cell import Component
from mnistbench.grid.product import FIELDS, Axes, Entry, GridFile, Pattern


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
    axes = {axis: _values(axis, getattr(grid.axes, field)) for axis, field in FIELDS.items()}
    document: dict[str, Any] = {
        "name": grid.name,
        "dataset": dataset,
        "architectures": axes["architecture"],
        "optimizers": axes["optimizer"],
        "batch_sizes": axes["batch_size"],
        "devices": axes["device"],
        "on_missing_device": grid.on_missing_device,
        "seeds": axes["seed"],
        "twins": grid.twins,
        "training": axes["training"],
        "execution": axes["execution"],
        "speed": "off" if grid.speed is None else {"cycles": grid.speed},
        "exclude": [_named(pattern, {axis: axis for axis in (*FIELDS, "schedule")}) for pattern in grid.exclude],
        "include": [_named(more, FIELDS) for more in grid.include],
    }
    if grid.tune is not None:
        rates = {name: list(rates) for name, rates in grid.tune.learning_rates.items()}
        document["tune"] = {**asdict(grid.tune), "learning_rates": rates, "seeds": list(grid.tune.seeds)}
    return document


def _options(component: Component) -> dict[str, Any]:
    return {key: value for key, value in component.to_json().items() if key != "sha256"}


def _without_checksum(value: Any) -> Any:
    """Of the losses that a training may have, as `_options` of a dataset."""
    if isinstance(value, list):
        return [_without_checksum(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_checksum(item) for key, item in value.items() if key != "sha256"}


def _named(values: Axes | Pattern, fields: Mapping[str, str]) -> dict[str, Any]:
    """An entry of `include` or `exclude`: what it says of each axis, and nothing where it says nothing of its own."""
    held = {axis: getattr(values, field) for axis, field in fields.items()}
    return {axis: _values(axis, given) for axis, given in held.items() if given not in (None, "auto")}


def _values(axis: str, values: Any) -> Any:
    """The values of an axis as YAML has them."""
    if values == "auto":
        return values
    if axis == "training":
        return _without_checksum(values[0].options_to_plain())
    key = "profile" if axis == "execution" else "name"
    return [value.to_plain(key) if isinstance(value, Entry) else value for value in values]
