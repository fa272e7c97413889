"""What a worker makes of a cell that does not end well, and what it leaves out of the record."""

from __future__ import annotations

import json
import os
import pickle
import socket
import threading
from pathlib import Path

import pytest
from stand_ins import OnEpoch, measurement, quick

from mnistbench.cell import Cell
from mnistbench.errors.redaction import redact
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord, Data, EpochMeasurement, dump
from mnistbench.run.processes import WorkerProcess
from mnistbench.run.worker import LENGTH, is_out_of_memory, receive, send, train_safely
from mnistbench.train.job import Job


@pytest.fixture
def job(cell: Cell) -> Job:
    return Job(cell=cell, record_id="r1", attempt=2, round=3, position=4, data_directory="-", data=Data(sha256="d"))


def test_a_record_carries_what_the_job_said(job: Job) -> None:
    record = train_safely(job, quick, lambda _: None, 0.0)
    assert (record.status, record.record_id, record.attempt, record.round, record.position) == (
        "finished",
        "r1",
        2,
        3,
        4,
    )
    assert record.cell_id == job.cell.cell_id
    assert CellRecord.from_json(record.to_json()) == record


def test_epochs_that_were_measured_before_a_failure_are_kept(job: Job) -> None:
    def fails(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
        on_epoch(measurement(1))
        raise ValueError("first line\nsecond line")

    seen: list[EpochMeasurement] = []
    record = train_safely(job, fails, seen.append, 0.0)
    assert record.status == "failed"
    assert record.epochs == seen
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("ValueError", "first line")
    assert "in fails" in record.error.stack


def test_a_cell_that_leaves_python_is_a_failed_cell(job: Job) -> None:
    def leaves(job: Job, **_: object) -> CellRecord:
        raise SystemExit(3)

    record = train_safely(job, leaves, lambda _: None, 0.0)
    assert record.status == "failed"
    assert record.error is not None and record.error.message == "exit with status 3"


class Speechless(RuntimeError):
    def __str__(self) -> str:
        raise SystemExit("not even this")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("half \udcff a character"), "half ? a character"),
        (Speechless(), "its message cannot be read: str() of it raised SystemExit"),
    ],
)
def test_what_an_exception_cannot_say_costs_its_message_only(
    job: Job, error: Exception, message: str, tmp_path: Path
) -> None:
    def fails(job: Job, **_: object) -> CellRecord:
        raise error

    record = train_safely(job, fails, lambda _: None, 0.0)
    results = ResultsFolder(tmp_path / "results")
    results.create()
    results.write(record)
    (stored,) = results.records()
    assert stored.error is not None
    assert (stored.error.type, stored.error.message) == (type(error).__name__, message)
    assert "in fails" in stored.error.stack


def test_half_a_character_in_any_field_is_written_as_a_question_mark(job: Job) -> None:
    record = job.record("finished", "2026-01-01T00:00:00+00:00", execution_resolved={"a\ud800": ["b\udfff"]})
    assert json.loads(dump(record).encode())["execution_resolved"] == {"a?": ["b?"]}


def test_ctrl_c_goes_through(job: Job) -> None:
    def interrupted(job: Job, **_: object) -> CellRecord:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_safely(job, interrupted, lambda _: None, 0.0)


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error: Exception, answer: bool) -> None:
    assert is_out_of_memory(error) is answer


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('File "/home/ann/work/venv/torch/nn/linear.py", line 3', 'File "…/nn/linear.py", line 3'),
        ("cannot read /home/ann/data", "cannot read …/data"),
        ("cannot read /home/ann", "cannot read …"),
        ("http://ann:secret@host:5000/api", "http://***@host:5000/api"),
        ("postgresql+psycopg://u:p@db/x", "postgresql+psycopg://***@db/x"),
        ("MLFLOW_TRACKING_TOKEN=abc123 used", "MLFLOW_TRACKING_TOKEN=*** used"),
        ("password: hunter2", "password: ***"),
        ("\x1b[31mred\x1b[0m \x07bell \u202eback", "red bell back"),
        ("a/b of 60,000 at 3.5/s, 1/2", "a/b of 60,000 at 3.5/s, 1/2"),
    ],
)
def test_paths_credentials_and_control_codes_stay_out_of_records(text: str, redacted: str) -> None:
    assert redact(text) == redacted


class Stopped:
    """Stands in for a job that no server forks a worker for."""

    def last_words(self) -> str:
        return ""

    def order_worker(self, *descriptors: int) -> None:
        self.channel = socket.socket(fileno=os.dup(descriptors[0]))


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_messages_are_put_together_from_any_pieces(job: Job, size: int) -> None:
    """The parent waits for no worker that has stopped in the middle of one."""
    server = Stopped()
    process = WorkerProcess(job, server, "stand_ins:quick", {}, 0.1)  # type: ignore[arg-type]
    told = [measurement(epoch) for epoch in range(1, 4)]
    contents = [pickle.dumps(message) for message in ([told[0]], told[1:])]
    stream = b"".join(LENGTH.pack(len(content)) + content for content in contents)
    heard: list[EpochMeasurement] = []
    for start in range(0, len(stream), size):
        server.channel.sendall(stream[start : start + size])
        heard += process.read()
    assert heard == told
    process.finish()
    server.channel.close()


def test_a_message_cut_off_by_the_other_sides_end_is_an_end() -> None:
    for cut_off in (b"", b"\0\0\0", b"\0\0\0\0\0\0\0\x09abc"):
        ours, theirs = socket.socketpair()
        with theirs:
            ours.send(cut_off)
            ours.close()
            with pytest.raises(EOFError):
                receive(theirs)


def test_a_large_message_does_not_block_for_want_of_a_reader_in_the_same_thread(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send, args=(ours, b"x" * 3_000_000))
        sender.start()
        assert receive(theirs) == b"x" * 3_000_000
        sender.join()
