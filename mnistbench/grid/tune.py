"""A fair comparison of optimizers: each gets the same number of learning rates to try, judged on validation data.

The trials run on seeds of their own; the rate that does best is then measured on the grid's seeds, which have seen no
trial (PROTOCOL rule 10). Test data decides nothing here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from mnistbench.cell import Cell, Component, Training, canonical_json
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.grid.options import declaration, lr_of
from mnistbench.grid.product import Tuning
from mnistbench.results.records import CellRecord


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One learning rate that was tried.

    Attributes:
        lr: the rate.
        validation_accuracy: mean over the trial seeds; a seed that diverged counts as 0; None while one is missing.
    """

    lr: float
    validation_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Picked:
    """What the trials of one combination of settings gave.

    Attributes:
        settings: key of the combination (`settings_key`).
        cell: one of its cells, for labels.
        trials: in the order of `Tuning.rates`.
        lr: the rate with the best validation accuracy, the smaller one of equals; None if no trial ended.
    """

    settings: str
    cell: Cell
    trials: tuple[Trial, ...]
    lr: float | None

    def after(self, trials: int) -> float | None:
        """The rate that would have been picked after the first few trials: what a smaller budget buys."""
        return best(self.trials[:trials])


def best(trials: Iterable[Trial]) -> float | None:
    """The rate with the best validation accuracy."""
    done = [(-trial.validation_accuracy, trial.lr) for trial in trials if trial.validation_accuracy is not None]
    return min(done)[1] if done else None


def settings_key(cell: Cell) -> str:
    """Key of the combination whose rate is picked: its trials without learning rate, seed, twin and device."""
    plain = replace(cell, training=_to_its_end(cell.training)).hashed_settings()
    for key in ("seed", "repeat", "device"):
        del plain[key]
    plain["optimizer"].pop("lr", None)
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()[:16]


def trial_cells(grid: Grid, dataset: Component, train_examples: int, devices: Sequence[str]) -> list[Cell]:
    """The cells that try learning rates, on the first of the devices.

    Args:
        grid: with a `tune:`.
        dataset, train_examples, devices: as for `Grid.cells`.

    Raises:
        UserError: if the grid has no `tune:`; and as `Grid.cells`.
    """
    tune = _tuning(grid)
    asked: dict[str, Cell] = {}
    for cell in grid.cells(dataset, train_examples, devices):
        asked.setdefault(settings_key(cell), cell)
    return [
        replace(cell, optimizer=with_lr(cell.optimizer, lr), seed=seed, repeat=0, training=_to_its_end(cell.training))
        for cell in asked.values()
        for lr in tune.rates(cell.optimizer.name)
        for seed in tune.seeds
    ]


def pick(grid: Grid, records: Iterable[CellRecord]) -> list[Picked]:
    """Pick a learning rate for each combination, by validation accuracy after the last epoch and by nothing else.

    Args:
        grid: with a `tune:`.
        records: of the trials; others are passed over.

    Raises:
        UserError: if the grid has no `tune:`.
    """
    tune = _tuning(grid)
    accuracies: dict[tuple[str, float], dict[int, float]] = {}
    shown: dict[str, Cell] = {}
    for record in records:
        if record.cell.seed not in tune.seeds or record.cell.repeat:
            continue
        accuracy = _validation_accuracy(record)
        if accuracy is not None:
            key = settings_key(record.cell)
            shown.setdefault(key, record.cell)
            accuracies.setdefault((key, lr_of(record.cell.optimizer)), {})[record.cell.seed] = accuracy
    picked = []
    for key, cell in shown.items():
        trials = tuple(
            Trial(lr=lr, validation_accuracy=_mean(accuracies.get((key, lr), {}), tune.seeds))
            for lr in tune.rates(cell.optimizer.name)
        )
        picked.append(Picked(settings=key, cell=cell, trials=trials, lr=best(trials)))
    return picked


def final_cells(
    grid: Grid, picked: Iterable[Picked], dataset: Component, train_examples: int, devices: Sequence[str]
) -> list[Cell]:
    """The cells to measure: the grid's own, on its own seeds, each with the rate that its trials gave.

    A combination without a finished trial is left out.

    Args:
        grid: with a `tune:`.
        picked: from `pick`.
        dataset, train_examples, devices: as for `Grid.cells`.
    """
    rates = {choice.settings: choice.lr for choice in picked}
    chosen = [(cell, rates.get(settings_key(cell))) for cell in grid.cells(dataset, train_examples, devices)]
    return [replace(cell, optimizer=with_lr(cell.optimizer, lr)) for cell, lr in chosen if lr is not None]


def with_lr(optimizer: Component, lr: float) -> Component:
    """The optimizer with this learning rate, left out where it is the default."""
    others = {key: value for key, value in optimizer.options.items() if key != "lr"}
    if ":" not in optimizer.name:
        others = declaration("optimizer", optimizer.name).differing({**others, "lr": lr})
    else:
        others["lr"] = lr
    return replace(optimizer, options=others)


def _to_its_end(training: Training) -> Training:
    """A trial is judged after its last epoch; what stops at a target stops by test data."""
    return replace(training, stop_at_target=False)


def _tuning(grid: Grid) -> Tuning:
    if grid.tune is None:
        raise UserError(f"{grid.source}: this grid has no `tune:`")
    return grid.tune


def _validation_accuracy(record: CellRecord) -> float | None:
    """After the last epoch; 0 where its losses are not finite or memory ran out; None for one that has no answer."""
    if record.status in ("diverged", "out_of_memory"):
        return 0.0
    if record.status != "finished" or not record.epochs:
        return None
    last = record.epochs[-1]
    return 0.0 if last.train_loss is None or last.test_loss is None else last.validation_accuracy


def _mean(by_seed: Mapping[int, float], seeds: Sequence[int]) -> float | None:
    return fmean(by_seed[seed] for seed in seeds) if all(seed in by_seed for seed in seeds) else None
