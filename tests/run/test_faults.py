"""Faults that are made to happen to a whole run: kills at every write and at any time, Ctrl-C, two runners, the clock.

docs/reliability.md says which fault is held by which test.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cgroups import cgroup
from killed_at import GRID
from mlflow_server import MlflowServer
from speed_sessions import make_session, write_session
from synthetic import make_cell, make_record

from mnistbench import run_grid
from mnistbench.data import datasets
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.results.folder import ResultsFolder, read_record
from mnistbench.results.records import CellRecord, dump
from mnistbench.run.executors import InlineExecutor, ProcessExecutor
from mnistbench.run.run import RunSummary
from mnistbench.tracking.address import place
from mnistbench.tracking.content import RECORD_ID, SESSION
from mnistbench.tracking.journal import done_at
from mnistbench.tracking.sources import sessions_of
from mnistbench.train.job import Job
from mnistbench.train.watcher import Watcher

pytestmark = [pytest.mark.slow, pytest.mark.alone]

ROOT = Path(__file__).parents[2]
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runs below inherit."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(TESTS)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# kill -9 at every write boundary


Run = Callable[..., dict[str, int]]


@pytest.fixture
def killed_at(tmp_path: Path, environment: None, request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run the grid of killed_at.py, and die at the boundary given."""
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "killed_at.py"), *request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdin is not None and process.stdout is not None
    asking, answers = process.stdin, process.stdout

    def run(folder: Path, fatal: int = 0, database: Path | None = None, uri: str | None = None) -> dict[str, int]:
        target = {"uri": uri} if uri else {"database": database and str(database)}
        asked = {"folder": str(folder), "fatal": fatal, **target}
        print(json.dumps(asked), file=asking, flush=True)
        answer: dict[str, int] = json.loads(answers.readline())
        return answer

    yield run
    asking.close()
    process.wait()


@pytest.mark.parametrize("killed_at", [()], indirect=True, ids=["records"])
def test_a_kill_at_any_write_boundary_loses_nothing_and_doubles_nothing(killed_at: Run, tmp_path: Path) -> None:
    """The rerun finishes the grid: whole records, each cell once, weights where their record says, no left-overs."""
    boundaries = killed_at(tmp_path / "count")["passed"]
    assert boundaries > 40
    for fatal in range(1, boundaries + 1):
        folder = tmp_path / f"at{fatal}"
        assert killed_at(folder, fatal)["code"] == -signal.SIGKILL, f"boundary {fatal}"
        before = whole_records(folder)
        assert killed_at(folder)["code"] == 0, f"rerun after boundary {fatal}"
        after = whole_records(folder)
        assert len(after) == 2, f"boundary {fatal}"
        assert before.items() <= after.items(), f"boundary {fatal}: a record was lost or made again"
        assert ResultsFolder(folder).attempts() == []
        for record in ResultsFolder(folder).records():
            assert record.model is not None
            assert [(folder / name).read_bytes() for name in record.model.weights] == [b"weights"]
        assert sorted(path.name for path in (folder / "models").iterdir()) == sorted(after.values())
        assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("killed_at", [("--mirror",)], indirect=True, ids=["mirror"])
def test_a_kill_at_any_write_of_the_mirror_leaves_each_record_there_once(killed_at: Run, tmp_path: Path) -> None:
    """Runs that were left open are found again, filled and ended."""
    template = tmp_path / "template.db"
    assert killed_at(tmp_path / "first", database=template)["code"] == 0  # migrates the database, which takes seconds
    forget_runs(template)
    boundaries = killed_at(tmp_path / "count", database=copy(template, tmp_path / "count.db"))["passed"]
    assert boundaries > 15
    for fatal in range(1, boundaries + 1):
        folder, database = tmp_path / f"at{fatal}", copy(template, tmp_path / f"at{fatal}.db")
        assert killed_at(folder, fatal, database)["code"] == -signal.SIGKILL, f"boundary {fatal}"
        before = whole_records(folder)
        assert killed_at(folder, database=database)["code"] == 0, f"rerun after boundary {fatal}"
        after = whole_records(folder)
        assert before.items() <= after.items()
        assert mirrored(database) == {record_id: ["FINISHED"] for record_id in after.values()}, f"boundary {fatal}"


