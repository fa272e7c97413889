"""Does the estimator of docs/statistics.md keep its promise, and what does it tell?

    python benchmarks/bench_verdicts.py simulate [--grids 1000]
    python benchmarks/bench_verdicts.py equal [--sessions 20] [--busy 1] [--out FOLDER]
    python benchmarks/bench_verdicts.py planted [--sessions 10] [--out FOLDER]
    python benchmarks/bench_verdicts.py flagged [--cells 100] [--busy 2]
    python benchmarks/bench_verdicts.py steady

`simulate`, on simulated machines (`tests/simulated_machines.py`): the share of grids of equal settings in which one is
told to be faster than another, and the shares of true differences that are told. `equal`, on this machine: one setting
under twelve names, whose every winner is a false one. `planted`, on this machine: five settings, four of which take
every tenth, fifth, second or each step twice. `flagged`, on this machine: how many cells, trained for an epoch each,
are marked as disturbed; on a quiet machine these are false alarms. With --busy beside so many foreign processes that
take a core each. `steady`, on this machine: the rate of each block beside that of the training that its process goes on
with.

Raw blocks are left in FOLDER/speed. The number of epochs, which no block reaches, is what gives one setting many names.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from stand_ins import OnEpoch, quick

from mnistbench.grid.grid import Grid
from mnistbench.report.blocks import blocks_frame, cycle_table
from mnistbench.report.estimator import Differences, judge
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord
from mnistbench.results.speed import TimedSession, read_sessions
from mnistbench.run.executors import ProcessExecutor
from mnistbench.run.options import RunOptions
from mnistbench.run.processes import PRELOAD
from mnistbench.run.run import run_grid
from mnistbench.train import block
from mnistbench.train.block import BlockMeasurement
from mnistbench.train.job import Job
from mnistbench.train.setup import Trainee

SHOWN = ("1.1", "1.2", "1.5", "3", "all", "wrong", "first set")


def simulate(grids: int) -> bool:
    """Print both tables.

    Returns:
        Whether the promise was kept: false winners in at most 5 % plus three standard errors of each case, and in at
        most 5 % over all.
    """
    from simulated_machines import MACHINES, false_winners, power

    print(f"Equal settings: share of {grids} grids with a winner", flush=True)
    found = false_winners(grids=grids, told=lambda line: print(line, flush=True))
    over_all, most = sum(found.values()) / len(found), max(found.values())
    print(f"over all {over_all:.4f}, most {most:.3f}")
    print(f"Twelve settings: cycles, share of pairs told by true ratio ({', '.join(SHOWN)})")
    for name, machine in MACHINES.items():
        for cycles, seconds, overhead in ((19, 0.1, 0.2), (11, 0.2, 0.3)):
            told = power(machine, grids=grids, cycles=cycles, seconds=seconds, overhead=overhead)
            shares = " ".join(f"{told[key]:.3f}" for key in SHOWN)
            print(f"{name}, blocks of {seconds} s, overhead {overhead} s: {cycles} {shares}", flush=True)
    return over_all <= 0.05 and most <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / grids)


GRID = """
name: verdicts
dataset: {{name: mnist, fallback: digits}}
architectures: [mlp]
optimizers: [{{name: sgd, lr: 0.01}}]
batch_sizes: [64]
devices: [cpu]
seeds: [0]
training: {{epochs: {epochs}}}
speed: {{cycles: 14}}
"""
TWICE = {2: 10, 3: 5, 4: 2, 5: 1}
"""By the number of epochs: every so many steps one is taken twice. One epoch stands for the setting as it is."""


def time_slowed_block(job: Job, *, steps: int, **others: Any) -> BlockMeasurement:
    """As `time_block`, with some steps taken twice: once on the network that is timed, once on a copy of it."""
    every = TWICE.get(job.cell.training.epochs)
    make = block.make_trainee

    def make_slowed(*arguments: Any) -> Trainee:
        trainee = make(*arguments)
        copy, count, take = trainee.anew(), itertools.count(1), trainee.take_step

        def take_step(*given: Any) -> Any:
            if next(count) % every == 0:
                copy.take_step(*given)
            return take(*given)

        object.__setattr__(trainee, "take_step", take_step)
        return trainee

    if every is not None:
        block.make_trainee = make_slowed  # of this process, which ends with the block
    return block.time_block(job, steps, **others)


STEADY_GRID = """
name: steady
dataset: {name: mnist, fallback: digits}
architectures: [mlp, lenet5, speedrun]
optimizers: [adam]
batch_sizes: [64, 8192]
devices: [cpu]
seeds: [0]
training: {epochs: 1}
speed: {cycles: 12}
"""
STEADY_SECONDS, STEADY_LIMIT = 1.5, 0.03


def time_block_and_on(job: Job, *, steps: int, **others: Any) -> BlockMeasurement:
    """As `time_block`; both rates are left as a line in the file that the environment names."""
    trainees: list[Trainee] = []
    choose = block.choose

    def keep(*arguments: Any) -> Trainee:
        trainees.append(choose(*arguments))
        return trainees[-1]

    block.choose = keep  # of this process, which ends with the block
    measured = block.time_block(job, steps, **others)
    start = time.perf_counter()
    examples, _ = block._take(trainees[-1], max(2, math.ceil(STEADY_SECONDS / measured.seconds)) * measured.steps)
    rates = [measured.examples / measured.seconds, examples / (time.perf_counter() - start)]
    with Path(os.environ["MNISTBENCH_STEADY"]).open("a", encoding="utf-8") as file:
        cell = job.cell
        file.write(json.dumps([cell.architecture.name, cell.batch_size, *rates]) + "\n")
    return measured


def steady() -> bool:
    """Print the median ratio of each setting, with its quartiles.

    Returns:
        Whether each is within 3 % of 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "rates.jsonl")
        os.environ["MNISTBENCH_STEADY"] = str(lines)
        executor = OnlyBlocks("bench_verdicts:time_block_and_on")
        run_grid(Grid.from_text(STEADY_GRID), RunOptions(out=Path(folder, "results"), executor=executor))
        rows = [json.loads(line) for line in lines.read_text().splitlines()]
    ratios: dict[tuple[str, int], list[float]] = {}
    for network, batch_size, of_block, of_training in rows:
        ratios.setdefault((network, batch_size), []).append(of_block / of_training)
    for (network, batch_size), each in sorted(ratios.items()):
        low, middle, high = np.quantile(each, [0.25, 0.5, 0.75])
        print(f"{network} {batch_size}: block over training {middle:.3f} [{low:.3f}, {high:.3f}], n = {len(each)}")
    return all(abs(float(np.median(each)) - 1) <= STEADY_LIMIT for each in ratios.values())


