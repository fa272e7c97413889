"""How far a run is, as another terminal sees it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mnistbench.cell import Cell
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord, Data, EpochMeasurement, Timing
from mnistbench.run.status import NOTE, StatusFile, status_lines
from mnistbench.train.job import Job

EPOCH = EpochMeasurement(
    epoch=1, examples=60_000, steps=118, train_seconds=3.0, eval_seconds=0.2, train_loss=0.5, train_accuracy=0.9,
    test_loss=0.25, test_accuracy=0.95, cold_seconds=4.0, ended_at="2026-11-20T12:00:00+00:00",
)  # fmt: skip


@pytest.fixture
def results(tmp_path: Path, cell: Cell) -> ResultsFolder:
    """Three cells, of which the first took a minute."""
    folder = ResultsFolder(tmp_path / "quick")
    folder.create()
    folder.write_cells([replace(cell, seed=seed) for seed in range(3)])
    folder.write(record_of(cell, 60.0))
    return folder


def record_of(cell: Cell, seconds: float) -> CellRecord:
    """A finished attempt."""
    timing = Timing(setup_seconds=0, warmup_seconds=0, train_seconds=seconds, eval_seconds=0, wall_seconds=seconds)
    return CellRecord(
        record_id=f"r{cell.seed}", cell_id=cell.cell_id, status="finished", cell=cell, timing=timing,
        started_at="2026-11-20T12:00:00+00:00", epochs=[EPOCH],
    )  # fmt: skip


def test_nothing_running_says_what_is_left_and_how_long_it_takes(results: ResultsFolder) -> None:
    """Judged by the cells that have run."""
    counts, rest = status_lines(results)
    assert "3 cells: 1 finished, 2 not run yet" in counts
    assert "nothing is running; 2 cells without a result yet, about 2 min" in rest


def test_a_runner_leaves_a_note_of_the_present_cell(results: ResultsFolder, cell: Cell) -> None:
    """Its epoch, loss, accuracy and speed; gone when the run has ended."""
    job = Job(cell=replace(cell, seed=1), record_id="r1", data_directory="", data=Data(sha256=""))
    status_file = StatusFile(results)
    status_file.begin(2, 1)
    status_file.started(job)
    status_file.epoch(job, EPOCH)
    line = status_lines(results)[-1]
    assert "running: 0 of 2 in this session" in line
    assert "epoch 1/1 · loss 0.5000 · test 95.00 % · 20,000 examples/s" in line
    status_file.record(record_of(job.cell, 1.0))
    assert "running: 1 of 2 in this session" in status_lines(results)[-1]
    status_file.end(None)
    assert not (results.path / NOTE).exists()


def test_a_runner_that_times_blocks_says_which_cycle(results: ResultsFolder) -> None:
    StatusFile(results).speed("cycle 3 of 16 is timed")
    assert status_lines(results)[-1] == "running: cycle 3 of 16 is timed"


def test_the_note_of_a_runner_that_was_killed_is_not_believed(results: ResultsFolder, cell: Cell) -> None:
    """kill -9 leaves the note, but not the process."""
    job = Job(cell=cell, record_id="r1", data_directory="", data=Data(sha256=""))
    StatusFile(results).started(job)
    note = results.path / NOTE
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    note.write_text(note.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {child}'))
    assert "nothing is running" in status_lines(results)[-1]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', '{"pid": 1e400}', "\x00"])
def test_a_damaged_note_is_no_note(results: ResultsFolder, content: str) -> None:
    """Whatever lies there."""
    (results.path / NOTE).write_text(content)
    assert "nothing is running" in status_lines(results)[-1]
