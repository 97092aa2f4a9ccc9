"""Finds every error in a config before anything is written, for a run and for a sweep (``check_sweep``).

A run and a sweep both call ``check``, so that both refuse the same configs with the same messages. It tries the model
on blank images. Only the run itself can check what depends on trained weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnexp.config.defaults import usual
from bnexp.config.schema import TrainConfig
from bnexp.data import Batches, Data, load, seen_by
from bnexp.evaluations import Pixels
from bnexp.evaluations.require import require
from bnexp.experiment.choices import Choices, bind, blank_model, build_optimizer
from bnexp.experiment.init_from import Takeover, apply_norm_state, takeover
from bnexp.experiment.machine import limit_tries, prepare_machine
from bnexp.experiment.own_layers import watched
from bnexp.experiment.pixel_scale import attach_scale
from bnexp.experiment.remarks import remarks
from bnexp.memory import require as require_memory
from bnexp.models.init import Init, adjust
from bnexp.models.layers import Linear, least_values, stored_weight
from bnexp.norms import NORMS, Norm
from bnexp.probes.observer import Observer
from bnexp.training import ema
from bnexp.training.loop import Cadence
from bnexp.training.population import Population
from bnexp.training.precision import dtype_of

log = logging.getLogger(__name__)

# Upper limit of steps: the schedule's factors of all steps are computed beforehand and kept on the device.
_MOST_STEPS = 10**7


@dataclass(frozen=True)
class Size:
    """Size of one member of a population.

    Attributes:
        parameters: number of trained parameters.
        nbytes: bytes of parameters, gradients, optimizer state and buffers.
        saved: bytes of these in a checkpoint, which has no gradients.
        operations: operations of the linear maps and convolutions in one step, forward and backward: 6 for each product
            of a weight and an input.
    """

    parameters: int
    nbytes: int
    saved: int
    operations: int


@dataclass(frozen=True)
class Checked:
    """Configs that can train as one population.

    Attributes:
        configs: one per member.
        choices: one per member.
        data: the data set; ``seen_by`` says what each member sees of it.
        cadence: the length of the run, and the steps at which it logs, evaluates and saves.
        size: size of one member.
        unstackable: why the members cannot be stacked, or None if they can.
        taken: what the first member takes from the run that ``init_from`` names; None if it has weights of its own.
        draws: whether the model draws from torch's own generators in training.
    """

    configs: Sequence[TrainConfig]
    choices: Sequence[Choices]
    data: Data
    cadence: Cadence
    size: Size
    unstackable: str | None
    taken: Takeover | None
    draws: bool


def check(configs: Sequence[TrainConfig], data: Data | None = None, *, starts: bool = True) -> Checked:
    """Check whether configs can be trained as one population. Also prepares this process (threads, determinism, tries).

    Args:
        configs: one per member; they differ only in the seed and in numbers that may differ within a stack.
        data: the data set of the configs, if already loaded; else it is read for the device that they train on.
        starts: True if a member will start from initial weights or another run's weights, not from its own checkpoint.

    Raises:
        ValueError: an error that the user can fix; its message is one line.
    """
    config, choices = configs[0], [bind(each) for each in configs]
    device = prepare_machine(config)
    data = load(config.data, device) if data is None else data
    seen = seen_by(data, [each.seed for each in configs])
    batches = make_batches(configs, seen)
    _require_validation(config, seen)
    for each in configs:
        _require_below_1(each)
    cadence = make_cadence(config, batches.per_epoch)
    limit_tries(cadence.steps)
    choices[0].schedule(cadence.steps)
    _tell_of_rest(config, batches.size(cadence.steps - 1))
    size, taken, draws = _tried(config, choices[0], seen.of(0), batches.sizes(), cadence.steps, starts=starts)
    return Checked(configs, choices, data, cadence, size, _unstackable(config, draws=draws), taken, draws)


def make_batches(configs: Sequence[TrainConfig], data: Data) -> Batches:
    """The members' training batches.

    Raises:
        ValueError: a batch is larger than the training set, or has fewer images than ``accumulate`` has parts.
    """
    config = configs[0]
    batches = Batches(
        data,
        [each.seed for each in configs],
        batch_size=config.batch_size,
        drop_last=config.drop_last,
        ahead=data.train.y.device.type == "cuda",  # on a CPU, another thread would take the core of another job
    )
    least = min(batches.sizes())
    if config.accumulate > least:
        which, remedy = ("last batch", ", or drop_last=true") if least < config.batch_size else ("batch", "")
        raise ValueError(
            f"accumulate={config.accumulate}: more parts than the {which} has images; use at most {least}{remedy}"
        )
    return batches


def make_cadence(config: TrainConfig, per_epoch: int) -> Cadence:
    """When the run logs, evaluates and saves, in steps. Settings that the config leaves out mean one epoch.

    Raises:
        ValueError: the run has more steps than a schedule can hold.
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


