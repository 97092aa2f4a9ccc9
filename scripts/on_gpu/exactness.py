"""Every norm in three models, in every way to run it, against the CPU's eager steps in double precision."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnexp.config.compose import JobComposer
from bnexp.config.schema import TrainConfig, from_dict
from bnexp.config.shipped import configs_folder
from bnexp.data import load
from bnexp.experiment.dry_run import forget
from bnexp.experiment.setup import Setup, build
from bnexp.norms import NORMS
from bnexp.training.loop import train
from on_gpu.workers import Case, Row

MODELS = {
    "mlp": ("model=mlp", "model.depth=2", "model.width=32", "data.size=null"),
    "lenet": ("model=lenet", "data.size=16"),
    "resnet": ("model=resnet", "model.depth=8", "model.width=8", "data.size=8"),
}
# A step is recorded after three eager ones; a record every two steps, so that one step is replayed, and two at once.
STEPS, MEMBERS = 6, 3
# What ways differ in: recorded in a CUDA graph, all members at once.
WAYS = {"eager": (False, False), "recorded": (True, False), "stacked": (False, True), "both": (True, True)}
# Relative differences that double precision allows after six steps, and norms with more of them, with the reason.
BOUND = 1e-9
AMPLIFIES = {
    "pca_whiten": (1e-3, "eigenvectors of close eigenvalues change their order or sign by rounding"),
    "weight_standardization": (1e-6, "it alone multiplies differences: 1e-12 of the weights is 7e-9 after 5 steps"),
    "noisy_bn": (1e-8, "its normal numbers are float32"),
}
# Of these, the short formats are compared at the first loss alone, before rounding is amplified, and within this bound.
_DEPART, _OF_DEPARTING = ("pca_whiten", "weight_standardization"), (0.1, math.inf, math.inf)
# Graphs that are replayed at least: of one step, of two; of 3 batches of an evaluation, of all 4 of the next one.
_REPLAYS = 2 + 3 + 4
# Filters that sum to zero answer 0 where an image is flat, up to rounding, which then decides the side of a ReLU.
_SMOOTH = ("activation=tanh",)
# Words of single norms; at the ordinary rate the losses of weight_standardization are soon infinite.
OWN = {
    "weight_standardization": ("optim.lr=0.001", "optim.momentum=0", *_SMOOTH),
    "scaled_ws": _SMOOTH,
    "centered_cosine": _SMOOTH,
}
# Relative differences from a training in double precision that a number format allows: of the first loss, of all
# losses, and of the way that the weights have come. As a rule this is up to 0.1 for 16 bits on a CPU, 1e-5 for fp32 and
# 1e-3 for zca. Gradients of noise would make it 1.4, of the wrong sign 2, and none 1. In fp16 first steps may overflow
# and be left out, so that the way is shorter.
FORMATS = {"fp32": (1e-5, 1e-3, 0.02), "tf32": (1e-2, 2e-2, 0.2), "bf16": (2e-2, 0.1, 0.5), "fp16": (1e-2, 0.5, 0.95)}
_DATA = ("data=digits", "data.validation=0", "data.train_limit=640", "data.test_limit=64", "eval_train=64")
_TRAINING = ("batch_size=48", "log_every=2", "optim.lr=0.02", "optim.momentum=0.9", "schedule=cosine")
_EVALUATION = ("eval_every=4", "eval_batch_size=16")


@dataclass(frozen=True)
class Trained:
    """What a training of some members came to.

    Attributes:
        losses: the mean of the steps up to each record, [M].
        evaluated: measures of the evaluation after the last step, [M] each.
        weights: of all members by name, [M, ...].
        began: the same before the first step.
        replays: how often a CUDA graph was replayed.
        complaints: of captures that failed, also where something smaller was captured then, and of kernels.
        own: see ``own_of``.
    """

    losses: list[list[float]]
    evaluated: Mapping[str, Sequence[float]]
    weights: Mapping[str, Tensor]
    began: Mapping[str, Tensor]
    replays: int
    complaints: Sequence[str]
    own: str

    def moved(self) -> Tensor:
        """How all weights have changed, in one row."""
        return torch.cat([(each.double() - self.began[name].double()).flatten() for name, each in self.weights.items()])


def composed(*words: Sequence[str]) -> list[TrainConfig]:
    """The config of each list of words; one call for several is four times as fast as a call for each."""
    return [from_dict(each) for each in JobComposer(configs_folder())([tuple(each) for each in words])]


def built(config: TrainConfig, *, members: int = 1, stacked: bool = False) -> Setup:
    """Members with the seeds 0, 1, ..., ready to start."""
    return build([replace(config, seed=seed) for seed in range(members)], stacked=stacked)


def trained(config: TrainConfig, *, members: int, stacked: bool = False) -> Trained:
    """Train members to their end."""
    with counting_replays() as replays, complaints() as said:
        setup = built(config, members=members, stacked=stacked)
        began = weights_of(setup)
        records = list(train(setup.training, setup.evaluate, None, stop=lambda: False))
    values = [record.values for record in records if "train/loss" in record.values]
    last = {name: numbers for name, numbers in values[-1].items() if name.endswith("/loss")}
    losses = [list(each["train/loss"]) for each in values]
    return Trained(losses, last, weights_of(setup), began, len(replays), said, own_of(setup))


def own_of(setup: Setup) -> str:
    """How many layers have own kernels, of how many that could; the optimizer is counted as one."""
    chosen = list(setup.population.own_kernels.chosen.values()) if setup.population.own_kernels else []
    return f"{len(chosen) - chosen.count('torch')} of {len(chosen)}"


def weights_of(setup: Setup) -> dict[str, Tensor]:
    """The weights of all members by name, [M, ...]."""
    states = [setup.state(row)["parameters"] for row in range(len(setup.population))]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Append what a population says of captures that have failed, and of own kernels that cannot be used."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    log, keep = logging.getLogger("bnexp.training"), Keep(logging.WARNING)
    log.addHandler(keep)
    try:
        yield found
    finally:
        log.removeHandler(keep)


@contextmanager
def counting_replays() -> Iterator[list[None]]:
    """Append to the list in every replay of a CUDA graph."""
    replays: list[None] = []
    once = torch.cuda.CUDAGraph.replay

    def replay(graph: Any) -> None:
        replays.append(None)
        once(graph)

    torch.cuda.CUDAGraph.replay = replay
    try:
        yield replays
    finally:
        torch.cuda.CUDAGraph.replay = once


def distance(found: Any, wanted: Any) -> float:
    """The Euclidean length of the difference over that of what is wanted."""
    a, b = (torch.as_tensor(each, dtype=torch.float64, device="cpu") for each in (found, wanted))
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def apart(found: Trained, wanted: Trained) -> float:
    """The largest relative difference of the losses, the evaluation and the members' weights."""
    members = range(len(wanted.losses[0]))

    def rows(weights: Mapping[str, Tensor], row: int) -> Tensor:
        return torch.cat([each[row].double().flatten() for each in weights.values()])

    each = [distance(mine, theirs) for mine, theirs in zip(found.losses, wanted.losses, strict=True)]
    each += [distance(found.evaluated[name], values) for name, values in wanted.evaluated.items()]
    each += [distance(rows(found.weights, row), rows(wanted.weights, row)) for row in members]
    return worst(each)


