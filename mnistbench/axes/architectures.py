"""Grid axis: the networks, each written as the list of layers a reader would draw.

A network maps inputs [n, *input_shape] to logits [n, classes] (or to log-probabilities or probabilities, where an
option says so). Weights start as torch's layers draw them, unless `init` names another rule; the caller seeds.

A new network is a function added to `ARCHITECTURES`, or any `torch.nn.Module` of a plug-in; its keyword options, with
their types and defaults, are what a grid may say.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mnistbench.axes.options import Fraction, PositiveInt, as_declared
from mnistbench.axes.plugins import Plugins, flag_for, same_folder
from mnistbench.cell import Component
from mnistbench.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from mnistbench.cell.data_spec import DataSpec

Activation = Literal["relu", "sigmoid", "tanh", "prelu", "rrelu"]
Output = Literal["none", "sigmoid"]


def mlp(
    data: DataSpec,
    *,
    hidden: Sequence[PositiveInt] = (512, 256, 128, 64),
    activation: Activation = "relu",
    output: Output = "none",
) -> nn.Module:
    """Fully connected layers, for images and for rows of numbers.

    Args:
        data: gives the shape of the inputs and the number of outputs.
        hidden: widths of the hidden layers; none makes it linear.
        activation: after each hidden layer.
        output: `sigmoid` ends in probabilities, as the `bce` loss wants them.
    """
    from torch import nn

    layers: list[nn.Module] = [nn.Flatten()] if len(data.input_shape) > 1 else []
    width = math.prod(data.input_shape)
    for wider in hidden:
        layers += [nn.Linear(width, wider), _activation(activation)]
        width = wider
    layers += [nn.Linear(width, data.classes)]
    if output == "sigmoid":
        layers += [nn.Sigmoid()]
    return nn.Sequential(*layers)


def logistic(data: DataSpec, *, output: Output = "none") -> nn.Module:
    """One linear layer: (multinomial) logistic regression.

    Args:
        data: gives the shape of the inputs and the number of outputs.
        output: `sigmoid` ends in probabilities, as the `bce` loss wants them.
    """
    return mlp(data, hidden=(), output=output)


def lenet5(
    data: DataSpec,
    *,
    activation: Activation = "relu",
    pool: Literal["max", "average"] = "max",
    init: Literal["default", "xavier"] = "default",
) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) as today's tutorials write it; with 28x28 pixels 61,706 parameters.

    Args:
        data: images of at least 12x12 pixels.
        activation: after each convolution and hidden layer; 1998 had a scaled tanh.
        pool: 2x2, by maximum or by mean.
        init: `xavier` draws the weights of all layers Xavier-uniform; biases stay as torch draws them.

    Raises:
        UserError: for inputs that are no images, or too small.
    """
    from torch import nn

    channels, height, width = _image_shape("lenet5", data, smallest=12)
    pooling = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
    flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    model = nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        _activation(activation),
        pooling(2),
        nn.Conv2d(6, 16, 5),
        _activation(activation),
        pooling(2),
        nn.Flatten(),
        nn.Linear(flat, 120),
        _activation(activation),
        nn.Linear(120, 84),
        _activation(activation),
        nn.Linear(84, data.classes),
    )
    if init == "xavier":
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
    return model


def cnn(
    data: DataSpec,
    *,
    channels: Sequence[PositiveInt] = (32, 64),
    dropout: Fraction = 0.25,
    head: Literal["logits", "log_softmax"] = "log_softmax",
) -> nn.Module:
    """Unpadded 3x3 convolutions, one 2x2 max-pooling, dropout of whole feature maps, two linear layers.

    Args:
        data: images.
        channels: feature maps of each convolution.
        dropout: probability with which a feature map is zeroed in training; 0 leaves the layer out.
        head: `log_softmax` ends in log-probabilities, for `nll` and `cross_entropy`; `logits` for the latter only.

    Raises:
        UserError: for inputs that are no images, or too small.
    """
    from torch import nn

    shrinks = 2 * len(channels)
    previous, height, width = _image_shape("cnn", data, smallest=shrinks + 2)
    layers: list[nn.Module] = []
    for wider in channels:
        layers += [nn.Conv2d(previous, wider, 3), nn.ReLU()]
        previous = wider
    layers += [nn.MaxPool2d(2)]
    if dropout > 0:
        layers += [nn.Dropout2d(dropout)]
    flat = previous * ((height - shrinks) // 2) * ((width - shrinks) // 2)
    layers += [nn.Flatten(), nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, data.classes)]
    if head == "log_softmax":
        layers += [nn.LogSoftmax(dim=1)]
    return nn.Sequential(*layers)


