"""The recurrent network over the rows of an image, with a norm on each of its two linear maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from bnexp.config.checks import NonNegative, Width
from bnexp.models.unit import MODELS, Units, image_shape, named
from bnexp.norms import BatchStatistics, Norm
from bnexp.norms.frozen import FrozenBatchNorm
from bnexp.randomness import Stream

Statistics = Literal["per_step", "shared"]


class StepNorms(nn.Module):
    """One norm a time step, which share all parameters and differ in their running statistics."""

    def __init__(self, first: Norm, norms: list[Norm]) -> None:
        super().__init__()
        for norm in norms:
            norm.gain, norm.bias = first.gain, first.bias
        self.steps = nn.ModuleList([first, *norms])

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalize x, (B, C), of a time step; where there are fewer norms than steps, the last norm is used again."""
        y: Tensor = self.steps[min(step, len(self.steps) - 1)](x)
        return y


class Recurrent(nn.Module):
    """h_t = activation(norm_x(W_x x_t) + norm_h(W_h h_{t-1})), t = 1..H, over the rows x_t of an image.

    Cooijmans et al. 2016, eq. 6, for the plain recurrent network: the two maps are normalized separately. The paper's
    bias b is the sum of the two norms' biases; without a norm each map has one, as in ``nn.RNN``.

    Args:
        inputs: W * C, the numbers of a row.
        width: of the hidden state.
        steps: H, rows of an image.
        statistics: ``per_step``: each time step has its running statistics; ``shared``: all have the same.
        noise: sd of the first hidden state in training; in evaluation the state is 0. Where the first rows are the same
            in all images, their batch variance would be 0 without noise (Cooijmans et al. 2016, appendix).
    """

    def __init__(
        self, inputs: int, width: int, units: Units, *, steps: int, statistics: Statistics, noise: float
    ) -> None:
        super().__init__()
        # Each map is defined before its norm: ``models.layers`` assigns a norm to the map defined last.
        self.input = nn.Linear(inputs, width, bias=False)
        vars(self.input)["default_fan_in"] = width  # in init=torch, as in nn.RNN
        self.input_norm = _norms(units, self.input, width, steps, statistics)
        self.state = nn.Linear(width, width, bias=False)
        self.state_norm = _norms(units, self.state, width, steps, statistics)
        self.activation = units.act()
        self.stream = Stream()
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the last hidden state, (B, width)."""
        h = self._first(x)
        for step, row in enumerate(x.transpose(1, 2).flatten(2).unbind(1)):
            z = self.input_norm(self.input(row), step) + self.state_norm(self.state(h), step)
            h = self.activation(z)
        return h

    def _first(self, x: Tensor) -> Tensor:
        if self.training and self.noise:
            return self.noise * self.stream.normal(torch.Size((len(x), self.state.in_features))).to(x.dtype)
        return x.new_zeros(x.shape[0], self.state.in_features)  # len() would fix the number in an exported model


def _norms(units: Units, linear: nn.Linear, width: int, steps: int, statistics: Statistics) -> StepNorms:
    if statistics == "shared":  # a shared norm sees a batch at each time step
        units = replace(units, steps=units.steps * steps)
    first = units.behind(linear, width)
    keeps = statistics == "per_step" and isinstance(first, BatchStatistics | FrozenBatchNorm)
    norms = StepNorms(first, [units.layer(width) for _ in range(steps - 1 if keeps else 0)])
    for norm in norms.steps:
        assert isinstance(norm, Norm)
        norm.recurrent = True
    return norms


@MODELS.register("rnn")
def rnn(
    shape: tuple[int, ...],
    classes: int,
    units: Units,
    *,
    width: Width,
    statistics: Statistics,
    noise: NonNegative,
) -> nn.Module:
    """A recurrent network that reads an image row by row, and a linear head on its last state.

    Options:
        statistics: the running statistics of batch norms. ``per_step``: each time step has different ones ("averaging
            over time severely degrades performance", Cooijmans et al. 2016, sec. 3); ``shared``: all time steps have
            the same (with ``frozen_bn``, the statistics of the first step).
        noise: sd of the first hidden state in training (0 in evaluation), so that rows that are alike in all images
            do not make a variance of 0.
    """
    units.refuse_after("rnn")
    channels, height, side = image_shape("rnn", shape)
    recurrent = Recurrent(channels * side, width, units, steps=height, statistics=statistics, noise=noise)
    return named(recurrent=recurrent, head=nn.Linear(width, classes))
