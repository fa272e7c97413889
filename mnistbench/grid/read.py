"""Turns a grid file into a `GridFile`, or into the list of all that is wrong with it."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mnistbench.axes.devices import NAME, nearest_device
from mnistbench.axes.options import Accuracies, Accuracy, Cycles, NonNegativeInt, Positive, PositiveInt, Seed
from mnistbench.axes.plugins import Plugins
from mnistbench.cell import Component, SaveModel
from mnistbench.errors import UserError
from mnistbench.errors.problems import Place, Problems, nearest, shown
from mnistbench.grid.checks import check_known_sizes, check_together
from mnistbench.grid.options import (
    REQUIRED,
    TABLES,
    Axis,
    Declaration,
    Misfit,
    OptionSpec,
    declaration,
    options_of,
)
from mnistbench.grid.product import (
    AXES,
    DEFAULT_CYCLES,
    FIELDS,
    Axes,
    BatchSize,
    Devices,
    Entry,
    GridFile,
    Pattern,
    Tuning,
    too_large,
)
from mnistbench.grid.yaml import Fields, Items, Node, Value, in_words, overridden, read_document, read_setting

NEEDED = ("name", "dataset", "architectures", "optimizers", "batch_sizes", "training")
OPTIONAL = ("devices", "on_missing_device", "seeds", "twins", "execution", "exclude", "include", "tune", "speed")
LISTED = {
    "architectures": ("architecture", "[mlp]"),
    "optimizers": ("optimizer", "[sgd]"),
    "batch_sizes": ("batch_size", "[64, 512]"),
    "devices": ("device", "[cpu, cuda]"),
    "seeds": ("seed", "[0, 1, 2]"),
    "execution": ("execution", "[fast]"),
}
"""Keys of a grid that hold lists: what `exclude` and `include` call one of the values, and an example."""
DEFAULT_SEEDS = (0, 1, 2)
LONGEST_NAME = 200
"""Bytes; file systems stop at 255, and results carry endings."""
MAX_COMPARED = 100_000
"""Larger axes are not looked through for duplicates: such a grid is refused for its size."""
WINDOWS_DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{kind}{number}" for kind in ("COM", "LPT") for number in range(1, 10)),
}


def _training(
    *,
    epochs: PositiveInt,
    loss: Any = "cross_entropy",
    shuffle: bool = True,
    validation_examples: NonNegativeInt = 0,
    target_accuracy: Accuracy | Accuracies | None = None,
    stop_at_target: bool = False,
    save_model: SaveModel | None = None,
) -> None:
    """Declares the options of `training:` with their limits; `cell.Training` holds them."""


def _tune(
    *,
    learning_rates: list[Positive] | dict[str, list[Positive]],
    trials: PositiveInt | None = None,
    seeds: list[Seed] = [1000],  # noqa: B006 (a declaration; it is never called)
    validation_examples: PositiveInt = 10_000,
    seed: NonNegativeInt = 0,
) -> None:
    """Declares the options of `tune:`; `Tuning` holds them."""


def _speed(*, cycles: Cycles = DEFAULT_CYCLES) -> None:
    """Declares the options of `speed:`."""


TRAINING = Declaration("training", options_of(_training))
TUNE = Declaration("tune", options_of(_tune))
SPEED = Declaration("speed", options_of(_speed))
SCALARS = {"batch_size": OptionSpec("batch_size", PositiveInt | Literal["full"]), "seed": OptionSpec("seed", Seed)}


def read_grid(text: str, source: str, *, overrides: Sequence[str], plugins: Plugins, max_cells: int) -> GridFile:
    """Read a grid from YAML; arguments, result and errors as `Grid.from_text`."""
    document = read_document(text, source)
    if not isinstance(document, Fields):
        raise UserError(f"{document.place}: a grid is a mapping that begins with `name: …`, found {in_words(document)}")
    problems = Problems()
    grid = _Reader(plugins, problems).grid(overridden(document, overrides), source, max_cells)
    problems.raise_if_any()
    assert grid is not None  # what is missing is among the problems
    if (count := grid.count() + grid.trial_count()) > max_cells:
        raise UserError(too_large(source, count, max_cells))
    check_together(grid, problems, may_exclude_nothing=bool(overrides))
    problems.raise_if_any()
    return grid


def component_from_text(
    axis: Axis, name: str, settings: Sequence[str] = (), plugins: Plugins | None = None
) -> Component:
    """One component as the command line names it.

    Args:
        axis: whose names are looked up.
        name: `lenet5`, or `module:Name`.
        settings: its options: `activation=tanh`, `hidden=[128, 64]`.
        plugins: the modules whose names may be used.

    Raises:
        UserError: if the name or an option is unknown, or a value does not fit.
    """
    pairs = dict(map(read_setting, settings))
    key = "profile" if axis == "execution" else "name"
    place = Place(axis)
    places = {option: node.place for option, node in pairs.items()}
    node = Fields(place, {**pairs, key: Value(place, name, name)}, places)
    problems = Problems()
    entries = _Reader(plugins or Plugins(), problems).entries(node, axis)
    problems.raise_if_any()
    components = [component for entry in entries for component in entry.components()]
    if len(components) != 1:
        raise UserError(f"{axis} {shown(name)}: one value for each option, not a list of them")
    return components[0]


@dataclass(frozen=True)
class _Reader:
    """Reads parts of a grid file; what is wrong goes to `problems`, and the part is left out."""

    plugins: Plugins
    problems: Problems

    def grid(self, document: Fields, source: str, max_cells: int) -> GridFile | None:
        """The whole; None without a dataset."""
        self.known_keys(document, (*NEEDED, *OPTIONAL), NEEDED, "a grid")
        nodes = document.fields
        dataset, fallback = self.dataset(nodes.get("dataset"))
        execution = nodes.get("execution", Value(Place("default"), "fast", "fast"))
        axes = Axes(
            architectures=self.listed("architectures", nodes),
            optimizers=self.listed("optimizers", nodes),
            batch_sizes=self.listed("batch_sizes", nodes),
            trainings=self.training(nodes["training"]) if "training" in nodes else (),
            executions=self.listed("execution", {"execution": execution}),
            devices=self.devices(nodes),
            seeds=self.listed("seeds", nodes) if "seeds" in nodes else DEFAULT_SEEDS,
        )
        exclude = [pattern for node in self.items("exclude", nodes) for pattern in self.pattern(node)]
        include = [more for node in self.items("include", nodes) for more in self.included(node, axes)]
        tune = self.tune(nodes["tune"], [axes, *include]) if "tune" in nodes else None
        if tune is not None:
            axes, *include = [_holding_out(each, tune.validation_examples) for each in (axes, *include)]
        name = self.name(nodes.get("name"))
        twins = self.one("twins", NonNegativeInt, 0, nodes)
        on_missing_device = self.one("on_missing_device", Literal["error", "skip"], "error", nodes)
        speed = self.speed(nodes.get("speed"))
        if dataset is None:
            return None
        grid = GridFile(
            name=name,
            dataset=dataset,
            fallback=fallback,
            axes=axes,
            exclude=tuple(exclude),
            include=tuple(include),
            twins=twins,
            on_missing_device=on_missing_device,
            tune=tune,
            speed=speed,
            max_cells=max_cells,
            source=source,
            batch_size_places=_batch_size_places(nodes),
        )
        check_known_sizes(grid, self.problems)
        return grid

    def known_keys(self, node: Fields, known: Sequence[str], needed: Sequence[str], what: str) -> None:
        """Note keys that are unknown, and those of `what` that are missing."""
        for key in node.fields:
            if key not in known:
                self.say(node.key_places[key], f"unknown key `{shown(key)}`{nearest(key, known)}")
        for key in needed:
            if key not in node.fields:
                self.say(node, f"{what} needs `{key}:`")

    def say(self, where: Node | Entry | Misfit | Place, message: str) -> None:
        """Note what is wrong at a node or a place."""
        self.problems.add(where if isinstance(where, Place) else where.place, message)

    # Values

    def value(self, node: Node, option: OptionSpec) -> Any:
        """One value, or None after noting what is wrong."""
        try:
            return option.read(node)
        except Misfit as misfit:
            self.say(misfit, misfit.message)
        except UserError as error:
            self.say(node, str(error))
        return None

    def one(self, key: str, annotation: Any, default: Any, nodes: dict[str, Node]) -> Any:
        """The value of a key of the grid."""
        return self.value(nodes[key], OptionSpec(key, annotation)) if key in nodes else default

    def unique(self, nodes: Sequence[Node], option: OptionSpec) -> tuple[Any, ...]:
        """The values of a list, each once."""
        values: dict[str, Any] = {}
        places: dict[str, Place] = {}
        for node in nodes:
            before = len(self.problems)
            value = self.value(node, option)
            key = json.dumps(value)
            if len(self.problems) > before:
                continue
            if key in values:
                first = f" (first in line {places[key].line})" if places[key].line else ""
                self.say(node, f"{in_words(node)} is in `{option.name}` twice{first}; keep one")
            values.setdefault(key, value)
            places.setdefault(key, node.place)
        return tuple(values.values())

    def alternatives(self, node: Node, option: OptionSpec) -> Sequence[Any]:
        """The values of an option: several where a list is deeper than the option's type."""
        if not isinstance(node, Items) or not _is_axis(node, option.list_depth):
            return [self.value(node, option)]
        if not node.items:
            self.say(node, f"`{option.name}` is an empty list")
        return self.unique(node.items, option)

    def known_options(
        self, node: Fields, declared: Declaration, *, needed: bool = True
    ) -> list[tuple[OptionSpec, Node]]:
        """The options that a mapping gives; unknown and missing ones are noted."""
        for key in node.fields:
            if key not in declared.options:
                end = nearest(key, list(declared.options)) or "; it takes none"
                self.say(node.key_places[key], f"unknown option `{shown(key)}` of `{declared.name}`{end}")
        for key, option in declared.options.items():
            if needed and option.default is REQUIRED and key not in node.fields:
                self.say(node, f"`{declared.name}` needs `{key}`: {option.expected}")
        return [(declared.options[key], value) for key, value in node.fields.items() if key in declared.options]

    def options(self, node: Fields, declared: Declaration, *, pattern: bool = False) -> Entry | None:
        """The options of a mapping; a list for a scalar option gives alternatives. None if something is wrong."""
        before = len(self.problems)
        pairs = self.known_options(node, declared, needed=not pattern)
        values = {option.name: self.alternatives(item, option) for option, item in pairs}
        return Entry(node.place, declared, values) if len(self.problems) == before else None

    def single_options(self, node: Node, declared: Declaration, example: str) -> dict[str, Any] | None:
        """One value for each option, the default where none is given. None if something is wrong."""
        if not isinstance(node, Fields):
            self.say(node, f"`{declared.name}` must be {example}, found {in_words(node)}")
            return None
        before = len(self.problems)
        values = {option.name: self.value(item, option) for option, item in self.known_options(node, declared)}
        return declared.complete(values) if len(self.problems) == before else None

    # Entries of axes

    def entries(self, node: Node, axis: Axis, *, pattern: bool = False) -> tuple[Entry, ...]:
        """The entries of a list, or of one entry that stands where a list could.

        Args:
            node: in the file.
            axis: whose names are looked up.
            pattern: the entries are to be compared with, not trained: nothing is required.
        """
        items = node.items if isinstance(node, Items) else [node]
        entries = [entry for item in items for entry in self.entry(item, axis, pattern)]
        if not pattern:
            self.refuse_twice(entries)
        return tuple(entries)

    def entry(self, node: Node, axis: Axis, pattern: bool) -> list[Entry]:
        """One entry; several if its name is a list of names; none if it is wrong."""
        key = "profile" if axis == "execution" else "name"
        if isinstance(node, Value):
            return self.named(node, Fields(node.place, {}, {}), axis, pattern)
        if isinstance(node, Items):
            self.say(node, f"one {axis} must be a name or a mapping, found {in_words(node)}")
            return []
        name = node.fields.get(key)
        if name is None and axis == "execution":
            name = Value(node.place, "fast", "fast")
        if name is None:
            self.say(node, f"this {axis} has no `{key}`: write {{{key}: …}}")
            return []
        names = name.items if isinstance(name, Items) else [name]
        if not names:
            self.say(name, f"`{key}` must be a name, found an empty list")
        return [entry for item in names for entry in self.named(item, _without(node, key), axis, pattern)]

    def named(self, name: Node, options: Fields, axis: Axis, pattern: bool) -> list[Entry]:
        """The entry of this name with these options; none if it is wrong."""
        if not isinstance(name, Value) or not isinstance(name.plain, str):
            self.say(name, f"the name of the {axis} must be text, found {in_words(name)}")
            return []
        try:
            declared = declaration(axis, name.plain, self.plugins).with_any(options.fields)
        except UserError as error:
            self.say(name, str(error))
            return []
        schedules: tuple[Entry, ...] = ()
        if axis == "optimizer":
            schedules, options = self.nested("schedule", options, pattern)
        entry = self.options(Fields(name.place, options.fields, options.key_places), declared, pattern=pattern)
        if entry is None:
            return []
        if axis in ("optimizer", "schedule") and ":" not in entry.name and not pattern:
            self.refuse_contradiction(entry, axis)
        return [replace(entry, schedules=schedules)]

    def nested(self, axis: Axis, node: Fields, pattern: bool) -> tuple[tuple[Entry, ...], Fields]:
        """The entries of an axis that stands among the options of another's entry, and the other options."""
        inner = node.fields.get(axis)
        if inner is None:
            return (), node
        if isinstance(inner, Items) and not inner.items:
            self.say(inner, f"`{axis}` is an empty list")
        return self.entries(inner, axis, pattern=pattern), _without(node, axis)

    def refuse_twice(self, entries: Sequence[Entry]) -> None:
        """Note components that two entries stand for."""
        if sum(entry.count for entry in entries) > MAX_COMPARED:
            return
        seen: dict[tuple[Component, Component], Place] = {}
        for entry in entries:
            for key in entry.pairs():
                first = seen.setdefault(key, entry.place)
                if first is not entry.place:
                    line = f" (first in line {first.line})" if first.line else ""
                    self.say(entry, f"`{key[0].label}` is here twice{line}; keep one")
                    break

    def refuse_contradiction(self, entry: Entry, axis: Axis) -> None:
        """Options that contradict each other are refused by their dataclass, which costs nothing to make."""
        for component in itertools.islice(entry.components(), 1000):
            try:
                TABLES[axis][entry.name](**component.options)
            except UserError as error:
                self.say(entry, f"`{component.label}`: {error}")
                return

    # Keys of a grid

    def items(self, key: str, nodes: dict[str, Node]) -> Sequence[Node]:
        """The items of a list that may be left out or left empty."""
        node = nodes.get(key)
        if node is None or (isinstance(node, Value) and node.plain is None):
            return []
        if isinstance(node, Items):
            return node.items
        self.say(node, f"`{key}` must be a list, found {in_words(node)}")
        return []

    def listed(self, key: str, nodes: dict[str, Node]) -> tuple[Any, ...]:
        """The values of a list that must hold something; one of `execution` may stand alone."""
        node = nodes.get(key)
        axis, example = LISTED[key]
        if isinstance(node, Items) and node.items:
            return self.values(axis, node)
        if axis == "execution" and node is not None and not isinstance(node, Items):
            return self.entries(node, "execution")
        if node is not None:
            self.say(node, f"`{key}` must be a list such as `{example}`, found {in_words(node)}")
        return ()

    def values(self, axis: str, node: Node, *, pattern: bool = False) -> tuple[Any, ...]:
        """The values of one axis, a list of them or one that stands alone."""
        nodes = node.items if isinstance(node, Items) else [node]
        if axis in TABLES:
            return self.entries(node, axis, pattern=pattern)
        if axis == "training":
            return self.training(node, pattern=pattern)
        return self.device_names(nodes) if axis == "device" else self.unique(nodes, SCALARS[axis])

    def training(self, node: Node, *, pattern: bool = False) -> tuple[Entry, ...]:
        """`training:`, at most one entry; a pattern need not say the epochs."""
        if not isinstance(node, Fields):
            self.say(node, f"`training` must be a mapping such as `{{epochs: 2}}`, found {in_words(node)}")
            return ()
        losses, others = self.nested("loss", node, pattern)
        entry = self.options(others, TRAINING, pattern=pattern)
        if entry is None or (not losses and others is not node):
            return ()
        if losses:
            plain = [loss.shortest_json() for one in losses for loss in one.components()]
            entry = replace(entry, values={**entry.values, "loss": plain})
        if True in entry.values.get("stop_at_target", ()) and None in entry.values.get("target_accuracy", (None,)):
            self.say(node.key_places["stop_at_target"], "`stop_at_target` needs a `target_accuracy` to stop at")
        if len(entry.values.get("target_accuracy", ())) > 1:
            self.problems.add(
                node.key_places["target_accuracy"],
                "several targets are questions about one training, not an axis: write a plain list such as [0.9, 0.97]",
            )
        return (entry,)

    def devices(self, nodes: dict[str, Node]) -> Devices:
        """`devices:`: auto, or names."""
        node = nodes.get("devices")
        if node is None or (isinstance(node, Value) and node.plain == "auto"):
            return "auto"
        return self.listed("devices", nodes)

    def device_names(self, nodes: Sequence[Node]) -> tuple[str, ...]:
        """Names of devices, the first of a kind without its number."""
        named: list[Node] = []
        for node in nodes:
            text = node.plain if isinstance(node, Value) else None
            if not isinstance(text, str) or not NAME.fullmatch(text):
                end = nearest_device(text) if isinstance(text, str) else ""
                self.say(node, f"a device must be cpu, cuda, cuda:1 or mps, found {in_words(node)}{end}")
            else:
                kind, _, number = text.partition(":")
                name = f"{kind}:{int(number)}" if number and int(number) else kind  # `cuda` is `cuda:0`
                named.append(Value(node.place, name, name))
        return self.unique(named, OptionSpec("devices", str))

    def pattern(self, node: Node) -> list[Pattern]:
        """An entry of `exclude`; none if it is wrong."""
        if not isinstance(node, Fields) or not node.fields:
            example = "{architecture: mlp, batch_size: 8192}"
            self.say(node, f"an entry of `exclude` must be a mapping such as `{example}`")
            return []
        values = self.axis_values(node, (*AXES, "schedule"), (), "an entry of `exclude`", pattern=True)
        return [] if values is None else [Pattern(place=node.place, **values)]

    def included(self, node: Node, axes: Axes) -> list[Axes]:
        """An entry of `include`: a product of its own, with the grid's values where it says none."""
        needed = ("architecture", "optimizer", "batch_size")
        if not isinstance(node, Fields):
            self.say(node, f"an entry of `include` must be a mapping with {', '.join(needed)}")
            return []
        values = self.axis_values(node, AXES, needed, "an entry of `include`")
        if values is None:
            return []
        return [replace(axes, **{FIELDS[axis]: given for axis, given in values.items()}, place=node.place)]

    def axis_values(
        self, node: Fields, known: Sequence[str], needed: Sequence[str], what: str, *, pattern: bool = False
    ) -> dict[str, Any] | None:
        """The values of the axes that a mapping names; None if something is wrong."""
        before = len(self.problems)
        self.known_keys(node, known, needed, what)
        values = {}
        for axis in [key for key in node.fields if key in known]:
            values[axis] = self.values(axis, node.fields[axis], pattern=pattern)
            if not values[axis] and len(self.problems) == before:
                self.say(node.fields[axis], f"`{axis}` is an empty list")
        return values if len(self.problems) == before else None

    def name(self, node: Node | None) -> str:
        """A name becomes a folder and an experiment: no path, nothing invisible, the same on every system."""
        name = "" if node is None else self.value(node, OptionSpec("name", str))
        if node is None or not isinstance(name, str):
            return ""
        checks = [
            (len(name.encode()) > LONGEST_NAME, f"takes {len(name.encode())} bytes, more than {LONGEST_NAME}"),
            (
                not re.fullmatch(r"\w(?:[\w .-]*[\w-])?", name),
                "may hold letters, digits, `_`, `-`, and inside also dots and spaces",
            ),
            (
                unicodedata.normalize("NFC", name) != name,
                "is written with separate accents; write it in composed form (NFC)",
            ),
            (name.partition(".")[0].upper() in WINDOWS_DEVICES, "is no folder name on Windows"),
        ]
        for failed, problem in checks:
            if failed:
                self.say(node, f"the name `{shown(name)}` {problem}: it becomes a folder")
                break
        return name

    def dataset(self, node: Node | None) -> tuple[Component | None, Component | None]:
        """The dataset, and what takes its place where it cannot be had."""
        if isinstance(node, Items):
            self.say(node, "a grid has one dataset, found a list; write one grid for each")
        if node is None or isinstance(node, Items):
            return None, None
        fallback = None
        if isinstance(node, Fields) and "fallback" in node.fields:
            fallback = self.single_dataset(node.fields["fallback"])
            node = _without(node, "fallback")
        dataset = self.single_dataset(node)
        if fallback is not None and fallback == dataset:
            self.say(node, "the fallback is the dataset itself")
        return dataset, fallback

    def single_dataset(self, node: Node) -> Component | None:
        """One component; None if it is wrong."""
        if isinstance(node, Items):
            self.say(node, "a dataset is a name or a mapping, found a list")
            return None
        entries = self.entries(node, "dataset")
        if sum(entry.count for entry in entries) > 1:
            self.say(node, "a grid has one dataset; its options are no axes")
        return next((component for entry in entries for component in entry.components()), None)

    def speed(self, node: Node | None) -> int | None:
        """Cycles of speed blocks; None for `off`."""
        if node is None:
            return DEFAULT_CYCLES
        if isinstance(node, Value) and node.plain == "off":
            return None
        values = self.single_options(node, SPEED, f"off, or a mapping such as `{{cycles: {DEFAULT_CYCLES}}}`")
        return None if values is None else values["cycles"]

    def tune(self, node: Node, products: Sequence[Axes]) -> Tuning | None:
        """`tune:`; None after noting what is wrong.

        Args:
            node: what stands there.
            products: the grid's own, whose seeds must be fresh, and those that it includes. Their optimizers get the
                rates.
        """
        before = len(self.problems)
        values = self.single_options(node, TUNE, "a mapping such as `{learning_rates: [0.1, 0.01]}`")
        if values is None or not isinstance(node, Fields):
            return None
        rates = self.learning_rates(node.fields["learning_rates"], products)
        lengths = {name: len(tried) for name, tried in rates.items()}
        if values["trials"] is not None:
            for name, length in lengths.items():
                if 0 < length < values["trials"]:
                    message = f"`trials` is {values['trials']}, and `{name}` has {length} learning rates to try"
                    self.say(node.fields["trials"], message)
        elif len(set(lengths.values())) > 1:
            said = ", ".join(f"{name} {length}" for name, length in lengths.items())
            self.problems.add(
                node.fields["learning_rates"].place,
                f"each optimizer must get as many learning rates as the others ({said}); or say how many with `trials`",
            )
        seeds = node.fields.get("seeds", node)
        if not values["seeds"]:
            self.say(seeds, "`seeds` is an empty list")
        if used := sorted(set(values["seeds"]) & set(products[0].seeds)):
            self.say(seeds, f"seed {used[0]} is one of the grid's own; what the trials pick is measured on fresh seeds")
        for entry in [entry for axes in products for entry in axes.optimizers]:
            if "lr" in entry.values:
                self.say(entry, f"`{entry.name}` says an `lr`, and `tune` picks it; keep one of the two")
        for training in [training for axes in products for training in axes.trainings]:
            held_out = training.values.get("validation_examples", ())
            if held_out and list(held_out) != [values["validation_examples"]]:
                self.say(training, "`training.validation_examples` is not that of `tune`; leave it to `tune`")
        if len(self.problems) > before:
            return None
        values |= {"learning_rates": rates, "seeds": tuple(values["seeds"])}
        return Tuning(**values | {"trials": values["trials"] or min(lengths.values())})

    def learning_rates(self, node: Node, products: Sequence[Axes]) -> dict[str, tuple[float, ...]]:
        """The rates by optimizer; one list stands for all of them."""
        names = list(dict.fromkeys(entry.name for axes in products for entry in axes.optimizers))
        lists = dict.fromkeys(names, node)
        if isinstance(node, Fields):
            lists = node.fields
            for name in [name for name in lists if name not in names]:
                self.say(node.key_places[name], f"`{shown(name)}` is no optimizer of this grid{nearest(name, names)}")
            for name in [name for name in names if name not in lists]:
                self.say(node, f"`learning_rates` has none for `{name}`: each optimizer gets its trials")
        rates = {}
        for name, item in lists.items():
            items = item.items if isinstance(item, Items) else []
            if not items:
                self.say(item, "`learning_rates` is an empty list")
            rates[name] = self.unique(items, OptionSpec("learning_rates", Positive))
        return rates


