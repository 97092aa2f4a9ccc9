from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest

from bnexp.config.checks import (
    Fraction,
    NonNegative,
    OneOf,
    Positive,
    PositiveFloat,
    Range,
    Some,
    checked,
    instead,
    near_miss,
)

Side = Annotated[str, OneOf(("before", "after"))]
Maybe = Annotated[int | None, Range(least=1)]
Ratios = list[Annotated[float, Range(above=0, below=1)]]


@pytest.mark.parametrize(
    ("value", "annotation", "taken"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (0.5, float, 0.5),
        (True, bool, True),
        ("relu", str, "relu"),
        (None, Maybe, None),
        (7, Maybe, 7),
        (1, float | None, 1.0),
        ("before", Side, "before"),
        ("tf", Literal["torch", "tf"], "tf"),
        ([0.25, 0.5], Ratios, [0.25, 0.5]),
        ([], Ratios, []),
        ([1], Some[int], [1]),
        ([1, 2], list[float], [1.0, 2.0]),
        ({"name": "bn"}, dict[str, Any], {"name": "bn"}),
        (1, Positive, 1),
        (0, NonNegative, 0.0),
        (0.999, Fraction, 0.999),
        (5e-324, PositiveFloat, 5e-324),
    ],
)
def test_a_good_value_comes_back_in_the_annotated_type(value, annotation, taken):
    answer = checked("x", value, annotation)
    assert answer == taken
    assert type(answer) is type(taken)
    assert not isinstance(answer, list) or [type(item) for item in answer] == [type(item) for item in taken]


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (True, int, "x=True: expected a whole number"),
        (True, float, "x=True: expected a number"),
        (1, bool, "x=1: expected true or false"),
        (1.0, int, "x=1.0: expected a whole number"),
        ("1", int, "x=1: expected a whole number"),
        ("1e-5", float, "x=1e-5: expected a number"),
        ([], Some[int], "x=[]: empty; allowed is a list of one item or more"),
        ([0.5], Some[int], "x=0.5: expected a whole number"),
        (1, str, "x=1: expected a word"),
        (None, int, "x=null: expected a whole number"),
        (None, Positive, "x=null: expected a whole number"),
        (math.nan, float, "x=nan: expected a finite number"),
        (math.inf, float, "x=inf: expected a finite number"),
        (-math.inf, NonNegative, "x=-inf: expected a finite number"),
        (10**400, float, "x=inf: expected a finite number"),
        (0, Positive, "x=0: out of range; allowed is at least 1 and at most 1000000000"),
        (-1e-9, NonNegative, "x=-1e-09: out of range; allowed is at least 0"),
        (0, PositiveFloat, "x=0.0: out of range; allowed is above 0"),
        (1, Fraction, "x=1.0: out of range; allowed is at least 0 and below 1"),
        (2.5, Annotated[float, Range(above=0, most=2)], "x=2.5: out of range; allowed is above 0 and at most 2"),
        (0, Maybe, "x=0: out of range; allowed is at least 1"),
        ("a", Maybe, "x=a: expected a whole number"),
        ("befor", Side, "x=befor: not known; did you mean before? (allowed: after, before)"),
        ("zzz", Side, "x=zzz: not known (allowed: after, before)"),
        (["before"], Side, "x=['before']: expected a word"),
        ("torhc", Literal["torch", "tf"], "x=torhc: not known; did you mean torch? (allowed: tf, torch)"),
        (None, Literal["torch", "tf"], "x=None: not known (allowed: tf, torch)"),
        (0.5, Ratios, "x=0.5: expected a list, such as [a,b]"),
        ((0.5,), Ratios, "x=(0.5,): expected a list, such as [a,b]"),
        ([0.5, 1.0], Ratios, "x=1.0: out of range; allowed is above 0 and below 1"),
        ([0.5, "a"], Ratios, "x=a: expected a number"),
        ("bn", dict[str, Any], "x=bn: expected a group, such as {name: ...}"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_says_what_is_allowed(value, annotation, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        checked("x", value, annotation)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        (Range(least=1, most=3), (1, 2, 3), (0.999, 3.001)),
        (Range(above=1, below=3), (1.001, 2.999), (1, 3)),
        (Range(), (-1e300, 1e300), ()),
    ],
)
def test_closed_ends_belong_to_a_range_and_open_ends_do_not(interval, inside, outside):
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in outside)


def test_a_near_miss_is_named_only_when_it_is_near():
    assert near_miss("momentun", ["lr", "momentum"]) == "; did you mean momentum?"
    assert near_miss("xyz", ["lr", "momentum"]) == ""


def test_what_there_is_is_told_in_its_order_with_probes_last():
    assert instead("los", ["probe/a", "loss", "lr", "loss"]) == "; did you mean loss? (there are: loss, lr, probe/a)"
    assert instead("c", "ab", most=1) == " (there are: a and 1 more)"
