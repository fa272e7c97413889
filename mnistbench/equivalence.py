"""The gate before any ratio is printed: is what the levers speed up still the same training?

`check` holds the path that is timed against the plain one (`gate/reference.py`) through the gates G0 to G3
(`gate/gates.py`), once per machine, versions and cell without its seed, and keeps the answer with its figures in the
user's cache. G4, the outcome over ten seeds, is judged from records, in the analysis.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench.cell import Cell, canonical_json

if TYPE_CHECKING:
    from torch import nn

    from mnistbench.execution import Levers
    from mnistbench.gate.gates import Finding
    from mnistbench.gate.reference import Reference, TrainingPath
    from mnistbench.plugins import Plugins
    from mnistbench.worker import Job

GATE_VERSION = 3
"""Goes up when a gate or a tolerance changes, so that no older answer is believed."""

PREPARED = {"allocator", "isolation", "stepped_aside", "threads"}
"""Levers that leave the plain path the plain path."""

Prepare = Callable[["nn.Module"], None]
MakePath = Callable[[Prepare], "TrainingPath"]
"""Builds the path that is timed anew from the cell's seed; calls what it is given on the network, before anything is
planned, compiled or captured."""


def check(
    cell: Cell,
    levers: Mapping[str, Any],
    data_directory: Path,
    make_path: MakePath,
    *,
    plugins: Plugins | None = None,
    folder: Path | None = None,
) -> str:
    """Whether the timed path trains what the plain one trains.

    Takes as long as some hundred steps at the first time; later the answer is read from the cache.

    Args:
        cell: what is trained.
        levers: as they were resolved, `execution_resolved` of the record.
        data_directory: of the prepared data.
        make_path: builds the path that is timed.
        plugins: the modules that the command line named.
        folder: where answers are kept, the user's cache if None.

    Returns:
        `reference` (this is the plain path), `passed`, `equivalent up to masks` (dropout), `outcome untested` (reduced
        precision: only outcomes of ten seeds can tell), or `failed: ` and the first gate that failed, with its figures.
    """
    if is_reference(cell, levers):
        return "reference"
    kept = _kept_answer(cell, levers, folder)
    if (answer := _read(kept)) is not None:
        return answer
    try:
        findings, random = compare(cell, levers, data_directory, make_path, plugins=plugins)
    except Exception as error:  # a gate that cannot be passed must not cost the training its record
        line = (str(error) or "no message").splitlines()[0]
        return f"failed: the gate could not be run, {type(error).__name__}: {line}"
    answer = verdict(findings, str(levers["precision"]), random=random)
    _write(kept, answer, findings, cell, levers)
    return answer


def check_job(job: Job, levers: Levers) -> str:
    """`check`, for what `train_cell` was given and the levers that it resolved."""
    import torch

    from mnistbench.plugins import load_plugins

    def make_path(prepare: Prepare) -> TrainingPath:
        from mnistbench.gate.timed_path import TimedPath
        from mnistbench.training.trainee import make_trainee
        from mnistbench.training.warmup import choose, warm_up

        replayed = replace(job, resolved=levers.to_json())
        trainee = choose(replayed, make_trainee(replayed, torch.device(job.cell.device), prepare))
        warm_up(trainee, job.cell.seed)
        return TimedPath(trainee)

    plugins = load_plugins(job.plugins)
    return check(job.cell, levers.to_json(), Path(job.data_directory), make_path, plugins=plugins)


def is_reference(cell: Cell, levers: Mapping[str, Any]) -> bool:
    """Whether the path is the plain profile on the CPU, without a lever that touches the training."""
    from mnistbench.execution import plain

    changed = {key: value for key, value in plain().to_json().items() if key not in PREPARED}
    return cell.device == "cpu" and all(levers.get(key) == value for key, value in changed.items())


def compare(
    cell: Cell,
    levers: Mapping[str, Any],
    data_directory: Path,
    make_path: MakePath,
    *,
    plugins: Plugins | None = None,
) -> tuple[list[Finding], bool]:
    """Run the gates.

    Returns:
        What each measured, and whether the network draws random masks.
    """
    import torch

    from mnistbench.gate import gates, masks
    from mnistbench.optimizers import lr_factors, scaled_lr

    device, precision = cell.device.split(":")[0], str(levers["precision"])
    lr = scaled_lr(cell.optimizer, cell.batch_size)
    with torch.random.fork_rng(devices=[cell.device] if device == "cuda" else []):
        loud = make_reference(cell, data_directory, plugins)
        random = masks.is_random(loud.model)
        reference = make_reference(cell, data_directory, plugins, masks.silence) if random else loud
        path = make_path(masks.silence if random else _as_it_is)
        findings, batches = gates.exact(reference, path)
        if not all(finding.passed for finding in findings):
            return findings, random  # other batches have other gradients
        total_steps = sum(1 for _ in reference.epoch(1)) * cell.training.epochs
        tolerance = gates.GRADIENT_TOLERANCE.get((device, precision), gates.GRADIENT_TOLERANCE["cpu", "fp32"])
        findings += gates.gradient(reference, path, batches, tolerance, lr=lr)
        findings += [gates.update(reference, path, lr=lr, tolerance=gates.UPDATE_TOLERANCE)]
        if precision == "fp32":
            rates = [lr * factor for factor in lr_factors(cell.schedule, total_steps)[: gates.LOSS_STEPS]]
            findings += gates.loss(reference, path, batches, rates=rates)
        if random:
            del path
            findings += masks.check_masks(loud, make_path(_as_it_is), batches[0], lr=lr)
    return findings, random


def make_reference(
    cell: Cell, data_directory: Path, plugins: Plugins | None = None, prepare: Prepare | None = None
) -> Reference:
    """The plain path of a cell, its weights and order of examples drawn from the cell's seed."""
    import torch

    from mnistbench import architectures, optimizers
    from mnistbench.data.arrays import load
    from mnistbench.gate.reference import Reference, trainable
    from mnistbench.reproducibility import order_of_examples, seed_everything

    arrays = load(data_directory)
    seed_everything(cell.seed)
    model = architectures.build(cell.architecture, arrays.spec, plugins)
    if prepare is not None:
        prepare(model)
    model.train()
    training = cell.training
    everything = arrays.spec.train_examples
    chosen = torch.arange(everything)
    if training.validation_examples:
        held_out_last = order_of_examples(everything, 0, -1, shuffle=True)
        chosen = held_out_last[: everything - training.validation_examples]
    order: dict[int, Any] = {
        epoch: chosen[order_of_examples(len(chosen), cell.seed, epoch, shuffle=training.shuffle)].split(cell.batch_size)
        for epoch in (1, 2)
    }
    return Reference(
        model,
        optimizers.build(cell.optimizer, trainable(model), plugins),
        arrays,
        order,
        loss=training.loss,
        normalize=bool(cell.dataset.options.get("normalize")),
    )


