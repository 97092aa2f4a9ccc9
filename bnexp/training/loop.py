"""The training loop: takes a population and its batches, yields records. It builds nothing and writes nothing.

No step waits for the device: losses, hits and the number of steps that each member survived are summed on the device,
and read only when a record is due.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from bnexp.record import Record
from bnexp.training.losses import accuracy, hits
from bnexp.training.optim import Optimizer
from bnexp.training.population import Population
from bnexp.training.precision import Precision
from bnexp.training.step import (
    MOST_TOGETHER,
    Batches,
    Done,
    Noted,
    NumberedStep,
    RecordableBatches,
    RecordedStep,
    Step,
)

# Number of steps that are added to the sums at once, where they are not replayed.
_MOST_NOTED = 16

# Metric tag -> one number per member.
Evaluate = Callable[[], Mapping[str, Sequence[float]]]
# A record's values and distributions.
Observed = tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[Sequence[float]]]]


class Watcher(Protocol):
    """Measures steps, before and after; it leaves the training unchanged."""

    def due(self, step: int) -> bool:
        """True if the watcher measures this step, counted from 1."""

    def before(self, step: int, x_MB: Tensor, y_MB: Tensor) -> None:
        """Copy all that a step that is due will change; called only for such a step."""

    def after(self, lr_M: Tensor, loss_M: Tensor) -> Observed:
        """Measurements of the step that ``before`` was called for."""


@dataclass(frozen=True)
class Cadence:
    """How often records, evaluations and checkpoints are due, in optimizer steps.

    Attributes:
        steps: the length of the run.
        per_epoch: steps of one pass over the training set.
        log_every, eval_every, checkpoint_every: steps between two; the last step is due for all three.
    """

    steps: int
    per_epoch: int
    log_every: int
    eval_every: int
    checkpoint_every: int

    def due(self, step: int, every: int) -> bool:
        """True if something with this cadence is due after ``step``."""
        return step % every == 0 or step == self.steps

    def has_point(self, step: int) -> bool:
        """True if the curves have a point at ``step`` whatever the length of the run."""
        return step % self.log_every == 0 or step % self.eval_every == 0

    def together(self, most: int, full: int) -> int:
        """How many steps to do at once, at most ``most``, where an epoch has ``full`` full batches.

        Between two records, or in an epoch if that is shorter, groups of this size and single steps are the fewest.
        """
        between = max(1, min(self.log_every, self.eval_every, self.checkpoint_every, full))
        return min(range(1, min(most, between) + 1), key=lambda size: (between // size + between % size, -size))

    def halts(self, step: int) -> bool:
        """True if the loop must yield a record after ``step``."""
        return any(self.due(step, every) for every in (self.log_every, self.eval_every, self.checkpoint_every))


class Progress:
    """The progress of a training: its step, and the sums since the last point of the curves.

    Args:
        members: M.
        device: the device that they train on.
        dtype: of the sum of losses.

    Attributes:
        step: optimizer steps done.
        stopping: True if the loop was asked to end at this step.
        point: the step after which the sums began.
        survived_M: steps before each member's first loss that was not finite.
        alive_M: True for members whose losses were all finite.
    """

    def __init__(self, members: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.step = 0
        self.stopping = False
        self.point = 0
        self.seen = 0
        self.loss_M = torch.zeros(members, device=device, dtype=dtype)
        self.hits_M = torch.zeros(members, dtype=torch.int64, device=device)
        self.alive_M = torch.ones(members, dtype=torch.bool, device=device)
        self.survived_M = torch.zeros(members, dtype=torch.int64, device=device)
        self._noted: list[Noted] = []

    def count(self, done: Done) -> None:
        """Count what was done."""
        self.step += done.steps
        self.seen += done.images

    def note(self, noted: Noted) -> None:
        """Keep what is known of a step; several steps are added to the sums together."""
        self._noted.append(noted)
        if len(self._noted) == _MOST_NOTED:
            self.add_up()

    def add_up(self) -> None:
        """Add the steps that were kept to the sums, on the device."""
        noted, self._noted = self._noted, []
        self.add(noted)

    def add(self, noted: Sequence[Noted]) -> None:
        """Add steps to the sums at once, on the device.

        Losses are added one by one, so the sum does not depend on how many steps are added together. Hits and survival
        are whole numbers, so all steps are counted in a few operations.
        """
        if not noted:
            return
        for step in noted:
            self.loss_M.add_(step.loss_M, alpha=step.y_MB.shape[1])
        if len(noted) == 1:  # in fewer kernels
            (loss_M, logits_MBK, y_MB), *_ = noted
            self.hits_M.add_(hits(logits_MBK, y_MB))
            self.survived_M.add_(self.alive_M.logical_and_(loss_M < math.inf))
            return
        losses, logits, classes = zip(*noted, strict=True)
        self.hits_M.add_(hits(torch.cat(logits, 1), torch.cat(classes, 1)))
        finite_SM = torch.stack(losses) < math.inf  # a cross-entropy is never -inf, and nan is not less
        alive_SM = torch.cat([self.alive_M.unsqueeze(0), finite_SM]).cumprod(0)
        self.survived_M.add_(alive_SM[1:].sum(0))
        self.alive_M.copy_(alive_SM[-1])

    def take(self, *, begin_anew: bool = True) -> dict[str, list[float]]:
        """The mean loss (nats) and ``accuracy`` over the training batches in the sums; then the sums begin anew.

        Args:
            begin_anew: False leaves the sums: a longer run has no point at this step, and goes on adding.
        """
        self.add_up()
        shares_M = accuracy(self.hits_M.to(self.loss_M), self.loss_M, self.seen)
        means = torch.stack([self.loss_M / self.seen, shares_M]).tolist()  # waits for the device
        if begin_anew:
            self.point, self.seen = self.step, 0
            self.loss_M.zero_()
            self.hits_M.zero_()
        return {"train/loss": means[0], "train/accuracy": means[1]}

    def judge(self, measured: Mapping[str, Sequence[float]]) -> None:
        """Count members that have no finite value in an evaluation as diverged in the step before it."""
        self.add_up()
        for row, values in enumerate(zip(*measured.values(), strict=True)):
            if not any(map(math.isfinite, values)) and self.alive_M[row]:  # the second one waits for the device
                self.alive_M[row] = False
                self.survived_M[row] = self.step - 1

    def diverged_at(self) -> list[int | None]:
        """For each member the step at which it diverged (its loss, or the evaluation after it, not finite), or None."""
        self.add_up()
        alive, survived = self.alive_M.tolist(), self.survived_M.tolist()  # waits for the device
        return [None if ok else steps + 1 for ok, steps in zip(alive, survived, strict=True)]

    def state(self, row: int) -> dict[str, Any]:
        """One member's progress as plain numbers."""
        self.add_up()
        sums = {"seen": self.seen, "loss": self.loss_M[row].item(), "hits": self.hits_M[row].item()}
        return {**sums, "point": self.point}

    def load(self, row: int, step: int, state: Mapping[str, Any]) -> None:
        """Restore a member's progress after ``step`` steps, whose losses were all finite."""
        self.step, self.seen, self.point = step, state["seen"], state.get("point", step)
        self.loss_M[row], self.hits_M[row] = state["loss"], state["hits"]
        self.survived_M[row] = step


