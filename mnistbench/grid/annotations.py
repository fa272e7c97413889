"""Reads the type annotations that declare options: in words for messages, and whether a list is one value or many."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal


def _parts(annotation: Any) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """(type, its arguments, its limits), whatever they are wrapped in."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *limits = typing.get_args(annotation)
        kind, arguments, more = _parts(inner)
        return kind, arguments, (*more, *limits)
    origin = typing.get_origin(annotation)
    if origin is types.UnionType:
        origin = typing.Union
    return (origin or annotation), typing.get_args(annotation), ()


def sayable(annotation: Any, can_say: Callable[[Any], bool]) -> Any:
    """The part of a type that a grid file can say: of `float | Tensor` the number, in a list of them too.

    Args:
        annotation: of an option.
        can_say: whether a grid file can say a type as it stands.

    Returns:
        The type itself where nothing has to go, or nothing would be left.
    """
    kind, arguments, limits = _parts(annotation)
    if can_say(annotation) or limits:
        return annotation
    parts = [item if item is ... else sayable(item, can_say) for item in arguments]
    if kind is typing.Union:
        left = [part for part in parts if can_say(part)]
        says_something = any(part is not type(None) for part in left)
        return typing.Union[tuple(left)] if says_something else annotation  # noqa: UP007
    return kind[tuple(parts)] if parts and list_depth(annotation) else annotation


def list_depth(annotation: Any) -> int:
    """How deep a value of this type nests lists; 0 for a scalar."""
    kind, arguments, _ = _parts(annotation)
    if kind is typing.Union:
        return max(map(list_depth, arguments))
    if inspect.isclass(kind) and issubclass(kind, Sequence) and not issubclass(kind, str | bytes):
        inner = [item for item in arguments if item is not ...]
        return 1 + max((list_depth(item) for item in inner), default=0)
    return 0


def choices(annotation: Any) -> list[str]:
    """The texts that a `Literal` allows; empty for any other type."""
    kind, arguments, _ = _parts(annotation)
    if kind is typing.Union:
        return [choice for item in arguments for choice in choices(item)]
    return [item for item in arguments if isinstance(item, str)] if kind is Literal else []


def wants(annotation: Any, wanted: tuple[type, ...]) -> bool:
    """Whether a scalar of one of these types may stand here, itself or in a list."""
    kind, arguments, _ = _parts(annotation)
    if kind is typing.Union or list_depth(annotation):
        return any(wants(item, wanted) for item in arguments)
    return kind in wanted


def in_words(annotation: Any) -> str:
    """What may stand here: `a number above 0`, `one of max, average`."""
    kind, arguments, limits = _parts(annotation)
    if kind is typing.Union:
        return " or ".join(in_words(item) for item in arguments if item is not type(None)) or "nothing"
    if kind is Literal:
        said = [json.dumps(item) if not isinstance(item, str) else item for item in arguments]
        return said[0] if len(said) == 1 else f"one of {', '.join(said)}"
    if list_depth(annotation):
        inner = [item for item in arguments if item is not ...]
        many = f"{len(inner)} values" if kind is tuple and ... not in arguments else "values"
        return f"a list of {many}" + (f", each {in_words(inner[0])}" if inner else "") + _limited(limits)
    if kind in (dict, Mapping):
        return f"a mapping of names to {in_words(arguments[-1])}" if arguments else "a mapping"
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return simple.get(kind, getattr(kind, "__name__", str(kind))) + _limited(limits)


def _limited(limits: Sequence[Any]) -> str:
    phrases = (("gt", "above"), ("ge", "of at least"), ("lt", "below"), ("le", "of at most"))
    said = [
        f"{phrase} {value:,}" if isinstance(value, int) else f"{phrase} {value:g}"
        for key, phrase in phrases
        for limit in limits
        if (value := getattr(limit, key, None)) is not None
    ]
    return " " + " and ".join(said) if said else ""
