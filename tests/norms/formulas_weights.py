"""Independent formulas of norms of weights and norms without statistics, for the common tests in test_norms.py.

These layers stand alone there, without the linear map that they act on: what they do to it is in test_norms_weights.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bnexp.norms import Norm


def by_channel(norm: Norm, x: Tensor) -> Tensor:
    """gain[c] * x[:, c] + bias[c], channel by channel."""
    return torch.stack([x[:, c] * norm.gain[c] + norm.bias[c] for c in range(x.shape[1])], 1)


def group_norm(norm: Norm, x: Tensor) -> Tensor:
    """Three groups of three channels, sample by sample."""
    samples = []
    for sample in x:
        groups = [sample[3 * g : 3 * g + 3] for g in range(3)]
        means = [group.sum() / group.numel() for group in groups]
        variances = [((group - mean) ** 2).sum() / group.numel() for group, mean in zip(groups, means, strict=True)]
        numbers = zip(groups, means, variances, strict=True)
        samples.append(torch.cat([(group - mean) / (var + 1e-5) ** 0.5 for group, mean, var in numbers]))
    return by_channel(norm, torch.stack(samples))


def centered(norm: Norm, x: Tensor) -> Tensor:
    """Each channel without its mean over the batch and all positions."""
    return by_channel(norm, torch.stack([x[:, c] - x[:, c].sum() / x[:, c].numel() for c in range(x.shape[1])], 1))


def shift_by_channel(norm: Norm, x: Tensor) -> Tensor:
    return torch.stack([x[:, c] + norm.bias[c] for c in range(x.shape[1])], 1)


# name -> (norm in training mode, x) -> y, in loops or closed formulas that share no code with the layer.
FORMULAS: dict[str, Callable[[Norm, Tensor], Tensor]] = {
    "weight_norm": by_channel,
    "weight_norm_mbn": centered,
    "weight_standardization": by_channel,
    "scaled_ws": by_channel,
    "ws_gn": group_norm,
    "cosine": by_channel,
    "centered_cosine": by_channel,
    "skipinit": shift_by_channel,  # off the end of a branch
    "fixup": lambda norm, x: x + norm.bias,
}
# law -> the norms whose definition contradicts it, each with its reason behind it.
EXEMPT: dict[str, set[str]] = {}
