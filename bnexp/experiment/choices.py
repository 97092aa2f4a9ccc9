"""A config's choices, checked: which builder each group names, and with which options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnexp.config.registry import Bound
from bnexp.config.schema import TrainConfig
from bnexp.models import MODELS
from bnexp.models.affine import AFFINES
from bnexp.models.init import INITS
from bnexp.norms import NORMS
from bnexp.probes.observer import Watch, watches
from bnexp.training.autoencoder import autoencoder as autoencoder  # registers itself
from bnexp.training.optim import OPTIMS
from bnexp.training.schedule import SCHEDULES


@dataclass(frozen=True)
class Choices:
    """The checked choices of a config: builders with their options, and the probes."""

    model: Bound
    norm: Bound
    affine: Bound
    init: Bound
    optim: Bound
    schedule: Bound
    probes: Sequence[Watch]


def bind(config: TrainConfig) -> Choices:
    """Check all groups of a config but the data.

    Raises:
        ValueError: an unknown name or option, a wrong type, a value out of range.
    """
    registries = {
        **{"model": MODELS, "norm": NORMS, "affine": AFFINES, "init": INITS},
        **{"optim": OPTIMS, "schedule": SCHEDULES},
    }
    bound = {group: registry.bind(getattr(config, group)) for group, registry in registries.items()}
    choices = Choices(**bound, probes=watches(config.probes))
    if config.init_from is None and choices.affine().restore:
        _require_restorable(choices.norm.name)
    return choices


def _require_restorable(norm: str) -> None:
    """Refuse ``affine=identity`` where no gain and bias give the input back."""
    if not NORMS.capabilities(norm).restorable:
        allowed = ", ".join(name for name in NORMS if NORMS.capabilities(name).restorable)
        raise ValueError(f"affine=identity: no gain and bias make norm={norm} the identity (allowed norms: {allowed})")
