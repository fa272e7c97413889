"""Grid axis: the optimizers, with defaults of our own that no release of torch can change.

Learning-rate schedules are in `schedules.py`; a grid nests them in the optimizer. A new optimizer is a dataclass of its
options added to `OPTIMIZERS`, or a class of a plug-in. Everything that torch offers for speed alone (`fused`,
`foreach`, `capturable`) is no option of a grid but of `build`, and is passed on where this torch's optimizer takes it.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from mnistbench.axes.options import Fraction, NonNegative, Positive, PositiveInt, as_declared
from mnistbench.axes.plugins import flag_for
from mnistbench.axes.schedules import SCHEDULES, lr_factors
from mnistbench.cell import Component
from mnistbench.errors import UserError

if TYPE_CHECKING:
    import torch

    from mnistbench.axes.plugins import Plugins

__all__ = ["OPTIMIZERS", "SCHEDULES", "build", "build_for", "lr_factors", "lr_scale", "scaled_lr"]

LrScaling = Literal["none", "linear", "sqrt"]
BASE_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What a grid may say of any optimizer; its subclasses are called as torch's, and add options with their defaults.

    Attributes:
        lr: the learning rate before scaling and schedule.
        lr_scaling, base_batch_size: how `lr` grows with the batch (`lr_scale`).
    """

    lr: Positive
    lr_scaling: LrScaling = "none"
    base_batch_size: PositiveInt = BASE_BATCH_SIZE

    def make(self, parameters: Iterable[torch.nn.Parameter], implementation: dict[str, Any]) -> torch.optim.Optimizer:
        """torch's optimizer, with those of torch's choices of speed that it takes."""
        import torch

        kind = getattr(torch.optim, type(self).__name__)
        made: torch.optim.Optimizer = kind(parameters, **self.arguments(), **_accepted(kind, implementation))
        return made

    def arguments(self) -> dict[str, Any]:
        """The options as torch's constructor takes them."""
        options = {key: value for key, value in vars(self).items() if key not in _SHARED}
        return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013).

    Raises:
        UserError: for `nesterov` without momentum.
    """

    lr: Positive = 0.01
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0

    def __post_init__(self) -> None:
        _check_momentum(self.nesterov, self.momentum)

    @override
    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "dampening": 0.0}


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """AdaGrad (Duchi et al. 2011)."""

    lr: Positive = 0.01
    lr_decay: NonNegative = 0.0
    initial_accumulator: NonNegative = 0.0
    eps: Positive = 1e-10
    weight_decay: NonNegative = 0.0

    @override
    def arguments(self) -> dict[str, Any]:
        arguments = super().arguments()
        arguments["initial_accumulator_value"] = arguments.pop("initial_accumulator")
        return arguments


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012, lecture 6e); `lr` defaults to the tutorial's 1e-3, not to torch's 1e-2."""

    lr: Positive = 1e-3
    alpha: Fraction = 0.99
    eps: Positive = 1e-8
    momentum: Fraction = 0.0
    centered: bool = False
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2014, arXiv:1412.6980); weight decay is added to the gradient."""

    lr: Positive = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8
    amsgrad: bool = False
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101)."""

    lr: Positive = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8
    amsgrad: bool = False
    weight_decay: NonNegative = 0.01


@dataclass(frozen=True, kw_only=True)
class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012, arXiv:1212.5701)."""

    lr: Positive = 1.0
    rho: Fraction = 0.9
    eps: Positive = 1e-6
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class Adamax(Optimizer):
    """Adamax, Adam by the infinity norm (Kingma & Ba 2014, section 7.1)."""

    lr: Positive = 2e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016)."""

    lr: Positive = 2e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8
    momentum_decay: NonNegative = 0.004
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2019, arXiv:1908.03265)."""

    lr: Positive = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for weights that are matrices, AdamW beside it for all others.

    Its updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so that one `lr`, one
    `weight_decay` and one schedule serve both. AdamW has the betas 0.9 and 0.999.

    Raises:
        UserError: for `nesterov` without momentum; when it is made, if this torch has no Muon (it came with 2.9).
    """

    lr: Positive = 1e-3
    momentum: Fraction = 0.95
    nesterov: bool = True
    ns_steps: PositiveInt = 5
    weight_decay: NonNegative = 0.1

    def __post_init__(self) -> None:
        _check_momentum(self.nesterov, self.momentum)

    @override
    def make(self, parameters: Iterable[torch.nn.Parameter], implementation: dict[str, Any]) -> torch.optim.Optimizer:
        import torch

        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"torch {torch.__version__} has no Muon; 2.9 and later do")
        from mnistbench.axes.muon import MuonBesideAdamW

        return MuonBesideAdamW(parameters, **self.arguments(), **_accepted(torch.optim.AdamW, implementation))


OPTIMIZERS: dict[str, type[Optimizer]] = {
    kind.__name__.lower(): kind for kind in (SGD, Adagrad, RMSprop, Adam, AdamW, Adadelta, Adamax, NAdam, RAdam, Muon)
}


