"""The loop: equal to a plain one, silent between records, and divergence is a result."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_RUN, SWITCHES
from torch import nn

from bnexp.runs import metrics, run_json
from bnexp.training.loop import Cadence, Progress, Training, train
from bnexp.training.losses import hits, mean_loss, mean_losses
from bnexp.training.optim import OPTIMS, optimizer
from bnexp.training.population import Population
from bnexp.training.precision import Precision
from bnexp.training.step import Done, Noted

CPU = torch.device("cpu")
SGD = {
    "name": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "decay_norm": False,
    **SWITCHES,
}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(step)
    x = torch.randn(1, 16, 5, generator=source, dtype=torch.float64)
    return x, torch.randint(3, (1, 16), generator=source)


class Trained:
    """A training of one or more members, and all that came out of it."""

    accuracy = 0.5

    def __init__(self, members, cadence, *, batches=batch, stop=lambda: False, progress=None):
        self.population = Population(members)
        rules = [OPTIMS.bind(SGD)] * len(members)
        self.evaluated_at = []
        self.progress = progress or Progress(len(members), CPU)
        training = Training(
            self.population,
            optimizer(rules, self.population),
            torch.linspace(1, 0.5, cadence.steps, dtype=torch.float64),
            batches,
            cadence,
            Precision("fp32", len(members), CPU),
            self.progress,
        )
        self.records = list(train(training, self.evaluate, stop=stop))

    def evaluate(self):
        self.evaluated_at.append(self.progress.step)
        return {"test/accuracy": [self.accuracy] * len(self.population)}


def test_the_loop_does_what_a_plain_loop_does():
    cadence = Cadence(steps=12, per_epoch=4, log_every=3, eval_every=5, checkpoint_every=4)
    trained = Trained([network(0)], cadence)

    plain, losses, hits = network(0), [], []
    theirs = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for step, factor in enumerate(torch.linspace(1, 0.5, 12, dtype=torch.float64).tolist()):
        x, y = batch(step)
        theirs.param_groups[0]["lr"] = 0.1 * factor
        theirs.zero_grad()
        logits = plain(x[0])
        loss = F.cross_entropy(logits, y[0])
        loss.backward()
        theirs.step()
        losses.append(loss.item())
        hits.append((logits.argmax(1) == y[0]).sum().item())

    for mine, reference in zip(trained.population.members[0].parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.data, reference.data, rtol=0, atol=1e-12)
    logged = [record for record in trained.records if "train/loss" in record.values]
    steps = [record.step for record in logged]
    assert steps == [3, 5, 6, 9, 10, 12]  # every three, and with each evaluation
    for record, since in zip(logged, [0, *steps], strict=False):
        window = slice(since, record.step)
        count = record.step - since
        assert record.values["train/loss"][0] == pytest.approx(sum(losses[window]) / count, abs=1e-6)
        assert record.values["train/accuracy"][0] == pytest.approx(sum(hits[window]) / (16 * count), abs=1e-6)
    assert logged[-1].values["lr"] == [pytest.approx(0.05)]


def test_records_come_where_something_is_due_and_nowhere_else():
    cadence = Cadence(steps=10, per_epoch=4, log_every=6, eval_every=5, checkpoint_every=4)
    trained = Trained([network(0)], cadence)
    assert [record.step for record in trained.records] == [4, 5, 6, 8, 10]
    assert trained.evaluated_at == [5, 10]
    training = ["lr", "train/accuracy", "train/loss"]
    assert [sorted(record.values) for record in trained.records[:3]] == [
        [],
        sorted(["test/accuracy", *training]),
        training,
    ]
    assert [record.epoch for record in trained.records] == [1, 1.25, 1.5, 2, 2.5]


def test_stopping_hands_out_the_step_it_stopped_at():
    asked = iter([False, False, True])
    cadence = Cadence(steps=10, per_epoch=4, log_every=5, eval_every=5, checkpoint_every=5)
    trained = Trained([network(0)], cadence, stop=lambda: next(asked))
    (record,) = trained.records
    assert (record.step, dict(record.values), trained.progress.stopping) == (3, {}, True)


def poisoned(step: int):
    x, y = batch(step)
    return (x * math.nan if step == 6 else x), y


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step():
    cadence = Cadence(steps=20, per_epoch=20, log_every=4, eval_every=8, checkpoint_every=20)
    trained = Trained([network(0)], cadence, batches=poisoned)
    assert trained.progress.diverged_at() == [7]
    assert [record.step for record in trained.records] == [4, 8]
    assert math.isnan(trained.records[-1].values["train/loss"][0])
    assert math.isnan(trained.records[-1].values["train/accuracy"][0])
    assert trained.evaluated_at == []


def test_a_diverged_member_does_not_disturb_the_others():
    def twice(step):
        x, y = batch(step)
        return torch.cat([x, x * math.nan if step == 3 else x]), y.expand(2, -1)

    cadence = Cadence(steps=8, per_epoch=8, log_every=2, eval_every=8, checkpoint_every=8)
    both = Trained([network(0), network(0)], cadence, batches=twice)
    alone = Trained([network(0)], cadence)
    assert both.progress.diverged_at() == [None, 4]
    torch.testing.assert_close(both.population.theta_MP[:1], alone.population.theta_MP, rtol=0, atol=1e-12)
    assert both.records[-1].values["train/loss"][0] == alone.records[-1].values["train/loss"][0]


def test_losses_and_hits_are_those_of_each_member():
    logits = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randint(4, (3, 7))
    loss, right = mean_losses(logits, y), hits(logits, y)
    for row in range(3):
        expected = F.cross_entropy(logits[row], y[row]).item()
        assert loss[row].item() == pytest.approx(expected, abs=1e-12)
        assert mean_loss(logits[row], y[row]).item() == pytest.approx(expected, abs=1e-12)
        assert right[row] == (logits[row].argmax(1) == y[row]).sum()
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    expected = (logits.softmax(2) - F.one_hot(y, 4)) / 7
    torch.testing.assert_close(gradient, expected.detach(), rtol=0, atol=1e-12)


def test_weights_that_evaluate_to_nothing_finite_have_diverged_though_no_training_loss_told(monkeypatch):
    monkeypatch.setattr(Trained, "accuracy", math.nan)
    cadence = Cadence(steps=20, per_epoch=20, log_every=4, eval_every=5, checkpoint_every=20)
    trained = Trained([network(0)], cadence)
    assert trained.progress.diverged_at() == [5]
    assert [record.step for record in trained.records] == [4, 5]


@pytest.mark.parametrize(
    ("between", "full", "size"),
    [
        *[(10, 100, 5), (50, 100, 8), (9, 100, 8), (15, 100, 7), (17, 100, 8), (20, 100, 5), (4, 100, 4), (1, 100, 1)],
        *[(50, 5, 5), (50, 27, 8), (50, 0, 1)],
    ],
)
def test_how_many_steps_are_done_at_once(between, full, size):
    """As few groups and single steps as can be between two records, or in an epoch that is shorter."""
    cadence = Cadence(1000, 28, log_every=between, eval_every=1000, checkpoint_every=900)
    assert cadence.together(8, full) == size
    length = max(1, min(between, full))
    counts = {each: length // each + length % each for each in range(1, 9)}
    assert counts[size] == min(counts.values())


def test_steps_added_up_together_come_to_what_they_come_to_one_by_one():
    """Over more steps than are kept at once, batches of two sizes, and readings in between."""
    together, single, disturbed = (Progress(2, CPU) for _ in range(3))
    for step in range(40):
        size = 3 if step % 7 == 6 else 5
        logits, y = torch.randn(2, size, 4), torch.randint(4, (2, size))
        loss = mean_losses(logits, y)
        loss[1] = math.nan if step >= 20 else loss[1]
        together.note(Noted(loss, logits, y))
        disturbed.note(Noted(loss, logits, y))
        single.add([Noted(loss, logits, y)])
        for progress in (together, single, disturbed):
            progress.count(Done(loss, size, 1))
        if step % 5 == 0:
            assert disturbed.state(0) == single.state(0)
    assert together.diverged_at() == disturbed.diverged_at() == single.diverged_at() == [None, 21]
    taken, wanted = repr(together.take()), repr(single.take())  # as words, in which nan is nan
    assert taken == repr(disturbed.take()) == wanted
    assert "nan" in wanted


def test_an_evaluation_does_not_hide_an_earlier_loss_that_was_not_finite():
    progress = Progress(1, CPU)
    for loss in (1.0, math.nan, math.nan):
        progress.note(Noted(torch.tensor([loss]), torch.zeros(1, 4, 3), torch.zeros(1, 4, dtype=torch.int64)))
        progress.count(Done(torch.tensor([loss]), 4, 1))
    progress.judge({"test/loss": [math.nan]})
    assert progress.diverged_at() == [2]


@pytest.mark.parametrize("rate", ["1e12", "1e3"])
def test_what_a_diverged_run_says_last_of_its_training_is_of_one_step(bnexp, tmp_path, rate):
    """It is of the last step with a loss that is a number, though logits that are nan have some largest class too."""
    run = tmp_path / "run"
    words = ("model.depth=3", "norm=none", f"optim.lr={rate}", "log_every=1", f"hydra.run.dir={run}")
    assert bnexp("train", *SMALL_RUN, *words).code == 0
    said = run_json.read(run)
    told = {(step, tag): value for step, tag, value in metrics.points(run)}
    end = said["diverged_at"]
    assert end > 1
    for tag in ("train/loss", "train/accuracy"):
        assert math.isnan(told[end, tag])
        assert said["final"][tag] == told[end - 1, tag]
