"""Independent formulas of whitening and the sample family, for the common tests in test_norms.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from bnexp.norms import Norm


def affine(norm: Norm, x_hat: Tensor) -> Tensor:
    """gain * x_hat + bias, channel by channel."""
    channels = [
        value if norm.gain is None else norm.gain[c] * value + norm.bias[c] for c, value in enumerate(x_hat.unbind(1))
    ]
    return torch.stack(channels, 1)


# ----------------------------------------------------------------------------------------------------------- whitening


def zca_matrix(cov: Tensor) -> Tensor:
    """The inverse square root by the Denman-Beavers iteration, which knows no eigenvalues."""
    root, inverse = cov, torch.eye(len(cov), dtype=cov.dtype)
    for _ in range(25):
        root, inverse = (root + inverse.inverse()) / 2, (inverse + root.inverse()) / 2
    return inverse


def pca_matrix(cov: Tensor) -> Tensor:
    """Axes and gradients by torch's own eigh, one axis after another."""
    eigenvalues, vectors = torch.linalg.eigh(cov)
    rows = []
    for i in reversed(range(len(cov))):
        axis = vectors[:, i]
        rows.append(axis * axis[axis.abs().argmax()].sign() / eigenvalues[i] ** 0.5)
    return torch.stack(rows)


def newton_matrix(cov: Tensor, iterations: int) -> Tensor:
    """The iteration as published, which is sound for few steps in float64."""
    p, trace = torch.eye(len(cov), dtype=cov.dtype), sum(cov[i, i] for i in range(len(cov)))
    for _ in range(iterations):
        p = 1.5 * p - 0.5 * p @ p @ p @ (cov / trace)
    return p / trace**0.5


def whitened(norm: Norm, x: Tensor, matrix: Callable[[Tensor], Tensor]) -> Tensor:
    """Groups of channels in a row, position by position."""
    groups = []
    for start in range(0, x.shape[1], norm.width):
        part = x[:, start : start + norm.width].movedim(1, -1)
        rows = part.reshape(-1, norm.width)
        centred = [row - sum(rows) / len(rows) for row in rows]
        cov = sum(row[:, None] * row[None, :] for row in centred) / len(rows)
        w = matrix(cov + norm.eps * torch.eye(norm.width, dtype=x.dtype))
        groups.append(torch.stack([w @ row for row in centred]).view_as(part).movedim(-1, 1))
    return affine(norm, torch.cat(groups, 1))


# -------------------------------------------------------------------------------------------------------- sample family


def mean_square(values: Tensor) -> Tensor:
    return sum(value * value for value in values.flatten()) / values.numel()


def rms(norm: Norm, x: Tensor) -> Tensor:
    return affine(norm, torch.stack([sample / (mean_square(sample) + norm.eps) ** 0.5 for sample in x]))


def rms_c(norm: Norm, x: Tensor) -> Tensor:
    positions = [sample.reshape(len(sample), -1).unbind(1) for sample in x]
    x_hat = [torch.stack([at / (mean_square(at) + norm.eps) ** 0.5 for at in each], 1) for each in positions]
    return affine(norm, torch.stack(x_hat).reshape(x.shape))


def frn(norm: Norm, x: Tensor) -> Tensor:
    x_hat = torch.stack(
        [torch.stack([each / (mean_square(each) + abs(norm.eps)) ** 0.5 for each in sample]) for sample in x]
    )
    y = affine(norm, x_hat)
    return torch.stack([(y[:, c] - tau).relu() + tau for c, tau in enumerate(norm.tau)], 1)


def switchable(norm: Norm, x: Tensor) -> Tensor:
    """The sets of in, ln and bn for each sample and channel, from single values."""
    kinds = slice(0 if x[0, 0].numel() > 1 else 1, 3)
    w, v = (logits[kinds].exp() / logits[kinds].exp().sum() for logits in (norm.mean_logits, norm.var_logits))
    x_hat = torch.zeros_like(x)
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        sets = [x[n, c], x[n], x[:, c]][kinds]
        means = [each.sum() / each.numel() for each in sets]
        variances = [mean_square(each - mean) for each, mean in zip(sets, means, strict=True)]
        mean = sum(weight * each for weight, each in zip(w, means, strict=True))
        var = sum(weight * each for weight, each in zip(v, variances, strict=True))
        index = (torch.tensor(n), torch.tensor(c))
        x_hat = x_hat.index_put(index, (x[n, c] - mean) / (var + norm.eps) ** 0.5)
    return affine(norm, x_hat)


def dyt(norm: Norm, x: Tensor) -> Tensor:
    return affine(norm, 1 - 2 / ((2 * norm.alpha * x).exp() + 1))


# name -> (norm in training mode, x) -> y, in loops or closed formulas that share no code with the layer.
FORMULAS: dict[str, Callable[[Norm, Tensor], Tensor]] = {
    "zca": lambda norm, x: whitened(norm, x, zca_matrix),
    "pca_whiten": lambda norm, x: whitened(norm, x, pca_matrix),
    "iternorm": lambda norm, x: whitened(norm, x, lambda cov: newton_matrix(cov, norm.iterations)),
    "rms": rms,
    "rms_c": rms_c,
    "frn": frn,
    "switchable": switchable,
    "dyt": dyt,
}
# A batch of vectors has to have two values more than groups of three channels need.
OWN_SHAPES = dict.fromkeys((("zca", "vectors"), ("pca_whiten", "vectors"), ("iternorm", "vectors")), (8, 9))
# law -> the norms whose definition contradicts it, each with its reason behind it.
EXEMPT: dict[str, set[str]] = {}
