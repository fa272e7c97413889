"""Cells for the nodes of a Ray cluster: they leave their process's id in a folder, and wait there for a sign."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import stand_ins

import mnistbench
from mnistbench.results.records import CellRecord
from mnistbench.train.job import Job

MEETING = "MNISTBENCH_TEST_MEETING"


def meet(job: Job, *, on_epoch: stand_ins.OnEpoch, process_started: float) -> CellRecord:
    """Leave a note, tell an epoch, and wait until the file `go` is there."""
    folder = Path(os.environ[MEETING])
    note = folder / f"{job.cell.seed}.{job.attempt}"
    (folder / f"{note.name}.part").write_text(str(os.getpid()))
    (folder / f"{note.name}.part").rename(note)
    on_epoch(stand_ins.measurement(1))
    deadline = time.monotonic() + 60
    while not (folder / "go").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody said go")
        time.sleep(0.02)
    return stand_ins.quick(job, on_epoch=lambda epoch: None, process_started=process_started)


def tell(job: Job, *, on_epoch: stand_ins.OnEpoch, process_started: float) -> CellRecord:
    """Say where it runs, and with what, when a cell has come to each of the three nodes."""
    cache = Path(os.environ["MNISTBENCH_CACHE"])
    (Path(os.environ[MEETING]) / f"at.{cache.name}").touch()
    while job.cell.seed >= 10 and len(list(Path(os.environ[MEETING]).glob("at.*"))) < 3:
        time.sleep(0.02)
    told = {
        "code": mnistbench.__file__,
        "data": job.data_directory,
        "cache": str(cache),
        "niceness": os.nice(0),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "ray": "ray" in sys.modules,
    }
    record = stand_ins.by_seed(job, on_epoch=on_epoch, process_started=process_started)
    return record.with_changes(execution_resolved=told)


def snooze(job: Job, *, on_epoch: stand_ins.OnEpoch, process_started: float) -> CellRecord:
    """As long as a cell of the benchmark is said to last."""
    time.sleep(float(os.environ.get("MNISTBENCH_TEST_SECONDS", "1")))
    return stand_ins.quick(job, on_epoch=on_epoch, process_started=process_started)
