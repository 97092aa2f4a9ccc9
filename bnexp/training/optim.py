"""Optimizers as update rules on the matrix of all parameters, theta_MP, for one member or many.

Each rule's numbers are columns [M, 1], so members of a population may differ in learning rate, momentum and weight
decay. For M = 1 the rules equal those in ``torch.optim``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bnexp.config.checks import Fraction, NonNegative, PositiveFloat
from bnexp.config.registry import Bound, Registry
from bnexp.models.layers import parameter_kinds
from bnexp.training.compiled import compiled
from bnexp.training.copies import to_cpu
from bnexp.training.kernels import own_updates
from bnexp.training.kernels.own_kernels import Way
from bnexp.training.population import Population

Slots = dict[str, Tensor]
# The relative distance that the roundings of two updates explain.
_ROUNDING = 1e-5
# (parameters theta_MP, slots, gradients [M, P], learning rates [M, 1]); changes parameters and slots.
Update = Callable[[Tensor, Slots, Tensor, Tensor], None]


@dataclass(frozen=True)
class Decay:
    """Which parameters decay; every optimizer has these options besides its own. See ``parameter_kinds``.

    Attributes:
        decay_norm: the gains and biases of norms, where the two options for each of them say nothing else.
        decay_weight: the weights.
        decay_bias: the biases that belong to no norm, such as the head's.
        decay_gain: the gains of norms, and all their other numbers but for the biases; None follows ``decay_norm``.
        decay_norm_bias: the biases of norms; None follows ``decay_norm``.
    """

    decay_norm: bool
    decay_weight: bool
    decay_bias: bool
    decay_gain: bool | None
    decay_norm_bias: bool | None

    def mask_P(self, population: Population) -> Tensor:
        """1 where a row of ``theta_MP`` decays, else 0, [P]."""
        gain, norm_bias = (self.decay_norm if own is None else own for own in (self.decay_gain, self.decay_norm_bias))
        decays = {"weight": self.decay_weight, "bias": self.decay_bias, "gain": gain, "norm_bias": norm_bias}
        kinds = parameter_kinds(population.members[0])
        return population.mask_P(name for name, kind in kinds.items() if decays[kind])


# Of the weights of a unit, in adaptive clipping: their epsilon, so that a unit at zero can leave it.
_LEAST_NORM = 1e-3

# A builder takes the population, what ``Decay.mask_P`` says, and its own options only.
OPTIMS = Registry("optim", shared=Decay)


class Optimizer(ABC):
    """An update rule and its state.

    Args:
        population: its parameters are updated by their gradients.
        decays_P: 1 where a parameter decays, else 0.
        lr, weight_decay: [M, 1].

    Attributes:
        lr_M1: base learning rates; the schedule's factor multiplies them.
        slots: state by name, each with one row per member.
        clip_grad: the largest norm of a member's gradient to update by; None for any.
        clip_units: clips the gradients of units, before ``clip_grad`` does; None does not.
        frozen_MP: see ``freeze``.
    """

    clip_grad: float | None = None
    clip_units: Callable[[Tensor], Tensor] | None = None
    frozen_MP: Tensor | None = None
    _average_decay: float | None = None
    _compiles = False
    _compiled: Update | None = None

    def __init__(self, population: Population, decays_P: Tensor, *, lr: Tensor, weight_decay: Tensor) -> None:
        self.theta_MP, self.gradient_MP = population.theta_MP, population.gradient_MP
        self.lr_M1 = lr
        self._own_kernels = population.own_kernels
        self.decay_MP = weight_decay * decays_P if bool(weight_decay.any()) else None
        self.slots: Slots = {}

    def freeze(self, frozen_MP: Tensor) -> None:
        """Fix the parameters where ``frozen_MP`` is True: their gradients count as 0, and they do not decay."""
        self.frozen_MP = frozen_MP
        if self.decay_MP is not None:
            self.decay_MP = self.decay_MP.masked_fill(frozen_MP, 0)

    def average(self, decay: float) -> None:
        """Average the parameters after each step in the slot ``average``: a <- decay * a + (1 - decay) * theta.

        The average starts at the present parameters. ``torch.optim.swa_utils.AveragedModel`` with
        ``get_ema_multi_avg_fn(decay)`` does the same if it is updated once before the first step, when it copies.
        """
        self._average_decay = decay
        self.slots["average"] = self.theta_MP.clone()

    def compile(self) -> None:
        """Have torch.compile write the update as few kernels, at the first step."""
        self._compiles = True

    def _by_compiler(self) -> Update:
        names = list(self.slots)

        def program(theta_MP: Tensor, g: Tensor, lr_M1: Tensor, *slots: Tensor) -> list[Tensor]:
            self._update(theta_MP, dict(zip(names, slots, strict=True)), g, lr_M1)
            return []

        fast = compiled(program, [self.theta_MP, self.gradient_MP, self.lr_M1, *self.slots.values()])

        def update(theta_MP: Tensor, slots: Slots, g: Tensor, lr_M1: Tensor) -> None:
            fast(theta_MP, g, lr_M1, *slots.values())

        return update

    def step(self, factor: Tensor, sound_M: Tensor | None = None) -> None:
        """Update all parameters by their gradients.

        Args:
            factor: a scalar; the base learning rates are multiplied by it.
            sound_M: False for the members that leave this step out, so that their parameters and slots stay.
        """
        with torch.no_grad():
            # Mask and clip a copy: probes read the gradient itself.
            g = self.gradient_MP if self.frozen_MP is None else self.gradient_MP.masked_fill(self.frozen_MP, 0)
            g = g if self.clip_units is None else self.clip_units(g)
            g = g if self.clip_grad is None else clipped(g, self.clip_grad)
            with nullcontext() if sound_M is None else self._kept(~sound_M.unsqueeze(1)):
                lr_M1 = self.lr_M1 * factor
                self._way()(self.theta_MP, self.slots, g, lr_M1)
                if self._average_decay is not None:
                    self.slots["average"].lerp_(self.theta_MP, 1 - self._average_decay)

    @contextmanager
    def _kept(self, out_M1: Tensor) -> Iterator[None]:
        """Put the members back at the end of the with block for which ``out_M1`` is True; it is read on the device."""
        moved = [self.theta_MP, *self.slots.values()]
        before = [each.clone() for each in moved]
        yield
        for now, old in zip(moved, before, strict=True):
            torch.where(out_M1, old, now, out=now)

    def _way(self) -> Update:
        """What updates: the compiled rule, the one as it is written, or an own kernel if times have chosen it."""
        if self._compiles:
            self._compiled = self._compiled or self._by_compiler()
            return self._compiled
        kernels, ways = self._own_kernels, self.ways()
        if kernels is None or not kernels.timed or len(ways) == 1:
            return self._update
        tries: dict[str, Way] = {name: partial(self.tried, way) for name, way in ways.items()}
        members, width = self.theta_MP.shape
        return ways[kernels.choose(f"update by {type(self).__name__}, {members} x {width}", tries, _ROUNDING)]

    def ways(self) -> dict[str, Update]:
        """The rule as it is written, in torch's operations, and by a kernel of bnexp's own if it has one."""
        own = _BY_OWN_KERNEL.get(type(self)._update)
        ways: dict[str, Update] = {"torch": self._update}
        return ways if own is None else ways | {"own": partial(own, self)}

    def tried(self, update: Update) -> list[Tensor]:
        """The parameters and slots behind an update with made-up gradients, slots and rates, none of which is small."""
        theta_MP, g = self.theta_MP.clone(), self.theta_MP.abs() + 1
        slots = {name: (g if slot.shape == g.shape else slot).clone() for name, slot in self.slots.items()}
        update(theta_MP, slots, g, torch.ones_like(self.lr_M1))
        return [theta_MP, *slots.values()]

    @abstractmethod
    def _update(self, theta_MP: Tensor, slots: Slots, g: Tensor, lr_M1: Tensor) -> None: ...

    def states(self) -> Callable[[int], dict[str, Tensor]]:
        """Begin to copy the slots to the CPU; returns row -> a member's slots, which waits for the copies."""
        slots = to_cpu(self.slots)
        return lambda row: {name: slot[row].clone() for name, slot in slots().items()}

    def load(self, row: int, state: dict[str, Tensor]) -> None:
        """Restore a member's slots.

        Raises:
            ValueError: the state belongs to another optimizer.
        """
        if {name: slot.shape[1:] for name, slot in self.slots.items()} != {k: v.shape for k, v in state.items()}:
            raise ValueError("the saved optimizer state belongs to another optimizer than the config describes")
        for name, slot in self.slots.items():
            slot[row].copy_(state[name])


