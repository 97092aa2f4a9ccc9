"""Initial weights. A layer's draw depends on the seed, its name and its shape only.

So two arms with equal seeds start from identical weights in every layer that they share, whatever else differs between
them. Some rules, for weights and for norms, also look at the first batch: ``adjust`` passes it through the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from bnexp.config.checks import NonNegative, Positive, PositiveFloat
from bnexp.config.registry import Registry
from bnexp.data import Split
from bnexp.models.layers import Linear, stored_weight
from bnexp.norms import Norm
from bnexp.randomness import generator

INITS = Registry("init")
Distribution = Literal["uniform", "normal"]


@dataclass(frozen=True)
class Init:
    """A rule for the weights of a layer.

    Attributes:
        draw: fills a layer from a source of random numbers.
        adjust: adjusts a drawn layer to its first input; None for rules that look at no data.
        pretrain: trains a drawn model on images without their labels, by a seed; None for rules that do not train.
        require: raises a ValueError for a model to which the rule does not apply.
    """

    draw: Callable[[Linear, torch.Generator], None]
    adjust: Callable[[Linear, Tensor], None] | None = None
    pretrain: Callable[[nn.Module, Split, int], None] | None = None
    require: Callable[[nn.Module], object] | None = None


def initialize(model: nn.Module, init: Init, seed: int) -> None:
    """Draw the weights and biases of every Linear and Conv layer anew; norms keep their gains, and biases of their own.

    A norm may scale the weights of its own map, by the map's ``initial_scale``. A norm with ``zero_head`` sets the
    weights of the head, the last map, to zero.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear)}
    scales = {name: vars(layer).get("initial_scale", 1.0) for name, layer in layers.items()}
    if any(norm.zero_head for norm in model.modules() if isinstance(norm, Norm)):
        scales[list(layers)[-1]] = 0.0
    with torch.no_grad():
        for name, layer in layers.items():
            init.draw(layer, generator(seed, "init", name))
            for parameter in (stored_weight(layer), layer.bias):
                if parameter is not None and scales[name] != 1:
                    parameter.mul_(scales[name])


@torch.no_grad()
def adjust(model: nn.Module, init: Init, x_B: Tensor, *, restore: bool) -> None:
    """Adjust weights, gains and biases to the first batch, layer by layer: each sees what adjusted layers answer.

    Args:
        model: in training mode; buffers keep their values, except those that a rule sets.
        init: the rule of the weights.
        x_B: inputs, (B, ...).
        restore: use ``Norm.restore`` in place of the norms' own rules: each norm answers this batch with its input.

    Raises:
        ValueError: a rule cannot be followed here.
    """
    _refuse_recurrent(model, init, restore)
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    rules = {layer: _rule(layer, init, restore) for layer in model.modules()}
    hooks = [_at_first_input(layer, rule, buffers) for layer, rule in rules.items() if rule is not None]
    if not hooks:
        return
    model(x_B)
    for buffer, kept in buffers.items():
        buffer.copy_(kept)
    for hook in hooks:
        hook.remove()


def _refuse_recurrent(model: nn.Module, init: Init, restore: bool) -> None:
    """Refuse rules for the first input in recurrent networks; norms refuse their own rules themselves."""
    if not any(norm.recurrent for norm in model.modules() if isinstance(norm, Norm)):
        return
    why = "sets layers by their first input, and a recurrent one has an input a time step"
    if init.adjust is not None:
        raise ValueError(f"init: this rule {why}; use another one, such as kaiming")
    if restore:
        raise ValueError(f"affine=identity: {why}; use affine=usual")


def _at_first_input(
    layer: nn.Module, rule: Callable[[Any, Tensor], Tensor | None], buffers: dict[Tensor, Tensor]
) -> RemovableHandle:
    """Have a rule look at a layer's first input, and at no later one: rules and recurrent nets call layers again.

    What it sets in the layer's buffers is noted in ``buffers``; a tensor that it returns takes the place of the input.
    """

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        hook.remove()
        corrected = rule(layer, *inputs)
        buffers.update({buffer: buffer.clone() for buffer in layer.buffers(recurse=False)})
        return corrected

    hook = layer.register_forward_pre_hook(look)
    return hook


def _rule(layer: nn.Module, init: Init, restore: bool) -> Callable[[Any, Tensor], Tensor | None] | None:
    """What adjusts a layer to its first input, if anything does."""
    if isinstance(layer, Linear):
        return init.adjust
    if not isinstance(layer, Norm):
        return None
    if restore:
        return type(layer).restore
    return type(layer).adjust if type(layer).adjust is not Norm.adjust else None


def fan_in(weight: Tensor) -> int:
    """Inputs of one output unit: in_features, or channels of a group times the kernel's area."""
    return weight[0].numel()


