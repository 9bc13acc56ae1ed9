"""A job starts soon: it says so first, imports only what it uses, and reads its cores before torch can change them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_dmaml.communicator import own_cores
from hpc_dmaml.tasks import Glyphs
from tests.processes import ROOT

UNUSED = ("torch._dynamo", "torchvision", "pandas", "sympy", "matplotlib")
"""Each takes long to import, and no job of these presets has a use for it."""
COMMAND = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert end.code == 0, end.code
assert "torch" in sys.modules
print("imported:", *sorted({*%r} & set(sys.modules)))
"""


def python(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


@pytest.mark.parametrize("preset", ["sinusoid", "glyphs"])
def test_a_job_and_its_evaluation_import_nothing_that_they_do_not_use(preset: str, tmp_path: Path) -> None:
    if preset == "glyphs":
        Glyphs().prepare()  # to draw the letters, once, takes more
    job = ["hpc_dmaml", "--config", preset, "--runs", "1", "--validation.tasks", "2", "--output", "x.h5"]
    for command in (job, ["hpc_dmaml.evaluate", "x.h5", "--tasks", "2"]):
        done = python("-c", COMMAND % (UNUSED,), *command, cwd=tmp_path, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize("module", ["hpc_dmaml", "hpc_dmaml.evaluate"])
def test_rank_0_of_several_says_that_it_starts_before_anything_large_is_imported(module: str) -> None:
    done = python("-X", "importtime", "-m", module, "--nonsense", "1", PMI_RANK="0", PMI_SIZE="16")
    assert done.returncode == 2
    before, said, after = done.stderr.partition("starting on 16 ranks ...\n")
    assert said
    assert "hpc_dmaml.launcher" in before
    assert "numpy" not in before
    assert "numpy" in after


@pytest.mark.parametrize("environment", [{}, {"PMI_RANK": "1", "PMI_SIZE": "16"}, {"PMI_RANK": "0", "PMI_SIZE": "1"}])
def test_the_other_ranks_and_a_process_on_its_own_do_not_speak_of_the_start(environment: dict[str, str]) -> None:
    assert "starting" not in python("-m", "hpc_dmaml", "--nonsense", "1", **environment).stderr


THREADS = """
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig
from hpc_dmaml.launch import launch

def job(config, comm):
    import os, torch
    from hpc_dmaml.setup import use_device
    use_device(config, comm, comm)
    print(len(os.sched_getaffinity(0)), torch.get_num_threads())
    return 0

launch(RunConfig, job)
"""


@pytest.mark.skipif(len(own_cores()) < 2, reason="one core")
def test_a_process_whose_threads_are_bound_has_a_thread_for_each_of_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    left, threads = map(int, python("-c", THREADS, OMP_PROC_BIND="true").stdout.split())
    assert left == 1  # so OpenMP has bound it
    assert threads == len(own_cores())


COMMITTED = """
import sys
from pathlib import Path
from hpc_dmaml.engine import allocator

def mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) / 1024

allocator.OVERCOMMIT = Path(sys.argv[1])
before = mib()
assert allocator.keep_freed_memory()
data = bytearray(10 << 20)
print(round(mib() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="not Linux")
@pytest.mark.parametrize(("mode", "least", "most"), [("2", 10, 20), ("0", 500, 1000), ("1", 500, 1000)])
def test_a_kernel_that_counts_what_is_promised_is_not_promised_more_than_is_used(
    mode: str, least: int, most: int, tmp_path: Path
) -> None:
    (tmp_path / "overcommit").write_text(f"{mode}\n")
    done = python("-c", COMMITTED, str(tmp_path / "overcommit"), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert least <= int(done.stdout) <= most
