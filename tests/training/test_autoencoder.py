"""Greedy pre-training by autoencoders against a loop written with autograd, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, composed
from torch import Tensor, nn

from bnexp.config.compose import plain
from bnexp.data import Split
from bnexp.experiment.choices import bind
from bnexp.experiment.setup import build
from bnexp.models import Units
from bnexp.models.dropout import Dropout
from bnexp.models.init import initialize
from bnexp.randomness import generator
from bnexp.training.autoencoder import pretrain

NET = (*SMALL, "model.depth=2", "activation=sigmoid")
PRETRAINED = ("init=autoencoder", "init.epochs=2")
HOW = {"epochs": 2, "lr": 0.05, "momentum": 0.9, "batch_size": 8}


def drawn(norm: str = "none", dropout: float = 0.0) -> nn.Module:
    """A sigmoid network 6-5-4-3, in float64, from its seed."""
    words = (f"norm={norm}", "model=mlp", "model.depth=2", "model.width=5", f"model.dropout={dropout}")
    config = plain(composed(*words, "activation=sigmoid", "init=autoencoder"))
    rule = bind(config)
    model = rule.model((6,), 3, Units(rule.norm, "sigmoid", "before"))
    initialize(model, rule.init(), 0)
    return model.double()


def images(count: int = 20) -> Split:
    source = torch.Generator().manual_seed(1)
    return Split(torch.randn(count, 6, generator=source, dtype=torch.float64), torch.arange(count) % 3)


def reference(weights: list[Tensor], x: Tensor, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Weights and hidden biases behind two epochs, layer by layer; 20 images are two batches of 8, four sit out."""
    found = []
    for number, weight in enumerate(weights, 1):
        w, b, c = weight.clone(), torch.zeros(len(weight)).double(), torch.zeros(weight.shape[1]).double()
        theta = [value.requires_grad_() for value in (w, b, c)]
        speed = [torch.zeros_like(value) for value in theta]
        for epoch in range(2):
            order = torch.randperm(20, generator=generator(seed, "pretrain", f"hidden{number}", epoch))
            for rows in (order[:8], order[8:16]):
                a = torch.sigmoid(x[rows] @ w.T + b) @ w + c
                if number == 1:
                    error = ((a - x[rows]) ** 2).sum(1).mean() / 2
                else:
                    p = torch.sigmoid(a)
                    error = -(x[rows] * p.log() + (1 - x[rows]) * (1 - p).log()).sum(1).mean()
                gradients = torch.autograd.grad(error, theta)
                with torch.no_grad():
                    for value, velocity, gradient in zip(theta, speed, gradients, strict=True):
                        velocity.mul_(0.9).add_(gradient)
                        value.sub_(0.05 * velocity)
        found.append((w.detach(), b.detach()))
        x = torch.sigmoid(x @ w.T + b).detach()
    return found


def test_it_is_the_loop_of_the_definition():
    model, split = drawn(), images()
    weights = [model.hidden1.linear.weight.detach().clone(), model.hidden2.linear.weight.detach().clone()]
    pretrain(model, split, 7, **HOW)
    for unit, (weight, bias) in zip((model.hidden1, model.hidden2), reference(weights, split.x, 7), strict=True):
        torch.testing.assert_close(unit.linear.weight.detach(), weight, rtol=0, atol=1e-10)
        torch.testing.assert_close(unit.linear.bias.detach(), bias, rtol=0, atol=1e-10)


def test_neither_labels_nor_head_nor_dropout_nor_running_statistics_take_part():
    model, other = drawn("bn", 0.5), drawn("bn", 0.5)
    before = {name: value.clone() for name, value in [*model.named_buffers(), *model.head.named_parameters("head")]}
    pretrain(model, images(), 0, **HOW)
    pretrain(other, Split(images().x, torch.zeros(20, dtype=torch.int64)), 0, **HOW)
    after = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    assert sum(isinstance(layer, Dropout) for layer in model.modules()) == 2
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for name, value in other.named_parameters():
        assert torch.equal(after[name], value), name
    assert not torch.equal(after["hidden1.norm.gain"], torch.ones(5, dtype=torch.float64))


def weights(*words: str, seeds: tuple[int, ...] = (0,), stacked: bool = False, resumed=()) -> Tensor:
    configs = [plain(composed(*NET, *words, f"seed={seed}")) for seed in seeds]
    population = build(configs, stacked=stacked, resumed=resumed).population
    return dict(population.parameters())["hidden2.linear.weight"]


def test_rules_that_look_at_the_first_batch_do_not_undo_it():
    setup = build([plain(composed(*NET, *PRETRAINED, "norm=weight_norm"))], stacked=False)
    unit, (x_MB, _) = setup.population.members[0].hidden1, setup.training.batches(0)
    y = unit.norm(unit.linear(x_MB[0].flatten(1)))  # behind the rule alone: of mean 0 and variance 1
    assert (y.var(0, correction=0) - 1).abs().mean() > 1e-3
    with pytest.raises(ValueError, match=r"^affine=identity: init=autoencoder trains gains and biases"):
        build([plain(composed(*NET, *PRETRAINED, "norm=bn", "affine=identity"))], stacked=False)


def test_a_member_of_a_stack_is_pretrained_as_alone():
    pair = weights(*PRETRAINED, seeds=(0, 1), stacked=True)
    assert not torch.equal(pair[0], pair[1])
    assert torch.equal(pair[1], weights(*PRETRAINED, seeds=(1,))[0])


def test_a_run_that_is_resumed_is_not_pretrained_again():
    assert torch.equal(weights(*PRETRAINED, resumed=[True]), weights("init=xavier"))
    assert not torch.equal(weights(*PRETRAINED), weights("init=xavier"))


def test_a_deep_sigmoid_network_that_does_not_train_from_scratch_trains_behind_it():
    def accuracy(*words: str) -> float:
        deep = (*SMALL, "data.train_limit=null", "model.depth=4", "model.width=50", "activation=sigmoid", "norm=none")
        setup = build([plain(composed(*deep, *words))], stacked=False)
        for step in range(100):
            x_MB, y_MB = setup.training.batches(step)
            setup.population.learn(x_MB, y_MB, setup.training.precision)
            setup.training.optimizer.step(torch.tensor(1.0))
        return setup.evaluate()["test/accuracy"][0]

    assert accuracy("init=xavier") < 0.3
    assert accuracy("init=autoencoder", "init.epochs=10") > 0.7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=lenet", "data.size=28"), "conv1 is not a fully connected layer; use model=mlp"),
        (("activation=relu",), "needs sigmoid units; use activation=sigmoid placement=before"),
        (("placement=after",), "needs sigmoid units; use activation=sigmoid placement=before"),
    ],
)
def test_other_models_are_refused(words, message):
    given = [word for word in (*NET, *PRETRAINED, *words) if not (word.startswith("model.") and "model=lenet" in words)]
    with pytest.raises(ValueError, match=f"^init=autoencoder: {message}$"):
        build([plain(composed(*given))], stacked=False)


@pytest.mark.parametrize("rate", ["1e3", "1e30"])
def test_a_rate_at_which_it_diverges_is_refused_in_one_line(bnexp, tmp_path, rate):
    words = ("model=mlp", "model.depth=2", "activation=sigmoid", "norm=none", "data=digits", "init=autoencoder")
    answer = bnexp("train", *words, f"init.lr={rate}", "steps=2", f"hydra.run.dir={tmp_path / 'run'}")
    line = answer.complaint
    assert line == f"bnexp: init.lr={float(rate):g}: the pre-training of hidden1 diverges; use a smaller rate"
    assert not (tmp_path / "run").exists()
