"""Mirroring into sqlite, and all that needs no server: addresses, journal, what a run shows, reading back."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from report_pages import Page
from speed_sessions import make_session, write_session
from synthetic import START, make_cell, make_environment, make_record

from mnistbench.cell import Cell, Component, Training
from mnistbench.errors import UserError
from mnistbench.report import render
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.merging import merge_folders
from mnistbench.results.ownership import SUMMARY_END
from mnistbench.results.records import CellRecord, Noise
from mnistbench.results.targets import targets_asked
from mnistbench.tracking import Mirror, address, download_weights, rebuild, sync
from mnistbench.tracking.content import RECORD_ID, milliseconds, run_content
from mnistbench.tracking.journal import Journal, done_at
from mnistbench.tracking.server import Server, make_database, prepare
from mnistbench.tracking.sources import of_record

REPORT = '<meta name="generator" content="mnistbench 0.2.0">'
"""By which a page is known as a report."""


def filled(results: ResultsFolder, count: int = 3, **changes: object) -> list[CellRecord]:
    """Write records of as many seeds."""
    records = [
        make_record(make_cell(seed=seed), started_at=START + timedelta(seconds=seed), **changes)  # type: ignore[arg-type]
        for seed in range(count)
    ]
    for record in records:
        results.write(record)
    return records


def runs(uri: str, experiment: str = "quick", kind: str = "cell") -> list[object]:
    """All runs of that kind, as MLflow's own client gives them."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], f"tags.`mnistbench.kind` = '{kind}'", max_results=5000))


