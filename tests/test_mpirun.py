"""Real mpirun: the tests in tests/mpi with 1, 2, 3 and 4 ranks, and jobs that must fail well."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_dmaml import results
from tests.processes import MPIRUN, ROOT, SMALL, needs_mpirun

pytestmark = needs_mpirun


def mpirun(ranks: int, *arguments: str, cwd: Path, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(MPIRUN), "-n", str(ranks), sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
    )


@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 3, 4))])
def test_under_mpi(ranks):
    done = mpirun(
        ranks, "mpi4py", "-m", "pytest", "--with-mpi", "-x", "-q", "-m", "not slow", "tests/mpi", cwd=ROOT, limit_s=400
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.count(" passed") == ranks
    print(*(line for line in done.stdout.splitlines() if " passed" in line), sep="\n")


def test_a_job_on_two_ranks_speaks_once(tmp_path):
    done = mpirun(2, "hpc_dmaml", *SMALL, "--runs", "4", "--output", "x.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done in") == 1
    assert "2 on 2 ranks (one worker a rank)" in done.stdout
    source = results.read(tmp_path / "x.h5", verify=True)
    assert source.status == "complete"
    assert source["workers/loss"].shape == (4, 2)
    tested = mpirun(2, "hpc_dmaml.evaluate", "x.h5", "--tasks", "9", cwd=tmp_path)
    alone = subprocess.run(
        [sys.executable, "-m", "hpc_dmaml.evaluate", "x.h5", "--tasks", "9"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert tested.stdout == alone.stdout


@pytest.mark.long
def test_a_test_of_several_files_says_the_same_on_any_number_of_ranks(tmp_path):
    for seed in ("0", "1"):
        kept = ["--validation.every", "1", "--validation.keep", "3", "--seed", seed, "--output", f"{seed}.h5"]
        assert mpirun(2, "hpc_dmaml", *SMALL, "--runs", "4", *kept, cwd=tmp_path).returncode == 0
    words = ["0.h5", "1.h5", "--which", "ensemble", "--inductive", "--tasks", "9", "--csv"]
    tested = mpirun(2, "hpc_dmaml.evaluate", *words, "two.csv", cwd=tmp_path)
    alone = subprocess.run(
        [sys.executable, "-m", "hpc_dmaml.evaluate", *words, "one.csv"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert tested.stdout.replace("two.csv", "one.csv") == alone.stdout
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()
    again = mpirun(2, "hpc_dmaml.evaluate", *words, "two.csv", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.count("hpc_dmaml: error: csv: two.csv exists") == 1


@pytest.mark.parametrize(
    "arguments", [["--seed", "x"], ["--workers", "3"], ["--model", "Conv4"], ["--workers", "1", "--tasks", "1"]]
)
def test_bad_input_is_refused_once_with_code_2_by_all_ranks(tmp_path, arguments):
    done = mpirun(2, "hpc_dmaml", *SMALL, "--runs", "4", *arguments, "--output", "x.h5", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("hpc_dmaml: error:") == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["hpc_dmaml", "hpc_dmaml.evaluate"])
@pytest.mark.parametrize("bad", [0, 1])
def test_bad_input_of_one_rank_is_refused_once_with_code_2_by_all(tmp_path, module, bad):
    assert mpirun(1, "hpc_dmaml", *SMALL, "--runs", "4", "--output", "x.h5", cwd=tmp_path).returncode == 0
    word = ["--resume"] if module == "hpc_dmaml" else []
    before, (first, second) = (tmp_path / "x.h5").read_bytes(), ["x.h5", "nothing.h5"][:: -1 if bad == 0 else 1]
    other = [":", "-n", "1", sys.executable, "-m", module, *word, second]
    done = mpirun(1, module, *word, first, *other, cwd=tmp_path, limit_s=60)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("hpc_dmaml: error: there is no file nothing.h5") == 1
    assert done.stderr.count("error") == 1
    assert (tmp_path / "x.h5").read_bytes() == before


def test_a_rank_that_fails_ends_the_whole_job_at_once(tmp_path):
    failing = ["--model", "Module", "--model.path", "tests.helpers.FailingOnRankOne", "--runs", "100000"]
    start = time.monotonic()
    done = mpirun(
        2, "hpc_dmaml", *SMALL[:2], *SMALL[6:], *failing, "--checkpoint.every", "1", "--output", "x.h5", cwd=tmp_path
    )
    assert done.returncode not in (0, 2, 75)
    assert time.monotonic() - start < 60
    assert "rank 1 failed: the model broke down on purpose. The whole job ends." in done.stderr
    if (tmp_path / "x.h5").exists():  # what was written before is whole
        assert results.read(tmp_path / "x.h5", verify=True).status == "running"
