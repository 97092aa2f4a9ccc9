"""Runs the probes inside a training: decides which are due, shows them the step, and keeps the training unchanged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from bnexp.config.checks import Positive, Range, checked, require_groups
from bnexp.config.registry import Bound
from bnexp.data import Split
from bnexp.probes import PROBES, Moment, Probe, Values
from bnexp.training.population import Population

State = dict[str, dict[str, Tensor]]
# Curves and histograms: tag -> one number per member; tag -> one list of numbers per member.
Observed = tuple[dict[str, list[float]], dict[str, list[list[float]]]]


@dataclass(frozen=True)
class Watch:
    """A probe with its settings from the config.

    Attributes:
        name: its name in ``PROBES``.
        every: its cadence in steps.
        images: size of the fixed probe batch.
        build: model, probe batch -> probe.
    """

    name: str
    every: int
    images: int
    build: Bound


def watches(groups: Mapping[str, Any]) -> list[Watch]:
    """Check the group ``probes`` of a config, word -> its options.

    Raises:
        ValueError: an unknown probe or option, a missing option, a value out of range.
    """
    require_groups("probes", groups)
    return [_watch(word, group) for word, group in groups.items()]


def _watch(word: str, group: Any) -> Watch:
    own = {"name": word, **group}
    every = checked(f"probes.{word}.every", own.pop("every", None), Positive)
    images = checked(f"probes.{word}.images", own.pop("images", None), Annotated[int, Range(least=2)])
    return Watch(word, every, images, PROBES.bind(own, setting=f"probes.{word}"))


class Observer:
    """The probes of a population's members; each probe measures the first step, every ``every`` steps, and the last.

    Members are measured one by one, even if they train as a stack. A member that is not finite before or after the step
    is not measured, and its values are nan.

    Args:
        population: the members to measure.
        wanted: one watch per probe.
        train: the training images; probe batches are drawn from them, the same for all members that see the same data.
        steps: the length of the run.
        label_smoothing: of the loss that is trained, see ``mean_loss``.

    Attributes:
        probes: word -> one probe per member.
    """

    def __init__(
        self,
        population: Population,
        wanted: Sequence[Watch],
        train: Split,
        steps: int,
        label_smoothing: float = 0.0,
    ) -> None:
        self._population, self._watches, self._steps = population, wanted, steps
        self._smoothing = label_smoothing
        self._looked_at: _Before | None = None
        members = len(population)
        like = population.theta_MP
        self._batches = {
            watch.name: train.mixed(watch.images).to(like.device, like.dtype).batch(slice(None), members)
            for watch in wanted
        }
        self.probes: dict[str, list[Probe]] = {
            watch.name: [
                _built(watch, member, x_B)
                for member, x_B in zip(population.members, self._batches[watch.name][0], strict=True)
            ]
            for watch in wanted
        }

    def left_out(self) -> list[str]:
        """What the first member's probes cannot show, a line each."""
        return [f"probes={word}: {line}" for word, (probe, *_) in self.probes.items() for line in probe.left_out]

    def due(self, step: int) -> bool:
        """True if a probe measures this step, counted from 1."""
        return bool(self._due(step))

    def _due(self, step: int) -> list[Watch]:
        return [watch for watch in self._watches if step == self._steps or _is_due(watch, step)]

    def before(self, step: int, x_MB: Tensor, y_MB: Tensor) -> None:
        """Copy everything that a step will change.

        Args:
            step: its number, from 1; a probe is due.
            x_MB: its batch.
            y_MB: its labels.
        """
        sound_M = torch.isfinite(self._population.theta_MP).all(1)
        parameters, buffers = _copies(self._population.parameters()), _copies(self._population.buffers.items())
        self._looked_at = _Before(step, x_MB, y_MB, self._due(step), sound_M, parameters, buffers)

    def after(self, lr_M: Tensor, loss_M: Tensor) -> Observed:
        """The measurements of the due probes at the step that ``before`` was called for.

        Args:
            lr_M: the step's learning rates.
            loss_M: its losses.
        """
        seen, self._looked_at = self._looked_at, None
        assert seen is not None
        sound_M = seen.sound_M & torch.isfinite(self._population.theta_MP).all(1) & torch.isfinite(loss_M)
        after, gradient = _copies(self._population.parameters()), _copies(self._population.gradients())
        step = _Step(seen, lr_M, after, gradient)
        return self._measured(step, sound_M.tolist())  # waits for the device

    def _measured(self, step: _Step, sound: Sequence[bool]) -> Observed:
        rows: list[Values] = [{} for _ in sound]
        with _unchanged(self._population):
            for row in (row for row, ok in enumerate(sound) if ok):
                for watch in step.begun.due:
                    probe = self.probes[watch.name][row]
                    kept = {} if _is_due(watch, step.begun.step) else dict(_copies(probe.slots.items()))
                    values = _named(watch.name, probe.measure(self._moment(row, watch, step)))
                    rows[row] |= {f"probe/{watch.name}/{quantity}": value for quantity, value in values.items()}
                    for name, slot in kept.items():  # a longer run does not measure this step
                        probe.slots[name].copy_(slot)
        return _by_tag(rows)

    def measures(self, word: str, step: int) -> bool:
        """True if a probe measures ``step`` whatever the length of the run."""
        return any(_is_due(watch, step) for watch in self._watches if watch.name == word)

    @torch.no_grad()
    def _moment(self, row: int, watch: Watch, step: _Step) -> Moment:
        """Restore a member's state from before the step, and describe the step for its probes."""
        for name, parameter in self._population.parameters():
            parameter[row].copy_(step.begun.parameters[name][row])
        for name, buffer in self._population.buffers.items():
            buffer[row].copy_(step.begun.buffers[name][row])
        model, (images_MB, labels_MB) = self._population.members[row].train(), self._batches[watch.name]
        before, after, gradient = (
            {name: stack[row] for name, stack in stacks.items()}
            for stacks in (step.begun.parameters, step.after, step.gradient)
        )
        return Moment(
            model=model,
            step=step.begun.step,
            x_B=step.begun.x_MB[row],
            y_B=step.begun.y_MB[row],
            images=images_MB[row],
            labels=labels_MB[row],
            before=before,
            after=after,
            gradient=gradient,
            lr=step.lr_M[row].item(),
            label_smoothing=self._smoothing,
        )

    def state(self, row: int) -> State:
        """The slots of one member's probes, on the CPU."""
        return {
            word: {name: slot.cpu().clone() for name, slot in probes[row].slots.items()}
            for word, probes in self.probes.items()
        }

    def load(self, row: int, state: State) -> None:
        """Restore the slots of one member's probes."""
        for word, slots in state.items():
            for name, slot in slots.items():
                self.probes[word][row].slots[name].copy_(slot)


