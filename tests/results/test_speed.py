"""Blocks of speed on disk: a line at a time, nothing lost but what was cut off, nothing of anybody else's touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from speed_sessions import make_session, write_session
from synthetic import make_cell, make_record

from mnistbench.cli import app as cli
from mnistbench.errors import UserError
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.index import refuse_newer
from mnistbench.results.merging import merge_folders
from mnistbench.results.speed import (
    SpeedBlock,
    SpeedSession,
    SpeedWriter,
    read_all_sessions,
    read_sessions,
    rows_of_blocks,
)

RATES = {make_cell(batch_size=64): 10_000.0, make_cell(batch_size=512): 20_000.0}


def new_folder(path: Path) -> ResultsFolder:
    folder = ResultsFolder(path)
    folder.create()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return new_folder(tmp_path / "timed")


def test_a_session_is_read_back_as_it_was_written(folder: ResultsFolder) -> None:
    session = make_session(RATES, cycles=3)
    write_session(folder, session)
    assert read_sessions(folder) == ([session], [])


def test_a_line_says_its_kind_and_what_was_timed(folder: ResultsFolder) -> None:
    path = write_session(folder, make_session(RATES, cycles=1))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["session", "setting", "setting", "block", "block"]
    assert {"protocol", "schema_version", "machine", "build", "data", "seed", "cycles"} <= set(lines[0])
    assert {"setting", "cell", "resolved", "equivalence", "steps"} <= set(lines[1])
    fields = (
        "cycle position setting pid steps examples seconds waited_seconds throttled_seconds gpu_slowdown cause error"
    )
    assert set(fields.split()) <= set(lines[3])


def test_a_setting_is_a_cell_without_its_seed_and_twin() -> None:
    one, other = make_session({make_cell(seed=1): 1e4}), make_session({make_cell(seed=7, repeat=1): 1e4})
    assert list(one.settings) == list(other.settings)


def test_wherever_a_kill_cuts_the_file_only_the_last_line_is_lost(folder: ResultsFolder) -> None:
    path = write_session(folder, make_session(RATES, cycles=4))
    whole = path.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole) + 1, 7):
        path.write_bytes(whole[:length])
        sessions, aside = read_sessions(folder)
        blocks = [line for line in whole[:length].split(b"\n")[:-1] if b'"block"' in line]
        assert (len(sessions[0].blocks), aside) == (len(blocks), [])


def test_a_file_of_which_not_even_the_first_line_is_whole_holds_nothing(folder: ResultsFolder) -> None:
    path = write_session(folder, make_session(RATES, cycles=1))
    path.write_bytes(path.read_bytes()[:20])
    assert read_sessions(folder) == ([], [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no JSON", "no line of ours"),
        ("[1]", "no line of ours"),
        ('{"kind": "gossip"}', "no line of ours"),
        ('{"kind": "block", "cycle": "first"}', "no line of ours"),
        ('{"kind": "block", "cycle": 9, "position": 0, "setting": "who", "steps": 1, "examples": 1, "seconds": 1.0}',
         "a setting that no line before it names"),
        ('{"kind": "block", "cycle": 0, "position": 0, "setting": "KEY", "steps": 1, "examples": 1, "seconds": 1.0}',
         "a second block of its setting in one cycle"),
        ('{"kind": "block", "cycle": 9, "position": 0, "setting": "KEY", "steps": 1, "examples": 1, "seconds": 0.0}',
         "that took no time"),
        ('{"kind": "block", "cycle": 9, "position": 0, "setting": "KEY", "steps": 1, "examples": 1, "seconds": null}',
         "without seconds that has no error"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named_and_passed_over(folder: ResultsFolder, line: str, reason: str) -> None:
    session = make_session(RATES, cycles=2)
    path = write_session(folder, session)
    lines = path.read_text().splitlines()
    lines.insert(5, line.replace("KEY", next(iter(session.settings))))
    path.write_text("\n".join(lines) + "\n")
    sessions, aside = read_sessions(folder)
    assert len(sessions[0].blocks) == 4
    assert len(aside) == 1
    assert reason in aside[0].reason
    assert aside[0].file == path


def test_a_block_that_failed_is_kept_with_its_error(folder: ResultsFolder) -> None:
    session = make_session(RATES, cycles=1)
    failed = SpeedBlock(
        cycle=1, position=0, setting=next(iter(session.settings)), steps=0, examples=0, seconds=None, error="x"
    )
    session.blocks[1, failed.setting] = failed
    write_session(folder, session)
    assert read_sessions(folder)[0][0].blocks[1, failed.setting] == failed


def test_a_session_never_writes_over_another(folder: ResultsFolder) -> None:
    session = make_session(RATES, cycles=1)
    write_session(folder, session)
    with pytest.raises(UserError):
        SpeedWriter(folder, session.about, name=session.name)
    assert read_sessions(folder)[0] == [session]


def test_files_in_speed_that_are_not_ours_are_neither_read_nor_touched(folder: ResultsFolder, tmp_path: Path) -> None:
    write_session(folder, make_session(RATES, cycles=1))
    (folder.speed / "notes.jsonl").write_text("mine\n")
    (folder.speed / "sub").mkdir()
    folder.clean()
    assert read_sessions(folder)[1] == []
    assert (folder.speed / "notes.jsonl").read_text() == "mine\n"
    assert (folder.speed / "sub").is_dir()


def test_where_a_file_of_the_users_is_called_speed_it_stays(folder: ResultsFolder) -> None:
    folder.speed.write_text("mine")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        write_session(folder, make_session(RATES, cycles=1))
    assert folder.speed.read_text() == "mine"
    assert read_sessions(folder) == ([], [])


def test_blocks_of_a_newer_release_are_refused_before_anything_is_written(folder: ResultsFolder) -> None:
    path = write_session(folder, make_session(RATES, cycles=1, schema_version=99))
    assert read_sessions(folder)[1][0].is_newer
    with pytest.raises(UserError, match=f"{path.name}: a newer mnistbench wrote it"):
        refuse_newer(folder)


def test_merge_copies_each_session_once_and_takes_the_longer_of_two(tmp_path: Path) -> None:
    first, second = (new_folder(tmp_path / name) for name in ("first", "second"))
    session, other = make_session(RATES, cycles=3), make_session(RATES, cycles=2, seed=1)
    for folder in (first, second):
        folder.write(make_record())
    path = write_session(first, session)
    second.speed.mkdir()
    (second.speed / path.name).write_bytes(path.read_bytes()[:900])
    write_session(second, other)
    for sources, name in (((first, second), "both"), ((second, first), "both again")):
        merged = ResultsFolder(tmp_path / name)
        merge_folders(sources, merged)
        found, aside = read_sessions(merged)
        assert (sorted(item.name for item in found), aside) == (sorted([session.name, other.name]), [])
        assert (merged.speed / path.name).read_bytes() == path.read_bytes()


def test_two_sessions_under_one_name_are_not_merged(tmp_path: Path) -> None:
    first, second = (new_folder(tmp_path / name) for name in ("first", "second"))
    path = write_session(first, make_session(RATES, cycles=2))
    second.speed.mkdir()
    (second.speed / path.name).write_bytes(path.read_bytes().replace(b'"steps": 4', b'"steps": 5'))
    with pytest.raises(UserError, match="lines are only ever added") as refused:
        merge_folders([first, second], ResultsFolder(tmp_path / "both"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "both").exists()


def test_a_report_of_folders_refuses_the_sessions_that_a_merge_refuses(tmp_path: Path) -> None:
    first, second = (new_folder(tmp_path / name) for name in ("first", "second"))
    path = write_session(first, make_session(RATES, cycles=2))
    second.speed.mkdir()
    (second.speed / path.name).write_bytes(path.read_bytes().replace(b'"steps": 4', b'"steps": 5'))
    with pytest.raises(UserError, match="lines are only ever added"):
        read_all_sessions([first, second])


def test_line_ends_of_a_checkout_make_no_other_session(tmp_path: Path) -> None:
    """Git may write CRLF; the longer file counts by its lines, not by its bytes."""
    first, second = (new_folder(tmp_path / name) for name in ("first", "second"))
    session = make_session(RATES, cycles=3)
    path = write_session(first, session)
    second.speed.mkdir()
    lines = path.read_bytes().splitlines()
    (second.speed / path.name).write_bytes(b"".join(line + b"\r\n" for line in lines[:-1]))
    assert read_sessions(second)[1] == []
    for order in ([first, second], [second, first]):
        assert read_all_sessions(order) == ([session], [])
        merge_folders(order, merged := ResultsFolder(tmp_path / f"merged {order[0].name}"))
        assert (merged.speed / path.name).read_bytes() == path.read_bytes()


def test_a_copy_of_a_session_under_another_name_counts_once(folder: ResultsFolder) -> None:
    """Twice the blocks would be half the uncertainty."""
    session = make_session(RATES, cycles=3)
    path = write_session(folder, session)
    copy = folder.speed / f"20990101T000000-{path.name.partition('-')[2]}"
    copy.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-2]) + b"\n")
    sessions, aside = read_sessions(folder)
    assert sessions == [session]
    assert aside == [(copy, f"it is a copy of {path.name}")]
    other = make_session(RATES, cycles=3, seed=1)
    write_session(folder, other)
    assert len(read_sessions(folder)[0]) == 2


def test_status_and_compare_name_what_they_could_not_read(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison of what is left is no comparison of the folders."""
    folder.write(make_record())
    path = write_session(folder, make_session(RATES, cycles=2))
    path.write_bytes(path.read_bytes().replace(b'"steps": 4', b'"steps": "four"'))
    (folder.cells / "0123456789abcdef.json").write_text("{")
    assert cli.main(["status", str(folder.path)]) == 0
    said = capsys.readouterr().out
    assert f"not read: speed/{path.name}: line 2: it is no line of ours" in said
    assert ", and 5 more" in said
    assert cli.main(["compare", str(folder.path), str(folder.path)]) == 0
    said = capsys.readouterr().out
    assert f"B: not read: speed/{path.name}: line 2" in said
    assert "A: not read: cells/0123456789abcdef.json: it is not JSON" in said


def test_a_session_that_cannot_be_read_is_not_left_out_of_a_merge(folder: ResultsFolder, tmp_path: Path) -> None:
    path = write_session(folder, make_session(RATES, cycles=1))
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        merge_folders([folder], ResultsFolder(tmp_path / "merged"))


def test_all_blocks_are_one_table() -> None:
    session = make_session(RATES, cycles=3, spread=0, drift=0)
    rows = rows_of_blocks([session])
    assert len(rows) == 6
    assert {(row["session"], row["cycle"], row["settings"]) for row in rows} == {
        (session.name, cycle, setting) for cycle, setting in session.blocks
    }
    assert {round(row["examples_per_second"]) for row in rows} == {10_000, 20_000}


def test_a_session_says_what_it_ran_on() -> None:
    about = make_session(RATES).about
    assert isinstance(about, SpeedSession)
    assert (about.protocol, about.build) == (2, "2.15.0+cu132")
