"""Starts a run from the last weights of another run, and sets the running statistics of its batch norms."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnexp.config.schema import TrainConfig, config_hash, to_dict
from bnexp.data import Data
from bnexp.experiment.older import renamed
from bnexp.experiment.pixel_scale import MEAN, STD, scale_of
from bnexp.models.layers import batch_norms, head_parameters
from bnexp.norms import NORMS, Norm
from bnexp.randomness import TORCH_DRAWS, Stream
from bnexp.runs import checkpoint, run_json
from bnexp.training.statistics import write_precise

log = logging.getLogger(__name__)

# Settings that change the meaning of a weight: both runs must agree in them. Others may differ if all shapes agree.
_MEANING = (("model", "name"), ("activation",), ("placement",))
_NORM = ("norm", "name")
# Buffers that are not copied: the counts of batches that a norm has trained and of passes that have drawn, which start
# again at zero; the scale of pixels, which a source may keep elsewhere.
_NOT_COPIED = ("batches_trained", TORCH_DRAWS, MEAN, STD)
# Settings that change the meaning of the head's outputs.
_TASK = (("data", "name"), ("data", "path"), ("data", "classes"))
_AGREE = "model and norm must agree, except for the head"


@dataclass(frozen=True)
class Source:
    """A run to start from.

    Attributes:
        said: ``init_from=FOLDER``, the beginning of messages about this run.
        config: the run's settings.
        step: step of the checkpoint.
        parameters, buffers: tensors by name.
        scale: the scale of its pixels, see ``scale_of``; None if the run does not say it, or whitens them.
    """

    said: str
    config: Mapping[str, Any]
    step: int
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    scale: Mapping[str, Tensor] | None


def read_source(config: TrainConfig, model: nn.Module) -> Source:
    """The last or best checkpoint of the run that ``init_from`` names; ``{seed}`` there is the config's seed.

    Its parameters have the names that ``model`` has for them, whatever the version that wrote them.

    Raises:
        ValueError: the folder is not a run, or has no usable checkpoint.
    """
    assert config.init_from is not None
    folder = config.init_from.replace("{seed}", str(config.seed))
    said, path = f"init_from={folder}", Path(os.path.expanduser(folder))
    try:
        run = run_json.read(path)
        state = checkpoint.load_best(path) if config.init_from_best else checkpoint.load(path)
    except ValueError as error:
        raise ValueError(f"{said}: {str(error).removeprefix(f'{path}: ')}") from None
    if state is None:
        raise ValueError(f"{said}: this run has no checkpoint")
    try:
        parameters, scale = renamed(state["parameters"], model), _scale(run["config"], state)
        return Source(said, run["config"], state["step"], parameters, state["buffers"], scale)
    except KeyError as error:
        raise ValueError(f"{said}: its checkpoint has no {error.args[0]}; not one of this version of bnexp") from None


def _scale(config: Mapping[str, Any], state: checkpoint.State) -> Mapping[str, Tensor] | None:
    """The scale of a run's pixels; None if the run does not say it, or whitens them."""
    if _setting(config, ("data", "whiten")) != "none":
        return None
    buffers: Mapping[str, Tensor] = state["buffers"]
    return buffers if MEAN in buffers else state.get("scale")


@dataclass(frozen=True)
class Takeover:
    """The tensors of a model that come from another run.

    Attributes:
        parameters, buffers: their names.
        drawn: names of the head's parameters if the head keeps its own initial weights, else empty.
    """

    source: Source
    parameters: Sequence[str]
    buffers: Sequence[str]
    drawn: Sequence[str]


def takeover(model: nn.Module, config: TrainConfig) -> Takeover:
    """Which parameters and buffers a new member copies from the run that ``init_from`` names; copies nothing yet.

    The head keeps its own initial weights where the classes differ: another number of classes, ``data.classes``, source
    or file. Streams of random numbers (dropout) start from the new seed.

    Raises:
        ValueError: ``init_from`` does not name a run, or names a run of another model or norm.
    """
    source = read_source(config, model)
    head = head_parameters(model)
    keeps_statistics = config.norm_state != "reset"
    _check_meaning(source, to_dict(config))
    _check_surplus(source, model, head, statistics=keeps_statistics)
    drawn = head if _head_is_new(source, to_dict(config), model, head) else []
    parameters = {name: own for name, own in model.named_parameters() if name not in drawn}
    buffers = _own_buffers(model, statistics=keeps_statistics)
    _require_alike(source, parameters, source.parameters)
    _require_alike(source, buffers, source.buffers)
    _require_channels(source, model)
    return Takeover(source, list(parameters), list(buffers), drawn)


@torch.no_grad()
def start_from(model: nn.Module, config: TrainConfig, data: Data, taken: Takeover) -> None:
    """Copy parameters and buffers from the run named by ``init_from`` into a new member.

    ``norm_state`` sets the running statistics of norms:

    - keep: copy them; training updates them from there;
    - frozen: copy and fix them, see ``apply_norm_state``;
    - reset: start again at mean 0 and variance 1;
    - precise: set them to the population statistics of ``eval_train`` training images under the copied weights (Wu &
      Johnson 2021, sec. 3); training updates them from there.

    Args:
        model: the new member, on the device of ``data``; its scale of pixels is attached (``attach_scale``).
        config: its settings.
        data: its training data.
        taken: what to copy, from ``takeover`` of this model or one like it.
    """
    source = taken.source
    for name in taken.parameters:
        model.get_parameter(name).copy_(source.parameters[name])
    for name in taken.buffers:
        model.get_buffer(name).copy_(source.buffers[name])
    _take_scale(model, config, source, scale_of(data))
    if config.norm_state == "precise":
        train = data.train.mixed(config.eval_train)
        model.eval()
        write_precise(model, train, min(config.micro_batch_size, len(train)))
        model.train()
    outcome = f"with {', '.join(taken.drawn)} initialized anew" if taken.drawn else "including the head"
    log.info("%s: weights of step %d of run %s, %s", source.said, source.step, config_hash(source.config), outcome)


