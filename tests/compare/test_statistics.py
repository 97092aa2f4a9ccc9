import math

import numpy as np
import pytest
import scipy.stats

from bnexp.compare import statistics
from bnexp.compare.statistics import (
    Region,
    chance,
    hodges_lehmann,
    holm,
    mcnemar,
    mean_interval,
    paired,
    pairs_needed,
    sign_flip,
)

VALUES = [[1.0, 2.0, 4.0], [0.91, 0.93, 0.92, 0.95, 0.90], list(np.random.default_rng(1).normal(3, 2, 12))]


@pytest.mark.parametrize("values", VALUES)
def test_the_interval_is_that_of_scipy(values):
    interval = mean_interval(values)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert interval.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert interval.sd == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), rel=1e-12)


def test_the_interval_by_hand():
    # With two degrees of freedom the quantile has a closed form: t = c sqrt(2 / (1 - c^2)) with c = 0.95.
    t = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    interval = mean_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.sd) == (2.0, 1.0)
    assert interval.high - 2.0 == pytest.approx(t / math.sqrt(3), rel=1e-12)


def test_one_value_has_no_interval_and_none_is_an_error():
    assert mean_interval([0.5]) == statistics.Interval(n=1, mean=0.5, sd=None, low=None, high=None)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


@pytest.mark.parametrize("value", [3.8, 0.1, 1e-5])
def test_equal_values_have_an_interval_of_no_width(value):
    found = mean_interval([value] * 12)
    assert (found.mean, found.sd, found.low, found.high) == (value, 0, value, value)


@pytest.mark.parametrize("values", VALUES)
def test_the_exact_sign_flip_p_is_that_of_scipy(values):
    differences = np.asarray(values) - 1.7
    expected = scipy.stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert sign_flip(differences) == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0] * 5, 2 / 32),  # the science notes: five pairs cannot reach 0.05
        ([1.0] * 6, 2 / 64),
        ([3.0, 1.0, -1.0], 6 / 8),  # |sum| is 3 or more for +++, ++-, +-+ and their mirrors
        ([0.0, 0.0], 1.0),
        ([0.1, 0.2, -0.3], 1.0),  # sums to 0 but for rounding
    ],
)
def test_sign_flip_by_hand(differences, p):
    assert sign_flip(differences) == p


def test_ties_that_rounding_hides_are_counted():
    # 0.1 + 0.2 - 0.3 is not 0 in floating point; every pattern that mirrors the observed one must count.
    assert sign_flip([0.1, 0.2, 0.3, 0.6]) == 2 / 16
    assert sign_flip([0.3, 0.3, 0.1 + 0.2, -0.3]) == 10 / 16


def test_ties_of_accuracies_are_those_of_the_counted_images():
    rng = np.random.default_rng(0)
    for images in (10_000, 50_000, 1_281_167):
        for _ in range(100):
            treated, baseline = images // 2 + rng.integers(0, 6, (2, 8))
            counted = sign_flip(list(map(float, treated - baseline)))
            assert paired([int(k) / images for k in treated], [int(k) / images for k in baseline]).p == counted


def test_beyond_sixteen_pairs_the_p_is_estimated_never_zero_and_repeatable():
    differences = list(np.random.default_rng(2).normal(0.3, 1, 18))
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    exact = np.mean(np.abs(sums) >= abs(sum(differences)) * (1 - 1e-12))
    assert sign_flip(differences) == sign_flip(differences)
    assert sign_flip(differences) == pytest.approx(exact, abs=4 * math.sqrt(exact / statistics.RESAMPLES))
    assert sign_flip([1.0] * 40) == 1 / (1 + statistics.RESAMPLES)


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_by_hand(ps, adjusted):
    assert holm(ps) == pytest.approx(adjusted, rel=1e-12)


# --- Hodges-Lehmann ---------------------------------------------------------------------------------------------------

CENTRED = [*VALUES[1:], [3.0, 1.5, -0.25, 8.0, 2.25, 0.75], [1e6, 1.0, 2.0, 3.5, 4.25, 5.0, 6.5, 7.0]]


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("values", CENTRED)
def test_the_robust_interval_ends_where_scipys_signed_rank_test_begins_to_reject(values, level):
    found = hodges_lehmann(values, level)
    if len(values) < 6 and level == 0.95:
        assert (found.low, found.high) == (None, None)
        return
    width = 1e-7 * (1 + abs(found.high))
    for centre, kept in ((found.low + width, True), (found.high - width, True), (found.low - width, False)):
        p = scipy.stats.wilcoxon(np.asarray(values) - centre, method="exact").pvalue
        assert bool(p > 1 - level) is kept
    assert scipy.stats.wilcoxon(np.asarray(values) - found.high - width, method="exact").pvalue <= 1 - level


def test_the_robust_estimate_by_hand_and_one_value_moves_it_little():
    # The averages of 1, 2, 6 are 1, 1.5, 2, 3.5, 4, 6.
    assert hodges_lehmann([1.0, 2.0, 6.0]).estimate == 2.75
    steady, wild = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7e9]
    assert abs(hodges_lehmann(wild).estimate - hodges_lehmann(steady).estimate) <= 1
    with pytest.raises(ValueError, match="no values"):
        hodges_lehmann([])


