"""Pipes that nobody writes to, in the place of files: nothing waits for them for ever."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "reference" / "quick"
GRID = """
name: piped
dataset: {name: sum3, rows: 100}
architectures: [mlp]
optimizers: [sgd]
batch_sizes: [8]
devices: [cpu]
seeds: [0]
training: {epochs: 1}
speed: off
"""


def in_time(*arguments: str, folder: Path, descriptors: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """One command; a test whose command waits fails by the time's end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MNISTBENCH_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "mnistbench", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(("name", "said"), [("grid.yaml", "is a pipe"), ("cells.json", "belong to an older release")])
def test_a_pipe_as_a_grid_is_refused(tmp_path: Path, name: str, said: str) -> None:
    os.mkfifo(tmp_path / name)
    done = in_time("run", name, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_grid_that_the_shell_writes_into_a_pipe_of_its_own_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, GRID.encode())
    os.close(writing)
    done = in_time("plan", f"/dev/fd/{reading}", folder=tmp_path, descriptors=(reading,))
    os.close(reading)
    assert done.stdout.startswith("piped: "), done.stderr


@pytest.mark.slow
def test_pipes_in_a_results_folder_are_no_files_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    shutil.copytree(PUBLISHED, folder)
    for name in ("cells.json", ".index.json", ".mnistbench.json", ".now.json", "grid.yaml", "mirrored.jsonl"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    record = next((folder / "cells").iterdir())
    record.unlink()
    os.mkfifo(record)
    done = in_time("status", "quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout
