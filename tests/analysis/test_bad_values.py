"""One logged value that is not finite or huge leaves a gap where it is: nothing else in numbers and pictures changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pandas")
import pandas as pd

from hpc_dmaml import results
from hpc_dmaml.analysis import comparison, reader, report, style, tables, timing, validation, workers
from hpc_dmaml.analysis.settings import Options, Settings
from hpc_dmaml.optimizers import SGD
from tests.analysis.synthetic import write_job
from tests.analysis.test_report import Page
from tests.helpers import small_config


@pytest.fixture(autouse=True)
def logs_are_read_again(monkeypatch):
    """Files are spoiled here after they were first read: no log is kept, as where there are too many."""
    monkeypatch.setattr(reader, "KEPT", 0)


BAD = [np.nan, np.inf, -np.inf, 1e20, -1e20]


def jobs(folder, rates=(0.1,), runs=60, **changes):
    """Settings of a job for each rate."""
    for rate in rates:
        write_job(folder / f"{rate}.h5", small_config(runs=runs, workers=3, optimizer=SGD(lr=rate), **changes), 3)
    return Settings(reader.read([folder]).jobs, ["optimizer.lr"] if len(rates) > 1 else [])


def spoil(path, name, place, bad):
    found = results.read(path)
    found[name][place] = bad
    results.write(path, found.arrays, found.attributes)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("degree", [None, 4])
def test_a_curve_has_one_gap_and_its_fit_does_not_bend(tmp_path, bad, degree):
    settings = jobs(tmp_path)
    before = validation.curves(settings, "loss", Options(degree=degree))
    spoil(tmp_path / "0.1.h5", "validation/loss", (7, -1, 2), bad)
    after = validation.curves(settings, "loss", Options(degree=degree))
    assert np.flatnonzero(after["mean"].isna()).tolist() == [7]
    assert after["n"].tolist() == [1] * 7 + [0] + [1] * 22
    pd.testing.assert_frame_equal(after.drop(7)[["runs", "mean"]], before.drop(7)[["runs", "mean"]])
    if degree:
        np.testing.assert_allclose(after["fit"].drop(7), before["fit"].drop(7), atol=0.05)
    with style.used():
        picture = validation.over(settings, Options(degree=degree))
    (axis,) = picture.figure.axes
    assert -1 < axis.get_ylim()[0] < axis.get_ylim()[1] < 3
    assert "all: 1 of 30 points are left out: not finite or huge (a million times the median)" in picture.notes
    assert "means that are not finite or huge" in picture.figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("x", ["wall_s", "seen_tasks"])
def test_a_time_that_is_none_moves_no_other_point(tmp_path, bad, x):
    settings = jobs(tmp_path)
    before = validation.curves(settings, "loss", Options(degree=None))
    spoil(tmp_path / "0.1.h5", "runs/wall_s", 15, bad)
    after = validation.curves(settings, "loss", Options(degree=None))
    gaps = [7] if x == "wall_s" else []  # the validation after run 15
    assert np.flatnonzero(after[x].isna()).tolist() == gaps
    pd.testing.assert_series_equal(after[x].drop(gaps), before[x].drop(gaps))
    with style.used():
        (axis,) = validation.over(settings, Options(), x).figure.axes
    assert axis.get_xlim()[1] < 1e4


def test_a_setting_that_is_huge_everywhere_does_not_hide_the_others(tmp_path):
    settings = jobs(tmp_path, (0.01, 0.1, 1.0))
    spoil(tmp_path / "1.0.h5", "validation/loss", ..., 1e20)
    spoil(tmp_path / "1.0.h5", "runs/wall_s", ..., 1e20)
    with style.used():
        for x in ("runs", "wall_s"):
            picture = validation.over(settings, Options(), x)
            (axis,) = picture.figure.axes
            assert any(note.startswith("β 1: 30 of 30 points are left out") for note in picture.notes)
            assert axis.get_ylim()[1] < 3
            assert axis.get_xlim()[1] < 1e4


LEFT_OUT = "1 of 4 seeds left out at step 2: not finite or huge (a million times the median)"


@pytest.mark.parametrize("bad", BAD)
def test_a_seed_that_ends_in_a_gap_has_no_final_value_and_tables_and_pages_say_so(tmp_path, capsys, bad):
    for seed in range(4):
        write_job(tmp_path / f"{seed}.h5", small_config(runs=60, workers=1, seed=seed))
    settings = Settings(reader.read([tmp_path]).jobs, [])
    (*_, before) = comparison.final(settings, "loss", Options())["values"]
    spoil(tmp_path / "1.h5", "validation/loss", (-2, -1, 0), bad)  # of the last 3 of 30
    table = comparison.final(settings, "loss", Options())
    assert table["n"].tolist() == [4, 4, 3]
    (*_, end) = table.itertuples()
    assert end.mean == pytest.approx(np.mean([before[seed] for seed in (0, 2, 3)]))
    assert tables.main(["final", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert f"note: all: {LEFT_OUT}" in shown.err
    assert shown.out.splitlines()[2].startswith("| all | 60 | 3 |")
    assert f"all: {LEFT_OUT}." in Page(report.page(reader.read([tmp_path]), Options())).text


def test_a_bad_value_before_the_last_part_changes_no_final_value(tmp_path):
    settings = jobs(tmp_path)
    before = comparison.final(settings, "loss", Options())
    spoil(tmp_path / "0.1.h5", "validation/loss", (-4, -1, 0), np.inf)  # of 30, of which the last 3 count
    pd.testing.assert_frame_equal(comparison.final(settings, "loss", Options()), before)


def test_a_job_that_diverged_at_its_end_is_compared_with_nothing(tmp_path):
    settings = jobs(tmp_path, (0.01, 0.1, 1.0))
    spoil(tmp_path / "1.0.h5", "validation/loss", (-1, -1), 2e9)
    with style.used():
        picture = comparison.compare(settings, Options())
    assert np.isfinite(picture.numbers["mean"]).tolist() == [True, False]
    assert any(note.startswith("β 1: 1 of 1 seeds left out: not finite or huge") for note in picture.notes)
    assert "Left out: seeds that end in values not finite or huge" in picture.figure.get_supxlabel().replace("\n", " ")
    with pytest.raises(ValueError, match="β 1 has no seed whose final loss is finite"):
        comparison.compare(settings, Options(against="1.0"))


@pytest.mark.parametrize("bad", BAD)
def test_times_are_of_the_runs_whose_time_is_known(tmp_path, bad):
    settings = jobs(tmp_path)
    (job,) = settings.all_jobs
    seconds, shares = timing.run_seconds(job), timing.shares(settings).set_index("part")["seconds"]
    wall = timing.wall_times(settings, 1000)["wall_s"]
    spoil(tmp_path / "0.1.h5", "runs/wall_s", 15, bad)
    for name in ("work_s", "exchange_s", "wait_s", "validation_s"):
        spoil(tmp_path / "0.1.h5", f"ranks/{name}", (20, 1), bad)
    assert timing.run_seconds(job) == pytest.approx(seconds, rel=0.02)
    np.testing.assert_allclose(timing.shares(settings).set_index("part")["seconds"], shares, rtol=0.05, atol=1e-3)
    after = timing.wall_times(settings, 1000)["wall_s"]
    assert np.flatnonzero(after.isna()).tolist() == [15]
    pd.testing.assert_series_equal(after.drop(15), wall.drop(15))


@pytest.mark.parametrize("place", [0, 59])
def test_wall_times_go_on_where_the_first_or_last_is_not_known(tmp_path, place):
    settings = jobs(tmp_path)
    expected = timing.wall_times(settings, 1000)["wall_s"].iloc[-1]
    spoil(tmp_path / "0.1.h5", "runs/wall_s", place, np.nan)
    assert timing.wall_times(settings, 1000)["wall_s"].iloc[-1] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("bad", BAD)
def test_workers_are_drawn_on_the_scale_of_their_numbers(tmp_path, bad):
    settings = jobs(tmp_path, runs=300)
    with style.used():
        before = workers.of_each(settings, Options(), "loss").figure.axes[0]
        spoil(tmp_path / "0.1.h5", "workers/loss", (50, 1), bad)
        after = workers.of_each(settings, Options(), "loss").figure.axes[0]
    np.testing.assert_allclose(after.get_ylim(), before.get_ylim(), rtol=0.1)
    for line, unspoilt in zip(after.lines, before.lines, strict=True):
        np.testing.assert_allclose(line.get_ydata(), unspoilt.get_ydata(), rtol=0.2)  # a mean of one run fewer, in one


@pytest.mark.long
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_value_is_never_the_best(tmp_path, bad):
    for rate, loss in ((0.01, 0.5), (0.1, 0.25), (1.0, bad)):
        for seed in range(3):
            config = small_config(runs=60, workers=3, optimizer=SGD(lr=rate), seed=seed)
            write_job(tmp_path / f"{rate}_{seed}.h5", config, 3)
            spoil(tmp_path / f"{rate}_{seed}.h5", "validation/loss", ..., loss)
    text = report.page(reader.read([tmp_path]), Options())
    (best,) = (row for row in text.split("<tr") if row.startswith(' class="best"'))
    assert "β 0.1<" in best
    assert "1.0_0.h5: 30 of 30 validations are left out" in text or abs(bad) == 1e20  # which all are of one size
    cell = "–" if not np.isfinite(bad) else f"{bad:.3g} ± 0"
    assert Page(text).tables[0][3][-2] == cell


def test_a_picture_of_no_number_is_refused(tmp_path):
    settings = jobs(tmp_path)
    spoil(tmp_path / "0.1.h5", "validation/loss", ..., np.nan)
    spoil(tmp_path / "0.1.h5", "workers/loss", ..., np.inf)
    spoil(tmp_path / "0.1.h5", "runs/wall_s", ..., -np.inf)
    for draw, message in (
        (lambda: validation.over(settings, Options()), "no validation loss is finite"),
        (lambda: workers.of_each(settings, Options(), "loss"), "or none whose loss is finite"),
        (lambda: timing.wall_times(settings, 100), "hold no wall time"),
    ):
        with pytest.raises(ValueError, match=message):
            draw()


def test_values_of_the_configuration_may_be_lists_and_hold_dollars(tmp_path):
    for width in (4, 6):
        config = small_config(runs=30, workers=1)
        config = replace(config, model=replace(config.model, hidden=(width, width)), init_from=f"${width}_x^{{")
        write_job(tmp_path / f"{width}.h5", config)
    settings = Settings(reader.read([tmp_path]).jobs, ["model.hidden", "init_from"])
    with style.used():
        picture = validation.over(settings, Options())
        style.title(picture.figure, "costs $5_{")
        style.save(picture.figure, tmp_path / "x.svg")
    assert picture.numbers.groupby("model.hidden").size().tolist() == [15, 15]
    (axis,) = picture.figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "model.hidden (4, 4), $4_x^{", "model.hidden (6, 6), $6_x^{",
    ]  # fmt: skip
