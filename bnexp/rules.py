"""A config's choices, checked: which builder each group names, and with which options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnexp.affine import AFFINES
from bnexp.config import TrainConfig
from bnexp.inits import INITS
from bnexp.models import MODELS
from bnexp.norms import NORMS
from bnexp.observing import Watch, watches
from bnexp.optim import OPTIMS
from bnexp.pretraining import autoencoder as autoencoder  # registers itself
from bnexp.registry import Bound
from bnexp.schedule import SCHEDULES


@dataclass(frozen=True)
class Rules:
    """The checked choices of a config: builders with their options, and the probes."""

    model: Bound
    norm: Bound
    affine: Bound
    init: Bound
    optim: Bound
    schedule: Bound
    probes: Sequence[Watch]


def rules(config: TrainConfig) -> Rules:
    """Check all groups of a config but the data.

    Raises:
        ValueError: an unknown name or option, a wrong type, a value out of range.
    """
    registries = {
        **{"model": MODELS, "norm": NORMS, "affine": AFFINES, "init": INITS},
        **{"optim": OPTIMS, "schedule": SCHEDULES},
    }
    bound = {group: registry.bind(getattr(config, group)) for group, registry in registries.items()}
    return Rules(**bound, probes=watches(config.probes))
