"""The blocks of the written step: layers that know their own backward, and several ways to compute the same thing.

Each block has `choices` of kernel and memory layout that give equal results up to rounding; `tuning.py` times them on
the shapes at hand. A block keeps what its backward needs from the last forward, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

if TYPE_CHECKING:
    from torch import Tensor

aten: Any = torch.ops.aten
MEMORY_FORMAT = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
LAYOUTS = tuple(MEMORY_FORMAT)
TINY = torch.finfo(torch.float32).tiny


class Block:
    """One or more layers of the network, forward and backward without autograd.

    Attributes:
        parameters: weights whose gradients `backward` leaves in `gradients`, in the same order.
        choice: the values in use.
    """

    def __init__(self, parameters: Sequence[Tensor] = ()) -> None:
        self.parameters = list(parameters)
        self.gradients: list[Tensor] = []
        self.choice = {key: values[0] for key, values in self.choices().items()}

    def choices(self) -> dict[str, tuple[str, ...]]:
        """What can be chosen, each with its values; the first is torch's own way."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the layers in training mode."""
        raise NotImplementedError

    def backward(self, gradient: Tensor, *, wants_input: bool) -> Tensor | None:
        """Leave the weights' gradients in `gradients`; return the input's, if it is wanted."""
        raise NotImplementedError


