"""Tables of numbers as datasets: how they are split, and the synthetic `sum3`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnistbench.cell.data_spec import DataSpec
from mnistbench.data.arrays import Arrays
from mnistbench.errors import UserError

SUM3_CLASSES = ["sum below 1", "sum from 1 to 2", "sum above 2"]


def sum3_arrays(rows: int, test_fraction: float, data_seed: int) -> Arrays:
    """Three features, uniform in [0, 1); the class tells whether their sum is below 1, from 1 to 2, or above 2.

    Raises:
        UserError: if a part would be empty.
    """
    random = np.random.RandomState(data_seed)  # the legacy generator: its streams never change
    inputs = random.uniform(size=(rows, 3)).astype(np.float32)
    total = inputs.sum(axis=1)
    labels = (total >= 1).astype(np.int64) + (total > 2)
    train = np.arange(rows - held_out_rows(rows, test_fraction, "sum3"))
    return table_arrays("sum3", inputs, labels, SUM3_CLASSES, train=train, test=np.arange(len(train), rows))


def held_out_rows(rows: int, fraction: float, source: str) -> int:
    """How many rows to test on.

    Raises:
        UserError: if a part would be empty.
    """
    test = round(rows * fraction)
    if not 1 <= test < rows:
        raise UserError(
            f"{source}: test_fraction {fraction:g} of {rows} rows leaves {test} to test on and {rows - test} to train "
            "on; both parts need one at least"
        )
    return test


def stratified(
    order: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], fraction: float, source: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of training and test rows, each class split alike; one row of each class at least is trained on.

    Args:
        order: a permutation of the rows.
        labels: of the rows.
        fraction: of each class, to test on.
        source: the file's name, for messages.

    Raises:
        UserError: if no row is left to test on.
    """
    tested = np.zeros(len(order), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        tested[members[: min(round(len(members) * fraction), len(members) - 1)]] = True
    if not tested.any():
        raise UserError(f"{source}: test_fraction {fraction:g} of each class leaves no row to test on")
    return order[~tested], order[tested]


def table_arrays(
    name: str,
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    class_names: list[str],
    *,
    train: npt.NDArray[np.int64],
    test: npt.NDArray[np.int64],
    classes: int | None = None,
) -> Arrays:
    """Split a table.

    Args:
        inputs: [rows, features].
        labels: [rows].
        train, test: places of the rows of each part.
        classes: outputs of a network for it, if not one for each name.
    """
    return Arrays(
        train_inputs=inputs[train],
        train_labels=labels[train],
        test_inputs=inputs[test],
        test_labels=labels[test],
        spec=DataSpec(
            name=name,
            input_shape=(inputs.shape[1],),
            classes=len(class_names) if classes is None else classes,
            train_examples=len(train),
            test_examples=len(test),
            class_names=class_names,
        ),
    )
