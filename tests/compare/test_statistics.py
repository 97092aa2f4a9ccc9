import math

import numpy as np
import pytest
import scipy.stats

from bnexp.compare import statistics
from bnexp.compare.statistics import (
    bca,
    holm,
    mcnemar,
    mean_interval,
    not_below,
    paired,
    pairs_needed,
    sign_flip,
    t_test,
    tost,
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


def test_equal_values_have_an_interval_of_no_width():
    interval = mean_interval([0.1] * 7)
    assert (interval.low, interval.high) == pytest.approx((0.1, 0.1), abs=1e-15)


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


@pytest.mark.parametrize("values", VALUES)
def test_bca_is_that_of_scipy(values):
    expected = scipy.stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(0)
    ).confidence_interval
    assert bca(values) == pytest.approx(tuple(expected), rel=1e-12)


@pytest.mark.parametrize("values", [[], [1.0], [0.5, 0.5, 0.5]])
def test_bca_is_undefined_without_spread(values):
    assert bca(values) is None


def test_paired_is_the_statistics_of_the_differences():
    a, b = [0.95, 0.97, 0.96, 0.99], [0.94, 0.94, 0.95, 0.95]
    result = paired(a, b)
    differences = [0.01, 0.03, 0.01, 0.04]
    assert result.interval.mean == pytest.approx(0.0225, rel=1e-12)
    assert result.d_z == pytest.approx(0.0225 / np.std(differences, ddof=1), rel=1e-9)
    assert result.p == 2 / 16
    expected = scipy.stats.ttest_rel(a, b).confidence_interval()
    assert (result.interval.low, result.interval.high) == pytest.approx(tuple(expected), rel=1e-12)


def test_equal_arms_differ_by_nothing():
    result = paired([0.5, 0.6], [0.5, 0.6])
    assert (result.interval.mean, result.d_z, result.p, result.bca) == (0.0, None, 1.0, None)


def test_arms_of_different_length_are_not_paired():
    with pytest.raises(ValueError, match="zip"):
        paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("first", "second"), [(0, 6), (6, 0), (3, 5), (4, 4), (1, 12)])
def test_mcnemar_is_the_exact_binomial_test_of_scipy(first, second):
    expected = scipy.stats.binomtest(first, first + second).pvalue
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-12)


def test_without_discordant_pairs_there_is_nothing_to_compare():
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize("margin", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("values", VALUES)
def test_two_one_sided_tests_are_those_of_scipy(values, margin):
    above_low = scipy.stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below_high = scipy.stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert tost(mean_interval(values), margin) == pytest.approx(max(above_low, below_high), rel=1e-9)


def test_two_one_sided_tests_of_equal_values_and_of_one():
    assert (tost(mean_interval([0.0] * 3), 0.1), tost(mean_interval([0.2] * 3), 0.1)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="at least two values"):
        tost(mean_interval([1.0]), 0.1)


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
    assert pairs_needed(effect, power) == n


def test_the_pairs_for_an_equivalence_reach_their_power_and_one_fewer_does_not():
    def power(n: int) -> float:  # the interval lies within +-1 sd: two tails of the central t are cut off
        t = scipy.stats.t(n - 1)
        return 1 - 2 * t.sf(math.sqrt(n) - t.ppf(0.975))

    n = pairs_needed(1.0, equivalence=True)
    assert power(n) >= 0.8 > power(n - 1)


@pytest.mark.parametrize("values", [[0.3, 0.1, -0.2, 0.4, 0.25], [-1.0, -1.5, -0.7], [1.0, 1.0, 1.0, 1.1]])
def test_t_tests_are_those_of_scipy(values):
    interval = mean_interval(values)
    assert t_test(interval) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    one_sided = scipy.stats.ttest_1samp(values, -0.1, alternative="greater").pvalue
    assert not_below(interval, -0.1) == pytest.approx(one_sided, rel=1e-9)


def test_t_tests_of_equal_values_and_of_one():
    assert [t_test(mean_interval([x] * 3)) for x in (0.0, 0.2)] == pytest.approx([1.0, 0.0], abs=1e-12)
    assert [not_below(mean_interval([x] * 3), -0.1) for x in (-0.2, 0.0)] == pytest.approx([1.0, 0.0], abs=1e-12)
    assert t_test(mean_interval([1.0])) is None