class OnlyBlocks(ProcessExecutor):
    """Times blocks, and trains nothing."""

    times_blocks = True

    def __init__(self, function: str) -> None:
        super().__init__(preload=(*PRELOAD, function.partition(":")[0]))
        self._function = function

    def run(self, jobs: Any, on_epoch: OnEpoch) -> Iterator[CellRecord]:
        """Records that say nothing, as fast as they are asked for."""
        for job in jobs:
            yield quick(job, on_epoch=lambda epoch: None, process_started=0.0)

    def time_block(self, job: Job, steps: int) -> BlockMeasurement | CellRecord:
        """By the function that was given."""
        result: BlockMeasurement | CellRecord = self._result(job, self._function, {"steps": steps})
        return result


def take_session(epochs: Sequence[int], function: str, out: Path) -> tuple[TimedSession, Differences]:
    """One session in a folder of its own; its file is left in `out/speed`. All pairs, in the order of `epochs`."""
    grid = Grid.from_text(GRID.format(epochs=list(epochs)))
    with tempfile.TemporaryDirectory() as folder:
        run_grid(grid, RunOptions(out=folder, executor=OnlyBlocks(function)))
        (session,), _ = read_sessions(ResultsFolder(folder))
        (file,) = Path(folder, "speed").iterdir()
        (out / "speed").mkdir(parents=True, exist_ok=True)
        (out / "speed" / file.name).write_bytes(file.read_bytes())
    table = cycle_table(blocks_frame([session]))
    places = {setting.cell.training.epochs: table.settings.index(key) for key, setting in session.settings.items()}
    pairs = np.array([[places[one], places[other]] for one, other in itertools.combinations(epochs, 2)])
    return session, judge(table.values, table.clean, table.looks, pairs)


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Foreign processes that take a core each."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def equal(sessions: int, out: Path, *, busy: int) -> bool:
    """One setting under twelve names.

    Returns:
        Whether at most 3 in 20 sessions named a winner, and in 15 of 20 every pair was judged.
    """
    winners = judged = 0
    with neighbours(busy):
        for number in range(sessions):
            session, told = take_session(range(1, 13), "mnistbench.train.block:time_block", out)
            won = int(np.isin(told["verdict"], ["faster", "slower"]).sum())
            winners, judged = winners + (won > 0), judged + bool((told["verdict"] != "").all())
            flagged = sum(not block.is_clean for block in session.blocks.values())
            said = f"{won} of {len(told)} pairs told, {int(told['busy'].sum())} busy"
            print(f"session {number + 1}: {said}; {flagged} of {len(session.blocks)} blocks flagged", flush=True)
    print(f"{winners} of {sessions} sessions with a winner, {judged} with every pair judged")
    return winners <= sessions * 3 / 20 and judged >= sessions * 15 / 20


