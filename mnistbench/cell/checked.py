"""Plain data into dataclasses by pydantic, and the types that say the least and the most a value may be.

What passes can be computed with and drawn: no seconds below zero, no accuracy of 5, no day called "yesterday".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

T = TypeVar("T")

MOST = 2**63 - 1
"""What a table can hold in a column of whole numbers."""
SHORTEST_SECONDS = 1e-9
"""A clock's tick; what took less is written as 0."""
SMALLEST_LOSS = 1e-60
"""Far below the smallest float32 shared among all examples of an epoch."""


def _ticks(seconds: float) -> float:
    if 0 < seconds < SHORTEST_SECONDS:
        raise ValueError(f"{shown(seconds)} is shorter than any clock can tell")
    return seconds


def _loss(loss: float) -> float:
    if 0 < abs(loss) < SMALLEST_LOSS:
        raise ValueError(f"{shown(loss)} is smaller than any loss can be")
    return loss


def _moment(text: str) -> str:
    try:
        known = 1970 <= datetime.fromisoformat(text).year <= 9000
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"{shown(text)} is no time")
    return text


Whole = Annotated[int, Field(ge=-MOST, le=MOST)]
Ordinal = Annotated[int, Field(ge=1, le=MOST)]
Epochs = Annotated[int, Field(ge=1, le=10**9)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Cores = Annotated[int, Field(ge=1, le=10**9)]
Bytes = Annotated[int, Field(ge=0, le=10**18)]
Flops = Annotated[float, Field(ge=0, le=1e30)]
Seconds = Annotated[float, Field(ge=0, le=1e9), AfterValidator(_ticks)]
"""At most thirty years."""
Joules = Annotated[float, Field(ge=0, le=1e15)]
Accuracy = Annotated[float, Field(ge=0, le=1)]
MeanLoss = Annotated[float, Field(ge=-1e38, le=1e38), AfterValidator(_loss)]
ShareOfTime = Annotated[float, Field(ge=-1, le=1e6)]
Moment = Annotated[str, AfterValidator(_moment)]
"""ISO 8601."""
RecordId = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
"""It names files and folders: one with `../` in it would reach others."""


def finite(value: Any, place: str = "") -> Any:
    """Plain data as it is, if a table can hold each number in it.

    Raises:
        ValueError: naming the place and the number.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            finite(inner, f"{place}.{_printable(key)}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            finite(inner, f"{place}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place}: {value} is not finite")
    elif isinstance(value, int) and abs(value) > MOST:
        raise ValueError(f"{place}: {shown(value)} is not within {-MOST} and {MOST}")
    return value


PlainData = Annotated[dict[str, Any], AfterValidator(finite)]


def read_checked(wanted: type[T], plain: Any, name: str) -> T:
    """Build a dataclass from plain data: each field of its type and within its bounds, none unknown, none missing.

    Args:
        name: what to call the value in errors.

    Raises:
        ValueError: saying the first thing that is wrong, with its place and value.
    """
    adapter = _adapter(wanted)  # type: ignore[arg-type]  # classes hash
    try:
        built: T = adapter.validate_json(f"[{json.dumps(plain)}]")[0]
    except ValidationError as error:
        raise ValueError(_problem(error.errors(include_url=False)[0], plain, name)) from None
    return built


def prepare_to_read(wanted: type[Any]) -> None:
    """Make what `read_checked` needs for this class, which takes some 0.05 s, before it is needed."""
    _adapter(wanted)  # type: ignore[arg-type]  # classes hash


@cache
def _adapter(wanted: Any) -> TypeAdapter[list[Any]]:
    """Of a list, since an adapter of a dataclass takes no settings, and that of a list hands them down.

    From JSON and not from Python's objects, among which a strict reader takes no mapping for a dataclass.
    """
    return TypeAdapter(list[wanted], config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))


def _problem(error: Any, plain: Any, name: str) -> str:
    place = _place(error["loc"][1:], plain, name)
    if error["type"] == "value_error":
        text = str(error["ctx"]["error"])
        return f"{place}{text}" if text[:1] in (".", "[") else f"{place}: {text}"
    if error["type"] == "unexpected_keyword_argument":
        return f"{place}: unknown field"
    if error["type"] == "missing":
        return f"{place}: is missing"
    return f"{place}: {error['msg'].replace('Input', shown(error['input']), 1)}"


def _place(path: Sequence[str | int], value: Any, name: str) -> str:
    """Where in the plain data a path of pydantic's leads, without the names of a union's branches at its end."""
    for step in path:
        if isinstance(step, int):
            name, value = f"{name}[{step}]", value[step]
        elif isinstance(value, Mapping):
            name, value = f"{name}.{_printable(step)}", value.get(step)
    return name


def _printable(key: Any) -> str:
    """A key as an error may show it: short and one line, whatever somebody wrote into the file."""
    return key if isinstance(key, str) and key.isprintable() and len(key) <= 40 else shown(key)


def shown(value: object) -> str:
    """A value as an error shows it; a number of hundreds of digits is not even turned into text."""
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