def runs_where(uri: str, condition: str, experiment: str = "quick") -> list[Any]:
    """Runs that MLflow's own search finds."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], condition))


# Addresses


def test_the_default_is_the_database_that_plain_mlflow_ui_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert address.default_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert address.default_uri(tmp_path) == "http://tracking.example:5000"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("mlruns", "sqlite:///mlflow.db"),
        ("file:///tmp/mlruns", "sqlite:///mlflow.db"),
        ("sqlite://", "names no database file"),
        ("sqlite:///a.db?mode=ro", "names no database file"),
        ("http://", "names no host"),
        ("http://a b", "names no host"),
        ("http://[::1", "Invalid IPv6"),
        ("http://host:99999999", "Port out of range"),
        ("gopher://bob:hunter22@host", "there are http, https"),
    ],
)
def test_an_address_that_mlflow_cannot_use_is_refused_with_the_way_out(uri: str, says: str) -> None:
    with pytest.raises(UserError, match="tracking URI") as caught:
        address.checked(uri)
    assert says in str(caught.value)
    assert "hunter22" not in str(caught.value)


SECRETS = ["http://bob:hunter22@host:5000/x", "postgresql://bob:p%40ss%2Fword@host/db", "http://u:p@ss/w@host/x"]


@pytest.mark.parametrize("uri", SECRETS)
def test_what_a_message_quotes_of_an_address_is_hidden(uri: str) -> None:
    message = f'could not reach {uri}: password authentication failed for user "bob" with hunter22 and p@ss/word'
    hidden = address.redact(message, uri) if "p@ss/w@" not in uri else address.redact(f"could not reach {uri}", uri)
    own = {"http://bob:hunter22@host:5000/x": ["bob", "hunter22"], SECRETS[1]: ["bob", "p%40ss", "p@ss/word"]}
    for secret in own.get(uri, ["u:p", "p@ss", "ss/w"]):
        assert secret not in hidden
    assert "could not reach" in hidden
    assert "***" in hidden


def test_secrets_of_the_environment_and_the_home_folder_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("HOME", "/home/alice")
    hidden = address.redact("sent correct horse from /home/alice/x.db", "http://host")
    assert hidden == "sent *** from ~/x.db"


def test_an_address_is_shown_without_user_password_and_query() -> None:
    assert address.shown("postgresql://bob:hunter22@db.example:5432/mlflow?sslkey=x") == (
        "postgresql://db.example:5432/mlflow"
    )
    assert address.shown("http://bob:hunter22@[::1") == "***"


def test_the_command_shown_for_the_ui_is_the_light_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = address.ui_command(address.default_uri(tmp_path), tmp_path)
    assert command.startswith("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false ")
    assert command.partition("  # ")[0].endswith("mlflow ui --workers 1")
    assert address.ui_command("http://bob:hunter22@host:5000/", tmp_path).startswith("http://host:5000/, ")
    assert "hunter22" not in address.ui_command("postgresql://bob:hunter22@host/db", tmp_path)


def test_a_python_without_the_script_of_mlflow_is_named_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that sees the packages of another has no scripts of theirs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    command = address.ui_command(address.default_uri(tmp_path), tmp_path)
    assert " venv/bin/python -m mlflow ui --workers 1 " in command


def test_an_old_mlruns_folder_makes_the_ui_command_name_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would open its closed file store there instead."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    uri = address.default_uri(tmp_path)
    assert uri.startswith("sqlite:")
    assert "ui --workers 1 --backend-store-uri 'sqlite:///mlflow.db'" in address.ui_command(uri, tmp_path)


def test_tracking_is_imported_without_mlflow() -> None:
    code = "import sys, mnistbench.tracking; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The journal


def test_the_journal_tells_what_is_done_from_what_is_open(tmp_path: Path) -> None:
    journal = Journal.read(tmp_path / "mirrored.jsonl", "1-99", "quick http://host")
    journal.intend("a")
    journal.intend("b")
    journal.complete("a", "run-a")
    again = Journal.read(tmp_path / "mirrored.jsonl", "1-99")
    assert again.done == {"a": "run-a"}
    assert again.open == {"b"}
    assert Journal.read(tmp_path / "mirrored.jsonl", "2-99").done == {}, "another experiment knows nothing of it"
    assert done_at(tmp_path / "mirrored.jsonl", "quick http://host") == {"a"}


def test_a_journal_cut_off_at_any_byte_loses_its_last_line_only(tmp_path: Path) -> None:
    path = tmp_path / "mirrored.jsonl"
    journal = Journal.read(path, "1-99")
    for record_id in ("a", "b"):
        journal.complete(record_id, f"run-{record_id}")
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for length in range(first_line, len(whole) - 1):
        path.write_bytes(whole[:length])
        cut = Journal.read(path, "1-99")
        assert cut.done == {"a": "run-a"}
        cut.complete("c", "run-c")
        assert Journal.read(path, "1-99").done == {"a": "run-a", "c": "run-c"}


# What a run shows


def test_a_run_has_at_most_20_metrics_and_one_param_for_each_axis() -> None:
    cell = make_cell(optimizer=Component(name="sgd", options={"lr": 0.1, "momentum": 0.9}))
    record = make_record(cell, accuracies=(0.95, 0.98), flags=["short"])
    full = [replace(epoch, validation_loss=0.1, validation_accuracy=0.9, train_joules=1.0) for epoch in record.epochs]
    memory = replace(record.memory, device_peak_bytes=1)  # type: ignore[type-var]
    content = run_content(record.with_changes(epochs=full, memory=memory))
    keys = {point.key for point in content.points}
    assert len(keys) <= 20
    assert {"train/loss", "test/accuracy", "speed/seconds_to_target", "final/test_accuracy"} <= keys
    assert content.params["optimizer"] == "sgd(momentum=0.9)"
    assert content.params["lr"] == "0.1"
    assert content.params["optimizer.momentum"] == "0.9"
    assert content.tags["mnistbench.flags"] == "short"


def test_a_run_says_whether_it_is_measured_a_trial_or_a_twin_and_towards_what_it_trained() -> None:
    training = Training(epochs=2, target_accuracy=0.97, validation_examples=500, stop_at_target=True)
    records = {
        "measured": make_record(make_cell(training=training)),
        "trial": make_record(make_cell()).with_changes(checks={"tuning": "trial 2"}),
        "twin": make_record(make_cell(repeat=1)).with_changes(checks={"tuning": "tuned over 3 trials"}),
    }
    contents = {kind: run_content(record) for kind, record in records.items()}
    assert {kind: content.tags["kind"] for kind, content in contents.items()} == {kind: kind for kind in records}
    tuning = ["as given", "trial 2", "tuned over 3 trials"]
    assert [content.params["tuning"] for content in contents.values()] == tuning
    params = contents["measured"].params
    assert (params["target_accuracy"], params["validation_examples"], params["stop_at_target"]) == (
        "0.97", "500", "True",
    )  # fmt: skip
    assert contents["trial"].params["validation_examples"] == "0"


def test_the_last_throughput_of_a_run_is_sum_over_sum() -> None:
    record = make_record(examples_per_second=30_000)
    slow_second = replace(record.epochs[1], train_seconds=8.0)
    content = run_content(record.with_changes(epochs=[record.epochs[0], slow_second]))
    last = [point for point in content.points if point.key == "speed/examples_per_second"][-1]
    seconds = record.epochs[0].train_seconds + 8.0
    assert last.value == pytest.approx(sum(epoch.examples for epoch in record.epochs) / seconds)


def test_the_default_lr_is_shown_where_the_cell_does_not_say_one() -> None:
    assert run_content(make_record(make_cell(optimizer="adam"))).params["lr"] == "0.001"
    assert run_content(make_record(make_cell(optimizer="my:Own"))).params["lr"] == "unknown"


def test_time_to_target_is_left_out_where_the_target_was_not_reached() -> None:
    content = run_content(make_record(accuracies=(0.5, 0.6)))
    assert "speed/seconds_to_target" not in {point.key for point in content.points}


def test_values_that_are_not_finite_are_left_out() -> None:
    """NaN breaks the run page of MLflow's UI."""
    record = make_record(status="diverged")
    broken = [replace(epoch, train_loss=math.nan, test_loss=math.inf) for epoch in make_record().epochs]
    content = run_content(record.with_changes(epochs=broken))
    assert all(math.isfinite(point.value) for point in content.points)
    assert content.status == "FAILED"
    assert content.tags["mnistbench.status"] == "diverged"


def test_the_same_record_always_gives_the_same_content() -> None:
    record = make_record()
    assert run_content(record) == run_content(CellRecord.from_json(json.loads(json.dumps(record.to_json()))))


# Mirroring


def test_a_mirrored_record_is_a_run_with_curves_params_tags_and_the_record(uri: str, results: ResultsFolder) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import load_dict

    (record,) = filled(results, 1)
    mirror = Mirror(uri, results, "quick")
    assert mirror.open(), mirror.reason
    assert mirror.write(record), mirror.reason
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    assert run.info.start_time == milliseconds(record.started_at)
    assert run.data.params["architecture"] == "mlp"
    assert run.data.tags[RECORD_ID] == record.record_id
    assert [run.info.run_id] == [found.info.run_id for found in runs_where(uri, "tags.kind = 'measured'")]
    assert run.data.tags["mlflow.source.git.commit"] == "0123abc"
    client = MlflowClient(tracking_uri=uri)
    curve = client.get_metric_history(run.info.run_id, "test/accuracy")
    assert [(point.step, point.value) for point in curve] == [(1, 0.96), (2, 0.975)]
    assert load_dict(f"{run.info.artifact_uri}/record.json") == record.to_json()


def test_mirroring_twice_changes_nothing(uri: str, results: ResultsFolder) -> None:
    filled(results)
    assert sync(results, uri).mirrored == 3
    before = [run.to_dictionary() for run in runs(uri)]
    again = sync(results, uri)
    assert (again.mirrored, again.already, again.failed, again.reason) == (0, 3, 0, None)
    assert [run.to_dictionary() for run in runs(uri)] == before


