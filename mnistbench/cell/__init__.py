"""What was asked: one cell of a grid, and the hash that names it.

A cell holds settings only; what happened when it ran is a record (`results/records.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import PlainValidator

from mnistbench.cell.checked import Accuracy, Count, Epochs, Ordinal, Whole, finite, read_checked, shown

__version__ = "0.2.0.dev0"
SETTINGS_VERSION = 1
"""Goes up when a default changes its meaning, so that an old `cell_id` never names a new experiment."""

Option = bool | int | float | str | list[Any] | None
SaveModel = Literal["best", "last", "all"]

NOT_HASHED = {"path"}
"""Options of a dataset that say where it lies, not what it is; the content's checksum is hashed instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Component:
    """One entry of an axis: a name and the options that differ from their defaults.

    Attributes:
        name: a name from the axis' own table, or `module:Name` for a plug-in.
        options: only what differs from the default, typed as declared (`lr: 1` is stored as `1.0`).
        sha256: checksum of what the name cannot vouch for: a plug-in's source, a CSV's content.
    """

    name: str
    options: Mapping[str, Option] = field(default_factory=dict)
    sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The component as the grid file writes it: the options stand beside the name."""
        plain = {"name": self.name, **self.options}
        return plain if self.sha256 is None else {**plain, "sha256": self.sha256}

    def shortest_json(self) -> str | dict[str, Any]:
        """The name alone where there is nothing beside it."""
        plain = self.to_json()
        return plain if len(plain) > 1 else self.name

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Component:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: if it is something else, or holds a number that no table can hold.
        """
        name, sha256 = (plain.get(key) if isinstance(plain, Mapping) else plain for key in ("name", "sha256"))
        if not isinstance(name, str) or not isinstance(sha256, str | None):
            raise ValueError(f"{shown(plain)} is not a name with options")
        options = {key: value for key, value in plain.items() if key not in ("name", "sha256")}
        return cls(name=name, options=finite(options), sha256=sha256)

    @property
    def label(self) -> str:
        """Short text for tables and legends, for example `mlp(hidden=128-256)`."""
        shown = ", ".join(f"{key}={_short(value)}" for key, value in sorted(self.options.items()))
        return f"{self.name}({shown})" if shown else self.name

    def __eq__(self, other: object) -> bool:
        """By the text that is hashed into a cell's id, so that equal components have equal hashes: 1 is not 1.0."""
        return isinstance(other, Component) and self._canonical == other._canonical

    def __hash__(self) -> int:
        return hash(self._canonical)

    @cached_property
    def _canonical(self) -> str:
        return canonical_json(self.to_json())


def _loss(plain: Any) -> Component:
    """A loss: its name, or a name with options."""
    named = {"name": plain} if isinstance(plain, str) else plain
    return named if isinstance(named, Component) else Component.from_json(named)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and towards what a cell is trained.

    Attributes:
        epochs: passes over the training data.
        loss: a component; its name alone will do. `mse` is taken on one-hot labels, `bce` on a 0/1 label.
        shuffle: draw a new order of the examples each epoch.
        validation_examples: held out from the end of a seeded permutation of the training data.
        target_accuracy: in (0, 1]; several are several questions about the same training, in ascending order. Read by
            the analysis only, unless `stop_at_target`.
        stop_at_target: end after the first evaluation that reaches the target, the largest of several.
        save_model: which weights to keep: of the best epoch, the last, or every one.
    """

    epochs: Epochs
    loss: Annotated[Component, PlainValidator(_loss)] = Component(name="cross_entropy")
    shuffle: bool = True
    validation_examples: Count = 0
    target_accuracy: Accuracy | tuple[Accuracy, ...] | None = None
    stop_at_target: bool = False
    save_model: SaveModel | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", _loss(self.loss))
        if isinstance(self.target_accuracy, list | tuple):
            targets = tuple(sorted(set(self.target_accuracy)))
            object.__setattr__(self, "target_accuracy", targets if len(targets) > 1 else next(iter(targets), None))

    @property
    def targets(self) -> tuple[float, ...]:
        """The target accuracies that are asked for, in ascending order."""
        asked = self.target_accuracy
        return asked if isinstance(asked, tuple) else () if asked is None else (asked,)

    @property
    def stops_at(self) -> float | None:
        """The test accuracy that ends the training, the largest of the targets; None where it runs to its end."""
        return self.targets[-1] if self.stop_at_target and self.targets else None

    def to_json(self) -> dict[str, Any]:
        """`epochs`, and what differs from the defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {field.name for field in fields(self) if field.name == "epochs" or values[field.name] != field.default}
        plain = {**values, "loss": self.loss.shortest_json()}
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in plain.items() if name in kept
        }

    def hashed_settings(self) -> dict[str, Any]:
        """Settings that change what is trained: a target only where it ends the training."""
        return replace(self, target_accuracy=self.stops_at).to_json()


