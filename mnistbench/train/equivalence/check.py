"""The gate before any ratio is printed: is what the levers speed up still the same training?

`check` holds the path that is timed against the plain one (`reference.py`) through the gates G0 to G3
(`gates.py`), once per machine, versions and cell without its seed, and keeps the answer with its figures in the
user's cache. G4, the outcome over ten seeds, is judged from records, by the report.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench.axes import architectures, optimizers
from mnistbench.axes.execution import plain
from mnistbench.axes.schedules import lr_factors
from mnistbench.cell import Cell, canonical_json
from mnistbench.data.arrays import load
from mnistbench.files.cache_folder import cache_folder
from mnistbench.files.whole import read_answer, write_answer
from mnistbench.results.this_machine import machine_id
from mnistbench.train.machine import order_of_examples, seed_everything

if TYPE_CHECKING:
    from torch import nn

    from mnistbench.axes.plugins import Plugins
    from mnistbench.train.equivalence.gates import Finding
    from mnistbench.train.equivalence.reference import Reference, TrainingPath
    from mnistbench.train.job import Job
    from mnistbench.train.setup import Trainee

GATE_VERSION = 8
"""Goes up when a gate or a tolerance changes, so that no older answer is believed."""

TRAINING_ROOMS = ("axes", "cell", "data", "train")
"""What a training is made of; an edit elsewhere leaves the answers standing."""

READ_BY_LOADER = 4096
"""Examples of an epoch that G0 reads through a DataLoader: all of them would take longer than the training."""

PREPARED = {"allocator", "isolation", "stepped_aside", "threads"}
"""Levers that leave the plain path the plain path."""

OF_OPTIMIZER = ("G2", "G3")
"""Gates that look at the optimizer. The others look at network, batches and step: for optimizers of ours, which change
neither, once per network and batch size is enough."""

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
    asks: str = "step",
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
        asks: how the optimizer wants to be called.
        plugins: the modules that the command line named.
        folder: where answers are kept, the user's cache if None.

    Returns:
        `reference` (the plain profile, which passed as well), `passed`, `equivalent up to masks` (dropout), `outcome
        untested` (reduced precision: only outcomes of ten seeds can tell), or `failed: ` and the first gate that
        failed, with its figures.
    """
    from mnistbench.train.equivalence import gates

    kept = _kept_answer(cell.without_seed(), cell, levers, folder)
    if (answer := _read(kept)) is not None:
        return answer
    of_network = _kept_answer(_network_of(cell), cell, levers, folder)
    of_network = of_network.parent / "networks" / of_network.name
    try:
        findings, random = compare(
            cell,
            levers,
            data_directory,
            make_path,
            asks=asks,
            plugins=plugins,
            network_passed=_read(of_network) is not None,
        )
    except Exception as error:  # a gate that cannot be passed must not cost the training its record
        line = (str(error) or "no message").splitlines()[0]
        return f"failed: the gate could not be run, {type(error).__name__}: {line}"
    answer = verdict(findings, str(levers["precision"]), random=random)
    if is_reference(cell, levers) and not answer.startswith("failed"):
        answer = "reference"
    _write(kept, answer, findings, cell, levers)
    others = [finding for finding in findings if not finding.gate.startswith(OF_OPTIMIZER)]
    if any(finding.gate == gates.LATER_GRADIENT for finding in others) and all(each.passed for each in others):
        _write(of_network, "passed", others, cell, levers)
    return answer


def check_trainee(job: Job, trainee: Trainee) -> str:
    """`check`, for what `train_cell` has trained: its network, optimizer and step built anew."""
    import torch

    def make_path(prepare: Prepare) -> TrainingPath:
        from mnistbench.train.equivalence.timed_path import TimedPath
        from mnistbench.train.warmup import warm_up

        fresh = trainee.anew(prepare=prepare)
        warm_up(fresh, job.cell.seed)
        return TimedPath(fresh, prepare)

    threads = torch.get_num_threads()
    try:
        return check(
            job.cell,
            trainee.levers.to_json(),
            Path(job.data_directory),
            make_path,
            asks=trainee.update.asks,
            plugins=trainee.builder.plugins,
        )
    finally:
        torch.set_num_threads(threads)  # a network's constructor may have changed it


def is_reference(cell: Cell, levers: Mapping[str, Any]) -> bool:
    """Whether the path is the plain profile on the CPU, without a lever that touches the training."""

    changed = {key: value for key, value in plain().to_json().items() if key not in PREPARED}
    return cell.device == "cpu" and all(levers.get(key) == value for key, value in changed.items())


