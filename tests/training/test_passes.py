"""A recorded pass does what the pass does; on the CPU, the recorder keeps the work and does it again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import SMALL, composed
from measured import kinds
from recorders import Again

from bnexp.config.compose import plain
from bnexp.data import Batches, Split
from bnexp.experiment.setup import Setup, build
from bnexp.training.entropy import adapting
from bnexp.training.evaluation import evaluate
from bnexp.training.passes import Pass, filled_up
from bnexp.training.population import Population
from bnexp.training.statistics import batch_statistics, precise_statistics

CLOSE = {"rtol": 1e-12, "atol": 0}


def trained(members: int, stacked: bool, *words: str) -> Setup:
    """Members whose running statistics have moved."""
    configs = [plain(composed(*SMALL, "precision=fp64", *words, f"seed={seed}")) for seed in range(members)]
    setup = build(configs, stacked=stacked)
    for step in range(3):
        setup.population(setup.training.batches(step)[0])
    return setup


@pytest.mark.parametrize(("members", "stacked"), [(1, False), (2, False), (2, True)], ids=str)
@pytest.mark.parametrize("norm", ["bn", "ln"])
def test_recorded_evaluations_are_evaluations(members, stacked, norm):
    setup = trained(members, stacked, f"norm={norm}")
    population, split, again = setup.population, setup.data.train, Again()
    precise = {}
    for name, recorder in (("eager", None), ("recorded", again)):
        population.recorder = recorder
        for _ in range(2):
            with precise_statistics(population, split, 29):
                precise[name] = {key: buffer.clone() for key, buffer in population.buffers.items()}
            precise[name]["loss"] = torch.tensor(evaluate(population, split, 23)["loss"])  # 8 times 23, and 16 images
            precise[name]["accuracy"] = torch.tensor(evaluate(population, split, 23)["accuracy"])
    torch.testing.assert_close(precise["recorded"], precise["eager"], **CLOSE)
    # Two passes over 7 batches, the last alone, and four over 9, the last filled up; the first of each is eager.
    assert (again.recorded, again.replayed) == (2, 5 + 6 + 8 + 3 * 9)


def test_an_evaluation_follows_the_weights_and_the_statistics():
    setup = trained(2, True, "norm=bn")
    population, split = setup.population, setup.data.train
    population.recorder = Again()
    before = evaluate(population, split, 64)
    population.theta_MP.mul_(1.01)
    for buffer in population.buffers.values():
        buffer.mul_(2)
    after = evaluate(population, split, 64)
    population.recorder = None
    wanted = evaluate(population, split, 64)
    assert after["loss"] == pytest.approx(wanted["loss"], rel=1e-12)
    assert after["accuracy"] == wanted["accuracy"]
    assert before["loss"] != after["loss"]


def test_statistics_of_a_batch_are_never_those_of_a_batch_that_was_filled_up():
    setup = trained(1, False, "norm=bn")
    given = setup.population, setup.data.train.mixed(71), setup.data.train
    wanted = kinds(*given, batch_size=64, train_batch_size=64)
    setup.population.recorder = Again()
    found = kinds(*given, batch_size=64, train_batch_size=64)
    assert found.keys() == wanted.keys()
    for kind, values in wanted.items():
        assert found[kind]["loss"] == pytest.approx(values["loss"], rel=1e-12)
        assert found[kind]["accuracy"] == values["accuracy"]


def test_a_recording_by_running_statistics_is_not_replayed_for_those_of_the_batch():
    setup = trained(1, False, "norm=bn")
    population, split = setup.population, setup.data.train
    with batch_statistics(*population.members):
        wanted = evaluate(population, split, 64)
    population.recorder = Again()
    running = [evaluate(population, split, 64) for _ in range(2)]
    with batch_statistics(*population.members):
        assert evaluate(population, split, 64) == wanted
    assert evaluate(population, split, 64) == running[0] == running[1] != wanted


@pytest.mark.parametrize("norm", ["bn", "ln"])
def test_what_learns_as_it_evaluates_is_never_recorded(norm):
    """A replay would repeat the numbers of one step, and the places that fill up a batch would be learnt from."""
    setup = trained(2, True, f"norm={norm}")
    setup.population.recorder = again = Again()
    for _ in range(2):
        with adapting(setup.population) as forward:
            evaluate(setup.population, setup.data.test, 16, forward=forward)
    assert (again.recorded, again.replayed) == (0, 0)


@contextmanager
def closing_badly() -> Iterator[None]:
    """As the end of a capture, which complains by itself of an error in it."""
    try:
        yield
    finally:
        raise RuntimeError("the capture has failed")


def test_an_evaluation_that_cannot_be_recorded_is_done_kernel_by_kernel_and_the_steps_go_on(caplog):
    setup = trained(1, False, "norm=bn")
    population, split, captures = setup.population, setup.data.train, list[int]()
    wanted = evaluate(population, split, 64)

    def record(work: Callable[[], None]) -> Callable[[], None]:
        captures.append(1)
        with closing_badly():
            raise RuntimeError("out of memory")

    population.recorder = record
    with caplog.at_level(logging.WARNING, "bnexp"):
        found = [evaluate(population, split, 64) for _ in range(3)]
    assert [each["loss"] for each in found] == [pytest.approx(wanted["loss"], rel=1e-12)] * 3
    assert (population.recorder, population.capture_failed) == (record, None)
    assert [each.getMessage() for each in caplog.records] == [
        "graph: CUDA graph capture failed (out of memory); evaluating eagerly"
    ]


def test_a_capture_of_precise_statistics_that_fails_half_way_leaves_nothing_on_the_model(monkeypatch):
    """A hook that stays would keep the graph of every later step, and join them."""
    setup = trained(1, False, "norm=bn")
    (model,) = setup.population.members

    def record(work: Callable[[], None]) -> Callable[[], None]:
        with monkeypatch.context() as patch:
            patch.setattr(type(model.head), "forward", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                work()
        raise RuntimeError("out of memory")

    setup.population.recorder = record
    with precise_statistics(setup.population, setup.data.train, 64):
        pass
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("padded", [False, True])
def test_a_pass_sees_every_image_once(padded):
    split, seen = Split(torch.arange(10.0).view(10, 1), torch.arange(10)), []

    def work(x_MB: torch.Tensor, y_MB: torch.Tensor, inside_B: torch.Tensor | None) -> None:
        inside_B = torch.ones(y_MB.shape[1], dtype=torch.bool) if inside_B is None else inside_B
        assert torch.equal(x_MB[0, :, 0].long(), y_MB[0])
        seen.append(y_MB[0, inside_B].tolist())

    again = Again()
    sizes = [slice(0, 4), slice(4, 8), slice(8, 10)]
    whole = Pass(split, 1, sizes, work, again, padded=padded)
    for _ in range(2):
        whole()
    assert seen == 2 * [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert again.recorded == 1
    assert again.replayed == (2 + 3 if padded else 1 + 2)


@pytest.mark.parametrize(("images", "most"), [(10, 4), (2400, 1000), (1000, 1000), (300, 1000), (10_240, 1000), (1, 3)])
def test_batches_that_are_filled_up_have_one_size_and_hold_few_places_without_images(images, most):
    batches = filled_up(images, most)
    size = batches[0].stop
    assert [(at.start, at.stop) for at in batches] == [(size * n, size * (n + 1)) for n in range(len(batches))]
    assert size <= most
    assert size == most or size % 8 == 0
    assert len(batches) == -(-images // most)
    assert 0 <= batches[-1].stop - images < 8 * len(batches)


def test_modes_are_switched_once_for_all_evaluations_of_a_moment(monkeypatch):
    setup = trained(2, True, "norm=bn", "ema=[0.9]")
    population, switched, switch = setup.population, [], Population.train

    def counted(self: Population, mode: bool = True) -> None:
        switched.append(mode)
        switch(self, mode)

    monkeypatch.setattr(Population, "train", counted)
    setup.evaluate()
    assert switched == [False, True]
    with pytest.raises(KeyError), population.evaluating():
        raise KeyError
    assert all(layer.training for network in population.networks() for layer in network.modules())


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_drawn_ahead_and_taken_by_a_number_on_the_device_are_the_batches(drop_last):
    setup = build(
        [plain(composed(*SMALL, "data.flip=true", "data.crop=1", f"seed={seed}")) for seed in (3, 4)], stacked=False
    )
    given = setup.data, [3, 4]
    plainly = Batches(*given, batch_size=29, drop_last=drop_last)
    ahead = Batches(*given, batch_size=29, drop_last=drop_last, ahead=True)
    steps = [*range(2 * plainly.per_epoch), 1]  # and back to the first epoch
    for step in steps:
        _, y_MB = plainly(step)
        full = ahead.open(step)
        assert bool(full) == (y_MB.shape[1] == 29)
        found = list(ahead.recorded(torch.arange(step, step + full))) if full else [ahead(step)]
        for later, (x, y) in enumerate(found):
            assert torch.equal(x, plainly(step + later)[0])
            assert torch.equal(y, plainly(step + later)[1])
            assert y.dtype == torch.int64
        assert (step + max(full, 1)) % plainly.per_epoch in (0, plainly.per_epoch - 1)  # to the end, or to the rest
