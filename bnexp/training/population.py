"""M models of one architecture trained side by side; a single model is M = 1.

Each member's parameters are a row of one matrix, ``theta_MP``, and its layers hold views of this row. So an optimizer
needs a few operations on one matrix for any number of layers, and saving a member means copying a row. Members share no
parameter, so the gradient of the summed losses holds every member's own gradient.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from bnexp.training.compiled import Program, compiled
from bnexp.training.copies import to_cpu
from bnexp.training.kernels.own_kernels import OwnKernels
from bnexp.training.kernels.rules import MemberKernels
from bnexp.training.losses import mean_loss, mean_losses
from bnexp.training.precision import Precision
from bnexp.training.rows import Adjacent, Rows, aligned

log = logging.getLogger(__name__)

Made = TypeVar("Made")
# (member, its forward pass, its inputs (B, ...), its state) -> tensors, in any nesting.
Collect = Callable[[nn.Module, Callable[[Tensor], Tensor], Tensor, Any], Any]
# Captures some work on the device, and returns a function that replays it on the same memory.
Recorder = Callable[[Callable[[], None]], Callable[[], None]]


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
        end += aligned(parameter.numel())
    return slots, end


class Population:
    """M members of one architecture, callable on [M, B, ...].

    Args:
        members: models that differ only in their numbers, on the device and in the type to train in.
        stacked: run all members at once (``Stacked``) instead of one after another (``OneByOne``); a single member is
            never stacked.
        recorder: captures what is done again and again on a GPU, see ``record``; None records nothing.
        compiled: compile the training with torch.compile: of each member, or of the whole stack.
        own_kernels: learn inside this block; a compiler fuses more than these kernels do.

    Attributes:
        theta_MP: all parameters. Padding between parameters is 0 and stays 0.
        gradient_MP: their gradients after ``learn``.
        buffers: name -> [M, ...].
        executor: runs the members.
        recorder: None also after a capture that failed.
        capture_failed: why nothing more is recorded; None if no capture has failed.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        *,
        stacked: bool = False,
        recorder: Recorder | None = None,
        compiled: bool = False,
        own_kernels: OwnKernels | None = None,
    ) -> None:
        self.members, self.recorder, self.own_kernels = list(members), recorder, own_kernels
        self.capture_failed: str | None = None
        self._evaluates = False
        self._kept: dict[tuple[Any, ...], Any] = {}
        self._slots, width = _layout(members[0].named_parameters())
        first = next(members[0].parameters())
        self.theta_MP = torch.zeros(len(members), width, device=first.device, dtype=first.dtype)
        self.gradient_MP = torch.zeros_like(self.theta_MP)
        self.buffers = {name: self._adopt_buffer(name) for name, _ in members[0].named_buffers()}
        for row, member in enumerate(self.members):
            self._adopt_parameters(row, member)
        kind = Stacked if stacked and len(members) > 1 else OneByOne
        self.executor: OneByOne | Stacked = kind(self, compiled=compiled)

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
        with self.own_kernels or nullcontext():
            return self.executor.learn(x_MB, y_MB, precision, smoothing)

    def collect(self, work: Collect, x_MB: Tensor, state: Any) -> Any:
        """What ``work`` makes of each member, of its inputs (M, B, ...) and of its row of the tensors in ``state``."""
        return self.executor.collect(work, x_MB, state)

    def record(self, work: Callable[[], None], *, or_else: str | None = None) -> Callable[[], None] | None:
        """A function that replays ``work``; None where it is not recorded.

        If the capture fails, the log says why, and what is done now, ``or_else``. Without ``or_else``, as for single
        steps, nothing more is recorded then.
        """
        if self.recorder is None:
            return None
        try:
            return self.recorder(work)
        except RuntimeError as error:
            reason = str(_first(error)).partition("\n")[0]
            log.warning("graph: CUDA graph capture failed (%s); %s", reason, or_else or "running eagerly")
            if or_else is None:
                self.recorder, self.capture_failed = None, reason
            return None

    @property
    def recording_of_passes(self) -> Callable[[Callable[[], None]], Callable[[], None] | None] | None:
        """Records passes over images, which can run eagerly though steps are recorded; None without a recorder."""
        return None if self.recorder is None else partial(self.record, or_else="evaluating eagerly")

    def kept(self, make: Callable[..., Made], *given: Hashable) -> Made:
        """``make(population, *given)``; with a recorder it is made once, because it holds recordings."""
        if self.recorder is None:
            return make(self, *given)
        if (make, *given) not in self._kept:
            self._kept[make, *given] = make(self, *given)
        made: Made = self._kept[make, *given]
        return made

    def networks(self) -> list[nn.Module]:
        """All modules whose mode and settings decide how the members run."""
        return [*self.members, *self.executor.networks]

    def train(self, mode: bool = True) -> None:
        """Set all members to training (or evaluation) mode."""
        for network in self.networks():
            network.train(mode)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Have all members in evaluation mode inside the with block; a block inside another one switches nothing."""
        if self._evaluates:
            yield
            return
        self.train(False)
        self._evaluates = True
        try:
            yield
        finally:
            self._evaluates = False
            self.train()

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Pairs (name, [M, ...]), views of ``theta_MP``."""
        return self.views(self.theta_MP)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Pairs (name, [M, ...]), views of ``gradient_MP``."""
        return self.views(self.gradient_MP)

    def views(self, matrix_MP: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Pairs (name, [M, ...]), views of a matrix that is laid out as ``theta_MP``."""
        for name, slot in self._slots.items():
            yield name, slot.view(matrix_MP)

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

    def states(self) -> Callable[[int], dict[str, dict[str, Tensor]]]:
        """Begin to copy the state to the CPU.

        Returns:
            row -> a member's parameters and buffers by name, as in a population of it alone; waits for the copies.
        """
        theta, buffers = to_cpu({"theta": self.theta_MP}), to_cpu(self.buffers)

        def state(row: int) -> dict[str, dict[str, Tensor]]:
            theta_MP = theta()["theta"]
            parameters = {name: slot.view(theta_MP)[row].clone() for name, slot in self._slots.items()}
            return {"parameters": parameters, "buffers": {name: each[row].clone() for name, each in buffers().items()}}

        return state

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

    def __init__(self, population: Population, *, compiled: bool) -> None:
        self._members = population.members
        self._parameters = [list(member.parameters()) for member in self._members]
        self._gradients = [[stack[row] for _, stack in population.gradients()] for row in range(len(population))]
        for member in self._members if compiled else ():
            member.compile(dynamic=False)

    def __call__(self, x_MB: Tensor) -> Tensor:
        """Logits [M, B, K]."""
        return _stack([member(x) for member, x in zip(self._members, x_MB, strict=True)])

    def collect(self, work: Collect, x_MB: Tensor, state: Any) -> Any:
        """See ``Population.collect``."""
        rows = [
            work(member, member, x_B, tree_map(lambda each_M, row=row: each_M[row], state))
            for row, (member, x_B) in enumerate(zip(self._members, x_MB, strict=True))
        ]
        return tree_map(lambda *each: _stack(each), *rows)

    def learn(self, x_MB: Tensor, y_MB: Tensor, precision: Precision, smoothing: float) -> tuple[Tensor, Tensor]:
        """See ``Population.learn``."""
        losses, logits = [], []
        for row, member in enumerate(self._members):
            with precision.forward():
                logits_BK = member(x_MB[row])
            loss = mean_loss(logits_BK, y_MB[row], smoothing)
            scaled = loss * precision.scale_M[row] if precision.scaled else loss
            found = torch.autograd.grad(scaled, self._parameters[row], materialize_grads=True)
            torch._foreach_copy_(self._gradients[row], found)
            losses.append(loss.detach())
            logits.append(logits_BK.detach())
        return _stack(losses), _stack(logits)


