"""How much faster `fast` is than a tutorial's own loop, on this machine: pairs of fresh processes in ABBA order.

    python benchmarks/versus.py --data FOLDER [--pairs 6] [--recipes mlp_sigmoid_sgd,…] [--out FILE.json]

For each recipe: examples/s of the plain loop, of `fast`, and with bf16; geometric means of the pairs' ratios with their
95 % t-interval on logarithms; the share of this machine's matrix-product rate that `fast` reaches; and how far our
clocks are from the process's own wall clock. What the measuring costs is told by 20 pairs of epochs in one process,
measured beside a bare loop over the same steps and tensors.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from plain_loops import RECIPES
from rich.console import Console
from rich.table import Table
from scipy import stats

from mnistbench.train.machine import describe_environment

HERE = Path(__file__).parent
LONG = 8.0
"""Seconds of an epoch from which on the bare loop is left out: what the harness costs shows on short epochs."""
BARE_PAIRS = 20


def run(script: str, *arguments: str) -> dict[str, Any]:
    """Run one side in a fresh process; its last line is JSON."""
    command = [sys.executable, str(HERE / script), *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {
        **result,
        "process_seconds": time.perf_counter() - start,
    }


def abba(pairs: int) -> list[tuple[int, int]]:
    """Which side runs first in each pair: 0 is the plain loop; AB, BA, AB, …"""
    return [(0, 1) if pair % 2 == 0 else (1, 0) for pair in range(pairs)]


def ratio_with_interval(ratios: list[float]) -> tuple[float, float, float]:
    """Geometric mean, and its 95 % t-interval on the logarithms."""
    logs = [math.log(value) for value in ratios]
    mean = statistics.mean(logs)
    if len(logs) < 2:
        return math.exp(mean), math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def gemm_rate(dtype: torch.dtype = torch.float32, size: int = 2048) -> float:
    """FLOP/s of a large matrix product, the best of several: what `share of peak` is taken of.

    By torch's default library and by oneDNN, whichever is faster here.
    """
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    best = math.inf
    with torch.no_grad():
        calls = [lambda: torch.mm(a, b), lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")]
        for call in calls:
            call()
            for _ in range(8):
                start = time.perf_counter()
                call()
                best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def compare(recipe: str, data: str, pairs: int, epochs: int) -> dict[str, Any]:
    """One row of the table."""
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    run("one_cell.py", recipe, "--epochs", "1")  # measures the levers' choices and passes the gate, once
    length = ["--epochs", str(epochs)]
    for pair, order in enumerate(abba(pairs)):
        for side in order:
            script = ["one_cell.py", recipe] if side else ["plain_loops.py", recipe, "--data", data]
            result = run(*script, *length, "--seed", str(pair))
            sides[side].append({**result, "rate": result["examples"] / result["train_seconds"]})
    bf16 = run("one_cell.py", recipe, *length, "--set", "execution={profile: fast, precision: bf16}")
    plain, fast = sides
    plain_rate, rate = (statistics.median(each["rate"] for each in side) for side in sides)
    bare: dict[str, Any] = {"measured": [], "bare": []}
    if fast[0]["train_seconds"] / epochs < LONG:
        bare = run("one_cell.py", recipe, "--beside-bare", "--epochs", str(BARE_PAIRS))
    peak = gemm_rate()
    return {
        "recipe": recipe,
        "pairs": pairs,
        "plain": plain_rate,
        "bare": statistics.median(bare["bare"]) if bare["bare"] else None,
        "fast": rate,
        "ratio": ratio_with_interval([f["rate"] / p["rate"] for f, p in zip(fast, plain, strict=True)]),
        "measured_over_bare": ratio_with_interval(
            [ours / theirs for ours, theirs in zip(bare["measured"], bare["bare"], strict=True)]
        )
        if bare["bare"]
        else None,
        "bf16_over_plain": bf16["examples"] / bf16["train_seconds"] / plain_rate,
        "share_of_peak": rate * fast[0]["flops_per_example"] / peak,
        "peak_flops": peak,
        "accuracy_plain": statistics.mean(p["test_accuracy"] for p in plain),
        "accuracy_fast": statistics.mean(f["test_accuracy"] for f in fast),
        "equivalence": fast[0]["equivalence"],
        # All our clocks together against the time that passed: they can leave little out, and count nothing twice.
        "clocks_over_wall": statistics.median(
            sum(f["clocks"][f"{name}_seconds"] for name in ("setup", "warmup", "train", "eval")) / f["outside_seconds"]
            for f in fast
        ),
        "execution_resolved": fast[0]["execution_resolved"],
        "sides": {"plain": plain, "fast": fast, "bare": bare, "bf16": bf16},
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title="fast over the tutorial's own loop, on this machine")
    for column in (
        "recipe",
        "plain/s",
        "bare/s",
        "fast/s",
        "fast/plain",
        "bf16/plain",
        "measured/bare",
        "of peak",
        "accuracy",
    ):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for row in rows:
        table.add_row(
            row["recipe"],
            f"{row['plain']:,.0f}",
            f"{row['bare']:,.0f}" if row["bare"] else "",
            f"{row['fast']:,.0f}",
            "{:.2f} [{:.2f}, {:.2f}]".format(*row["ratio"]),
            f"{row['bf16_over_plain']:.2f}",
            "{:.3f} [{:.3f}, {:.3f}]".format(*row["measured_over_bare"]) if row["measured_over_bare"] else "",
            f"{row['share_of_peak']:.0%}",
            f"{row['accuracy_plain']:.3f} {row['accuracy_fast']:.3f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    mean = statistics.geometric_mean(row["ratio"][0] for row in rows)
    console.print(f"geometric mean of fast over plain: {mean:.2f} ({rows[0]['pairs']} pairs each, ABBA)")


def main() -> None:
    """Compare the recipes, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with MNIST/raw and FashionMNIST/raw; only read")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as copy:
        # torchvision unpacks beside the archives.
        shutil.copytree(arguments.data, copy, dirs_exist_ok=True)
        subprocess.run(["chmod", "-R", "u+w", copy], check=True)
        for recipe in arguments.recipes.split(","):
            rows.append(compare(recipe, copy, arguments.pairs, arguments.epochs))
            show(rows)
            if arguments.out:
                environment = describe_environment().__dict__
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
