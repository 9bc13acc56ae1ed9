"""Every random draw has a key of its own, so that results depend on what is drawn, never on which rank draws it."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a draw is for: the first part of its key."""

    INITIALISATION = 0
    CLASS_SPLIT = 1
    TRAINING = 2
    VALIDATION = 3
    EVALUATION = 4
    RENDERING = 5


def generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """The generator of one place, such as (run, worker, epoch); other keys give independent streams."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(int(purpose), *place))))
