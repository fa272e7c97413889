"""Reads the axes of a grid, and the entries of `exclude` and `include`, which are made of the same parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

from mnistbench.axes.devices import KINDS
from mnistbench.axes.options import Accuracies, Accuracy, NonNegativeInt, PositiveInt, Seed
from mnistbench.cell import Loss, SaveModel
from mnistbench.errors.problems import Place, did_you_mean, nearest, shown
from mnistbench.grid.axes import Axes, BatchSize, Devices, Pattern
from mnistbench.grid.declared import Axis, Declaration, Declared, found, options_of
from mnistbench.grid.entries import Entry, EntryReader
from mnistbench.grid.yaml import Fields, Items, Node, Value

DEFAULT_SEEDS = (0, 1, 2)
COMPONENTS: tuple[Axis, ...] = ("architecture", "optimizer", "schedule", "execution")
PLAIN = ("batch_size", "training", "device", "seed")


def _training(
    *,
    epochs: PositiveInt,
    loss: Loss = "cross_entropy",
    shuffle: bool = True,
    validation_examples: NonNegativeInt = 0,
    target_accuracy: Accuracy | Accuracies | None = None,
    stop_at_target: bool = False,
    save_model: SaveModel | None = None,
) -> None:
    """Declares the options of `training:` with their limits; `cell.Training` holds them."""


TRAINING = Declaration("training", options_of(_training))
BATCH_SIZE = Declared("batch_size", PositiveInt | Literal["full"])
SEED = Declared("seed", Seed)


class AxesReader(EntryReader):
    """Reads what a grid multiplies; what is wrong goes to `problems`."""

    def known_keys(self, node: Fields, known: Sequence[str], required: Sequence[str], what: str) -> None:
        """Note keys that are unknown, and those of `what` that are missing."""
        for key, place in node.key_places.items():
            if key in node.fields and key not in known:
                self.problems.add(place, f"unknown key `{shown(key)}`{nearest(key, known)}")
        for key in required:
            if key not in node.fields:
                self.problems.add(node.place, f"{what} needs `{key}:`")

    def filled(self, key: str, node: Node, example: str) -> Sequence[Node]:
        """The items of a list that must hold something."""
        if isinstance(node, Items) and node.items:
            return node.items
        self.problems.add(node.place, f"`{key}` must be a list such as `{example}`, found {found(node)}")
        return []

    def trainings(self, node: Node | None, *, pattern: bool = False) -> tuple[Entry, ...]:
        """`training:`, at most one entry; a pattern need not say the epochs."""
        if node is None:
            return ()
        if not isinstance(node, Fields):
            self.problems.add(node.place, f"`training` must be a mapping such as `{{epochs: 2}}`, found {found(node)}")
            return ()
        entry = self.options(node, TRAINING, pattern=pattern)
        if entry is None:
            return ()
        if True in entry.values.get("stop_at_target", ()) and None in entry.values.get("target_accuracy", (None,)):
            place = node.key_places["stop_at_target"]
            self.problems.add(place, "`stop_at_target` needs a `target_accuracy` to stop at")
        if len(entry.values.get("target_accuracy", ())) > 1:
            self.problems.add(
                node.key_places["target_accuracy"],
                "several targets are questions about one training, not an axis: write a plain list such as [0.9, 0.97]",
            )
        return (entry,)

    def scalars(self, nodes: Sequence[Node], option: Declared) -> tuple[Any, ...]:
        """Items of a plain list, each once."""
        values: dict[Any, Place] = {}
        for node in nodes:
            before = len(self.problems)
            value = self.value(node, option)
            if len(self.problems) > before:
                continue
            if value in values:
                line = f" (first in line {values[value].line})" if values[value].line else ""
                self.problems.add(node.place, f"{found(node)} is in `{option.name}` twice{line}; keep one")
            values.setdefault(value, node.place)
        return tuple(values)

    def batch_sizes(self, node: Node | None) -> tuple[BatchSize, ...]:
        """`batch_sizes:`: numbers, and `full`."""
        if node is None:
            return ()
        return self.scalars(self.filled("batch_sizes", node, "[64, 512]"), BATCH_SIZE)

    def seeds(self, node: Node | None) -> tuple[int, ...]:
        """`seeds:`; three where a grid says none."""
        if node is None:
            return DEFAULT_SEEDS
        return self.scalars(self.filled("seeds", node, "[0, 1, 2]"), SEED)

    def devices(self, node: Node | None) -> Devices:
        """`devices:`: auto, or names."""
        if node is None or (isinstance(node, Value) and node.plain == "auto"):
            return "auto"
        return self.device_names(self.filled("devices", node, "[cpu, cuda]"))

    def device_names(self, nodes: Sequence[Node]) -> tuple[str, ...]:
        """Names of devices, the first of a kind without its number."""
        named: list[Node] = []
        for node in nodes:
            text = node.plain if isinstance(node, Value) else None
            if not isinstance(text, str) or not re.fullmatch(rf"(?:{'|'.join(KINDS)})(?::\d{{1,3}})?", text):
                word = "cuda" if text == "gpu" else text
                end = did_you_mean(word, KINDS) if isinstance(word, str) else ""
                message = f"a device must be cpu, cuda, cuda:1 or mps, found {found(node)}{end}"
                self.problems.add(node.place, message)
            else:
                kind, _, number = text.partition(":")
                name = f"{kind}:{int(number)}" if number and int(number) else kind  # `cuda` is `cuda:0`
                named.append(Value(node.place, name, name))
        return self.scalars(named, Declared("devices", str))

    def pattern(self, node: Node) -> list[Pattern]:
        """An entry of `exclude`; none if it is wrong."""
        keys = (*COMPONENTS, *PLAIN)
        if not isinstance(node, Fields) or not node.fields:
            example = "{architecture: mlp, batch_size: 8192}"
            self.problems.add(node.place, f"an entry of `exclude` must be a mapping such as `{example}`")
            return []
        self.known_keys(node, keys, (), "")
        before = len(self.problems)
        fields: dict[str, Any] = {}
        for key, item in node.fields.items():
            if key not in keys:
                continue
            if key not in PLAIN:
                fields[key] = self.entries(item, cast(Axis, key), pattern=True)
            else:
                fields[key] = self._plain_axis(key, item, pattern=True)
            if not fields[key] and len(self.problems) == before:
                self.problems.add(item.place, f"`{key}` must be a value or a list of them, found {found(item)}")
        return [Pattern(place=node.place, **fields)] if len(self.problems) == before else []

    def _plain_axis(self, key: str, node: Node, *, pattern: bool = False) -> tuple[Any, ...]:
        items = node.items if isinstance(node, Items) else [node]
        if key == "training":
            return self.trainings(node, pattern=pattern)
        if key == "device":
            return self.device_names(items)
        return self.scalars(items, BATCH_SIZE if key == "batch_size" else SEED)

    def included(self, node: Node, axes: Axes) -> list[Axes]:
        """An entry of `include`: a product of its own, with the grid's values where it says none."""
        needed = ("architecture", "optimizer", "batch_size")
        if not isinstance(node, Fields):
            self.problems.add(node.place, f"an entry of `include` must be a mapping with {', '.join(needed)}")
            return []
        before = len(self.problems)
        self.known_keys(
            node, [key for key in (*COMPONENTS, *PLAIN) if key != "schedule"], needed, "an entry of `include`"
        )
        own = node.fields
        given = {key: self.entries(own[key], key) for key in COMPONENTS if key in own}
        plain = {key: self._plain_axis(key, own[key]) for key in PLAIN if key in own}
        if len(self.problems) == before:
            for key in own:
                if not given.get(cast(Axis, key), True) or not plain.get(key, True):
                    self.problems.add(own[key].place, f"`{key}` is an empty list")
        if len(self.problems) > before:
            return []
        included = Axes(
            architectures=given["architecture"],
            optimizers=given["optimizer"],
            batch_sizes=plain["batch_size"],
            trainings=plain.get("training", axes.trainings),
            executions=given.get("execution", axes.executions),
            devices=plain.get("device", axes.devices),
            seeds=plain.get("seed", axes.seeds),
            place=node.place,
        )
        return [included]
