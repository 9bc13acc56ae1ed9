"""README and the pages of docs/: what they print runs as it is printed, in a fresh copy, page by page.

Long commands are shortened as `SHORTENED` says, and what cannot run here is left out for the reasons in `LEFT_OUT`; nothing else.
Blocks marked bash and python are run, those marked sh are files. The pages' commands are marked long.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from options import options_in

from hpc_dmaml.config import presets
from tests.processes import MPIRUN, ROOT, needs_mpirun

README, CONTRIBUTING, DOCS = ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs"
PAGES = [CONTRIBUTING, *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
KNOWN = {"", "bash", "python", "sh", "text", "yaml"}

FEW = " --runs 2 --validation.every 1 --validation.tasks 2"
SHORTENED = [
    (r"^python3 -m venv .* && (mpirun .*)$", r"\1"),  # .ci/run makes the environment
    (r"^mpirun -n (4|16) ", "mpirun -n 2 "),
    (r"^(mpirun .*python -m hpc_dmaml --resume results.*)$", r"\1 --runs 3"),
    (r"^(mpirun .*python -m hpc_dmaml(?! --resume results)(?=$| --).*)$", rf"\1{FEW}"),
    (r"^(mpirun .*--config navigation.*)$", r"\1 --tasks 2 --task.trajectories 2 --task.horizon 3"),
    (r"^((?:hpc_dmaml |python -m hpc_dmaml\.)evaluate .*)$", r"\1 --tasks 3"),
    (r"^(python benchmarks/meta_gradient.py(?!.*end-to-end).*)$", r"\1 --cases sinusoid"),
    (r"^(python benchmarks/meta_gradient.py.*)$", r"\1 --seconds 0.1"),
    (r"^(.*python benchmarks/scaling.py.*)$", r"\1 --tasks 2 --repeats 1"),
    (
        r"^(python benchmarks/reinforcement_learning.py)$",
        r"\1 --tasks 2 --task.trajectories 2 --task.horizon 3 --seconds 0.1",
    ),
]
"""Patterns of commands, and what they become."""
SHORTENED_FILES = {"slurm/sweeps/demo.yaml": ("runs: 1000, validation.every: 25", "runs: 4, validation.every: 2")}
LEFT_OUT = {
    r"pip install |^module ": "changes the environment; .ci/run does it in a fresh one",
    r"^slurm/sbatch |^hpc_dmaml submit (?!.*--dry-run)": "needs SLURM; tests/slurm does it on a cluster of virtual nodes",
    r"^apptainer ": "needs Apptainer",
    r" my/": "needs images of the user's; tests/tasks does it",
    r"meta_world_ml1|results/reach": "needs Meta-World in an environment of its own; tests/tasks/test_meta_world.py does it",
    r"--root data/omniglot|results/(omniglot|cifar_fs|fc100)/": "needs Omniglot or CIFAR-100, and hours",
    r"taskset |results/slow": "needs two idle cores; tests/analysis names slow ranks in made-up files",
    r"((heterogeneous|workers_or_tasks|own_optimizers)_sinusoid|rl_workers|algorithms_(omniglot_20w1s|cifar_fs)|initial_weights|task_reduction|beta_omniglot_10?|sweeps/inner_steps)(.yaml --local| |/|$)": (
        "takes up to half an hour; tests/analysis compares made-up files"
    ),
    r"sweeps/scaling(_times)?.yaml --local|results/scaling": "needs the thesis's sweep, which takes hours; tests/analysis draws it from made-up files",
    r"^(HPC_DMAML_\w+=\d+ )?pytest |^ruff |^sphinx-build ": "is what .ci/run itself does",
}
"""Patterns of commands that are not run, and why."""


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """(language, text) of a page's blocks in these languages, in order."""
    return [each for each in FENCE.findall(page.read_text("utf-8")) if each[0] in languages]


