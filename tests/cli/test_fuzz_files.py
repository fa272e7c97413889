"""Every other file that is read back, against anything: an answer, or one clear line, and never a traceback.

Grids, IDX files and records have files of their own beside this one, tables of users `test_csv_table.py`. About 2,000
inputs are tried in each run; `HYPOTHESIS_MAX_EXAMPLES` multiplies that.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import make_cell, make_record

from mnistbench.cell import Component
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data import cache
from mnistbench.data import csv as csv_table
from mnistbench.data.arrays import check
from mnistbench.errors import UserError
from mnistbench.files.locking import Held, hold
from mnistbench.files.whole import read_answer, write_answer
from mnistbench.report.page import read_study
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.index import attempts_made, read_index, save_index
from mnistbench.results.merging import merge_folders
from mnistbench.results.records import CellRecord
from mnistbench.results.targets import targets_asked
from mnistbench.run.status import status_lines
from mnistbench.tracking.identity import grid_id, is_grid_id
from mnistbench.tracking.journal import Journal, done_at, named_in
from mnistbench.tracking.mirror import grid_name
from mnistbench.train.weights import read_model, save_model

TIMES = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "1"))


def tries(count: int) -> settings:
    return settings(max_examples=count * TIMES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -1, 0, 2**63]))
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NESTED = b"[" * 100_000


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def changed(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    """The same plain data with another value in one place."""
    if not place:
        return other
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[place[0]] = changed(value[place[0]], place[1:], other)
    return copied


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A sound file that is cut, flipped, made of other values, or something else altogether."""
    way = draw(st.integers(0, 5))
    if way == 0:
        return draw(st.binary(max_size=200) | st.just(NESTED))
    if way == 1:
        return content[: draw(st.integers(0, len(content)))]
    if way == 2 and content:
        place = draw(st.integers(0, len(content) - 1))
        return content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
    try:
        plain = json.loads(content)
    except ValueError:
        return content + draw(st.binary(max_size=50)) + content
    for _ in range(draw(st.integers(1, 2))):
        plain = changed(plain, draw(st.sampled_from(places(plain))), draw(values))
    return json.dumps(plain).encode()


# a results folder


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """Two records, one attempt, and everything beside them."""
    results = ResultsFolder(tmp_path / "results")
    results.create()
    records = [make_record(make_cell(seed=seed)) for seed in (0, 1)]
    for record in records:
        results.write(record)
    results.write(replace(records[0], record_id="again", attempt=2))
    results.write_cells([record.cell for record in records])
    results.write_grid("name: quick\ntraining: {target_accuracy: 0.9}\n")
    save_index(results, read_index(results)[0].values())
    return results


NOTE = {"pid": os.getpid(), "now": "mlp", "done": 1, "cells": 2, "seconds_left": 3.5}


def told(results: ResultsFolder) -> list[object]:
    """All that is said of a folder."""
    return [status_lines(results), results.read(), targets_asked(results), attempts_made(results), grid_name(results)]


def everything(results: ResultsFolder) -> None:
    told(results)
    study = read_study([results])
    assert len(study.runs) == len(study.records)


@tries(150)
@given(st.data())
def test_any_list_of_cells_leaves_the_records_readable(folder: ResultsFolder, data: st.DataObject) -> None:
    content = folder.cells_file.read_bytes()
    try:
        folder.cells_file.write_bytes(data.draw(damaged(content)))
        told(folder)
        assert len(folder.records()) <= 2
    finally:
        folder.cells_file.write_bytes(content)


@tries(150)
@given(st.data())
def test_any_index_gives_what_the_records_say(folder: ResultsFolder, data: st.DataObject) -> None:
    path = folder.path / ".index.json"
    content, right = path.read_bytes(), read_index(folder)
    try:
        path.write_bytes(data.draw(damaged(content)))
        assert read_index(folder) == right
    finally:
        path.write_bytes(content)


@tries(120)
@given(st.data())
def test_any_note_of_the_present_cell_is_shown_or_passed_over(folder: ResultsFolder, data: st.DataObject) -> None:
    (folder.path / ".now.json").write_bytes(data.draw(damaged(json.dumps(NOTE).encode())))
    assert all(isinstance(line, str) for line in status_lines(folder))


