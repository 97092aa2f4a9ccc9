"""A program of tensors for torch.compile: its operations, forward and backward, written down by running it once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bnexp.models.pooling import torchs_own

# A function of tensors in lists, which changes nothing but tensors that it is given.
Program = Callable[..., list[Tensor]]


def compiled(program: Program, given: Sequence[Any]) -> Program:
    """``program``, which may call autograd and torch.func, for arguments of the same shapes as ``given``.

    torch.compile goes through neither the rules of a stack nor a backward pass in the middle of a function. So the
    program runs once on copies, and the operations that it was seen to do are compiled.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to import

    devices = {argument.device for argument in given if isinstance(argument, Tensor)}
    with torchs_own(), torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
        operations = make_fx(program)(*tree_map(torch.clone, list(given)))
    fast = torch.compile(operations, dynamic=False)

    @torch.no_grad()
    def run(*given: Any) -> list[Tensor]:
        found: list[Tensor] = fast(*given)
        return found

    return run
