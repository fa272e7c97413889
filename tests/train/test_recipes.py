"""The eight recipes of the tutorials, each trained for real, cut short: all the way from its grid file to a record."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnistbench import Grid, run_grid
from mnistbench.cell import Component
from mnistbench.results.records import CellRecord

pytestmark = pytest.mark.slow

GRIDS = Path(__file__).parents[2] / "mnistbench" / "grid" / "ready"


def trained(name: str, epochs: int, out: Path, *overrides: str) -> CellRecord:
    """The record of the recipe's first seed after so many epochs."""
    grid = Grid.load(
        GRIDS / f"{name}.yaml", overrides=[f"training.epochs={epochs}", "seeds=[0]", "speed=off", *overrides]
    )
    summary = run_grid(grid, out=out, tracking=False)
    (record,) = summary.results.records()
    assert record.status == "finished", record.error
    return record


@pytest.mark.parametrize(
    ("name", "epochs", "least_accuracy", "gate"),
    [
        ("mlp_sigmoid_sgd", 1, 0.75, "passed"),
        ("mlp_momentum", 1, 0.8, "passed"),
        ("lenet_fashion", 2, 0.35, "passed"),  # its sigmoids need an epoch to leave the plateau
        ("lenet_rmsprop_8192", 2, 0.5, "passed"),
        ("cnn_dropout", 1, 0.7, "equivalent up to masks"),
    ],
)
def test_an_image_recipe_learns(
    name: str,
    epochs: int,
    least_accuracy: float,
    gate: str,
    tmp_path: Path,
    digit_images: Component,
    request: pytest.FixtureRequest,
) -> None:
    """Half as well will do where digits stand in, which are many variants of few originals."""
    overrides = ["training.validation_examples=50000"] if name == "cnn_dropout" else []  # a sixth of its training
    if name == "lenet_fashion":  # two epochs of digits leave its sigmoids on the plateau
        request.getfixturevalue("fashion_dir")
    elif digit_images.name == "digits":
        overrides, least_accuracy = [*overrides, "dataset=digits"], least_accuracy / 2
    record = trained(name, epochs, tmp_path / "out", *overrides)
    assert record.epochs[-1].test_accuracy is not None
    assert record.epochs[-1].test_accuracy > least_accuracy
    assert record.epochs[-1].examples == (10_000 if name == "cnn_dropout" else 60_000)
    assert record.checks["equivalence"] == gate


@pytest.mark.parametrize(
    ("name", "epochs", "examples"),
    [("sum3_full_batch", 200, 7_000), ("table_full_batch", 200, 490), ("table_mini_batch", 40, 490)],
)
def test_the_loss_of_a_table_recipe_falls(name: str, epochs: int, examples: int, tmp_path: Path) -> None:
    record = trained(name, epochs, tmp_path / "out")
    losses = [epoch.train_loss for epoch in record.epochs]
    assert all(loss is not None for loss in losses)
    assert losses[-1] < 0.95 * losses[0]  # type: ignore[operator]
    assert record.epochs[-1].examples == examples
    assert not record.checks["equivalence"].startswith("failed")
