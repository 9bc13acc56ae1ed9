"""A job that SLURM starts again and again goes on, or is given up where it makes no run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.recorder import STILL
from hpc_dmaml.run import run_job
from tests.helpers import small_config


class Killed(BaseException):
    """What no handler catches."""


def start(config, monkeypatch, restart, **changes):
    """Start a job as SLURM does for the n-th time. Returns the exit code."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    changes = {"resume": config.output if restart else None, **changes}
    return run_job(replace(config, **changes), Communicator())


@pytest.fixture
def config(tmp_path):
    return small_config(runs=10, output=str(tmp_path / "x.h5"))


def test_a_job_without_a_run_between_restarts_is_given_up(config, monkeypatch):
    codes = [start(config, monkeypatch, restart, time_limit_s=1e-9) for restart in range(STILL + 1)]
    assert codes == [75] * STILL + [1]
    assert results.read(config.output).status == "failed"


def test_a_job_that_was_killed_each_time_before_its_first_run_is_given_up(config, monkeypatch):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("hpc_dmaml.run.train", killed)
        for restart in range(1, STILL + 1):  # the first start left no file
            with pytest.raises(Killed):
                start(config, monkeypatch, restart, resume=config.output if restart > 1 else None)
    assert start(config, monkeypatch, STILL + 1) == 1


def test_a_new_job_in_a_script_that_was_restarted_often_is_not_given_up(config, monkeypatch):
    assert start(config, monkeypatch, 2 * STILL, resume=None) == 0


def test_a_job_that_makes_runs_between_restarts_is_not(config, monkeypatch):
    for restart in range(2 * STILL):
        config = replace(config, runs=restart + 1)
        assert start(config, monkeypatch, restart) == 0
    assert results.read(config.output).attributes["restarts"] == 2 * STILL - 1


def test_a_job_given_up_may_be_started_anew_by_hand(config, monkeypatch):
    for restart in range(STILL + 1):
        code = start(config, monkeypatch, restart, time_limit_s=1e-9)
    assert code == 1
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert run_job(replace(config, resume=config.output), Communicator()) == 0


def test_a_complete_job_that_is_started_again_is_complete(config, monkeypatch):
    assert [start(config, monkeypatch, restart) for restart in range(STILL + 2)] == [0] * (STILL + 2)


def test_a_restart_counts_even_if_it_is_killed_before_its_first_run(config, monkeypatch):
    assert start(config, monkeypatch, 0, time_limit_s=1e-9) == 75

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("hpc_dmaml.run.train", killed)
        with pytest.raises(Killed):
            start(config, monkeypatch, 1)
    source = results.read(config.output, verify=True)
    assert (source.status, source.attributes["restarts"]) == ("running", 1)
