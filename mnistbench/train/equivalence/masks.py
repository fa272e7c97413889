"""Random masks, of dropout and of leaky slopes: how to leave them out, and whether a path draws them as it should."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mnistbench.train.equivalence.gates import Finding, Pair, copied, flat
from mnistbench.train.equivalence.reference import Batch, Reference, TrainingPath, dense

RANDOM_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def is_random(model: nn.Module) -> bool:
    """Whether a network in training mode draws masks or slopes, in layers of torch's."""
    for layer in model.modules():
        if not layer.training:  # some networks keep a part of theirs in evaluation mode
            continue
        if isinstance(layer, nn.MultiheadAttention) and layer.dropout > 0:
            return True
        if isinstance(layer, RANDOM_LAYERS) and layer.p > 0:
            return True
        if isinstance(layer, nn.RReLU) and layer.lower < layer.upper:
            return True
    return False


def silence(model: nn.Module) -> None:
    """From now on dropout drops nothing, and RReLU has its mean slope."""
    for layer in model.modules():
        if isinstance(layer, RANDOM_LAYERS):
            layer.p = 0.0
        elif isinstance(layer, nn.MultiheadAttention):
            layer.dropout = 0.0
        elif isinstance(layer, nn.RReLU):
            layer.lower = layer.upper = (layer.lower + layer.upper) / 2


REFERENCE_CALLS, REFERENCE_BATCH, BATCHNORM_EXAMPLES = 96, 32, 4
MOST_EXAMPLES = 65_536
"""Trained by the path that is checked, over all its calls."""
COORDINATES = 20_000
MOST_KURTOSIS = 5.0
SCATTER_TOLERANCE = 0.25
"""Of the logarithm; a mask shared by two chunks is off by 0.69, a drop rate of 0.33 for 0.25 by 0.39."""


def check_masks(reference: Reference, path: TrainingPath, batch: Pair) -> list[Finding]:
    """Random masks are drawn anew for each step, chunk and example, and keep as many as they should.

    A batch repeats one example, at fixed weights, so that masks are all that differs between calls. Neither losses of
    whole steps nor gradients may repeat, and gradients must scatter as widely as the reference's, within 4 standard
    errors: a mask that k chunks share scatters them k times as widely, and a keep-rate q in place of p
    (1 - q) p / (q (1 - p)) times.

    BatchNorm makes equal examples zero, and ties those of a batch together, so that the scatter depends on their number
    in a way of its own: there a batch repeats four examples, and both sides take batches of one size.
    """
    begin = copied(reference.model.state_dict())
    few = min(len(batch[0][1]), REFERENCE_BATCH)
    has_batchnorm = any(isinstance(layer, _BatchNorm) for layer in reference.model.modules())
    examples = few if has_batchnorm else len(batch[0][1])
    different = BATCHNORM_EXAMPLES if has_batchnorm else 1
    plain_batch, timed_batch = _repeated(batch[0], different, few), _repeated(batch[1], different, examples)
    losses = []
    for _ in range(3):
        path.restore(begin)
        losses.append(path.train_step(timed_batch, 1.0))
    findings = [Finding("masks repeated between steps", 1.0 if len(set(losses)) == 1 else 0.0, 0.0)]
    reference.restore(begin)
    path.restore(begin)
    where = _coordinates(reference, plain_batch)
    if len(where):
        plain = _gradients(reference, plain_batch, where, REFERENCE_CALLS)
        drawn = _gradients(path, timed_batch, where, max(8, min(REFERENCE_CALLS, MOST_EXAMPLES // examples)))
        repeated = bool((drawn[1:] == drawn[:-1]).all(dim=1).any())
        findings.append(Finding("masks repeated between gradients", float(repeated), 0.0))
        findings.append(_scatter(drawn, plain * math.sqrt(few / examples)))
    reference.restore(begin)
    path.restore(begin)
    return findings


def _coordinates(reference: Reference, batch: Batch) -> Tensor:
    """Of all numbers of the gradient, some that masks change."""
    changing = torch.nonzero(_gradient(reference, batch) != _gradient(reference, batch)).squeeze(1)
    chosen = torch.randperm(len(changing), generator=torch.Generator().manual_seed(0))[:COORDINATES]
    return changing[chosen]


def _gradients(path: TrainingPath, batch: Batch, where: Tensor, calls: int) -> Tensor:
    """One row a call."""
    return torch.stack([_gradient(path, batch)[where] for _ in range(calls)])


def _gradient(path: TrainingPath, batch: Batch) -> Tensor:
    return flat(dense(path.model, path.gradients(batch)))


def _scatter(drawn: Tensor, plain: Tensor) -> Finding:
    """Log ratio of the mean squared deviations, each coordinate in units of its own deviation in `plain`."""
    unit = plain.std(dim=0)
    # A coordinate that moves in rare events only has a deviation that a hundred calls cannot estimate.
    kurtosis = ((plain - plain.mean(dim=0)) / unit).pow(4).mean(dim=0)
    unit[~(kurtosis < MOST_KURTOSIS)] = math.inf
    squares = []
    for rows in (drawn / unit, plain / unit):
        deviations = (rows - rows.mean(dim=0)).square().mean(dim=1) * len(rows) / (len(rows) - 1)
        squares.append(deviations)
    timed, expected = squares
    if float(expected.mean()) == 0:
        return Finding("masks' scatter", 0.0, 0.0)
    if float(timed.mean()) == 0:
        return Finding("masks' scatter", math.inf, 0.0)
    ratio = abs(math.log(float(timed.mean() / expected.mean())))
    error = math.hypot(*(float(each.std() / each.mean()) / math.sqrt(len(each)) for each in squares))
    return Finding("masks' scatter", ratio, max(4 * error, SCATTER_TOLERANCE))


def _repeated(batch: Batch, different: int, examples: int) -> Batch:
    """The first few examples over and over."""
    chosen = torch.arange(examples, device=batch[1].device) % min(different, len(batch[1]))
    return batch[0][chosen], batch[1][chosen]
