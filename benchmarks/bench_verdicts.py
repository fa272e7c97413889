"""Does the estimator of docs/statistics.md keep its promise, and what does it tell?

    python benchmarks/bench_verdicts.py simulate [--grids 1000]

On simulated machines (`tests/simulated_machines.py`): the share of grids of equal settings in which one is told to be
faster than another, and the shares of true differences that are told.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("simulate").add_argument("--grids", type=int, default=1000)
    options = parser.parse_args(arguments)
    return 0 if simulate(options.grids) else 1


if __name__ == "__main__":
    sys.exit(main())
