"""The results folder: whole files, attempts that are kept, one holder at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import make_cell, make_record

from mnistbench.cell import Cell, Component
from mnistbench.errors import UserError
from mnistbench.files import whole as atomic
from mnistbench.results.folder import ResultsFolder, read_record
from mnistbench.results.index import attempts_made, read_index, save_index
from mnistbench.results.records import CellRecord, Error, Model, Status


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(tmp_path / "results" / "quick")
    folder.create()
    return folder


def record(cell: Cell, status: Status = "finished", *, record_id: str = "r1", attempt: int = 1) -> CellRecord:
    error = None if status == "finished" else Error(type="exit", message="it ended")
    return CellRecord(
        record_id=record_id,
        cell_id=cell.cell_id,
        attempt=attempt,
        status=status,
        cell=cell,
        started_at="2026-01-01T00:00:00+00:00",
        error=error,
    )


def test_a_record_comes_back_as_it_was_written(results: ResultsFolder, cell: Cell) -> None:
    results.write(record(cell))
    assert results.records() == [record(cell)]
    assert [path.name for path in results.cells.iterdir()] == [f"{cell.cell_id}.json"]


def test_a_new_attempt_counts_and_the_earlier_one_is_kept(results: ResultsFolder, cell: Cell) -> None:
    results.write(record(cell, "failed"))
    assert results.write(record(cell, record_id="r2", attempt=2))
    assert [item.record_id for item in results.records()] == ["r2"]
    assert [item.record_id for item in results.attempts()] == ["r1"]
    assert attempts_made(results) == {cell.cell_id: 1}


def test_a_failure_never_takes_the_place_of_a_result(results: ResultsFolder, cell: Cell) -> None:
    results.write(record(cell))
    assert not results.write(record(cell, "killed", record_id="r2", attempt=2))
    assert [item.record_id for item in results.records()] == ["r1"]
    assert [item.record_id for item in results.attempts()] == ["r2"]


def test_an_attempt_that_a_kill_left_in_both_places_is_one_attempt(results: ResultsFolder, cell: Cell) -> None:
    """The copy to attempts/ is made before the replacement; a kill in between leaves both."""
    results.write(record(cell, "failed"))
    counting = results.cells / f"{cell.cell_id}.json"
    (results.attempts_folder / f"{cell.cell_id}.1.r1.json").write_bytes(counting.read_bytes())
    assert results.attempts() == []


def of_schema_1(cell: Cell, **changes: object) -> dict[str, object]:
    """A record as the first schema wrote it: without what came later."""
    plain = {**record(cell).to_json(), "schema_version": 1, **changes}
    del plain["training_revision"]
    return plain


def test_a_record_of_an_older_schema_is_read_and_is_of_the_first_training_code(cell: Cell) -> None:
    old = CellRecord.from_json(of_schema_1(cell))
    assert (old.training_revision, old.outdated) == (1, None)
    assert CellRecord.from_json(old.to_json()) == old


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": Component(name="my:Ranger", options={"lr": 0.1})}, "a plug-in's optimizer"),
        ({"architecture": Component(name="my:Net")}, "a plug-in's network"),
        ({"architecture": Component(name="speedrun")}, "BatchNorm"),
    ],
)
def test_an_old_record_that_may_have_been_trained_wrongly_is_outdated(
    cell: Cell, changes: dict[str, Component], reason: str
) -> None:
    other = replace(cell, **changes)  # type: ignore[arg-type]
    assert CellRecord.from_json(of_schema_1(other)).outdated == reason
    assert record(other).with_changes(training_revision=2).outdated is None


def test_a_record_of_a_plug_ins_data_that_was_normalized_once_more_is_outdated(cell: Cell) -> None:
    """Its option of that name meant something of its own; training took it for ours."""
    other = replace(cell, dataset=Component(name="my:digits", options={"normalize": True}))
    assert record(other).with_changes(training_revision=2).outdated == "a plug-in's data that was normalized once more"
    assert record(other).with_changes(training_revision=3).outdated is None
    ours = replace(cell, dataset=Component(name="mnist", options={"normalize": True}))
    assert record(ours).with_changes(training_revision=2).outdated is None


def test_an_old_record_whose_gate_failed_is_outdated(cell: Cell) -> None:
    old = CellRecord.from_json(of_schema_1(cell, checks={"equivalence": "failed: G1 gradient 1 > 1e-5"}))
    assert old.outdated == "a failed equivalence gate"


def test_all_published_records_are_read() -> None:
    published = Path(__file__).parents[2] / "results" / "reference"
    files = list(published.rglob("cells/*.json"))
    assert files
    assert [file for file in files if isinstance(read_record(file), str)] == []


def test_cells_that_the_grid_has_no_more_stay_on_disk_and_leave_the_records(results: ResultsFolder, cell: Cell) -> None:
    other = replace(cell, seed=1)
    results.write(record(cell))
    results.write(record(other, record_id="r2"))
    results.write_cells([other])
    assert [item.cell_id for item in results.records()] == [other.cell_id]
    assert len(list(results.cells.iterdir())) == 2


@pytest.mark.parametrize("content", ["", '{"cells": [', '{"schema_version": 99, "cells": []}', "<<<<<<< HEAD\n{}"])
def test_a_list_of_cells_that_cannot_be_read_is_named(results: ResultsFolder, cell: Cell, content: str) -> None:
    results.write(record(cell))
    results.cells_file.write_text(content)
    records, aside = results.read()
    assert (len(records), [item.file.name for item in aside]) == (1, ["cells.json"])


def test_without_a_list_of_cells_every_record_counts(results: ResultsFolder, cell: Cell) -> None:
    results.write(record(cell))
    results.cells_file.write_text("{ not a list")
    assert len(results.records()) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cut short"),
        (b"\x00\xff\xfe", "not text"),
        (b"[]", "mapping"),
        (b'{"schema_version": 1, "value": NaN}', "NaN"),
        (b"[" * 100_000, "deep"),
        (b'{"schema_version": 99}', "newer mnistbench wrote it: schema version 99"),
        (b'{"schema_version": true}', "schema version True"),
        (b'{"schema_version": 0}', "schema version 0"),
    ],
)
def test_what_is_no_record_is_named_with_its_reason(
    results: ResultsFolder, cell: Cell, content: bytes, reason: str
) -> None:
    results.write(record(cell))
    (results.cells / "0123456789abcdef.json").write_bytes(content)
    records, aside = results.read()
    assert len(records) == 1
    assert [item.file.name for item in aside] == ["0123456789abcdef.json"]
    assert reason in aside[0].reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "great"}, "great"),
        ({"attempt": "1"}, "record.attempt: '1' should be a valid integer"),
        ({"attempt": True}, "record.attempt: True should be a valid integer"),
        ({"extra": 1}, "record.extra: unknown field"),
        ({"cell_id": "0" * 16}, "not that of its settings"),
        ({"epochs": [{"epoch": 1}]}, "record.epochs[0]"),
        ({"cell": {}}, "record.cell.dataset: is missing"),
        ({"error": {"type": "x", "message": "\ud800"}}, "half a character"),
    ],
)
def test_a_record_changed_by_hand_is_not_half_read(
    results: ResultsFolder, cell: Cell, change: dict[str, object], reason: str
) -> None:
    plain = {**record(cell).to_json(), **change}
    path = results.cells / f"{cell.cell_id}.json"
    path.write_text(json.dumps(plain))
    records, aside = results.read()
    assert records == []
    assert reason in aside[0].reason


def test_a_record_under_another_cells_name_does_not_count(results: ResultsFolder, cell: Cell) -> None:
    results.write(record(cell))
    (results.cells / f"{cell.cell_id}.json").rename(results.cells / "0123456789abcdef.json")
    records, aside = results.read()
    assert records == []
    assert "another cell" in aside[0].reason


def test_what_was_set_aside_is_still_counted_and_never_overwritten(results: ResultsFolder) -> None:
    broken = results.cells / "0123456789abcdef.json"
    for content in ("first", "second"):
        broken.write_text(content)
        results.set_aside([broken])
    assert len(results.read()[1]) == 2
    assert {path.read_text() for path in results.set_aside_folder.iterdir()} == {"first", "second"}


def test_the_index_notices_a_file_that_changed(results: ResultsFolder, cell: Cell) -> None:
    results.write(record(cell))
    index, _ = read_index(results)
    save_index(results, index.values())
    assert read_index(results) == (index, [])
    (results.cells / f"{cell.cell_id}.json").write_text("broken")
    index, aside = read_index(results)
    assert index == {}
    assert len(aside) == 1


@pytest.mark.parametrize("target", ["nowhere.json", "0123456789abcdef.json"])
def test_a_link_that_leads_nowhere_hides_no_record(results: ResultsFolder, cell: Cell, target: str) -> None:
    """A run that saw no record would train them all again."""
    results.write(record(cell))
    (results.cells / "0123456789abcdef.json").symlink_to(target)
    index, aside = read_index(results)
    assert list(index) == [cell.cell_id]
    assert [item.file.name for item in aside] == ["0123456789abcdef.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1, "files": {"x.json": [[1], {}]}}', '{"version": 9}'])
def test_a_broken_index_costs_nothing_but_time(results: ResultsFolder, cell: Cell, content: str) -> None:
    results.write(record(cell))
    (results.path / ".index.json").write_text(content)
    assert list(read_index(results)[0]) == [cell.cell_id]


@pytest.mark.parametrize(
    "change", [{"status": "finished"}, {"status": "great"}, {"seconds": "long"}, {"attempt": None}]
)
def test_an_index_that_says_something_else_than_was_written_is_not_believed(
    results: ResultsFolder, cell: Cell, change: dict[str, object]
) -> None:
    results.write(record(cell, "failed"))
    index, _ = read_index(results)
    save_index(results, index.values())
    file = results.path / ".index.json"
    plain = json.loads(file.read_text())
    plain["files"][f"{cell.cell_id}.json"][1] |= change
    file.write_text(json.dumps(plain))
    assert read_index(results)[0] == index


def test_a_disk_that_is_full_leaves_the_old_record_whole(
    results: ResultsFolder, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.write(record(cell, "failed"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        results.write(record(cell, record_id="r2", attempt=2))
    monkeypatch.undo()
    assert [item.record_id for item in results.records()] == ["r1"]
    assert [path.name for path in results.cells.iterdir()] == [f"{cell.cell_id}.json"]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)


def test_a_limit_of_the_real_file_system_is_a_clear_error(results: ResultsFolder) -> None:
    """RLIMIT_FSIZE lets the kernel refuse the write halfway, as a quota does."""
    code = f"""
