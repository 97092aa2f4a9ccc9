"""Probes of the activations of each layer, on the fixed probe batch, in training mode.

Legend: U units of a layer (features, or channels of maps); N values of a unit (images, times positions of maps); z is
the pre-activation, the input of the nonlinearity, and h its output; L is the mean cross-entropy of the probe batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnexp.config.checks import Positive
from bnexp.probes.base import (
    PROBES,
    Moment,
    Probe,
    Values,
    by_unit,
    l2_norm,
    recording,
    require_activations,
    sample,
    signals,
)

_LEVELS = {"q15": 0.15, "q50": 0.5, "q85": 0.85}


@PROBES.register("quantiles")
class Quantiles(Probe):
    """Quantiles 0.15, 0.5 and 0.85 of each unit's z over the probe batch, and how far they drift.

    With q_p(j, t) of unit j at step t, t0 the first step measured, IQR = q_85 - q_15, and max over the steps so far::

        drift_med        = mean_j max_t |q_50(j, t) - q_50(j, t0)|
        drift_iqr        = mean_j max_t |log(IQR(j, t) / IQR(j, t0))|
        drift_normalized = drift_med / mean_{j, t} IQR(j, t)
        jitter           = mean_{j, t > t0} |q_50(j, t) - q_50(j, t-)| / mean_{j, t} IQR(j, t)

    where t- is the measurement before t. A drift holds the trend of a training, and ``jitter`` what changes from one
    measurement to the next, ``every`` steps later; it has no value at t0.

    ``q15``, ``q50`` and ``q85`` are means over the units. ``unit_q15`` and so on are the quantiles of one unit, the
    one whose median had moved by the median distance (the lower of two in the middle) at the second measurement. A
    ratio with an IQR of 0 is left out.

    Ioffe & Szegedy 2015, fig. 1 (b, c).

    Options:
        values: the most values used per unit; if there are more (in maps), an evenly spaced part of them is used.
        histogram: the most values in the histogram of a layer.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, values: Positive, histogram: Positive) -> None:
        super().__init__()
        self.values, self.histogram = values, histogram
        for layer, z in require_activations("quantiles", model, images).before.items():
            units = z.shape[1]
            self.slots[f"{layer}.first"] = z.new_full((3, units), math.nan)  # quantiles at t0
            self.slots[f"{layer}.moved"] = z.new_zeros(2, units)  # running maxima: of the median, of log IQR
            self.slots[f"{layer}.spread"] = z.new_zeros(2)  # the sum over t of mean_j IQR, and the number of t
            self.slots[f"{layer}.median"] = z.new_full((units,), math.nan)  # at the measurement before
            self.slots[f"{layer}.jumps"] = z.new_zeros(2)  # the sum of mean_j of its changes; their number
            self.slots[f"{layer}.unit"] = torch.zeros((), dtype=torch.int64, device=z.device)

    def measure(self, moment: Moment) -> Values:
        """The quantiles, drifts, and a histogram of z; from the second measurement on also those of one unit."""
        measured: Values = {}
        for layer, z in signals(moment.model, moment.images).before.items():
            values_UN = by_unit(z, self.values)
            now_3U = values_UN.quantile(values_UN.new_tensor(list(_LEVELS.values())), dim=1)
            found = self._drifts(layer, now_3U) | self._jitter(layer, now_3U) | self._levels(layer, now_3U)
            found["z"] = sample(values_UN, self.histogram)
            measured |= {f"{quantity}/{layer}": value for quantity, value in found.items()}
        return measured

    def _drifts(self, layer: str, now_3U: Tensor) -> Values:
        first_3U, moved_2U, spread_2 = (self.slots[f"{layer}.{name}"] for name in ("first", "moved", "spread"))
        first_3U.copy_(torch.where(first_3U.isnan(), now_3U, first_3U))
        iqr_U = now_3U[2] - now_3U[0]
        ratio_U = (iqr_U / (first_3U[2] - first_3U[0])).log().abs()
        ratio_U.masked_fill_(ratio_U.isinf() | ratio_U.isnan(), 0)
        moved_2U.copy_(torch.maximum(moved_2U, torch.stack([(now_3U[1] - first_3U[1]).abs(), ratio_U])))
        spread_2.add_(torch.stack([iqr_U.mean(), torch.ones_like(spread_2[1])]))
        (median, ratio), (spread, count) = moved_2U.mean(1).tolist(), spread_2.tolist()
        normalized = median * count / spread if spread else math.nan
        return {"drift_med": median, "drift_iqr": ratio, "drift_normalized": normalized}

    def _jitter(self, layer: str, now_3U: Tensor) -> Values:
        """Divides by the spread of ``_drifts``, this measurement's included."""
        before_U, jumps_2, spread_2 = (self.slots[f"{layer}.{name}"] for name in ("median", "jumps", "spread"))
        jump = (now_3U[1] - before_U).abs().mean()
        if not before_U.isnan().all():
            jumps_2.add_(torch.stack([jump, torch.ones_like(jump)]))
        before_U.copy_(now_3U[1])
        (total, jumps), (spread, count) = jumps_2.tolist(), spread_2.tolist()
        return {"jitter": (total / jumps) / (spread / count) if spread else math.nan} if jumps else {}

    def _levels(self, layer: str, now_3U: Tensor) -> Values:
        found: Values = dict(zip(_LEVELS, now_3U.mean(1).tolist(), strict=True))
        count = self.slots[f"{layer}.spread"][1]
        if count == 2:
            self.slots[f"{layer}.unit"].copy_(self.slots[f"{layer}.moved"][0].median(0).indices)
        if count >= 2:
            unit = now_3U[:, self.slots[f"{layer}.unit"]].tolist()
            found |= {f"unit_{name}": value for name, value in zip(_LEVELS, unit, strict=True)}
        return found


