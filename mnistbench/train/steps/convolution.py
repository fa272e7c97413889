"""Other spellings of a convolution's gradients, for where cuDNN's deterministic engines are slow.

Measured on an H200 with cuDNN 9.19: for the weights of LeNet's second layer at batch 8192 cuDNN took 22.9 of the 27 ms
of a step, one matrix product for each image takes 0.8, and cuDNN's own timing of engines (`benchmark`) found no better
one. Which spelling is faster is measured for each layer (`warmup.py`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from mnistbench.train.steps.tuning import Kernels

CUDNN, MATRIX, FORWARD = "cudnn", "matrix", "forward"
OTHER = {"weight": MATRIX, "input": FORWARD}
"""Of each gradient: a matrix product for each image, a convolution of the output's gradient as in a forward pass."""
MOST_PATCHES = 1 << 26
"""Numbers in the patches of the images that are multiplied at once: 256 MiB."""
GAIN, TIMED, ROUNDS = 0.95, 5, 3
"""cuDNN is left only for a gain over 5 %, in the shortest of three timings of five calls."""


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """The layers that can be spelled so: torch's own, with zeros around the image and no groups."""
    return [
        layer
        for layer in model.modules()
        if type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and isinstance(layer.padding, tuple)
    ]


def apply(model: nn.Module, kernels: Kernels) -> None:
    """Set each convolution to its spelling: `weight` is `cudnn` or `matrix`, `input` is `cudnn` or `forward`."""
    for layer, choice in zip(convolutions(model), kernels, strict=True):
        if is_other(choice):
            layer.forward = functools.partial(_forward, layer, choice)  # type: ignore[method-assign]


def is_other(choice: dict[str, str]) -> bool:
    """Whether a gradient is left to another than cuDNN."""
    return any(way != CUDNN for way in choice.values())


def choose(model: nn.Module, inputs: Tensor, synchronize: Callable[[], None]) -> Kernels:
    """The faster spelling of each gradient of each convolution.

    Args:
        model: a network of its own, in training mode, on its device.
        inputs: a whole batch as the network takes it.
        synchronize: waits for the device.
    """
    layers = convolutions(model)
    shapes: dict[nn.Module, tuple[torch.Size, torch.Size]] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        shapes[layer] = given[0].shape, output.shape

    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    kernels: Kernels = []
    for layer in layers:
        choice = {"weight": CUDNN, "input": CUDNN}
        if layer in shapes and len(shapes[layer][0]) == 4:
            x, gradient = (torch.randn(shape, device=inputs.device) for shape in shapes[layer])
            for part, wants in (("weight", (False, True)), ("input", (True, False))):
                if part == "input" and not _has_plain_steps(layer):
                    continue
                usual, other = (
                    _seconds(functools.partial(gradients, layer, {part: way}, x, gradient, wants), synchronize)
                    for way in (CUDNN, OTHER[part])
                )
                if other < GAIN * usual:
                    choice[part] = OTHER[part]
        kernels.append(choice)
    return kernels


def gradients(
    layer: nn.Conv2d, choice: dict[str, str], x: Tensor, gradient: Tensor, wants: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Of a layer's input and of its weight, where they are wanted.

    Args:
        choice: a spelling of `weight` and `input`; what is not named is cuDNN's.
        x: [n, channels, height, width].
        gradient: of the layer's output.
    """
    ways = choice.get("input", CUDNN), choice.get("weight", CUDNN)
    by_cudnn = [wanted and way == CUDNN for wanted, way in zip(wants, ways, strict=True)]
    of_input: Tensor | None = None
    of_weight: Tensor | None = None
    if any(by_cudnn):
        settings = [layer.stride, layer.padding, layer.dilation, False, [0, 0], 1]
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, layer.weight, None, *settings, [*by_cudnn, False]
        )
    if wants[0] and not by_cudnn[0]:
        of_input = _of_input(layer, gradient)
    if wants[1] and not by_cudnn[1]:
        of_weight = _of_weight(layer, x, gradient)
    return of_input, of_weight


def _of_weight(layer: nn.Conv2d, x: Tensor, gradient: Tensor) -> Tensor:
    """One product for each image, of its output's gradient and its patches; their sum."""
    (height, width), (rows, columns) = _padding(layer), gradient.shape[2:]
    padded = F.pad(x, (width, width, height, height)) if height or width else x.contiguous()
    kernel = layer.kernel_size
    images = max(1, MOST_PATCHES // (x.shape[1] * kernel[0] * kernel[1] * rows * columns))
    total: Tensor | None = None
    for some, wanted in zip(padded.split(images), gradient.split(images), strict=True):
        of_image, of_channel, of_row, of_column = some.stride()
        patches = some.as_strided(
            (len(some), x.shape[1], *kernel, rows, columns),
            (
                of_image,
                of_channel,
                of_row * layer.dilation[0],
                of_column * layer.dilation[1],
                of_row * layer.stride[0],
                of_column * layer.stride[1],
            ),
            some.storage_offset(),
        ).reshape(len(some), -1, rows * columns)
        part = torch.bmm(wanted.flatten(2), patches.transpose(1, 2)).sum(0)
        total = part if total is None else total + part
    assert total is not None
    return total.view_as(layer.weight)


def _of_input(layer: nn.Conv2d, gradient: Tensor) -> Tensor:
    """What the layer's input gets is a convolution of what its output gets, with the kernel turned round."""
    padding = [size - 1 - around for size, around in zip(layer.kernel_size, _padding(layer), strict=True)]
    return F.conv2d(gradient, layer.weight.flip(2, 3).transpose(0, 1), padding=padding)


def _has_plain_steps(layer: nn.Conv2d) -> bool:
    """Whether `_of_input` holds: no strides, no dilation, no padding wider than the kernel."""
    narrow = all(around < size for size, around in zip(layer.kernel_size, _padding(layer), strict=True))
    return narrow and set(layer.stride) == set(layer.dilation) == {1}


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    assert not isinstance(layer.padding, str)
    height, width = layer.padding
    return height, width


def _forward(layer: nn.Conv2d, choice: dict[str, str], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled() or x.dim() != 4:
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation)
    output: Tensor = _Convolution.apply(x, layer.weight, layer.bias, (layer, choice))
    return output


class _Convolution(torch.autograd.Function):
    """Forward as torch does it, backward as chosen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[nn.Conv2d, Any]) -> Tensor:
        ctx.save_for_backward(x)
        layer, _ = ctx.layer, ctx.choice = how
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (x,) = ctx.saved_tensors
        wants_input, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        of_others = gradients(ctx.layer, ctx.choice, x, gradient, (wants_input, wants_weight))
        of_bias = gradient.sum((0, 2, 3)) if wants_bias else None
        return *of_others, of_bias, None


def _seconds(call: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """Of one call, after one that is not counted."""
    call()
    shortest = float("inf")
    for _ in range(ROUNDS):
        synchronize()
        start = time.perf_counter()
        for _ in range(TIMED):
            call()
        synchronize()
        shortest = min(shortest, (time.perf_counter() - start) / TIMED)
    return shortest
