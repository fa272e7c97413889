"""The record reader against anything: an answer or a clear reason, never a traceback, a hang or half a record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import make_record

from mnistbench.results.folder import ResultsFolder, read_record
from mnistbench.results.records import CellRecord, Error, dump

INPUTS = 400
many = settings(
    max_examples=INPUTS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
RECORD = replace(make_record(), error=Error(type="note", message="every field is filled"), noisy_rerun=True)
CONTENT = dump(RECORD).encode()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


def answered(path: Path, content: bytes) -> CellRecord | str:
    """What the reader says: a record that can be stored and read again without loss, or one line for people."""
    path.write_bytes(content)
    found = read_record(path)
    if isinstance(found, str):
        assert found
        assert len(found.splitlines()) == 1
    else:
        assert CellRecord.from_json(json.loads(dump(found))) == found
    return found


def test_a_whole_record_is_read(tmp_path: Path) -> None:
    """What the others damage is sound."""
    assert answered(tmp_path / "record.json", CONTENT) == RECORD


@pytest.mark.slow
def test_a_record_cut_at_any_byte_is_no_record(tmp_path: Path) -> None:
    """At each of them, not at a sample."""
    path = tmp_path / "record.json"
    for length in range(len(CONTENT)):
        assert isinstance(answered(path, CONTENT[:length]), str), f"cut at byte {length}"


@many
@given(st.integers(0, len(CONTENT) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_read_as_what_it_says_or_refused(tmp_path: Path, place: int, bit: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[place] ^= 1 << bit
    found = answered(tmp_path / "record.json", bytes(damaged))
    if isinstance(found, CellRecord):
        assert found.cell.cell_id == found.cell_id


@many
@given(st.binary(max_size=2000))
def test_bytes_that_are_no_record_are_refused(tmp_path: Path, content: bytes) -> None:
    assert isinstance(answered(tmp_path / "record.json", content), str)


@many
@given(json_values)
def test_json_that_is_no_record_is_refused(tmp_path: Path, value: Any) -> None:
    assert isinstance(answered(tmp_path / "record.json", json.dumps(value).encode()), str)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


PLACES = [place for place in places(RECORD.to_json()) if place]


@many
@given(st.sampled_from(PLACES), json_values)
def test_any_value_in_any_place_is_taken_whole_or_refused(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    """What is taken says exactly what the file says."""
    plain = json.loads(CONTENT)
    holder = plain
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    found = answered(tmp_path / "record.json", json.dumps(plain).encode())
    if isinstance(found, CellRecord):
        taken = found.to_json()
        for key in place:
            if isinstance(taken, dict) and key not in taken:  # options at their default are left out
                taken = getattr(found.cell.training, key, None)
                break
            taken = taken[key]
        if isinstance(value, dict) and isinstance(taken, dict):
            assert {**taken, **value} == taken  # what the file leaves out is at its default
        else:
            assert taken == value


@many
@given(st.sampled_from(PLACES))
def test_a_value_that_is_missing_is_its_default_or_an_error(tmp_path: Path, place: tuple[Any, ...]) -> None:
    plain = json.loads(CONTENT)
    holder = plain
    for key in place[:-1]:
        holder = holder[key]
    del holder[place[-1]]
    answered(tmp_path / "record.json", json.dumps(plain).encode())


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.from_regex(r"[0-9a-f@.]{1,20}", fullmatch=True), st.binary(max_size=300), max_size=5))
def test_a_folder_of_anything_gives_every_file_as_set_aside(tmp_path: Path, files: dict[str, bytes]) -> None:
    results = ResultsFolder(tmp_path / str(abs(hash(str(files)))))
    results.create()
    for name, content in files.items():
        (results.cells / f"{name}.json").write_bytes(content)
    records, aside = results.read()
    assert records == []
    assert len(aside) == len(files)
