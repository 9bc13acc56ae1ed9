"""One job by hand does on a real SLURM what the script promises."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_dmaml import results
from tests.slurm.cluster import MPIRUN, SRUN, wait_for

pytestmark = pytest.mark.long
FIELDS = {"task": "Sinusoid", "model": "MLP", "tasks": 2, "algorithm.inner_lr": 0.01, "exchange": "gather", "runs": 5}
TASK = " ".join(f"--{name} {value}" for name, value in FIELDS.items())


def outcome(cluster, job):
    return results.read(cluster.folder / "results" / f"dmaml_{job}.h5", verify=True)


def log(cluster, job):
    return (cluster.folder / f"slurm-dmaml_{job}.out").read_text()


def test_a_job_gives_the_same_numbers_under_srun_and_under_mpirun(cluster):
    jobs = [cluster.submit(launcher, TASK) for launcher in (SRUN, MPIRUN)]
    assert [cluster.end(job) for job in jobs] == [("COMPLETED", 0)] * 2
    one, other = (outcome(cluster, job) for job in jobs)
    assert one.status == other.status == "complete"
    assert one["workers/loss"].shape == (5, 2)
    for name in ("workers/loss", "workers/weight", "validation/loss", "meta_model/parameters"):
        np.testing.assert_array_equal(one[name], other[name])


def test_an_array_by_hand_runs_the_points_of_its_indices_and_goes_on_with_those_that_are_complete(cluster):
    text = f"set: {{{', '.join(f'{name}: {value}' for name, value in FIELDS.items())}}}\nseeds: [0, 1]\nranks: 1\n"
    (cluster.folder / "plain.yaml").write_text(text)
    for _ in range(2):
        line = "slurm/sbatch --parsable --array=1 --ntasks=1 slurm/array.sbatch plain.yaml"
        job = cluster.command(line, LAUNCHER=SRUN).strip()
        assert cluster.end(f"{job}_1") == ("COMPLETED", 0)
        log = (cluster.folder / f"slurm-dmaml_{job}_1.out").read_text()
        assert "command not found" not in log
    assert "resumed at run 5" in log
    assert [path.name for path in (cluster.folder / "results" / "plain").glob("*.h5")] == ["seed=1.h5"]


def test_ranks_that_do_not_find_each_other_are_refused_and_fewer_than_the_allocation_are_not(cluster):
    few = f"bash -c 'source slurm/cluster.sh; mpirun -n 2 python -m hpc_dmaml {TASK} --output results/few.h5'"
    few = cluster.command(f'sbatch --parsable --ntasks=16 --mem-per-cpu=50M --wrap="{few}"').strip()
    apart = cluster.submit("srun --mpi=none", TASK)
    assert cluster.end(apart) == ("FAILED", 2)
    assert "launcher and library do not match" in log(cluster, apart)
    assert cluster.end(few) == ("COMPLETED", 0)
    assert results.read(cluster.folder / "results" / "few.h5")["workers/loss"].shape == (5, 2)


def test_an_interrupted_job_comes_back_and_goes_on_and_a_cancelled_one_does_not(cluster):
    job = cluster.submit(MPIRUN, f"{TASK} --runs 1000000000 --checkpoint.every 50")
    file = cluster.folder / "results" / f"dmaml_{job}.h5"

    def runs(restarts):
        source = results.read(file, "runs") if file.exists() else None
        return len(source["runs/run"]) if source and source.attributes["restarts"] == restarts else 0

    wait_for(lambda: runs(restarts=0), "a checkpoint")
    cluster.command(f"scancel --signal=USR1 --batch {job}")
    wait_for(lambda: runs(restarts=1), "a restart")
    first = int(results.read(file)["checkpoint/restarts"][0])
    wait_for(lambda: runs(restarts=1) > first, "a run more")
    cluster.command(f"scancel {job}")
    assert cluster.end(job)[0] == "CANCELLED"
    source = outcome(cluster, job)
    assert source.attributes["restarts"] == 1
    assert source["runs/run"].tolist() == list(range(len(source["runs/run"])))
