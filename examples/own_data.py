r"""Your own data that are not images: recognise five machines by their sound, from one recording of each.

`--task Arrays` takes a file of arrays: samples `x`, and the class of each, `label`. From the root of the repository:

    python examples/own_data.py data/machines.npz
    mpirun -n 2 python -m hpc_dmaml --task Arrays --task.path data/machines.npz --model MLP \
        --algorithm.inner_lr 0.1 --tasks 8 --runs 300 --validation.every 50 --output results/machines.h5
    python -m hpc_dmaml.evaluate results/machines.h5

The recordings are synthetic: spectra of 100 machines, each with its own tones, at slightly different speeds. There are
64 machines for training, 16 for validation and 20 for test, so that the test uses new machines.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

MACHINES, RECORDINGS, BINS, TONES = 100, 30, 64, 6


def recordings(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Spectra x (n, BINS) float32, and the name of each one's machine, (n,)."""
    place = rng.uniform(4, BINS - 4, (MACHINES, 1, TONES, 1))
    level = rng.uniform(0.3, 1.0, (MACHINES, 1, TONES, 1))
    speed = rng.normal(1, 0.01, (MACHINES, RECORDINGS, 1, 1))
    x = (level * np.exp(-((np.arange(BINS) - place * speed) ** 2) / 4)).sum(2) + rng.normal(
        0, 0.1, (MACHINES, RECORDINGS, BINS)
    )
    label = np.repeat([f"machine {i:03}" for i in range(MACHINES)], RECORDINGS)
    return x.reshape(-1, BINS).astype("float32"), label


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a file of synthetic recordings for --task Arrays.")
    parser.add_argument("file", type=Path, nargs="?", default=Path("data/machines.npz"))
    given = parser.parse_args()
    given.file.parent.mkdir(parents=True, exist_ok=True)
    x, label = recordings(np.random.default_rng(0))
    np.savez(given.file, x=x, label=label)
    print(f"{given.file}: {len(x)} samples of {BINS} numbers, {MACHINES} classes")


if __name__ == "__main__":
    main()
