"""Sessions of speed in MLflow and back: one run a session, beside those of the records and never taken for one."""

from __future__ import annotations

import os
import signal
import sqlite3
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_metric_name
from speed_sessions import make_session, write_session
from synthetic import START, make_cell, make_record

from mnistbench.cell import Component
from mnistbench.report import render
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.speed import TimedSession, line_of, read_sessions
from mnistbench.tracking import Mirror, rebuild, sync
from mnistbench.tracking.content import RECORD_ID, session_content
from mnistbench.tracking.mirror import SyncedSessions
from mnistbench.tracking.server import Server
from mnistbench.train.watcher import Ending

SMALL, LARGE = make_cell(batch_size=64), make_cell(batch_size=512)
RATES = {SMALL: 10_000.0, LARGE: 20_000.0}
METRIC = "examples_per_second/mlp sgd lr 0.1 batch 64 cpu"


@pytest.fixture
def timed(results: ResultsFolder) -> TimedSession:
    """A session of 12 cycles in the folder, beside a record that began in the same moment."""
    results.write(make_record(started_at=START))
    session = make_session(RATES, cycles=12)
    write_session(results, session)
    return session


def file_of(results: ResultsFolder, session: TimedSession) -> Path:
    return results.speed / f"{session.name}.jsonl"


def grow(results: ResultsFolder, session: TimedSession, factor: float = 2.0) -> None:
    """Add a cycle in which all was so much faster."""
    last = [block for (cycle, _), block in session.blocks.items() if cycle == 11]
    with file_of(results, session).open("ab") as file:
        for block in last:
            assert block.seconds is not None
            file.write(line_of(replace(block, cycle=12, seconds=block.seconds / factor)))


def shorten(results: ResultsFolder, session: TimedSession) -> None:
    """Take the last line away, and half of that before it."""
    path = file_of(results, session)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:50])


def runs(uri: str, experiment: str = "quick", condition: str = "tags.kind = 'speed'") -> list[Any]:
    """Runs that MLflow's own search finds."""
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], condition))


def artifact(uri: str, run: Any, session: TimedSession) -> Path:
    """The file on the run."""
    return Path(MlflowClient(tracking_uri=uri).download_artifacts(run.info.run_id, f"{session.name}.jsonl"))


# What a run shows


def test_a_metric_a_setting_is_the_mean_of_its_clean_blocks() -> None:
    disturbed = {(0, SMALL): "waited", (1, SMALL): "unknown"}
    session = make_session(RATES, cycles=12, disturbed=disturbed)
    points = {point.key: point for point in session_content(session, "quick").points}
    clean = [
        block.examples / block.seconds
        for (cycle, setting), block in session.blocks.items()
        if setting == SMALL.without_seed() and cycle != 0 and block.seconds is not None
    ]
    assert points.keys() == {METRIC, METRIC.replace("64", "512")}
    assert points[METRIC].value == pytest.approx(geometric_mean(clean))
    assert points[METRIC].step == len(clean) == 11
    assert "Of 24 blocks, 23 are clean" in session_content(session, "quick").tags["mlflow.note.content"]


def test_a_setting_without_a_clean_block_has_no_metric() -> None:
    session = make_session(RATES, cycles=2, disturbed={(0, SMALL): "waited", (1, SMALL): "throttled"})
    assert [point.key for point in session_content(session, "quick").points] == [METRIC.replace("64", "512")]


def test_settings_have_names_of_their_own_that_mlflow_takes() -> None:
    """Labels leave out what the settings of most grids share, and a plug-in may be called what it likes."""
    hostile = Component(name="my:Net", options={"kind": "../<b>$x$ 漢字" + "long" * 100, "other": "//"})
    cells = [
        make_cell(dataset="mnist"),
        make_cell(dataset="fashion_mnist"),
        make_cell(architecture=hostile),
        make_cell(architecture=hostile, batch_size=64),
    ]
    session = make_session(dict.fromkeys(cells, 1e4), cycles=1)
    names = {point.key for point in session_content(session, "quick").points}
    assert len(names) == 4
    for name in names:
        _validate_metric_name(name)