class Linear(Block):
    """`nn.Linear`; each of its three products by BLAS or by oneDNN.

    On AMD's processors MKL's sgemm reaches half of what oneDNN's does; for small products its shorter call wins.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__([layer.weight] if layer.bias is None else [layer.weight, layer.bias])
        # The parameters themselves: an optimizer may put another tensor behind them (`parameter.data = …`).
        self.weight: Tensor = layer.weight
        self.bias: Tensor | None = layer.bias

    def choices(self) -> dict[str, tuple[str, ...]]:
        """The library of the output, the weight's gradient and the input's."""
        has_onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        libraries = ("blas", "onednn") if has_onednn else ("blas",)
        return {"forward": libraries, "weight": libraries, "input": libraries}

    @override
    def forward(self, x: Tensor) -> Tensor:
        """The last dimension holds the features."""
        self._shape = x.shape
        self._x = x = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        y = self._forward(x)
        return y if len(self._shape) == 2 else y.view(*self._shape[:-1], -1)

    def _forward(self, x: Tensor) -> Tensor:
        if self.choice["forward"] == "onednn":
            return _onednn(x, self.weight, self.bias)
        return functional.linear(x, self.weight, self.bias)

    @override
    def backward(self, gradient: Tensor, *, wants_input: bool) -> Tensor | None:
        if gradient.dim() != 2:
            gradient = gradient.reshape(-1, gradient.shape[-1])
        if self.choice["weight"] == "onednn":
            self.gradients = [_onednn(gradient.t(), self._x.t(), None)]
        else:
            self.gradients = [torch.mm(gradient.t(), self._x)]
        if self.bias is not None:
            self.gradients.append(gradient.sum(0))
        if not wants_input:
            return None
        onednn = self.choice["input"] == "onednn"
        below = _onednn(gradient, self.weight.t(), None) if onednn else torch.mm(gradient, self.weight)
        return below if len(self._shape) == 2 else below.view(self._shape)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [n, k] times weight [m, k] transposed, with oneDNN's kernel."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return result


class Activation(Block):
    """ReLU, sigmoid, tanh: their backward needs only their output, so they overwrite their input."""

    KINDS: ClassVar[dict[type[nn.Module], tuple[Callable[..., Tensor], Callable[..., Tensor]]]] = {
        nn.ReLU: (torch.relu_, lambda gradient, y: aten.threshold_backward.default(gradient, y, 0)),
        nn.Sigmoid: (torch.sigmoid_, aten.sigmoid_backward.default),
        nn.Tanh: (torch.tanh_, aten.tanh_backward.default),
    }

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._forward, self._backward = self.KINDS[type(layer)]

    @override
    def forward(self, x: Tensor) -> Tensor:
        self._y = self._forward(x)
        return self._y

    @override
    def backward(self, gradient: Tensor, *, wants_input: bool, output: Tensor | None = None) -> Tensor:
        return self._backward(gradient, self._y if output is None else output)


class Convolution(Block):
    """`nn.Conv2d`; each of its three computations has its own best memory layout."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__([layer.weight] if layer.bias is None else [layer.weight, layer.bias])
        self.weight: Tensor = layer.weight
        self.bias: Tensor | None = layer.bias
        self.padding = _pair(layer.padding)
        self.geometry: Any = (layer.stride, self.padding, layer.dilation, False, (0, 0), layer.groups)

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Layouts of the forward pass, the weight's gradient and the input's."""
        return {"forward": LAYOUTS, "weight": LAYOUTS, "input": LAYOUTS}

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.weight, self.bias, self.geometry)

    @override
    def backward(self, gradient: Tensor, *, wants_input: bool) -> Tensor | None:
        below, weight, bias = self._convolve_backward(gradient, wants_input)
        # Fused optimizers walk raw memory: a gradient in another layout than its weight's would be taken for another.
        weight = weight.contiguous()
        self.gradients = [weight] if self.bias is None else [weight, bias]
        return below

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Any) -> Tensor:
        layout = MEMORY_FORMAT[self.choice["forward"]]
        self._saved = x, weight, bias, geometry
        x, weight = x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
        y: Tensor = aten.convolution.default(x, weight, bias, *geometry)
        return y

    def _convolve_backward(self, gradient: Tensor, wants_input: bool) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight, bias, geometry = self._saved
        sizes = None if bias is None else list(bias.shape)

        def backward(key: str, wanted: list[bool]) -> Any:
            layout = MEMORY_FORMAT[self.choice[key]]
            tensors = [tensor.contiguous(memory_format=layout) for tensor in (gradient, x, weight)]
            return aten.convolution_backward.default(*tensors, sizes, *geometry, wanted)

        together = wants_input and self.choice["weight"] == self.choice["input"]
        below, weight_gradient, bias_gradient = backward("weight", [together, True, bias is not None])
        if wants_input and not together:
            below = backward("input", [True, False, False])[0]
        return below, weight_gradient, bias_gradient


class PooledConvolution(Convolution):
    """A convolution, perhaps an activation, and 2x2 pooling, which can be folded into the convolution.

    Folded, the four outputs that are pooled together become four groups of channels of one convolution, whose kernels
    are shifted copies of the layer's in a frame one pixel larger. Pooling is then elementwise over whole blocks of
    memory, where torch's pooling of few channels walks them pixel by pixel. `strided` reads the image in steps of two;
    `unshuffled` first turns its 2x2 pixels into channels.

    A monotonous activation in front of a maximum moves behind it (a block of its own): a quarter of the work.
    """

    def __init__(self, layer: nn.Conv2d, activation: Activation | None, pool: nn.MaxPool2d | nn.AvgPool2d) -> None:
        self._activation, self._pool = activation, Pool(pool)
        self._foldable = layer.kernel_size[0] == layer.kernel_size[1] and layer.kernel_size[0] % 2 == 1
        self._foldable &= tuple(layer.stride) == tuple(layer.dilation) == (1, 1) and layer.groups == 1
        self._foldable &= not isinstance(layer.padding, str)
        super().__init__(layer)

    def choices(self) -> dict[str, tuple[str, ...]]:
        """How it is folded, the layouts of the convolution, and that of an unfolded pooling."""
        folds = ("no", "strided", "unshuffled") if self._foldable else ("no",)
        return {"fold": folds, "pool": LAYOUTS, **super().choices()}

    @override
    def forward(self, x: Tensor) -> Tensor:
        self._pool.choice = {"pool": self.choice["pool"]}
        self._folded = self.choice["fold"] != "no" and not any(
            (size + 2 * pad) % 2 for size, pad in zip(x.shape[2:], self.padding, strict=True)
        )
        if not self._folded:
            y = super().forward(x)
            return self._pool.forward(self._activation.forward(y) if self._activation else y)
        return self._pool_groups(self._convolve_folded(x))

    @override
    def backward(self, gradient: Tensor, *, wants_input: bool) -> Tensor | None:
        if not self._folded:
            gradient = self._pool.backward(gradient, wants_input=True)
            if self._activation:
                gradient = self._activation.backward(gradient, wants_input=True)
            return super().backward(gradient, wants_input=wants_input)
        below, folded, bias = self._convolve_backward(self._ungroup(gradient), wants_input)
        if self.choice["fold"] == "unshuffled":
            folded = functional.pixel_shuffle(folded, 2)
            below = None if below is None else self._unpad(functional.pixel_shuffle(below, 2))
        weight = torch.zeros_like(self.weight)
        for shifted, window in self._windows(folded):
            weight += shifted[window]
        self.gradients = [weight] if self.bias is None else [weight, bias.view(4, -1).sum(0)]
        return below

    def _convolve_folded(self, x: Tensor) -> Tensor:
        outputs, inputs, kernel, _ = self.weight.shape
        folded = self.weight.new_zeros(4 * outputs, inputs, kernel + 1, kernel + 1)
        for shifted, window in self._windows(folded):
            shifted[window] = self.weight
        bias = None if self.bias is None else self.bias.repeat(4)
        down, right = self.padding
        if self.choice["fold"] == "strided":
            return self._convolve(x, folded, bias, ((2, 2), self.padding, (1, 1), False, (0, 0), 1))
        if down or right:
            x = functional.pad(x, (right, right, down, down))
        x, folded = functional.pixel_unshuffle(x, 2), functional.pixel_unshuffle(folded, 2)
        return self._convolve(x, folded, bias, ((1, 1), (0, 0), (1, 1), False, (0, 0), 1))

    def _windows(self, folded: Tensor) -> list[tuple[Tensor, tuple[slice, ...]]]:
        """The four groups of kernels, and where in its larger frame each holds the layer's kernel."""
        outputs, _, kernel, _ = self.weight.shape
        everything = slice(None)
        return [
            (group, (everything, everything, slice(down, down + kernel), slice(right, right + kernel)))
            for group, (down, right) in zip(folded.split(outputs), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
        ]

    def _unpad(self, x: Tensor) -> Tensor:
        down, right = self.padding
        return x[:, :, down : x.shape[2] - down, right : x.shape[3] - right]

    def _pool_groups(self, y: Tensor) -> Tensor:
        y = y.contiguous()
        if self._activation:
            y = self._activation.forward(y)
        examples, channels, height, width = y.shape
        self._groups = y.view(examples, 4, -1)
        first, second, third, fourth = self._groups.unbind(1)
        if self._pool.is_max:
            self._upper, self._lower = torch.maximum(first, second), torch.maximum(third, fourth)
            pooled = torch.maximum(self._upper, self._lower)
        else:
            pooled = (first + second).add_(third).add_(fourth).mul_(0.25)
        return pooled.view(examples, channels // 4, height, width)

    def _ungroup(self, gradient: Tensor) -> Tensor:
        """Gradient of the pooled groups; of equal values the first one gets it, as in torch's own pooling."""
        examples, channels, height, width = gradient.shape
        gradient = gradient.reshape(examples, -1)
        if not self._pool.is_max:
            spread = gradient.mul(0.25).unsqueeze(1).expand(examples, 4, -1)
            if self._activation:
                spread = self._activation.backward(spread, wants_input=True, output=self._groups)
            return spread.reshape(examples, 4 * channels, height, width)
        first, second, third, fourth = self._groups.unbind(1)
        spread = torch.empty_like(self._groups)
        upper = _where_not_less(gradient, self._upper, self._lower, out=torch.empty_like(gradient))
        lower = gradient - upper
        _where_not_less(upper, first, second, out=spread[:, 0])
        torch.sub(upper, spread[:, 0], out=spread[:, 1])
        _where_not_less(lower, third, fourth, out=spread[:, 2])
        torch.sub(lower, spread[:, 2], out=spread[:, 3])
        return spread.view(examples, 4 * channels, height, width)


def _where_not_less(gradient: Tensor, one: Tensor, other: Tensor, *, out: Tensor) -> Tensor:
    """`gradient` where one >= other, 0 elsewhere.

    A comparison and `where` say the same through booleans, whose loops torch does not vectorize: an image of LeNet at
    batch 8192 took 28.8 us that way, 23.4 this way. The threshold is below 0, and no difference that matters is above.
    """
    result: Tensor = aten.threshold_backward.grad_input(gradient, one - other, -TINY, grad_input=out)
    return result


class Pool(Block):
    """2x2 pooling by maximum or mean, without overlap or padding."""

    def __init__(self, layer: nn.MaxPool2d | nn.AvgPool2d) -> None:
        super().__init__()
        self.is_max = isinstance(layer, nn.MaxPool2d)

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether this block does what the layer does."""
        if type(layer) not in (nn.MaxPool2d, nn.AvgPool2d) or layer.ceil_mode:
            return False
        assert isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)
        plain = _pair(layer.kernel_size) == _pair(layer.stride) == (2, 2) and _pair(layer.padding) == (0, 0)
        if isinstance(layer, nn.MaxPool2d):
            return plain and _pair(layer.dilation) == (1, 1) and not layer.return_indices
        return plain and layer.divisor_override is None

    def choices(self) -> dict[str, tuple[str, ...]]:
        """The layout to work in."""
        return {"pool": LAYOUTS}

    @override
    def forward(self, x: Tensor) -> Tensor:
        self._x = x.contiguous(memory_format=MEMORY_FORMAT[self.choice["pool"]])
        if not self.is_max:
            return functional.avg_pool2d(self._x, 2)
        y: Tensor
        y, self._indices = aten.max_pool2d_with_indices.default(self._x, [2, 2], [2, 2])
        return y

    @override
    def backward(self, gradient: Tensor, *, wants_input: bool) -> Tensor:
        gradient = gradient.contiguous(memory_format=MEMORY_FORMAT[self.choice["pool"]])
        if not self.is_max:
            below = aten.avg_pool2d_backward.default(gradient, self._x, [2, 2], [2, 2], [0, 0], False, True, None)
        else:
            below = aten.max_pool2d_with_indices_backward.default(
                gradient, self._x, [2, 2], [2, 2], [0, 0], [1, 1], False, self._indices
            )
        assert isinstance(below, torch.Tensor)
        return below


def _pair(value: Any) -> tuple[Any, Any]:
    return (value, value) if isinstance(value, int) else tuple(value)


class Dropout(Block):
    """Dropout of numbers or of whole feature maps, with a fresh mask at each forward."""

    def __init__(self, layer: nn.Dropout | nn.Dropout2d) -> None:
        super().__init__()
        self.keep = 1 - layer.p
        self.maps = isinstance(layer, nn.Dropout2d)

    @override
    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], *[1] * (x.dim() - 2)) if self.maps else x.shape
        # One that drops nothing draws nothing, as torch's: what draws after it, an optimizer too, draws the same.
        self._mask = x.new_ones(shape) if self.keep == 1 else x.new_empty(shape).bernoulli_(self.keep).div_(self.keep)
        return x * self._mask

    @override
    def backward(self, gradient: Tensor, *, wants_input: bool) -> Tensor:
        return gradient * self._mask


class Flatten(Block):
    """`nn.Flatten` from the second dimension on."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        self._shape = x.shape
        return x.reshape(len(x), -1)

    @override
    def backward(self, gradient: Tensor, *, wants_input: bool) -> Tensor:
        return gradient.reshape(self._shape)


class AnyLayer(Block):
    """Whatever has no block of its own, by autograd: normalizations, residual blocks, a user's layers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(list(layer.parameters()))
        self._layer = layer
        self._writes = any(getattr(each, "inplace", False) for each in layer.modules())  # into its input, at most

    @override
    def forward(self, x: Tensor) -> Tensor:
        # Its own copy, since a block behind it may overwrite its input. Contiguous, since torch's batch norm of
        # channels-last images adds in fp32 one by one: 17 times the rounding error on 64 images.
        with torch.enable_grad():
            self._x = x.detach().contiguous().requires_grad_()
            self._y: Tensor = self._layer(self._x.clone() if self._writes else self._x)
        y: Tensor = self._y.detach().clone()
        return y

    @override
    def backward(self, gradient: Tensor, *, wants_input: bool) -> Tensor | None:
        wanted = [*self.parameters, *([self._x] if wants_input else [])]
        with torch.enable_grad():
            gradients = torch.autograd.grad(self._y, wanted, gradient) if wanted else ()
        self.gradients = list(gradients[: len(self.parameters)])
        return gradients[-1] if wants_input else None
