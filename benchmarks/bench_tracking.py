"""What mirroring one record into sqlite costs with 100, 1,000 and 10,000 runs already there: it must not grow."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from mnistbench.results.folder import ResultsFolder
from mnistbench.tracking import Mirror

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from synthetic import make_cell, make_record

REAL_RUNS = 10


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of a few mirrored records."""
    folder = tmp_path_factory.mktemp("real")
    results = ResultsFolder(folder / "results")
    results.create()
    mirror = Mirror(f"sqlite:///{folder / 'mlflow.db'}", results, "quick")
    for seed in range(REAL_RUNS):
        assert mirror.write(make_record(make_cell(seed=seed))), mirror.reason
    return folder


@pytest.mark.parametrize("runs", [100, 1_000, 10_000])
def test_mirror_one_record(runs: int, real_runs: Path, tmp_path: Path, benchmark: Any) -> None:
    """The clock goes around `Mirror.write`: create, log, artifact, close."""
    database = Path(shutil.copy(real_runs / "mlflow.db", tmp_path / "mlflow.db"))
    multiply_runs(database, runs // REAL_RUNS)
    results = ResultsFolder(tmp_path / "results")
    results.create()
    mirror = Mirror(f"sqlite:///{database}", results, "quick")
    assert mirror.open(), mirror.reason
    seeds = iter(range(10_000, 20_000))

    def a_record() -> tuple[tuple[Any], dict[str, Any]]:
        return (make_record(make_cell(seed=next(seeds))),), {}

    assert benchmark.pedantic(mirror.write, setup=a_record, rounds=50, warmup_rounds=5)


def multiply_runs(database: Path, times: int) -> None:
    """Copy each mirrored run with all that belongs to it, so that 10,000 take seconds to make."""
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TEMP TABLE originals AS SELECT run_uuid FROM runs")
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "run_uuid"]
            names = ", ".join(f'"{name}"' for name in columns)
            connection.executemany(
                f"INSERT INTO {table} (run_uuid, {names}) SELECT printf('%s%06d', substr(run_uuid, 1, 26), ?), {names}"
                f" FROM {table} WHERE run_uuid IN originals",
                [(copy,) for copy in range(1, times)],
            )
