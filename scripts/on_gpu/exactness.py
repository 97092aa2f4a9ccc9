"""Every norm in three models, in every way to run it, against the CPU's eager steps in double precision."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnexp.config.compose import compose_all
from bnexp.config.schema import TrainConfig, from_dict
from bnexp.config.shipped import configs_folder
from bnexp.data import load
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
# Relative differences that double precision allows after six steps, and norms that amplify rounding, with the reason.
BOUND = 1e-9
AMPLIFIES = {
    "pca_whiten": (math.inf, "eigenvectors of close eigenvalues change their order or sign by rounding"),
    "weight_standardization": (1e-6, "it alone multiplies differences: 1e-12 of the weights is 7e-9 after 5 steps"),
}
# Filters that sum to zero answer 0 where an image is flat, up to rounding, which then decides the side of a ReLU.
_SMOOTH = ("activation=tanh",)
# Words of single norms; at the ordinary rate the losses of weight_standardization are soon infinite.
OWN = {
    "weight_standardization": ("optim.lr=0.001", "optim.momentum=0", *_SMOOTH),
    "scaled_ws": _SMOOTH,
    "centered_cosine": _SMOOTH,
}
# Relative difference of the first loss from the one in double precision.
FORMATS = {"tf32": 1e-2, "bf16": 1e-1, "fp16": 1e-1}
_DATA = ("data=digits", "data.validation=0", "data.train_limit=640", "data.test_limit=64", "eval_train=64")
_TRAINING = ("batch_size=48", "log_every=2", "optim.lr=0.02", "optim.momentum=0.9", "schedule=cosine")


@dataclass(frozen=True)
class Trained:
    """What a training of some members came to.

    Attributes:
        losses: the mean of the steps up to each record, [M].
        evaluated: measures of the evaluation after the last step, [M] each.
        weights: of all members by name, [M, ...].
        replays: how often a CUDA graph was replayed.
        capture_failed: why no more was, if a capture failed.
    """

    losses: list[list[float]]
    evaluated: Mapping[str, Sequence[float]]
    weights: Mapping[str, Tensor]
    replays: int
    capture_failed: str | None


def composed(*words: Sequence[str]) -> list[TrainConfig]:
    """The config of each list of words; one call for several is four times as fast as a call for each."""
    return [from_dict(each) for each in compose_all([tuple(each) for each in words], configs_folder())]


def built(config: TrainConfig, *, members: int = 1, stacked: bool = False) -> Setup:
    """Members with the seeds 0, 1, ..., ready to start."""
    return build([replace(config, seed=seed) for seed in range(members)], stacked=stacked)


def trained(config: TrainConfig, *, members: int, stacked: bool = False) -> Trained:
    """Train members to their end."""
    with counting_replays() as replays:
        setup = built(config, members=members, stacked=stacked)
        records = list(train(setup.training, setup.evaluate, None, stop=lambda: False))
        states = [setup.state(row) for row in range(members)]
    values = [record.values for record in records if "train/loss" in record.values]
    last = {name: numbers for name, numbers in values[-1].items() if name.endswith("/loss")}
    weights = {name: torch.stack([state["parameters"][name] for state in states]) for name in states[0]["parameters"]}
    losses = [list(each["train/loss"]) for each in values]
    return Trained(losses, last, weights, len(replays), setup.population.capture_failed)


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


def forget() -> None:
    """Free the GPU's memory of what is no longer used."""
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


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
    return max(each, key=lambda value: math.inf if math.isnan(value) else value)


def not_possible(norm: str, *, recorded: bool, stacked: bool) -> str | None:
    """Why a norm does not run in this way, by its capabilities."""
    can = NORMS.capabilities(norm)
    if recorded and not can.graph:
        return "waits for the device"
    return "does not stack" if stacked and not can.stacks else None


def words_of(norm: str, model: str, steps: int) -> tuple[str, ...]:
    """The training of a norm in a model."""
    return (f"norm={norm}", *MODELS[model], *_DATA, *_TRAINING, f"steps={steps}", *OWN.get(norm, ()))


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
        if recorded and device != "cpu" and not found.replays:
            faults.append(f"{way}: no step was replayed ({found.capture_failed})")
        forget()
    return [row | {"exempt": why} | ({"fault": "; ".join(faults)} if faults else {})]


def formats(norm: str, model: str, *, device: str, steps: int, members: int) -> list[Row]:
    """One norm in one model in the short number formats, recorded and stacked where it can be."""
    words, row, faults = (*words_of(norm, model, steps), "log_every=1"), {"norm": norm, "model": model}, []
    can, (amplified, why) = NORMS.capabilities(norm), AMPLIFIES.get(norm, (0.0, ""))
    ways = [(*words, f"precision={name}", f"device={device}", f"graph={can.graph}") for name in FORMATS]
    on_cpu, *configs = composed((*words, "precision=fp64", "device=cpu", "graph=false", "steps=1"), *ways)
    try:
        first = trained(on_cpu, members=members).losses[0]
    except ValueError as refused:
        return [row | {"tf32": f"refused: {refused}"}]
    for (name, bound), config in zip(FORMATS.items(), configs, strict=True):
        found = trained(config, members=members, stacked=can.stacks)
        row[name] = distance(found.losses[0], first)
        if not row[name] <= max(bound, amplified):
            faults.append(f"{name}: the first loss is {row[name]:.1e} from that in double precision")
        if not all(math.isfinite(loss) for losses in found.losses for loss in losses) or len(found.losses) < steps:
            faults.append(f"{name}: the losses are not finite")
        if can.graph and device != "cpu" and not found.replays:
            faults.append(f"{name}: no step was replayed ({found.capture_failed})")
        forget()
    return [row | {"exempt": why} | ({"fault": "; ".join(faults)} if faults else {})]


def data(words: Sequence[str], device: str) -> list[Row]:
    """Whether a data set that is prepared on the device has the CPU's numbers, bit for bit."""
    (config,) = composed(words)
    splits = zip(load(config.data, device).splits().items(), load(config.data).splits().values(), strict=True)
    row: Row = {"data": " ".join(words)}
    row |= {name: torch.equal(found.x.cpu(), wanted.x) for (name, found), wanted in splits}
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
