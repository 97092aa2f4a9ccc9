"""Group normalization: one mean and variance for each sample and group of channels."""

from __future__ import annotations

import logging
from functools import cache
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bnexp.config.checks import Positive, PositiveFloat
from bnexp.norms.base import NORMS, Norm, require_spread, values_per_statistic

log = logging.getLogger(__name__)


class GroupNorm(Norm):
    """y = gain * (x - mean_ng) / sqrt(var_ng + eps) + bias for each sample n and group g of C/G channels in a row.

    The statistics pool C/G values of (B, C), C/G*L of (B, C, L), C/G*H*W of (B, C, H, W). Samples do not depend on each
    other and nothing is stored, so that training and evaluation are the same. One group is layer norm, C groups are
    instance norm.

    Args:
        groups: G, a divisor of ``channels``.

    Attributes:
        name, per, advice: words for the message that a statistic has one value: the norm's name in configs, what each
            statistic belongs to, and what the user can do.
    """

    name: ClassVar[str] = "gn"
    per: ClassVar[str] = "group"
    advice: ClassVar[str] = "use a smaller norm.groups"

    def __init__(self, channels: int, *, groups: int, eps: float, affine: bool) -> None:
        super().__init__(channels, affine=affine)
        self.groups = groups
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...).

        Raises:
            ValueError: a group has a single value.
        """
        values = values_per_statistic(x, *range(1, x.ndim)) // self.groups
        require_spread(x, values, norm=self.name, per=self.per, advice=self.advice)
        # For channels_last maps on a CPU, torch takes the variance as E[x^2] - E[x]^2, which cancels for a large mean.
        return F.group_norm(
            x.contiguous(memory_format=torch.contiguous_format), self.groups, self.gain, self.bias, self.eps
        )

    def extra_repr(self) -> str:
        """The channel and group counts, for print(model)."""
        return f"{self.channels}, groups={self.groups}"


def fitting_groups(channels: int, *, asked: int, uneven: Literal["largest_divisor", "refuse"]) -> int:
    """The number of groups to use: ``asked`` where it divides ``channels``, else what ``uneven`` says.

    Raises:
        ValueError: ``asked`` does not divide ``channels`` and ``uneven`` is ``refuse``.
    """
    if channels % asked == 0:
        return asked
    if uneven == "refuse":
        divisors = ", ".join(str(d) for d in range(1, channels + 1) if channels % d == 0)
        raise ValueError(
            f"norm.groups={asked}: does not divide {channels} channels; "
            f"allowed is {divisors}, or norm.uneven=largest_divisor"
        )
    return _largest_divisor(channels, asked)


@cache  # so that each choice is announced once, however many layers make it
def _largest_divisor(channels: int, asked: int) -> int:
    # A divisor up to C/2 leaves two channels or more to a group; a single channel has only the one group.
    candidates = range(1, min(asked, channels // 2) + 1)
    groups = max((d for d in candidates if channels % d == 0), default=1)
    log.info("norm=gn: %d groups do not divide %d channels; groups=%d there", asked, channels, groups)
    return groups


@NORMS.register("gn")
def gn(
    channels: int, *, groups: Positive, uneven: Literal["largest_divisor", "refuse"], eps: PositiveFloat, affine: bool
) -> Norm:
    """Group normalization, over C/G channels and H, W for each sample and group: y = gain * x_hat + bias.

    x_hat = (x - mean) / sqrt(var + eps); gain and bias are one number a channel. Training and evaluation are the same.
    A 2-D input (B, C) has C/G values a group.

    Wu & He 2018, eq. 7.

    Options:
        groups: G.
        uneven: what to do where G does not divide C. ``largest_divisor`` takes the largest divisor of C that is at
            most G and leaves at least two channels to a group where possible (3 groups for 6 channels and G = 8), and
            logs its choice; ``refuse`` raises.

    Raises:
        ValueError: G does not divide C under ``refuse``; (in use) one value per group, as G = C gives on (B, C) or on
            1x1 maps.
    """
    return GroupNorm(channels, groups=fitting_groups(channels, asked=groups, uneven=uneven), eps=eps, affine=affine)
