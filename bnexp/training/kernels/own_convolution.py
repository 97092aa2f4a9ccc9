"""Convolutions of many groups of few channels, each group for itself, by ``triton_convolutions``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# How many places a tile has at most and how many taps at least, for maps and for the slopes of weights, and how it is
# compiled; chosen by the number of instructions that this gives.
_MAPS = {"PLACES": 256, "TAPS": 16, "num_warps": 4, "num_stages": 2}
_SLOPES = {"PLACES": 128, "TAPS": 32, "num_warps": 2, "num_stages": 2}
# The most products of places with taps, and with outputs, in a tile: more take too much shared memory, or registers.
_WITH_TAPS, _WITH_OUTPUTS = 8192, 4096
# About how many programs add up the slopes of weights.
_PROGRAMS = 2048
# The most input channels and outputs of a group, and the widest filter. With more channels, cuDNN fills its tiles up.
_CHANNELS, _OUTPUTS, _FILTER = 8, 64, 7


def takes(x: Tensor, weight: Tensor, how: Sequence[Sequence[int]], groups: int) -> bool:
    """True for square filters that move by one place, with as much padding on both axes, in groups that are not large.

    ``how`` is the stride, the padding and the dilation along both axes.
    """
    if x.ndim != 4 or x.dtype == torch.float64:
        return False
    stride, padding, dilation = how
    (outputs, C, height, width), steps = weight.shape, {*stride, *dilation}
    square = height == width <= _FILTER and padding[0] == padding[1] < width
    return steps == {1} and square and outputs // groups <= _OUTPUTS and C <= _CHANNELS


class OwnConvolution(torch.autograd.Function):
    """A convolution of G groups, each for itself, by ``triton_convolutions``.

    The weights come in their own format, and are rounded where they are read; so their gradients are not rounded.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, groups: int, tf32: bool
    ) -> Tensor:
        """X (B, G*C, H, W), weight (G*out, C, K, K), bias (G*out) or None -> (B, G*out, H', W'), channels last."""
        x, weight = _apart(x, groups), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.groups, ctx.tf32 = padding, groups, tf32
        return _maps(x, weight, bias, padding, groups, turned=False, tf32=tf32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """The convolution of g with the turned filters; and the slopes of the weights, part by part."""
        x, weight = ctx.saved_tensors
        dx, dw, db = None, None, None
        if ctx.needs_input_grad[0]:
            around = weight.shape[-1] - 1 - ctx.padding
            dx = _maps(_apart(g, ctx.groups), weight, None, around, ctx.groups, turned=True, tf32=ctx.tf32)
        if ctx.needs_input_grad[1]:
            g_last = g.contiguous(memory_format=torch.channels_last)
            dw = _slopes(x, g_last, weight, ctx.padding, ctx.groups, tf32=ctx.tf32)
        if ctx.needs_input_grad[2]:  # never for a missing bias
            db = g.sum((0, 2, 3), dtype=weight.dtype)
        return dx, dw, db, None, None, None


def _apart(x: Tensor, groups: int) -> Tensor:
    """Maps whose groups' own maps, (C, H, W), lie in one piece each."""
    C, (_, _, H, W) = x.shape[1] // groups, x.shape
    strides = (H * W if C > 1 else x.stride(1), W, 1)
    return x if x.stride()[1:] == strides else x.contiguous()


def _maps(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, groups: int, *, turned: bool, tf32: bool
) -> Tensor:
    """The convolution of x with the filters, or with the turned ones, which lead from outputs back to inputs."""
    from bnexp.training.kernels import triton_convolutions as kernels

    (B, channels, H, W), (outputs, inputs, K, _) = x.shape, weight.shape
    M, C, out = groups, channels // groups, inputs if turned else outputs // groups
    height, width = H + 2 * padding - K + 1, W + 2 * padding - K + 1
    y = torch.empty(B, M * out, height, width, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    to_output, to_input = (K * K, inputs * K * K) if turned else (inputs * K * K, K * K)
    given = M, B, x.stride(0), C * x.stride(1), len(weight) // M * inputs * K * K, to_output, to_input
    tile = _tile(C, out, _MAPS)
    kernels.convolved[(M * -(-B * height * width // tile["PLACES"]),)](
        *(x, weight, weight if bias is None else bias, y), *given,
        C=C, H=H, W=W, K=K, PADDING=padding, TF32=tf32, OUT=out, FLIPPED=turned, BIASED=bias is not None, **tile,
    )  # fmt: skip
    return y


def _slopes(x: Tensor, g: Tensor, weight: Tensor, padding: int, groups: int, *, tf32: bool) -> Tensor:
    """The gradient of the weights; parts of the places are added up at the end, in an order that is always the same."""
    from bnexp.training.kernels import triton_convolutions as kernels

    (B, channels, H, W), (outputs, _, K, _), M = x.shape, weight.shape, groups
    C, out, places = channels // M, outputs // M, g.numel() // outputs
    tile = _tile(C, out, _SLOPES)
    chunks, tiles = -(-K * K // (tile["TAPS"] // tile["CHANNELS"])), -(-places // tile["PLACES"])
    length = -(-tiles // min(tiles, -(-_PROGRAMS // (M * chunks)))) * tile["PLACES"]
    parts = weight.new_empty(-(-places // length), *weight.shape, dtype=torch.float32)
    kernels.part_slopes[(len(parts) * M * chunks,)](
        *(x, g, parts), M, B, length, x.stride(0), C * x.stride(1),
        C=C, H=H, W=W, K=K, PADDING=padding, TF32=tf32, OUT=out, **tile,
    )  # fmt: skip
    return parts.sum(0).to(weight.dtype)


def _tile(C: int, out: int, of: Mapping[str, int]) -> dict[str, int]:
    """A tile with room for a group's channels and outputs, powers of two; matrix units take at least 16 of a kind."""
    channels, outputs = (1 << (count - 1).bit_length() for count in (C, out))
    taps, outputs = max(of["TAPS"], 32 if channels == 1 else channels), max(16, outputs)
    places = min(of["PLACES"], _WITH_TAPS // taps, _WITH_OUTPUTS // outputs)
    return {**of, "CHANNELS": channels, "OUTPUTS": outputs, "TAPS": taps, "PLACES": places}
