"""Jobs as processes: real mpirun, to be watched, signalled and killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    "--task",
    "Sinusoid",
    "--model",
    "MLP",
    "--model.hidden",
    "[5]",
    "--tasks",
    "3",
    "--algorithm.inner_lr",
    "0.01",
    "--threads",
    "1",
]
ENDLESS = [*SMALL, "--runs", "1000000", "--validation.every", "0", "--checkpoint.every", "1"]


def find_mpirun() -> str | None:
    """The mpirun beside this Python, else one on the PATH."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else shutil.which("mpirun")


MPIRUN = find_mpirun()
needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="no mpirun")


def is_mpich() -> bool:
    version = subprocess.run([str(MPIRUN), "--version"], capture_output=True, text=True, check=False)
    return "HYDRA" in version.stdout


class Job:
    """`python -m hpc_dmaml` with some ranks, or as one process without mpirun; nothing of it outlives the block."""

    def __init__(self, ranks: int | None, *arguments: str, cwd: Path) -> None:
        self._known: list[int] = []
        launcher = [] if ranks is None else [str(MPIRUN), "-n", str(ranks)]
        self._out, self._err = cwd / "out.txt", cwd / "err.txt"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [*launcher, sys.executable, "-m", "hpc_dmaml", *arguments],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=err,
            )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill(*self.family())
        self.process.wait()

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_for(self, condition: Callable[[], object], limit_s: float = 120) -> None:
        """Wait until `condition` holds, or fail."""
        end = time.monotonic() + limit_s
        while not condition():
            assert self.process.poll() is None, self.out + self.err
            assert time.monotonic() < end, "waited too long\n" + self.out + self.err
            time.sleep(0.01)

    def end(self, limit_s: float = 60) -> int:
        """The exit code, when all of its processes are gone."""
        code = self.process.wait(limit_s)
        end = time.monotonic() + limit_s
        while any(exists(pid) for pid in self.family()):
            assert time.monotonic() < end, "processes are left over"
            time.sleep(0.01)
        return code

    def family(self) -> list[int]:
        """The processes of the job that there are, the launcher first and the ranks last."""
        self._known = self._known or [self.process.pid]
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                children.setdefault(int(stat.read_text().rsplit(")", 1)[1].split()[1]), []).append(
                    int(stat.parent.name)
                )
        for pid in self._known:
            self._known += [child for child in children.get(pid, []) if child not in self._known]
        return [pid for pid in self._known if exists(pid)]

    def ranks(self) -> list[int]:
        """The processes that compute."""
        return [pid for pid in self.family() if b"hpc_dmaml" in arguments(pid) and b"python" in arguments(pid)[0]]

    @staticmethod
    def kill(*processes: int, number: int = signal.SIGKILL) -> None:
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]


def exists(pid: int) -> bool:
    """Is it there, and not a zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
