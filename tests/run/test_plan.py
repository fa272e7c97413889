"""What is said of a run beforehand, and that it is what runs."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stand_ins import OnEpoch, quick

from mnistbench.data import datasets
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.results.records import CellRecord, Timing
from mnistbench.run.budget import FIXED_SECONDS
from mnistbench.run.executors import InlineExecutor
from mnistbench.run.options import RunOptions
from mnistbench.run.plan import Plan, make_plan
from mnistbench.run.run import run_grid
from mnistbench.train.job import Job
from mnistbench.train.watcher import Watcher

DATASET = "{name: sum3, rows: 100}"
GRID = """
name: planned
dataset: {dataset}
architectures: [mlp]
optimizers: {optimizers}
batch_sizes: {batch_sizes}
devices: [cpu]
seeds: {seeds}
twins: {twins}
training: {{epochs: 1}}
"""
TUNE = """
tune:
  learning_rates: {rates}
  seeds: {seeds}
  validation_examples: 20
"""
RATES = {"[sgd]": "{sgd: [0.1, 0.2]}", "[sgd, adam]": "{sgd: [0.1, 0.2], adam: [0.001, 0.01]}"}


class Clock:
    """Stands still but for the second that each cell takes."""

    seconds = 0.0


def timed(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Takes a second of a made-up clock; the smaller learning rate does better on validation data."""
    Clock.seconds += 1.0
    record = quick(job, on_epoch=on_epoch, process_started=process_started)
    accuracy = 1.0 - float(str(job.cell.optimizer.options.get("lr", 0.5)))
    wall = 1.0 - FIXED_SECONDS
    timing = Timing(setup_seconds=0, warmup_seconds=0, train_seconds=wall, eval_seconds=0, wall_seconds=wall)
    epochs = [replace(epoch, validation_accuracy=accuracy) for epoch in record.epochs]
    return record.with_changes(timing=timing, epochs=epochs)


class Jobs(Watcher):
    """Remembers the cells that began, in their order."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def started(self, job: Job) -> None:
        self.ids.append(job.cell.cell_id)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A made-up grid, and what was and is asked of it."""

    grid: str
    before: tuple[str, ...]
    only: tuple[str, ...]
    shard: tuple[int, int] | None
    budget_seconds: float | None
    force: bool


CONDITIONS = ["seed=0", "seed=0,1", "batch_size=8", "optimizer=sgd", "repeat=0"]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    optimizers = draw(st.sampled_from(list(RATES)))
    grid = GRID.format(
        dataset=DATASET,
        optimizers=optimizers,
        batch_sizes=draw(st.sampled_from(["[8]", "[8, 16]"])),
        seeds=draw(st.sampled_from(["[0]", "[0, 1]", "[0, 1, 2]"])),
        twins=draw(st.sampled_from([0, 1])),
    )
    if draw(st.booleans()):
        grid += TUNE.format(rates=RATES[optimizers], seeds=draw(st.sampled_from(["[1000]", "[1000, 1001]"])))
    return Case(
        grid=grid,
        before=tuple(draw(st.lists(st.sampled_from(CONDITIONS), max_size=2))),
        only=tuple(draw(st.lists(st.sampled_from([*CONDITIONS, "seed=2"]), max_size=2))),
        shard=draw(st.sampled_from([None, None, (1, 2), (2, 2)])),
        budget_seconds=draw(st.sampled_from([None, 0.5, 2.0, 3.5, 100.0])),
        force=draw(st.booleans()),
    )


def run(grid: Grid, options: RunOptions) -> list[str]:
    """The ids of the cells that ran, in their order."""
    jobs = Jobs()
    run_grid(grid, replace(options, executor=InlineExecutor(train=f"{__name__}:timed")), [jobs])
    return jobs.ids


