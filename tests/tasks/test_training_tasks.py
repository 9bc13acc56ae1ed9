"""The tasks of a run: of its own, the same on whichever rank and in whatever order they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpc_dmaml.config import Heterogeneity, RunConfig
from hpc_dmaml.tasks import Navigation, Sinusoid
from hpc_dmaml.training_tasks import TrainingTasks
from tests.tasks.test_sampling import numbered_sampler

TASKS, THETA = 5, torch.zeros(1, dtype=torch.float64)
SAMPLERS = pytest.mark.parametrize(
    "sampler", [Sinusoid(shots=2, queries=3), numbered_sampler(ways=2)], ids=["in blocks", "run by run"]
)
PLACES = st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(0, 1))


def drawn(training: TrainingTasks, *place: int, part: slice = slice(0, TASKS)) -> list[np.ndarray]:
    batch = training.batch(*place, part, THETA).to(torch.device("cpu"), torch.float64)
    return [each.numpy() for each in (*batch.support_set, *batch.query_set)]


def new(sampler, workers: int | None = None, **unlike) -> TrainingTasks:
    return TrainingTasks(
        sampler, RunConfig(tasks=TASKS, seed=3, workers=workers, heterogeneity=Heterogeneity(**unlike))
    )


@SAMPLERS
@pytest.mark.parametrize(
    "unlike", [{}, {"noisy_workers": 2, "label_noise": 0.5}, {"own_tasks": True}], ids=["alike", "noisy", "own tasks"]
)
@given(st.lists(PLACES, max_size=6), PLACES, st.integers(0, TASKS), st.integers(0, TASKS))
def test_tasks_depend_on_their_place_alone_and_a_rank_gets_its_part_of_them(sampler, unlike, others, place, a, b):
    whole = drawn(new(sampler, 3, **unlike), *place)
    training, part = new(sampler, 3, **unlike), slice(min(a, b), max(a, b))
    for other in others:
        drawn(training, *other)
    for mine, expected in zip(drawn(training, *place, part=part), whole, strict=True):
        np.testing.assert_array_equal(mine, expected[part])


@SAMPLERS
def test_every_run_worker_and_epoch_has_tasks_of_its_own(sampler):
    training = new(sampler)
    places = [(run, worker, epoch) for run in range(40) for worker in range(2) for epoch in range(2)]
    assert len({drawn(training, *place)[0].tobytes() for place in places}) == len(places)


# ---- workers that are not alike


@SAMPLERS
def test_noisy_workers_have_the_same_samples_and_wrong_labels_and_no_other_worker_has(sampler):
    right, noisy = new(sampler, 3), new(sampler, 3, noisy_workers=2)
    for worker in range(3):
        for mine, plain, is_label in zip(
            drawn(noisy, 0, worker, 0), drawn(right, 0, worker, 0), [0, 1] * 2, strict=True
        ):
            if is_label and worker:
                assert (mine != plain).any()
                np.testing.assert_array_equal(np.sort(np.unique(mine)), np.intersect1d(mine, plain))
            else:
                np.testing.assert_array_equal(mine, plain)


def test_the_label_noise_is_the_share_of_labels_that_are_another_samples():
    sampler = Sinusoid(shots=10, queries=10)
    place = (1000, 1, 0, slice(0, 5), THETA)
    for share in (0.0, 0.3, 1.0):
        batches = [new(sampler, 2, noisy_workers=n, label_noise=share) for n in (0, 1)]
        ((_, right), _), ((_, wrong), _) = (
            (b.support_set, b.query_set) for b in (each.batch(*place) for each in batches)
        )
        assert (right != wrong).double().mean().item() == pytest.approx(share, abs=0.2 * (0 < share < 1))


def test_workers_with_tasks_of_their_own_share_out_the_training_classes():
    sampler = numbered_sampler(ways=2)
    training = new(sampler, 3, own_tasks=True)
    classes = sampler.splits["train"]
    seen = []
    for worker in range(3):
        pixels = np.concatenate([drawn(training, run, worker, 0)[0][..., 0, 0, 0].ravel() for run in range(60)])
        places = np.searchsorted(classes.first, np.rint(255 * pixels) - 1, side="right") - 1
        seen.append(set(places.tolist()))
    assert set.union(*seen) == set(range(len(classes)))
    assert sum(map(len, seen)) == len(classes)


def test_workers_with_waves_of_their_own_share_out_the_amplitudes():
    parts = [Sinusoid(amplitude=(1.0, 4.0)).share(worker, 3).amplitude for worker in range(3)]
    assert parts == [(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]


@pytest.mark.parametrize(
    ("sampler", "unlike", "message"),
    [
        (Sinusoid(), {"noisy_workers": 4}, "heterogeneity.noisy_workers must be at most 3"),
        (Sinusoid(queries=1), {"noisy_workers": 1}, "must be 0 where a support or query set is a single sample"),
        (Navigation().load(), {"noisy_workers": 1}, "no labels, as those of Navigation"),
        (Navigation().load(), {"own_tasks": True}, "Navigation has no method share"),
        (numbered_sampler(ways=4), {"own_tasks": True}, "worker 0 of 3, with its share of the classes: task.ways is 4"),
    ],
)
def test_what_the_tasks_cannot_do_is_refused(sampler, unlike, message):
    with pytest.raises(ValueError, match=message):
        new(sampler, 3, **unlike).check()
