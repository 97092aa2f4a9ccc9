"""The loop: a population and its batches in, records out. It builds nothing and writes nothing.

No step waits for the device: losses, hits and the steps that each member survived add up on it, and are read only where
a record is due.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bnexp.record import Record
from bnexp.training.losses import accuracy, hits
from bnexp.training.optim import Optimizer
from bnexp.training.population import Population
from bnexp.training.precision import Precision
from bnexp.training.step import Do, Recorder, ReplayedStep, Step

# Steps whose results are added up together.
_MOST_NOTED = 16

# Step, counted from 0 -> inputs (M, B, ...) and classes [M, B].
Batches = Callable[[int], tuple[Tensor, Tensor]]
# Metric tag -> a number a member.
Evaluate = Callable[[], Mapping[str, Sequence[float]]]
# A record's values and distributions.
Observed = tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[Sequence[float]]]]


class Watcher(Protocol):
    """Looks at steps, before and after; leaves everything as it found it."""

    def before(self, step: int, x_MB: Tensor, y_MB: Tensor) -> bool:
        """Whether this step, counted from 1, is to be looked at; if so, what it changes has been copied."""

    def after(self, lr_M: Tensor, loss_M: Tensor) -> Observed:
        """What the step that ``before`` chose has shown; called only after that."""


@dataclass(frozen=True)
class Cadence:
    """How often records, evaluations and checkpoints are due, in optimizer steps.

    Attributes:
        steps: the length of the run.
        per_epoch: steps of one pass over the training set.
        log_every, eval_every, checkpoint_every: cadences; the last step is due for all three.
    """

    steps: int
    per_epoch: int
    log_every: int
    eval_every: int
    checkpoint_every: int

    def due(self, step: int, every: int) -> bool:
        """Whether something with this cadence is due after ``step``."""
        return step % every == 0 or step == self.steps

    def halts(self, step: int) -> bool:
        """Whether the loop must hand out a record after ``step``."""
        return any(self.due(step, every) for every in (self.log_every, self.eval_every, self.checkpoint_every))


class Progress:
    """Where a training stands: the step, and what has added up since the last point of the curves.

    Attributes:
        step: optimizer steps done.
        stopping: the loop was asked to end here.
        survived_M: steps until each member's first loss that was not finite.
        alive_M: members all of whose losses were finite.
    """

    def __init__(self, members: int, device: torch.device) -> None:
        self.step = 0
        self.stopping = False
        self.seen = 0
        self.loss_M = torch.zeros(members, device=device)
        self.hits_M = torch.zeros(members, dtype=torch.int64, device=device)
        self.alive_M = torch.ones(members, dtype=torch.bool, device=device)
        self.survived_M = torch.zeros(members, dtype=torch.int64, device=device)
        self._noted: list[tuple[Tensor, Tensor, Tensor]] = []

    def count(self, images: int) -> None:
        """Count one step on so many images of a member."""
        self.step += 1
        self.seen += images

    def note(self, loss_M: Tensor, logits_MBK: Tensor, y_MB: Tensor) -> None:
        """Record a step's losses and logits, to be added to the sums together with those of other steps."""
        self._noted.append((loss_M, logits_MBK, y_MB))
        if len(self._noted) == _MOST_NOTED:
            self.add_up()

    def add(self, loss_M: Tensor, logits_MBK: Tensor, y_MB: Tensor) -> None:
        """Record a step and add it to the sums at once, as a captured step must."""
        self.note(loss_M, logits_MBK, y_MB)
        self.add_up()

    def add_up(self) -> None:
        """Add the steps noted to the sums, on the device: losses one by one, so that how many there are is no matter.

        Hits and survival are whole numbers. Counted over many steps at once they are a few operations for all of them.
        """
        if not self._noted:
            return
        losses, logits, classes = zip(*self._noted, strict=True)
        self._noted.clear()
        for loss_M, y_MB in zip(losses, classes, strict=True):
            self.loss_M.add_(loss_M, alpha=y_MB.shape[1])
        self.hits_M.add_(hits(torch.cat(logits, 1), torch.cat(classes, 1)))
        finite_SM = torch.stack(losses) < math.inf  # a cross-entropy is never -inf, and nan is not less
        alive_SM = torch.cat([self.alive_M.unsqueeze(0), finite_SM]).cumprod(0)
        self.survived_M.add_(alive_SM[1:].sum(0))
        self.alive_M.copy_(alive_SM[-1])

    def take(self) -> dict[str, list[float]]:
        """The mean loss (nats) and ``accuracy`` over the training batches since the last call."""
        self.add_up()
        shares_M = accuracy(self.hits_M.to(self.loss_M), self.loss_M, self.seen)
        means = torch.stack([self.loss_M / self.seen, shares_M]).tolist()  # waits for the device
        self.seen = 0
        self.loss_M.zero_()
        self.hits_M.zero_()
        return {"train/loss": means[0], "train/accuracy": means[1]}

    def judge(self, measured: Mapping[str, Sequence[float]]) -> None:
        """Count members that have no finite value in an evaluation as diverged in the step before it."""
        self.add_up()
        for row, values in enumerate(zip(*measured.values(), strict=True)):
            if self.alive_M[row] and not any(math.isfinite(value) for value in values):
                self.alive_M[row] = False
                self.survived_M[row] = self.step - 1

    def diverged_at(self) -> list[int | None]:
        """For each member the step whose loss was not finite, or after which it was not, or None."""
        self.add_up()
        alive, survived = self.alive_M.tolist(), self.survived_M.tolist()  # waits for the device
        return [None if ok else steps + 1 for ok, steps in zip(alive, survived, strict=True)]

    def state(self, row: int) -> dict[str, Any]:
        """One member's progress as plain numbers."""
        self.add_up()
        return {"seen": self.seen, "loss": self.loss_M[row].item(), "hits": self.hits_M[row].item()}

    def load(self, row: int, step: int, state: Mapping[str, Any]) -> None:
        """Put a member's progress back, as it was when it had done ``step`` steps, all of them finite."""
        self.step, self.seen = step, state["seen"]
        self.loss_M[row], self.hits_M[row] = state["loss"], state["hits"]
        self.survived_M[row] = step


