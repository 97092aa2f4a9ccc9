"""The unit that every model is made of: linear map -> norm -> activation."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from bnexp.config.registry import Bound, Registry
from bnexp.norms import NORMS, Branch, Norm
from bnexp.norms.base import require_norm

MODELS = Registry("model")

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


class Unit(nn.Module):
    """y = activation(norm(linear(x))), or norm(activation(linear(x))) where the norm is placed after."""

    def __init__(self, linear: nn.Module, norm: Norm, activation: nn.Module, *, after: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = norm
        self.activation = activation
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """Apply linear map, norm and activation to x."""
        z = self.linear(x)
        y: Tensor = self.norm(self.activation(z)) if self.after else self.norm.activated(z, self.activation)
        return y


@dataclass(frozen=True)
class Units:
    """Makes the units of a model, by the config's norm, activation and placement.

    Attributes:
        norm: a builder of ``NORMS`` with its options.
        activation: a key of ``ACTIVATIONS``.
        placement: the norm stands ``before`` (Ioffe & Szegedy 2015, sec. 3.2) or ``after`` the activation.
        steps: batches that the model sees in the whole training, for norms with a schedule.
    """

    norm: Bound
    activation: str
    placement: str
    steps: int = 1

    @property
    def bias(self) -> bool:
        """Whether linear maps are made with a bias: not before a norm, which shifts by itself or gives its own."""
        return self.placement == "after"

    def act(self) -> nn.Module:
        """A fresh activation layer."""
        return ACTIVATIONS[self.activation]()

    def layer(self, channels: int, branch: Branch | None = None) -> Norm:
        """A fresh norm.

        Raises:
            ValueError: the builder of the config's norm makes something else.
        """
        norm = require_norm(self.norm.name, self.norm(channels, branch=branch, steps=self.steps))
        norm.closes_branch = branch is not None and branch.last
        return norm

    def behind(
        self, linear: nn.Module, channels: int, branch: Branch | None = None, *, gives_bias: bool = True
    ) -> Norm:
        """A fresh norm, tied to the linear map that it stands behind.

        A norm that does not normalize activations gives its bias to the map, unless the map is to stay without one.

        Raises:
            ValueError: the norm acts on the linear map itself, and is asked for behind the activation.
        """
        norm = self.layer(channels, branch)
        if self.placement == "after" and type(norm).attach is not Norm.attach:
            raise ValueError(
                "placement=after: this norm acts on the weights or inputs of its linear map (allowed: before)"
            )
        norm.attach(linear)
        if gives_bias and self.placement == "before" and NORMS.capabilities(self.norm.name).bias_in_linear:
            norm.give_bias(linear)
        return norm

    def _unit(self, linear: nn.Module, channels: int, branch: Branch | None) -> Unit:
        return Unit(linear, self.behind(linear, channels, branch), self.act(), after=self.placement == "after")

    def linear(self, n_in: int, n_out: int, *, branch: Branch | None = None) -> Unit:
        """A fully connected unit, (B, n_in) -> (B, n_out)."""
        return self._unit(nn.Linear(n_in, n_out, bias=self.bias), n_out, branch)

    def conv(
        self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, padding: int = 0, branch: Branch | None = None
    ) -> Unit:
        """A convolutional unit, (B, c_in, H, W) -> (B, c_out, H', W')."""
        conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=padding, bias=self.bias)
        return self._unit(conv, c_out, branch)

    def refuse_after(self, model: str) -> None:
        """Refuse ``placement=after``: the sums of residual nets determine the place of their norms.

        Raises:
            ValueError: the norm is asked for behind the activation.
        """
        if self.placement == "after":
            raise ValueError(f"placement=after: model={model} adds its blocks before the activation (allowed: before)")


def image_shape(model: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of a sample.

    Raises:
        ValueError: the samples are vectors.
    """
    if len(shape) != 3:
        raise ValueError(f"model={model}: needs images (C, H, W), the data are vectors {shape}; use model=mlp")
    return shape


def named(**layers: nn.Module) -> nn.Sequential:
    """Layers one after another, under names that messages and curves can show."""
    return nn.Sequential(OrderedDict(layers))
