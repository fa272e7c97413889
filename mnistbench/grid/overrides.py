"""`--set training.epochs=1`: changes to a grid file from the command line, made before it is checked."""

from __future__ import annotations

from collections.abc import Sequence

from mnistbench.errors import UserError
from mnistbench.errors.problems import Place, shown
from mnistbench.grid.yaml import Fields, Items, Node, Value, read_document


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
    if isinstance(node, Value) and isinstance(node.plain, str):
        key = "profile" if walked.startswith("execution") else "name"
        node = Fields(node.place, {key: node}, {key: node.place})
    if node is None or (isinstance(node, Value) and node.plain is None):
        node = Fields(place, {}, {})
    if isinstance(node, Value):
        raise UserError(f"{place}: `{walked}` is `{shown(node.text)}`, and holds no `{shown(step)}`")
    changed = _with(node.fields.get(step), path[1:], value, here)
    return Fields(node.place, {**node.fields, step: changed}, {step: place, **node.key_places})
