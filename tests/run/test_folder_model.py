"""A results folder under anything that may happen to it, in any order, held against a simple model of what it holds.

Runs, edited grids, kills, damaged files, `--force`, other machines, records of older and newer releases, merging. After
every step each record and each kept model that ever was in a folder is there once and unchanged, and `status` and the
report say what the files say. `HYPOTHESIS_MAX_EXAMPLES` multiplies the number of histories that are tried.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from killed_at import Boundaries

from mnistbench import run_grid
from mnistbench.data import datasets
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.report.page import read_study
from mnistbench.results.folder import ResultsFolder, read_record
from mnistbench.results.merging import merge_folders
from mnistbench.results.records import RESULTS, CellRecord, dump
from mnistbench.run.executors import InlineExecutor
from mnistbench.run.run import RunSummary
from mnistbench.run.status import status_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 * int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "1")))]

TIMES = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "1"))
GRID = """
name: model
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
GRIDS = ["seeds=[0, 1]", "seeds=[1, 2]", "seeds=[0, 1, 2]"]
MACHINES = ["one", "other"]
HARMS = ["a byte", "half of it", "a newer schema", "an older release", "another name"]

names = st.sampled_from(["left", "right"])
machines = st.sampled_from(MACHINES)
boundaries = st.integers(1, 60)


@dataclass
class Expected:
    """What a folder must hold.

    Attributes:
        records: every record by its id, as it was when it was seen first.
        models: ids of the records whose weights are kept, also of those that were damaged later.
        grid: that the last run had; None before the first.
        cells: ids that this grid asks for.
        newer: a file that was made one of a newer release, and what it was before.
        tidy: whether the last run came to its end, so that nothing half-written is there.
    """

    records: dict[str, CellRecord] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    newer: tuple[Path, bytes] | None = None
    tidy: bool = True


