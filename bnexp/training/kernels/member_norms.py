"""Batch norms of a stack: one over the channels of all members, by torch's kernels or by own ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bnexp.norms.batch import batch_norm_relu
from bnexp.training.kernels.own_batch_norm import OwnBatchNorm, are_plain, suits, suits_as_vectors
from bnexp.training.kernels.own_kernels import ROUNDING, OwnKernels, format_of, in_force, passes

# (x, running mean, running variance, gain, bias) -> normalized x; moves the running statistics.
Normalize = Callable[[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None], Tensor]


def over_channels(
    function: Callable[..., Tensor],
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    gain: Tensor | None,
    bias: Tensor | None,
    *how: Any,
) -> Tensor:
    """``F.batch_norm`` or ``batch_norm_relu`` of x (B, C, ...); ``how`` is what they take besides tensors."""
    given, relu = (x, running_mean, running_var, gain, bias), function is batch_norm_relu
    torchs: Normalize = lambda *given: in_force(function)(*given, *how)  # noqa: E731
    kernels, by_batch = OwnKernels.current, relu or how[0]
    if kernels is None or not (kernels.timed and by_batch and _takes(x, (running_mean, running_var), (gain, bias))):
        return torchs(*given)
    ways: dict[str, Normalize] = {"torch": torchs, "own": lambda *given: OwnBatchNorm.apply(*given, *how[-2:], relu)}
    tries = {name: partial(_tried, way, *given) for name, way in ways.items()}
    wanted = "forward and backward" if torch.is_grad_enabled() else "forward"
    layer = f"batch norm{' and ReLU' if relu else ''} of {x.shape[1]} channels{_places(x)}, {format_of(x)}, {wanted}"
    return ways[kernels.choose(layer, tries, ROUNDING[format_of(x)])](*given)


def _takes(x: Tensor, *pairs: tuple[Tensor | None, Tensor | None]) -> bool:
    """Whether own kernels can normalize such an input; maps in 16 bits have theirs without being timed."""
    return (suits_as_vectors(x) or suits(x, torch.float32)) and are_plain(x, *pairs)


def _places(x: Tensor) -> str:
    return f" on {x.shape[2]}x{x.shape[3]}" if x.ndim == 4 else ""


def _tried(
    way: Normalize, x: Tensor, mean: Tensor | None, var: Tensor | None, gain: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """What a way makes of x, its slopes, and the running statistics, which stay what they are."""
    mean, var = (None if each is None else each.clone() for each in (mean, var))
    found = passes(lambda x, gain, bias: way(x, mean, var, gain, bias), x, gain, bias)
    return [*found, *(each for each in (mean, var) if each is not None)]
