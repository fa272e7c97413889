"""Entries of a grid's axes: a name and, per option that is given, the values it takes.

`{name: sgd, lr: [0.1, 0.01]}` is one entry that stands for two components.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mnistbench.axes.plugins import Plugins
from mnistbench.cell import Component
from mnistbench.errors import UserError
from mnistbench.errors.problems import Place, Problems, nearest, shown
from mnistbench.grid.declared import REQUIRED, Axis, Declaration, Declared, Misfit, declaration, found, function
from mnistbench.grid.yaml import Fields, Items, Node, Value

DEFAULT_NAMES: dict[Axis, str] = {"execution": "fast"}
MAX_COMPARED = 100_000
"""Larger axes are not looked through for duplicates: such a grid is refused for its size."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of an axis.

    Attributes:
        place: in the file.
        declaration: what its name takes.
        values: per option that is given, the alternatives.
        schedules: those nested in an optimizer; empty in an entry that says none.
    """

    place: Place
    declaration: Declaration
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    schedules: tuple[Entry, ...] = ()

    @property
    def name(self) -> str:
        """As the grid writes it."""
        return self.declaration.name

    @property
    def count(self) -> int:
        """How many components it stands for (optimizers: with their schedules), without making them."""
        return math.prod(map(len, self.values.values())) * (sum(item.count for item in self.schedules) or 1)

    def components(self) -> Iterator[Component]:
        """The components, without nested schedules; the last option varies fastest."""
        for choice in itertools.product(*self.values.values()):
            options = self.declaration.differing(dict(zip(self.values, choice, strict=True)))
            yield Component(name=self.name, options=options, sha256=self.declaration.sha256)

    def pairs(self) -> Iterator[tuple[Component, Component]]:
        """An optimizer's components, each with each of its schedules."""
        schedules = [item for schedule in self.schedules for item in schedule.components()]
        return itertools.product(self.components(), schedules or [Component(name="constant")])

    def accepts(self, component: Component) -> bool:
        """Whether the component has this name, and each option given here one of the values given."""
        if component.name != self.name:
            return False
        complete = self.declaration.complete(component.options)
        return all(complete.get(key) in values for key, values in self.values.items())

    def to_plain(self, key: str = "name") -> Any:
        """As YAML has it: the name alone, or a mapping with alternatives as lists."""
        options = {option: values[0] if len(values) == 1 else list(values) for option, values in self.values.items()}
        if self.schedules:
            nested = [schedule.to_plain() for schedule in self.schedules]
            options["schedule"] = nested[0] if len(nested) == 1 else nested
        return {key: self.name, **options} if options else self.name


