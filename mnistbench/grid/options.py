"""What an entry of an axis may say: the options of its function or dataclass, with types, limits and defaults.

The signature is the declaration; nothing is written twice. pydantic checks the values, and its JSON schema of a type
gives the words of messages and of `list`.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache, cached_property
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from mnistbench.axes.architectures import ARCHITECTURES
from mnistbench.axes.execution import PROFILES, RESOLVED, Levers
from mnistbench.axes.losses import LOSSES
from mnistbench.axes.optimizers import OPTIMIZERS, Optimizer
from mnistbench.axes.options import UNTYPED, adapter_of, annotations_of, sayable
from mnistbench.axes.plugins import Plugins
from mnistbench.axes.schedules import SCHEDULES, refuse_other_than_function
from mnistbench.cell import Component
from mnistbench.data.datasets import DATASETS
from mnistbench.errors import UserError
from mnistbench.errors.problems import Place, did_you_mean, nearest, shown
from mnistbench.grid.yaml import Items, Node, Value, at, in_words, looks_like_number, plain

LIKE = 0.8
"""`dept` is like `depth`; `width` is not."""
Axis = Literal["dataset", "architecture", "optimizer", "schedule", "loss", "execution"]
REQUIRED = inspect.Parameter.empty
TABLES: dict[Axis, Mapping[str, Callable[..., Any]]] = {
    "dataset": DATASETS,
    "architecture": ARCHITECTURES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "loss": LOSSES,
    "execution": PROFILES,
}


GIVEN: dict[Axis, tuple[str, ...]] = {"architecture": ("data",), "loss": ("outputs", "labels", "reduction")}
"""What our own functions are given beside the options of a grid."""


@dataclass(frozen=True, eq=False)
class OptionSpec:
    """One option: its name, its type with limits, its default (`REQUIRED` if it has none)."""

    name: str
    annotation: Any
    default: Any = REQUIRED

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of what a grid file can say here: a number for the `float | Tensor` of torch's optimizers."""
        return self._adapter.json_schema() if self._adapter else {"title": _type_name(self.annotation)}

    @cached_property
    def _adapter(self) -> TypeAdapter[Any] | None:
        said = sayable(self.annotation)
        return None if said is None else adapter_of(said)

    @cached_property
    def list_depth(self) -> int:
        """How deep a value nests lists: a list that is deeper is an axis. 0 for a scalar."""
        return _list_depth(self.schema)

    @cached_property
    def plain_default(self) -> Any:
        """The default as JSON would have it: lists for tuples."""
        return _listed(self.default)

    @property
    def written_default(self) -> str | None:
        """The default as a grid file writes it; None if the option must be given."""
        if self.default is REQUIRED:
            return None
        return self.default if isinstance(self.default, str) else json.dumps(self.plain_default)

    @property
    def expected(self) -> str:
        """In words, what may stand here: `a number above 0`."""
        return "a number, a text, true or false" if self.annotation == UNTYPED else _words(self.schema)

    def read(self, node: Node) -> Any:
        """The value, typed as declared (`1` becomes `1.0` where a number with decimals is declared).

        Raises:
            Misfit: with place, if it is not what is declared.
            UserError: if the type is none that a grid file can say.
        """
        if self._adapter is None:
            raise UserError(f"`{self.name}` has a type that a grid file cannot say: {self.expected}")
        if beyond := _not_finite(node):
            said = f"found {in_words(beyond)}, which is not finite"
            raise Misfit(beyond.place, f"`{shown(self.name)}` must be {self.expected}, {said}")
        try:
            value = self._adapter.validate_json(json.dumps(plain(node)))
        except ValidationError as error:
            nodes = [at(node, problem["loc"]) for problem in error.errors(include_url=False, include_context=False)]
            wrong = next((place for place in nodes if place is not node), node)
            inside = "" if wrong is node else "; this value does not fit"
            raise Misfit(
                wrong.place,
                f"`{shown(self.name)}` must be {self.expected}{inside}, found {in_words(wrong)}{self._hint(wrong)}",
            ) from None
        return self._adapter.dump_python(value, mode="json", warnings=False)

    def _hint(self, node: Node) -> str:
        if self.annotation == UNTYPED and not isinstance(node, Value):
            return "; an option of a plug-in takes more than one value where its type says so: `hidden: list[int]`"
        if not isinstance(node, Value):
            return ""
        scalars = list(_scalars(self.schema))
        kinds = {scalar.get("type") for scalar in scalars if not _choices(scalar)}
        if node.quoted and looks_like_number(node.text):
            return "; take the quotes off" if kinds & {"integer", "number"} else ""
        if isinstance(node.plain, str):
            known = [choice for scalar in scalars for choice in _choices(scalar) if isinstance(choice, str)]
            return did_you_mean(node.text, known)
        if isinstance(node.plain, int | float) and "string" in kinds:
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
        summary: the first paragraph of its documentation.
        takes_any: its function has `**kwargs`: what these may be, it says itself when it is called.
    """

    name: str
    options: Mapping[str, OptionSpec] = field(default_factory=dict)
    sha256: str | None = None
    always: tuple[str, ...] = ()
    summary: str = ""
    takes_any: bool = False

    def with_any(self, names: Iterable[str]) -> Declaration:
        """With options for what goes into `**kwargs`: of these names, those that are no option's name misspelt."""
        if not self.takes_any:
            return self
        more = [name for name in names if not get_close_matches(name, self.options, cutoff=LIKE)]
        return replace(self, options={**self.options, **{name: OptionSpec(name, UNTYPED) for name in more}})

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


