"""No normalization."""

from __future__ import annotations

from torch import Tensor

from bnexp.norms.base import NORMS, Norm, per_channel


class Shift(Norm):
    """y = x + bias, one bias a channel: no statistics, the same in training and evaluation, for any batch size.

    It stands where other arms have a norm, so that all arms have the same learnt shifts and differ in normalization
    alone. The linear maps before it have no bias of their own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True, gain=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add the bias; x is (B, C, ...)."""
        assert self.bias is not None
        return x + per_channel(self.bias, x)


@NORMS.register("none")
def none(channels: int) -> Norm:
    """No normalization: a learnt shift per channel (the bias of an ordinary layer)."""
    return Shift(channels)