def test_what_is_mirrored_is_known_without_asking_the_server(uri: str, results: ResultsFolder) -> None:
    ids = {record.record_id for record in filled(results)}
    assert not Mirror(uri, results, "quick").has_all(ids)
    sync(results, uri)
    Path(uri.removeprefix("sqlite:///")).unlink()
    assert Mirror(uri, results, "quick").has_all(ids)
    assert not Mirror(uri, results, "another grid").has_all(ids)


def test_replaying_a_run_leaves_each_metric_once(uri: str, results: ResultsFolder) -> None:
    from mlflow import MlflowClient

    (record,) = filled(results, 1)
    prepare(uri)
    server = Server(uri, "quick")
    source = of_record(record, results)
    run_id = server.create_run(source)
    for _ in range(3):
        server.fill_run(run_id, source)
    history = MlflowClient(tracking_uri=uri).get_metric_history(run_id, "train/loss")
    assert len(history) == len(record.epochs)


def test_a_lost_journal_makes_no_doubles(uri: str, results: ResultsFolder) -> None:
    filled(results, 25)
    sync(results, uri)
    results.mirrored_file.unlink()
    again = sync(results, uri)
    assert (again.mirrored, again.already) == (0, 25)
    assert len(runs(uri)) == 25


def test_a_second_run_of_a_record_is_deleted(uri: str, results: ResultsFolder) -> None:
    """A server can answer so late that its run is made a second time."""
    (record,) = filled(results, 1)
    prepare(uri)
    server = Server(uri, "quick")
    server.create_run(of_record(record, results))
    server.create_run(of_record(record, results))
    assert sync(results, uri).mirrored == 1
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"


def test_the_same_folder_can_be_mirrored_to_a_second_server(
    uri: str, empty_database: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    filled(results)
    sync(results, uri)
    other = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'other.db')}"
    assert sync(results, other).mirrored == 3
    assert sync(results, uri).already == 3


def test_a_database_made_anew_gets_everything_again(
    uri: str, empty_database: Path, results: ResultsFolder, tmp_path: Path
) -> None:
    filled(results)
    sync(results, uri)
    database = tmp_path / "mlflow.db"
    moved = database.rename(tmp_path / "old.db")
    new = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'new.db')}"
    assert sync(results, new).mirrored == 3
    assert sync(results, f"sqlite:///{moved}").already == 3, "it is known again under its new path"


def test_failed_and_killed_attempts_are_runs_too_and_skipped_cells_are_not(uri: str, results: ResultsFolder) -> None:
    cell = make_cell()
    for attempt, status in enumerate(["killed", "failed", "finished"], start=1):
        results.write(make_record(cell, status=status, attempt=attempt, started_at=START + timedelta(hours=attempt)))  # type: ignore[arg-type]
    results.write(make_record(make_cell(device="cuda"), status="skipped"))
    result = sync(results, uri)
    assert (result.mirrored, result.failed) == (3, 0)
    assert sorted(run.info.status for run in runs(uri)) == ["FAILED", "FINISHED", "KILLED"]


def test_the_report_lies_on_the_one_summary_run(uri: str, results: ResultsFolder) -> None:
    from mlflow import MlflowClient

    filled(results)
    mirror = Mirror(uri, results, "quick")
    assert mirror.open()
    for text in ("first", "second"):
        results.report_file.write_text(REPORT + text)
        assert mirror.finish().reason is None
    (summary,) = runs(uri, kind="summary")
    client = MlflowClient(tracking_uri=uri)
    assert Path(client.download_artifacts(summary.info.run_id, "report.html")).read_text() == REPORT + "second"
    assert summary.data.tags["mnistbench.cells.finished"] == "3"


def test_the_summary_counts_the_cells_of_the_grid_and_forgets_a_status_that_is_gone(
    uri: str, results: ResultsFolder
) -> None:
    """A cell that failed and was run again is one finished cell, and no failed one."""
    cell = make_cell(seed=99)
    results.write(make_record(cell, status="failed"))
    sync(results, uri)
    results.write(make_record(cell, attempt=2, started_at=START + timedelta(hours=1)))
    sync(results, uri)
    (summary,) = runs(uri, kind="summary")
    counted = {key: value for key, value in summary.data.tags.items() if key.startswith("mnistbench.cells.")}
    assert counted == {"mnistbench.cells.finished": "1"}


def test_files_of_the_users_in_a_results_folder_are_not_taken_for_a_report(uri: str, results: ResultsFolder) -> None:
    from mlflow import MlflowClient

    filled(results, 1)
    (results.path / "grid.yaml").write_text("# mine\nsecret: plans\n")
    (results.path / "summary.md").write_text("my diary")
    results.write_grid("name: quick\n")
    (results.path / "report-summary.md").write_text(f"all went well\n{SUMMARY_END}")
    (results.path / "results.csv").write_text("name,salary\n")
    assert sync(results, uri).failed == 0
    (summary,) = runs(uri, kind="summary")
    files = {item.path for item in MlflowClient(uri).list_artifacts(summary.info.run_id)}
    assert files == {"grid.resolved.yaml", "report-summary.md"}
    rebuilt = ResultsFolder(results.path.with_name("rebuilt"))
    rebuild("quick", uri, rebuilt)
    assert rebuilt.grid_file.read_text().endswith("name: quick\n")


def test_a_deleted_experiment_gives_way_to_a_new_one(uri: str, results: ResultsFolder) -> None:
    """Names of deleted experiments stay taken."""
    from mlflow import MlflowClient

    filled(results, 1)
    sync(results, uri)
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.get_experiment_by_name("quick").experiment_id)
    assert sync(results, uri).mirrored == 1
    assert len(runs(uri, "quick-2")) == 1


