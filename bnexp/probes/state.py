"""Probes of layers: covariances of inputs, norms and ways of weights, and the error of running statistics."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnexp.config.checks import Positive
from bnexp.data import Split
from bnexp.models.layers import keeps_variances, layers, moving_norms, stored_weight
from bnexp.probes.base import PROBES, Moment, Probe, Values, by_unit, require_layers, signals
from bnexp.probes.invariance import weight_names
from bnexp.training.losses import accuracy, hits
from bnexp.training.statistics import batch_statistics, write_precise

# Eigenvalues below this share of the largest one count as rounding errors.
_SUPPORT = 1e-6
# A covariance needs more than this many samples per variable.
_SAMPLES = 4


@PROBES.register("covariance")
class Covariance(Probe):
    """How far the inputs x of each linear map are from white, with C = Cov(x) over the probe batch.

    Variables are the features of vectors and the channels of maps; positions of maps count as samples. With the
    eigenvalues l of C above 1e-6 of the largest::

        condition      = max(l) / min(l)
        rank           = the number of these l
        effective_rank = exp(-sum(p log p)), p = l / sum(l)                    (Roy & Vetterli 2007)
        correlation    = mean over i != j of |C_ij| / sqrt(C_ii C_jj), over variables that are not constant

    ``eigenvalues`` is a histogram of the log10 of these l. Computed in float64. A layer with at most 4 samples per
    variable is left out.

    Options:
        samples: the most samples used; if there are more (in maps), an evenly spaced part of them is used.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, samples: Positive) -> None:
        super().__init__()
        self.samples = samples
        require_layers("covariance", model)
        for layer, x in signals(model, images).inputs.items():
            units, count = by_unit(x, samples).shape
            if count <= _SAMPLES * units:
                needed = f"more than {_SAMPLES * units} needed for {units} inputs"
                self.left_out.append(f"{count} samples of layer {layer} are too few ({needed}), left out")

    def measure(self, moment: Moment) -> Values:
        """Condition number, rank, effective rank and correlation of each layer's inputs."""
        measured: Values = {}
        for layer, x in signals(moment.model, moment.images).inputs.items():
            x_UN = by_unit(x, self.samples)
            if x_UN.shape[1] > _SAMPLES * len(x_UN):
                measured |= {f"{quantity}/{layer}": value for quantity, value in whiteness(x_UN).items()}
        return measured


def whiteness(x_UN: Tensor) -> Values:
    """What ``covariance`` measures of U variables with N samples, [U, N]."""
    centred = x_UN.double() - x_UN.double().mean(1, keepdim=True)
    covariance = centred @ centred.T / x_UN.shape[1]
    unknown: Values = dict.fromkeys(("condition", "rank", "effective_rank", "correlation"), math.nan)
    unknown["eigenvalues"] = x_UN.new_empty(0)
    if not torch.isfinite(covariance).all():
        return unknown
    values = torch.linalg.eigvalsh(covariance)
    values = values[values > _SUPPORT * values[-1]]
    if len(values) == 0:  # all variables are constant
        return {**unknown, "rank": 0.0}
    p = values / values.sum()
    return {
        "condition": (values[-1] / values[0]).item(),
        "rank": float(len(values)),
        "effective_rank": (-(p * p.log()).sum()).exp().item(),
        "correlation": _mean_correlation(covariance),
        "eigenvalues": values.log10(),
    }


def _mean_correlation(covariance: Tensor) -> float:
    varying = covariance.diagonal() > 0
    covariance = covariance[varying][:, varying]
    sd, count = covariance.diagonal().sqrt(), len(covariance)
    if count < 2:
        return math.nan
    correlation = (covariance / sd / sd[:, None]).abs()
    return ((correlation.sum() - correlation.trace()) / (count * (count - 1))).item()


@PROBES.register("weight_norms")
class WeightNorms(Probe):
    """Sizes of the weights: ``weight``, the norm of a layer's whole weight; ``row``, the median norm of its rows.

    A row holds the weights of one output unit, which a norm after the map makes scale-invariant (van Laarhoven 2017).
    With a norm of weights, the stored weight is measured. ``gain`` is the median of the absolute gains of the norm, if
    it has gains. The norms of the rows are also recorded as a histogram. A median of an even number of values is the
    mean of the two middle ones.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        require_layers("weight_norms", model)

    def measure(self, moment: Moment) -> Values:
        """The sizes of each layer's weight and gains."""
        measured: Values = {}
        for name, layer in layers(moment.model).items():
            rows_U = stored_weight(layer.linear).detach().flatten(1).norm(dim=1)
            found: Values = {"weight": rows_U.norm().item(), "row": rows_U.quantile(0.5).item(), "rows": rows_U}
            if layer.norm is not None and layer.norm.gain is not None:
                found["gain"] = layer.norm.gain.detach().abs().quantile(0.5).item()
            measured |= {f"{quantity}/{name}": value for quantity, value in found.items()}
        return measured


