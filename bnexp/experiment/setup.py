"""Builds everything the training loop needs from configs, and checks it before any file is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from bnexp.config.metrics import RUNNING, Evaluated, Statistics
from bnexp.config.schema import TrainConfig
from bnexp.data import Data, Split, seen_by
from bnexp.evaluations import Pixels, Wanted, evaluation
from bnexp.evaluations.evaluator import Evaluator, Images
from bnexp.experiment.check import Checked, check, make_batches
from bnexp.experiment.choices import Choices, blank_model, build_optimizer
from bnexp.experiment.clock import Clock
from bnexp.experiment.init_from import Takeover, apply_norm_state, start_from, takeover
from bnexp.experiment.machine import own_kernels, pick_device, recorder, set_layout, wait_for
from bnexp.experiment.older import brought_up_to_date
from bnexp.experiment.pixel_scale import attach_scale, scale_of
from bnexp.models.init import Init, adjust, initialize
from bnexp.models.layers import batch_norms, largest_map
from bnexp.probes.observer import Observed, Observer
from bnexp.randomness import repeat_torch_draws, seed_streams, torch_seeded
from bnexp.runs.checkpoint import State
from bnexp.training import ema
from bnexp.training.evaluation import Measures
from bnexp.training.loop import Progress, Training
from bnexp.training.population import Population
from bnexp.training.precision import Precision, dtype_of, measuring
from bnexp.training.step import untried_kernels

# The most images in a forward pass of an evaluation, and on a CPU the most numbers in a feature map: 8 MB, most of
# which fits into the caches. ResNet-20 then needs half the time per image that batches of 1000 need.
_EVAL_BATCH_SIZE, _EVAL_MAP = 1000, 2**21
# The training images that evaluations read, in tags of metrics; ``train`` are the means over training batches.
_TRAIN_EVAL = "train_eval"


def build_model(config: TrainConfig, choices: Choices, data: Data, steps: int) -> nn.Module:
    """A member with the initial weights of its seed, on the CPU."""
    with torch_seeded(config.seed, "model"):  # layers of the user's own draw their weights as they are made
        model = blank_model(config, choices, data, steps)
    initialize(model, choices.init(), config.seed)
    choices.affine().fill(model)
    seed_streams(model, config.seed)
    return model


def start_member(
    config: TrainConfig,
    choices: Choices,
    member: nn.Module,
    data: Data,
    x_B: torch.Tensor,
    taken: Takeover | None = None,
) -> None:
    """Give a new member the weights it starts training with: another run's, or adjusted by the init on its first batch.

    Args:
        config: the member's settings.
        choices: the same settings, bound to their builders.
        member: a model from ``build_model``, on the device of the data.
        data: its training data.
        x_B: its first batch.
        taken: what it takes from the run that ``init_from`` names, if that has been read already.

    Raises:
        ValueError: the model or norm does not fit the run to start from.
    """
    if config.init_from is not None:
        start_from(member, config, data, taken or takeover(member, config))
        return
    init: Init = choices.init()
    adjust(member, init, x_B, restore=choices.affine().restore)
    if init.pretrain is not None:
        init.pretrain(member, data.train, config.seed)


@dataclass(frozen=True)
class Row:
    """What ``compare_statistics`` measures under one condition and one kind of statistics.

    Attributes:
        split, condition: see ``Evaluated``.
        statistics: the word of ``Statistics``; - for a model that needs none.
        measured: quantity -> value.
    """

    split: str
    condition: str
    statistics: str
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """A training that is ready to start; no file has been written yet. It is also the loop's ``Watcher``."""

    config: TrainConfig
    data: Data
    training: Training
    observer: Observer
    clock: Clock
    evaluations: Sequence[Wanted] = ()

    @property
    def population(self) -> Population:
        """The members."""
        return self.training.population

    def evaluate(self) -> Measures:
        """The measures of an evaluation during training."""
        with self._aside(), self.measuring():
            return self._evaluator()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Have the number formats and the kernels of evaluations during training inside the with block."""
        with measuring(self.config.precision), untried_kernels(), self.population.own_kernels or nullcontext():
            yield

    @cached_property
    def _evaluator(self) -> Evaluator:
        """What every run measures, what the settings ``ema`` and ``ema_weights`` add, and the chosen evaluations."""
        held_out = list(self._splits("validation", "test"))
        usual = [evaluation([_TRAIN_EVAL, *held_out], [RUNNING, Statistics("precise")])]
        if self.config.ema:
            averages = [(decay, corrected) for decay in self.config.ema for corrected in (False, True)]
            usual.append(evaluation(["test"], [Statistics("ema", decay=d, corrected=c) for d, c in averages]))
        if self._average_MP is not None:
            usual.append(evaluation(held_out, [Statistics("ema_weights")]))
        return self._evaluating([*usual, *self.evaluations])

    def _evaluating(self, wanted: Sequence[Wanted]) -> Evaluator:
        return Evaluator(
            self.population,
            wanted,
            Images({_TRAIN_EVAL: self._some} | self.data.splits(), self._some, **self._batch_sizes()),
            Pixels(self.data, self.config.data["whiten"]),
            average_MP=self._average_MP,
            decays=self.config.ema,
        )

    @property
    def _average_MP(self) -> torch.Tensor | None:
        """The averaged weights, if the config asks for them."""
        return self.training.optimizer.slots.get("average")

    def has_point(self, step: int, tag: str) -> bool:
        """True if a curve has a point at ``step`` whatever the length of the run."""
        first, _, rest = tag.partition("/")
        if first == "probe":
            return self.observer.measures(rest.partition("/")[0], step)
        cadence = self.training.cadence
        evaluated = first in (_TRAIN_EVAL, *self.data.splits()) and first != "train"
        return step % cadence.eval_every == 0 if evaluated else cadence.has_point(step)

    def measures_all(self, step: int) -> bool:
        """True if what has a memory, sums or probes, measures ``step`` whatever the length of the run."""
        words = [f"probe/{word}/" for word, (probe, *_) in self.observer.probes.items() if probe.slots]
        return all(self.has_point(step, tag) for tag in ("train/loss", *words))

    def due(self, step: int) -> bool:
        """See ``Observer.due``."""
        return self.observer.due(step)

    def before(self, step: int, x_MB: torch.Tensor, y_MB: torch.Tensor) -> None:
        """See ``Observer.before``."""
        with self._aside():
            self.observer.before(step, x_MB, y_MB)

    def after(self, lr_M: torch.Tensor, loss_M: torch.Tensor) -> Observed:
        """The probes' measurements; see ``Observer.after``."""
        with self._aside():
            return self.observer.after(lr_M, loss_M)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Exclude the time of the with block from the training rate, and compile and try no kernels for it.

        What a GPU still has to do belongs to the training.
        """
        wait_for(self.population.theta_MP.device)
        with self.clock.paused(), self._uncompiled(), untried_kernels():
            yield

    def compare_statistics(self, split: str | None) -> list[Row]:
        """The first member under all three kinds of statistics, averaged weights, and the chosen evaluations.

        Raises:
            ValueError: the data have no such split.
        """
        splits = list(self._splits(split) if split else self.data.splits())
        if not splits:
            raise ValueError(f"--split={split}: this run's data have none (allowed: {', '.join(self.data.splits())})")
        moves = bool(batch_norms(self.population.members[0]))
        kinds = [RUNNING, *([Statistics("precise"), Statistics("batch")] if moves else [])]
        kinds += [Statistics("ema_weights")] if self._average_MP is not None else []
        chosen = [each if split is None else each.only(split) for each in self.evaluations]
        rows: dict[Evaluated, Row] = {}
        with self._uncompiled():
            for part, values in self._evaluating([evaluation(splits, kinds), *chosen]).parts():
                word = part.statistics.word if moves or part.statistics != RUNNING else "-"
                row = rows.setdefault(replace(part, quantity=""), Row(part.split, part.condition, word))
                row.measured[part.quantity] = values[0]
        order = [*splits, _TRAIN_EVAL]
        return sorted(rows.values(), key=lambda row: (bool(row.condition), order.index(row.split)))

    def _uncompiled(self) -> AbstractContextManager[object]:
        """Turn torch.compile off: evaluation changes modes and batch sizes, and each change would recompile."""
        return torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext()

    def _splits(self, *names: str) -> dict[str, Split]:
        return {name: split for name, split in self.data.splits().items() if name in names}

    @cached_property
    def _some(self) -> Split:
        """The training images that evaluations read: of all classes, even if the files are sorted by class."""
        return self.data.train.mixed(self.config.eval_train)

    @cached_property
    def eval_batch_size(self) -> int:
        """Images per forward pass of an evaluation: the config's number, or one that suits the device and the model."""
        if self.config.eval_batch_size is not None:
            return self.config.eval_batch_size
        if self.population.theta_MP.device.type != "cpu":
            return _EVAL_BATCH_SIZE
        with self._uncompiled():
            largest = largest_map(self.population.members[0], self._some.x[:2])
        return max(1, min(_EVAL_BATCH_SIZE, _EVAL_MAP // largest))

    def _batch_sizes(self) -> dict[str, int]:
        train_batch_size = min(self.config.micro_batch_size, len(self._some))
        return {"batch_size": self.eval_batch_size, "train_batch_size": train_batch_size}

    def states(self, rows: Sequence[int]) -> Callable[[int], State]:
        """What ``state`` would return now, for these members: the copies begin, and nobody need wait for them here."""
        training, scale = self.training, scale_of(self.data)
        small = {  # first: to read a number waits for all that the device was told to do
            row: {
                "progress": training.progress.state(row),
                "precision": training.precision.state(row),
                "probes": self.observer.state(row),
            }
            for row in rows
        }
        step, own, slots = training.progress.step, training.population.states(), training.optimizer.states()
        return lambda row: {"step": step, **own(row), "optimizer": slots(row), **small[row], "scale": scale}

    def state(self, row: int) -> State:
        """Everything that resuming needs of one member."""
        return self.states([row])(row)

    def load(self, row: int, state: State) -> None:
        """Put a member back to where it was saved, by this version or an older one."""
        training = self.training
        state = brought_up_to_date(state, training.population)
        training.population.load(row, state)
        training.optimizer.load(row, state["optimizer"])
        training.progress.load(row, state["step"], state["progress"])
        training.precision.load(row, state["precision"])
        self.observer.load(row, state["probes"])

    def finite(self) -> list[bool]:
        """For each member, whether all its weights are finite."""
        finite: list[bool] = torch.isfinite(self.population.theta_MP).all(1).tolist()  # waits for the device
        return finite


def build(configs: Sequence[TrainConfig], *, stacked: bool, resumed: Sequence[bool] = ()) -> Setup:
    """Check configs, read the data, and build a population of one member per config.

    Args:
        configs: one per member; they may differ in the seed, the init and the numbers of the optimizer.
        stacked: see ``Population``.
        resumed: for each member, whether a checkpoint will be loaded into it, so that it needs no starting weights; by
            default none is resumed.

    Raises:
        ValueError: an error that the user can fix; nothing has been written then.
    """
    checked = check(configs, starts=not (resumed and all(resumed)))
    config, device = configs[0], pick_device(configs[0].device)
    dtype = dtype_of(config.precision)
    data = seen_by(checked.data.to(device, dtype), [each.seed for each in configs])
    batches = make_batches(configs, data)
    members = _members(checked, data, batches(0)[0], resumed)
    population = Population(
        members,
        stacked=stacked,
        recorder=recorder(config, device, draws=checked.draws),
        compiled=config.compile,
        own_kernels=own_kernels(config, device, stacked=stacked and len(configs) > 1),
    )
    optimizer = build_optimizer(configs, checked.choices, population)
    if config.compile:
        optimizer.compile()
    steps = checked.cadence.steps
    schedule = checked.choices[0].schedule(steps)
    training = Training(
        population=population,
        optimizer=optimizer,
        factors=torch.tensor([schedule(step) for step in range(steps)], device=device, dtype=dtype),
        batches=batches,
        cadence=checked.cadence,
        precision=Precision(config.precision, len(configs), device),
        progress=Progress(len(configs), device, dtype),
        label_smoothing=config.label_smoothing,
        accumulate=config.accumulate,
    )
    observer = Observer(population, checked.choices[0].probes, data.train, steps, config.label_smoothing)
    return Setup(config, data, training, observer, Clock(config.batch_size), checked.choices[0].evaluations)


def _members(checked: Checked, data: Data, x_MB: torch.Tensor, resumed: Sequence[bool]) -> list[nn.Module]:
    """The members, each with the weights it starts training with."""
    members = []
    for row, (config, choices) in enumerate(zip(checked.configs, checked.choices, strict=True)):
        member = build_model(config, choices, data, checked.cadence.steps).to(x_MB)
        attach_scale(member, config, data)
        if checked.draws:
            repeat_torch_draws(member, config.seed)
        if not (resumed and resumed[row]):
            start_member(config, choices, member, data.of(row), x_MB[row], checked.taken if row == 0 else None)
        apply_norm_state(member, config)
        ema.attach(member, config.ema)
        set_layout(config, member)
        members.append(member)
    return members
