"""Every setting of a run: default, type, unit, check and role. Needs only the standard library; Hydra's schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from bnexp.config.checks import Fraction, OneOf, Positive, Range, Tag, checked

ACTIVATIONS = (
    *("relu", "leaky_relu", "elu", "selu", "softplus", "gelu", "silu", "mish"),
    *("sigmoid", "tanh", "identity"),
)

# In ``LATER_OPTIONS``: all names of a group.
ANY = "*"
# Options of groups that came after version 0.1: (group, name) -> option -> the value that runs without it had. A new
# option stands here, so that older run folders are read, found and resumed as before. A new setting outside of groups
# has the role ``Later``, and its default is that value.
LATER_OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("model", "lenet"): {"padding": 2},
    ("norm", "scaled_ws"): {"alpha": None},
    ("data", "image_folder"): {"holdout": None},
    ("data", "npz"): {"holdout": None},
    ("data", ANY): {"train_classes": None, "order": "shuffled", "label_noise": 0.0, "split_seed": "fixed"},
    ("optim", ANY): {"decay_weight": True, "decay_bias": True, "decay_gain": None, "decay_norm_bias": None},
}

# Groups of which any number can be chosen, as in ``probes=[ics,signal]``: word -> its options.
LISTS = {"probes": "probe", "evaluations": "evaluation"}

# Tags of the runs that claims and smoke tests make; lists and comparisons leave these runs out unless asked.
SET_ASIDE = ("claim", "smoke")

# Checkpoints that stay once a run is over, by ``checkpoint_keep``.
CHECKPOINTS = {"two": 2, "last": 1, "none": 0}


@dataclass(frozen=True)
class Role:
    """How a setting tells runs apart.

    Attributes:
        decides: the setting changes the result, so it enters the config's hash.
        compared: runs with different values belong to different arms.
        named: names of runs show it.
        stacks: members of one population may have different values.
        later: added after version 0.1; at its default value it does not enter the hash.
    """

    decides: bool = True
    compared: bool = True
    named: bool = True
    stacks: bool = False
    later: bool = False


Where = Role(decides=False, compared=False, named=False)  # the place of files or code
Kept = Role(decides=False, compared=False, named=False)  # which files a run leaves; their contents are the same
Remark = Role(decides=False, compared=False, named=False, stacks=True)  # what the user says of a run
Number = Role(stacks=True)  # a number that changes no tensor shape and no code path
Seed = Role(stacks=True, compared=False)  # arms are averaged over it
Later = Role(later=True)
_ORDINARY = Role()
_OPTIM = ("lr", "momentum", "beta1", "beta2", "eps", "weight_decay")


class Options(dict[str, Role]):
    """The roles of a group's options; options that are not listed have the ordinary role."""


