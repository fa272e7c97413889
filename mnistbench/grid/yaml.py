"""Reads a YAML file as plain data in which every value knows its line and column, and changes it as `--set` says.

YAML 1.2, core schema: `1e-3` is a number, `no` is text, `064` is 64. A grid is data and nothing else, so tags, merge
keys and several documents are refused, and size, depth and aliases are limited before they can cost time or memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench.errors import UserError
from mnistbench.errors.problems import Place, Problems, shown

if TYPE_CHECKING:
    from ruamel.yaml.events import Event

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 50_000
"""Aliases count as often as they are used. The scanner takes about 50 µs a value."""
MAX_DIGITS = 100

Scalar = bool | int | float | str | None


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A scalar; `quoted` tells the text "64" from the number 64."""

    place: Place
    plain: Scalar
    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """A list."""

    place: Place
    items: list[Node]


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """A mapping with text keys; `key_places` says where each key stands."""

    place: Place
    fields: dict[str, Node]
    key_places: dict[str, Place]


Node = Value | Items | Fields


def read_text(path: Path) -> str:
    """The content of a small UTF-8 text file.

    Raises:
        UserError: if it is missing, unreadable, larger than a grid can be, or no UTF-8 text.
    """
    shown_path = shown(str(path), longest=300)
    try:
        if path.is_fifo() and path.parts[:2] not in (("/", "dev"), ("/", "proc")):  # the shell's `<(…)` has a writer
            raise UserError(f"{shown_path}: is a pipe, which may never say anything; name a file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{shown_path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{shown_path}: is a folder; name a .yaml file in it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{shown_path}: cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{shown_path}: is larger than {MAX_BYTES:,} bytes; a grid file is a page of text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{shown_path}:{line}:1: is not UTF-8 text; save the file as UTF-8") from None


def read_document(text: str, source: str) -> Node:
    """Read the one document of a YAML text.

    Args:
        text: YAML.
        source: name of the file, for places.

    Raises:
        UserError: if it is no YAML, or uses what a grid may not (see the module).
    """
    problems = Problems()
    node = _read(text, source, problems)
    problems.raise_if_any()
    if node is None:
        raise UserError(f"{source}:1:1: is empty; docs/grid.md shows what a grid holds")
    return node


def scalar(text: str) -> Scalar:
    """What a plain (unquoted) scalar stands for in YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    return next((read(text) for pattern, read in _NUMBERS if pattern.fullmatch(text)), text)


def looks_like_number(text: str) -> bool:
    """Whether a text would be a number without its quotes."""
    return any(pattern.fullmatch(text) for pattern, _ in _NUMBERS)


def overridden(document: Fields, overrides: Sequence[str]) -> Fields:
    """The document with some values replaced or added; what a message says of them begins with `--set …`.

    Args:
        document: of a grid file.
        overrides: `KEY=VALUE`, where KEY is a path (`training.epochs`, `optimizers.0.lr`) and VALUE is YAML.

    Raises:
        UserError: with one line per override that cannot be read or leads nowhere.
    """
    errors = []
    for text in overrides:
        try:
            key, value = read_setting(text)
            changed = _with(document, key.split("."), value, "")
            assert isinstance(changed, Fields)  # a path has at least one key
            document = changed
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("\n".join(errors))
    return document


def read_setting(text: str) -> tuple[str, Node]:
    """Key and value of `KEY=VALUE`.

    Raises:
        UserError: if it is none, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    key, source = key.strip(), f"--set {shown(text)}"
    if not equals or not all(key.split(".")):
        raise UserError(f"{source}: write KEY=VALUE, such as training.epochs=1")
    if not value.strip():
        raise UserError(f"{source}: has no value")
    return key, _placed(read_document(value, source), Place(source))


def in_words(node: Node) -> str:
    """What stands at a node, in words for a message."""
    if isinstance(node, Items):
        return "a list" if node.items else "an empty list"
    if isinstance(node, Fields):
        return "a mapping"
    if node.plain is None:
        return "nothing"
    return f'the text "{shown(node.text)}"' if node.quoted else f"`{shown(node.text)}`"


