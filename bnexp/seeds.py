"""Randomness as a pure function of a seed and a purpose, so that a resumed run needs no generator state."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit number that depends on the seed and the purpose only; distinct purposes are independent."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. ``generator(seed, "order", epoch)``."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
