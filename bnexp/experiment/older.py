"""Checkpoints of older versions, read as this one would have written them.

Version 0.1 kept the bias of every hidden layer in its norm. Norms that do not normalize activations now give it to the
linear map, so that it has another name there, and under norms of weights another place among the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from bnexp.models.layers import given_biases
from bnexp.runs.checkpoint import State
from bnexp.training.population import Population


def renamed(parameters: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Saved parameters under the names that the model has for them, in their old order."""
    names = given_biases(model)
    return {names.get(name, name): value for name, value in parameters.items()}


def brought_up_to_date(state: State, population: Population) -> State:
    """A member's saved state, as this version would have written it."""
    parameters = renamed(state["parameters"], population.members[0])
    optimizer = {name: population.laid_out(slot, parameters) for name, slot in state["optimizer"].items()}
    return {**state, "parameters": parameters, "optimizer": optimizer}
