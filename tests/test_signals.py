"""Asked to stop, a job finishes its run, writes its file, and ends with a code that says: go on by --resume."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import parse
from hpc_dmaml.run import run_job
from hpc_dmaml.stopping import SIGNALS, Stop
from tests.helpers import Signalling, differing, run, small_config
from tests.processes import ENDLESS, SMALL, Job, is_mpich, needs_mpirun


@pytest.fixture
def _handlers():
    """Whatever a test does to the signals' handlers is undone."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_job_ends_in_good_order_and_resumed_like_one_that_was_not(tmp_path, number):
    config = small_config(runs=6, task=Signalling(shots=4, queries=3), output=str(tmp_path / "x.h5"))
    whole = run(config, tmp_path, name="whole.h5")
    Signalling.sends = (number, 3)
    with Stop() as stop:
        assert run_job(config, Communicator(), stop) == 75
    interrupted = results.read(tmp_path / "x.h5", verify=True)
    assert interrupted.status == "interrupted"
    assert interrupted["runs/run"].tolist() == [0, 1, 2]
    assert run_job(replace(config, resume=config.output), Communicator()) == 0
    assert differing(results.read(tmp_path / "x.h5", verify=True), whole) == {"checkpoint/restarts"}


def test_a_time_limit_stops_a_job(tmp_path):
    config = small_config(runs=10**9, time_limit_s=0.5, output=str(tmp_path / "x.h5"))
    assert run_job(config, Communicator()) == 75
    source = results.read(tmp_path / "x.h5", verify=True)
    assert source.status == "interrupted"
    assert source["runs/run"].tolist() == list(range(len(source["runs/run"])))


@pytest.mark.usefixtures("_handlers")
def test_a_stop_that_comes_in_the_last_run_changes_nothing(tmp_path):
    Signalling.sends = (signal.SIGTERM, 3)
    with Stop() as stop:
        config = small_config(runs=3, task=Signalling(), output=str(tmp_path / "x.h5"))
        assert run_job(config, Communicator(), stop) == 0
    assert results.read(tmp_path / "x.h5").status == "complete"


@pytest.mark.usefixtures("_handlers")
def test_a_signal_that_comes_late_kills_nobody():
    with Stop() as stop:
        assert not stop.asked()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.asked()
    for number in SIGNALS:
        os.kill(os.getpid(), number)


@needs_mpirun
@pytest.mark.parametrize(
    ("number", "target"),
    [(signal.SIGUSR1, "mpirun"), (signal.SIGUSR1, "rank 1"), (signal.SIGTERM, "mpirun"), (signal.SIGINT, "mpirun")],
)
def test_a_signal_stops_all_ranks(tmp_path, number, target):
    if number != signal.SIGUSR1 and not is_mpich():
        pytest.skip("only MPICH hands this signal on, and waits")
    with Job(2, *ENDLESS, "--output", "x.h5", cwd=tmp_path) as job:
        job.wait_for((tmp_path / "x.h5").exists)
        job.kill(job.process.pid if target == "mpirun" else job.ranks()[1], number=number)
        assert job.end() == 75, job.out + job.err
        assert job.out.count("Stopped as asked. Go on with: python -m hpc_dmaml --resume x.h5") == 1
    source = results.read(tmp_path / "x.h5", verify=True)
    assert source.status == "interrupted"
    assert source["runs/run"].tolist() == list(range(len(source["runs/run"])))
    assert not (tmp_path / "x.h5.lock").exists()


@pytest.mark.parametrize("ranks", [None, pytest.param(2, marks=needs_mpirun)])
def test_a_stop_asked_for_in_set_up_comes_before_the_first_run(tmp_path, ranks):
    slow = ["--task", "tests.helpers.Slow", "--task.prepare_s", "2", *SMALL[2:], "--output", "x.h5"]
    with Job(ranks, *slow, cwd=tmp_path) as job:
        job.wait_for(lambda: "preparing" in job.out)
        job.kill(job.process.pid, number=signal.SIGUSR1)
        assert job.end() == 75, job.out + job.err
    source = results.read(tmp_path / "x.h5", verify=True)
    assert source.status == "interrupted"
    assert len(source["runs/run"]) == 0
    resumed = parse(["--resume", str(tmp_path / "x.h5"), "--runs", "2", "--trust"])
    if ranks is None:
        assert run_job(resumed, Communicator()) == 0


def test_a_second_interrupt_stops_at_once(tmp_path):
    slow = ["--task", "tests.helpers.Slow", "--task.run_s", "600", *SMALL[2:], "--output", "x.h5"]
    with Job(None, *slow, cwd=tmp_path) as job:
        job.wait_for(lambda: "running" in job.out)
        job.kill(job.process.pid, number=signal.SIGINT)
        job.wait_for(lambda: "Press Ctrl-C again to stop at once" in job.err)
        job.kill(job.process.pid, number=signal.SIGINT)
        assert job.end(limit_s=20) == 130
        assert "stopped at once. What was last written stands." in job.err
        assert "Traceback" not in job.err
