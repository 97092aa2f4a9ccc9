"""precision=fp64: every number of a training has 53 binary digits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, composed
from torch import nn

from bnexp.config.compose import plain
from bnexp.experiment.job import Job
from bnexp.experiment.run import run
from bnexp.experiment.setup import build
from bnexp.norms import NORMS
from bnexp.runs import checkpoint
from bnexp.training.loop import train

NET = ("data.train_limit=32", "data.test_limit=16", "batch_size=16", "model=lenet", "steps=1")
MLP = (*SMALL, "model.depth=2", "optim.momentum=0.9", "optim.weight_decay=0.01", "schedule=cosine", "steps=5")


def setup(*words: str, stacked: bool = False, seeds=(0,)):
    configs = [plain(composed(*words, "precision=fp64", f"seed={seed}")) for seed in seeds]
    return build(configs, stacked=stacked)


def trained(made):
    return [record.values for record in train(made.training, made.evaluate, stop=lambda: False) if record.values][-1]


def test_a_training_is_that_of_torch_in_double_to_the_last_digits():
    made = setup(*MLP, "norm=bn", "log_every=5")
    (member,) = made.population.members
    width, inputs = 16, math.prod(made.data.shape)
    copy = nn.Sequential(
        *(nn.Flatten(), nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
        *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10)),
    ).double()
    with torch.no_grad():
        for own, other in zip(copy.parameters(), member.parameters(), strict=True):
            own.copy_(other)
    gains = [layer.weight for layer in copy if isinstance(layer, nn.BatchNorm1d)]
    shifts = [layer.bias for layer in copy if isinstance(layer, nn.BatchNorm1d)]
    norms = {id(each) for each in (*gains, *shifts)}
    groups = [
        {"params": [each for each in copy.parameters() if (id(each) in norms) == spared], "weight_decay": decay}
        for spared, decay in ((False, 0.01), (True, 0.0 if not made.config.optim["decay_norm"] else 0.01))
    ]
    reference = torch.optim.SGD(groups, lr=made.config.optim["lr"], momentum=0.9)
    losses = []
    for step in range(5):
        x_MB, y_MB = made.training.batches(step)
        loss = F.cross_entropy(copy(x_MB[0]), y_MB[0])
        reference.zero_grad()
        loss.backward()
        for group in reference.param_groups:
            group["lr"] = made.config.optim["lr"] * 0.5 * (1 + math.cos(math.pi * step / 5))
        reference.step()
        losses.append(loss.item())
    values = trained(made)
    assert values["train/loss"] == [pytest.approx(sum(losses) / 5, rel=1e-14)]
    for own, other in zip(copy.parameters(), member.parameters(), strict=True):
        assert other.dtype == torch.float64
        torch.testing.assert_close(other.detach(), own.detach(), rtol=1e-12, atol=1e-14)
    copy.eval()
    expected = F.cross_entropy(copy(made.data.test.x), made.data.test.y).item()
    assert values["test/loss"] == [pytest.approx(expected, rel=1e-13)]


@pytest.mark.parametrize("norm", [name for name in NORMS if not NORMS.capabilities(name).needs_branches])
def test_every_norm_keeps_its_digits(norm):
    made = setup(*NET, f"norm={norm}")
    trained(made)
    weights = {name: each for name, each in made.state(0)["parameters"].items() if name.endswith(".weight")}
    assert {each.dtype for each in weights.values()} == {torch.float64}
    # Initial weights are drawn in float32; after a step through wide numbers alone they have more digits.
    assert not [name for name, each in weights.items() if (each.float().double() == each).all()]


def test_a_stack_is_its_members_one_by_one():
    words = (*MLP, "norm=bn", "model.dropout=0.2")
    stack, alone = (setup(*words, stacked=stacked, seeds=(0, 1)) for stacked in (True, False))
    trained(stack)
    trained(alone)
    torch.testing.assert_close(stack.population.theta_MP, alone.population.theta_MP, rtol=1e-12, atol=1e-14)


def test_it_is_resumed_to_the_last_bit(tmp_path):
    def go_on(folder, steps: int) -> None:
        left = [steps]

        def stop() -> bool:
            left[0] -= 1
            return left[0] == 0

        run([Job(plain(composed(*MLP, "norm=bn", "precision=fp64")), folder, "r")], stop=stop)

    go_on(tmp_path / "a", 0)
    go_on(tmp_path / "b", 3)
    go_on(tmp_path / "b", 0)
    states = [checkpoint.load(tmp_path / name) for name in "ab"]
    assert checkpoint.digest(states[0]) == checkpoint.digest(states[1])
    assert states[0]["parameters"]["hidden1.linear.weight"].dtype == torch.float64


def test_probes_see_the_images_in_double():
    made = setup(*MLP, "norm=bn", "probes=[signal]", "probes.signal.images=20", "steps=1")
    (member,), images = made.population.members, made.data.train.mixed(20).x
    assert images.dtype == torch.float64
    h = member.train().hidden1(images.flatten(1))
    (first, *_) = train(made.training, made.evaluate, made, stop=lambda: False)
    assert first.values["probe/signal/rms/hidden1"] == [pytest.approx(h.square().mean().sqrt().item(), rel=1e-14)]
