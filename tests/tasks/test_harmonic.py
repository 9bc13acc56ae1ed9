"""Sums of sine waves: each task's points lie on one of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_dmaml.config import Validation
from hpc_dmaml.models import MLP
from hpc_dmaml.optimizers import Adam
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import Harmonic
from tests.helpers import run, small_config


@given(st.integers(1, 4), st.floats(0.5, 20), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_support_and_query_points_lie_on_one_sum_of_waves(waves, frequency, seed):
    """With the frequency known, y is linear in sin kωx and cos kωx: the support points say what the query points are."""
    task = Harmonic(shots=40, queries=10, waves=waves, frequency=(frequency, frequency))
    batch = task.load().sample("train", generator(seed, Purpose.TRAINING), 3)
    for x, y, query_x, query_y in zip(*batch.support_set, *batch.query_set, strict=True):
        angles = [(k * frequency * points) for points in (x, query_x) for k in range(1, waves + 1)]
        basis, query_basis = (
            np.hstack([f(a) for a in part for f in (np.sin, np.cos)]) for part in (angles[:waves], angles[waves:])
        )
        fit = np.linalg.lstsq(basis, y, rcond=None)[0]
        np.testing.assert_allclose(query_basis @ fit, query_y, atol=1e-4)


def test_the_defaults_are_those_of_the_literature():
    """Amplitudes and inputs of a task are normal with deviation 1, means of inputs uniform in [-4, 4]."""
    batch = Harmonic(shots=1, queries=100).sample("test", generator(0, Purpose.TRAINING), 4000)
    x, y = batch.query_set
    assert x.shape == y.shape == (4000, 100, 1)
    centres = x.mean(1, keepdims=True)
    assert abs((x - centres).std() - 1) < 0.01
    assert abs(centres.std() - 8 / np.sqrt(12)) < 0.05
    assert abs(y.std() - 1) < 0.02  # two waves, each of mean square a² / 2


def test_noise_is_on_every_point_and_the_rest_stays_the_same():
    plain, noisy = (Harmonic(shots=50, noise=n).sample("train", generator(0, Purpose.TRAINING), 400) for n in (0, 0.5))
    for a, b in ((plain.support_set, noisy.support_set), (plain.query_set, noisy.query_set)):
        np.testing.assert_array_equal(a.x, b.x)
        assert abs((b.y - a.y).std() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shots": 0}, "task.shots must be 1 or more, not 0"),
        ({"queries": -1}, "task.queries must be 1 or more, not -1"),
        ({"waves": 0}, "task.waves must be 1 or more, not 0"),
        ({"amplitude": float("inf")}, "task.amplitude must be 0 or more, not inf"),
        ({"noise": -0.1}, "task.noise must be 0 or more, not -0.1"),
        ({"spread": float("nan")}, "task.spread must be 0 or more, not nan"),
        ({"frequency": (7.0, 5.0)}, r"task.frequency must be a range, the smaller number first, not \(7.0, 5.0\)"),
        ({"centre": (0.0, float("inf"))}, "task.centre must be a range"),
        ({"centre": (-1e308, 1e308)}, "task.centre must be a range"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Harmonic(**fields).load()


def test_a_whole_job_learns_slow_waves(tmp_path):
    task = Harmonic(shots=10, waves=1, frequency=(1.0, 1.0), phase=(0.0, 1.0), centre=(0.0, 0.0))
    config = small_config(
        task=task,
        runs=300,
        model=MLP(hidden=(20,)),
        optimizer=Adam(lr=0.01),
        validation=Validation(every=300, tasks=50),
    )
    before, *_, after = run(config, tmp_path)["validation/loss"][-1].mean(1)
    assert after < 0.8 * before
