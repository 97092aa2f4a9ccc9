"""A population against ordinary modules trained one by one with ``torch.optim``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import SWITCHES, from_yaml
from torch import Tensor, nn

from bnexp.models import MODELS, Units
from bnexp.models.dropout import Dropout
from bnexp.models.init import INITS, initialize
from bnexp.norms import NORMS, BatchStatistics
from bnexp.randomness import seed_streams
from bnexp.training.optim import OPTIMS, Optimizer, optimizer
from bnexp.training.population import Population
from bnexp.training.precision import Precision

PLAIN = Precision("fp32", 3, torch.device("cpu"))
MLP = {"name": "mlp", "depth": 2, "width": 9, "dropout": 0.25}
MODEL_CONFIGS = {
    "lenet": {"name": "lenet", "padding": 2},
    "mlp": MLP,
    "cnn": {"name": "cnn", "widths": [3, 5], "kernel": 3, "head": "pool"},
    "plain": {"name": "plain", "depth": 8, "width": 3},
    "resmlp": {"name": "resmlp", "blocks": 2, "width": 9},
    "resnet": {"name": "resnet", "depth": 8, "width": 3},
    "rnn": {"name": "rnn", "width": 9, "statistics": "shared", "noise": 0.1},
}
SHAPE, CLASSES, BATCH = (1, 14, 14), 4, 12
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5}
SGD = {
    "name": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.01,
    "decay_norm": True,
    **SWITCHES,
}
ADAM = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1, "decay_norm": True, **SWITCHES}
OWN = {"sgd": SGD, "adam": {"name": "adam", **ADAM}, "adamw": {"name": "adamw", **ADAM}}
RULES = [
    *(OWN.get(name) or from_yaml("optim", name) for name in OPTIMS),
    SGD | {"nesterov": True},
]

EXECUTORS = pytest.mark.parametrize("stacked", [False, True], ids=["one_by_one", "stacked"])


def model(kind: str, norm: str, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    bound = NORMS.bind(from_yaml("norm", norm))
    built = MODELS.bind(MODEL_CONFIGS[kind])(SHAPE, CLASSES, Units(bound, "tanh", "before"))
    initialize(built, INITS.bind(from_yaml("init", "torch"))(), seed)
    seed_streams(built, seed)
    return built.to(dtype)


def models(kind: str = "mlp", norm: str = "bn", count: int = 3, dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    return [model(kind, norm, seed, dtype) for seed in range(count)]


def batch(step: int, members: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Of different images for every member."""
    source = torch.Generator().manual_seed(step)
    x = torch.randn(members, BATCH, *SHAPE, generator=source, dtype=torch.float64)
    return x.to(dtype), torch.randint(CLASSES, (members, BATCH), generator=source)


def rule_for(population: Population, config: dict[str, Any] = SGD) -> Optimizer:
    return optimizer([OPTIMS.bind(config)] * len(population), population)


def train(population: Population, rule: Optimizer, steps: range) -> Tensor:
    """Returns the last step's logits."""
    logits = torch.empty(0)
    for step in steps:
        x, y = batch(step, len(population), population.theta_MP.dtype)
        _, logits = population.learn(x, y, PLAIN)
        rule.step(torch.ones((), dtype=population.theta_MP.dtype))
    return logits


