"""Gates G0 to G3: does a path train what the reference trains?

Each gate measures an error and the tolerance it is held against, and returns both; `check.py` decides what they
mean for a cell. The planted faults in the tests say what the gates must see.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mnistbench.train.equivalence.reference import Batch, Reference, TrainingPath, dense
from mnistbench.train.machine import seed_everything

if TYPE_CHECKING:
    from mnistbench.train.equivalence.timed_path import TimedPath

GRADIENT_TOLERANCE = {
    ("cpu", "fp32"): 1e-5,
    ("cuda", "fp32"): 1e-3,
    ("mps", "fp32"): 1e-4,
    ("cuda", "tf32"): 1e-2,
    ("cuda", "fp16"): 1e-2,
    ("cpu", "bf16"): 5e-2,
    ("cuda", "bf16"): 5e-2,
    ("mps", "bf16"): 5e-2,
}
"""G1, relative L2 by device and precision. CUDA's for fp32 holds cuDNN's Winograd engines, which were off by up to 8e-4
on an H200 (docs/performance.md); tf32, fp16, bf16 and MPS are proposals until they are calibrated."""

UPDATE_TOLERANCE = 1e-5
LOSS_TOLERANCE = {"cuda": 1e-3}
USUAL_LOSS_TOLERANCE = 1e-4
"""G3's losses, relative, by device: five steps of Adam on an H200 were off by 2.7e-4 where the gradients had passed."""
FIRST_UPDATE_TOLERANCE = 1e-2
ROUNDING_ALLOWANCE = 10.0
"""How far beyond the rounding error of the plain path another path may be off."""
OWN_ROUNDING_LIMIT = 1e-2
"""No network's own rounding excuses more than this."""

