"""What holds without statistics: checks of exact statements, computed in float64 on the layers that all runs use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bnexp.config.registry import Registry
from bnexp.models.init import INITS, Init
from bnexp.norms import NORMS, Norm
from bnexp.randomness import generator

EXACT = Registry("exact")
# Smaller than any variance here, so that batch norm is scale invariant to rounding.
_TINY = 1e-30


class Row(NamedTuple):
    """A number that was measured, and what it has to be within a tolerance."""

    name: str
    measured: float
    expected: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether it is what it has to be."""
        return abs(self.measured - self.expected) <= self.tolerance


def check(name: str) -> list[Row]:
    """The rows of one exact check.

    Raises:
        ValueError: there is none of that name.
    """
    rows: list[Row] = EXACT[name]()
    return rows


def _normal(*shape: int, of: str) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "exact", of), dtype=torch.float64)


def _bn(channels: int, eps: float = 1e-5) -> Norm:
    norm: Norm = NORMS["bn"](channels, eps=eps, momentum=1.0, affine=True).double()
    return norm


@EXACT.register("effective_lr")
def effective_lr() -> list[Row]:
    """Weights before batch norm: (w, lr, wd) and (a w, a^2 lr, wd / a^2) train alike (van Laarhoven 2017, sec. 3).

    And ``<w, grad> = 0``, ``grad(a w) = grad(w) / a``, both by scale invariance.
    """
    scale = 3.0
    losses, first, along = _train_scaled(1.0)
    losses_scaled, first_scaled, along_scaled = _train_scaled(scale)
    apart = max(abs(a - b) for a, b in zip(losses, losses_scaled, strict=True))
    return [
        Row("largest difference of 200 losses, weights times 3", apart, 0.0, 1e-8),
        Row("largest |cos(w, gradient)|", max(along, along_scaled), 0.0, 1e-8),
        Row("norm of the gradient at 3 w, times 3, over that at w", scale * first_scaled / first, 1.0, 1e-8),
    ]


def _train_scaled(scale: float) -> tuple[list[float], float, float]:
    """Losses of 200 steps, norm of the first gradient, largest |cos(w, gradient)|."""
    weights = _weights(scale)
    lr, decay = 0.1 * scale**2, 0.01 / scale**2
    losses, first, along = [], 0.0, 0.0
    for _ in range(200):
        loss, gradients = _loss(weights, _inputs(), _labels())
        losses.append(loss)
        first = first or math.hypot(*(g.norm().item() for g in gradients))
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                along = max(along, abs(F.cosine_similarity(w.flatten(), g.flatten(), dim=0).item()))
                w -= lr * (g + decay * w)
    return losses, first, along


def _weights(scale: float = 1.0) -> list[Tensor]:
    """The weights of two layers of 16 units, each of which has a batch norm behind it."""
    return [(_normal(16, n, of=f"w{n}") * scale).requires_grad_() for n in (10, 16)]


def _inputs() -> Tensor:
    return _normal(64, 10, of="x")


def _labels() -> Tensor:
    return torch.arange(64) % 4


def _loss(weights: Sequence[Tensor], x: Tensor, y: Tensor) -> tuple[float, Sequence[Tensor]]:
    """The loss of a ReLU network with these weights, batch norms behind them and a fixed head; and its gradients."""
    h = x
    for weight in weights:
        h = torch.relu(_bn(16, _TINY)(h @ weight.T))
    loss = F.cross_entropy(h @ (_normal(4, 16, of="head") / 4).T, y)
    return loss.item(), torch.autograd.grad(loss, list(weights))