def at(node: Node, location: Sequence[int | str]) -> Node:
    """The node that pydantic's location points to; names of union branches in it are no keys, and passed over."""
    for step in location:
        if isinstance(node, Items) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        elif isinstance(node, Fields) and step in node.fields:
            node = node.fields[str(step)]
    return node


def plain(node: Node) -> Any:
    """The data without places."""
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    if isinstance(node, Fields):
        return {key: plain(item) for key, item in node.fields.items()}
    return node.plain


_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBERS: list[tuple[re.Pattern[str], Callable[[str], int | float]]] = [
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
]
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _read(text: str, source: str, problems: Problems) -> Node | None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if forbidden := _NOT_YAML.search(text):
        before = text[: forbidden.start()]
        place = Place(source, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        what = "a NUL byte" if forbidden[0] == "\0" else f"the character U+{ord(forbidden[0]):04X}"
        problems.add(place, f"{what} cannot stand in a YAML file; is this a text file?")
        return None
    composer = _Composer(YAML(typ="safe", pure=True).parse(text), source, problems)
    try:
        return composer.document()
    except _Stop:
        return None
    except YAMLError as error:
        place, message = _explained(error, composer.place)
        problems.add(place, message)
    except Exception as error:  # ruamel's scanner lets Python's own errors out, for example of an escape "\UFFFFFFFF"
        problems.add(composer.place, f"is no YAML after this place ({type(error).__name__})")
    return None


class _Stop(Exception):
    """The file is refused; reading on would cost time or say nothing more."""


class _Composer:
    """Builds nodes from the parser's events, which come one by one: a limit stops the parser too."""

    def __init__(self, events: Iterator[Event], source: str, problems: Problems) -> None:
        self.events = events
        self.source = source
        self.place = Place(source, 1, 1)
        self.problems = problems
        self.anchors: dict[str, tuple[Node, int]] = {}
        self.open_anchors: set[str] = set()
        self.values = 0

    def document(self) -> Node | None:
        node: Node | None = None
        for number, event in enumerate(self._documents()):
            if number:
                self._refuse(event, "a second document begins here; write one grid per file")
            if getattr(event, "version", None) not in (None, (1, 2)) or getattr(event, "tags", None):
                self._refuse(event, "%-directives are not read; a grid is YAML 1.2 without tags")
            node = self._node(self._next(), depth=0)
            self._next()  # the end of the document
        return node

    def _documents(self) -> Iterator[Event]:
        self._next()  # the start of the stream
        while type(event := self._next()).__name__ == "DocumentStartEvent":
            yield event

    def _next(self) -> Event:
        event = next(self.events)
        self.place = self._place_of(event)
        return event

    def _place_of(self, event: Event) -> Place:
        return Place(self.source, event.start_mark.line + 1, event.start_mark.column + 1)

    def _refuse(self, event: Event, message: str) -> None:
        self.problems.add(self._place_of(event), message)
        raise _Stop

    def _node(self, event: Any, depth: int) -> Node:
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self._alias(event)
        if depth > MAX_DEPTH:
            self._refuse(event, f"lists and mappings are nested more than {MAX_DEPTH} deep")
        before = self.values
        self._count(event, 1)
        place = self._place_of(event)
        if event.tag is not None:
            tag = shown(str(event.tag).replace("tag:yaml.org,2002:", "!!"))
            self.problems.add(place, f"the tag `{tag}` is not read; a grid is plain data")
        if event.anchor:
            self.open_anchors.add(event.anchor)
        node: Node
        if kind == "ScalarEvent":
            node = self._scalar(event, place)
        elif kind == "SequenceStartEvent":
            node = Items(place, list(self._items(depth)))
        else:
            node = self._fields(place, depth)
        if event.anchor:
            self.open_anchors.discard(event.anchor)
            self.anchors[event.anchor] = (node, self.values - before)
        return node

    def _count(self, event: Event, values: int) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            self._refuse(event, f"more than {MAX_VALUES:,} values, aliases counted as often as they are used")

    def _alias(self, event: Any) -> Node:
        if event.anchor in self.open_anchors:
            self._refuse(event, f"`*{shown(event.anchor)}` contains itself")
        if event.anchor not in self.anchors:
            self._refuse(event, f"`*{shown(event.anchor)}` stands for nothing: no `&{shown(event.anchor)}` before it")
        node, values = self.anchors[event.anchor]
        self._count(event, values)
        return node

    def _scalar(self, event: Any, place: Place) -> Value:
        if event.style is not None:
            return Value(place, event.value, event.value, quoted=True)
        if len(event.value) > MAX_DIGITS and looks_like_number(event.value):
            self.problems.add(place, f"a number of {len(event.value):,} digits")
            return Value(place, None, event.value)
        return Value(place, scalar(event.value), event.value)

    def _items(self, depth: int) -> Iterator[Node]:
        while type(event := self._next()).__name__ != "SequenceEndEvent":
            yield self._node(event, depth + 1)

    def _fields(self, place: Place, depth: int) -> Fields:
        read = Fields(place, {}, {})
        while type(event := self._next()).__name__ != "MappingEndEvent":
            key = self._node(event, depth + 1)
            value = self._node(self._next(), depth + 1)
            if not isinstance(key, Value):
                self.problems.add(key.place, "a key must be a word, found a list or a mapping")
            elif key.text == "<<" and not key.quoted:
                self.problems.add(key.place, "merge keys (`<<`) are not read; write the options out")
            elif key.text in read.fields:
                first = read.key_places[key.text]
                self.problems.add(
                    key.place, f"the key `{shown(key.text)}` is here twice (first in line {first.line}); keep one"
                )
            else:
                read.fields[key.text] = value
                read.key_places[key.text] = key.place
        return read


def _explained(error: Any, last: Place) -> tuple[Place, str]:
    """Place and words for an error of ruamel's scanner or parser."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = Place(last.source, mark.line + 1, mark.column + 1) if mark else last
    problem = getattr(error, "problem", None) or "is no YAML"
    if "'\\t'" in problem:
        return place, "a tab cannot stand here; use spaces"
    begun = getattr(error, "context_mark", None)
    context = getattr(error, "context", None)
    if context and begun and begun.line + 1 != place.line:
        return place, f"{shown(problem, 200)} ({context} that began in line {begun.line + 1})"
    return place, shown(problem, 200) + (f" ({context})" if context else "")


def _placed(node: Node, place: Place) -> Node:
    if isinstance(node, Items):
        return Items(place, [_placed(item, place) for item in node.items])
    if isinstance(node, Fields):
        fields = {key: _placed(item, place) for key, item in node.fields.items()}
        return Fields(place, fields, dict.fromkeys(fields, place))
    return Value(place, node.plain, node.text, node.quoted)


def _with(node: Node | None, path: Sequence[str], value: Node, walked: str) -> Node:
    """`node` with `value` at `path`; mappings on the way are made, a name on the way becomes `{name: …}`."""
    if not path:
        return value
    step, place = path[0], value.place
    here = f"{walked}.{step}" if walked else step
    if isinstance(node, Items):
        if not step.isdecimal() or int(step) >= len(node.items):
            last = len(node.items) - 1
            raise UserError(f"{place}: `{walked}` is a list; say which entry, {walked}.0 to {walked}.{last}")
        items = list(node.items)
        items[int(step)] = _with(items[int(step)], path[1:], value, here)
        return Items(node.place, items)
    if walked == "speed" and isinstance(node, Value):
        node = None  # `off` is no name, and makes way for what is set
    if isinstance(node, Value) and isinstance(node.plain, str):
        key = "profile" if walked.startswith("execution") else "name"
        node = Fields(node.place, {key: node}, {key: node.place})
    if node is None or (isinstance(node, Value) and node.plain is None):
        node = Fields(place, {}, {})
    if isinstance(node, Value):
        raise UserError(f"{place}: `{walked}` is `{shown(node.text)}`, and holds no `{shown(step)}`")
    changed = _with(node.fields.get(step), path[1:], value, here)
    return Fields(node.place, {**node.fields, step: changed}, {step: place, **node.key_places})
