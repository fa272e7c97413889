"""Dataclasses from plain JSON data, with each value's type checked: an answer or a clear ValueError, never half of one.

The checks of a class are put together once, so that 10,000 records are read in a second or two; standard library only.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Reader = Callable[[Any], Any]
READERS: dict[type, Reader] = {}
"""Classes that read themselves; a reader may raise KeyError, TypeError or AttributeError for what is not one."""


class Mismatch(ValueError):
    """A value of another type than declared; `where` is the path to it, such as `.epochs[0].steps`."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where

    def inside(self, outer: str) -> Mismatch:
        """The same, seen from the container."""
        return Mismatch(self.message, outer + self.where)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


def read_typed(wanted: type[T], value: Any, name: str) -> T:
    """Build `wanted` from plain data.

    Args:
        name: what to call the value in errors.

    Raises:
        ValueError: if a field is missing, unknown, or of another type.
    """
    try:
        reader: Reader = _reader(wanted)  # type: ignore[arg-type]  # classes hash
        built: T = reader(value)
    except Mismatch as mismatch:
        raise mismatch.inside(name) from None
    return built


@cache
def _reader(wanted: Any) -> Reader:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        reader: Reader = _anything
    elif wanted in READERS:
        reader = _own_reader(wanted)
    elif is_dataclass(wanted):
        reader = _dataclass_reader(wanted)
    elif origin in (typing.Union, types.UnionType):
        reader = _union_reader([item for item in arguments if item is not type(None)])
    elif origin is Literal:
        reader = _literal_reader(arguments)
    elif origin is list:
        reader = _list_reader(arguments[0])
    elif origin is tuple:
        reader = _tuple_reader(arguments[0])
    elif origin is dict:
        reader = _dict_reader(arguments[1])
    else:
        reader = _plain_reader(wanted)
    return reader


def _anything(value: Any) -> Any:
    return value


def _union_reader(wanted: list[Any]) -> Reader:
    """None, a list where a tuple is declared, or else the first of the other types."""
    readers = {typing.get_origin(item) is tuple: _reader(item) for item in reversed(wanted)}
    return lambda value: None if value is None else readers.get(isinstance(value, list), readers[False])(value)


def _own_reader(wanted: type) -> Reader:
    build = READERS[wanted]

    def read(value: Any) -> Any:
        try:
            return build(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise Mismatch(f"not a {wanted.__name__.lower()} ({type(error).__name__}: {error})") from None

    return read


def _dataclass_reader(wanted: Any) -> Reader:
    readers = {name: (_taken_as_is(hint), _reader(hint)) for name, hint in typing.get_type_hints(wanted).items()}

    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Mismatch(f"expected a mapping, found {type(value).__name__}")
        arguments = {}
        for key, item in value.items():
            if key not in readers:
                raise Mismatch(f"unknown field {key!r}")
            as_is, reader = readers[key]
            if type(item) in as_is:  # most fields: spares a call for each, a third of the time
                arguments[key] = item
                continue
            try:
                arguments[key] = reader(item)
            except Mismatch as mismatch:
                raise mismatch.inside(f".{key}") from None
        try:
            return wanted(**arguments)
        except TypeError as error:
            raise Mismatch(str(error)) from None

    return read


def _taken_as_is(hint: Any) -> frozenset[type]:
    """Types of values that need no look inside."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return frozenset[type]().union(*map(_taken_as_is, typing.get_args(hint)))
    return frozenset({hint}) if hint in (int, float, str, bool, type(None)) else frozenset()


def _literal_reader(choices: tuple[Any, ...]) -> Reader:
    def read(value: Any) -> Any:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise Mismatch(f"{value!r} is none of {', '.join(map(str, choices))}")
        return value

    return read


def _list_reader(item_type: Any) -> Reader:
    inner = _reader(item_type)

    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise Mismatch(f"expected a list, found {type(value).__name__}")
        if item_type is int and set(map(type, value)) == {int}:
            return value
        items = []
        for index, item in enumerate(value):
            try:
                items.append(inner(item))
            except Mismatch as mismatch:
                raise mismatch.inside(f"[{index}]") from None
        return items

    return read


def _tuple_reader(item_type: Any) -> Reader:
    inner = _list_reader(item_type)
    return lambda value: tuple(inner(value))


def _dict_reader(item_type: Any) -> Reader:
    inner = _reader(item_type)

    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Mismatch(f"expected a mapping, found {type(value).__name__}")
        items = {}
        for key, item in value.items():
            try:
                items[key] = inner(item)
            except Mismatch as mismatch:
                raise mismatch.inside(f".{_printable(key)}") from None
        return items

    return read


def _plain_reader(wanted: type) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is wanted:
            return value
        if wanted is float and type(value) is int:
            return float(value)
        raise Mismatch(f"expected {wanted.__name__}, found {type(value).__name__}")

    return read


def _printable(key: str) -> str:
    """A key as an error may show it: one line, whatever somebody wrote into the file."""
    return key if key.isprintable() else ascii(key)
