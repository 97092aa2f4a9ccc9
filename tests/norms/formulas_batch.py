"""Independent formulas of the batch family, for the common tests in test_norms.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bnexp.norms import Norm

Values = Callable[[Tensor], Tensor]


def by_channel(norm: Norm, x: Tensor, standardize: Values) -> Tensor:
    """gain * x_hat + bias, one channel after another; ``standardize`` is given all values of a channel."""
    columns = [standardize(x[:, c]) for c in range(x.shape[1])]
    if norm.gain is not None:
        columns = [gain * column for gain, column in zip(norm.gain, columns, strict=True)]
    if norm.bias is not None:
        columns = [bias + column for bias, column in zip(norm.bias, columns, strict=True)]
    return torch.stack(columns, 1)


def mean_of(values: Tensor) -> Tensor:
    return values.sum() / values.numel()


def variance_of(values: Tensor) -> Tensor:
    return ((values - mean_of(values)) ** 2).sum() / values.numel()


def standard(eps: float) -> Values:
    return lambda values: (values - mean_of(values)) / (variance_of(values) + eps) ** 0.5


def batch_norm(norm: Norm, x: Tensor) -> Tensor:
    return by_channel(norm, x, standard(norm.eps))


def chunks(norm: Norm, x: Tensor) -> list[Tensor]:
    starts = list(range(0, len(x), norm.size))
    if len(starts) > 1 and len(x) - starts[-1] == 1:
        starts.pop()
    return [x[a:b] for a, b in zip(starts, [*starts[1:], len(x)], strict=True)]


def ghost(norm: Norm, x: Tensor) -> Tensor:
    return torch.cat([batch_norm(norm, part) for part in chunks(norm, x)])


def group_batch(norm: Norm, x: Tensor) -> Tensor:
    width = x.shape[1] // norm.groups
    x_hat = [
        torch.cat([standard(norm.eps)(part[:, c : c + width]) for c in range(0, x.shape[1], width)], 1)
        for part in chunks(norm, x)
    ]
    return by_channel(norm, torch.cat(x_hat), lambda values: values)


def detached(norm: Norm, x: Tensor) -> Tensor:
    def x_hat(values: Tensor) -> Tensor:
        mean, variance = mean_of(values), variance_of(values)
        mean = mean if norm.detach == "variance" else mean.item()
        variance = variance if norm.detach == "mean" else variance.item()
        return (values - mean) / (variance + norm.eps) ** 0.5

    return by_channel(norm, x, x_hat)


def frozen(norm: Norm, x: Tensor) -> Tensor:
    return by_channel(norm, x, lambda values: values / (1 + norm.eps) ** 0.5)  # not fitted: mean 0 and variance 1


def mean_only(norm: Norm, x: Tensor) -> Tensor:
    return by_channel(norm, x, lambda values: values - mean_of(values))


def variance_only(norm: Norm, x: Tensor) -> Tensor:
    return by_channel(norm, x, lambda values: values / (variance_of(values) + norm.eps) ** 0.5)


def splitmix64(key: int, count: int, length: int) -> list[float]:
    """The generator of bnexp/stream.py in whole numbers of Python, as numbers in [0, 1)."""
    word = 2**64 - 1
    state = (key ^ (count * 0xBF58476D1CE4E5B9)) & word
    numbers = []
    for _ in range(length):
        state = (state + 0x9E3779B97F4A7C15) & word
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        numbers.append(((z ^ (z >> 31)) >> 40) / 2**24)
    return numbers


def noise(layer: torch.nn.Module, shape: torch.Size, step: int) -> tuple[Tensor, Tensor]:
    """s and m of the given training step: four draws a step."""
    key, n, channels = int(layer.key), math.prod(shape), shape[1]
    mu, sigma, m = (splitmix64(key, 4 * step + draw, size) for draw, size in ((0, channels), (1, channels), (2, n)))
    u, v = torch.tensor(splitmix64(key, 4 * step + 3, 2 * n)).view(2, n)  # normal numbers have float32's digits
    z = (-2 * torch.log1p(-u)).sqrt() * torch.cos(2 * math.pi * v)
    s = torch.zeros(shape, dtype=torch.float64)
    shift = torch.zeros(shape, dtype=torch.float64)
    inner = math.prod(shape[2:])
    for i in range(n):
        c = i // inner % channels
        centre = layer.mean_range * (2 * mu[c] - 1)
        shift.view(-1)[i] = centre + layer.mean_jitter * (2 * m[i] - 1)
        s.view(-1)[i] = 1 + (layer.scale_max - 1) * sigma[c] + layer.scale_jitter * z[i].item()
    return s, shift


def noisy(norm: Norm, x: Tensor) -> Tensor:
    s, m = noise(norm.noise, x.shape, step=int(norm.noise.passes) // 4 - 1)
    return s * batch_norm(norm, x) + m


# name -> (norm in training mode, x) -> y, in loops or closed formulas that share no code with the layer.
FORMULAS: dict[str, Callable[[Norm, Tensor], Tensor]] = {
    "ghost_bn": ghost,
    "batch_renorm": batch_norm,  # the first step is in the warm-up; later ones are in test_norms_batch.py
    "frozen_bn": frozen,
    "detached_bn": detached,
    "mean_only_bn": mean_only,
    "var_only_bn": variance_only,
    "noisy_bn": noisy,
    "sync_bn": batch_norm,
    "gn_bn": group_batch,
}
# law -> the norms whose definition contradicts it, each with its reason behind it.
EXEMPT: dict[str, set[str]] = {
    "gradcheck": {
        "batch_renorm",  # r and d are constants to the gradient
        "detached_bn",  # so are the statistics
        "noisy_bn",  # each call has other noise
    },
    "order": {
        "batch_renorm",  # the second call corrects by what the first left behind
        "noisy_bn",  # the noise belongs to places in the batch
        "gn_bn",  # so do the chunks, which are of two samples
    },
    "bfloat16": {
        "batch_renorm",  # the second call corrects by what the first left behind
        "noisy_bn",  # each call has other noise
    },
}
