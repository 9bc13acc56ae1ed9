"""The tasks of a run: of its own, the same on whichever rank and in whatever order they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpc_dmaml.config import RunConfig
from hpc_dmaml.tasks import Sinusoid
from hpc_dmaml.training_tasks import TrainingTasks
from tests.tasks.test_sampling import numbered_sampler

TASKS, THETA = 5, torch.zeros(1, dtype=torch.float64)
SAMPLERS = pytest.mark.parametrize(
    "sampler", [Sinusoid(shots=2, queries=3), numbered_sampler(ways=3)], ids=["in blocks", "run by run"]
)
PLACES = st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(0, 1))


def drawn(training: TrainingTasks, *place: int, part: slice = slice(0, TASKS)) -> list[np.ndarray]:
    batch = training.batch(*place, part, THETA).to(torch.device("cpu"), torch.float64)
    return [each.numpy() for each in (*batch.support_set, *batch.query_set)]


def new(sampler) -> TrainingTasks:
    return TrainingTasks(sampler, RunConfig(tasks=TASKS, seed=3))


@SAMPLERS
@given(st.lists(PLACES, max_size=6), PLACES, st.integers(0, TASKS), st.integers(0, TASKS))
def test_tasks_depend_on_their_place_alone_and_a_rank_gets_its_part_of_them(sampler, others, place, a, b):
    whole = drawn(new(sampler), *place)
    training, part = new(sampler), slice(min(a, b), max(a, b))
    for other in others:
        drawn(training, *other)
    for mine, expected in zip(drawn(training, *place, part=part), whole, strict=True):
        np.testing.assert_array_equal(mine, expected[part])


@SAMPLERS
def test_every_run_worker_and_epoch_has_tasks_of_its_own(sampler):
    training = new(sampler)
    places = [(run, worker, epoch) for run in range(40) for worker in range(2) for epoch in range(2)]
    assert len({drawn(training, *place)[0].tobytes() for place in places}) == len(places)
