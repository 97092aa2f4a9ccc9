"""Running averages beside those of the norm: their numbers, and that the training does not know of them."""

from __future__ import annotations

import csv

import pytest
import torch
from conftest import SMALL_RUN, composed
from measured import measured as measured_under

from bnexp.config.compose import plain
from bnexp.config.schema import TrainConfig
from bnexp.data import Split
from bnexp.experiment.job import Job
from bnexp.experiment.run import run
from bnexp.experiment.setup import build
from bnexp.models.unit import named
from bnexp.norms import NORMS
from bnexp.runs import checkpoint
from bnexp.training.ema import attach, average_as_running
from bnexp.training.evaluation import evaluate
from bnexp.training.population import Population

DECAYS = [0.9, 0.5]
EXACT = {"rtol": 0, "atol": 1e-10}
BATCHES = [torch.randn(size, 4, 3, dtype=torch.float64) * scale + 2 for size, scale in ((6, 1), (9, 2), (5, 3))]


def network(word="bn", members=1, **options):
    known = {"bn": {"eps": 1e-5, "momentum": 0.1, "affine": True}, "none": {}}[word] | options
    nets = [
        named(norm=NORMS.bind({"name": word, **known})(4), flatten=torch.nn.Flatten()).double() for _ in range(members)
    ]
    for net in nets:
        attach(net, DECAYS)
    return nets


@pytest.mark.parametrize("stacked", [False, True])
def test_the_averages_are_those_of_a_plain_loop(stacked):
    population = Population(network(members=2), stacked=stacked)
    for x in BATCHES:
        population(torch.stack([x, -x]))
    for index, d in enumerate(DECAYS):
        mean, var, zero_var = torch.zeros(4).double(), torch.ones(4).double(), torch.zeros(4).double()
        for x in BATCHES:
            mean = d * mean + (1 - d) * x.mean((0, 2))
            var, zero_var = (d * v + (1 - d) * x.var((0, 2)) for v in (var, zero_var))
        rest = 1 - d ** len(BATCHES)
        for corrected, expected in ((False, (mean, var)), (True, (mean / rest, zero_var / rest))):
            with average_as_running(population, index, corrected=corrected):
                for member, sign in zip(population.members, (1, -1), strict=True):
                    torch.testing.assert_close(member.norm.running_mean, sign * expected[0], **EXACT)
                    torch.testing.assert_close(member.norm.running_var, expected[1], **EXACT)


def test_decay_0_9_is_the_norms_own_average_with_momentum_0_1():
    population = Population(network())
    norm = population.members[0].norm
    for x in BATCHES:
        population(x.unsqueeze(0))
    own = norm.running_mean.clone(), norm.running_var.clone()
    with average_as_running(population, 0, corrected=False):
        torch.testing.assert_close((norm.running_mean, norm.running_var), own, **EXACT)
    torch.testing.assert_close((norm.running_mean, norm.running_var), own, rtol=0, atol=0)


def averages(population, split):
    words = [f"ema{decay}{end}" for decay in DECAYS for end in ("", "_corrected")]
    return measured_under(population, {"test": split}, split, *words, batch_size=4, train_batch_size=4, decays=DECAYS)


def test_evaluation_takes_no_batch_in():
    population = Population(network())
    population(BATCHES[0].unsqueeze(0))
    before = {name: buffer.clone() for name, buffer in population.buffers.items()}
    averages(population, Split(BATCHES[1], torch.zeros(9, dtype=torch.int64)))
    assert all(torch.equal(buffer, before[name]) for name, buffer in population.buffers.items())


def test_evaluation_is_that_with_the_average_as_running_statistics():
    population = Population(network())
    for x in BATCHES:
        population(x.unsqueeze(0))
    split = Split(BATCHES[1], torch.arange(9) % 12)
    measured = averages(population, split)
    tags = [
        f"test/{quantity}_ema{d}{end}"
        for d in DECAYS
        for end in ("", "_corrected")
        for quantity in ("loss", "accuracy")
    ]
    assert list(measured) == tags
    assert measured["test/loss_ema0.9"] == pytest.approx(evaluate(population, split, 4)["loss"], rel=1e-12)
    assert len({values[0] for tag, values in measured.items() if "loss" in tag}) == 4


