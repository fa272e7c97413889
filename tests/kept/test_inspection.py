"""`show` and `doctor`: what a network is made of, and what the machine says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mnistbench.axes import architectures
from mnistbench.cell import Component
from mnistbench.cell.data_spec import DataSpec
from mnistbench.errors import UserError
from mnistbench.kept import inspect as inspection

MNIST = DataSpec(
    name="mnist",
    input_shape=(1, 28, 28),
    classes=10,
    train_examples=60_000,
    test_examples=10_000,
    class_names=[str(digit) for digit in range(10)],
)


def test_lenet5_has_the_layers_that_a_reader_would_draw() -> None:
    """Output shapes in order, without the batch dimension."""
    summary = inspection.summarize(architectures.build(Component(name="lenet5"), MNIST), MNIST)
    shapes = [layer.output_shape for layer in summary.layers if layer.parameters]
    assert shapes == [(6, 28, 28), (16, 10, 10), (120,), (84,), (10,)]
    assert summary.parameters == 61_706


def test_flops_are_two_for_each_multiply_add() -> None:
    """Against a count by hand: LeNet's convolutions and linear layers, forward."""
    summary = inspection.summarize(architectures.build(Component(name="lenet5"), MNIST), MNIST)
    by_hand = 2 * (28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10)
    assert summary.forward_flops == by_hand
    assert sum(layer.flops for layer in summary.layers) == by_hand


def test_backward_takes_no_gradient_of_the_inputs() -> None:
    """Training costs three times the forward pass, less the first layer's gradient with respect to its input."""
    summary = inspection.summarize(architectures.build(Component(name="lenet5"), MNIST), MNIST)
    first = summary.layers[0].flops
    assert summary.train_flops == 3 * summary.forward_flops - first


def test_a_table_network_is_summarized_too() -> None:
    """Inputs of one dimension."""
    table = DataSpec(
        name="sum3", input_shape=(3,), classes=3, train_examples=7, test_examples=3, class_names=["a", "b", "c"]
    )
    network = architectures.build(Component(name="mlp", options={"hidden": [5]}), table)
    summary = inspection.summarize(network, table)
    assert summary.layers[0].output_shape == (5,)
    assert summary.parameters == 3 * 5 + 5 + 5 * 3 + 3


class Recurrent(nn.Module):
    """An LSTM over the rows, a layer that returns a tuple; `returns` says what the network makes of it."""

    def __init__(self, returns: Callable[[nn.Module, Any], Any] = lambda network, outputs: outputs) -> None:
        super().__init__()
        self.rows, self.head, self.returns = nn.LSTM(28, 8, batch_first=True), nn.Linear(8, 10), returns

    def forward(self, images: torch.Tensor) -> Any:
        return self.returns(self, self.head(self.rows(images.squeeze(1))[0][:, -1]))


def test_a_layer_that_returns_a_tuple_is_shown_by_its_first_tensor() -> None:
    summary = inspection.summarize(Recurrent(), MNIST)
    assert [(layer.name, layer.output_shape) for layer in summary.layers] == [("rows", (28, 8)), ("head", (10,))]


@pytest.mark.parametrize(
    "returns",
    [
        lambda network, outputs: (outputs, outputs),
        lambda network, outputs: (outputs, outputs) if network.training else outputs,
    ],
    ids=["always", "in training alone"],
)
def test_a_network_that_returns_a_tuple_is_one_clear_line(returns: Callable[[nn.Module, Any], Any]) -> None:
    with pytest.raises(UserError, match="the network returns a tuple in training mode; it must return one tensor"):
        inspection.summarize(Recurrent(returns), MNIST)


def test_summarizing_leaves_no_hook_behind() -> None:
    """A network that is looked at can be trained afterwards as if nothing had happened."""
    network = architectures.build(Component(name="mlp"), MNIST)
    inspection.summarize(network, MNIST)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_matrix_product_is_right_on_the_cpu() -> None:
    """The check that the tutorials begin with."""
    check = inspection.matrix_product("cpu")
    assert check.ok
    assert "right" in check.found


def test_an_absent_device_is_a_failed_check_and_no_traceback() -> None:
    """`doctor` goes on with what is there."""
    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    check = inspection.matrix_product(absent)
    assert not check.ok
    assert check.found


@pytest.mark.gpu
def test_the_matrix_product_is_right_on_cuda() -> None:
    """The same on a GPU."""
    assert inspection.matrix_product("cuda").ok


def test_weights_that_layers_share_are_counted_at_the_first_of_them() -> None:
    """Tied weights, a layer that is called twice, frozen weights: the column adds up to the network's parameters."""
    first, second, frozen = nn.Linear(784, 784), nn.Linear(784, 784), nn.Linear(784, 10)
    second.weight = first.weight
    frozen.weight.requires_grad_(False)
    summary = inspection.summarize(nn.Sequential(nn.Flatten(), first, second, second, frozen), MNIST)
    counts = [(layer.parameters, layer.shared) for layer in summary.layers]
    assert counts == [(0, 0), (784 * 784 + 784, 0), (784, 784 * 784), (0, 784 * 784 + 784), (10, 0)]
    assert sum(layer.parameters for layer in summary.layers) == summary.parameters
