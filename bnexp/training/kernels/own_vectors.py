"""Batch norm of vectors (B, C), with the ReLU behind it or without, in one kernel forward and one backward.

torch has 3 kernels forward and 2 backward, and one more each for the ReLU. Vectors are so small that launching a kernel
takes longer than what it does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bnexp.training.kernels.short_maps import are_plain, gain_and_bias

# A program has all images of some channels in its registers: at most so many images, and so many numbers.
_IMAGES, _NUMBERS, _CHANNELS = 256, 4096, 32


def takes(x: Tensor, *pairs: tuple[Tensor | None, Tensor | None]) -> bool:
    """True for vectors of 3 images and more, not too many; ``pairs`` are the running statistics, and gain and bias.

    Of 2 images, the gradients of x are no more than rounding, which differs.
    """
    return (
        x.ndim == 2
        and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and 2 < len(x) <= _IMAGES
        and x.is_contiguous()
        and all(are_plain(pair, x) for pair in pairs)
    )


class OwnBatchNorm(torch.autograd.Function):
    """Batch norm of (B, C) by its own statistics; running ones, if given, are moved in place, as by torch."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        gain: Tensor | None,
        bias: Tensor | None,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        """One kernel."""
        from bnexp.training.kernels import triton_maps as kernels

        (rows, C), y = x.shape, torch.empty_like(x)
        moments, tile = x.new_empty(2, C, dtype=torch.float32), _tile(rows)
        tracked = running_mean is not None
        running = (running_mean, running_var) if tracked else (moments, moments)
        how = {"AFFINE": gain is not None, "RELU": relu}
        given = x, y, moments, *running, *gain_and_bias(moments, gain, bias), rows, C, momentum, eps
        kernels.whole[_grid(C, tile)](*given, TRACKED=tracked, **how, **tile)
        ctx.save_for_backward(x, moments, gain, bias)
        ctx.how = how
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """One kernel."""
        from bnexp.training.kernels import triton_maps as kernels

        x, moments, gain, bias = ctx.saved_tensors
        (rows, C), dx, slopes, tile = x.shape, torch.empty_like(x), torch.empty_like(moments), _tile(len(x))
        given = g.contiguous(), x, dx, moments, slopes, *gain_and_bias(moments, gain, bias), rows, C
        kernels.whole_gradient[_grid(C, tile)](*given, **ctx.how, **tile)
        of_affine = (None, None) if gain is None else slopes.unbind()
        return dx, None, None, *of_affine, *[None] * 3


def _tile(images: int) -> dict[str, int]:
    """Room for all images, a power of two, and for some channels."""
    rows = 1 << (images - 1).bit_length()
    return {"ROWS": rows, "CHANNELS": min(_CHANNELS, _NUMBERS // rows)}


def _grid(C: int, tile: dict[str, int]) -> tuple[int]:
    return (-(-C // tile["CHANNELS"]),)
