"""Metrics of any name, unit and direction are drawn, named and compared; old files look as they always did."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

pytest.importorskip("pandas")
import pandas as pd

from hpc_dmaml import results, sweep
from hpc_dmaml.analysis import (
    comparison,
    curves,
    figures,
    merge,
    reader,
    report,
    style,
    tables,
    validation,
    watch,
    words,
)
from hpc_dmaml.analysis.settings import Options, Settings
from hpc_dmaml.losses.metric import ACCURACY, Metric
from hpc_dmaml.optimizers import SGD
from hpc_dmaml.tasks import Glyphs
from tests.analysis.synthetic import as_schema_1, write_job, write_sweep
from tests.helpers import small_config

RETURN, DISTANCE = Metric("return"), Metric("distance", "m", higher_is_better=False)
SUCCESS = Metric("success", "share")


def rates(folder, metric, **changes):
    """Two settings of three seeds; what came out for β 0.1 is better by far."""
    for rate in (0.01, 0.1):
        for seed in range(3):
            path = folder / f"{rate}_{seed}.h5"
            write_job(
                path,
                small_config(runs=30, workers=1, seed=seed, optimizer=SGD(lr=rate), **changes),
                metric=metric,
            )
            found = results.read(path)
            better = 1 if metric.higher_is_better else -1
            found["validation/metric"][:] += (rate - 0.1) * better * (1 if metric.is_share else 100)
            results.write(path, found.arrays, found.attributes)
    return Settings(reader.read([folder]).jobs, ["optimizer.lr"])


@pytest.mark.parametrize(
    ("metric", "name", "unit"),
    [(ACCURACY, "accuracy", "%"), (RETURN, "return", ""), (DISTANCE, "distance (m)", "m"), (words.LOSS, "loss", "")],
)
def test_metrics_have_a_name_and_a_unit_in_words(metric, name, unit):
    assert (words.metric(metric), metric.suffix) == (name, unit)


@pytest.mark.parametrize("metric", [RETURN, DISTANCE, SUCCESS])
def test_a_job_is_judged_by_the_metric_of_its_file_and_only_accuracy_has_a_chance(tmp_path, metric):
    write_job(tmp_path / "a.h5", small_config(workers=1), metric=metric)
    write_job(tmp_path / "b.h5", small_config(workers=1))
    write_job(tmp_path / "c.h5", small_config(workers=1, task=Glyphs()))
    jobs = reader.read([tmp_path]).jobs
    assert [job.metric for job in jobs] == [metric, None, ACCURACY]
    assert [job.chance for job in jobs] == [None, None, 0.2]
    table = reader.table(jobs[:1], "validation")
    np.testing.assert_array_equal(table["metric"], jobs[0].read("validation")["validation/metric"].mean(axis=2).ravel())


@pytest.mark.parametrize(
    ("metric", "label", "shares", "dotted"),
    [(ACCURACY, "accuracy", True, 1), (SUCCESS, "success", True, 0), (RETURN, "return", False, 0),
     (DISTANCE, "distance (m)", False, 0)],
)  # fmt: skip
def test_axes_bear_the_metrics_name_and_only_shares_end_at_one(tmp_path, metric, label, shares, dotted):
    path = tmp_path / "a.h5"
    write_job(path, small_config(runs=30, workers=1, task=Glyphs()), metric=metric)
    with style.used():
        single = curves.plot(results.read(path))
        picture = validation.over(Settings(reader.read([path]).jobs, []), Options())
    loss, axis = single.axes
    assert (loss.get_ylabel(), axis.get_ylabel()) == ("query loss", f"query {label}")
    assert (axis.get_ylim() == (0, 1.02)) == shares
    assert ("chance" in [line.get_label() for line in axis.lines]) == bool(dotted)
    (other,) = picture.figure.axes
    assert other.get_ylabel() == f"validation {label}"
    assert [line.get_linestyle() for line in other.lines].count(":") == dotted
    for each in (axis, other):
        assert each.yaxis.get_major_formatter()(0.5).endswith("%") == shares
    assert set(picture.numbers["variable"]) == {metric.name}
    if not shares:
        drawn = picture.numbers["mean"]
        low, high = other.get_ylim()
        assert low <= drawn.min() < drawn.max() <= high


@pytest.mark.long
@pytest.mark.parametrize("metric", [ACCURACY, RETURN, DISTANCE])
def test_the_best_is_the_greatest_or_the_least_as_the_metric_says(tmp_path, metric):
    settings = rates(tmp_path, metric, task=Glyphs())
    text = report.page(reader.read([tmp_path]), Options())
    (best,) = (row for row in text.split("<tr") if row.startswith(' class="best"'))
    assert "β 0.1<" in best
    unit = metric.suffix
    assert f"{metric.name.capitalize()}{unit and f' in {unit}'} before adaptation" in text
    assert ("Chance is 20." in text) == (metric == ACCURACY)
    job = results.read(tmp_path / "0.1_0.h5")
    ends = job["validation/metric"][:, -1].mean(axis=1)
    good = ends.max() if metric.higher_is_better else ends.min()
    lines = watch.view(job, "complete", 0.0)
    assert any(line.startswith(f"{words.metric(metric)} of held-out tasks") for line in lines)
    assert any(line.endswith(f"best {good:.3f}") for line in lines)
    assert f"{metric.name} {ends[-1]:.3f}" in watch.row(job, "complete", 0.0)
    with style.used():
        picture = comparison.compare(settings, Options())
    (axis,) = picture.figure.axes
    said = {ACCURACY: " (percentage points)", RETURN: "", DISTANCE: " (m)"}[metric]
    assert axis.get_xlabel() == f"final {metric.name} less that of\nβ 0.01{said}"
    assert (picture.numbers["mean"].iloc[0] > 0) == metric.higher_is_better


@pytest.mark.parametrize(
    ("metric", "head", "factor"), [(SUCCESS, "step 2 %", 100), (RETURN, "step 2", 1), (DISTANCE, "step 2 m", 1)]
)
def test_a_table_of_final_values_has_the_metrics_unit(tmp_path, capsys, metric, head, factor):
    settings = rates(tmp_path, metric)
    assert tables.main(["final", str(tmp_path)]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert rows[0][-1] == head
    mean = comparison.final(settings, "metric", Options())["mean"].iloc[-1]
    assert rows[3][-1].startswith(f"{factor * mean:.{1 if factor > 1 else 3}f} ± ")


@pytest.mark.parametrize(
    ("given", "name"), [("return", "return"), ("metric", "return"), ("loss", "loss"), (None, "return")]
)
def test_a_variable_is_given_as_loss_as_metric_or_by_its_name(tmp_path, given, name):
    write_job(tmp_path / "a.h5", small_config(runs=30, workers=1), metric=RETURN)
    assert figures.main(["curves", str(tmp_path), *(["--variable", given] if given else [])]) == 0
    assert set(pd.read_csv(tmp_path / "figure_curves.csv")["variable"]) == {name}


def test_files_with_different_metrics_are_drawn_by_their_loss(tmp_path, capsys):
    for rate, metric in ((0.01, RETURN), (0.1, DISTANCE)):
        config = small_config(runs=30, workers=1, optimizer=SGD(lr=rate))
        write_job(tmp_path / f"{rate}.h5", config, metric=metric)
    assert figures.main(["curves", str(tmp_path)]) == 0
    assert set(pd.read_csv(tmp_path / "figure_curves.csv")["variable"]) == {"loss"}
    for given in ("metric", "return"):
        assert figures.main(["curves", str(tmp_path), "--variable", given]) == 2
        assert "these files have different metrics (distance (m), return): give loss" in capsys.readouterr().err
    assert tables.main(["final", str(tmp_path), "--variable", "accuracy"]) == 2


@pytest.mark.parametrize(("metric", "have"), [(None, "loss"), (RETURN, "loss and return")])
def test_a_metric_that_files_do_not_have_is_refused(tmp_path, capsys, metric, have):
    write_job(tmp_path / "a.h5", small_config(runs=30, workers=1), metric=metric)
    assert figures.main(["curves", str(tmp_path), "--variable", "success"]) == 2
    assert f"variable: these files have no success; they have {have}" in capsys.readouterr().err


def test_old_and_new_files_are_drawn_together(tmp_path):
    for seed in (0, 1):
        write_job(tmp_path / f"{seed}.h5", small_config(runs=30, workers=1, seed=seed, task=Glyphs()))
    before = validation.curves(Settings(reader.read([tmp_path]).jobs, []), "metric", Options())
    as_schema_1(tmp_path / "0.h5")
    jobs = reader.read([tmp_path]).jobs
    assert {job.metric for job in jobs} == {ACCURACY}
    assert jobs[0].fields == {name: jobs[1].fields[name] for name in jobs[0].fields} | {"seed": 0}
    pd.testing.assert_frame_equal(validation.curves(Settings(jobs, []), "metric", Options()), before)


SWEEP = """
description: Inner rates
set: {runs: 20, workers: 1, validation.tasks: 4, task: Glyphs}
grid: {maml.inner_lr: [0.1, 0.4], maml.clip: [1.0, 2.0]}
"""


def test_an_old_sweeps_axes_find_their_fields_under_todays_names(tmp_path, capsys):
    (tmp_path / "rates.yaml").write_text(SWEEP)
    described = sweep.load(tmp_path / "rates.yaml", tmp_path / "results")
    write_sweep(described)
    for point in described.points:
        as_schema_1(point.output)
    found = reader.read([described.folder])
    assert found.notes == ()  # no point is another than its sweep says
    assert found.axes == ["algorithm.inner_lr", "clip"]
    for by in (found.axes, ["maml.inner_lr", "maml.clip"]):
        settings = Settings.of(found, by)
        assert [settings.label(key) for key in settings.jobs] == [
            "α 0.1, clip 1", "α 0.1, clip 2", "α 0.4, clip 1", "α 0.4, clip 2",
        ]  # fmt: skip
    assert [job.value("maml.inner_lr") for job in found.jobs] == [0.1, 0.1, 0.4, 0.4]
    assert figures.main(["curves", str(described.folder), "--by", "maml.inner_lr,maml.clip"]) == 0
    assert "algorithm.inner_lr" in pd.read_csv(described.folder / "figure_curves.csv")
    capsys.readouterr()


def test_an_archive_of_schema_1_is_split_into_files_of_today(tmp_path, capsys):
    path = tmp_path / "job.h5"
    write_job(path, small_config(workers=1, task=Glyphs()))
    new = results.read(path)
    as_schema_1(path)
    with h5py.File(path) as old, h5py.File(tmp_path / "archive.h5", "w") as archive:
        archive.attrs["content"] = merge.ARCHIVE
        job = archive.create_group("job.h5")
        job.attrs.update(old.attrs)
        for name in ("runs", "workers", "ranks", "validation", "meta_model"):
            for below in old[name]:
                job[f"{name}/{below}"] = old[name][below][()]
    merge.add_checksum(tmp_path / "archive.h5")
    assert merge.main(["--split", str(tmp_path / "archive.h5"), "--output", str(tmp_path / "again")]) == 0
    again = results.read(tmp_path / "again" / "job.h5", verify=True)
    assert again.metric == ACCURACY
    np.testing.assert_array_equal(again["validation/metric"], new["validation/metric"])
    capsys.readouterr()


def test_what_a_file_calls_its_metric_is_cut_and_speaks_to_no_terminal(tmp_path, capsys):
    path = tmp_path / "a.h5"
    write_job(path, small_config(runs=30, workers=1), metric=Metric("\x1b[2J<b>" + "λ" * 50_000, "$x_{" * 1000))
    assert watch.main([str(path), "--once"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    text = report.page(reader.read([path]), Options())
    assert "<b>λ" not in text
    assert "λ" * 40 not in text
    assert curves.main([str(path)]) == 0
