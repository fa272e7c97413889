"""What an entry of an axis may say: the keyword options of its function, with their types, limits and defaults.

The signature is the declaration; nothing is written twice. pydantic checks the values, and is imported only then: a
machine without it can still look up defaults.
"""

from __future__ import annotations

import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal

from mnistbench.axes.plugins import Plugins
from mnistbench.errors import UserError
from mnistbench.errors.problems import Place, did_you_mean, nearest, shown
from mnistbench.grid.annotations import choices, in_words, list_depth, sayable, wants
from mnistbench.grid.yaml import Fields, Items, Node, Value, looks_like_number, plain

Axis = Literal["dataset", "architecture", "optimizer", "schedule", "execution"]
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True, eq=False)
class Declared:
    """One option: its name, its type with limits, its default (`REQUIRED` if it has none)."""

    name: str
    annotation: Any
    default: Any = REQUIRED

    @cached_property
    def list_depth(self) -> int:
        """How deep a value nests lists: a list that is deeper is an axis. 0 for a scalar."""
        return list_depth(self.sayable)

    @cached_property
    def sayable(self) -> Any:
        """The part of the type that a grid file can say: a number for the `float | Tensor` of torch's optimizers."""
        return sayable(self.annotation, lambda annotation: _adapter_of(annotation) is not None)

    @cached_property
    def plain_default(self) -> Any:
        """The default as JSON would have it: lists for tuples."""
        return _listed(self.default)

    @property
    def expected(self) -> str:
        """In words, what may stand here: `a number above 0`."""
        return in_words(self.sayable)

    def read(self, node: Node) -> Any:
        """The value, typed as declared (`1` becomes `1.0` where a number with decimals is declared).

        Raises:
            Misfit: with place, if it is not what is declared.
        """
        from pydantic import ValidationError

        if beyond := _not_finite(node):
            said = f"found {found(beyond)}, which is not finite"
            raise Misfit(beyond.place, f"`{shown(self.name)}` must be {self.expected}, {said}")
        try:
            value = self._adapter.validate_json(json.dumps(plain(node)))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False)
            places = [_deepest(node, problem["loc"]) for problem in problems]
            wrong = next((place for place in places if place is not node), node)
            expected = self.expected if wrong is node else f"{self.expected}; this value does not fit"
            raise Misfit(
                wrong.place, f"`{shown(self.name)}` must be {expected}, found {found(wrong)}{self._hint(wrong)}"
            ) from None
        return self._adapter.dump_python(value, mode="json", warnings=False)

    @cached_property
    def _adapter(self) -> Any:
        if (adapter := _adapter_of(self.sayable)) is None:
            raise UserError(f"`{self.name}` has a type that a grid file cannot say: {self.expected}")
        return adapter

    def _hint(self, node: Node) -> str:
        if not isinstance(node, Value):
            return ""
        if node.quoted and looks_like_number(node.text):
            return "; take the quotes off" if wants(self.sayable, (int, float)) else ""
        if isinstance(node.plain, str):
            return did_you_mean(node.text, choices(self.sayable))
        if isinstance(node.plain, int | float) and wants(self.sayable, (str,)):
            return "; put quotes around it if it is meant as text"
        return ""


class Misfit(Exception):
    """A value that is not what is declared, with the place of the part that does not fit."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


@dataclass(frozen=True)
class Declaration:
    """What one name of an axis takes.

    Attributes:
        name: as a grid writes it.
        options: by name.
        sha256: of a plug-in's source.
        always: options that a cell says even at their default, for those who cannot look the default up.
    """

    name: str
    options: Mapping[str, Declared] = field(default_factory=dict)
    sha256: str | None = None
    always: tuple[str, ...] = ()

    def differing(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that are not equal to their defaults: what a `Component` holds."""
        kept = {key: value for key, value in self.complete(options).items() if key in self.always}
        return kept | {
            key: value for key, value in options.items() if not _same(value, self.options[key].plain_default)
        }

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with the defaults of those not given."""
        defaults = {key: option.plain_default for key, option in self.options.items() if option.default is not REQUIRED}
        return {**defaults, **options}


def names(axis: Axis) -> list[str]:
    """The names that an axis has of its own, without plug-ins."""
    return list(_table(axis))


def function(axis: Axis, name: str) -> Callable[..., Any]:
    """What a name of an axis' own stands for, for whoever wants its documentation."""
    return _table(axis)[name]