def in_child(work: Callable[[], object], fatal: int) -> bool:
    """Do it in a process that is killed with -9 at a write boundary; whether it came that far."""
    child = os.fork()
    if child == 0:
        killer = Boundaries(fatal)
        for name in ("fsync", "replace", "rename", "mkdir"):
            setattr(os, name, killer.around(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def run(folder: Path, seeds: str, machine: str, *, fails: bool = False, force: bool = False) -> RunSummary:
    os.environ["PLACED_ON"] = machine
    os.environ["PLACED_FAILS"] = "yes" if fails else ""
    grid = Grid.from_text(GRID, overrides=[seeds])
    return run_grid(grid, out=folder, tracking=False, executor=InlineExecutor(train="stand_ins:placed"), force=force)


def files_of(results: ResultsFolder) -> list[tuple[Path, CellRecord]]:
    """Every file in `cells/` and `attempts/` that is a record; a copy under another cell's name is none."""
    folders = [results.cells, results.attempts_folder]
    read = [(path, read_record(path)) for folder in folders for path in sorted(folder.glob("*.json"))]
    found = [(path, record) for path, record in read if isinstance(record, CellRecord)]
    return [(path, record) for path, record in found if path.name.startswith(record.cell_id)]


class History(RuleBasedStateMachine):
    """Two folders that two machines work on, and what comes of merging them."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Path(tempfile.mkdtemp(prefix="model-"))
        self.expected = {"left": Expected(), "right": Expected()}
        self.looked_at: dict[str, dict[str, bytes]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.work)

    def results(self, name: str) -> ResultsFolder:
        return ResultsFolder(self.work / name)

    @initialize(begun=st.booleans())
    def data(self, begun: bool) -> None:
        """Two empty folders, or one of each machine in which all cells have their results."""
        datasets.prepare(Grid.from_text(GRID).dataset)
        for name, machine in zip(self.expected, MACHINES, strict=True):
            if begun:
                self.run_it(name, GRIDS[0], machine, fails=False, force=False)

    @rule(name=names, seeds=st.sampled_from(GRIDS), machine=machines, fails=st.booleans(), force=st.booleans())
    def run_it(self, name: str, seeds: str, machine: str, fails: bool, force: bool) -> None:
        results, expected = self.results(name), self.expected[name]
        if expected.newer is not None:
            before = contents(results.path)
            with pytest.raises(UserError, match="a newer mnistbench wrote it"):
                run(results.path, seeds, machine)
            assert contents(results.path) == before
            return
        good = self.good_results(results)
        summary = run(results.path, seeds, machine, fails=fails, force=force)
        self.note_what_is_new(name)
        expected.tidy = True
        index = {record.cell_id for record in results.records() if is_good(record)}
        wanted = results.cell_ids() or set()
        seed_1 = {record.cell_id for _, record in files_of(results) if record.cell.seed == 1}
        assert wanted - index <= (seed_1 if fails else set()), "a run leaves no cell without a result"
        assert summary.left == len(wanted - index) or (fails and force)
        if not force:
            assert good.items() <= self.good_results(results).items(), "a result was made again"
        if not fails:
            assert run(results.path, seeds, machine).ran == 0

    @rule(name=names, seeds=st.sampled_from(GRIDS), machine=machines, force=st.booleans(), fatal=boundaries)
    def kill_a_run(self, name: str, seeds: str, machine: str, force: bool, fatal: int) -> None:
        results, expected = self.results(name), self.expected[name]
        if expected.newer is not None:
            return
        good = self.good_results(results)
        expected.tidy &= not in_child(lambda: run(results.path, seeds, machine, force=force), fatal)
        self.note_what_is_new(name)
        if not force:
            assert good.items() <= self.good_results(results).items(), "a result was made again"

    @rule(name=names, how=st.sampled_from(HARMS), which=st.integers(0, 9))
    def harm_a_record(self, name: str, how: str, which: int) -> None:
        results, expected = self.results(name), self.expected[name]
        counting = [(path, record) for path, record in files_of(results) if path.parent == results.cells]
        if not counting or expected.newer is not None:
            return
        path, record = counting[which % len(counting)]
        content = path.read_bytes()
        if how == "another name":
            path.with_name(f"{'0' * 16}.json").write_bytes(content)
        elif how == "an older release":
            old = record.with_changes(training_revision=1, checks={"equivalence": "failed: G1"})
            path.write_text(dump(old))
            expected.records[record.record_id] = old
        elif how == "a newer schema":
            path.write_bytes(re.sub(rb'"schema_version": \d+', b'"schema_version": 99', content))
            expected.newer = path, content
        else:
            path.write_bytes(content[: len(content) // 2] if how == "half of it" else content.replace(b'"', b"\xff", 1))
            if all(other == path or same.record_id != record.record_id for other, same in files_of(results)):
                del expected.records[record.record_id]

    @precondition(lambda self: any(expected.newer for expected in self.expected.values()))
    @rule()
    def go_back_to_the_newer_release(self) -> None:
        for expected in self.expected.values():
            if expected.newer is not None:
                path, content = expected.newer
                path.write_bytes(content)
                expected.newer = None

    @rule(
        name=names, content=st.sampled_from([b"", b"{}", b"\xff"]), file=st.sampled_from([".index.json", ".now.json"])
    )
    def damage_what_is_made_of_records(self, name: str, content: bytes, file: str) -> None:
        if self.results(name).path.is_dir():
            (self.results(name).path / file).write_bytes(content)

    @precondition(lambda self: all(folder.cells.is_dir() for folder in map(self.results, self.expected)))
    @rule(name=names, fatal=st.one_of(st.none(), boundaries))
    def merge(self, name: str, fatal: int | None) -> None:
        """Both folders into one, which then takes the place of one of them."""
        sources = [self.results("left"), self.results("right")]
        merged = ResultsFolder(self.work / "both")
        if any(expected.newer for expected in self.expected.values()):
            before = contents(self.work)
            with pytest.raises(UserError, match="a newer mnistbench wrote it"):
                merge_folders(sources, merged)
            assert contents(self.work) == before
            return
        before = contents(self.work)
        try:
            if fatal is not None and in_child(lambda: merge_folders(sources, merged), fatal):
                assert before.items() <= contents(self.work).items()
            if not merged.path.exists():
                merge_folders(sources, merged)
        except UserError as error:
            assert "a record never changes once written" in str(error)  # `harm_a_record` has changed one of two copies
            return
        assert before.items() <= contents(self.work).items()
        left, right = self.expected["left"], self.expected["right"]
        shutil.rmtree(self.results(name).path)
        merged.path.rename(self.results(name).path)
        records = left.records | right.records
        self.expected[name] = Expected(records, {key for key in records if key in left.models | right.models})

    @invariant()
    def every_record_is_there_once(self) -> None:
        for name, expected in self.expected.items():
            results = self.results(name)
            found = {record.record_id: record for _, record in files_of(results)}
            newer = {self.newer_id(expected)}
            assert set(found) == set(expected.records) - newer
            assert all(found[key] == expected.records[key] for key in found)
            counting = [record for _, record in results.scan() if isinstance(record, CellRecord)]
            others = results.attempts()
            assert not {record.record_id for record in counting} & {record.record_id for record in others}
            assert max(Counter(record.record_id for record in counting).values(), default=1) == 1
            assert max(Counter(record.record_id for record in others).values(), default=1) == 1
            assert max(Counter(map(origin, counting)).values(), default=1) == 1, "one machine's cell counts twice"

    @invariant()
    def every_model_is_there(self) -> None:
        for name, expected in self.expected.items():
            models = self.results(name).models
            there = {path.name: (path / "last.safetensors").read_text() for path in models.glob("*")}
            assert set(there) >= expected.models
            assert all(there[key] == key for key in expected.models)
            if expected.tidy:
                assert set(there) == expected.models

    @invariant()
    def status_and_report_say_what_the_files_say(self) -> None:
        for name in self.expected:
            results = self.results(name)
            wanted, state = results.cell_ids(), contents(results.path)
            if wanted is None or state == self.looked_at.get(name):
                continue
            self.looked_at[name] = state
            statuses = Counter()
            for cell_id in wanted:
                here = [record for _, record in results.scan() if getattr(record, "cell_id", "") == cell_id]
                best = min(here, key=lambda record: (not is_good(record), record.status not in RESULTS), default=None)
                statuses["not run yet" if best is None else best.status] += 1
            said = status_lines(results)[0].partition(" cells: ")[2].split(", ")
            assert Counter({part.partition(" ")[2]: int(part.partition(" ")[0]) for part in said}) == statuses
            assert sorted(read_study([results]).runs["record_id"]) == sorted(r.record_id for r in results.records())

    def note_what_is_new(self, name: str) -> None:
        """What a run has added; what was there before is held against what is known by the invariants."""
        expected = self.expected[name]
        for _, record in files_of(self.results(name)):
            if expected.records.setdefault(record.record_id, record) is record and record.model is not None:
                expected.models.add(record.record_id)

    def newer_id(self, expected: Expected) -> str | None:
        return None if expected.newer is None else str(json.loads(expected.newer[1])["record_id"])

    def good_results(self, results: ResultsFolder) -> dict[Path, CellRecord]:
        return {path: record for path, record in results.scan() if isinstance(record, CellRecord) and is_good(record)}


def is_good(record: CellRecord) -> bool:
    return record.status in RESULTS and record.outdated is None


def origin(record: CellRecord) -> tuple[object, ...]:
    """Of what there is one record that counts."""
    where = record.environment
    return record.cell_id, where and where.machine_id, where and where.torch, record.protocol


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and ".merging" not in str(path)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# Shrinking takes many minutes; a history of twenty steps can be read as it is.
History.TestCase.settings = settings(
    max_examples=12 * TIMES, stateful_step_count=20, deadline=None, phases=[Phase.explicit, Phase.generate]
)


class TestHistory(History.TestCase):
    """In any order."""

    @pytest.fixture(autouse=True)
    def surroundings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
