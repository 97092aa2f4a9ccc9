"""Convolutions of many groups of few channels, several of which run as one dense group on a GPU's matrix units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bnexp.training.precision import tf32_allowed


def packed_groups(maps: Tensor, groups: int) -> int:
    """How many groups of a convolution run as one dense group on a GPU; 1 where packing does not pay.

    The products with the zeros between the groups of a dense one cost nothing in matrix units. Without matrix units, in
    fp32 and fp64, they do.
    """
    own = maps.shape[1] // groups
    few, most = _packed_channels(maps)
    if own > few:
        return 1
    return max(pack for pack in range(1, min(most // own, groups) + 1) if groups % pack == 0)


def _packed_channels(maps: Tensor) -> tuple[int, int]:
    """The most input channels of a group that is packed, and of the dense group; measured on an H100."""
    if maps.device.type != "cuda" or maps.dtype == torch.float64 or maps.ndim != 4:
        return 0, 0
    if is_short(maps):
        return 8, 64
    return (8, 32) if tf32_allowed() else (0, 0)


def is_short(maps: Tensor) -> bool:
    """True if a convolution on a GPU computes in 16 bits."""
    return maps.device.type == "cuda" and (maps.element_size() == 2 or torch.is_autocast_enabled("cuda"))


class PackedConvolution(torch.autograd.Function):
    """A convolution of G groups, as one of G / P dense groups whose weights are zero between the packed ones.

    Zero times infinity is nan. So that a member that diverges spoils no other, inputs and gradients that are not finite
    count as zero, and the weights (or their gradients) of their group become nan in their place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: Any, groups: int, pack: int) -> Tensor:
        """X (B, G * I, H, W), weight (G * O, I, k, k), bias (G * O) or None."""
        finite, marks_G = _finite(x, groups)
        dense = _packed(_marked(weight, marks_G), groups, pack).contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(finite, dense)
        ctx.how, ctx.groups, ctx.pack, ctx.biased = how, groups, pack, bias is not None
        y: Tensor = torch.ops.aten.convolution(finite, dense, bias, *how, False, [0] * len(how[0]), groups // pack)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """The backward pass of the dense convolution; of its weights those of the groups."""
        x, dense = ctx.saved_tensors
        finite, marks_G = _finite(g, ctx.groups)
        size, dense_groups = [len(dense)] if ctx.biased else None, ctx.groups // ctx.pack
        wanted = [ctx.needs_input_grad[0], True, ctx.biased]
        dx, dense_gradient, db = torch.ops.aten.convolution_backward(
            finite, x, dense, size, *ctx.how, False, [0] * len(ctx.how[0]), dense_groups, wanted
        )
        dw = _marked(_unpacked(dense_gradient, ctx.groups, ctx.pack), marks_G)
        return dx, dw, db, None, None, None


def _finite(maps: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Maps with zeros for what is not finite, channels last; and nan for each group that has such a number, else 0."""
    parts = maps.view(len(maps), groups, -1, *maps.shape[2:])
    largest_G = torch.linalg.vector_norm(parts, torch.inf, (0, *range(2, parts.ndim)))
    zeros = maps.contiguous(memory_format=torch.channels_last).nan_to_num(0.0, 0.0, 0.0)
    return zeros, (largest_G * 0).to(maps.dtype)  # autocast computes norms in float32


def _marked(weight: Tensor, marks_G: Tensor) -> Tensor:
    """Weights, nan in the groups whose mark is nan."""
    parts = weight.view(len(marks_G), -1, *weight.shape[1:])
    return (parts + marks_G.view(-1, *[1] * weight.ndim)).view_as(weight)


def _packed(weight: Tensor, groups: int, pack: int) -> Tensor:
    """(G * O, I, ...) -> (G * O, P * I, ...): each weight at the place of its own group, among zeros."""
    own = torch.eye(pack, dtype=torch.bool, device=weight.device).view(pack, 1, pack, *[1] * (weight.ndim - 1))
    parts = weight.view(groups // pack, pack, -1, 1, *weight.shape[1:])  # (G/P, P, O, 1, I, ...)
    dense: Tensor = torch.where(own, parts, 0)
    return dense.flatten(3, 4).flatten(0, 2)


def _unpacked(dense: Tensor, groups: int, pack: int) -> Tensor:
    """(G * O, P * I, ...) -> (G * O, I, ...): the weights at the places of their own groups."""
    outputs, inputs = len(dense) // groups, dense.shape[1] // pack
    parts = dense.reshape(groups // pack, pack, outputs, pack, inputs, *dense.shape[2:])
    return parts.diagonal(0, 1, 3).movedim(-1, 1).flatten(0, 2)
