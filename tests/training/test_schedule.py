from __future__ import annotations

import pytest
from conftest import from_yaml

from bnexp.training.schedule import SCHEDULES

HALF = 2**-0.5


# (options, steps of the run, their factors by hand).
BY_HAND = [
    ({"name": "constant", "warmup": 0}, 3, [1, 1, 1]),
    ({"name": "constant", "warmup": 4}, 6, [0.25, 0.5, 0.75, 1, 1, 1]),
    ({"name": "constant", "warmup": 1}, 2, [1, 1]),
    ({"name": "constant", "warmup": 10}, 2, [0.1, 0.2]),
    (
        {"name": "step", "milestones": [0.5, 0.75], "factor": 0.1, "warmup": 0},
        8,
        [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01],
    ),
    ({"name": "step", "milestones": [0.5], "factor": 0.1, "warmup": 0}, 5, [1, 1, 1, 0.1, 0.1]),
    ({"name": "step", "milestones": [], "factor": 0.1, "warmup": 0}, 2, [1, 1]),
    ({"name": "step", "milestones": [0.75, 0.5], "factor": 2, "warmup": 2}, 4, [0.5, 1, 2, 4]),
    ({"name": "cosine", "final": 0, "warmup": 0}, 4, [1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2]),
    ({"name": "cosine", "final": 0.5, "warmup": 0}, 2, [1, 0.75]),
    ({"name": "cosine", "final": 0, "warmup": 2}, 4, [0.5, (1 + HALF) / 2, 0.5, (1 - HALF) / 2]),
    ({"name": "cosine", "final": 0.2, "warmup": 0}, 1, [1]),
    ({"name": "triangle", "peak": 0.5}, 4, [0.25, 0.75, 0.75, 0.25]),
    ({"name": "triangle", "peak": 0.2}, 5, [0.5, 0.875, 0.625, 0.375, 0.125]),
]


def test_every_schedule_is_worked_out_by_hand():
    assert {config["name"] for config, _, _ in BY_HAND} == set(SCHEDULES)


@pytest.mark.parametrize("total", [10, 77])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_every_schedule_stays_between_zero_and_the_base_rate(name, total):
    schedule = SCHEDULES.bind(from_yaml("schedule", name))(total)
    factors = [schedule(step) for step in range(total)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) > 0.9
    assert factors == [schedule(step) for step in range(total)]  # a function of the step


@pytest.mark.parametrize(("config", "total", "factors"), BY_HAND)
def test_factors_are_those_worked_out_by_hand(config, total, factors):
    schedule = SCHEDULES.bind(config)(total)
    assert [schedule(step) for step in range(total)] == pytest.approx(factors, rel=1e-12)


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_milestone_begins_at_its_very_step(percent):
    schedule = SCHEDULES.bind({"name": "step", "milestones": [percent / 100], "factor": 0.5, "warmup": 0})(100)
    assert (schedule(percent - 1), schedule(percent)) == (1, 0.5)


def test_a_cosine_never_rises_and_ends_just_above_its_final_value():
    schedule = SCHEDULES.bind({"name": "cosine", "final": 0.1, "warmup": 0})(1000)
    factors = [schedule(step) for step in range(1000)]
    assert factors == sorted(factors, reverse=True)
    assert 0.1 < factors[-1] < 0.1 + 1e-5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "constant", "warmup": -1}, "schedule.warmup=-1: out of range"),
        ({"name": "step", "milestones": [1.0], "factor": 0.1, "warmup": 0}, "schedule.milestones=1.0: out of range"),
        ({"name": "step", "milestones": [0.5], "factor": 0, "warmup": 0}, "schedule.factor=0.0: out of range"),
        ({"name": "triangle", "peak": 1.0}, "schedule.peak=1.0: out of range"),
        ({"name": "cosine", "final": 1, "warmup": 0}, "schedule.final=1.0: out of range"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(config, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SCHEDULES.bind(config)
