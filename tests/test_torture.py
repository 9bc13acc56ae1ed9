"""A job is killed again and again, at any moment, resumed each time, and ends where an undisturbed one does.

HPC_DMAML_KILLS=100 pytest --all -s tests/test_torture.py    the long form
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import h5py
import pytest

from hpc_dmaml import results
from tests.helpers import differing
from tests.processes import Job, needs_mpirun

pytestmark = pytest.mark.long
KILLS = int(os.environ.get("HPC_DMAML_KILLS", "8"))
RUNS_BETWEEN_KILLS = 25
HOW = {
    "plain": "--task Sinusoid --model MLP",
    "learned rates and a worker's own Adam": "--task Sinusoid --model MLP --algorithm MetaSGD --local_optimizer Adam --epochs 2",
    "trajectories": "--task Navigation --task.trajectories 2 --task.horizon 3 --model GaussianPolicy",
}
RUNS = KILLS * RUNS_BETWEEN_KILLS
ARGUMENTS = (
    "--model.hidden [5] --tasks 2 --algorithm.inner_lr 0.01 --threads 1 --exchange gather "
    f"--weight_generator LossMovingAverage --runs {RUNS} --validation.every 10 --validation.tasks 2 --resume auto"
).split()


def runs_in(path: Path) -> int:
    """How many runs the file holds, as anybody reads it; 0 if there is none yet."""
    try:
        with h5py.File(path) as file:
            runs = file["runs/run"][:].tolist()
            assert runs == list(range(len(runs)))
            assert len(file["workers/loss"]) == len(runs)
    except FileNotFoundError:
        return 0
    return len(runs)


@needs_mpirun
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the ranks in /proc")
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_killed_at_any_moment_a_job_loses_nothing_and_ends_where_an_undisturbed_one_does(how, tmp_path):
    arguments = [*how.split(), *ARGUMENTS]
    with Job(2, *arguments, "--output", "whole.h5", cwd=tmp_path) as job:
        assert job.end(limit_s=300) == 0, job.err
    path, rng, h5dump = tmp_path / "x.h5", random.Random(), shutil.which("h5dump")
    in_set_up = in_write = reads = 0
    for kill in range(KILLS):
        before = runs_in(path)
        with Job(2, *arguments, "--output", "x.h5", "--checkpoint.every", "1", cwd=tmp_path) as job:
            seen, wanted = before, before + rng.randint(1, RUNS_BETWEEN_KILLS - 10)
            is_soon, start = rng.random() < 0.15, time.monotonic()  # as a rule in set-up
            patience_s = rng.uniform(0, 5) if is_soon else 120
            while seen < wanted and time.monotonic() < start + patience_s:
                assert job.process.poll() is None, job.out + job.err
                now, reads = runs_in(path), reads + path.exists()
                assert now >= seen
                seen = now
                time.sleep(5e-3)
            assert is_soon or seen >= wanted, job.out + job.err
            time.sleep(rng.uniform(0, 0.03))
            ranks = job.ranks()
            job.kill(*([rng.choice(ranks)] if ranks and rng.random() < 0.5 else job.family()))
            assert job.end() not in (0, 1, 2, 75), job.out + job.err
        half_written = any(tmp_path.glob("x.h5.*.tmp"))
        after = runs_in(path)
        in_set_up += after == before
        in_write += half_written
        assert after >= seen
        if path.exists():
            assert results.read(path, verify=True).status == "running"
            if h5dump:
                subprocess.run([h5dump, "-H", path], check=True, stdout=subprocess.DEVNULL)
        print(f"kill {kill + 1}: run {after}" + ", in the middle of a write" * half_written, flush=True)
    with Job(2, *arguments, "--output", "x.h5", cwd=tmp_path) as job:
        assert job.end(limit_s=300) == 0, job.err
    whole, parts = results.read(tmp_path / "whole.h5", verify=True), results.read(path, verify=True)
    assert parts.status == "complete"
    assert parts["runs/run"].tolist() == list(range(RUNS))
    assert differing(whole, parts) == {"checkpoint/restarts"}
    assert parts.attributes["best_score"] == whole.attributes["best_score"]
    assert {p.name for p in tmp_path.glob("*.h5*")} == {"whole.h5", "x.h5"}
    print(
        f"{KILLS} kills, {in_set_up} of them before the first run, {in_write} in the middle of a write; {reads} reads "
        f"meanwhile; 0 files corrupt, 0 runs lost; {RUNS} runs and {len(parts['validation/run'])} validations bitwise "
        "equal to the undisturbed job's"
    )
