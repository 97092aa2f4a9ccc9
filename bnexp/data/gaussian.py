"""Made-up data: Gaussian vectors whose class a random linear map decides."""

from __future__ import annotations

import torch

from bnexp.config.checks import Positive, Width
from bnexp.data.base import DATA, Part, Raw
from bnexp.randomness import generator

_CLASSES = 2


@DATA.register("gaussian")
def gaussian(*, features: Width, samples: Positive) -> Raw:
    """Vectors x ~ N(0, I) of F features; class 1 where w x > 0, w ~ N(0, I) drawn once. As many to test as to train.

    The inputs of the deep linear network of Santurkar et al. 2018, fig. 3, which is trained by regression there.

    Options:
        features: F.
        samples: how many vectors to train, and again to test.
    """
    w_F = torch.randn(features, generator=generator(0, "gaussian", "teacher"))
    train, test = (_part(part, w_F, samples) for part in ("train", "test"))
    return Raw("data.name=gaussian", train, test, _CLASSES)


def _part(part: str, w_F: torch.Tensor, samples: int) -> Part:
    x_NF = torch.randn(samples, len(w_F), generator=generator(0, "gaussian", part))
    return Part(x_NF, (x_NF @ w_F > 0).long(), f"the {part} part", f"the {part} part")
