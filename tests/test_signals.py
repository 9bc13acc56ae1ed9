"""Asked to stop, a job finishes its run, writes its file, and ends with a code that says: go on by --resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import parse
from hpc_dmaml.run import run_job
from hpc_dmaml.stopping import SIGNALS, Stop
from tests.helpers import Signalling, differing, run, small_config
from tests.processes import ENDLESS, ROOT, SMALL, Job, is_mpich, needs_mpirun


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
        assert "stopped at once. The file as last written is kept." in job.err
        assert "Traceback" not in job.err


AT_IMPORT = """
import os, sys
number, module = int(os.environ["TEST_SIGNAL"]), os.environ["TEST_MODULE"]
def hook(event, arguments):
    global number
    if event == "import" and arguments[0] == module and number:
        sent, number = number, 0
        os.kill(os.getpid(), sent)
sys.addaudithook(hook)
"""
"""A sitecustomize.py: the process gets a signal in the moment when it imports a module."""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        *((module, signal.SIGUSR1) for module in ("numpy", "h5py", "hpc_dmaml.launch", "mpi4py")),
        *(("torch", number) for number in SIGNALS),  # after MPI, which might have handlers of its own
    ],
)
def test_a_signal_that_comes_while_a_job_is_still_being_loaded_stops_it_in_good_order(tmp_path, module, number):
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT)
    done = subprocess.run(
        [sys.executable, "-m", "hpc_dmaml", *SMALL, "--runs", "4", "--output", "x.h5"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
             "TEST_SIGNAL": str(int(number)), "TEST_MODULE": module},
    )  # fmt: skip
    assert done.returncode == 75, done.stdout + done.stderr
    assert results.read(tmp_path / "x.h5", verify=True).status == "interrupted"


@pytest.mark.parametrize("module", ["numpy", "yaml", "hpc_dmaml.config"])
def test_so_is_a_point_of_a_sweep(tmp_path, module):
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT)
    (tmp_path / "s.yaml").write_text("config: sinusoid\nset: {runs: 4, tasks: 2, threads: 1}\nseeds: [0]\nranks: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "hpc_dmaml.sweep", "s.yaml", "--index", "0"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
             "TEST_SIGNAL": str(int(signal.SIGUSR1)), "TEST_MODULE": module},
    )  # fmt: skip
    assert done.returncode == 75, done.stdout + done.stderr


@pytest.mark.parametrize("command", [["hpc_dmaml.evaluate", "x.h5"], ["hpc_dmaml.sweep", "s.yaml"]])
def test_a_command_that_has_nothing_to_lose_ends_by_a_signal_as_any_program(tmp_path, command):
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT)
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
             "TEST_SIGNAL": str(int(signal.SIGTERM)), "TEST_MODULE": "numpy"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGTERM


def test_to_import_the_package_changes_no_signal():
    code = (
        "import signal; import hpc_dmaml.launch, hpc_dmaml.sweep;"
        "assert not signal.pthread_sigmask(signal.SIG_BLOCK, []);"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.usefixtures("_handlers")
def test_what_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked()


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_under_open_mpi_which_kills_soon_after_it_asks_the_last_whole_run_is_written_at_once(
    tmp_path, monkeypatch, number
):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    path, seen = tmp_path / "x.h5", []

    def sample(*arguments, draw=Signalling.sample, **options):
        before = Signalling.sends
        batch = draw(*arguments, **options)  # the signal comes here, in the middle of a run's work
        if before is not None and Signalling.sends is None:
            seen.append(results.read(path, verify=True))
        return batch

    monkeypatch.setattr(Signalling, "sample", sample)
    Signalling.sends = (number, 3)
    with Stop() as stop:
        config = small_config(runs=6, task=Signalling(shots=4, queries=3), output=str(path))
        assert run_job(config, Communicator(), stop) == 75
    assert [(source.status, source["runs/run"].tolist()) for source in seen] == [("running", [0, 1])]
    whole = run(replace(config, runs=2), tmp_path, name="two.h5")
    assert (seen[0]["meta_model/parameters"] == whole["meta_model/parameters"]).all()
