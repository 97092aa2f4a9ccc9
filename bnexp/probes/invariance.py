"""Finds the scale-invariant weights: the network computes the same for any length of such a weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bnexp.models.layers import Layer, layers, stored_weight
from bnexp.norms.renorm import BatchRenorm
from bnexp.randomness import generator

# Number of random sums of the outputs, and the share of a direction's usual effect below which there is no effect: eps
# in a norm's root leaves about 1e-10; a weight whose length matters falls below 1e-3 once in a million cases.
_SUMS, _NONE = 4, 1e-3


def weight_names(found: Mapping[str, Layer]) -> dict[str, str]:
    """Layer -> the model's name of the weight that it learns (``stored_weight``).

    A weight that layers share belongs to the first of them; the others are left out.
    """
    stored = {name: stored_weight(layer.linear) for name, layer in found.items()}
    return {
        name: own
        for name, layer in found.items()
        for own, parameter in layer.parameters.items()
        if parameter is stored[name]
    }


def scale_invariant(model: nn.Module, images: Tensor) -> list[str]:
    """Names of the learnt weights w with f(a w) = f(w) for every a > 0, as in front of a batch, layer or group norm.

    By Euler's theorem on homogeneous functions this means J w = 0, with J the Jacobian of the outputs in w. For random
    sums c^T f of the outputs, <w, J^T c>^2 is compared with ||w||^2 ||J^T c||^2 / n, the average for a direction among
    n. All parameters with axes get random values here, so initial values such as 0 hide nothing. If a norm keeps its
    statistics out of the gradient, as ``detached_bn`` does, J is not the Jacobian of f, and w does not count. No weight
    counts in front of ``batch_renorm``, whose correction ties the output to the running statistics after its warm-up.

    Args:
        model: in training mode; it does not change.
        images: inputs, (P, ...).
    """
    if any(isinstance(module, BatchRenorm) for module in model.modules()):
        return []
    source = generator(0, "scale_invariant")
    weights = {name: _drawn(own, source).requires_grad_() for name, own in model.named_parameters()}
    names = list(weight_names(layers(model)).values())
    if not names:
        return []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits = functional_call(model, {**weights, **buffers}, (images,))
    shares = torch.stack([_shares(weights, names, logits, source) for _ in range(_SUMS)]).mean(0)
    return [name for name, none in zip(names, (shares < _NONE).tolist(), strict=True) if none]


def _drawn(parameter: Tensor, source: torch.Generator) -> Tensor:
    """Random values: weights of variance 1 / fan_in, vectors about 1; a scalar, such as a learnt eps, is kept."""
    if parameter.ndim == 0:
        return parameter.detach().clone()
    noise = torch.randn(parameter.shape, generator=source)
    drawn = noise / noise[0].numel() ** 0.5 if noise.ndim > 1 else 1 + 0.1 * noise
    return drawn.to(parameter)


def _shares(weights: Mapping[str, Tensor], names: list[str], logits: Tensor, source: torch.Generator) -> Tensor:
    """For one random sum and each name: n <w, J^T c>^2 / (||w||^2 ||J^T c||^2)."""
    c = torch.randn(logits.shape, generator=source).to(logits)
    # Do not pass c as the outputs' gradient: torch would then import its symbolic shapes, which takes seconds.
    along = (logits * c).sum()
    found = torch.autograd.grad(along, [weights[name] for name in names], retain_graph=True, materialize_grads=True)
    pairs = [(weights[name].detach(), gradient) for name, gradient in zip(names, found, strict=True)]
    return torch.stack([w.numel() * (w * g).sum() ** 2 / (w.square().sum() * g.square().sum()) for w, g in pairs])