def ids(plan: Plan) -> list[str]:
    return [cell.cell_id for cell in plan.pending]


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared once, while the clock still runs."""
    datasets.prepare(Grid.from_text(GRID.format(dataset=DATASET, optimizers="[sgd]", batch_sizes="[8]", seeds="[0]",
                                                twins=0)).dataset)  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(cases())
def test_what_the_plan_says_is_what_runs(case: Case) -> None:
    """With trials, parts, conditions, a budget, and results that are there already."""
    grid = Grid.from_text(case.grid)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(time, "monotonic", lambda: Clock.seconds):
        out = RunOptions(out=Path(folder) / "planned")
        if case.before:
            run(grid, replace(out, only=case.before))
        options = replace(out, only=case.only, shard=case.shard, budget_seconds=case.budget_seconds, force=case.force)
        try:
            plan = make_plan(grid, options)
        except UserError as error:
            with pytest.raises(UserError) as refused:
                run(grid, options)
            assert str(refused.value) == str(error)
            return
        assert plan.refusals == []
        ran = run(grid, options)
        said, fit = ids(plan), plan.rounds_in_budget
        if fit is not None and (fit < len(plan.rounds) or not plan.measured_later):
            assert ran == [cell.cell_id for round_ in plan.rounds[:fit] for _, cell in round_.cells]
            return
        assert ran[: len(said)] == said[: len(ran)]
        assert len(ran) - len(said) <= plan.measured_later
        if case.budget_seconds is None:
            assert len(ran) >= len(said) + (0 if case.before else plan.measured_later)
            assert make_plan(grid, replace(options, force=False)).pending == []


def planned(tmp_path: Path, text: str = "", **options: object) -> Plan:
    """Of three settings with two seeds each, which may have other lines."""
    grid = GRID.format(dataset=DATASET, optimizers="[sgd]", batch_sizes="[8, 16, 32]", seeds="[0, 1]", twins=0)
    return make_plan(Grid.from_text(grid + text), RunOptions(out=tmp_path / "planned", **options))  # type: ignore[arg-type]


def test_a_part_has_whole_settings_and_says_how_many(tmp_path: Path) -> None:
    plans = [planned(tmp_path, shard=(part, 2)) for part in (1, 2)]
    settings_of = [{cell.without_seed() for cell in plan.pending} for plan in plans]
    assert settings_of[0].isdisjoint(settings_of[1])
    assert sum(len(plan.pending) for plan in plans) == 6
    for part, (plan, some) in enumerate(zip(plans, settings_of, strict=True), start=1):
        assert len(plan.pending) == 2 * len(some)
        assert f"part {part} of 2 has {len(some)} of 3 settings, each with all its seeds" in plan.lines()


def test_what_run_would_refuse_is_said_first_and_nothing_is_raised(tmp_path: Path) -> None:
    (tmp_path / "planned").mkdir()
    (tmp_path / "planned" / "letter.txt").write_text("dear all")
    grid = GRID.format(dataset=DATASET, optimizers="[sgd]", batch_sizes="[8]", seeds="[0]", twins=0)
    plan = make_plan(Grid.from_text(grid.replace("[cpu]", "[cpu, cuda]")), RunOptions(out=tmp_path / "planned"),
                     devices=["cpu"])  # fmt: skip
    refused, absent, speed = plan.lines()[:3]
    assert refused.startswith("`run` would refuse: ") and "letter" not in refused and "has files in it" in refused
    assert absent.startswith("`run` would refuse: device cuda is not on")
    assert speed.startswith("speed: 16 cycles of 1 setting")
    assert "trainings: 1 to run in 1 round on cpu, cuda; 0 have a result" in plan.lines()
    assert "1 cell of devices that are not here: cuda" in plan.lines()
    assert [line.split()[1] for line in plan.cell_lines()] == ["run", "skip"]


def test_what_is_measured_after_the_trials_is_counted_on_the_devices_that_are_here(tmp_path: Path) -> None:
    grid = GRID.format(dataset=DATASET, optimizers="[sgd]", batch_sizes="[8]", seeds="[0, 1]", twins=0)
    grid = grid.replace("[cpu]", "[cpu, cuda]") + TUNE.format(rates="[0.1, 0.2]", seeds="[1000]")
    plan = make_plan(Grid.from_text(grid), RunOptions(out=tmp_path / "planned"), devices=["cpu"])
    assert plan.measured_later == 2


def test_a_plan_for_another_machine_counts_its_devices(tmp_path: Path) -> None:
    grid = GRID.format(dataset=DATASET, optimizers="[sgd]", batch_sizes="[8]", seeds="[0]", twins=0)
    options = RunOptions(out=tmp_path / "planned")
    plan = make_plan(Grid.from_text(grid.replace("[cpu]", "auto")), options, devices=["cpu", "cuda"])
    assert {cell.device for cell in plan.pending} == {"cpu", "cuda"}
    assert plan.refusals == []


def test_plug_ins_that_are_named_and_not_loaded_are_refused() -> None:
    with pytest.raises(UserError, match=r"give what `mnistbench.axes.plugins.load_plugins`"):
        RunOptions(plugins=["own.py"])  # type: ignore[arg-type]


def test_settings_with_fewer_seeds_are_said_beside_those_with_more(tmp_path: Path) -> None:
    include = "include: [{architecture: mlp, optimizer: sgd, batch_size: 64, seed: 0}]\n"
    assert any(line.startswith("1 to 2 seeds: ranks of speed") for line in planned(tmp_path, include).lines())
    assert any(line.startswith("2 seeds: ranks of speed") for line in planned(tmp_path).lines())
