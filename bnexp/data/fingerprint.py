"""By what a run knows whether its data are still those that it began with."""

from __future__ import annotations

import hashlib

import torch

from bnexp.data.base import Part, Raw


def fingerprint(raw: Raw) -> str:
    """32 hex digits over all images and labels of a source, in their order; not over where they lie."""
    return hashlib.blake2b(_digest(raw.train) + _digest(raw.test), digest_size=16).hexdigest()


def _digest(part: Part) -> bytes:
    digest = hashlib.blake2b(part.y.contiguous().numpy().data)
    if part.digest is not None:
        digest.update(part.digest)
        return digest.digest()
    for x in [part.x] if isinstance(part.x, torch.Tensor) else part.x:
        digest.update(f"{x.dtype}{tuple(x.shape)}".encode())
        digest.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
