"""Trying a model on blank images before anything is trained or written."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bnexp.config.schema import TrainConfig, from_dict, shape
from bnexp.data import Batches, Data, load
from bnexp.experiment.choices import Choices, bind
from bnexp.experiment.init_from import apply_norm_state
from bnexp.experiment.job import import_modules
from bnexp.experiment.machine import pick_device, prepare_machine
from bnexp.models import Units
from bnexp.models.layers import batch_norms
from bnexp.norms import NORMS, Norm
from bnexp.training.loop import Plan

log = logging.getLogger(__name__)


def check_model(config: TrainConfig, rule: Choices, data: Data, batch_sizes: set[int]) -> None:
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
    """Say which inputs a norm skipped because it is undefined there; refuse a norm that skipped all."""
    norms = {name: layer for name, layer in layers.items() if isinstance(layer, Norm)}
    if NORMS.capabilities(norm).needs_branches and not any(layer.closes_branch for layer in norms.values()):
        raise ValueError(
            f"norm={norm}: acts on residual branches, and model={model} has none; use model=resnet, resmlp"
        )
    skipped = [name for name, layer in norms.items() if layer.skipped]
    if skipped and len(skipped) == len(norms):
        raise ValueError(f"norm={norm}: undefined on vectors, and model={model} has nothing else; use ln, gn or bn")
    if skipped:
        log.info("norm=%s: undefined on vectors, nothing is normalized at %s", norm, ", ".join(skipped))


def _check_size(model: str, parameters: int) -> None:
    """Parameters, gradients and optimizer state must fit into this machine's memory."""
    needed = 16 * parameters
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        sizes = f"needs {needed / 2**30:.0f} GiB for {parameters:.3g} parameters, this machine has {there / 2**30:.0f}"
        raise ValueError(f"model={model}: {sizes} GiB; choose a smaller one")


# Of data sets that the server of the jobs keeps in memory.
_MOST_BYTES = 2**30
# What jobs import late, if they need it at all; none of these starts a thread.
_LIBRARIES = ("torch", "torchvision", "PIL", "sympy", "mpmath")


def check(configs: Sequence[Mapping[str, Any]]) -> int:
    """Check configs as their runs will; prints, as its last line, what it has found.

    ``{"gpus": how many the jobs may use, "modules": those of libraries that checking had to import, "data": options of
    data sets that are worth reading once for all}``. Data are read once for each source, models tried once a shape.

    Raises:
        ValueError: the first thing that the user can mend.
    """
    before = set(sys.modules)
    todo = [from_dict(config) for config in configs]
    import_modules(list(dict.fromkeys(name for config in todo for name in config.imports)))
    for config in todo:
        bind(config)
        _check_device(config.device)
    by_data: dict[str, dict[str, TrainConfig]] = {}
    for config, plain in zip(todo, configs, strict=True):
        by_data.setdefault(json.dumps(config.data, sort_keys=True), {}).setdefault(shape(plain), config)
    sizes = {data: _check_models(list(alike.values())) for data, alike in by_data.items()}
    on_gpu = any(pick_device(config.device).type == "cuda" for config in todo)
    modules = [name for name in sys.modules if name not in before and name.partition(".")[0] in _LIBRARIES]
    # A user's own source is unknown to the server of the jobs.
    fits = sum(sizes.values()) <= _MOST_BYTES and not any(config.imports for config in todo)
    kept = [json.loads(data) for data in sizes] if fits else []
    print(json.dumps({"gpus": torch.cuda.device_count() if on_gpu else 0, "modules": modules, "data": kept}))
    return 0


def _check_device(device: str) -> None:
    pick_device(device)
    if device.startswith("cuda:"):
        raise ValueError(f"device={device}: a sweep gives every job a device; use device=cuda, or CUDA_VISIBLE_DEVICES")


def _check_models(configs: Sequence[TrainConfig]) -> int:
    """Check configs with the same data; the bytes of these."""
    data = load(configs[0].data)
    for config in configs:
        prepare_machine(config)
        rule = bind(config)
        batches = make_batches([config], data)
        check_model(config, rule, data, batches.sizes())
        rule.init()
        rule.schedule(make_plan(config, batches.per_epoch).steps)
    return data.nbytes()


# The factors of all steps are computed beforehand and kept on the device.
_MOST_STEPS = 10**7


def make_batches(configs: Sequence[TrainConfig], data: Data) -> Batches:
    """The members' training batches.

    Raises:
        ValueError: a batch is larger than the training set.
    """
    seeds = [config.seed for config in configs]
    return Batches(data, seeds, batch_size=configs[0].batch_size, drop_last=configs[0].drop_last)


def make_plan(config: TrainConfig, per_epoch: int) -> Plan:
    """Cadences in steps: an epoch where the config says nothing.

    Raises:
        ValueError: more steps than a schedule is drawn up for.
    """
    steps = config.steps or config.epochs * per_epoch
    if steps > _MOST_STEPS:
        raise ValueError(f"steps={steps}: out of range; allowed is at most {_MOST_STEPS}")
    return Plan(
        steps=steps,
        per_epoch=per_epoch,
        log_every=config.log_every,
        eval_every=config.eval_every or per_epoch,
        checkpoint_every=config.checkpoint_every or per_epoch,
    )
