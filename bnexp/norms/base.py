"""What all norms share: the registry, the base class with gain and bias, and the count of values behind a statistic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from bnexp.config.capabilities import Capabilities
from bnexp.config.registry import Builder, Registry


class NormRegistry(Registry):
    """The builders of norms, each with a record of what its norm can do.

    Builders are called with the channel count. As context they may take ``branch``, a ``Branch`` or None, and
    ``steps``, the batches that the model sees in the whole training.
    """

    def __init__(self) -> None:
        super().__init__("norm", context=("branch", "steps"))
        self._capabilities: dict[Callable[..., Any], Capabilities] = {}

    def register(self, name: str, capabilities: Capabilities | None = None) -> Callable[[Builder], Builder]:
        """Decorate the builder of ``name``; without a record its norm counts as one of the ordinary kind.

        ``bnexp list`` reads the call from the source: what stands in it must be literal.
        """
        add = super().register(name)

        def add_both(builder: Builder) -> Builder:
            added = add(builder)
            self._capabilities[added] = capabilities or Capabilities()
            return added

        return add_both

    def capabilities(self, name: str) -> Capabilities:
        """What a norm can do.

        Raises:
            ValueError: nothing has that name.
        """
        return self._capabilities[self[name]]


NORMS = NormRegistry()


@dataclass(frozen=True)
class Branch:
    """Where in a residual net a norm stands; norms that depend on it have a keyword-only parameter ``branch``.

    Attributes:
        count: residual branches of the net.
        depth: linear maps of each branch.
        last: the norm is behind the last linear map of its branch.
    """

    count: int
    depth: int
    last: bool


class Norm(nn.Module):
    """A layer y = gain * x_hat + bias between a linear map and its activation, or behind the activation.

    Channels are axis 1 of inputs (B, C), (B, C, L) or (B, C, H, W); ``gain`` and ``bias`` are one number a channel,
    1 and 0 at first. Subclasses define ``forward``. Buffers must be updated in place: members of a population share
    one storage.

    Attributes:
        channels: C.
        gain: [C] or None.
        bias: [C] or None.
        carrier: the linear map that the bias was given to, if it was.
        closes_branch: the norm is the last layer of a residual branch.
        zero_head: the model's head starts at zero.
        skipped: the norm is undefined for the rank of its last input, and let this input pass unnormalized.
        given: the config gives gain or bias, so that ``adjust`` leaves them alone.
        recurrent: the norm (or its gain and bias) has an input at every time step, so that no rule can take the first
            input for all.
    """

    zero_head: ClassVar[bool] = False

    carrier: nn.Module | None = None
    closes_branch = False
    skipped = False
    given = False
    recurrent = False

    def __init__(self, channels: int, *, affine: bool, gain: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.gain = nn.Parameter(torch.ones(channels)) if affine and gain else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def attach(self, linear: nn.Module) -> None:
        """Tie the norm to the linear map before it. Norms of weights and of a map's input define this; most do not."""

    def give_bias(self, linear: nn.Module) -> None:
        """Leave the bias to the linear map before the norm, where that is the same function (``bias_in_linear``)."""
        linear.register_parameter("bias", self.bias)
        self.bias = None
        vars(self)["carrier"] = linear  # no child of the norm

    @property
    def shift(self) -> nn.Parameter | None:
        """The norm's bias, where it is kept: here, or in the linear map that it was given to."""
        return self.bias if self.carrier is None else self.carrier.bias  # type: ignore[return-value]

    def adjust(self, x: Tensor) -> Tensor | None:
        """Set what the norm's own rule takes from its first input, (B, C, ...); most have none.

        Returns:
            What the input would have been, where the rule sets something in the linear map; else None.
        """

    def activated(self, x: Tensor, activation: nn.Module) -> Tensor:
        """``activation(self(x))``, (B, C, ...); norms that can compute both at once do so."""
        y: Tensor = activation(self(x))
        return y

    def scaled(self, x_hat: Tensor) -> Tensor:
        """Compute gain * x_hat + bias, (B, C, ...); a missing gain counts as 1, a missing bias as 0."""
        scaled = x_hat if self.gain is None else per_channel(self.gain, x_hat) * x_hat
        return scaled if self.bias is None else scaled + per_channel(self.bias, x_hat)

    def restore(self, x: Tensor) -> None:
        """Set gain and bias so that the layer answers its first input, (B, C, ...), with that input.

        Norms whose ``Capabilities`` say ``restorable`` define it; for others it is never called.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The channel count, for print(model)."""
        return f"{self.channels}"


def is_watched(module: nn.Module) -> bool:
    """Whether somebody looks at what a module gets or returns, so that it has to be called."""
    kinds = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    return any(getattr(module, f"_{kind}") or getattr(hooks, f"_global_{kind}") for kind in kinds)


def require_norm(name: str, layer: object) -> Norm:
    """Return the layer that a builder has made, if it is a norm.

    Raises:
        ValueError: it is none, or cannot be called; the message says what it lacks.
    """
    kind = type(layer).__name__
    begin = "call super().__init__(channels, affine=True)"
    if not isinstance(layer, Norm):
        lacking = [each for each in ("attach", "give_bias", "adjust", "scaled") if not hasattr(layer, each)]
        remedy = f"derive its class from bnexp.norms.Norm, and {begin}"
        raise ValueError(f"norm={name}: its builder returns a {kind}, which lacks {', '.join(lacking)}; {remedy}")
    if "_parameters" not in vars(layer):
        raise ValueError(f"norm={name}: the __init__ of {kind} does not {begin}")
    if type(layer).forward is nn.Module.forward:
        raise ValueError(f"norm={name}: {kind} lacks forward(self, x), which answers x (B, C, ...) with the same shape")
    return layer


class Scaled(Norm):
    """y = gain * x + bias, for norms whose normalizing is done elsewhere, or not at all."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift x, (B, C, ...)."""
        return self.scaled(x)


def values_per_statistic(x: Tensor, *axes: int) -> int:
    """How many numbers of ``x`` one mean over ``axes`` pools."""
    return math.prod(x.shape[axis] for axis in axes)


def require_spread(
    x: Tensor, values: int, *, norm: str, per: str, advice: str, why: str = "whose variance is 0"
) -> None:
    """Refuse a statistic over a single value.

    The variance of one value is 0, and the layer would answer its bias without a word. A norm that does not centre
    would leave the sign of the value alone; it says so by ``why``. Only shapes are read, so that the check never waits
    for the device.

    Raises:
        ValueError: ``values`` is below 2.
    """
    if values < 2:
        shape = list(x.shape)
        raise ValueError(f"norm={norm}: an input of shape {shape} gives one value per {per}, {why}; {advice}")


def per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """View a tensor [C] or [B, C] so that it broadcasts along the first axes of ``x``, (B, C, ...)."""
    return parameter if x.ndim == 2 else parameter.view(*parameter.shape, *[1] * (x.ndim - 2))
