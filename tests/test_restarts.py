"""A job that SLURM starts again and again goes on, or is given up where it makes no run."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hpc_dmaml import results
from hpc_dmaml.claim import STILL
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.files import Lock, lock_file
from hpc_dmaml.run import run_job
from hpc_dmaml.stopping import Stop
from tests.helpers import small_config


class Killed(BaseException):
    """What no handler catches."""


def start(config, monkeypatch, restart, **changes):
    """Start a job as SLURM does for the n-th time. Returns the exit code."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    changes = {"resume": config.output if restart else config.resume, **changes}
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


@pytest.fixture
def holder(config, monkeypatch):
    """What is left of the job's last start, on another node, still holds its output. The wait for it is short."""
    monkeypatch.setattr("hpc_dmaml.claim.PATIENCE_S", 0.05)
    monkeypatch.setattr("hpc_dmaml.claim.LOOK_EVERY_S", 0.01)
    assert start(config, monkeypatch, 0, time_limit_s=1e-9) == 75
    lock = Lock(Path(config.output))
    yield lock
    lock.release()


def refusal(config, monkeypatch, restart) -> Refusal:
    with pytest.raises(Refusal, match=r"another (process|job) is (still )?writing .*x\.h5") as caught:
        start(config, monkeypatch, restart)
    return caught.value


def test_a_restarted_job_whose_output_is_still_written_is_started_again_later_but_not_for_ever(
    config, monkeypatch, holder
):
    codes = [refusal(config, monkeypatch, restart).code for restart in range(1, STILL + 1)]
    assert codes == [75] * (STILL - 1) + [1]


def test_waits_in_vain_for_one_process_do_not_count_for_the_next(config, monkeypatch, holder):
    for restart in range(1, STILL):
        refusal(config, monkeypatch, restart)
    lock_file(Path(config.output)).unlink()  # the next one's is a new file
    second = Lock(Path(config.output))
    assert refusal(config, monkeypatch, STILL).code == 75
    second.release()
    monkeypatch.setattr("hpc_dmaml.claim.PATIENCE_S", 0.0)
    assert start(config, monkeypatch, STILL) == 0


def test_a_restarted_job_goes_on_when_its_output_is_free(config, monkeypatch, holder, capsys):
    monkeypatch.setattr("hpc_dmaml.claim.PATIENCE_S", 600)
    timer = threading.Timer(0.1, holder.release)
    timer.start()
    assert start(config, monkeypatch, 1) == 0
    timer.join()
    monkeypatch.setattr(holder, "release", lambda: None)
    assert "is still writing" in capsys.readouterr().err


def test_a_wait_for_the_output_ends_when_a_stop_is_asked_for(config, monkeypatch, holder):
    monkeypatch.setattr("hpc_dmaml.claim.PATIENCE_S", 600)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    stop = Stop()
    stop.ask()
    with pytest.raises(Refusal) as caught:
        run_job(replace(config, resume=config.output), Communicator(), stop)
    assert caught.value.code == 75


def test_a_job_that_slurm_has_not_restarted_is_refused_at_once(config, monkeypatch, holder):
    monkeypatch.setattr("hpc_dmaml.claim.PATIENCE_S", 600)
    assert refusal(replace(config, resume=config.output), monkeypatch, 0).code == 2


def test_a_complete_job_that_is_started_again_keeps_its_log(config, monkeypatch):
    assert start(config, monkeypatch, 0) == 0
    before = results.read(config.output).arrays
    assert start(config, monkeypatch, 1) == 0
    after = results.read(config.output).arrays
    assert all((before[name] == after[name]).all() for name in before if name.startswith(("runs/", "ranks/")))