import resource, signal
from pathlib import Path
from mnistbench.files.whole import write_whole
from mnistbench.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path = Path({str(results.path / "kept.txt")!r})
write_whole(path, "old")
try:
    write_whole(path, "x" * 5000)
except UserError as error:
    print(error)
print(path.read_text(), [item.name for item in path.parent.iterdir() if "kept" in item.name])
"""
    done = run_python(code)
    assert "cannot write" in done.stdout
    assert done.stdout.splitlines()[-1] == "old ['kept.txt']"


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """As a user without rights; root would be let through."""
    folder = tmp_path / "locked"
    folder.mkdir()
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    folder.chmod(0o555)
    code = f"""
import os, sys
from mnistbench.results.folder import ResultsFolder
from mnistbench.errors import UserError
if os.getuid() == 0:
    os.setuid(65534)
try:
    ResultsFolder({str(folder / "quick")!r}).create()
except UserError as error:
    print(error)
"""
    assert "Permission denied" in run_python(code).stdout


def test_a_folder_that_is_gone_is_a_clear_error(results: ResultsFolder, cell: Cell) -> None:
    results.cells.rmdir()
    with pytest.raises(UserError, match="No such file or directory"):
        results.write(record(cell))


HOLD = """
import sys, time
from mnistbench.results.folder import ResultsFolder
with ResultsFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_copy_of_a_record_is_called_so(tmp_path: Path) -> None:
    """Not the record of another cell."""
    folder = ResultsFolder(tmp_path)
    folder.create()
    record = make_record(make_cell())
    folder.write(record)
    shutil.copy(folder.cells / f"{record.cell_id}.json", folder.cells / f"{record.cell_id} (copy).json")
    assert [item.reason for item in folder.read()[1]] == [f"it is a copy of {record.cell_id}.json"]