def _tell_of_rest(config: TrainConfig, images: int) -> None:
    """Say that probes measure the last step on fewer images than the others, if it ends an epoch with a rest."""
    if config.probes and images < config.batch_size:
        log.info(
            "probes: the last step has the rest of an epoch, %d of %d images, so that what they measure on the step's "
            "batch is noisier there; drop_last=true leaves rests out",
            images,
            config.batch_size,
        )


def _require_validation(config: TrainConfig, data: Data) -> None:
    """Refuse settings that choose by validation accuracy if no images are set apart for it."""
    for setting, is_given in (("stop_after", config.stop_after), ("checkpoint_best", config.checkpoint_best)):
        if is_given and data.validation is None:
            given = str(getattr(config, setting)).lower()
            raise ValueError(f"{setting}={given}: needs validation images; use data.validation=0.1")


def _require_below_1(config: TrainConfig) -> None:
    """Refuse weights of averages that the run's number format rounds to 1, so that nothing new would enter."""
    betas = [(f"optim.{key}", config.optim.get(key)) for key in ("beta1", "beta2")]
    for setting, number in (*betas, *(("ema", decay) for decay in config.ema)):
        if number is not None and torch.tensor(number, dtype=dtype_of(config.precision)) == 1:
            raise ValueError(f"{setting}={number}: is 1 in float32; use a smaller number, or precision=fp64")


def _unstackable(config: TrainConfig, *, draws: bool) -> str | None:
    if draws:
        return f"model={config.model['name']}: draws from torch's own generator, which members would share"
    if not NORMS.capabilities(config.norm["name"]).stacks:
        return f"norm={config.norm['name']}: has no rule for the members of a population"
    return None


# --- a model tried on blank images ------------------------------------------------------------------------------------


