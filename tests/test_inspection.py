"""`show` and `doctor`: what a network is made of, and what the machine says."""

from __future__ import annotations

import pytest
import torch

from mnistbench import architectures, inspection
from mnistbench.cell import Component
from mnistbench.data.arrays import DataSpec

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
