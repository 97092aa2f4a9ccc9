"""All optimizers, and those that torch has too against ``torch.optim`` on separate copies of the members, in float64.

Every name of the registry is tested: one that is added needs no line here, but where torch has it a case.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import SWITCHES, from_yaml
from interpreter import where_triton_runs
from torch import Tensor, nn

from bnexp.norms import NORMS
from bnexp.training.kernels import own_kernels
from bnexp.training.kernels.own_kernels import OwnKernels, Way
from bnexp.training.optim import OPTIMS, SGD, Optimizer, optimizer
from bnexp.training.population import Population
from bnexp.training.precision import Precision

ADAM = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.0, "decay_norm": True, **SWITCHES}
PLAIN_SGD = {"lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "decay_norm": True, **SWITCHES}
# One dict a case, and in it one list of changes for the three members.
CASES: dict[str, list[dict[str, Any]]] = {
    "plain": [{"name": "sgd", **PLAIN_SGD, "lr": lr} for lr in (0.1, 0.2, 0.05)],
    "momentum": [{"name": "sgd", **PLAIN_SGD, "momentum": m} for m in (0.9, 0.5, 0.0)],
    "nesterov": [{"name": "sgd", **PLAIN_SGD, "nesterov": True, "momentum": m, "lr": 0.02} for m in (0.9, 0.5, 0.2)],
    "decay": [{"name": "sgd", **PLAIN_SGD, "momentum": 0.9, "weight_decay": w} for w in (0.1, 0.0, 0.01)],
    "adam": [{"name": "adam", **ADAM, "lr": lr} for lr in (0.01, 0.02, 0.1)],
    "adam_decay": [
        {"name": "adam", **ADAM, "weight_decay": w, "eps": e} for w, e in ((0.1, 1e-8), (0.0, 1.0), (1.0, 1e-3))
    ],
    "adam_betas": [{"name": "adam", **ADAM, "beta1": a, "beta2": b} for a, b in ((0.0, 0.9), (0.9, 0.0), (0.9, 0.999))],
    "adamw": [
        {"name": "adamw", **ADAM, "weight_decay": w, "lr": lr} for w, lr in ((0.1, 0.01), (0.0, 0.1), (1.0, 0.05))
    ],
}
every_optimizer = pytest.mark.parametrize("name", list(OPTIMS))
FACTORS = [1.0, 1.0, 0.5, 0.5, 0.25, 1.0, 1.0, 0.1, 0.1, 0.0]
NORM_PARAMETERS = ["1.gain", "1.bias"]


def members(count: int = 3) -> list[nn.Module]:
    """Small networks with a norm, of different weights."""
    torch.manual_seed(0)
    norm = NORMS.bind({"name": "ln", "eps": 1e-5, "affine": True})
    return [nn.Sequential(nn.Linear(5, 7), norm(7), nn.Tanh(), nn.Linear(7, 3)).double() for _ in range(count)]


def reference(model: nn.Module, *, name: str, decay_norm: bool, lr: float, weight_decay: float, **rest: Any) -> Any:
    """The same rule of ``torch.optim``."""
    rest = {option: value for option, value in rest.items() if option not in SWITCHES}
    spared = [] if decay_norm else [model.get_parameter(name) for name in NORM_PARAMETERS]
    decaying = [p for p in model.parameters() if all(p is not other for other in spared)]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, **rest)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, lr=lr, betas=(rest["beta1"], rest["beta2"]), eps=rest["eps"])


def batch(step: int) -> Tensor:
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def loss(logits: Tensor) -> Tensor:
    """One number for each member."""
    return (logits * torch.linspace(-1, 2, 18, dtype=torch.float64).view(6, 3)).sin().sum((-2, -1))


def build(population: Population, configs: list[dict[str, Any]]) -> Optimizer:
    return optimizer([OPTIMS.bind(config) for config in configs], population)


def train(population: Population, rule: Optimizer, steps: range) -> None:
    for step in steps:
        x = batch(step)
        population.gradient_MP.zero_()
        loss(population(x.expand(len(population), *x.shape))).sum().backward()
        rule.step(torch.tensor(FACTORS[step], dtype=torch.float64))


def trained_by_torch(model: nn.Module, config: dict[str, Any], steps: range) -> nn.Module:
    rule = reference(model, **config)
    for step in steps:
        for group in rule.param_groups:
            group["lr"] = config["lr"] * FACTORS[step]
        rule.zero_grad()
        loss(model(batch(step))).backward()
        rule.step()
    return model


def of_yaml(name: str, **changes: Any) -> dict[str, Any]:
    return from_yaml("optim", name) | changes


def losses_of(name: str, options: dict[str, Any] | None = None) -> list[float]:
    """A convex loss, that of a linear regression, before each of 200 steps; by default the options are the yaml's."""
    torch.manual_seed(0)
    x, target = torch.randn(50, 4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    population = Population([nn.Linear(4, 1).double()])
    rule = optimizer([OPTIMS.bind(options or of_yaml(name))], population)
    losses = []
    for _ in range(200):
        population.gradient_MP.zero_()
        loss = F.mse_loss(population(x.unsqueeze(0))[0, :, 0], x @ target)
        loss.backward()
        rule.step(torch.ones((), dtype=torch.float64))
        losses.append(loss.item())
    return losses


def falls(losses: list[float]) -> bool:
    return losses[1] < losses[0] and losses[-1] < 0.8 * losses[0]


@every_optimizer
def test_every_optimizer_goes_down_a_convex_loss(name):
    assert falls(losses_of(name))


def test_an_optimizer_that_goes_up_would_be_found():
    class Backwards(SGD):
        def _update(self, theta_MP: Tensor, slots: dict[str, Tensor], g: Tensor, lr_M1: Tensor) -> None:
            super()._update(theta_MP, slots, -g, lr_M1)

    with OPTIMS.temporarily():
        OPTIMS.register("backwards")(Backwards)
        assert not falls(losses_of("backwards", {**of_yaml("sgd"), "name": "backwards"}))
        kernels = OwnKernels()
        rule = OPTIMS.bind({**of_yaml("sgd"), "name": "backwards"})
        optimizer([rule], Population([nn.Linear(4, 1)], own_kernels=kernels)).step(torch.ones(()))
    assert not kernels.chosen  # the kernel of the class that it is derived from does something else


@pytest.mark.parametrize("case", ["momentum", "decay", "adam"])
@pytest.mark.parametrize("wrong", ["it moves nothing", "it goes up", "it forgets"])
def test_an_update_by_other_numbers_is_found_before_the_first_step(case, wrong):
    """Though a step moves the parameters by little, and the slots begin at 0."""
    rule = build(Population(members()), CASES[case])
    update, before = rule.ways()["torch"], rule.tried(rule.ways()["torch"])

    def other(theta_MP: Tensor, slots: dict[str, Tensor], g: Tensor, lr_M1: Tensor) -> None:
        if wrong == "it goes up":
            update(theta_MP, slots, g, -lr_M1)
        elif wrong == "it forgets":
            for slot in slots.values():
                slot.zero_()
            update(theta_MP, slots, g, lr_M1)

    assert own_kernels._works("update", partial(rule.tried, update), before, 1e-5)
    assert not own_kernels._works("update", partial(rule.tried, other), before, 1e-5)
    assert all(not slot.any() for slot in rule.slots.values())


def test_what_is_set_after_the_compiler_was_asked_for_counts(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda program, dynamic: program)
    found = []
    for compiles in (False, True):
        population = Population(members())
        rule = build(population, CASES["decay"])
        if compiles:
            rule.compile()
        rule.freeze(population.theta_MP > 0)
        rule.average(0.9)
        train(population, rule, range(3))
        found.append([population.theta_MP, *rule.slots.values()])
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of torch.compile in torch 2.11
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_compiled_the_update_reads_and_writes_all_parameters_in_one_kernel(name):
    """The other ones of Adam are for the numbers of members: a power of each beta, and how long it has trained."""
    metrics = pytest.importorskip("torch._inductor.metrics")
    found = {}
    for how in ("as written", "compiled"):
        population = Population(members())
        rule = build(population, CASES["nesterov" if name == "sgd" else name])
        if how == "compiled":
            rule.compile()
        metrics.reset()
        train(population, rule, range(5))
        found[how] = population.theta_MP
    torch.testing.assert_close(found["compiled"], found["as written"], rtol=0, atol=1e-12)
    assert 1 <= metrics.generated_kernel_count <= {"sgd": 1, "adam": 4}[name]


def test_every_optimizer_that_torch_has_too_is_compared_with_it():
    shared = {name for name in OPTIMS if name in {known.lower() for known in vars(torch.optim)}}
    assert shared == {config["name"] for configs in CASES.values() for config in configs}


def last_way(layer: str, ways: Mapping[str, Way], rounding: float) -> str:
    """In the place of times: the own kernel."""
    first, *others = (way() for way in ways.values())
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-12)
    return list(ways)[-1]