@dataclass(frozen=True)
class Training:
    """Everything that a training needs and moves.

    Attributes:
        population: M models, updated in place.
        optimizer: updates them.
        factors: [steps], the schedule: the base learning rates are multiplied by these numbers.
        batches: step -> batch.
        cadence: what is due when.
        precision: how a step computes.
        progress: where the training stands.
        recorder: captures a step to be replayed, see ``ReplayedStep``; None runs every step eagerly.
    """

    population: Population
    optimizer: Optimizer
    factors: Tensor
    batches: Batches
    cadence: Cadence
    precision: Precision
    progress: Progress
    recorder: Recorder | None = None


def train(
    training: Training, evaluate: Evaluate, watcher: Watcher | None = None, *, stop: Callable[[], bool]
) -> Iterator[Record]:
    """Train on from ``training.progress``, and hand out a record wherever one is due.

    Everything is a pure function of the arguments: the batch of a step depends on the step's number alone. Between
    records the caller may save or stop; the state that a resumed run needs is in the parts of ``training``.

    Args:
        training: is moved on.
        evaluate: measures the population on other data.
        watcher: looks at steps.
        stop: asked after each step; True ends the loop with a record of that step.

    Yields:
        Records; with no values at a step where only a checkpoint is due. A member whose loss was not finite is not
        evaluated any more, and its values are nan; when that has happened to all members, the loop ends.
    """
    progress, cadence, optimizer = training.progress, training.cadence, training.optimizer
    training.population.train()
    step, unwatched = _steps(training)
    while progress.step < cadence.steps:
        factor = training.factors[progress.step]
        x_MB, y_MB = training.batches(progress.step)
        watched = watcher is not None and watcher.before(progress.step + 1, x_MB, y_MB)
        loss_M = (step if watched else unwatched)(x_MB, y_MB, factor)
        progress.count(y_MB.shape[1])
        observed = watcher.after(optimizer.lr_M1[:, 0] * factor, loss_M) if watcher and watched else ({}, {})
        progress.stopping = stop()
        if progress.stopping or watched or cadence.halts(progress.step):
            yield _record(cadence, progress, optimizer.lr_M1 * factor, evaluate, observed)
            if progress.stopping or None not in progress.diverged_at():
                return


def _steps(training: Training) -> tuple[Do, Do]:
    """The eager step, and the step to use where nobody watches: the same, or its replay."""
    # A captured step is a whole step, with the sums that it adds to.
    note = training.progress.note if training.recorder is None else training.progress.add
    step = Step(training.population, training.optimizer, training.precision, note)
    return step, step if training.recorder is None else ReplayedStep(step, training.recorder)


def _record(cadence: Cadence, progress: Progress, lr_M1: Tensor, evaluate: Evaluate, observed: Observed) -> Record:
    """What is due after this step; an evaluation and a divergence come with a point of the training curves."""
    step = progress.step
    over = None not in progress.diverged_at()
    values, distributions = dict(observed[0]), observed[1]
    if over or cadence.due(step, cadence.log_every) or cadence.due(step, cadence.eval_every):
        values |= {**progress.take(), "lr": lr_M1[:, 0].tolist()}
    if not over and cadence.due(step, cadence.eval_every):
        measured = evaluate()
        progress.judge(measured)
        values |= measured
    return Record(step, step / cadence.per_epoch, values, distributions)
