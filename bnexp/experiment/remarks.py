"""Remarks on the settings of a run: what has no effect there, and what surprises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from bnexp.config.schema import ANY, LATER_OPTIONS, TrainConfig
from bnexp.experiment.machine import pick_device
from bnexp.models.layers import moving_norms
from bnexp.norms import Norm

# Which parameters decay, where a config says nothing else.
_SWITCHES = LATER_OPTIONS["optim", ANY]


def remarks(config: TrainConfig, model: nn.Module, steps: int) -> Iterator[str]:
    """Which settings have no effect in a run, or one that surprises; a line each.

    Args:
        config: of the run.
        model: its model.
        steps: its length.
    """
    yield from _without_effect(config, model)
    yield from _surprising(config, model, steps)


def _without_effect(config: TrainConfig, model: nn.Module) -> Iterator[str]:
    if config.norm["name"] != "none" and not any(isinstance(module, Norm) for module in model.modules()):
        yield f"norm={config.norm['name']}: has no effect, model={config.model['name']} makes no layer by its units"
    if config.init_from is not None and config.affine["name"] != "usual":
        yield f"affine={config.affine['name']}: has no effect, because gains and biases come from init_from"
    else:
        yield from _affine_without_effect(config, [norm for norm in model.modules() if isinstance(norm, Norm)])
    switches = {"decay_norm": False} | _SWITCHES
    switched = [f"optim.{key}={value}" for key in switches if (value := config.optim.get(key)) != switches[key]]
    if switched and not config.optim.get("weight_decay"):
        yield f"{', '.join(switched)}: has no effect at optim.weight_decay=0"
    elif config.optim.get("decay_norm") and None not in (config.optim["decay_gain"], config.optim["decay_norm_bias"]):
        yield "optim.decay_norm=True: has no effect beside optim.decay_gain and optim.decay_norm_bias"
    if config.optim.get("nesterov") and config.optim.get("momentum") == 0:
        yield "optim.nesterov=true: has no effect at optim.momentum=0"
    if config.precision == "tf32" and pick_device(config.device).type == "cpu":
        yield "precision=tf32: has no effect on device=cpu, where it is fp32"


def _affine_without_effect(config: TrainConfig, norms: Sequence[Norm]) -> Iterator[str]:
    """Lines about where gains and biases start, if there are none."""
    gains, given = [norm for norm in norms if norm.gain is not None], config.affine
    here = f"norm={config.norm['name']}"
    if given.get("gain", 1) != 1 and not gains:
        yield f"affine.gain={given['gain']}: has no effect, {here} has no gain here"
    if given.get("bias", 0) != 0 and all(norm.shift is None for norm in norms):
        yield f"affine.bias={given['bias']}: has no effect, {here} has no bias here"
    if given.get("last_gain") is not None and not any(norm.closes_branch for norm in gains):
        yield f"affine.last_gain={given['last_gain']}: has no effect, no gain of {here} ends a residual branch here"


def _surprising(config: TrainConfig, model: nn.Module, steps: int) -> Iterator[str]:
    warmup = config.schedule.get("warmup")
    if isinstance(warmup, int) and warmup > steps:
        yield f"schedule.warmup={warmup}: longer than the run of {steps} steps, which never has the full learning rate"
    if moving_norms(model):
        yield from _told_of_statistics(config)
    if config.trainable == "head" and moving_norms(model):
        remedy = "init_from=RUN norm_state=frozen fixes them"
        yield f"trainable=head: running statistics of norm={config.norm['name']} go on moving; {remedy}"


def _told_of_statistics(config: TrainConfig) -> Iterator[str]:
    """Lines about a norm with batch statistics."""
    norm = f"norm={config.norm['name']}"
    if config.accumulate > 1:
        size = config.micro_batch_size
        yield (
            f"accumulate={config.accumulate}: {norm} normalizes micro-batches of {size} images, and its running"
            f" averages take in {config.accumulate} of them at each step"
        )
    if config.ema_weights is not None:
        images = f"up to {config.eval_train} training images"
        yield f"ema_weights={config.ema_weights}: {norm} takes its statistics under averaged weights from {images}"
