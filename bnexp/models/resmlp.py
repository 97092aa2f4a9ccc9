"""The residual perceptron with clear shortcuts."""

from __future__ import annotations

import math

from torch import Tensor, nn

from bnexp.config.checks import Depth, Width
from bnexp.models.unit import MODELS, Units, named
from bnexp.norms import Branch


class PreactivationBlock(nn.Module):
    """x + norm(W_2 activation(norm(W_1 activation(x)))), with a clear shortcut (He et al. 2016b, eq. 5).

    In the paper's full pre-activation the norms are in front of the activations. Here, as everywhere in bnexp, each
    norm is behind its linear map, so that norms of weights and of residual branches can be used, too.
    """

    def __init__(self, width: int, units: Units, blocks: int) -> None:
        super().__init__()
        self.activation = units.act()
        self.first = units.linear(width, width, branch=Branch(blocks, 2, last=False))
        self.linear = nn.Linear(width, width, bias=False)
        self.norm = units.behind(self.linear, width, Branch(blocks, 2, last=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, width)."""
        y: Tensor = x + self.norm(self.linear(self.first(self.activation(x))))
        return y


@MODELS.register("resmlp")
def resmlp(shape: tuple[int, ...], classes: int, units: Units, *, blocks: Depth, width: Width) -> nn.Module:
    """A pre-activation residual perceptron: stem (linear, norm), ``blocks`` blocks, norm, activation, linear head.

    The norm in front of the head brings the sum of all branches back to unit variance (He et al. 2016b, appendix).
    """
    units.refuse_after("resmlp")
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    layers["stem"] = stem = nn.Linear(math.prod(shape), width, bias=False)
    layers["stem_norm"] = units.behind(stem, width)
    for number in range(1, blocks + 1):
        layers[f"block{number}"] = PreactivationBlock(width, units, blocks)
    return named(**layers, norm=units.layer(width), activation=units.act(), head=nn.Linear(width, classes))