def test_the_same_file_always_gives_the_same_content(results: ResultsFolder, timed: TimedSession) -> None:
    assert session_content(read_sessions(results)[0][0], "quick") == session_content(timed, "quick")


# Mirroring


def test_a_session_is_one_run_with_its_file_and_is_no_record(
    uri: str, results: ResultsFolder, timed: TimedSession
) -> None:
    done = sync(results, uri)
    assert (done.mirrored, done.failed, done.reason) == (1, 0, None)
    assert done.sessions == SyncedSessions(mirrored=1)
    (run,) = runs(uri)
    assert (run.info.status, run.data.metrics.keys()) == ("FINISHED", {METRIC, METRIC.replace("64", "512")})
    about = timed.about
    assert run.data.params == {
        "session": timed.name,
        "machine": about.machine,
        "build": about.build,
        "cycles": "12",
        "protocol": "2",
    }
    assert run.data.tags["mnistbench.grid"] == "quick"
    assert artifact(uri, run, timed).read_bytes() == file_of(results, timed).read_bytes()
    (record,) = results.records()
    (recorded,) = runs(uri, condition="tags.`mnistbench.kind` = 'cell'")
    assert recorded.data.tags["mnistbench.record_id"] == record.record_id
    mirrored = Server(uri, "quick", create=False).mirroring_runs(RECORD_ID)
    assert [record_id for _, record_id in mirrored] == [record.record_id]


@pytest.mark.usefixtures("timed")
def test_mirroring_a_session_twice_changes_nothing(uri: str, results: ResultsFolder) -> None:
    sync(results, uri)
    before = [run.to_dictionary() for run in runs(uri)]
    done = sync(results, uri)
    assert (done.mirrored, done.already, done.sessions) == (0, 1, SyncedSessions(already=1))
    assert [run.to_dictionary() for run in runs(uri)] == before


def test_a_session_that_gained_blocks_is_mirrored_again_in_place(
    uri: str, results: ResultsFolder, timed: TimedSession
) -> None:
    sync(results, uri)
    (before,) = runs(uri)
    grow(results, timed)
    assert not Mirror(uri, results, "quick").has_all({f"speed/{timed.name}@{file_of(results, timed).stat().st_size}"})
    assert sync(results, uri).sessions == SyncedSessions(mirrored=1)
    (after,) = runs(uri)
    assert after.info.run_id == before.info.run_id
    assert artifact(uri, after, timed).read_bytes() == file_of(results, timed).read_bytes()
    assert after.data.metrics[METRIC] > before.data.metrics[METRIC]
    assert after.data.tags["mnistbench.blocks"] == "26"
    assert sync(results, uri).sessions == SyncedSessions(already=1)


def test_a_copy_that_has_less_of_a_session_takes_nothing_away(
    uri: str, results: ResultsFolder, timed: TimedSession
) -> None:
    sync(results, uri)
    whole = file_of(results, timed).read_bytes()
    shorten(results, timed)
    assert sync(results, uri).sessions == SyncedSessions(already=1)
    assert artifact(uri, runs(uri)[0], timed).read_bytes() == whole


def test_a_lost_journal_makes_no_second_run_of_a_session(uri: str, results: ResultsFolder, timed: TimedSession) -> None:
    sync(results, uri)
    results.mirrored_file.unlink()
    assert sync(results, uri).sessions == SyncedSessions(already=1)
    results.mirrored_file.unlink()
    grow(results, timed)
    assert sync(results, uri).sessions == SyncedSessions(mirrored=1)
    assert len(runs(uri)) == 1


@pytest.mark.usefixtures("timed")
def test_a_session_that_was_deleted_there_is_made_again(uri: str, results: ResultsFolder) -> None:
    sync(results, uri)
    MlflowClient(tracking_uri=uri).delete_run(runs(uri)[0].info.run_id)
    done = sync(results, uri)
    assert (done.already, done.sessions) == (1, SyncedSessions(mirrored=1))
    assert len(runs(uri)) == 1


