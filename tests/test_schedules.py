"""Rates over the runs: what a schedule says of a run follows from its number alone, also after a resume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import parse
from hpc_dmaml.optimizers import SGD, Adam
from hpc_dmaml.run import run_job
from hpc_dmaml.schedules import Constant, Cosine, Schedule, Steps, check
from tests.helpers import differing, run, small_config


def test_the_shapes_are_what_their_names_say():
    cosine = Cosine(final=0.1).over(8)
    np.testing.assert_allclose([cosine.factor(r) for r in (0, 4, 8, 99)], [1, 0.55, 0.1, 0.1])
    np.testing.assert_allclose([Steps(every=3, gamma=0.5).factor(r) for r in range(7)], [1, 1, 1, 0.5, 0.5, 0.5, 0.25])
    assert [Constant().factor(r) for r in (0, 10**6)] == [1, 1]


@given(
    st.sampled_from([Constant(warm_up=4), Cosine(warm_up=4, runs=40), Steps(warm_up=4, every=7)]), st.integers(0, 100)
)
def test_the_warm_up_grows_in_equal_steps_and_then_leaves_the_shape_alone(schedule: Schedule, number: int):
    expected = replace(schedule, warm_up=0).factor(number) * min(1, (number + 1) / 4)
    assert schedule.factor(number) == pytest.approx(expected)
    assert 0 <= schedule.factor(number) <= 1


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Constant, {"warm_up": -1}, "schedule.warm_up must be 0 or more, not -1"),
        (Cosine, {"runs": 0}, "schedule.runs must be 1 or more"),
        (Cosine, {"final": 1.5}, "schedule.final from 0 to 1"),
        (Steps, {"every": 0}, "schedule.every must be 1 or more"),
        (Steps, {"gamma": 0.0}, "schedule.gamma positive"),
    ],
)
def test_what_is_no_schedule_is_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_a_job_steps_by_the_rates_of_its_runs(tmp_path):
    """With SGD, θ after run r is θ before less lr · factor(r) · gradient: the sum of what a constant rate would do, once."""
    scheduled = small_config(runs=1, schedule=Constant(warm_up=4))
    quarter = small_config(runs=1, optimizer=SGD(lr=0.02 / 4))
    one, other = (run(config, tmp_path, name=name) for config, name in ((scheduled, "a.h5"), (quarter, "b.h5")))
    np.testing.assert_array_equal(one["meta_model/parameters"], other["meta_model/parameters"])


def test_a_worker_walks_between_its_epochs_by_the_same_factor(tmp_path):
    scheduled = small_config(runs=1, epochs=3, schedule=Constant(warm_up=2))
    half = small_config(runs=1, epochs=3, optimizer=SGD(lr=0.01))
    one, other = (run(config, tmp_path, name=name) for config, name in ((scheduled, "a.h5"), (half, "b.h5")))
    np.testing.assert_array_equal(one["workers/loss"], other["workers/loss"])
    np.testing.assert_array_equal(one["meta_model/parameters"], other["meta_model/parameters"])


@pytest.mark.parametrize("optimizer", [SGD(0.02, momentum=0.9), Adam(0.01)], ids=["sgd", "adam"])
def test_a_resumed_job_goes_on_by_its_schedule_to_the_last_bit(tmp_path, optimizer):
    config = small_config(runs=8, optimizer=optimizer, schedule=Cosine(warm_up=3))
    whole = run(config, tmp_path, name="whole.h5")
    path = run(replace(config, runs=4, schedule=Cosine(warm_up=3, runs=8)), tmp_path, name="x.h5").path
    resumed = parse(["--resume", str(path), "--runs", "8"])
    assert resumed.schedule == Cosine(warm_up=3, runs=8)
    assert run_job(resumed, Communicator()) == 0
    assert differing(results.read(path), whole) == {"checkpoint/restarts"}


def test_a_job_that_is_resumed_for_more_runs_keeps_the_shape_of_its_start(tmp_path):
    path = run(small_config(runs=4, schedule=Cosine()), tmp_path).path
    assert parse(["--resume", str(path), "--runs", "40"]).schedule == Cosine(runs=4)


def test_the_command_line_names_a_schedule_and_its_fields():
    given = ["--schedule", "Cosine", "--schedule.warm_up", "10", "--schedule.final", "0.01"]
    assert parse(given).schedule == Cosine(warm_up=10, final=0.01)
    with pytest.raises(ValueError, match="schedule"):
        parse(["--schedule", "Cosinus"])


@dataclass(frozen=True)
class Given(Schedule):
    gives: Any = None

    def shape(self, run: int) -> float:
        return self.gives(run)


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (lambda run: None, "gives no factor for run 0: "),
        (lambda run: 1 / (2 - run), "gives no factor for run 2: ZeroDivisionError: division by zero"),
        (lambda run: float("nan") if run == 4 else 1.0, "gives nan for run 4; it must be from 0 to 1,000,000"),
        (lambda run: -1.0, "gives -1.0 for run 0"),
    ],
)
def test_a_schedule_that_fails_in_any_run_is_refused_before_the_first(gives, message):
    with pytest.raises(ValueError, match=message):
        check(Given(gives=gives), 5)


@pytest.mark.parametrize("gives", [lambda run: -1.0 if run == 1500 else 1.0, lambda run: [1.0] * 1500 + run])
def test_a_schedule_that_fails_later_ends_the_job_with_its_last_state(gives):
    late = Given(gives=lambda run: gives(run) if run in (1500, 1501) else 1.0)
    check(late, 2000)
    with pytest.raises(FloatingPointError, match="for run 1500"):
        late.factor(1500)


def test_rates_that_overflow_are_refused():
    with pytest.raises(ValueError, match=r"schedule: Steps.* gives 1e\+200 for run 1; it must be from 0 to 1,000,000"):
        check(Steps(every=1, gamma=1e200), 100)
