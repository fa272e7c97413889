"""What Ray costs: cells per hour on one, two and three nodes of this machine, with cells of a fixed sleep.

python benchmarks/bench_ray.py [--seconds 1] [--cells 12]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0", "RAY_worker_niceness": "0"}

from ray.cluster_utils import Cluster

from mnistbench import run_grid
from mnistbench.grid.grid import Grid
from mnistbench.results.records import CellRecord
from mnistbench.run.ray import RayExecutor
from mnistbench.train.watcher import Watcher

TESTS = Path(__file__).parents[1] / "tests"
STAND_INS = tuple(str(TESTS / name) for name in ("ray_stand_ins.py", "stand_ins.py", "without_torch.py"))
GRID = """
name: sleep
dataset: {{name: sum3, rows: 100}}
architectures: [mlp]
optimizers: [{{name: sgd, lr: 0.1}}]
batch_sizes: [8]
devices: [cpu]
seeds: [{seeds}]
twins: 0
training: {{epochs: 1}}
speed: off
"""


class Clock(Watcher):
    """When each cell ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
        assert record.status == "finished"
        self.ended.append(time.monotonic())


def measure(nodes: int, cells: int) -> tuple[float, float]:
    """Cells per hour once every node has run its first, and seconds from `run` to the first record."""
    seeds = ", ".join(str(seed) for seed in range(10, 10 + (cells + 1) * nodes))
    one = {"num_cpus": 2, "object_store_memory": 78 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=one)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**one)
        clock, started = Clock(), time.monotonic()
        executor = RayExecutor(
            cluster.address, plugins=STAND_INS, train="ray_stand_ins:snooze", preload=("without_torch",)
        )
        with tempfile.TemporaryDirectory() as out:
            grid = Grid.from_text(GRID.format(seeds=seeds))
            run_grid(grid, out=out, executor=executor, tracking=False, watchers=[clock])
    finally:
        cluster.shutdown()
    # Nodes come in one by one, and run out of cells one by one: take the middle, in which all have work.
    steady = clock.ended[2 * nodes : -nodes]
    # Cells end in bursts of one per node: count from the end of a burst to the end of another.
    return 3600 * (len(steady) - nodes) / (steady[-1] - steady[nodes - 1]), clock.ended[0] - started


def main() -> None:
    """Print a line for each number of nodes."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=1.0, help="how long a cell sleeps")
    arguments.add_argument("--cells", type=int, default=12, help="cells for each node")
    options = arguments.parse_args()
    os.environ["MNISTBENCH_TEST_SECONDS"] = str(options.seconds)
    sys.path.insert(0, str(TESTS))
    print(
        f"cells that sleep {options.seconds:g} s; without any overhead a node would do {3600 / options.seconds:.0f}/h"
    )
    for nodes in (1, 2, 3):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["MNISTBENCH_CACHE"] = cache
            rate, first = measure(nodes, options.cells)
        share = rate * options.seconds / 3600 / nodes
        print(f"{nodes} nodes: {rate:,.0f} cells/h, {share:.1%} of what sleeps; first record after {first:.1f} s")


if __name__ == "__main__":
    main()
