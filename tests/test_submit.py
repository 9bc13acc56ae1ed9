"""The text of a job is made by pure functions, compared whole with golden files beside this one.

HPC_DMAML_WRITE_GOLDEN=1 pytest tests/test_submit.py    writes them anew, to be read before they are committed
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import options
import pytest
import submit
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hpc_dmaml import sweep
from hpc_dmaml.sweep import states
from tests.processes import ROOT
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


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("#SBATCH --time=1\n#SBATCH --requeue   # yes\n##SBATCH --qos=x\n", {"time": "1", "requeue": ""}),
        ("#SBATCH --time 04:00:00\n", {"time": "04:00:00"}),
        ("#SBATCH -p long\n#SBATCH -n4 -H -A me", {"partition": "long", "ntasks": "4", "hold": "", "account": "me"}),
        ("#SBATCH --partition=long\r\n#SBATCH -q high\r\n", {"partition": "long", "qos": "high"}),
        ("#SBATCH --comment='two words # and more' # less", {"comment": "two words # and more"}),
        ('#SBATCH --comment="it\'s"\\ so', {"comment": "it's so"}),
        ("#SBATCH\t--exclusive\t--mem=1G#all\n", {"exclusive": "", "mem": "1G"}),
        ("module load x\n#SBATCH --time=1\n", {"time": "1"}),
        (" #SBATCH --time=1\n# #SBATCH --time=2\n#SBATCH\n", {}),
    ],
)
def test_options_are_read_as_sbatch_reads_them(lines, expected):
    assert options.options_in(lines) == expected


@pytest.mark.parametrize(
    "line",
    ["long", "--time 1 2", "-", "-y 3", "--=3", "--comment='open", "-HO", "--requeue x y", "--time", "-p", "--mem="],
)
def test_a_line_that_has_no_options_is_refused_by_file_and_line(scaled, capsys, line):
    Path("cluster.sh").write_text(f"# mine\n#SBATCH {line}\n")
    assert submit.main(["scaled.yaml", "--dry-run", "--cluster", "cluster.sh"]) == 2
    assert f"submit: cluster.sh: line 2: #SBATCH {line}: " in capsys.readouterr().err


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20)


@given(values=st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True), TEXT, max_size=4))
def test_options_come_back_from_the_lines_that_were_written_for_them(values):
    try:
        text = options.header(values)
    except ValueError:
        assert any(ord(sign) < 32 or ord(sign) == 127 for value in values.values() for sign in value)
    else:
        assert options.options_in(text) == values


def bash(text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script as SLURM would, in the folder that it is submitted from."""
    environment = {**os.environ, "SLURM_SUBMIT_DIR": str(Path.cwd()), "SLURM_ARRAY_TASK_ID": "0", **variables}
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment)


@given(
    description=TEXT, folder=TEXT.filter(lambda text: "/" not in text and "\0" not in text and text not in (".", ".."))
)
@example("Two rates\ntouch EXECUTED", 'it\'s $HOME; touch "EXECUTED" #100% *')
@example("$(touch EXECUTED)", "-x")
@example("a\x85b\u2028touch EXECUTED", "a\nb")
@example("tabs\tand\x0b\x0c\x1b", "a\x85b\u2028c")
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_a_sweep_or_a_path_says_becomes_a_command_or_an_option(scaled, description, folder):
    Path("slurm").mkdir(exist_ok=True)
    Path("slurm/launch.sh").write_text('launch() { printf "%s\\n" "$@" | base64 -w0; }\n')
    read = replace(scaled, description=description, folder=Path(folder) / "scaled")
    try:
        script = submit.array_script(read, points(read, 4), {})
        analysis = submit.analysis_script(read, {}, None, ["1"])
    except ValueError as error:
        assert "cannot be" in str(error) or "backslash" in str(error)
        assert re.search(r"[\x00-\x1f\x7f\\]", folder)
        return
    for text, lines in ((script, 6), (analysis, 7)):
        head = text.split("\n\n")[0].split("\n")
        assert len(head) == lines
        assert all(line.startswith("#") for line in head)
    assert options.options_in(script)["output"] == f"{folder.replace('%', '%%')}/scaled/jobs/%A_%a.out"
    said = base64.b64decode(bash(script).stdout).decode().split("\n")[:-1]
    given = f"{'./' * folder.startswith('-')}{folder}/scaled"
    assert said == ["python", "-m", "hpc_dmaml.sweep", given, "--point", points(read, 4)[0].name]
    lines = [line for line in analysis.split("\n") if line.startswith("try python")]
    assert [shlex.split(line)[3] for line in lines] == [given, "6.10"]
    assert {path.name for path in Path().iterdir()} == {"cluster.sh", "scaled.yaml", "slurm"}


