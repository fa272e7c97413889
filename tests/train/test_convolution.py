"""Gradients of convolutions as matrix products: the same numbers, chosen by time, on the trained network itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mnistbench.axes.execution import fast, fit, plain
from mnistbench.cell import Cell, Component, Training
from mnistbench.data import datasets
from mnistbench.results.records import Data
from mnistbench.train.equivalence import check as equivalence
from mnistbench.train.job import Job
from mnistbench.train.setup import make_trainee
from mnistbench.train.steps import convolution
from mnistbench.train.steps.convolution import CUDNN, FORWARD, MATRIX
from mnistbench.train.warmup import _with_convolutions

BOTH = {"weight": MATRIX, "input": FORWARD}
LAYERS = {
    "one channel": lambda: nn.Conv2d(1, 6, 5, padding=2),
    "more channels": lambda: nn.Conv2d(6, 16, 5),
    "strides": lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "dilation": lambda: nn.Conv2d(2, 3, 3, dilation=2, padding=(2, 1)),
    "not square, no bias": lambda: nn.Conv2d(2, 3, (3, 5), stride=(1, 2), bias=False),
    "one by one": lambda: nn.Conv2d(4, 2, 1),
    "wide padding": lambda: nn.Conv2d(2, 3, 3, padding=4),
    "not square, no stride": lambda: nn.Conv2d(2, 3, (3, 5), padding=(2, 1)),
}


@pytest.mark.parametrize("most", [1 << 26, 1])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_autograd(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision; also where each image is multiplied for itself."""
    monkeypatch.setattr(convolution, "MOST_PATCHES", most)
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    x = torch.randn(7, layer.in_channels, 13, 12, dtype=torch.float64, requires_grad=True)
    variables = [x, *layer.parameters()]
    output = layer(x)
    given = torch.randn_like(output)
    wanted = torch.autograd.grad(output, variables, given)
    choice = BOTH if convolution._has_plain_steps(layer) else {"weight": MATRIX, "input": CUDNN}
    convolution.apply(layer, [choice])
    for ours, theirs in zip(torch.autograd.grad(layer(x), variables, given), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("choice", [{"weight": MATRIX, "input": CUDNN}, {"weight": CUDNN, "input": FORWARD}])
def test_one_gradient_may_be_spelled_and_the_other_left(choice: dict[str, str]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    wanted = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight])
    convolution.apply(layer, [choice])
    for ours, theirs in zip(torch.autograd.grad(layer(x).square().sum(), [x, layer.weight]), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_first_layers_input_needs_no_gradient_and_evaluation_is_torchs() -> None:
    layer = nn.Conv2d(1, 2, 3)
    convolution.apply(layer, [BOTH])
    layer(torch.randn(2, 1, 5, 5)).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        x = torch.randn(2, 1, 5, 5)
        assert torch.equal(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias))


@pytest.mark.parametrize("name", ["strides", "dilation", "wide padding"])
def test_an_input_that_no_forward_convolution_gives_is_left_to_cudnn(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_seconds", lambda call, _: 0.5 if convolution.is_other(call.args[1]) else 1.0)
    layer = LAYERS[name]()
    kernels = convolution.choose(layer, torch.randn(2, layer.in_channels, 12, 12), lambda: None)
    assert kernels == [{"weight": MATRIX, "input": CUDNN}]


def test_layers_of_other_kinds_are_left_alone() -> None:
    class Own(nn.Conv2d):
        """May do anything in its forward."""

    others = [
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        Own(1, 1, 3),
        nn.Conv1d(1, 1, 3),
    ]
    ours = nn.Conv2d(1, 1, 3)
    assert convolution.convolutions(nn.Sequential(*others, ours)) == [ours]


def test_the_faster_spelling_is_chosen_for_each_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3))
    asked: list[tuple[str, str, tuple[bool, bool]]] = []

    def seconds(call: object, synchronize: object) -> float:
        layer, choice, _, _, wants = call.args  # type: ignore[attr-defined]
        ((part, way),) = choice.items()
        asked.append((part, way, wants))
        assert convolution.gradients(*call.args)[0 if part == "input" else 1] is not None  # type: ignore[attr-defined]
        left = (layer.in_channels == 1) != (part == "weight")
        return 2.0 if (way == CUDNN) != left else 1.0

    monkeypatch.setattr(convolution, "_seconds", seconds)
    kernels = convolution.choose(model, torch.randn(4, 1, 9, 9), lambda: None)
    assert kernels == [{"weight": MATRIX, "input": CUDNN}, {"weight": CUDNN, "input": FORWARD}]
    assert len(asked) == 8


def test_a_gain_within_the_noise_leaves_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_seconds", lambda call, _: 0.97 if convolution.is_other(call.args[1]) else 1.0)
    kernels = convolution.choose(nn.Conv2d(1, 2, 3), torch.randn(4, 1, 9, 9), lambda: None)
    assert kernels == [{"weight": CUDNN, "input": CUDNN}]


def test_a_cell_whose_convolutions_are_spelled_passes_the_gate_and_says_so(
    digit_images: Component, cell: Cell, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On the CPU, by another choice than it would make."""
    prepared = datasets.prepare(digit_images)
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(convolution, "_seconds", lambda call, _: 0.5 if convolution.is_other(call.args[1]) else 1.0)
    cell = replace(
        cell,
        dataset=prepared.component,
        architecture=Component(name="lenet5"),
        batch_size=128,
        training=Training(epochs=1),
        execution=Component(name="fast", options={"step": "autograd"}),
    )
    job = Job(cell=cell, record_id="r", data_directory=str(prepared.directory), data=Data(sha256=prepared.sha256))
    trainee = make_trainee(job, torch.device("cpu"))
    assert trainee.levers.convolutions == "cudnn", "there is no cuDNN on a CPU"
    asked = replace(trainee, levers=replace(trainee.levers, convolutions="fastest", chunk=0))
    spelled = _with_convolutions(job, asked)
    assert spelled.levers.kernels == [BOTH, BOTH]
    again = trainee.anew(levers=spelled.levers)
    for each in (spelled, again):
        for layer in convolution.convolutions(each.model):
            assert type(layer(torch.rand(1, layer.in_channels, 20, 20)).grad_fn).__name__ == "_ConvolutionBackward"
    assert equivalence.check_trainee(job, spelled) == "passed"


@pytest.mark.parametrize(
    ("levers", "device", "wanted"),
    [
        (fast(), "cuda", "fastest"),
        (fast(precision="tf32"), "cuda", "fastest"),
        (fast(convolutions="cudnn"), "cuda", "cudnn"),
        (fast(), "cpu", "cudnn"),
        (fast(compile=True), "cuda", "cudnn"),
        (fast(precision="bf16"), "cuda", "cudnn"),
        (fast(memory_format="channels_last"), "cuda", "cudnn"),
        (plain(), "cuda", "cudnn"),
    ],
)
def test_spellings_are_measured_where_there_is_a_choice(levers: object, device: str, wanted: str) -> None:
    fitted = fit(levers, device_type=device, has_batchnorm=False, why_not_written="", may_mix="")  # type: ignore[arg-type]
    assert fitted.convolutions == wanted