def population_of(models: list[nn.Module], way: str, monkeypatch: pytest.MonkeyPatch) -> Population:
    """A population whose updates are computed in a way."""
    monkeypatch.setattr(own_kernels, "quickest", last_way)
    monkeypatch.setattr(torch, "compile", lambda program, dynamic: program)
    return Population(models, own_kernels=OwnKernels() if way == "own kernel" else None)


WAYS = ["as written", "written down", pytest.param("own kernel", marks=where_triton_runs)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("decay_norm", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_every_member_goes_the_way_torch_optim_goes_with_its_numbers(case, decay_norm, way, monkeypatch):
    configs = [config | {"decay_norm": decay_norm} for config in CASES[case]]
    ours = members()
    theirs = [trained_by_torch(copy.deepcopy(m), c, range(10)) for m, c in zip(ours, configs, strict=True)]
    before = copy.deepcopy(ours)
    population = population_of(ours, way, monkeypatch)
    rule = build(population, configs)
    if way == "written down":
        rule.compile()
    train(population, rule, range(10))
    if way == "own kernel":
        assert list(population.own_kernels.chosen.values()) == ["own"]
    for own, other, start in zip(ours, theirs, before, strict=True):
        for name, parameter in own.named_parameters():
            torch.testing.assert_close(parameter, other.get_parameter(name), rtol=0, atol=1e-12)
            assert (parameter - start.get_parameter(name)).abs().max() > 1e-3


# Step -> the members whose gradient overflows in it; and what it then holds.
OVERFLOWS = {0: [1], 2: [0], 3: [0, 2], 4: [1], 7: [0, 1, 2]}
BAD = [torch.inf, torch.nan, -torch.inf]


def spoil(gradients: Tensor, row: int) -> None:
    gradients.view(-1)[3 + row] = BAD[row]


@pytest.mark.parametrize("case", CASES)
def test_a_step_that_overflows_is_left_out_as_by_torchs_grad_scaler(case):
    configs, population = CASES[case], Population(members())
    rule, how = build(population, configs), Precision("fp16", 3, torch.device("cpu"))
    models = members()
    theirs = [(reference(m, **c), torch.amp.GradScaler("cpu")) for m, c in zip(models, configs, strict=True)]
    for step in range(10):
        x, spoilt = batch(step), OVERFLOWS.get(step, [])
        population.gradient_MP.zero_()
        (loss(population(x.expand(3, *x.shape))) * how.scale_M).sum().backward()
        for row in spoilt:
            spoil(population.gradient_MP[row], row)
        rule.step(torch.tensor(FACTORS[step], dtype=torch.float64), how.unscale(population.gradient_MP))
        for row, (own, (other, scaler)) in enumerate(zip(population.members, theirs, strict=True)):
            for group in other.param_groups:
                group["lr"] = configs[row]["lr"] * FACTORS[step]
            other.zero_grad()
            scaler.scale(loss(models[row](x))).backward()
            if row in spoilt:
                spoil(models[row].get_parameter("0.weight").grad, row)
            scaler.step(other)
            scaler.update()
            for name, parameter in own.named_parameters():
                torch.testing.assert_close(parameter, models[row].get_parameter(name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_step_left_out_leaves_weights_and_slots_bit_for_bit(case):
    population = Population(members())
    rule = build(population, CASES[case])
    train(population, rule, range(3))
    before = copy.deepcopy([(population.states()(row), rule.states()(row)) for row in range(3)])
    rule.step(torch.ones((), dtype=torch.float64), torch.tensor([False, True, False]))
    for row, (state, slots) in enumerate(before):
        same = [
            torch.equal(tensor, population.states()(row)["parameters"][name])
            for name, tensor in state["parameters"].items()
        ]
        assert all(same) == any(same) == (row != 1)
        if row != 1:
            assert all(torch.equal(slot, slots[name]) for name, slot in rule.states()(row).items())


@every_optimizer
def test_without_decay_norm_only_gains_and_biases_of_norms_keep_their_size(name):
    (member,) = members(1)
    nn.init.ones_(member.get_parameter("1.bias"))
    population = Population([member])
    before = copy.deepcopy(member.state_dict())
    build(population, [of_yaml(name, weight_decay=0.5, decay_norm=False)]).step(torch.ones((), dtype=torch.float64))
    for name, parameter in member.named_parameters():
        moved = not torch.equal(parameter.detach(), before[name])
        assert moved == (name not in NORM_PARAMETERS), name


# Of the parameters in ``members``: what each switch reaches, and the values that it has by default.
REACHED = {
    "decay_weight": ["0.weight", "3.weight"],
    "decay_bias": ["0.bias", "3.bias"],
    "decay_gain": ["1.gain"],
    "decay_norm_bias": ["1.bias"],
}


@every_optimizer
@pytest.mark.parametrize("decay_norm", [True, False])
@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("switch", REACHED)
def test_each_kind_of_parameter_has_a_switch(name, switch, value, decay_norm):
    (member,) = members(1)
    population = Population([member])
    population.theta_MP.fill_(1)
    build(population, [of_yaml(name, weight_decay=0.5, decay_norm=decay_norm) | {switch: value}]).step(
        torch.ones((), dtype=torch.float64)
    )
    by_law = [*REACHED["decay_weight"], *REACHED["decay_bias"], *(NORM_PARAMETERS if decay_norm else [])]
    wanted = {*by_law, *REACHED[switch]} if value else {*by_law} - {*REACHED[switch]}
    assert {key for key, parameter in member.named_parameters() if (parameter != 1).all()} == wanted


@pytest.mark.parametrize("case", CASES)
def test_a_saved_state_put_back_in_mid_run_continues_bitwise(case):
    population = Population(members())
    rule = build(population, CASES[case])
    train(population, rule, range(4))
    saved = copy.deepcopy([(population.states()(row), rule.states()(row)) for row in range(3)])
    train(population, rule, range(4, 9))
    other = Population(members())
    other_rule = build(other, CASES[case])
    train(other, other_rule, range(2))
    for row, (state, rule_state) in enumerate(saved):
        other.load(row, state)
        other_rule.load(row, rule_state)
    train(other, other_rule, range(4, 9))
    assert torch.equal(population.theta_MP, other.theta_MP)


@pytest.mark.parametrize("case", CASES)
def test_a_member_leaves_the_same_state_alone_and_among_others(case):
    together = Population(members())
    rule = build(together, CASES[case])
    train(together, rule, range(5))
    for row, (member, config) in enumerate(zip(members(), CASES[case], strict=True)):
        alone = Population([member])
        own = build(alone, [config])
        train(alone, own, range(5))
        assert torch.equal(alone.theta_MP[0], together.theta_MP[row])
        assert own.states()(0).keys() == rule.states()(row).keys()
        assert all(torch.equal(own.states()(0)[name], slot) for name, slot in rule.states()(row).items())


def test_a_saved_state_does_not_change_with_later_steps():
    population = Population(members())
    rule = build(population, CASES["adam"])
    train(population, rule, range(2))
    saved = rule.states()(1)
    kept = copy.deepcopy(saved)
    train(population, rule, range(2, 4))
    assert all(torch.equal(saved[name], kept[name]) for name in kept)


def test_the_state_of_another_optimizer_or_model_is_refused():
    population, wide = Population(members()), Population([nn.Linear(50, 50)])
    sgd, adam = build(population, CASES["plain"]), build(population, CASES["adam"])
    with pytest.raises(ValueError, match=r"^the saved optimizer state belongs to another optimizer"):
        sgd.load(0, adam.states()(0))
    with pytest.raises(ValueError, match=r"^the saved optimizer state belongs to another optimizer"):
        sgd.load(0, optimizer([OPTIMS.bind(CASES["plain"][0])], wide).states()(0))
