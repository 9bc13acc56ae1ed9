"""Result files that were made to do harm: they are refused with a ValueError, and nothing that they name is run or opened."""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path

import h5py
import pytest
import yaml

import hpc_dmaml
from hpc_dmaml import evaluate, results
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import parse
from hpc_dmaml.files import seal
from hpc_dmaml.run import run_job
from tests.helpers import run, small_config
from tests.mutations import mutated, watched

MUTATIONS = int(os.environ.get("HPC_DMAML_MUTATIONS", "200"))
FIRST = int(os.environ.get("HPC_DMAML_MUTATIONS_FROM", "0"))
"""Set both to go through many in parts."""
SLOWEST_S, LARGEST_KIB = 10, 2**20


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return run(small_config(), tmp_path_factory.mktemp("good")).path


def resume(path: Path) -> int:
    """Go on with a file, to the runs that the good one has."""
    return run_job(parse(["--resume", str(path), "--runs", "3", "--time_limit_s", "1"]), Communicator())


READERS = {
    "read": results.read,
    "load": hpc_dmaml.load,
    "evaluate": lambda path: evaluate.parse([str(path)]),
    "evaluation": lambda path: evaluate.evaluate(evaluate.parse([str(path), "--tasks", "3"]), Communicator()),
    "resume": resume,
}


@pytest.fixture
def changed(good, tmp_path):
    """A function that changes a copy of the good file, seals it, and gives its path."""

    def make(change) -> Path:
        path = tmp_path / "bad.h5"
        shutil.copyfile(good, path)
        with h5py.File(path, "r+") as file:
            change(file)
        seal(path)
        return path

    return make


@pytest.fixture
def configured(changed):
    """The same, for changes of its configuration."""

    def make(change) -> Path:
        def rewrite(file):
            content = yaml.safe_load(file.attrs["config"])
            change(content)
            file.attrs["config"] = yaml.safe_dump(content)

        return changed(rewrite)

    return make


def test_mutated_files_are_refused_or_read_and_nothing_they_name_is_run(good, tmp_path, capsys):
    """HPC_DMAML_MUTATIONS says how many; each within 10 s and 1 GB more than the process had."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest, refused = 0.0, 0
    with watched(tmp_path) as deeds:
        for seed in range(FIRST, FIRST + MUTATIONS):
            path = mutated(good, tmp_path / "bad.h5", seed)
            for name, reader in READERS.items():  # the last of which changes the file
                start = time.monotonic()
                try:
                    reader(path)
                except ValueError as error:
                    assert "\n" not in str(error), (seed, name, error)
                    refused += 1
                except BaseException as error:
                    raise AssertionError(f"seed {seed}, {name}: {type(error).__name__}: {error}") from error
                slowest = max(slowest, time.monotonic() - start)
                assert not deeds, (seed, name, deeds)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    with capsys.disabled():
        print(f" {MUTATIONS} files, {refused} times refused, slowest {slowest:.1f} s, {grown >> 10} MiB more ", end="")
    assert refused > MUTATIONS  # most of what is changed matters
    assert grown < LARGEST_KIB
    assert slowest < SLOWEST_S or MUTATIONS < 1000  # a busy machine is no fault of a file
