"""The grid reader against inputs that nobody would write: a grid or a clear error, and never anything else.

About 2,500 inputs are tried in each run; `HYPOTHESIS_MAX_EXAMPLES` multiplies that.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnistbench.cell import Component
from mnistbench.errors import UserError
from mnistbench.errors.problems import Place
from mnistbench.grid.grid import Grid
from mnistbench.grid.select import select
from mnistbench.grid.yaml import read_document

ROOT = Path(__file__).parents[2]
TIMES = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "1"))
SHIPPED = [
    path.read_text(encoding="utf-8") for path in [ROOT / "grid.yaml", *(ROOT / "mnistbench/grid/ready").glob("*.yaml")]
]
PLACE = re.compile(r"(fuzz\.yaml(:\d+:\d+)?|--set .*?|and \d+ more$)(: .+)?", re.DOTALL)


def tries(count: int) -> settings:
    return settings(max_examples=count * TIMES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def answer(text: str, *overrides: str) -> Grid | None:
    """The grid, or None after checking that each line of the error has a place and is printable."""
    try:
        grid = Grid.from_text(text, source="fuzz.yaml", overrides=overrides)
    except UserError as error:
        for line in str(error).split("\n"):
            assert PLACE.fullmatch(line), line
            assert line.isprintable(), line
            assert len(line) < 2000
        return None
    assert 0 < grid.count() <= grid.max_cells
    return grid


WORDS = """
name dataset architectures optimizers batch_sizes devices seeds training execution exclude include tune twins mnist
fallback digits csv path mlp lenet5 hidden sgd adam lr momentum betas schedule cosine full auto cpu cuda epochs loss nll
target_accuracy fast plain profile precision learning_rates trials speed cycles off os:system my:Net <<
"""
words = st.sampled_from(WORDS.split())
numbers = st.one_of(
    st.sampled_from(["0", "1", "64", "064", "-1", "1e-3", ".nan", ".inf", "1e999", "12:30", "0x1F", "9" * 200]),
    st.integers().map(str),
    st.floats().map(repr),
)
punctuation = st.sampled_from(
    [*"[]{},:-?|>&*!%@`'\"#\n\t ", "\n  ", ": ", "- ", "!!python/name:os.system ", "&a ", "*a"]
)
pieces = st.lists(st.one_of(words, numbers, punctuation, st.text(max_size=3)), max_size=60).map("".join)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70_000), st.floats(), st.text(max_size=12), words, st.integers()
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)
GOOD: dict[str, object] = {
    "name": "small",
    "dataset": {"name": "mnist", "fallback": "digits"},
    "architectures": ["mlp", {"name": "lenet5", "pool": ["max", "average"]}],
    "optimizers": [
        {"name": "sgd", "lr": [0.1, 0.2], "schedule": {"name": "cosine"}},
        {"name": "adam", "betas": [0.9, 0.9]},
    ],
    "batch_sizes": [64, "full"],
    "training": {"epochs": 1},
    "devices": ["cpu", "cuda"],
    "seeds": [0, 1],
    "speed": {"cycles": 16},
    "execution": ["plain", {"profile": "fast", "precision": ["fp32", "bf16"]}],
    "exclude": [
        {"architecture": "mlp", "batch_size": [64, "full"], "seed": 0},
        {"optimizer": {"name": "sgd", "lr": 0.1}},
    ],
    "include": [{"architecture": "cnn", "optimizer": "adam", "batch_size": 32, "seed": 7}],
}


@st.composite
def documents(draw: st.DrawFn) -> object:
    """A good grid in which some values, at any depth, are others."""
    document: object = GOOD
    for _ in range(draw(st.integers(0, 3))):
        document = _changed(draw, document)
    return document


def _changed(draw: st.DrawFn, node: object) -> object:
    if isinstance(node, dict) and node and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(node)))
        return {**node, key: _changed(draw, node[key])}
    if isinstance(node, list) and node and draw(st.integers(0, 9)):
        place = draw(st.integers(0, len(node) - 1))
        return [*node[:place], _changed(draw, node[place]), *node[place + 1 :]]
    return draw(st.one_of(trees, words, st.just(GOOD)))


def as_yaml(document: object) -> str:
    """Flow style, the way JSON is YAML; numbers that JSON lacks in YAML's own words."""
    if isinstance(document, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(value)}" for key, value in document.items()) + "}"
    if isinstance(document, list):
        return "[" + ", ".join(map(as_yaml, document)) + "]"
    if isinstance(document, str):
        return "'" + "".join(c for c in document if c.isprintable()).replace("'", "''") + "'"
    return (
        {None: "null", True: "true", False: "false"}[document] if isinstance(document, bool | None) else repr(document)
    )


@tries(500)
@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    answer(text)


@tries(600)
@given(pieces)
def test_any_pieces_of_grids_are_answered(text: str) -> None:
    answer(text)


@tries(300)
@given(documents())
def test_any_document_is_answered(document: object) -> None:
    answer(as_yaml(document))


@tries(350)
@given(st.sampled_from(SHIPPED), st.data())
def test_a_shipped_grid_with_a_damaged_place_is_answered(text: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 20)))
    answer(text[:begin] + data.draw(pieces) + text[end:])


@tries(250)
@given(st.sampled_from(SHIPPED), st.integers(0))
def test_a_truncated_grid_is_answered(text: str, length: int) -> None:
    answer(text[: length % len(text)])


@tries(120)
@given(st.lists(st.tuples(words, words, pieces), max_size=2))
def test_any_override_is_answered(parts: list[tuple[str, str, str]]) -> None:
    answer(SHIPPED[0], *(f"{first}.{second}={value}" for first, second, value in parts))
    answer(SHIPPED[0], *(f"{first}={value}" for first, _, value in parts))


@tries(200)
@given(st.binary())
def test_any_file_is_answered(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.yaml"
        path.write_bytes(content)
        try:
            Grid.load(path)
        except UserError as error:
            assert str(error).startswith(str(path))
        assert [item.name for item in Path(folder).iterdir()] == ["fuzz.yaml"]
        assert path.read_bytes() == content


@tries(120)
@given(st.lists(st.one_of(pieces, st.tuples(words, pieces).map("=".join)), min_size=1, max_size=3))
def test_any_selection_is_answered(only: list[str]) -> None:
    cells = Grid.from_text(SHIPPED[0]).cells(Component(name="mnist"), 60_000, ["cpu"])[:3]
    try:
        assert select(cells, only)
    except UserError as error:
        assert str(error).isprintable() or "\n" in str(error)


@tries(120)
@given(st.recursive(st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner)))
def test_every_value_knows_where_it_stands(document: object) -> None:
    """Each place found for a text is one where the text's first character, or its quote, really is."""
    text = as_yaml_keys_quoted(document)
    lines = text.split("\n")
    todo = [read_document(text, "fuzz.yaml")]
    while todo:
        node = todo.pop()
        assert isinstance(node.place, Place)
        assert lines[node.place.line - 1][node.place.column - 1] in "'[{"
        todo += getattr(node, "items", []) or list(getattr(node, "fields", {}).values())


def as_yaml_keys_quoted(document: object) -> str:
    if isinstance(document, dict):
        whole = {as_yaml(key): as_yaml_keys_quoted(value) for key, value in document.items()}
        return "{" + ",\n ".join(f"{key}: {value}" for key, value in whole.items()) + "}"
    if isinstance(document, list):
        return "[" + ",\n ".join(map(as_yaml_keys_quoted, document)) + "]"
    return as_yaml(document)
