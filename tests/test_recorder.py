"""The best parameters are those of the best validations, whatever diverges in between, and whatever ends the job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hpc_dmaml
from hpc_dmaml import results
from hpc_dmaml.analysis import merge
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import Checkpoint, Validation
from hpc_dmaml.run import run_job
from hpc_dmaml.state import Best, State, stored_best
from hpc_dmaml.state import Validation as Validated
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


def config(at: dict[int, float], keep: int = 1, **changes):
    Holes.at, Holes.validations = at, 0
    validation = Validation(every=1, tasks=5, keep=keep)
    return small_config(**{"runs": RUNS, "task": Holes(shots=4, queries=3), "validation": validation, **changes})


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


def test_as_many_as_are_wanted_are_kept_the_best_first(tmp_path):
    at = {1: np.nan}
    after = [run(config(at, runs=n + 1), tmp_path, name=f"{n}.h5")["meta_model/parameters"] for n in range(RUNS)]
    for keep in (1, 3, RUNS + 2):
        source = run(config(at, keep), tmp_path, name=f"keep{keep}.h5")
        scores = -source["validation/loss"][:, -1].mean(1)
        order = [n for n in np.argsort(-scores) if np.isfinite(scores[n])][:keep]
        kept = stored_best(source)
        assert [best.run for best in kept] == order
        assert [best.score for best in kept] == scores[order].tolist()
        for best, loaded in zip(kept, hpc_dmaml.load_best(source.path, trust=True), strict=True):
            np.testing.assert_array_equal(best.parameters, after[best.run])
            np.testing.assert_array_equal(loaded.phi, after[best.run])
        assert hpc_dmaml.load(source.path, "best", trust=True).phi.equal(
            hpc_dmaml.load_best(source.path, trust=True)[0].phi
        )


def test_of_equally_good_ones_the_earlier_are_kept():
    model = SimpleNamespace(theta=torch.zeros(1))
    state = State(model, own=None, memory=np.empty((0, 1)), keep=3)
    for run_, loss in enumerate([2.0, 1.0, 2.0, 1.0, 1.0, 2.0, 1.0]):
        model.theta += 1
        state.judge(run_, Validated(np.full((1, 2), loss), np.full((1, 2), np.nan)), None)
    assert [(best.run, best.score, best.parameters.item()) for best in state.best] == [
        (1, -1, 2),
        (3, -1, 4),
        (4, -1, 5),
    ]


@pytest.mark.parametrize("stop", range(1, RUNS))
def test_a_job_that_was_resumed_keeps_the_same_as_one_that_was_not(tmp_path, stop):
    whole = run(config({1: np.nan}, keep=3), tmp_path, name="whole.h5")
    first = run(config({1: np.nan}, keep=3, runs=stop), tmp_path)
    resumed = config({}, keep=3, output=str(first.path), resume=str(first.path))
    Holes.at, Holes.validations = {1: np.nan}, stop
    assert run_job(resumed, Communicator()) == 0
    assert differing(results.read(first.path, verify=True), whole) == {"checkpoint/restarts"}


def test_a_write_that_was_cut_off_loses_none_of_those_that_were_kept(tmp_path, monkeypatch):
    whole = run(config({}, keep=3), tmp_path, name="whole.h5")
    path, write = tmp_path / "job.h5", results.add_checksum

    def cut_off(temporary):  # when all is written but the end
        if path.exists():
            raise KeyboardInterrupt
        write(temporary)

    monkeypatch.setattr(results, "add_checksum", cut_off)
    job = config({}, keep=3, output=str(path), checkpoint=Checkpoint(every=4))
    with pytest.raises(KeyboardInterrupt):
        run_job(job, Communicator())
    monkeypatch.undo()
    assert len(results.read(path, verify=True)["runs/run"]) == 4
    assert run_job(replace(job, resume=str(path)), Communicator()) == 0
    assert differing(results.read(path, verify=True), whole) == {"checkpoint/restarts"}


def test_a_merged_file_leaves_all_but_the_best_out_unless_asked_for(tmp_path):
    source = run(config({}, keep=3), tmp_path / "one")
    for name, options, kept in (("some", [], 1), ("all", ["--checkpoints"], 3)):
        archive, folder = str(tmp_path / f"{name}.h5"), tmp_path / name
        assert merge.main([str(source.path), "--output", archive, *options]) == 0
        assert merge.main(["--split", archive, "--output", str(folder)]) == 0
        assert len(hpc_dmaml.load_best(folder / "job.h5", trust=True)) == kept


@pytest.mark.parametrize("name", Best._fields)
def test_a_file_that_holds_only_a_part_of_what_was_kept_is_refused_by_name(tmp_path, name):
    source, odd = run(config({}, keep=3), tmp_path), tmp_path / "odd.h5"
    lost = f"{results.NEXT_BEST}{name}"
    results.write(odd, {n: a for n, a in source.arrays.items() if n != lost}, source.attributes)
    with pytest.raises(ValueError, match=rf"odd\.h5 holds no {lost}"):
        hpc_dmaml.load_best(odd, trust=True)
    with pytest.raises(Refusal, match=rf"odd\.h5 holds no {lost}"):
        run_job(config({}, keep=3, output=str(odd), resume=str(odd)), Communicator())
