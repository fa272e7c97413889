"""The residual block of `resnet`: the one piece of our networks that is no plain list of layers."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3x3 convolutions beside a short cut, added and rectified (He et al. 2015, arXiv:1512.03385, figure 2).

    Args:
        channels_in, channels_out: feature maps; the short cut is a 1x1 convolution where shapes differ.
        stride: of the first convolution; 2 halves height and width.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )
        self.activation = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps [n, channels_in, h, w] to [n, channels_out, h / stride, w / stride]."""
        rectified: Tensor = self.activation(self.body(inputs) + self.shortcut(inputs))
        return rectified
