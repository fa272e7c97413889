"""Learning rates are picked on validation data alone, with equal trials for all, and measured on fresh seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mnistbench.cell import Cell, Component
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.grid.options import lr_of
from mnistbench.grid.tune import final_cells, pick, settings_key, trial_cells
from mnistbench.results.records import CellRecord, EpochMeasurement, Status

MNIST = Component(name="mnist")
TEXT = """
name: fair
dataset: mnist
architectures: [mlp, lenet5]
optimizers: [sgd, {name: sgd, momentum: 0.9}, {name: adam, schedule: cosine}]
batch_sizes: [64, full]
seeds: [0, 1, 2]
twins: 0
training: {epochs: 2}
tune:
  learning_rates: {sgd: [0.01, 0.1, 1.0, 10], adam: [1e-4, 1e-3, 1e-2]}
  trials: 3
  seeds: [100, 101]
  validation_examples: 5000
"""


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid.from_text(TEXT)


def epoch(number: int, validation: float | None, test: float) -> EpochMeasurement:
    return EpochMeasurement(
        epoch=number, examples=1, steps=1, train_seconds=1, eval_seconds=1, train_loss=1, train_accuracy=test,
        test_loss=1, test_accuracy=test, validation_accuracy=validation, cold_seconds=1, ended_at="",
    )  # fmt: skip


def record(cell: Cell, validation: float | None, *, test: float = 0.5, status: Status = "finished") -> CellRecord:
    epochs = [epoch(1, 0.99, 0.99), epoch(2, validation, test)]
    return CellRecord(record_id="r", cell_id=cell.cell_id, status=status, cell=cell, started_at="", epochs=epochs)


def trials(grid: Grid, accuracy: Callable[[Cell], float | None]) -> list[CellRecord]:
    return [record(cell, accuracy(cell)) for cell in trial_cells(grid, MNIST, 60_000, ["cpu", "cuda"])]


def test_each_combination_gets_the_same_number_of_trials_on_seeds_of_their_own(grid: Grid) -> None:
    cells = trial_cells(grid, MNIST, 60_000, ["cpu", "cuda"])
    by_settings: dict[str, list[Cell]] = {}
    for cell in cells:
        by_settings.setdefault(settings_key(cell), []).append(cell)
    assert len(by_settings) == 2 * 3 * 2
    assert {len(group) for group in by_settings.values()} == {3 * 2}
    assert {cell.seed for cell in cells} == {100, 101}
    assert {cell.device for cell in cells} == {"cpu"}
    assert len({cell.cell_id for cell in cells}) == len(cells) == grid.trial_count()


def test_validation_data_is_held_out_of_trials_and_measured_cells_alike(grid: Grid) -> None:
    picked = pick(grid, trials(grid, lambda cell: 0.5))
    for cell in [*trial_cells(grid, MNIST, 60_000, ["cpu"]), *final_cells(grid, picked, MNIST, 60_000, ["cpu"])]:
        assert cell.training.validation_examples == 5000
        assert cell.batch_size in (64, 55_000)


def test_the_best_rate_on_validation_data_is_picked_whatever_the_test_data_say(grid: Grid) -> None:
    def validation(cell: Cell) -> float:
        return 0.9 if lr_of(cell.optimizer) == best(cell) else 0.8

    def best(cell: Cell) -> float:
        return tried(grid, cell)[1]

    records = [
        record(cell, validation(cell), test=0.1 if lr_of(cell.optimizer) == best(cell) else 1.0)
        for cell in trial_cells(grid, MNIST, 60_000, ["cpu"])
    ]
    picked = pick(grid, records)
    assert len(picked) == 12
    assert all(item.lr == best(item.cell) for item in picked)


def test_an_included_cell_is_tried_and_measured_like_the_others() -> None:
    more = "include: [{architecture: logistic, optimizer: rmsprop, batch_size: 96}]\n"
    rates = "rmsprop: [1e-4, 1e-3, 1e-2], adam"
    grid = Grid.from_text(TEXT.replace("adam: [", rates + ": [", 1) + more)
    records = trials(grid, lambda cell: lr_of(cell.optimizer))
    measured = [*final_cells(grid, pick(grid, records), MNIST, 60_000, ["cpu"])]
    included = [cell for cell in measured if cell.architecture.name == "logistic"]
    assert [(lr_of(cell.optimizer), cell.seed) for cell in included] == [(1e-2, seed) for seed in (0, 1, 2)]
    assert {cell.training.validation_examples for cell in included} == {5000}
    assert len(records) == grid.trial_count()


def test_a_trial_runs_to_its_end_though_test_data_would_stop_it() -> None:
    stops = "{epochs: 2, target_accuracy: 0.9, stop_at_target: true}"
    grid = Grid.from_text(TEXT.replace("{epochs: 2}", stops))
    records = trials(grid, lambda cell: 0.5)
    assert not any(record.cell.training.stop_at_target for record in records)
    measured = final_cells(grid, pick(grid, records), MNIST, 60_000, ["cpu"])
    assert len(measured) == 12 * 3
    assert all(cell.training.stop_at_target for cell in measured)


def tried(grid: Grid, cell: Cell) -> list[float]:
    assert grid.tune is not None
    return grid.tune.rates(cell.optimizer.name)


def test_the_last_epoch_decides_and_the_mean_over_the_trial_seeds(grid: Grid) -> None:
    def accuracy(cell: Cell) -> float:
        first, second, _ = tried(grid, cell)
        rate = lr_of(cell.optimizer)
        if rate == first:
            return 0.95 if cell.seed == 100 else 0.75  # 0.85
        return 0.86 if rate == second else 0.5

    assert all(item.lr == tried(grid, item.cell)[1] for item in pick(grid, trials(grid, accuracy)))


def test_of_equal_rates_the_smaller_is_picked(grid: Grid) -> None:
    assert all(item.lr == min(tried(grid, item.cell)) for item in pick(grid, trials(grid, lambda cell: 0.5)))


def test_a_rate_that_diverges_loses(grid: Grid) -> None:
    cells = trial_cells(grid, MNIST, 60_000, ["cpu"])
    records = [
        record(cell, None, status="diverged") if lr_of(cell.optimizer) != max(tried(grid, cell)) else record(cell, 0.1)
        for cell in cells
    ]
    assert all(item.lr == max(tried(grid, item.cell)) for item in pick(grid, records))


def test_a_rate_is_not_judged_while_a_seed_is_missing(grid: Grid) -> None:
    records = [
        item
        for item in trials(grid, lambda cell: 0.9 if lr_of(cell.optimizer) == min(tried(grid, cell)) else 0.8)
        if lr_of(item.cell.optimizer) != min(tried(grid, item.cell)) or item.cell.seed == 100
    ]
    picked = pick(grid, records)
    assert all(item.lr != min(tried(grid, item.cell)) for item in picked)
    assert all([trial.validation_accuracy for trial in item.trials].count(None) == 1 for item in picked)


def test_records_of_measured_cells_and_failed_trials_decide_nothing(grid: Grid) -> None:
    measured = [record(cell, 1.0) for cell in grid.cells(MNIST, 60_000, ["cpu"])]
    failed = [record(cell, 1.0, status="failed") for cell in trial_cells(grid, MNIST, 60_000, ["cpu"])]
    assert pick(grid, measured + failed) == []
    assert final_cells(grid, [], MNIST, 60_000, ["cpu"]) == []


def test_measured_cells_have_fresh_seeds_every_device_and_the_picked_rate(grid: Grid) -> None:
    picked = pick(grid, trials(grid, lambda cell: lr_of(cell.optimizer) / 100))
    cells = final_cells(grid, picked, MNIST, 60_000, ["cpu", "cuda"])
    assert len(cells) == grid.count(["cpu", "cuda"])
    assert {cell.seed for cell in cells} == {0, 1, 2}
    assert all(lr_of(cell.optimizer) == max(tried(grid, cell)) for cell in cells)
    assert {cell.schedule.name for cell in cells if cell.optimizer.name == "adam"} == {"cosine"}


def test_a_smaller_budget_sees_only_the_first_trials(grid: Grid) -> None:
    for item in pick(grid, trials(grid, lambda cell: lr_of(cell.optimizer) / 100)):
        assert item.after(1) == tried(grid, item.cell)[0]
        assert item.after(2) == max(tried(grid, item.cell)[:2])
        assert item.after(3) == item.lr


def test_the_order_of_trials_is_seeded_and_no_sorted_list() -> None:
    def rates(seed: int) -> list[float]:
        return Grid.from_text(TEXT + f"  seed: {seed}\n").tune.rates("sgd")  # type: ignore[union-attr]

    drawn = [rates(seed) for seed in range(20)]
    assert drawn[0] == rates(0)
    assert len({tuple(rates) for rates in drawn}) > 5
    assert any(rates != sorted(rates) for rates in drawn)


def test_a_trial_at_the_default_rate_is_the_cell_that_says_no_rate(grid: Grid) -> None:
    adam = [cell for cell in trial_cells(grid, MNIST, 60_000, ["cpu"]) if cell.optimizer.name == "adam"]
    assert {cell.optimizer.options.get("lr") for cell in adam} == {None, 1e-4, 1e-2}


def test_a_grid_without_tuning_has_no_trials() -> None:
    plain = Grid.from_text(TEXT.partition("tune:")[0], source="g.yaml")
    assert plain.trial_count() == 0
    with pytest.raises(UserError, match=r"g\.yaml: this grid has no `tune:`"):
        trial_cells(plain, MNIST, 60_000, ["cpu"])