def declaration(axis: Axis, name: str, plugins: Plugins | None = None) -> Declaration:
    """What `name` takes.

    Raises:
        UserError: if there is no such name, or it is a plug-in that the command line did not name.
    """
    if ":" in name and axis != "execution":
        return _of_plugin(axis, name, plugins or Plugins())
    if name not in TABLES[axis]:
        raise UserError(f"unknown {axis} `{shown(name)}`{nearest(name, list(TABLES[axis]))}")
    return _own(axis, name)


def lr_of(optimizer: Component) -> float:
    """The learning rate of an optimizer, whether given or its default."""
    if ":" in optimizer.name:
        return float(optimizer.options["lr"])  # type: ignore[arg-type]
    return float(declaration("optimizer", optimizer.name).complete(optimizer.options)["lr"])


def options_of(function: Callable[..., Any]) -> dict[str, OptionSpec]:
    """The keyword options of a function or class, as its signature declares them.

    An option without annotation takes the type of its default.
    """
    if not (parameters := _parameters(function)):
        return {}
    return {
        name: OptionSpec(name, annotation, parameters[name].default)
        for name, annotation in annotations_of(function).items()
    }


@cache
def _own(axis: Axis, name: str) -> Declaration:
    function = TABLES[axis][name]
    options = options_of(Levers if axis == "execution" else function)
    if axis == "execution":
        profile = function()
        options = {key: replace(options[key], default=getattr(profile, key)) for key in options if key not in RESOLVED}
    for given in GIVEN.get(axis, ()):
        del options[given]
    own = getattr(function, "__annotations__", {})  # what an optimizer shares with all others comes last
    ordered = dict(sorted(options.items(), key=lambda item: item[0] not in own))
    summary = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    return Declaration(name, ordered, summary=summary)


def _of_plugin(axis: Axis, name: str, plugins: Plugins) -> Declaration:
    function: Any = plugins.find(name)
    options = options_of(function)
    parameters = _parameters(function)
    if axis == "schedule":
        refuse_other_than_function(name, function)
    takes_batch = axis == "loss" and not inspect.isclass(function)
    takes_data = axis == "architecture" and next(iter(parameters), "") == "data"
    for first in list(parameters)[: 2 if takes_batch or axis == "schedule" else int(axis == "optimizer" or takes_data)]:
        options.pop(first, None)
    options = {key: option for key, option in options.items() if key not in ("name", "sha256")}  # a cell's own words
    if axis == "optimizer":
        shared = options_of(Optimizer)
        options |= {key: shared[key] for key in ("lr_scaling", "base_batch_size")}
        lr = options.get("lr")
        if lr and not isinstance(lr.default, int | float | str | None):  # torch's `required`, or a tensor
            options["lr"] = replace(lr, default=REQUIRED)
    return Declaration(
        name,
        options,
        plugins.sha256(name),
        always=("lr",) if axis == "optimizer" else (),
        takes_any=any(each.kind is each.VAR_KEYWORD for each in parameters.values()),
    )


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function written in C may have no signature
        return {}


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))


def _inner(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the items of a list may be; empty where they may be anything."""
    return schema.get("prefixItems") or [item for item in [schema.get("items")] if item]


def _list_depth(schema: Mapping[str, Any]) -> int:
    if "anyOf" in schema:
        return max(map(_list_depth, schema["anyOf"]))
    return 1 + max(map(_list_depth, _inner(schema)), default=0) if schema.get("type") == "array" else 0


def _scalars(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The scalars that may stand here, themselves or in a list."""
    parts = schema.get("anyOf") or _inner(schema)
    if not parts:
        yield schema
    for part in parts:
        yield from _scalars(part)


def _choices(schema: Mapping[str, Any]) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))


def _words(schema: Mapping[str, Any]) -> str:
    """What may stand here: `a number above 0`, `one of max, average`."""
    if "anyOf" in schema:
        return " or ".join(_words(part) for part in schema["anyOf"] if part.get("type") != "null")
    if choices := [choice if isinstance(choice, str) else json.dumps(choice) for choice in _choices(schema)]:
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if schema.get("type") == "array":
        count = f"{len(schema['prefixItems'])} values" if "prefixItems" in schema else "values"
        return f"a list of {count}" + "".join(f", each {_words(item)}" for item in _inner(schema)[:1])
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"a mapping of names to {_words(values)}" if isinstance(values, dict) and values else "a mapping"
    if schema.get("format") == "path":
        return "a path"
    words = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text"}
    named = str(schema.get("title") or schema.get("$ref", "anything"))
    return words.get(schema.get("type", ""), named.rpartition("/")[2]) + _limits(schema)


def _limits(schema: Mapping[str, Any]) -> str:
    phrases = {
        "exclusiveMinimum": "above",
        "minimum": "of at least",
        "exclusiveMaximum": "below",
        "maximum": "of at most",
    }
    limits = [(phrase, schema[key]) for key, phrase in phrases.items() if key in schema]
    said = [f"{phrase} {limit:,}" if isinstance(limit, int) else f"{phrase} {limit:g}" for phrase, limit in limits]
    return " " + " and ".join(said) if said else ""


def _same(value: Any, default: Any) -> bool:
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == default)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _not_finite(node: Node) -> Node | None:
    """The first number that JSON, and so pydantic, cannot be given."""
    if isinstance(node, Value):
        return node if isinstance(node.plain, float) and not math.isfinite(node.plain) else None
    items = node.items if isinstance(node, Items) else node.fields.values()
    return next((bad for item in items if (bad := _not_finite(item))), None)