def resnet(data: DataSpec, *, width: PositiveInt = 16) -> nn.Module:
    """A small residual network: three blocks of growing width, each but the first halving the image.

    Args:
        data: images.
        width: feature maps of the first block; the next have twice and four times as many.

    Raises:
        UserError: for inputs that are no images.
    """
    from torch import nn

    from mnistbench.axes.residual import Residual

    channels, _, _ = _image_shape("resnet", data, smallest=4)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Residual(width, width),
        Residual(width, 2 * width, stride=2),
        Residual(2 * width, 4 * width, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, data.classes),
    )


def speedrun(data: DataSpec, *, channels: Sequence[PositiveInt] = (24, 32, 64)) -> nn.Module:
    """A small net that reaches 99 % on MNIST in one epoch.

    Pooling stands before batch norm and ReLU, which then see a quarter of the numbers, and the first convolution is
    5x5. With pooling behind them and 3x3 throughout, 3 of 50 seeds stayed below 99 %, in 1.5 times the time on a CPU.

    Args:
        data: images.
        channels: feature maps of each convolution; a 2x2 max-pooling follows each.

    Raises:
        UserError: for inputs that are no images, or too small.
    """
    from torch import nn

    previous, height, width = _image_shape("speedrun", data, smallest=2 ** len(channels))
    layers: list[nn.Module] = []
    for number, wider in enumerate(channels):
        kernel = 3 if number else 5
        layers += [
            nn.Conv2d(previous, wider, kernel, padding=kernel // 2, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(wider),
            nn.ReLU(),
        ]
        previous, height, width = wider, height // 2, width // 2
    layers += [nn.Flatten(), nn.Linear(previous * height * width, data.classes)]
    return nn.Sequential(*layers)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet5": lenet5,
    "cnn": cnn,
    "resnet": resnet,
    "logistic": logistic,
    "speedrun": speedrun,
}


def build(component: Component, data: DataSpec, plugins: Plugins | None = None) -> nn.Module:
    """Build the network that a cell names, on the CPU, its weights drawn from torch's global CPU generator.

    Args:
        component: a name from `ARCHITECTURES` or a plug-in's `module:Name`, with its options.
        data: what it is to be trained on. A plug-in receives it only if its first parameter is called `data`.
        plugins: the modules that the command line named.

    Raises:
        UserError: if the name is unknown, or the network does not fit the data.
    """
    from torch import nn

    if ":" in component.name:
        if plugins is None:
            raise UserError(f"{component.name} is a plug-in: add {flag_for(component.name.partition(':')[0])}")
        constructor: Any = plugins.find(component.name)
        if isinstance(constructor, nn.Module):
            raise UserError(f"`{component.name}` is a network already: name a class or a function that makes one")
        first = next(iter(inspect.signature(constructor).parameters.values()), None)
        options = as_declared(constructor, component.options)
        with same_folder():
            if first is None or first.name != "data":
                built = constructor(**options)
            elif first.kind is first.KEYWORD_ONLY:
                built = constructor(data=data, **options)
            else:
                built = constructor(data, **options)
        if not isinstance(built, nn.Module):
            raise UserError(f"{component.name} gives a {type(built).__name__}; a network is a torch.nn.Module")
        _make_lazy_layers(built, data)
        return built
    if component.name not in ARCHITECTURES:
        raise UserError(f"unknown architecture {component.name!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[component.name](data, **component.options)


def _make_lazy_layers(network: nn.Module, data: DataSpec) -> None:
    """Show layers that take their shape from a batch (nn.LazyLinear) one of zeros; no random number is used up."""
    import torch
    from torch.nn.parameter import is_lazy

    if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
        network.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network(torch.zeros(2, *data.input_shape))
        network.train()


def _activation(name: Activation) -> nn.Module:
    """A fresh layer: PReLU has a weight of its own (it starts at 0.25), RReLU draws slopes in [1/8, 1/3]."""
    from torch import nn

    layers: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "prelu": lambda: nn.PReLU(init=0.25),
        "rrelu": lambda: nn.RReLU(lower=1 / 8, upper=1 / 3),
    }
    return layers[name]()


def _image_shape(name: str, data: DataSpec, smallest: int) -> tuple[int, int, int]:
    if len(data.input_shape) != 3:
        raise UserError(f"{name} needs images; an example of {data.name} has the shape {tuple(data.input_shape)}")
    channels, height, width = data.input_shape
    if min(height, width) < smallest:
        raise UserError(f"{name} needs {smallest}x{smallest} pixels or more; {data.name} has {height}x{width}")
    return channels, height, width
