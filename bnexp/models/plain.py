"""The CIFAR ResNet without its shortcuts."""

from __future__ import annotations

from torch import nn

from bnexp.config.checks import Depth, Width
from bnexp.models.resnet import require_depth
from bnexp.models.unit import MODELS, Units, image_shape, named


@MODELS.register("plain")
def plain(shape: tuple[int, ...], classes: int, units: Units, *, depth: Depth, width: Width) -> nn.Module:
    """The plain network of He et al. 2016, sec. 4.2: the layers of ``resnet`` of the same depth, and no shortcuts.

    Raises:
        ValueError: a depth that is not 6n + 2.
    """
    channels, *_ = image_shape("plain", shape)
    require_depth(depth)
    layers: dict[str, nn.Module] = {"stem": units.conv(channels, width, 3, padding=1)}
    c_in = width
    for stage, c_out in enumerate((width, 2 * width, 4 * width), 1):
        for number in range(1, (depth - 2) // 3 + 1):
            stride = 2 if number == 1 and stage > 1 else 1
            layers[f"stage{stage}_conv{number}"] = units.conv(c_in, c_out, 3, stride=stride, padding=1)
            c_in = c_out
    return named(**layers, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(c_in, classes))