@EXACT.register("exponential_rate")
def exponential_rate() -> list[Row]:
    """A constant rate with decay trains as a growing rate without decay (Li & Arora 2020).

    With rate lr, decay wd and momentum m, let a be the larger root of ``a^2 - (1 + m - lr wd) a + m = 0``; without
    momentum that is ``1 - lr wd``. Weights before batch norm, which start alike, stay ``w_t = a^t v_t`` with::

        w_{t+1} - w_t = m (w_t - w_{t-1}) - lr (dloss/dw_t + wd w_t),                         w_{-1} = w_0
        v_{t+1} - v_t = (m / a^2) (v_t - v_{t-1}) - lr a^{-2t-1} dloss/dv_t,                  v_{-1} = a v_0

    so that both have the same losses.
    """
    return [row for momentum in (0.0, 0.9) for row in _equivalence(momentum)]


def _equivalence(momentum: float, lr: float = 0.1, decay: float = 0.02) -> list[Row]:
    middle = (1 + momentum - lr * decay) / 2
    a = middle + math.sqrt(middle**2 - momentum)
    constant, w = _train([lr] * _STEPS, momentum, decay=decay)
    growing, v = _train([lr * a ** (-2 * step - 1) for step in range(_STEPS)], momentum / a**2, before=a)
    told = f"momentum {momentum:g}"
    return [
        Row(f"largest difference of {_STEPS} losses, {told}", _apart(constant, growing), 0.0, 1e-8),
        Row(f"largest |w / a^{_STEPS} - v| over |v|, {told}", _apart(w / a**_STEPS, v) / _largest([v]), 0.0, 1e-8),
    ]


_STEPS = 200


