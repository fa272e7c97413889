"""The shared tracking server of docs/tracking-server.md: PostgreSQL, proxied artifacts, several machines at once."""

from __future__ import annotations

import multiprocessing
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow_server import MlflowServer, free_port
from synthetic import START, make_cell, make_environment, make_record

from mnistbench.results.folder import ResultsFolder
from mnistbench.tracking import SyncResult, rebuild, sync

pytestmark = [pytest.mark.slow, pytest.mark.alone]

EXPERIMENT = "shared grid"
MACHINES = 4
RECORDS = 15
"""By each machine; the server is killed when it has about a third of all."""


class Postgres:
    """A PostgreSQL of the test's own, on loopback, in a folder under /tmp that its user may enter."""

    def __init__(self) -> None:
        self.programs = _programs()
        self.folder = Path(tempfile.mkdtemp(prefix="mnistbench-postgres-", dir="/tmp"))
        self.port = free_port()
        self.uri = f"postgresql+psycopg2://mlflow:hunter22@127.0.0.1:{self.port}/mlflow"
        # PostgreSQL refuses to run as root; Debian's package brings a user for it.
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as_user:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)

    def start(self) -> None:
        """Make the cluster, start it, make user and database."""
        data = str(self.folder / "data")
        password = self.folder / "password"
        password.write_text("hunter22\n")
        password.chmod(0o644)
        self._run("initdb", "-D", data, "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={password}", "-N")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", data, "-l", str(self.folder / "log"), "-w", "-o", options, "start")
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "mlflow", "mlflow")

    def stop(self) -> None:
        """Stop it and clear its folder."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        environment = {**os.environ, "PGPASSWORD": "hunter22", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [*self._as_user, str(self.programs / program), *arguments],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE,
            stderr=subprocess.STDOUT if program == "pg_ctl" else subprocess.PIPE,
            check=False,
            timeout=60,
        )
        log = self.folder / "log"
        assert done.returncode == 0, f"{program}: {done.stderr} {log.read_text() if log.exists() else ''}"


def _programs() -> Path:
    """The folder with initdb and pg_ctl; Debian keeps them off the PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if not found and not on_path:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return max(found, key=lambda path: float(path.parent.name)) if found else Path(str(on_path)).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """`mlflow server` on PostgreSQL."""
    postgres = Postgres()
    running = None
    try:
        postgres.start()
        running = MlflowServer(tmp_path_factory.mktemp("server"), postgres.uri)
        running.start()
        yield running
    finally:
        if running is not None:
            running.kill()
        postgres.stop()


def machine_folder(root: Path, number: int) -> ResultsFolder:
    """What one machine measured: its own seeds of the same grid."""
    results = ResultsFolder(root / f"machine{number}")
    results.create()
    for seed in range(RECORDS):
        record = make_record(
            make_cell(seed=number * RECORDS + seed),
            started_at=START + timedelta(seconds=seed),
            environment=make_environment(f"machine {number}"),
        )
        results.write(record)
    results.report_file.write_text(f"report of machine {number}")
    return results


def mirror_machine(job: tuple[str, str]) -> SyncResult:
    """Runs in a process of its own."""
    folder, uri = job
    return sync(ResultsFolder(folder), uri, experiment=EXPERIMENT, patience_seconds=120)


def mirrored_so_far(folders: list[ResultsFolder]) -> int:
    files = [folder.mirrored_file for folder in folders if folder.mirrored_file.exists()]
    return sum(file.read_text().count("run_id") for file in files)


def test_four_machines_mirror_at_once_while_the_server_is_killed_and_started_again(
    server: MlflowServer, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    folders = [machine_folder(tmp_path, number) for number in range(MACHINES)]
    with multiprocessing.get_context("spawn").Pool(MACHINES) as pool:
        jobs = pool.map_async(mirror_machine, [(str(folder.path), server.uri) for folder in folders], chunksize=1)
        while mirrored_so_far(folders) < MACHINES * RECORDS / 3:
            assert not jobs.ready(), "all was mirrored before the server was killed"
            time.sleep(0.02)
        server.kill()
        begun_before = mirrored_so_far(folders)
        assert begun_before < MACHINES * RECORDS
        server.start()
        outcomes = jobs.get(timeout=200)
    assert [(outcome.mirrored, outcome.failed, outcome.reason) for outcome in outcomes] == [(RECORDS, 0, None)] * 4

    client = MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    kinds = Counter(run.data.tags["mnistbench.kind"] for run in runs)
    assert kinds == {"cell": MACHINES * RECORDS, "summary": 1}
    ids = [run.data.tags["mnistbench.record_id"] for run in runs if run.data.tags["mnistbench.kind"] == "cell"]
    assert len(set(ids)) == MACHINES * RECORDS, "doubles"
    assert {run.info.status for run in runs} == {"FINISHED"}

    back = ResultsFolder(tmp_path / "back")
    done = rebuild(EXPERIMENT, server.uri, back)
    assert (done.written, done.set_aside) == (MACHINES * RECORDS, [])
    measured = {record.record_id: record for folder in folders for record in folder.records()}
    assert {record.record_id: record for record in back.records()} == measured


def test_the_password_of_the_database_stays_with_the_server(server: MlflowServer, tmp_path: Path) -> None:
    """Clients give the server's address only, and nothing they store holds more than that."""
    results = machine_folder(tmp_path, 9)
    sync(results, server.uri, experiment="other")
    back = ResultsFolder(tmp_path / "back")
    rebuild("other", server.uri, back)
    for path in [*results.path.rglob("*"), *back.path.rglob("*")]:
        assert not path.is_file() or "hunter22" not in path.read_text()
