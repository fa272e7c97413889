"""Mirroring to a real `mlflow server`, to one that dies, and to servers that are down, slow, mute or broken."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import MlflowServer, free_port, misbehaving
from speed_sessions import make_session, write_session
from synthetic import START, make_cell, make_record

from mnistbench.errors import UserError
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord
from mnistbench.tracking import Mirror, SyncResult, download_weights, rebuild, sync
from mnistbench.tracking.mirror import SyncedSessions

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One server for all tests of this file."""
    folder = tmp_path_factory.mktemp("server")
    running = MlflowServer(folder, f"sqlite:///{folder / 'mlflow.db'}")
    running.start()
    yield running
    running.kill()


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """A folder with three records; its name is the test's own, and that of its experiment."""
    folder = ResultsFolder(tmp_path / f"grid of {tmp_path.name}")
    folder.create()
    fill(folder, 3)
    return folder


def fill(results: ResultsFolder, count: int, first_seed: int = 0) -> list[CellRecord]:
    """Write records of as many seeds."""
    seeds = range(first_seed, first_seed + count)
    records = [make_record(make_cell(seed=seed), started_at=START + timedelta(seconds=seed)) for seed in seeds]
    for record in records:
        results.write(record)
    return records


def api(server: MlflowServer, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the server's REST API, without MLflow's client."""
    request = urllib.request.Request(
        f"{server.uri}/api/2.0/mlflow/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return dict(json.load(answer))


def runs_by_rest(server: MlflowServer, experiment: str, kind: str = "cell") -> list[dict[str, Any]]:
    """The experiment's runs that mirror a record, or those of another kind."""
    found = api(server, f"experiments/get-by-name?experiment_name={urllib.request.quote(experiment)}")
    body = {
        "experiment_ids": [found["experiment"]["experiment_id"]],
        "filter": f"tags.`mnistbench.kind` = '{kind}'",
        "max_results": 1000,
    }
    return list(api(server, "runs/search", body).get("runs", []))


def test_runs_are_found_through_the_rest_api(server: MlflowServer, results: ResultsFolder) -> None:
    mirror = Mirror(server.uri, results, results.name)
    assert mirror.open(), mirror.reason
    for record in results.records():
        assert mirror.write(record), mirror.reason
    runs = runs_by_rest(server, results.name)
    tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs]
    assert {tag["mnistbench.record_id"] for tag in tags} == {record.record_id for record in results.records()}
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    history = api(
        server, f"metrics/get-history?run_id={runs[0]['info']['run_id']}&metric_key=test/accuracy&max_results=100"
    )
    assert [point["step"] for point in history["metrics"]] == [1, 2]


def test_two_folders_with_one_grid_name_have_an_experiment_each(
    server: MlflowServer, results: ResultsFolder, tmp_path: Path
) -> None:
    """Two users of one server: the experiment's tag is asked, not its name alone."""
    other = ResultsFolder(tmp_path / "another user" / results.name)
    other.create()
    fill(other, 2)
    assert sync(results, server.uri).mirrored == 3
    assert sync(other, server.uri).mirrored == 2
    assert (len(runs_by_rest(server, results.name)), len(runs_by_rest(server, f"{results.name}-2"))) == (3, 2)
    assert (sync(results, server.uri).already, sync(other, server.uri).already) == (3, 2)


def test_artifacts_go_through_the_server_and_come_back(
    server: MlflowServer, results: ResultsFolder, tmp_path: Path
) -> None:
    record = results.records()[0]
    kept = results.models / record.record_id
    kept.mkdir(parents=True)
    (kept / "best.safetensors").write_bytes(b"weights")
    results.report_file.write_text('<meta name="generator" content="mnistbench 0.2.0">')
    results.write_grid(f"name: {results.name}\n")
    assert sync(results, server.uri).mirrored == 3
    back = ResultsFolder(tmp_path / "back")
    done = rebuild(results.name, server.uri, back)
    assert (done.written, done.set_aside) == (3, [])
    assert back.records() == results.records()
    assert back.grid_file.exists()
    run_id = next(
        run["info"]["run_id"]
        for run in runs_by_rest(server, results.name)
        if {"key": "mnistbench.record_id", "value": record.record_id} in run["data"]["tags"]
    )
    assert [path.read_bytes() for path in download_weights(run_id, server.uri, tmp_path)] == [b"weights"]
    assert list((server.folder / "artifacts").rglob("report.html"))


