"""The layers of a model by name, for those who look inside one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bnexp.norms import BatchStatistics, Norm

Linear = nn.Linear | nn.Conv1d | nn.Conv2d
Kind = Literal["weight", "bias", "gain", "norm_bias"]


def stored_weight(layer: nn.Module) -> Tensor:
    """The weight that is drawn and learnt; with a norm of weights, the layer computes with another one."""
    normalized = parametrize.is_parametrized(layer, "weight")
    return layer.get_parameter("parametrizations.weight.original" if normalized else "weight")


@dataclass(frozen=True)
class Layer:
    """A linear map with the norm that is defined behind it.

    Attributes:
        name: the unit's, as in ``hidden1``, or the linear map's own, as in ``head``.
        linear: the Linear or Conv layer.
        norm: None where there is none.
        parameters: all trained parameters of both: their names in the model -> parameters.
    """

    name: str
    linear: nn.Module
    norm: Norm | None
    parameters: Mapping[str, nn.Parameter]


def layers(model: nn.Module) -> dict[str, Layer]:
    """The layers with weights, by name, in the order in which the model defines and runs them."""
    found: dict[str, Layer] = {}
    first_names = dict(model.named_parameters())  # a parameter that layers share belongs to the first
    for path, module in model.named_modules():
        own = {name: p for name, p in module.named_parameters(prefix=path) if name in first_names}
        if isinstance(module, Linear):
            name = path.removesuffix(".linear")
            found[name] = Layer(name, module, None, own)
        elif isinstance(module, Norm) and found:
            name, last = found.popitem()
            found[name] = Layer(name, last.linear, last.norm or module, {**last.parameters, **own})
    return found


def head_parameters(model: nn.Module) -> list[str]:
    """Names of the weight and bias of the head, the last layer with weights, which answers with logits."""
    *_, head = (name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))
    own = {id(parameter) for parameter in model.get_submodule(head).parameters()}  # it may share them
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def norm_parameters(model: nn.Module) -> list[str]:
    """Names of the gains and biases of norms, also of those biases that a norm gave to its linear map.

    So each hidden layer's shift counts alike under all norms, ``none`` too; the head's bias is no norm's.
    """
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    own = {id(parameter) for norm in norms for parameter in (*norm.parameters(), norm.shift)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def parameter_kinds(model: nn.Module) -> dict[str, Kind]:
    """The kind of every parameter, by its name.

    ``norm_bias`` and ``gain`` share the ``norm_parameters``: their biases, also those that a norm gave to its linear
    map, and all others (gains, and numbers such as the alpha of ``dyt``). Outside of norms, what is called ``bias`` is
    a ``bias``, and all else a ``weight``.
    """
    norms = set(norm_parameters(model))
    given = set(given_biases(model).values())
    kinds: dict[str, Kind] = {}
    for name, _ in model.named_parameters():
        if name in norms:
            kinds[name] = "norm_bias" if name in given or name.endswith("bias") else "gain"
        else:
            kinds[name] = "bias" if name.rpartition(".")[2] == "bias" else "weight"
    return kinds


def given_biases(model: nn.Module) -> dict[str, str]:
    """The biases that norms gave to their linear maps: the name that each would have in the norm -> its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    norms = {path: module for path, module in model.named_modules() if isinstance(module, Norm) and module.carrier}
    return {f"{path}.bias": names[id(norm.shift)] for path, norm in norms.items() if norm.shift is not None}


def batch_norms(model: nn.Module) -> list[BatchStatistics]:
    """The layers of a model that keep statistics of batches."""
    return [layer for layer in model.modules() if isinstance(layer, BatchStatistics)]


def least_values(model: nn.Module) -> int:
    """How many values a channel of a batch must have for all norms of a model."""
    return max((layer.least_values for layer in batch_norms(model)), default=2)


def moving_norms(model: nn.Module) -> list[BatchStatistics]:
    """The batch norms that train by statistics of batches; frozen ones use fixed statistics in training, too."""
    return [layer for layer in batch_norms(model) if not layer.frozen]


def keeps_variances(layer: BatchStatistics) -> bool:
    """Whether a layer's statistics are means and variances of channels, and not covariances."""
    return type(layer).products is BatchStatistics.products


@torch.no_grad()
def largest_map(model: nn.Module, x_B: Tensor) -> int:
    """How many numbers a layer of the model gets for one image, at most; leaves the model in training mode."""
    numbers = [x_B[0].numel()]

    def look(_: nn.Module, given: tuple[Any, ...]) -> None:
        numbers.extend(x.numel() // len(x_B) for x in given if isinstance(x, Tensor))

    with ExitStack() as hooks:
        for name, layer in model.named_modules():
            if "parametrizations" not in name.split("."):  # these are given weights
                hooks.callback(layer.register_forward_pre_hook(look).remove)
        model.train(False)(x_B)
    model.train()
    return max(numbers)