@pytest.fixture(params=["server", "sqlite"])
def store(tmp_path: Path, environment: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a real `mlflow server`, or of its database without the server."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    if request.param == "sqlite":
        yield uri
        return
    server = MlflowServer(tmp_path, uri)
    server.start()
    yield server.uri
    server.kill()


@pytest.mark.parametrize("killed_at", [("--mirror",)], indirect=True, ids=["sync"])
def test_a_sync_that_is_killed_anywhere_is_completed_by_the_next_and_has_said_nothing_untrue(
    killed_at: Run, store: str, tmp_path: Path
) -> None:
    """At every fifth boundary of two records, one with kept weights, a session of speed and a report."""
    database = tmp_path / "mlflow.db"
    boundaries = killed_at(mirrorable(tmp_path / "count").path, uri=store)["passed"]
    assert boundaries > 30
    for fatal in range(1, boundaries + 1, 5):
        results = mirrorable(tmp_path / f"at{fatal}")
        assert killed_at(results.path, fatal, uri=store)["code"] == -signal.SIGKILL, f"boundary {fatal}"
        there = whole_runs(database, tmp_path, results)
        assert done_at(results.mirrored_file, place(store, results.name)) <= there.keys(), f"boundary {fatal}"
        assert killed_at(results.path, uri=store)["code"] == 0, f"sync after boundary {fatal}"
        keys = {record.record_id for record in results.records()} | {sessions_of(results, results.name)[0].key}
        assert whole_runs(database, tmp_path, results) == dict.fromkeys(keys, 1), f"boundary {fatal}"
        assert every_run(database, results) == [("cell", 2), ("speed", 1), ("summary", 1)], f"boundary {fatal}"


def mirrorable(folder: Path) -> ResultsFolder:
    """A results folder with something of each kind that is mirrored."""
    results = ResultsFolder(folder)
    results.create()
    for seed in (0, 1):
        results.write(make_record(make_cell(seed=seed)))
    kept = results.models / results.records()[0].record_id
    kept.mkdir(parents=True)
    (kept / "last.safetensors").write_bytes(b"weights")
    write_session(results, make_session({make_cell(): 1e4}, cycles=2))
    results.write_grid(f"name: {folder.name}\n")
    results.report_file.write_text('<meta name="generator" content="mnistbench 0.2.0">')
    return results


def whole_runs(database: Path, artifacts: Path, results: ResultsFolder) -> dict[str, int]:
    """Keys of the journal -> how many closed runs have the file whole, and a record's kept weights too."""
    files = {record.record_id: ("record.json", dump(record).encode()) for record in results.records()}
    for session in sessions_of(results, results.name):
        files[session.key] = (session.file, session.data())
    found: dict[str, int] = {}
    for run_id, record_id, session_name, status in runs_in(database, results.name):
        key = record_id or next((key for key in files if session_name and key.startswith(f"speed/{session_name}@")), "")
        if status == "FINISHED" and key:
            (folder,) = artifacts.glob(f"**/{run_id}/artifacts")
            name, content = files[key]
            kept = list((results.models / key).glob("*"))
            assert (folder / name).read_bytes() == content
            assert [(folder / "model" / path.name).read_bytes() for path in kept] == [b"weights"] * len(kept)
            found[key] = found.get(key, 0) + 1
    return found


def runs_in(database: Path, experiment: str) -> list[tuple[str, str | None, str | None, str]]:
    """Of an experiment's runs that were not deleted: id, record, session of speed, status."""
    tag = "(SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = '{}')"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(
            f"SELECT run_uuid, {tag.format(RECORD_ID)}, {tag.format(SESSION)}, status FROM runs JOIN experiments"
            " USING (experiment_id) WHERE runs.lifecycle_stage = 'active' AND experiments.name = ?",
            (experiment,),
        ).fetchall()


def every_run(database: Path, results: ResultsFolder) -> list[tuple[str, int]]:
    """How many runs of each kind an experiment has."""
    kinds = [
        "cell" if record_id else "speed" if session else "summary"
        for _, record_id, session, _ in runs_in(database, results.name)
    ]
    return sorted(Counter(kinds).items())


def whole_records(folder: Path) -> dict[str, str]:
    """cell_id -> record_id of every file in cells/, each of which must be a whole record."""
    found = [read_record(path) for path in (folder / "cells").glob("*.json")]
    assert all(isinstance(record, CellRecord) for record in found), found
    return {record.cell_id: record.record_id for record in found if isinstance(record, CellRecord)}


def copy(database: Path, target: Path) -> Path:
    shutil.copy(database, target)
    return target


def forget_runs(database: Path) -> None:
    connection = sqlite3.connect(database)
    with connection:
        for table in ("latest_metrics", "metrics", "params", "tags", "runs", "experiment_tags"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM experiments WHERE name = 'faults'")
    connection.close()


def mirrored(database: Path) -> dict[str, list[str]]:
    """record_id -> statuses of its runs on the server."""
    connection = sqlite3.connect(database)
    rows = connection.execute(
        "SELECT tags.value, runs.status FROM tags JOIN runs USING (run_uuid)"
        " WHERE tags.key LIKE '%record_id' AND runs.lifecycle_stage = 'active'"
    ).fetchall()
    connection.close()
    found: dict[str, list[str]] = {}
    for record_id, status in rows:
        found.setdefault(record_id, []).append(status)
    return found


# kill -9 at any time, Ctrl-C, SIGTERM, two runners


SCRIPT = """
import json, sys
from mnistbench.run.executors import ProcessExecutor
from mnistbench.grid.grid import Grid
from mnistbench.run.watchers import ReportWriter
from mnistbench.train.watcher import Watcher
from mnistbench import run_grid

folder, train, text = sys.argv[1:]


class Tell(Watcher):
    def epoch(self, job, measurement):
        (pid,) = [worker.pid for worker in executor._running]
        print(json.dumps({"worker": pid, "server": executor._server.pid}), flush=True)


executor = ProcessExecutor(train=f"stand_ins:{train}", preload=("without_torch",))
summary = run_grid(
    Grid.from_text(text), out=folder, tracking=False, executor=executor, own_process=True,
    watchers=[Tell(), ReportWriter(lambda results: results.report_file.write_text("the report"))],
)
sys.exit(summary.exit_code)
"""
LIBRARY = (
    SCRIPT.partition("summary = ")[0]
    + """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("the host's own handler", flush=True))
times = 0


class TellAndPress(Tell):
    def epoch(self, job, measurement):
        super().epoch(job, measurement)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)


try:
    run_grid(Grid.from_text(text), out=folder, tracking=False, executor=executor, watchers=[TellAndPress()])
    print("returned")
except KeyboardInterrupt as error:
    print("raised", error)
finally:
    print("finally")
print("the host goes on")
"""
)


class Runner:
    """A runner in a process of its own, as a terminal would start it, or `nohup`; the tests may run under either."""

    def __init__(
        self, folder: Path, train: str, seeds: int = 2, script: str = SCRIPT, hangup: signal.Handlers = signal.SIG_DFL
    ) -> None:
        text = GRID.replace("seeds: [0]", f"seeds: {list(range(seeds))}")
        before = signal.signal(signal.SIGHUP, hangup)  # a process inherits what is ignored
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script, str(folder), train, text],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGHUP, before)

    def first_epoch(self) -> list[int]:
        """Wait until a cell has trained an epoch; returns the ids of all processes below the runner."""
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        return [told["worker"], told["server"]]

    def ctrl_c(self) -> None:
        """As the terminal does it: to the whole group in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, seconds: float = 60.0) -> tuple[int, str]:
        output, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, output + errors


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "results" / "faults")


def wait_until_gone(pids: list[int]) -> None:
    """Gone, or a corpse that nobody in this container collects."""
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_one_signal_ends_the_present_cell_and_writes_the_report(
    folder: ResultsFolder, number: signal.Signals, code: int
) -> None:
    runner = Runner(folder.path, "sleep")
    below = runner.first_epoch()
    if number == signal.SIGINT:
        runner.ctrl_c()
    else:
        runner.process.send_signal(number)
    ended, output = runner.end()
    assert ended == code, output
    assert "ending the present cell and writing the report; once more to leave at once" in output
    (record,) = folder.records()
    assert record.status == "killed"
    assert record.error is not None
    assert record.error.message == f"stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}"
    assert len(record.epochs) == 1
    assert folder.report_file.read_text() == "the report"
    wait_until_gone(below)


def test_a_second_ctrl_c_leaves_at_once(folder: ResultsFolder) -> None:
    """Even while the report hangs; nothing is left half-written, nobody is left behind."""
    runner = Runner(folder.path, "sleep")
    below = runner.first_epoch()
    os.mkfifo(folder.report_file)  # whoever writes the report blocks until somebody reads it
    runner.ctrl_c()
    deadline = time.monotonic() + 30
    while not folder.records():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert runner.process.poll() is None
    runner.ctrl_c()
    ended, _ = runner.end(seconds=10)
    assert ended == 130
    assert [record.status for record in folder.records()] == ["killed"]
    wait_until_gone(below)


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGUSR1])
def test_warnings_that_come_again_and_before_sigterm_cut_nothing_short(
    folder: ResultsFolder, first: signal.Signals
) -> None:
    """A lost terminal sends SIGHUP twice; a scheduler warns, and then sends SIGTERM."""
    runner = Runner(folder.path, "sleep")
    runner.first_epoch()
    os.mkfifo(folder.report_file)  # whoever writes the report blocks until somebody reads it
    for number in (first, first, signal.SIGTERM):
        runner.process.send_signal(number)
        time.sleep(0.1)
    assert folder.report_file.read_text() == "the report"
    assert runner.end()[0] == 128 + first
    assert [record.status for record in folder.records()] == ["killed"]


def test_a_run_under_nohup_outlives_its_terminal(folder: ResultsFolder) -> None:
    runner = Runner(folder.path, "unhurried", seeds=10, hangup=signal.SIG_IGN)
    runner.first_epoch()
    runner.process.send_signal(signal.SIGHUP)
    assert runner.end()[0] == 0
    assert len(folder.records()) == 20


def test_a_scheduler_that_warns_every_process_costs_one_cell(folder: ResultsFolder) -> None:
    runner = Runner(folder.path, "sleep")
    _, server = runner.first_epoch()
    os.kill(server, signal.SIGUSR1)
    runner.process.send_signal(signal.SIGUSR1)
    assert runner.end()[0] == 128 + signal.SIGUSR1
    assert [record.error and record.error.message for record in folder.records()] == ["stopped by SIGUSR1"]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_call_from_python_that_is_interrupted_keeps_its_records_and_ends_no_host(
    folder: ResultsFolder, times: int
) -> None:
    """However often Ctrl-C is pressed: KeyboardInterrupt is raised, `except` and `finally` run, workers are gone."""
    runner = Runner(folder.path, "sleep", script=LIBRARY.replace("times = 0", f"times = {times}"))
    below = runner.first_epoch()
    ended, output = runner.end()
    assert ended == 0, output
    assert re.search(r"raised 4 cells left.*\nfinally\nthe host goes on", output), output
    assert "ending the present cell\n" in output
    assert [(record.status, len(record.epochs)) for record in folder.records()] == [("killed", 1)]
    wait_until_gone(below)


def test_a_call_from_python_leaves_sigterm_to_its_host(folder: ResultsFolder) -> None:
    runner = Runner(folder.path, "sleep", script=LIBRARY)
    runner.first_epoch()
    runner.process.send_signal(signal.SIGTERM)
    assert runner.process.stdout is not None
    assert runner.process.stdout.readline() == "the host's own handler\n"
    runner.ctrl_c()
    assert "raised" in runner.end()[1]


def test_nobody_outlives_a_runner_that_was_killed(folder: ResultsFolder) -> None:
    runner = Runner(folder.path, "sleep")
    below = runner.first_epoch()
    assert all(is_alive(pid) for pid in below)
    runner.process.kill()
    runner.process.communicate()
    wait_until_gone(below)
    assert folder.records() == []
    with folder.lock():  # a dead one's lock does not block
        pass


IMPORTS = """
import sys, time
from mnistbench.run.executors import ProcessExecutor
executor = ProcessExecutor(preload=("slow_to_import",))
executor.prepare([])
print(executor._server.pid, flush=True)
sys.stdin.read()
executor.close()
print("closed", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_a_server_that_still_imports_does_not_outlive_its_runner(end: str) -> None:
    runner = subprocess.Popen([sys.executable, "-c", IMPORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    server = int(runner.stdout.readline())
    time.sleep(0.5)
    assert is_alive(server)
    if end == "killed":
        runner.kill()
    runner.communicate(timeout=30)
    wait_until_gone([server])


@pytest.mark.parametrize("whose", ["runner", "worker", "server"])
def test_who_is_stopped_and_goes_on_loses_nothing_and_doubles_nothing(folder: ResultsFolder, whose: str) -> None:
    """SIGSTOP, as by Ctrl-Z, a debugger or a scheduler that suspends jobs; then SIGCONT."""
    runner = Runner(folder.path, "unhurried", seeds=15)
    for _ in range(6):
        worker, server = runner.first_epoch()
        pid = {"runner": runner.process.pid, "worker": worker, "server": server}[whose]
        with contextlib.suppress(ProcessLookupError):  # a worker that is done
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.3)
            os.kill(pid, signal.SIGCONT)
    ended, output = runner.end()
    assert ended == 0, output
    assert len(whole_records(folder.path)) == 30
    assert folder.attempts() == []
    assert {record.status for record in folder.records()} == {"finished"}


def test_a_run_can_be_ended_while_its_server_is_stopped(folder: ResultsFolder) -> None:
    """No worker can be started, and nobody says how one has ended: what is known is written all the same."""
    runner = Runner(folder.path, "unhurried", seeds=15)
    _, server = runner.first_epoch()
    os.kill(server, signal.SIGSTOP)
    time.sleep(0.5)
    runner.process.send_signal(signal.SIGTERM)
    assert runner.end(seconds=30)[0] == 128 + signal.SIGTERM
    assert {record.status for record in folder.records()} <= {"finished", "killed"}
    assert len(folder.records()) >= 1
    wait_until_gone([server])


IN_GROUP = """
import os, sys
from pathlib import Path
Path(sys.argv.pop(1), "cgroup.procs").write_text(str(os.getpid()))
""" + SCRIPT.replace("without_torch", "hungry_to_import")


def test_a_server_that_is_killed_for_memory_while_it_imports_is_out_of_memory(folder: ResultsFolder) -> None:
    """The limit is that of a control group below the root."""
    limits = {"memory.max": "300M", "memory.limit_in_bytes": "300M", "memory.memsw.limit_in_bytes": "300M"}
    limits |= {"memory.swap.max": "0"}
    with cgroup("memory", limits) as group:
        done = subprocess.run(
            [sys.executable, "-c", IN_GROUP, str(group), str(folder.path), "quick", GRID],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    records = folder.records()
    assert {record.status for record in records} == {"out_of_memory"}
    assert all(record.error and "memory was used up" in record.error.message for record in records)


def test_kills_at_random_times_lose_nothing(folder: ResultsFolder) -> None:
    """Until the grid is complete; each cell has one record, and none was made again."""
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    stored: dict[str, str] = {}
    for _ in range(4):  # 4 x 0.4 s hold at most 44 of the 80 cells
        runner = Runner(folder.path, "unhurried", seeds=40)
        runner.first_epoch()
        time.sleep(chance.uniform(0.0, 0.4))
        runner.process.kill()
        runner.process.communicate()
        now = whole_records(folder.path)
        assert stored.items() <= now.items(), f"seed {seed}"
        stored = now
    ended, output = Runner(folder.path, "unhurried", seeds=40).end()
    assert ended == 0, output
    assert stored.items() <= whole_records(folder.path).items(), f"seed {seed}"
    assert len(folder.records()) == 80, f"seed {seed}"
    assert folder.attempts() == []


def test_a_second_runner_is_told_who_holds_the_folder_and_leaves(folder: ResultsFolder) -> None:
    first = Runner(folder.path, "sleep")
    try:
        first.first_epoch()
        before = sorted(path.name for path in folder.path.rglob("*"))
        code, output = Runner(folder.path, "quick").end()
        assert code != 0
        assert f"is in use by process {first.process.pid}, since 2" in output
        assert sorted(path.name for path in folder.path.rglob("*")) == before
    finally:
        first.ctrl_c()
        first.end()


# the disk and the clock


def run_here(folder: ResultsFolder, **options: Any) -> RunSummary:
    return run_grid(Grid.from_text(GRID), out=folder.path, tracking=False, **options)


def test_a_disk_that_fills_up_ends_the_run_clearly_and_the_rerun_goes_on(
    folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each write in turn."""
    datasets.prepare(Grid.from_text(GRID).dataset)
    number = 0
    for number in range(1, 40):
        calls = iter(range(1, 1000))

        def full(descriptor: int, calls: Iterator[int] = calls, number: int = number) -> None:
            if next(calls) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            try:
                run_here(folder, executor=InlineExecutor(train="stand_ins:quick"))
            except UserError as error:
                assert re.search(r"cannot write .*No space left on device.*run again to go on", str(error))
            else:
                break
        whole_records(folder.path)
    assert 5 < number < 39
    assert len(folder.records()) == 2
    assert folder.attempts() == []


def test_a_results_folder_that_vanishes_ends_the_run_clearly(folder: ResultsFolder) -> None:
    class Vanishing(Watcher):
        def started(self, job: Job) -> None:
            shutil.rmtree(folder.path)

    with pytest.raises(UserError, match=r"cannot write .*No such file or directory"):
        run_here(folder, executor=InlineExecutor(train="stand_ins:quick"), watchers=[Vanishing()])
    assert not folder.cells.exists()


def test_a_jump_of_the_clock_changes_no_duration(folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock goes an hour ahead each time anybody looks; training is real."""
    hours = iter(range(1, 10**9))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    assert run_here(folder, executor=InlineExecutor()).exit_code == 0
    for record in folder.records():
        assert record.timing is not None
        assert 0 < record.timing.train_seconds <= record.timing.wall_seconds < 3600
        assert all(0 < epoch.train_seconds < 3600 for epoch in record.epochs)


def test_a_jump_of_the_clock_is_no_timeout(folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = iter(range(1, 10**9))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    executor = ProcessExecutor(train="stand_ins:quick", preload=("without_torch",))
    summary = run_here(folder, executor=executor, timeout_seconds=300)
    assert summary.counts == {"finished": 2}
