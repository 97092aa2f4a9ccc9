"""Adaptive gradient clipping against eq. 3 of Brock et al. 2021, unit by unit."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, composed
from torch import Tensor

from bnexp.config.compose import plain
from bnexp.experiment.setup import Setup, build

WORDS = ("model=cnn", "model.widths=[3,4]", "norm=bn", *SMALL[3:], "precision=fp64", "optim.momentum=0", "optim.lr=1")
LAMBDA = 0.05


def after_a_step(stacked: bool, *words: str) -> tuple[Setup, dict[str, Tensor], dict[str, Tensor]]:
    """A training after its first step, with the weights from before and the gradients."""
    configs = [plain(composed(*WORDS, *words, f"seed={seed}")) for seed in (0, 1)]
    setup = build(configs, stacked=stacked)
    training = setup.training
    before = {name: stack.clone() for name, stack in training.population.parameters()}
    training.population.learn(*training.batches(0), training.precision)
    gradients = {name: stack.clone() for name, stack in training.population.gradients()}
    training.optimizer.step(torch.ones((), dtype=torch.float64))
    return setup, before, gradients


def clipped(weight: Tensor, gradient: Tensor) -> tuple[Tensor, bool]:
    """Eq. 3 for one unit."""
    limit = LAMBDA * max(weight.square().sum().sqrt().item(), 1e-3)
    norm = gradient.square().sum().sqrt().item()
    return (gradient * limit / norm, True) if norm > limit else (gradient, False)


@pytest.mark.parametrize("stacked", [False, True], ids=["one_by_one", "stacked"])
def test_each_unit_is_clipped_by_its_own_weights_and_the_head_is_spared(stacked):
    setup, before, gradients = after_a_step(stacked, f"clip_adaptive={LAMBDA}")
    counts = []
    for name, after in setup.population.parameters():
        for row in (0, 1):
            weight, gradient, step = before[name][row], gradients[name][row], before[name][row] - after[row]
            if name.startswith("head"):
                wanted, hits = [gradient], [False]
            elif weight.ndim == 1:
                wanted, hits = zip(clipped(weight, gradient), strict=True)
            else:
                wanted, hits = zip(*map(clipped, weight, gradient), strict=True)
            found = step if weight.ndim > 1 and not name.startswith("head") else [step]
            for own, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
            counts += hits
    assert 0 < sum(counts) < len(counts)


def test_then_the_whole_gradient_is_clipped():
    setup, before, _ = after_a_step(False, f"clip_adaptive={LAMBDA}", "clip_grad=0.01")
    for row in (0, 1):
        step = torch.cat([(before[name] - after)[row].flatten() for name, after in setup.population.parameters()])
        assert step.norm().item() == pytest.approx(0.01, rel=1e-3)
