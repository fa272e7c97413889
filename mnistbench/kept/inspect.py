"""A network layer by layer (`show`), and what this machine has to train with (`doctor`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnistbench.errors import UserError
from mnistbench.words.wording import seconds_text

if TYPE_CHECKING:
    from torch import nn

    from mnistbench.cell.data_spec import DataSpec

EXAMPLES = 2
"""Examples sent through the network; BatchNorm refuses one alone in training mode."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer as it is met on the way through.

    Attributes:
        kind: what it does, with its settings: `Conv2d(1, 6, kernel_size=(5, 5))`.
        output_shape: without the batch dimension.
        parameters: trainable numbers that no layer before it has.
        shared: trainable numbers that a layer before it has too: tied weights, or the layer itself once more.
        flops: floating point operations of one example's forward pass; a multiply-add counts as two.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    shared: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class NetworkSummary:
    """All layers, with the sums; `train_flops` counts one example's forward and backward pass."""

    layers: list[Layer]
    parameters: int
    forward_flops: int
    train_flops: int


def summarize(network: nn.Module, data: DataSpec) -> NetworkSummary:
    """Send two examples through the network, and note what each layer makes of them.

    FLOPs are those of torch's own counter: matrix products and convolutions; activations and pooling count as none.

    Args:
        network: on the CPU.
        data: gives the shape of the inputs.

    Raises:
        UserError: if the network returns anything but one tensor.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    met: list[Layer] = []
    counter = FlopCounterMode(display=False)
    before: dict[str, int] = {}
    counted: set[nn.Parameter] = set()

    def enter(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            before[name] = counter.get_total_flops()

        return hook

    def leave(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            trained = {parameter for parameter in module.parameters() if parameter.requires_grad}
            met.append(
                Layer(
                    name=name,
                    kind=repr(module) if "\n" not in repr(module) else type(module).__name__,
                    output_shape=_output_shape(output),
                    parameters=sum(parameter.numel() for parameter in trained - counted),
                    shared=sum(parameter.numel() for parameter in trained & counted),
                    flops=(counter.get_total_flops() - before[name]) // EXAMPLES,
                )
            )
            counted.update(trained)

        return hook

    hooks = []
    for name, module in network.named_modules():
        if not list(module.children()):
            hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name))]
    try:
        with counter:
            outputs = network(torch.zeros(EXAMPLES, *data.input_shape))
            forward = counter.get_total_flops()
            if not isinstance(outputs, torch.Tensor):
                raise UserError(
                    f"the network returns a {type(outputs).__name__} in training mode; it must return one tensor, "
                    "its outputs [n, classes]"
                )
            outputs.sum().backward()
            both = counter.get_total_flops()
    finally:
        for hook in hooks:
            hook.remove()
    return NetworkSummary(
        layers=met,
        parameters=sum(item.numel() for item in network.parameters() if item.requires_grad),
        forward_flops=forward // EXAMPLES,
        train_flops=both // EXAMPLES,
    )


def _output_shape(output: Any) -> tuple[int, ...]:
    """Without the batch dimension; of the first tensor where a layer returns several, as an LSTM does."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return tuple(getattr(output, "shape", ()))[1:]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of `doctor`: what was looked at, what was found, and whether it is as it should be."""

    name: str
    found: str
    ok: bool = True


def matrix_product(device: str, size: int = 256) -> Check:
    """Multiply two small matrices on the device, and compare with the CPU's answer."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator) for _ in range(2))
    try:
        start = time.perf_counter()
        product = (left.to(device) @ right.to(device)).cpu()  # .cpu() waits for the device
        seconds = time.perf_counter() - start
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without this device
        return Check(name=f"matrix product on {device}", found=str(error).splitlines()[0], ok=False)
    error_seen = float((product - left @ right).abs().max())
    right_answer = error_seen < 0.1  # TF32, if some setting left it on, is off by about 0.05 here
    found = f"{size}×{size} right in {seconds_text(seconds)}" if right_answer else f"wrong by {error_seen:.2g}"
    return Check(name=f"matrix product on {device}", found=found, ok=right_answer)


def versions(packages: Sequence[str] = ("torch", "torchvision", "numpy", "mlflow", "pandas", "ray")) -> list[Check]:
    """Installed versions, without importing anything."""
    from importlib.metadata import PackageNotFoundError, version

    def found(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    return [
        Check(name=package, found=found(package), ok=package == "ray" or _there(found(package))) for package in packages
    ]


def _there(found: str) -> bool:
    return found != "not installed"


def torch_build() -> Check:
    """Which accelerators this torch was built for."""
    import torch

    parts = [f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"]
    if torch.backends.mps.is_built():
        parts.append("MPS")
    parts.append(f"{torch.get_num_threads()} CPU threads")
    parts.append(f"vectors: {torch.backends.cpu.get_cpu_capability()}")
    return Check(name="torch build", found=", ".join(parts))
