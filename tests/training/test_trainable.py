"""Training a part of the parameters: the rest stays bit for bit, whatever the optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import SMALL, composed
from torch import nn

from bnexp.config.compose import plain
from bnexp.experiment.choices import bind
from bnexp.experiment.setup import build
from bnexp.models.layers import head_parameters, norm_parameters
from bnexp.norms import Norm
from bnexp.training.optim import OPTIMS, optimizer
from bnexp.training.population import Population
from bnexp.training.trainable import frozen_MP

NORMS, HEAD = {"hidden1.norm.gain", "hidden1.norm.bias"}, {"head.weight", "head.bias"}
OPTIMIZERS = [
    *((f"optim={name}", "optim.weight_decay=0.1") for name in OPTIMS),
    ("optim=sgd", "optim.lr=0.1", "optim.weight_decay=0.1", "optim.nesterov=true", "optim.decay_norm=true"),
]


def setup_of(*words, seeds=(0,), stacked=False):
    configs = [plain(composed(*SMALL, *words, f"seed={seed}")) for seed in seeds]
    return build(configs, stacked=stacked)


def steps(setup, count=3):
    """Train, and return the parameters before and after by name, [M, ...]."""
    before = {name: stack.clone() for name, stack in setup.population.parameters()}
    for step in range(count):
        x_MB, y_MB = setup.training.batches(step)
        setup.population.learn(x_MB, y_MB, setup.training.precision)
        setup.training.optimizer.step(torch.tensor(1.0))
    return before, {name: stack.clone() for name, stack in setup.population.parameters()}


def moved(before, after) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("optim", OPTIMIZERS, ids=lambda words: "-".join(words[0:1] + words[3:]))
@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ("norms", NORMS),
        ("head", HEAD),
        ("norms_and_head", NORMS | HEAD),
        ("all", NORMS | HEAD | {"hidden1.linear.weight"}),
    ],
)
def test_only_what_is_trained_moves(optim, trainable, expected):
    assert moved(*steps(setup_of(*optim, f"trainable={trainable}"))) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("norm=none",), {"hidden1.linear.bias"}),
        (("norm=weight_norm",), {"hidden1.norm.gain", "hidden1.linear.bias"}),
        (("norm=bn", "placement=after"), NORMS),  # the bias in front of the activation is no norm's
        (("norm=none", "placement=after"), {"hidden1.norm.bias"}),
    ],
)
def test_a_bias_that_a_norm_gave_to_its_linear_map_counts_as_the_norms(words, expected):
    assert moved(*steps(setup_of(*words, "trainable=norms"))) == expected


@pytest.mark.parametrize("decay_norm", [True, False])
def test_without_a_norm_hidden_biases_decay_as_those_of_norms_do(decay_norm):
    words = ("norm=none", "optim.lr=0.1", "optim.momentum=0", "optim.weight_decay=0.5")
    setup = setup_of(*words, f"optim.decay_norm={decay_norm}")
    setup.population.theta_MP.fill_(1)
    before = {name: stack.clone() for name, stack in setup.population.parameters()}
    setup.training.optimizer.step(torch.tensor(1.0))  # the gradients are 0
    ratio = {name: float((stack / before[name]).mean()) for name, stack in setup.population.parameters()}
    spared = 0.95 if decay_norm else 1.0
    wanted = {"hidden1.linear.weight": 0.95, "hidden1.linear.bias": spared, "head.weight": 0.95, "head.bias": 0.95}
    assert ratio == pytest.approx(wanted)


@pytest.mark.parametrize("optim", OPTIMIZERS, ids=lambda words: "-".join(words[0:1] + words[3:]))
def test_as_many_random_weights_as_norms_have_and_no_other_move(optim):
    before, after = steps(setup_of(*optim, "model.depth=2", "trainable=random_as_norms"))
    changed = {name: int((before[name] != after[name]).sum()) for name in moved(before, after)}
    assert set(changed) == {"hidden1.linear.weight", "hidden2.linear.weight"}
    assert sum(changed.values()) == 64  # a pixel that is always blank has no gradient, but decays


def test_the_trained_part_goes_as_it_would_with_the_rest_held_by_torch():
    setup = setup_of("optim.lr=0.1", "optim.weight_decay=0.1", "optim.decay_norm=true", "trainable=norms_and_head")
    model = copy.deepcopy(setup.population.members[0])
    model.hidden1.linear.weight.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    reference = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.1)
    _, after = steps(setup)
    for step in range(3):
        x_MB, y_MB = setup.training.batches(step)
        reference.zero_grad()
        nn.functional.cross_entropy(model(x_MB[0]), y_MB[0]).backward()
        reference.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(after[name][0], parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_member_trains_what_it_would_train_alone(stacked):
    words = ("trainable=random_as_norms", "optim.weight_decay=0.01")
    before, after = steps(setup_of(*words, seeds=(3, 4), stacked=stacked))
    _, alone = steps(setup_of(*words, seeds=(4,)))
    name = "hidden1.linear.weight"
    changed = before[name] != after[name]
    assert changed.flatten(1).sum(1).tolist() == [32, 32]
    assert not torch.equal(changed[0], changed[1])
    torch.testing.assert_close(after[name][1], alone[name][0], rtol=1e-5, atol=1e-6)


def test_the_gradient_of_what_is_frozen_is_there_to_be_looked_at():
    setup = setup_of("trainable=norms")
    x_MB, y_MB = setup.training.batches(0)
    setup.population.learn(x_MB, y_MB, setup.training.precision)
    before = setup.population.gradient_MP.clone()
    setup.training.optimizer.step(torch.tensor(1.0))
    assert torch.equal(setup.population.gradient_MP, before)
    assert dict(setup.population.gradients())["hidden1.linear.weight"].any()


def test_a_gradient_that_is_no_number_does_not_reach_what_is_frozen():
    config = plain(composed("optim.weight_decay=0.1"))
    population = Population([nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))])
    built = optimizer([bind(config).optim], population)
    built.freeze(population.mask_P(["0.weight", "0.bias"]).bool().unsqueeze(0))
    before = {name: stack.clone() for name, stack in population.parameters()}
    population.gradient_MP.fill_(torch.nan)
    built.step(torch.tensor(1.0))
    after = dict(population.parameters())
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert after["1.weight"].isnan().all()


@pytest.mark.parametrize("model", ["mlp", "lenet", "resnet", "resnet18"])
def test_norms_and_head_are_found_in_every_model(model):
    words = [f"model={model}", *(["model.depth=8"] if model == "resnet" else [])]
    built = build([plain(composed(*words))], stacked=False).population.members[0]
    parameters = dict(built.named_parameters())
    assert [len(parameters[name]) for name in head_parameters(built)] == [10, 10]
    norms = sum(norm.channels for norm in built.modules() if isinstance(norm, Norm))
    assert sum(parameters[name].numel() for name in norm_parameters(built)) == 2 * norms


def test_a_net_whose_norms_have_no_parameters_cannot_train_them():
    with pytest.raises(ValueError, match=r"^trainable=norms: the norms have no parameter"):
        setup_of("norm.affine=false", "trainable=norms")


def test_more_random_weights_than_there_are_cannot_be_trained():
    norm = bind(plain(composed("norm=ln"))).norm(8)
    population = Population([nn.Sequential(nn.Linear(1, 1), norm, nn.Linear(8, 2))])
    with pytest.raises(ValueError, match=r"^trainable=random_as_norms: needs 16 numbers, and the model has only 2$"):
        frozen_MP("random_as_norms", population, ["1.gain", "1.bias"], [0])


def test_a_part_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^trainable=biases: not known"):
        plain(composed("trainable=biases"))
