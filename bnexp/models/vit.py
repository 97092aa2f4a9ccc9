"""The vision transformer, small, with the norm in the place that is asked for."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnexp.config.checks import Depth, Positive, Width
from bnexp.models.unit import MODELS, Units, image_shape, named
from bnexp.norms import Norm
from bnexp.norms.layer import PositionLayerNorm

Order = Literal["pre", "post", "sandwich"]

# Hidden units of a block's perceptron, in widths (Vaswani et al. 2017, sec. 3.3).
_HIDDEN = 4
# Longest wavelength of the positions, in tokens over 2 pi (Vaswani et al. 2017, sec. 3.5).
_LONGEST = 10_000.0
# Of the norms of queries and keys.
_EPS = 1e-6


class Patches(nn.Module):
    """Cuts images into patches, maps each to a token, and adds where it was; tokens are (B, width, T)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, T), T = H/patch * W/patch."""
        z = self.linear(x)
        y: Tensor = (z + positions(*z.shape[1:], like=z)).flatten(2)
        return y


def positions(width: int, rows: int, columns: int, *, like: Tensor) -> Tensor:
    """Sines and cosines of a token's row and column, at width / 4 wavelengths each, (width, rows, columns)."""
    rates = _LONGEST ** -(torch.arange(width // 4, dtype=like.dtype, device=like.device) / (width // 4))
    row, column = (
        rates[:, None] * torch.arange(count, dtype=like.dtype, device=like.device) for count in (rows, columns)
    )
    of_rows = torch.cat([row.sin(), row.cos()])[:, :, None].expand(-1, -1, columns)
    of_columns = torch.cat([column.sin(), column.cos()])[:, None, :].expand(-1, rows, -1)
    return torch.cat([of_rows, of_columns])


class Pointwise(nn.Conv1d):
    """A linear map of each token, (B, C, T) -> (B, C', T); a matrix product, which is faster than its convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C', T)."""
        return F.linear(x.transpose(1, 2), self.weight.squeeze(2), self.bias).transpose(1, 2)


class Attention(nn.Module):
    """softmax(q^T k / sqrt(d)) v over all tokens, by several heads of d = width / heads (Vaswani et al. 2017, eq. 1).

    With ``qk_norm``, a layer norm over d, with a gain and without bias, stands on the queries and the keys of each head
    (Dehghani et al. 2023, sec. 2.2; theirs does not subtract the mean).
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Pointwise(width, 3 * width)
        self.q_norm, self.k_norm = (_without_bias(width // heads) if qk_norm else nn.Identity() for _ in "qk")
        self.softmax = nn.Softmax(-1)  # a module, so that a probe sees the logits
        self.out = Pointwise(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> (B, width, T)."""
        q, k, v = self.qkv(x).unflatten(1, (3, self.heads, -1)).transpose(2, 3).unbind(1)  # (B, d, heads, T) each
        q, k = self.q_norm(q), self.k_norm(k)
        weights = self.softmax(torch.einsum("bdht,bdhs->bhts", q, k).div(math.sqrt(q.shape[1])))
        y: Tensor = self.out(torch.einsum("bhts,bdhs->bhdt", weights, v).flatten(1, 2))
        return y


def _without_bias(width: int) -> PositionLayerNorm:
    norm = PositionLayerNorm(width, eps=_EPS, affine=True)
    norm.bias = None
    return norm


class Residual(nn.Module):
    """x + f(x), with the norm before f, behind the sum, or on both sides of f."""

    def __init__(self, inner: nn.Module, width: int, units: Units, order: Order) -> None:
        super().__init__()
        self.before = nn.Identity() if order == "post" else units.layer(width)
        self.inner = inner
        self.inside = units.layer(width) if order == "sandwich" else nn.Identity()
        self.behind = units.layer(width) if order == "post" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> (B, width, T)."""
        y: Tensor = self.behind(x + self.inside(self.inner(self.before(x))))
        return y


class Mean(nn.Module):
    """The mean of all tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> (B, width)."""
        return x.mean(2)


@MODELS.register("vit")
def vit(
    shape: tuple[int, ...],
    classes: int,
    units: Units,
    *,
    patch: Positive,
    width: Width,
    blocks: Depth,
    heads: Positive,
    order: Order,
    qk_norm: bool,
) -> nn.Module:
    """A vision transformer: patches, blocks of attention and a perceptron, the mean of all tokens, a linear head.

    Dosovitskiy et al. 2021, with two simplifications of Beyer et al. 2022: fixed positions, and the mean of tokens
    in place of a class token. Tokens are the positions of (B, C, L): ``norm=ln_c`` is the layer norm of transformers
    and ``rms_c`` their RMS norm; ``ln`` and ``rms`` take all tokens of an image together, ``bn`` all of the batch.
    Linear maps keep their biases.

    Options:
        patch: side of a patch, pixels; it divides the sides of the images.
        width: numbers of a token, a multiple of 4 and of ``heads``.
        order: of norm and residual branch f (Xiong et al. 2020, fig. 1). ``post``: norm(x + f(x)), as Vaswani et al.
            2017; ``pre``: x + f(norm(x)); ``sandwich``: x + norm(f(norm(x))) (Ding et al. 2021). The last two have a
            norm in front of the head.
        qk_norm: see ``Attention``.

    Raises:
        ValueError: the sizes do not fit, or the norm acts on linear maps, which its place in a block does not name.
    """
    units.refuse_after("vit")
    channels, height, side = image_shape("vit", shape)
    _require_sizes(height, side, patch=patch, width=width, heads=heads)
    if type(units.layer(width)).attach is not Norm.attach:
        raise ValueError(f"norm={units.norm.name}: acts on weights or branches, model=vit normalizes tokens; use ln_c")
    layers: dict[str, nn.Module] = {"patches": Patches(channels, width, patch)}
    for number in range(1, blocks + 1):
        attention = Attention(width, heads, qk_norm=qk_norm)
        perceptron = named(
            first=Pointwise(width, _HIDDEN * width),
            activation=units.act(),
            second=Pointwise(_HIDDEN * width, width),
        )
        layers[f"block{number}"] = named(
            attention=Residual(attention, width, units, order), perceptron=Residual(perceptron, width, units, order)
        )
    if order != "post":
        layers["norm"] = units.layer(width)
    return named(**layers, mean=Mean(), head=nn.Linear(width, classes))


def _require_sizes(height: int, side: int, *, patch: int, width: int, heads: int) -> None:
    if height % patch or side % patch:
        fitting = [each for each in range(1, min(height, side) + 1) if height % each == side % each == 0]
        raise ValueError(f"model.patch={patch}: does not divide {height}x{side} images (allowed: {fitting})")
    if width % 4 or width % heads:
        raise ValueError(f"model.width={width}: not a multiple of 4 and of model.heads={heads}")
