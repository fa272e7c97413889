"""What ten thousand cells cost: the start of a run, a frame of all records, the report, a plan.

    python benchmarks/bench_scale.py [--sizes 100,1000,10000]

Each figure is taken in a process of its own, imports included where a user waits for them. The records are made up, in
the shape of real ones: their numbers do not matter here. `bench_tracking.py` has the mirroring.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTED = time.perf_counter()

GRID = """
name: scale
dataset: mnist
architectures: [mlp, lenet5]
optimizers: [{{name: sgd, lr: 0.1, momentum: 0.9}}, adam]
batch_sizes: [64, 256, 1024, 4096, 8192]
devices: [cpu]
seeds: [{seeds}]
twins: 0
training: {{epochs: 2, target_accuracy: 0.97}}
speed: off
"""
CELLS_A_SEED = 20
HERE = Path(__file__).parent


def write_records(folder: Path, count: int) -> None:
    """A results folder in which each cell of the grid has a finished record."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from synthetic import make_record

    from mnistbench import Grid, ResultsFolder
    from mnistbench.data import datasets

    grid = Grid.from_text(GRID.format(seeds=", ".join(map(str, range(count // CELLS_A_SEED)))))
    data = datasets.prepare(grid.dataset)
    results = ResultsFolder(folder)
    results.create()
    for cell in grid.cells(data.component, data.spec.train_examples, ["cpu"]):
        results.write(make_record(cell))
    (folder.parent / "grid.yaml").write_text(GRID.format(seeds=", ".join(map(str, range(count // CELLS_A_SEED)))))


def start(folder: Path) -> dict[str, float]:
    """Seconds of a whole run that finds nothing left to do, imports included; what a resumed run waits at its start."""
    from mnistbench import Grid, run_grid

    summary = run_grid(Grid.load(folder.parent / "grid.yaml"), out=folder, tracking=False)
    assert summary.ran == 0
    return {"start": time.perf_counter() - STARTED}


def frame(folder: Path) -> dict[str, float]:
    """Seconds from files to a frame, imports left out."""
    from mnistbench import ResultsFolder, results_frame

    begin = time.perf_counter()
    rows = results_frame(ResultsFolder(folder).records())
    return {"frame": time.perf_counter() - begin, "rows": len(rows)}


def report(folder: Path) -> dict[str, float]:
    """Seconds and peak memory of `report`, and the page's size."""
    import resource

    from mnistbench import report as pages

    out = folder.parent / "page.html"
    pages.render([folder], out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "report": time.perf_counter() - STARTED,
        "peak_megabytes": peak / 2**20,
        "page_megabytes": out.stat().st_size / 2**20,
    }


def plan(folder: Path) -> dict[str, float]:
    """Seconds to count a grid of 1,000,000 cells."""
    from mnistbench import Grid
    from mnistbench.run import plan as planning

    text = GRID.replace("[64, 256, 1024, 4096, 8192]", str(list(range(1, 101))))
    text = text.format(seeds=", ".join(map(str, range(2_500))))
    begin = time.perf_counter()
    grid = Grid.from_text(text, max_cells=2_000_000)
    read = time.perf_counter()
    cells = planning.count(grid, ["cpu"])
    return {"cells": cells, "read": read - begin, "count": time.perf_counter() - read}


MEASURES = {each.__name__: each for each in (start, frame, report, plan)}


def in_process(measure: str, folder: Path) -> dict[str, float]:
    """One measure in a fresh process."""
    command = [sys.executable, __file__, "--measure", measure, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(sizes: list[int]) -> None:
    """Print one line for each size."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "results"
            write_records(folder, size)
            first, again = (in_process("start", folder)["start"] for _ in range(2))
            rows, made = in_process("frame", folder), in_process("report", folder)
            print(
                f"{size:>6,} records: run starts in {first:.2f} s, {again:.2f} s the second time;"
                f" frame {rows['frame']:.2f} s; report {made['report']:.1f} s,"
                f" {made['peak_megabytes']:,.0f} MB of memory, {made['page_megabytes']:.1f} MB of page",
                flush=True,
            )
    million = in_process("plan", Path())
    print(f"{million['cells']:,.0f} cells: grid read in {million['read']:.2f} s, counted in {million['count']:.4f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, where = arguments.measure
        print(json.dumps(MEASURES[what](Path(where))))
    else:
        main([int(size) for size in arguments.sizes.split(",")])