def planted(sessions: int, out: Path) -> bool:
    """Five settings, four of them slowed by a known number of steps.

    Returns:
        Whether no direction was wrong, 50 % was told in 9 of 10 sessions and 20 % in 5, and 90 % of the intervals held
        what was planted.
    """
    epochs = [1, *TWICE]
    cost = {number: 1 + 1 / TWICE[number] if number in TWICE else 1.0 for number in epochs}
    pairs = list(itertools.combinations(epochs, 2))
    wrong, held, told_of = 0, 0, {2: 0, 3: 0, 4: 0, 5: 0}
    for number in range(sessions):
        _, told = take_session(epochs, "bench_verdicts:time_slowed_block", out)
        for (one, other), row in zip(pairs, told, strict=True):
            true = math.log(cost[other] / cost[one])  # the first is faster by this
            wrong += row["verdict"] == "slower"
            held += row["low"] <= true <= row["high"]
            if one == 1 and row["verdict"] == "faster":
                told_of[other] += 1
        shown = ", ".join(f"{cost[other] - 1:.0%}: {count}" for other, count in told_of.items())
        print(f"after session {number + 1}: told {shown}; wrong {wrong}; held {held}", flush=True)
    share = held / (sessions * len(pairs))
    print(f"{wrong} wrong directions; intervals hold {share:.0%} of what was planted")
    return not wrong and told_of[4] >= 0.9 * sessions and told_of[3] >= 0.5 * sessions and share >= 0.9


def flagged(cells: int, *, busy: int) -> None:
    """Print how many cells have flags of noise, by flag; `short` says nothing of the machine."""
    text = GRID.format(epochs=1).replace("seeds: [0]", f"seeds: {list(range(cells))}")
    grid = Grid.from_text(text.replace("speed: {cycles: 14}", "speed: off"))
    with tempfile.TemporaryDirectory() as folder, neighbours(busy):
        run_grid(grid, RunOptions(out=folder))
        noises = [record.noise for record in ResultsFolder(Path(folder)).records() if record.noise is not None]
    flags = [set(noise.flags) - {"short"} for noise in noises]
    by_flag = Counter(flag for of_cell in flags for flag in sorted(of_cell))
    named = ", ".join(f"{flag}: {count}" for flag, count in by_flag.most_common())
    print(f"{sum(map(bool, flags))} of {len(flags)} cells flagged beside {busy} busy processes ({named or 'none'})")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("simulate").add_argument("--grids", type=int, default=1000)
    commands.add_parser("steady")
    for name, sessions in (("equal", 20), ("planted", 10)):
        command = commands.add_parser(name)
        command.add_argument("--sessions", type=int, default=sessions)
        command.add_argument("--out", type=Path, default=Path("results") / "verdicts" / name)
    commands.add_parser("flagged").add_argument("--cells", type=int, default=100)
    for name in ("equal", "flagged"):
        commands.choices[name].add_argument("--busy", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.command == "simulate":
        return 0 if simulate(options.grids) else 1
    if options.command == "steady":
        return 0 if steady() else 1
    if options.command == "equal":
        return 0 if equal(options.sessions, options.out, busy=options.busy) else 1
    if options.command == "flagged":
        flagged(options.cells, busy=options.busy)
        return 0
    return 0 if planted(options.sessions, options.out) else 1


if __name__ == "__main__":
    sys.exit(main())
