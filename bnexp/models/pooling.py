"""The average pooling of LeNet."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HalvingPool(nn.Module):
    """The mean of every 2x2 square, (B, C, H, W) -> (B, C, H // 2, W // 2), as ``nn.AvgPool2d(2)``.

    On a CPU, rows and columns of a whole map are added at once. On the first maps of LeNet this is 2 to 3 times as fast
    as torch's kernel, which takes a fifth of LeNet's training step. torch's kernel is used on a GPU, for numbers of
    lower precision (they must be added in a higher one), for other layouts and for maps with an odd side.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool x, (B, C, H, W)."""
        wide = x.dtype in (torch.float32, torch.float64)
        even = x.shape[-1] % 2 == x.shape[-2] % 2 == 0
        rows = x.stride(-1) == 1 and x.stride(-2) == x.shape[-1]  # of a member of a stack, too
        if x.device.type == "cpu" and wide and even and rows and not torch.compiler.is_compiling():
            return _Means.apply(x)  # type: ignore[no-any-return]
        return F.avg_pool2d(x, 2)


class _Means(torch.autograd.Function):
    """A quarter of the sum of every square; its adjoint is ``_Quarters``."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        pairs = x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2, x.shape[-1])
        rows = pairs[..., 0, :] + pairs[..., 1, :]
        return (rows[..., ::2] + rows[..., 1::2]).mul_(0.25)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept: the map is linear."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _Quarters.apply(g)  # type: ignore[no-any-return]

    @staticmethod
    def vmap(info: Any, axes: tuple[int], x: Tensor) -> tuple[Tensor, int]:
        """Members lie behind the batch."""
        return _Means.apply(x.movedim(axes[0], -4)), -4


class _Quarters(torch.autograd.Function):
    """A quarter of each value in all four places of its square."""

    @staticmethod
    def forward(g: Tensor) -> Tensor:
        quarter = g * 0.25
        *outer, height, width = g.shape
        x = g.new_empty(*outer, height, 2, width, 2)
        x[..., 0, :, 0] = quarter
        x[..., 0, :, 1] = quarter
        x[..., 1, :, :] = x[..., 0, :, :]
        return x.flatten(-4, -3).flatten(-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept: the map is linear."""

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> Tensor:
        return _Means.apply(h)  # type: ignore[no-any-return]

    @staticmethod
    def vmap(info: Any, axes: tuple[int], g: Tensor) -> tuple[Tensor, int]:
        """Members lie behind the batch."""
        return _Quarters.apply(g.movedim(axes[0], -4)), -4
