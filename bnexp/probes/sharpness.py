"""The largest curvature of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import get_total_norm

from bnexp.config.checks import Range
from bnexp.probes.base import PROBES, Moment, Probe, Values
from bnexp.probes.invariance import scale_invariant
from bnexp.randomness import generator

Vector = list[Tensor]


def hessian(loss: Tensor, parameters: Sequence[Tensor]) -> Callable[[Vector], Vector]:
    """The map v -> H v, H the Hessian of the loss in the parameters: the gradient of <grad L, v> (Pearlmutter 1994)."""
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)

    def times(v: Vector) -> Vector:
        product = torch.stack([(g * part).sum() for g, part in zip(gradient, v, strict=True)]).sum()
        return list(torch.autograd.grad(product, parameters, retain_graph=True, materialize_grads=True))

    return times


def largest_eigenvalue(times: Callable[[Vector], Vector], v: Vector, iterations: int) -> tuple[Tensor, Tensor]:
    """The eigenvalue of largest magnitude, by power iteration from v, and its relative change in the last iteration.

    v <- v / ||v||, value = <v, H v>, v <- H v. Returns the last value and |last - the one before| / |last|.
    """
    before = value = torch.full((), torch.nan)
    for _ in range(iterations):
        length = get_total_norm(v)
        v = [part / length for part in v]
        product = times(v)
        before, value = value, torch.stack([(a * b).sum() for a, b in zip(v, product, strict=True)]).sum()
        v = product
    return value, (value - before).abs() / value.abs()


def _start(parameters: Sequence[Tensor]) -> Vector:
    """A random direction, the same at every step."""
    source = generator(0, "sharpness")
    return [torch.randn(parameter.shape, generator=source).to(parameter) for parameter in parameters]


class Sharpness(Probe):
    """See ``sharpness``."""

    def __init__(self, model: nn.Module, images: Tensor, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.invariant = scale_invariant(model, images)

    def measure(self, moment: Moment) -> Values:
        """The largest curvature on the probe batch, in all parameters and in the scale-invariant ones."""
        value, change = self._largest(moment, list(moment.before))
        values: Values = {
            "lambda_max": value.item(),
            "lambda_max_lr": (value * moment.lr).item(),
            "change": change.item(),
        }
        if self.invariant:
            square = get_total_norm([moment.before[name] for name in self.invariant]) ** 2
            values["lambda_max_invariant"] = (self._largest(moment, self.invariant)[0] * square).item()
        return values

    def _largest(self, moment: Moment, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        own = dict(moment.model.named_parameters())
        parameters = [own[name] for name in names]
        times = hessian(moment.loss(moment.images, moment.labels), parameters)
        return largest_eigenvalue(times, _start(parameters), self.iterations)


def _require_two_derivatives(model: nn.Module, images: Tensor) -> None:
    """Compute a second derivative by ``backward``: ``autograd.grad`` silently skips functions with one derivative only.

    Raises:
        ValueError: a layer has no second derivative.
    """
    weights = {name: own.detach().clone().requires_grad_() for name, own in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits = functional_call(model, {**weights, **buffers}, (images,))
    loss = F.cross_entropy(logits, logits.argmax(1))
    gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True, materialize_grads=True)
    try:
        torch.stack([part.square().sum() for part in gradient]).sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        advice = "use a norm that has two derivatives, such as bn for bn_scratch"
        raise ValueError(f"probes=[sharpness]: this model's gradient has no derivative ({reason}); {advice}") from None


@PROBES.register("sharpness")
def sharpness(model: nn.Module, images: Tensor, *, iterations: Annotated[int, Range(least=2)]) -> Probe:
    """The eigenvalue of largest magnitude of the Hessian of the loss on the probe batch, with norms in training mode.

    ``lambda_max``: by power iteration on Hessian-vector products from a fixed random start, with its sign;
    ``change``: its relative change in the last iteration, which tells whether the iteration has converged;
    ``lambda_max_lr`` = lambda_max * lr, which full-batch gradient descent keeps near 2 (the edge of stability, Cohen et
    al. 2021).

    ``lambda_max_invariant`` = lambda_max ||w||^2 of the Hessian in w, all scale-invariant weights. Rescaling w changes
    lambda_max; it changes neither the network nor this number. Networks without such weights do not have it.

    Options:
        iterations: each costs about two backward passes over the probe batch, and again as much for
            ``lambda_max_invariant``.

    Raises:
        ValueError: the model's gradient has no derivative, as with ``bn_scratch``.
    """
    _require_two_derivatives(model, images)
    return Sharpness(model, images, iterations)
