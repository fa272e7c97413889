"""A grid from what is missing to what is stored: order, resuming, parts, budgets, noise, the mirror, the summary."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_ins import OnEpoch, quick

from mnistbench import run_grid
from mnistbench.cell import Cell, Component
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.results import this_machine
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord, Environment, EpochMeasurement, Noise, Timing
from mnistbench.run import session
from mnistbench.run.budget import estimate, rounds_that_fit
from mnistbench.run.executors import InlineExecutor
from mnistbench.run.plan import in_rounds
from mnistbench.run.run import RunSummary
from mnistbench.run.watchers import ReportWriter
from mnistbench.train.job import Job
from mnistbench.train.watcher import Watcher

ROOT = Path(__file__).parents[2]
GRID = """
name: small
dataset: {name: sum3, rows: 100}
architectures: [mlp]
optimizers: [{name: sgd, lr: 0.1}]
batch_sizes: [8, 16]
devices: [cpu]
seeds: [0, 1, 2]
twins: 0
training: {epochs: 2}
speed: off
"""


class Told(Watcher):
    """Remembers what the runner told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.jobs: list[Job] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def started(self, job: Job) -> None:
        self.jobs.append(job)


Run = Callable[..., RunSummary]


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "results" / "small")


@pytest.fixture
def run(folder: ResultsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the small grid with a stand-in for training, in this process, without a mirror."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(train: str = "quick", *, overrides: tuple[str, ...] = (), text: str = GRID, **options: Any) -> RunSummary:
        options = {"tracking": False, "executor": InlineExecutor(train=f"stand_ins:{train}"), **options}
        return run_grid(Grid.from_text(text, overrides=overrides), out=folder.path, **options)

    return run


def test_every_cell_is_run_and_stored_once(run: Run, folder: ResultsFolder) -> None:
    summary = run()
    records = folder.records()
    assert summary.counts == {"finished": 6}
    assert (summary.ran, summary.kept, summary.left, summary.exit_code) == (6, 0, 0, 0)
    assert len({record.cell_id for record in records}) == len({record.record_id for record in records}) == 6
    assert Grid.load(folder.grid_file).name == "small"


def test_the_rth_seed_runs_in_round_r(run: Run, folder: ResultsFolder) -> None:
    """Rule 2; the order is stored in the records."""
    told = Told()
    run(watchers=[told])
    assert [(job.round, job.cell.seed) for job in told.jobs] == [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2), (2, 2)]
    stored = {record.cell_id: (record.round, record.position) for record in folder.records()}
    assert stored == {job.cell.cell_id: (job.round, job.position) for job in told.jobs}
    assert [job.position for job in told.jobs] == [0, 1, 0, 1, 0, 1]


def test_a_second_run_keeps_everything_and_does_nothing(run: Run) -> None:
    run()
    summary = run("killed")
    assert (summary.ran, summary.kept, summary.exit_code) == (0, 6, 0)


def test_failures_are_run_again_and_results_are_not(run: Run, folder: ResultsFolder) -> None:
    """Seed 1 fails first; its rerun is attempt 2, and attempt 1 is kept."""
    summary = run("by_seed", overrides=("seeds=[0, 1]",))
    assert (summary.counts, summary.failed, summary.exit_code) == ({"finished": 2, "failed": 2}, 2, 1)
    summary = run("quick", overrides=("seeds=[0, 1]",))
    assert (summary.counts, summary.ran, summary.kept, summary.exit_code) == ({"finished": 4}, 2, 2, 0)
    assert {record.attempt for record in folder.records() if record.cell.seed == 1} == {2}
    assert [record.status for record in folder.attempts()] == ["failed", "failed"]


def test_a_resumed_round_keeps_its_positions(run: Run, folder: ResultsFolder) -> None:
    run()
    before = {record.cell_id: (record.round, record.position) for record in folder.records()}
    (folder.cells / f"{sorted(before)[0]}.json").unlink()
    run()
    assert {record.cell_id: (record.round, record.position) for record in folder.records()} == before


def test_force_runs_again_what_has_a_result(run: Run, folder: ResultsFolder) -> None:
    run()
    assert run(force=True).ran == 6
    assert {record.attempt for record in folder.records()} == {2}
    assert len(folder.attempts()) == 6


def test_only_runs_a_part_and_hides_nothing(run: Run, folder: ResultsFolder) -> None:
    summary = run(only=["batch_size=8"])
    assert summary.counts == {"finished": 3, "pending": 3}
    assert summary.left == 0
    assert run(only=["seed=0"]).kept == 1
    assert len(folder.records()) == 4


