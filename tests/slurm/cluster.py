"""A throw-away SLURM cluster of virtual nodes on this host, and jobs on it."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent
"""Where the interpreter is, and MPICH, if the extra brought it."""
NODES = 2
SRUN, MPIRUN = "srun --mpi=pmi2", "mpirun"
"""The launchers that fit MPICH."""
UNAVAILABLE = 77
"""Exit code of cluster_up.sh where SLURM cannot be had."""


class Unavailable(Exception):
    """SLURM cannot be had on this host."""


@dataclass(frozen=True)
class Cluster:
    folder: Path
    """Where jobs are submitted from: it has the job scripts, as the root of the repository does."""
    environment: dict[str, str]

    def submit(self, launcher: str, arguments: str, options: str = "--nodes=2 --ntasks=2") -> str:
        """Hand in one job, by default of two ranks, one a node. Returns its number."""
        line = f"slurm/sbatch --parsable {options} slurm/run.sbatch {arguments}"
        return self.command(line, LAUNCHER=launcher).strip()

    def submit_sweep(self, sweep: Path, launcher: str, arguments: str = "", **variables: str) -> list[str]:
        """Hand in a sweep. Returns the numbers of its arrays and of its analysis."""
        said = self.command(f"{sys.executable} slurm/submit.py {sweep} {arguments}", LAUNCHER=launcher, **variables)
        return re.findall(r"^job (\d+)", said, re.MULTILINE)

    def end(self, job: str) -> tuple[str, int]:
        """Wait for a job, or a task JOB_TASK of an array. Returns its state and exit code, and shows its log."""
        fields: dict[str, str] = {}

        def ended() -> bool:
            fields.update(self.facts(job))
            return fields["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")

        try:
            wait_for(ended, f"the end of job {job}")
        finally:
            log = Path(fields["StdOut"])
            print(log.read_text() if log.exists() else f"job {job} has no log")
        return fields["JobState"], int(fields["ExitCode"].split(":")[0])

    def facts(self, job: str) -> dict[str, str]:
        """What SLURM knows about a job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.command(f"scontrol --oneliner show job {job}")))

    def command(self, line: str, **variables: str) -> str:
        """Run a command where jobs are submitted. Returns what it prints."""
        environment = self.environment | variables
        done = subprocess.run(
            shlex.split(line), cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout


@contextmanager
def booted(state: Path, folder: Path) -> Iterator[Cluster]:
    """A cluster that keeps its state in `state` and takes jobs from `folder`. Raises Unavailable."""
    shutil.copytree(ROOT / "slurm", folder / "slurm", ignore=shutil.ignore_patterns("cluster.sh"))
    shutil.copytree(ROOT / "analysis", folder / "analysis")
    (folder / "slurm" / "cluster.sh").write_text(
        "#SBATCH --mem-per-cpu=300M    # so that many fit on this host\n#SBATCH --time=5\n"
        f"export PATH={shlex.quote(str(BIN))}:$PATH PYTHONPATH={shlex.quote(str(ROOT))}\n"
    )
    # A job must not take the launcher of these tests, or the cluster that they may run on, for its own.
    foreign = ("SLURM", "SBATCH", "SRUN", "PMI", "OMPI")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_CONF": str(state / "slurm.conf"),
        "SLURM_TEST_DIR": str(state),
        "SLURM_TEST_NODES": str(NODES),
        "SLURM_TEST_PORT": str(free_ports(1 + NODES)),
    }
    try:
        up = subprocess.run([HERE / "cluster_up.sh"], env=environment, capture_output=True, text=True)
        if up.returncode == UNAVAILABLE:
            raise Unavailable(up.stderr.splitlines()[-1])
        assert up.returncode == 0, up.stderr
        yield Cluster(folder, environment)
    finally:
        subprocess.run([HERE / "cluster_down.sh", "--purge"], env=environment, check=True)


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 600) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(0.2)


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody listens on."""
    while True:
        first = random.randrange(20_000, 30_000)
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
