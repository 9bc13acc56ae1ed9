"""A sweep on a real SLURM: its points as job arrays, interrupted, killed, failing, and the analysis after them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import submit

from hpc_dmaml import results, sweep
from hpc_dmaml.sweep import states
from tests.helpers import differing
from tests.processes import ROOT
from tests.slurm.cluster import MPIRUN, SRUN, wait_for

pytestmark = pytest.mark.long
COMMON = """
set:
  workers: 2
  task: {class_path: tests.helpers.Slow}
  model: {class_path: MLP, init_args: {hidden: [5]}}
  tasks: 2
  threads: 1
  algorithm.inner_lr: 0.01
  exchange: gather
  validation: {every: 5, tasks: 2}
"""
SIX = f"""{COMMON}
  runs: 10
grid:
  optimizer.lr: [0.01, 0.001]
  data:
    here: {{}}
    not here: {{task: {{class_path: ImageFolder, init_args: {{root: nowhere}}}}}}
    here too: {{tasks: 4}}
figures: [curves]
"""
DISTURBED = f"""{COMMON}
  runs: 40
  checkpoint.every: 1
  task.run_s: 0.1
grid:
  what:
    interrupted: {{}}
    killed: {{check_every: 25}}  # which changes no number
    stands still: {{ranks: 1, time_limit_s: 0.001}}