@PROBES.register("convergence")
class Convergence(Probe):
    """How near each layer already was, at a marked step m, to the weights that it has now, at step t > m.

    ``left`` = ||W_m - W_t|| / ||W_0 - W_t||, with the (stored) weights W_0 before the first step: the share of the
    distance from W_0 to W_t that was left at m. At the last step these are the final weights: layers with a smaller
    share converged earlier (Chen, Yuille & Zhou 2023 compare layers by their distance to the final weights). Up to m it
    is 1; nan where the weights have not moved. It has no value at the first step. Keeps two copies of all weights.

    Options:
        mark: m is the first measured step from this one on.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, mark: Positive) -> None:
        super().__init__()
        self.mark, self.weights = mark, weight_names(require_layers("convergence", model))
        parameters = dict(model.named_parameters())
        self.slots["marked"] = torch.tensor(False, device=images.device)
        for name, weight in self.weights.items():
            self.slots[f"{name}.start"] = torch.full_like(parameters[weight], math.nan)
            self.slots[f"{name}.mark"] = torch.full_like(parameters[weight], math.nan)

    def measure(self, moment: Moment) -> Values:
        """The share of each layer."""
        reached = moment.step >= self.mark and not self.slots["marked"]
        measured: Values = {}
        for name, weight in self.weights.items():
            start, mark, now = self.slots[f"{name}.start"], self.slots[f"{name}.mark"], moment.before[weight]
            if moment.step == 1:
                start.copy_(now)
                mark.copy_(now)
            else:
                measured[f"left/{name}"] = ((mark - now).norm() / (start - now).norm()).item()
            if reached:
                mark.copy_(now)
        self.slots["marked"].fill_(moment.step >= self.mark)
        return measured


@PROBES.register("eval_mismatch")
class EvalMismatch(Probe):
    """How much evaluation differs from training for batch norms: three kinds of statistics under the same weights.

    ``accuracy/running``, ``accuracy/precise`` and ``accuracy/batch`` on the probe batch (see ``evaluation``), in
    batches of the step's size, which at the end of an epoch is the smaller rest (without ``drop_last``). With the
    precise statistics mu, var of channel j, and sigma = sqrt(var), per layer::

        mean = mean_j |running_mean_j - mu_j| / sigma_j
        var  = mean_j |log(running_var_j / var_j)|

    ``means`` and ``vars`` are histograms of the same errors of all channels. Constant channels are left out. A norm
    that uses only the mean or only the variance has only this error. Norms that whiten have only the accuracies. Norms
    that keep no batch statistics, or are frozen, have none of these curves. Wu & Johnson 2021, sec. 3, on the lag of
    running averages.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()

    @torch.no_grad()
    def measure(self, moment: Moment) -> Values:
        """The accuracies, and the errors of each norm's running statistics."""
        model, norms = moment.model, moving_norms(moment.model)
        if not norms:
            return {}
        model.eval()
        size = min(len(moment.x_B), len(moment.images))
        found: Values = {"accuracy/running": _accuracy(moment, size)}
        with batch_statistics(model):
            found["accuracy/batch"] = _accuracy(moment, size)
        plain = [norm for norm in norms if keeps_variances(norm)]
        running = {norm: (norm.running_mean.clone(), norm.running_var.clone()) for norm in plain}
        write_precise(model, Split(moment.images, moment.labels), size)
        found["accuracy/precise"] = _accuracy(moment, size)
        for path, norm in model.named_modules():
            if norm in running:
                errors = _errors(*running[norm], norm.running_mean, norm.running_var)
                for quantity in norm.used:
                    found[f"{quantity}/{path.removesuffix('.norm')}"] = errors[quantity].mean().item()
                    found[f"{quantity}s/{path.removesuffix('.norm')}"] = errors[quantity]
        return found


def _accuracy(moment: Moment, size: int) -> float:
    """Accuracy on full batches only, so that all batch statistics are equally noisy."""
    full = len(moment.images) // size * size
    logits_BK = torch.cat([moment.logits(x_B) for x_B in torch.split(moment.images[:full], size)])
    labels_B = moment.labels[:full]
    right = hits(logits_BK[None], labels_B).double()
    return accuracy(right, F.cross_entropy(logits_BK, labels_B)[None], full).item()


def _errors(running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor) -> dict[str, Tensor]:
    """The errors of each channel that varies."""
    varies = var > 0
    shift = ((running_mean - mean).abs() / var.sqrt())[varies]
    return {"mean": shift, "var": (running_var / var).log().abs()[varies]}
