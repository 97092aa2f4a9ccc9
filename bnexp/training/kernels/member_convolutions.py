"""Convolutions of a stack: of M*G groups, over the channels of all members.

A group of one member has few channels, and a GPU's matrix units compute tiles of many. Three ways are open to it: the
grouped convolution of torch; that of several groups packed into a dense one, with zeros between them; and kernels of
one's own, which take each group for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bnexp.training.kernels.own_convolution import OwnConvolution, takes
from bnexp.training.kernels.own_kernels import ROUNDING, OwnKernels, format_of, passes
from bnexp.training.kernels.packed_convolution import PackedConvolution, is_short, packed_groups
from bnexp.training.precision import as_autocast, tf32_allowed

Convolution = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def grouped(
    function: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    """``function``, a convolution of torch, of many groups: x (B, G*C, ...), weight (G*O, C, ...), bias (G*O)."""
    how = [_of_axes(each, x.ndim - 2) for each in (stride, padding, dilation)]

    def torchs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _by_torch(function, x, weight, bias, how, groups)

    def own(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = OwnConvolution.apply(as_autocast(x), weight, bias, how[1][0], groups, tf32_allowed())
        return y

    kernels = OwnKernels.current
    if kernels is None or not kernels.timed or not takes(x, weight, how, groups):
        return torchs(x, weight, bias)
    ways: Mapping[str, Convolution] = {"torch": torchs, "own": own}
    timed = {name: partial(passes, way, x, weight, bias) for name, way in ways.items()}
    kind = _format(x)
    return ways[kernels.choose(_layer(x, weight, how[1][0], groups, kind), timed, ROUNDING[kind])](x, weight, bias)


def _of_axes(given: Any, axes: int) -> Any:
    """One number for each axis; a word stays."""
    if isinstance(given, str):
        return given
    numbers = [given] if isinstance(given, int) else list(given)
    return numbers * axes if len(numbers) == 1 else numbers


def _by_torch(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, how: Any, groups: int
) -> Tensor:
    """The convolution of torch: of dense groups into which several are packed, where that pays, or as it is."""
    pack = 1 if isinstance(how[1], str) else packed_groups(x, groups)
    if pack > 1:
        given = [as_autocast(each) for each in (x, weight, bias)]
        y: Tensor = PackedConvolution.apply(*given, how, groups, pack)
        return y
    if is_short(x) and weight.shape[1] >= 16:  # as many channels as a tile has: no group fills it up
        x = x.contiguous(memory_format=torch.channels_last)
    return function(x, weight, bias, *how, groups)


def _format(x: Tensor) -> str:
    """The number format of the products."""
    kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    return "tf32" if kind == torch.float32 and tf32_allowed() else format_of(kind)


def _layer(x: Tensor, weight: Tensor, padding: int, groups: int, kind: str) -> str:
    """What decides which way is quicker, in words."""
    (_, channels, H, W), (outputs, _, K, _) = x.shape, weight.shape
    of = f"{groups} x {channels // groups} to {outputs // groups} channels, {K}x{K}, on {H}x{W} padded by {padding}"
    wanted = (("maps", x), ("weights", weight)) if torch.is_grad_enabled() else ()
    slopes = [what for what, each in wanted if each.requires_grad]
    return f"{of}, {kind}, {'slopes of ' + ' and '.join(slopes) if slopes else 'forward'}"
