"""Probes inside a training: due when they should be, and nothing in the training knows of them."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch
from conftest import SMALL_RUN, composed
from measured import PROBES_OF_ANY_MODEL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bnexp.config.compose import plain
from bnexp.config.metrics import probed_of, title
from bnexp.data import Split
from bnexp.experiment.clock import Clock
from bnexp.experiment.job import Job
from bnexp.experiment.run import run
from bnexp.experiment.setup import build
from bnexp.probes import PROBES, Probe
from bnexp.probes.observer import Observer, Watch, watches
from bnexp.runs import checkpoint
from bnexp.training.population import Population

WORDS = (*SMALL_RUN, "norm=bn", "model.depth=2", "model.dropout=0.2", "data.crop=1", "checkpoint_every=4")
MEMBERS = (("seed=0", "optim.lr=0.1"), ("seed=1", "optim.lr=0.03"))
WILD = ("seed=5", "optim.lr=1e30")
ALL = [f"probes=[{','.join(PROBES_OF_ANY_MODEL)}]"]
ALL += [f"probes.{word}.{key}" for word in PROBES_OF_ANY_MODEL for key in ("every=5", "images=40")]
ALL += ["probes.covariance.images=150"]


class StopAt:
    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left == 0


def jobs(place, *words, members=MEMBERS):
    return [Job(plain(composed(*WORDS, *words, *own)), place / own[0], own[0]) for own in members]


def rows(folder, prefix=""):
    with (folder / "metrics.csv").open() as file:
        found = [(int(row["step"]), row["metric"], row["value"]) for row in csv.DictReader(file)]
    return [row for row in found if row[1].startswith(prefix)]


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    place = tmp_path_factory.mktemp("watched")
    for job in jobs(place, *ALL):
        run([job], stop=StopAt(0))
    return place


@pytest.mark.parametrize("how", ["alone", "stacked"])
@pytest.mark.slow
def test_probes_change_nothing(tmp_path, watched, how):
    """Weights, buffers and curves are bit for bit those without probes."""
    names = [own[0] for own in MEMBERS]
    if how != "alone":
        for place, words in (("with", ALL), ("without", ())):
            run(jobs(tmp_path / place, *words), stop=StopAt(0), stacked=True)
    else:
        for job in jobs(tmp_path / "without"):
            run([job], stop=StopAt(0))
    for name in names:
        ours, theirs = (tmp_path / "with" if how != "alone" else watched) / name, tmp_path / "without" / name
        states = [checkpoint.load(folder) for folder in (ours, theirs)]
        for kind in ("parameters", "buffers", "optimizer"):
            assert checkpoint.digest(states[0][kind]) == checkpoint.digest(states[1][kind]), kind
        assert [row for row in rows(ours) if not row[1].startswith("probe/")] == rows(theirs)


def test_stacked_members_are_measured_as_alone(tmp_path, watched):
    run(jobs(tmp_path, "steps=5", *ALL), stop=StopAt(0), stacked=True)
    for name, _ in MEMBERS:
        at_first = [[row for row in rows(place / name, "probe/") if row[0] == 1] for place in (tmp_path, watched)]
        assert [row[:2] for row in at_first[0]] == [row[:2] for row in at_first[1]]
        for ours, theirs in zip(*at_first, strict=True):
            assert float(ours[2]) == pytest.approx(float(theirs[2]), rel=2e-2, abs=1e-3, nan_ok=True), ours[1]


@pytest.mark.parametrize("step", [3, 7])
def test_a_resumed_run_has_the_same_curves(tmp_path, watched, step):
    (job,) = jobs(tmp_path, *ALL, members=MEMBERS[:1])
    assert run([job], stop=StopAt(step))[0].status == "interrupted"
    run([job], stop=StopAt(0))
    assert (job.folder / "metrics.csv").read_bytes() == (watched / job.name / "metrics.csv").read_bytes()
    states = [checkpoint.load(folder) for folder in (job.folder, watched / job.name)]
    assert checkpoint.digest(states[0]) == checkpoint.digest(states[1])


def test_probes_are_due_at_the_first_step_at_multiples_and_at_the_last(watched):
    steps = {step for step, _, _ in rows(watched / "seed=0", "probe/signal/rms")}
    assert steps == {1, 5, 10, 15, 20, 21}
    for word in PROBES_OF_ANY_MODEL:
        assert rows(watched / "seed=0", f"probe/{word}/"), word


def test_every_quantity_of_a_layer_has_a_name_in_words(watched):
    tags = {metric for _, metric, _ in rows(watched / "seed=0", "probe/")}
    layered = {tag: probed for tag in tags if (probed := probed_of(tag)) and probed.has_layers}
    assert {probed.probe for probed in layered.values()} >= {"gradients", "signal", "quantiles", "covariance"}
    assert [tag for tag, probed in layered.items() if title(tag) == probed.quantity.replace("_", " ")] == []
    assert {probed.layer for probed in layered.values()} == {"hidden1", "hidden2", "head"}


def test_distributions_are_histograms_in_tensorboard_only(watched):
    events = EventAccumulator(str(watched / "seed=0"), size_guidance={"histograms": 0})
    events.Reload()
    tags = events.Tags()["histograms"]
    expected = {
        *("quantiles/z", "saturation/h", "covariance/eigenvalues", "weight_norms/rows", "gradients/entries"),
        *("effective_lr/angles", "ics/distances", "eval_mismatch/means", "eval_mismatch/vars"),
    }
    assert {"/".join(tag.split("/")[1:3]) for tag in tags} == expected
    assert {"probe/gradients/entries/head", "probe/weight_norms/rows/head"} <= set(tags)
    points = events.Histograms("probe/weight_norms/rows/head")
    assert [point.step for point in points] == [1, 5, 10, 15, 20, 21]
    assert points[0].histogram_value.num == 10
    assert not set(tags) & {metric for _, metric, _ in rows(watched / "seed=0")}


def test_the_time_of_probes_is_not_in_the_rate_of_training(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(batch_size=10)
    with clock.paused():
        now[0] += 5.0
    now[0] += 2.0
    assert clock.look(4) == (7.0, 20.0)


def test_what_a_gpu_still_has_to_do_when_a_probe_begins_is_training(monkeypatch):
    setup = build([plain(composed(*SMALL_RUN, "probes=[weight_norms]"))], stacked=False)
    done: list[str] = []
    paused = setup.clock.paused
    monkeypatch.setattr("bnexp.experiment.setup.wait_for", lambda device: done.append("wait"))
    monkeypatch.setattr(setup.clock, "paused", lambda: done.append("paused") or paused())
    setup.before(1, *setup.training.batches(0))
    setup.after(setup.training.optimizer.lr_M1[:, 0], torch.zeros(1))
    assert done == ["wait", "paused"] * 2


def test_a_diverged_member_is_not_measured(tmp_path):
    run(jobs(tmp_path, "probes=[signal]", "probes.signal.every=1", members=(WILD, *MEMBERS)), stop=StopAt(0))
    wild = json.loads((tmp_path / "seed=5" / "run.json").read_text())
    assert wild["status"] == "diverged"
    last = [value for step, _, value in rows(tmp_path / "seed=5", "probe/") if step >= wild["diverged_at"]]
    assert set(last) <= {"nan"}
    assert all(math.isfinite(float(value)) for _, _, value in rows(tmp_path / "seed=1", "probe/"))


class Spoiler(Probe):
    """Does all that a probe must not be able to do any harm with, and notes what it was shown."""

    def __init__(self, model, images):
        super().__init__()
        self.seen = []

    def measure(self, moment):
        self.seen.append((moment, moment.model.training))
        torch.rand(3)
        moment.loss(moment.images, moment.labels).backward()
        moment.model.eval()
        with torch.no_grad():
            for tensor in (*moment.model.parameters(), *moment.model.buffers()):
                tensor.fill_(1)
        return {"seen": float(len(self.seen))}


def test_the_moment_is_that_of_the_step():
    setup = build([plain(composed(*WORDS, "norm.momentum=0.5"))], stacked=False)
    population, split = setup.population, Split(torch.rand(9, 1, 8, 8), torch.arange(9))
    observer = Observer(population, [Watch("spoiler", 2, 4, lambda model, images: Spoiler(model, images))], split, 7)
    assert [step for step in range(1, 9) if observer.due(step)] == [1, 2, 4, 6, 7, 8]
    x_MB, y_MB = setup.training.batches(0)
    weights = {name: value[0].clone() for name, value in population.parameters()}
    running = population.members[0].hidden1.norm.running_mean.clone()
    observer.before(1, x_MB, y_MB)
    population(x_MB).square().mean().backward()
    with torch.no_grad():
        population.theta_MP.mul_(1.5)
    kept = [tensor.clone() for tensor in (population.theta_MP, population.gradient_MP, *population.buffers.values())]
    generator = torch.random.get_rng_state()
    assert observer.after(torch.tensor([0.25]), torch.tensor([1.0])) == ({"probe/spoiler/seen": [1.0]}, {})
    after = [population.theta_MP, population.gradient_MP, *population.buffers.values()]
    assert all(torch.equal(a, b) for a, b in zip(kept, after, strict=True))
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert population.members[0].training

    ((moment, training),) = observer.probes["spoiler"][0].seen
    assert training
    assert moment.step == 1
    assert moment.lr == 0.25
    assert torch.equal(moment.x_B, x_MB[0])
    assert torch.equal(moment.y_B, y_MB[0])
    assert len(moment.images) == len(moment.labels) == 4
    for name, weight in weights.items():
        assert torch.equal(moment.before[name], weight)
        assert torch.equal(moment.after[name], 1.5 * weight)
        assert torch.equal(moment.gradient[name], dict(population.gradients())[name][0])
    assert not torch.equal(population.members[0].hidden1.norm.running_mean, running)


def test_a_member_that_is_not_finite_gets_nan_beside_one_that_is():
    configs = [plain(composed(*WORDS, *own)) for own in MEMBERS]
    setup = build(configs, stacked=False)
    population = setup.population
    observer = Observer(population, [Watch("signal", 1, 8, PROBES.bind({"name": "signal"}))], setup.data.train, 9)
    observer.before(1, *setup.training.batches(0))
    population.gradient_MP.zero_()
    curves, _ = observer.after(torch.ones(2), torch.tensor([math.nan, 1.0]))
    assert all(math.isnan(values[0]) and math.isfinite(values[1]) for values in curves.values())
    population.theta_MP[0, 0] = math.inf
    observer.before(2, *setup.training.batches(1))
    assert math.isnan(observer.after(torch.ones(2), torch.ones(2))[0]["probe/signal/growth"][0])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"signal": {"name": "signal", "every": 0, "images": 9}}, "probes.signal.every=0: out of range"),
        ({"signal": {"name": "signal", "every": 5, "images": 1}}, "probes.signal.images=1: out of range"),
        ({"signal": {"name": "signal", "images": 9}}, "probes.signal.every=null: expected a whole number"),
        ({"signal": {"every": 5, "images": 9, "depth": 1}}, "signal has no such option"),
        ({"sgnal": {"name": "sgnal", "every": 5, "images": 9}}, "did you mean signal"),
        ({"name": "mine", "every": 3}, r"probes=mine: its yaml must begin with the line '# @package probes\.mine'"),
        ({"signal": 3}, r"probes=signal: expected a list of names, such as probes=\[signal\]"),
    ],
)
def test_what_is_wrong_with_probes_is_said_before_anything_is_read(groups, message):
    with pytest.raises(ValueError, match=message):
        watches(groups)


def test_a_population_without_probes_observes_nothing():
    population = Population([torch.nn.Linear(2, 2)])
    observer = Observer(population, [], Split(torch.zeros(1, 2), torch.zeros(1)), 3)
    assert not observer.before(1, torch.zeros(1, 1, 2), torch.zeros(1, 1))
    assert observer.state(0) == {}