def folder_of(path: Path, grid: str, first_seed: int = 0) -> ResultsFolder:
    """A results folder of a grid of that name, with two records."""
    folder = ResultsFolder(path)
    folder.create()
    folder.grid_file.write_text(f"name: {grid}\n")
    for seed in (first_seed, first_seed + 1):
        folder.write(make_record(make_cell(seed=seed), started_at=START + timedelta(seconds=seed)))
    return folder


def record_ids(uri: str, experiment: str) -> set[str]:
    """Of the runs in an experiment."""
    return {run.data.tags[RECORD_ID] for run in runs(uri, experiment)}  # type: ignore[attr-defined]


def ids(folder: ResultsFolder) -> set[str]:
    """Of the records in a folder."""
    return {record.record_id for record in folder.records()}


def test_two_folders_with_one_grid_name_have_an_experiment_each(uri: str, tmp_path: Path) -> None:
    """The same cells, by two users of one server: neither displaces the other's."""
    ann, bob = folder_of(tmp_path / "ann", "quick"), folder_of(tmp_path / "bob", "quick")
    assert sync(ann, uri).note is None
    done = sync(bob, uri)
    assert done.note is not None and "'quick' is another folder's" in done.note and "'quick-2'" in done.note
    assert record_ids(uri, "quick") == ids(ann)
    assert record_ids(uri, "quick-2") == ids(bob)
    assert sync(bob, uri).already == 2, "its own is found again"
    back = ResultsFolder(tmp_path / "back")
    rebuild("quick", uri, back)
    assert ids(back) == ids(ann)