def test_a_part_that_matches_nothing_is_an_error_and_leaves_no_trace(run: Run, folder: ResultsFolder) -> None:
    with pytest.raises(UserError):
        run(only=["batch_size=999"])
    assert not folder.path.exists()


def test_shards_are_apart_and_together_everything(run: Run) -> None:
    kept = [run(shard=(part, 3)).ran for part in (1, 2, 3)]
    assert sum(kept) == 6
    assert run().ran == 0


def test_an_edited_grid_says_what_was_kept_added_and_dropped(run: Run, folder: ResultsFolder) -> None:
    run()
    summary = run(overrides=("batch_sizes=[16, 32]",))
    assert (summary.kept, len(summary.added), len(summary.dropped)) == (3, 3, 3)
    assert {record.cell.batch_size for record in folder.records()} == {16, 32}
    assert len(list(folder.cells.glob("*.json"))) == 9
    back = run()
    assert (back.ran, back.kept) == (0, 6)


def test_a_broken_record_is_set_aside_and_its_cell_runs_again(run: Run, folder: ResultsFolder) -> None:
    run()
    broken = sorted(folder.cells.glob("*.json"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    told = Told()
    summary = run(watchers=[told])
    assert (summary.ran, len(summary.set_aside)) == (1, 1)
    assert any("set aside" in line and broken.name in line for line in told.said)
    assert len(folder.read()[1]) == 1


def test_fail_fast_starts_nothing_after_a_failure(run: Run) -> None:
    summary = run("by_seed", fail_fast=True, overrides=("seeds=[1, 0]",))
    assert (summary.ran, summary.exit_code) == (1, 1)


def test_a_device_that_is_absent_is_skipped_and_looked_at_again(
    run: Run, folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ("devices=[cpu, mps]", "on_missing_device=skip", "seeds=[0]")
    monkeypatch.setattr("mnistbench.axes.devices.available", lambda: [Device("cpu")])
    summary = run(overrides=absent)
    assert (summary.counts, summary.left, summary.exit_code) == ({"finished": 2, "skipped": 2}, 0, 0)
    monkeypatch.setattr("mnistbench.axes.devices.available", lambda: [Device("cpu"), Device("mps")])
    assert run(overrides=absent).counts == {"finished": 4}
    assert {record.attempt for record in folder.records()} == {1}
    assert folder.attempts() == []


class Device:
    def __init__(self, name: str) -> None:
        self.name = name


def test_an_absent_device_is_an_error_unless_the_grid_lets_it_be_skipped(
    run: Run, folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnistbench.axes.devices.available", lambda: [Device("cpu")])
    with pytest.raises(UserError, match="mps"):
        run(overrides=("devices=[mps]",))
    assert not folder.path.exists()


# Functions in place of training, found by `stand_ins:` or, here, by this file's name.


def noisy(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """The first attempt at seed 1 and batch 8 is disturbed, and so is every later one at seed 2."""
    flags = ["foreign_cpu"] if job.cell.seed == 1 and job.cell.batch_size == 8 and job.attempt == 1 else ["short"]
    record = quick(job, on_epoch=on_epoch, process_started=process_started)
    return record.with_changes(noise=Noise(flags=flags))


def still_noisy(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    record = quick(job, on_epoch=on_epoch, process_started=process_started)
    return record.with_changes(noise=Noise(flags=["steal"]))


def elsewhere(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    environment = Environment(
        machine_id="another", machine="x", os="x", cpu="x", physical_cores=1, logical_cores=1, memory_bytes=1,
        python="3", torch="1.0.0", mnistbench="0",
    )  # fmt: skip
    record = quick(job, on_epoch=on_epoch, process_started=process_started)
    return record.with_changes(environment=environment, timing=timing(5.0))


def timing(wall_seconds: float) -> Timing:
    return Timing(setup_seconds=0, warmup_seconds=0, train_seconds=0, eval_seconds=0, wall_seconds=wall_seconds)


def here(train: str) -> InlineExecutor:
    return InlineExecutor(train=f"test_runner:{train}")


def test_a_noisy_round_is_replaced_whole_and_once(run: Run, folder: ResultsFolder) -> None:
    """Rule 12: both cells of round 1 run again although one of them was quiet; both attempts stay stored."""
    summary = run(executor=here("noisy"), rerun_noisy=True)
    assert summary.ran == 6 + 2
    assert {record.cell.seed for record in folder.attempts()} == {1}
    assert {record.cell.seed for record in folder.records() if record.noisy_rerun} == {1}
    assert run(executor=here("noisy"), rerun_noisy=True).ran == 0


def test_a_round_that_is_noisy_again_is_not_replaced_again(run: Run) -> None:
    assert run(executor=here("still_noisy"), rerun_noisy=True).ran == 12
    assert run(executor=here("still_noisy"), rerun_noisy=True).ran == 0


def test_a_replacement_that_was_interrupted_is_completed(run: Run, folder: ResultsFolder) -> None:
    run(executor=here("noisy"), rerun_noisy=True)
    again = [record for record in folder.records() if record.noisy_rerun and record.cell.batch_size == 16]
    first = next(item for item in folder.attempts() if item.cell_id == again[0].cell_id)
    (folder.attempts_folder / f"{first.cell_id}.1.{first.record_id}.json").rename(
        folder.cells / f"{first.cell_id}.json"
    )
    summary = run(executor=here("noisy"), rerun_noisy=True)
    assert summary.ran == 1


def test_noise_is_left_alone_unless_asked(run: Run) -> None:
    assert run(executor=here("noisy")).ran == 6
    assert run(executor=here("noisy")).ran == 0


def test_a_folder_with_a_record_of_a_newer_schema_is_refused_and_left_as_it_is(run: Run, folder: ResultsFolder) -> None:
    run()
    newer = next(folder.cells.iterdir())
    newer.write_text(newer.read_text().replace('"schema_version": ', '"schema_version": 99, "was": '))
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"newer mnistbench.*99.*nothing was changed"):
        run(force=True)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_outdated_records_are_run_again_and_the_run_says_how_many_and_why(run: Run, folder: ResultsFolder) -> None:
    run()
    for record in folder.records()[:2]:
        checks = {"equivalence": "failed: G2 update 1 > 1e-5"}
        folder.write(record.with_changes(training_revision=1, checks=checks))
    again = run()
    assert again.ran == 2
    assert any("run again: 2 records." in text and "failed equivalence" in text for text in again.warnings)
    assert all(record.outdated is None for record in folder.records())


def test_records_of_a_csv_file_that_an_older_release_read_otherwise_are_run_again(
    run: Run, folder: ResultsFolder, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("a,b,label\n" + "".join(f"{i},{i % 7},{i % 2}\n" for i in range(60)))
    text = GRID.replace("{name: sum3, rows: 100}", "{name: csv, path: t.csv, task: classes}")
    run(text=text)
    one, two, *_ = folder.records()
    folder.write(one.with_changes(training_revision=1, data=replace(one.data, sha256="of then")))
    folder.write(two.with_changes(training_revision=1))
    again = run(text=text)
    assert again.ran == 1
    assert any("outdated, and run again: 1 record." in text and "CSV" in text for text in again.warnings)
    assert {record.data.sha256 for record in folder.records()} == {one.data.sha256}


def test_an_outdated_result_whose_new_attempt_fails_is_no_answer(run: Run, folder: ResultsFolder) -> None:
    """It stays where it is; its cell has failed, and is left."""
    run(overrides=("seeds=[1]",))
    for record in folder.records():
        folder.write(record.with_changes(training_revision=1, checks={"equivalence": "failed: G2 update 1 > 1e-5"}))
    again = run("chatty", overrides=("seeds=[1]",))
    assert (again.ran, again.failed, again.left, again.exit_code) == (2, 2, 2, 1)
    assert {record.status for record in folder.records()} == {"finished"}
    assert run(overrides=("seeds=[1]",)).exit_code == 0


def test_a_folder_with_records_of_another_machine_and_torch_says_so_and_keeps_them(run: Run) -> None:
    run(executor=here("elsewhere"))
    summary = run()
    assert summary.kept == 6
    assert any("another machine" in warning for warning in summary.warnings)
    assert any("torch 1.0.0" in warning for warning in summary.warnings)


def test_a_folder_that_an_earlier_release_wrote_here_is_not_another_machines(run: Run, folder: ResultsFolder) -> None:
    """Its records carry the id that this machine had then."""
    former = this_machine._former_machine_id()
    run(executor=here("elsewhere"))
    for record in folder.records():
        assert record.environment is not None
        ours = replace(record.environment, machine_id=former or this_machine.machine_id())
        folder.write(record.with_changes(environment=ours))
    folder.path.joinpath(".index.json").unlink()
    assert not any("another machine" in warning for warning in run().warnings)


def test_a_budget_starts_no_round_when_the_time_is_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look at the clock starts the budget; each round looks once."""
    clock = iter([0.0, 0.0, 0.0, 9.0, 11.0, 11.0])
    monkeypatch.setattr(session.time, "monotonic", lambda: next(clock))
    told = Told()
    summary = run(budget_seconds=10, watchers=[told])
    assert (summary.ran, summary.left, summary.exit_code) == (4, 2, 0)
    assert told.said[0] == "budget 10 s: nothing is known yet; the first round will tell"
    assert told.said[-1] == "the time is up: 1 of 3 rounds left"


def test_a_budget_is_said_beforehand_from_earlier_records(run: Run) -> None:
    run(executor=here("elsewhere"), overrides=("seeds=[0]",))
    told = Told()
    run(budget_seconds=12, watchers=[told], overrides=("seeds=[0, 1, 2, 3]",))
    assert "budget 12 s: about 2 of 3 rounds will be run" in told.said


def test_rounds_that_begin_in_time_fit(cell: Cell) -> None:
    known = {cell.without_seed(): 4.0}
    rounds = [[cell], [cell], [cell]]
    assert [rounds_that_fit(rounds, known, budget) for budget in (0, 3, 4, 5, 100)] == [0, 1, 1, 2, 3]
    assert rounds_that_fit(rounds, {}, 10) is None
    assert estimate([cell, cell], known) == 8.0


def test_cells_that_run_alone_go_before_those_that_share(cell: Cell) -> None:
    text = GRID.replace("training:", "execution: {profile: fast, isolation: [shared, alone]}\ntraining:")
    (first, *_) = in_rounds(Grid.from_text(text).cells(cell.dataset, 70, ["cpu"]))
    assert [item.execution.options.get("isolation", "alone") for _, item in first.cells] == ["alone"] * 2 + [
        "shared"
    ] * 2
    assert [position for position, _ in first.cells] == [0, 1, 2, 3]


def test_kept_weights_lie_where_the_record_says(run: Run, folder: ResultsFolder) -> None:
    run(overrides=("training.save_model=last", "seeds=[0]"))
    for record in folder.records():
        assert record.model is not None
        assert record.model.weights == [f"models/{record.record_id}/last.safetensors"]
        assert (folder.path / record.model.weights[0]).read_bytes() == b"weights"


def test_a_report_that_fails_costs_no_record(run: Run, folder: ResultsFolder) -> None:
    def fails(results: ResultsFolder) -> None:
        raise RuntimeError("no fonts")

    summary = run(watchers=[ReportWriter(fails)])
    assert summary.exit_code == 0
    assert any("no fonts" in warning for warning in summary.warnings)
    assert len(folder.records()) == 6


def test_the_report_is_made_when_something_changed_or_it_is_missing(run: Run, folder: ResultsFolder) -> None:
    made: list[int] = []

    def report(results: ResultsFolder) -> None:
        made.append(len(results.records()))
        results.report_file.write_text("page")

    run(watchers=[ReportWriter(report)])
    run(watchers=[ReportWriter(report)])
    assert made == [6]
    run(watchers=[ReportWriter(report)], overrides=("seeds=[0]",))
    assert made == [6, 2]


def test_no_timeout_is_promised_where_none_can_be_kept(run: Run) -> None:
    with pytest.raises(UserError, match="--timeout needs a process"):
        run(executor="inline", timeout_seconds=1.0)


def test_an_epoch_is_told_while_the_cell_runs(run: Run) -> None:
    class Epochs(Told):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, int]] = []

        def epoch(self, job: Job, measurement: EpochMeasurement) -> None:
            self.seen.append((job.cell.seed, measurement.epoch))

    told = Epochs()
    run(watchers=[told], overrides=("batch_sizes=[8]", "seeds=[0, 1]"))
    assert told.seen == [(0, 1), (0, 2), (1, 1), (1, 2)]


@pytest.mark.slow
def test_the_parent_holds_no_records(run: Run) -> None:
    """A grid's peak memory must not grow with its cells."""

    class Counting(Told):
        most = 0

        def record(self, record: CellRecord, *, runs_again: bool = False, interrupted: bool = False) -> None:
            self.most = max(self.most, sum(type(item) is CellRecord for item in gc.get_objects()))

    told = Counting()
    before = sum(type(item) is CellRecord for item in gc.get_objects())
    run(watchers=[told], overrides=(f"seeds={list(range(6))}",))
    assert told.most - before <= 3


NOTHING_LEFT = """
import sys
from mnistbench.grid.grid import Grid
from mnistbench import run_grid
grid = Grid.load(sys.argv[1])
summary = run_grid(grid, out=sys.argv[2], tracking_uri="sqlite:///" + sys.argv[3])
assert (summary.ran, summary.not_mirrored) == (0, 0), summary
print(*sorted({"torch", "mlflow", "pandas"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_run_with_nothing_left_loads_neither_torch_nor_mlflow(
    run: Run, folder: ResultsFolder, tmp_path: Path
) -> None:
    """Also where all is mirrored: the journal says so."""
    database = tmp_path / "mlflow.db"
    overrides = ("seeds=[0]", "devices=auto")
    summary = run(tracking=True, tracking_uri=f"sqlite:///{database}", overrides=overrides)
    assert summary.not_mirrored == 0
    assert database.exists()
    arguments = [str(folder.grid_file), str(folder.path), str(database)]
    command = [sys.executable, "-c", NOTHING_LEFT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_the_experiment_that_the_user_names_gets_the_runs(run: Run, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    summary = run(tracking=True, tracking_uri=uri, experiment="course", overrides=("seeds=[0]",))
    assert (summary.not_mirrored, summary.experiment) == (0, "course")
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("course")
    assert found is not None
    assert len(client.search_runs([found.experiment_id], "tags.`mnistbench.kind` = 'cell'")) == 2


@pytest.mark.slow
def test_a_tracking_server_that_is_down_fails_nothing(run: Run, folder: ResultsFolder) -> None:
    summary = run(tracking=True, tracking_uri="http://127.0.0.1:9", overrides=("seeds=[0]",))
    assert (summary.counts, summary.exit_code) == ({"finished": 2}, 0)
    assert summary.not_mirrored == 2
    assert summary.not_mirrored_reason


@pytest.fixture
def plain_user() -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder that everybody may enter, and what makes a process one that may only read its `cache`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for made, mode in ((folder, 0o755), (folder / "cache", 0o755), (folder / "theirs", 0o777)):
            made.mkdir(exist_ok=True)
            made.chmod(mode)

        def become() -> None:
            if os.geteuid():
                for path in (*folder.glob("cache/**/"), folder / "cache"):
                    path.chmod(0o555)
            else:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)

        yield folder, become
        for path in folder.glob("cache/**/"):
            path.chmod(0o755)


def test_another_users_cache_is_read_and_the_run_says_what_is_not_kept(
    plain_user: tuple[Path, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, become = plain_user
    monkeypatch.setenv("MNISTBENCH_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder / "theirs")

    def run(out: str) -> list[str]:
        told = Told()
        executor = InlineExecutor(train="stand_ins:quick")
        summary = run_grid(Grid.from_text(GRID), out=out, tracking=False, executor=executor, watchers=[told])
        assert summary.counts == {"finished": 6}
        return told.said

    assert "cache" not in "".join(run("first"))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become()
            os.write(writing, "\n".join(run("second")).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert said.count(f"the cache folder {folder / 'cache'} can only be read: what is measured once") == 1


REAL = """
name: real
dataset: {dataset}
architectures: [mlp]
optimizers: [{{name: sgd, lr: 0.1}}]
batch_sizes: [2048]
devices: [cpu]
seeds: [0]
training: {{epochs: 1}}
twins: 1
speed: off
"""


@pytest.mark.slow
def test_the_real_thing_twins_on_images_are_equal_to_the_last_bit(
    tmp_path: Path, digit_images: Component, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same cell twice, each in a process of its own: same losses, same weights; the mirror has both."""
    monkeypatch.chdir(tmp_path)
    folder = ResultsFolder(tmp_path / "out")
    summary = run_grid(
        Grid.from_text(REAL.format(dataset=digit_images.name)),
        out=folder.path,
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
    )
    first, second = folder.records()
    assert summary.exit_code == 0
    assert {first.cell.repeat, second.cell.repeat} == {0, 1}
    assert first.model is not None and second.model is not None
    assert first.model.weights_sha256 == second.model.weights_sha256
    assert [epoch.test_loss for epoch in first.epochs] == [epoch.test_loss for epoch in second.epochs]
    assert first.timing is not None
    parts = first.timing.setup_seconds + first.timing.warmup_seconds + first.timing.train_seconds
    assert parts + first.timing.eval_seconds <= first.timing.wall_seconds
    assert summary.not_mirrored == 0
