"""Runs small grids for a given time, kills them at random, and counts what is lost and what is there twice.

    python benchmarks/soak.py --minutes 60 [--seed 0] [--kills 1000] [--kinds quick,full,trained,mirrored]

Each round has a fresh folder and a grid. Runners (in processes of their own, with the real workers below them) are
started on it one after the other; each is disturbed at random moments, until the grid is complete. Kinds of round:
`quick` puts a pause of 40 ms in the place of training; `full` does that on a small disk of its own (tmpfs) that is
filled up meanwhile, or where none can be mounted with writes that the kernel's error refuses; `trained` trains an MLP
on sums of three digits; `mirrored` writes to a real `mlflow server` that is killed as well. After every runner, each
record that was ever seen in a file, or that a runner said it had written, must be in a file, unchanged.

The last line is JSON with the figures. Status 1 if anything was lost, doubled, broken, left running or left undone.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
sys.path[:0] = [str(ROOT), str(TESTS)]

from mlflow_server import MlflowServer

from mnistbench import run_grid
from mnistbench.data import datasets
from mnistbench.errors import UserError
from mnistbench.files.whole import write_whole
from mnistbench.grid.grid import Grid
from mnistbench.results.folder import ResultsFolder, read_record
from mnistbench.results.records import RESULTS, CellRecord
from mnistbench.run.executors import ProcessExecutor
from mnistbench.run.watchers import ReportWriter
from mnistbench.train import machine as reproducibility
from mnistbench.train.watcher import Watcher

GRID = """
name: soak
dataset: {name: sum3, rows: 200}
architectures: [mlp]
optimizers: [{name: sgd, lr: 0.1}]
batch_sizes: [8]
devices: [cpu]
twins: 0
training: {epochs: 2, save_model: last}
speed: off
"""
CELLS = {"quick": 40, "full": 25, "trained": 8, "mirrored": 12}
KINDS = ("quick", "full", "mirrored", "quick", "trained", "quick", "full", "quick")
"""In this order, again and again: `quick` rounds have the most kills a minute."""
LONGEST_PAUSE_SECONDS = {"quick": 0.4, "full": 0.4, "trained": 2.0, "mirrored": 1.0}
"""Between two strikes."""
LONGEST_LIFE_SECONDS = 180.0
GONE_WITHIN_SECONDS = 90.0
"""A server that imports torch looks for its runner when the interpreter lets it: on a busy machine that takes long."""
LIVES = 25
"""Runners that are disturbed in one round; the next one is left alone."""
DISK_BYTES = 2 << 20
FAULTS = ("lost", "doubled", "broken", "left running", "left undone", "hung", "not mirrored", "mirrored twice")


class Tell(Watcher):
    """Says which records are written, to the process that watches."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
        """See `Watcher`."""
        os.write(self._pipe, f"{record.record_id}\n".encode())


