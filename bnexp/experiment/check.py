"""Everything that can be wrong with a config, found before anything is written: for a run and for a sweep.

A run and a sweep go through ``check``, so that both refuse the same configs with the same words. It tries the model on
blank images; what depends on trained weights is left to the run.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnexp.config.schema import TrainConfig, from_dict, shape
from bnexp.data import Batches, Data, load
from bnexp.experiment.choices import Choices, bind, blank_model, build_optimizer
from bnexp.experiment.init_from import apply_norm_state, takeover
from bnexp.experiment.job import import_modules
from bnexp.experiment.machine import pick_device, prepare_machine
from bnexp.models.init import Init, adjust
from bnexp.models.layers import Linear, batch_norms, stored_weight
from bnexp.norms import NORMS, Norm
from bnexp.probes.observer import Observer
from bnexp.training import ema
from bnexp.training.loop import Cadence
from bnexp.training.population import Population

log = logging.getLogger(__name__)

# The factors of all steps are computed beforehand and kept on the device.
_MOST_STEPS = 10**7
# The server of jobs keeps data sets in memory up to so many bytes.
_MOST_BYTES = 2**30
# Jobs import these late, if they need them at all; none of them starts a thread.
_LIBRARIES = ("torch", "torchvision", "PIL", "sympy", "mpmath")


@dataclass(frozen=True)
class Size:
    """What one member of a population takes.

    Attributes:
        parameters: how many numbers are trained.
        nbytes: of parameters, gradients, optimizer state and buffers.
        operations: of the linear maps and convolutions in one step, forward and backward: 6 for each product of a
            weight and an input.
    """

    parameters: int
    nbytes: int
    operations: int


@dataclass(frozen=True)
class Checked:
    """Configs that can train as one population.

    Attributes:
        configs: one a member.
        choices: one a member.
        data: on the CPU.
        batches: of all members.
        cadence: the length of the run, and what is due when.
        size: of a member.
        unstackable: why members cannot run at once, or None if they can.
    """

    configs: Sequence[TrainConfig]
    choices: Sequence[Choices]
    data: Data
    batches: Batches
    cadence: Cadence
    size: Size
    unstackable: str | None


def check(configs: Sequence[TrainConfig], data: Data | None = None, *, starts: bool = True) -> Checked:
    """Find out whether configs can be trained as one population; sets up this process for it.

    Args:
        configs: one a member; they differ in nothing but the seed and numbers that may differ in a stack.
        data: of the configs, if it is at hand.
        starts: a member will start from initial weights or another run's, and not from its own checkpoint.

    Raises:
        ValueError: something that the user can mend, in one line.
    """
    config, choices = configs[0], [bind(each) for each in configs]
    prepare_machine(config)
    data = load(config.data) if data is None else data
    batches = make_batches(configs, data)
    cadence = make_cadence(config, batches.per_epoch)
    choices[0].schedule(cadence.steps)
    size = _tried(config, choices[0], data, batches.sizes(), cadence.steps, starts=starts)
    return Checked(configs, choices, data, batches, cadence, size, _unstackable(config))


def make_batches(configs: Sequence[TrainConfig], data: Data) -> Batches:
    """The members' training batches.

    Raises:
        ValueError: a batch is larger than the training set.
    """
    seeds = [config.seed for config in configs]
    return Batches(data, seeds, batch_size=configs[0].batch_size, drop_last=configs[0].drop_last)


def make_cadence(config: TrainConfig, per_epoch: int) -> Cadence:
    """Cadences in steps: an epoch where the config says nothing.

    Raises:
        ValueError: more steps than a schedule can hold.
    """
    steps = config.steps or config.epochs * per_epoch
    if steps > _MOST_STEPS:
        raise ValueError(f"steps={steps}: out of range; allowed is at most {_MOST_STEPS}")
    return Cadence(
        steps=steps,
        per_epoch=per_epoch,
        log_every=config.log_every,
        eval_every=config.eval_every or per_epoch,
        checkpoint_every=config.checkpoint_every or per_epoch,
    )


def _unstackable(config: TrainConfig) -> str | None:
    return "compile=true: torch.func.vmap does not go through the compiler" if config.compile else None


# --- a model tried on blank images ------------------------------------------------------------------------------------


def _tried(
    config: TrainConfig, choices: Choices, data: Data, batch_sizes: set[int], steps: int, *, starts: bool
) -> Size:
    """Do with a blank model what the run will do with the real one, and measure it."""
    with torch.device("meta"):  # has shapes and no storage
        parameters = sum(each.numel() for each in blank_model(config, choices, data, steps).parameters())
    _require_memory(choices.model.name, parameters)
    model = blank_model(config, choices, data, steps)
    apply_norm_state(model, config)
    largest = _try_batches(config, choices, model, data, batch_sizes)
    _check_norms(choices.norm.name, choices.model.name, dict(model.named_modules()))
    _say_ignored(config, model)
    if starts:
        _try_start(config, choices, model, data, largest)
    ema.attach(model, config.ema)
    population = Population([model])
    optimizer = build_optimizer([config], [choices], population)
    for line in Observer(population, choices.probes, data.train, steps).left_out():
        log.info(line)
    held = [population.theta_MP, population.gradient_MP, *population.buffers.values(), *optimizer.slots.values()]
    operations = 6 * config.batch_size * _products(model, data)
    return Size(parameters, sum(tensor.nbytes for tensor in held), operations)


def _require_memory(model: str, parameters: int) -> None:
    """Parameters, gradients and optimizer state must fit into this machine's memory."""
    needed = 16 * parameters
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        sizes = f"needs {needed / 2**30:.0f} GiB for {parameters:.3g} parameters, this machine has {there / 2**30:.0f}"
        raise ValueError(f"model={model}: {sizes} GiB; choose a smaller one")


