"""The picture of a job: one line for each adaptation step, in the format that the suffix says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from curves import plot

from tests.helpers import run, small_config

SCRIPT = Path(__file__).parents[2] / "analysis" / "curves.py"


def curves(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return run(small_config(runs=6), tmp_path_factory.mktemp("job"))


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_says_the_format(job, tmp_path, suffix, start):
    picture = tmp_path / f"picture.{suffix}"
    assert curves(job.path, "--output", picture).returncode == 0
    assert picture.read_bytes().startswith(start)


def test_there_is_a_line_for_every_step_with_the_means_over_the_tasks(job):
    figure = plot(job)
    (axis,) = figure.axes  # regression: no accuracy
    assert axis.get_xlabel() == "run"
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["before adaptation", "after step 1", "after step 2"]
    for step, line in enumerate(axis.lines):
        np.testing.assert_array_equal(line.get_xdata(), [2, 4, 6])
        np.testing.assert_allclose(line.get_ydata(), job["validation/loss"][:, step].mean(1))


def test_bad_input_is_one_message(job, tmp_path):
    for arguments in (["no.h5"], [job.path, "--output", tmp_path / "x.doc"], [job.path, "--smooth", "0"]):
        done = curves(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("curves: ")
        assert "Traceback" not in done.stderr


def test_the_picture_needs_neither_torch_nor_mpi():
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import curves; print({{'torch', 'mpi4py'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
