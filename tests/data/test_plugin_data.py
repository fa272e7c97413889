"""A dataset from a user's own module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnistbench.axes.plugins import Plugins, load_plugins
from mnistbench.cell import Component
from mnistbench.data import datasets
from mnistbench.errors import UserError

MODULE = '''
import numpy as np

def rings(rows: int = 300, noise: float = 0.1):
    """Two rings, one inside the other."""
    random = np.random.RandomState(0)
    labels = random.randint(0, 2, rows)
    angle = random.uniform(0, 2 * np.pi, rows)
    radius = 1 + labels + random.normal(0, noise, rows)
    inputs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    cut = rows * 2 // 3
    return inputs[:cut], labels[:cut], inputs[cut:], labels[cut:]

def bars():
    images = np.zeros((20, 28, 28), np.uint8)
    labels = np.arange(20) % 2
    images[labels == 0, 14] = 255
    images[labels == 1, :, 14] = 255
    return images[:10], labels[:10], images[10:], labels[10:]

def fails(): return 1 / 0
def leaves(): raise SystemExit(3)
def nothing(): return None
def three(): return [1], [2], [3]
def text_labels(): return np.zeros((2, 3)), np.array(["a", "b"]), np.zeros((1, 3)), np.array(["a"])
def one_class(): return np.zeros((2, 3)), np.array([0, 0]), np.zeros((1, 3)), np.array([0])
def from_one(): return np.eye(3), np.array([1, 2, 3]), np.eye(3)[:1], np.array([3])
def gap(): return np.eye(3), np.array([0, 1, 3]), np.eye(3)[:1], np.array([3])
def untrained(): return np.eye(2), np.array([0, 1]), np.eye(2)[:1], np.array([2])
def years(): return np.eye(2), np.array([1999, 2001]), np.eye(2)[:1], np.array([1999])
def negative(): return np.zeros((2, 3)), np.array([0, -1]), np.zeros((1, 3)), np.array([0])
def unequal(): return np.zeros((2, 3)), np.array([0, 1, 1]), np.zeros((1, 3)), np.array([0])
def not_finite(): return np.full((2, 3), np.nan), np.array([0, 1]), np.zeros((1, 3)), np.array([0])
def overflowing(): return np.array([[1e300], [1.0]]), np.array([0, 1]), np.zeros((1, 1)), np.array([0])
def collapsing():
    inputs = np.array([[0.0, 1e15 + row, row * 1e-320, row, 7.0] for row in range(4)])
    return inputs[:2], np.array([0, 1]), inputs[2:], np.array([0, 1])
def masked(): return np.ma.masked_array(np.eye(3), mask=np.eye(3)), np.array([0, 1, 1]), np.eye(3)[:1], np.array([0])
def no_columns(): return np.zeros((2, 0)), np.array([0, 1]), np.zeros((1, 0)), np.array([0])
class Mute(Exception):
    def __str__(self): raise RuntimeError
def mute(): raise Mute
def talkative(): raise ValueError("two\\nlines \\x1b[31m\\u2028")
def varied_in_the_test_part():
    inputs = np.array([[1e15 + row, row] for row in range(4)])
    return inputs[:2], np.array([0, 1]), np.array([[5.0, 1.0]]), np.array([0])
def large_integers(): return np.array([[10**15], [10**15 + 1]]), np.array([0, 1]), np.array([[10**15]]), np.array([0])
def keras(): return (np.eye(3), np.array([0, 1, 1])), (np.eye(3)[:2], np.array([0, 1]))
def one_nan(): return np.array([[1, 2], [3, np.nan]]), np.array([0, 1]), np.eye(2), np.array([0, 1])
def other_order():
    import pandas as pd
    train, test = pd.DataFrame(np.eye(3), columns=list("abc")), pd.DataFrame(np.eye(3), columns=list("cab"))
    return train, np.array([0, 1, 1]), test, np.array([0, 1, 1])
def shares(): return np.ones((4, 4, 4), np.uint8), np.arange(4) % 2, np.zeros((2, 4, 4), np.uint8), np.arange(2)
def seen_before(): return np.eye(4), np.arange(4) % 2, np.eye(4)[:2], np.arange(2)
def dark():
    images = np.arange(64, dtype=np.uint8).reshape(4, 4, 4) // 4
    return images[:2], np.arange(2), images[2:], np.arange(2)
def is_high(): return rings()[0] > 0, rings()[1] == 1, rings()[2] > 0, rings()[3] == 1
def of_several_types():
    import pandas as pd
    frame = pd.DataFrame({"a": np.arange(4) / 3, "b": np.arange(4) > 1, "c": np.arange(4)}).astype({"c": "Int64"})
    return frame[:2], np.arange(2), frame[2:], np.arange(2)
def of_arrow():
    import pyarrow
    table = pyarrow.table({"a": [0.5, 1.0], "b": [3.0, 2.0]})
    return table, np.arange(2), table.slice(1), np.zeros(1, int)
def of_arrow_in_another_order():
    table = of_arrow()[0]
    return table, np.arange(2), table.select(["b", "a"]), np.arange(2)
def of_texts(): return np.array([["1.5"], ["2.5"]], object), np.arange(2), np.eye(1), np.zeros(1, int)
def named(*names):
    from mnistbench.data.tables import table_arrays
    rows = np.arange(4)
    return table_arrays("own", np.eye(4, dtype=np.float32), rows % 2, list(names), train=rows[:2], test=rows[2:])
def named_a(): return named("a", "b")
def named_x(): return named("x", "y")
def from_one_again(): return from_one()
def constant(): return np.array([[7.0, 1], [7, 2]]), np.array([0, 1]), np.array([[7.0, 3]]), np.array([0])
def ragged(): return [[1], [2, 3]], [0, 1], [[1]], [0]
def empty(): return np.zeros((0, 3)), np.zeros(0, int), np.zeros((1, 3)), np.array([0])
'''


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def plugins(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Plugins:
    name = f"my_data_{abs(hash(request.node.name))}"
    path = tmp_path_factory.mktemp("plugin") / f"{name}.py"
    path.write_text(MODULE)
    return load_plugins([str(path)])


def prepare(plugins: Plugins, function: str, **options: object) -> datasets.PreparedData:
    (module,) = plugins.modules
    return datasets.prepare(Component(name=f"{module}:{function}", options=options), plugins=plugins)


def test_rows_of_numbers_become_a_table(plugins: Plugins) -> None:
    prepared = prepare(plugins, "rings", rows=90)
    assert prepared.spec.input_shape == (2,)
    assert (prepared.spec.classes, prepared.spec.train_examples, prepared.spec.test_examples) == (2, 60, 30)
    assert datasets.load(prepared.directory).train_inputs.dtype == np.float32


def test_images_become_images(plugins: Plugins) -> None:
    prepared = prepare(plugins, "bars")
    assert prepared.spec.input_shape == (1, 28, 28)
    assert prepared.spec.mean == pytest.approx(1 / 28, abs=1e-4)


def test_the_component_carries_the_checksum_of_the_arrays(plugins: Plugins) -> None:
    """What the function reads may change while its source does not."""
    first, other = prepare(plugins, "rings"), prepare(plugins, "rings", noise=0.2)
    assert first.component.sha256 == first.sha256 != other.sha256


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("fails", "failed: ZeroDivisionError"),
        ("leaves", "failed: SystemExit: 3"),
        ("nothing", "it returned NoneType"),
        ("three", "must return"),
        ("text_labels", "it returned float64"),
        ("negative", "train labels run from -1 to 0"),
        ("one_class", "every label is 0: there is nothing to learn"),
        ("years", "the labels go up to 2,001"),
        ("unequal", "train"),
        ("not_finite", "not finite"),
        ("one_nan", "not finite, the first in row 1, column 1"),
        ("keras", "it returned tuple of 2$"),
        ("other_order", "the columns of the training and the test inputs differ or stand in another order"),
        ("of_arrow_in_another_order", "differ or stand in another order"),
        ("of_texts", "it returned object"),
        ("overflowing", "not finite"),
        ("collapsing", r"columns 1, 2 \(counted from 0\) have one value in all rows of the training part.*rescale"),
        ("masked", "values are masked, and would be trained on"),
        ("no_columns", r"it returned float64 \[2, 0\]"),
        ("mute", r"failed: Mute: its message cannot be read"),
        ("talkative", r"failed: ValueError: two lines \\x1b\[31m$"),
        ("varied_in_the_test_part", r"columns 0 \(counted"),
        ("large_integers", r"columns 0 \(counted"),
        ("ragged", "failed: ValueError"),
        ("empty", "must return"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(plugins: Plugins, function: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        prepare(plugins, function)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        ("is_high", None),
        ("of_several_types", [[0, 0, 0], [1 / 3, 0, 1]]),
        ("of_arrow", [[0.5, 3], [1, 2]]),
    ],
)
def test_frames_of_several_types_truth_values_and_arrow_are_numbers(
    plugins: Plugins, function: str, inputs: list[list[float]] | None
) -> None:
    """`pandas.get_dummies` makes columns of truth values beside those of numbers."""
    arrays = datasets.load(prepare(plugins, function).directory)
    rings = datasets.load(prepare(plugins, "rings").directory)
    np.testing.assert_array_equal(arrays.train_inputs, np.float32(inputs if inputs else rings.train_inputs > 0))
    if not inputs:
        np.testing.assert_array_equal(arrays.train_labels, rings.train_labels)


def test_columns_of_frames_have_their_names(plugins: Plugins) -> None:
    """A kept model finds the columns of a frame by them."""
    assert prepare(plugins, "of_several_types").spec.columns == ["a", "b", "c"]
    assert prepare(plugins, "rings").spec.columns == []


def test_equal_arrays_of_two_functions_keep_their_own_names(plugins: Plugins) -> None:
    """They lay under one entry of the cache, which had the names that the first function gave."""
    assert [prepare(plugins, name).spec.class_names for name in ("named_a", "named_x")] == [["a", "b"], ["x", "y"]]
    for name in ("from_one", "from_one_again"):
        (note,) = [note for note in prepare(plugins, name).warnings if "count from 1" in note]
        assert f":{name}: " in note


def test_a_column_that_is_constant_as_given_is_the_users_choice(plugins: Plugins) -> None:
    assert prepare(plugins, "constant").spec.input_shape == (2,)


@pytest.mark.parametrize(
    ("function", "warning"),
    [
        ("from_one", "labels count from 1 to 3: class 0 never occurs, and its output is trained for nothing"),
        ("gap", "no example at all is of class `2`"),
        ("untrained", "no training example is of class `2`, and test examples are"),
        ("shares", "no pixel is above 1, and 255 is white: scale pixels to 0 … 255"),
        ("dark", "no pixel is above 7, and 255 is white: scale pixels to 0 … 255"),
        ("seen_before", "2 of 2 test examples stand in the training part too"),
    ],
)
def test_what_cannot_be_learned_or_is_known_is_pointed_out(plugins: Plugins, function: str, warning: str) -> None:
    """Each time the data is used, not only when it is made."""
    for _ in range(2):
        (said,) = prepare(plugins, function).warnings
        assert warning in said
    assert prepare(plugins, "rings").warnings == ()


def test_without_the_flag_nothing_is_imported() -> None:
    with pytest.raises(UserError, match="--plugin my_data"):
        datasets.prepare(Component(name="my_data:rings"))