def test_a_second_runner_is_told_who_holds_the_folder(results: ResultsFolder) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(results.path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}, since 2"), results.lock():
            pass
    finally:
        holder.kill()
        holder.wait()
    with results.lock():  # what a dead one leaves does not block
        pass


def test_weights_are_moved_to_their_place_and_named_in_the_record(results: ResultsFolder, cell: Cell) -> None:
    directory = results.weights_directory("r1")
    (directory / "best.safetensors").write_bytes(b"weights")
    (directory / "best.json").write_text("{}")
    before = replace(record(cell), model=Model(parameters=1, weights=["best.safetensors"]))
    kept = results.keep_weights(before)
    assert kept.model is not None
    assert kept.model.weights == ["models/r1/best.safetensors"]
    assert (results.path / kept.model.weights[0]).read_bytes() == b"weights"
    assert not directory.exists()


def test_weights_of_a_failure_are_not_kept(results: ResultsFolder, cell: Cell) -> None:
    (results.weights_directory("r1") / "best.safetensors").write_bytes(b"weights")
    results.keep_weights(record(cell, "killed"))
    assert list(results.unfinished.iterdir()) == []
    assert not results.models.exists()


def test_what_a_killed_runner_left_is_cleared(results: ResultsFolder, cell: Cell) -> None:
    """Half-written files, and weights that were moved or not when the record was still to be written."""
    results.write(record(cell))
    (results.cells / f".{cell.cell_id}.json.12.part").write_text("half")
    written, moved, unmoved = (str(uuid.uuid4()) for _ in range(3))
    results.write(record(replace(cell, seed=1), record_id=written))
    for record_id in (written, moved, unmoved):
        (results.weights_directory(record_id) / "last.safetensors").write_bytes(b"half")
    for record_id in (written, moved):
        results.keep_weights(replace(record(cell, record_id=record_id), model=Model(parameters=1)))
    results.clean()
    assert len(list(results.cells.iterdir())) == 2
    assert [path.name for path in results.models.iterdir()] == [written]
    assert not results.unfinished.exists()


def test_a_file_too_large_for_a_record_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "0123456789abcdef.json"
    with path.open("wb") as file:
        file.truncate(2**30)
    assert read_record(path) == "it is too large for a record"
