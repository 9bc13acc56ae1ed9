"""The job scripts' part that runs the launcher, with a fake launcher and a fake SLURM."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.processes import ROOT


def launched(folder: Path, code: int, state: str | None) -> tuple[int, str]:
    """The exit code and the log where the launcher ends with `code`, and squeue shows the job's `state`, if there is one."""
    programs = folder / "bin"
    programs.mkdir()
    scripts = {
        "mpirun": f"exit {code}",
        "squeue": "exit 1" if state is None else f"echo {state}",
        "scontrol": "echo $*",
    }
    for name, text in {**scripts, "sleep": ""}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", "-c", f"source {ROOT / 'slurm' / 'launch.sh'}; launch true"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("code", [0, 1, 2, 9])
@pytest.mark.parametrize("state", ["RUNNING", None])
def test_the_launchers_exit_code_is_the_jobs(tmp_path, code, state):
    returned, log = launched(tmp_path, code, state)
    assert returned == code
    assert log.endswith(f"exit code {code}\n")


@pytest.mark.parametrize("state", ["COMPLETING", "NODE_FAIL", "PENDING"])
def test_a_job_that_slurm_has_ended_for_a_failed_node_is_no_success(tmp_path, state):
    returned, log = launched(tmp_path, 0, state)
    assert returned == 1
    assert f"SLURM has ended this job early: {state}" in log
    assert log.endswith("exit code 1\n")


def test_an_interrupted_job_is_requeued(tmp_path):
    returned, log = launched(tmp_path, 75, "RUNNING")
    assert returned == 75
    assert log.endswith("exit code 75\nrequeue 7\n")


def test_the_ranks_run_in_the_container_of_the_clusters_file(tmp_path):
    (tmp_path / "mpirun").write_text("#!/bin/sh\necho ran: $*\n")
    (tmp_path / "mpirun").chmod(0o755)
    (tmp_path / "cluster.sh").write_text('CONTAINER="apptainer exec hpc_dmaml.sif"\n')
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7",
        "DMAML_CLUSTER": str(tmp_path / "cluster.sh"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", f"source {ROOT / 'slurm' / 'launch.sh'}; launch python -m hpc_dmaml"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ran: -n 2 apptainer exec hpc_dmaml.sif python -m hpc_dmaml\n" in done.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--config sinusoid", "--resume auto --output results/name_7.h5 --config sinusoid"),
        ("--resume auto", "--resume auto --output results/name_7.h5 --resume auto"),
        ("--resume results/x.h5", "--resume results/x.h5"),
        ("--resume=results/x.h5 --runs 9", "--resume=results/x.h5 --runs 9"),
    ],
)
def test_a_file_that_is_named_is_resumed_as_itself(tmp_path, given, words):
    (tmp_path / "mpirun").write_text("#!/bin/sh\necho ran: $*\n")
    (tmp_path / "mpirun").chmod(0o755)
    (tmp_path / "none.sh").touch()
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "name",
        "SLURM_SUBMIT_DIR": str(ROOT), "DMAML_CLUSTER": str(tmp_path / "none.sh"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(ROOT / "slurm" / "run.sbatch"), *given.split()],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"python -m hpc_dmaml {words}\n" in done.stdout, done.stderr


def signalled(folder: Path, mpirun: str, cluster: str, sign: int, at: str) -> tuple[int, str]:
    """Exit code and log of a job script that gets a signal once there is the file `at`; then there is `signalled`, too."""
    scripts = {
        "mpirun": mpirun,
        "scontrol": "echo $*",
        "squeue": "echo $*",
        "sleep": "[ $1 = 60 ] || exec /bin/sleep $1",
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "cluster.sh").write_text(cluster)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7",
        "DMAML_CLUSTER": str(folder / "cluster.sh"),
    }  # fmt: skip
    command = ["bash", "-c", f"source {ROOT / 'slurm' / 'launch.sh'}; launch true"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while not (folder / at).exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(sign)
        (folder / "signalled").touch()
        log, _ = process.communicate(timeout=60)
    return process.returncode, log


def test_options_of_the_clusters_shell_do_not_end_the_job_script(tmp_path):
    """A signal ends a `wait`, with which `set -e` would end the shell before the ranks have written."""
    mpirun = "trap 'sleep 0.3; exit 75' USR1\ntouch started\nwhile true; do sleep 0.05; done"
    code, log = signalled(tmp_path, mpirun, "set -euo pipefail\n", signal.SIGUSR1, "started")
    assert code == 75
    assert log.endswith("exit code 75\nrequeue 7\n")


@pytest.mark.parametrize(
    ("sign", "end"), [(signal.SIGUSR1, "exit code 75\nrequeue 7\n"), (signal.SIGTERM, "exit code 75\n")]
)
def test_a_signal_before_the_ranks_have_started_is_remembered(tmp_path, sign, end):
    cluster = "touch loading\nwhile [ ! -e signalled ]; do sleep 0.05; done\n"
    code, log = signalled(tmp_path, "echo started", cluster, sign, "loading")
    assert code == 75
    assert log.endswith(end)
    assert "started" not in log


def test_the_state_asked_for_is_that_of_the_task_of_an_array(tmp_path):
    (tmp_path / "mpirun").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho $* > asked.txt\n")
    for name in ("mpirun", "squeue"):
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4",
    }  # fmt: skip
    command = ["bash", "-c", f"source {ROOT / 'slurm' / 'launch.sh'}; launch true"]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert "--jobs=7_4" in (tmp_path / "asked.txt").read_text()
