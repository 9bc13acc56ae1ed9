"""N-way K-shot sampling: every image family shares it, and it depends on the key of the draw alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import Glyphs, Harmonic, Sinusoid
from hpc_dmaml.tasks.image_classes import Classes, FewShotSampler, distinct

COUNTS = np.array([4, 6, 5, 9, 4, 7])


def numbered_sampler(rotations: bool = False, **fields: int) -> FewShotSampler:
    """Images whose upper left pixel says which one they are; the others tell how it is turned."""
    images = np.zeros((COUNTS.sum(), 1, 2, 2), np.uint8)
    images[:, 0, 0, 0] = np.arange(1, len(images) + 1)
    first = COUNTS.cumsum() - COUNTS
    classes = Classes.of(first, COUNTS, rotations)
    return FewShotSampler(images, dict.fromkeys(("train", "validation", "test"), classes), Glyphs(**fields))


@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_a_task_has_distinct_classes_and_distinct_images_of_each(seed, ways, shots):
    sampler = numbered_sampler(ways=ways, shots=shots, queries=1)
    batch = sampler.sample("train", generator(seed, Purpose.TRAINING), 3)
    class_of = np.repeat(np.arange(len(COUNTS)), COUNTS)
    for support, labels, query, query_labels in zip(*batch.support_set, *batch.query_set, strict=True):
        images = np.concatenate([support, query])[:, 0].max((1, 2)).astype(int) - 1
        labels = np.concatenate([labels, query_labels])
        assert len(set(images)) == ways * (shots + 1)
        assert [np.sum(labels[: ways * shots] == way) for way in range(ways)] == [shots] * ways
        by_label = [set(class_of[images[labels == way]]) for way in range(ways)]
        assert all(len(classes) == 1 for classes in by_label)
        assert len(set.union(*by_label)) == ways


def test_labels_do_not_tell_which_class_it_is():
    """Every class gets every label equally often: else a model could learn classes by their number."""
    chosen = distinct(generator(0, Purpose.TRAINING), np.full(6000, 6), 3)
    counts = np.array([[(chosen[:, way] == c).sum() for c in range(6)] for way in range(3)])
    assert np.abs(counts - 1000).max() < 150  # five standard deviations


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_a_part_of_a_batch_is_that_part_of_the_whole_batch(tasks, a, b):
    part = slice(min(a, b), max(a, b))
    for sampler in (numbered_sampler(), Sinusoid(), Harmonic(noise=0.1)):
        whole = sampler.sample("train", generator(1, Purpose.TRAINING, 2), tasks).part(part)
        some = sampler.sample("train", generator(1, Purpose.TRAINING, 2), tasks, part)
        for x, y in zip((*whole.support_set, *whole.query_set), (*some.support_set, *some.query_set), strict=True):
            np.testing.assert_array_equal(x, y)


def test_rotated_classes_are_the_images_turned():
    sampler = numbered_sampler(rotations=True, ways=24)
    assert len(sampler.splits["train"]) == 24
    batch = sampler.sample("train", generator(0, Purpose.TRAINING), 1)
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)]  # where np.rot90 takes the upper left pixel
    found = [divmod(int(np.flatnonzero(image.ravel())[0]), 2) for image in batch.support_set.x[0, :, 0]]
    assert sorted(found) == sorted(corners * 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ways": 7}, "task.ways is 7, but the train split has only 6 classes"),
        ({"shots": 3, "queries": 2}, r"task.shots \+ task.queries is 3 \+ 2, but the smallest class .* only 4 samples"),
        ({"ways": 1}, "task.ways must be 2 or more"),
        ({"shots": 0}, "task.shots must be 1 or more"),
    ],
)
def test_more_than_there_is_cannot_be_asked_for(fields, message):
    with pytest.raises(ValueError, match=message):
        numbered_sampler(**fields).sample("train", generator(0, Purpose.TRAINING), 1)


def test_more_queries_than_there_are_images_cannot_be_asked_for():
    sampler = numbered_sampler(shots=2, queries=2)
    with pytest.raises(ValueError, match=r"2 \+ 3, but the smallest class of the test split has only 4 samples"):
        sampler.sample("test", generator(0, Purpose.EVALUATION), 1, queries=3)


def test_a_split_that_is_not_drawn_from_may_lack_classes():
    sampler = numbered_sampler(ways=4)
    few = Classes.of(np.array([0]), np.array([4]))
    sampler = FewShotSampler(sampler.images, {"train": few, "test": sampler.splits["test"]}, sampler.family)
    assert sampler.sample("test", generator(0, Purpose.EVALUATION), 2).support_set.x.shape == (2, 4, 1, 2, 2)
    with pytest.raises(ValueError, match="the train split has only 1 classes"):
        sampler.sample("train", generator(0, Purpose.EVALUATION), 2)
    with pytest.raises(ValueError, match="the validation split has no classes"):
        sampler.sample("validation", generator(0, Purpose.EVALUATION), 2)


@pytest.mark.parametrize("field", ["amplitude", "phase"])
@pytest.mark.parametrize("range_", [(5.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0), (-1e308, 1e308)])
def test_ranges_of_sine_waves_go_upwards_and_are_finite(field, range_):
    with pytest.raises(ValueError, match=f"task.{field} must be a range, the smaller number first"):
        Sinusoid(**{field: range_}).load()


def test_sine_waves_are_finns():
    batch = Sinusoid(shots=50, queries=50).sample("train", generator(0, Purpose.TRAINING), 400)
    for x, y in (batch.support_set, batch.query_set):
        assert x.shape == y.shape == (400, 50, 1)
        assert -5 <= x.min() < -4.9
        assert 4.9 < x.max() <= 5
        assert 4.5 < np.abs(y).max() <= 5
    # Support and query points lie on one sine: y = a sin x + b cos x with √(a² + b²) in the range of the amplitude.
    for task in range(5):
        (x, y), (query_x, query_y) = ((s.x[task], s.y[task]) for s in (batch.support_set, batch.query_set))
        fit = np.linalg.lstsq(np.hstack([np.sin(x), np.cos(x)]), y, rcond=None)[0]
        assert 0.1 <= np.linalg.norm(fit) <= 5
        assert fit[1] <= 0  # a phase in [0, π]
        np.testing.assert_allclose(np.hstack([np.sin(query_x), np.cos(query_x)]) @ fit, query_y, atol=1e-9)


def test_bytes_become_numbers_between_0_and_1():
    import torch

    batch = numbered_sampler().sample("train", generator(0, Purpose.TRAINING), 2).to(torch.device("cpu"), torch.float64)
    assert batch.support_set.x.dtype == torch.float64
    assert batch.support_set.y.dtype == torch.int64
    assert 0 < batch.support_set.x.max() <= COUNTS.sum() / 255


def test_streams_of_different_keys_are_different():
    keys = [(0, 1), (1, 0), (0, 0), (1, 1), (2, 0)]
    draws = {generator(3, Purpose.TRAINING, *key).integers(2**62) for key in keys}
    assert len(draws | {generator(4, Purpose.TRAINING, 0, 0).integers(2**62)}) == 6
