"""Gradients and updates of each layer, and how well the gradients of a batch's parts agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from bnexp.probes.base import (
    PROBES,
    UNSEEN,
    Moment,
    Probe,
    Values,
    l2_norm,
    recording,
    require_layers,
    sample,
    signals,
)
from bnexp.probes.invariance import weight_names

# Number of micro-batches for the coherence.
_PARTS = 4


def loss_and_gradient(moment: Moment, names: Iterable[str], x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The mean loss on a batch and its gradient in the named parameters, at the model's present weights."""
    parameters = dict(moment.model.named_parameters())
    loss = moment.loss(x, y)
    found = torch.autograd.grad(loss, [parameters[name] for name in names], materialize_grads=True)
    return loss.detach(), list(found)


def slope(values: Sequence[float]) -> float:
    """Least-squares slope of log10 of the values over their index; nan for fewer than two, or if one is 0."""
    if len(values) < 2 or 0 in values:
        return float("nan")
    index = torch.arange(len(values), dtype=torch.float64)
    index -= index.mean()
    logs = torch.tensor(values, dtype=torch.float64).log10()
    return ((index * logs).sum() / index.square().sum()).item()


def coherence(gradients: Sequence[Sequence[Tensor]]) -> float:
    """||mean g_i||^2 / mean ||g_i||^2 of k gradients g_i: 1 if all are equal, about 1 / k if they are pure noise."""
    mean = [torch.stack(same).mean(0) for same in zip(*gradients, strict=True)]
    squares = [_square(gradient) for gradient in gradients]
    return (_square(mean) / torch.stack(squares).mean()).item()


def _square(tensors: Sequence[Tensor]) -> Tensor:
    """The squared norm of all of them together."""
    return torch.stack([l2_norm(each) for each in tensors]).square().sum()


class Gradients(Probe):
    """See ``gradients``."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        found = require_layers("gradients", model)
        self.weights = weight_names(found)
        self.hidden = list(found)[1:-1]
        if not signals(model, images).after:
            self.left_out.append(f"{UNSEEN}; activation is left out, and slope_activation is nan")

    def measure(self, moment: Moment) -> Values:
        """Norms of gradients and updates of every layer, their slopes, and histograms of the gradients of weights."""
        weight, activation = self._of_weights(moment), self._of_activations(moment)
        norms = {f"activation/{name}": norm for name, norm in activation.items()}
        return {
            **weight,
            **norms,
            **{f"entries/{name}": sample(moment.gradient[weight]) for name, weight in self.weights.items()},
            "slope": slope([weight[f"norm/{name}"] for name in self.hidden if name in self.weights]),
            "slope_activation": slope([activation[name] for name in self.hidden if name in activation]),
            "coherence": self._coherence(moment),
        }

    def _of_weights(self, moment: Moment) -> dict[str, float]:
        values = {}
        for name, weight in self.weights.items():
            length, gradient = l2_norm(moment.before[weight]), l2_norm(moment.gradient[weight])
            update = l2_norm(moment.after[weight] - moment.before[weight])
            values[f"norm/{name}"] = gradient.item()
            values[f"relative/{name}"] = (gradient / length).item()
            values[f"update/{name}"] = (update / length).item()
        return values

    def _of_activations(self, moment: Moment) -> dict[str, float]:
        """||dL/dh|| of the activations h of each layer that has one."""
        with recording(moment.model) as seen:
            loss = moment.loss(moment.x_B, moment.y_B)
        h = list(seen.after.values())
        found = torch.autograd.grad(loss, h, materialize_grads=True) if h else ()
        return {name: l2_norm(gradient).item() for name, gradient in zip(seen.after, found, strict=True)}

    def _coherence(self, moment: Moment) -> float:
        if len(moment.y_B) < _PARTS:
            return float("nan")
        parts = zip(moment.x_B.tensor_split(_PARTS), moment.y_B.tensor_split(_PARTS), strict=True)
        try:
            return coherence([loss_and_gradient(moment, moment.before, x, y)[1] for x, y in parts])
        except ValueError:  # the norm is undefined for so small a batch
            return float("nan")


@PROBES.register("gradients")
def gradients(model: nn.Module, images: Tensor) -> Probe:
    """Gradients of the step for each layer l: over its (stored) weights W_l, and over its activations h_l.

    ``norm`` = ||dL/dW_l||; ``relative`` = ||dL/dW_l|| / ||W_l||; ``update`` = ||W_l' - W_l|| / ||W_l||, W_l' after the
    optimizer's step; ``activation`` = ||dL/dh_l||, of the loss averaged over the step's batch; ``slope`` and
    ``slope_activation``: least-squares slopes of log10 of ``norm`` and ``activation`` over the index of the layers
    without the first and the last, whose fan-in differs: decades per layer, above 0 if gradients vanish towards the
    input and below 0 if they explode.

    ``entries`` is a histogram of the entries of dL/dW_l.

    ``coherence`` = ||mean_i g_i||^2 / mean_i ||g_i||^2 of the whole gradients g_i of four micro-batches of the step
    (Chatterjee & Zielinski 2020): 1 without noise, about 1/4 where all is noise; nan where the batch is too
    small for four, or for the norm.

    A weight that layers share is shown for the first of them. A model whose activations are no modules has curves of
    its weights only, which a line says.
    """
    return Gradients(model, images)