def _stack(rows: Sequence[Tensor]) -> Tensor:
    """One row a member; a single row is not copied."""
    return torch.stack(list(rows)) if len(rows) > 1 else rows[0].unsqueeze(0)


class Stacked:
    """Runs all members as one vectorized model: ``vmap`` maps the functional call of a model over the members.

    Where ``MemberKernels`` has a rule, the kernel is a single model's, over the channels of all members.

    This is faster on a GPU, where kernel launches limit small networks. On a CPU, one after another is faster.
    """

    def __init__(self, population: Population, *, compiled: bool) -> None:
        model = population.members[0]
        skeleton = copy.deepcopy(model).to("meta")
        self.networks = [skeleton]
        # A parameter shared by layers has several names, and the skeleton looks up each of them.
        first = {id(parameter): name for name, parameter in model.named_parameters()}
        self._names = {name: first[id(shared)] for name, shared in model.named_parameters(remove_duplicate=False)}
        self._skeleton, self._buffers = skeleton, population.buffers
        self._own = [name for name, _ in population.parameters()]
        self._adjacent = Adjacent(population.theta_MP, population.views)
        self._gradients = Rows(population.gradient_MP, population.views)
        self._compiled = compiled
        self._fast: dict[torch.Size, Program] = {}

    def __call__(self, x_MB: Tensor) -> Tensor:
        """Logits [M, B, K]."""
        return self._logits(self._named(), self._buffers, x_MB)

    def collect(self, work: Collect, x_MB: Tensor, state: Any) -> Any:
        """See ``Population.collect``."""
        given = self._named(), self._buffers, x_MB, state
        return self._mapped(lambda forward, *own: work(self._skeleton, forward, *own), *given)

    def learn(self, x_MB: Tensor, y_MB: Tensor, precision: Precision, smoothing: float) -> tuple[Tensor, Tensor]:
        """See ``Population.learn``."""
        program: Program = partial(self._learn, precision, smoothing)
        given = self._adjacent(), list(self._buffers.values()), x_MB, y_MB, precision.scale_M
        if self._compiled:  # full batches, which are the largest; a run may be resumed at a smaller one
            if x_MB.shape[1] > max((size[1] for size in self._fast), default=0):
                self._fast[x_MB.shape] = compiled(program, given)
            program = self._fast.get(x_MB.shape, program)
        loss_M, logits_MBK, *found = program(*given)
        self._gradients.write(found)
        return loss_M, logits_MBK

    def _learn(
        self,
        precision: Precision,
        smoothing: float,
        parameters: list[Tensor],
        buffers: list[Tensor],
        x_MB: Tensor,
        y_MB: Tensor,
        scale_M: Tensor,
    ) -> list[Tensor]:
        """Losses, logits and the gradients of ``parameters``; changes nothing but ``buffers``."""
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        named = dict(zip(self._own, leaves, strict=True)), dict(zip(self._buffers, buffers, strict=True))
        with precision.forward():
            logits_MBK = self._logits(*named, x_MB)
        loss_M = mean_losses(logits_MBK, y_MB, smoothing)
        scaled_M = loss_M * scale_M if precision.scaled else loss_M
        found = torch.autograd.grad(_Sum.apply(scaled_M), leaves, materialize_grads=True)
        return [loss_M.detach(), logits_MBK.detach(), *found]

    def _named(self) -> dict[str, Tensor]:
        return dict(zip(self._own, self._adjacent(), strict=True))

    def _logits(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x_MB: Tensor) -> Tensor:
        logits_MBK: Tensor = self._mapped(lambda forward, x_B: forward(x_B), parameters, buffers, x_MB)
        return logits_MBK

    def _mapped(
        self, work: Callable[..., Any], parameters: dict[str, Tensor], buffers: dict[str, Tensor], *given_M: Any
    ) -> Any:
        """``work`` of a member's forward pass and its rows of the tensors in ``given_M``, for all members at once."""

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], *given: Any) -> Any:
            named = {name: parameters[first] for name, first in self._names.items()}
            return work(lambda x_B: functional_call(self._skeleton, (named, buffers), (x_B,)), *given)

        with MemberKernels():
            return torch.func.vmap(one)(parameters, buffers, *given_M)


class _Sum(torch.autograd.Function):
    """The sum of losses as the start of a backward pass, which never asks for its value: it is not computed."""

    @staticmethod
    def forward(ctx: Any, loss_M: Tensor) -> Tensor:
        """A scalar without a value."""
        ctx.members = len(loss_M)
        return loss_M.new_empty(())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """The gradient of a sum."""
        return g.expand(ctx.members)


def _first(error: BaseException) -> BaseException:
    """The error in whose handling this one was raised: the end of a capture that has failed complains by itself."""
    return error if error.__context__ is None else _first(error.__context__)
