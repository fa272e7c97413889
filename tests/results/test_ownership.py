"""Nothing of anybody's is destroyed: folders, files and models that no run of ours made stay as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import make_environment, make_record

from mnistbench import run_grid
from mnistbench.cell import Cell
from mnistbench.cli import app as cli
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.merging import merge_folders
from mnistbench.results.ownership import MARK, is_grid_of_ours, is_marked, is_record_name
from mnistbench.results.records import CellRecord, Environment
from mnistbench.run.executors import InlineExecutor
from mnistbench.run.run import RunSummary
from mnistbench.run.watchers import ReportWriter

GRID = """
name: owned
dataset: {name: sum3, rows: 100}
architectures: [mlp]
optimizers: [{name: sgd, lr: 0.1}]
batch_sizes: [8]
devices: [cpu]
seeds: [0, 1]
twins: 0
training: {epochs: 1, save_model: last}
speed: off
"""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a grid file; nobody else's cache."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# my own words\n" + GRID)
    monkeypatch.chdir(folder)
    return folder


def run(out: Path | str, **options: object) -> RunSummary:
    return run_grid(
        Grid.from_text(GRID), out=out, tracking=False, executor=InlineExecutor(train="stand_ins:quick"), **options
    )  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unmarked(folder: Path) -> None:
    """As a release that knew no mark left it."""
    (folder / MARK).unlink()


@pytest.fixture
def project(work: Path) -> Path:
    """Somebody's project, with names that a results folder has too."""
    folder = work / "project"
    for name, text in {
        "models/mine/weights.bin": "weights",
        "cells/table.json": "[1, 2]",
        "attempts/note.json": "{}",
        ".unfinished/draft/x": "x",
        "grid.yaml": "# my own words\nname: other\n",
        "results.csv": "a,b\n1,2\n",
        "summary.md": "my summary",
        ".notes.txt.12.part": "half",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_folder_of_somebody_elses_is_refused_before_anything_is_written(project: Path) -> None:
    before = contents(project)
    with pytest.raises(UserError, match="no results folder of mnistbench; nothing was changed"):
        run(project)
    assert contents(project) == before


def test_a_foreign_folder_is_refused_in_one_line_and_nothing_is_written_elsewhere(
    project: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(work)
    assert cli.main(["run", "mine.yaml", "--out", str(project)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert contents(work) == before


@pytest.mark.parametrize("command", [["report"], ["sync"], ["status"], ["merge", "--out", "both"]], ids=" ".join)
def test_a_folder_with_cells_of_somebody_elses_is_not_written_to(
    command: list[str], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a notebook's outputs, say: no report, no lock and no id are left there, and no experiment is made."""
    (work / "theirs" / "cells").mkdir(parents=True)
    (work / "theirs" / "cells" / "one.json").write_text("{}")
    before = contents(work)
    assert cli.main([command[0], "theirs", *command[1:]]) == 2
    assert "no results folder" in capsys.readouterr().err
    assert contents(work) == before


@pytest.mark.parametrize("out", [".", ""])
def test_the_working_folder_with_the_users_grid_is_no_results_folder(work: Path, out: str) -> None:
    shutil.copy(work / "mine.yaml", work / "grid.yaml")
    before = contents(work)
    assert cli.main(["run", "grid.yaml", "--out", out, "--no-tracking"]) == 2
    assert contents(work) == before


def test_an_empty_path_is_no_results_folder() -> None:
    with pytest.raises(UserError, match="an empty text was given"):
        run("")


def test_a_new_folder_an_empty_one_and_one_of_ours_are_taken_and_marked(work: Path) -> None:
    (work / "empty").mkdir()
    for name in ("new", "empty", "empty"):
        assert run(work / name).left == 0
        assert is_marked(work / name)


def test_a_folder_in_which_a_mark_was_half_written_is_empty(work: Path) -> None:
    (work / "killed").mkdir()
    (work / "killed" / f".{MARK}.12.part").write_text("{")
    assert run(work / "killed").left == 0
    assert not list((work / "killed").glob(".*.part"))


def test_a_folder_from_before_there_were_marks_is_known_by_its_records_and_marked(work: Path) -> None:
    run(work / "old")
    unmarked(work / "old")
    assert run(work / "old").ran == 0
    assert is_marked(work / "old")


@pytest.mark.parametrize("with_mark", [True, False])
def test_files_in_a_results_folder_that_are_not_ours_stay_untouched(
    project: Path, work: Path, monkeypatch: pytest.MonkeyPatch, with_mark: bool
) -> None:
    """With `--out .` too, and under the names that a run would use."""
    from mnistbench.report.page import render

    run(work / "results")
    if not with_mark:
        unmarked(work / "results")
    theirs = contents(project)
    shutil.copytree(project, work / "results", dirs_exist_ok=True)
    monkeypatch.chdir(work / "results")
    summary = run(".", force=True, watchers=[ReportWriter(lambda results: render([results], results.report_file))])
    assert summary.counts == {"finished": 2}
    assert theirs.items() <= contents(work / "results").items()
    assert Grid.load(ResultsFolder(".").grid_file).name == "owned"
    assert any("table.json is no record, and is left as it is" in warning for warning in summary.warnings)
    assert {"report.html", "report-results.csv", "report-summary.md"} <= {path.name for path in Path().iterdir()}


def test_the_grid_that_was_given_is_not_written_over(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(work / "results")
    shutil.copy(work / "mine.yaml", work / "results" / "grid.yaml")
    before = (work / "results" / "grid.yaml").read_text()
    monkeypatch.chdir(work / "results")
    assert cli.main(["run", "grid.yaml", "--out", ".", "--no-tracking"]) == 0
    assert (work / "results" / "grid.yaml").read_text() == before


def test_grids_that_a_run_wrote_are_known_with_and_without_their_header(work: Path) -> None:
    run(work / "results")
    written = work / "results" / "grid.yaml"
    assert is_grid_of_ours(written)
    assert all(is_grid_of_ours(path) for path in Path(__file__).parents[2].glob("results/reference/*/grid.yaml"))
    assert not is_grid_of_ours(work / "mine.yaml")
    written.write_bytes(written.read_bytes().replace(b"\n", b"\r\n"))  # as git does on Windows
    assert is_grid_of_ours(written)


# models


def models(folder: Path) -> set[str]:
    return {path.name for path in (folder / "models").iterdir()}


def test_models_behind_a_symbolic_link_are_left_alone(work: Path) -> None:
    elsewhere = work / "elsewhere"
    (elsewhere / "theirs").mkdir(parents=True)
    run(work / "results")
    shutil.rmtree(work / "results" / "models")
    (work / "results" / "models").symlink_to(elsewhere)
    unfinished = ResultsFolder(work / "results").weights_directory("0a8b9a52-0f1c-4b5e-9a4c-3d7f2f1e6c11")
    (elsewhere / unfinished.parent.name).mkdir()
    run(work / "results")
    assert models(work / "results") == {"theirs", unfinished.parent.name}


def on(machine: str, folder: Path) -> None:
    """Make all records those of a machine."""
    results = ResultsFolder(folder)
    for record in results.records():
        environment = Environment(
            machine_id=machine, machine="x", os="x", cpu="x", physical_cores=1, logical_cores=1, memory_bytes=1,
            python="3", torch="1.0.0", mnistbench="0",
        )  # fmt: skip
        results.write(record.with_changes(environment=environment))


def test_a_run_in_a_merged_folder_keeps_the_models_of_every_machine(work: Path) -> None:
    for machine in ("aaaaaaaa", "bbbbbbbb"):
        run(work / machine)
        on(machine, work / machine)
    both = ResultsFolder(work / "both")
    merge_folders([ResultsFolder(work / "aaaaaaaa"), ResultsFolder(work / "bbbbbbbb")], both)
    assert len(models(both.path)) == 4
    run(both.path)
    run(both.path, force=True)
    assert len(models(both.path)) == 6
    assert len(list(both.cells.glob("*@*.json"))) == 2


def merge_killed_at(fatal: int, sources: list[ResultsFolder], target: ResultsFolder) -> bool:
    """Merge in a child that is killed with -9 at the given write boundary; whether it came that far."""
    child = os.fork()
    if child == 0:
        passed = 0

        def around(function: Callable[..., object]) -> Callable[..., object]:
            def wrapped(*arguments: object, **options: object) -> object:
                nonlocal passed
                passed += 1
                if passed == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return wrapped

        for name in ("fsync", "replace", "rename", "mkdir"):
            setattr(os, name, around(getattr(os, name)))
        merge_folders(sources, target)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow
def test_a_merge_that_is_killed_leaves_no_half_folder_and_can_be_repeated(work: Path) -> None:
    """At every write boundary."""
    for machine in ("aaaaaaaa", "bbbbbbbb"):
        run(work / machine)
        on(machine, work / machine)
    sources = [ResultsFolder(work / "aaaaaaaa"), ResultsFolder(work / "bbbbbbbb")]
    for fatal in range(1, 100):
        both = ResultsFolder(work / f"both{fatal}")
        if not merge_killed_at(fatal, sources, both):
            break
        if not both.path.exists():
            assert merge_folders(sources, both) == 4
        assert len(both.records()) == len(models(both.path)) == 4
        assert not list(work.glob(".*.merging"))
    assert 15 < fatal < 99


def test_what_one_machine_makes_again_in_a_merged_folder_takes_the_place_of_its_own(work: Path) -> None:
    """And not that of another machine's record, beside which it would count twice."""
    for machine in ("aaaaaaaa", "bbbbbbbb"):
        run(work / machine)
        on(machine, work / machine)
    both = ResultsFolder(work / "both")
    merge_folders([ResultsFolder(work / "aaaaaaaa"), ResultsFolder(work / "bbbbbbbb")], both)
    before = sorted(path.name for path in both.cells.iterdir())
    for record in both.records():
        if record.environment is not None and record.environment.machine_id == "bbbbbbbb":
            path = both.write(record.with_changes(record_id=f"{record.record_id}-again", attempt=2))
            assert path == both.cells / f"{record.cell_id}@bbbbbbbb.json"
    assert sorted(path.name for path in both.cells.iterdir()) == before
    assert sorted(record.attempt for record in both.records()) == [1, 1, 2, 2]
    assert len(both.attempts()) == 2


def test_a_merge_takes_every_record_and_every_model_along(work: Path) -> None:
    """Those of earlier attempts, and of cells that the grid has lost since."""
    for name in ("left", "right"):
        run(work / name)
    run(work / "left", force=True)
    run_grid(
        Grid.from_text(GRID, overrides=["seeds=[1]"]),
        out=work / "left",
        tracking=False,
        executor=InlineExecutor(train="stand_ins:quick"),
    )
    sources = [ResultsFolder(work / name) for name in ("left", "right")]
    both = ResultsFolder(work / "both")
    assert merge_folders(sources, both) == len(both.records()) == 2
    kept = models(work / "left") | models(work / "right")
    assert len(kept) == 6
    assert models(both.path) == kept
    assert {record.record_id for record in [*both.records(), *both.attempts()]} == kept


def test_a_merge_goes_through_a_link_to_an_empty_folder_and_refuses_a_file(work: Path) -> None:
    run(work / "one")
    (work / "file").write_text("mine")
    with pytest.raises(UserError, match="is no folder"):
        merge_folders([ResultsFolder(work / "one")], ResultsFolder(work / "file"))
    (work / "disk").mkdir()
    (work / "link").symlink_to(work / "disk")
    merge_folders([ResultsFolder(work / "one")], ResultsFolder(work / "link"))
    assert len(ResultsFolder(work / "disk").records()) == 2
    assert (work / "link").is_symlink()


def test_a_merge_copies_no_file_that_a_link_in_somebody_elses_folder_names(work: Path) -> None:
    run(work / "theirs")
    (work / "secret").write_text("mine")
    kept = next((work / "theirs" / "models").iterdir())
    (kept / "extra.json").symlink_to(work / "secret")
    merge_folders([ResultsFolder(work / "theirs")], ResultsFolder(work / "both"))
    assert models(work / "both") == models(work / "theirs")
    assert not (work / "both" / "models" / kept.name / "extra.json").exists()


def test_each_gpu_of_a_merged_folder_keeps_its_record(work: Path, cell: Cell) -> None:
    """Two GPUs under one machine id; the third build of a machine has a name of its own, too."""
    builds = [
        make_environment(device_id=gpu, torch=torch)
        for gpu, torch in (("one", "2.15"), ("two", "2.15"), ("one", "2.16"))
    ]
    for number, where in enumerate(builds):
        folder = ResultsFolder(work / str(number))
        folder.create()
        folder.write(make_record(cell, environment=where))
    both = ResultsFolder(work / "both")
    merge_folders([ResultsFolder(work / str(number)) for number in range(3)], both)
    for where in builds:
        assert both.write(make_record(cell, environment=where, attempt=2))
    assert sorted(record.attempt for record in both.records()) == [2, 2, 2]
    assert all(is_record_name(path) for path in both.cells.iterdir())
    assert len({path.name for path in both.cells.iterdir()}) == 3


def test_a_merge_with_a_record_of_a_newer_release_is_refused_before_anything_is_written(work: Path) -> None:
    for name in ("left", "right"):
        run(work / name)
    path = sorted((work / "right" / "cells").iterdir())[0]
    path.write_bytes(re.sub(rb'"schema_version": \d+', b'"schema_version": 99', path.read_bytes()))
    before = contents(work)
    with pytest.raises(UserError, match="a newer mnistbench wrote it"):
        merge_folders([ResultsFolder(work / "left"), ResultsFolder(work / "right")], ResultsFolder(work / "both"))
    assert contents(work) == before


@pytest.mark.parametrize("damage", ["one byte", "an older release"])
def test_the_model_of_a_record_that_is_set_aside_is_kept(work: Path, damage: str) -> None:
    folder = work / "results"
    run(folder)
    path = sorted((folder / "cells").iterdir())[0]
    record_id = json.loads(path.read_text())["record_id"]
    content = path.read_bytes()
    if damage == "one byte":
        path.write_bytes(content.replace(b'"status"', b'"stat\xffs"'))
    else:
        path.write_bytes(content.replace(b'"noisy_rerun"', b'"field_of_tomorrow"'))
    assert len(run(folder).set_aside) == 1
    run(folder)
    assert record_id in models(folder)
    assert len(models(folder)) == 3


def test_a_record_that_was_damaged_while_the_run_went_on_is_set_aside_and_not_written_over(
    work: Path, cell: Cell
) -> None:
    results = ResultsFolder(work / "results")
    results.create()
    (results.cells / f"{cell.cell_id}.json").write_text("damaged")
    plain = CellRecord(record_id="r1", cell_id=cell.cell_id, status="finished", cell=cell, started_at="2026-01-01")
    results.write(plain)
    assert [path.read_text() for path in results.set_aside_folder.iterdir()] == ["damaged"]
    assert results.record(cell.cell_id) == plain


def test_the_index_of_a_merged_folder_remembers_each_record_under_its_file(work: Path, cell: Cell) -> None:
    from mnistbench.results.index import read_index, save_index

    results = ResultsFolder(work / "results")
    results.create()
    failed = CellRecord(record_id="r1", cell_id=cell.cell_id, status="failed", cell=cell, started_at="2026-01-01")
    finished = replace(failed, record_id="r2", status="finished")
    results.write(finished)
    (results.cells / f"{cell.cell_id}.json").rename(results.cells / f"{cell.cell_id}@bbbbbbbb.json")
    results.write(failed)
    index, _ = read_index(results)
    save_index(results, index.values())
    (results.cells / f"{cell.cell_id}@bbbbbbbb.json").unlink()
    assert read_index(results)[0][cell.cell_id].record_id == "r1"