def worst(numbers: Sequence[float]) -> float:
    """The largest, of which nan is larger than all."""
    return max(numbers, key=lambda value: math.inf if math.isnan(value) else value)


def not_possible(norm: str, *, recorded: bool, stacked: bool) -> str | None:
    """Why a norm does not run in this way, by its capabilities."""
    can = NORMS.capabilities(norm)
    if recorded and not can.graph:
        return "waits for the device"
    return "does not stack" if stacked and not can.stacks else None


def words_of(norm: str, model: str, steps: int) -> tuple[str, ...]:
    """The training of a norm in a model."""
    words = (*MODELS[model], *_DATA, *_TRAINING, *_EVALUATION)
    return (f"norm={norm}", *words, f"steps={steps}", *OWN.get(norm, ()))


def missing(found: Trained, steps: int, *, recorded: bool) -> str | None:
    """What was not replayed from CUDA graphs though it should have been, and own kernels that cannot be used."""
    if found.complaints:
        return "; ".join(found.complaints)
    few = recorded and steps == STEPS and found.replays < _REPLAYS
    return f"{found.replays} graphs were replayed, {_REPLAYS} or more were to be" if few else None


def exact(norm: str, model: str, *, device: str, steps: int, members: int) -> list[Row]:
    """All ways of one norm in one model, in double precision against the CPU."""
    words, row = (*words_of(norm, model, steps), "precision=fp64"), {"norm": norm, "model": model}
    ways = [(*words, f"device={device}", f"graph={recorded}") for recorded, _ in WAYS.values()]
    on_cpu, *configs = composed((*words, "device=cpu", "graph=false"), *ways)
    try:
        wanted = trained(on_cpu, members=members)
    except ValueError as refused:
        return [row | {"eager": f"refused: {refused}"}]
    bound, why = AMPLIFIES.get(norm, (BOUND, ""))
    faults = []
    for (way, (recorded, stacked)), config in zip(WAYS.items(), configs, strict=True):
        row[way] = not_possible(norm, recorded=recorded, stacked=stacked)
        if row[way]:
            continue
        found = trained(config, members=members, stacked=stacked)
        row[way] = apart(found, wanted)
        if not row[way] <= bound:
            faults.append(f"{way}: {row[way]:.1e} apart from the CPU")
        if said := missing(found, steps, recorded=recorded and device != "cpu"):
            faults.append(f"{way}: {said}")
        forget()
    return [row | {"exempt": why} | ({"fault": "; ".join(faults)} if faults else {})]


