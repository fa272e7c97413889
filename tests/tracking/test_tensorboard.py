"""Event files, read back with TensorBoard itself."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnistbench.cell import Cell, Component
from mnistbench.cli.outcome import write_outcome
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord, EpochMeasurement
from mnistbench.tracking.tensorboard import write_events


def epoch(number: int, **changes: object) -> EpochMeasurement:
    """An epoch of 60,000 examples in three seconds."""
    values = {
        "epoch": number,
        "examples": 60_000,
        "steps": 118,
        "train_seconds": 3.0,
        "eval_seconds": 0.2,
        "train_loss": 0.5 / number,
        "train_accuracy": 0.9,
        "test_loss": 0.25,
        "test_accuracy": 0.95,
        "cold_seconds": 4.0 * number,
        "ended_at": f"2026-11-20T12:00:{number:02d}+00:00",
    }
    return EpochMeasurement(**{**values, **changes})  # type: ignore[arg-type]


def record_of(cell: Cell, *epochs: EpochMeasurement) -> CellRecord:
    """A finished record of these epochs."""
    return CellRecord(
        record_id="r1",
        cell_id=cell.cell_id,
        status="finished",
        cell=cell,
        started_at="2026-11-20T12:00:00+00:00",
        epochs=list(epochs),
    )


def read_back(folder: Path) -> EventAccumulator:
    """All scalars of one run."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_the_tutorials_scalars_come_back_by_epoch(cell: Cell, tmp_path: Path) -> None:
    """Loss and accuracy, train and test, with the epoch as the step and the time at which it ended."""
    (folder,) = write_events([record_of(cell, epoch(1), epoch(2))], tmp_path)
    events = read_back(folder)
    losses = events.Scalars("train/loss")
    assert [(point.step, point.value) for point in losses] == [(1, 0.5), (2, 0.25)]
    assert losses[0].wall_time == datetime.fromisoformat("2026-11-20T12:00:01+00:00").timestamp()
    assert events.Scalars("speed/examples_per_second")[0].value == pytest.approx(20_000)
    assert set(events.Tags()["scalars"]) == {
        "train/loss",
        "train/accuracy",
        "test/loss",
        "test/accuracy",
        "speed/examples_per_second",
        "speed/train_seconds",
    }


def test_a_loss_that_is_not_finite_leaves_a_gap(cell: Cell, tmp_path: Path) -> None:
    """None in the record is no point, rather than a zero."""
    (folder,) = write_events([record_of(cell, epoch(1), epoch(2, train_loss=None))], tmp_path)
    assert [point.step for point in read_back(folder).Scalars("train/loss")] == [1]


def test_writing_again_replaces(cell: Cell, tmp_path: Path) -> None:
    """A second report doubles no point."""
    for _ in range(2):
        (folder,) = write_events([record_of(cell, epoch(1))], tmp_path)
    assert len(list(folder.iterdir())) == 1


def test_a_cell_that_never_trained_has_no_folder(cell: Cell, tmp_path: Path) -> None:
    """A skipped or failed cell."""
    assert write_events([record_of(cell)], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_plug_in_s_name_is_safe_in_a_file_name(cell: Cell, tmp_path: Path) -> None:
    """`module:Name` and what a hostile record may hold stay inside the folder."""
    from dataclasses import replace

    hostile = replace(cell, architecture=Component(name="../../x:Y"))
    (folder,) = write_events([record_of(hostile, epoch(1))], tmp_path)
    assert folder.parent == tmp_path


def test_records_of_one_cell_from_two_machines_have_a_folder_each(cell: Cell, tmp_path: Path) -> None:
    one = record_of(cell, epoch(1))
    folders = write_events([one, one.with_changes(record_id="r2")], tmp_path)
    assert len(set(folders)) == 2
    assert all(read_back(folder).Scalars("train/loss") for folder in folders)


def test_two_results_folders_of_one_name_have_a_folder_each(cell: Cell, tmp_path: Path) -> None:
    paths = [tmp_path / "laptop" / "quick", tmp_path / "server" / "quick", tmp_path / "other"]
    folders = [ResultsFolder(path) for path in paths]
    for folder in folders:
        folder.create()
        folder.write(record_of(cell, epoch(1)).with_changes(record_id=str(uuid.uuid4())))
    write_outcome(folders, out=tmp_path / "page.html", tensorboard=tmp_path / "events")
    assert {path.name for path in (tmp_path / "events").iterdir()} == {"laptop-quick", "server-quick", "other"}
