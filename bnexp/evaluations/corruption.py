"""Images as a worse camera, or worse weather, would show them (Hendrycks & Dietterich 2019)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bnexp.config.checks import Range, Some
from bnexp.evaluations.base import EVALUATIONS, Condition, Pixels
from bnexp.randomness import generator

Kind = Literal["noise", "blur", "contrast", "brightness"]
Severity = Annotated[int, Range(least=1, most=5)]

# The numbers of CIFAR-10-C for severities 1 to 5, from its authors' make_cifar_c.py.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
}
# The kernel of the blur ends after so many standard deviations, as in scikit-image.
_TRUNCATE = 4.0


def noise(pixels: Tensor, strength: float) -> Tensor:
    """Gaussian noise: p + strength * z, within 0 and 1.

    z is standard normal and always the same for an image, so that severities differ in the strength alone.
    """
    z = torch.randn(pixels.shape, generator=generator(0, "noise")).to(pixels)
    return (pixels + strength * z).clamp(0, 1)


def blur(pixels: Tensor, strength: float) -> Tensor:
    """A Gaussian blur of maps [N, C, H, W], of ``strength`` pixels; beyond the edge the outermost pixels go on."""
    radius = int(_TRUNCATE * strength + 0.5)
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (at / strength) ** 2)
    kernel = (weights / weights.sum()).to(pixels)
    count, channels, height, width = pixels.shape
    wide = F.pad(pixels.reshape(count * channels, 1, height, width), [radius] * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(wide, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return blurred.view_as(pixels).clamp(0, 1)


def contrast(pixels: Tensor, strength: float) -> Tensor:
    """Less contrast: m + strength * (p - m), m the mean of a channel of the image, or of a whole vector."""
    mean = pixels.flatten(2 if pixels.ndim > 2 else 1).mean(-1)
    mean = mean.view(*mean.shape, *[1] * (pixels.ndim - mean.ndim))
    return (mean + strength * (pixels - mean)).clamp(0, 1)


def brightness(pixels: Tensor, strength: float) -> Tensor:
    """Brighter: the value v of the hue-saturation-value model becomes min(v + strength, 1).

    v is the largest of a pixel's channels, and all of them grow by the same factor; for grey images and vectors, v is
    the pixel.
    """
    value = pixels.amax(1, keepdim=True) if pixels.ndim > 2 else pixels
    brighter = (value + strength).clamp(max=1)
    return torch.where(value > 0, pixels * brighter / value, brighter)


KINDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "brightness": brightness,
}


def _changed(kind: Kind, strength: float, pixels: Tensor) -> Tensor:
    return KINDS[kind](pixels, strength)


@EVALUATIONS.register("corruption")
def corruption(pixels: Pixels, *, kinds: Some[Kind], severities: Some[Severity]) -> list[Condition]:
    """Corrupted images; names of metrics have kind and severity, as ``test/accuracy_noise3`` has.

    The functions of this module, with the strengths of CIFAR-10-C (Hendrycks & Dietterich 2019), on pixels between 0
    and 1. They are kept as they are for images of other sizes.

    Options:
        kinds: of corruption; ``blur`` needs images.
        severities: 1 to 5.

    Raises:
        ValueError: the inputs are no pixels between 0 and 1, or vectors are to be blurred.
    """
    pixels.require("corruption")
    if "blur" in kinds and len(pixels.data.shape) != 3:
        allowed = "evaluations.corruption.kinds=[noise,contrast,brightness]"
        raise ValueError(
            f"evaluations.corruption.kinds=[blur]: needs images, and data={pixels.data.name} has vectors; use {allowed}"
        )
    return [
        Condition(f"{kind}{severity}", partial(_changed, kind, STRENGTHS[kind][severity - 1]))
        for kind in kinds
        for severity in severities
    ]
