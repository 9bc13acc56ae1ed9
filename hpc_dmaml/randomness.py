"""Random generators by key: every draw has its own, so that results do not depend on which rank makes it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The purpose of a draw: the first part of its key."""

    INITIALISATION = 0
    CLASS_SPLIT = 1
    TRAINING = 2
    VALIDATION = 3
    EVALUATION = 4
    RENDERING = 5
    LABEL_NOISE = 6


def generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """The generator for a key; `place`, for example, is (run, worker, epoch). Other keys give independent streams."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(int(purpose), *place))))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python within a block, and restore their states after it."""
    import torch

    before_numpy, before_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before_numpy)  # noqa: NPY002
            random.setstate(before_python)