def train_alone(member: nn.Module, row: int, members: int, steps: range, dtype: torch.dtype) -> Tensor:
    """An ordinary module under ``torch.optim``, on the batches of one member."""
    rule = torch.optim.SGD(member.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    logits = torch.empty(0)
    for step in steps:
        x, y = batch(step, members, dtype)
        rule.zero_grad()
        logits = member(x[row])
        F.cross_entropy(logits, y[row]).backward()
        rule.step()
    return logits.detach()


def state(population: Population) -> dict[str, Tensor]:
    return {"theta": population.theta_MP.clone(), **{name: b.clone() for name, b in population.buffers.items()}}


# ------------------------------------------------------------------------------------- the same as ordinary training


# One model, with maps and vectors, has every norm, and one norm stands in every model. The swapped axes of pca_whiten
# amplify rounding; float32, one member and members one by one are a matter of the executor, not of the norm.
CASES = [
    *(("lenet", norm, torch.float64, 3, True) for norm in NORMS if norm not in ("bn", "pca_whiten")),
    *((kind, "bn", torch.float64, 3, stacked) for kind in MODEL_CONFIGS for stacked in (False, True)),
    *((kind, norm, torch.float64, 3, True) for kind in ("mlp", "resnet") for norm in ("none", "ln", "gn", "in")),
    *(("mlp", norm, torch.float32, 3, stacked) for norm in ("none", "ln") for stacked in (False, True)),
    *(("mlp", "bn", torch.float64, 1, stacked) for stacked in (False, True)),
]


@pytest.mark.parametrize(("kind", "norm", "dtype", "members", "stacked"), CASES, ids=str)
def test_members_train_as_separate_modules_do(kind, norm, dtype, members, stacked):
    alone = models(kind, norm, members, dtype)
    population = Population(copy.deepcopy(alone), stacked=stacked)
    logits = train(population, rule_for(population), range(5))
    own_logits = [train_alone(member, row, members, range(5), dtype) for row, member in enumerate(alone)]
    # It alone multiplies differences, so rounding too: 1e-12 of the weights is 7e-9 after 5 steps (2e-13 without norm).
    tolerance = 1e-9 if norm == "weight_standardization" else TOLERANCE[dtype]
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(logits, torch.stack(own_logits), **close)
    for name, stack in (*population.parameters(), *population.buffers.items()):
        own = [member.state_dict()[name] for member in alone]
        torch.testing.assert_close(stack, torch.stack(own), msg=lambda text, n=name: f"{n}: {text}", **close)
    for name, stack in population.gradients():
        own = [member.get_parameter(name).grad for member in alone]
        torch.testing.assert_close(stack, torch.stack(own), msg=lambda text, n=name: f"{n}: {text}", **close)
    population.train(False)
    x, _ = batch(9, members, dtype)
    own = [member.eval()(x[row]) for row, member in enumerate(alone)]
    torch.testing.assert_close(population(x), torch.stack(own), **close)


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "pca_whiten"])
def test_channels_last_changes_nothing_for_a_stack(norm):
    plainly, last = (Population(models("lenet", norm), stacked=True) for _ in range(2))
    for network in last.networks():
        network.register_forward_pre_hook(lambda _, x: x[0].contiguous(memory_format=torch.channels_last))
    for population in (plainly, last):
        train(population, rule_for(population), range(2))
    torch.testing.assert_close(last.theta_MP, plainly.theta_MP, rtol=1e-9, atol=1e-10)


@EXECUTORS
def test_a_member_whose_numbers_explode_leaves_the_others_alone(stacked):
    sound, sick = Population(models(), stacked=stacked), Population(models(), stacked=stacked)
    rules = rule_for(sound), rule_for(sick)
    dict(sick.parameters())["hidden1.linear.weight"][1].fill_(torch.inf)
    for population, rule in zip((sound, sick), rules, strict=True):
        train(population, rule, range(3))
    assert sick.theta_MP[1].isnan().any()
    assert torch.equal(sick.theta_MP[[0, 2]], sound.theta_MP[[0, 2]])


@EXECUTORS
def test_gradients_are_those_of_the_last_loss_only(stacked):
    population = Population(models(norm="none"), stacked=stacked)
    x, y = batch(0, 3)
    population.train(False)
    population.learn(x, y, PLAIN)
    first = population.gradient_MP.clone()
    population.learn(x, y, PLAIN)
    assert torch.equal(first, population.gradient_MP)
    assert first.abs().max() > 0


