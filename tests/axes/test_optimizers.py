"""Optimizers: our defaults, torch's mathematics, learning-rate scaling, and a state that can begin anew."""

from __future__ import annotations

import io
from dataclasses import MISSING, fields
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnistbench.axes.optimizers import OPTIMIZERS, build, build_for, scaled_lr
from mnistbench.axes.plugins import Plugins
from mnistbench.cell import Component
from mnistbench.errors import UserError

NAMES = sorted(OPTIMIZERS)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 5), nn.Tanh(), nn.Linear(5, 3))


def gradients(step: int, model: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(parameter.shape, generator=generator) for parameter in model.parameters()]


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 8, first: int = 0) -> list[Tensor]:
    for step in range(first, first + steps):
        for parameter, gradient in zip(model.parameters(), gradients(step, model), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def trained(name: str, **options: Any) -> list[Tensor]:
    model = network()
    return take_steps(model, build(Component(name=name, options=options), model.parameters()))


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


TORCH: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, eps=1e-10),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001, alpha=0.99, eps=1e-8),
    "adam": lambda p: torch.optim.Adam(p, lr=0.001, betas=(0.9, 0.999), eps=1e-8),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, rho=0.9, eps=1e-6),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.002, betas=(0.9, 0.999), eps=1e-8),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.002, betas=(0.9, 0.999), eps=1e-8, momentum_decay=0.004),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.001, betas=(0.9, 0.999), eps=1e-8),
}


@pytest.mark.parametrize("name", sorted(TORCH))
def test_defaults_are_what_our_signatures_promise(name: str) -> None:
    model = network()
    assert equal(trained(name), take_steps(model, TORCH[name](model.parameters())))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("adagrad", {"lr_decay": 0.1, "initial_accumulator": 1.0, "weight_decay": 0.1, "eps": 1e-3}),
        ("rmsprop", {"alpha": 0.5, "momentum": 0.5, "centered": True, "eps": 1e-3, "weight_decay": 0.1}),
        ("adam", {"betas": [0.7, 0.9], "amsgrad": True, "eps": 1e-3, "weight_decay": 0.1}),
        ("adamw", {"betas": [0.7, 0.9], "amsgrad": True, "eps": 1e-3, "weight_decay": 0.1}),
        ("adadelta", {"rho": 0.5, "eps": 1e-3, "weight_decay": 0.1}),
        ("adamax", {"betas": [0.7, 0.9], "eps": 1e-3, "weight_decay": 0.1}),
        ("nadam", {"betas": [0.7, 0.9], "momentum_decay": 0.1, "eps": 1e-3, "weight_decay": 0.1}),
        ("radam", {"betas": [0.7, 0.9], "eps": 1e-3, "weight_decay": 0.1}),
        ("muon", {"momentum": 0.5, "nesterov": False, "ns_steps": 3, "weight_decay": 0.3}),
    ],
)
def test_every_option_changes_the_training(name: str, options: dict[str, Any]) -> None:
    plain = trained(name, lr=0.1)
    for key, value in options.items():
        alone = {"momentum": 0.9, key: value} if key == "nesterov" else {key: value}
        assert not equal(trained(name, lr=0.1, **alone), plain), f"{key} does nothing"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_type_and_a_default(name: str) -> None:
    """A grid reads them, and the options of scaling are among them."""
    options = fields(OPTIMIZERS[name])
    assert {"lr", "lr_scaling", "base_batch_size"} <= {option.name for option in options}
    assert all(option.kw_only and option.default is not MISSING and option.type for option in options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("choice", ["fused", "foreach"])
def test_choices_of_speed_are_passed_on_where_they_exist(name: str, choice: str) -> None:
    """Every optimizer can be asked, and comes to the same weights up to rounding."""
    model = network()
    optimizer = build(Component(name=name), model.parameters(), **{choice: True})
    torch.testing.assert_close(take_steps(model, optimizer), trained(name), rtol=1e-4, atol=1e-6)
    if (name, choice) == ("adam", "fused"):
        assert optimizer.param_groups[0]["fused"] is True


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_nesterov_without_momentum_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="nesterov needs a momentum"):
        trained(name, nesterov=True, momentum=0.0)


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    model = network()
    optimizer = build(Component(name="muon"), model.parameters())
    shapes = [sorted(parameter.ndim for parameter in group["params"]) for group in optimizer.param_groups]
    assert shapes == [[2, 2], [1, 1, 1, 4]]
    theirs = network()
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in theirs.parameters() if parameter.ndim != 2]
    muon = torch.optim.Muon(matrices, lr=1e-3, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=1e-3, weight_decay=0.1)
    take_steps(theirs, muon, 1)
    adamw.step()
    assert equal(take_steps(model, optimizer, 1), [parameter.detach() for parameter in theirs.parameters()])


