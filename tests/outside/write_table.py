"""Trains everything that is tried, and writes the table of docs/extending.md: `python tests/outside/write_table.py`."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from agreement import ONE_STEP, SEVERAL_STEPS, Agreement, Case, compare  # noqa: E402
from tried import (  # noqa: E402
    INSTALLED_NETWORKS,
    LOSSES,
    OPTIMIZERS,
    OWN_NETWORKS,
    REFUSED,
    REFUSED_NETWORKS,
    Outsider,
    loss_case,
    network_case,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
BEGIN, END = "<!-- table: tests/outside/write_table.py -->", "<!-- end of the table -->"


def in_words(case: Case) -> tuple[str, str, bool]:
    """What `plain` and `fast` give beside the loop, and whether both are as they must be."""
    try:
        plain = compare(case, "plain", SEVERAL_STEPS)
        fast = [compare(case, "fast", deal) for deal in (ONE_STEP, SEVERAL_STEPS)]
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
        return said, said, False
    right = plain.equal and all(each.within for each in fast)
    return "equal" if plain.equal else f"off by {max(plain.errors):.0e}", _of(fast), right


def _of(fast: list[Agreement]) -> str:
    """The largest difference, with what rounding explains where that is more than 1e-4, and what a gate objects to."""
    error, allowed = max(
        ((error, most) for each in fast for error, most in zip(each.errors, each.allowed, strict=True)),
        key=lambda pair: pair[0] / pair[1],
    )
    said = "equal" if all(each.equal for each in fast) else f"{error:.0e}"
    if not all(each.within for each in fast):
        said = f"off by {error:.0e}"
    elif allowed > 1e-4 and said != "equal":
        said += f" of {allowed:.0e}"
    failed = [each.gate for each in fast if each.gate.startswith("failed")]
    return f"{said}; gate {failed[0]}" if failed else said


def package(name: str) -> str:
    """With its version."""
    return f"{name} {importlib.metadata.version(name).partition('+')[0]}"


def optimizers(say: Callable[[str], None]) -> Iterator[tuple[str, bool]]:
    """Lines of the table, and whether each is right."""
    yield "| optimizer | package | plain | fast | two groups: plain | two groups: fast |", True
    yield "|---|---|---|---|---|---|", True
    for outsider in OPTIMIZERS:
        say(outsider.optimizer)
        plain, fast, right = in_words(outsider.case(grouped=False))
        groups = ("makes its own", "") if outsider.groups == "its own" else ("it takes none", "")
        if outsider.groups == "two":
            *groups, grouped_right = in_words(outsider.case(grouped=True))  # type: ignore[assignment]
            right = right and grouped_right
        row = (f"`{outsider.optimizer}`", package(outsider.package or "torch"), plain, fast, *groups)
        yield f"| {' | '.join(row)} |", right


def networks(say: Callable[[str], None]) -> Iterator[tuple[str, bool]]:
    """Lines of the table, and whether each is right."""
    yield "| network | package | plain | fast |", True
    yield "|---|---|---|---|", True
    for network in [*OWN_NETWORKS, *INSTALLED_NETWORKS]:
        say(network)
        plain, fast, right = in_words(network_case(network))
        row = (f"`{network}`", package(INSTALLED_NETWORKS.get(network, "torch")), plain, fast)
        yield f"| {' | '.join(row)} |", right


def losses(say: Callable[[str], None]) -> Iterator[tuple[str, bool]]:
    """Lines of the table, and whether each is right."""
    yield "| loss | package | plain | fast |", True
    yield "|---|---|---|---|", True
    for loss, (installed_from, _) in LOSSES.items():
        say(loss)
        plain, fast, right = in_words(loss_case(loss))
        yield f"| {' | '.join((f'`{loss}`', package(installed_from), plain, fast))} |", right


def refused() -> Iterator[str]:
    """Lines that say what is refused, and in which words."""
    cases = {name: Outsider(name, 0.01, {}).case(grouped=False) for name in REFUSED}
    for name, case in (cases | {name: network_case(name) for name in REFUSED_NETWORKS}).items():
        try:
            compare(case, "plain", ONE_STEP)
            yield f"- `{name}` is trained."
        except Exception as error:
            yield f"- `{name}`: “{str(error).splitlines()[0]}”"


def main() -> int:
    """Write the table; the exit status is 1 if a line of it is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", choices=["optimizers", "networks", "losses"], help="print one of the tables, and write nothing"
    )
    only = parser.parse_args().only
    if "MNISTBENCH_DATA" not in os.environ:
        parser.error("set MNISTBENCH_DATA to a folder that holds MNIST/raw")
    warnings.simplefilter("ignore")

    def say(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as cache:
        os.environ["MNISTBENCH_CACHE"] = cache
        tables = [list(table(say)) for table in (optimizers, networks, losses) if only in (None, table.__name__)]
        lines = [*("\n".join(line for line, _ in table) + "\n" for table in tables), *([] if only else refused())]
    wrong = [line for table in tables for line, right in table if not right]
    if only:
        print("\n".join(lines))
    else:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        DOCUMENT.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + after, encoding="utf-8")
    say(f"{sum(map(len, tables)) - 2 * len(tables) - len(wrong)} lines as they must be, {len(wrong)} not")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
