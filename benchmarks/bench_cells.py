"""What a grid costs beside its training: fixed seconds a cell, cells an hour side by side, memory as cells add up.

    python benchmarks/bench_cells.py [--cells 40]

The fixed cost is the wall clock of a run over its cells, less their training, evaluation and warm-up, with MLflow on
sqlite. `isolation: shared` is compared with `alone` in ABBA pairs of runs of the same grid of small MLPs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from scipy import stats

from mnistbench import run_grid
from mnistbench.grid.grid import Grid
from mnistbench.results.records import CellRecord
from mnistbench.train.watcher import Watcher

GRID = """
name: cells
dataset: mnist
architectures: [{{name: mlp, hidden: [64]}}]
optimizers: [{{name: sgd, lr: 0.1}}]
batch_sizes: [64]
devices: [cpu]
seeds: [{seeds}]
twins: 0
execution: {{profile: fast, isolation: {isolation}}}
training: {{epochs: {epochs}}}
speed: off
"""
PAIRS = 5


class Witness(Watcher):
    """Keeps what the run costs in memory after each cell."""

    def __init__(self) -> None:
        self.records: list[CellRecord] = []
        self.peak_bytes: list[int] = []

    def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
        assert record.status == "finished", record.error
        self.records.append(record)
        own = psutil.Process()
        everybody = [own, *own.children(recursive=True)]
        self.peak_bytes.append(sum(each.memory_info().rss for each in everybody if each.is_running()))


def timed_run(cells: int, *, epochs: int, isolation: str, tracking: bool) -> tuple[float, Witness]:
    """Seconds of a whole run in a fresh folder."""
    seeds = ", ".join(str(seed) for seed in range(cells))
    grid = Grid.from_text(GRID.format(seeds=seeds, isolation=isolation, epochs=epochs))
    witness = Witness()
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db" if tracking else None
        start = time.perf_counter()
        run_grid(grid, out=Path(folder) / "out", tracking=tracking, tracking_uri=uri, watchers=[witness])
        return time.perf_counter() - start, witness


def fixed_cost(cells: int) -> None:
    """Seconds a cell beside its training; the rest of the run's start and end included."""
    seconds, witness = timed_run(cells, epochs=1, isolation="alone", tracking=True)
    clocks = [record.timing for record in witness.records]
    inside = sum(clock.train_seconds + clock.eval_seconds + clock.warmup_seconds for clock in clocks if clock)
    print(f"fixed cost: {(seconds - inside) / cells:.3f} s a cell ({cells} cells, MLflow on sqlite)")
    quarter = max(1, cells // 4)
    first, last = (
        statistics.median(part) / 2**20 for part in (witness.peak_bytes[:quarter], witness.peak_bytes[-quarter:])
    )
    print(f"memory of the run and its children: {first:,.0f} MB after the first cells, {last:,.0f} MB after the last")


def side_by_side(cells: int) -> None:
    """Cells an hour with `shared` over those with `alone`."""
    logs = []
    for pair in range(PAIRS):
        seconds = {}
        for isolation in ("alone", "shared") if pair % 2 else ("shared", "alone"):
            seconds[isolation], _ = timed_run(cells, epochs=2, isolation=isolation, tracking=False)
        logs.append(math.log(seconds["alone"] / seconds["shared"]))
    mean, half = statistics.mean(logs), stats.t.ppf(0.975, PAIRS - 1) * statistics.stdev(logs) / math.sqrt(PAIRS)
    low, middle, high = (math.exp(value) for value in (mean - half, mean, mean + half))
    print(f"isolation shared over alone: {middle:.2f} [{low:.2f}, {high:.2f}] times the cells an hour, {PAIRS} pairs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=40)
    arguments = parser.parse_args()
    fixed_cost(arguments.cells)
    side_by_side(max(4, arguments.cells * 3 // 5))