def build_for(
    component: Component, model: torch.nn.Module, plugins: Plugins | None = None, **implementation: Any
) -> torch.optim.Optimizer:
    """Make the optimizer that a cell names, for the parameters of a network that require gradients.

    A plug-in says by its first parameter what it gets: `named_parameters` is a list of names and parameters, `model` or
    `network` (or what is annotated as an `nn.Module`, alone or beside other types) the network itself; anything else is
    a list of parameters.

    Args:
        component: as `build` takes it.
        model: the network, on its device.
        plugins: the modules that the command line named.
        implementation: torch's choices of speed, as `build` takes them.

    Raises:
        UserError: as `build`.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    wanted = _asked_of(plugins.find(component.name)) if plugins and ":" in component.name else "parameters"
    if not named and wanted != "model":
        raise UserError("the network has no parameter that requires a gradient, so there is nothing to train")
    given: dict[str, Any] = {"model": model, "named_parameters": named, "parameters": [each for _, each in named]}
    return build(component, given[wanted], plugins, **implementation)


def build(
    component: Component,
    parameters: Iterable[torch.nn.Parameter],
    plugins: Plugins | None = None,
    **implementation: Any,
) -> torch.optim.Optimizer:
    """Make the optimizer that a cell names.

    Args:
        component: a name from `OPTIMIZERS` or a plug-in's `module:Name`, with its options. `lr_scaling` is not
            applied here: see `lr_scale`.
        parameters: of the network, or what else a plug-in takes first: see `build_for`.
        plugins: the modules that the command line named.
        implementation: torch's choices of speed (`fused=True`, `foreach=True`, `capturable=True`); each is passed on
            if this optimizer takes it.

    Raises:
        UserError: if the name is unknown, or its options contradict each other.
    """
    if ":" in component.name:
        if plugins is None:
            raise UserError(f"{component.name} is a plug-in: add {flag_for(component.name.partition(':')[0])}")
        constructor: Any = plugins.find(component.name)
        own = {key: value for key, value in component.options.items() if key not in _SHARED}
        options = as_declared(constructor, own)
        if not options.keys() & _IMPLEMENTATIONS:  # the grid's own choice of speed stands
            options |= _accepted(constructor, implementation)
        built: torch.optim.Optimizer = constructor(parameters, **options)
        return built
    if component.name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {component.name!r}; there are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[component.name](**component.options).make(parameters, implementation)  # type: ignore[arg-type]


def lr_scale(component: Component, batch_size: int) -> float:
    """The factor of all learning rates that the component's `lr_scaling` says for this batch size.

    `linear` is Goyal et al. 2017 (arXiv:1706.02677), `sqrt` Krizhevsky 2014 (arXiv:1404.5997); at `base_batch_size`
    both are 1.
    """
    base = component.options.get("base_batch_size", BASE_BATCH_SIZE)
    ratio = batch_size / base  # type: ignore[operator]
    scaling = str(component.options.get("lr_scaling", "none"))
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[scaling]


def scaled_lr(component: Component, batch_size: int) -> float:
    """The learning rate before its schedule: `lr` times `lr_scale`.

    Raises:
        UserError: if neither the component nor its optimizer says an `lr`.
    """
    lr = component.options.get("lr", getattr(OPTIMIZERS.get(component.name), "lr", None))
    if not isinstance(lr, int | float):
        raise UserError(f"{component.name}: say its lr in the grid")
    return float(lr) * lr_scale(component, batch_size)


_SHARED = ("lr_scaling", "base_batch_size")
_IMPLEMENTATIONS = {"fused", "foreach", "capturable", "differentiable"}


def _asked_of(optimizer: Any) -> Literal["model", "named_parameters", "parameters"]:
    """What a plug-in's first parameter asks for."""
    from torch import nn

    try:
        signature = inspect.signature(optimizer, eval_str=True)
    except Exception:  # an annotation that only a type checker can resolve: the name has to do
        signature = inspect.signature(optimizer)
    first = next(iter(signature.parameters.values()), None)
    if first is None:
        return "parameters"
    is_union = typing.get_origin(first.annotation) in (typing.Union, types.UnionType)  # timm: a network or parameters
    kinds = typing.get_args(first.annotation) if is_union else [first.annotation]
    is_network = any(inspect.isclass(kind) and issubclass(kind, nn.Module) for kind in kinds)
    if is_network or first.name in ("model", "network"):
        return "model"
    return "named_parameters" if first.name == "named_parameters" else "parameters"


def _check_momentum(nesterov: bool, momentum: float) -> None:
    """Nesterov's momentum is a way to apply one: torch refuses it without."""
    if nesterov and momentum == 0:
        raise UserError("nesterov needs a momentum above 0")


def _accepted(optimizer: Callable[..., Any], implementation: dict[str, Any]) -> dict[str, Any]:
    taken = inspect.signature(optimizer).parameters
    return {key: value for key, value in implementation.items() if key in taken}