@EXECUTORS
def test_a_parameter_that_the_logits_do_not_depend_on_has_no_gradient(stacked):
    members = models()
    for member in members:
        member.register_parameter("spare", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    population = Population(members, stacked=stacked)
    population.gradient_MP.fill_(1)
    population.learn(*batch(0, 3), PLAIN)
    gradients = dict(population.gradients())
    assert torch.equal(gradients.pop("spare"), torch.zeros(3, 3, dtype=torch.float64))
    assert all(gradient.any() for gradient in gradients.values())


@EXECUTORS
def test_dropout_masks_are_bitwise_those_of_a_member_alone(stacked):
    def member(seed: int) -> nn.Module:
        linear = nn.Linear(50, 50, bias=False)
        nn.init.eye_(linear.weight)
        built = nn.Sequential(linear, Dropout(0.5))
        seed_streams(built, seed)
        return built

    population, alone = Population([member(seed) for seed in range(3)], stacked=stacked), [member(s) for s in range(3)]
    x = torch.ones(3, 20, 50)
    for _ in range(3):
        together = population(x)
        assert torch.equal(together, torch.stack([one(x[0]) for one in alone]))
        assert not torch.equal(together[0], together[1])


# --------------------------------------------------------------------------------------------------------- its layout


@EXECUTORS
def test_parameters_and_buffers_of_members_are_views_before_and_after_training(stacked):
    population = Population(models("lenet"), stacked=stacked)
    rule = rule_for(population)
    for _ in range(2):
        parameters, gradients = dict(population.parameters()), dict(population.gradients())
        for row, member in enumerate(population.members):
            for name, parameter in member.named_parameters():
                assert parameter.data_ptr() == parameters[name][row].data_ptr()
                assert parameter.grad.data_ptr() == gradients[name][row].data_ptr()
            for name, buffer in member.named_buffers():
                assert buffer.data_ptr() == population.buffers[name][row].data_ptr()
        assert {p.untyped_storage().data_ptr() for p in parameters.values()} == {
            population.theta_MP.untyped_storage().data_ptr()
        }
        train(population, rule, range(2))


def test_parameters_start_on_multiples_of_256_bytes_and_do_not_overlap():
    population = Population(models("lenet", dtype=torch.float32))
    offsets = {name: view.storage_offset() for name, view in population.parameters()}
    assert all(offset % 64 == 0 for offset in offsets.values())
    total = sum(view[0].numel() for _, view in population.parameters())
    assert population.mask_P(offsets).sum() == total
    assert population.mask_P(["head.bias"]).nonzero().flatten().tolist() == [
        offsets["head.bias"] + i for i in range(CLASSES)
    ]


@EXECUTORS
@pytest.mark.parametrize("config", RULES, ids=lambda config: config["name"])
def test_padding_stays_zero_in_parameters_and_optimizer_state(config, stacked):
    population = Population(models(), stacked=stacked)
    rule = rule_for(population, config)
    train(population, rule, range(3))
    padding = population.mask_P(name for name, _ in population.parameters()) == 0
    assert padding.any()
    assert (population.theta_MP[:, padding] == 0).all()
    wide = [slot for slot in rule.slots.values() if slot.shape == population.theta_MP.shape]
    assert wide
    assert all((slot[:, padding] == 0).all() for slot in wide)


@EXECUTORS
def test_training_mode_reaches_every_member(stacked):
    population = Population(models(), stacked=stacked)
    before = state(population)
    population.train(False)
    with torch.no_grad():
        population(batch(0, 3)[0])
    assert all(torch.equal(value, before[name]) for name, value in state(population).items())
    population.train()
    with torch.no_grad():
        population(batch(0, 3)[0])
    assert population.buffers["hidden1.norm.batches_seen"].tolist() == [1, 1, 1]
    assert population.buffers["dropout1.passes"].tolist() == [1, 1, 1]


def test_running_statistics_are_each_members_own():
    population = Population(models(), stacked=True)
    with torch.no_grad():
        population(batch(0, 3)[0])
    for row, member in enumerate(population.members):
        norm = next(layer for layer in member.modules() if isinstance(layer, BatchStatistics))
        z = member.get_submodule("hidden1.linear")(batch(0, 3)[0][row].flatten(1))
        torch.testing.assert_close(norm.running_mean, 0.1 * z.mean(0), rtol=0, atol=1e-12)
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * z.var(0), rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------ save and load


@EXECUTORS
def test_a_saved_member_lives_on_in_another_place_of_another_population(stacked):
    population = Population(models("lenet"), stacked=stacked)
    train(population, rule_for(population), range(3))
    saved = copy.deepcopy(population.states()(1))
    later = Population([model("lenet", "bn", seed) for seed in (7, 8)], stacked=stacked)
    untouched = later.theta_MP[0].clone()
    later.load(1, saved)
    assert torch.equal(later.theta_MP[1], population.theta_MP[1])
    assert torch.equal(later.theta_MP[0], untouched)
    assert all(torch.equal(later.buffers[name][1], stack[1]) for name, stack in population.buffers.items())
    alone = model("lenet", "bn", 9)
    alone.load_state_dict(saved["parameters"] | saved["buffers"])
    population.train(False)
    x, _ = batch(9, 3)
    torch.testing.assert_close(population(x)[1], alone.eval()(x[1]), rtol=0, atol=1e-12)


def test_a_saved_state_does_not_change_with_later_steps():
    population = Population(models())
    saved = population.states()(0)
    kept = copy.deepcopy(saved)
    train(population, rule_for(population), range(2))
    assert all(torch.equal(saved[kind][name], kept[kind][name]) for kind in kept for name in kept[kind])


@pytest.mark.parametrize(("kind", "norm", "of"), [("lenet", "bn", "parameters"), ("mlp", "ln", "buffers")])
def test_the_state_of_another_architecture_is_refused(kind, norm, of):
    population = Population(models("mlp", "bn"))
    with pytest.raises(ValueError, match=f"^the saved {of} belong to another model than the config describes$"):
        population.load(0, Population(models(kind, norm, 1)).states()(0))
