"""Prepared data as every worker sees it: four arrays, and a description of them. Imports numpy alone."""

from __future__ import annotations

import hashlib
import json
import numbers
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistbench.cell.data_spec import DataSpec
from mnistbench.errors import UserError

ARRAY_NAMES = ("train_inputs", "train_labels", "test_inputs", "test_labels")
DESCRIPTION = "entry.json"


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A dataset in memory, or mapped into it.

    Attributes:
        train_inputs, test_inputs: uint8 [n, 28, 28] for images, float32 [n, features] for tables.
        train_labels, test_labels: int64 [n], from 0 up to the number of classes.
        notes: what looked unintended when it was made, for the user; `load` leaves them out.
    """

    train_inputs: npt.NDArray[Any]
    train_labels: npt.NDArray[np.int64]
    test_inputs: npt.NDArray[Any]
    test_labels: npt.NDArray[np.int64]
    spec: DataSpec
    notes: tuple[str, ...] = ()

    def items(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """The four arrays with their names, in the order in which they are stored and hashed."""
        for name in ARRAY_NAMES:
            yield name, getattr(self, name)


def image_arrays(
    name: str,
    train: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
    test: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
    class_names: list[str],
) -> Arrays:
    """Describe images [n, height, width] and their labels [n]; mean and std come from the training images."""
    # A histogram of 256 values gives the exact moments; in parts, since bincount copies its input to 8 bytes a pixel.
    counts = np.zeros(256, np.int64)
    for start in range(0, len(train[0]), 1000):
        counts += np.bincount(train[0][start : start + 1000].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    mean = float((counts * values).sum() / max(counts.sum(), 1))
    std = float(np.sqrt((counts * (values - mean) ** 2).sum() / max(counts.sum(), 1)))
    return Arrays(
        train_inputs=train[0],
        train_labels=train[1].astype(np.int64),
        test_inputs=test[0],
        test_labels=test[1].astype(np.int64),
        spec=DataSpec(
            name=name,
            input_shape=(1, *train[0].shape[1:]),
            classes=len(class_names),
            train_examples=len(train[0]),
            test_examples=len(test[0]),
            class_names=class_names,
            mean=round(mean, 4),  # as the field writes them: 0.1307 and 0.3081 for MNIST
            std=round(std, 4),
        ),
    )


def as_array(part: Any) -> npt.NDArray[Any]:
    """What numpy makes of it, but numbers where these are objects, as in a pandas frame of columns of several types."""
    array = np.asarray(part)
    are_numbers = (
        array.dtype == object and array.ndim == 2 and all(isinstance(cell, numbers.Real) for cell in array.flat)
    )
    return array.astype(np.float64) if are_numbers else array


def check(arrays: Arrays, *, values: bool = True) -> None:
    """Compare arrays with their description.

    Args:
        values: False looks at types and shapes alone, and reads no page of arrays that are mapped.

    Raises:
        UserError: if a part is empty, of another type or shape, holds a label out of range or a number that is not
            finite; all that is wrong at once.
    """
    spec, wrong = arrays.spec, []
    shape, dtype = (spec.input_shape[1:], np.uint8) if spec.is_image else (spec.input_shape, np.float32)
    for part, expected in (("train", spec.train_examples), ("test", spec.test_examples)):
        inputs, labels = getattr(arrays, f"{part}_inputs"), getattr(arrays, f"{part}_labels")
        if expected < 1:
            wrong.append(f"the {part} part is empty")
            continue
        if inputs.shape != (expected, *shape) or inputs.dtype != dtype:
            wrong.append(
                f"{part} inputs are {inputs.dtype} {list(inputs.shape)}, "
                f"expected {np.dtype(dtype)} {[expected, *shape]}"
            )
        elif values and inputs.dtype == np.float32 and not np.isfinite(inputs).all():
            row, column = np.argwhere(~np.isfinite(inputs))[0]
            wrong.append(
                f"{part} inputs hold numbers that are not finite, the first in row {row}, column {column} (from 0)"
            )
        if labels.shape != (expected,) or labels.dtype != np.int64:
            wrong.append(f"{part} labels are {labels.dtype} {list(labels.shape)}, expected int64 {[expected]}")
        elif values and (labels.min() < 0 or labels.max() >= max(spec.classes, 2)):
            wrong.append(
                f"{part} labels run from {labels.min()} to {labels.max()}, expected 0 to {max(spec.classes, 2) - 1}"
            )
    if wrong:
        raise UserError(f"{spec.name}: " + "; ".join(wrong))


def notes_on_labels(arrays: Arrays) -> list[str]:
    """Lines for the user about classes that cannot be learned: never trained, or nowhere at all."""
    classes = max(arrays.spec.classes, 2)
    names = arrays.spec.class_names or [str(number) for number in range(classes)]
    trained, tested = (np.bincount(part, minlength=classes) > 0 for part in (arrays.train_labels, arrays.test_labels))
    notes = []
    if untrained := [names[place] for place in np.flatnonzero(tested & ~trained)]:
        notes.append(
            f"{arrays.spec.name}: no training example is of class {listed(untrained)}, and test examples are: they"
            " will be taken for others"
        )
    nowhere = np.flatnonzero(~tested & ~trained)
    if nowhere.tolist() == [0]:
        notes.append(
            f"{arrays.spec.name}: labels count from 1 to {classes - 1}: class 0 never occurs, and its output is trained"
            " for nothing; subtract 1 from the labels"
        )
    elif len(nowhere):
        notes.append(f"{arrays.spec.name}: no example at all is of class {listed([names[place] for place in nowhere])}")
    return notes


def notes_on_repeats(arrays: Arrays) -> list[str]:
    """A line where one test example in a hundred, or more, was trained on, label included."""
    trained, tested = (
        [hash((example.tobytes(), int(label))) for example, label in zip(inputs, labels, strict=True)]
        for inputs, labels in (
            (arrays.train_inputs, arrays.train_labels),
            (arrays.test_inputs, arrays.test_labels),
        )
    )
    seen = set(trained)
    repeated = sum(example in seen for example in tested)
    if not repeated or repeated < len(tested) / 100:
        return []
    return [
        f"{repeated:,} of {len(tested):,} test examples stand in the training part too, label included: the accuracy on"
        " them is that of examples seen before"
    ]


def listed(names: list[str], most: int = 5) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name[:40]}`" for name in names[:most]) + more


def checksum(arrays: Arrays) -> str:
    """SHA-256 over names, types, shapes and bytes of the four arrays."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def load(directory: Path) -> Arrays:
    """Map a prepared dataset into memory; pages are read when they are touched.

    Args:
        directory: of a `PreparedData`.

    Raises:
        UserError: if the folder is gone, or not whole.
    """
    try:
        spec = DataSpec.from_json(json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))["spec"])
        mapped = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in ARRAY_NAMES}
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(f"prepared data cannot be read ({error}): run `mnistbench data` to see what is there") from None
    return Arrays(**mapped, spec=spec)
