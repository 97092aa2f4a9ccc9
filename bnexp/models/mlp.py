"""The multi-layer perceptron."""

from __future__ import annotations

import itertools
import math

from torch import nn

from bnexp.config.checks import Depth, Fraction, Width
from bnexp.models.dropout import Dropout
from bnexp.models.unit import MODELS, Units, named


@MODELS.register("mlp")
def mlp(
    shape: tuple[int, ...], classes: int, units: Units, *, depth: Depth, width: Width, dropout: Fraction
) -> nn.Module:
    """Fully connected: ``depth`` hidden layers of ``width`` units, dropout behind each, and a linear head.

    depth 3, width 100 is the network of Ioffe & Szegedy 2015, sec. 4.1.
    """
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    widths = [math.prod(shape)] + [width] * depth
    for number, (n_in, n_out) in enumerate(itertools.pairwise(widths), 1):
        layers[f"hidden{number}"] = units.linear(n_in, n_out)
        if dropout:
            layers[f"dropout{number}"] = Dropout(dropout)
    return named(**layers, head=nn.Linear(width, classes))