def test_muon_follows_one_learning_rate() -> None:
    """A schedule that sets the groups' lr reaches both parts: at zero nothing moves."""
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = build(Component(name="muon"), model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert equal(take_steps(model, optimizer), before)


def test_muon_works_without_matrices() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = build(Component(name="muon"), [weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    assert (weight < 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_where_it_stopped(name: str) -> None:
    whole = network()
    expected = take_steps(whole, build(Component(name=name), whole.parameters()), 6)
    model = network()
    optimizer = build(Component(name=name), model.parameters())
    take_steps(model, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = build(Component(name=name), model.parameters())
    resumed.load_state_dict(torch.load(file))
    assert equal(take_steps(model, resumed, 3, first=3), expected)


@pytest.mark.parametrize(("rule", "lr"), [("none", 0.1), ("linear", 1.6), ("sqrt", 0.4)])
def test_lr_scales_with_the_batch(rule: str, lr: float) -> None:
    component = Component(name="sgd", options={"lr": 0.1, "lr_scaling": rule, "base_batch_size": 32})
    assert scaled_lr(component, 512) == pytest.approx(lr)
    assert scaled_lr(component, 32) == pytest.approx(0.1)


def test_lr_falls_back_to_the_optimizer_default() -> None:
    assert scaled_lr(Component(name="nadam"), 512) == 2e-3
    with pytest.raises(UserError, match="say its lr"):
        scaled_lr(Component(name="mine:Optimizer"), 512)


def test_lr_scaling_is_no_business_of_torch() -> None:
    assert equal(trained("sgd", lr_scaling="linear", base_batch_size=2), trained("sgd"))


def test_a_plug_in_is_given_what_it_takes() -> None:
    class Slow(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__(params, lr=lr)

    plugins: Any = SimpleNamespace(find=lambda name: Slow)
    component = Component(name="mine:Slow", options={"lr": 0.5, "lr_scaling": "sqrt"})
    optimizer = build(component, network().parameters(), plugins, fused=True)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(UserError, match="unknown optimizer 'adm'; there are sgd, adagrad"):
        build(Component(name="adm"), [])
    with pytest.raises(UserError, match="--plugin mine"):
        build(Component(name="mine:Slow"), [])


def _by_pairs(named_parameters: Any, lr: float = 0.1) -> Any:
    return named_parameters


def _by_name(model: Any, lr: float = 0.1) -> Any:
    return model


def _by_other_name(network: Any, lr: float = 0.1) -> Any:
    return network


def _by_annotation(net: nn.Module, lr: float = 0.1) -> Any:
    return net


def _by_position(params: Any, lr: float = 0.1) -> Any:
    return params


def _given(optimizer: Any, model: nn.Module) -> Any:
    """What `build_for` hands to this plug-in."""
    own = ModuleType("own")
    own.made = optimizer  # type: ignore[attr-defined]
    return build_for(Component(name="own:made"), model, Plugins(("own",), {"own": own}))


@pytest.mark.parametrize("optimizer", [_by_name, _by_other_name, _by_annotation])
def test_a_plug_in_that_asks_for_the_network_gets_it(optimizer: Any) -> None:
    model = network()
    assert _given(optimizer, model) is model


def test_a_plug_in_that_asks_for_names_gets_those_of_what_is_trained() -> None:
    """A frozen parameter is not among them."""
    model = network()
    model[0].weight.requires_grad_(False)
    given = _given(_by_pairs, model)
    assert [name for name, _ in given] == ["0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    assert given[0][1] is model[0].bias


def test_any_other_plug_in_gets_the_list_of_what_is_trained() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    given = _given(_by_position, model)
    assert [id(each) for each in given] == [id(each) for each in list(model.parameters())[1:]]


def test_our_own_optimizers_are_built_for_a_network_too() -> None:
    model = network()
    (group,) = build_for(Component(name="sgd"), model).param_groups
    assert group["params"] == list(model.parameters())


@pytest.mark.parametrize("asked", [{"foreach": True}, {"fused": False}, {"differentiable": True}])
def test_a_choice_of_speed_in_the_grid_stands_before_that_of_the_lever(asked: dict[str, bool]) -> None:
    """torch refuses `foreach` beside `fused`, and Python the same argument twice."""
    component = Component(name="torch.optim:Adam", options={"lr": 0.1, **asked})
    optimizer = build_for(component, network(), Plugins(("torch.optim",), {"torch.optim": torch.optim}), fused=True)
    assert not optimizer.defaults["fused"]
