"""Options of a network, an optimizer or a dataset: the types that its signature declares, some of which carry limits.

pydantic reads the types: `grid/` checks by them what a grid says, and a plug-in is given its options in them.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from typing_extensions import TypeAliasType, is_typeddict

UNTYPED = bool | int | float | str
"""What an option takes that has neither a type nor a default that tells one."""

Positive = Annotated[float, Gt(gt=0)]
NonNegative = Annotated[float, Ge(ge=0)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]
PositiveInt = Annotated[int, Gt(gt=0)]
NonNegativeInt = Annotated[int, Ge(ge=0)]
Accuracy = Annotated[float, Interval(gt=0, le=1)]
Accuracies = Annotated[list[Accuracy], MinLen(min_length=1)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
Cycles = Annotated[int, Interval(ge=10, le=1000)]


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The type of each keyword option of a function or class; one without annotation has that of its default.

    Raises:
        TypeError, ValueError: if its signature cannot be read.
    """
    made = function.__init__ if inspect.isclass(function) else inspect.unwrap(function)
    scope = getattr(made, "__globals__", {})
    return {
        parameter.name: _annotation(parameter, scope)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def as_declared(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in the types that the signature declares: a cell holds a list for a tuple, a text for an enum or a path.

    What does not fit its type is left as it is: the function itself has to say what it thinks of it.
    """
    try:
        declared = annotations_of(function)
    except (TypeError, ValueError):  # a function written in C may have no signature
        return dict(options)
    return {name: _typed(value, declared.get(name, Any)) for name, value in options.items()}


def _typed(value: Any, annotation: Any) -> Any:
    said = sayable(annotation)
    adapter = None if said is None else adapter_of(said)
    try:
        return value if adapter is None else adapter.validate_json(json.dumps(value))
    except ValidationError:
        return value


def adapter_of(annotation: Any) -> TypeAdapter[Any] | None:
    """What checks a value of this type; None where JSON, and so a grid file, has no words for it."""
    has_own_settings = dataclasses.is_dataclass(annotation) or is_typeddict(annotation)  # none are taken beside them
    try:
        kind: Any = TypeAliasType("option", annotation) if has_own_settings else annotation
        adapter = TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
        schema = adapter.json_schema()
    except (PydanticUserError, TypeError):  # TypeError: an annotation that is no type
        return None
    return adapter if schema or annotation in (Any, object) else None  # classes have an empty schema too


def sayable(annotation: Any) -> Any | None:
    """The part of a type that a grid file can say: of `float | Tensor` the number, in a list of them too; or None."""
    if adapter_of(annotation):
        return annotation
    kind, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    parts = [item if item is ... else sayable(item) for item in arguments]
    if kind in (typing.Union, types.UnionType):
        left = tuple(part for part in parts if part is not None)
        return typing.Union[left] if any(part is not type(None) for part in left) else None  # noqa: UP007
    is_list = inspect.isclass(kind) and issubclass(kind, Sequence)
    return kind[tuple(parts)] if is_list and parts and None not in parts else None


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
    if kind in (list, tuple):
        return list[Any]
    return kind if kind in (bool, int, float, str) else UNTYPED
