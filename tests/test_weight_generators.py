"""Weight generators: λ is a distribution over the finite workers, with the values that their definitions say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpc_dmaml.weight_generators import (
    ArithmeticMean,
    GeometricMedian,
    GradientNorm,
    LossMedian,
    LossMovingAverage,
    LossWeighted,
    WeightGenerator,
    check,
    worker_weights,
)

THESIS_LOSSES = np.array([2.0, 3.0, 8.0, 19.0, 20.0])
INVERSE = [0.471, 0.314, 0.118, 0.050, 0.047]
GENERATORS = [
    ArithmeticMean(),
    LossMedian(),
    LossWeighted(),
    LossMovingAverage(),
    GradientNorm(),
    GeometricMedian(),
]
ALL = np.full(5, True)


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        (ArithmeticMean(), [0.2] * 5),
        (LossMedian(), [1 / 3, 1 / 3, 1 / 3, 0, 0]),
        (LossWeighted(), INVERSE),
        (LossMovingAverage(), INVERSE),
    ],
)
def test_thesis_example(generator, expected):
    np.testing.assert_allclose(worker_weights(generator, THESIS_LOSSES[None], ALL), expected, atol=5e-4)


@given(
    generator=st.sampled_from(GENERATORS),
    updates=arrays(np.float64, st.tuples(st.integers(1, 7), st.just(4)), elements=st.floats(-1e3, 1e3)),
    data=st.data(),
)
def test_weights_are_a_distribution_over_the_finite_workers(generator, updates, data):
    workers = len(updates)
    memory = data.draw(arrays(np.float64, (3, workers), elements=st.floats(-1e6, 1e6, allow_subnormal=False)))
    finite = data.draw(arrays(np.bool_, workers).filter(np.any))
    memory[-1, ~finite] = np.nan
    weights = worker_weights(generator, memory, finite, updates @ updates.T)
    assert weights.shape == (workers,)
    assert (weights >= 0).all()
    assert (weights[~finite] == 0).all()
    assert weights.sum() == pytest.approx(1)


def test_no_finite_worker_is_an_error():
    with pytest.raises(FloatingPointError, match="every worker is not finite"):
        worker_weights(ArithmeticMean(), np.full((1, 2), np.nan), np.array([False, False]))


def test_a_worker_that_is_not_finite_gets_nothing_and_the_rest_is_shared():
    weights = worker_weights(ArithmeticMean(), np.array([[1.0, np.nan, 3.0]]), np.array([True, False, True]))
    np.testing.assert_array_equal(weights, [0.5, 0, 0.5])


def test_losses_that_are_not_positive_give_the_softmax_of_their_standard_scores():
    losses = np.array([-1.0, 0.0, 4.0])
    scores = -(losses - losses.mean()) / losses.std()
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(worker_weights(LossWeighted(), losses[None], np.full(3, True)), expected)
    np.testing.assert_allclose(worker_weights(LossWeighted(), np.zeros((1, 3)), np.full(3, True)), 1 / 3)


def test_moving_average_looks_back_over_its_window_and_skips_what_was_not_finite():
    memory = np.array([[1.0, np.nan], [1.0, 2.0], [4.0, 2.0]])
    np.testing.assert_allclose(worker_weights(LossMovingAverage(3), memory, np.full(2, True)), [0.5, 0.5])
    assert LossMovingAverage(3).memory_length == 3


def test_geometric_median_is_where_the_distances_pull_evenly():
    """At the minimum of Σ‖g − g_w‖ the unit vectors towards the updates sum to 0."""
    updates = np.random.default_rng(0).normal(size=(6, 9))
    weights = worker_weights(GeometricMedian(iterations=10_000), np.ones((1, 6)), np.full(6, True), updates @ updates.T)
    towards = updates - weights @ updates
    pull = (towards / np.linalg.norm(towards, axis=1, keepdims=True)).sum(0)
    assert np.linalg.norm(pull) < 1e-6


def test_geometric_median_counts_two_workers_alike():
    updates = np.random.default_rng(0).normal(size=(2, 9))
    weights = worker_weights(GeometricMedian(), np.ones((1, 2)), np.full(2, True), updates @ updates.T)
    np.testing.assert_allclose(weights, 0.5)


def test_geometric_median_leaves_a_bad_worker_without_influence():
    rng = np.random.default_rng(0)
    good = rng.normal(size=20) + 0.1 * rng.normal(size=(7, 20))
    updates = np.vstack([good, -1e6 * good[:1]])
    weights = worker_weights(GeometricMedian(), np.ones((1, 8)), np.full(8, True), updates @ updates.T)
    assert np.linalg.norm(weights @ updates - good.mean(0)) < 0.3 * np.linalg.norm(good.mean(0))


def test_gradient_norm_cuts_long_updates_to_the_median_length():
    updates = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 4.0], [0.0, -40.0], [0.5, 0.0]])
    weights = worker_weights(GradientNorm(), np.ones((1, 5)), ALL, updates @ updates.T)
    kept = weights[:, None] * updates / weights[0]
    np.testing.assert_allclose(np.linalg.norm(kept, axis=1), [1, 2, 2, 2, 0.5])


def test_gradient_norm_among_updates_of_no_length_is_the_mean():
    updates = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
    weights = worker_weights(GradientNorm(), np.ones((1, 3)), np.full(3, True), updates @ updates.T)
    np.testing.assert_allclose(weights, 1 / 3)


def test_geometric_median_of_updates_that_are_mostly_the_same_is_that_update():
    updates = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [-1e9, 0.0]])
    weights = worker_weights(GeometricMedian(), np.ones((1, 4)), np.full(4, True), updates @ updates.T)
    np.testing.assert_allclose(weights @ updates, [1.0, 2.0])


@pytest.mark.parametrize("length", [1e2, 1e4, 1e6, 1e9, 1e15])
@pytest.mark.parametrize("bad", [1, 2, 3])
def test_geometric_median_is_as_robust_against_updates_of_any_length(length, bad):
    """Within what 3 of 8 can do at most: the median of the good ones moves by a few times their spread."""
    rng = np.random.default_rng(bad)
    good = 3 + rng.normal(size=(8 - bad, 20))
    updates = np.vstack([good, -length * rng.normal(size=(bad, 20))])
    weights = worker_weights(GeometricMedian(), np.ones((1, 8)), np.full(8, True), updates @ updates.T)
    spread = np.linalg.norm(good - good.mean(0), axis=1).mean()
    assert np.linalg.norm(weights @ updates - good.mean(0)) < 3 * spread


def test_geometric_median_says_when_it_has_not_converged():
    updates = np.random.default_rng(0).normal(size=(6, 9)) ** 3
    with pytest.warns(RuntimeWarning, match=r"not converged after 1 iterations.*weight_generator\.iterations"):
        worker_weights(GeometricMedian(iterations=1), np.ones((1, 6)), np.full(6, True), updates @ updates.T)


class Own(WeightGenerator):
    """A user's own generator, which gives what it is told to."""

    def __init__(self, gives):
        self.gives = gives

    def weights(self, losses, memory, gram):
        return self.gives


