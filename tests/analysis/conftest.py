"""Sweeps of synthetic result files for the analysis to read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hpc_dmaml import sweep
from tests.analysis.synthetic import write_sweep

SWEEP = """
description: Scaled on synthetic letters
set: {runs: 40, workers: 1, tasks: 8, validation.every: 2, validation.tasks: 6, validation.steps: 2}
grid:
  scaling:
    baseline: {}
    workers 2x: {workers: 2}
    workers 4x: {workers: 4}
    tasks 2x: {tasks: 16}
    tasks 4x: {tasks: 32}
seeds: [0, 1, 2]
figures: ["6.17", "6.19", "6.23", "6.24", "6.25", "6.26"]
"""


@pytest.fixture(scope="session")
def scaling(tmp_path_factory):
    """A complete scaling sweep without epochs, 5 points of 3 seeds: not to be changed."""
    folder = tmp_path_factory.mktemp("sweep")
    path = folder / "scaling.yaml"
    path.write_text(SWEEP)
    found = sweep.load(path, folder / "results")
    write_sweep(found)
    return found.folder


@pytest.fixture
def partial(scaling, tmp_path):
    """A copy of the sweep, to be changed."""
    return Path(shutil.copytree(scaling, tmp_path / "scaling"))
