"""Batch norms of a stack: one over the channels of all members, by torch's kernels or, for vectors, by an own one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from bnexp.norms.batch import batch_norm_relu
from bnexp.training.kernels.own_kernels import OwnKernels, in_force, passes
from bnexp.training.kernels.own_vectors import OwnBatchNorm, takes

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
    given = x, running_mean, running_var, gain, bias
    kernels, relu = OwnKernels.current, function is batch_norm_relu
    by_batch = relu or how[0]

    def torchs(*given: Tensor | None) -> Tensor:
        return in_force(function)(*given, *how)

    def own(*given: Tensor | None) -> Tensor:
        y: Tensor = OwnBatchNorm.apply(*given, *how[-2:], relu)
        return y

    if kernels is None or not (kernels.timed and by_batch and takes(x, (running_mean, running_var), (gain, bias))):
        return torchs(*given)
    ways: dict[str, Normalize] = {"torch": torchs, "own": own}
    tries = {name: partial(_tried, way, *given) for name, way in ways.items()}
    layer = f"batch norm{' and ReLU' if relu else ''} of {x.shape[1]} channels, {str(x.dtype).removeprefix('torch.')}"
    return ways[kernels.choose(layer, tries)](*given)


def _tried(
    way: Normalize, x: Tensor, mean: Tensor | None, var: Tensor | None, gain: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """What a way makes of x, its slopes, and the running statistics, which stay what they are."""
    mean, var = (None if each is None else each.clone() for each in (mean, var))
    found = passes(lambda x, gain, bias: way(x, mean, var, gain, bias), x, gain, bias)
    return [*found, *(each for each in (mean, var) if each is not None)]
