"""Which value of a grid is chosen, and how a grid grows."""

from __future__ import annotations

import pytest

from bnexp.claims.tuning import TunedValue, beyond, choose


@pytest.mark.parametrize(
    ("scores", "best", "chosen", "at_edge"),
    [
        # Means 0.8, 0.9, 0.6; the best has an error of 0.01.
        ({0.1: [0.8, 0.8], 0.3: [0.89, 0.91], 1: [0.6, 0.6]}, 0.3, 0.3, False),
        # The best has an error of 0.1: 0.3 to 3 are as good.
        ({0.1: [0.3, 0.3], 0.3: [0.8, 0.8], 1: [0.7, 0.9], 3: [0.75, 0.75], 10: [0.1, 0.1]}, 0.3, 0.3, False),
        ({0.1: [0.3, 0.3], 0.3: [0.8, 0.8], 1: [0.71, 0.91], 3: [0.75, 0.75], 10: [0.1, 0.1]}, 1, 1, False),
        # Of two middles the better one.
        ({0.1: [0.3, 0.3], 0.3: [0.79, 0.79], 1: [0.7, 0.9], 3: [0.1, 0.1]}, 1, 1, False),
        # A gap ends what is as good.
        ({0.1: [0.79, 0.79], 0.3: [0.1, 0.1], 1: [0.7, 0.9], 3: [0.79, 0.79], 10: [0.1, 0.1]}, 1, 1, False),
        # The best lies on the edge, where a better one may lie outside, whatever is chosen.
        ({0.1: [0.1, 0.1], 0.3: [0.8, 0.8], 1: [0.8, 0.8], 3: [0.7, 0.95]}, 3, 1, True),
        ({0.1: [None, 0.9], 0.3: [0.5, 0.5], 1: [0.4, 0.4]}, 0.3, 0.3, False),
        ({0.1: [0.9], 0.3: [0.9], 1: [0.9]}, 0.3, 0.3, False),
        ({0.1: [0.9, 0.8]}, 0.1, 0.1, False),  # a fixed rate has no edge
        ({0.1: [None, None], 0.3: [None, None], 1: [None, None]}, 0.3, 0.3, False),
        ({"a": [0.8, 0.8], "b": [0.7, 0.9], "c": [0.7, 0.95]}, "c", "c", False),
        ({3: [0.1, 0.1], 0.3: [0.8, 0.8], 1: [0.9, 0.9]}, 1, 1, False),  # a grid that grew downwards
    ],
)
def test_the_middle_of_what_is_as_good_as_the_best(scores, best, chosen, at_edge):
    found = choose(scores, larger=True)
    assert (found.best, found.chosen, found.at_edge) == (best, chosen, at_edge)
    losses = {value: [None if x is None else 1 - x for x in row] for value, row in scores.items()}
    assert choose(losses, larger=False).chosen == chosen


@pytest.mark.parametrize(
    ("grid", "best", "new"),
    [
        ([0.1, 0.3, 1], 1, 3.0),
        ([0.1, 0.3, 1], 0.1, 0.03),
        ([0.1, 0.3, 1, 3], 3, 10.0),
        ([0.02, 0.08, 0.32, 1.28, 5.12], 5.12, 20.0),
        ([0.1, 0.3, 1], 0.3, None),
        ([0.1, 0.5], 0.5, 2.5),
        ([0.1], 0.1, None),
        ([0, 0.5, 0.9], 0.9, None),
    ],
)
def test_a_grid_goes_on_with_its_own_steps(grid, best, new):
    tuned = TunedValue(dict.fromkeys(grid, 0.5), best, best, at_edge=best in (grid[0], grid[-1]))
    assert beyond("optim.lr", tuned) == new
    assert beyond("optim.momentum", tuned) is None