@dataclass
class EntryReader:
    """Reads entries; what is wrong goes to `problems`, and the entry is left out."""

    plugins: Plugins
    problems: Problems

    def entries(self, node: Node, axis: Axis, *, pattern: bool = False) -> tuple[Entry, ...]:
        """The entries of a list, or of one entry that stands where a list could.

        Args:
            node: in the file.
            axis: whose names are looked up.
            pattern: the entries are to be compared with, not trained: nothing is required.
        """
        items = node.items if isinstance(node, Items) else [node]
        read = [entry for item in items for entry in self.entry(item, axis, pattern=pattern)]
        if not pattern:
            self._refuse_twice(read)
        return tuple(read)

    def entry(self, node: Node, axis: Axis, *, pattern: bool = False) -> list[Entry]:
        """One entry; several if its name is a list of names; none if it is wrong."""
        key = "profile" if axis == "execution" else "name"
        if isinstance(node, Value):
            return self._named(node, Fields(node.place, {}, {}), axis, pattern)
        if isinstance(node, Items):
            self.problems.add(node.place, f"one {axis} must be a name or a mapping, found {found(node)}")
            return []
        name = node.fields.get(key)
        if name is None and axis in DEFAULT_NAMES:
            name = Value(node.place, DEFAULT_NAMES[axis], DEFAULT_NAMES[axis])
        if name is None:
            self.problems.add(node.place, f"this {axis} has no `{key}`: write {{{key}: …}}")
            return []
        options = Fields(node.place, {k: v for k, v in node.fields.items() if k != key}, node.key_places)
        names = name.items if isinstance(name, Items) else [name]
        if not names:
            self.problems.add(name.place, f"`{key}` must be a name, found an empty list")
        return [entry for item in names for entry in self._named(item, options, axis, pattern)]

    def options(self, node: Fields, declared: Declaration, *, pattern: bool = False) -> Entry | None:
        """The options of a mapping against what is declared; a list for a scalar option gives alternatives."""
        values: dict[str, Sequence[Any]] = {}
        whole = True
        for key, item in node.fields.items():
            option = declared.options.get(key)
            if option is None:
                known = list(declared.options)
                end = nearest(key, known) if known else "; it takes none"
                self.problems.add(node.key_places[key], f"unknown option `{shown(key)}` of `{declared.name}`{end}")
                whole = False
            elif alternatives := self._alternatives(item, option):
                values[key] = alternatives
            else:
                whole = False
        missing = [key for key, option in declared.options.items() if option.default is REQUIRED]
        for key in [] if pattern else missing:
            if key not in node.fields:
                expected = declared.options[key].expected
                self.problems.add(node.place, f"`{declared.name}` needs `{key}`: {expected}")
                whole = False
        return Entry(node.place, declared, values) if whole else None

    def value(self, node: Node, option: Declared) -> Any:
        """One value, or None after noting what is wrong."""
        try:
            return option.read(node)
        except Misfit as misfit:
            self.problems.add(misfit.place, misfit.message)
        except UserError as error:
            self.problems.add(node.place, str(error))
        return None

    def _named(self, name: Node, options: Fields, axis: Axis, pattern: bool) -> list[Entry]:
        if not isinstance(name, Value) or not isinstance(name.plain, str):
            self.problems.add(name.place, f"the name of the {axis} must be text, found {found(name)}")
            return []
        try:
            declared = declaration(axis, name.plain, self.plugins)
        except UserError as error:
            self.problems.add(name.place, str(error))
            return []
        schedules: tuple[Entry, ...] = ()
        if axis == "optimizer" and "schedule" in options.fields:
            nested = options.fields["schedule"]
            schedules = self.entries(nested, "schedule", pattern=pattern)
            if isinstance(nested, Items) and not nested.items:
                self.problems.add(nested.place, "`schedule` is an empty list")
            fields = {key: node for key, node in options.fields.items() if key != "schedule"}
            options = Fields(options.place, fields, options.key_places)
        entry = self.options(Fields(name.place, options.fields, options.key_places), declared, pattern=pattern)
        if entry is None:
            return []
        if axis in ("optimizer", "schedule") and not pattern:
            self._try_options(entry, axis)
        return [Entry(name.place, declared, entry.values, schedules)]

    def _alternatives(self, node: Node, option: Declared) -> list[Any]:
        """The values of an option: several where a list is deeper than the option's type."""
        if not isinstance(node, Items) or not _is_axis(node, option.list_depth):
            before = len(self.problems)
            value = self.value(node, option)
            return [value] if len(self.problems) == before else []
        if not node.items:
            self.problems.add(node.place, f"`{option.name}` is an empty list")
            return []
        values: list[Any] = []
        for item in node.items:
            before = len(self.problems)
            value = self.value(item, option)
            if len(self.problems) > before:
                continue
            if any(type(value) is type(other) and value == other for other in values):
                self.problems.add(item.place, f"{found(item)} is here twice in `{option.name}`; keep one")
                continue
            values.append(value)
        return values if len(values) == len(node.items) else []

    def _refuse_twice(self, entries: Sequence[Entry]) -> None:
        if sum(entry.count for entry in entries) > MAX_COMPARED:
            return
        seen: dict[tuple[Component, Component], Place] = {}
        for entry in entries:
            for key in entry.pairs():
                first = seen.setdefault(key, entry.place)
                if first is not entry.place:
                    line = f" (first in line {first.line})" if first.line else ""
                    self.problems.add(entry.place, f"`{key[0].label}` is here twice{line}; keep one")
                    break

    def _try_options(self, entry: Entry, axis: Axis) -> None:
        """Options that contradict each other are refused by their dataclass, which costs nothing to make."""
        if ":" in entry.name:
            return
        for component in itertools.islice(entry.components(), 1000):
            try:
                function(axis, entry.name)(**component.options)
            except UserError as error:
                self.problems.add(entry.place, f"`{component.label}`: {error}")
                return


def _is_axis(node: Items, list_depth: int) -> bool:
    """Whether a list holds alternatives: always for a scalar option, else if it holds only lists, deep enough."""
    if list_depth == 0:
        return True
    return bool(node.items) and all(isinstance(item, Items) and _is_axis(item, list_depth - 1) for item in node.items)