def _take_scale(model: nn.Module, config: TrainConfig, source: Source, own: Mapping[str, Tensor]) -> None:
    """Copy the scale of pixels if the config asks for it; say whose scale is used where the two differ."""
    wanted = config.pixel_scale == "source"
    if wanted and config.data["whiten"] != "none":
        log.info("pixel_scale=source: has no effect, as data.whiten is computed from the images of this run")
    elif source.scale is None and wanted:
        log.info(
            "%s: that run does not say how its pixels are scaled; they are scaled by this run's images", source.said
        )
    elif source.scale is not None and any(not torch.equal(source.scale[name], own[name]) for name in own):
        for name in own if wanted else ():
            model.get_buffer(name).copy_(source.scale[name])
        whose = "that run" if wanted else "this run's images (pixel_scale=source takes those of that run)"
        log.info("%s: pixels are scaled by the mean and standard deviation of %s", source.said, whose)


def apply_norm_state(model: nn.Module, config: TrainConfig) -> None:
    """With ``norm_state=frozen``, fix the running statistics: batch norms train with them and never update them.

    Gains and biases still learn; He et al. 2016, appendix A, fix them too.

    Raises:
        ValueError: ``norm_state`` is not keep, and no layer keeps running statistics.
    """
    norms = batch_norms(model)
    if config.norm_state != "keep" and not norms:
        name = config.norm["name"]
        raise ValueError(
            f"norm_state={config.norm_state}: norm={name} keeps no statistics of batches; use norm_state=keep"
        )
    for layer in norms:
        layer.frozen = config.norm_state == "frozen"
        layer.train(layer.training)  # a layer that has just been frozen leaves training mode here


def _setting(config: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    node: Any = config
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _check_meaning(source: Source, config: Mapping[str, Any]) -> None:
    """Refuse weights of a different network; norms whose running statistics mean the same may replace each other."""
    norms = {_setting(each, _NORM) for each in (source.config, config)}
    alike = all(name in NORMS and NORMS.capabilities(name).as_bn for name in norms)
    for path in _MEANING if alike else (*_MEANING, _NORM):
        theirs, own = _setting(source.config, path), _setting(config, path)
        if theirs != own:
            word = path[0]
            raise ValueError(f"{source.said}: that run has {word}={theirs}, this one {word}={own}; they must agree")


def _check_surplus(source: Source, model: nn.Module, head: list[str], *, statistics: bool) -> None:
    """Refuse a source with parameters, or (if ``statistics``) running statistics, that the model does not have."""
    surplus = source.parameters.keys() - {name for name, _ in model.named_parameters()} - set(head)
    if statistics:
        running = {name for name in source.buffers if name.rpartition(".")[2].startswith("running_")}
        surplus |= running - {name for name, _ in model.named_buffers()}
    if surplus:
        raise ValueError(f"{source.said}: that run has {min(surplus)}, this one does not; {_AGREE}")


def _head_is_new(source: Source, config: Mapping[str, Any], model: nn.Module, head: list[str]) -> bool:
    """True if the classes differ from the classes of the run to start from."""
    if any(_setting(source.config, path) != _setting(config, path) for path in _TASK):
        return True
    parameters = dict(model.named_parameters())
    return any(
        name not in source.parameters or source.parameters[name].shape != parameters[name].shape for name in head
    )


def _own_buffers(model: nn.Module, *, statistics: bool) -> dict[str, Tensor]:
    """The buffers to copy: none of random streams and schedules, and those of norms only if ``statistics``."""
    skipped = Stream if statistics else (Stream, Norm)
    layers = [(f"{name}." if name else "", layer) for name, layer in model.named_modules()]
    found = {
        f"{path}{leaf}": own
        for path, layer in layers
        if not isinstance(layer, skipped)
        for leaf, own in layer.named_buffers(recurse=False)
    }
    return {name: own for name, own in found.items() if name.rpartition(".")[2] not in _NOT_COPIED}


def _require_alike(source: Source, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Refuse a source that lacks one of the model's tensors, or has it in another shape."""
    for name, tensor in own.items():
        if name not in theirs:
            raise ValueError(f"{source.said}: that run has no {name}, this one has; {_AGREE}")
        if theirs[name].shape != tensor.shape:
            shapes = f"is {list(theirs[name].shape)} there and {list(tensor.shape)} here"
            raise ValueError(f"{source.said}: {name} {shapes}; only the head may differ")


def _require_channels(source: Source, model: nn.Module) -> None:
    """Refuse to copy the scale of pixels from a run whose pixels have another number of channels."""
    own = dict(model.named_buffers()).get(MEAN)
    if own is not None and source.scale is not None and len(source.scale[MEAN]) != len(own):
        counts = f"{len(source.scale[MEAN])} channels there and {len(own)} here"
        raise ValueError(f"{source.said}: pixels have {counts}, each with its own scale; use pixel_scale=own")
