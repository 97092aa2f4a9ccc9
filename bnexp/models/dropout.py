"""Dropout."""

from __future__ import annotations

from torch import Tensor

from bnexp.randomness import Stream


class Dropout(Stream):
    """Inverted dropout (Srivastava et al. 2014): in training each value is 0 with probability p, else x / (1 - p).

    In evaluation the identity. The mask depends on the stream's key, the number of training passes so far and the
    element's index.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        if not self.training or self.p == 0:
            return x
        keep = self.uniform(x.shape) >= self.p
        return x * keep / (1 - self.p)
