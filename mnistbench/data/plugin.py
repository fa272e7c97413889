"""A dataset from a user's own function, given on the command line with `--plugin`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnistbench.axes.options import as_declared
from mnistbench.axes.plugins import same_folder
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data.arrays import Arrays, as_array, check, checksum, image_arrays, notes_on_repeats
from mnistbench.data.csv import MAX_CLASSES
from mnistbench.data.sources import Opened, Search, short_hash
from mnistbench.errors import UserError
from mnistbench.errors.problems import message_of, shown

EXPECTED = (
    "must return (train_inputs, train_labels, test_inputs, test_labels): images as uint8 [n, height, width] or rows as "
    "numbers [n, features], and labels as integers [n] from 0"
)


@dataclass(frozen=True)
class PluginSource:
    """A plug-in's function that returns arrays.

    Attributes:
        name: `module:function`.
        options: what the grid gives it.
    """

    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any]

    spec = None  # not known before the function is called

    def open(self, search: Search) -> Opened:
        """Call the function, and keep its arrays under their own checksum: what it reads may have changed."""
        search.say(f"making {self.name}")
        arrays = self._arrays()
        check(arrays)
        digest = checksum(arrays)
        name = short_hash([digest, arrays.spec.to_json()])  # equal arrays may have other names of classes
        entry = search.find_or_make(f"plugin-{name}", lambda: arrays)
        notes = tuple(f"{self.name}: {note}" for note in [*_notes_on_pixels(arrays), *notes_on_repeats(arrays)])
        return Opened(entry=entry, found_in=f"made by the plug-in {self.name}", sha256=digest, warnings=notes)

    def _arrays(self) -> Arrays:
        try:
            with same_folder():
                made = self.function(**as_declared(self.function, self.options))
            if isinstance(made, Arrays):
                return made
            if isinstance(made, tuple | list) and any(np.ma.is_masked(part) for part in made):
                raise UserError(f"dataset {self.name}: values are masked, and would be trained on: fill or drop them")
            if not isinstance(made, tuple | list) or len(made) != 4:
                of = f" of {len(made)}" if isinstance(made, tuple | list) else ""
                raise UserError(f"dataset {self.name}: {EXPECTED}; it returned {type(made).__name__}{of}")
            named = [columns for part in made[::2] if (columns := _names_of_columns(part)) is not None]
            if len(named) == 2 and named[0] != named[1]:
                raise UserError(
                    f"dataset {self.name}: the columns of the training and the test inputs differ or stand in another"
                    " order: take `test[train.columns]`"
                )
            parts = [as_array(part) for part in made]
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's function does, the user hears of it
            said = shown(" ".join(message_of(error).split()), longest=300)
            raise UserError(f"dataset {self.name}: failed: {type(error).__name__}: {said}") from error
        if not (_are_inputs(parts[0]) and _are_inputs(parts[2]) and _are_labels(parts[1]) and _are_labels(parts[3])):
            shapes = ", ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
            raise UserError(f"dataset {self.name}: {EXPECTED}; it returned {shapes}")
        train_inputs, train_labels, test_inputs, test_labels = parts
        together = np.concatenate([train_labels, test_labels])
        highest = int(together.max())
        if (together == highest).all():
            raise UserError(f"dataset {self.name}: every label is {highest}: there is nothing to learn")
        if highest >= MAX_CLASSES:
            raise UserError(
                f"dataset {self.name}: the labels go up to {highest:,}; they number the classes from 0, and at most"
                f" {MAX_CLASSES:,} are trained"
            )
        class_names = [str(number) for number in range(highest + 1)]
        if train_inputs.ndim == 3:
            return image_arrays(self.name, (train_inputs, train_labels), (test_inputs, test_labels), class_names)
        with np.errstate(over="ignore"):  # `check` says that numbers are not finite
            stored = train_inputs.astype(np.float32)
            if collapsed := _collapsed_columns(train_inputs, stored):
                raise UserError(
                    f"dataset {self.name}: columns {', '.join(map(str, collapsed[:10]))} (counted from 0) have one"
                    " value in all rows of the training part once they are float32 (7 digits), as networks take them;"
                    " rescale them (subtract their mean, divide by their deviation) or leave them out"
                )
            train_inputs, test_inputs = stored, test_inputs.astype(np.float32)
        return Arrays(
            train_inputs=train_inputs,
            train_labels=train_labels.astype(np.int64),
            test_inputs=test_inputs,
            test_labels=test_labels.astype(np.int64),
            spec=DataSpec(
                name=self.name,
                input_shape=train_inputs.shape[1:],
                classes=len(class_names),
                train_examples=len(train_labels),
                test_examples=len(test_labels),
                class_names=class_names,
                columns=_unambiguous(named[0]) if len(named) == 2 else [],
            ),
        )


def _notes_on_pixels(arrays: Arrays) -> list[str]:
    highest = int(arrays.train_inputs.max()) if arrays.spec.is_image else 255
    return [] if highest > 63 else [f"no pixel is above {highest}, and 255 is white: scale pixels to 0 … 255"]


def _names_of_columns(part: Any) -> list[Any] | None:
    """Of a frame of pandas or polars, or a table of Arrow's, whose `columns` are what they hold."""
    names = getattr(part, "column_names", getattr(part, "columns", None))
    return None if names is None else list(names)


def _unambiguous(names: list[Any]) -> list[str]:
    """The names, if a column can be found by each of them."""
    return names if len(set(names)) == len(names) and all(isinstance(name, str) for name in names) else []


def _collapsed_columns(given: npt.NDArray[Any], stored: npt.NDArray[np.float32]) -> list[int]:
    """Columns that tell rows apart, and no longer do in float32; one that is constant as given is the user's choice."""
    if not len(given):
        return []  # `check` says so
    varied, varies = ((part != part[0]).any(axis=0) for part in (given, stored))
    return [int(column) for column in np.flatnonzero(varied & ~varies & np.isfinite(stored[0]))]


def _are_inputs(part: npt.NDArray[Any]) -> bool:
    return (part.ndim == 3 and part.dtype == np.uint8) or (
        part.ndim == 2 and part.dtype.kind in "fiub" and part.shape[1] > 0
    )


def _are_labels(part: npt.NDArray[Any]) -> bool:
    return part.ndim == 1 and part.dtype.kind in "iub" and len(part) > 0