def compare(
    cell: Cell,
    levers: Mapping[str, Any],
    data_directory: Path,
    make_path: MakePath,
    *,
    asks: str = "step",
    plugins: Plugins | None = None,
    network_passed: bool = False,
) -> tuple[list[Finding], bool]:
    """Run the gates.

    Args:
        network_passed: this network has passed G0, G1 and the look at its masks, with this batch size and these levers
            and another optimizer. What is left is a short look at weights and first batches, G2 and G3.

    Returns:
        What each measured, and whether the network draws random masks.
    """
    import torch

    from mnistbench.train.equivalence import gates, masks
    from mnistbench.train.equivalence.timed_path import TimedPath

    device, precision = cell.device.split(":")[0], str(levers["precision"])
    with torch.random.fork_rng(devices=[cell.device] if device == "cuda" else []):
        loud = make_reference(cell, data_directory, plugins, asks=asks)
        random = masks.is_random(loud.model)
        reference = make_reference(cell, data_directory, plugins, masks.silence, asks=asks) if random else loud
        path = make_path(masks.silence if random else _as_it_is)
        first = max(1, READ_BY_LOADER // cell.batch_size) if levers["data"] == "loader" else None
        if network_passed:
            findings, batches = gates.exact(reference, path, first=gates.LOSS_STEPS, epochs=(1,))
        else:
            findings, batches = gates.exact(reference, path, first=first)
        if not all(finding.passed for finding in findings):
            return findings, random  # other batches have other gradients
        total_steps = reference.steps(1) * cell.training.epochs
        factors = lr_factors(cell.schedule, total_steps, plugins)
        # Other people's optimizers may refuse to take more steps than the training has, and gradients without a
        # forward pass that they have seen.
        is_theirs = ":" in cell.optimizer.name
        most = total_steps if is_theirs else gates.REFERENCE_STEPS
        tolerance = gates.GRADIENT_TOLERANCE.get((device, precision), gates.GRADIENT_TOLERANCE["cpu", "fp32"])
        if not network_passed:
            findings += gates.gradient(reference, path, batches, tolerance, steps=min(gates.REFERENCE_STEPS, most))
        if asks == "step" and not (is_theirs and gates.needs_forward(reference)):
            steps, scheduled = min(gates.UPDATE_STEPS, most), len(set(factors)) > 1
            findings += [gates.update(reference, path, scheduled=scheduled, steps=steps)]
        if precision == "fp32":
            findings += gates.loss(reference, path, batches, factors=factors[: gates.LOSS_STEPS])
        if isinstance(path, TimedPath) and path.together > 1:
            findings += [gates.together(path, batches, factor=factors[0])]
        if random and not network_passed:
            del path
            findings += masks.check_masks(loud, make_path(_as_it_is), batches[0])
    return findings, random


def make_reference(
    cell: Cell,
    data_directory: Path,
    plugins: Plugins | None = None,
    prepare: Prepare | None = None,
    *,
    asks: str = "step",
) -> Reference:
    """The plain path of a cell, its weights and order of examples drawn from the cell's seed."""
    import torch

    from mnistbench.train.equivalence.reference import Reference

    arrays = load(data_directory)
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

    def make_model() -> nn.Module:
        seed_everything(cell.seed)
        model = architectures.build(cell.architecture, arrays.spec, plugins)
        if prepare is not None:
            prepare(model)
        model.train()
        return model

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        made = optimizers.build_for(cell.optimizer, model, plugins)
        if (scale := optimizers.lr_scale(cell.optimizer, cell.batch_size)) != 1.0:
            for group in made.param_groups:
                group["lr"] = group["lr"] * scale
        return made

    return Reference(
        make_model,
        make_optimizer,
        arrays,
        order,
        loss=training.loss,
        plugins=plugins,
        normalize=bool(cell.data_options.get("normalize")),
        asks=asks,
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


def _network_of(cell: Cell) -> dict[str, Any]:
    """What gates other than those of the optimizer look at."""
    settings = cell.hashed_settings()
    training = cell.training
    network = {key: settings[key] for key in ("dataset", "architecture", "batch_size", "device")}
    network["training"] = [training.loss.shortest_json(), training.shuffle, training.validation_examples]
    if ":" in cell.optimizer.name:  # an optimizer of the user's own may change the network
        network["optimizer"] = settings["optimizer"]
    return network


def _kept_answer(asked_of: str | Mapping[str, Any], cell: Cell, levers: Mapping[str, Any], folder: Path | None) -> Path:

    asked = canonical_json({**_versions(cell.device), "cell": asked_of, "levers": dict(levers)})
    name = hashlib.sha256(asked.encode()).hexdigest()[:20]
    return (folder or cache_folder() / "equivalence") / f"{name}.json"


@functools.cache
def _versions(device: str) -> dict[str, Any]:
    import torch

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
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for room in TRAINING_ROOMS:
        for file in sorted((package / room).rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def _read(kept: Path) -> str | None:

    answer = (read_answer(kept) or {}).get("answer")
    return answer if isinstance(answer, str) else None


def _write(kept: Path, answer: str, findings: Sequence[Finding], cell: Cell, levers: Mapping[str, Any]) -> None:

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
