"""Residual networks: the networks of He et al. for CIFAR, and torchvision's for larger images."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bnexp.config.checks import Depth, PositiveFloat, Width
from bnexp.models.unit import MODELS, Units, image_shape, named
from bnexp.norms import Branch


def require_depth(depth: int) -> None:
    """Refuse depths that do not give three stages of equal length.

    Raises:
        ValueError: a depth that is not 6n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"model.depth={depth}: not 6n + 2; allowed are 8, 14, 20, 32, 44, 56, 110 and so on")


class BasicBlock(nn.Module):
    """activation(x + norm(conv(unit(x)))), two 3x3 convolutions (He et al. 2016, fig. 2 and sec. 4.2).

    Where the shape changes, the shortcut takes every second pixel and pads the new channels with zeros (option A).
    """

    def __init__(self, c_in: int, c_out: int, stride: int, units: Units, blocks: int) -> None:
        super().__init__()
        self.first = units.conv(c_in, c_out, 3, stride=stride, padding=1, branch=Branch(blocks, 2, last=False))
        self.linear = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm = units.behind(self.linear, c_out, Branch(blocks, 2, last=True))
        self.activation = units.act()
        self.stride = stride
        self.extra = c_out - c_in

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        residual = self.norm(self.linear(self.first(x)))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.extra))
        y: Tensor = self.activation(shortcut + residual)
        return y


@MODELS.register("resnet")
def resnet(shape: tuple[int, ...], classes: int, units: Units, *, depth: Depth, width: Width) -> nn.Module:
    """The CIFAR ResNet of He et al. 2016, sec. 4.2: depth 6n + 2, stages of width, 2 width and 4 width channels.

    Raises:
        ValueError: a depth that is not 6n + 2.
    """
    units.refuse_after("resnet")
    channels, *_ = image_shape("resnet", shape)
    require_depth(depth)
    layers: dict[str, nn.Module] = {"stem": units.conv(channels, width, 3, padding=1)}
    c_in = width
    for stage, c_out in enumerate((width, 2 * width, 4 * width), 1):
        for block in range(1, (depth - 2) // 6 + 1):
            stride = 2 if block == 1 and stage > 1 else 1
            layers[f"stage{stage}_block{block}"] = BasicBlock(c_in, c_out, stride, units, blocks=(depth - 2) // 2)
            c_in = c_out
    return named(**layers, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(c_in, classes))


class Residual(nn.Module):
    """x + unit(unit(x)): the sum behind the activations (Page 2018)."""

    def __init__(self, channels: int, units: Units, blocks: int) -> None:
        super().__init__()
        self.first = units.conv(channels, channels, 3, padding=1, branch=Branch(blocks, 2, last=False))
        self.second = units.conv(channels, channels, 3, padding=1, branch=Branch(blocks, 2, last=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = x + self.second(self.first(x))
        return y


class ScaledLinear(nn.Linear):
    """scale * (W x + b): smaller logits at first, which a large learning rate needs."""

    def __init__(self, n_in: int, n_out: int, scale: float) -> None:
        super().__init__(n_in, n_out)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in) -> (B, n_out)."""
        return self.scale * super().forward(x)


@MODELS.register("resnet9")
def resnet9(shape: tuple[int, ...], classes: int, units: Units, *, width: Width, scale: PositiveFloat) -> nn.Module:
    """The nine-layer network of Page 2018, "How to Train Your ResNet", after Coleman et al. 2017 (DAWNBench).

    A stem of ``width`` channels; three stages that double the channels and halve the sides by 2x2 max pooling, the
    first and the last with a residual pair; global max pooling; a linear head, here with a bias as in all models.

    Options:
        width: channels of the stem; 64 in the paper.
        scale: factor of the logits; 0.125 in the paper.

    Raises:
        ValueError: images of fewer than 8 pixels a side.
    """
    units.refuse_after("resnet9")
    channels, *sides = image_shape("resnet9", shape)
    if min(sides) < 8:
        raise ValueError(f"model=resnet9: {sides[0]}x{sides[1]} images are too small; allowed is 8x8 or more")
    layers: dict[str, nn.Module] = {"stem": units.conv(channels, width, 3, padding=1)}
    for stage, c_in in enumerate((width, 2 * width, 4 * width), 1):
        layers[f"stage{stage}"] = units.conv(c_in, 2 * c_in, 3, padding=1)
        layers[f"stage{stage}_pool"] = nn.MaxPool2d(2)
        if stage != 2:
            layers[f"stage{stage}_residual"] = Residual(2 * c_in, units, blocks=2)
    pool = nn.MaxPool2d((sides[0] // 8, sides[1] // 8))
    head = ScaledLinear(8 * width, classes, scale)
    return named(**layers, pool=pool, flatten=nn.Flatten(), head=head)


def _torchvision(name: str, shape: tuple[int, ...], classes: int, units: Units, small_stem: bool) -> nn.Module:
    import torchvision.models  # takes a second, and only these models need it

    units.refuse_after(name)
    channels, *_ = image_shape(name, shape)
    model: nn.Module = getattr(torchvision.models, name)(num_classes=classes)
    if small_stem:
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    for module in model.modules():
        if isinstance(getattr(module, "relu", None), nn.ReLU):
            module.relu = units.act()
    _place_norms(model, units)
    return model


def _place_norms(model: Any, units: Units) -> None:
    """Put our norms where torchvision's models have batch norms, and tell them where they stand."""
    behind = partial(units.behind, gives_bias=False)  # torchvision's convolutions have none
    model.bn1 = behind(model.conv1, model.conv1.out_channels)
    blocks: list[Any] = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    for block in blocks:
        convs = [block.conv1, block.conv2, block.conv3] if hasattr(block, "conv3") else [block.conv1, block.conv2]
        for number, conv in enumerate(convs, 1):
            branch = Branch(len(blocks), len(convs), last=number == len(convs))
            setattr(block, f"bn{number}", behind(conv, conv.out_channels, branch))
        if block.downsample is not None:
            block.downsample[1] = behind(block.downsample[0], block.downsample[0].out_channels)


@MODELS.register("resnet18")
def resnet18(shape: tuple[int, ...], classes: int, units: Units, *, small_stem: bool) -> nn.Module:
    """The ResNet-18 of torchvision (He et al. 2016, table 1); ``small_stem``: a 3x3 stem without pooling, for 32x32."""
    return _torchvision("resnet18", shape, classes, units, small_stem)


@MODELS.register("resnet34")
def resnet34(shape: tuple[int, ...], classes: int, units: Units, *, small_stem: bool) -> nn.Module:
    """The ResNet-34 of torchvision (He et al. 2016, table 1); ``small_stem``: a 3x3 stem without pooling, for 32x32."""
    return _torchvision("resnet34", shape, classes, units, small_stem)


@MODELS.register("resnet50")
def resnet50(shape: tuple[int, ...], classes: int, units: Units, *, small_stem: bool) -> nn.Module:
    """The ResNet-50 of torchvision (He et al. 2016, table 1); ``small_stem``: a 3x3 stem without pooling, for 32x32.

    Where a stage begins, the 3x3 convolution of the bottleneck has the stride; in the paper the first 1x1 one has it.
    """
    return _torchvision("resnet50", shape, classes, units, small_stem)
