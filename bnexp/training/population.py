"""M models of one architecture trained side by side; a single model is M = 1.

Each member's parameters are a row of one matrix, ``theta_MP``, and its layers hold views of this row. So an optimizer
needs a few operations on one matrix for any number of layers, and saving a member means copying a row. Members share no
parameter, so the gradient of the summed losses holds every member's own gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bnexp.training.kernels import MemberKernels
from bnexp.training.losses import mean_loss, mean_losses
from bnexp.training.precision import Precision

# A parameter starts on a multiple of this many elements: 256 bytes in float32, torch's own alignment on a GPU.
_ALIGNMENT = 64


@dataclass(frozen=True)
class _Slot:
    """The position of one parameter in a row of ``theta_MP``."""

    start: int
    shape: torch.Size

    def view(self, matrix: Tensor) -> Tensor:
        """This parameter of all members, [M, *shape], as a view of a matrix [M, P]."""
        return matrix[:, self.start : self.start + self.shape.numel()].view(len(matrix), *self.shape)


def _layout(parameters: Iterable[tuple[str, Tensor]]) -> tuple[dict[str, _Slot], int]:
    """Slots by parameter name, and P."""
    slots, end = {}, 0
    for name, parameter in parameters:
        slots[name] = _Slot(end, parameter.shape)
        end += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
    return slots, end


class Population:
    """M members of one architecture, callable on [M, B, ...].

    Args:
        members: models that differ only in their numbers, on the device and in the type to train in.
        stacked: run all members at once (``Stacked``) instead of one after another (``OneByOne``); a single member is
            never stacked.

    Attributes:
        theta_MP: all parameters. Padding between parameters is 0 and stays 0.
        gradient_MP: their gradients after ``learn``.
        buffers: name -> [M, ...].
        executor: runs the members.
    """

    def __init__(self, members: Sequence[nn.Module], *, stacked: bool = False) -> None:
        self.members = list(members)
        self._slots, width = _layout(members[0].named_parameters())
        first = next(members[0].parameters())
        self.theta_MP = torch.zeros(len(members), width, device=first.device, dtype=first.dtype)
        self.gradient_MP = torch.zeros_like(self.theta_MP)
        self.buffers = {name: self._adopt_buffer(name) for name, _ in members[0].named_buffers()}
        for row, member in enumerate(self.members):
            self._adopt_parameters(row, member)
        self.executor: OneByOne | Stacked = Stacked(self) if stacked and len(members) > 1 else OneByOne(self)

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

    def __len__(self) -> int:
        return len(self.members)

    def __call__(self, x_MB: Tensor) -> Tensor:
        """Logits [M, B, K] of inputs [M, B, ...]."""
        return self.executor(x_MB)

    def learn(self, x_MB: Tensor, y_MB: Tensor, precision: Precision, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Fill ``gradient_MP`` on a batch (x_MB..., y_MB); returns losses [M] and logits [M, B, K], both detached.

        Losses are multiplied by the scale of ``precision`` before the backward pass; the gradients keep this scale.
        For ``smoothing`` see ``mean_loss``.
        """
        return self.executor.learn(x_MB, y_MB, precision, smoothing)

    def networks(self) -> list[nn.Module]:
        """All modules whose mode and settings decide how the members run."""
        return [*self.members, *self.executor.networks]

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
        """1 where a row of ``theta_MP`` holds a parameter with one of these names, else 0, [P]."""
        mask_1P = torch.zeros_like(self.theta_MP[:1])
        for name in names:
            self._slots[name].view(mask_1P).fill_(1)
        return mask_1P[0]

    def laid_out(self, row: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """A row of one number a parameter, [P], that was laid out for saved parameters, in the order of one's own.

        A row of another width, or one that is in order, is returned unchanged.
        """
        saved, width = _layout(parameters.items())
        if row.shape != (width,) or saved == self._slots or saved.keys() != self._slots.keys():
            return row
        moved_1P = torch.zeros_like(row).unsqueeze(0)
        for name, slot in self._slots.items():
            slot.view(moved_1P).copy_(saved[name].view(row.unsqueeze(0)))
        return moved_1P[0]

    def state(self, row: int) -> dict[str, dict[str, Tensor]]:
        """One member's parameters and buffers by name, on the CPU; the same as in a population of this member."""
        parameters = {name: stack[row].detach().cpu().clone() for name, stack in self.parameters()}
        buffers = {name: stack[row].cpu().clone() for name, stack in self.buffers.items()}
        return {"parameters": parameters, "buffers": buffers}

    @torch.no_grad()
    def load(self, row: int, state: dict[str, dict[str, Tensor]]) -> None:
        """Restore a member's saved state.

        Raises:
            ValueError: the state belongs to another architecture.
        """
        for kind, own in (("parameters", dict(self.parameters())), ("buffers", self.buffers)):
            saved = state[kind]
            if {name: stack.shape[1:] for name, stack in own.items()} != {name: t.shape for name, t in saved.items()}:
                raise ValueError(f"the saved {kind} belong to another model than the config describes")
            for name, stack in own.items():
                stack[row].copy_(saved[name])


class OneByOne:
    """Runs one member after another, forward and backward, while its activations are still in a CPU's cache."""

    networks: Sequence[nn.Module] = ()  # no modules besides the members

    def __init__(self, population: Population) -> None:
        self._members, self._gradient_MP = population.members, population.gradient_MP

    def __call__(self, x_MB: Tensor) -> Tensor:
        """Logits [M, B, K]."""
        return torch.stack([member(x) for member, x in zip(self._members, x_MB, strict=True)])

    def learn(self, x_MB: Tensor, y_MB: Tensor, precision: Precision, smoothing: float) -> tuple[Tensor, Tensor]:
        """See ``Population.learn``."""
        self._gradient_MP.zero_()
        losses, logits = [], []
        for row, member in enumerate(self._members):
            with precision.forward():
                logits_BK = member(x_MB[row])
            loss = mean_loss(logits_BK, y_MB[row], smoothing)
            scaled = loss * precision.scale_M[row] if precision.scaled else loss
            scaled.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            logits.append(logits_BK.detach())
        return torch.stack(losses), torch.stack(logits)


class Stacked:
    """Runs all members as one vectorized model: ``vmap`` maps the functional call of a model over the members.

    Where ``MemberKernels`` has a rule, the kernel is a single model's, over the channels of all members.

    This is faster on a GPU, where kernel launches limit small networks. On a CPU, one after another is faster.
    """

    def __init__(self, population: Population) -> None:
        model = population.members[0]
        skeleton = copy.deepcopy(model).to("meta")
        self.networks = [skeleton]
        # A parameter shared by layers has several names, and the skeleton looks up each of them.
        first = {id(parameter): name for name, parameter in model.named_parameters()}
        self._names = {name: first[id(shared)] for name, shared in model.named_parameters(remove_duplicate=False)}
        self._skeleton, self._buffers = skeleton, population.buffers
        self._parameters: dict[str, Tensor] = {name: nn.Parameter(stack) for name, stack in population.parameters()}
        self._gradients = [stack for _, stack in population.gradients()]

    def __call__(self, x_MB: Tensor) -> Tensor:
        """Logits [M, B, K]."""
        with MemberKernels():
            logits_MBK: Tensor = torch.func.vmap(self._one)(self._parameters, self._buffers, x_MB)
        return logits_MBK

    def learn(self, x_MB: Tensor, y_MB: Tensor, precision: Precision, smoothing: float) -> tuple[Tensor, Tensor]:
        """See ``Population.learn``."""
        with precision.forward():
            logits_MBK = self(x_MB)
        loss_M = mean_losses(logits_MBK, y_MB, smoothing)
        scaled_M = loss_M * precision.scale_M if precision.scaled else loss_M
        # Not loss.backward(): autograd could add into the views of the gradients too, but warns about their strides.
        found = torch.autograd.grad(scaled_M.sum(), list(self._parameters.values()), materialize_grads=True)
        torch._foreach_copy_(self._gradients, found)
        return loss_M.detach(), logits_MBK.detach()

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x_B: Tensor) -> Tensor:
        named = {name: parameters[first] for name, first in self._names.items()}
        logits_BK: Tensor = functional_call(self._skeleton, (named, buffers), (x_B,))
        return logits_BK
