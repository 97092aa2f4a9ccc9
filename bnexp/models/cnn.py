"""A small all-convolutional network."""

from __future__ import annotations

from typing import Literal

from torch import nn

from bnexp.config.checks import Some, Width
from bnexp.models.unit import MODELS, Units, image_shape, named

# Global average pooling leaves one number a channel; flattening keeps all positions.
Head = Literal["pool", "flatten"]


@MODELS.register("cnn")
def cnn(
    shape: tuple[int, ...], classes: int, units: Units, *, widths: Some[Width], kernel: Width, head: Head
) -> nn.Module:
    """Convolutional units of stride 2 and a linear head, without pooling in between (Springenberg et al. 2015).

    Options:
        widths: channels of the units, one number a unit; each halves height and width.
        kernel: side of the kernels, odd; padding makes a side s become ceil(s / 2).
        head: ``pool``: global average pooling; ``flatten``: all positions. Instance norm fixes the mean of each
            channel, and pooling keeps nothing but this mean: instance norm needs ``flatten``.

    Raises:
        ValueError: an even kernel.
    """
    channels, height, side = image_shape("cnn", shape)
    if kernel % 2 == 0:
        raise ValueError(f"model.kernel={kernel}: even kernels have no middle; allowed are 1, 3, 5 and so on")
    layers: dict[str, nn.Module] = {}
    for number, width in enumerate(widths, 1):
        layers[f"conv{number}"] = units.conv(channels, width, kernel, stride=2, padding=kernel // 2)
        channels, height, side = width, -(-height // 2), -(-side // 2)
    if head == "pool":
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
    inputs = channels if head == "pool" else channels * height * side
    return named(**layers, flatten=nn.Flatten(), head=nn.Linear(inputs, classes))
