"""A grid on three Ray nodes of one machine; nodes, processes and the driver are killed: nothing is lost or double."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mnistbench import run_grid
from mnistbench.axes import devices
from mnistbench.axes.plugins import load_plugins
from mnistbench.cell import Cell, Component
from mnistbench.data import datasets
from mnistbench.data.arrays import checksum, load
from mnistbench.data.cache import read_entry
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord, EpochMeasurement
from mnistbench.run.executors import LOST
from mnistbench.run.ray import RayExecutor, luggage
from mnistbench.run.ray.cluster import Needs, Node, choose, devices_of
from mnistbench.run.run import RunSummary
from mnistbench.train.job import Job
from mnistbench.train.watcher import Watcher

pytestmark = [pytest.mark.slow, pytest.mark.alone]

HERE = Path(__file__).parents[1]
STAND_INS = tuple(str(HERE / name) for name in ("ray_stand_ins.py", "stand_ins.py", "without_torch.py"))
GRID = """
name: spread
dataset: {name: sum3, rows: 100}
architectures: [mlp]
optimizers: [{name: sgd, lr: 0.1}]
batch_sizes: [8]
devices: [cpu]
seeds: [10, 11, 12, 13, 14, 15]
twins: 0
training: {epochs: 1, save_model: last}
"""
STORE_BYTES = 78 * 2**20


class Nodes:
    """A cluster of three, each with two CPUs and a cache of its own; and the folder where its cells meet."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.meeting = folder / "meeting"
        self.meeting.mkdir()
        self._made = 0
        self._cluster = Cluster(initialize_head=True, head_node_args=self._one())
        for _ in range(2):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        self._cluster.add_node(**self._one())

    def remove(self, node_id: str) -> None:
        """As a machine that loses its power."""
        (node,) = [node for node in self._cluster.worker_nodes if node.node_id == node_id]
        self._cluster.remove_node(node, allow_graceful=False)

    @property
    def is_head(self) -> Callable[[str], bool]:
        return lambda node_id: node_id == self._cluster.head_node.node_id

    def clear(self) -> None:
        for note in self.meeting.iterdir():
            note.unlink()

    def go(self) -> None:
        (self.meeting / "go").touch()

    def pids(self) -> dict[str, int]:
        """By seed and attempt, of the cells that ever came to the meeting."""
        notes = (note for note in self.meeting.iterdir() if note.suffix.lstrip(".").isdigit())
        return {note.name: int(note.read_text()) for note in notes}

    def close(self) -> None:
        self._cluster.shutdown()

    def _one(self) -> dict[str, Any]:
        self._made += 1
        cache = self.folder / f"cache{self._made}"
        environment = {"MNISTBENCH_CACHE": str(cache), "MNISTBENCH_TEST_MEETING": str(self.meeting)}
        return {
            "num_cpus": 2,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            "env_vars": environment,
        }


@pytest.fixture(scope="module")
def _ray() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'mnistbench[ray]'")