def _train(
    rates: Sequence[float], momentum: float, *, decay: float = 0.0, before: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The losses of as many steps as there are rates, and the last weights in a row.

    Args:
        rates: of each step.
        momentum: the share of the last change of the weights that is added to the next one.
        decay: weight decay.
        before: the weights one step before the first, over the first ones.
    """
    weights, losses = _weights(), []
    changes = [w.detach() * (1 - before) for w in weights]
    for lr in rates:
        loss, gradients = _loss(weights, _inputs(), _labels())
        losses.append(loss)
        with torch.no_grad():
            for w, g, change in zip(weights, gradients, changes, strict=True):
                change.mul_(momentum).sub_(lr * (g + decay * w))
                w += change
    return torch.tensor(losses, dtype=torch.float64), torch.cat([w.detach().flatten() for w in weights])


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@EXACT.register("rotation")
def rotation() -> list[Row]:
    """Steps with decay end up turning the weights of a unit by ``sqrt(2 lr wd)`` (Wan et al. 2021, Kosson et al. 2024).

    Before batch norm the gradient is orthogonal to the weights w of a unit, so that a step from w to w' turns it by an
    angle with ``cos(angle) = (1 - lr wd) |w| / |w'|``. Once |w| neither grows nor shrinks in the mean, the mean of log
    cos(angle) is log(1 - lr wd), whatever the gradients are. Here they are of batches with random labels; the mean is
    over 300 steps and all units, the tolerance 5 %. The size of w forgets where it started: mean squares 81 apart come
    within 20 %.
    """
    expected = math.sqrt(2 * _ROTATION_LR * _ROTATION_DECAY)
    short, long = _turned(1 / 3), _turned(3.0)
    return [
        Row("angle of a step after 900 steps, from weights / 3", short[0], expected, 0.05 * expected),
        Row("angle of a step after 900 steps, from weights times 3", long[0], expected, 0.05 * expected),
        Row("mean square of the weights, from weights / 3 over from weights times 3", short[1] / long[1], 1.0, 0.2),
    ]


_ROTATION_LR, _ROTATION_DECAY = 0.5, 0.02


def _turned(scale: float) -> tuple[float, float]:
    """The root mean square angle of steps 901 to 1200, and the mean square of the weights there."""
    weights, squares, sizes = _weights(scale), [], []
    for step in range(1200):
        x, y = _normal(64, 10, of=f"x {step}"), torch.randint(4, (64,), generator=generator(0, "exact", f"y {step}"))
        _, gradients = _loss(weights, x, y)
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                old = w.clone()
                w -= _ROTATION_LR * (g + _ROTATION_DECAY * w)
                squares.append(F.cosine_similarity(old, w, dim=1).acos().square().mean())
                sizes.append(w.square().mean())
    last = -300 * len(weights)
    return math.sqrt(torch.stack(squares[last:]).mean()), float(torch.stack(sizes[last:]).mean())


@EXACT.register("bias_growth")
def bias_growth() -> list[Row]:
    """A bias before a mean that the gradient ignores grows for ever (Ioffe & Szegedy 2015, sec. 2).

    ``x = u + b``, ``x_hat = x - mean(x)``, ``loss = mean((x_hat - 1)^2) / 2``. With the mean taken as a constant
    ``dloss/db = -1``: b grows by the learning rate at every step and the loss stays. In full ``dloss/db = 0``.
    """
    bias, losses, _ = _train_bias(detach=True)
    kept, _, slope = _train_bias(detach=False)
    return [
        Row("b after 200 steps at rate 0.1, mean taken as constant", bias, 20.0, 1e-8),
        Row("change of the loss over these steps", max(losses) - min(losses), 0.0, 1e-8),
        Row("b after 200 steps, full gradient", kept, 0.0, 1e-8),
        Row("largest |dloss/db|, full gradient", slope, 0.0, 1e-8),
    ]


def _train_bias(*, detach: bool) -> tuple[float, list[float], float]:
    """The bias after 200 steps of rate 0.1, the losses, and the largest |gradient|."""
    u, b = _normal(64, of="u"), torch.zeros((), dtype=torch.float64, requires_grad=True)
    losses, steepest = [], 0.0
    for _ in range(200):
        x = u + b
        mean = x.mean()
        loss = ((x - (mean.detach() if detach else mean) - 1) ** 2).mean() / 2
        (gradient,) = torch.autograd.grad(loss, b)
        losses.append(loss.item())
        steepest = max(steepest, abs(gradient.item()))
        with torch.no_grad():
            b -= 0.1 * gradient
    return b.item(), losses, steepest


@EXACT.register("identity_restoration")
def identity_restoration() -> list[Row]:
    """Batch norm with gain = sqrt(var + eps) and bias = mean gives back its input (Ioffe & Szegedy 2015, sec. 3).

    gain = var does not, although it is sometimes written so: on the example below it is wrong by
    ``(var - sqrt(var + eps)) max |x_hat|``.
    """
    x, mean, var, eps = _example(), torch.tensor([7.5, 11.5, 15.5]).double(), torch.full((3,), 37.25).double(), 1e-5
    largest = 7.5 / math.sqrt(37.25 + eps)
    return [
        Row("largest |y - x|, gain = sqrt(var + eps)", _error(x, (var + eps).sqrt(), mean), 0.0, 1e-10),
        Row("largest |y - x|, gain = var", _error(x, var, mean), (37.25 - math.sqrt(37.25 + eps)) * largest, 1e-10),
    ]


def _example() -> Tensor:
    """0 to 23 as two samples of three channels of 2 x 2."""
    return torch.arange(24, dtype=torch.float64).reshape(2, 3, 2, 2)


@torch.no_grad()
def _error(x: Tensor, gain: Tensor, bias: Tensor) -> float:
    norm = _bn(3)
    assert norm.gain is not None
    assert norm.bias is not None
    norm.gain.copy_(gain)
    norm.bias.copy_(bias)
    return float((norm(x) - x).abs().max())


@EXACT.register("worked_example")
def worked_example() -> list[Row]:
    """Batch norm of 0 to 23 as two samples of three channels of 2 x 2, by hand: statistics over 8 values a channel."""
    norm = _bn(3)
    y = norm(_example())
    running = norm.get_buffer("running_mean")
    means = [Row(f"mean of channel {c}", running[c].item(), 7.5 + 4 * c, 1e-10) for c in range(3)]
    unbiased = norm.get_buffer("running_var")[0].item()
    by_hand = (-1.22884772, -1.06500135, -0.90115499, -0.73730863)
    return [
        *means,
        Row("unbiased variance, which the running statistics keep", unbiased, 298 / 7, 1e-10),
        Row("biased variance, by which is divided", unbiased * 7 / 8, 37.25, 1e-10),
        *(Row(f"normalized {i}", y[0, 0].flatten()[i].item(), by_hand[i], 1e-8) for i in range(4)),
    ]


@EXACT.register("zero_init_symmetry")
def zero_init_symmetry() -> list[Row]:
    """Hidden units that start alike stay alike (Goodfellow et al. 2016, sec. 8.4); zero weights get no gradient.

    With ReLU and zero weights the hidden answers are 0, and so is the gradient of all weights: they stay 0.
    """
    units, steepest, largest = _hidden(INITS["zero"]())
    random = INITS["kaiming"](distribution="normal", mode="fan_in", gain=1.0)
    return [
        Row("largest gradient of a weight at the first step, zero weights", steepest, 0.0, 0.0),
        Row("largest weight after 300 steps, zero weights", largest, 0.0, 0.0),
        Row("distinct hidden units after 300 steps, zero weights", units, 1, 0),
        Row("distinct hidden units after 300 steps, equal weights", _hidden(INITS["constant"](value=0.1))[0], 1, 0),
        Row("distinct hidden units after 300 steps, random weights", _hidden(random)[0], _UNITS, 0),
    ]


_UNITS = 32


def _hidden(init: Init) -> tuple[int, float, float]:
    """Distinct hidden units after 300 steps at rate 0.1, the largest first gradient of a weight, the largest weight."""
    layers = [nn.Linear(20, _UNITS).double(), nn.Linear(_UNITS, 4).double()]
    for number, layer in enumerate(layers):
        nn.init.zeros_(layer.bias)
        with torch.no_grad():
            init.draw(layer, generator(0, "exact", "layer", str(number)))
    x, y = _normal(64, 20, of="x"), torch.arange(64) % 4
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    firsts = []
    for _ in range(300):
        loss = F.cross_entropy(layers[1](torch.relu(layers[0](x))), y)
        gradients = torch.autograd.grad(loss, parameters)
        firsts.append(_largest(gradient for gradient in gradients if gradient.ndim == 2))
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(0.1 * gradient)
    # Rows that are equal on paper may differ in the last bits, by the order of sums.
    units = len(torch.unique(parameters[0].detach().mul(1e9).round(), dim=0))
    return units, firsts[0], _largest(layer.weight.detach() for layer in layers)


def _largest(tensors: Iterable[Tensor]) -> float:
    return max(float(tensor.abs().max()) for tensor in tensors)


@EXACT.register("mean_field_growth")
def mean_field_growth() -> list[Row]:
    """Plain ReLU networks with batch norm: |dloss/dh|^2 grows by pi / (pi - 1) a layer towards the input.

    For wide layers and large batches (Yang et al. 2019); here width 512 and batch 256, over 20 layers, as the geometric
    mean of four networks, each of which is within 0.5 %.
    """
    growth = math.prod(_growth(network, width=512, depth=20) for network in range(4)) ** (1 / 4)
    expected = math.pi / (math.pi - 1)
    return [Row("growth of the squared gradient a layer", growth, expected, 0.01 * expected)]


def _growth(network: int, *, width: int, depth: int) -> float:
    """The factor by which the squared gradient grows a layer, in one network."""
    h, layers = _normal(256, width, of=f"x {network}").requires_grad_(), []
    for number in range(depth + 2):
        layers.append(h)
        w = _normal(width, width, of=f"w{number} {network}") / math.sqrt(width)
        h = torch.relu(_bn(width, _TINY)(h @ w.T))
    loss = (h * _normal(256, width, of=f"loss {network}")).sum()
    squares = [float((g**2).sum()) for g in torch.autograd.grad(loss, layers)]
    # The layers next to the input and to the loss are not typical.
    return float((squares[1] / squares[depth + 1]) ** (1 / depth))


@EXACT.register("init_rms")
def init_rms() -> list[Row]:
    """log10 of the signal's root mean square behind 30 layers of width 250, for each rule of initial weights.

    On paper ``(n var(w) c)^15`` with c = 1 for linear layers and 1/2 for ReLU (He et al. 2015, eq. 9). The mean is over
    16 networks, so that the logarithm has an sd of 0.035 for ReLU; 3 % more variance of the weights are 0.19 more.
    """
    n, depth = 250, 30
    rules: list[tuple[str, Init, float]] = [
        ("lecun", INITS["lecun"](gain=1.0), 1 / n),
        ("kaiming", INITS["kaiming"](distribution="normal", mode="fan_in", gain=1.0), 2 / n),
        ("torch", INITS["torch"](gain=1.0), 1 / (3 * n)),
        ("2/sqrt(n), a misquoted Kaiming", INITS["normal"](std=2 / math.sqrt(n), gain=1.0), 4 / n),
    ]
    return [
        Row(f"{name}, {kind}", math.log10(square) / 2, depth / 2 * math.log10(n * variance * kept), tolerance)
        for name, init, variance in rules
        for (kind, kept, tolerance), square in zip(
            (("linear", 1.0, 0.05), ("ReLU", 0.5, 0.09)), _mean_squares(init, n, depth), strict=True
        )
    ]


def _mean_squares(init: Init, n: int, depth: int, networks: int = 16) -> list[float]:
    """The mean square behind linear layers, and behind the same ones with ReLU."""
    squares = torch.stack([_squares(init, n, depth, network) for network in range(networks)])
    means: list[float] = squares.mean(0).tolist()
    return means


@torch.no_grad()
def _squares(init: Init, n: int, depth: int, network: int) -> Tensor:
    """The two mean squares of one network."""
    linear, layer = _normal(64, n, of=f"x {network}"), nn.Linear(n, n, bias=False).double()
    relu = linear
    for number in range(depth):
        init.draw(layer, generator(0, "exact", "depth", str(number), str(network)))
        linear, relu = layer(linear), torch.relu(layer(relu))
    return torch.stack([linear.square().mean(), relu.square().mean()])


@EXACT.register("gradient_cost")
def gradient_cost() -> list[Row]:
    """What the gradient through the statistics of batch norm adds to a layer: counted operations, no seconds.

    A linear map of 100 units and batch norm, 60 images, forward and backward. A matrix product counts 2 operations for
    each pair of numbers that it multiplies; any other operation of torch one for each number of its largest tensor.
    """
    convention = {"eps": 1e-5, "momentum": 0.1, "affine": True}
    exact = _operations({"name": "bn_scratch", "convention": "torch", "variance": "unbiased", **convention})
    constant = _operations({"name": "detached_bn", "detach": "both", **convention})
    return [
        Row("operations with the exact gradient, over those with statistics as constants", exact / constant, 1.0, 0.05)
    ]


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that run in its with block; see ``gradient_cost``."""

    count: int = 0

    def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        answer = operation(*given, **keywords)
        products = flop_registry.get(operation.overloadpacket)
        if products is not None:
            self.count += int(products(*given, **keywords, out_val=answer))
        elif not operation.is_view:
            tensors = [leaf for leaf in tree_leaves((given, keywords, answer)) if isinstance(leaf, Tensor)]
            self.count += max((tensor.numel() for tensor in tensors), default=0)
        return answer


def _operations(norm: dict[str, Any], units: int = 100, images: int = 60) -> int:
    """The operations of a linear map and a norm, forward and backward."""
    linear, layer = nn.Linear(units, units, bias=False).double(), NORMS.bind(norm)(units).double()
    x, dy = _normal(images, units, of="x").requires_grad_(), _normal(images, units, of="dy")
    operations = _Operations()  # type: ignore[no-untyped-call]
    with operations:
        torch.autograd.backward(layer(linear(x)), dy)
    return operations.count
