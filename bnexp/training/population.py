"""M models of one architecture trained side by side; a single model is M = 1.

All parameters of all members are rows of one matrix, ``theta_MP``; every member's layers hold views of their row. So an
optimizer is a few operations on one matrix whatever the number of layers, and saving a member is copying a row.
Members share no parameter, so the gradient of the summed losses is every member's own gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

# A parameter starts on a multiple of this many elements: 256 bytes in float32, torch's own alignment on a GPU.
_ALIGNMENT = 64


@dataclass(frozen=True)
class _Slot:
    """Where one parameter stands in a row."""

    start: int
    shape: torch.Size

    def view(self, matrix: Tensor) -> Tensor:
        """The parameter of all members, [M, *shape], as a view of [M, P]."""
        return matrix[:, self.start : self.start + self.shape.numel()].view(len(matrix), *self.shape)


def _layout(model: nn.Module) -> tuple[dict[str, _Slot], int]:
    """Slots by parameter name, and P."""
    slots, end = {}, 0
    for name, parameter in model.named_parameters():
        slots[name] = _Slot(end, parameter.shape)
        end += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
    return slots, end


class Population:
    """M members of one architecture, callable on [M, B, ...].

    Args:
        members: the models, alike but for their numbers, on the device and in the type to train in.
        stacked: run all members as one vectorized model (``torch.func.vmap``), which pays on a GPU, where small
            networks are bound by kernel launches; on a CPU one after another is faster.

    Attributes:
        theta_MP: all parameters. Padding between parameters is 0 and stays 0.
        gradient_MP: their gradients after ``backward``.
        buffers: name -> [M, ...].
    """

    def __init__(self, members: Sequence[nn.Module], *, stacked: bool = False) -> None:
        self.members = list(members)
        self._slots, width = _layout(members[0])
        first = next(members[0].parameters())
        self.theta_MP = torch.zeros(len(members), width, device=first.device, dtype=first.dtype)
        self.gradient_MP = torch.zeros_like(self.theta_MP)
        self.buffers = {name: self._adopt_buffer(name) for name, _ in members[0].named_buffers()}
        for row, member in enumerate(self.members):
            self._adopt_parameters(row, member)
        self._stack = _Stack(self) if stacked and len(members) > 1 else None

    def _adopt_buffer(self, name: str) -> Tensor:
        path, _, leaf = name.rpartition(".")
        stack = torch.stack([member.get_buffer(name) for member in self.members])
        for row, member in enumerate(self.members):
            member.get_submodule(path)._buffers[leaf] = stack[row]
        return stack

    def _adopt_parameters(self, row: int, member: nn.Module) -> None:
        for name, parameter in member.named_parameters():
            view = self._slots[name].view(self.theta_MP)[row]
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = self._slots[name].view(self.gradient_MP)[row]

    @property
    def stacked(self) -> bool:
        """Whether all members run as one vectorized model."""
        return self._stack is not None

    def __len__(self) -> int:
        return len(self.members)

    def __call__(self, x_MB: Tensor) -> Tensor:
        """Logits [M, B, K] of inputs [M, B, ...]."""
        if self._stack is not None:
            return self._stack(x_MB)
        return torch.stack([member(x) for member, x in zip(self.members, x_MB, strict=True)])

    def backward(self, loss_M: Tensor) -> None:
        """Fill ``gradient_MP`` with the gradient of every member's loss."""
        if self._stack is not None:
            self._stack.backward(loss_M)
            return
        self.gradient_MP.zero_()
        # Of a sum: with a gradient given, torch imports its symbolic shapes, which takes a second.
        loss_M.sum().backward()  # type: ignore[no-untyped-call]

    def networks(self) -> list[nn.Module]:
        """Every module whose settings, such as its mode, decide how the members run."""
        return self.members if self._stack is None else [*self.members, self._stack.skeleton]

    def train(self, mode: bool = True) -> None:
        """Set all members to training (or evaluation) mode."""
        for network in self.networks():
            network.train(mode)

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Pairs (name, [M, ...]), views of ``theta_MP``."""
        for name, slot in self._slots.items():
            yield name, slot.view(self.theta_MP)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Pairs (name, [M, ...]), views of ``gradient_MP``."""
        for name, slot in self._slots.items():
            yield name, slot.view(self.gradient_MP)

    def mask_P(self, names: Iterable[str]) -> Tensor:
        """1 where a parameter of one of these names stands, 0 elsewhere, [P]."""
        mask_1P = torch.zeros_like(self.theta_MP[:1])
        for name in names:
            self._slots[name].view(mask_1P).fill_(1)
        return mask_1P[0]

    def state(self, row: int) -> dict[str, dict[str, Tensor]]:
        """One member's parameters and buffers, by name, on the CPU; as from a population of its own."""
        parameters = {name: stack[row].detach().cpu().clone() for name, stack in self.parameters()}
        buffers = {name: stack[row].cpu().clone() for name, stack in self.buffers.items()}
        return {"parameters": parameters, "buffers": buffers}

    @torch.no_grad()
    def load(self, row: int, state: dict[str, dict[str, Tensor]]) -> None:
        """Put a member's saved state back.

        Raises:
            ValueError: the state is that of another architecture.
        """
        for kind, own in (("parameters", dict(self.parameters())), ("buffers", self.buffers)):
            saved = state[kind]
            if {name: stack.shape[1:] for name, stack in own.items()} != {name: t.shape for name, t in saved.items()}:
                raise ValueError(f"the saved {kind} are those of another model than the config describes")
            for name, stack in own.items():
                stack[row].copy_(saved[name])


class _Stack:
    """The vectorized executor: one functional call of a model without storage, mapped over members."""

    def __init__(self, population: Population) -> None:
        model = population.members[0]
        self.skeleton = copy.deepcopy(model).to("meta")
        # A parameter that layers share has several names, each of which the skeleton looks up.
        first = {id(parameter): name for name, parameter in model.named_parameters()}
        self.names = {name: first[id(shared)] for name, shared in model.named_parameters(remove_duplicate=False)}
        self.buffers = population.buffers
        self.parameters: dict[str, Tensor] = {name: nn.Parameter(stack) for name, stack in population.parameters()}
        self.gradients = [stack for _, stack in population.gradients()]

    def __call__(self, x_MB: Tensor) -> Tensor:
        logits_MBK: Tensor = torch.func.vmap(self._one)(self.parameters, self.buffers, x_MB)
        return logits_MBK

    def backward(self, loss_M: Tensor) -> None:
        # Not loss.backward(): autograd would add into these views too, but warns of their strides.
        found = torch.autograd.grad(loss_M.sum(), list(self.parameters.values()), materialize_grads=True)
        torch._foreach_copy_(self.gradients, found)

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x_B: Tensor) -> Tensor:
        named = {name: parameters[first] for name, first in self.names.items()}
        logits_BK: Tensor = functional_call(self.skeleton, (named, buffers), (x_B,))
        return logits_BK