def _try_batches(config: TrainConfig, choices: Choices, model: nn.Module, data: Data, batch_sizes: set[int]) -> int:
    """Run the model on blank batches as small as will occur; the size of the largest.

    Batches larger than every norm needs are alike, so that the largest tried is a small one.
    """
    entered: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
        for name, module in model.named_modules()
    ]
    enough = max((layer.least_values for layer in batch_norms(model)), default=2)
    modes = [(True, size) for size in sorted({min(size, enough) for size in batch_sizes}, reverse=True)]
    # Precise statistics are taken in batches as large as those of the training, but of eval_train images at most.
    precise = (True, min(config.batch_size, config.eval_train, enough))
    for mode, size in dict.fromkeys([*modes, precise, (False, 2)]):
        try:
            with torch.no_grad():
                model.train(mode)(torch.zeros(size, *data.shape))
        except ValueError as error:
            advice = "" if (mode, size) in modes else f", or a larger eval_train than {config.eval_train}"
            raise ValueError(f"{error}{advice} (layer {entered[-1]})") from None
        except RuntimeError as error:
            reason, name = str(error).partition("\n")[0], choices.model.name
            raise ValueError(f"model={name}: cannot take data of shape {data.shape}: {reason}") from None
    for hook in hooks:
        hook.remove()
    return modes[0][1]


def _check_norms(norm: str, model: str, layers: dict[str, nn.Module]) -> None:
    """Say which inputs a norm skipped because it is undefined there; refuse a norm that skipped all."""
    norms = {name: layer for name, layer in layers.items() if isinstance(layer, Norm)}
    if NORMS.capabilities(norm).needs_branches and not any(layer.closes_branch for layer in norms.values()):
        raise ValueError(
            f"norm={norm}: acts on residual branches, and model={model} has none; use model=resnet, resmlp"
        )
    skipped = [name for name, layer in norms.items() if layer.skipped]
    if skipped and len(skipped) == len(norms):
        raise ValueError(f"norm={norm}: undefined on vectors, and model={model} has nothing else; use ln, gn or bn")
    if skipped:
        log.info("norm=%s: undefined on vectors, nothing is normalized at %s", norm, ", ".join(skipped))