def test_a_session_of_speed_is_a_run_of_its_own_whose_file_is_replaced_as_it_grows_and_comes_back(
    server: MlflowServer, results: ResultsFolder, tmp_path: Path
) -> None:
    path = write_session(results, make_session({make_cell(): 1e4, make_cell(batch_size=64): 2e4}, cycles=12))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]) + lines[-3][:40])
    results.write_grid(f"name: {results.name}\n")
    for content in (path.read_bytes(), whole):
        path.write_bytes(content)
        assert sync(results, server.uri).sessions == SyncedSessions(mirrored=1)
    again = sync(results, server.uri)
    assert (again.already, again.sessions) == (3, SyncedSessions(already=1))
    (run,) = runs_by_rest(server, results.name, kind="speed")
    assert {metric["key"] for metric in run["data"]["metrics"]} == {
        f"examples_per_second/mlp sgd lr 0.1 batch {size} cpu" for size in (64, 512)
    }
    assert len(runs_by_rest(server, results.name)) == 3
    back = ResultsFolder(tmp_path / "back")
    done = rebuild(results.name, server.uri, back)
    assert (done.written, done.sessions, done.set_aside) == (3, 1, [])
    assert (back.speed / path.name).read_bytes() == whole


def test_a_server_that_keeps_artifacts_on_its_own_disk_is_refused_before_anything_counts_as_mirrored(
    results: ResultsFolder, tmp_path: Path
) -> None:
    """MLflow's client writes them to that path on its own machine, and says nothing."""
    root = ("--default-artifact-root", str(tmp_path / "the server's disk"), "--no-serve-artifacts")
    server = MlflowServer(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", root)
    server.start()
    try:
        done = sync(results, server.uri)
        assert (done.mirrored, done.failed) == (0, 3)
        assert "--serve-artifacts" in (done.reason or "")
        names = [item["name"] for item in api(server, "experiments/search", {"max_results": 10})["experiments"]]
        assert names == ["Default"], "the name stays free for the server that is mended"
        api(server, "experiments/create", {"name": "quick"})
        with pytest.raises(UserError, match="--serve-artifacts"):
            rebuild("quick", server.uri, ResultsFolder(tmp_path / "back"))
    finally:
        server.kill()


def test_a_server_that_dies_in_the_middle_is_caught_up_without_doubles(
    server: MlflowServer, results: ResultsFolder
) -> None:
    mirror = Mirror(server.uri, results, results.name)
    first, second, third = results.records()
    assert mirror.open(), mirror.reason
    assert mirror.write(first), mirror.reason
    server.kill()
    try:
        assert not mirror.write(second)
        assert not mirror.write(third)
        result = mirror.finish()
    finally:
        server.start()
    assert (result.mirrored, result.failed) == (1, 2)
    assert result.reason == f"{server.uri} refuses the connection: no server listens there"
    later = sync(results, server.uri)
    assert (later.mirrored, later.already, later.failed) == (2, 1, 0)
    assert len(runs_by_rest(server, results.name)) == 3


def test_a_server_that_comes_back_before_the_end_gets_everything(server: MlflowServer, results: ResultsFolder) -> None:
    mirror = Mirror(f"http://127.0.0.1:{free_port()}", results, results.name)
    assert [mirror.write(record) for record in results.records()] == [False] * 3
    mirror._uri = server.uri  # somebody listens now
    result = mirror.finish()
    assert (result.mirrored, result.failed, result.reason) == (3, 0, None)


def test_sync_outlasts_a_restart_of_the_server(server: MlflowServer, results: ResultsFolder) -> None:
    fill(results, 60, first_seed=10)
    outcome: list[SyncResult] = []
    syncing = threading.Thread(target=lambda: outcome.append(sync(results, server.uri)), daemon=True)
    syncing.start()
    while len(results.mirrored_file.read_text().splitlines() if results.mirrored_file.exists() else []) < 20:
        time.sleep(0.02)
    assert syncing.is_alive()
    server.kill()
    server.start()
    syncing.join(100)
    assert [(done.mirrored, done.failed) for done in outcome] == [(63, 0)]
    assert len(runs_by_rest(server, results.name)) == 63


def mute(request: BaseHTTPRequestHandler) -> None:
    """Take the request, and never answer."""
    time.sleep(60)


def dribble(request: BaseHTTPRequestHandler) -> None:
    """Answer a byte at a time, so that no read ever times out."""
    request.send_response(200)
    request.send_header("Content-Length", "100000")
    request.end_headers()
    for _ in range(200):
        request.wfile.write(b" ")
        time.sleep(0.2)


def broken(request: BaseHTTPRequestHandler) -> None:
    """An internal error."""
    request.send_error(500)


def not_mlflow(request: BaseHTTPRequestHandler) -> None:
    """Some other page."""
    body = b"<html>router login</html>"
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def refusing(status: int, body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answers every request so."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


@pytest.mark.parametrize(
    ("behaviour", "says", "waiting_helps"),
    [
        (refusing(401, b"You are not authenticated."), "refuses the credentials", False),
        (refusing(403, b"Permission denied"), "does not let them do that (403)", False),
        (refusing(403, b"<html><h1>403 Forbidden</h1>nginx</html>"), "proxy in front of it refuses", False),
        (broken, "answers with an internal error (500)", True),
    ],
)
def test_each_refusal_is_told_as_what_it_is(
    behaviour: Callable[[BaseHTTPRequestHandler], None], says: str, waiting_helps: bool, results: ResultsFolder
) -> None:
    """And whether the same can go well later."""
    with misbehaving(behaviour) as uri:
        done = sync(results, uri, patience_seconds=0)
    assert says in (done.reason or "")
    assert done.waiting_helps == waiting_helps


def test_a_proxy_that_is_down_is_not_taken_for_the_server(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "")
    done = sync(results, "http://tracking.example:5000", patience_seconds=0)
    assert "the proxy in between does not work" in (done.reason or "")


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (mute, "gives no answer in time"),
        (dribble, "gives no answer in time"),
        (broken, "answers with an internal error (500)"),
        (not_mlflow, "127.0.0.1"),
    ],
)
def test_a_server_that_misbehaves_costs_one_bounded_wait(
    behaviour: Callable[[BaseHTTPRequestHandler], None],
    says: str,
    results: ResultsFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with misbehaving(behaviour) as uri:
        mirror = Mirror(uri, results, "quick", wait_seconds=4.0)
        began = time.monotonic()
        assert not mirror.open()
        assert [mirror.write(record) for record in results.records()] == [False] * 3
        result = mirror.finish()
        assert time.monotonic() - began < 40
    assert (result.mirrored, result.failed) == (0, 3)
    assert says in (result.reason or "")


def test_a_server_that_turns_mute_in_the_middle_is_left_to_sync(server: MlflowServer, results: ResultsFolder) -> None:
    """The proxy in between hangs once, at a call that makes a run; the server itself has done it all the same."""
    hang = threading.Event()

    def forward(request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        onward = urllib.request.Request(
            f"{server.uri}{request.path}",
            data=request.rfile.read(length) if length else None,
            method=request.command,
            headers={"Content-Type": request.headers.get("Content-Type") or "application/json"},
        )
        try:
            with urllib.request.urlopen(onward, timeout=20) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        if hang.is_set() and request.path.endswith("runs/create"):
            time.sleep(30)
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    first, second, third = results.records()
    with misbehaving(forward) as uri:
        mirror = Mirror(uri, results, results.name, wait_seconds=20.0)
        assert mirror.open(), mirror.reason
        assert mirror.write(first), mirror.reason
        mirror._wait_seconds = 2.0
        hang.set()
        assert not mirror.write(second)
        assert not mirror.write(third)
        assert mirror.finish().failed == 2
    assert len(runs_by_rest(server, results.name)) == 2, "the second run was begun"
    later = sync(results, server.uri)
    assert (later.mirrored, later.already, later.failed) == (2, 1, 0)
    assert len(runs_by_rest(server, results.name)) == 3


@pytest.mark.parametrize("alive", [True, False])
def test_credentials_in_the_address_reach_no_file_message_or_log(
    alive: bool,
    server: MlflowServer,
    results: ResultsFolder,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    port = server.port if alive else free_port()
    uri = f"http://alice:hunter22@127.0.0.1:{port}"
    mirror = Mirror(uri, results, results.name)
    for record in results.records():
        assert mirror.write(record) == alive
    result = mirror.finish()
    printed = capfd.readouterr()
    said = f"{mirror.address} {mirror.reason} {result} {printed.out} {printed.err}"
    logged = "\n".join(record.getMessage() for record in caplog.records)
    stored = "\n".join(path.read_text() for path in results.path.rglob("*") if path.is_file())
    for text in (said, logged, stored):
        assert "hunter22" not in text
        assert "alice" not in text
    assert f"127.0.0.1:{port}" in said
