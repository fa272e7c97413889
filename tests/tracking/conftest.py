"""A database and a results folder for each test that mirrors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mnistbench.results.folder import ResultsFolder
from mnistbench.tracking.server import prepare


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh database, made once: its migrations take seconds."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    """An address of a database of this test's own."""
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """An empty results folder of a grid called quick."""
    folder = ResultsFolder(tmp_path / "results" / "quick")
    folder.create()
    return folder
