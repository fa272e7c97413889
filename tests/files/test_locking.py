"""One process at a time, also on file systems that are not a desktop's."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnistbench.errors import UserError
from mnistbench.files import whole as atomic
from mnistbench.results.folder import ResultsFolder

GONE = 2**22 - 1
"""A process id that no process here has."""


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(tmp_path / "results")
    folder.create()
    return folder


@pytest.fixture(autouse=True)
def weaknesses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What this process has found out about file systems."""
    found: list[str] = []
    monkeypatch.setattr(atomic, "weaknesses", found)
    return found


@pytest.fixture(params=["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file system says that it has no locks."""
    number = getattr(errno, request.param)

    def refuses(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuses)
    yield


def owner(results: ResultsFolder) -> Path:
    return results.path / ".holder.json"


def write_owner(results: ResultsFolder, **changes: object) -> None:
    plain = {"pid": GONE, "host": platform.node(), "since": "2026-11-20T12:00:00+00:00", **changes}
    owner(results).write_text(json.dumps(plain))


@pytest.mark.usefixtures("without_locks")
class TestWithoutLocksOfTheKernel:
    """A file names the owner."""

    def test_a_folder_is_held_and_let_go_and_the_user_is_told(
        self, results: ResultsFolder, weaknesses: list[str]
    ) -> None:
        (results.path / ".lock").touch()  # what an earlier run left says nothing
        with results.lock():
            assert json.loads(owner(results).read_text())["pid"] == os.getpid()
        assert not owner(results).exists()
        assert len(weaknesses) == 1
        assert "has no locks" in weaknesses[0]

    def test_a_second_process_is_told_who_holds_it_and_what_to_delete(self, results: ResultsFolder) -> None:
        told = rf"process {os.getpid()}, since .*delete .*holder.json"
        with results.lock(), pytest.raises(UserError, match=told), results.lock():
            pass

    def test_the_lock_of_a_dead_process_of_this_machine_does_not_block(self, results: ResultsFolder) -> None:
        write_owner(results)
        with results.lock():
            pass

    def test_the_lock_of_another_machine_stands_whatever_runs_here(self, results: ResultsFolder) -> None:
        write_owner(results, host="another")
        with pytest.raises(UserError, match=f"process {GONE} on another, since 2026"), results.lock():
            pass

    def test_a_lock_without_a_name_blocks_for_a_minute_only(self, results: ResultsFolder) -> None:
        """A process was killed between making its file and writing into it, or is about to write."""
        owner(results).touch()
        with pytest.raises(UserError, match="another process"), results.lock():
            pass
        os.utime(owner(results), (time.time() - 100,) * 2)
        with results.lock():
            pass


def test_another_error_of_the_lock_is_an_error(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(UserError, match="Input/output error"), results.lock():
        pass


def test_a_file_system_that_cannot_sync_folders_is_written_to_and_the_user_is_told(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch, weaknesses: list[str]
) -> None:
    fsync = os.fsync

    def refuses_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuses_folders)
    for number in range(2):
        atomic.write_whole(results.path / "file", str(number))
    assert (results.path / "file").read_text() == "1"
    assert len(weaknesses) == 1
    assert "a power cut may take the last records with it" in weaknesses[0]


GRID = """
name: weak
dataset: {name: sum3, rows: 100}
architectures: [mlp]
optimizers: [sgd]
batch_sizes: [8]
devices: [cpu]
seeds: [0]
twins: 0
training: {epochs: 1, save_model: last}
speed: off
"""
WEAK_RUN = """
import errno, fcntl, os, stat, sys
from mnistbench.run.executors import InlineExecutor
from mnistbench.grid.grid import Grid
from mnistbench import run_grid

def fsync(descriptor, sync=os.fsync):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    sync(descriptor)

def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")

os.fsync = fsync
executor = InlineExecutor(train="stand_ins:quick")
grid, folder = Grid.from_text(sys.argv[1]), sys.argv[2]
run_grid(grid, out=folder + "-first", tracking=False, executor=executor)  # prepares the data, elsewhere
fcntl.flock = flock
print(run_grid(grid, out=folder, tracking=False, executor=InlineExecutor(train="stand_ins:quick")))
"""


def test_a_run_on_such_a_file_system_is_made_and_says_what_is_lost(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "MNISTBENCH_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", WEAK_RUN, GRID, str(tmp_path / "out")],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "counts={'finished': 1}" in done.stdout
    assert "does not sync folders" in done.stdout and "has no locks" in done.stdout
