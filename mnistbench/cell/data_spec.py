"""What a network must know of its data: shapes, classes, and how inputs were scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mnistbench.cell.checked import read_checked


@dataclass(frozen=True)
class DataSpec:
    """What a network must know of its data.

    Attributes:
        input_shape: of one example as a network gets it: `(1, 28, 28)` for images, `(8,)` for a table.
        classes: number of outputs; 1 stands for a single sigmoid output and a 0/1 label.
        mean, std: of the training images in [0, 1] units; 0 and 1 for tables.
        columns: names of a table's features in their order, where it has some.
        column_means, column_deviations: what was taken off each column, and what it was then divided by; empty where
            columns are as in the file.
    """

    name: str
    input_shape: tuple[int, ...]
    classes: int
    train_examples: int
    test_examples: int
    class_names: list[str] = field(default_factory=list)
    mean: float = 0.0
    std: float = 1.0
    columns: list[str] = field(default_factory=list)
    column_means: list[float] = field(default_factory=list)
    column_deviations: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "input_shape": list(self.input_shape)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> DataSpec:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: if something is missing, too much, or of another type.
        """
        return read_checked(cls, plain, "data")

    @property
    def is_image(self) -> bool:
        """Whether examples are pictures."""
        return len(self.input_shape) == 3
