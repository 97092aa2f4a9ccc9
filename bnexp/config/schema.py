"""Every setting of a run: default, type, unit and check. Standard library only; Hydra takes it as its schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, get_type_hints

from bnexp.config.checks import Fraction, OneOf, Positive, Range, checked

ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu", "silu", "identity")

# Settings that say where things are, not what is computed: two runs that differ in these alone are the same run.
WHERE = ("data.root", "imports")


@dataclass
class TrainConfig:
    """One training run. The groups (``model`` to ``schedule``) are ``{name: ..., option: value, ...}``.

    Raises:
        ValueError: a value is out of its range or not among its choices.
    """

    model: dict[str, Any] = field(default_factory=dict)
    norm: dict[str, Any] = field(default_factory=dict)
    affine: dict[str, Any] = field(default_factory=dict)
    init: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    # What is watched inside the training: word -> {name, every (steps), images (of the probe batch), options}.
    probes: dict[str, Any] = field(default_factory=dict)
    # The nonlinearity of every unit, and the side of it the norm is on.
    activation: Annotated[str, OneOf(ACTIVATIONS)] = "relu"
    placement: Annotated[str, OneOf(("before", "after"))] = "before"
    # The folder of a run whose last weights and statistics to start from; {seed} in it is this run's seed. Then what
    # becomes of the statistics of batch norms: taken over, fixed, forgotten, or measured anew on the training images.
    init_from: str | None = None
    norm_state: Annotated[str, OneOf(("keep", "frozen", "reset", "precise"))] = "keep"
    # Which parameters are trained; random_as_norms is as many others as norms have, chosen by the seed.
    trainable: Annotated[str, OneOf(("all", "norms", "head", "norms_and_head", "random_as_norms"))] = "all"
    # Sets initial weights, batch order, augmentation and dropout.
    seed: Annotated[int, Range(least=0, below=2**63)] = 0
    # Passes over the training set; `steps` (optimizer steps), when given, is used instead.
    epochs: Positive = 20
    steps: Annotated[int | None, Range(least=1)] = None
    # Images a step; the last batch of an epoch is smaller, or left out.
    batch_size: Positive = 64
    drop_last: bool = False
    # auto, cpu, cuda or cuda:N (checked against the machine when the run begins).
    device: str = "auto"
    precision: Annotated[str, OneOf(("fp32", "tf32", "bf16", "fp16"))] = "fp32"
    # CPU threads of this process; one is the fastest for small networks, and the steadiest.
    threads: Annotated[int, Range(least=1, most=1024)] = 1
    channels_last: bool = False
    compile: bool = False
    # On CUDA: record the kernels of one step, and replay them in the others (CUDA graph).
    graph: bool = False
    deterministic: bool = False
    # Steps between points of the training curves, evaluations and checkpoints; null is once an epoch.
    log_every: Positive = 10
    eval_every: Annotated[int | None, Range(least=1)] = None
    checkpoint_every: Annotated[int | None, Range(least=1)] = None
    # Images a forward pass of an evaluation (null is what suits the device); the number of training images an
    # evaluation reads, also for the precise statistics (Wu & Johnson 2021 find 1e3 to 1e4 to suffice).
    eval_batch_size: Annotated[int | None, Range(least=1)] = None
    eval_train: Annotated[int, Range(least=2)] = 10_000
    # Decay constants (weight of the old) of further running averages of batch norms to evaluate with.
    ema: list[Fraction] = field(default_factory=list)
    # Python modules to import first, where a user registers norms, models or data sets of their own.
    imports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, annotation in get_type_hints(type(self), include_extras=True).items():
            checked(name, getattr(self, name), annotation)
        if self.norm_state != "keep" and self.init_from is None:
            raise ValueError(f"norm_state={self.norm_state}: is about the run that init_from names; it must be keep")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that decides the result (all of it but ``WHERE``), with 1.0 and 1 as the same number."""
    kept = json.loads(json.dumps(config), parse_float=_shortest)
    for setting in WHERE:
        *path, last = setting.split(".")
        node = kept
        for key in path:
            node = node.get(key, {})
        node.pop(last, None)
    return dict(kept)


def _shortest(digits: str) -> float:
    number = float(digits)
    return int(number) if number.is_integer() else number


def config_hash(config: Mapping[str, Any]) -> str:
    """Sixteen hex digits that two configs share when they ask for the same run."""
    canonical = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for every setting in which two configs ask for different runs."""
    before, after = flat(identity(old)), flat(identity(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """``{"norm.groups": 8, "seed": 0, ...}``."""
    rows: dict[str, Any] = {}
    for key, value in config.items():
        rows |= {f"{key}.{k}": v for k, v in flat(value).items()} if isinstance(value, dict) else {key: value}
    return rows


def from_dict(config: Mapping[str, Any]) -> TrainConfig:
    """A config read back from a file; checked like one that was typed.

    Raises:
        ValueError: a key that this version does not know, or a value that it does not allow.
    """
    known = {setting.name for setting in fields(TrainConfig)}
    for key in config:
        if key not in known:
            raise ValueError(f"{key}: this version of bnexp has no such setting")
    return TrainConfig(**config)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain Python, ready for JSON."""
    return asdict(config)


STACKABLE = (("seed",), ("optim", "lr"), ("optim", "momentum"), ("optim", "weight_decay"), ("init", "gain"))


def shape(config: Mapping[str, Any]) -> str:
    """What a config says apart from stackable settings; equal for configs that can train as one population."""
    kept = json.loads(json.dumps(config))
    for *path, last in STACKABLE:
        node = kept
        for key in path:
            node = node.get(key, {})
        if last in node:
            node[last] = None
    return json.dumps(kept, sort_keys=True)