@pytest.fixture(scope="module")
def nodes(_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # other processes of this machine fill its memory
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_enable_worker_prestart", "0")
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.delenv("RAY_ADDRESS", raising=False)
        started = Nodes(tmp_path_factory.mktemp("nodes"))
        yield started
        started.close()


@pytest.fixture
def run(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunSummary]:
    """Run the grid on the cluster with a stand-in for training."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    nodes.clear()

    def run(executor: RayExecutor, *, overrides: tuple[str, ...] = (), **options: Any) -> RunSummary:
        grid = Grid.from_text(GRID, overrides=overrides)
        return run_grid(grid, out=tmp_path / "results", executor=executor, tracking=False, **options)

    return run


def on(nodes: Nodes, train: str) -> RayExecutor:
    return RayExecutor(
        nodes.address, plugins=STAND_INS, train=f"ray_stand_ins:{train}", preload=("without_torch",), patience_seconds=5
    )


def everything(folder: ResultsFolder) -> list[CellRecord]:
    """Every attempt that was ever stored, those that count and those that do not."""
    found = [*folder.records(), *folder.attempts()]
    assert len({record.record_id for record in found}) == len(found)
    return found


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(nodes: Nodes) -> None:
    """No cell that ever began still runs."""
    pids = nodes.pids()
    assert pids
    wait_until(lambda: not any(alive(pid) for pid in pids.values()))


def test_cells_run_on_every_node_with_our_code_and_checked_data(
    nodes: Nodes, run: Callable[..., RunSummary], tmp_path: Path
) -> None:
    """One cell fails, one is killed, one hangs beyond its time: each is said by its record, as on one machine."""
    summary = run(on(nodes, "tell"), overrides=("seeds=[1, 2, 3, 10, 11, 12, 13, 14, 15]",), timeout_seconds=15)
    assert summary.counts == {"failed": 1, "killed": 1, "timed_out": 1, "finished": 6}
    records = ResultsFolder(tmp_path / "results").records()
    assert summary.ran == len(records) == 9
    assert all(len(record.epochs) == 1 for record in records if record.status != "failed")
    told = [record.execution_resolved for record in records if record.status == "finished"]
    assert all("working_dir_files" in str(item["code"]) for item in told)
    assert {item["niceness"] for item in told} == {0}
    assert {item["threads"] for item in told} == {None}
    assert not any(item["ray"] for item in told)
    assert all(Path(str(item["data"])).is_relative_to(str(item["cache"])) for item in told)
    caches = [nodes.folder / note.name.removeprefix("at.") for note in nodes.meeting.glob("at.*")]
    assert len(caches) == 3
    for cache in caches:
        (directory,) = [path for path in (cache / "prepared").iterdir() if path.is_dir()]
        entry = read_entry(directory)
        assert entry is not None
        assert checksum(load(entry.directory)) == entry.sha256
        assert {entry.sha256} == {record.data.sha256 for record in records if record.data is not None}
    for record in records:
        if record.status == "finished":
            assert record.model is not None
            (weights,) = record.model.weights
            assert (tmp_path / "results" / weights).read_bytes() == b"weights"


@pytest.mark.parametrize("victim", ["node", "watcher"])
def test_a_loss_costs_only_the_present_cells_which_run_again_elsewhere(
    nodes: Nodes, run: Callable[..., RunSummary], tmp_path: Path, victim: str
) -> None:
    executor = on(nodes, "meet")

    class Striking(Watcher):
        """Kills one of the three when all of them have a cell that has told its first epoch."""

        lost: Job | None = None

        def __init__(self) -> None:
            self.heard: set[str] = set()

        def epoch(self, job: Job, measurement: EpochMeasurement) -> None:
            self.heard.add(job.record_id)
            if self.lost is not None or len(self.heard) < 3:
                return
            attempts = [item for item in executor._attempts.values() if not nodes.is_head(item.node.node_id)]
            self.lost = attempts[0].job
            pid = nodes.pids()[f"{self.lost.cell.seed}.1"]
            if victim == "node":
                nodes.remove(attempts[0].node.node_id)
            else:
                psutil.Process(pid).parent().parent().kill()  # type: ignore[union-attr]  # of the server that forked it
            wait_until(lambda: not alive(pid))
            nodes.go()

    striking = Striking()
    try:
        summary = run(executor, watchers=[striking], fail_fast=True)
    finally:
        if victim == "node":
            nodes.add()
    assert striking.lost is not None
    assert summary.counts == {"finished": 6}
    assert summary.exit_code == 0
    folder = ResultsFolder(tmp_path / "results")
    assert summary.ran == len(everything(folder)) == 7
    (lost,) = folder.attempts()
    assert lost.record_id == striking.lost.record_id
    assert lost.error is not None
    assert (lost.status, lost.error.type, lost.attempt, len(lost.epochs)) == ("killed", LOST, 1, 1)
    again = folder.record(lost.cell_id)
    assert again is not None
    assert (again.status, again.attempt) == ("finished", 2)
    all_gone(nodes)


DRIVER = f"""
import sys
from pathlib import Path
from mnistbench.run.ray import RayExecutor
from mnistbench.grid.grid import Grid
from mnistbench.run.progress import PlainLines
from mnistbench import run_grid
executor = RayExecutor(
    sys.argv[1], plugins={STAND_INS!r}, train="ray_stand_ins:meet", preload=("without_torch",), patience_seconds=5
)
grid = Grid.from_text({GRID!r})
told = PlainLines()
summary = run_grid(grid, out=sys.argv[2], executor=executor, tracking=False, watchers=[told], own_process=True)
sys.exit(summary.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_leaves_nothing_running_and_can_be_resumed(
    nodes: Nodes, run: Callable[..., RunSummary], tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C ends the cells on all nodes and says so in their records; so does death itself, without records."""
    command = [sys.executable, "-c", DRIVER, nodes.address, str(tmp_path / "results")]
    with subprocess.Popen(command, cwd=HERE.parent, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: len(nodes.pids()) == 3, 60)
        driver.send_signal(number)
        driver.wait(timeout=30)
    assert driver.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    all_gone(nodes)
    folder = ResultsFolder(tmp_path / "results")
    before = everything(folder)
    assert Counter(record.status for record in before) == ({} if number == signal.SIGKILL else {"killed": 3})
    if number != signal.SIGKILL:
        return
    nodes.go()
    summary = run(on(nodes, "meet"))
    assert summary.counts == {"finished": 6}
    assert len(everything(folder)) == 6


def test_no_node_that_could_run_a_cell_is_said(nodes: Nodes, run: Callable[..., RunSummary]) -> None:
    with pytest.raises(UserError, match="device cuda is not on the machine or cluster that runs it, which has cpu"):
        run(on(nodes, "meet"), overrides=("devices=[cuda]",))


def test_no_cluster_at_the_address_is_said_at_once(run: Callable[..., RunSummary]) -> None:
    with pytest.raises(UserError, match=r"no Ray answers at ray://127\.0\.0\.1:1: .*refused"):
        run(RayExecutor("ray://127.0.0.1:1"))


@pytest.mark.usefixtures("_ray")
def test_without_an_address_a_plugin_trains_on_a_ray_of_its_own(tmp_path: Path) -> None:
    """The command line, real training, a network of the user's that lies beside the grid file."""
    (tmp_path / "my_models.py").write_text(
        "import torch\n\ndef wide(data):\n    return torch.nn.Linear(data.input_shape[0], data.classes)\n"
    )
    text = GRID.replace("[mlp]", '["my_models:wide"]').replace("[10, 11, 12, 13, 14, 15]", "[10]")
    (tmp_path / "grid.yaml").write_text(text)
    command = [sys.executable, "-m", "mnistbench", "run", "grid.yaml", "--executor", "ray", "--no-tracking"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "MNISTBENCH_CACHE": str(tmp_path / "cache")}
    environment |= {"RAY_memory_monitor_refresh_ms": "0"}
    done = subprocess.run(
        [*command, "--plugin", "my_models.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = ResultsFolder(tmp_path / "results" / "spread").records()
    assert record.status == "finished"
    assert record.environment is not None
    assert record.model is not None
    assert record.model.parameters == 3 * 3 + 3


ALONE, TOGETHER = Component(name="fast"), Component(name="fast", options={"isolation": "shared"})


@pytest.mark.parametrize(
    ("device", "execution", "needs"),
    [
        ("cpu", ALONE, Needs(8, 0)),
        ("cpu", TOGETHER, Needs(1, 0)),
        ("cuda", ALONE, Needs(4, 1)),
        ("cuda", TOGETHER, Needs(1, 1)),
    ],
)
def test_a_cell_asks_for_what_it_needs(cell: Cell, device: str, execution: Component, needs: Needs) -> None:
    cell = replace(cell, device=device, execution=execution)
    assert Node("n", "n", cpus=8, gpus=2).needs(cell) == needs


def test_a_cell_goes_where_there_is_room_and_alone_means_alone(cell: Cell) -> None:
    small, large = Node("s", "small", cpus=2, gpus=0), Node("l", "large", cpus=8, gpus=1)
    alone, shared = replace(cell, execution=ALONE), replace(cell, execution=TOGETHER)
    assert devices_of([small]) == ["cpu"]
    assert devices_of([small, large]) == ["cpu", "cuda"]
    assert small.needs(replace(cell, device="cuda")) is None
    small.taken.append(Needs(1, 0))
    assert choose([small, large], alone) == (large, Needs(8, 0))
    large.taken.append(Needs(1, 0))
    assert choose([small, large], alone) is None
    assert choose([small, large], shared) == (small, Needs(1, 0))


def test_devices_elsewhere_are_taken_as_they_are_named() -> None:
    assert devices.resolve("auto", here=["cpu", "cuda"]) == (["cpu", "cuda"], [])
    assert devices.resolve(["cuda:0", "mps"], here=["cpu", "cuda"], on_missing="skip") == (["cuda"], ["mps"])


def test_sources_travel_without_what_is_installed_on_every_node(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    folder = tmp_path / "luggage"
    assert luggage.pack([str(tmp_path / "mine.py"), "numpy"], folder) == ("mine.py", "numpy")
    assert sorted(path.name for path in folder.iterdir()) == ["mine.py", "mnistbench"]
    assert (folder / "mnistbench" / "report" / "page.html.j2").is_file()
    assert not list(folder.rglob("*.pyc"))


def test_what_a_plugin_imports_from_beside_it_travels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_it.py").write_text("x = 1\n")
    (tmp_path / "imports_it.py").write_text("import beside_it\n")
    for name in ("beside_it", "imports_it"):
        monkeypatch.setitem(sys.modules, name, None)  # so that both are taken away at the end
        del sys.modules[name]
    load_plugins([str(tmp_path / "imports_it.py")])
    luggage.pack([str(tmp_path / "imports_it.py")], tmp_path / "luggage")
    assert (tmp_path / "luggage" / "beside_it.py").is_file()


def test_two_plugins_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"x = '{name}'\n")
    with pytest.raises(UserError, match="rename one"):
        luggage.pack([str(tmp_path / name / "mine.py") for name in "ab"], tmp_path / "luggage")


@pytest.mark.usefixtures("_ray")
def test_data_that_came_damaged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One label changed on the way."""
    from mnistbench.run.ray import node

    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "driver"))
    prepared = datasets.prepare(Component(name="sum3", options={"rows": 100}))
    arrays = datasets.load(prepared.directory)
    labels = arrays.train_labels.copy()
    labels[0] = (labels[0] + 1) % 3
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "node"))
    monkeypatch.setattr("ray.get", lambda reference: reference)
    where = str(prepared.directory)
    assert node.find_data(where, prepared.sha256, []) is None
    with pytest.raises(UserError, match="the data came damaged"):
        node.find_data(where, prepared.sha256, [replace(arrays, train_labels=labels)])
    found = node.find_data(where, prepared.sha256, [arrays])
    assert found is not None
    assert Path(found).is_relative_to(tmp_path / "node")
    assert node.find_data(where, prepared.sha256, []) == found
