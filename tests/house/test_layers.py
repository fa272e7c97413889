"""Where only the core is installed: grids run, and what is left out says where it is done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mnistbench.cli import app as cli
from mnistbench.errors.layers import LAYERS
from mnistbench.results.folder import ResultsFolder

ROOT = Path(__file__).parents[2]
GRID = """
name: core
dataset: digits
architectures: [logistic]
optimizers: [{name: sgd, lr: 0.5}]
batch_sizes: [256]
devices: [cpu]
seeds: [0]
twins: 0
training: {epochs: 1}
"""
REFUSED = ("pandas", "seaborn", "matplotlib", "itables", "mlflow", "sqlalchemy")
"""Libraries of the other two layers; torch needs jinja2 itself, and scikit-learn scipy."""
REFUSING = f"""
import sys
from importlib.machinery import PathFinder

class Refusing(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {REFUSED} else super().find_spec(name, path, target)

sys.meta_path[:] = [Refusing if finder is PathFinder else finder for finder in sys.meta_path]
"""


def requirements(layer: str) -> list[Requirement]:
    lines = (ROOT / "requirements" / f"{layer}.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line.partition("#")[0]) for line in lines if not line.startswith("#")]


def mnistbench(python: Path | str, work: Path, *arguments: str, search: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in another interpreter."""
    environment = {**os.environ, "PYTHONPATH": f"{search}{os.pathsep}{ROOT}", "MNISTBENCH_CACHE": str(work / "cache")}
    command = [str(python), "-m", "mnistbench", *arguments]
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=200, check=False)


def runs_and_says_what_it_leaves_out(python: Path | str, work: Path, search: str = "") -> None:
    """One line for the report and MLflow; commands that need them say so and end with status 2."""
    (work / "grid.yaml").write_text(GRID)
    done = mnistbench(python, work, "run", "grid.yaml", search=search)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cells: 1 finished" in done.stdout
    said = [line for line in done.stdout.splitlines() if "left out" in line]
    assert len(said) == 1, done.stdout
    assert "the report and MLflow (not installed here: pandas" in said[0]
    assert "`report results/core` and `sync results/core` where all is installed" in said[0]
    assert "Traceback" not in done.stderr
    for command, library in (("report", "pandas"), ("sync", "mlflow")):
        done = mnistbench(python, work, command, "results/core", search=search)
        assert done.returncode == 2
        assert re.match(rf"error: `{command}` needs .*{library}.* not installed here: `pip install ", done.stderr)
    assert mnistbench(python, work, "status", "results/core", search=search).returncode == 0
    assert [record.status for record in ResultsFolder(work / "results" / "core").records()] == ["finished"]


@pytest.mark.slow
def test_a_grid_runs_where_the_other_layers_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither here nor in the processes that train; the records are taken up where all is installed."""
    (tmp_path / "refusing").mkdir()
    (tmp_path / "refusing" / "sitecustomize.py").write_text(REFUSING)
    runs_and_says_what_it_leaves_out(sys.executable, tmp_path, search=str(tmp_path / "refusing"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "results/core"]) == 0
    assert cli.main(["sync", "results/core"]) == 0


@pytest.mark.slow
def test_a_grid_runs_in_an_environment_that_has_the_core_alone(tmp_path: Path) -> None:
    """A virtual environment with what requirements/core.txt asks for, and with nothing else."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    link_core(site)
    absent = "import importlib.util as u, sys; sys.exit(any(u.find_spec(name) for name in sys.argv[1:]))"
    assert subprocess.run([python, "-I", "-c", absent, *REFUSED], check=False).returncode == 0
    runs_and_says_what_it_leaves_out(python, tmp_path)


def link_core(site: Path) -> None:
    """Link what the core needs, by the requirements of its packages, from this environment."""
    open_, seen = requirements("core"), set()
    while open_:
        requirement = open_.pop()
        if requirement.name in seen:
            continue
        seen.add(requirement.name)
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        needed = [Requirement(text) for text in package.requires or []]
        extras = {"", *requirement.extras}
        open_ += [one for one in needed if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras)]
        for name in {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(str(package.locate_file(name)))
            if source.exists() and not (site / name).exists():
                (site / name).symlink_to(source.resolve())


def test_the_layers_are_told_in_one_way() -> None:
    """By import name and by package, and all of them are installed by default."""
    for layer, names in LAYERS.items():
        assert {requirement.name for requirement in requirements(layer)} - {"sqlalchemy"} == set(names)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = project["tool"]["setuptools"]["dynamic"]["dependencies"]["file"]
    assert files == [f"requirements/{layer}.txt" for layer in ("core", *LAYERS)]


def test_cells_of_an_older_release_are_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cells.json").write_text('{"resolved_grid": 1}')
    assert cli.main(["run", "cells.json"]) == 2
    said = capsys.readouterr().err
    for part in ("older release", "pip download", "'setuptools>=77'", "--find-links DIR", "--no-deps ."):
        assert part in said
    assert len(said.splitlines()) == 1