# Bounded activations: (centre, distance from it beyond which a value is saturated: s < 0.05 or > 0.95; |tanh| > 0.9).
_BOUNDED = {nn.Sigmoid: (0.5, 0.45), nn.Tanh: (0.0, 0.9)}
# A unit whose output has a variance over N below this is constant.
_CONSTANT = 1e-8


@PROBES.register("saturation")
class Saturation(Probe):
    """The share of units, or of their outputs h, that carry no signal; and the slope of the activation.

    ``saturated``: share of h < 0.05 or > 0.95 (sigmoid), |h| > 0.9 (tanh). ``zeros``: share of h = 0, and ``dead``:
    share of units with h = 0 on the whole probe batch (ReLU). ``constant``: share of units with a variance of h below
    1e-8. ``gain``: mean of phi'(z)^2, by which the activation multiplies the variance of a gradient. ``h`` is a
    histogram.

    After Glorot & Bengio 2010, sec. 3; the gain is the chi of Poole et al. 2016 without the weights.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        require_activations("saturation", model, images)

    def measure(self, moment: Moment) -> Values:
        """The shares and the gain of each layer, and a histogram of h."""
        measured: Values = {}
        recorded = signals(moment.model, moment.images)
        for layer, activation in recorded.activations.items():
            found: Values = {**silence(activation, by_unit(recorded.after[layer])), "h": sample(recorded.after[layer])}
            found["gain"] = gain(activation, recorded.before[layer])
            measured |= {f"{quantity}/{layer}": value for quantity, value in found.items()}
        return measured


def silence(activation: nn.Module, h_UN: Tensor) -> dict[str, float]:
    """The shares of an activation's outputs [U, N] that carry no signal."""
    shares = {"constant": h_UN.var(1, correction=0) < _CONSTANT}
    for kind, (centre, most) in _BOUNDED.items():
        if isinstance(activation, kind):
            shares["saturated"] = (h_UN - centre).abs() > most
    if isinstance(activation, nn.ReLU):
        shares |= {"zeros": h_UN == 0, "dead": (h_UN == 0).all(1)}
    return {name: share.double().mean().item() for name, share in shares.items()}


def gain(activation: nn.Module, z: Tensor) -> float:
    """Mean of phi'(z)^2 of an elementwise activation."""
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(activation(z.clone()).sum(), z)  # a copy: it may work in place
    return slope.square().mean().item()


@PROBES.register("signal")
class Signal(Probe):
    """How a signal changes on its way through the layers, forward and backward.

    ``mean`` and ``rms`` of all h of a layer; ``cosine``: mean over pairs of different images of the cosine of their h;
    ``growth``: ||dL/dh_l||^2 / ||dL/dh_{l+1}||^2, by which the gradient grows on its way back to layer l, and without a
    layer the geometric mean of these.

    In a plain net of ReLU layers of equal width with batch norm, at its initial weights, the growth is pi / (pi - 1) in
    the limit of width and batch size (Yang et al. 2019), and the cosine converges to a fixed value.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        require_activations("signal", model, images)

    def measure(self, moment: Moment) -> Values:
        """Mean, rms and cosine of each layer with an activation; growth of each of these except the last."""
        with recording(moment.model) as recorded:
            loss = moment.loss(moment.images, moment.labels)
        layers, h = list(recorded.after), list(recorded.after.values())
        gradients = torch.autograd.grad(loss, h, materialize_grads=True)
        squares = [l2_norm(gradient).item() ** 2 for gradient in gradients]
        growths = [_ratio(squares[i], squares[i + 1]) for i in range(len(h) - 1)]
        measured: Values = {f"growth/{layer}": growth for layer, growth in zip(layers, growths, strict=False)}
        if growths:
            measured["growth"] = _ratio(squares[0], squares[-1]) ** (1 / len(growths))
        for layer, h_BC in zip(layers, h, strict=True):
            found = {"mean": h_BC.mean(), "rms": h_BC.square().mean().sqrt(), "cosine": mean_cosine(h_BC.flatten(1))}
            measured |= {f"{quantity}/{layer}": value.item() for quantity, value in found.items()}
        return measured


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def mean_cosine(h_BC: Tensor) -> Tensor:
    """Mean over i != j of cos(h_i, h_j), a scalar: (||sum_i u_i||^2 - sum_i ||u_i||^2) / (B (B - 1)), u = h / ||h||."""
    u_BC = F.normalize(h_BC.detach().double(), dim=1)
    images = len(u_BC)
    return (u_BC.sum(0).square().sum() - u_BC.square().sum()) / (images * (images - 1))