def _tried(
    config: TrainConfig, choices: Choices, data: Data, batch_sizes: set[int], steps: int, *, starts: bool
) -> tuple[Size, Takeover | None, bool]:
    """Run a blank model through everything the run will do with the real model.

    Returns:
        Its size, what it would take from another run, and whether it draws from torch's own generators.
    """
    parameters = _parameters_that_fit(config, choices, data, steps)
    if not parameters:
        raise ValueError(f"model={choices.model.name}: has no parameters to train")
    model = blank_model(config, choices, data, steps).to(dtype_of(config.precision))
    apply_norm_state(model, config)
    attach_scale(model, config, data)
    # The first batch goes through the model as a whole too, for the init.
    parts = {part for size in batch_sizes for part in (size // config.accumulate, -(-size // config.accumulate))}
    with watched(model) as found:
        largest = _try_batches(config, choices, model, data, {config.batch_size, *parts})
    _check_norms(choices.norm.name, choices.model.name, dict(model.named_modules()))
    for line in remarks(config, model, steps):
        log.info(line)
    taken = _try_start(config, choices, model, data, largest) if starts else None
    ema.attach(model, config.ema)
    enough = least_values(model)
    require(choices.evaluations, config, model, _blank(model, enough, data), Pixels(data, config.data["whiten"]))
    population = Population([model])
    optimizer = build_optimizer([config], [choices], population)
    if optimizer.decay_MP is not None and not optimizer.decay_MP.any():
        log.info("optim.weight_decay=%s: has no effect, no trained parameter decays", config.optim["weight_decay"])
    for line in Observer(population, choices.probes, data.train, steps).left_out():
        log.info(line)
    kept = [population.theta_MP, *population.buffers.values(), *optimizer.slots.values()]
    saved = sum(tensor.nbytes for tensor in kept)
    operations = 6 * config.batch_size * _products(model, data)
    return Size(parameters, saved + population.gradient_MP.nbytes, saved, operations), taken, found.draws


def _parameters_that_fit(config: TrainConfig, choices: Choices, data: Data, steps: int) -> int:
    """Parameters, gradients, optimizer state and data must fit into the memory; how many parameters there are.

    Raises:
        ValueError: they do not.
    """
    with torch.device("meta"):  # tensors with shapes and no storage
        try:
            model = blank_model(config, choices, data, steps)
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            raise ValueError(f"model={choices.model.name}: too large for any machine; choose a smaller one") from None
    parameters = sum(each.numel() for each in model.parameters())
    # A parameter has its gradient, and two numbers of the optimizer or, while it is saved, two copies; perhaps an
    # average, and the gradient of the micro-batches so far.
    numbers = 4 + (config.ema_weights is not None) + (config.accumulate > 1)
    wide = dtype_of(config.precision).itemsize
    needed = wide * numbers * parameters + sum(each.nbytes for each in model.buffers())
    what = f"{parameters:.3g} parameters with gradients and optimizer state, and the data,"
    require_memory(f"model={choices.model.name}", needed + data.nbytes() * wide // 4, what)
    return parameters


def _try_batches(config: TrainConfig, choices: Choices, model: nn.Module, data: Data, batch_sizes: set[int]) -> int:
    """Run the model on blank batches of the smallest sizes that will occur; returns the largest size tried.

    Norms treat all batches above their minimum size alike, so no batch larger than that minimum is tried.
    """
    entered: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
        for name, module in model.named_modules()
    ]
    enough = least_values(model)
    modes = [(True, size) for size in sorted({min(size, enough) for size in batch_sizes}, reverse=True)]
    # Precise statistics come from batches of the training batch size, or of eval_train images if that is smaller.
    precise = (True, min(config.micro_batch_size, config.eval_train, enough))
    for mode, size in dict.fromkeys([*modes, precise, (False, 2)]):
        try:
            with torch.no_grad():
                logits = model.train(mode)(_blank(model, size, data))
        except ValueError as error:
            advice = "" if (mode, size) in modes else f", or a larger eval_train than {config.eval_train}"
            if config.accumulate > 1:
                advice += f", or a smaller accumulate than {config.accumulate}"
            raise ValueError(f"{error}{advice} (layer {entered[-1]})") from None
        except RuntimeError as error:
            reason, name = str(error).partition("\n")[0], choices.model.name
            raise ValueError(f"model={name}: cannot take data of shape {data.shape}: {reason}") from None
        if logits.shape != (size, data.classes):
            given, wanted = list(logits.shape), f"logits of shape [{size}, {data.classes}], images x classes"
            raise ValueError(f"model={choices.model.name}: answers a tensor of shape {given}, not {wanted}")
    for hook in hooks:
        hook.remove()
    return modes[0][1]


def _blank(model: nn.Module, size: int, data: Data) -> Tensor:
    """Images of zeros, in the type of the model's numbers."""
    return torch.zeros(size, *data.shape, dtype=next(model.parameters()).dtype)


def _check_norms(norm: str, model: str, layers: dict[str, nn.Module]) -> None:
    """Log the inputs that a norm skipped because it is undefined for them; refuse a norm that skipped them all."""
    norms = {name: layer for name, layer in layers.items() if isinstance(layer, Norm)}
    if NORMS.capabilities(norm).needs_branches and not any(layer.closes_branch for layer in norms.values()):
        raise ValueError(
            f"norm={norm}: acts on residual branches, and model={model} has none; use model=resnet, resmlp"
        )
    skipped = [name for name, layer in norms.items() if layer.skipped]
    if skipped and len(skipped) == len(norms):
        raise ValueError(f"norm={norm}: undefined on vectors, and model={model} has only vectors; use ln, gn or bn")
    if skipped:
        log.info("norm=%s: undefined on vectors, nothing is normalized at %s", norm, ", ".join(skipped))


def _try_start(config: TrainConfig, choices: Choices, model: nn.Module, data: Data, size: int) -> Takeover | None:
    """Check that a member can start as the config says: from another run, or by its init on a first batch."""
    if config.init_from is not None:
        taken = takeover(model, config)
        log.info("init_from=%s: starts a new run at step 0; bnexp resume goes on with an old one", config.init_from)
        if not taken.drawn and config.init["name"] != usual({})["init.name"]:
            log.info("init=%s: has no effect, because all weights come from init_from", config.init["name"])
        return taken
    init: Init = choices.init()
    restore = choices.affine().restore
    if restore and init.pretrain is not None:
        raise ValueError(f"affine=identity: init={choices.init.name} trains gains and biases; use affine=usual")
    if init.require is not None:
        init.require(model)
    images = torch.rand(size, *data.shape, generator=torch.Generator().manual_seed(0)).to(_blank(model, 1, data))
    adjust(model.train(), init, images, restore=restore)
    return None


@torch.no_grad()
def _products(model: nn.Module, data: Data) -> int:
    """Number of products of a weight and an input in the linear maps and convolutions of a model, for one image."""
    found: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(output[0].numel() * stored_weight(layer)[0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    model.train(False)(_blank(model, 2, data))
    for hook in hooks:
        hook.remove()
    return sum(found)
