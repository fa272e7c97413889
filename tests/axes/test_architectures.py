"""Networks: shapes, parameter counts, options, and that each is the list of layers it claims to be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mnistbench.axes.architectures import ARCHITECTURES, build
from mnistbench.cell import Component
from mnistbench.errors import UserError

IMAGES: Any = SimpleNamespace(name="mnist", input_shape=(1, 28, 28), classes=10)
ROWS: Any = SimpleNamespace(name="table", input_shape=(8,), classes=1)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("mlp", {}, 575_050),
        ("mlp", {"hidden": [128, 256], "activation": "sigmoid"}, 136_074),
        ("lenet5", {}, 61_706),
        ("cnn", {}, 1_199_882),
        ("logistic", {}, 7_850),
    ],
)
def test_has_as_many_parameters_as_the_tutorial_network(name: str, options: dict[str, Any], parameters: int) -> None:
    assert count(ARCHITECTURES[name](IMAGES, **options)) == parameters


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_maps_images_to_one_number_a_class(name: str) -> None:
    model = ARCHITECTURES[name](IMAGES)
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize("name", ["lenet5", "cnn", "resnet", "speedrun"])
def test_fits_other_image_sizes_and_channels(name: str) -> None:
    data: Any = SimpleNamespace(name="coloured", input_shape=(3, 32, 20), classes=7)
    assert ARCHITECTURES[name](data)(torch.rand(2, 3, 32, 20)).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "resnet"])
def test_is_a_flat_list_of_torch_layers(name: str) -> None:
    """The speed levers recognise standard layers in a Sequential."""
    model = ARCHITECTURES[name](IMAGES)
    assert type(model) is nn.Sequential
    assert all(type(layer).__module__.startswith("torch.nn.modules") for layer in model)
    assert all(not list(layer.children()) for layer in model)


def test_mlp_takes_rows_and_ends_in_a_probability() -> None:
    model = ARCHITECTURES["mlp"](ROWS, hidden=[32, 8, 4], activation="sigmoid", output="sigmoid")
    probability = model(torch.randn(5, 8))
    assert probability.shape == (5, 1)
    assert ((probability > 0) & (probability < 1)).all()
    assert not any(isinstance(layer, nn.Flatten) for layer in model)


@pytest.mark.parametrize(
    ("activation", "layer"),
    [("relu", nn.ReLU), ("sigmoid", nn.Sigmoid), ("tanh", nn.Tanh), ("prelu", nn.PReLU), ("rrelu", nn.RReLU)],
)
def test_mlp_has_the_activation_after_each_hidden_layer(activation: str, layer: type[nn.Module]) -> None:
    model = ARCHITECTURES["mlp"](ROWS, hidden=[4, 3], activation=activation)
    assert [type(each) for each in model] == [nn.Linear, layer, nn.Linear, layer, nn.Linear]


def test_lenet5_pools_by_mean_when_asked() -> None:
    model = ARCHITECTURES["lenet5"](IMAGES, pool="average", activation="sigmoid")
    kinds = {type(layer) for layer in model}
    assert nn.AvgPool2d in kinds
    assert nn.MaxPool2d not in kinds


def test_lenet5_draws_xavier_weights_within_their_bound() -> None:
    model = ARCHITECTURES["lenet5"](IMAGES, init="xavier")
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            outputs, inputs = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            bound = (6 / (inputs + outputs)) ** 0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound


def test_cnn_ends_in_log_probabilities_or_logits() -> None:
    images = torch.rand(4, 1, 28, 28)
    total = ARCHITECTURES["cnn"](IMAGES, head="log_softmax")(images).exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(4))
    assert not any(isinstance(layer, nn.LogSoftmax) for layer in ARCHITECTURES["cnn"](IMAGES, head="logits"))


def test_cnn_without_dropout_has_no_such_layer() -> None:
    assert [layer.p for layer in ARCHITECTURES["cnn"](IMAGES) if isinstance(layer, nn.Dropout2d)] == [0.25]
    assert not any(isinstance(layer, nn.Dropout2d) for layer in ARCHITECTURES["cnn"](IMAGES, dropout=0.0))


def test_resnet_halves_the_image_twice() -> None:
    model = ARCHITECTURES["resnet"](IMAGES)
    assert model[:6](torch.rand(2, 1, 28, 28)).shape == (2, 64, 7, 7)


@pytest.mark.parametrize("name", ["lenet5", "cnn", "resnet", "speedrun"])
def test_says_that_it_needs_images(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} needs images; an example of table has the shape \(8,\)"):
        ARCHITECTURES[name](ROWS)


def test_says_that_images_are_too_small() -> None:
    data: Any = SimpleNamespace(name="tiny", input_shape=(1, 8, 8), classes=10)
    with pytest.raises(UserError, match="lenet5 needs 12x12 pixels or more; tiny has 8x8"):
        ARCHITECTURES["lenet5"](data)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_seed_fixes_the_weights(name: str) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = build(Component(name=name), IMAGES)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_build_passes_options_as_json_has_them() -> None:
    model = build(Component(name="mlp", options={"hidden": [16]}), IMAGES)
    assert [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)] == [16, 10]


class NeedsData(nn.Module):
    def __init__(self, data: Any, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(data.input_shape[0], width)


class NeedsNothing(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(2, width)


@pytest.mark.parametrize(("found", "inputs"), [(NeedsData, 8), (NeedsNothing, 2)])
def test_a_plug_in_receives_the_data_if_it_asks_for_it(found: type[nn.Module], inputs: int) -> None:
    plugins: Any = SimpleNamespace(find=lambda name: found)
    model = build(Component(name="my_models:Net", options={"width": 5}), ROWS, plugins)
    assert model.get_submodule("layer").weight.shape == (5, inputs)  # type: ignore[union-attr]


def test_a_plug_in_that_gives_no_network_is_named() -> None:
    plugins: Any = SimpleNamespace(find=lambda name: lambda: [1, 2])
    with pytest.raises(UserError, match=r"my_models:Net gives a list; a network is a torch\.nn\.Module"):
        build(Component(name="my_models:Net"), ROWS, plugins)


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(UserError, match="unknown architecture 'lenet'; there are mlp, lenet5"):
        build(Component(name="lenet"), IMAGES)
    with pytest.raises(UserError, match="--plugin my_models"):
        build(Component(name="my_models:Net"), IMAGES)
