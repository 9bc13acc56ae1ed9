"""The scaling calculator: its formulas at the ends, and what it says of a job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scaling_model

from hpc_dmaml import results
from hpc_dmaml.config import Validation
from tests.analysis.synthetic import write_job
from tests.helpers import run, small_config

ANALYSIS = Path(__file__).parents[1] / "analysis"


def test_one_rank_exchanges_nothing():
    assert scaling_model.exchange_s("gather", 1, 10**6, 1e-6, 1e-9) == 0


def test_an_allreduce_of_many_bytes_moves_them_twice_and_one_of_few_takes_its_latencies():
    assert scaling_model.exchange_s("allreduce", 1024, 10**9, 0, 1e-9) == pytest.approx(2, rel=2e-3)
    assert scaling_model.exchange_s("allreduce", 1024, 0, 1e-6, 0) == pytest.approx(30e-6)


def test_a_gather_grows_with_the_ranks_and_an_allreduce_hardly_does():
    times = {
        k: [scaling_model.exchange_s(k, r, 4 * 10**5, 1e-6, 1e-10) for r in (64, 1024)] for k in ("gather", "allreduce")
    }
    assert times["gather"][1] > 10 * times["gather"][0]
    assert times["allreduce"][1] < 2 * times["allreduce"][0]


def test_it_says_where_the_exchange_dominates():
    *_, allreduce, gather = scaling_model.table(1e-3, 0, 4 * 10**5, 1e-6, 1e-9)
    assert "gather: the exchange takes longer than the work from 4 ranks on" in gather
    assert "not up to 1024 ranks" in allreduce


def test_the_command_takes_a_job_or_numbers_and_refuses_neither(tmp_path):
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = ANALYSIS / "scaling_model.py"
        return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)

    job = run(small_config(), tmp_path)
    for arguments in ([str(job.path)], ["--work_s", "0.1", "--parameters", "1000"]):
        done = command(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n| ") == 12  # the rule and 1 to 1,024 ranks
    for arguments in ([], ["--work_s", "nan", "--parameters", "9"], ["--work_s", "1", "--parameters", "-9"]):
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("scaling_model: ")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_spread_of_ranks_is_estimated_without_bias_and_without_the_first_run(tmp_path, ranks):
    write_job(tmp_path / "x.h5", small_config(runs=4000, workers=1, validation=Validation(every=0)), ranks)
    source = results.read(tmp_path / "x.h5")
    source["ranks/work_s"][:] = np.random.default_rng(0).normal(1, 0.05, (4000, ranks))
    source["ranks/work_s"][0] += 300
    results.write(tmp_path / "x.h5", source.arrays, source.attributes)
    work_s, spread_s, _ = scaling_model.measured(tmp_path / "x.h5")
    assert work_s == pytest.approx(1, rel=0.01)
    assert spread_s == pytest.approx(0.05, rel=0.04)
