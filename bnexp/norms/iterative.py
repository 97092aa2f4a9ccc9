"""Iterative normalization: whitening by a few Newton-Schulz steps instead of a decomposition."""

from __future__ import annotations

import torch
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import Positive, PositiveFloat
from bnexp.norms.base import NORMS, Norm
from bnexp.norms.batch import Momentum
from bnexp.norms.whitening import Whitening


class IterativeWhitening(Whitening):
    """W = P_T / sqrt(tr), close to (cov + eps)^(-1/2); directions of small variance are whitened only in part.

    With S = (cov + eps) / tr, tr = trace(cov + eps), Y_0 = S and P_0 = 1, each step is::

        M = (3 - P Y) / 2,  Y <- Y M,  P <- M P

    The paper's P <- (3 P - P^3 S) / 2 is the same in exact arithmetic, where Y = S P, but it multiplies
    rounding errors at each step, and overflows in float32 from about ten steps on; the coupled form does not.

    Args:
        iterations: T.
    """

    name = "iternorm"

    def __init__(
        self, channels: int, *, iterations: int, group_size: int, eps: float, momentum: float | None, affine: bool
    ) -> None:
        super().__init__(channels, group_size=group_size, eps=eps, momentum=momentum, affine=affine)
        self.iterations = iterations

    def whitener(self, cov: Tensor) -> Tensor:
        """P_T / sqrt(tr), in float64: the matrices are small."""
        unit = torch.eye(self.width, dtype=torch.float64, device=cov.device)
        shifted = cov.double() + self.eps * unit
        trace = shifted.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        y, p = shifted / trace, unit.expand_as(shifted)
        for _ in range(self.iterations):
            step = (3 * unit - p @ y) / 2
            y, p = y @ step, step @ p
        return (p / trace.sqrt()).to(cov.dtype)


@NORMS.register("iternorm", Capabilities(batch_of_one=("refused", "differ")))
def iternorm(
    channels: int, *, iterations: Positive, group_size: Positive, eps: PositiveFloat, momentum: Momentum, affine: bool
) -> Norm:
    """Iterative whitening, over B, H, W for each group of channels: y = gain * W (x - mean) + bias.

    W = P_T / sqrt(tr) approaches (cov + eps)^(-1/2) from below in T Newton-Schulz steps on (cov + eps) / tr, where tr
    is the trace. Training uses mean and covariance of the batch, and gradients flow through both. Evaluation uses
    running averages of the mean and of W. A 2-D input (B, C) has B values a channel.

    Huang et al. 2019, Iterative Normalization, algorithm 1; in Higham's coupled form, which is stable for any T.

    Options:
        iterations: T.
        group_size: the largest number of channels in a group. d is the largest divisor of C up to it.
        momentum: weight of the newest batch in the running averages, torch's convention; null for the plain average.

    Raises:
        ValueError: C has no divisor from 2 to ``group_size``; (in use) fewer than 2 d values per channel in training.
    """
    return IterativeWhitening(
        channels, iterations=iterations, group_size=group_size, eps=eps, momentum=momentum, affine=affine
    )
