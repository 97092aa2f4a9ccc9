"""The largest curvature of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import get_total_norm

from bnexp.config.checks import Range
from bnexp.probes.base import PROBES, Moment, Probe, Values, flat
from bnexp.probes.invariance import scale_invariant
from bnexp.randomness import generator

# An eigenvector whose relative residual is no larger is good enough: the eigenvalue is then better than that.
_ENOUGH = 1e-4


def hessian(loss: Tensor, parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """The map v -> H v, H the Hessian of the loss in the parameters: the gradient of <grad L, v> (Pearlmutter 1994)."""
    gradient = flat(torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True))

    def times(v: Tensor) -> Tensor:
        return flat(torch.autograd.grad(gradient @ v, parameters, retain_graph=True, materialize_grads=True))

    return times


@dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue, and how sure it is.

    Attributes:
        value: v^T H v for a unit vector v.
        residual: ||H v - value v|| / |value|; H has an eigenvalue no farther than that (relatively) from ``value``.
    """

    value: float
    residual: float


def largest_eigenvalue(times: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> Eigenvalue:
    """The eigenvalue of the largest magnitude of a symmetric map, by the method of Lanczos from ``start``.

    Each vector is made orthogonal to all before it, twice, as rounding would else bring found ones back (Golub & Van
    Loan 2013, sec. 10.3). It ends after so many iterations, or where the residual is small.
    """
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    q, found = start / start.norm(), Eigenvalue(math.nan, math.nan)
    for _ in range(iterations):
        basis.append(q)
        product = times(q)
        diagonal.append((q @ product).item())
        rest = _orthogonal(_orthogonal(product, basis), basis)
        beside.append(rest.norm().item())
        found = _largest(diagonal, beside)
        if not found.residual > _ENOUGH:  # nan too: nothing is to be found then
            break
        q = rest / beside[-1]
    return found


def _orthogonal(v: Tensor, basis: Iterable[Tensor]) -> Tensor:
    """What is left of v without its parts along the vectors of an orthonormal basis."""
    for q in basis:
        v = v - (q @ v) * q
    return v


def _largest(diagonal: Sequence[float], beside: Sequence[float]) -> Eigenvalue:
    """Of the tridiagonal matrix that Lanczos has made so far; the last number beside the diagonal leads out of it."""
    alpha, beta = torch.tensor(diagonal, dtype=torch.float64), torch.tensor(beside, dtype=torch.float64)
    if not (alpha.isfinite().all() and beta.isfinite().all()):
        return Eigenvalue(math.nan, math.nan)
    values, vectors = torch.linalg.eigh(alpha.diag() + beta[:-1].diag(1) + beta[:-1].diag(-1))
    best = values.abs().argmax()
    return Eigenvalue(values[best].item(), (beta[-1] * vectors[-1, best] / values[best]).abs().item())


class Sharpness(Probe):
    """See ``sharpness``."""

    def __init__(self, model: nn.Module, images: Tensor, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.invariant = scale_invariant(model, images)

    def measure(self, moment: Moment) -> Values:
        """Curvature on the probe batch, in all parameters and in the scale-invariant ones."""
        found = self._largest(moment, list(moment.before))
        values: Values = {
            "lambda_max": found.value,
            "lambda_max_residual": found.residual,
            "lambda_max_lr": found.value * moment.lr,
        }
        if self.invariant:
            square = get_total_norm([moment.before[name] for name in self.invariant]).item() ** 2
            found = self._largest(moment, self.invariant)
            values |= {"lambda_max_invariant": found.value * square, "lambda_max_invariant_residual": found.residual}
        return values

    def _largest(self, moment: Moment, names: Sequence[str]) -> Eigenvalue:
        own = dict(moment.model.named_parameters())
        parameters = [own[name] for name in names]
        source = generator(0, "sharpness")  # the same direction at every step
        start = flat(torch.randn(parameter.shape, generator=source).to(parameter) for parameter in parameters)
        return largest_eigenvalue(
            hessian(moment.loss(moment.images, moment.labels), parameters), start, self.iterations
        )


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

    ``lambda_max``: by the method of Lanczos on Hessian-vector products from a fixed random start, with its sign;
    ``lambda_max_residual`` = ||H v - lambda_max v|| / |lambda_max| of its unit vector v: an eigenvalue is no farther
    away, relatively, and mostly much nearer; ``lambda_max_lr`` = lambda_max * lr, which full-batch gradient descent
    keeps near 2 (the edge of stability, Cohen et al. 2021).

    ``lambda_max_invariant`` = lambda_max ||w||^2 of the Hessian in w, all scale-invariant weights: rescaling w changes
    lambda_max and not the network, and this number neither. ``lambda_max_invariant_residual`` is the
    residual of this eigenvalue. Networks without such weights have none.

    Options:
        iterations: at most; it ends where the residual is below 1e-4. Each costs about two backward passes over the
            probe batch and keeps one more vector as large as all parameters, and once more for
            ``lambda_max_invariant``.

    Raises:
        ValueError: the model's gradient has no derivative, as with ``bn_scratch``.
    """
    _require_two_derivatives(model, images)
    return Sharpness(model, images, iterations)
