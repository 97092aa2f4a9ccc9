"""Where the gains and biases of norms start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bnexp.config.registry import Registry
from bnexp.norms import Norm

AFFINES = Registry("affine")


@dataclass(frozen=True)
class Affine:
    """A rule for the first values of gains and biases.

    Attributes:
        gain, bias: the first values in every norm that has them; None leaves the norm's own values.
        last_gain: the first gain of norms that close a residual branch; None stands for ``gain``.
        restore: whether each norm answers the first batch with its input.
    """

    gain: float | None = None
    bias: float | None = None
    last_gain: float | None = None
    restore: bool = False

    @torch.no_grad()
    def fill(self, model: nn.Module) -> None:
        """Give the norms of a model their first gains and biases."""
        for norm in (module for module in model.modules() if isinstance(module, Norm)):
            gain = self.last_gain if norm.closes_branch and self.last_gain is not None else self.gain
            if norm.gain is not None and gain is not None:
                norm.gain.fill_(gain)
            if norm.shift is not None and self.bias is not None:
                norm.shift.fill_(self.bias)
            norm.given = gain is not None or self.bias is not None


@AFFINES.register("usual")
def usual() -> Affine:
    """Gain 1 and bias 0 (the practice since Ioffe & Szegedy 2015), or what the norm itself prescribes."""
    return Affine()


@AFFINES.register("constant")
def constant(*, gain: float, bias: float, last_gain: float | None) -> Affine:
    """The same gain and the same bias everywhere.

    Options:
        last_gain: the gain of the last norm of each residual branch; null stands for ``gain``. Goyal et al. 2017, sec.
            5.1, take 0, so that every block starts as the identity.
    """
    return Affine(gain, bias, last_gain)


@AFFINES.register("identity")
def identity() -> Affine:
    """The gain sqrt(var + eps) and bias mean of the first batch (Ioffe & Szegedy 2015, sec. 3): y = x on that batch.

    var and mean are the statistics of each layer's input on the run's first training batch.

    Raises:
        ValueError: (when the config is bound) the norm is not ``restorable`` (see ``Capabilities``); (later) it has
            no gain and bias.
    """
    return Affine(restore=True)
