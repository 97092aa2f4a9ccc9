"""Starting from the last weights of another run, and what becomes of the statistics of its batch norms."""

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
from bnexp.data import Split
from bnexp.experiment.older import renamed
from bnexp.models.layers import batch_norms, head_parameters
from bnexp.norms import Norm
from bnexp.randomness import Stream
from bnexp.runs import checkpoint, run_json
from bnexp.training.evaluation import write_precise

log = logging.getLogger(__name__)

# What decides what a weight means, so that two runs must agree in it. Other options may differ where the shapes do not.
_MEANING = (("model", "name"), ("activation",), ("placement",))
_NORM = ("norm", "name")
# Norms whose running statistics are a mean and a variance of batches that evaluation normalizes by: they may take each
# other's.
_ALIKE = ("bn", "bn_scratch", "batch_renorm", "detached_bn", "frozen_bn", "ghost_bn", "noisy_bn", "sync_bn")
# A buffer of norms that says how far the training is, which begins anew.
_PROGRESS = "batches_trained"
# What decides what the outputs of the head mean.
_TASK = (("data", "name"), ("data", "path"), ("data", "classes"))
_AGREE = "model and norm must agree but for the head"


@dataclass(frozen=True)
class Source:
    """A run to start from.

    Attributes:
        said: ``init_from=FOLDER``, with which messages begin.
        config: its settings.
        step: of its last checkpoint.
        parameters, buffers: by name.
    """

    said: str
    config: Mapping[str, Any]
    step: int
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]


def read_source(config: TrainConfig, model: nn.Module) -> Source:
    """The last checkpoint of the run that a config's ``init_from`` names; ``{seed}`` there is the config's seed.

    Its parameters have the names that ``model`` has for them, whatever the version that wrote them.

    Raises:
        ValueError: it is no run, or has no usable checkpoint.
    """
    assert config.init_from is not None
    folder = config.init_from.replace("{seed}", str(config.seed))
    said, path = f"init_from={folder}", Path(os.path.expanduser(folder))
    try:
        run, state = run_json.read(path), checkpoint.load(path)
    except ValueError as error:
        raise ValueError(f"{said}: {error}") from None
    if state is None:
        raise ValueError(f"{said}: this run has no checkpoint")
    return Source(said, run["config"], state["step"], renamed(state["parameters"], model), state["buffers"])


@dataclass(frozen=True)
class Takeover:
    """Which tensors of a model come from another run.

    Attributes:
        parameters, buffers: their names.
        drawn: names of the head's parameters where these keep their own draw.
    """

    source: Source
    parameters: Sequence[str]
    buffers: Sequence[str]
    drawn: Sequence[str]


