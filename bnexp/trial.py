"""Trying a model on blank images before anything is trained or written."""

from __future__ import annotations

import logging
import os

import torch
from torch import nn

from bnexp.config import TrainConfig
from bnexp.data import Data
from bnexp.evaluation import batch_norms
from bnexp.models import Units
from bnexp.norms import Norm
from bnexp.rules import Rules
from bnexp.starting import apply_norm_state

log = logging.getLogger(__name__)


def check_model(config: TrainConfig, rule: Rules, data: Data, batch_sizes: set[int]) -> None:
    """Try the model on blank images, in batches as small as will occur; those larger than all norms need are alike.

    Raises:
        ValueError: the norm is undefined somewhere, the images are too small, the model does not fit into memory.
    """
    units = Units(rule.norm, config.activation, config.placement)
    with torch.device("meta"):  # has shapes and no storage
        blank: nn.Module = rule.model(data.shape, data.classes, units)
    _check_size(rule.model.name, sum(parameter.numel() for parameter in blank.parameters()))
    model: nn.Module = rule.model(data.shape, data.classes, units)
    apply_norm_state(model, config)
    entered: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
    enough = max((layer.least_values for layer in batch_norms(model)), default=2)
    modes = [(True, size) for size in sorted({min(size, enough) for size in batch_sizes}, reverse=True)]
    # Precise statistics are taken in batches as large as those of the training, but of eval_train images at most.
    precise = (True, min(config.batch_size, config.eval_train, enough))
    for mode, size in dict.fromkeys([*modes, precise, (False, 2)]):
        try:
            with torch.no_grad():
                model.train(mode)(torch.zeros(size, *data.shape))
        except ValueError as error:
            advice = "" if (mode, size) in modes else f", or a larger eval_train than {config.eval_train}"
            raise ValueError(f"{error}{advice} (layer {entered[-1]})") from None
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"model={rule.model.name}: cannot take data of shape {data.shape}: {reason}") from None
    _check_norms(rule.norm.name, rule.model.name, dict(model.named_modules()))


def _check_norms(norm: str, model: str, layers: dict[str, nn.Module]) -> None:
    """Say where a norm stood aside because it is undefined there; refuse one that did so everywhere."""
    norms = {name: layer for name, layer in layers.items() if isinstance(layer, Norm)}
    if any(layer.needs_branches for layer in norms.values()) and not any(n.closes_branch for n in norms.values()):
        raise ValueError(
            f"norm={norm}: acts on residual branches, and model={model} has none; use model=resnet, resmlp"
        )
    aside = [name for name, layer in norms.items() if layer.stood_aside]
    if aside and len(aside) == len(norms):
        raise ValueError(f"norm={norm}: undefined on vectors, and model={model} has nothing else; use ln, gn or bn")
    if aside:
        log.info("norm=%s: undefined on vectors, nothing is normalized at %s", norm, ", ".join(aside))


def _check_size(model: str, parameters: int) -> None:
    """Parameters, gradients and optimizer state must fit into this machine's memory."""
    needed = 16 * parameters
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        sizes = f"needs {needed / 2**30:.0f} GiB for {parameters:.3g} parameters, this machine has {there / 2**30:.0f}"
        raise ValueError(f"model={model}: {sizes} GiB; choose a smaller one")