@pytest.mark.parametrize(
    ("gives", "rule"),
    [
        ([1.0, 1.0, 1.0], "one number for each of the 2 workers"),
        (1.0, "one number for each of the 2 workers"),
        (np.ones((2, 1)), "one number for each of the 2 workers"),
        (None, "one number for each of the 2 workers"),
        (["a", "b"], "one number for each of the 2 workers"),
        ([2.0, -1.0], "finite and 0 or more"),
        ([np.nan, 1.0], "finite and 0 or more"),
        ([np.inf, 1.0], "finite and 0 or more"),
        ([0.0, 0.0], "more than 0 for at least one worker"),
    ],
)
def test_what_is_no_weights_is_refused_and_the_generator_named(gives, rule):
    with pytest.raises(FloatingPointError, match=f"Own gave the weights .* must be {rule}"):
        worker_weights(Own(gives), np.array([[1.0, 2.0, np.nan]]), np.array([True, True, False]))
    with pytest.raises(ValueError, match="weight_generator: tried on losses .*Own gave"):
        check(Own(gives), 2)


class Singular(WeightGenerator):
    """A user's own generator that fails on some losses."""

    def weights(self, losses, memory, gram):
        return np.linalg.solve(np.outer(losses, losses), losses)


def test_a_generator_that_fails_is_named_and_ends_the_job_with_its_last_state():
    with pytest.raises(FloatingPointError, match=r"Singular failed on the losses \[1.0, 1.0\]: Singular matrix"):
        worker_weights(Singular(), np.ones((1, 2)), np.full(2, True))


@pytest.mark.parametrize("field", ["smoothing", "iterations"])
@pytest.mark.parametrize("value", [0, -1, math.inf])
def test_a_geometric_median_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=f"weight_generator.{field} must be"):
        GeometricMedian(**{field: value})


class Forgetful(Own):
    memory_length = 0  # type: ignore[assignment]


def test_a_generator_that_remembers_no_run_is_refused():
    with pytest.raises(ValueError, match=r"Forgetful.memory_length must be a whole number, 1 or more, not 0"):
        check(Forgetful([1.0, 1.0]), 2)


class Random(WeightGenerator):
    def weights(self, losses, memory, gram):
        return np.random.default_rng().random(len(losses))


def test_a_generator_that_gives_other_weights_the_next_time_is_refused():
    """Each rank would weigh by its own."""
    with pytest.raises(
        ValueError, match="weight_generator: Random gives other weights for the same losses the next time"
    ):
        check(Random(), 3)


@pytest.mark.parametrize("scale", [1e-320, 1e308])
def test_weights_of_any_size_become_a_distribution(scale):
    weights = worker_weights(Own(np.array([scale, scale])), np.ones((1, 2)), np.full(2, True))
    np.testing.assert_array_equal(weights, [0.5, 0.5])
