"""Optimizer steps of a population: one by one and eager, or replayed from a CUDA graph, several at once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bnexp.training.optim import Optimizer
from bnexp.training.population import Population
from bnexp.training.precision import Precision

# The most steps in one recording. Of 13 kernels a step that are not those of learning and updating, 3 are left then.
MOST_TOGETHER = 8
# Eager warm-up steps before CUDA-graph capture: libraries choose their kernels and allocate buffers in them.
WARM_UP = 3


# Step number, from 0 -> inputs (M, B, ...) and classes [M, B].
Batches = Callable[[int], tuple[Tensor, Tensor]]


class Noted(NamedTuple):
    """What is known of a step's batch: its losses [M], logits [M, B, K] and classes [M, B]."""

    loss_M: Tensor
    logits_MBK: Tensor
    y_MB: Tensor


class Done(NamedTuple):
    """What was done: the losses [M] of the last step, which the next one may overwrite; images a member; steps."""

    loss_M: Tensor
    images: int
    steps: int


class RecordableBatches(Protocol):
    """Batches that can also be taken by numbers that only the device knows; see ``bnexp.data.Batches``."""

    full: int  # full batches of an epoch

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """See ``Batches``."""

    def open(self, step: int) -> int:
        """Bring what ``recorded`` needs onto the device; returns how many batches are full, from this step's on."""

    def recorded(self, step_S: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The full batches of steps; their numbers, [S], are on the device."""


class Step:
    """Forward, backward and update; all on the device, and nothing waits for it.

    A member whose gradient overflows in fp16 is not updated, and its loss counts as in any other step.

    Args:
        population: updated in place.
        optimizer: updates the population.
        precision: number formats of the step.
        label_smoothing: of the loss, see ``mean_loss``.
        accumulate: parts that the batch is split into, see ``_learn``.
    """

    def __init__(
        self,
        population: Population,
        optimizer: Optimizer,
        precision: Precision,
        *,
        label_smoothing: float = 0.0,
        accumulate: int = 1,
    ) -> None:
        self.population, self.optimizer, self.precision = population, optimizer, precision
        self._smoothing, self._parts = label_smoothing, accumulate

    def __call__(self, x_MB: Tensor, y_MB: Tensor, factor: Tensor) -> Noted:
        """Train on a batch (x_MB..., y_MB) at ``factor`` (a scalar tensor) times the base rates."""
        loss_M, logits_MBK = self._learn(x_MB, y_MB)
        sound_M = self.precision.unscale(self.population.gradient_MP, self.optimizer.frozen_MP)
        self.optimizer.step(factor, sound_M)
        return Noted(self.precision.judged(loss_M), logits_MBK, y_MB)

    def _learn(self, x_MB: Tensor, y_MB: Tensor) -> tuple[Tensor, Tensor]:
        """Losses, logits and gradient of a batch: means over its images, summed up over one micro-batch after another.

        Only one micro-batch's graph lives at a time. Sizes differ by at most one image; the larger ones come first.
        """
        learn, gradient_MP = self.population.learn, self.population.gradient_MP
        if self._parts == 1:
            return learn(x_MB, y_MB, self.precision, self._smoothing)
        sum_MP, losses, logits = torch.zeros_like(gradient_MP), [], []
        for x_MC, y_MC in zip(x_MB.tensor_split(self._parts, 1), y_MB.tensor_split(self._parts, 1), strict=True):
            loss_M, logits_MCK = learn(x_MC, y_MC, self.precision, self._smoothing)
            share = y_MC.shape[1] / y_MB.shape[1]
            sum_MP.add_(gradient_MP, alpha=share)
            losses.append(loss_M * share)
            logits.append(logits_MCK)
        gradient_MP.copy_(sum_MP)
        return torch.stack(losses).sum(0), torch.cat(logits, 1)


class NumberedStep:
    """A step by its number: takes the batch and the factor of the rates that belong to it, and does its work eagerly.

    Args:
        step: does the work.
        batches: step number -> batch.
        factors: [steps], the schedule: the base learning rates are multiplied by these numbers.
        note: told what is known of each step.
    """

    together = 1

    def __init__(self, step: Step, batches: Batches, factors: Tensor, note: Callable[[Noted], None]) -> None:
        self._step, self._batches, self._factors, self._note = step, batches, factors, note

    def __call__(self, number: int, most: int = 1) -> Done:
        """Do the step with this number, from 0; ``most`` is at least 1."""
        noted = self._step(*self._batches(number), self._factors[number])
        self._note(noted)
        return Done(noted.loss_M, noted.y_MB.shape[1], 1)


class RecordedStep:
    """Numbered steps captured as CUDA graphs and replayed: one launch instead of one per kernel.

    Launches limit small nets. A recording holds the whole step: it takes its batch, augments it and looks its factor
    up by a number on the device, which it then increases. Another recording holds several steps: they read their
    numbers and add up what is known of them in the kernels of one. Batches that are not full run eagerly, and so do the
    first steps, and all steps where the population cannot record (``Population.record``).

    Args:
        step: does the work.
        batches: see ``RecordableBatches``.
        factors: see ``NumberedStep``.
        add: adds up what is known of steps, on the device.
        together: steps of the recording that holds several.
    """

    def __init__(
        self,
        step: Step,
        batches: RecordableBatches,
        factors: Tensor,
        add: Callable[[Sequence[Noted]], None],
        *,
        together: int = 1,
    ) -> None:
        self._step, self._batches, self._factors, self._add = step, batches, factors, add
        self.together = together
        self._eager = NumberedStep(step, batches, factors, lambda noted: add([noted]))
        self._replays: dict[int, Callable[[], None] | None] = {}
        self._done: dict[int, Done] = {}
        self._ahead_S = torch.arange(together, device=factors.device)
        self._number_S = self._ahead_S.clone()  # of the next steps
        self._there = 0  # the step whose number is the first on the device
        self._left = WARM_UP

    def __call__(self, number: int, most: int = 1) -> Done:
        """Do the step with this number, from 0, or ``together`` steps if these are recorded and at most ``most``."""
        full = self._batches.open(number)
        if not full:
            with untried_kernels():
                return self._eager(number)
        if self._left:
            self._left -= 1
            return self._eager(number)
        count = self.together if min(full, most) >= self.together else 1
        if count > 1 and self._recording(count) is None:
            count = self.together = 1
        replay = self._recording(count)
        if replay is None:
            return self._eager(number)
        if self._there != number:
            torch.add(self._ahead_S, number, out=self._number_S)
        replay()
        self._there = number + count
        return self._done[count]

    def _recording(self, count: int) -> Callable[[], None] | None:
        """Replays so many steps; None where they cannot be recorded."""
        if count not in self._replays:
            or_else = "recording single steps" if count > 1 else None  # these need less memory
            self._replays[count] = self._step.population.record(partial(self._work, count), or_else=or_else)
        return self._replays[count]

    def _work(self, count: int) -> None:
        number_S = self._number_S[:count]
        factors = self._factors.index_select(0, number_S).unbind()
        batches = self._batches.recorded(number_S)
        noted = [self._step(*batch, factor) for batch, factor in zip(batches, factors, strict=True)]
        self._add(noted)
        self._number_S.add_(count)
        self._done[count] = Done(noted[-1].loss_M, sum(each.y_MB.shape[1] for each in noted), count)


class CudaGraphs:
    """Captures the kernels of some work as a CUDA graph without running them; a replay runs them all.

    The graphs of one recorder share one pool of memory, which lives as long as they do. They are replayed one after
    another, and no graph needs another one's intermediate results; what outlives a capture keeps its place in the pool.
    """

    def __init__(self) -> None:
        self._first: torch.cuda.CUDAGraph | None = None  # a pool without a living graph cannot be captured into

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture work.

        Raises:
            RuntimeError: ``work`` waits for the device, or allocates memory in a way that capture forbids.
        """
        pool = torch.cuda.graph_pool_handle() if self._first is None else self._first.pool()
        stream = torch.cuda.current_stream()
        try:
            graph = _captured(work, pool)
        except BaseException:
            torch.cuda.set_stream(stream)
            self._first = None
            _settle(pool)
            raise
        self._first = self._first or graph
        return graph.replay


def _captured(work: Callable[[], object], pool: Any) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    # Only this thread's calls are captured: another one draws the next epoch's batches.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"), _without_collection():
        work()
    return graph


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from collecting garbage: that of an earlier training holds graphs, whose end breaks a capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _settle(pool: Any) -> None:
    """Put back what a capture has left that CUDA broke off, because the work waited for the device.

    torch 2.11 goes on as if it captured: into its pool of memory, so that the allocator gives back none, and with its
    generator, which refuses random numbers until the end of another capture (of a single kernel, which is dropped).
    """
    with suppress(RuntimeError):  # the capture has ended well, as where Python raised an error in it
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
    with suppress(RuntimeError):  # the one that broke off says what is wrong
        _captured(partial(torch.zeros, 1, device="cuda"), torch.cuda.graph_pool_handle())


@contextmanager
def untried_kernels() -> Iterator[None]:
    """Let cuDNN choose kernels by its rules inside the with block: to try them pays for what is done very often."""
    tries = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = tries
