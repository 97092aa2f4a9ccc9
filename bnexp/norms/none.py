"""No normalization."""

from __future__ import annotations

from bnexp.config.capabilities import Capabilities
from bnexp.norms.base import NORMS, Norm, Scaled


class Shift(Scaled):
    """y = x + bias, one bias a channel: no statistics, the same in training and evaluation, for any batch size.

    It stands where other arms have a norm, so that all arms have the same learnt shifts and differ in normalization
    alone. Behind a linear map it gives its bias to that map, and y = x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True, gain=False)


@NORMS.register("none", Capabilities(bias_in_linear=True))
def none(channels: int) -> Norm:
    """No normalization: a learnt shift per channel, which is the bias of the linear map, as of an ordinary layer.

    It is a shift behind the activation (``placement=after``), behind a sum (``resmlp``, before the head) and in
    torchvision's networks, whose convolutions have no bias.
    """
    return Shift(channels)
