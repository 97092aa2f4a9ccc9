"""Batch norms by torch's kernels or by own ones, and those of a stack: one over the channels of all members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bnexp.norms.batch import batch_norm_relu
from bnexp.training.kernels.own_batch_norm import OwnBatchNorm, are_plain, suits, suits_as_vectors
from bnexp.training.kernels.own_kernels import FEW, ROUNDING, OwnKernels, format_of, passes

# (x, running mean, running variance, gain, bias, how) -> normalized x; moves the running statistics.
Normalize = Callable[..., Tensor]


def over_channels(function: Normalize, x: Tensor, *given: Any) -> Tensor:
    """``F.batch_norm`` or ``batch_norm_relu`` of x (B, C, ...) with all their arguments.

    Maps in 16 bits are normalized by own kernels that work here, vectors and other maps by the quickest.
    """
    (mean, var, gain, bias, *how), relu = given, function is batch_norm_relu
    kernels, by_batch = OwnKernels.current, relu or how[0]
    timed = not suits(x)
    if kernels is None or not by_batch or not are_plain(x, (mean, var), (gain, bias)):
        return function(x, *given)
    if timed and not (kernels.timed and (suits_as_vectors(x) or suits(x, torch.float32))):
        return function(x, *given)
    own: Normalize = lambda x, *given: OwnBatchNorm.apply(x, *given[:4], *given[-2:], relu)  # noqa: E731
    ways = {"torch": function, "own": own}
    tries = {name: partial(_tried, way, x if timed else x[:FEW], *given) for name, way in ways.items()}
    wanted = "forward and backward" if torch.is_grad_enabled() else "forward"
    layer = f"batch norm{' and ReLU' if relu else ''} of {x.shape[1]} channels{_places(x)}, {format_of(x)}, {wanted}"
    return ways[kernels.choose(layer, tries, ROUNDING[format_of(x)], timed=timed)](x, *given)


def _places(x: Tensor) -> str:
    return f" on {x.shape[2]}x{x.shape[3]}" if x.ndim == 4 else ""


def _tried(
    way: Normalize,
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gain: Tensor | None,
    bias: Tensor | None,
    *how: Any,
) -> Sequence[Tensor]:
    """What a way makes of x, its slopes, and the statistics of the batch, for which running ones are lent to it."""
    lent = [None if each is None else each.clone() for each in (mean, var)]
    *first, _, eps = how
    found = passes(lambda x, gain, bias: way(x, *lent, gain, bias, *first, 1.0, eps), x, gain, bias)
    mean, var = lent
    return found if mean is None or var is None else [*found, mean + var.sqrt(), var]  # a mean may be mere rounding