@pytest.mark.parametrize("content", ["", "not a session\n", '{"kind": "session", "schema_version": 99}\n'])
def test_a_file_that_is_no_session_is_left_out(content: str, uri: str, results: ResultsFolder) -> None:
    results.speed.mkdir()
    (results.speed / "20261127T120000-0123456789ab.jsonl").write_text(content)
    done = sync(results, uri)
    assert (done.sessions, done.reason) == (SyncedSessions(), None)
    assert runs(uri) == []


@pytest.mark.usefixtures("timed")
def test_sessions_that_could_not_be_mirrored_are_counted_apart(results: ResultsFolder, tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"not a database at all" * 100)
    done = sync(results, f"sqlite:///{tmp_path / 'broken.db'}")
    assert (done.failed, done.sessions) == (1, SyncedSessions(failed=1))


@pytest.mark.slow
def test_at_its_end_a_run_asks_the_server_only_if_a_session_is_missing_there(
    uri: str, results: ResultsFolder, timed: TimedSession
) -> None:
    ids = frozenset(record.record_id for record in results.records())
    unchanged = Ending(results=results, changed=False, record_ids=ids)
    sync(results, uri)
    grow(results, timed)
    remarks = Mirror(uri, results, "quick").end(unchanged)
    assert remarks is not None and (remarks.not_mirrored, remarks.not_mirrored_sessions) == (0, 0)
    assert runs(uri)[0].data.tags["mnistbench.blocks"] == "26"
    Path(uri.removeprefix("sqlite:///")).unlink()
    mirror = Mirror(uri, results, "quick")
    mirror.end(unchanged)
    assert not Path(uri.removeprefix("sqlite:///")).exists(), "no database was made anew"
    nowhere = Mirror("http://127.0.0.1:9", results, "quick").end(unchanged)
    assert nowhere is not None and (nowhere.not_mirrored, nowhere.not_mirrored_sessions) == (1, 1)


@pytest.mark.usefixtures("timed")
def test_an_experiment_of_an_earlier_release_with_sessions_becomes_its_folders_own(
    uri: str, results: ResultsFolder
) -> None:
    """A run of a session is no stranger's run."""
    sync(results, uri, experiment="quick")
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        database.execute("delete from experiment_tags where key = 'mnistbench.grid_id'")
    done = sync(results, uri)
    assert (done.already, done.sessions, done.note) == (1, SyncedSessions(already=1), None)
    assert MlflowClient(tracking_uri=uri).get_experiment_by_name("quick-2") is None


@pytest.mark.slow
@pytest.mark.usefixtures("timed")
def test_the_table_of_all_blocks_lies_on_the_summary_run(uri: str, results: ResultsFolder) -> None:
    render([results], results.report_file)
    sync(results, uri)
    (summary,) = runs(uri, condition="tags.kind = 'summary'")
    table = MlflowClient(tracking_uri=uri).download_artifacts(summary.info.run_id, "speed.csv")
    assert Path(table).read_bytes() == (results.path / "speed.csv").read_bytes()


# Faults


