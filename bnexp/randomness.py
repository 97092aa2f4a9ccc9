"""Randomness as a pure function of a seed and a purpose, so that a resumed run needs no generator state."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit number that depends on the seed and the purpose only; distinct purposes are independent."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. ``generator(seed, "order", epoch)``."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


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
        key: int64 scalar that identifies the stream.
        count: int64 scalar, how many times the stream has been drawn from.
        shape: shape of the result; element i is SplitMix64's output number i from the state (key, count).
    """
    index = torch.arange(shape.numel(), device=key.device)
    z = (key ^ (count * _MIX[0][1])) + (index + 1) * _GAMMA
    for bits, factor in _MIX:
        z = (z ^ _shift_right(z, bits)) * factor
    z = z ^ _shift_right(z, 31)
    return (_shift_right(z, 40).float() * 2.0**-24).view(shape)


def normal(key: Tensor, count: Tensor, shape: torch.Size) -> Tensor:
    """Independent standard normal numbers, float32, by the transform of Box & Muller (1958), from ``uniform``."""
    u, v = uniform(key, count, torch.Size((2, *shape)))
    return (-2 * torch.log1p(-u)).sqrt() * torch.cos(2 * math.pi * v)


class Stream(nn.Module):
    """A stream of random numbers; a base class or submodule of layers that draw random numbers in training.

    Attributes:
        key: identifies the stream, int64; computed from the run's seed and the layer's name, see ``seed_streams``.
        passes: how many times the stream has been drawn from, int64. Both are buffers, saved with the model.
    """

    key: Tensor
    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("key", torch.zeros((), dtype=torch.int64))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def uniform(self, shape: torch.Size) -> Tensor:
        """The next numbers in [0, 1), float32."""
        numbers = uniform(self.key, self.passes, shape)
        self.passes.add_(1)
        return numbers

    def normal(self, shape: torch.Size) -> Tensor:
        """The next standard normal numbers, float32."""
        numbers = normal(self.key, self.passes, shape)
        self.passes.add_(1)
        return numbers


def seed_streams(model: nn.Module, seed: int) -> None:
    """Give every stream of a model its own key for this seed."""
    for name, module in model.named_modules():
        if isinstance(module, Stream):
            module.key.fill_(derive(seed, "stream", name))


# --- torch's own generators, from which code of the user's may draw ---------------------------------------------------

# The buffer with the number of a model's training passes; not a module, which an nn.Sequential would call as a layer.
TORCH_DRAWS = "torch_draws"


@contextmanager
def torch_seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Let torch's own generators draw by a seed and a purpose inside the with block; later they go on as before."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(gpus):
        torch.manual_seed(derive(seed, *purpose))
        yield


def repeat_torch_draws(model: nn.Module, seed: int) -> None:
    """Seed torch's own generators before each training pass of a model that draws from them, as nn.Dropout does.

    So the numbers of a pass depend on the run's seed and on how many passes there were, and a resumed run draws the
    same ones. The count is a buffer of the model, so that checkpoints hold it. To read it, a GPU is waited for: streams
    do not need that.
    """
    model.register_buffer(TORCH_DRAWS, torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device))

    def begin(model: nn.Module, inputs: object) -> None:
        if model.training:
            passes = model.get_buffer(TORCH_DRAWS)
            torch.manual_seed(derive(seed, "torch draws", int(passes)))
            passes.add_(1)

    model.register_forward_pre_hook(begin)
