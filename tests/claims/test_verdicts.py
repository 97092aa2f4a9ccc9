"""The protocol of claims on made-up numbers: answers worked out by hand or by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from results import case

from bnexp.claims import measures
from bnexp.claims.declaration import Measure, Reduce
from bnexp.claims.judging import Side
from bnexp.claims.report import words
from bnexp.claims.result import _noise_floor
from bnexp.claims.verdicts import judge
from bnexp.compare.statistics import Resolution
from bnexp.runs.collect import Run

D = [1.2, 0.8, 1.1, 0.9, 1.3, 0.7, 1.0, 1.0]  # mean 1, sd 0.2
HALF = 2.364624251 * 0.2 / math.sqrt(8)  # t quantile with 7 degrees of freedom: interval [0.8328, 1.1672]


def shifted(mean: float) -> list[float]:
    return [d - 1 + mean for d in D]


def test_the_made_up_differences_are_as_said():
    verdict = judge(D, "greater", 0.5)
    assert (verdict.interval.mean, verdict.interval.sd) == pytest.approx((1.0, 0.2), abs=1e-12)
    assert verdict.interval.high == pytest.approx(1 + HALF, abs=1e-8)
    assert verdict.interval.d_z == pytest.approx(5.0)
    assert (verdict.robust.estimate, verdict.robust_word, verdict.hangs_on) == (1.0, "supported", [])


@pytest.mark.parametrize(
    ("mean", "claims", "delta", "word", "detail"),
    [
        (1.0, "greater", 0.5, "supported", ""),
        (1.0, "greater", 0.9, "supported", "size open"),
        (1.0, "greater", 1.0, "supported", "size open"),  # the mean reaches delta, the interval does not
        (1.0, "greater", 1.1, "inconclusive", ""),
        (1.0, "greater", 1.3, "negligible", ""),
        (0.1, "greater", 0.3, "negligible", ""),
        (-1.0, "greater", 0.3, "contradicted", "reversed"),
        (-1.0, "less", 0.5, "supported", ""),
        (-1.0, "less", 0.9, "supported", "size open"),
        (1.0, "less", 0.5, "contradicted", "reversed"),
        (-0.1, "less", 0.3, "negligible", ""),
        (1.0, "exceeds", 0.8, "supported", ""),
        (1.0, "exceeds", 0.9, "inconclusive", ""),
        (1.0, "exceeds", 1.2, "contradicted", "lower"),
        (-1.0, "exceeds", 0.5, "contradicted", "reversed"),
        (0.0, "equal", 0.2, "supported", ""),
        (0.0, "equal", 0.14, "supported", ""),  # the half width is 0.134 at 90 %, and 0.167 at 95 %
        (0.0, "equal", 0.13, "inconclusive", ""),
        (1.0, "equal", 0.5, "contradicted", "higher"),
        (-1.0, "equal", 0.5, "contradicted", "lower"),
        (1.0, "equal", 0.85, "inconclusive", ""),  # outside at 90 %, but not at 95 %
        (1.0, "equal", 0.82, "contradicted", "higher"),
        (0.5, "equal", 0.5, "inconclusive", ""),
        (1.0, "at_least", 0.1, "supported", ""),
        (-0.1, "at_least", 0.3, "supported", ""),
        (-0.1, "at_least", 0.1, "inconclusive", ""),
        (-1.0, "at_least", 0.5, "contradicted", "lower"),
    ],
)
def test_each_verdict(mean, claims, delta, word, detail):
    verdict = judge(shifted(mean), claims, delta)
    assert verdict.word == word
    if word != "inconclusive":
        assert verdict.detail == detail


@pytest.mark.parametrize(("claims", "t"), [("greater", 2.3646), ("exceeds", 2.3646), ("equal", 1.8946)])
def test_equality_has_an_interval_of_its_own(claims, t):
    interval = judge(D, claims, 0.5).interval
    assert interval.high - interval.mean == pytest.approx(t * 0.2 / math.sqrt(8), rel=1e-4)


def test_less_is_greater_for_negated_differences():
    d = [1.2, -0.3, 0.4, 0.9, 1.3, 0.7, 0.0, 2.0]
    up, down = judge(d, "greater", 0.5), judge([-x for x in d], "less", 0.5)
    assert (down.word, down.detail, down.p, down.hangs_on) == (up.word, up.detail, up.p, up.hangs_on)
    mirrored = (-up.interval.high, -up.interval.mean, -up.interval.low)
    assert (down.interval.low, down.interval.mean, down.interval.high) == mirrored
    assert (down.robust.low, down.robust.estimate, down.robust.high) == (
        *(-up.robust.high, -up.robust.estimate),
        -up.robust.low,
    )


@pytest.mark.parametrize(
    ("mean", "claims", "delta", "null", "sides"),
    [
        (1.0, "greater", 0.5, 0.5, 2),  # supported: not 0.5 or less
        (1.0, "greater", 0.9, 0.0, 2),  # size open: not 0 or less
        (0.1, "greater", 0.3, 0.3, 2),  # negligible: not 0.3 or more
        (-1.0, "greater", 0.3, 0.0, 2),  # reversed: not 0 or more
        (1.0, "exceeds", 1.3, 1.3, 2),
        (1.0, "equal", 0.5, 0.5, 2),  # higher: not 0.5 or less
        (0.05, "equal", 0.3, 0.3, 1),  # within: the nearer bound has the larger p
        (-0.05, "at_least", 0.3, -0.3, 1),
    ],
)
def test_the_p_is_that_of_the_verdicts_own_null(mean, claims, delta, null, sides):
    d = shifted(mean)
    expected = scipy.stats.permutation_test(
        (np.asarray(d) - null,),
        np.sum,
        permutation_type="samples",
        alternative="greater" if mean > null else "less",
        n_resamples=np.inf,
    )
    assert judge(d, claims, delta).p == pytest.approx(sides * expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("claims", ["greater", "exceeds", "at_least"])
def test_equal_values_never_have_a_p_of_0(claims):
    verdict = judge([0.25] * 8, claims, 0.125)
    assert (verdict.word, verdict.p) == ("supported", (1 if claims == "at_least" else 2) / 256)
    assert judge([0.0] * 8, "equal", 0.1).p == 1 / 256


def test_numbers_of_a_grid_have_a_wider_interval_and_stay_in_their_bounds():
    plain = judge([0.25] * 8, "greater", 0.125)
    wide = judge([0.25] * 8, "greater", 0.125, resolution=Resolution(0.125))
    assert (plain.interval.low, plain.interval.high, plain.detail) == (0.25, 0.25, "")
    assert (wide.interval.low, wide.interval.high) == (0.125, 0.375)
    assert (wide.word, wide.detail) == ("supported", "size open")  # 0.125 is not above delta
    assert (wide.robust.low, wide.robust.high) == (0.125, 0.375)
    assert judge([0.25] * 8, "greater", 0.125, resolution=Resolution(0.3)).word == "inconclusive"
    ends = judge([0.9] * 7 + [1.0], "greater", 0.1, bounds=(-1.0, 1.0), resolution=Resolution(0.2)).interval
    assert (ends.low < 0.75, ends.high) == (True, 1.0)
    of_runs = judge([0.25] * 8, "greater", 0.125, resolution=Resolution(runs=1.0)).interval
    assert (of_runs.low, of_runs.high) == (0.125, 0.375)
    mirrored = judge([-0.9] * 7 + [-1.0], "less", 0.1, bounds=(-1.0, 1.5), resolution=Resolution(0.2)).interval
    assert mirrored.low == -1.0


def test_a_verdict_that_one_seed_makes_is_told():
    outlier = [2.5, 4.0, 5.0, 6.0, 8.0, 24.0]  # all above 0, but for the t-interval of the mean
    verdict = judge(outlier, "greater", 1.0)
    assert (verdict.word, verdict.robust_word) == ("inconclusive", "supported")
    assert verdict.hangs_on == [5]
    assert judge([1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0, -0.1], "greater", 0.95).hangs_on == [7]


def test_inconclusive_says_how_many_seeds_bring_a_verdict():
    # sd 1 and mean 0.9 of delta: negligible once the interval is within 0.1, which takes a d_z of 0.1: 787 pairs.
    d = [x / math.sqrt(6 / 5) + 0.9 for x in (1.0, -1.0, 1.0, -1.0, 1.0, -1.0)]
    verdict = judge(d, "greater", 1.0)
    assert verdict.word == "inconclusive"
    assert verdict.needed == pytest.approx(787, abs=2)
    assert verdict.detail == f"n = {verdict.needed} for a verdict on the effect seen"


def test_the_seeds_told_for_a_share_of_runs_count_that_more_runs_tell_it_more_finely():
    pilot, of_runs = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0], Resolution(runs=1.0)
    told = judge(pilot, "greater", 0.25, resolution=of_runs)
    rng = np.random.default_rng(0)
    suites = [list(rng.normal(told.interval.mean, told.interval.sd, told.needed)) for _ in range(400)]
    found = [judge(suite, "greater", 0.25, resolution=of_runs).word for suite in suites]
    assert found.count("supported") / 400 == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(("claims", "effect"), [("greater", 1.5), ("exceeds", 1.5), ("equal", 0.0), ("at_least", 0.0)])
@pytest.mark.slow
def test_the_seeds_told_for_what_matters_bring_the_verdict_in_four_of_five(claims, effect):
    made_up = [x + 0.2 for x in (1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0)]
    n = judge(made_up, claims, 0.8).needed_for_delta
    rng = np.random.default_rng(1)
    words = [judge(list(rng.normal(0.8 * effect, math.sqrt(8 / 7), n)), claims, 0.8).word for _ in range(400)]
    assert 0.74 < words.count("supported") / 400 < 0.9


@pytest.mark.parametrize("n", range(6))
def test_fewer_than_six_seeds_are_no_verdict(n):
    assert judge([1.0 + i / 10 for i in range(n)], "greater", 0.1).word == "no verdict"


def test_ties_are_an_interval_without_width():
    assert [judge([0.0] * 8, claims, 0.1).word for claims in ("greater", "equal")] == ["negligible", "supported"]
    assert judge([0.2] * 8, "greater", 0.1).word == "supported"


# --- measures ---------------------------------------------------------------------------------------------------------


def run_of(folder, curves: dict[str, dict[int, float]], status="finished", seed=0) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{step},1.0,{tag},{value!r}" for tag, curve in curves.items() for step, value in curve.items()]
    (folder / "metrics.csv").write_text("\n".join(["step,epoch,metric,value", *rows]) + "\n")
    final = {tag: list(curve.values())[-1] for tag, curve in curves.items()}
    return Run(folder, "run", status, {"seed": seed}, "hash", final, {}, 1.0, "", 10, True)


@pytest.fixture
def run(tmp_path) -> Run:
    accuracy = {100: 0.5, 200: 0.8, 300: 0.7, 400: 0.9}
    layers = {f"probe/grad_norm/{name}": {400: value} for name, value in zip("cab", (1.0, 10.0, 1000.0), strict=True)}
    layers |= {"probe/falling/a": {400: 10.0}, "probe/falling/b": {400: 1.0}}
    loss = {100: 1.0, 200: 0.05, 300: 0.009, 400: 0.001}
    return run_of(tmp_path / "run", {"test/accuracy": accuracy, "train_eval/loss": loss, **layers})


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ({"metric": "test/accuracy"}, 0.9),
        ({"metric": "test/accuracy", "minus": "train_eval/loss", "at": "mean"}, 0.725 - 1.06 / 4),
        ({"metric": "test/accuracy", "minus": "train_eval/loss", "at": 250}, 0.75),
        ({"metric": "test/accuracy", "at": 250}, 0.8),
        ({"metric": "test/accuracy", "at": 50}, None),
        ({"metric": "test/accuracy", "at": "mean"}, 0.725),
        ({"metric": "test/accuracy", "at": "max"}, 0.9),
        ({"metric": "test/accuracy", "at": "min", "since": 200}, 0.7),
        ({"metric": "test/accuracy", "at": "median"}, 0.75),
        ({"metric": "test/accuracy", "at": "sd", "since": 300}, 0.2 / math.sqrt(2)),
        ({"metric": "test/accuracy", "at": {"first": "train_eval/loss", "below": 0.525}}, 0.65),
        ({"metric": "test/accuracy", "at": {"first": "train_eval/loss", "below": 0.02}}, 0.8 - 0.1 * 30 / 41),
        ({"metric": "test/accuracy", "at": {"first": "train_eval/loss", "below": 2.0}}, 0.5),
        (
            {
                "metric": "test/accuracy",
                "minus": "train_eval/loss",
                "at": {"first": "train_eval/loss", "below": 0.02},
            },
            0.8 - 0.1 * 30 / 41 - 0.02,
        ),
        ({"metric": "test/accuracy", "at": {"first": "train_eval/loss", "below": 0.0001}}, None),
        ({"metric": "test/accuracy", "at": {"fraction": 0.6}}, 0.8),
        ({"metric": "test/accuracy", "above": 0.9}, 0.0),
        ({"metric": "test/accuracy", "above": 0.7, "at": "mean"}, 1.0),
        ({"metric": "test/accuracy", "above": 0.7, "at": 50}, None),
        ({"steps_to": "test/accuracy", "reaches": 0.75}, 150),
        ({"steps_to": "test/accuracy", "reaches": 0.95}, None),
        ({"steps_to": "train_eval/loss", "reaches": 0.05}, 150),
        ({"metric": "probe/grad_norm/*"}, 337.0),
        ({"metric": "probe/grad_norm/*", "layers": "slope"}, 499.5),
        ({"metric": "probe/grad_norm/*", "layers": "log10_slope"}, 1.5),
        ({"metric": "probe/falling/*", "layers": "log10_slope"}, -1.0),
        ({"metric": "probe/falling/*", "layers": "log10_slope_size"}, 1.0),
        ({"metric": "probe/grad_norm/*", "layers": "log10_slope", "drop": ["first"]}, 2.0),
        ({"metric": "probe/grad_norm/*", "drop": ["first", "last"]}, 10.0),
    ],
)
def test_each_measure(run, measure, expected):
    assert measures.value(run, Measure(**measure)) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_a_loss_that_falls_from_infinity_is_read_where_it_is_a_number(tmp_path):
    accuracy, loss = {100: 0.1, 200: 0.8}, {100: math.inf, 200: 0.009}
    run = run_of(tmp_path / "run", {"test/accuracy": accuracy, "train_eval/loss": loss})
    at = {"first": "train_eval/loss", "below": 0.01}
    assert measures.value(run, Measure(metric="test/accuracy", at=at)) == 0.8


def test_a_metric_that_is_not_there_is_named(run):
    with pytest.raises(measures.MissingMetricError, match=r"probe/nothing: .* \(there are: test/accuracy, "):
        measures.value(run, Measure(metric="probe/nothing"))


def test_divergence_is_chance_for_accuracies_censored_for_targets_and_missing_else(tmp_path):
    dead = run_of(tmp_path / "dead", {"test/accuracy": {100: 0.4}, "test/loss": {100: 2.0}}, status="diverged")
    assert measures.value(dead, Measure(metric="test/accuracy", at="mean")) == 0.1
    assert measures.value(dead, Measure(metric="test/accuracy", at="sd")) is None
    assert measures.value(dead, Measure(metric="test/accuracy", minus="test/loss")) is None
    assert measures.value(dead, Measure(steps_to="test/accuracy", reaches=0.3)) is None
    assert measures.value(dead, Measure(metric="test/loss")) is None
    assert measures.value(dead, Measure(metric="test/accuracy", above=0.3)) == 0.0


# An arm over an axis of four values, two seeds: best mean 0.93 at 0.3, dead at 3.
TABLE = {0.03: {0: 0.80, 1: 0.90}, 0.1: {0: 0.90, 1: 0.91}, 0.3: {0: 0.92, 1: 0.94}, 3.0: {0: 0.10, 1: 0.10}}


@pytest.mark.parametrize(
    ("reduce", "seed", "expected"),
    [
        ({"kind": "largest", "within": 0.05}, 0, 0.3),
        ({"kind": "largest", "within": 0.001}, 1, 0.3),
        ({"kind": "largest", "within": 0.0}, 0, None),  # 0.92 is below the mean of its own value
        ({"kind": "share", "within": 0.05}, 0, 0.5),
        ({"kind": "share", "within": 0.05}, 1, 0.75),
        ({"kind": "count", "factor": 0.5}, 0, 3.0),
        ({"kind": "at_best"}, 1, 0.94),
        ({"kind": "slope", "on": "linear"}, 0, np.polyfit([0.03, 0.1, 0.3, 3.0], [0.80, 0.90, 0.92, 0.10], 1)[0]),
        ({"kind": "slope"}, 0, np.polyfit(np.log2([0.03, 0.1, 0.3, 3.0]), [0.80, 0.90, 0.92, 0.10], 1)[0]),
    ],
)
def test_each_reduction(reduce, seed, expected):
    found = measures.reduced(TABLE, Reduce(**reduce), seed, larger=True)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_the_largest_value_ends_before_the_first_failure():
    reduce = Reduce(kind="largest", within=0.05)
    assert measures.reduced(TABLE | {10.0: {0: 0.92, 1: 0.92}}, reduce, 0, larger=True) == 0.3
    assert measures.reduced(TABLE, reduce, 0, larger=True, diverged=[0.3]) == 0.1


def test_of_an_arm_that_only_guesses_no_value_works():
    dead = {at: {0: 0.12, 1: 0.11} for at in TABLE}
    for kind, expected in (("largest", None), ("share", 0.0)):
        assert measures.reduced(dead, Reduce(kind=kind, within=0.05), 0, larger=True, chance=0.1) == expected
        assert measures.reduced(TABLE, Reduce(kind=kind, within=0.05), 0, larger=True, chance=0.1)


def test_the_range_over_the_axis_needs_all_its_values():
    table = {"a": {0: 0.9, 1: 0.8}, "b": {0: 0.7, 1: None}}
    assert measures.reduced(table, Reduce(kind="range"), 0, larger=True) == pytest.approx(0.2)
    assert measures.reduced(table, Reduce(kind="range"), 1, larger=True) is None


@pytest.mark.parametrize("axis", [[0.1, 0.2, 0.4, 0.8, 1.6], [0.1, 0.3, 1, 3, 10]])
@pytest.mark.parametrize("larger", [True, False])
def test_the_best_place_is_the_top_of_a_parabola(axis, larger):
    best_at, top = Reduce(kind="best_at"), 0.5
    table = {at: {0: 0.9 - 0.02 * math.log(at / top) ** 2} for at in axis}
    table = table if larger else {at: {0: 1 - row[0]} for at, row in table.items()}
    assert measures.reduced(table, best_at, 0, larger=larger) == pytest.approx(top)
    rising = {at: {0: at, 1: 1.0, 2: None} for at in axis}
    assert measures.reduced(rising, best_at, 0, larger=larger) == (axis[-1] if larger else axis[0])
    assert measures.reduced(rising, best_at, 1, larger=larger) == axis[2]  # all alike: the middle
    assert measures.reduced(rising, best_at, 2, larger=larger) is None


def test_no_seed_chooses_the_best_by_its_own_luck():
    at_best = Reduce(kind="at_best")
    lucky = {0.1: {0: 0.99, 1: 0.80, 2: 0.82}, 0.3: {0: 0.90, 1: 0.91, 2: 0.93}, 1.0: {0: None, 1: 0.95, 2: 0.97}}
    assert [measures.reduced(lucky, at_best, seed, larger=True) for seed in (0, 1, 2)] == [None, 0.91, 0.93]
    assert measures.reduced(lucky, at_best, 0, larger=False) == 0.99  # the others are least at 0.1
    assert measures.reduced({0.1: {0: 0.9}}, at_best, 0, larger=True) is None


def test_of_two_equal_arms_neither_is_better_at_the_best_for_having_more_rates_that_work():
    rng = np.random.default_rng(0)

    def gap(rates: int) -> float:
        """How much better than their true mean, 0, the numbers of an arm with so many equally good rates are."""
        table = {rate: dict(enumerate(rng.normal(size=400))) for rate in range(rates)}
        return np.mean([measures.reduced(table, Reduce(kind="at_best"), seed, larger=True) for seed in range(400)])

    assert abs(gap(8)) < 4 / 400**0.5  # the largest of 8 normal numbers is 1.42 in the mean


def test_losses_are_reduced_the_other_way_round():
    losses = {at: {seed: 1 - value for seed, value in row.items()} for at, row in TABLE.items()}
    assert measures.reduced(losses, Reduce(kind="largest", within=0.05), 0, larger=False) == 0.3
    assert measures.reduced(losses, Reduce(kind="at_best"), 1, larger=False) == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("metric", "points", "error"),
    [
        ("test/accuracy", True, 0.005),
        ("test/top5_accuracy_precise", True, 0.005),
        ("train_eval/accuracy", True, None),  # of other images
        ("test/loss", False, None),
    ],
)
def test_accuracies_are_shown_in_points_and_have_the_noise_of_their_test_images(metric, points, error):
    assert words.in_points(case(scale="linear", is_level=True, metric=metric)) == points
    side = Side(weight=1, points=[], values={0: 0.4, 1: 0.6}, diverged=0, runs=2, folders=[])
    assert _noise_floor(metric, [side], 10_000) == error  # sqrt(0.5 * 0.5 / 10 000)