@pytest.mark.slow
@pytest.mark.parametrize("grown", [False, True], ids=["new", "grown"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["log_batch", "_log_data", "set_terminated"])
def test_killed_at_any_call_the_next_sync_leaves_one_whole_run(
    call: str, when: str, grown: bool, uri: str, results: ResultsFolder, timed: TimedSession
) -> None:
    if grown:
        child = os.fork()  # this process opens the database after the last fork only
        if child == 0:
            sync(results, uri)
            os._exit(0)
        os.waitpid(child, 0)
        grow(results, timed)
    child = os.fork()
    if child == 0:
        _die_at(call, when, uri, results, first=1 if grown else 2 + (call == "set_terminated"))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert sync(results, uri).failed == 0
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    assert artifact(uri, run, timed).read_bytes() == file_of(results, timed).read_bytes()
    assert run.data.tags["mnistbench.blocks"] == ("26" if grown else "24")
    assert sync(results, uri).sessions == SyncedSessions(already=1)


def _die_at(call: str, when: str, uri: str, results: ResultsFolder, first: int) -> None:
    """Mirror, and kill this process at that call for the session: the record, and the summary's, come before it."""
    owner = Server if call == "_log_data" else MlflowClient
    real = getattr(owner, call)
    calls = 0

    def dying(self: object, *args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == first and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = real(self, *args, **kwargs)
        if calls == first:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(owner, call, dying)
    try:
        sync(results, uri)
    finally:
        os._exit(1)


def test_a_session_whose_file_is_gone_is_closed_as_killed(
    uri: str, results: ResultsFolder, timed: TimedSession
) -> None:
    child = os.fork()
    if child == 0:
        _die_at("_log_data", "before", uri, results, first=2)
    os.waitpid(child, 0)
    file_of(results, timed).unlink()
    sync(results, uri)
    (run,) = runs(uri)
    assert run.info.status == "KILLED"


# Reading back


@pytest.mark.usefixtures("timed")
def test_sessions_come_back_as_they_were(uri: str, results: ResultsFolder, tmp_path: Path) -> None:
    write_session(results, make_session(RATES, cycles=3, started_at=START + timedelta(hours=1)))
    results.write_grid("name: quick\n")
    sync(results, uri)
    back = ResultsFolder(tmp_path / "back")
    done = rebuild("quick", uri, back)
    assert (done.written, done.sessions, done.set_aside) == (1, 2, [])
    assert back.records() == results.records()
    assert {path.name: path.read_bytes() for path in back.speed.iterdir()} == {
        path.name: path.read_bytes() for path in results.speed.iterdir()
    }
    again = sync(back, uri)
    assert (again.already, again.sessions) == (1, SyncedSessions(already=2)), "all is known to be on the server"
    assert len(runs(uri)) == 2


@pytest.mark.parametrize("spoil", ["cut", "gone", "path in name"])
def test_a_spoilt_session_on_the_server_is_set_aside(
    spoil: str, uri: str, results: ResultsFolder, timed: TimedSession, tmp_path: Path
) -> None:
    sync(results, uri)
    (run,) = runs(uri)
    path = Path(run.info.artifact_uri.removeprefix("file://")) / f"{timed.name}.jsonl"
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:40])
    elif spoil == "gone":
        path.unlink()
    else:
        MlflowClient(tracking_uri=uri).set_tag(run.info.run_id, "mnistbench.session", "../../outside")
    back = ResultsFolder(tmp_path / "back")
    done = rebuild("quick", uri, back)
    assert (done.written, done.sessions) == (1, 0)
    assert [run_id for run_id, _ in done.set_aside] == [run.info.run_id]
    assert read_sessions(back) == ([], [])


@pytest.mark.parametrize("edited", [False, True])
def test_of_two_runs_of_a_session_the_longer_comes_back_if_the_other_is_its_beginning(
    edited: bool, uri: str, results: ResultsFolder, timed: TimedSession, tmp_path: Path
) -> None:
    """Two experiments were made one by hand, say."""
    sync(results, uri)
    whole = file_of(results, timed).read_bytes()
    client = MlflowClient(tracking_uri=uri)
    (run,) = runs(uri)
    tags = {"mnistbench.kind": "speed", "kind": "speed", "mnistbench.session": timed.name}
    second = client.create_run(run.info.experiment_id, tags=tags)
    longer = ResultsFolder(tmp_path / "longer")
    longer.create()
    write_session(longer, timed)
    grow(longer, timed)
    path = file_of(longer, timed)
    if edited:
        path.write_bytes(path.read_bytes().replace(b'"cycle": 3', b'"cycle": 99', 1))
    client.log_artifact(second.info.run_id, str(path))
    back = ResultsFolder(tmp_path / "back")
    done = rebuild("quick", uri, back)
    assert (done.sessions, len(done.set_aside)) == (1, int(edited))
    brought = file_of(back, timed).read_bytes()
    assert brought in {whole, path.read_bytes()} if edited else brought == path.read_bytes()