def test_paired_is_the_statistics_of_the_differences():
    a, b = [0.95, 0.97, 0.96, 0.99], [0.94, 0.94, 0.95, 0.95]
    result = paired(a, b)
    differences = [0.01, 0.03, 0.01, 0.04]
    assert result.interval.mean == pytest.approx(0.0225, rel=1e-12)
    assert result.interval.d_z == pytest.approx(0.0225 / np.std(differences, ddof=1), rel=1e-9)
    assert result.p == 2 / 16
    expected = scipy.stats.ttest_rel(a, b).confidence_interval()
    assert (result.interval.low, result.interval.high) == pytest.approx(tuple(expected), rel=1e-12)


def test_equal_arms_differ_by_nothing():
    result = paired([0.5, 0.6], [0.5, 0.6])
    assert (result.interval.mean, result.interval.d_z, result.p, result.robust.estimate) == (0.0, None, 1.0, 0.0)


def test_arms_of_different_length_are_not_paired():
    with pytest.raises(ValueError, match="zip"):
        paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("first", "second"), [(0, 6), (6, 0), (3, 5), (4, 4), (1, 12)])
def test_mcnemar_is_the_exact_binomial_test_of_scipy(first, second):
    expected = scipy.stats.binomtest(first, first + second).pvalue
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-12)


def test_without_discordant_pairs_there_is_nothing_to_compare():
    assert mcnemar(0, 0) == 1.0


# --- regions: what makes a verdict ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("null", [0.0, 1.7, -0.4])
def test_sign_flips_about_another_null_are_those_of_scipy(null, alternative):
    differences = np.asarray(VALUES[2])
    expected = scipy.stats.permutation_test(
        (differences - null, np.zeros_like(differences)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
        alternative=alternative,
    )
    assert sign_flip(differences, null, alternative) == pytest.approx(expected.pvalue, abs=1e-12)


def test_ties_with_the_null_are_hidden_by_no_rounding():
    assert sign_flip([0.3] * 8, 0.1 + 0.2, "greater") == 1.0
    assert sign_flip([0.3] * 8, 0.1 + 0.2, "less") == 1.0


def test_the_p_of_a_region_is_two_sided_at_95_percent_and_of_two_bounds_the_larger():
    d = [0.1, 0.3, 0.2, -0.1, 0.25, 0.05]
    one_sided = sign_flip(d, 0.0, "greater")
    assert Region(low_above=0.0).p(d) == 2 * one_sided == sign_flip(d)
    assert Region(low_above=0.0, level=0.9).p(d) == one_sided
    within = Region(low_above=-0.2, high_below=0.4, level=0.9)
    assert within.p(d) == max(sign_flip(d, -0.2, "greater"), sign_flip(d, 0.4, "less"))
    assert Region(low_above=1.0).p(d) == 1.0
    assert within.p(d, resolution=0.1) == max(sign_flip(d, -0.1, "greater"), sign_flip(d, 0.3, "less")) > within.p(d)


@pytest.mark.parametrize("n", [2, 6, 12, 90])
@pytest.mark.parametrize("effect", [0.0, 0.5, 1.5])
def test_the_chance_of_an_interval_above_0_is_that_of_the_noncentral_t(n, effect):
    quantile = scipy.stats.t.ppf(0.975, n - 1)
    expected = scipy.stats.nct.sf(quantile, n - 1, effect * math.sqrt(n)) if effect else 0.025
    assert chance(Region(low_above=0.0), n, 3 * effect, 3.0) == pytest.approx(expected, abs=2e-3)
    assert chance(Region(high_below=0.0), n, -3 * effect, 3.0) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    "region", [Region(-0.5, 0.5, level=0.9), Region(low_above=0.0, mean_from=0.5), Region(0.1, 1.5, 0.3)]
)
def test_the_chance_of_a_region_is_the_share_of_drawn_samples(region):
    draws = np.random.default_rng(0).normal(0.2, 0.6, (40_000, 10))
    mean, half = draws.mean(1), scipy.stats.t.ppf((1 + region.level) / 2, 9) * draws.std(1, ddof=1) / math.sqrt(10)
    half += 0.05
    inside = (mean - half > region.low_above) & (mean + half < region.high_below) & (mean >= region.mean_from)
    assert chance(region, 10, 0.2, 0.6, 0.05) == pytest.approx(inside.mean(), abs=0.01)


@pytest.mark.parametrize(
    ("effect", "power", "n"),  # tables of the paired t-test, two-sided 5 %
    [
        (0.5, 0.8, 34),
        (0.5, 0.9, 44),
        (0.75, 0.8, 16),
        (1, 0.8, 10),
        (1, 0.9, 13),
        (1.5, 0.9, 7),
        (2, 0.8, 5),
        (0, 0.8, None),
    ],
)
def test_the_number_of_pairs_for_a_power_is_that_of_the_tables(effect, power, n):
    assert pairs_needed(Region(low_above=0.0), effect, 1.0, power=power) == n


def test_no_number_of_pairs_brings_a_verdict_on_an_effect_of_just_the_limit():
    region = Region(low_above=0.0, mean_from=0.3)
    assert chance(region, 5000, 0.3, 1.0) == pytest.approx(0.5, abs=1e-3)
    assert pairs_needed(region, 0.3, 1.0) is None
    assert pairs_needed(region, 0.3, 0.0) is None
