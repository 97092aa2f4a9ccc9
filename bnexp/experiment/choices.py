"""A config's choices, checked: the builder that each group names, with its options, and the objects it builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from bnexp.config.registry import Bound
from bnexp.config.schema import TrainConfig
from bnexp.data import Data
from bnexp.evaluations import Wanted, wanted
from bnexp.models import MODELS, Units
from bnexp.models.affine import AFFINES
from bnexp.models.init import INITS
from bnexp.models.layers import head_parameters, norm_parameters
from bnexp.norms import NORMS
from bnexp.probes.observer import Watch, watches
from bnexp.training.autoencoder import autoencoder as autoencoder  # importing it registers the init
from bnexp.training.optim import OPTIMS, Optimizer, optimizer, units_clipped
from bnexp.training.population import Population
from bnexp.training.schedule import SCHEDULES
from bnexp.training.trainable import frozen_MP


@dataclass(frozen=True)
class Choices:
    """The checked choices of a config: builders with their options, the probes and the evaluations."""

    model: Bound
    norm: Bound
    affine: Bound
    init: Bound
    optim: Bound
    schedule: Bound
    probes: Sequence[Watch]
    evaluations: Sequence[Wanted]


def bind(config: TrainConfig) -> Choices:
    """Check all groups of a config except the data.

    Raises:
        ValueError: an unknown name or option, a wrong type, or a value out of range.
    """
    registries = {
        **{"model": MODELS, "norm": NORMS, "affine": AFFINES, "init": INITS},
        **{"optim": OPTIMS, "schedule": SCHEDULES},
    }
    bound = {group: registry.bind(getattr(config, group)) for group, registry in registries.items()}
    choices = Choices(**bound, probes=watches(config.probes), evaluations=wanted(config.evaluations))
    if config.init_from is None and choices.affine().restore:
        _require_restorable(choices.norm.name)
    return choices


def _require_restorable(norm: str) -> None:
    """Refuse ``affine=identity`` for a norm that no gain and bias can turn into the identity."""
    if not NORMS.capabilities(norm).restorable:
        allowed = ", ".join(name for name in NORMS if NORMS.capabilities(name).restorable)
        raise ValueError(f"affine=identity: no gain and bias make norm={norm} the identity (allowed norms: {allowed})")


def blank_model(config: TrainConfig, choices: Choices, data: Data, steps: int) -> nn.Module:
    """The model that a config names, for a training of ``steps`` steps; its weights are not initialized yet."""
    units = Units(choices.norm, config.activation, config.placement, steps * config.accumulate)
    model: nn.Module = choices.model(data.shape, data.classes, units)
    return model


def build_optimizer(configs: Sequence[TrainConfig], choices: Sequence[Choices], population: Population) -> Optimizer:
    """The optimizer of the parameters that the config trains, which clips gradients and averages weights if asked to.

    Raises:
        ValueError: the model has no parameters of the kind that ``trainable`` names.
    """
    config, norms = configs[0], norm_parameters(population.members[0])
    built = optimizer([choice.optim for choice in choices], population)
    frozen = frozen_MP(config.trainable, population, norms, [each.seed for each in configs])
    if frozen is not None:
        built.freeze(frozen)
    built.clip_grad = config.clip_grad
    if config.clip_adaptive is not None:
        head = frozenset(head_parameters(population.members[0]))
        built.clip_units = partial(units_clipped, population, config.clip_adaptive, head)
    if config.ema_weights is not None:
        built.average(config.ema_weights)
    return built
