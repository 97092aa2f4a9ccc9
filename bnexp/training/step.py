"""One optimizer step of a population, done kernel by kernel, or replayed from a recording of all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from bnexp.training.losses import mean_loss, mean_losses
from bnexp.training.population import Population
from bnexp.training.precision import Precision

log = logging.getLogger(__name__)

# Steps that are done kernel by kernel before one is recorded: libraries choose their kernels and make buffers in them.
_WARM_UP = 3


class Stepper(Protocol):
    """An optimizer, as far as the loop knows it."""

    lr_M1: Tensor

    def step(self, factor: Tensor) -> None:
        """Update the population's parameters by their gradients."""


# What is called with the losses [M], the logits [M, B, K] and the classes [M, B] of each step.
Note = Callable[[Tensor, Tensor, Tensor], None]
# A step: (x_MB, y_MB, factor) -> losses [M].
Do = Callable[[Tensor, Tensor, Tensor], Tensor]
# Does some work on the device once, and returns what does the same work on the same memory again.
Recorder = Callable[[Callable[[], None]], Callable[[], None]]


class Step:
    """Forward, backward, update, and a note of what came out; all on the device, and nothing waits for it.

    Args:
        population: updated in place.
        optimizer: updates it.
        precision: how a step computes.
        note: takes note of losses and answers.
    """

    def __init__(self, population: Population, optimizer: Stepper, precision: Precision, note: Note) -> None:
        self.population, self.optimizer, self.precision, self.note = population, optimizer, precision, note

    def __call__(self, x_MB: Tensor, y_MB: Tensor, factor: Tensor) -> Tensor:
        """Train on a batch (x_MB..., y_MB) at ``factor``, a scalar tensor, times the base rates; the losses [M]."""
        learn = self._all_at_once if self.population.stacked else self._one_by_one
        loss_M, logits_MBK = learn(x_MB, y_MB)
        self.precision.unscale(self.population.gradient_MP)
        self.optimizer.step(factor)
        loss_M = self.precision.judged(loss_M)
        self.note(loss_M, logits_MBK, y_MB)
        return loss_M

    def _all_at_once(self, x_MB: Tensor, y_MB: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the gradients of a stack; losses [M] and logits [M, B, K]."""
        with self.precision.forward():
            logits_MBK = self.population(x_MB)
        loss_M = mean_losses(logits_MBK, y_MB)
        self.population.backward(loss_M * self.precision.scale_M if self.precision.scaled else loss_M)
        return loss_M.detach(), logits_MBK.detach()

    def _one_by_one(self, x_MB: Tensor, y_MB: Tensor) -> tuple[Tensor, Tensor]:
        """The same, each member forward and backward before the next, as long as its maps are in the cache."""
        self.population.gradient_MP.zero_()
        losses, logits = [], []
        for row, member in enumerate(self.population.members):
            with self.precision.forward():
                logits_BK = member(x_MB[row])
            loss = mean_loss(logits_BK, y_MB[row])
            scaled = loss * self.precision.scale_M[row] if self.precision.scaled else loss
            scaled.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            logits.append(logits_BK.detach())
        return torch.stack(losses), torch.stack(logits)


class ReplayedStep:
    """The same, recorded once and replayed: one launch instead of one a kernel, which is what bounds small networks.

    A batch of another shape than the first one is done kernel by kernel, and so is everything where recording fails
    (a kernel waits for the device, as the eigenvectors of ``zca`` do); the log says why.

    Args:
        step: what is recorded.
        recorder: ``cuda_graph``.
    """

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self._step, self._recorder = step, recorder
        self._do: Do = step
        self._shape: torch.Size | None = None
        self._left = _WARM_UP

    def __call__(self, x_MB: Tensor, y_MB: Tensor, factor: Tensor) -> Tensor:
        """As ``Step``; the losses are overwritten by the next step."""
        self._shape = self._shape or x_MB.shape
        if x_MB.shape != self._shape:
            return self._step(x_MB, y_MB, factor)
        if self._left == 0:
            self._do = _recorded(self._step, self._recorder, x_MB, y_MB, factor)
        self._left -= 1
        return self._do(x_MB, y_MB, factor)


def _recorded(step: Step, recorder: Recorder, *given: Tensor) -> Do:
    """What replays a step on inputs of its own, or the step itself where it cannot be recorded; trains nothing yet."""
    inputs = tuple(each.clone() for each in given)
    losses: list[Tensor] = []
    try:
        replay = recorder(lambda: losses.append(step(*inputs)))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        log.warning("graph=true: a step cannot be recorded (%s); done kernel by kernel instead", reason)
        return step

    def do(*batch: Tensor) -> Tensor:
        for own, each in zip(inputs, batch, strict=True):
            own.copy_(each)
        replay()
        return losses[-1]

    return do


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Record the kernels of ``work``, which are not run, as a CUDA graph; what is returned runs them all.

    Raises:
        RuntimeError: something in it waits for the device, or takes memory that it may not.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
