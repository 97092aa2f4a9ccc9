"""Random sweeps: draws follow their distributions, and depend on the sweep's seed, their number and the name alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL
from scipy import stats

from bnexp.sweep.draws import Choice, Interval, draw

MANY = 2000


def values(axis: Interval | Choice, key: str = "x", seed: int = 0, count: int = MANY) -> list[str]:
    return [word.partition("=")[2] for number in range(count) for word in draw({key: axis}, seed, number)]


def numbers(axis: Interval, **options) -> np.ndarray:
    return np.array([float(value) for value in values(axis, **options)])


@pytest.mark.parametrize(
    ("axis", "distribution"),
    [
        (Interval(0.001, 1, log=True), stats.loguniform(0.001, 1)),
        (Interval(1e-10, 1e9, log=True), stats.loguniform(1e-10, 1e9)),
        (Interval(999, 1001, log=True), stats.loguniform(999, 1001)),
        (Interval(0, 1), stats.uniform(0, 1)),
        (Interval(-3, 5), stats.uniform(-3, 8)),
        (Interval(1e6, 1e6 + 1), stats.uniform(1e6, 1)),
    ],
)
def test_numbers_have_the_distribution_that_was_asked_for(axis, distribution):
    drawn = numbers(axis)
    assert stats.kstest(drawn, distribution.cdf).pvalue > 0.01
    assert drawn.min() >= axis.low
    assert drawn.max() <= axis.high
    assert len(set(drawn[:100])) > 97
    assert max(len(value) for value in values(axis)) <= 13  # names of runs stay short


def test_whole_numbers_and_choices_are_equally_likely():
    drawn = values(Interval(1, 8, whole=True))
    assert {int(value) for value in drawn} == set(range(1, 9))
    assert stats.chisquare([drawn.count(str(value)) for value in range(1, 9)]).pvalue > 0.01
    named = values(Choice(["bn", "ln", "none"]))
    assert stats.chisquare([named.count(name) for name in ("bn", "ln", "none")]).pvalue > 0.01
    assert named == values(Choice(["none", "bn", "ln"]))


def test_logarithms_of_whole_numbers():
    drawn = [int(value) for value in values(Interval(1, 16, whole=True, log=True))]
    expected = [MANY * math.log((k + 1) / k) / math.log(17) for k in range(1, 17)]
    assert stats.chisquare([drawn.count(k) for k in range(1, 17)], expected).pvalue > 0.01


def test_draws_depend_on_the_seed_their_number_and_the_name_alone():
    rate, width = Interval(0.001, 1, log=True), Interval(16, 64, whole=True)
    both = [draw({"model.width": width, "optim.lr": rate}, 0, number) for number in range(20)]
    assert [[word] for _, word in both] == [draw({"optim.lr": rate}, 0, number) for number in range(20)]
    assert stats.spearmanr(numbers(rate, key="a"), numbers(rate, key="b")).pvalue > 0.01
    assert stats.spearmanr(numbers(rate, seed=0), numbers(rate, seed=1)).pvalue > 0.01
    # A resumed sweep has the same jobs in every version.
    assert [word for number in range(2) for word in draw({"optim.lr": rate}, 0, number)] == [
        "optim.lr=0.00191284",
        "optim.lr=0.00119169",
    ]


RANDOM = ("train", "-m", *SMALL, "steps=2", "hydra.sweep.dir=s", "hydra/sweeper=random")
RATE = "optim.lr=tag(log, interval(0.01, 1))"


def jobs(place: Path) -> list[dict]:
    return json.loads((place / "s" / "sweep.json").read_text())["jobs"]


def finals(place: Path) -> dict[tuple[str, int], float]:
    """(rate, seed) -> the validation accuracy of the run."""
    runs = [json.loads(path.read_text()) for path in place.glob("s/*/run.json")]
    return {(run["config"]["optim"]["lr"], run["config"]["seed"]): run["final"]["validation/accuracy"] for run in runs}


@pytest.mark.slow
def test_a_random_sweep_grows_by_more_samples_and_its_best_draw_is_found(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = bnexp(*RANDOM, RATE, "seed=0,1", "optim.momentum=0.5,0.9", "hydra.sweeper.samples=2")
    assert first.code == 0, first
    best = "best draw, chosen on validation images: bnexp compare s --best optim.lr,optim.momentum"
    assert first.out.splitlines()[-1] == best
    few = jobs(tmp_path)
    stacked = ("hydra/launcher=stacked", "hydra.launcher.jobs=1")
    more = bnexp(*RANDOM, RATE, "seed=0,1", "optim.momentum=0.5,0.9", "hydra.sweeper.samples=4", *stacked)
    assert "sweep: 8 finished, of 8 jobs in s" in more.out, more
    grown = jobs(tmp_path)
    assert [job["name"] for job in grown[:4]] == [job["name"] for job in few]
    assert len(list(tmp_path.glob("s/*/output.log"))) == 5, "the four new jobs were a stack"
    assert [job["config"]["seed"] for job in grown] == [0, 1] * 4
    assert len({job["config"]["optim"]["lr"] for job in grown}) == 4
    found = finals(tmp_path)
    means = {rate: (found[rate, 0] + found[rate, 1]) / 2 for rate, _ in found}
    rows = bnexp("compare", "s", "--best", "optim.lr,optim.momentum", "--format", "json").out
    (arm,) = json.loads(rows)["arms"]
    assert means[float(arm["chosen"].partition(",")[0].removeprefix("optim.lr="))] == max(means.values())
    assert arm["validation_mean"] == pytest.approx(max(means.values()))


def test_crossed_settings_and_draws_that_are_equal(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("norm=bn,ln", "placement=before,after", "hydra.sweeper.cross=[norm]", "hydra.sweeper.samples=9")
    answer = bnexp(*RANDOM, *words, "data.validation=0")
    assert answer.code == 0, answer
    assert sorted(job["name"] for job in jobs(tmp_path)) == [
        f"norm={norm},placement={place}" for norm in ("bn", "ln") for place in ("after", "before")
    ]
    assert "14 of 18 combinations were drawn before, and run once" in answer.err
    assert "data.validation=0: only test images to choose a draw by, which makes test accuracies too good" in answer.err
    assert "--best" not in answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([RATE, "hydra.sweeper.samples=0"], "hydra.sweeper.samples=0: out of range; allowed is at least 1"),
        ([RATE, "hydra.sweeper.samples=x"], "hydra.sweeper.samples=x: expected a whole number"),
        (["optim.lr=interval(1, 0.1)"], "optim.lr=interval(1, 0.1): expected interval(a, b) with a < b"),
        (
            ["model.width=int(interval(1.2,1.4))"],
            "model.width=int(interval(1.2,1.4)): expected interval(a, b) with a < b, two finite numbers; not 1 and 1",
        ),
        (["optim.lr=tag(log, interval(0, 1))"], "optim.lr=tag(log, interval(0, 1)): a logarithm needs "),
        (["optim.lr=tag(log, interval(-1, 1))"], "optim.lr=tag(log, interval(-1, 1)): a logarithm needs "),
        (["optim.lr=tag(lin, interval(0, 1))"], "optim.lr=tag(lin, interval(0, 1)): the only tag is tag(log, "),
        (["optim.lr=tag(log, choice(0.1, 1))"], "optim.lr=tag(log, choice(0.1, 1)): the only tag is tag(log, "),
        (["seed=0,1"], "hydra/sweeper=random: nothing to draw; give a setting interval(a, b) or values a,b"),
        ([RATE, "hydra.sweeper.cross=[norm]"], "hydra.sweeper.cross: norm has no list of values here"),
        ([RATE, "hydra.sweeper.cross=[optim.lr]"], "hydra.sweeper.cross: optim.lr has no list of values here"),
        (["batch_size=interval(4, 40)"], "batch_size: takes whole numbers; int(interval(a, b)) draws these"),
        ([RATE, "model.width=interval(4, 40)"], "model.width: takes whole numbers; int(interval(a, b)) draws these"),
        (
            [RATE, "hydra/sweeper=grid"],
            f"{RATE}: an interval is no list of values; hydra/sweeper=random draws values from it",
        ),
    ],
)
def test_a_wrong_random_sweep_is_refused_in_a_line_and_leaves_nothing(bnexp, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert bnexp(*RANDOM, *words).complaint.startswith(f"bnexp: {message}")
    assert list(tmp_path.iterdir()) == []
