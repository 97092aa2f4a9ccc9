"""Dynamic tanh: no statistics, a squashing of each value whose scale is learnt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm


class DynamicTanh(Norm):
    """y = gain * tanh(alpha * x) + bias.

    Attributes:
        alpha: one number for the layer.
    """

    def __init__(self, channels: int, *, alpha: float, affine: bool) -> None:
        super().__init__(channels, affine=affine)
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, x: Tensor) -> Tensor:
        """Squash x, (B, C, ...)."""
        return self.scaled(torch.tanh(self.alpha * x))


@NORMS.register("dyt")
def dyt(channels: int, *, alpha: PositiveFloat, affine: bool) -> Norm:
    """Dynamic tanh, value by value: y = gain * tanh(alpha * x) + bias.

    Each layer learns one number alpha. There are no statistics. Training and evaluation are the same, for inputs of any
    rank.

    Zhu et al. 2025, Transformers without Normalization, sec. 4.

    Options:
        alpha: its first value.
    """
    return DynamicTanh(channels, alpha=alpha, affine=affine)
