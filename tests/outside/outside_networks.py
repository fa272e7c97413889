"""Networks as other people write them, for images of one channel and 28×28 pixels: a plug-in of the tool."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def mlp() -> nn.Module:
    """Layers with biases, for the table of optimizers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10))


def matrices() -> nn.Module:
    """Matrices alone, for optimizers that take nothing else."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))


def probability() -> nn.Module:
    """One probability, for the loss `bce`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())


def _cnn(*between: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(1, 8, 3, stride=2), *between, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 13 * 13, 10)]


def group_norm() -> nn.Module:
    """GroupNorm after a convolution."""
    return nn.Sequential(*_cnn(nn.GroupNorm(4, 8)))


def dropout_and_batch_norm() -> nn.Module:
    """Dropout before BatchNorm: statistics that depend on masks."""
    return nn.Sequential(*_cnn(nn.Dropout(0.3), nn.BatchNorm2d(8)))


def functional_dropout() -> nn.Module:
    """Dropout that is no layer."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(784, 64), nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(F.dropout(F.relu(self.first(images.flatten(1))), 0.4, training=self.training))

    return Functional()


def odd_batch_norm() -> nn.Module:
    """BatchNorm with a cumulative mean, without weights, and without statistics."""
    return nn.Sequential(
        *_cnn(
            nn.BatchNorm2d(8, momentum=None),
            nn.BatchNorm2d(8, affine=False),
            nn.BatchNorm2d(8, track_running_stats=False),
        )
    )


class LSTM(nn.Module):
    """Reads an image row by row."""

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(28, hidden, batch_first=True), nn.Linear(hidden, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.rows(images.squeeze(1))[0][:, -1])


class Attention(nn.Module):
    """One block of self-attention over rows."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding, self.place = nn.Linear(28, width), nn.Parameter(torch.randn(28, width) * 0.02)
        self.block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block(self.embedding(images.squeeze(1)) + self.place).mean(1))


class Mixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al. 2021) with one block over patches of 7×7."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens + self.tokens(self.norms[0](tokens).transpose(1, 2)).transpose(1, 2)
        tokens = tokens + self.channels(self.norms[1](tokens))
        return self.head(tokens.mean(1))


class KAN(nn.Module):
    """Kolmogorov-Arnold network (Liu et al. 2024) with Gaussian bumps for splines, over the image pooled to 7×7."""

    def __init__(self, width: int = 16, bumps: int = 5) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-1, 1, bumps))
        sizes = [49, width, 10]
        self.curves = nn.ParameterList(
            [nn.Parameter(torch.randn(a * bumps, b) * 0.1) for a, b in itertools.pairwise(sizes)]
        )

    def forward(self, images: Tensor) -> Tensor:
        values = F.avg_pool2d(images, 4).flatten(1)
        for curve in self.curves:
            bumps = torch.exp(-(((values.unsqueeze(2) - self.centres) * 2) ** 2))
            values = bumps.flatten(1) @ curve
        return values


class TiedWeights(nn.Module):
    """A layer whose weight is another's, transposed, and two modules that hold one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner, self.again = nn.Linear(784, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        self.again.weight = self.inner.weight
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        code = F.relu(self.again(F.relu(self.inner(F.relu(self.down(images.flatten(1)))))))
        return self.head(F.relu(code @ self.down.weight))


def shared_in_a_list() -> nn.Module:
    """A plain list of layers, two of which hold one weight."""
    first, second = nn.Linear(32, 32), nn.Linear(32, 32)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), first, nn.ReLU(), second, nn.Linear(32, 10))


def twice_in_a_list() -> nn.Module:
    """A plain list in which one layer stands twice."""
    layer = nn.Linear(32, 32)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), layer, nn.ReLU(), layer, nn.Linear(32, 10))


def lazy() -> nn.Module:
    """Layers that take their shape from the first batch."""
    return nn.Sequential(
        nn.LazyConv2d(8, 3, stride=2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    )


def frozen() -> nn.Module:
    """A body that is not trained, its BatchNorm's weights included."""
    network = nn.Sequential(*_cnn(nn.BatchNorm2d(8)))
    for layer in list(network)[:-1]:
        layer.requires_grad_(False)
    return network


