"""Cycles of blocks: what a run times, when, what it writes, and what it leaves out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_ins import OnEpoch, quick

from mnistbench.grid.grid import Grid
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord, Error, utc_now
from mnistbench.results.speed import TimedSession, read_sessions
from mnistbench.run import blocks
from mnistbench.run.executors import InlineExecutor, ProcessExecutor
from mnistbench.run.options import RunOptions
from mnistbench.run.plan import make_plan
from mnistbench.run.run import run_grid
from mnistbench.train.block import BlockMeasurement, SettledSetting
from mnistbench.train.job import Job
from mnistbench.train.machine import describe_environment

GRID = """
name: timed
dataset: {name: sum3, rows: 400}
architectures: [{name: mlp, hidden: [8]}]
optimizers: [{name: sgd, lr: [0.1, 0.2]}]
batch_sizes: [32]
devices: [cpu]
seeds: [0, 1]
training: {epochs: 1}
speed: {cycles: 12}
"""


class Stopwatch(ProcessExecutor):
    """Trains and times nothing, says that it did, and remembers in which order."""

    def __init__(self, *, gate: str = "passed", fails: str = "", at: str = "block") -> None:
        super().__init__()
        self.order: list[str] = []
        self._gate, self._fails, self._at = gate, fails, at

    def run(self, jobs: Any, on_epoch: OnEpoch) -> Any:
        for job in jobs:
            self.order.append(f"train {job.cell.optimizer.label}")
            yield quick(job, on_epoch=lambda epoch: None, process_started=0.0)

    def settle_setting(self, job: Job) -> SettledSetting | CellRecord:
        self.order.append(f"settle {job.cell.optimizer.label}")
        if self._at == "settle" and job.cell.optimizer.label == self._fails:
            return job.record("failed", utc_now(), error=Error(type="RuntimeError", message="out of luck"))
        gate = self._gate if job.cell.optimizer.label == self._fails else "passed"
        return SettledSetting(resolved={}, equivalence=gate, steps=3, environment=describe_environment())

    def time_block(self, job: Job, steps: int) -> BlockMeasurement | CellRecord:
        self.order.append(f"block {job.cell.optimizer.label}")
        if self._at == "block" and self._gate == "passed" and job.cell.optimizer.label == self._fails:
            return job.record("timed_out", utc_now(), error=Error(type="timed_out", message="not over in 9 s"))
        return BlockMeasurement(
            steps=steps, examples=32 * steps, seconds=0.1, waited_seconds=0.0, throttled_seconds=0.0,
            gpu_slowdown=None, cause=None, pid=1,
        )  # fmt: skip


SLOW, FAST = "sgd(lr=0.1)", "sgd(lr=0.2)"


def run(out: Path, executor: Any = None, grid: str = GRID, **options: Any) -> Any:
    return run_grid(Grid.from_text(grid), RunOptions(out=out, executor=executor or Stopwatch(), **options))


def sessions(out: Path) -> list[TimedSession]:
    found, problems = read_sessions(ResultsFolder(out))
    assert not problems
    return found


@pytest.mark.slow
@pytest.mark.alone
def test_each_block_is_timed_in_a_process_of_its_own_before_any_training(tmp_path: Path) -> None:
    summary = run(tmp_path / "out", ProcessExecutor())
    assert summary.counts == {"finished": 4}
    (session,) = sessions(tmp_path / "out")
    assert len(session.settings) == 2 and len(session.blocks) == 24
    assert {setting.equivalence for setting in session.settings.values()} == {"passed"}
    assert len({block.pid for block in session.blocks.values()}) == 24
    for key, setting in session.settings.items():
        own = [block for (_, of), block in session.blocks.items() if of == key]
        assert {block.steps for block in own} == {setting.steps}
        assert all(block.seconds and block.examples for block in own)
    places = [block.position for (_, of), block in session.blocks.items() if of == min(session.settings)]
    assert Counter(places).keys() == {0, 1}, "cycles have orders of their own"
    began = min(record.started_at for record in ResultsFolder(tmp_path / "out").records())
    assert session.about.started_at < began
    assert summary.speed.startswith("speed: 24 blocks in 12 cycles")


def test_settings_are_settled_first_then_timed_then_trained(tmp_path: Path) -> None:
    executor = Stopwatch()
    run(tmp_path / "out", executor)
    kinds = [step.split()[0] for step in executor.order]
    assert kinds == ["settle"] * 2 + ["block"] * 24 + ["train"] * 4
    for cycle in range(12):
        assert set(executor.order[2 + 2 * cycle : 4 + 2 * cycle]) == {f"block {SLOW}", f"block {FAST}"}


def test_a_session_says_which_gpu_it_timed_whichever_setting_was_settled_first(tmp_path: Path) -> None:
    """A CPU setting knows of no GPU; the blocks of two GPUs under one machine id would be pooled."""

    class Beside(Stopwatch):
        def settle_setting(self, job: Job) -> SettledSetting | CellRecord:
            settled = super().settle_setting(job)
            assert isinstance(settled, SettledSetting)
            on_gpu = job.cell.optimizer.label == FAST
            return replace(settled, environment=replace(settled.environment, device_id="gpu" if on_gpu else None))

    run(tmp_path / "out", executor := Beside())
    assert executor.order[:2] == [f"settle {SLOW}", f"settle {FAST}"]
    (session,) = sessions(tmp_path / "out")
    assert session.about.environment is not None
    assert session.about.environment.device_id == "gpu"


def test_what_is_there_is_not_timed_again_and_what_is_new_is_timed_with_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out)
    again = Stopwatch()
    summary = run(out, again)
    assert again.order == [] and summary.speed is None
    assert "speed: 12 cycles of 2 settings are there" in make_plan(Grid.from_text(GRID), RunOptions(out=out)).lines()
    wider = GRID.replace("[0.1, 0.2]", "[0.1, 0.2, 0.3]")
    plan = make_plan(Grid.from_text(wider), RunOptions(out=out))
    assert "speed: 12 cycles of 3 settings" in "\n".join(plan.lines())
    more = Stopwatch()
    run(out, more, wider)
    assert [len(session.blocks) for session in sessions(out)] == [24, 36]


def test_more_cycles_are_taken_where_the_grid_asks_for_more(tmp_path: Path) -> None:
    run(tmp_path / "out")
    run(tmp_path / "out", grid=GRID.replace("cycles: 12", "cycles: 15"))
    assert [session.about.cycles for session in sessions(tmp_path / "out")] == [12, 3]


def test_cells_that_are_complete_get_their_cycles(tmp_path: Path) -> None:
    run(tmp_path / "out", speed=False)
    assert sessions(tmp_path / "out") == []
    plan = make_plan(Grid.from_text(GRID), RunOptions(out=tmp_path / "out"))
    assert "speed: 12 cycles of 2 settings" in plan.lines()[0]
    executor = Stopwatch()
    summary = run(tmp_path / "out", executor)
    assert {step.split()[0] for step in executor.order} == {"settle", "block"}
    assert summary.kept == 4


@pytest.mark.parametrize("grid", [GRID.replace("{cycles: 12}", "off"), GRID + "execution: {isolation: shared}\n"])
def test_nothing_is_timed_where_the_grid_says_off_or_cells_share_the_machine(tmp_path: Path, grid: str) -> None:
    executor = Stopwatch()
    run(tmp_path / "out", executor, grid)
    assert {step.split()[0] for step in executor.order} == {"train"}


@pytest.mark.slow
@pytest.mark.alone
def test_executors_that_cannot_time_a_block_are_not_asked(tmp_path: Path) -> None:
    run(tmp_path / "out", InlineExecutor(train="stand_ins:quick"))
    run(tmp_path / "own", ProcessExecutor(train="stand_ins:quick"))
    assert sessions(tmp_path / "out") == sessions(tmp_path / "own") == []


def test_a_setting_whose_blocks_fail_leaves_after_two_tries_and_spoils_nobody(tmp_path: Path) -> None:
    executor = Stopwatch(fails=FAST)
    summary = run(tmp_path / "out", executor)
    assert executor.order.count(f"block {FAST}") == 2 and executor.order.count(f"block {SLOW}") == 12
    assert any("not timed any more: timed_out: not over in 9 s" in warning for warning in summary.warnings)
    assert "12 missing" in summary.speed
    again = Stopwatch()
    run(tmp_path / "out", again)
    assert again.order == [], "the next run would find the same"


def test_a_setting_that_cannot_be_settled_is_left_out(tmp_path: Path) -> None:
    executor = Stopwatch(fails=FAST, at="settle")
    summary = run(tmp_path / "out", executor)
    assert executor.order.count(f"block {FAST}") == 0 and executor.order.count(f"block {SLOW}") == 12
    assert any("cannot be timed: RuntimeError: out of luck" in warning for warning in summary.warnings)
    again = Stopwatch()
    run(tmp_path / "out", again)
    assert again.order == []


def test_a_setting_whose_gate_failed_is_not_timed(tmp_path: Path) -> None:
    executor = Stopwatch(fails=FAST, gate="failed: G1 gradient 2e-1 > 1e-5")
    summary = run(tmp_path / "out", executor)
    assert executor.order.count(f"block {FAST}") == 0 and executor.order.count(f"block {SLOW}") == 12
    assert any("the equivalence gate failed: G1" in warning for warning in summary.warnings)
    (session,) = sessions(tmp_path / "out")
    assert sorted(setting.equivalence or "" for setting in session.settings.values())[0].startswith("failed")


def test_with_a_budget_ten_cycles_come_first_and_the_others_last_in_one_session(tmp_path: Path) -> None:
    executor = Stopwatch()
    run(tmp_path / "out", executor, budget_seconds=1000.0)
    kinds = [step.split()[0] for step in executor.order]
    assert kinds == ["settle"] * 2 + ["block"] * 20 + ["train"] * 4 + ["block"] * 4
    assert [len(session.blocks) for session in sessions(tmp_path / "out")] == [24]


def test_a_budget_in_which_ten_cycles_do_not_fit_is_said_beforehand(tmp_path: Path) -> None:
    summary = run(tmp_path / "out", budget_seconds=0.5)
    assert any("longer than the budget: no speeds will be ranked" in warning for warning in summary.warnings)


def test_only_what_is_chosen_is_timed(tmp_path: Path) -> None:
    executor = Stopwatch()
    run(tmp_path / "out", executor, only=["optimizer.lr=0.2"])
    assert {step for step in executor.order if step.startswith("block")} == {f"block {FAST}"}


def test_another_build_is_timed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "out")
    monkeypatch.setattr("mnistbench.run.cycles.torch_build", lambda: "9.9.9")
    monkeypatch.setattr(blocks, "torch_build", lambda: "9.9.9")
    executor = Stopwatch()
    run(tmp_path / "out", executor)
    assert executor.order.count(f"block {FAST}") == 12


RUN = """
import sys
from mnistbench.grid.grid import Grid
from mnistbench.run.options import RunOptions
from mnistbench.run.run import run_grid
run_grid(Grid.from_text(sys.argv[1]), RunOptions(out=sys.argv[2], own_process=True))
"""


def start(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, GRID, str(out)], stderr=subprocess.DEVNULL)


def wait_for_blocks(out: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while sum(file.read_bytes().count(b'"kind": "block"') for file in out.glob("speed/*.jsonl")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_ends_early_loses_at_most_one_block_and_the_next_takes_what_is_lacking(
    tmp_path: Path, by: signal.Signals
) -> None:
    out = tmp_path / "out"
    with start(out) as runner:
        wait_for_blocks(out, 5)
        os.kill(runner.pid, by)
    (first,) = sessions(out)
    before = json.dumps([replace(block, wall_seconds=None).__dict__ for block in first.blocks.values()])
    assert 5 <= len(first.blocks) < 24
    whole = min(Counter(key for _, key in first.blocks).values())
    run(out, ProcessExecutor())
    first_again, second = sessions(out)
    assert before == json.dumps([replace(block, wall_seconds=None).__dict__ for block in first_again.blocks.values()])
    assert second.about.cycles == 12 - whole and len(second.blocks) == 2 * (12 - whole)
    assert len(list(ResultsFolder(out).records())) == 4
