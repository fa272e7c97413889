"""The speed levers, and the named profiles made of them.

`plain` is what a tutorial writes. `fast` pulls every lever that leaves fp32 results equivalent. Levers that change
numerics (`precision`) or start-up (`compile`) are asked for by name. A lever that cannot apply to a cell steps aside;
`Levers.stepped_aside` says which and why, and so does the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from mnistbench.axes.options import NonNegativeInt
from mnistbench.cell import Component

Data = Literal["resident", "loader"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
StepKind = Literal["written", "autograd"]
Allocator = Literal["keep", "default"]
Isolation = Literal["alone", "shared"]
Convolutions = Literal["fastest", "cudnn"]


@dataclass(frozen=True, kw_only=True)
class Levers:
    """How a cell is executed; the defaults are those of the profile `fast`.

    Attributes:
        data: `resident` keeps bytes in the device's memory, `loader` is a DataLoader with per-example transforms.
        step: `written` spells forward, backward and kernels out layer by layer (CPU, fp32); `autograd` is torch's own.
        chunk: examples whose gradients are computed at once and added up; 0 takes the whole batch.
        memory_format: of images in the autograd step.
        fused: optimizers with one kernel for all weights, or over one flat tensor.
        graph: whole steps replayed as a CUDA graph.
        allocator: `keep` holds on to large blocks.
        threads: of the CPU; 0 takes what the machine gives (rule 13).
        precision: tf32 and fp16 are for GPUs.
        compile: torch.compile on the network; its start-up is warm-up time.
        benchmark: cuDNN times its deterministic engines and takes the fastest, not the one that it expects to be fast
            (CUDA). Another run may pick another one, and differ in the last bits.
        isolation: whether other cells may run beside it; only `alone` is ranked by speed.
        convolutions: how their gradients are spelled in the autograd step on a GPU: `fastest` measures cuDNN's engines
            against matrix products for each layer, `cudnn` leaves them to cuDNN.
        kernels: what was measured as fastest: per layer of the written step, or per convolution.
        stepped_aside: levers that could not apply, with the reason.
    """

    data: Data = "resident"
    step: StepKind = "written"
    chunk: NonNegativeInt | Literal["auto"] = "auto"
    memory_format: MemoryFormat = "auto"
    fused: bool = True
    graph: bool = True
    allocator: Allocator = "keep"
    threads: NonNegativeInt = 0
    precision: Precision = "fp32"
    compile: bool = False
    isolation: Isolation = "alone"
    benchmark: bool = False
    convolutions: Convolutions = "fastest"
    kernels: list[dict[str, Any]] | None = None
    stepped_aside: dict[str, str] = field(default_factory=dict)

    def without(self, lever: str, value: Any, why: str) -> Levers:
        """The same with one lever set back because it cannot apply here."""
        changes: dict[str, Any] = {lever: value}
        return replace(self, **changes, stepped_aside={**self.stepped_aside, lever: why})

    def to_json(self) -> dict[str, Any]:
        """Plain data for the record's `execution_resolved`."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Levers:
        """Read back what `to_json` wrote, to replay a record."""
        return cls(**plain)


PLAIN: dict[str, Any] = {
    "data": "loader",
    "step": "autograd",
    "chunk": 0,
    "memory_format": "contiguous",
    "fused": False,
    "graph": False,
    "allocator": "default",
    "convolutions": "cudnn",
}
"""What differs from the defaults of `Levers`, which are those of `fast`."""


def plain(**levers: Any) -> Levers:
    """What a tutorial writes: torchvision dataset, DataLoader, `.to(device)`, eager, fp32."""
    return Levers(**{**PLAIN, **levers})


def fast(**levers: Any) -> Levers:
    """Every lever that leaves fp32 results equivalent (docs/measurement.md says how that is checked)."""
    return Levers(**levers)


PROFILES: dict[str, Callable[..., Levers]] = {"plain": plain, "fast": fast}
RESOLVED = ("kernels", "stepped_aside")
"""Fields of `Levers` that say what a cell came to; a grid asks for none of them."""


def levers_of(execution: Component) -> Levers:
    """The levers that a cell asks for, `auto` where they are left to measurement."""
    return PROFILES[execution.name](**execution.options)


def fit(levers: Levers, *, device_type: str, has_batchnorm: bool, why_not_written: str, may_mix: str) -> Levers:
    """Set back what cannot apply to this network on this device.

    Args:
        levers: as the cell asks for them.
        device_type: `cpu`, `cuda` or `mps`.
        has_batchnorm: BatchNorm's statistics need the whole batch at once.
        why_not_written: why the written step would not train this network as it was meant; empty if it does.
        may_mix: what may mix the examples of a batch: "a plug-in's network"; empty if all is ours.
    """
    if levers.graph and device_type != "cuda":
        levers = replace(levers, graph=False)
    as_it_is = levers.compile or levers.precision in ("bf16", "fp16") or levers.memory_format == "channels_last"
    if device_type != "cuda" or as_it_is:
        levers = replace(levers, convolutions="cudnn")
    if levers.benchmark and device_type != "cuda":
        levers = levers.without("benchmark", False, "cuDNN needs a CUDA device")
    if levers.precision in ("tf32", "fp16") and device_type != "cuda":
        levers = levers.without("precision", "fp32", f"{levers.precision} needs a CUDA device")
    if levers.step == "written":
        checks = [
            (device_type != "cpu", f"written for the CPU, not {device_type}"),
            (levers.precision != "fp32", f"written for fp32, not {levers.precision}"),
            (levers.compile, "the network is compiled"),
            (bool(why_not_written), why_not_written),
        ]
        reason = next((text for applies, text in checks if applies), "")
        if reason:
            levers = levers.without("step", "autograd", reason)
    if levers.chunk != 0:
        checks = [
            (has_batchnorm, "BatchNorm needs the whole batch"),
            (bool(may_mix), f"{may_mix} may mix examples"),
            (device_type != "cpu", "chunks fit caches, which a GPU does not need"),
        ]
        reason = next((text for applies, text in checks if applies), "")
        if reason:
            levers = levers.without("chunk", 0, reason)
    return levers
