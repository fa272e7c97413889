"""A short look at the machine right before and right after a cell: what it computes and copies when nothing is trained.

A probe can flag a cell, it never corrects one (docs/measurement.md). Its matrix product also gives the rate that a
cell's FLOP/s are a share of, measured in the same session, on the same threads, in the same precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SIZE = {"cpu": 512, "cuda": 4096, "mps": 2048}
COPY_BYTES = {"cpu": 8 << 20}
LARGE_COPY_BYTES = 256 << 20
"""On a GPU: 8 MiB would lie in its L2."""
WAKE_SECONDS = {"cuda": 0.05}
"""Of work before the first reading: a GPU that idled has a slow clock."""
REPEATS = 3
LAUNCHES = 200


@dataclass(frozen=True)
class Probe:
    """Seconds of each part, the best of a few: interruptions of microseconds are not what it looks for.

    Attributes:
        seconds: `compute`, `copy`, and on devices that queue `launch` (200 empty ones).
        flops_per_second: of the matrix product.
    """

    seconds: dict[str, float]
    flops_per_second: float


def take_probe(device: torch.device, precision: str, synchronize: Callable[[], None]) -> Probe:
    """Multiply, copy and launch; at most 0.1 s in all on the machines it was made on, and what wakes a GPU.

    Args:
        device: where the cell is trained.
        precision: of its matrix products.
        synchronize: waits for the device.
    """
    import torch

    size = SIZE.get(device.type, SIZE["cpu"])
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    left = _random(size, device).to(dtype)
    copied = COPY_BYTES.get(device.type, LARGE_COPY_BYTES)
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def best(call: Callable[[], object]) -> float:
        shortest = float("inf")
        for _ in range(REPEATS):
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            shortest = min(shortest, time.perf_counter() - start)
        return shortest

    with torch.no_grad():
        until = time.perf_counter() + WAKE_SECONDS.get(device.type, 0.0)
        while time.perf_counter() < until:
            left @ left
            synchronize()
        seconds = {"compute": min(best(call) for call in _products(left)), "copy": best(lambda: target.copy_(source))}
        if device.type != "cpu":
            one = torch.zeros((), device=device)
            seconds["launch"] = best(lambda: [one.add_(0) for _ in range(LAUNCHES)])
    return Probe(seconds, 2 * size**3 / seconds["compute"])


def _random(size: int, device: torch.device) -> torch.Tensor:
    """A matrix of random numbers, since a GPU multiplies equal ones up to 13 % faster; the cell's seed stays."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    return torch.rand(size, size, generator=generator, device=device) - 0.5


def _products(matrix: torch.Tensor) -> list[Callable[[], object]]:
    """The product by BLAS, and on a CPU also by oneDNN, which is twice as fast on some."""
    import torch

    calls: list[Callable[[], object]] = [lambda: matrix @ matrix]
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if matrix.device.type == "cpu" and linear is not None:
        calls.append(lambda: linear(matrix, matrix, None, "none", [], ""))
    return calls