def verdict(findings: Sequence[Finding], precision: str, *, random: bool) -> str:
    """The answer in words, as records keep it."""
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        return f"failed: {failed[0]}"
    if precision != "fp32":
        return "outcome untested"
    return "equivalent up to masks" if random else "passed"


def _as_it_is(model: nn.Module) -> None:
    """Prepares nothing."""


def _kept_answer(cell: Cell, levers: Mapping[str, Any], folder: Path | None) -> Path:
    from mnistbench.data.cache import cache_folder

    asked = canonical_json({**_versions(cell.device), "cell": cell.without_seed(), "levers": dict(levers)})
    name = hashlib.sha256(asked.encode()).hexdigest()[:20]
    return (folder or cache_folder() / "equivalence") / f"{name}.json"


@functools.cache
def _versions(device: str) -> dict[str, Any]:
    import torch

    from mnistbench.reproducibility import machine_id

    model = torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") else device
    return {
        "gate": GATE_VERSION,
        "machine": machine_id(),
        "device": model,
        "torch": torch.__version__,
        "source": _source_sha256(),
    }


def _source_sha256() -> str:
    """Checksum of the code that trains: a lever that was changed is checked anew."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    rooms = (here / name for name in ("data", "gate", "training"))
    for file in sorted([*here.glob("*.py"), *(file for room in rooms for file in room.rglob("*.py"))]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _read(kept: Path) -> str | None:
    from mnistbench.storage.atomic import read_answer

    answer = (read_answer(kept) or {}).get("answer")
    return answer if isinstance(answer, str) else None


def _write(kept: Path, answer: str, findings: Sequence[Finding], cell: Cell, levers: Mapping[str, Any]) -> None:
    from mnistbench.storage.atomic import write_answer

    figures = [{"gate": each.gate, "error": repr(each.error), "tolerance": each.tolerance} for each in findings]
    content = {
        "answer": answer,
        "findings": figures,
        "cell": cell.to_json(),
        "levers": dict(levers),
        "versions": _versions(cell.device),
        "checked_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_answer(kept, content)