@dataclass
class TrainConfig:
    """One training run. The groups (``model`` to ``schedule``) are ``{name: ..., option: value, ...}``.

    Raises:
        ValueError: a value is out of its range or not among its choices.
    """

    model: dict[str, Any] = field(default_factory=dict)
    norm: dict[str, Any] = field(default_factory=dict)
    affine: dict[str, Any] = field(default_factory=dict)
    init: Annotated[dict[str, Any], Options(gain=Number)] = field(default_factory=dict)
    data: Annotated[dict[str, Any], Options(root=Where)] = field(default_factory=dict)
    optim: Annotated[dict[str, Any], Options(dict.fromkeys(_OPTIM, Number))] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    # The probes: word -> {name, every (steps), images (of the probe batch), options}.
    probes: dict[str, Any] = field(default_factory=dict)
    # What evaluations measure besides: word -> {name, splits, statistics, quantities, options}.
    evaluations: Annotated[dict[str, Any], Later] = field(default_factory=dict)
    # The nonlinearity of every unit, and whether the norm comes before or after it.
    activation: Annotated[str, OneOf(ACTIVATIONS)] = "relu"
    placement: Annotated[str, OneOf(("before", "after"))] = "before"
    # The folder of a run whose last weights and statistics to start from; {seed} in it stands for this run's seed. Then
    # the running statistics of batch norms: copied, copied and fixed, reset, or measured on the training images.
    init_from: str | None = None
    norm_state: Annotated[str, OneOf(("keep", "frozen", "reset", "precise"))] = "keep"
    # Start from the source's best checkpoint by validation accuracy (checkpoint_best), not from its last.
    init_from_best: Annotated[bool, Later] = False
    # The mean and standard deviation that pixels are scaled by: of this run's training images, or of the run that
    # init_from names, whose weights were trained with them.
    pixel_scale: Annotated[str, OneOf(("own", "source")), Later] = "own"
    # Which parameters are trained; random_as_norms: as many numbers as norms have, chosen at random from other layers.
    trainable: Annotated[str, OneOf(("all", "norms", "head", "norms_and_head", "random_as_norms"))] = "all"
    # Sets initial weights, batch order, augmentation and dropout.
    seed: Annotated[int, Range(least=0, below=2**63), Seed] = 0
    # Passes over the training set; `steps` (optimizer steps), when given, is used instead.
    epochs: Positive = 20
    steps: Annotated[int | None, Range(least=1)] = None
    # End the run after so many evaluations in a row without a better validation accuracy; null trains to the end.
    stop_after: Annotated[int | None, Range(least=1), Later] = None
    # Images per step of the optimizer; the last batch of an epoch is smaller, or left out (drop_last).
    batch_size: Positive = 64
    drop_last: bool = False
    # Parts of a batch that go through the model one after another, to save memory. The gradient is the mean over
    # the whole batch; batch statistics are those of a part.
    accumulate: Annotated[Positive, Later] = 1
    # The share of the training target that is spread over all classes; evaluations use the plain cross-entropy.
    label_smoothing: Annotated[Fraction, Later] = 0.0
    # The largest L2 norm of a member's gradient; a larger gradient is scaled down to it. null: no limit.
    clip_grad: Annotated[float | None, Range(above=0), Later] = None
    # The largest norm of the gradient of a unit's weights, in norms of these weights; not of the head. null: no limit.
    clip_adaptive: Annotated[float | None, Range(above=0), Later] = None
    # The decay (weight of the old value) of an exponential average of the weights, which is evaluated too; null: none.
    ema_weights: Annotated[float | None, Range(above=0, below=1), Later] = None
    # auto, cpu, cuda or cuda:N (checked against the machine when the run starts).
    device: str = "auto"
    precision: Annotated[str, OneOf(("fp64", "fp32", "tf32", "bf16", "fp16"))] = "fp32"
    # CPU threads of this process; one is fastest for small networks, and its timings vary least.
    threads: Annotated[int, Range(least=1, most=1024)] = 1
    channels_last: bool = False
    compile: bool = False
    # On CUDA: capture steps as CUDA graphs, one or several at once, and replay them; auto does if the norm allows it.
    graph: Annotated[Any, bool | Literal["auto"]] = "auto"
    deterministic: bool = False
    # Steps between points of the training curves, evaluations and checkpoints; null means once per epoch.
    log_every: Positive = 10
    eval_every: Annotated[int | None, Range(least=1)] = None
    checkpoint_every: Annotated[int | None, Range(least=1)] = None
    # Checkpoints that stay: the last two (one may be damaged), the last alone, or none once the run is over.
    checkpoint_keep: Annotated[str, OneOf(tuple(CHECKPOINTS)), Kept] = "two"
    # Keep the best checkpoint by validation accuracy too, and the best before it.
    checkpoint_best: Annotated[bool, Kept] = False
    # Images per forward pass of an evaluation (null: chosen for the device), and training images that an evaluation
    # reads, also for the precise statistics (Wu & Johnson 2021 find 1e3 to 1e4 to suffice).
    eval_batch_size: Annotated[int | None, Range(least=1)] = None
    eval_train: Annotated[int, Range(least=2)] = 10_000
    # Decays (weight of the old value) of additional running averages of batch norms, each of which is evaluated.
    ema: list[Fraction] = field(default_factory=list)
    # Python modules to import first, in which a user registers norms, models or data sets.
    imports: Annotated[list[str], Where] = field(default_factory=list)
    # What you want to remember of the run: a sentence, and words by which `bnexp runs` finds it.
    notes: Annotated[str, Remark] = ""
    tags: Annotated[list[Annotated[str, Tag()]], Remark] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, annotation in get_type_hints(type(self), include_extras=True).items():
            checked(name, getattr(self, name), annotation)
        if self.norm_state != "keep" and self.init_from is None:
            raise ValueError(f"norm_state={self.norm_state}: needs init_from; without it use norm_state=keep")
        if self.pixel_scale != "own" and self.init_from is None:
            raise ValueError(f"pixel_scale={self.pixel_scale}: needs init_from; without it use pixel_scale=own")
        if self.init_from_best and self.init_from is None:
            raise ValueError("init_from_best=true: needs init_from; without it use init_from_best=false")

    @property
    def micro_batch_size(self) -> int:
        """The most images that go through the model at once in a step."""
        return -(-self.batch_size // self.accumulate)


@cache
def roles() -> Mapping[str, Role]:
    """The settings whose role is not ordinary: ``{"seed": Seed, "data.root": Where, ...}``."""
    found: dict[str, Role] = {}
    for name, annotation in get_type_hints(TrainConfig, include_extras=True).items():
        for extra in get_args(annotation)[1:] if get_origin(annotation) is Annotated else ():
            if isinstance(extra, Role):
                found[name] = extra
            elif isinstance(extra, Options):
                found |= {f"{name}.{option}": role for option, role in extra.items()}
    return found


def role(setting: str) -> Role:
    """The role of a setting, such as ``optim.lr``."""
    return roles().get(setting, _ORDINARY)


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide the result, without later settings that have their neutral value.

    1.0 and 1 become the same number.
    """
    config = with_older_words(config)
    left_out = [setting for setting, role in roles().items() if not role.decides]
    kept = _without(config, [*left_out, *_neutral(config)])
    return dict(json.loads(json.dumps(kept), parse_float=_shortest))


def with_older_words(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config in which ``graph=auto`` is false, as the default was before there was auto: they make the same run."""
    return {**config, "graph": False} if config.get("graph") == "auto" else config


def _without(config: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A config without some settings, given by their dotted names."""
    left_out = set(settings)
    options = {key.partition(".")[0] for key in left_out if "." in key}
    return {
        key: {name: option for name, option in value.items() if f"{key}.{name}" not in left_out}
        if key in options and isinstance(value, Mapping)
        else value
        for key, value in config.items()
        if key not in left_out
    }


def _neutral(config: Mapping[str, Any]) -> list[str]:
    """The later settings of a config whose value means what older versions did."""
    given = flat(config)
    return [setting for setting, value in _older(config).items() if given.get(setting, config.get(setting)) == value]


def _older(config: Mapping[str, Any]) -> dict[str, Any]:
    """The later settings of a config, by their dotted names, with the values that older runs had."""
    found = {setting: value for setting, value in defaults().items() if role(setting).later}
    for group, later in _later_options(config).items():
        found |= {f"{group}.{option}": value for option, value in later.items()}
    return found


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that an older version may have written, with the settings that it lacks, at that version's values."""
    settings = {key: value for key, value in _older(config).items() if "." not in key}
    groups = {group: {**config[group], **later, **config[group]} for group, later in _later_options(config).items()}
    return {**settings, **config, **groups}


def _later_options(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of a config whose builder has later options, with the values that older runs had."""
    found: dict[str, dict[str, Any]] = {}
    for (group, name), later in LATER_OPTIONS.items():
        if isinstance(config.get(group), Mapping) and name in (ANY, config[group].get("name")):
            found[group] = found.get(group, {}) | later
    return found


def _shortest(digits: str) -> float:
    number = float(digits)
    return int(number) if number.is_integer() else number


def config_hash(config: Mapping[str, Any]) -> str:
    """Sixteen hex digits that are equal for two configs that ask for the same run."""
    canonical = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for every setting that makes two configs ask for different runs."""
    before, after = flat(identity(old)), flat(identity(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    before, after = _older(old) | before, _older(new) | after
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested config with dotted keys: ``{"norm.groups": 8, "seed": 0, ...}``."""
    rows: dict[str, Any] = {}
    for key, value in config.items():
        rows |= {f"{key}.{k}": v for k, v in flat(value).items()} if isinstance(value, dict) else {key: value}
    return rows


def defaults() -> dict[str, Any]:
    """The settings at the values that they have where no file and no word gives one."""
    return {
        setting.name: setting.default if setting.default_factory is MISSING else setting.default_factory()
        for setting in fields(TrainConfig)
    }


def from_dict(config: Mapping[str, Any]) -> TrainConfig:
    """The config object of a dict read from a file; checked like a typed config.

    Raises:
        ValueError: this version does not know a key, or does not allow a value.
    """
    known = {setting.name for setting in fields(TrainConfig)}
    for key in config:
        if key not in known:
            raise ValueError(f"{key}: this version of bnexp has no such setting")
    return TrainConfig(**completed(config))


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The config as a dict of plain Python values, ready for JSON."""
    return asdict(config)


def checkpoints(config: Mapping[str, Any]) -> int:
    """The largest number of checkpoints that a finished run leaves."""
    last = CHECKPOINTS[config.get("checkpoint_keep", TrainConfig.checkpoint_keep)]
    return last + 2 * bool(config.get("checkpoint_best"))


def shape(config: Mapping[str, Any]) -> str:
    """The settings in which the members of a population must agree, as one text."""
    kept = _without(config, [setting for setting, role in roles().items() if role.stacks])
    return json.dumps(kept, sort_keys=True)