class Runner:
    """One run of the grid in a process of its own, forked off after all imports.

    Args:
        full_after: refuse every write of a file to disk after so many; never if None.
    """

    def __init__(self, grid: Grid, folder: Path, kind: str, uri: str | None, full_after: int | None = None) -> None:
        self._said, pipe = os.pipe()
        self.status: int | None = None
        # An interrupt that left the child by an exception would unmount the disk and end the server of its parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os._exit(self._run(grid, folder, kind, uri, pipe, full_after))
            finally:
                os._exit(130)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        os.close(pipe)

    def _run(  # noqa: PLR0917
        self, grid: Grid, folder: Path, kind: str, uri: str | None, pipe: int, full_after: int | None
    ) -> int:  # pragma: no cover: in the child
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        os.setsid()
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if full_after is not None:
            refuse_writes(full_after)
        if kind == "trained":
            executor = ProcessExecutor()
        else:
            executor = ProcessExecutor(train="stand_ins:unhurried", preload=("without_torch",))
        try:
            return run_grid(
                grid,
                out=folder,
                executor=executor,
                watchers=[Tell(pipe), ReportWriter(write_report)],
                tracking=uri is not None,
                tracking_uri=uri,
                own_process=True,
            ).exit_code
        except UserError as error:
            print(error, flush=True)
            return 2
        except KeyboardInterrupt:  # after the last record, while servers are closed
            return 130
        except BaseException:
            traceback.print_exc()
            return 3

    def below(self) -> list[psutil.Process]:
        """Processes of the runner: the server that forks, then workers."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Whether it ended within this time."""
        until = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= until:
                return False
            else:
                time.sleep(0.005)
        return True

    def send(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def records_told(self) -> list[str]:
        """Ids of the records that it said it had written; call it once, after the end."""
        with os.fdopen(self._said) as pipe:
            return pipe.read().split()


def write_report(results: ResultsFolder) -> None:
    """A line in the place of the report, which takes a second and is not what is looked at here."""
    write_whole(results.report_file, "the report")


def refuse_writes(after: int) -> None:
    """Play a full disk in this process: the kernel's own error at every fsync but the first ones."""
    calls = iter(range(1_000_000))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    os.fsync = fsync


class Ledger:
    """What was seen in a results folder, and what has become of it.

    Args:
        counts: where every fault is counted.
    """

    def __init__(self, results: ResultsFolder, counts: Counter[str]) -> None:
        self._results = results
        self._counts = counts
        self._seen: dict[str, CellRecord | None] = {}
        self._doubled: set[str] = set()

    def told(self, record_ids: list[str]) -> None:
        """A runner said that these records are written."""
        for record_id in record_ids:
            self._seen.setdefault(record_id, None)

    def look(self) -> None:
        """Read every file, and count what is lost, doubled or broken since the last look."""
        results = self._results
        here: dict[str, CellRecord] = {}
        results_of = Counter[str]()
        for path in [*results.cells.glob("*.json"), *results.attempts_folder.glob("*.json")]:
            record = read_record(path)
            if isinstance(record, str):
                self._fault("broken", f"{path}: {record}")
                continue
            if here.get(record.record_id, record) != record:
                self._fault("broken", f"{record.record_id} has two contents")
            results_of[record.cell_id] += record.record_id not in here and record.status in RESULTS
            here[record.record_id] = record
            for name in record.model.weights if record.model else []:
                if not (results.path / name).read_bytes():
                    self._fault("lost", f"weights {name}")
        for record_id, record in list(self._seen.items()):
            if record_id not in here or record not in (None, here[record_id]):
                self._fault("lost", record_id)
                del self._seen[record_id]
        for cell_id, number in results_of.items():
            if number > 1 and cell_id not in self._doubled:
                self._doubled.add(cell_id)
                self._fault("doubled", f"{cell_id} has {number} results")
        self._seen |= here

    def look_at_the_end(self, cells: int) -> None:
        """As `look`, when the grid is complete: nothing half-written stays, no model is alone."""
        self.look()
        results = self._results
        counting, aside = results.read()
        self._counts["records"] += len(self._seen)
        if aside:
            self._fault("broken", f"set aside: {aside}")
        if len(counting) != cells or any(record.status != "finished" for record in counting):
            self._fault("left undone", f"{len(counting)} of {cells} cells: {Counter(r.status for r in counting)}")
        twice = {record.record_id for record in counting} & {record.record_id for record in results.attempts()}
        models = sorted(path.name for path in results.models.iterdir())
        kept = sorted(record_id for record_id, record in self._seen.items() if record and record.status in RESULTS)
        if twice or models != kept:
            self._fault("doubled", f"{twice} count and do not; models {set(models) ^ set(kept)} of {len(models)}")
        left = [*results.path.rglob("*.part"), *results.path.glob(".unfinished/*"), *results.path.glob(".holder.json")]
        if left:
            self._fault("left undone", f"left over: {left}")

    def record_ids(self) -> set[str]:
        """Of every record that is there."""
        return set(self._seen)

    def _fault(self, kind: str, what: str) -> None:
        self._counts[kind] += 1
        print(f"{kind.upper()}: {self._results.path}: {what}", flush=True)


class Soak:
    """Rounds of kills until the time is up."""

    def __init__(self, folder: Path, seed: int, kinds: tuple[str, ...]) -> None:
        self.counts = Counter[str]()
        self._folder = folder
        self._chance = random.Random(seed)
        self._kinds = kinds
        self._server: MlflowServer | None = None
        self._round = 0

    def run(self, seconds: float, kills: int) -> None:
        """Go on for this time, or until so many processes were killed; a round that is begun comes to its end."""
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until and self.counts["kills"] < kills:
                kind = self._kinds[self._round % len(self._kinds)]
                self._round += 1
                self._one_round(kind, until)
                figures = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
                print(f"round {self._round} ({kind}): {figures}", flush=True)
        finally:
            if self._server is not None:
                self._server.kill()

    def _one_round(self, kind: str, until: float) -> None:
        grid = Grid.from_text(GRID, overrides=[f"seeds={list(range(CELLS[kind]))}"])
        name = f"round{self._round}"
        uri = self._tracking_server() if kind == "mirrored" else None
        with small_disk(self._folder / name) if kind == "full" else contextlib.nullcontext(None) as disk:
            results = ResultsFolder((disk or self._folder) / f"{name}-results")
            ledger = Ledger(results, self.counts)
            left = LIVES
            while True:
                disturbed = left > 0 and time.monotonic() < until
                left -= 1
                refused = self._chance.randrange(150) if kind == "full" and disk is None and disturbed else None
                runner = Runner(grid, results.path, kind, uri, refused)
                if disturbed:
                    self._disturb(runner, kind, disk)
                if not runner.has_ended(LONGEST_LIFE_SECONDS):
                    self.counts["hung"] += 1
                    runner.send(signal.SIGKILL)
                    runner.has_ended(LONGEST_LIFE_SECONDS)
                self.counts[f"runner ended with {runner.status}"] += 1
                ledger.told(runner.records_told())
                ledger.look()
                if runner.status == 0 or left < -2:
                    break
            ledger.look_at_the_end(CELLS[kind])
            if uri is not None:
                self._look_at_the_server(results, grid, uri, ledger)
            if not any(self.counts[fault] for fault in FAULTS):
                shutil.rmtree(results.path)

    def _disturb(self, runner: Runner, kind: str, disk: Path | None) -> None:  # noqa: PLR0912
        """Wait and strike, until a strike has ended the runner or it came to its end."""
        longest = LONGEST_PAUSE_SECONDS[kind]
        strikes = ["worker"] * 6 + ["kill"] * 3 + ["signal"] * 2 + ["server", "pause"]
        strikes += ["fill"] * 4 if disk is not None else []
        strikes += ["tracking"] * 3 if kind == "mirrored" else []
        if self._chance.random() < 0.8:  # else it is struck while it starts
            while len(runner.below()) < 2 and not runner.has_ended(0.02):
                pass
        while not runner.has_ended(self._chance.uniform(0.0, longest)):
            strike = self._chance.choice(strikes)
            below = runner.below()
            if strike == "worker" and len(below) > 1:
                self._kill(below[-1], self._chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            elif strike == "server" and below:
                self._kill(below[0], signal.SIGKILL)
            elif strike == "pause":
                self.counts["pauses"] += 1
                runner.send(signal.SIGSTOP)
                time.sleep(self._chance.uniform(0.0, 0.3))
                runner.send(signal.SIGCONT)
            elif strike == "fill" and disk is not None:
                self._fill(disk, runner)
            elif strike == "tracking" and self._server is not None:
                self.counts["kills"] += 1
                self.counts["tracking servers killed"] += 1
                self._server.kill()
            elif strike == "signal":
                self.counts["kills"] += 1
                self.counts["runners interrupted"] += 1
                runner.send(self._chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]))
                if self._chance.random() < 0.5:
                    runner.has_ended(self._chance.uniform(0.0, 0.2))
                    runner.send(signal.SIGKILL)
                break
            elif strike == "kill":
                self.counts["kills"] += 1
                self.counts["runners killed"] += 1
                runner.send(signal.SIGKILL)
                break
        else:
            return
        runner.has_ended(LONGEST_LIFE_SECONDS)
        _, alive = psutil.wait_procs(below, timeout=GONE_WITHIN_SECONDS)
        alive = [process for process in alive if is_alive(process)]
        if alive:
            self.counts["left running"] += len(alive)
            print(f"LEFT RUNNING: {alive}", flush=True)

    def _kill(self, process: psutil.Process, number: int) -> None:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
            self.counts["kills"] += 1
            self.counts["workers and their servers killed"] += 1

    def _fill(self, disk: Path, runner: Runner) -> None:
        """Use up the disk for a moment."""
        self.counts["disks filled"] += 1
        ballast = disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        runner.has_ended(self._chance.uniform(0.0, 1.0))
        ballast.unlink(missing_ok=True)

    def _tracking_server(self) -> str:
        """A server that runs; the one that was there before, if it still does."""
        if self._server is None:
            folder = self._folder / "tracking"
            folder.mkdir()
            self._server = MlflowServer(folder, f"sqlite:///{folder / 'server.db'}")
        self._server.kill()
        self._server.start()
        return self._server.uri

    def _look_at_the_server(self, results: ResultsFolder, grid: Grid, uri: str, ledger: Ledger) -> None:
        """After one more run with a server that runs, each record is there once."""
        self._tracking_server()
        runner = Runner(grid, results.path, "mirrored", uri)
        runner.has_ended(LONGEST_LIFE_SECONDS)
        runner.records_told()
        there = Counter(json.loads(in_child(lambda: json.dumps(mirrored_ids(uri, results)))))
        expected = ledger.record_ids()
        missing = expected - set(there)
        self.counts["records mirrored"] += len(there)
        self.counts["not mirrored"] += len(missing)
        self.counts["mirrored twice"] += sum(number > 1 for number in there.values())
        if runner.status != 0 or missing or max(there.values()) > 1:
            print(f"AT THE SERVER: run ended with {runner.status}, missing {missing}, there {there}", flush=True)


