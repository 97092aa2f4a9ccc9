"""LeNet."""

from __future__ import annotations

from typing import Annotated

from torch import nn

from bnexp.config.checks import Range
from bnexp.models.pooling import HalvingPool
from bnexp.models.unit import MODELS, Units, image_shape, named


@MODELS.register("lenet")
def lenet(
    shape: tuple[int, ...], classes: int, units: Units, *, padding: Annotated[int, Range(least=0, most=4)]
) -> nn.Module:
    """LeNet-5 as in Dive into Deep Learning: conv 6 and 16 (5x5), average pooling, 120-84-classes.

    Section 7.6 (6.6 before edition 1.0) has padding 2. The BatchNorm LeNet of section 8.5 (7.5 before), with norm=bn
    behind both convolutions and both hidden layers, has padding 0. Their layers in front of a norm keep their 226
    biases, which batch norm cancels and which are left out here: 62,158 and 44,878 parameters there with batch norm are
    61,932 and 44,652 here.

    Options:
        padding: zeros on each side of the image in the first convolution.

    Raises:
        ValueError: images so small that the second pooling leaves nothing, under 12x12 with padding 2.
    """
    channels, height, width = image_shape("lenet", shape)
    least = 16 - 2 * padding
    if min(height, width) < least:
        raise ValueError(
            f"model=lenet: {height}x{width} images are too small; {least}x{least} at least (data.size=28 enlarges)"
        )
    pooled = [((side + 2 * padding - 4) // 2 - 4) // 2 for side in (height, width)]
    return named(
        conv1=units.conv(channels, 6, 5, padding=padding),
        pool1=HalvingPool(),
        conv2=units.conv(6, 16, 5),
        pool2=HalvingPool(),
        flatten=nn.Flatten(),
        hidden1=units.linear(16 * pooled[0] * pooled[1], 120),
        hidden2=units.linear(120, 84),
        head=nn.Linear(84, classes),
    )