def _without(node: Fields, key: str) -> Fields:
    return Fields(node.place, {name: item for name, item in node.fields.items() if name != key}, node.key_places)


def _holding_out(axes: Axes, examples: int) -> Axes:
    """With validation data: trials and measured cells train on the same examples."""
    held_out = {"validation_examples": [examples]}
    trainings = [replace(entry, values={**entry.values, **held_out}) for entry in axes.trainings]
    return replace(axes, trainings=tuple(trainings))


def _is_axis(node: Items, list_depth: int) -> bool:
    """Whether a list holds alternatives: always for a scalar option, else if it holds only lists, deep enough."""
    if list_depth == 0:
        return True
    return bool(node.items) and all(isinstance(item, Items) and _is_axis(item, list_depth - 1) for item in node.items)


def _batch_size_places(nodes: dict[str, Node]) -> dict[BatchSize, Place]:
    """Where each size stands; the first place of one that stands in `include` too."""
    include = nodes.get("include")
    entries = include.items if isinstance(include, Items) else []
    holders = [
        nodes.get("batch_sizes"),
        *(item.fields.get("batch_size") for item in entries if isinstance(item, Fields)),
    ]
    sizes = [size for node in holders for size in (node.items if isinstance(node, Items) else [node])]
    return {node.plain: node.place for node in reversed(sizes) if isinstance(node, Value)}  # type: ignore[misc]
