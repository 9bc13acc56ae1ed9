"""The best parameters are those of the best validation, whatever diverges in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import Validation
from hpc_dmaml.run import run_job
from hpc_dmaml.tasks import Sinusoid
from tests.helpers import differing, run, small_config

RUNS = 6


@dataclass(frozen=True)
class Holes(Sinusoid):
    """Sine waves; in some validations, counted from 0, the first task is not a number, or infinite."""

    at: ClassVar[dict[int, float]] = {}
    validations: ClassVar[int] = 0
    block_runs: ClassVar[int] = 1

    def sample(self, split, rng, tasks, part=slice(None), queries=None):
        batch = super().sample(split, rng, tasks, part, queries)
        if split == "validation" and tasks > 1:  # set-up looks at one task
            batch.query_set.y[0] += self.at.get(Holes.validations, 0.0)
            Holes.validations += 1
        return batch


def config(at: dict[int, float], **changes):
    Holes.at, Holes.validations = at, 0
    return small_config(runs=RUNS, task=Holes(shots=4, queries=3), validation=Validation(every=1, tasks=5), **changes)


def check_best(source: results.Results) -> None:
    scores = source["validation/loss"][:, -1].mean(1)
    scores = np.where(np.isfinite(scores), scores, np.inf)
    best = int(scores.argmin()) if np.isfinite(scores).any() else -1
    assert source.attributes["best_run"] == best
    assert source.attributes["best_score"] == -scores[best] if best >= 0 else np.isnan(source.attributes["best_score"])
    last = best in (-1, len(scores) - 1)
    assert np.array_equal(source["meta_model/best_parameters"], source["meta_model/parameters"]) == last


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.dictionaries(st.integers(0, RUNS - 1), st.sampled_from([np.nan, np.inf, -np.inf]), max_size=RUNS))
def test_a_validation_with_a_task_that_diverged_is_never_the_best_and_stands_in_no_ones_way(tmp_path, at):
    (tmp_path / "job.h5").unlink(missing_ok=True)
    check_best(run(config(at), tmp_path))


@pytest.mark.parametrize("stop", range(1, RUNS))
def test_nor_is_it_in_a_job_that_was_resumed(tmp_path, stop):
    at = {0: np.nan, 1: np.nan, 4: np.inf}
    whole = run(config(at), tmp_path, name="whole.h5")
    first = replace(config(at), runs=stop)
    assert run(first, tmp_path)["validation/run"].tolist() == list(range(stop))
    resumed = replace(first, runs=RUNS, output=str(tmp_path / "job.h5"), resume=str(tmp_path / "job.h5"))
    assert run_job(resumed, Communicator()) == 0
    source = results.read(tmp_path / "job.h5", verify=True)
    check_best(source)
    assert differing(source, whole) == {"checkpoint/restarts"}


@pytest.mark.parametrize("later", [0, 1])
def test_a_file_without_a_validation_goes_on_like_one_that_was_not_interrupted(tmp_path, later):
    quiet = Validation(every=0, tasks=5)
    source = run(replace(config({}), runs=2, validation=quiet), tmp_path)
    assert source.attributes["best_run"] == -1
    again = replace(
        config({}), validation=replace(quiet, every=later), resume=str(source.path), output=str(source.path)
    )
    assert run_job(again, Communicator()) == 0
    source = results.read(source.path)
    assert source.attributes["best_run"] == (-1 if not later else 2 + source["validation/loss"][:, -1].mean(1).argmin())
    if not later:
        assert np.array_equal(source["meta_model/best_parameters"], source["meta_model/parameters"])