def formats(norm: str, model: str, *, device: str, steps: int, members: int) -> list[Row]:
    """One norm in one model in the formats of a training, recorded and stacked where it can be."""
    words, row, faults = (*words_of(norm, model, steps), "log_every=1"), {"norm": norm, "model": model}, []
    can, departs = NORMS.capabilities(norm), norm in _DEPART
    ways = [(*words, f"precision={name}", f"device={device}", f"graph={can.graph}") for name in FORMATS]
    on_cpu, *configs = composed((*words, "precision=fp64", "device=cpu", "graph=false"), *ways)
    try:
        wanted = trained(on_cpu, members=members)
    except ValueError as refused:
        return [row | {"tf32": f"refused: {refused}"}]
    for (name, bounds), config in zip(FORMATS.items(), configs, strict=True):
        found = trained(config, members=members, stacked=can.stacks)
        losses = [distance(*each) for each in zip(found.losses, wanted.losses, strict=True)]
        apart = {"first loss": losses[0], "worst loss": worst(losses), "way": distance(found.moved(), wanted.moved())}
        row |= {f"{name}, {what}": number for what, number in apart.items()} | {f"{name}, own": found.own}
        for (what, number), bound in zip(apart.items(), _OF_DEPARTING if departs else bounds, strict=True):
            if not number <= bound:  # nan is a fault, too
                faults.append(f"{name}: the {what} is {number:.1e} apart from that in double precision")
        if said := missing(found, steps, recorded=can.graph and device != "cpu"):
            faults.append(f"{name}: {said}")
        forget()
    why = AMPLIFIES[norm][1] if departs else ""
    return [row | {"exempt": why} | ({"fault": "; ".join(faults)} if faults else {})]


def data(words: Sequence[str], device: str) -> list[Row]:
    """Whether a data set that is prepared on the device has the CPU's numbers, bit for bit."""
    (config,) = composed(words)
    splits = zip(load(config.data, device).splits().items(), load(config.data).splits().values(), strict=True)
    row: Row = {"data": " ".join(words)}
    row |= {
        name: torch.equal(found.x.cpu(), wanted.x) and torch.equal(found.y.cpu(), wanted.y)
        for (name, found), wanted in splits
    }
    return [row if all(row.values()) else row | {"fault": "not the numbers of the CPU"}]


def data_cases(*, device: str, images: Path) -> list[Case]:
    """Numbers that are no bytes, whitened ones, and images of bytes."""
    npz = ("data=npz", f"data.path={images}/colour.npz", "data.layout=nhwc")
    return [
        Case(name, "on_gpu.exactness:data", {"words": words, "device": device})
        for name, words in {"floats": _DATA, "whitened": (*_DATA, "data.whiten=zca"), "bytes": npz}.items()
    ]


def cases(call: str, *, device: str, smoke: bool) -> list[Case]:
    """A case for each norm in each model."""
    given = {"device": device, "steps": 2 if smoke else STEPS, "members": 2 if smoke else MEMBERS}
    few = (("zca", "mlp"), ("bn", "lenet"))[: 2 if call == "exact" else 1]
    return [
        Case(f"{norm} in {model}", f"on_gpu.exactness:{call}", {"norm": norm, "model": model, **given})
        for norm, model in (few if smoke else ((norm, model) for model in MODELS for norm in NORMS))
    ]
