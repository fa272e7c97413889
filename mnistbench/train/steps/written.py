"""The step written out: forward, backward and loss of a list of layers as plain tensor calls, without autograd.

Autograd's bookkeeping costs a small network more than its arithmetic, and its layers cannot choose their kernels apart.
Layers without a block of their own still go through autograd, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from typing_extensions import override

from mnistbench.axes.losses import Loss, correct, cross_entropy, nll
from mnistbench.train.steps import Step, blocks

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.train.batches import Inputs
    from mnistbench.train.steps.update import Update

aten: Any = torch.ops.aten
MEAN, SUM = 1, 2
"""aten's numbers for `reduction`."""

MONOTONOUS = (nn.ReLU, nn.Sigmoid, nn.Tanh)


class WrittenStep(Step):
    """Of a list of layers, see the module.

    Args:
        model: an `nn.Sequential` in training mode, on the CPU, of which `why_not` says nothing.
        loss: of a batch.
        update: gets the gradients; made before this step, since it may lay the weights together.
        inputs: turns stored inputs into the network's.
        chunk: examples at once; 0 takes the whole batch.
    """

    def __init__(
        self,
        model: nn.Sequential,
        loss: Loss,
        update: Update,
        inputs: Inputs,
        *,
        chunk: int = 0,
    ) -> None:
        self.inputs, self.chunk = inputs, chunk
        self._update = update
        layers = list(_layers(model))
        # Log-softmax and then either loss is the cross-entropy of the logits.
        is_classifier = loss is cross_entropy or (loss is nll and bool(layers) and _is_log_softmax(layers[-1]))
        if is_classifier and layers and _is_log_softmax(layers[-1]):
            layers.pop()
        self._head = _cross_entropy_head if is_classifier else _autograd_head(loss)
        self.blocks = list(_written(layers))
        # The first block with weights needs no gradient of its input, nor does anything before it.
        self.first_with_weights = next((i for i, block in enumerate(self.blocks) if block.parameters), len(self.blocks))

    @override
    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        examples, size = len(labels), self.chunk or len(labels)
        with torch.no_grad():
            if examples <= size:
                loss, right = self._chunk(inputs, labels, examples)
                self._update.gradients = list(self._collected())
                return loss, right
            losses, rights = [], []
            total: list[Tensor] = []
            for some, wanted in zip(inputs.split(size), labels.split(size), strict=True):
                loss, right = self._chunk(some, wanted, examples)
                losses.append(loss)
                rights.append(right)
                if total:
                    torch._foreach_add_(total, self._collected())
                else:
                    total = self._collected()
            self._update.gradients = list(total)
            return torch.stack(losses).sum() / examples, torch.stack(rights).sum()

    def _chunk(self, inputs: Tensor, labels: Tensor, examples: int) -> tuple[Tensor, Tensor]:
        x = self.inputs(inputs)
        for block in self.blocks:
            x = block.forward(x)
        loss, gradient = self._head(x, labels, examples)
        right = correct(x, labels)
        for index in range(len(self.blocks) - 1, self.first_with_weights - 1, -1):
            below = self.blocks[index].backward(gradient, wants_input=index > self.first_with_weights)
            if below is not None:
                gradient = below
        return loss, right

    def _collected(self) -> list[Tensor]:
        return [gradient for block in self.blocks for gradient in block.gradients]


def why_not(model: nn.Module) -> str:
    """Why a network must be trained as it was written; empty where its layers, one after the other, are all of it.

    What the list of layers does not show is what this step would leave out: a layer that stands twice, a shared or
    frozen weight, a hook, a forward of one's own, a layer of one's own, which may talk to another behind the list's
    back.
    """
    if type(model) is not nn.Sequential:
        return "the network is no plain list of layers"
    from torch.nn.modules import module as torch_module

    modules, parameters = list(model.modules()), list(model.parameters())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    checks = [
        (len(list(model.named_modules(remove_duplicate=False))) > len(modules), "a layer stands in it twice"),
        (len(list(model.named_parameters(remove_duplicate=False))) > len(parameters), "two layers share a weight"),
        (not all(each.requires_grad for each in parameters), "a weight is frozen"),
        (any(each.dtype != torch.float32 for each in parameters), "its weights are not fp32"),
        (not all(_is_known(each) for each in modules), "it holds a layer that is not torch's own"),
        (any(getattr(each, name) for each in modules for name in hooks), "a layer has a hook"),
        (any(getattr(torch_module, f"_global{name}", None) for name in hooks), "all layers have a hook"),
        (any(each._backward_hooks or each._post_accumulate_grad_hooks for each in parameters), "a weight has a hook"),
    ]
    return next((reason for applies, reason in checks if applies), "")


