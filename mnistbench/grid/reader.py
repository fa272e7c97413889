"""Turns a grid file into a `Grid`, or into the list of all that is wrong with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mnistbench.axes.options import NonNegativeInt
from mnistbench.axes.plugins import Plugins
from mnistbench.cell import Component
from mnistbench.errors import UserError
from mnistbench.errors.problems import Place, Problems, shown
from mnistbench.grid.axes import Axes, BatchSize
from mnistbench.grid.axes_reader import AxesReader
from mnistbench.grid.checks import check_known_sizes, check_together
from mnistbench.grid.declared import Axis, Declared, found
from mnistbench.grid.entries import Entry, EntryReader
from mnistbench.grid.grid import Grid, too_large
from mnistbench.grid.overrides import overridden, read_setting
from mnistbench.grid.tune_reader import read_tuning, with_validation
from mnistbench.grid.yaml import Fields, Items, Node, Value, read_document

REQUIRED = ("name", "dataset", "architectures", "optimizers", "batch_sizes", "training")
OPTIONAL = ("devices", "on_missing_device", "seeds", "twins", "execution", "exclude", "include", "tune")
LONGEST_NAME = 200
"""Bytes; file systems stop at 255, and results carry endings."""


def read_grid(text: str, source: str, *, overrides: Sequence[str], plugins: Plugins, max_cells: int) -> Grid:
    """Read a grid from YAML; arguments, result and errors as `Grid.load`."""
    document = read_document(text, source)
    if not isinstance(document, Fields):
        raise UserError(f"{document.place}: a grid is a mapping that begins with `name: …`, found {found(document)}")
    reader = _GridReader(overridden(document, overrides), source, plugins)
    return reader.read(max_cells, may_exclude_nothing=bool(overrides))


def read_component(axis: Axis, name: str, settings: Sequence[str], plugins: Plugins) -> Component:
    """Read one component from the command line; arguments, result and errors as `grid.component_from_text`."""
    pairs = dict(map(read_setting, settings))
    key = "profile" if axis == "execution" else "name"
    place = Place(axis)
    places = {option: node.place for option, node in pairs.items()}
    node = Fields(place, {**pairs, key: Value(place, name, name)}, places)
    problems = Problems()
    entries = EntryReader(plugins, problems).entries(node, axis)
    problems.raise_if_any()
    components = [component for entry in entries for component in entry.components()]
    if len(components) != 1:
        raise UserError(f"{axis} {shown(name)}: one value for each option, not a list of them")
    return components[0]


class _GridReader:
    def __init__(self, document: Fields, source: str, plugins: Plugins) -> None:
        self.document = document
        self.source = source
        self.problems = Problems()
        self.reader = AxesReader(plugins, self.problems)

    def read(self, max_cells: int, may_exclude_nothing: bool) -> Grid:
        self.reader.known_keys(self.document, (*REQUIRED, *OPTIONAL), REQUIRED, "a grid")
        dataset, fallback = self._dataset()
        axes = Axes(
            architectures=self._entries("architectures", "architecture"),
            optimizers=self._entries("optimizers", "optimizer"),
            batch_sizes=self.reader.batch_sizes(self.document.fields.get("batch_sizes")),
            trainings=self.reader.trainings(self.document.fields.get("training")),
            executions=self._entries("execution", "execution") or self.reader.entries(_word("fast"), "execution"),
            devices=self.reader.devices(self.document.fields.get("devices")),
            seeds=self.reader.seeds(self.document.fields.get("seeds")),
        )
        exclude = [pattern for node in self._list("exclude") for pattern in self.reader.pattern(node)]
        include = [more for node in self._list("include") for more in self.reader.included(node, axes)]
        name = self._one("name", Declared("name", str)) or ""
        self._check_name(name)
        twins = self._one("twins", Declared("twins", NonNegativeInt, 1))
        missing = self._one("on_missing_device", Declared("on_missing_device", Literal["error", "skip"], "error"))
        tune = read_tuning(self.document.fields.get("tune"), axes, self.reader)
        if tune is not None:
            axes = replace(axes, trainings=with_validation(axes.trainings, tune))
        if dataset is None:
            self.problems.raise_if_any()
        assert dataset is not None  # a missing one is among the problems
        grid = Grid(
            name=name,
            dataset=dataset,
            fallback=fallback,
            axes=axes,
            exclude=tuple(exclude),
            include=tuple(include),
            twins=twins,
            on_missing_device=missing,
            tune=tune,
            max_cells=max_cells,
            source=self.source,
            batch_size_places=self._batch_size_places(),
        )
        check_known_sizes(grid, self.problems)
        self.problems.raise_if_any()
        if (count := grid.count() + grid.trial_count()) > max_cells:
            raise UserError(too_large(self.source, count, max_cells))
        check_together(grid, self.problems, may_exclude_nothing=may_exclude_nothing)
        self.problems.raise_if_any()
        return grid

    def _one(self, key: str, option: Declared) -> Any:
        node = self.document.fields.get(key)
        return self.reader.value(node, option) if node is not None else option.plain_default

    def _list(self, key: str, node: Node | None = None) -> Sequence[Node]:
        """The items of a list that may be left out or left empty."""
        node = node or self.document.fields.get(key)
        if node is None or (isinstance(node, Value) and node.plain is None):
            return []
        if isinstance(node, Items):
            return node.items
        self.problems.add(node.place, f"`{key}` must be a list, found {found(node)}")
        return []

    def _check_name(self, name: str) -> None:
        """A name becomes a folder and an experiment: no path, nothing invisible, the same on every system."""
        node = self.document.fields.get("name")
        if node is None or not isinstance(node, Value) or not isinstance(node.plain, str):
            return
        problem = None
        if len(name.encode()) > LONGEST_NAME:
            problem = f"takes {len(name.encode())} bytes, more than {LONGEST_NAME}"
        elif not re.fullmatch(r"\w(?:[\w .-]*[\w-])?", name):
            problem = "may hold letters, digits, `_`, `-`, and inside also dots and spaces"
        elif unicodedata.normalize("NFC", name) != name:
            problem = "is written with separate accents; write it in composed form (NFC)"
        elif name.partition(".")[0].upper() in _WINDOWS:
            problem = "is no folder name on Windows"
        if problem:
            self.problems.add(node.place, f"the name `{shown(name)}` {problem}: it becomes a folder")

    def _dataset(self) -> tuple[Component | None, Component | None]:
        node = self.document.fields.get("dataset")
        fallback = None
        if isinstance(node, Items):
            self.problems.add(node.place, "a grid has one dataset, found a list; write one grid for each")
            return None, None
        if isinstance(node, Fields) and "fallback" in node.fields:
            fallback = self._single(node.fields["fallback"])
            rest = {key: item for key, item in node.fields.items() if key != "fallback"}
            node = Fields(node.place, rest, node.key_places)
        dataset = self._single(node) if node is not None else None
        if fallback is not None and fallback == dataset:
            self.problems.add(self.document.fields["dataset"].place, "the fallback is the dataset itself")
        return dataset, fallback

    def _single(self, node: Node) -> Component | None:
        if isinstance(node, Items):
            self.problems.add(node.place, "a dataset is a name or a mapping, found a list")
            return None
        entries = self.reader.entries(node, "dataset")
        if sum(entry.count for entry in entries) > 1:
            self.problems.add(node.place, "a grid has one dataset; its options are no axes")
        return next((component for entry in entries for component in entry.components()), None)

    def _entries(self, key: str, axis: Axis) -> tuple[Entry, ...]:
        node = self.document.fields.get(key)
        if node is None:
            return ()
        if axis == "execution" and not isinstance(node, Items):
            return self.reader.entries(node, axis)
        self.reader.filled(key, node, f"[{_EXAMPLES[axis]}]")
        return self.reader.entries(node, axis) if isinstance(node, Items) else ()

    def _batch_size_places(self) -> Mapping[BatchSize, Place]:
        """Where each size stands; the first place of one that stands in `include` too."""
        nodes = list(_items(self.document.fields.get("batch_sizes")))
        for entry in _items(self.document.fields.get("include")):
            nodes += _items(entry.fields.get("batch_size")) if isinstance(entry, Fields) else []
        return {node.plain: node.place for node in reversed(nodes) if isinstance(node, Value)}  # type: ignore[misc]


_EXAMPLES = {"architecture": "mlp", "optimizer": "sgd", "execution": "fast"}
_WINDOWS = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{number}" for kind in ("COM", "LPT") for number in range(1, 10))}


def _items(node: Node | None) -> Sequence[Node]:
    return () if node is None else node.items if isinstance(node, Items) else (node,)


def _word(text: str) -> Value:
    return Value(Place("default"), text, text)
