"""The text of a job is made by pure functions, compared whole with golden files beside this one.

HPC_DMAML_WRITE_GOLDEN=1 pytest tests/test_submit.py    writes them anew, to be read before they are committed
"""

from __future__ import annotations

import os
from pathlib import Path

import options
import pytest
import submit

from hpc_dmaml import sweep
from hpc_dmaml.sweep import states
from tests.test_sweep import fake

GOLDEN = Path(__file__).with_name("golden")
SCALED = """
name: scaled
description: Workers of several sizes
set: {runs: 3}
grid:
  workers: [1, 2, 4]
  optimizer.lr: [0.1, 0.01]
seeds: [0, 1]
figures: ["6.10"]
"""
CLUSTER = """
#SBATCH --partition=long     # the big one
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
##SBATCH --qos=none
"""


@pytest.fixture
def scaled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scaled.yaml").write_text(SCALED)
    Path("cluster.sh").write_text(CLUSTER)
    return sweep.load("scaled.yaml")


def points(scaled, ranks):
    return [point for point in scaled.points if point.ranks == ranks]


def equals_golden(name: str, text: str) -> bool:
    path = GOLDEN / name
    if os.environ.get("HPC_DMAML_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return text == path.read_text(encoding="utf-8")


def test_the_script_of_an_array(scaled):
    options = submit.read_options(None)
    assert equals_golden("array.sbatch", submit.array_script(scaled, points(scaled, 4), options))


def test_the_script_of_an_array_on_a_cluster_of_its_own_with_a_limit(scaled):
    cluster = Path("cluster.sh")
    options = submit.read_options(cluster)
    text = submit.array_script(scaled, points(scaled, 1)[:1], options, cluster, max_running=2, after="17")
    assert equals_golden("array_cluster.sbatch", text)


def test_the_script_of_the_analysis(scaled):
    text = submit.analysis_script(scaled, submit.read_options(Path("cluster.sh")), None, ["17", "18"])
    assert equals_golden("analysis.sbatch", text)


def test_the_clusters_options_take_the_place_of_the_scripts():
    ours = options.options_in("#SBATCH --time=1\n#SBATCH --requeue   # yes\n##SBATCH --qos=x\n#SBATCH --ntasks 3\n")
    assert ours == {"time": "1", "requeue": "", "ntasks": "3"}


def test_a_short_option_in_the_clusters_file_is_refused(scaled):
    Path("cluster.sh").write_text("#SBATCH -p long\n")
    with pytest.raises(ValueError, match=r"--cluster: cluster\.sh: #SBATCH -p long: write it as --option=value"):
        submit.read_options(Path("cluster.sh"))


def test_indices_are_written_as_ranges():
    assert submit.ranges([0]) == "0"
    assert submit.ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3,7,9-10"


def test_a_dry_run_shows_every_script_and_writes_nothing(scaled, capsys):
    assert submit.main(["scaled.yaml", "--dry-run", "--max-running", "2"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "--ntasks" in line] == [f"#SBATCH --ntasks={n}" for n in (4, 2, 1, 1)]
    assert "--array=0-3%2" in out
    assert {path.name for path in Path().iterdir()} == {"scaled.yaml", "cluster.sh"}


class Slurm:
    """Stands in for the commands of SLURM."""

    def __init__(self, monkeypatch):
        self.scripts: list[str] = []
        self.refuses = False
        monkeypatch.setattr(submit.subprocess, "run", self.run)
        monkeypatch.setattr(states, "_queue", dict)

    def run(self, command, **_):
        if command[0] != "sbatch":
            raise FileNotFoundError(command[0])
        self.scripts.append(Path(command[-1]).read_text())
        job = 100 + len(self.scripts)
        return submit.subprocess.CompletedProcess(command, int(self.refuses), f"{job};cluster\n", "no such partition")


@pytest.fixture
def slurm(monkeypatch):
    return Slurm(monkeypatch)


def dependencies(scripts):
    return [options.options_in(script).get("dependency") for script in scripts]


def test_points_of_different_ranks_are_different_arrays_and_the_analysis_waits_for_all(scaled, slurm, capsys):
    assert submit.main(["scaled.yaml"]) == 0
    assert dependencies(slurm.scripts) == [None, None, None, "afterany:101:102:103"]
    assert "job 101: 4 points on 4 ranks" in capsys.readouterr().out
    assert states.submitted(scaled.folder)[points(scaled, 2)[0].name] == "102_4"
    assert sorted(path.read_text() for path in (scaled.folder / "jobs").glob("*.sbatch")) == sorted(slurm.scripts)
    assert sweep.read_folder(scaled.folder).points == scaled.points


def test_with_a_limit_for_the_whole_sweep_one_array_waits_for_the_other(scaled, slurm):
    assert submit.main(["scaled.yaml", "--max-running", "3"]) == 0
    assert dependencies(slurm.scripts) == [None, "afterany:101", "afterany:102", "afterany:101:102:103"]


def complete(point):
    fake(point.output, "complete", config=f"runs: 3\nseed: {point.seed}\nworkers: {point.fields['workers']}\n"
         f"optimizer: {{init_args: {{lr: {point.fields['optimizer.lr']}}}}}\n")  # fmt: skip


def test_a_second_submission_runs_only_what_is_left(scaled, slurm, capsys):
    for point in scaled.points[:9]:
        complete(point)
    assert submit.main(["scaled.yaml"]) == 2
    assert "9 of 12 points are complete, running or waiting; --only-missing submits the rest" in capsys.readouterr().err
    assert slurm.scripts == []
    assert submit.main(["scaled.yaml", "--only-missing"]) == 0
    assert [options.options_in(script).get("array") for script in slurm.scripts] == ["9-11", None]
    for point in scaled.points[9:]:
        complete(point)
    assert submit.main(["scaled.yaml", "--only-missing"]) == 2
    assert "nothing is missing" in capsys.readouterr().err


def test_what_sbatch_refuses_is_said_and_not_noted(scaled, slurm, capsys):
    slurm.refuses = True
    assert submit.main(["scaled.yaml"]) == 2
    assert "no such partition" in capsys.readouterr().err
    assert states.submitted(scaled.folder) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nothing.yaml", "there is no sweep nothing.yaml"),
        ("scaled.yaml --cluster nothing.sh", "nothing.sh"),
        ("scaled.yaml --max-running 0", "--max-running must be 1 or more, not 0"),
    ],
)
def test_bad_input_is_one_clear_message(scaled, capsys, arguments, message):
    assert submit.main(arguments.split()) == 2
    assert message in capsys.readouterr().err


def test_the_status_counts_points_and_shows_the_log_of_a_failed_one(scaled, slurm, capsys, monkeypatch):
    assert submit.main(["scaled.yaml"]) == 0
    complete(scaled.points[0])
    fake(scaled.points[8].output, "failed", runs=2)
    (scaled.folder / "jobs" / "101_8.out").write_text("first\nworkers fell over\n")
    queue = {f"{job}_{index}": "PENDING" for job in (101, 102, 103) for index in range(12)}
    queue = {job: state for job, state in queue.items() if job not in ("101_8", "103_0")} | {"102_5": "RUNNING"}
    monkeypatch.setattr(states, "_queue", lambda: queue)
    capsys.readouterr()
    assert submit.main(["scaled.yaml", "--status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scaled: 12 points: 1 complete, 1 running, 9 waiting, 1 failed; 0 restarts"
    assert lines[2].startswith("failed: workers=4,optimizer.lr=0.1,seed=0, after 2 runs")
    assert lines[3:] == [
        "  job 101_8",
        f"  log {scaled.folder}/jobs/101_8.out",
        "  | first",
        "  | workers fell over",
    ]
