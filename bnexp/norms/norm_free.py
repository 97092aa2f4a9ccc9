"""Residual nets without normalization: SkipInit and Fixup."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnexp.config.capabilities import Capabilities
from bnexp.norms.base import NORMS, Branch, Norm, Scaled, per_channel


class SkipInit(Norm):
    """y = gain * (x + bias) at the end of a residual branch, gain one number [1]; elsewhere y = x + bias.

    Args:
        alpha: the first gain.
        branch: where the layer stands.
    """

    def __init__(self, channels: int, *, alpha: float, branch: Branch | None) -> None:
        super().__init__(channels, affine=True, gain=False)
        if branch is not None and branch.last:
            self.gain = nn.Parameter(torch.full((1,), alpha))

    def forward(self, x: Tensor) -> Tensor:
        """Shift x, (B, C, ...), and scale it where a branch ends."""
        shifted = x if self.bias is None else x + per_channel(self.bias, x)
        return shifted if self.gain is None else per_channel(self.gain, x) * shifted


class Fixup(Scaled):
    """y = gain * x + bias at the end of a residual branch, elsewhere y = x + bias; gain and bias one number [1] each.

    The linear map before it gets a scalar bias on its input, [1], and a scale for its initial weights: 0 at the end of
    a branch, L^(-1 / (2m - 2)) before it, for L branches of m maps. The head starts at zero.

    Args:
        branch: where the layer stands.
    """

    zero_head = True

    def __init__(self, channels: int, *, branch: Branch | None) -> None:
        super().__init__(channels, affine=False)
        self.branch = branch
        self.bias = nn.Parameter(torch.zeros(1))
        if branch is not None and branch.last:
            self.gain = nn.Parameter(torch.ones(1))

    def attach(self, linear: nn.Module) -> None:
        """Give the map a scalar bias on its input, and tell its initial weights their scale."""
        self.input_bias = nn.Parameter(torch.zeros(1))
        linear.register_forward_pre_hook(self._shift)
        vars(linear)["initial_scale"] = self._initial_scale()

    def _shift(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0] + self.input_bias

    def _initial_scale(self) -> float:
        if self.branch is None:
            return 1.0
        if self.branch.last:
            return 0.0
        return float(self.branch.count ** (-1 / (2 * self.branch.depth - 2)))


@NORMS.register("skipinit", Capabilities(bias_in_linear=True, needs_branches=True))
def skipinit(channels: int, *, alpha: float, branch: Branch | None = None) -> Norm:
    """SkipInit, no statistics: y = gain * (x + bias) at the end of each residual branch, one learnt gain a branch.

    Elsewhere y = x + bias, as with ``none``. Biases are one number a channel. Training and evaluation are the same, for
    vectors and maps alike.

    De & Smith 2020, sec. 4.

    Options:
        alpha: where the gain starts; 0 makes every block the identity at first.
    """
    return SkipInit(channels, alpha=alpha, branch=branch)


@NORMS.register("fixup", Capabilities(needs_branches=True))
def fixup(channels: int, *, branch: Branch | None = None) -> Norm:
    """Fixup, no statistics: y = gain * x + bias at the end of each residual branch, elsewhere x + bias; all scalars.

    The first weights of a branch are drawn and multiplied by L^(-1 / (2m - 2)), for L branches of m linear maps each;
    the weights of a branch's last map and of the head start at zero. A scalar bias is added before each linear map; the
    head has its ordinary bias instead. Training and evaluation are the same, for vectors and maps alike.

    Zhang, Dauphin & Ma 2019, "Fixup initialization", rules 1 to 3.
    """
    return Fixup(channels, branch=branch)