def _say_ignored(config: TrainConfig, model: nn.Module) -> None:
    """Say which settings of gains have no effect."""
    affine, gains = config.affine["name"], [norm.gain for norm in model.modules() if isinstance(norm, Norm)]
    if config.init_from is not None and affine != "usual":
        log.info("affine=%s: has no effect, as gains and biases are those of init_from", affine)
    elif config.affine.get("gain", 1) != 1 and all(gain is None for gain in gains):
        log.info(
            "affine.gain=%s: has no effect, as norm=%s has no gain here", config.affine["gain"], config.norm["name"]
        )


def _try_start(config: TrainConfig, choices: Choices, model: nn.Module, data: Data, size: int) -> None:
    """Whether a member can begin as the config says: from another run, or by rules for a first batch."""
    if config.init_from is not None:
        takeover(model, config)
        return
    init: Init = choices.init()
    restore = choices.affine().restore
    if restore and init.pretrain is not None:
        raise ValueError(f"affine=identity: init={choices.init.name} trains gains and biases; use affine=usual")
    if init.require is not None:
        init.require(model)
    images = torch.rand(size, *data.shape, generator=torch.Generator().manual_seed(0))
    adjust(model.train(), init, images, restore=restore)


@torch.no_grad()
def _products(model: nn.Module, data: Data) -> int:
    """Products of a weight and an input that the linear maps of a model take for one image."""
    found: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(output[0].numel() * stored_weight(layer)[0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    model.train(False)(torch.zeros(2, *data.shape))
    for hook in hooks:
        hook.remove()
    return sum(found)


# --- the jobs of a sweep ----------------------------------------------------------------------------------------------


def check_sweep(configs: Sequence[Mapping[str, Any]], begun: Sequence[bool]) -> int:
    """Check the configs of a sweep's jobs as their runs will; prints what it has found as its last line, in JSON.

    ``gpus``: how many the jobs may use; ``modules``: library modules that checking had to import; ``data``: options of
    data sets that are worth reading once for all; ``shapes``: shape -> size of a member, and why such jobs cannot be
    stacked, or null. Data sets are read once for each source, models are tried once a shape.

    Args:
        configs: one a job.
        begun: whether a job has trained before, and so will go on from its checkpoint.

    Raises:
        ValueError: the first thing that the user can mend.
    """
    before = set(sys.modules)
    todo = [from_dict(config) for config in configs]
    import_modules(list(dict.fromkeys(name for config in todo for name in config.imports)))
    for config in todo:
        bind(config)
        _require_any_device(config.device)
    alike: dict[str, dict[str, tuple[TrainConfig, bool]]] = {}
    # A job that has yet to start stands for all others of its shape: more of it can be wrong.
    for known, config, plain in sorted(zip(begun, todo, configs, strict=True), key=lambda job: job[0]):
        alike.setdefault(json.dumps(config.data, sort_keys=True), {}).setdefault(shape(plain), (config, not known))
    nbytes, shapes = 0, {}
    for options, by_shape in alike.items():
        data = load(json.loads(options))
        nbytes += data.nbytes()
        for key, (config, starts) in by_shape.items():
            shapes[key] = _answer(check([config], data, starts=starts))
    # A user's own source of data is unknown to the server of jobs.
    fits = nbytes <= _MOST_BYTES and not any(config.imports for config in todo)
    on_gpu = any(pick_device(config.device).type == "cuda" for config in todo)
    answer = {
        "gpus": torch.cuda.device_count() if on_gpu else 0,
        "modules": [name for name in sys.modules if name not in before and name.partition(".")[0] in _LIBRARIES],
        "data": [json.loads(options) for options in alike] if fits else [],
        "shapes": shapes,
    }
    print(json.dumps(answer))
    return 0


def _require_any_device(device: str) -> None:
    pick_device(device)
    if device.startswith("cuda:"):
        raise ValueError(f"device={device}: a sweep gives every job a device; use device=cuda, or CUDA_VISIBLE_DEVICES")


def _answer(checked: Checked) -> dict[str, Any]:
    return {**asdict(checked.size), "unstackable": checked.unstackable}