def commands(text: str) -> list[str]:
    """The commands of a bash block, without comments."""
    lines = (re.sub(r"(^|\s+)#\s.*$", "", line) for line in text.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def is_left_out(command: str) -> bool:
    kept = re.sub(*SHORTENED[0], command)
    return any(re.search(pattern, kept) for pattern in LEFT_OUT)


def shortened(command: str) -> str:
    for pattern, replacement in SHORTENED:
        command = re.sub(pattern, replacement, command)
    return command


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A fresh copy of the repository, with its commands in bin/."""
    unwanted = shutil.ignore_patterns(
        ".*", "results", "data", "build", "_build", "*.egg-info", "__pycache__", "cluster.sh"
    )
    copied = Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=unwanted))
    for picture in (copied / "docs" / "pictures").glob("*.svg"):
        picture.unlink()
    for name, change in SHORTENED_FILES.items():
        text = (copied / name).read_text("utf-8")
        assert change[0] in text, f"{name} has changed: say anew how it is shortened"
        (copied / name).write_text(text.replace(*change), "utf-8")
    (copied / "bin").mkdir()
    for name, target in {
        "hpc_dmaml": f"{sys.executable} -m hpc_dmaml.commands",
        "mpirun": MPIRUN,
        "python": sys.executable,
    }.items():
        (copied / "bin" / name).write_text(f'#!/bin/sh\nexec {target} "$@"\n')
        (copied / "bin" / name).chmod(0o755)
    return copied


def check(page: Path, copy: Path) -> None:
    """Run a page's commands, one after another, as they are printed or as it is declared above."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PATH": f"{copy / 'bin'}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    for language, text in blocks(page, "bash", "python"):
        runs = [text] if language == "python" else [shortened(each) for each in commands(text) if not is_left_out(each)]
        for run in runs:
            words = [sys.executable, "-c", run] if language == "python" else ["bash", "-c", run]
            done = subprocess.run(
                words, cwd=copy, env=environment, capture_output=True, text=True, timeout=600, check=False
            )
            assert done.returncode == 0, f"{page.relative_to(ROOT)}: {run}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            output = re.search(r"--output (\S+)", run) if language == "bash" else None
            assert output is None or (copy / output[1]).exists(), f"{page.relative_to(ROOT)}: {run}: no {output[1]}"


@needs_mpirun
def test_every_command_of_the_readme_runs(copy):
    check(README, copy)


@needs_mpirun
@pytest.mark.long
@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "bash", "python")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_command_of_a_page_runs(page, copy):
    check(page, copy)


def test_blocks_say_what_they_are():
    for page in (README, *PAGES):
        languages = {language for language, _ in FENCE.findall(page.read_text("utf-8")) if not language.startswith("{")}
        assert languages <= KNOWN, page


def test_each_command_that_is_left_out_is_still_there():
    shown = [command for page in (README, *PAGES) for _, text in blocks(page, "bash") for command in commands(text)]
    for pattern in LEFT_OUT:
        assert any(re.search(pattern, command) for command in shown), f"no command is like {pattern!r} any more"


def test_every_picture_is_drawn_by_a_command_of_a_page():
    made = {
        name
        for page in PAGES
        for _, text in blocks(page, "bash")
        for name in re.findall(r"--output docs/pictures/(\S+)", text)
    }
    shown = {
        name
        for page in (README, *PAGES)
        for name in re.findall(r"!\[.*?\]\(\S*?pictures/(\S+)\)", page.read_text("utf-8"))
    }
    assert shown == made
    assert {path.name for path in (DOCS / "pictures").glob("*.svg")} == made | {"data_way.svg"}


def test_the_readme_fits_and_its_links_lead_somewhere():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 140
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_preset_is_explained():
    told = re.findall(r"`(\w+)`", (DOCS / "configure.md").read_text("utf-8"))
    assert set(presets()) <= set(told)


def test_the_cluster_files_are_read_by_slurm_and_by_bash():
    files = [text for _, text in blocks(DOCS / "clusters.md", "sh")]
    assert len(files) == 3
    for text in files:
        assert "account" in options_in(text)
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_container_copies_what_there_is():
    recipe = (ROOT / "slurm" / "apptainer.def").read_text("utf-8")
    copied = re.findall(r"^    (\S+) /opt/", recipe, re.MULTILINE)
    assert copied
    assert all((ROOT / name).exists() for name in copied)