@dataclass(frozen=True)
class Training:
    """Everything that the loop needs, and that it changes while training.

    Attributes:
        population: M models, updated in place.
        optimizer: updates the models.
        factors: [steps], the schedule: the base learning rates are multiplied by these numbers.
        batches: step -> batch; where the population records, see ``RecordableBatches``.
        cadence: the steps at which records, evaluations and checkpoints are due.
        precision: number formats of a step.
        progress: the step and the sums so far.
        label_smoothing, accumulate: see ``Step``.
    """

    population: Population
    optimizer: Optimizer
    factors: Tensor
    batches: Batches | RecordableBatches
    cadence: Cadence
    precision: Precision
    progress: Progress
    label_smoothing: float = 0.0
    accumulate: int = 1


def train(
    training: Training, evaluate: Evaluate, watcher: Watcher | None = None, *, stop: Callable[[], bool]
) -> Iterator[Record]:
    """Train from ``training.progress`` on, and yield a record at every step that needs one.

    The result is a pure function of the arguments: the batch of a step depends on the step's number alone. Between
    records the caller may save or stop; the state that resuming needs is in the parts of ``training``.

    Args:
        training: updated in place.
        evaluate: measures the population on other data.
        watcher: measures steps.
        stop: asked after each step, or the few that were done at once; True ends the loop with a record of that step.

    Yields:
        Records; without values at a step where only a checkpoint is due. A member whose loss was not finite is no
        longer evaluated, and its values are nan; when all members have diverged, the loop ends.
    """
    progress, cadence, optimizer = training.progress, training.cadence, training.optimizer
    training.population.train()
    watched_step, unwatched_step = _steps(training)
    while progress.step < cadence.steps:
        number = progress.step
        watched = watcher if watcher is not None and watcher.due(number + 1) else None
        if watched:
            watched.before(number + 1, *training.batches(number))
            done = watched_step(number)
        else:
            done = unwatched_step(number, _uninterrupted(cadence, watcher, number, unwatched_step.together))
        progress.count(done)
        factor = training.factors[progress.step - 1]
        observed = watched.after(optimizer.lr_M1[:, 0] * factor, done.loss_M) if watched else ({}, {})
        progress.stopping = stop()
        if progress.stopping or watched or cadence.halts(progress.step):
            yield _record(cadence, progress, optimizer.lr_M1 * factor, evaluate, observed)
            if progress.stopping or None not in progress.diverged_at():
                return


def _uninterrupted(cadence: Cadence, watcher: Watcher | None, number: int, most: int) -> int:
    """How many steps from this one on can be done at once: none is watched, and only the last may halt."""
    count = 1
    while count < most and not cadence.halts(number + count):
        if watcher is not None and watcher.due(number + count + 1):
            break
        count += 1
    return count


def _steps(training: Training) -> tuple[NumberedStep, NumberedStep | RecordedStep]:
    """The eager step for watched steps, and the step for all others: the eager step again, or its replay."""
    step = Step(
        training.population,
        training.optimizer,
        training.precision,
        label_smoothing=training.label_smoothing,
        accumulate=training.accumulate,
    )
    batches, factors, progress = training.batches, training.factors, training.progress
    eager = NumberedStep(step, batches, factors, progress.note)
    if training.population.recorder is None:
        return eager, eager
    batches = cast("RecordableBatches", batches)
    together = training.cadence.together(MOST_TOGETHER, batches.full)
    return eager, RecordedStep(step, batches, factors, progress.add, together=together)


def _record(cadence: Cadence, progress: Progress, lr_M1: Tensor, evaluate: Evaluate, observed: Observed) -> Record:
    """The record after this step; with an evaluation or after divergence it also has a point of the training curves."""
    step = progress.step
    over = None not in progress.diverged_at()
    values, distributions = dict(observed[0]), observed[1]
    if over or cadence.due(step, cadence.log_every) or cadence.due(step, cadence.eval_every):
        values |= {**progress.take(begin_anew=cadence.has_point(step)), "lr": lr_M1[:, 0].tolist()}
    if not over and cadence.due(step, cadence.eval_every):
        measured = evaluate()
        progress.judge(measured)
        values |= measured
    return Record(step, step / cadence.per_epoch, values, distributions)
