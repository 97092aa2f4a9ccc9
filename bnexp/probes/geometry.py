"""Probes of the geometry of a network: the rank of features, how gradients vary with the input, where ReLUs switch.

Legend: h is the output of an activation and z its input; P images of the probe batch; U units of a layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnexp.config.checks import Positive
from bnexp.data import Split
from bnexp.models.layers import moving_norms
from bnexp.probes.activations import mean_cosine
from bnexp.probes.base import PROBES, Moment, Probe, Values, answers, recording, require_activations, signals
from bnexp.probes.ics import spread
from bnexp.training.statistics import write_precise


@PROBES.register("rank")
class Rank(Probe):
    """How many directions the features h of a layer fill, over the probe batch, in training mode.

    With the eigenvalues l of h^T h (features are not centred, so that a common mean is a direction too), and p = l /
    sum(l)::

        effective     = exp(-sum(p log p))        (after Roy & Vetterli 2007, who take singular values for l)
        participation = 1 / sum(p^2)

    Both are 1 where all images have the same direction, and the number of features where h is white. Without a layer
    they are those of the features that the last linear map gets. Daneshmand et al. 2020 study the rank over depth.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        require_activations("rank", model, images)

    def measure(self, moment: Moment) -> Values:
        """The two ranks of each layer, and of the last features."""
        seen = signals(moment.model, moment.images)
        *_, last = seen.inputs.values()
        measured: Values = dict(ranks(last))
        for layer, h in seen.after.items():
            measured |= {f"{quantity}/{layer}": value for quantity, value in ranks(h).items()}
        return measured


def ranks(h: Tensor) -> dict[str, float]:
    """What ``rank`` measures of features (B, ...); nan where they are all 0, or not finite."""
    h_BC = h.flatten(1).double()
    gram = h_BC @ h_BC.T if len(h_BC) < h_BC.shape[1] else h_BC.T @ h_BC
    if not torch.isfinite(gram).all() or not gram.any():
        return {"effective": math.nan, "participation": math.nan}
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    p = values / values.sum()
    return {"effective": torch.special.entr(p).sum().exp().item(), "participation": (1 / p.square().sum()).item()}


@PROBES.register("shattering")
class Shattering(Probe):
    """How alike the gradients of a logit are at different inputs, in training mode (Balduzzi et al. 2017).

    g(x) is the gradient of the first logit, summed over a batch, at x. ``neighbours``: mean cosine of g at neighbouring
    points, evenly spaced on the line from one image to another; the points of a line are a batch, as in the paper,
    which takes a grid of numbers as inputs. ``images``: mean cosine of g over pairs of different images of the probe
    batch. A linear function has 1, gradients like white noise have 0.

    Options:
        lines: between the images 1 and 2, 3 and 4, and so on.
        points: of each line, with both ends; an even number: the middle one would be the mean of the batch, at which
            batch norm leaves only rounding to the activations.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, lines: Positive, points: Positive) -> None:
        super().__init__()
        if points % 2:
            raise ValueError(f"probes.shattering.points={points}: expected an even number")
        if 2 * lines > len(images):
            raise ValueError(f"probes.shattering.lines={lines}: needs two images each, and there are {len(images)}")
        self.lines, self.points = lines, points

    def measure(self, moment: Moment) -> Values:
        """Both cosines."""
        near = [_neighbours(moment.model, self._line(moment.images, line)) for line in range(self.lines)]
        among = mean_cosine(_gradient(moment.model, moment.images))
        return {"neighbours": torch.stack(near).mean().item(), "images": among.item()}

    def _line(self, images: Tensor, line: int) -> Tensor:
        first, second = images[2 * line], images[2 * line + 1]
        t = torch.linspace(0, 1, self.points, dtype=images.dtype, device=images.device)
        return torch.lerp(first, second, t.view(-1, *[1] * first.ndim))


def _gradient(model: nn.Module, x: Tensor) -> Tensor:
    """The gradient of the sum of the first logits in each input, [B, D], in float64."""
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(answers(model, x)[:, 0].sum(), x)
    return gradient.flatten(1).double()


def _neighbours(model: nn.Module, x: Tensor) -> Tensor:
    gradient = _gradient(model, x)
    return F.cosine_similarity(gradient[:-1], gradient[1:], dim=1).mean()


@PROBES.register("boundaries")
class Boundaries(Probe):
    """How far images are from the boundaries z = 0 at which ReLUs switch, in the space of the network's inputs.

    For unit j of a layer and image x the distance is |z_j(x)| / ||dz_j/dx||: that from x to the hyperplane on which the
    unit would switch if the network stayed linear, as it does until the nearest boundary of the layers below
    (Balestriero & Baraniuk 2022 call the boundaries of a layer folded hyperplanes). Statistics of batch norms are those
    of the probe batch, and constants; norms of single images count with their slope. ``distance``: median over images
    and units; ``nearest``: median over images of the smallest distance among the units of the layer, and without a
    layer among the units of all layers. A unit that is constant near an image has no boundary there.

    Inputs are compared as the network gets them, so arms with the same data have the same unit.

    Options:
        units: of each layer, evenly spaced (positions of maps are units); each costs a backward pass.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, units: Positive) -> None:
        super().__init__()
        self.units = units
        require_activations("boundaries", model, images)

    def measure(self, moment: Moment) -> Values:
        """The distances of each layer, and the nearest of all."""
        model = moment.model.eval()
        if moving_norms(model):
            write_precise(model, Split(moment.images, moment.labels), len(moment.images))
        x = moment.images.detach().clone().requires_grad_()
        with recording(model) as seen:
            answers(model, x)
        measured: Values = {}
        nearest = x.new_full((len(x),), math.inf)
        for layer, z in seen.before.items():
            distance_UP = self._distances(z, x)
            near_P = distance_UP.amin(0)
            nearest = torch.minimum(nearest, near_P)
            measured[f"distance/{layer}"] = distance_UP.median().item()
            measured[f"nearest/{layer}"] = near_P.median().item()
        return {**measured, "nearest": nearest.median().item()}

    def _distances(self, z: Tensor, x: Tensor) -> Tensor:
        """|z_j| / ||dz_j/dx|| of some units and all images, [U, P]."""
        z_PU = z.flatten(1)
        found = []
        for unit in spread(z_PU.shape[1], self.units):
            (slope,) = torch.autograd.grad(z_PU[:, unit].sum(), x, retain_graph=True)
            found.append(z_PU[:, unit].detach().abs() / slope.flatten(1).norm(dim=1))
        return torch.stack(found).nan_to_num(math.inf, posinf=math.inf)