def _profile(plain: Any) -> Component:
    """The execution, whose name stands under `profile`."""
    if not isinstance(plain, Mapping) or "name" in plain:
        raise ValueError(f"{shown(plain)} is not a profile with options")
    return Component.from_json({("name" if key == "profile" else key): value for key, value in plain.items()})


AnyComponent = Annotated[Component, PlainValidator(Component.from_json)]
Execution = Annotated[Component, PlainValidator(_profile)]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run that was asked for: a point of the grid.

    Attributes:
        dataset: the dataset really used, not the fallback rule.
        architecture, optimizer, schedule: components; the schedule nests in the optimizer in YAML.
        batch_size: examples per step; `full` is resolved to the number of training examples.
        device: `cpu`, `cuda` (the first one), `cuda:1`, `mps`.
        seed: fixes weights, order of examples, dropout.
        repeat: tells A/A twins of the same cell apart.
        training: epochs, loss, targets.
        execution: the profile (`plain`, `fast`) as its name, and the levers that override it as its options.
    """

    dataset: AnyComponent
    architecture: AnyComponent
    optimizer: AnyComponent
    schedule: AnyComponent = Component(name="constant")
    batch_size: Ordinal
    device: str
    seed: Whole
    repeat: Count = 0
    training: Training
    execution: Execution = Component(name="fast")

    def to_json(self) -> dict[str, Any]:
        """The cell as it stands in a record and in a resolved `cells.json`."""
        execution = self.execution.to_json()
        return {
            "dataset": self.dataset.to_json(),
            "architecture": self.architecture.to_json(),
            "optimizer": self.optimizer.to_json(),
            "schedule": self.schedule.to_json(),
            "batch_size": self.batch_size,
            "device": self.device,
            "seed": self.seed,
            "repeat": self.repeat,
            "training": self.training.to_json(),
            "execution": {"profile": execution.pop("name"), **execution},
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Cell:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: if something is missing, too much, or of another type.
        """
        return read_checked(cls, plain, "cell")

    @property
    def data_options(self) -> Mapping[str, Option]:
        """The dataset's options that mean something outside of it: none of a plug-in's, whatever they are called."""
        return {} if ":" in self.dataset.name else self.dataset.options

    @cached_property
    def cell_id(self) -> str:
        """The first 16 hex digits of the SHA-256 of what is hashed of the cell (see `hashed_settings`)."""
        return hashlib.sha256(canonical_json(self.hashed_settings()).encode()).hexdigest()[:16]

    def hashed_settings(self) -> dict[str, Any]:
        """Settings that make another experiment when they change; a target that only the analysis reads does not."""
        plain = self.to_json()
        plain["dataset"] = {key: value for key, value in plain["dataset"].items() if key not in NOT_HASHED}
        plain["training"] = self.training.hashed_settings()
        return {**plain, "settings_version": SETTINGS_VERSION}

    def without_seed(self) -> str:
        """A key shared by all seeds and twins of the same settings: what repeats are pooled over."""
        plain = self.hashed_settings()
        del plain["seed"], plain["repeat"]
        return hashlib.sha256(canonical_json(plain).encode()).hexdigest()[:16]

    @property
    def parts(self) -> tuple[Component, ...]:
        """All that may be a plug-in's."""
        return self.dataset, self.architecture, self.optimizer, self.schedule, self.training.loss

    @property
    def label(self) -> str:
        """One line for progress and logs."""
        schedule = "" if self.schedule.label == "constant" else f", {self.schedule.label}"
        loss = "" if self.training.loss.label == "cross_entropy" else f" · {self.training.loss.label}"
        execution = "" if self.execution.label == "fast" else f" · {self.execution.label}"
        return (
            f"{self.architecture.label} · {self.optimizer.label}{schedule} · batch {self.batch_size} · {self.device}"
            f"{loss}{execution} · seed {self.seed}" + (f" · twin {self.repeat}" if self.repeat else "")
        )


def canonical_json(plain: Any) -> str:
    """JSON that is the same text for the same settings: sorted keys, no spaces, no NaN."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _short(value: Option) -> str:
    if isinstance(value, list | tuple):
        return "-".join(_short(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