def mirrored_ids(uri: str, results: ResultsFolder) -> list[str]:
    """Of every run of every experiment that carries a record of this folder."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    ours = {record.record_id for record in [*results.records(), *results.attempts()]}
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    tags = [tag for run in client.search_runs(experiments, max_results=5000) for tag in run.data.tags.items()]
    return [value for key, value in tags if key.endswith("record_id") and value in ours]


def in_child(answer: Callable[[], str]) -> str:
    """What a function says in a process of its own, so that this one keeps no threads, and may go on to fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(writing, "w") as pipe:
                pipe.write(answer())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def is_alive(process: psutil.Process) -> bool:
    """Not a corpse that nobody in this container collects."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path | None]:
    """A disk of its own of 2 MB; None where this user may not mount one."""
    place.mkdir()
    options = f"size={DISK_BYTES}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def main() -> int:
    """Parse the command line, soak, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--kills", type=int, default=10**9, help="end when so many processes were killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of round, in order")
    asked = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    os.environ |= {
        "MNISTBENCH_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
    }
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    # What every runner would import for itself: forked off afterwards, it starts in milliseconds.
    datasets.prepare(Grid.from_text(GRID).dataset)
    reproducibility.machine_id()
    if "mirrored" in asked.kinds:
        from mlflow import MlflowClient  # noqa: F401
    soak = Soak(folder, asked.seed, tuple(asked.kinds.split(",")))
    soak.run(asked.minutes * 60, asked.kills)
    faults = {name: soak.counts[name] for name in FAULTS}
    figures = {"seed": asked.seed, "minutes": round((time.monotonic() - began) / 60, 1), **soak.counts, **faults}
    print(json.dumps(dict(sorted(figures.items(), key=str))))
    if any(faults.values()):
        print(f"the folders are left in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
