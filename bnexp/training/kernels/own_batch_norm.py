"""Batch norm by ``triton_maps``, with the ReLU behind it or without.

With a ReLU, the backward pass computes again which numbers were positive, instead of reading them. Maps take three
kernels forward and three backward, of which two read maps. Vectors take one each: torch has 3 forward and 2 backward,
and one more each for the ReLU, and vectors are so small that launching a kernel takes longer than what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Gain and bias.
Affine = tuple[Tensor, Tensor]
# Running mean and variance, momentum and eps.
Running = tuple[Tensor, Tensor, float, float]
# What a kernel is compiled with.
Switches = Mapping[str, bool]

# Rows and channels of a tile of maps; measured on an H100.
_ROWS = 64
_TILE = {"ROWS": _ROWS, "CHANNELS": 64}
# Parts that the rows of a tile's channels are divided into at most, and about how many of all channels.
_PARTS = 512
_ALL_PARTS = 1024
# What joins the parts.
_JOIN = {"PARTS": _PARTS, "CHANNELS": 16}
# Of vectors, a program has all images of some channels in its registers: at most so many images, and so many numbers.
_IMAGES, _NUMBERS, _CHANNELS = 256, 4096, 32


def suits(x: Tensor, *formats: torch.dtype) -> bool:
    """True for maps (B, C, H, W) with channels last, in 16 bits, whose rows of C numbers are read in whole words.

    Other formats may be named instead.
    """
    return (
        x.ndim == 4
        and x.dtype in (formats or (torch.float16, torch.bfloat16))
        and x.shape[1] % 8 == 0
        and x.numel() > x.shape[1]  # torch refuses a single value a channel
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def suits_as_vectors(x: Tensor) -> bool:
    """True for vectors (B, C) of 3 images and more, not too many.

    Of 2 images, the gradients of x are no more than rounding, which differs.
    """
    return (
        x.ndim == 2
        and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and 2 < len(x) <= _IMAGES
        and x.is_contiguous()
    )


def are_plain(x: Tensor, *pairs: tuple[Tensor | None, Tensor | None]) -> bool:
    """Whether of each pair both vectors are missing, or both are C adjacent numbers in float32, beside x."""
    like = (torch.float32, (x.shape[1],), x.device)
    return all(
        all(each is None for each in pair)
        or all(
            each is not None and (each.dtype, each.shape, each.device) == like and each.is_contiguous() for each in pair
        )
        for pair in pairs
    )


class OwnBatchNorm(torch.autograd.Function):
    """Batch norm of (B, C) or (B, C, H, W) by its own statistics; running ones, if given, are moved, as by torch."""

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
        """Normalize."""
        y, moments = torch.empty_like(x), x.new_empty(2, x.shape[1], dtype=torch.float32)
        ctx.save_for_backward(x, moments, gain, bias)
        ctx.how = {"AFFINE": gain is not None, "RELU": relu}
        normalize = _vectors if x.ndim == 2 else _maps
        running = *_two(running_mean, running_var, moments), momentum, eps
        tracked = {"TRACKED": running_mean is not None}
        normalize(x, y, moments, _two(gain, bias, moments), running, tracked, ctx.how)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """The slopes of x, gain and bias."""
        x, moments, gain, bias = ctx.saved_tensors
        dx, slopes = torch.empty_like(x), torch.empty_like(moments)
        g = g.contiguous(memory_format=torch.contiguous_format if x.ndim == 2 else torch.channels_last)
        differentiate = _slopes_of_vectors if x.ndim == 2 else _slopes_of_maps
        differentiate(g, x, dx, moments, slopes, _two(gain, bias, moments), ctx.how)
        of_affine = (None, None) if gain is None else slopes.unbind()
        return dx, None, None, *of_affine, *[None] * 3


def _two(first: Tensor | None, second: Tensor | None, unread: Tensor) -> tuple[Tensor, Tensor]:
    """Two vectors; where there are none, a kernel touches nothing of what it is given."""
    return (unread, unread) if first is None or second is None else (first, second)


# --- maps -------------------------------------------------------------------------------------------------------------


def _maps(
    x: Tensor, y: Tensor, moments: Tensor, affine: Affine, running: Running, tracked: Switches, how: Switches
) -> None:
    from bnexp.training.kernels import triton_maps as kernels

    rows, C = rows_of(x), x.shape[1]
    parts, length = _parts(rows, C)
    of_parts = moments.new_empty(parts, 2, C)
    kernels.part_moments[grid(parts, C, _TILE)](x, of_parts, rows, C, length, **_TILE)
    mean, var, *numbers = running
    given = of_parts, moments, mean, var, rows, C, length, parts, *numbers
    kernels.joined_moments[grid(1, C, _JOIN)](*given, **tracked, **_JOIN)
    kernels.normalized[grid(-(-rows // _ROWS), C, _TILE)](x, y, moments, *affine, rows, C, **how, **_TILE)


def _slopes_of_maps(
    g: Tensor, x: Tensor, dx: Tensor, moments: Tensor, slopes: Tensor, affine: Affine, how: Switches
) -> None:
    from bnexp.training.kernels import triton_maps as kernels

    rows, C, means = rows_of(x), x.shape[1], torch.empty_like(moments)
    parts, length = _parts(rows, C)
    of_parts = moments.new_empty(parts, 2, C)
    kernels.part_sums[grid(parts, C, _TILE)](g, x, moments, *affine, of_parts, rows, C, length, **how, **_TILE)
    kernels.joined_sums[grid(1, C, _JOIN)](of_parts, moments, means, slopes, rows, C, parts, **_JOIN)
    kernels.gradient[grid(-(-rows // _ROWS), C, _TILE)](g, x, dx, moments, means, *affine, rows, C, **how, **_TILE)


def rows_of(x: Tensor) -> int:
    """How many rows of C numbers there are."""
    return x.numel() // x.shape[1]


def grid(rows: int, C: int, tile: Mapping[str, int]) -> tuple[int]:
    """Programs for so many tiles or parts of the rows: in one axis, as the others end at 65,535."""
    return (rows * -(-C // tile["CHANNELS"]),)


def _parts(rows: int, C: int) -> tuple[int, int]:
    """How many parts of how many rows: enough to keep a GPU busy, and few enough to be joined quickly."""
    tiles, most = -(-rows // _ROWS), min(_PARTS, -(-_ALL_PARTS // grid(1, C, _TILE)[0]))
    length = -(-tiles // most) * _ROWS
    return -(-rows // length), length


# --- vectors ----------------------------------------------------------------------------------------------------------


def _vectors(
    x: Tensor, y: Tensor, moments: Tensor, affine: Affine, running: Running, tracked: Switches, how: Switches
) -> None:
    from bnexp.training.kernels import triton_maps as kernels

    (rows, C), tile, (mean, var, *numbers) = x.shape, _tile(len(x)), running
    kernels.whole[grid(1, C, tile)](x, y, moments, mean, var, *affine, rows, C, *numbers, **tracked, **how, **tile)


def _slopes_of_vectors(
    g: Tensor, x: Tensor, dx: Tensor, moments: Tensor, slopes: Tensor, affine: Affine, how: Switches
) -> None:
    from bnexp.training.kernels import triton_maps as kernels

    (rows, C), tile = x.shape, _tile(len(x))
    kernels.whole_gradient[grid(1, C, tile)](g, x, dx, moments, slopes, *affine, rows, C, **how, **tile)


def _tile(images: int) -> dict[str, int]:
    """Room for all images, a power of two, and for some channels."""
    rows = 1 << (images - 1).bit_length()
    return {"ROWS": rows, "CHANNELS": min(_CHANNELS, _NUMBERS // rows)}
