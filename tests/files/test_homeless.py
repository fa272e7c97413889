"""A user id without a passwd entry and without HOME, as containers have it, and other people's left-overs there."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from report_pages import write_folder
from synthetic import make_grid_records

from mnistbench.errors import UserError
from mnistbench.files.cache_folder import cache_folder
from mnistbench.files.homeless import home_for_nobody
from mnistbench.tracking.address import redact

ROOT = Path(__file__).parents[2]
GRID = """
name: homeless
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
AS_NOBODY = f"""
import pwd, sys

def without_entry(number):
    raise KeyError(f"getpwuid(): uid not found: {{number}}")

pwd.getpwuid = without_entry
sys.path.insert(0, {str(ROOT)!r})
from mnistbench.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a grid, and a temporary directory of its own."""
    folder = tmp_path / "work"
    (folder / "temporary").mkdir(parents=True)
    (folder / "grid.yaml").write_text(GRID)
    return folder


def run_as_nobody(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    dropped = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "MNISTBENCH_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in dropped and not name.startswith("XDG_")}
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *arguments],
        cwd=work, env={**kept, "TMPDIR": str(work / "temporary")},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_user_without_a_home_runs_a_grid_to_its_report_and_mirror(work: Path) -> None:
    done = run_as_nobody(work, "run", "grid.yaml", "--executor", "inline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "there is no home folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert (work / "results" / "homeless" / "report.html").is_file()
    assert "could not be written" not in done.stdout
    assert "not in MLflow" not in done.stdout


@pytest.mark.slow
def test_doctor_answers_without_a_home(work: Path) -> None:
    done = run_as_nobody(work, "doctor")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_cache_of_a_call_from_python_has_a_place_without_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "MNISTBENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def without_entry(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", without_entry)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / f"mnistbench-home-{os.getuid()}" / "cache"
    assert redact("a text", "sqlite:///mlflow.db") == "a text"


def test_a_stand_in_that_somebody_else_has_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = home_for_nobody()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="is another user's: set HOME"):
        home_for_nobody()


@pytest.mark.slow
def test_settings_of_matplotlib_that_are_not_text_cost_no_report(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "quick", make_grid_records(batch_sizes=[64], seeds=1, twins=0))
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: caf\xe9\n")
    done = subprocess.run(
        [sys.executable, "-m", "mnistbench", "report", str(folder)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (Path(folder) / "report.html").is_file()
