"""The step of a stack as a program for torch.compile: what is compiled is what the step does."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, composed

from bnexp.config.compose import plain
from bnexp.experiment.setup import Setup, build
from bnexp.training.compiled import compiled


def built(*words: str) -> Setup:
    configs = [plain(composed(*SMALL, *words, f"seed={seed}")) for seed in range(3)]
    return build(configs, stacked=True)


@pytest.mark.parametrize("words", [("norm=bn",), ("norm=ws_gn", "precision=bf16")], ids=str)
def test_the_program_does_what_the_step_does_also_after_the_weights_have_moved(words, monkeypatch):
    programs = []

    def keep(program, *, dynamic):
        assert not dynamic
        programs.append(program)
        return program

    monkeypatch.setattr(torch, "compile", keep)
    setup, wanted = built(*words, "compile=true"), built(*words)
    for step in (0, 1, 6):  # the batches of step 6 are smaller, and not compiled
        found = [one.population.learn(*one.training.batches(step), one.training.precision) for one in (setup, wanted)]
        torch.testing.assert_close(*found, rtol=0, atol=0)
        for one in (setup, wanted):
            one.population.theta_MP.sub_(one.population.gradient_MP, alpha=0.1)
        torch.testing.assert_close(setup.population.theta_MP, wanted.population.theta_MP, rtol=0, atol=0)
        torch.testing.assert_close(setup.population.buffers, wanted.population.buffers, rtol=0, atol=0)
    (program,) = programs
    assert {str(node.target) for node in program.graph.nodes} >= {"aten.bmm.out", "aten.baddbmm.out"}


def test_a_run_that_goes_on_at_a_small_batch_compiles_the_full_ones_too(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        torch, "compile", lambda program, dynamic: lambda *given: sizes.append(len(given[3][0])) or program(*given)
    )
    setup = built("norm=bn", "compile=true")
    for step in (6, 7, 13, 14):
        setup.population.learn(*setup.training.batches(step), setup.training.precision)
    assert sizes == [26, 29, 26, 29]


def test_writing_a_program_down_changes_no_tensor_and_no_random_generator(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda program, dynamic: program)
    given = torch.ones(3)
    state = torch.random.get_rng_state()
    program = compiled(lambda x: [x.add_(1) * torch.rand(3)], [given])
    assert torch.equal(given, torch.ones(3))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert program(given)[0].shape == (3,)
    assert torch.equal(given, torch.full((3,), 2.0))


def test_the_compiler_gets_torchs_own_pooling(monkeypatch):
    """It fuses this kernel with its neighbours, and knows nothing of memory that bnexp has laid out."""
    programs = []
    monkeypatch.setattr(torch, "compile", lambda program, dynamic: programs.append(program) or program)
    words = ("model=lenet", "data.size=16", "data.train_limit=64", "batch_size=32", "norm=bn", "compile=true")
    setup = build([plain(composed(*words, f"seed={seed}")) for seed in range(2)], stacked=True)
    setup.population.learn(*setup.training.batches(0), setup.training.precision)
    names = {str(node.target) for node in programs[-1].graph.nodes}
    assert {"aten.avg_pool2d.default", "aten.avg_pool2d_backward.default"} <= names