class MovingCentre(nn.Module):
    """A buffer that each forward pass in training moves and uses, one that is kept out of the state, and an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(784, 32), nn.Linear(32, 10)
        self.register_buffer("centre", torch.zeros(32))
        self.register_buffer("scale", torch.full((32,), 0.5), persistent=False)
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.body(images.flatten(1))
        if self.training:
            self.passes += 1
            self.centre = self.centre * 0.9 + hidden.detach().mean(0) * 0.1
            self.scale.add_(0.05)
        return self.head(F.relu(hidden - self.centre) * self.scale / (1 + self.passes / 10))


class Counter(nn.Module):
    """Counts its training passes in Python, and lets its second half in by and by."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.side, self.head = nn.Linear(784, 32), nn.Linear(784, 32), nn.Linear(32, 10)
        self.passes = 0
        self.seen: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        share = min(1.0, self.passes / 4)
        if self.training:
            self.passes += 1
            self.seen.append(share)
        pixels = images.flatten(1)
        return self.head(F.relu(self.body(pixels) + share * self.side(pixels)))


class StochasticDepth(nn.Module):
    """Blocks that are left out at random: their parameters have no gradient then (Huang et al. 2016)."""

    def __init__(self, keep: float = 0.5) -> None:
        super().__init__()
        self.keep, self.first, self.last = keep, nn.Linear(784, 32), nn.Linear(32, 10)
        self.blocks = nn.ModuleList([nn.Linear(32, 32) for _ in range(4)])

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.first(images.flatten(1)))
        for block in self.blocks:
            if self.training and torch.rand(()) > self.keep:
                continue
            hidden = hidden + F.relu(block(hidden))
        return self.last(hidden)


def hooks() -> nn.Module:
    """A plain list of layers with hooks on the way forward, on the way back, and on a parameter."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    network[1].register_forward_hook(lambda layer, inputs, outputs: outputs * 0.5)
    network[2].register_full_backward_hook(lambda layer, inner, outer: (inner[0] * 2,))
    network[3].weight.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    network.register_forward_pre_hook(lambda layer, inputs: (inputs[0] - 0.1,))
    return network


def weight_norm() -> nn.Module:
    """Weights that are computed from others; spectral norm keeps buffers that each pass moves."""
    return nn.Sequential(
        nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(784, 32)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(32, 32)),
        nn.ReLU(),
        parametrizations.orthogonal(nn.Linear(32, 10)),
    )


class Standardized(nn.Conv2d):
    """A convolution with standardized weights (Qiao et al. 2019)."""

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(images, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias, self.stride)


class Halved(nn.ReLU):
    """Half of what its class does."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values) / 2


class Doubled(nn.Sequential):
    """A list of layers whose outputs are doubled."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 2


def own_layers() -> nn.Module:
    """Subclasses of torch's layers, in a plain list."""
    return nn.Sequential(
        Standardized(1, 8, 3, stride=2), Halved(), nn.Flatten(), Doubled(nn.Linear(8 * 13 * 13, 32)), nn.Linear(32, 10)
    )


def own_list() -> nn.Module:
    """A subclass of `nn.Sequential` with a forward pass of its own."""
    return Doubled(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))


class StaysInEval(nn.Module):
    """BatchNorm and dropout that are kept in evaluation mode, as for a body that was trained before."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU())
        self.head = nn.Linear(8 * 13 * 13, 10)

    def train(self, mode: bool = True) -> StaysInEval:
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


class TwoHeads(nn.Module):
    """Returns a second, auxiliary output in training, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(784, 32), nn.Linear(32, 10), nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Any:
        hidden = F.relu(self.body(images.flatten(1)))
        return (self.head(hidden), self.auxiliary(hidden)) if self.training else self.head(hidden)


def resnet18() -> nn.Module:
    """torchvision's, with a first convolution for one channel."""
    from torchvision import models

    network = models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return network


def mobilenet() -> nn.Module:
    """torchvision's MobileNetV3, small, for one channel; it has dropout and BatchNorm."""
    from torchvision import models

    network = models.mobilenet_v3_small(num_classes=10)
    network.features[0][0] = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
    return network


def vgg() -> nn.Module:
    """torchvision's VGG11 at a quarter of its widths, for one channel; images are scaled to 32×32."""
    from torchvision.models import vgg as torchvision_vgg

    widths = [size if isinstance(size, str) else size // 4 for size in torchvision_vgg.cfgs["A"]]
    features = torchvision_vgg.make_layers(widths, batch_norm=True)
    features[0] = nn.Conv2d(1, 16, 3, padding=1)
    head = [nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 10)]
    return nn.Sequential(nn.Upsample(32), features, *head)


def vit_tiny() -> nn.Module:
    """timm's ViT tiny over patches of 7×7."""
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=28, patch_size=7, in_chans=1, num_classes=10)


def timm_mixer() -> nn.Module:
    """timm's MLP-Mixer, two blocks."""
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(img_size=28, in_chans=1, patch_size=7, num_blocks=2, embed_dim=64, num_classes=10)


def timm_resnet() -> nn.Module:
    """timm's smallest ResNet, with stochastic depth of single examples."""
    import timm

    return timm.create_model("resnet10t", in_chans=1, num_classes=10, drop_path_rate=0.2)