def declaration(axis: Axis, name: str, plugins: Plugins | None = None) -> Declaration:
    """What `name` takes.

    Raises:
        UserError: if there is no such name, or it is a plug-in that the command line did not name.
    """
    if ":" in name and axis in ("dataset", "architecture", "optimizer"):
        return _of_plugin(axis, name, plugins or Plugins())
    if name not in _table(axis):
        raise UserError(f"unknown {axis} `{shown(name)}`{nearest(name, names(axis))}")
    return _own(axis, name)


def options_of(function: Callable[..., Any]) -> dict[str, Declared]:
    """The keyword options of a function or class, as its signature declares them.

    An option without annotation takes the type of its default.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return {}
    made = function.__init__ if inspect.isclass(function) else inspect.unwrap(function)
    scope = getattr(made, "__globals__", {})
    return {
        parameter.name: Declared(parameter.name, _annotation(parameter, scope), parameter.default)
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


@cache
def _own(axis: Axis, name: str) -> Declaration:
    if axis == "execution":
        from mnistbench.axes.execution import RESOLVED, Levers

        profile = _table(axis)[name]()
        levers = {key: value for key, value in options_of(Levers).items() if key not in RESOLVED}
        return Declaration(name, {key: replace(lever, default=getattr(profile, key)) for key, lever in levers.items()})
    function = _table(axis)[name]
    own = getattr(function, "__annotations__", {})  # what an optimizer shares with all others comes last
    options = sorted(options_of(function).items(), key=lambda item: item[0] not in own)
    return Declaration(name, {key: value for key, value in options if (axis, key) != ("architecture", "data")})


def _of_plugin(axis: Axis, name: str, plugins: Plugins) -> Declaration:
    function: Any = plugins.find(name)
    options = options_of(function)
    first = next(iter(options), None)
    if first is not None and (axis == "optimizer" or (axis == "architecture" and first == "data")):
        del options[first]
    if axis == "optimizer":
        shared = _own("optimizer", "sgd").options
        options |= {key: shared[key] for key in ("lr_scaling", "base_batch_size")}
    return Declaration(name, options, plugins.sha256(name), always=("lr",) if axis == "optimizer" else ())


def _table(axis: Axis) -> Mapping[str, Callable[..., Any]]:
    if axis == "dataset":
        from mnistbench.data.datasets import DATASETS as datasets

        return datasets
    if axis == "architecture":
        from mnistbench.axes.architectures import ARCHITECTURES

        return ARCHITECTURES
    if axis == "optimizer":
        from mnistbench.axes.optimizers import OPTIMIZERS

        return OPTIMIZERS
    if axis == "schedule":
        from mnistbench.axes.schedules import SCHEDULES

        return SCHEDULES
    from mnistbench.axes.execution import PROFILES

    return PROFILES


def found(node: Node) -> str:
    """What stands at a node, in words for a message."""
    if isinstance(node, Items):
        return "a list" if node.items else "an empty list"
    if isinstance(node, Fields):
        return "a mapping"
    if node.plain is None:
        return "nothing"
    if node.quoted:
        return f'the text "{shown(node.text)}"'
    return f"`{shown(node.text)}`"


def _adapter_of(annotation: Any) -> Any | None:
    """What checks a value of this type; None if pydantic does not know the type."""
    from pydantic import ConfigDict, TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None


def _annotation(parameter: inspect.Parameter, scope: dict[str, Any]) -> Any:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        holder = types.SimpleNamespace(__annotations__={"option": annotation})
        try:
            return typing.get_type_hints(holder, globalns=scope, include_extras=True)["option"]
        except Exception:  # a name that only a type checker imports; the value's own type has to do
            annotation = inspect.Parameter.empty
    if annotation is not inspect.Parameter.empty:
        return annotation
    kind = type(parameter.default)
    return kind if kind in (bool, int, float, str) else list[Any] if kind in (list, tuple) else bool | int | float | str


def _same(value: Any, default: Any) -> bool:
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == default)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _not_finite(node: Node) -> Node | None:
    """The first number that JSON, and so pydantic, cannot be given."""
    if isinstance(node, Value) and isinstance(node.plain, float) and not math.isfinite(node.plain):
        return node
    items = node.items if isinstance(node, Items) else node.fields.values() if isinstance(node, Fields) else ()
    return next((bad for item in items if (bad := _not_finite(item))), None)


def _deepest(node: Node, location: Sequence[int | str]) -> Node:
    """The node that pydantic's location points to; names of union branches in it are no keys, and passed over."""
    for step in location:
        if isinstance(node, Items) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        elif isinstance(node, Fields) and step in node.fields:
            node = node.fields[str(step)]
    return node