def test_the_successor_of_a_deleted_experiment_is_no_other_grid_that_has_its_name(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tiny, second = folder_of(tmp_path / "a", "tiny"), folder_of(tmp_path / "b", "tiny-2")
    sync(tiny, uri)
    sync(second, uri)
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    done = sync(tiny, uri)
    assert done.note is not None and "'tiny' was deleted there" in done.note
    assert record_ids(uri, "tiny-2") == ids(second)
    assert record_ids(uri, "tiny-3") == ids(tiny)
    back = ResultsFolder(tmp_path / "back")
    rebuild("tiny", uri, back)
    assert ids(back) == ids(tiny), "what took its place is read, not what is called like it"


def test_an_experiment_that_was_renamed_is_found_by_its_tag(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = folder_of(tmp_path / "a", "quick")
    sync(folder, uri)
    client = MlflowClient(tracking_uri=uri)
    client.rename_experiment(client.get_experiment_by_name("quick").experiment_id, "thesis")
    assert sync(folder, uri).already == 2
    assert client.get_experiment_by_name("quick") is None


def test_an_experiment_that_the_user_names_is_shared(uri: str, tmp_path: Path) -> None:
    ann, bob = folder_of(tmp_path / "ann", "quick"), folder_of(tmp_path / "bob", "quick", first_seed=5)
    sync(ann, uri)
    assert sync(bob, uri, experiment="quick").note is None
    assert record_ids(uri, "quick") == ids(ann) | ids(bob)


def test_mlflows_own_variable_names_the_experiment_and_a_flag_goes_before_it(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "course")
    folder = folder_of(tmp_path / "a", "quick")
    sync(folder, uri)
    assert record_ids(uri, "course") == ids(folder)
    sync(folder, uri, experiment="thesis")
    assert record_ids(uri, "thesis") == ids(folder)
    with pytest.raises(UserError, match="names no experiment"):
        sync(folder, uri, experiment=" ")


def untagged(uri: str, *names: str) -> None:
    """Take out of experiments what tells whose they are, as an earlier release made them."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        for name in names:
            database.execute(
                "delete from experiment_tags where key like 'mnistbench.grid%' and experiment_id ="
                " (select experiment_id from experiments where name = ?)",
                [name],
            )


def test_an_experiment_of_the_earlier_release_becomes_its_folders_own(uri: str, tmp_path: Path) -> None:
    ann, bob = folder_of(tmp_path / "ann", "quick"), folder_of(tmp_path / "bob", "quick")
    sync(ann, uri)
    untagged(uri, "quick")
    (ann.path / ".grid_id").unlink()
    assert sync(bob, uri).mirrored == 2
    assert record_ids(uri, "quick") == ids(ann), "not taken by a folder that has none of its records"
    assert sync(ann, uri).already == 2
    assert record_ids(uri, "quick-2") == ids(bob)


def test_machines_that_shared_an_experiment_under_the_earlier_release_go_on_doing_so(uri: str, tmp_path: Path) -> None:
    machines = [folder_of(tmp_path / "a", "quick"), folder_of(tmp_path / "b", "quick", first_seed=5)]
    for folder in machines:
        sync(folder, uri, experiment="quick")
    untagged(uri, "quick")
    assert [sync(folder, uri).already for folder in machines] == [2, 2]


def test_runs_that_somebody_made_by_hand_keep_an_experiment_theirs(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    client.create_run(client.create_experiment("quick"))
    folder = folder_of(tmp_path / "a", "quick")
    sync(folder, uri)
    assert record_ids(uri, "quick-2") == ids(folder)


def test_a_merged_folder_has_an_experiment_of_its_own(uri: str, tmp_path: Path) -> None:
    ann, bob = folder_of(tmp_path / "ann", "quick"), folder_of(tmp_path / "bob", "quick", first_seed=5)
    sync(ann, uri)
    both = ResultsFolder(tmp_path / "both")
    merge_folders([ann, bob], both)
    sync(both, uri)
    assert record_ids(uri, "quick") == ids(ann)
    assert record_ids(uri, "quick-2") == ids(ann) | ids(bob)


def test_the_experiment_has_the_name_in_the_grid_file(uri: str, tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "elsewhere")
    folder.create()
    filled(folder, 1)
    folder.grid_file.write_text("name: other grid\n")
    sync(folder, uri)
    assert len(runs(uri, "other grid")) == 1


def test_artifacts_outside_the_databases_folder_are_refused(uri: str, results: ResultsFolder, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    filled(results, 2)
    elsewhere = tmp_path.parent / "elsewhere"
    MlflowClient(tracking_uri=uri).create_experiment("quick", artifact_location=elsewhere.as_uri())
    done = sync(results, uri)
    assert done.failed == 2
    assert "outside the database's folder" in (done.reason or "")
    assert sync(results, uri, experiment="thesis").failed == 0
    assert not elsewhere.exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["by hand", "mlflow gc"])
def test_what_was_deleted_there_is_made_again(how: str, uri: str, results: ResultsFolder, tmp_path: Path) -> None:
    """A run, and the summary; the journal says that both are there."""
    from mlflow import MlflowClient

    filled(results)
    results.report_file.write_text(REPORT)
    sync(results, uri)
    client = MlflowClient(tracking_uri=uri)
    (summary,) = runs(uri, kind="summary")
    gone = [runs(uri)[0].info.run_id, summary.info.run_id]  # type: ignore[attr-defined]
    for run_id in gone:
        client.delete_run(run_id)
    if how == "mlflow gc":
        command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    back = ResultsFolder(tmp_path / "back")
    assert rebuild("quick", uri, back).written == 2, "what is left can be read back"
    done = sync(results, uri)
    assert (done.mirrored, done.already, done.failed, done.reason) == (1, 2, 0, None)
    assert record_ids(uri, "quick") == ids(results)
    (again,) = runs(uri, kind="summary")
    assert again.info.run_id not in gone  # type: ignore[attr-defined]
    assert [item.path for item in client.list_artifacts(again.info.run_id)] == ["report.html"]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_an_experiment_that_was_deleted_for_good_is_made_again(uri: str, results: ResultsFolder) -> None:
    from mlflow import MlflowClient

    filled(results)
    sync(results, uri)
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.get_experiment_by_name("quick").experiment_id)
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert sync(results, uri).mirrored == 3
    assert record_ids(uri, "quick") == ids(results), "its name is free again"


def test_a_summary_that_could_not_be_written_is_said(uri: str, results: ResultsFolder) -> None:
    filled(results)
    sync(results, uri)
    results.report_file.write_text(REPORT)
    (summary,) = runs(uri, kind="summary")
    folder = Path(summary.info.artifact_uri.removeprefix("file://"))  # type: ignore[attr-defined]
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file stands where the artifacts belong")
    done = sync(results, uri, patience_seconds=0)
    assert (done.already, done.failed) == (3, 0)
    assert done.reason is not None and done.reason.startswith("the report could not be written to MLflow")


def test_hostile_names_are_mirrored_as_they_are(empty_database: Path, tmp_path: Path) -> None:
    place = tmp_path / "a b#c%d 漢"
    place.mkdir()
    uri = f"sqlite:///{shutil.copy(empty_database, place / 'mlflow.db')}"
    folder = ResultsFolder(place / "x'y")
    folder.create()
    name = "$x$ <script> 'quoted' 漢字 " + "long" * 100
    record = make_record(make_cell(architecture=Component(name="my:Net", options={"kind": name})))
    folder.write(record)
    assert sync(folder, uri, experiment='it\'s #1 % "grid"').mirrored == 1
    folder.mirrored_file.unlink()
    assert sync(folder, uri, experiment='it\'s #1 % "grid"').already == 1
    back = ResultsFolder(place / "back")
    rebuild('it\'s #1 % "grid"', uri, back)
    assert back.records() == [record]


@pytest.mark.parametrize("name", ["a%20b", "a?b", "a#b", "100%", "it's"])
def test_the_database_of_the_working_folder_is_opened_whatever_the_folder_is_called(
    name: str, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the default address, by a relative one, and by the line that shows how to look at it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = tmp_path / name
    place.mkdir()
    monkeypatch.chdir(place)
    shutil.copy(empty_database, place / "mlflow.db")
    folder = folder_of(place / "results" / "quick", "quick")
    assert sync(folder).mirrored == 2
    assert sync(folder, "sqlite:///mlflow.db").already == 2
    back = ResultsFolder(place / "back")
    assert rebuild("quick", None, back).written == 2
    line = shlex.split(address.ui_command(address.default_uri(), tmp_path))
    monkeypatch.chdir(tmp_path)
    assert record_ids(line[line.index("--backend-store-uri") + 1], "quick") == ids(folder)
    assert list(tmp_path.rglob("*.db")) == [place / "mlflow.db"], "and no other was made"


@pytest.mark.slow
def test_a_new_database_is_made_in_a_folder_with_signs_that_mean_something_in_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or in MLflow's SQL."""
    database = tmp_path / '50% of #1? it\'s "so" :x \\ -- ;' / "mlflow.db"
    database.parent.mkdir()
    monkeypatch.chdir(database.parent)
    make_database(database)
    assert list(tmp_path.rglob("*.db*")) == [database]
    folder = folder_of(database.parent / "results" / "quick", "quick")
    assert sync(folder, address.default_uri(database.parent)).mirrored == 2


def test_a_folder_in_use_is_not_mirrored_beside_its_runner(uri: str, results: ResultsFolder) -> None:
    with results.lock(), pytest.raises(UserError, match="in use"):
        sync(results, uri)


# Faults


BOUNDARIES = ["create_run", "log_batch", "_log_data", "set_terminated"]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", BOUNDARIES)
def test_killed_at_any_call_a_restart_leaves_one_whole_run(
    call: str, when: str, uri: str, results: ResultsFolder
) -> None:
    filled(results)
    child = os.fork()
    if child == 0:
        _die_at(call, when, uri, results)
    os.waitpid(child, 0)
    open_before = [run for run in runs(uri) if run.info.status == "RUNNING"]
    assert len(open_before) == (0 if (call, when) in [("create_run", "before"), ("set_terminated", "after")] else 1)
    assert sync(results, uri).failed == 0
    found = runs(uri)
    assert len(found) == 3
    assert {run.info.status for run in found} == {"FINISHED"}


def _die_at(call: str, when: str, uri: str, results: ResultsFolder) -> None:
    """Mirror, and kill this process at the second cell's call. Its database was not opened before the fork."""
    from mlflow import MlflowClient

    owner = Server if call == "_log_data" else MlflowClient
    real = getattr(owner, call)
    seen: list[str] = []

    def dying(self: object, *args: object, **kwargs: object) -> object:
        seen.append(call)
        last = len(seen) == (3 if call in ("create_run", "set_terminated") else 2)  # the summary run is the first
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = real(self, *args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(owner, call, dying)
    try:
        mirror = Mirror(uri, results, "quick")
        for record in results.records():
            mirror.write(record)
    finally:
        os._exit(1)


def test_a_run_that_a_server_made_too_late_is_deleted_by_the_next_sync(uri: str, results: ResultsFolder) -> None:
    """The first attempt to create it hung, sync made another, and then the first was carried out after all."""
    (record,) = filled(results, 1)
    prepare(uri)
    server = Server(uri, "quick")
    Journal.read(results.mirrored_file, server.key).intend(record.record_id)
    assert sync(results, uri).mirrored == 1
    (kept,) = runs(uri)
    server.create_run(of_record(record, results))
    assert len(runs(uri)) == 2
    assert sync(results, uri).already == 1
    assert [run.info.run_id for run in runs(uri)] == [kept.info.run_id]
    assert not Journal.read(results.mirrored_file, server.key).doubtful


def test_a_run_whose_record_is_gone_is_closed_as_killed(uri: str, results: ResultsFolder) -> None:
    record = make_record()
    prepare(uri)
    server = Server(uri, "quick")
    server.create_run(of_record(record, results))
    Journal.read(results.mirrored_file, server.key).intend(record.record_id)
    sync(results, uri)
    (run,) = runs(uri)
    assert run.info.status == "KILLED"
    assert run.data.tags["mnistbench.status"] == "killed"


@pytest.mark.slow
def test_a_locked_database_costs_a_bounded_wait_and_no_record(uri: str, results: ResultsFolder) -> None:
    records = filled(results)
    mirror = Mirror(uri, results, "quick", wait_seconds=1.0)
    assert mirror.open()
    holder = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    assert [mirror.write(record) for record in records] == [False, False, False]
    assert time.monotonic() - began < 15, "one wait of a second, not one for each record"
    result = mirror.finish()
    assert result.failed == 3
    assert result.reason is not None and "gives no answer in time" in result.reason
    holder.execute("ROLLBACK")
    holder.close()
    assert sync(results, uri).failed == 0
    time.sleep(0.5)
    assert sync(results, uri).already == 3
    assert len(runs(uri)) == 3


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\0" * 2000])
def test_a_database_that_is_none_is_named_and_left_alone(
    content: bytes, results: ResultsFolder, tmp_path: Path
) -> None:
    path = tmp_path / "broken.db"
    path.write_bytes(content)
    filled(results)
    result = sync(results, f"sqlite:///{path}")
    assert result.failed == 3
    assert result.reason is not None and "broken.db" in result.reason
    assert path.read_bytes() == content


@pytest.mark.slow
def test_four_processes_open_a_missing_database_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        keys = pool.map(_mirror_own_folder, [(str(path), str(tmp_path / f"worker{i}"), i) for i in range(4)])
    assert keys == [(1, 0, None)] * 4
    uri = f"sqlite:///{path}"
    assert len(runs(uri)) == 4
    assert len(runs(uri, kind="summary")) == 1
    assert sorted(item.name for item in tmp_path.iterdir() if "mlflow" in item.name) == ["mlflow.db"]


def _mirror_own_folder(job: tuple[str, str, int]) -> tuple[int, int, str | None]:
    database, folder, seed = job
    results = ResultsFolder(folder)
    results.create()
    results.write(make_record(make_cell(seed=seed)))
    results.report_file.write_text(REPORT)
    result = sync(results, f"sqlite:///{database}", experiment="quick")
    return result.mirrored, result.failed, result.reason


@pytest.mark.slow
def test_killed_while_it_makes_the_database_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    maker = multiprocessing.get_context("spawn").Process(target=_make_forever, args=(str(path),))
    maker.start()
    while not list(tmp_path.glob(".mlflow.db.*.part")):
        assert maker.is_alive()
        time.sleep(0.01)
    maker.kill()
    maker.join()
    assert not path.exists()
    make_database(path)
    assert path.exists()
    assert [item.name for item in tmp_path.iterdir()] == ["mlflow.db"]


def _make_forever(path: str) -> None:
    Path.replace = lambda self, target: time.sleep(60)  # type: ignore[method-assign,assignment]
    prepare(f"sqlite:///{path}")


# Reading back


def test_a_results_folder_is_rebuilt_from_the_runs_alone(uri: str, results: ResultsFolder, tmp_path: Path) -> None:
    cell = make_cell(seed=99)
    filled(results)
    for attempt, status in enumerate(["failed", "finished"], start=1):
        results.write(make_record(cell, status=status, attempt=attempt, started_at=START + timedelta(hours=attempt)))  # type: ignore[arg-type]
    results.write_grid("name: quick\n")
    sync(results, uri)
    back = ResultsFolder(tmp_path / "back")
    done = rebuild("quick", uri, back)
    assert (done.written, done.set_aside) == (5, [])
    assert back.records() == results.records()
    assert back.attempts() == results.attempts()
    assert back.grid_file.read_text().endswith("name: quick\n")
    assert sync(back, uri).already == 5, "its records are known to be on the server"
    with pytest.raises(UserError, match="not empty"):
        rebuild("quick", uri, back)


MARKUP = "</script></style><script>alert(1)</script><img src=x onerror=alert(1)><svg/onload=alert(1)>&lt;b&gt;"


def put_markup(holder: Any, accepted: Callable[[], bool]) -> int:
    """Put markup in the place of each text in plain data with which it is still accepted; how many there were."""
    replaced = 0
    for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
        if isinstance(value, dict | list):
            replaced += put_markup(value, accepted)
        elif isinstance(value, str) and key not in ("record_id", "cell_id"):
            holder[key] = f"{MARKUP} {key}"
            if accepted():
                replaced += 1
            else:
                holder[key] = value
    return replaced


@pytest.mark.slow
def test_markup_that_comes_back_from_a_server_is_text_in_the_page(
    uri: str, results: ResultsFolder, tmp_path: Path
) -> None:
    """In every text of records and sessions that may be any, in the grid, and in the names of both folders."""

    checks = {"equivalence": "failed: x", "outputs": "x", "kept_model": "not kept: x", "tuning": "tuned over 2 trials"}
    noise = Noise(foreign_cpu=0.5, flags=["foreign_cpu"])
    for seed, status in enumerate(("finished", "failed", "diverged", "timed_out")):
        extra: dict[str, Any] = {"checks": checks, "noise": noise} if status == "finished" else {}
        plain = make_record(make_cell(seed=seed), status=status, **extra).to_json()  # type: ignore[arg-type]

        def is_record(plain: dict[str, Any] = plain) -> bool:
            try:
                plain["cell_id"] = Cell.from_json(plain["cell"]).cell_id
                return bool(CellRecord.from_json(plain))
            except (ValueError, KeyError, TypeError):
                return False

        assert put_markup(plain, is_record) > 15
        assert is_record()
        results.write(CellRecord.from_json(plain))
    timed = make_session({make_cell(): 1e4, make_cell(batch_size=64): 2e4}, cycles=3)
    lines = []
    for line in write_session(results, timed).read_text().splitlines():
        plain = json.loads(line)
        if plain["kind"] == "session":
            plain["environment"] |= dict.fromkeys(("machine", "os", "cpu", "device_name", "governor"), MARKUP)
            plain |= {"build": MARKUP, "data": MARKUP}
        elif plain["kind"] == "setting":
            plain |= {"equivalence": f"failed: {MARKUP}", "resolved": {MARKUP: MARKUP}}
        else:
            plain |= {"cause": MARKUP, "error": MARKUP}
        lines.append(json.dumps(plain))
    (results.speed / f"{timed.name}.jsonl").write_text("\n".join(lines) + "\n")
    results.write_grid(f"# {MARKUP}\nname: quick\nnote: '{MARKUP}'\n")
    assert sync(results, uri, experiment=MARKUP).failed == 0
    back = ResultsFolder(tmp_path / "<script>alert(1)<" / "img src=x onerror=alert(1)>")
    done = rebuild(MARKUP, uri, back)
    assert (done.written, done.sessions, done.set_aside) == (4, 1, [])
    (back.cells / "<img src=x onerror=alert(1)>.json").write_text("{")
    render([back], back.report_file)
    page = Page.of(back.report_file.read_text())
    assert "<script>alert(1)" in "".join(element.text for element in page.all("section")), "it is there, as text"
    assert (len(page.all("script")), len(page.all("style")), page.all("img"), page.all("b")) == (1, 1, [], [])
    attributes = {name for element in page.elements for name in element.attributes}
    assert [name for name in attributes if name.startswith("on")] == []


def test_two_machines_records_of_one_cell_both_come_back(uri: str, tmp_path: Path) -> None:
    for machine in ("laptop", "server"):
        folder = ResultsFolder(tmp_path / machine)
        folder.create()
        folder.write(make_record(environment=make_environment(machine)))
        sync(folder, uri, experiment="quick")
    back = ResultsFolder(tmp_path / "back")
    rebuild("quick", uri, back)
    assert len({record.environment.machine_id for record in back.records()}) == 2  # type: ignore[union-attr]


def test_what_comes_back_asks_the_targets_that_the_grid_named_last(
    uri: str, results: ResultsFolder, tmp_path: Path
) -> None:
    records = filled(results)
    assert records[0].cell.training.targets == (0.97,)
    results.write_grid("name: quick\ntraining: {epochs: 2, target_accuracy: [0.9, 0.96]}\n")
    results.write_asked([record.cell_id for record in records], [0.9, 0.96])
    sync(results, uri)
    back = ResultsFolder(tmp_path / "back")
    rebuild("quick", uri, back)
    assert targets_asked(back) == targets_asked(results) == (0.9, 0.96)
    assert back.cell_ids() == results.cell_ids()


@pytest.mark.slow
def test_a_read_back_that_is_killed_leaves_no_half_folder_and_can_be_repeated(
    uri: str, results: ResultsFolder, tmp_path: Path
) -> None:
    """At every third write boundary; the session, the grid and the notes of what is mirrored come last."""
    filled(results, 2)
    write_session(results, make_session({make_cell(): 1e4}, cycles=2))
    results.write_grid("name: quick\n")
    sync(results, uri)
    killed = 0
    for fatal in range(1, 100, 3):
        back = ResultsFolder(tmp_path / f"back{fatal}")
        child = multiprocessing.get_context("fork").Process(target=_rebuild_killed_at, args=(fatal, uri, back))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        killed += 1
        if not back.path.exists():
            assert rebuild("quick", uri, back).sessions == 1
        assert len(back.records()) == 2
        assert len(list(back.speed.iterdir())) == 1
        assert (back.path / ".grid_id").read_text() == (results.path / ".grid_id").read_text()
        assert len(back.mirrored_file.read_text().splitlines()) == 3
    assert killed > 5
    assert not list(tmp_path.glob(".back*"))


def _rebuild_killed_at(fatal: int, uri: str, back: ResultsFolder) -> None:
    from mnistbench.tracking.server import Server

    passed = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            nonlocal passed
            passed += 1
            if passed == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapped

    fetch_grid = Server.fetch_grid

    def last_download(server: Server, folder: Path) -> Path | None:
        grid = fetch_grid(server, folder)
        for name in ("fsync", "replace", "rename", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        return grid

    Server.fetch_grid = last_download  # type: ignore[method-assign]
    rebuild("quick", uri, back)


def test_where_nothing_can_be_read_back_no_folder_is_made(uri: str, results: ResultsFolder, tmp_path: Path) -> None:
    """Somebody else's experiment has the name, or all artifacts were lost."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    theirs = client.create_experiment("quick", artifact_location=(tmp_path / "mlruns" / "theirs").as_uri())
    client.create_run(theirs)
    filled(results, 1)
    sync(results, uri)
    back = ResultsFolder(tmp_path / "back")
    with pytest.raises(UserError, match=r"'quick' has no record and no session of speed; did you mean 'quick-2'"):
        rebuild("quick", uri, back)
    shutil.rmtree(tmp_path / "mlruns" / "quick-2")
    with pytest.raises(UserError, match=r"that can be used: run [0-9a-f]+: it has no record\.json"):
        rebuild("quick-2", uri, back)
    assert not back.path.exists()
    back.path.write_text("a file")
    with pytest.raises(UserError, match="is no folder"):
        rebuild("quick-2", uri, back)


@pytest.mark.parametrize("name", ["手写数字" * 16, "é" * 100], ids=["chinese", "accents"])
def test_a_long_name_in_any_script_has_a_folder_for_its_artifacts(name: str, uri: str, tmp_path: Path) -> None:
    """In an address each of its letters takes 6 to 12 characters, and a folder's name may have 255."""
    results = ResultsFolder(tmp_path / "results" / name)
    results.create()
    filled(results, 1)
    assert sync(results, uri).failed == 0
    assert rebuild(name, uri, ResultsFolder(tmp_path / "back")).written == 1


def test_an_unknown_experiment_is_answered_with_the_nearest(uri: str, results: ResultsFolder, tmp_path: Path) -> None:
    filled(results, 1)
    sync(results, uri)
    with pytest.raises(UserError, match="did you mean 'quick'"):
        rebuild("quikc", uri, ResultsFolder(tmp_path / "back"))
    with pytest.raises(UserError, match="no database"):
        rebuild("quick", f"sqlite:///{tmp_path / 'none.db'}", ResultsFolder(tmp_path / "back"))
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("spoil", ["cut", "other id", "path in id", "gone"])
def test_a_spoilt_record_on_the_server_is_set_aside(
    spoil: str, uri: str, results: ResultsFolder, tmp_path: Path
) -> None:
    records = filled(results, 2)
    sync(results, uri)
    run = next(run for run in runs(uri) if run.data.tags[RECORD_ID] == records[0].record_id)
    artifact = Path(run.info.artifact_uri.removeprefix("file://")) / "record.json"
    if spoil == "cut":
        artifact.write_text(artifact.read_text()[:-100])
    elif spoil in ("other id", "path in id"):
        other = records[1].record_id if spoil == "other id" else "../../../../outside"
        artifact.write_text(artifact.read_text().replace(records[0].record_id, other))
    elif spoil == "gone":
        artifact.unlink()
    back = ResultsFolder(tmp_path / "back")
    done = rebuild("quick", uri, back)
    assert [run_id for run_id, _ in done.set_aside] == [run.info.run_id]
    assert records[0].cell_id not in {record.cell_id for record in back.records()}


def test_kept_models_travel_with_their_run(uri: str, results: ResultsFolder, tmp_path: Path) -> None:
    (record,) = filled(results, 1)
    kept = results.models / record.record_id
    kept.mkdir(parents=True)
    (kept / "last.safetensors").write_bytes(b"weights")
    (kept / "last.json").write_text("{}")
    sync(results, uri)
    (run,) = runs(uri)
    (weights,) = download_weights(run.info.run_id, uri, tmp_path / "downloads")
    assert weights.read_bytes() == b"weights"
    assert weights.with_suffix(".json").exists()
    with pytest.raises(UserError, match="no MLflow run id"):
        download_weights("../x", uri, tmp_path)


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_what_a_link_in_a_folder_names_is_not_mirrored(
    uri: str, results: ResultsFolder, tmp_path: Path, linked: str
) -> None:
    """A folder of somebody else's could send any file of whoever syncs it to the server."""
    from mlflow import MlflowClient

    (record,) = filled(results, 1)
    private = tmp_path / "private"
    private.mkdir()
    (private / "secret.json").write_text("{}")
    (private / "id.txt").write_text("secret")
    kept = results.models / record.record_id
    if linked == "folder":
        results.models.mkdir(parents=True)
        kept.symlink_to(private)
    else:
        kept.mkdir(parents=True)
        (kept / "last.json").symlink_to(private / "secret.json")
        (kept / "notes.txt").write_text("not a model")
    sync(results, uri)
    (run,) = runs(uri)
    assert MlflowClient(uri).list_artifacts(run.info.run_id, "model") == []


def test_training_settings_are_among_the_params() -> None:
    params = run_content(make_record(make_cell(training=Training(epochs=2, loss="mse")))).params
    assert (params["epochs"], params["loss"]) == ("2", "mse")
