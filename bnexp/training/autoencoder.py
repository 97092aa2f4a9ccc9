"""Pre-training on unlabelled images: each hidden layer, one after another, learns to reconstruct its input."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnexp.config.checks import Fraction, Positive, PositiveFloat
from bnexp.data import Split
from bnexp.models import Unit
from bnexp.models.dropout import Dropout
from bnexp.models.init import INITS, Init, xavier
from bnexp.randomness import generator
from bnexp.training.optim import SGD
from bnexp.training.population import Population

log = logging.getLogger(__name__)


class Autoencoder(nn.Module):
    """a = W^T h + c, with h the output of a fully connected unit for input x, and W the unit's weight (tied weights).

    The reconstruction is a itself if x are images, and sigmoid(a) if x are outputs of sigmoid units. Its error is
    -log p(x | a): |x - a|^2 / 2 for a normal distribution, or the cross-entropy (Vincent et al. 2010, sec. 2.2).

    Attributes:
        of_images: True if x are images.
    """

    def __init__(self, unit: Unit, *, of_images: bool) -> None:
        super().__init__()
        assert isinstance(unit.linear, nn.Linear)
        self.unit, self.linear = unit, unit.linear
        self.of_images = of_images
        self.shift = nn.Parameter(self.linear.weight.new_zeros(self.linear.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """The decoder's output a, (B, F), for inputs x, (B, F)."""
        return F.linear(self.unit(x), self.linear.weight.T, self.shift)

    def error(self, a: Tensor, x: Tensor) -> Tensor:
        """The reconstruction error, summed over features and averaged over the batch."""
        if self.of_images:
            return F.mse_loss(a, x, reduction="sum") / (2 * len(x))
        return F.binary_cross_entropy_with_logits(a, x, reduction="sum") / len(x)


@INITS.register("autoencoder")
def autoencoder(
    *, gain: PositiveFloat, epochs: Positive, lr: PositiveFloat, momentum: Fraction, batch_size: Positive
) -> Init:
    """Xavier, then greedy pre-training of each hidden layer as an autoencoder (Bengio et al. 2007, sec. 3.1).

    From the first layer to the last, a unit (linear map, norm, sigmoid) learns by SGD on the training images, without
    their labels, to reconstruct the output of earlier layers (``Autoencoder``). The head keeps its Xavier weights.
    Then all layers are trained as usual. This made deep networks of sigmoid units trainable (Hinton & Salakhutdinov
    2006; Erhan et al. 2010). It needs a fully connected network: model=mlp, activation=sigmoid, placement=before.

    Options:
        gain: gain of the Xavier weights.
        epochs: passes over the training images for each layer.
        lr: learning rate of the pre-training.
        momentum: momentum of the pre-training.
        batch_size: images per step of the pre-training.

    Raises:
        ValueError: (before the first step) the model is not a fully connected network of sigmoid units; the
            pre-training of a layer diverges.
    """
    draw = xavier(distribution="uniform", gain=gain).draw
    trained = partial(pretrain, epochs=epochs, lr=lr, momentum=momentum, batch_size=batch_size)
    return Init(draw, pretrain=trained, require=_units)


def pretrain(
    model: nn.Module, train: Split, seed: int, *, epochs: int, lr: float, momentum: float, batch_size: int
) -> None:
    """Train the hidden layers of a model one by one, each on the outputs of the trained layers before it.

    The result is a function of the model's weights, the images and the seed. Dropout is left out. The buffers of norms
    are unchanged afterwards.

    Raises:
        ValueError: the model is not a fully connected network of sigmoid units; a layer diverges.
    """
    units = _units(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for depth, (name, unit) in enumerate(units):
        below = [unit for _, unit in units[:depth]]
        population = Population([Autoencoder(unit, of_images=depth == 0)])
        sgd = SGD(population, population.mask_P(()), lr=lr, momentum=momentum, nesterov=False, weight_decay=0.0)
        errors = []
        for epoch in range(epochs):
            order = torch.randperm(len(train), generator=generator(seed, "pretrain", name, epoch))
            batches = _batches(train, order, batch_size)
            errors.append(torch.stack([_step(population, sgd, _answer(below, x_B)) for x_B in batches]).mean())
        _require_finite(population, errors, f"init.lr={lr:g}: the pre-training of {name} diverges; use a smaller rate")
        log.info("init=autoencoder: the error of %s goes from %.4g to %.4g", name, errors[0], errors[-1])
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])


def _require_finite(population: Population, errors: Sequence[Tensor], message: str) -> None:
    if not all(bool(numbers.isfinite().all()) for numbers in (*errors, population.theta_MP)):
        raise ValueError(message)


def _units(model: nn.Module) -> list[tuple[str, Unit]]:
    """The hidden layers with their names, from the first to the last.

    Raises:
        ValueError: the model has a layer that is not fully connected, or units that are not sigmoid units.
    """
    units = []
    for name, layer in model.named_children():
        if isinstance(layer, Unit) and isinstance(layer.linear, nn.Linear):
            units.append((name, layer))
        elif not isinstance(layer, nn.Flatten | nn.Linear | Dropout):
            raise ValueError(f"init=autoencoder: {name} is not a fully connected layer; use model=mlp")
    if any(unit.after or not isinstance(unit.activation, nn.Sigmoid) for _, unit in units):
        raise ValueError("init=autoencoder: needs sigmoid units; use activation=sigmoid placement=before")
    return units


def _batches(train: Split, order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Full batches; the images left over at the end are not used in this epoch."""
    full = max(len(order) // batch_size, 1) * batch_size
    places = order[:full].to(train.x.device).split(batch_size)  # type: ignore[no-untyped-call]
    return (train.batch(at)[0][0] for at in places)


@torch.no_grad()
def _answer(below: Sequence[nn.Module], x_B: Tensor) -> Tensor:
    """The output of the already trained layers for a batch of images."""
    return nn.Sequential(nn.Flatten(), *below)(x_B)  # type: ignore[no-any-return]


def _step(population: Population, sgd: SGD, x_BF: Tensor) -> Tensor:
    """Train an autoencoder for one step; returns its error before the step."""
    (autoencoder,) = population.members
    assert isinstance(autoencoder, Autoencoder)
    error = autoencoder.error(population(x_BF.unsqueeze(0))[0], x_BF)
    population.gradient_MP.zero_()
    error.backward()  # type: ignore[no-untyped-call]
    sgd.step(torch.ones_like(error))
    return error.detach()
