"""Runs that are killed with -9 at a write boundary; `test_faults.py` tells this script which, one line of JSON a run.

The boundaries lie where every writer must pass: before and after each fsync and each rename; with a mirror, before and
after each line of its journal and each call that writes to MLflow; for a `sync` to a server, before and after each line
of the journal and each request. At every other fsync of a file, the file is first
cut in half, as a power cut may leave it. Runs are forked off after all imports, which take longer than all the rest.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnistbench import run_grid
from mnistbench.data import datasets
from mnistbench.grid.grid import Grid
from mnistbench.results.folder import ResultsFolder
from mnistbench.run.executors import InlineExecutor
from mnistbench.tracking import sync
from mnistbench.tracking.journal import Journal

GRID = """
name: faults
dataset: {name: sum3, rows: 100}
architectures: [mlp]
optimizers: [sgd]
batch_sizes: [8, 16]
devices: [cpu]
seeds: [0]
twins: 0
training: {epochs: 1, save_model: last}
speed: off
"""


FSYNC = os.fsync


class Boundaries:
    """Counts write boundaries, and dies at one of them (0: at none)."""

    def __init__(self, fatal: int) -> None:
        self.count = 0
        self.fatal = fatal

    def passed(self) -> None:
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if function is FSYNC and self.count + 1 == self.fatal and self.fatal % 2:
                cut_in_half(arguments[0])
            self.passed()
            result = function(*arguments, **options)
            self.passed()
            return result

        return wrapped


def cut_in_half(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and os.get_inheritable(descriptor) is False:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, found.st_size // 2)


def run(grid: Grid, folder: str, fatal: int, database: str | None) -> int:
    """Run the grid; returns the number of boundaries that were passed: those of the mirror if there is one."""
    boundaries = Boundaries(fatal)
    if database is None:
        for name in ("fsync", "replace", "rename"):
            setattr(os, name, boundaries.around(getattr(os, name)))
    else:
        from mlflow import MlflowClient

        for name in ("create_run", "log_batch", "log_text", "log_artifact", "set_terminated"):
            setattr(MlflowClient, name, boundaries.around(getattr(MlflowClient, name)))
        Journal._append = boundaries.around(Journal._append)  # type: ignore[method-assign]
    summary = run_grid(
        grid,
        only=["batch_size=8"] if database else [],
        out=folder,
        tracking=database is not None,
        tracking_uri=database and f"sqlite:///{database}",
        executor=InlineExecutor(train="stand_ins:quick"),
    )
    assert summary.exit_code == 0 and summary.left == 0 and summary.not_mirrored == 0, summary
    return boundaries.count


def sync_folder(folder: str, fatal: int, uri: str) -> int:
    """Mirror a folder; returns the number of boundaries that were passed."""
    from mlflow import MlflowClient
    from requests.adapters import HTTPAdapter

    boundaries = Boundaries(fatal)
    calls = ("create_experiment", "create_run", "set_experiment_tag", "log_batch", "log_artifact", "set_terminated")
    for owner, names in ((HTTPAdapter, ["send"]),) if uri.startswith("http") else ((MlflowClient, calls),):
        for name in names:
            setattr(owner, name, boundaries.around(getattr(owner, name)))
    Journal._append = boundaries.around(Journal._append)  # type: ignore[method-assign]
    done = sync(ResultsFolder(Path(folder)), uri, patience_seconds=0.0)
    assert (done.failed, done.sessions.failed, done.reason) == (0, 0, None), done
    return boundaries.count


def main() -> None:
    grid = Grid.from_text(GRID)
    grid.cells(datasets.prepare(grid.dataset).component, 70, ["cpu"])
    if "--mirror" in sys.argv:
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")

    for line in sys.stdin:
        asked = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                passed = sync_folder(**asked) if "uri" in asked else run(grid, **asked)
                os.write(writing, str(passed).encode())
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        os.close(writing)
        _, ended = os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            written = pipe.read()
        print(json.dumps({"code": os.waitstatus_to_exitcode(ended), "passed": int(written or 0)}), flush=True)


if __name__ == "__main__":
    main()
