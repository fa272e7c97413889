"""`python -m mnistbench` under streams and settings that are not a desktop's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "reference" / "quick"
GRID = """
name: streams
dataset: {name: sum3, rows: 100}
architectures: [mlp]
optimizers: [sgd]
batch_sizes: [8]
devices: [cpu]
seeds: [0]
twins: 0
training: {epochs: 1}
speed: off
"""


def in_shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell, in which `mnistbench` stands for this package's command line."""
    line = command.replace("mnistbench", f"{sys.executable} -m mnistbench", 1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MNISTBENCH_CACHE": str(folder / "cache"), **variables}
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.mark.parametrize(
    ("typed", "on_path"), [("bin/python -m mnistbench", ""), ("python -m mnistbench", "bin"), ("bin/mnistbench", "")]
)
def test_a_command_that_is_printed_can_be_copied(tmp_path: Path, typed: str, on_path: str) -> None:
    """It begins with what was typed: an environment that was not activated has no `python` of its own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    program = "import sys; from mnistbench.__main__ import main; sys.exit(main())"
    (tmp_path / "bin" / "mnistbench").write_text(f"#!{sys.executable}\n{program}\n")
    (tmp_path / "bin" / "mnistbench").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    if on_path:
        environment["PATH"] = f"{tmp_path / on_path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        f"{typed} init", cwd=tmp_path, shell=True, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"written: quick.yaml; run it with `{typed} run quick.yaml`\n"


@pytest.mark.slow
def test_an_encoding_that_lacks_letters_prints_question_marks(tmp_path: Path) -> None:
    done = in_shell(f"mnistbench status {PUBLISHED}", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "mlp ? adam" in done.stdout


@pytest.mark.parametrize("command", [f"status {PUBLISHED}", "list optimizers"])
def test_an_output_that_is_full_is_said_in_one_line(tmp_path: Path, command: str) -> None:
    done = in_shell(f"mnistbench {command} > /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: standard output cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize(
    ("command", "status"), [("list optimizers", 0), (f"compare {PUBLISHED} {PUBLISHED} --fail-on slower=5%", 6)]
)
def test_a_reader_that_has_gone_changes_no_status(tmp_path: Path, command: str, status: int) -> None:
    """`mnistbench compare … | head`: a CI reads the status."""
    done = in_shell(f"(mnistbench {command}; echo $? >&2) | true", tmp_path)
    assert done.stderr == f"{status}\n"


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_with_closed_streams_trains_all_the_same(tmp_path: Path, closed: str) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    done = in_shell(f"mnistbench run grid.yaml --no-tracking {closed}", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "results" / "streams" / "cells").iterdir())) == 1
    assert (tmp_path / "results" / "streams" / "report.html").is_file()


@pytest.mark.slow
def test_warnings_made_errors_find_nothing_unclosed(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    done = in_shell("mnistbench run grid.yaml --no-tracking", tmp_path, PYTHONWARNINGS="error")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    assert "note: the report" not in done.stdout


@pytest.mark.slow
def test_a_limit_of_memory_that_torch_does_not_fit_in_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    done = in_shell("ulimit -v 1200000; mnistbench run grid.yaml --no-tracking", tmp_path, OPENBLAS_NUM_THREADS="1")
    assert "out_of_memory (libtorch" in done.stderr, done.stdout + done.stderr
    done = in_shell("ulimit -v 1200000; mnistbench show mlp", tmp_path, OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no memory is left: libtorch")
    assert done.stderr.count("\n") == 1