def _scaled(fill: Callable[[Tensor, torch.Generator], object], gain: float) -> Init:
    """Weights from ``fill`` times ``gain``, biases 0."""

    def init(layer: Linear, source: torch.Generator) -> None:
        weight = stored_weight(layer)
        fill(weight, source)
        weight.mul_(gain)
        if layer.bias is not None:
            layer.bias.zero_()

    return Init(init)


@INITS.register("torch")
def torch_default(*, gain: PositiveFloat) -> Init:
    """PyTorch's default: weights and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)), std 1/sqrt(3 fan_in).

    In a recurrent network the width of the hidden state takes the place of fan_in, also for the map of the inputs, as
    in ``nn.RNN``. Layers in front of a norm of activations have no bias; behind all others it is drawn, torchvision's
    convolutions excepted, which have none.
    """

    def init(layer: Linear, source: torch.Generator) -> None:
        weight = stored_weight(layer)
        bound = vars(layer).get("default_fan_in", fan_in(weight)) ** -0.5
        weight.uniform_(-bound, bound, generator=source).mul_(gain)
        if layer.bias is not None:
            layer.bias.uniform_(-bound, bound, generator=source)

    return Init(init)


@INITS.register("xavier")
def xavier(*, distribution: Distribution, gain: PositiveFloat) -> Init:
    """Variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010, eqs. 12 and 16)."""
    fill = nn.init.xavier_uniform_ if distribution == "uniform" else nn.init.xavier_normal_
    return _scaled(lambda weight, source: fill(weight, generator=source), gain)


@INITS.register("kaiming")
def kaiming(*, distribution: Distribution, mode: Literal["fan_in", "fan_out"], gain: PositiveFloat) -> Init:
    """Variance 2 / fan_in, or 2 / fan_out (He et al. 2015, eqs. 10 and 14)."""
    fill = nn.init.kaiming_uniform_ if distribution == "uniform" else nn.init.kaiming_normal_
    return _scaled(lambda weight, source: fill(weight, mode=mode, nonlinearity="relu", generator=source), gain)


@INITS.register("lecun")
def lecun(*, gain: PositiveFloat) -> Init:
    """N(0, 1 / fan_in) (LeCun et al. 1998, Efficient BackProp, eq. 16)."""
    return _scaled(lambda weight, source: weight.normal_(0, fan_in(weight) ** -0.5, generator=source), gain)


@INITS.register("normal")
def normal(*, std: NonNegative, gain: PositiveFloat) -> Init:
    """N(0, std^2), the same for every layer."""
    return _scaled(lambda weight, source: weight.normal_(0, std, generator=source), gain)


@INITS.register("orthogonal")
def orthogonal(*, gain: PositiveFloat) -> Init:
    """Rows (or columns) orthonormal (Saxe et al. 2014, sec. 3); a kernel is flattened to out x rest."""
    return _scaled(lambda weight, source: nn.init.orthogonal_(weight, generator=source), gain)


@INITS.register("lsuv")
def lsuv(*, tolerance: PositiveFloat, iterations: Positive) -> Init:
    """Orthogonal, then each layer divided by the sd of its outputs on the first batch (Mishkin & Matas 2016, alg. 1).

    Options:
        tolerance: how far from 1 the outputs' variance may be when a layer is done.
        iterations: the largest number of divisions of a layer; without a bias one is enough.

    Raises:
        ValueError: (when the first batch is there) the norm normalizes or scales the weights itself.
    """

    def divide(layer: Linear, x: Tensor) -> None:
        if parametrize.is_parametrized(layer, "weight") or "initial_scale" in vars(layer):
            raise ValueError("init=lsuv: this norm sets the size of the weights itself; use another init")
        for _ in range(iterations):
            variance = layer(x).var(correction=0)
            if abs(variance - 1) < tolerance or variance == 0:  # waits for the device, before training
                return
            stored_weight(layer).div_(variance.sqrt())

    return Init(_scaled(lambda weight, source: nn.init.orthogonal_(weight, generator=source), 1.0).draw, divide)


@INITS.register("kaiming_misquoted")
def kaiming_misquoted(*, gain: PositiveFloat) -> Init:
    """N(0, (2 / sqrt(fan_in))^2): He et al. 2015 as a widely read note misquotes it; the sd is sqrt(2) times too large.

    The rule is here to show what this slip does: activations grow by sqrt(2) a layer. ``kaiming`` is the right rule.
    """
    return _scaled(lambda weight, source: weight.normal_(0, 2 * fan_in(weight) ** -0.5, generator=source), gain)


@INITS.register("constant")
def constant(*, value: float) -> Init:
    """Every weight is the same number: all units of a layer are alike and stay alike."""
    return _scaled(lambda weight, source: weight.fill_(value), 1.0)


@INITS.register("zero")
def zero() -> Init:
    """All weights are zero: all units of a layer are alike and stay alike."""
    return _scaled(lambda weight, source: weight.zero_(), 1.0)
