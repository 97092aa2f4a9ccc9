"""The multi-layer perceptron."""

from __future__ import annotations

import itertools
import math

from torch import nn

from bnexp.checks import Fraction, Positive
from bnexp.dropout import Dropout
from bnexp.models.unit import MODELS, Units


@MODELS.register("mlp")
def mlp(
    shape: tuple[int, ...], classes: int, units: Units, *, depth: Positive, width: Positive, dropout: Fraction
) -> nn.Module:
    """Fully connected: ``depth`` hidden layers of ``width`` units, dropout behind each, and a linear head.

    depth 3, width 100 is the network of Ioffe & Szegedy 2015, sec. 4.1.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    widths = [math.prod(shape)] + [width] * depth
    for n_in, n_out in itertools.pairwise(widths):
        # A place for dropout in any case: initial weights depend on the layers' names.
        layers += [units.linear(n_in, n_out), Dropout(dropout) if dropout else nn.Identity()]
    return nn.Sequential(*layers, nn.Linear(width, classes))
