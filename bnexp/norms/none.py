"""No normalization."""

from __future__ import annotations

from bnexp.config.capabilities import Capabilities
from bnexp.norms.base import NORMS, Norm, Scaled


class Shift(Scaled):
    """y = x + bias, one bias a channel: no statistics, the same in training and evaluation, for any batch size.

    The layer takes the place of the norm in other arms of a comparison: all arms have the same learnt shifts and differ
    only in normalization. The linear maps before it have no bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True, gain=False)


@NORMS.register("none", Capabilities(bias_in_linear=True))
def none(channels: int) -> Norm:
    """No normalization: a learnt shift per channel (the bias of an ordinary layer)."""
    return Shift(channels)
