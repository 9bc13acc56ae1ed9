"""Mean, interval, difference and fit against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import stats

scipy_stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 2.7, 3, 9, 30, 299.5, 1e5])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.999])
def test_quantiles_of_students_t_are_scipys(level, freedom):
    assert stats.t_quantile(level, freedom) == pytest.approx(scipy_stats.t.ppf((1 + level) / 2, freedom), rel=1e-8)


def test_quantiles_of_students_t_have_their_closed_forms_for_one_and_two_degrees_of_freedom():
    assert stats.t_quantile(0.95, 1) == pytest.approx(math.tan(math.pi / 2 * 0.95))
    assert stats.t_quantile(0.95, 2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)))


@pytest.mark.parametrize(("level", "freedom"), [(0.95, 0.5), (0, 2), (1, 2)])
def test_quantiles_outside_of_the_distribution_are_refused(level, freedom):
    with pytest.raises(ValueError, match="degrees of freedom from 1 and a level between 0 and 1"):
        stats.t_quantile(level, freedom)


def test_three_numbers_have_the_interval_of_the_textbook():
    summary = stats.summarise(np.array([1.0, 2.0, 3.0]))
    half = 4.302652729911275 / math.sqrt(3)  # s = 1
    assert (summary.mean, summary.n) == (2, 3)
    np.testing.assert_allclose([summary.low, summary.high], [2 - half, 2 + half])


@pytest.mark.parametrize("kind", ["t", "normal"])
def test_intervals_are_scipys(kind):
    values = np.random.default_rng(0).normal(3, 2, (5, 7))
    summary = stats.summarise(values, kind, 0.9)
    mean, error = values.mean(0), scipy_stats.sem(values)
    expected = (
        scipy_stats.t.interval(0.9, 4, mean, error) if kind == "t" else scipy_stats.norm.interval(0.9, mean, error)
    )
    np.testing.assert_allclose([summary.low, summary.high], expected, rtol=1e-8)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    values = np.random.default_rng(1).normal(5, 1, (3, 20_000))
    held = {}
    for kind in ("t", "normal"):
        summary = stats.summarise(values, kind)
        held[kind] = np.mean((summary.low < 5) & (summary.high > 5))
    assert held["t"] == pytest.approx(0.95, abs=0.006)
    assert held["normal"] < 0.85  # with three repetitions the thesis's interval promises too much


def test_missing_values_are_left_out_and_too_few_give_no_limits():
    values = np.array([[1.0, 4.0, np.nan], [3.0, np.nan, np.nan], [5.0, np.nan, np.nan]])
    summary = stats.summarise(values)
    np.testing.assert_array_equal(summary.n, [3, 1, 0])
    np.testing.assert_array_equal(summary.mean, [3, 4, np.nan])
    assert np.isfinite(summary.low[0])
    assert np.isnan([*summary.low[1:], *summary.high[1:]]).all()


def test_equal_values_have_an_interval_of_no_width():
    summary = stats.summarise(np.full((3, 2), 0.7))
    np.testing.assert_allclose(summary.low, summary.high, rtol=1e-14)


def test_differences_have_welchs_interval():
    rng = np.random.default_rng(2)
    one, other = rng.normal(1, 1, 6), rng.normal(0, 3, 4)
    found = stats.difference(one, other)
    expected = scipy_stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-8)
    assert found.mean == pytest.approx(one.mean() - other.mean())


def test_a_difference_is_clear_where_its_interval_leaves_out_zero():
    assert stats.difference([5, 5.1, 4.9], [1, 1.1, 0.9]).is_clear
    assert not stats.difference([5, 1, 3], [4, 2, 3.1]).is_clear
    assert not stats.difference([5], [1]).is_clear  # nothing is known of the spread
    assert stats.difference([2, 2], [1, 1]) == stats.Difference(1, 1, 1)


def test_a_polynomial_is_found_again_far_from_zero():
    x = np.arange(100_000, 101_000)
    scaled = (x - x.mean()) / 500
    y = np.polynomial.chebyshev.chebval(scaled, np.arange(1, 12))
    np.testing.assert_allclose(stats.fit(x, y)(x), y, rtol=1e-9, atol=1e-9)


def test_a_fit_has_half_as_many_degrees_as_points_and_at_most_ten():
    x = np.arange(1000.0)
    for points, degree in ((2, 1), (3, 1), (7, 3), (19, 9), (20, 10), (1000, 10)):
        assert stats.fit(x[:points], np.sin(x[:points])).degree() == degree


def test_a_fit_leaves_gaps_out_and_needs_two_points():
    x, y = np.arange(30.0), 2 * np.arange(30.0)
    y[[3, 17]] = np.nan
    np.testing.assert_allclose(stats.fit(x, y)(x), 2 * x, atol=1e-9)
    assert stats.fit(x[:1], y[:1]) is None
    assert stats.fit(x, np.full(30, np.nan)) is None