def _is_known(layer: nn.Module) -> bool:
    """A layer of torch's or ours, unchanged, that takes a tensor and returns one."""
    module = type(layer).__module__
    if not module.startswith(("torch.nn.modules.", "mnistbench.")) or "forward" in vars(layer):
        return False
    return not isinstance(layer, nn.RNNBase | nn.MultiheadAttention | nn.Transformer)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    for layer in model.children():
        if type(layer) is nn.Sequential:
            yield from _layers(layer)
        elif type(layer) is not nn.Identity:
            yield layer


def _is_log_softmax(layer: nn.Module) -> bool:
    return type(layer) is nn.LogSoftmax and layer.dim in (1, -1)


def _written(layers: list[nn.Module]) -> Iterator[blocks.Block]:
    """Blocks that do what the layers do, in their order."""
    position, may_overwrite = 0, False
    while position < len(layers):
        layer, following = layers[position], layers[position + 1 : position + 3]
        fresh = True
        if _is_plain_convolution(layer):
            used, made = _pooled(layer, following)
            yield from made
            fresh = not isinstance(made[-1], blocks.Activation)
            position += used
        else:
            if type(layer) is nn.Linear:
                yield blocks.Linear(layer)
            elif type(layer) in blocks.Activation.KINDS and may_overwrite:
                yield blocks.Activation(layer)
                fresh = False
            elif blocks.Pool.fits(layer):
                yield blocks.Pool(layer)  # type: ignore[arg-type]
            elif type(layer) in (nn.Dropout, nn.Dropout2d) and layer.p < 1:  # type: ignore[operator]
                yield blocks.Dropout(layer)  # type: ignore[arg-type]
            elif type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
                yield blocks.Flatten()
                fresh = may_overwrite
            else:
                yield blocks.AnyLayer(layer)
            position += 1
        # An activation overwrites its input: that must be nobody's saved output, and not the data itself.
        may_overwrite = fresh


def _pooled(layer: nn.Module, following: list[nn.Module]) -> tuple[int, list[blocks.Block]]:
    """A convolution with the activation and the pooling behind it, as far as they can go together."""
    assert isinstance(layer, nn.Conv2d)
    kinds = [type(other) for other in following]
    if kinds[:1] and blocks.Pool.fits(following[0]):
        return 2, [blocks.PooledConvolution(layer, None, following[0])]  # type: ignore[arg-type]
    if len(kinds) == 2 and kinds[0] in MONOTONOUS and blocks.Pool.fits(following[1]):
        activation = blocks.Activation(following[0])
        if isinstance(following[1], nn.MaxPool2d):
            return 3, [blocks.PooledConvolution(layer, None, following[1]), activation]
        return 3, [blocks.PooledConvolution(layer, activation, following[1])]  # type: ignore[arg-type]
    return 1, [blocks.Convolution(layer)]


def _is_plain_convolution(layer: nn.Module) -> bool:
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


Head = Callable[["Tensor", "Tensor", int], "tuple[Tensor, Tensor]"]


def _cross_entropy_head(logits: Tensor, labels: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """The mean loss of a whole batch or the sum over a chunk, and the gradient of the batch's mean by the logits."""
    reduction, share = (MEAN, 1.0) if len(labels) == examples else (SUM, 1 / examples)
    log_probabilities = torch.log_softmax(logits, 1)
    loss, weight = aten.nll_loss_forward.default(log_probabilities, labels, None, reduction, -100)
    by_probabilities = aten.nll_loss_backward.default(
        loss.new_full((), share), log_probabilities, labels, None, reduction, -100, weight
    )
    gradient = aten._log_softmax_backward_data.default(by_probabilities, log_probabilities, 1, torch.float32)
    return loss, gradient


def _autograd_head(loss: Loss) -> Head:
    def head(outputs: Tensor, labels: Tensor, examples: int) -> tuple[Tensor, Tensor]:
        whole = len(labels) == examples
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            value = loss(leaf, labels, "mean" if whole else "sum")
            (gradient,) = torch.autograd.grad(value if whole else value / examples, leaf)
        return value.detach(), gradient

    return head
