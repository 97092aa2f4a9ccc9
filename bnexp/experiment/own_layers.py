"""What layers of a user's own do in a pass that bnexp's do not: refused, told, or taken care of."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnexp.norms import BatchStatistics, Norm

log = logging.getLogger(__name__)

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass
class Watched:
    """What passes through a model have shown.

    Attributes:
        draws: they drew from torch's own generators.
    """

    draws: bool = False


@contextmanager
def watched(model: nn.Module) -> Iterator[Watched]:
    """Look at what the passes inside the with block change besides the buffers, and say what follows from it.

    Raises:
        ValueError: a layer has put another tensor in the place of a buffer, which no checkpoint would hold.
    """
    found, state, buffers = Watched(), torch.get_rng_state(), dict(model.named_buffers())
    before = {path: _numbers(module) for path, module in _own_layers(model)}
    yield found
    found.draws = not torch.equal(state, torch.get_rng_state())
    for name, buffer in buffers.items():
        path, _, leaf = name.rpartition(".")
        if model.get_submodule(path)._buffers.get(leaf) is not buffer:
            where, instead = f"layer {path or 'of the model'}", f"self.{leaf}.copy_(...) or .lerp_(...)"
            raise ValueError(f"{where} assigns another tensor to its buffer {leaf}; change it in place: {instead}")
    said = defaultdict[str, list[str]](list)
    for path, module in _own_layers(model):
        kind = type(module).__name__
        changed = [name for name, value in _numbers(module).items() if not _same(before[path].get(name), value)]
        if changed:
            said[f"{kind}.{changed[0]} changes in passes and is no buffer; checkpoints do not hold it"].append(path)
        if _hides_statistics(module):
            said[f"{kind} is no BatchStatistics; evaluations know its running statistics alone"].append(path)
    for what, paths in said.items():
        log.warning("%s (%s)", what, ", ".join(paths))


def _own_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers whose class is neither torch's nor bnexp's, and batch norms of torch."""
    for path, module in model.named_modules():
        if type(module).__module__.partition(".")[0] not in ("torch", "bnexp") or isinstance(module, _BATCH_NORM):
            yield path, module


def _hides_statistics(module: nn.Module) -> bool:
    """Whether a layer may keep running statistics that evaluations know nothing of."""
    kind = isinstance(module, _BATCH_NORM) or (isinstance(module, Norm) and not isinstance(module, BatchStatistics))
    return kind and any(True for _ in module.buffers(recurse=False))


def _numbers(module: nn.Module) -> dict[str, Any]:
    """A layer's numbers and tensors that are neither parameters nor buffers, as they are now."""
    found = {name: value for name, value in vars(module).items() if isinstance(value, Tensor | int | float)}
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in found.items()
        if not isinstance(value, bool)  # such as the mode
    }


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return torch.equal(before, now)
    return bool(before is now or before == now)