@OPTIMS.register("sgd")
class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964; Nesterov's form of Sutskever et al. 2013), as in torch.

    b <- momentum * b + g + weight_decay * theta;  theta <- theta - lr * b  (nesterov: lr * (g + momentum * b)).
    The slot ``velocity`` is momentum * b. It is always 0 if momentum is 0, so such members can skip it, and a member's
    state does not depend on the others' momentum.
    """

    def __init__(
        self,
        population: Population,
        decays_P: Tensor,
        *,
        lr: PositiveFloat,
        momentum: Fraction,
        nesterov: bool,
        weight_decay: NonNegative,
    ) -> None:
        lr_M1, self.momentum_M1, weight_decay_M1 = columns(population, lr, momentum, weight_decay)
        super().__init__(population, decays_P, lr=lr_M1, weight_decay=weight_decay_M1)
        self.nesterov = nesterov
        self.moves_on = bool(self.momentum_M1.any())
        self.slots["velocity"] = torch.zeros_like(self.theta_MP)

    def _update(self, theta_MP: Tensor, slots: Slots, g: Tensor, lr_M1: Tensor) -> None:
        if self.decay_MP is not None:
            g = torch.addcmul(g, self.decay_MP, theta_MP)
        b = slots["velocity"].add_(g) if self.moves_on else g
        theta_MP.addcmul_(torch.addcmul(g, self.momentum_M1, b) if self.nesterov else b, lr_M1, value=-1)
        if self.moves_on:
            b.mul_(self.momentum_M1)

    def _by_own_kernel(self, theta_MP: Tensor, slots: Slots, g: Tensor, lr_M1: Tensor) -> None:
        how = {"nesterov": self.nesterov, "moves_on": self.moves_on}
        own_updates.sgd(theta_MP, slots["velocity"], g, lr_M1, self.momentum_M1, self.decay_MP, **how)


@OPTIMS.register("adam")
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, Algorithm 1); weight decay is an L2 term of the gradient, as in ``torch.optim.Adam``."""

    decoupled = False

    def __init__(
        self,
        population: Population,
        decays_P: Tensor,
        *,
        lr: PositiveFloat,
        beta1: Fraction,
        beta2: Fraction,
        eps: PositiveFloat,
        weight_decay: NonNegative,
    ) -> None:
        numbers = columns(population, lr, weight_decay, beta1, beta2, eps)
        lr_M1, weight_decay_M1, self.beta1_M1, self.beta2_M1, self.eps_M1 = numbers
        super().__init__(population, decays_P, lr=lr_M1, weight_decay=weight_decay_M1)
        self.slots["mean"] = torch.zeros_like(self.theta_MP)
        self.slots["square"] = torch.zeros_like(self.theta_MP)
        self.slots["t"] = torch.zeros_like(self.lr_M1)

    def _update(self, theta_MP: Tensor, slots: Slots, g: Tensor, lr_M1: Tensor) -> None:
        m, v = slots["mean"], slots["square"]
        share1_M1, share2_M1 = self._shares(slots["t"].add_(1))
        if self.decay_MP is not None and self.decoupled:
            theta_MP.mul_(1 - lr_M1 * self.decay_MP)
        elif self.decay_MP is not None:
            g = torch.addcmul(g, self.decay_MP, theta_MP)
        m.lerp_(g, (1 - self.beta1_M1).expand_as(m))
        v.mul_(self.beta2_M1).addcmul_(g * g, 1 - self.beta2_M1)
        root = (v / share2_M1).sqrt_().add_(self.eps_M1)
        theta_MP.addcdiv_(m * (lr_M1 / share1_M1), root, value=-1)

    def _by_own_kernel(self, theta_MP: Tensor, slots: Slots, g: Tensor, lr_M1: Tensor) -> None:
        shares = self._shares(slots["t"].add_(1))
        numbers = torch.cat([lr_M1, self.beta1_M1, self.beta2_M1, self.eps_M1, *shares], 1)
        given = theta_MP, slots["mean"], slots["square"], g, numbers, self.decay_MP
        own_updates.adam(*given, decoupled=self.decoupled)

    def _shares(self, t_M1: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the averages comes from gradients, and not from the zeros that they began with."""
        return 1 - self.beta1_M1**t_M1, 1 - self.beta2_M1**t_M1


@OPTIMS.register("adamw")
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2), as in ``torch.optim.AdamW``."""

    decoupled = True


# The rules that have a kernel of bnexp's own; those of derived classes have none.
_BY_OWN_KERNEL: dict[Callable[..., None], Callable[..., None]] = {
    SGD._update: SGD._by_own_kernel,
    Adam._update: Adam._by_own_kernel,
}


def clipped(gradient_MP: Tensor, most: float) -> Tensor:
    """Scale each member's gradient to an L2 norm of at most ``most``, as ``torch.nn.utils.clip_grad_norm_`` does.

    g * min(1, most / (||g|| + 1e-6)) over all parameters of the member (Pascanu et al. 2013, Algorithm 1).
    """
    norm_M1 = torch.linalg.vector_norm(gradient_MP, dim=1, keepdim=True)
    scale_M1: Tensor = most / (norm_M1 + 1e-6)
    return gradient_MP * scale_M1.clamp(max=1)


def units_clipped(population: Population, most: float, spared: Collection[str], gradient_MP: Tensor) -> Tensor:
    """Adaptive gradient clipping (Brock et al. 2021, eq. 3): G_i <- G_i * min(1, most * max(|W_i|, 1e-3) / |G_i|).

    i counts the units of a layer: W_i are the weights into one output, of a convolution at all its positions. Gains,
    biases and other vectors are clipped as a whole, as in the authors' code.

    Args:
        population: whose weights W are at hand.
        most: their lambda.
        spared: names of parameters that are not clipped; the paper spares the head.
        gradient_MP: G.
    """
    clipped_MP, weights = gradient_MP.clone(), dict(population.parameters())
    for name, g in population.views(clipped_MP):
        if name not in spared:
            limit = most * _unit_norm(weights[name]).clamp(min=_LEAST_NORM)
            g.mul_((limit / _unit_norm(g).clamp(min=1e-6)).clamp(max=1))
    return clipped_MP


def _unit_norm(stack: Tensor) -> Tensor:
    """The norm of each member's unit, of a parameter [M, units, ...], or of a whole vector [M, C]; for broadcasting."""
    axes = tuple(range(2 if stack.ndim > 2 else 1, stack.ndim))
    return torch.linalg.vector_norm(stack, dim=axes, keepdim=True) if axes else stack.abs()


def columns(population: Population, *numbers: Any) -> list[Tensor]:
    """Each number, or sequence with one number per member, as a column [M, 1] on the population's device."""
    like = population.theta_MP
    wide = [torch.as_tensor(number, device=like.device, dtype=like.dtype) for number in numbers]
    return [number.expand(len(like)).clone().unsqueeze(1) for number in wide]


def optimizer(rules: Sequence[Bound], population: Population) -> Optimizer:
    """Build one optimizer for a population whose members' rules differ at most in numbers.

    Args:
        rules: one per member, bound by ``OPTIMS``.
        population: its parameters are updated.
    """
    first = rules[0]
    options: dict[str, Any] = dict(first.options)
    for option, value in first.options.items():
        if isinstance(value, float):
            options[option] = [rule.options[option] for rule in rules]
    built: Optimizer = first.builder(population, first.shared.mask_P(population), **options)
    return built
