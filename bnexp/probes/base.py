"""The common base of all probes: registry, base class, the step to measure, and the signals in a model's layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from bnexp.config.registry import Registry
from bnexp.models import ACTIVATIONS
from bnexp.models.layers import Layer, layers

PROBES = Registry("probes")

# A histogram has at most so many numbers.
HISTOGRAM = 2000

# What is wrong with a model that calls functions such as F.relu.
UNSEEN = (
    "no activation of this model can be seen; each must be a module that it calls, as Units.act() makes it "
    f"({', '.join(f'nn.{kind.__name__}' for kind in ACTIVATIONS.values())})"
)

# Quantity, or quantity/layer -> a number (a curve), or a 1-D tensor (a histogram).
Values = dict[str, float | Tensor]


@dataclass(frozen=True)
class Moment:
    """One optimizer step of one member, in the parameters' own precision.

    The caller undoes any change that a probe makes to ``model``; even so, probes should change weights only by ``at``.

    Attributes:
        model: in training mode, with the parameters and buffers from before the step.
        step: the number of the step, from 1.
        x_B: the step's inputs, (B, ...).
        y_B: the step's labels, [B].
        images: the fixed probe batch of training images, (P, ...).
        labels: its labels, [P].
        before: parameter name -> copy of its value before the step.
        after: parameter name -> copy of its value after the optimizer's step.
        gradient: parameter name -> copy of its gradient in the step, before clipping, averaged over the whole batch. In
            fp16 it can overflow: it is then not finite, and the step is left out, so that ``after`` is ``before``.
        lr: the step's learning rate.
        label_smoothing: of the loss that is trained.
    """

    model: nn.Module
    step: int
    x_B: Tensor
    y_B: Tensor
    images: Tensor
    labels: Tensor
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    gradient: Mapping[str, Tensor]
    lr: float
    label_smoothing: float = 0.0

    @contextmanager
    def at(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Set these weights of the model, in place, inside the with block; all other weights keep their values."""
        parameters = dict(self.model.named_parameters())
        kept = {name: parameters[name].detach().clone() for name in weights}
        _write(parameters, weights)
        try:
            yield
        finally:
            _write(parameters, kept)

    def logits(self, x: Tensor) -> Tensor:
        """The model's logits [B, K] at its present weights, differentiable.

        Every call starts from the same buffers: running statistics and dropout masks are the step's own, and no call
        changes them.
        """
        return answers(self.model, x)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss that is trained: the mean cross-entropy (nats, a scalar) at the present weights, differentiable."""
        return F.cross_entropy(self.logits(x), y, label_smoothing=self.label_smoothing)


def answers(model: nn.Module, x: Tensor) -> Tensor:
    """The model's output for x at its present weights, differentiable; the buffers do not change."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    y: Tensor = functional_call(model, buffers, (x,))
    return y


@torch.no_grad()
def _write(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        parameters[name].copy_(weight)


class Probe(ABC):
    """Measures one member at some steps of its training.

    Attributes:
        slots: the probe's memory between its steps, saved with checkpoints. Shapes never change; values that are not
            known yet are nan. Most probes have no slots.
        left_out: what the probe cannot show of its model, and why; a sentence each, told before the training.
    """

    def __init__(self) -> None:
        self.slots: dict[str, Tensor] = {}
        self.left_out: list[str] = []

    @abstractmethod
    def measure(self, moment: Moment) -> Values:
        """The measurements of this step: the same keys at every step, ``quantity`` or ``quantity/layer``."""


@dataclass
class Signals:
    """The tensors that passed through each layer, by its name; part of the autograd graph, unless gradients are off.

    If a layer is used several times, the last use counts. A layer without an activation after it, such as the head, has
    only an input.

    Attributes:
        inputs: the inputs of the linear map, (B, ...).
        before: the pre-activation: the input of the activation after the linear map.
        after: the output of this activation.
        activations: the module of this activation.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    activations: dict[str, nn.Module] = field(default_factory=dict)


@contextmanager
def recording(model: nn.Module) -> Iterator[Signals]:
    """Record the signals of every layer in the forward passes inside the with block.

    Only modules are seen. In here, an activation that works in place leaves its input unchanged, so that it can be
    recorded. An activation belongs to the linear map that ran last before it. In torchvision's residual nets the
    activation after a sum therefore belongs to the last map of the branch, or to the map of the shortcut where there is
    one.
    """
    signals, names = Signals(), {layer.linear: name for name, layer in layers(model).items()}
    waiting: list[str] = []  # the layer whose activation has not run yet

    def enter(linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        waiting[:] = [names[linear]]
        signals.inputs[names[linear]] = inputs[0]

    def leave(activation: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if waiting:
            name = waiting.pop()
            signals.before[name], signals.after[name] = inputs[0], output
            signals.activations[name] = activation

    activations: list[Any] = [module for module in model.modules() if isinstance(module, tuple(ACTIVATIONS.values()))]
    with ExitStack() as undo:
        for linear in names:
            undo.callback(linear.register_forward_pre_hook(enter).remove)
        for activation in activations:
            undo.callback(activation.register_forward_hook(leave).remove)
            if getattr(activation, "inplace", False):
                undo.callback(setattr, activation, "inplace", True)
                activation.inplace = False
        yield signals


@torch.no_grad()
def signals(model: nn.Module, x: Tensor) -> Signals:
    """The signals of the layers when the model computes x; the model does not change."""
    with recording(model) as recorded:
        answers(model, x)
    return recorded


def require_layers(probe: str, model: nn.Module) -> dict[str, Layer]:
    """The layers of a model that has some.

    Raises:
        ValueError: it has none.
    """
    found = layers(model)
    if not found:
        kinds = "nn.Linear, nn.Conv1d or nn.Conv2d"
        raise ValueError(f"probes=[{probe}]: this model has no layer that can be seen; its weights must be in {kinds}")
    return found


def require_activations(probe: str, model: nn.Module, images: Tensor) -> Signals:
    """What passes through a model whose activations can be seen.

    Raises:
        ValueError: none of them can.
    """
    require_layers(probe, model)
    seen = signals(model, images)
    if not seen.after:
        raise ValueError(f"probes=[{probe}]: {UNSEEN}")
    return seen


def l2_norm(x: Tensor) -> Tensor:
    """The length of all numbers of x in float64: in float32, the squares of gradients below 1e-22 are 0."""
    length: Tensor = torch.linalg.vector_norm(x, dtype=torch.float64)
    return length


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of some tensors in a row."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def sample(x: Tensor, most: int = HISTOGRAM) -> Tensor:
    """At most ``most`` of all numbers of a tensor, evenly spaced, in a row: enough for a histogram."""
    return by_unit(x.flatten()[:, None], most)[0]


def by_unit(x: Tensor, most: int | None = None) -> Tensor:
    """(B, C, ...) as [U, N]: the values of each channel, at most ``most`` per channel, evenly spaced."""
    values_UN = x.detach().transpose(0, 1).flatten(1)
    if most is None:
        return values_UN
    step, positions = -(-values_UN.shape[1] // most), x[0, 0].numel()
    while gcd(step, positions) > 1:  # a common factor would pick the same few positions of every image
        step += 1
    return values_UN[:, ::step]