PARTS = 7
"""Of a batch; odd, for the median."""
REFERENCE_STEPS, UPDATE_STEPS, LOSS_STEPS = 20, 10, 5
LARGEST_REFERENCE_STEP = 256
"""Examples of each of the steps that only lead away from the initial weights; larger batches would teach the gate
nothing and cost minutes."""
LARGEST_LOSS_STEP = 1024
"""Examples of each of G3's steps, and of G1's batches after its 20 steps. G1 has then looked at a whole batch; more of
8192 in plain PyTorch cost minutes."""
LATER_GRADIENT = f"G1 gradient after {REFERENCE_STEPS} steps"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Finding:
    """What one gate measured.

    Attributes:
        gate: `G1 gradient`, ...; what is exact or not is named by its fault, `G0 other weights`.
        error, tolerance: the same unit; `error <= tolerance` passes, 0 for what must be exact.
    """

    gate: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """False also where the error is no number."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        if self.tolerance == 0:
            return self.gate
        return f"{self.gate} {_short(self.error)} {'<=' if self.passed else '>'} {_short(self.tolerance)}"


Pair = tuple[Batch, Batch]
"""The same batch as the reference reads it, and as the path does."""


def exact(
    reference: Reference, path: TrainingPath, *, first: int | None = None, epochs: Sequence[int] = (1, 2)
) -> tuple[list[Finding], list[Pair]]:
    """G0: initial weights, order of examples, raw inputs and labels are the same to the bit.

    Args:
        first: look at only so many batches of an epoch, and its last one, where reading all of them takes long.

    Returns:
        The findings; and for the other gates the first batches and the last one of the first of these epochs, as both
        sides read them.
    """
    ours, theirs = reference.model.state_dict(), path.model.state_dict()
    weights = ours.keys() == theirs.keys() and all(_same(ours[name], theirs[name]) for name in _tensors(ours))
    findings, kept = [_exactly("G0 other weights", weights)], list[Pair]()
    for epoch in epochs:
        batches, inputs, labels, last = True, True, True, None
        for expected, given in itertools.zip_longest(reference.epoch(epoch, first), path.epoch(epoch, first)):
            if expected is None or given is None or len(expected[1]) != len(given[1]):
                batches = False
                break
            is_float = given[0].is_floating_point()
            inputs &= _same(reference.as_floats(expected[0]) if is_float else expected[0], given[0])
            labels &= _same(expected[1], given[1])
            last = (expected, given)
            if epoch == epochs[0] and len(kept) < LOSS_STEPS:
                kept.append((expected, _cloned(given)))  # a path may use its buffers again
                last = None
        if epoch == epochs[0] and last is not None:
            kept.append((last[0], _cloned(last[1])))
        findings.append(_exactly(f"G0 other batches in epoch {epoch}", batches))
        findings.append(_exactly(f"G0 other inputs in epoch {epoch}", inputs))
        findings.append(_exactly(f"G0 other labels in epoch {epoch}", labels))
    return findings, kept


def gradient(
    reference: Reference,
    path: TrainingPath,
    batches: Sequence[Pair],
    tolerance: float,
    *,
    steps: int = REFERENCE_STEPS,
) -> list[Finding]:
    """G1: gradients at the initial weights, after 20 steps of the reference, and on the tail batch.

    Rounding can flip a ReLU whose input is zero up to rounding, and BatchNorm amplifies it. So where the tolerance is
    exceeded both paths are held against the gradient in double precision, and a path may be 10 times as far off as
    the plain one; of three batches the median counts, since a fault shows on each and a flip on few.

    Both paths draw from the same random state, so that masks of a network's own (functional dropout, layers left out
    at random) are the same on both sides.

    Args:
        steps: fewer than 20 for optimizers of others that refuse to take more steps than a training has.
    """
    begin, paths = copied(reference.model.state_dict()), (reference, path)
    first, tail = batches[0], batches[-1]
    findings = [_gradient_at("G1 gradient", paths, begin, batches[:3], tolerance)]
    reference.restore(begin)
    for (inputs, labels), _ in itertools.islice(itertools.cycle(batches), steps):
        reference.train_step((inputs[:LARGEST_REFERENCE_STEP], labels[:LARGEST_REFERENCE_STEP]), 1.0)
    later = copied(reference.model.state_dict())
    if all(bool(value.isfinite().all()) for value in _tensors(later).values()):
        smaller = [_cut(batch, LARGEST_LOSS_STEP) for batch in batches[:3]]
        findings.append(_gradient_at(LATER_GRADIENT, paths, later, smaller, tolerance))
        if len(tail[0][1]) != len(first[0][1]):
            tails = [tail, *(_cut(batch, len(tail[0][1])) for batch in batches[:2])]
            findings.append(_gradient_at("G1 gradient of the tail batch", paths, later, tails, tolerance))
    reference.restore(begin)
    path.restore(begin)
    return findings


def update(
    reference: Reference,
    path: TrainingPath,
    *,
    scheduled: bool,
    tolerance: float = UPDATE_TOLERANCE,
    steps: int = UPDATE_STEPS,
) -> Finding:
    """G2: the same gradients for 10 steps move the weights equally.

    Muon multiplies matrices in bf16, where the order of accumulation shows. So where the tolerance is exceeded, 10
    times what another order of the matrices' rows and columns does to the reference is allowed, too; that is nothing
    for an optimizer that takes each number by itself.

    Args:
        scheduled: a schedule changes the learning rates of the cell; without one the optimizer's own are left alone.
        steps: as in `gradient`.
    """
    begin = copied(reference.model.state_dict())
    drawn = [_drawn_gradients(reference.model, step) for step in range(steps)]
    factors = [1.0 - 0.5 * step / UPDATE_STEPS if scheduled else 1.0 for step in range(steps)]
    moved, theirs_moved = _moved(reference, begin, drawn, factors), _moved(path, begin, drawn, factors)
    names = [name for name, each in reference.model.named_parameters() if each.requires_grad]
    start = flat([begin[name] for name in names])
    error = relative_error(flat(theirs_moved), flat(moved))
    allowed = max(tolerance, math.sqrt(UPDATE_STEPS) * _resolution(start, flat(moved), reference.model))
    if not error <= allowed:
        reordered = {name: _reordered(value) for name, value in begin.items()}
        turned = [[None if each is None else _reordered(each) for each in gradients] for gradients in drawn]
        again = map(_reordered, _moved(reference, reordered, turned, factors))
        own = ROUNDING_ALLOWANCE * relative_error(flat(again), flat(moved))
        allowed = max(allowed, min(own, OWN_ROUNDING_LIMIT))
    reference.restore(begin)
    path.restore(begin)
    return Finding("G2 update", error, allowed)


def needs_forward(reference: Reference) -> bool:
    """Whether the optimizer fails on gradients that nobody computed: it looks at the layers' inputs, as K-FAC does."""
    begin = copied(reference.model.state_dict())
    try:
        _moved(reference, begin, [_drawn_gradients(reference.model, 0)], [1.0])
    except Exception:  # whatever it misses
        return True
    finally:
        reference.restore(begin)
    return False


