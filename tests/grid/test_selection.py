"""`--only` and `--shard` choose cells, and say so when they choose none."""

from __future__ import annotations

import random

import pytest

from mnistbench.cell import Cell, Component
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.grid.select import select, shard

TEXT = """
name: all
dataset: mnist
architectures: [{name: mlp, hidden: [[8], [8, 4]]}, lenet5]
optimizers: [{name: sgd, lr: [0.01, 0.1]}, {name: adam, schedule: cosine}]
batch_sizes: [64, 512, 8192]
seeds: [0, 1]
twins: 1
training: {epochs: 1}
execution: [plain, {profile: fast, precision: bf16}]
"""


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return Grid.from_text(TEXT).cells(Component(name="mnist"), 60_000, ["cpu", "cuda"])


@pytest.mark.parametrize(
    ("only", "share"),
    [
        (["architecture=lenet5"], 1 / 3),
        (["architecture=mlp"], 2 / 3),
        (["architecture=mlp(hidden=8-4)"], 1 / 3),
        (["architecture.hidden=[8, 4]"], 1 / 3),
        (["architecture.hidden=8-4"], 1 / 3),
        (["optimizer=sgd"], 2 / 3),
        (["optimizer=sgd(lr=0.1)"], 1 / 3),
        (["optimizer.lr=0.01"], 1 / 3),
        (["optimizer.lr=1e-2..0.1"], 2 / 3),
        (["optimizer.lr=..0.01"], 2 / 3),
        (["schedule=cosine"], 1 / 3),
        (["batch_size=64..512"], 2 / 3),
        (["batch_size=512.."], 2 / 3),
        (["batch_size=64,8192"], 2 / 3),
        (["batch_size=064"], 1 / 3),
        (["batch_size=64", "batch_size=8192"], 2 / 3),
        (["batch_size=64", "architecture=lenet5"], 1 / 9),
        (["device=cuda"], 1 / 2),
        (["seed=1"], 1 / 2),
        (["execution=plain"], 1 / 2),
        (["execution=fast(precision=bf16)"], 1 / 2),
        (["execution.precision=fp32"], 1 / 2),
        (["training.shuffle=true"], 1),
        (["training.target_accuracy=null"], 1),
        (["dataset=mnist"], 1),
        ([" batch_size = 64 "], 1 / 3),
        ([], 1),
    ],
)
def test_conditions_choose_their_share(cells: list[Cell], only: list[str], share: float) -> None:
    originals = [cell for cell in cells if cell.repeat == 0]
    assert len(originals) == 3 * 3 * 3 * 2 * 2 * 2
    assert len(select(originals, only)) == round(share * len(originals))


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (["architecture=lenet"], "--only architecture=lenet: no cell has it; did you mean `lenet5`?"),
        (["architecture=cnn"], "no cell has it; there are lenet5, mlp"),
        (["batch_size=65"], "no cell has it; there are 64, 512, 8192"),
        (["batch_size=100..500"], "no cell has it"),
        (["batch_size=512..64"], "no cell has it"),
        (["architectures=mlp"], "unknown key `architectures`; did you mean `architecture`?"),
        (["lr=0.1"], "unknown key `lr`"),
        (["optimizer.lrr=0.1"], "did you mean `optimizer.lr`?"),
        (["mlp"], "write KEY=VALUE, such as architecture=lenet5"),
        (["=mlp"], "write KEY=VALUE"),
        (["architecture="], "write KEY=VALUE"),
        (["architecture=lenet5", "architecture.hidden=8"], "no cell has all of these"),
    ],
)
def test_choosing_nothing_is_an_error(cells: list[Cell], only: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        select(cells, only)
    assert message in str(caught.value)


def test_shards_are_a_partition_that_keeps_the_seeds_and_twins_of_a_setting_together(cells: list[Cell]) -> None:
    parts = [shard(cells, index, 5) for index in range(1, 6)]
    assert sorted(cell.cell_id for part in parts for cell in part) == sorted(cell.cell_id for cell in cells)
    assert all(len(part) > len(cells) / 10 for part in parts)
    where = {cell.without_seed(): number for number, part in enumerate(parts) for cell in part}
    assert [cell.repeat for cell in cells].count(1) > 1
    for number, part in enumerate(parts):
        assert all(where[cell.without_seed()] == number for cell in part)


def test_a_shard_stays_when_the_grid_is_reordered_or_grows(cells: list[Cell]) -> None:
    mixed = random.Random(0).sample(cells, len(cells))
    part = {cell.cell_id for cell in shard(cells, 2, 5)}
    assert {cell.cell_id for cell in shard(mixed, 2, 5)} == part
    assert {cell.cell_id for cell in shard(cells[:50], 2, 5)} == part & {cell.cell_id for cell in cells[:50]}


@pytest.mark.parametrize(("index", "of"), [(0, 5), (6, 5), (-1, 5), (1, 0)])
def test_a_shard_that_is_none_is_refused(cells: list[Cell], index: int, of: int) -> None:
    with pytest.raises(UserError, match="--shard"):
        shard(cells, index, of)
