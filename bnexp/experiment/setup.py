"""From configs to everything the training loop needs, checked before any file is written."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from bnexp.config.schema import TrainConfig
from bnexp.data import Batches, Data, Split, load
from bnexp.experiment.check import check_model, make_batches, make_plan
from bnexp.experiment.choices import Choices, bind
from bnexp.experiment.init_from import apply_norm_state, start_from
from bnexp.experiment.machine import prepare_machine, recorder, set_executor
from bnexp.models import Units
from bnexp.models.init import Init, adjust, initialize
from bnexp.models.layers import largest_map, norm_parameters
from bnexp.norms import Norm
from bnexp.probes.observer import Finish, Observed, Observer
from bnexp.randomness import seed_streams
from bnexp.runs.checkpoint import State
from bnexp.training import ema
from bnexp.training.evaluation import Measures, evaluate_all, evaluate_kinds
from bnexp.training.loop import Plan, Progress
from bnexp.training.optim import Optimizer, optimizer
from bnexp.training.population import Population
from bnexp.training.precision import Precision
from bnexp.training.step import Recorder
from bnexp.training.trainable import frozen_MP

log = logging.getLogger(__name__)
# At most so many images a forward pass of an evaluation, and on a CPU so many numbers in a map: 8 MB, of which caches
# keep a good part. ResNet-20 takes half as long an image as in batches of 1000.
_EVAL_BATCH_SIZE, _EVAL_MAP = 1000, 2**21


def build_model(config: TrainConfig, rule: Choices, data: Data, steps: int) -> nn.Module:
    """A member with the initial weights of its seed, on the CPU."""
    units = Units(rule.norm, config.activation, config.placement, steps)
    model: nn.Module = rule.model(data.shape, data.classes, units)
    initialize(model, rule.init(), config.seed)
    rule.affine().fill(model)
    seed_streams(model, config.seed)
    return model


def start_member(config: TrainConfig, rule: Choices, member: nn.Module, data: Data, x_B: torch.Tensor) -> None:
    """Bring a new member to where its training begins: another run's weights, or what its rules make of the data.

    Args:
        config: the member's settings.
        rule: the same, bound.
        member: as ``build_model`` makes it, on the device of the data.
        data: what it is trained on.
        x_B: its first batch.

    Raises:
        ValueError: the run to start from does not fit, or a layer cannot start as the rules say.
    """
    if config.init_from is not None:
        start_from(member, config, data.train.mixed(config.eval_train))
        return
    init: Init = rule.init()
    restore = rule.affine().restore
    if restore and init.pretrain is not None:
        raise ValueError(f"affine=identity: init={rule.init.name} trains gains and biases; use affine=usual")
    adjust(member, init, x_B, restore=restore)
    if init.pretrain is not None:
        init.pretrain(member, data.train, config.seed)


def _say_ignored(config: TrainConfig, model: nn.Module) -> None:
    """Say what was asked for of gains and has no effect."""
    affine, gains = config.affine["name"], [norm.gain for norm in model.modules() if isinstance(norm, Norm)]
    if config.init_from is not None and affine != "usual":
        log.info("affine=%s: has no effect, as gains and biases are those of init_from", affine)
    elif config.affine.get("gain", 1) != 1 and all(gain is None for gain in gains):
        log.info(
            "affine.gain=%s: has no effect, as norm=%s has no gain here", config.affine["gain"], config.norm["name"]
        )


@dataclass(frozen=True)
class Setup:
    """Everything that the loop needs, built and checked; no file has been written yet."""

    config: TrainConfig
    data: Data
    population: Population
    optimizer: Optimizer
    factors: torch.Tensor
    batches: Batches
    plan: Plan
    precision: Precision
    progress: Progress
    observer: Observer
    recorder: Recorder | None

    def evaluate(self) -> Measures:
        """What an evaluation in training records."""
        splits = {"train_eval": self._some} | self._splits("validation", "test")
        with self._uncompiled():
            measured = evaluate_all(self.population, splits, self._some, **self._batch_sizes())
            return measured | ema.evaluate_averages(
                self.population, self._splits("test"), self.config.ema, batch_size=self.eval_batch_size
            )

    def observe(self, step: int, x_MB: torch.Tensor, y_MB: torch.Tensor) -> Finish | None:
        """Have the probes that are due look at a step; see ``Observer``."""
        finish = self.observer.observe(step, x_MB, y_MB)
        if finish is None:
            return None

        def finish_uncompiled(lr_M: torch.Tensor, loss_M: torch.Tensor) -> Observed:
            with self._uncompiled():
                return finish(lr_M, loss_M)

        return finish_uncompiled

    def compare_statistics(self, split: str | None) -> Iterator[tuple[str, str, float, float]]:
        """Rows (split, statistics, accuracy, loss) of the first member.

        Raises:
            ValueError: the data have no such split.
        """
        splits = self._splits(split) if split else self.data.splits()
        if not splits:
            raise ValueError(f"--split={split}: this run's data have none (allowed: {', '.join(self.data.splits())})")
        for name, images in splits.items():
            with self._uncompiled():
                measured = evaluate_kinds(self.population, images, self._some, **self._batch_sizes())
            for kind, values in measured.items():
                yield name, kind, values["accuracy"][0], values["loss"][0]

    def _uncompiled(self) -> AbstractContextManager[object]:
        """Evaluation switches modes, statistics and batch sizes, each of which would be compiled anew."""
        return torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext()

    def _splits(self, *names: str) -> dict[str, Split]:
        return {name: split for name, split in self.data.splits().items() if name in names}

    @cached_property
    def _some(self) -> Split:
        """The training images that evaluations read: of all classes, also where the files are sorted by class."""
        return self.data.train.mixed(self.config.eval_train)

    @cached_property
    def eval_batch_size(self) -> int:
        """Images a forward pass of an evaluation: the config's, or what suits the device and the model."""
        if self.config.eval_batch_size is not None:
            return self.config.eval_batch_size
        if self.factors.device.type != "cpu":
            return _EVAL_BATCH_SIZE
        with self._uncompiled():
            largest = largest_map(self.population.members[0], self._some.x[:2])
        return max(1, min(_EVAL_BATCH_SIZE, _EVAL_MAP // largest))

    def _batch_sizes(self) -> dict[str, int]:
        train_batch_size = min(self.config.batch_size, len(self._some))
        return {"batch_size": self.eval_batch_size, "train_batch_size": train_batch_size}

    def state(self, row: int) -> State:
        """All of one member that a resumed run needs."""
        return {
            "step": self.progress.step,
            **self.population.state(row),
            "optimizer": self.optimizer.state(row),
            "progress": self.progress.state(row),
            "precision": self.precision.state(row),
            "probes": self.observer.state(row),
        }

    def load(self, row: int, state: State) -> None:
        """Put a member back to where it was saved."""
        self.population.load(row, state)
        self.optimizer.load(row, state["optimizer"])
        self.progress.load(row, state["step"], state["progress"])
        self.precision.load(row, state["precision"])
        self.observer.load(row, state["probes"])

    def finite(self, row: int) -> bool:
        """Whether a member's weights are all numbers."""
        return bool(torch.isfinite(self.population.theta_MP[row]).all())  # waits for the device


def build(configs: Sequence[TrainConfig], *, stacked: bool, resumed: Sequence[bool] = ()) -> Setup:
    """Read the data and build a population of one member a config.

    The configs differ at most in the seed, the init and the numbers of the optimizer.

    Args:
        configs: one a member.
        stacked: see ``Population``.
        resumed: for each member whether a checkpoint will be loaded into it, so that where it starts is of no matter;
            none will be where nothing is given.

    Raises:
        ValueError: anything the user can mend; nothing has been written then.
    """
    config, bound = configs[0], [bind(each) for each in configs]
    device = prepare_machine(config)
    data = load(config.data)
    batches = make_batches(configs, data)
    check_model(config, bound[0], data, batches.sizes())
    plan = make_plan(config, batches.per_epoch)
    pairs = zip(configs, bound, strict=True)
    members = [build_model(each, rule, data, plan.steps).to(device) for each, rule in pairs]
    data = data.to(device)
    batches = make_batches(configs, data)
    x_MB, _ = batches.at(0)
    for row, (each, rule) in enumerate(zip(configs, bound, strict=True)):
        if not (resumed and resumed[row]):
            start_member(each, rule, members[row], data, x_MB[row])
    _say_ignored(config, members[0])
    for member in members:
        apply_norm_state(member, config)
        ema.attach(member, config.ema)
        set_executor(config, member)
    population = Population(members, stacked=stacked)
    schedule = bound[0].schedule(plan.steps)
    return Setup(
        config=config,
        data=data,
        population=population,
        optimizer=build_optimizer(configs, bound, population),
        factors=torch.tensor([schedule(step) for step in range(plan.steps)], device=device),
        batches=batches,
        plan=plan,
        precision=Precision(config.precision, len(configs), device),
        progress=Progress(len(configs), device),
        observer=Observer(population, bound[0].probes, data.train, plan.steps),
        recorder=recorder(config, device),
    )


def build_optimizer(configs: Sequence[TrainConfig], bound: Sequence[Choices], population: Population) -> Optimizer:
    """What updates the parameters that are to be trained.

    Raises:
        ValueError: the model has no such parameters.
    """
    norms = norm_parameters(population.members[0])
    built = optimizer([rule.optim for rule in bound], population, norms)
    frozen = frozen_MP(configs[0].trainable, population, norms, [config.seed for config in configs])
    if frozen is not None:
        built.freeze(frozen)
    return built
