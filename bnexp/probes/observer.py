"""Probes inside a training: which are due, what they get to see, and that nothing of it changes the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from bnexp.config.checks import Positive, Range, checked
from bnexp.config.registry import Bound
from bnexp.data import Split
from bnexp.probes import PROBES, Moment, Probe, Values
from bnexp.training.population import Population

State = dict[str, dict[str, Tensor]]
# Curves and histograms: tag -> a number a member, tag -> a list of numbers a member.
Observed = tuple[dict[str, list[float]], dict[str, list[list[float]]]]
# Takes the learning rates [M] and the losses [M] of the step that was observed.
Finish = Callable[[Tensor, Tensor], Observed]


@dataclass(frozen=True)
class Watch:
    """A probe as a config asks for it.

    Attributes:
        word: its name.
        every: its cadence in steps.
        images: size of the fixed probe batch.
        build: model, probe batch -> probe.
    """

    word: str
    every: int
    images: int
    build: Bound


def watches(groups: Mapping[str, Any]) -> list[Watch]:
    """Check the group ``probes`` of a config, word -> its options.

    Raises:
        ValueError: an unknown probe or option, a missing option, a value out of range.
    """
    return [_watch(word, group) for word, group in groups.items()]


def _watch(word: str, group: Any) -> Watch:
    if not isinstance(group, dict):
        raise ValueError(f"probes={word}: expected a list of names, such as probes=[{word}]")
    own = {"name": word, **group}
    every = checked(f"probes.{word}.every", own.pop("every", None), Positive)
    images = checked(f"probes.{word}.images", own.pop("images", None), Annotated[int, Range(least=2)])
    return Watch(word, every, images, PROBES.bind(own, setting=f"probes.{word}"))


class Observer:
    """The probes of a population's members, and when they are asked: at the first step, every so many, at the last.

    Members are measured one by one, whatever executes them in training. A member that is not finite, before or after
    the step, is not measured, and its values are nan.

    Args:
        population: what is watched.
        wanted: one a probe.
        train: the training images; probe batches are drawn from them, the same for all members.
        steps: the length of the run.

    Attributes:
        probes: word -> one probe a member.
    """

    def __init__(self, population: Population, wanted: Sequence[Watch], train: Split, steps: int) -> None:
        self._population, self._watches, self._steps = population, wanted, steps
        self._batches = {watch.word: train.mixed(watch.images) for watch in wanted}
        self.probes: dict[str, list[Probe]] = {
            watch.word: [watch.build(member, self._batches[watch.word].x) for member in population.members]
            for watch in wanted
        }

    def observe(self, step: int, x_MB: Tensor, y_MB: Tensor) -> Finish | None:
        """Look at a step that is about to be done.

        Args:
            step: its number, from 1.
            x_MB: its batch.
            y_MB: its labels.

        Returns:
            What is to be called when it has been done; None where nothing is due.
        """
        due = [watch for watch in self._watches if step in (1, self._steps) or step % watch.every == 0]
        if not due:
            return None
        sound_M = torch.isfinite(self._population.theta_MP).all(1)
        before = _copies(self._population.parameters())
        buffers = _copies(self._population.buffers.items())

        def finish(lr_M: Tensor, loss_M: Tensor) -> Observed:
            sound_M.logical_and_(torch.isfinite(self._population.theta_MP).all(1) & torch.isfinite(loss_M))
            after, gradient = _copies(self._population.parameters()), _copies(self._population.gradients())
            done = _Step(step, x_MB, y_MB, lr_M, before, after, gradient, buffers)
            return self._measured(due, done, sound_M.tolist())  # waits for the device

        return finish

    def _measured(self, due: Sequence[Watch], done: _Step, sound: Sequence[bool]) -> Observed:
        rows: list[Values] = [{} for _ in sound]
        with _unchanged(self._population):
            for row in (row for row, ok in enumerate(sound) if ok):
                for watch in due:
                    values = self.probes[watch.word][row].measure(self._moment(row, watch, done))
                    rows[row] |= {f"probe/{watch.word}/{quantity}": value for quantity, value in values.items()}
        return _by_tag(rows)

    @torch.no_grad()
    def _moment(self, row: int, watch: Watch, done: _Step) -> Moment:
        """Bring a member back to where it was before the step, and show that step."""
        for name, parameter in self._population.parameters():
            parameter[row].copy_(done.before[name][row])
        for name, buffer in self._population.buffers.items():
            buffer[row].copy_(done.buffers[name][row])
        model, batch = self._population.members[row].train(), self._batches[watch.word]
        before, after, gradient = (
            {name: stack[row] for name, stack in stacks.items()} for stacks in (done.before, done.after, done.gradient)
        )
        return Moment(
            model=model,
            step=done.step,
            x_B=done.x_MB[row],
            y_B=done.y_MB[row],
            images=batch.x,
            labels=batch.y,
            before=before,
            after=after,
            gradient=gradient,
            lr=done.lr_M[row].item(),
        )

    def state(self, row: int) -> State:
        """What one member's probes remember, on the CPU."""
        return {
            word: {name: slot.cpu().clone() for name, slot in probes[row].slots.items()}
            for word, probes in self.probes.items()
        }

    def load(self, row: int, state: State) -> None:
        """Put a member's memory back."""
        for word, slots in state.items():
            for name, slot in slots.items():
                self.probes[word][row].slots[name].copy_(slot)


@dataclass(frozen=True)
class _Step:
    """What is known of a step of all members; each tensor has a row a member."""

    step: int
    x_MB: Tensor
    y_MB: Tensor
    lr_M: Tensor
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    gradient: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]


def _by_tag(rows: Sequence[Values]) -> Observed:
    """Curves and histograms of all members; a member without a value gets nan, or no numbers."""
    kinds = {tag: isinstance(value, Tensor) for values in rows for tag, value in values.items()}
    curves = {tag: [float(values.get(tag, math.nan)) for values in rows] for tag, many in kinds.items() if not many}
    numbers = {tag: [values.get(tag, torch.empty(0)) for values in rows] for tag, many in kinds.items() if many}
    return curves, {tag: [torch.as_tensor(row).tolist() for row in rows] for tag, rows in numbers.items()}


def _copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named}


@contextmanager
def _unchanged(population: Population) -> Iterator[None]:
    """Put weights, gradients, buffers, modes and generators back as they were before the with block."""
    matrices = [population.theta_MP, population.gradient_MP, *population.buffers.values()]
    kept = [matrix.clone() for matrix in matrices]
    device = population.theta_MP.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for matrix, old in zip(matrices, kept, strict=True):
                matrix.copy_(old)
            population.train()
