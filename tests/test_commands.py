"""The command hpc_dmaml: one name for all commands, and none is imported before it is asked for."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_dmaml import analysis, commands
from hpc_dmaml.results import read
from tests.analysis.synthetic import write_job
from tests.helpers import small_config
from tests.processes import ROOT

START = "import sys; sys.argv[0], sys.path[0] = 'hpc_dmaml', '/usr/bin'; from hpc_dmaml.commands import main; code = main(); "
SMALL = [
    "run",
    "--task",
    "Sinusoid",
    "--model",
    "MLP",
    "--runs",
    "2",
    "--tasks",
    "2",
    "--validation.tasks",
    "2",
    "--output",
    "job.h5",
]


def hpc_dmaml(folder: Path, *arguments: str, then: str = "sys.exit(code)") -> subprocess.CompletedProcess[str]:
    """The command as the console script starts it, in a folder."""
    command = [sys.executable, "-c", START + then, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_help_lists_every_command_and_imports_none(tmp_path):
    done = hpc_dmaml(tmp_path, "--help", then="print({'numpy', 'torch', 'matplotlib', 'mpi4py'} & set(sys.modules))")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(commands.LINES)
    assert lines[-1] == "set()"


def test_every_command_of_the_folder_analysis_is_one_of_the_package_and_short():
    files = {path.stem: path.read_text().splitlines() for path in (ROOT / "analysis").glob("*.py")}
    assert set(files) == {*commands.ANALYSIS, "scaling_model"} - {"export"}
    assert max(map(len, files.values())) <= 60


def test_training_evaluating_and_plotting_go_by_their_names(tmp_path):
    for arguments in (SMALL, ["evaluate", "job.h5", "--tasks", "3"], ["curves", "job.h5", "--output", "c.svg"]):
        done = hpc_dmaml(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
    assert read(tmp_path / "job.h5").status == "complete"
    assert (tmp_path / "c.svg").exists()


def test_own_parts_are_found_in_the_folder_that_one_starts_from(tmp_path):
    (tmp_path / "own.py").write_text("from hpc_dmaml.tasks import Sinusoid\n\nclass Wave(Sinusoid):\n    pass\n")
    own = ["own.Wave" if word == "Sinusoid" else word for word in SMALL]
    for arguments in (own, ["evaluate", "job.h5", "--tasks", "3", "--trust"]):
        done = hpc_dmaml(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr


def test_a_sweep_is_listed_and_its_submission_needs_a_clone(tmp_path):
    demo = str(ROOT / "slurm" / "sweeps" / "demo.yaml")
    assert hpc_dmaml(tmp_path, "sweep", demo).stdout.startswith("index")
    done = hpc_dmaml(tmp_path, "submit", demo, "--dry-run")
    assert done.returncode == 2
    assert done.stderr.startswith("submit: there is no slurm/submit.py here")
    done = hpc_dmaml(ROOT, "submit", demo, "--dry-run", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --array=" in done.stdout


@pytest.mark.parametrize(
    ("word", "hint"), [("curve", "did you mean curves?"), ("xyz", "--help lists them"), ("", "usage: ")]
)
def test_an_unknown_command_is_one_message(tmp_path, word, hint):
    done = hpc_dmaml(tmp_path, *[word] * bool(word))
    assert (done.returncode, done.stdout) == (2, "")
    assert hint in done.stderr


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path, monkeypatch, capsys):
    write_job(tmp_path / "a.h5", small_config(workers=1))
    for name in ["tensorboard", *(name for name in sys.modules if name.startswith("tensorboard."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "argv", ["hpc_dmaml", "export", "tensorboard", str(tmp_path)])
    assert commands.main() == 2
    assert "export: needs tensorboard: pip install 'hpc_dmaml[tensorboard]'" in capsys.readouterr().err


def test_the_analysis_needs_neither_torch_nor_mpi():
    names = [f"hpc_dmaml.analysis.{each.name}" for each in pkgutil.iter_modules(analysis.__path__)]
    assert {"hpc_dmaml.analysis.report", "hpc_dmaml.analysis.export"} <= set(names)
    code = f"import sys, {', '.join(names)}; print({{'torch', 'mpi4py'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
