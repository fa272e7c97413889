"""What the terminal says at the end of a run."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from report_pages import write_folder
from rich.console import Console
from speed_sessions import make_session, write_session
from synthetic import make_cell, make_environment, make_grid_records, make_record

from mnistbench import run_grid
from mnistbench.cli import app as cli
from mnistbench.cli.outcome import console_for_tables, print_best, typed_again
from mnistbench.grid.grid import Grid
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import Error
from mnistbench.run.executors import InlineExecutor
from mnistbench.train.watcher import Watcher

GRID = """
name: ended
dataset: {name: sum3, rows: 100}
architectures: [mlp]
optimizers: [sgd]
batch_sizes: [8]
devices: [cpu]
seeds: [0, 1]
twins: 0
training: {epochs: 1}
speed: off
"""
SECRET = "http://ann:s3cret@tracking.example:5000"


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("my grid.yaml").write_text(GRID)
    Path("failing.py").write_text("def fails(features=3, classes=3):\n    raise ValueError('on purpose')\n")


@pytest.mark.parametrize(
    "command", [["status", "theirs"], ["status", "theirs", "--cells"], ["compare", "theirs", "too"]]
)
def test_the_folder_of_somebody_else_gives_the_terminal_no_orders(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences clear the screen, set its title, or turn the text around."""
    orders = "x\x1b[2J\x1b]0;title\x07\u202e\x9b31m"
    cells = [make_cell(architecture=orders), make_cell(device=orders), make_cell(dataset=orders)]
    environment = make_environment(orders, device_name=orders)
    checks = {"equivalence": f"failed: {orders}"}
    for name in ("theirs", "too"):
        records = [make_record(cell, flags=[orders], checks=checks, environment=environment) for cell in cells]
        failed = make_record(make_cell(), status="failed", error=Error(type=orders, message=orders))
        folder = ResultsFolder(write_folder(Path(name), [*records, failed]))
        (folder.cells / f"{orders}.json").write_text("{")
        write_session(folder, make_session(dict.fromkeys(cells, 1e4), cycles=12))
    note = {"pid": os.getpid(), "now": orders, "done": orders, "cells": orders}
    Path("theirs/.now.json").write_text(json.dumps(note))
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "title" in said
    assert not set(said) & set("\x1b\x07\u202e\x9b")


def test_the_resume_line_is_the_command_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["run", "my grid.yaml", "--set", 'architectures=["failing:fails"]', "--plugin", "failing.py"]
    typed += ["--only", "seed=1", "--executor", "inline", "--no-tracking", "--out=some where"]
    assert cli.main(typed) == 1
    said = capsys.readouterr().out
    line = (
        "python -m mnistbench run 'my grid.yaml' --set 'architectures=[\"failing:fails\"]' --plugin failing.py"
        " --only seed=1 --executor inline --no-tracking '--out=some where'"
    )
    assert f"`{line}` tries again" in said


@pytest.mark.parametrize("flag", [["--tracking-uri", SECRET], [f"--tracking-uri={SECRET}"]])
@pytest.mark.parametrize(("carrier", "shown"), [("MY_SERVER", "$MY_SERVER"), (None, "$MLFLOW_TRACKING_URI")])
def test_a_secret_is_shown_as_the_variable_that_carries_it(
    monkeypatch: pytest.MonkeyPatch, flag: list[str], carrier: str | None, shown: str
) -> None:
    if carrier:
        monkeypatch.setenv(carrier, SECRET)
    again = typed_again(["mnistbench", "run", "grid.yaml", *flag])
    assert again == "mnistbench run grid.yaml " + flag[0].partition("=")[0] + ("=" if len(flag) == 1 else " ") + (
        f'"{shown}"'
    )


class Interrupts(Watcher):
    """Presses Ctrl-C when the first cell begins to train."""

    def epoch(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_cell_that_ctrl_c_ended_is_no_failed_cell() -> None:
    summary = run_grid(
        Grid.from_text(GRID), out="out", tracking=False, executor=InlineExecutor(train="stand_ins:quick"),
        watchers=[Interrupts()], own_process=True,
    )  # fmt: skip
    assert [record.status for record in ResultsFolder("out").records()] == ["killed"]
    assert (summary.failed, summary.left, summary.exit_code) == (0, 2, 130)


@pytest.mark.slow
def test_the_hint_to_sync_names_the_server_that_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["run", "my grid.yaml", "--executor", "inline", "--tracking-uri", "http://127.0.0.1:9", "--out", "my out"]
    assert cli.main(typed) == 0
    assert "`sync 'my out' --tracking-uri http://127.0.0.1:9` mirrors what is missing" in capsys.readouterr().out


@pytest.mark.slow
def test_the_best_so_far_names_what_tells_its_rows_apart(capsys: pytest.CaptureFixture[str]) -> None:
    several = ["--set", "execution=[plain, fast]", "--set", "training.shuffle=[true, false]", "--only", "seed=0"]
    assert cli.main(["run", "my grid.yaml", *several, "--executor", "inline", "--no-tracking"]) == 0
    said = capsys.readouterr().out.partition("Best so far")[2]
    rows = {match.group(1) for line in said.splitlines() if (match := re.match(r" *– +(.+?)  ", line))}
    assert {row.partition(" (")[0] for row in rows} == {
        f"{training} · {execution}"
        for training in ("epochs 1", "epochs 1, shuffle False")
        for execution in ("plain", "fast")
    }
    assert " · mlp · sgd · schedule constant · batch 8 · cpu." in " ".join(said.split())


@pytest.mark.parametrize("console", [Console(width=80, record=True, file=io.StringIO()), console_for_tables()])
def test_the_best_so_far_fits_80_columns_and_keeps_its_numbers_whole(tmp_path: Path, console: Console) -> None:
    records = make_grid_records(batch_sizes=[64, 512], seeds=2, twins=0, executions=["fast", "plain"])
    folder = ResultsFolder(write_folder(tmp_path / "wide", records))
    cells = {record.cell.without_seed(): record.cell for record in records}
    write_session(folder, make_session({cell: 1e4 * (1 + number) for number, cell in enumerate(cells.values())}))
    with console.capture() as capture:
        print_best(folder, console)
    lines = capture.get().splitlines()
    assert max(len(line) for line in lines if " · batch " in line) <= 80
    assert "…" not in "".join(lines)
    first = next(line for line in lines if " · batch " in line)
    assert re.match(r" *\d+(–\d+)? ", first)


def test_a_narrow_terminal_keeps_the_names_and_the_first_figure(tmp_path: Path) -> None:
    """At 40 columns all figures would leave no room for what they are of."""
    folder = ResultsFolder(write_folder(tmp_path / "narrow", make_grid_records(batch_sizes=[64, 512], seeds=2)))
    console = Console(width=40, force_terminal=True, file=io.StringIO())
    with console.capture() as capture:
        print_best(folder, console)
    shown = " ".join(capture.get().split())
    assert "batch 512" in shown and "to target" in shown and "seeds" not in shown


def test_the_line_of_a_cell_names_its_schedule_and_its_execution(capsys: pytest.CaptureFixture[str]) -> None:
    several = ["--set", "optimizers=[{name: sgd, schedule: [constant, cosine]}]", "--set", "execution=[plain, fast]"]
    assert cli.main(["run", "my grid.yaml", *several, "--dry-run", "--only", "seed=0"]) == 0
    said = capsys.readouterr().out
    assert "sgd, cosine · batch 8 · cpu · plain · seed 0" in said
    assert "sgd · batch 8 · cpu · seed 0" in said