@pytest.mark.parametrize("memory", ["mem", "mem-per-cpu", "mem-per-gpu"])
def test_a_clusters_way_to_give_the_memory_replaces_the_scripts(tmp_path, memory):
    """sbatch refuses two of them."""
    (tmp_path / "cluster.sh").write_text(f"#SBATCH --{memory}=4G\n")
    found = submit.read_options(tmp_path / "cluster.sh")
    assert {name: value for name, value in found.items() if name.startswith("mem")} == {memory: "4G"}
    assert found["time"] == "01:00:00"


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """`slurm/sbatch` with a fake sbatch on the path, which says its words: call it with a cluster's file."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text('#!/bin/sh\nprintf "<%s>" "$@" "$DMAML_CLUSTER"\n')
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))

    def call(cluster: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DMAML_CLUSTER": cluster}
        command = ["bash", str(ROOT / "slurm" / "sbatch"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return call


def test_own_parts_are_found_in_the_folder_that_one_submits_from(scaled):
    Path("own.py").write_text("from hpc_dmaml.tasks import Sinusoid\n\nclass Wave(Sinusoid):\n    pass\n")
    Path("scaled.yaml").write_text(SCALED.replace("{runs: 3}", "{runs: 3, task: own.Wave, model: MLP}"))
    command = [sys.executable, str(ROOT / "slurm" / "submit.py"), "scaled.yaml", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sbatch_has_the_options_that_a_submitted_sweep_has(scaled, sbatch, monkeypatch, capsys):
    Path("cluster.sh").write_bytes(b"#SBATCH -p gpu\r\n#SBATCH --time 04:00:00\r\n#SBATCH --comment='a b'\r\nx=1\r\n")
    here = Path("cluster.sh").resolve()
    done = sbatch("~/cluster.sh", "a script", "--config=omniglot")
    options_ = "<--partition=gpu><--time=04:00:00><--comment=a b>"
    assert done.stdout == f"{options_}<a script><--config=omniglot><{here}>"
    monkeypatch.setenv("DMAML_CLUSTER", "~/cluster.sh")
    assert submit.main(["scaled.yaml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count("#SBATCH --partition=gpu\n") == out.count("#SBATCH --time=04:00:00\n") == 4
    assert out.count("#SBATCH --comment='a b'\n") == 3
    assert out.count(f"DMAML_CLUSTER={here}\n") == 4


def test_a_clusters_file_that_is_named_must_be_there(scaled, sbatch, monkeypatch, capsys):
    message = "the cluster's file, nowhere.sh, does not exist or is not a file"
    done = sbatch("nowhere.sh", "script")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"slurm/sbatch: {message}\n")
    assert submit.main(["scaled.yaml", "--dry-run", "--cluster", "nowhere.sh"]) == 2
    monkeypatch.setenv("DMAML_CLUSTER", "nowhere.sh")
    assert submit.main(["scaled.yaml", "--dry-run"]) == 2
    assert capsys.readouterr().err == f"submit: {message}\n" * 2
    done = bash(f"source {ROOT}/slurm/launch.sh; echo went on")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no file nowhere.sh" in done.stderr


def test_a_clusters_file_with_the_line_ends_of_windows_sets_the_launcher(scaled):
    Path("windows.sh").write_bytes(b'LAUNCHER="srun --mpi=pmix"\r\nif true; then\r\n  PLACE=here\r\nfi\r\n')
    done = bash(f'source {ROOT}/slurm/launch.sh; echo "<$LAUNCHER><$PLACE>"', DMAML_CLUSTER="windows.sh")
    assert (done.stdout, done.stderr) == ("<srun --mpi=pmix><here>\n", "")


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
        self.longest = 1001
        monkeypatch.setattr(submit, "ask", self.ask)
        monkeypatch.setattr(states, "_queue", dict)

    def ask(self, command):
        if command == ["scontrol", "show", "config"]:
            return subprocess.CompletedProcess(command, 0, f"MaxArraySize            = {self.longest}\n", "")
        if command[0] != "sbatch":
            raise FileNotFoundError(command[0])
        self.scripts.append(Path(command[-1]).read_text())
        job = 100 + len(self.scripts)
        return subprocess.CompletedProcess(command, int(self.refuses), f"{job};cluster\n", "no such partition")


@pytest.fixture
def slurm(monkeypatch):
    return Slurm(monkeypatch)


def dependencies(scripts):
    return [options.options_in(script).get("dependency") for script in scripts]


def test_points_of_different_ranks_are_different_arrays_and_the_analysis_waits_for_all(scaled, slurm, capsys):
    assert submit.main(["scaled.yaml"]) == 0
    assert dependencies(slurm.scripts) == [None, None, None, "afterany:101:102:103"]
    assert "job 101: 4 points on 4 ranks" in capsys.readouterr().out
    assert states.submitted(scaled.folder)[points(scaled, 2)[1].name] == "102_1"
    assert sorted(path.read_text() for path in (scaled.folder / "jobs").glob("*.sbatch")) == sorted(slurm.scripts)
    assert sweep.read_folder(scaled.folder).points == scaled.points
    noted = states.submitted(scaled.folder)
    with (scaled.folder / "jobs" / "submitted.txt").open("a") as file:
        file.write("\n104_")  # as a full disk leaves it
    assert states.submitted(scaled.folder) == noted


def test_with_a_limit_for_the_whole_sweep_one_array_waits_for_the_other(scaled, slurm):
    assert submit.main(["scaled.yaml", "--max-running", "3"]) == 0
    assert dependencies(slurm.scripts) == [None, "afterany:101", "afterany:102", "afterany:101:102:103"]


@pytest.mark.parametrize("only_missing", [False, True])
def test_no_task_has_a_number_that_the_cluster_does_not_take(scaled, slurm, only_missing):
    slurm.longest = 3
    taken = scaled.points[9:10] if only_missing else ()
    for point in taken:
        complete(point)
    assert submit.main(["scaled.yaml", "--only-missing", "--max-running", "2"]) == 0
    arrays = slurm.scripts[:-1]
    lengths = [3] if only_missing else [3, 1]
    assert [options.options_in(text)["array"] for text in arrays] == [
        f"0-{length - 1}%2" for length in (*lengths, 3, 1, 3, 1)
    ]
    assert dependencies(slurm.scripts)[:3] == [None, "afterany:101", "afterany:102"]
    assert dependencies(slurm.scripts)[-1] == "afterany:" + ":".join(str(101 + place) for place in range(len(arrays)))
    named = {f"{101 + place}_{task}": name for place, text in enumerate(arrays)
             for task, name in re.findall(r"^  \[(\d+)\]='(.*)'$", text, re.MULTILINE)}  # fmt: skip
    assert {name: job for job, name in named.items()} == states.submitted(scaled.folder)
    assert sorted(named.values()) == sorted(point.name for point in scaled.points if point not in taken)


def test_arrays_are_as_long_as_slurm_allows_by_default_where_it_cannot_be_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "x.yaml").write_text(f"seeds: {list(range(1201))}\nranks: 1\n")
    assert submit.main([str(tmp_path / "x.yaml"), "--dry-run"]) == 0
    assert re.findall("--array=(.*)", capsys.readouterr().out) == ["0-1000", "0-199"]


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
    assert [options.options_in(script).get("array") for script in slurm.scripts] == ["0-2", None]
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
        ("scaled.yaml --cluster nothing.sh", "the cluster's file, nothing.sh, does not exist"),
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
    (scaled.folder / "jobs" / "101_0.out").write_text("first\nworkers fell over\n")
    queue = {f"{job}_{task}": "PENDING" for job in (101, 102, 103) for task in range(4)}
    queue = {job: state for job, state in queue.items() if job not in ("101_0", "103_0")} | {"102_1": "RUNNING"}
    monkeypatch.setattr(states, "_queue", lambda: queue)
    capsys.readouterr()
    assert submit.main(["scaled.yaml", "--status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scaled: 12 points: 1 complete, 1 running, 9 waiting, 1 failed; 0 restarts"
    assert lines[2].startswith("failed: workers=4,optimizer.lr=0.1,seed=0, after 2 runs")
    assert lines[3:] == [
        "  job 101_0",
        f"  log {scaled.folder}/jobs/101_0.out",
        "  | first",
        "  | workers fell over",
    ]


def test_slurm_is_asked_about_the_clusters_that_jobs_go_to(scaled, slurm, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_CLUSTERS", "")
    monkeypatch.delenv("SLURM_CLUSTERS")
    Path("c.sh").write_text("#SBATCH --clusters=gpu\n")
    assert submit.main(["scaled.yaml", "--cluster", "c.sh", "--status"]) == 0
    assert os.environ["SLURM_CLUSTERS"] == "gpu"
