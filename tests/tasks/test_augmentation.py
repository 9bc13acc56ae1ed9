"""Augmentation: images of training tasks change at random, and neither tasks nor anything else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import functional

from hpc_dmaml.evaluate import parse
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import Glyphs, ImageFolder
from hpc_dmaml.tasks.augmentation import CHANCES, Augmentation, moved, recoloured
from hpc_dmaml.tasks.image_classes import Classes, FewShotSampler, distinct
from tests.helpers import run, small_config
from tests.tasks.test_sampling import COUNTS

SHAPE = (3, 6, 7)
OFF: dict[str, object] = {"flip": False, "shift": 0, "jitter": 0.0}
ALL: dict[str, object] = {"flip": True, "shift": 2, "jitter": 0.4}
KINDS = pytest.mark.parametrize("kind", ALL)
PIXELS = np.random.default_rng(0).integers(1, 256, (COUNTS.sum(), *SHAPE), dtype=np.uint8)


def sampler(**fields) -> FewShotSampler:
    classes = Classes.of(COUNTS.cumsum() - COUNTS, COUNTS)
    return FewShotSampler(PIXELS, dict.fromkeys(("train", "validation", "test"), classes), Glyphs(ways=3, **fields))


def drawn(sampler: FewShotSampler, split="train", tasks=4, part=slice(None)) -> list[np.ndarray]:
    batch = sampler.sample(split, generator(1, Purpose.TRAINING, 2), tasks, part)
    return [*batch.support_set, *batch.query_set]


def chances(n: int) -> np.ndarray:
    return np.random.default_rng(1).random((n, CHANCES))


# ---- what becomes of an image


def test_half_of_the_images_are_mirrored():
    images = np.broadcast_to(PIXELS[0], (2000, *SHAPE)).copy()
    changed = Augmentation(True, 0, 0.0).apply(images, chances(2000))
    mirrored = (changed == PIXELS[0, ..., ::-1]).all((1, 2, 3))
    assert (changed[~mirrored] == PIXELS[0]).all()
    assert 900 < mirrored.sum() < 1100  # four and a half standard deviations


def test_moved_images_have_every_place_within_the_shift_and_black_where_nothing_was():
    images = np.broadcast_to(PIXELS[0], (500, *SHAPE)).copy()
    changed = Augmentation(False, 2, 0.0).apply(images, chances(500))
    places = {}
    for down in range(-2, 3):
        for right in range(-2, 3):
            expected = np.zeros_like(PIXELS[0])
            from_, to = (slice(max(0, -d), None if d <= 0 else -d) for d in (down, right)), (down, right)
            target = tuple(slice(max(0, d), None if d >= 0 else d) for d in to)
            expected[(slice(None), *target)] = PIXELS[0][(slice(None), *from_)]
            places[to] = (changed == expected).all((1, 2, 3)).sum()
    assert sum(places.values()) == 500
    assert min(places.values()) > 4  # of 20 expected


@given(st.integers(0, 2), st.floats(0.6, 1.4))
def test_colours_change_as_in_torchvision(which, factor):
    images = PIXELS // 3 + 70  # so that nothing gets lighter than white
    adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)[which]
    expected = adjust(torch.tensor(images, dtype=torch.float64) / 255, factor).numpy() * 255
    factors = np.ones((len(images), 3))
    factors[:, which] = factor
    assert np.abs(recoloured(images, factors) - expected).max() <= 0.6


def test_colours_beyond_the_range_of_bytes_are_black_and_white():
    brighter = recoloured(PIXELS, np.tile([2.0, 1, 1], (len(PIXELS), 1)))
    np.testing.assert_array_equal(brighter, np.minimum(2 * PIXELS.astype(int), 255))
    assert recoloured(PIXELS, np.tile([1, 2.0, 1], (len(PIXELS), 1))).min() == 0


def test_grey_has_no_saturation_to_change():
    grey = PIXELS[:, :1]
    np.testing.assert_array_equal(recoloured(grey, np.tile([1, 1, 0.2], (len(grey), 1))), grey)


@given(st.integers(0, 8), st.integers(0, 8))
def test_no_move_and_no_change_of_colour_leave_every_byte(row, column):
    centre = np.full((len(PIXELS), 2), 4)
    np.testing.assert_array_equal(moved(PIXELS, centre, 4), PIXELS)
    np.testing.assert_array_equal(recoloured(PIXELS, np.ones((len(PIXELS), 3))), PIXELS)
    corner = np.tile([row, column], (len(PIXELS), 1))
    padded = np.pad(PIXELS, ((0, 0), (0, 0), (4, 4), (4, 4)))
    np.testing.assert_array_equal(moved(PIXELS, corner, 4), padded[:, :, row : row + 6, column : column + 7])


# ---- what becomes of a batch


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_off_by_default_a_batch_takes_from_the_generator_what_it_took_before_there_was_any(split):
    rng, plain = (generator(1, Purpose.TRAINING, 2) for _ in range(2))
    batch = sampler().sample(split, rng, 4)
    chosen = distinct(plain, np.full(4, len(COUNTS)), 3)
    places = distinct(plain, COUNTS[chosen], 2)
    images = PIXELS[(COUNTS.cumsum() - COUNTS)[chosen][..., None] + places]
    np.testing.assert_array_equal(batch.support_set.x, images[:, :, 0])
    np.testing.assert_array_equal(batch.query_set.x, images[:, :, 1])
    assert rng.random() == plain.random()


@KINDS
def test_support_and_queries_of_training_change_and_nothing_else(kind):
    plain, augmented = sampler(), sampler(**{kind: ALL[kind]})
    for split in ("validation", "test"):
        for one, other in zip(drawn(augmented, split), drawn(plain, split), strict=True):
            np.testing.assert_array_equal(one, other)
    (x, y, query_x, query_y), (plain_x, plain_y, plain_query_x, plain_query_y) = drawn(augmented), drawn(plain)
    np.testing.assert_array_equal((y, query_y), (plain_y, plain_query_y))
    for changed, as_it_was in ((x, plain_x), (query_x, plain_query_x)):
        assert (changed.dtype, changed.shape) == (np.uint8, as_it_was.shape)
        assert (changed != as_it_was).any()
    np.testing.assert_array_equal(PIXELS, np.random.default_rng(0).integers(1, 256, PIXELS.shape, dtype=np.uint8))


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_part_of_an_augmented_batch_is_that_part_of_the_whole_batch(tasks, a, b):
    part = slice(min(a, b), max(a, b))
    augmented = sampler(**ALL)
    for some, whole in zip(drawn(augmented, tasks=tasks, part=part), drawn(augmented, tasks=tasks), strict=True):
        np.testing.assert_array_equal(some, whole[part])


@KINDS
def test_each_kind_draws_the_same_whichever_others_are_on(kind):
    """So that a grid over one amount compares nothing but this amount."""
    alone = Augmentation(**{**OFF, kind: ALL[kind]})
    images, numbers = np.full((9, 3, 6, 6), 100, np.uint8), chances(9)
    images[:, :, :2, :2] = 10
    others = numbers.copy()
    mine = {"flip": slice(0, 1), "shift": slice(1, 3), "jitter": slice(3, None)}[kind]
    others[:, [i for i in range(CHANCES) if i not in range(*mine.indices(CHANCES))]] = 0.9
    np.testing.assert_array_equal(alone.apply(images.copy(), numbers), alone.apply(images.copy(), others))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shift": -1}, r"task\.shift must be 0 or more pixels, not -1"),
        ({"shift": 6}, r"task\.shift must be less than the images' \(6, 7\), not 6"),
        ({"jitter": -0.1}, r"task\.jitter must be between 0 and 1, not -0\.1"),
        ({"jitter": float("nan")}, r"task\.jitter must be between 0 and 1, not nan"),
    ],
)
def test_amounts_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        sampler(**fields)


def test_a_model_is_tested_on_images_as_they_are_also_on_the_training_classes(folder):
    task = ImageFolder(root=str(folder / "images"), ways=2, size=(6, 6), channels=1, **ALL)
    trained = run(small_config(task=task, tasks=2), folder).path
    assert parse([str(trained), "--split", "train"])[1].task == replace(task, **OFF)