def _drawn_gradients(model: nn.Module, step: int) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(step)
    gradients: list[Tensor | None] = []
    for each in model.parameters():
        drawn = torch.randn(each.shape, generator=generator)
        drawn[torch.rand(each.shape, generator=generator) < 0.1] = 0.0  # as those of dark pixels
        gradients.append(drawn if each.requires_grad else None)
    return gradients


def _moved(
    path: TrainingPath, begin: State, gradients: Sequence[Sequence[Tensor | None]], factors: Sequence[float]
) -> list[Tensor]:
    """By how much each parameter that is trained has moved after these gradients."""
    path.restore(begin)
    for step, (given, factor) in enumerate(zip(gradients, factors, strict=True)):
        seed_everything(step)
        path.apply([None if each is None else each.to(_device(path)) for each in given], factor)
    trained = [name for name, each in path.model.named_parameters() if each.requires_grad]
    end = path.model.state_dict()
    return [end[name].detach().cpu().double() - begin[name].cpu().double() for name in trained]


def _device(path: TrainingPath) -> torch.device:
    return next(path.model.parameters()).device


def _reordered(value: Tensor) -> Tensor:
    """A matrix with its rows and its columns in the opposite order; twice is none. Everything else as it is."""
    return value.flip(0, 1) if value.dim() == 2 else value