def takeover(model: nn.Module, config: TrainConfig) -> Takeover:
    """Which parameters and buffers a new member copies from the run that ``init_from`` names; copies nothing yet.

    The head keeps its own draw where the classes are others: another number, ``data.classes``, source or file. Streams
    of random numbers (dropout) are those of the new seed.

    Raises:
        ValueError: ``init_from`` names no run, or a run of another model or norm.
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
    return Takeover(source, list(parameters), list(buffers), drawn)


@torch.no_grad()
def start_from(model: nn.Module, config: TrainConfig, train: Split) -> None:
    """Copy parameters and buffers from the run named by ``init_from`` into a new member; see ``takeover``.

    ``norm_state`` says what becomes of the statistics of norms:

    - keep: they are taken over, and training moves them on from there;
    - frozen: they are taken over and fixed, see ``apply_norm_state``;
    - reset: they begin anew, at mean 0 and variance 1;
    - precise: they become the population statistics of ``train`` under the weights taken over (Wu & Johnson 2021,
      sec. 3), and training moves them on from there.

    Args:
        model: on the device of ``train``.
        config: its settings.
        train: training images.

    Raises:
        ValueError: as ``takeover``.
    """
    taken = takeover(model, config)
    source = taken.source
    for name in taken.parameters:
        model.get_parameter(name).copy_(source.parameters[name])
    for name in taken.buffers:
        model.get_buffer(name).copy_(source.buffers[name])
    if config.norm_state == "precise":
        model.eval()
        write_precise(model, train, min(config.batch_size, len(train)))
        model.train()
    outcome = f"{', '.join(taken.drawn)} drawn anew" if taken.drawn else "the head included"
    log.info("%s: weights of step %d of run %s, %s", source.said, source.step, config_hash(source.config), outcome)


def apply_norm_state(model: nn.Module, config: TrainConfig) -> None:
    """With ``norm_state=frozen``, fix the running statistics: batch norms train with them, and never move them.

    Gains and biases learn, which He et al. 2016, appendix A, fix as well.

    Raises:
        ValueError: ``norm_state`` asks something of statistics, and no layer keeps any.
    """
    norms = batch_norms(model)
    if config.norm_state != "keep" and not norms:
        name = config.norm["name"]
        raise ValueError(f"norm_state={config.norm_state}: norm={name} keeps no statistics of batches; it must be keep")
    for layer in norms:
        layer.frozen = config.norm_state == "frozen"
        layer.train(layer.training)  # a layer that has just been frozen leaves the training mode here


def _setting(config: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    node: Any = config
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _check_meaning(source: Source, config: Mapping[str, Any]) -> None:
    """Refuse weights that another network has learnt; norms whose statistics mean the same may take each other's."""
    alike = {_setting(source.config, _NORM), _setting(config, _NORM)} <= set(_ALIKE)
    for path in _MEANING if alike else (*_MEANING, _NORM):
        theirs, own = _setting(source.config, path), _setting(config, path)
        if theirs != own:
            word = path[0]
            raise ValueError(f"{source.said}: that run has {word}={theirs}, this one {word}={own}; they must agree")


def _check_surplus(source: Source, model: nn.Module, head: list[str], *, statistics: bool) -> None:
    """Refuse parameters, and running statistics if they are asked for, that would be left out."""
    surplus = source.parameters.keys() - {name for name, _ in model.named_parameters()} - set(head)
    if statistics:
        running = {name for name in source.buffers if name.rpartition(".")[2].startswith("running_")}
        surplus |= running - {name for name, _ in model.named_buffers()}
    if surplus:
        raise ValueError(f"{source.said}: that run has {min(surplus)}, this one has not; {_AGREE}")


def _head_is_new(source: Source, config: Mapping[str, Any], model: nn.Module, head: list[str]) -> bool:
    """Whether the classes are others than those of the run to start from."""
    if any(_setting(source.config, path) != _setting(config, path) for path in _TASK):
        return True
    parameters = dict(model.named_parameters())
    return any(
        name not in source.parameters or source.parameters[name].shape != parameters[name].shape for name in head
    )


def _own_buffers(model: nn.Module, *, statistics: bool) -> dict[str, Tensor]:
    """The buffers to be filled: not those of random streams and schedules, and those of norms only if asked for."""
    skipped = Stream if statistics else (Stream, Norm)
    layers = [(name, layer) for name, layer in model.named_modules() if not isinstance(layer, skipped)]
    found = {f"{name}.{leaf}": own for name, layer in layers for leaf, own in layer.named_buffers(recurse=False)}
    return {name: own for name, own in found.items() if name.rpartition(".")[2] != _PROGRESS}


def _require_alike(source: Source, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Refuse a run that lacks a tensor, or has it in another shape."""
    for name, tensor in own.items():
        if name not in theirs:
            raise ValueError(f"{source.said}: that run has no {name}, this one has; {_AGREE}")
        if theirs[name].shape != tensor.shape:
            shapes = f"is {list(theirs[name].shape)} there and {list(tensor.shape)} here"
            raise ValueError(f"{source.said}: {name} {shapes}; only the head may differ")