def test_norms_without_statistics_get_the_same_numbers_under_all_names():
    population = Population(network("none"))
    split = Split(BATCHES[1], torch.arange(9) % 12)
    measured = averages(population, split)
    assert {values[0] for tag, values in measured.items() if "loss" in tag} == {
        evaluate(population, split, 4)["loss"][0]
    }


def job(folder, *words):
    return Job(plain(composed(*SMALL_RUN, "norm=bn", "checkpoint_every=4", *words)), folder, folder.name)


class StopAt:
    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left == 0


def curves(folder):
    with (folder / "metrics.csv").open() as file:
        return {(row["step"], row["metric"]): row["value"] for row in csv.DictReader(file)}


def test_the_training_does_not_know_and_goes_on_after_a_stop(tmp_path):
    run([job(tmp_path / "without")], stop=StopAt(0))
    run([job(tmp_path / "with", "ema=[0.9,0.99]")], stop=StopAt(0))
    run([job(tmp_path / "stopped", "ema=[0.9,0.99]")], stop=StopAt(9))
    run([job(tmp_path / "stopped", "ema=[0.9,0.99]")], stop=StopAt(0))
    ours, theirs = curves(tmp_path / "with"), curves(tmp_path / "without")
    assert {key: ours[key] for key in theirs} == theirs
    extra = {metric for _, metric in ours.keys() - theirs.keys()}
    ends = [f"_ema{d}{end}" for d in (0.9, 0.99) for end in ("", "_corrected")]
    assert extra == {f"test/{quantity}{end}" for quantity in ("loss", "accuracy") for end in ends}
    assert (tmp_path / "stopped" / "metrics.csv").read_bytes() == (tmp_path / "with" / "metrics.csv").read_bytes()
    digests = [checkpoint.digest(checkpoint.load(tmp_path / name)) for name in ("stopped", "with")]
    assert digests[0] == digests[1]


def test_averages_start_where_the_norms_own_start():
    net = named(norm=NORMS.bind({"name": "bn", "eps": 1e-5, "momentum": 0.1, "affine": True})(4)).double()
    net.norm.running_mean.copy_(torch.tensor([1.0, 2.0, -3.0, 0.5]))
    net.norm.running_var.copy_(torch.tensor([4.0, 0.1, 1.0, 9.0]))
    attach(net, DECAYS)
    population = Population([net])
    for x in [None, *BATCHES]:
        if x is not None:
            population(x.unsqueeze(0))
        own = net.norm.running_mean.clone(), net.norm.running_var.clone()
        with average_as_running(population, 0, corrected=False):
            torch.testing.assert_close((net.norm.running_mean, net.norm.running_var), own, **EXACT)


def test_norms_that_are_frozen_have_nothing_to_average():
    net = named(norm=NORMS.bind({"name": "bn", "eps": 1e-5, "momentum": 0.1, "affine": True})(4))
    net.norm.frozen = True
    with pytest.raises(ValueError, match=r"^ema=\[0\.9, 0\.5\]: norm_state=frozen takes in no statistics"):
        attach(net, DECAYS)


def test_a_norm_that_whitens_is_refused():
    config = plain(composed(*SMALL_RUN, "norm=zca", "norm.group_size=4", "batch_size=30", "ema=[0.9]"))
    with pytest.raises(ValueError, match=r"ema=\[0\.9\]: norm=zca keeps covariances"):
        build([config], stacked=False)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"ema=.*out of range"):
        TrainConfig(ema=[decay])


def test_the_averages_look_at_what_the_norm_sees_in_bfloat16():
    setup = build([plain(composed(*SMALL_RUN, "norm=bn", "ema=[0.9]"))], stacked=False)
    with torch.autocast("cpu", torch.bfloat16):
        setup.population(setup.training.batches(0)[0])
    norm = setup.population.members[0].hidden1.norm
    torch.testing.assert_close(norm.averages.mean[0], norm.running_mean, rtol=1e-2, atol=1e-3)
    assert norm.averages.mean.dtype == torch.float32
