"""The picture of a job: one line for each adaptation step, in the format that the suffix says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_dmaml.analysis import stats, style
from hpc_dmaml.analysis.curves import plot
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


@pytest.mark.parametrize("steps", [2, 9])
def test_the_legend_hides_no_curve(job, steps):
    shape = (len(job["validation/run"]), steps + 1, 4)
    source = replace(job, arrays={**job.arrays, "validation/loss": np.ones(shape), "validation/metric": np.ones(shape)})
    with style.used():
        figure = plot(source)
        figure.draw_without_rendering()
    (axis,) = figure.axes
    frame = axis.get_legend().get_window_extent()
    assert not frame.overlaps(axis.get_window_extent())
    assert frame.x0 >= 0
    assert frame.x1 <= figure.bbox.x1


@given(
    st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 1e20, -1e20, 0.25, -1.5, 3.0]), max_size=40), st.integers(1, 50)
)
def test_a_moving_average_is_the_mean_of_the_finite_ones_in_its_window_alone(values, window):
    values = np.array(values)
    for end, mean in enumerate(stats.smoothed(values, window, centred=False)):
        inside = values[max(0, end + 1 - window) : end + 1]
        inside = inside[np.isfinite(inside)]
        if np.isfinite(values[end]):
            np.testing.assert_allclose(mean, inside.mean(), rtol=1e-12, atol=1e6 * (np.abs(inside) > 1e9).any())
        else:
            assert np.isnan(mean)


def spoilt(job, bad):
    """The third of six validations has one task whose loss is `bad`, after the last step."""
    loss = job["validation/loss"].repeat(2, axis=0)
    loss[2, -1, 0] = bad
    return replace(job, arrays={**job.arrays, "validation/run": np.arange(6), "validation/loss": loss})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20, -1e20])
@pytest.mark.parametrize("smooth", [1, 3])
def test_one_bad_value_leaves_one_gap_in_one_line(job, bad, smooth):
    plain, figure = (plot(spoilt(job, value), smooth) for value in (0.5, bad))
    (before, after) = (picture.axes[0] for picture in (plain, figure))
    for line, unspoilt in zip(after.lines[:-1], before.lines[:-1], strict=True):
        np.testing.assert_array_equal(line.get_ydata(), unspoilt.get_ydata())
    last = after.lines[-1].get_ydata()
    assert np.flatnonzero(np.isnan(last)).tolist() == [2]
    np.testing.assert_array_equal(last[5], before.lines[-1].get_ydata()[5])  # no window holds it any more
    assert after.get_yscale() == before.get_yscale() == "log"
    assert after.get_ylim()[1] < 1e3
    assert "Gaps: 1 means are not finite or huge" in figure.get_supxlabel()


def test_a_point_between_two_gaps_is_a_dot(job):
    source = spoilt(job, np.nan)
    source["validation/loss"][4, -1, 0] = np.nan
    line = plot(source).axes[0].lines[-1]
    assert line.get_marker() == "."
    assert line.get_markevery() == [3, 5]


def test_bad_input_is_one_message(job, tmp_path):
    for arguments in (["no.h5"], [job.path, "--output", tmp_path / "x.doc"], [job.path, "--smooth", "0"]):
        done = curves(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("curves: ")
        assert "Traceback" not in done.stderr


def test_the_picture_needs_neither_torch_nor_mpi():
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import curves; print({{'torch', 'mpi4py'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