def loss(
    reference: Reference, path: TrainingPath, batches: Sequence[Pair], *, factors: Sequence[float]
) -> list[Finding]:
    """G3: losses and buffers of a few steps of at most 1024 examples, and what the first does to the weights.

    Longer is chaos.

    Allowed is max(1e-4, 10 times what a change of the weights by one unit in the last place does to the reference), on
    CUDA max(1e-3, ...); of the first update 1e-2, since Adam turns a gradient that is all rounding into a step of full
    size. A ReLU that flips
    at one example does the same to a row of weights: where that is too much, the median over three orders of the
    batches counts, since a fault shows in each.

    Args:
        reference, path: what is compared.
        batches: taken in turn, over and over where they are fewer than the steps.
        factors: of the learning rates at each step: those of the cell's first steps, since the peak of a one-cycle
            schedule is chaos from the first step on.
    """
    begin = copied(reference.model.state_dict())
    batches = [_cut(batch, LARGEST_LOSS_STEP) for batch in batches]
    by_order: list[list[Finding]] = []
    for first in range(min(3, len(batches))):
        plain, timed = zip(*itertools.islice(itertools.cycle(batches), first, first + len(factors)), strict=True)
        ours, theirs = _run(reference, begin, plain, factors), _run(path, begin, timed, factors)
        device = _device(path).type
        findings = _held_against(theirs, ours, None, device)
        if not all(finding.passed for finding in findings):  # the drift costs as much again, and is seldom needed
            drifted = _run(reference, _nudged(begin, reference.model), plain, factors)
            findings = _held_against(theirs, ours, drifted, device)
        by_order.append(findings)
        if all(finding.passed for finding in by_order[0]):
            break
    reference.restore(begin)
    path.restore(begin)
    return sorted(by_order, key=lambda findings: max(map(_excess, findings)))[len(by_order) // 2]


def together(path: TimedPath, batches: Sequence[Pair], *, factor: float) -> Finding:
    """G3 for a graph of several steps: they come to the losses that the same steps come to one by one."""
    state = copied(path.model.state_dict())
    whole = [ours for _, ours in batches if len(ours[1]) == len(batches[0][1][1])]
    taken = list(itertools.islice(itertools.cycle(whole), path.together))
    factors = [factor] * len(taken)
    alone = [path.train_step(batch, factor) for batch in taken]
    path.restore(state)
    error = _largest_difference(path.train_steps(taken, factors), alone)
    path.restore(state)
    return Finding("G3 steps at once", error, USUAL_LOSS_TOLERANCE)


def relative_error(given: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of what was expected; not finite where `found` is not, unless both are."""
    if torch.equal(given.nan_to_num(nan=0.5), expected.nan_to_num(nan=0.5)):
        return 0.0
    size = float(expected.norm())
    difference = float((given - expected).norm())
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / size


def _gradient_at(
    name: str,
    paths: tuple[Reference, TrainingPath],
    state: State,
    batches: Sequence[Pair],
    tolerance: float,
) -> Finding:
    """The gradient of the first batch; where it is off by more than the tolerance, the median over two more.

    In a large batch of pictures that are much alike (`digits`), some flip is the rule. So where the median is off, too,
    but by less than a fault in part of the batch would be, parts are held against each other, each filling a batch.
    """
    findings: list[Finding] = []
    for batch in batches:
        findings.append(_gradient_of(name, paths, state, batch, tolerance))
        if findings[0].passed:
            return findings[0]
    whole = _median(findings)
    if whole.passed or whole.error > OWN_ROUNDING_LIMIT or len(batches[0][0][1]) < PARTS:
        return whole
    parts = [_gradient_of(name, paths, state, _filled(batches[0], part), tolerance) for part in range(PARTS)]
    return _median(parts)


def _median(findings: Sequence[Finding]) -> Finding:
    return sorted(findings, key=_excess)[len(findings) // 2]


def _excess(finding: Finding) -> float:
    """The error in units of its tolerance; infinite where it is no number."""
    return finding.error / finding.tolerance if math.isfinite(finding.error) else math.inf


def _gradient_of(
    name: str, paths: tuple[Reference, TrainingPath], state: State, batch: Pair, tolerance: float
) -> Finding:
    reference, path = paths
    reference.restore(state)
    path.restore(state)
    theirs, ours = _drawn(path, batch[1]), _drawn(reference, batch[0])
    if [each is None for each in theirs] != [each is None for each in ours]:
        return Finding(f"{name}: one is missing, or there is one too many", math.inf, 0.0)
    timed, plain = flat(dense(path.model, theirs)), flat(dense(reference.model, ours))
    error = relative_error(timed, plain)
    if error <= tolerance or tolerance > GRADIENT_TOLERANCE["cuda", "fp32"]:
        return Finding(name, error, tolerance)
    reference.restore(state)
    seed_everything(0)
    try:
        exactly = flat(dense(reference.model, reference.exact_gradients(batch[0])))
    except RuntimeError:  # a network that cannot run in double precision
        return Finding(name, error, tolerance)
    own = min(ROUNDING_ALLOWANCE * relative_error(plain, exactly), OWN_ROUNDING_LIMIT)
    return Finding(name, relative_error(timed, exactly), max(tolerance, own))


def _drawn(path: TrainingPath, batch: Batch) -> Sequence[Tensor | None]:
    seed_everything(0)
    return path.gradients(batch)


def _held_against(found: _Run, expected: _Run, drifted: _Run | None, device: str) -> list[Finding]:
    def errors(run: _Run | None) -> tuple[float, float, float]:
        if run is None:
            return 0.0, 0.0, 0.0
        return (
            _largest_difference(run.losses, expected.losses),
            relative_error(run.moved, expected.moved),
            relative_error(run.buffers, expected.buffers),
        )

    gates = ("G3 loss", "G3 first update", "G3 buffers")
    of_loss = LOSS_TOLERANCE.get(device, USUAL_LOSS_TOLERANCE)
    least = (of_loss, max(FIRST_UPDATE_TOLERANCE, expected.resolution), of_loss)
    return [
        Finding(gate, error, max(tolerance, ROUNDING_ALLOWANCE * drift))
        for gate, error, tolerance, drift in zip(gates, errors(found), least, errors(drifted), strict=True)
    ]


@dataclass(frozen=True)
class _Run:
    losses: list[float]
    moved: Tensor
    buffers: Tensor
    resolution: float


def _run(path: TrainingPath, state: State, batches: Sequence[Batch], factors: Sequence[float]) -> _Run:
    path.restore(state)
    before = flat(path.model.parameters())
    losses: list[float] = []
    for step, (batch, factor) in enumerate(zip(batches, factors, strict=True)):
        seed_everything(step)
        losses.append(path.train_step(batch, factor))
        if step == 0:
            moved = flat(path.model.parameters()) - before
    resolution = _resolution(before, moved, path.model)
    buffers = flat([buffer for buffer in path.model.buffers() if buffer.is_floating_point()])
    return _Run(losses, moved, buffers, resolution)


def _nudged(state: State, model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    nudged = dict(state)
    for name, _ in model.named_parameters():
        up = torch.rand(state[name].shape, generator=generator) < 0.5
        nudged[name] = torch.nextafter(state[name], torch.where(up, math.inf, -math.inf).to(state[name].dtype))
    return nudged


def _cloned(batch: Batch) -> Batch:
    return batch[0].clone(), batch[1].clone()


def _cut(pair: Pair, examples: int) -> Pair:
    (inputs, labels), (their_inputs, their_labels) = pair
    return (inputs[:examples], labels[:examples]), (their_inputs[:examples], their_labels[:examples])


def _filled(pair: Pair, part: int) -> Pair:
    """A batch of the same size, of a part of its examples over and over: shapes and chunks stay as they are timed."""
    (inputs, labels), (their_inputs, their_labels) = pair
    examples = len(labels)
    length = examples // PARTS
    chosen = part * length + torch.arange(examples) % length
    theirs = chosen.to(their_labels.device)
    return (inputs[chosen], labels[chosen]), (their_inputs[theirs], their_labels[theirs])


def _resolution(weights: Tensor, moved: Tensor, model: nn.Module) -> float:
    """Relative error that is left when an update is read off weights of fp32, or coarser ones, which may be larger."""
    if not moved.any():
        return 0.0
    kinds = {each.dtype for each in model.parameters() if each.is_floating_point()} | {torch.float32}
    return max(torch.finfo(kind).eps for kind in kinds) * max(1.0, float(weights.norm() / moved.norm()))


def _largest_difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """Relative, up to where both have left the numbers."""
    largest = 0.0
    for one, other in zip(losses, expected, strict=True):
        if not math.isfinite(one) and not math.isfinite(other):
            break
        difference = abs(one - other) / max(abs(other), 1e-12)
        largest = max(largest, difference) if math.isfinite(difference) else math.inf
    return largest


def _exactly(gate: str, same: bool) -> Finding:
    return Finding(gate, 0.0 if same else math.inf, 0.0)


def _same(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and bool(torch.equal(ours.cpu(), theirs.detach().cpu().to(ours.dtype)))


def copied(state: State) -> dict[str, Tensor]:
    """The same on the CPU, safe from what trains on."""
    tensors = {name: value.detach().cpu().clone() for name, value in _tensors(state).items()}
    return {name: tensors.get(name, value) for name, value in state.items()}


def _tensors(state: State) -> dict[str, Tensor]:
    """A network's extra state may be anything."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers in one row of doubles, on the CPU."""
    whole = (torch.view_as_real(each.detach().resolve_conj()) if each.is_complex() else each for each in tensors)
    rows = [each.detach().cpu().double().reshape(-1) for each in whole]
    return torch.cat(rows) if rows else torch.zeros(0)


def _short(number: float) -> str:
    """`1.6e-1`, `1e-5`."""
    return f"{number:.1e}".replace("e-0", "e-").replace("e+0", "e+").replace(".0e", "e")