@pytest.mark.parametrize("left", ["1" + 400 * "0", "NaN", "1e999", "-3"])
def test_a_time_left_that_cannot_be_is_passed_over(folder: ResultsFolder, left: str) -> None:
    (folder.path / ".now.json").write_text(json.dumps({**NOTE, "seconds_left": "HERE"}).replace('"HERE"', left))
    assert status_lines(folder)[-1] == f"running: 1 of 2 in this session; {NOTE['now']}"


@tries(120)
@given(st.data())
def test_any_note_of_a_holder_is_named_or_passed_over(tmp_path: Path, data: st.DataObject) -> None:
    lock, owner = tmp_path / ".lock", tmp_path / ".holder.json"
    with hold(lock, owner):
        owner.write_bytes(data.draw(damaged(owner.read_bytes())))
        with pytest.raises(Held) as held, hold(lock, owner):
            pass
        assert str(held.value)


@pytest.mark.slow
@tries(120)
@given(st.data())
def test_any_grid_file_of_a_folder_leaves_it_readable(folder: ResultsFolder, data: st.DataObject) -> None:
    content = folder.grid_file.read_bytes()
    (folder.path / "cells.json").write_text(json.dumps({"schema_version": 1, "cells": []}))
    try:
        as_json = json.dumps({"name": "quick", "training": {"target_accuracy": [0.9]}, "include": [{"training": {}}]})
        folder.grid_file.write_bytes(data.draw(damaged(content) | damaged(as_json.encode())))
        told(folder)
    finally:
        folder.grid_file.write_bytes(content)


@pytest.mark.slow
@tries(60)
@given(st.data())
def test_any_records_are_reported_and_merged_or_refused(folder: ResultsFolder, data: st.DataObject) -> None:
    paths = sorted([*folder.cells.iterdir(), *folder.attempts_folder.iterdir()])
    contents = [path.read_bytes() for path in paths]
    try:
        for path, content in zip(paths, contents, strict=True):
            if data.draw(st.booleans()):
                path.write_bytes(data.draw(damaged(content)))
        everything(folder)
        other = ResultsFolder(folder.path.with_name("other"))
        if not other.path.exists():
            other.create()
            other.write(make_record(make_cell(seed=2)))
        merged = ResultsFolder(folder.path.with_name(f"merged{len(list(folder.path.parent.iterdir()))}"))
        try:
            merge_folders([folder, other], merged)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
        else:
            readable = {r.record_id for _, r in folder.scan() if isinstance(r, CellRecord)}
            readable |= {record.record_id for record in folder.attempts()}
            there = {record.record_id for _, record in merged.scan() if isinstance(record, CellRecord)}
            assert there | {record.record_id for record in merged.attempts()} == readable | {
                record.record_id for record in other.records()
            }
    finally:
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)


# the mirror's journal