"""


def written(cluster, name: str, text: str) -> sweep.Sweep:
    path = cluster.folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return sweep.load(path, cluster.folder / "results")


def runs_in(point: sweep.Point) -> int:
    return len(results.read(point.output, "runs")["runs/run"]) if point.output.exists() else 0


def undisturbed(cluster, one: sweep.Sweep, point: sweep.Point) -> results.Results:
    """The file of the same point, run here by one process: the numbers do not depend on that."""
    command = [sys.executable, "-m", "hpc_dmaml.sweep", str(one.path), "--point", point.name, "--results", "by_hand"]
    subprocess.run(command, cwd=cluster.folder, check=True, env=cluster.environment)
    return results.read(cluster.folder / "by_hand" / one.name / point.output.name, verify=True)


def numbers_differing(one: results.Results, other: results.Results) -> set[str]:
    """What differs to the last bit, apart from the ranks themselves."""
    return {name for name in differing(one, other) if not name.startswith("ranks/")}


def word(cluster, one: sweep.Sweep, point: sweep.Point) -> str:
    """The state of a point, as a user would ask."""
    listed = cluster.command(f"{sys.executable} -m hpc_dmaml.sweep {one.path}")
    return next(line.split()[-2] for line in listed.splitlines() if line.endswith(f"{point.name}.h5"))


def test_an_array_of_points_two_at_a_time_one_failing_and_the_analysis_after_them(cluster):
    six = written(cluster, "six", SIX)
    *arrays, analysis = cluster.submit_sweep(six.path, SRUN, "--max-running 2")
    assert len(arrays) == 2  # the cluster's arrays have four tasks at most
    jobs = states.submitted(six.folder)
    most = 0

    def ended() -> bool:
        nonlocal most
        running = cluster.command(f"squeue --noheader --array --states=RUNNING --jobs={','.join(arrays)} --format=%i")
        most = max(most, len(running.split()))
        return cluster.facts(analysis)["JobState"] in ("COMPLETED", "FAILED")

    wait_for(ended, "the analysis")
    assert most == 2
    ends = [cluster.facts(jobs[point.name])["EndTime"] for point in six.points]
    assert cluster.facts(analysis)["StartTime"] >= max(ends)
    bad = [point for point in six.points if point.settings["data"] == "not here"]
    listed = cluster.command(f"{sys.executable} -m hpc_dmaml.sweep {six.path} --missing").splitlines()[1:]
    assert [int(line.split()[0]) for line in listed] == [point.index for point in bad]
    told = cluster.command(f"{sys.executable} slurm/submit.py {six.path} --status")
    assert "six: 6 points: 4 complete, 2 failed" in told
    for point in bad:
        assert f"job {jobs[point.name]} (FAILED, exit code 2:0)" in told
    assert "nowhere" in told
    last = six.points[-1]
    assert numbers_differing(results.read(last.output, verify=True), undisturbed(cluster, six, last)) == set()
    assert cluster.end(analysis) == ("COMPLETED", 0)
    assert {"report.html", "figure_curves.png"} <= {path.name for path in six.folder.iterdir()}


def test_interrupted_killed_and_standing_still_points_end_as_they_should(cluster):
    one = written(cluster, "disturbed", DISTURBED)
    interrupted, torn, still = one.points
    cluster.submit_sweep(one.path, SRUN)
    jobs = states.submitted(one.folder)
    wait_for(lambda: runs_in(interrupted) > 3, "runs before the interruption")
    cluster.command(f"scancel --signal=USR1 --batch {jobs[interrupted.name]}")
    for kill in range(3):
        before = runs_in(torn)
        wait_for(lambda before=before: runs_in(torn) > before + 3, f"runs before kill {kill + 1}")
        kill_ranks(torn.name)
        cluster.command(f"scontrol requeue {jobs[torn.name]}")

    assert cluster.end(jobs[interrupted.name]) == ("COMPLETED", 0)
    assert cluster.end(jobs[torn.name]) == ("COMPLETED", 0)
    whole = undisturbed(cluster, one, torn)
    for point, restarts in ((interrupted, 1), (torn, 3)):
        source = results.read(point.output, verify=True)
        assert source.status == "complete"
        assert source.attributes["restarts"] == restarts
        assert numbers_differing(source, whole) == {"checkpoint/restarts"}
    log = states.log_file(one.folder, jobs[interrupted.name]).read_text()
    assert re.search(r"Stopped as asked(?s:.*)exit code 75(?s:.*)resumed at run(?s:.*)exit code 0", log)

    assert cluster.end(jobs[still.name]) == ("FAILED", 1)
    log = states.log_file(one.folder, jobs[still.name]).read_text()
    assert len(re.findall(r"\d exit code 75", log)) == 3
    assert "SLURM restarts this job again and again, and it makes no run" in log
    assert runs_in(still) == 0
    assert word(cluster, one, still) == "failed"


def test_a_sweep_of_odd_words_in_an_odd_folder_for_a_cluster_of_its_own_runs(cluster):
    text = COMMON.replace("workers: 2", "workers: 1") + "  runs: 2\ndescription: |\n  Odd words\n  touch EXECUTED\n"
    path = written(cluster, "odd", text).path
    (cluster.folder / "mine.sh").write_bytes(
        b"#SBATCH --mem-per-cpu 300M\r\nsource slurm/cluster.sh\r\n#SBATCH -t 7\r\n#SBATCH --comment='my own' # comment\r\n"
    )
    results_ = cluster.folder / 'it\'s $; "my" #1 *, 100% %j'
    arguments = f"--results {shlex.quote(str(results_))}"
    array, analysis = cluster.submit_sweep(path, MPIRUN, arguments, DMAML_CLUSTER="mine.sh")
    assert cluster.facts(f"{array}_0")["TimeLimit"] == cluster.facts(analysis)["TimeLimit"] == "00:07:00"
    assert "Comment=my own" in cluster.command(f"scontrol show job {array}_0")
    wait_for(lambda: cluster.facts(analysis)["JobState"] in ("COMPLETED", "FAILED"), "the analysis")
    log = states.log_file(results_ / "odd", f"{array}_0").read_text()
    assert re.search(r"Done in(?s:.*)exit code 0", log)
    assert "not found" not in log
    assert cluster.facts(analysis)["JobState"] == "COMPLETED"
    assert (results_ / "odd" / "report.html").exists()
    assert not list(cluster.folder.rglob("EXECUTED"))


def kill_ranks(point: str) -> None:
    """Kill the processes that compute a point, at once, as a node that falls over does."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"python" in words[0] and b"hpc_dmaml.sweep" in words and point.encode() in words:
                os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.mark.parametrize("path", sorted((ROOT / "slurm/sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_slurm_accepts_the_scripts_of_every_shipped_sweep(cluster, path):
    one = sweep.load(path, cluster.folder / "results")
    options = submit.read_options(cluster.folder / "slurm" / "cluster.sh")
    texts = [submit.analysis_script(one, options, None, ["1"])]
    texts += [submit.array_script(one, points, options, max_running=8) for points in submit.arrays_of(one.points, 4)]
    for text in texts:
        (cluster.folder / "tried.sbatch").write_text(text)
        cluster.command("sbatch --test-only tried.sbatch")