def _built(watch: Watch, member: nn.Module, x_B: Tensor) -> Probe:
    """The probe of a member.

    Raises:
        ValueError: what the builder returns is none.
    """
    probe = watch.build(member, x_B)
    if not (isinstance(probe, Probe) and "slots" in vars(probe)):
        remedy = "derive its class from bnexp.probes.Probe, and call super().__init__()"
        raise ValueError(f"probes=[{watch.name}]: its builder returns a {type(probe).__name__}; {remedy}")
    return probe


def _is_due(watch: Watch, step: int) -> bool:
    """True if a probe measures ``step`` whatever the length of the run."""
    return step == 1 or step % watch.every == 0


@dataclass(frozen=True)
class _Before:
    """A step that is about to run: its batch, the due probes, and copies of everything it will change.

    Attributes:
        sound_M: members whose parameters are finite.
        parameters, buffers: name -> [M, ...].
    """

    step: int
    x_MB: Tensor
    y_MB: Tensor
    due: Sequence[Watch]
    sound_M: Tensor
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Step:
    """A step that has run; each tensor has one row per member."""

    begun: _Before
    lr_M: Tensor
    after: Mapping[str, Tensor]
    gradient: Mapping[str, Tensor]


def _by_tag(rows: Sequence[Values]) -> Observed:
    """Curves and histograms of all members; a member without a value gets nan, or an empty histogram."""
    kinds = {tag: isinstance(value, Tensor) for values in rows for tag, value in values.items()}
    curves = {tag: [float(values.get(tag, math.nan)) for values in rows] for tag, many in kinds.items() if not many}
    numbers = {tag: [values.get(tag, torch.empty(0)) for values in rows] for tag, many in kinds.items() if many}
    return curves, {tag: [torch.as_tensor(row).tolist() for row in rows] for tag, rows in numbers.items()}


def _named(word: str, values: Any) -> Values:
    """What a probe has measured; a tensor without axes is a number, and no histogram.

    Raises:
        ValueError: a probe of the user's measures something else than numbers with names.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"probes=[{word}]: measure returns a {type(values).__name__}; expected quantity -> number")
    for quantity, value in values.items():
        if not isinstance(value, Tensor | int | float):
            raise ValueError(f"probes=[{word}]: {quantity} is a {type(value).__name__}; expected a number or a tensor")
    return {
        quantity: value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
        for quantity, value in values.items()
    }


def _copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named}


@contextmanager
def _unchanged(population: Population) -> Iterator[None]:
    """Restore weights, gradients, buffers, modes and random generators after the with block."""
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