@tries(200)
@given(st.data())
def test_any_journal_is_read_for_what_it_says(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "mirrored.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal.read(path, "key", "place")
    for number in range(3):
        journal.intend(f"r{number}")
        journal.complete(f"r{number}", f"run{number}")
    lines = path.read_bytes().splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = data.draw(damaged(lines[number]))
    path.write_bytes(b"\n".join(lines))
    again = Journal.read(path, "key", "place")
    assert all(isinstance(item, str) for item in [*again.done, *again.done.values(), *again.open])
    assert all(isinstance(item, str) for item in [*done_at(path, "place"), *named_in(path)[0], *named_in(path)[1]])
    again.complete("r9", "run9")
    assert Journal.read(path, "key", "place").done["r9"] == "run9"


def test_a_line_of_the_journal_that_names_no_record_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "mirrored.jsonl"
    Journal.read(path, "key", "place").complete("r0", "run0")
    path.write_bytes(path.read_bytes().replace(b"record_id", b"secord_id") + path.read_bytes())
    assert done_at(path, "place") == {"r0"}


@tries(60)
@given(st.binary(max_size=50))
def test_any_identity_is_one_or_is_minted_anew(folder: ResultsFolder, content: bytes) -> None:
    (folder.path / ".grid_id").write_bytes(content)
    assert is_grid_id(grid_id(folder))


# answers in the user's cache


@tries(200)
@given(st.data())
def test_any_answer_in_the_cache_is_the_one_that_was_written_or_none(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "answer.json"
    write_answer(path, {"question": {"layers": "mlp"}, "answer": {"chunk": 256}})
    right = read_answer(path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    assert read_answer(path) in (None, right)


@tries(60)
@given(st.data())
def test_any_description_of_prepared_data_is_right_or_passed_over(tmp_path: Path, data: st.DataObject) -> None:
    from mnistbench.data.arrays import DESCRIPTION
    from mnistbench.data.datasets import prepare

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MNISTBENCH_CACHE", str(tmp_path))
        directory = prepare(Component(name="sum3", options={"rows": 20})).directory
    entry = cache.read_entry(directory)
    path = directory / DESCRIPTION
    content = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(content)))
        assert cache.read_entry(directory) in (None, entry)
    finally:
        path.write_bytes(content)


# tables of users


@tries(300)
@given(
    st.one_of(
        st.binary(max_size=200),
        damaged(b"a,b,label\n1,2,0\n3,4.5,1\n-5e3,6,0\n7,8,1\n"),
        st.text(alphabet='0123456789.,-+eE"\n\r;\tnaif \x00\ufeff', max_size=120).map(str.encode),
    ),
    st.sampled_from(
        [csv_table.CsvTable(), csv_table.CsvTable(task="classes", stratified=True, standardize=True, header=False)]
    ),
)
def test_any_file_is_a_table_or_refused_with_its_name(content: bytes, table: csv_table.CsvTable) -> None:
    try:
        arrays = csv_table.read_table(content, table, "t.csv")
    except UserError as error:
        assert all(line.startswith("t.csv") for line in str(error).splitlines())
    else:
        check(arrays)


# weights files


SPEC = DataSpec(name="sum3", input_shape=(3,), classes=1, train_examples=70, test_examples=30)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from mnistbench.axes import architectures

    cell = make_cell(dataset="sum3", architecture=Component(name="mlp", options={"hidden": [2]}))
    path = tmp_path_factory.mktemp("weights") / "kept.safetensors"
    save_model(architectures.build(cell.architecture, SPEC), cell, SPEC, path)
    return path.read_bytes()


def read_or_refuse(path: Path) -> None:
    try:
        read_model(path)
    except UserError as error:
        assert str(path.with_suffix("")) in str(error)
        assert len(str(error).splitlines()) == 1


def test_a_weights_file_does_not_choose_the_lines_of_its_refusal(tmp_path: Path, weights: bytes) -> None:
    path = tmp_path / "kept.safetensors"
    header = weights[8:].partition(b"}}")[0].replace(b'"F32"', b'"F\x7f\xc2\x85\xe2\x80\xa8"', 1) + b"}}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    path.with_suffix(".json").unlink(missing_ok=True)
    read_or_refuse(path)


@tries(200)
@given(st.data())
def test_any_weights_file_is_a_model_or_refused(tmp_path: Path, weights: bytes, data: st.DataObject) -> None:
    """Damaged as a whole, in its header, or in the settings inside."""
    path = tmp_path / "kept.safetensors"
    length = struct.unpack("<Q", weights[:8])[0]
    header, body = weights[8 : 8 + length], weights[8 + length :]
    part: Callable[[bytes], bytes] = data.draw(st.sampled_from([bytes, bytes.strip]))
    if data.draw(st.booleans()):
        header = data.draw(damaged(part(header)))
    else:
        plain = json.loads(header)
        text = data.draw(damaged(plain["__metadata__"]["settings"].encode()))
        plain["__metadata__"]["settings"] = text.decode(errors="replace")
        header = json.dumps(plain).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    read_or_refuse(path)


@tries(200)
@given(st.data())
def test_any_settings_beside_the_weights_are_read_or_refused(
    tmp_path: Path, weights: bytes, data: st.DataObject
) -> None:
    path = tmp_path / "kept.safetensors"
    path.write_bytes(weights)
    length = struct.unpack("<Q", weights[:8])[0]
    inside = json.loads(weights[8 : 8 + length])["__metadata__"]["settings"].encode()
    path.with_suffix(".json").write_bytes(data.draw(damaged(inside)))
    read_or_refuse(path)
