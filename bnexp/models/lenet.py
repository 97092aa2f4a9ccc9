"""LeNet."""

from __future__ import annotations

from torch import nn

from bnexp.models.pooling import HalvingPool
from bnexp.models.unit import MODELS, Units, image_shape, named


@MODELS.register("lenet")
def lenet(shape: tuple[int, ...], classes: int, units: Units) -> nn.Module:
    """LeNet-5 as in Dive into Deep Learning 7.6: conv 6 and 16 (5x5), average pooling, 120-84-classes.

    With norm=bn it is the BatchNorm LeNet of section 8.5: a norm behind both convolutions and both hidden layers.

    Raises:
        ValueError: images are smaller than 12x12, so that nothing is left after the second pooling.
    """
    channels, height, width = image_shape("lenet", shape)
    if min(height, width) < 12:
        raise ValueError(f"model=lenet: {height}x{width} images are too small; 12x12 at least (data.size=28 enlarges)")
    pooled = [(side // 2 - 4) // 2 for side in (height, width)]
    return named(
        conv1=units.conv(channels, 6, 5, padding=2),
        pool1=HalvingPool(),
        conv2=units.conv(6, 16, 5),
        pool2=HalvingPool(),
        flatten=nn.Flatten(),
        hidden1=units.linear(16 * pooled[0] * pooled[1], 120),
        hidden2=units.linear(120, 84),
        head=nn.Linear(84, classes),
    )
