"""Test images of a source that has none: ``data.holdout`` sets a share of the images of each class apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from bnexp.config.checks import Range
from bnexp.data.base import Part, fault
from bnexp.randomness import generator

log = logging.getLogger(__name__)

# The share of the images that become test images; None where the source has test images.
Holdout = Annotated[float | None, Range(above=0, below=1)]
# What a source without test images, and without a share, may say.
ADVICE = "data.holdout=0.2 sets a fifth of the images of each class apart for testing"
_SEED = 0


def divided(origin: str, part: Part, share: float, names: Sequence[str] | None = None) -> tuple[Part, Part]:
    """The training and the test images of a part: round(share * n) of a class of n are for testing, at least one.

    The choice is the same for every run, and the classes are about as frequent in both parts.

    Args:
        origin: the setting that names the source.
        part: all images.
        share: above 0 and below 1.
        names: of the classes, where they have names.

    Raises:
        ValueError: images and labels do not fit together, or a class has a single image.
    """
    if len(part.x) != len(part.y):
        raise fault(origin, f"{part.images} has {len(part.x)} images, but {part.labels} {len(part.y)} labels")
    held = torch.zeros(len(part.y), dtype=torch.bool)
    for label in sorted(set(part.y.tolist())):
        rows = (part.y == label).nonzero().flatten()
        if len(rows) < 2:
            name = names[label] if names else label
            raise fault(origin, f"class {name} has one image; data.holdout={share} needs two or more of each class")
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        held[rows[torch.randperm(len(rows), generator=generator(_SEED, "holdout", label))[:count]]] = True
    log.info(
        "data.holdout=%s: %d of %d images, of all classes, are set apart for testing", share, held.sum(), len(held)
    )
    return _some(part, ~held), _some(part, held)


def _some(part: Part, wanted: Tensor) -> Part:
    rows = wanted.nonzero().flatten()
    x = part.x[rows] if isinstance(part.x, Tensor) else [part.x[row] for row in rows.tolist()]
    return Part(x, part.y[rows], part.images, part.labels, part.digest)
