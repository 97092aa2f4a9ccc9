"""Dropout whose masks are a pure function of (seed, position): nothing to save for a resume, and stackable."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnexp.seeds import derive

# SplitMix64 (Steele, Lea & Flood 2014, fig. 16) with its constants as signed 64-bit numbers: torch has no unsigned
# arithmetic, and the low bits of sums and products do not depend on the sign.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical (unsigned) right shift of int64 values."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def uniform(key: Tensor, count: Tensor, shape: torch.Size) -> Tensor:
    """Independent numbers in [0, 1), float32, of the given shape.

    Args:
        key: int64 scalar, the stream.
        count: int64 scalar, how many times the stream was drawn from before.
        shape: what is returned; element i is SplitMix64's output number i from the state (key, count).
    """
    index = torch.arange(shape.numel(), device=key.device)
    z = (key ^ (count * _MIX[0][1])) + (index + 1) * _GAMMA
    for bits, factor in _MIX:
        z = (z ^ _shift_right(z, bits)) * factor
    z = z ^ _shift_right(z, 31)
    return (_shift_right(z, 40).float() * 2.0**-24).view(shape)


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014): in training each value is 0 with probability p, else x / (1 - p).

    In evaluation the identity. The mask depends on the key (from the run's seed, see ``seed_dropout``), the number of
    training passes so far and the element's index; both numbers are buffers and travel with the model.
    """

    key: Tensor
    passes: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.register_buffer("key", torch.zeros((), dtype=torch.int64))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        if not self.training or self.p == 0:
            return x
        keep = uniform(self.key, self.passes, x.shape) >= self.p
        self.passes.add_(1)
        return x * keep / (1 - self.p)


def seed_dropout(model: nn.Module, seed: int) -> None:
    """Give every dropout layer of a model its own stream for this seed."""
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            module.key.fill_(derive(seed, "dropout", name))
