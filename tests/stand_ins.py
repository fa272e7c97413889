"""Cells that misbehave on purpose: functions in place of `train_cell`, named to an executor as `stand_ins:hang`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mnistbench.results.records import CellRecord, EpochMeasurement, Model
from mnistbench.run.worker import utc_now
from mnistbench.train.job import Job

OnEpoch = Callable[[EpochMeasurement], None]


def measurement(epoch: int) -> EpochMeasurement:
    return EpochMeasurement(
        epoch=epoch, examples=100, steps=2, train_seconds=0.01, eval_seconds=0.01, train_loss=1.0 / epoch,
        train_accuracy=0.5, test_loss=1.0 / epoch, test_accuracy=0.5, cold_seconds=0.1, ended_at=utc_now(),
    )  # fmt: skip


def quick(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Trains nothing, and says so for each epoch."""
    started_at = utc_now()
    epochs = []
    for epoch in range(1, job.cell.training.epochs + 1):
        epochs.append(measurement(epoch))
        on_epoch(epochs[-1])
    if job.weights_directory is not None:
        (Path(job.weights_directory) / "last.safetensors").write_bytes(b"weights")
    model = Model(parameters=1, weights_sha256="0", weights=["last.safetensors"] if job.weights_directory else [])
    return job.record("finished", started_at, epochs=epochs, model=model)


def improving(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Trains nothing, and says that it came to 40 %, then to 60 %, and so on."""
    from synthetic import make_environment

    record = quick(job, on_epoch=on_epoch, process_started=process_started)
    epochs = [replace(epoch, test_accuracy=0.2 + 0.2 * epoch.epoch) for epoch in record.epochs]
    model = Model(parameters=1, weights_sha256=str(job.cell.seed))
    return record.with_changes(epochs=epochs, model=model, environment=make_environment())


def importing(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Trains, and says which modules of ours its process imported for it."""
    from mnistbench.train.train import train_cell

    before = set(sys.modules)
    record = train_cell(job, on_epoch=on_epoch, process_started=process_started)
    late = sorted(name for name in set(sys.modules) - before if name.startswith("mnistbench"))
    return record.with_changes(checks={"imported": " ".join(late)})


def captured(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Cannot be captured as a CUDA graph with seed 0."""
    from mnistbench.train.steps.cuda_graph import CaptureFailed

    if job.cell.seed == 0 and not job.without_graph:
        raise CaptureFailed("it calls .item()")
    record = quick(job, on_epoch=on_epoch, process_started=process_started)
    return record.with_changes(execution_resolved={"without_graph": job.without_graph})


def unhurried(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Takes at least 40 ms, so that a machine of any speed has cells left to be killed in."""
    time.sleep(0.04)
    return quick(job, on_epoch=on_epoch, process_started=process_started)


def chatty(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Prints 2 MB, then fails."""
    for number in range(20_000):
        print(f"line {number} " + "x" * 90)
    raise ValueError("after much talk in /home/someone/secret/place/model.py")


def one_epoch_then(job: Job, on_epoch: OnEpoch) -> None:
    on_epoch(measurement(1))
    print("last words", flush=True)


def sleep(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    one_epoch_then(job, on_epoch)
    time.sleep(600)
    raise AssertionError


def stubborn(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Hangs, ignores TERM, and has a child of its own that hangs too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        time.sleep(600)
    print("pids", os.getpid(), child)
    one_epoch_then(job, on_epoch)
    while True:
        time.sleep(600)


def stopped(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Stops in the middle of everything, as under a debugger: only KILL reaches it."""
    one_epoch_then(job, on_epoch)
    os.kill(os.getpid(), signal.SIGSTOP)
    raise AssertionError


def killed(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    one_epoch_then(job, on_epoch)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def segfault(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    one_epoch_then(job, on_epoch)
    ctypes.string_at(0)
    raise AssertionError


def leaves(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    one_epoch_then(job, on_epoch)
    sys.exit(7)


def leaves_at_once(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    one_epoch_then(job, on_epoch)
    os._exit(0)


def out_of_memory(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Asks the host for more than it may have."""
    import resource

    one_epoch_then(job, on_epoch)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    filled = bytearray(1 << 40)
    raise AssertionError(len(filled))


def out_of_torch_memory(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """The same through torch's allocator, which says it in other words."""
    import torch

    one_epoch_then(job, on_epoch)
    filled = torch.empty(1 << 45)
    raise AssertionError(len(filled))


def out_of_device_memory(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """As a GPU says it; no GPU is needed to say it."""
    import torch

    one_epoch_then(job, on_epoch)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def forks(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """A child comes back into our code and would send everything twice."""
    os.fork()
    return quick(job, on_epoch=on_epoch, process_started=process_started)


def by_seed(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """What the seed says: 1 fails, 2 is killed, 3 hangs, any other finishes."""
    chosen = {1: chatty, 2: killed, 3: sleep}.get(job.cell.seed, quick)
    return chosen(job, on_epoch=on_epoch, process_started=process_started)


def waits(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Waits until as many cells as `wait_for` have come to the folder `meeting`."""
    folder = Path(str(job.cell.optimizer.options["meeting"]))
    (folder / job.record_id).touch()
    deadline = time.monotonic() + 20
    while len(list(folder.iterdir())) < int(str(job.cell.optimizer.options["wait_for"])):
        if time.monotonic() > deadline:
            raise TimeoutError("the others did not come")
        time.sleep(0.01)
    return quick(job, on_epoch=on_epoch, process_started=process_started)


def environment(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Tells which process it is."""
    resolved = {"pid": os.getpid(), "session": os.getsid(0)}
    return quick(job, on_epoch=on_epoch, process_started=process_started).with_changes(execution_resolved=resolved)


def blocks(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Takes and frees 64 MB again and again, and tells how many pages the last twenty times faulted in."""
    import resource

    import torch

    for _ in range(10):
        torch.ones(16 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16 << 20)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    record = quick(job, on_epoch=on_epoch, process_started=process_started)
    return record.with_changes(execution_resolved={"faults": faults})


def imports(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Trains for real, and tells what had to be imported for that after the fork."""
    from mnistbench.train.train import train_cell

    before = set(sys.modules)
    record = train_cell(job, on_epoch=on_epoch, process_started=process_started)
    return record.with_changes(execution_resolved={"imported": sorted(set(sys.modules) - before)})


def placed(job: Job, *, on_epoch: OnEpoch, process_started: float) -> CellRecord:
    """Trains nothing, on the machine that `$PLACED_ON` names; keeps weights that say whose they are; seed 1 fails where
    `$PLACED_FAILS` is set.
    """
    from synthetic import make_environment

    if job.cell.seed == 1 and os.environ.get("PLACED_FAILS"):
        raise ValueError("seed 1 fails")
    record = quick(job, on_epoch=on_epoch, process_started=process_started)
    if job.weights_directory is not None:
        (Path(job.weights_directory) / "last.safetensors").write_text(job.record_id)
    return record.with_changes(environment=make_environment(os.environ["PLACED_ON"]))
