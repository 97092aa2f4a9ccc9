"""The protocol errs as rarely as it says: made-up claims through the real judging functions, a few hundred of them."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("claim_errors")


def test_every_law_has_the_mean_and_the_spread_that_it_is_said_to_have(simulation):
    for name, law in simulation.LAWS.items():
        drawn = law(np.random.default_rng(1), 400_000)
        assert abs(drawn.mean()) < 0.02, name
        assert drawn.std() == pytest.approx(1, abs=0.1), name


@pytest.mark.parametrize("law", ["normal", "counted"])
@pytest.mark.slow
def test_false_verdicts_are_rare_under_symmetric_laws(simulation, law):
    rates = simulation.errors(law, claims=200, seeds=12)
    two_sided, one_sided = 0.025, 0.05
    for title, rate in rates.items():
        limit = one_sided if "but" in title else two_sided
        assert rate.all <= limit + 3 * (limit / 200) ** 0.5, title  # three standard errors
        assert rate.unmarked <= rate.all
        assert rate.adjusted <= 0.005, title


@pytest.mark.slow
def test_skew_errs_more_often_than_it_should_as_the_page_says(simulation):
    rates = simulation.errors("lognormal", claims=200, seeds=12)
    assert rates["no effect: reversed"].all > 0.08
    assert rates["no effect: reversed"].adjusted < 0.02


def test_two_equal_arms_that_are_tuned_seldom_differ(simulation):
    better, worse = simulation.equal_arms(1.0, 0.1, claims=200, seeds=12, tuning_seeds=5)
    assert better + worse <= 0.06 + 3 * (0.06 / 200) ** 0.5
