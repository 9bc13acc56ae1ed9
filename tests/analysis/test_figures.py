"""Pictures for what is in them: axes, lines, labels, numbers; and what is said where something is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pandas")
import pandas as pd
from matplotlib.colors import to_hex

from hpc_dmaml import results, sweep
from hpc_dmaml.algorithms import MAML, Reptile
from hpc_dmaml.analysis import (
    checked,
    comparison,
    figures,
    reader,
    report,
    stats,
    style,
    tables,
    timing,
    trajectories,
    validation,
    words,
    workers,
)
from hpc_dmaml.analysis.settings import Options, Settings
from hpc_dmaml.config import Validation
from hpc_dmaml.losses import GaussianPolicyGradient, SquaredError, described
from hpc_dmaml.losses.metric import Metric
from hpc_dmaml.models import Module
from hpc_dmaml.optimizers import SGD
from hpc_dmaml.results import read
from hpc_dmaml.tasks import Glyphs, Navigation, Sinusoid
from tests.analysis.synthetic import write_job, write_sweep
from tests.helpers import run, small_config


def thesis(number, folder, options=None):
    """The figure's axes and its numbers."""
    with style.used():
        picture, _ = figures.draw(number, reader.read([folder]), options or Options())
    return picture.figure.axes, picture.numbers


def labels(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def lines(axis):
    """The labelled lines, without points and limits."""
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def test_accuracy_over_runs_has_a_curve_for_the_baseline_and_each_ratio(scaling):
    (axis,), numbers = thesis("6.17", scaling)
    assert labels(axis) == ["baseline", "workers 2×", "workers 4×"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("runs", "validation accuracy")
    assert len(axis.collections) == 3  # a band each
    assert numbers.groupby("scaling", observed=True).size().tolist() == [20, 20, 20]


@pytest.mark.parametrize("jobs", [2, 8])
def test_names_of_many_settings_leave_room_for_the_curves(tmp_path, jobs):
    for i in range(1, jobs + 1):
        task, algorithm = Glyphs(ways=i + 1, shots=i, queries=2 * i), MAML(inner_lr=i / 64, inner_steps=i)
        write_job(tmp_path / f"{i}.h5", small_config(workers=1, runs=6, tasks=i, task=task, algorithm=algorithm))
    with style.used():
        picture, _ = figures.draw("seen_tasks", reader.read([tmp_path]), Options())
        picture.figure.draw_without_rendering()
    (axis,) = picture.figure.axes
    whole, frame = picture.figure.bbox, axis.get_legend().get_window_extent()
    assert len(labels(axis)) == jobs
    assert axis.get_window_extent().width > 0.5 * whole.width
    assert not frame.overlaps(axis.get_window_extent())
    assert whole.x0 <= frame.x0
    assert frame.x1 <= whole.x1


def test_the_thesiss_accuracies_stand_beside_ours_as_far_as_we_have_come(tmp_path):
    folder = tmp_path / "scaling"
    text = "set: {runs: 110, tasks: 4, validation.every: 10, validation.tasks: 4, workers: 1}\nfigures: ['6.17']\nseeds: [0]\n"
    (tmp_path / "s.yaml").write_text(text + "grid: {scaling: {baseline: {}, workers 2x: {workers: 2}}}\n")
    described = sweep.load(tmp_path / "s.yaml", folder)
    write_sweep(described)
    (axis,), _ = thesis("6.17", described.folder)
    marks = {line.get_markeredgecolor(): line for line in axis.lines if line.get_marker() == "D"}
    assert list(marks) == [lines(axis)[name].get_color() for name in ("baseline", "workers 2×")]
    baseline, twice = marks.values()
    assert list(zip(*baseline.get_data(), strict=True)) == [(0, 0.42), (100, 0.72)]  # and not that after 1,000 runs
    assert list(twice.get_ydata()) == [0.42, 0.74]
    assert axis.get_ylim()[1] > 0.74
    caption = axis.figure.get_supxlabel().replace("\n", " ")
    assert "Hollow: the thesis's, read off its figure." in caption


def test_means_are_over_tasks_then_seeds_and_limits_are_of_students_t(scaling):
    _, numbers = thesis("6.19", scaling)
    files = [read(scaling / f"scaling=tasks-4x,seed={seed}.h5") for seed in range(3)]
    values = np.array([file["validation/metric"][:, 2].mean(axis=1) for file in files])  # after the last step
    rows = numbers[numbers["scaling"] == "tasks 4x"]
    np.testing.assert_allclose(rows["mean"], values.mean(axis=0))
    half = 4.302652729911275 * values.std(axis=0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(rows["high"] - rows["mean"], half)
    np.testing.assert_array_equal(rows["runs"], files[0]["validation/run"] + 1)


def test_the_lines_are_polynomials_through_the_means_and_fitted_apart_through_the_limits(scaling):
    (axis,), numbers = thesis("6.17", scaling, Options(degree=3))
    rows = numbers[numbers["scaling"] == "workers 4x"]
    for column, fitted in (("mean", "fit"), ("low", "fit_low"), ("high", "fit_high")):
        expected = np.polyval(np.polyfit(rows["runs"], rows[column], 3), rows["runs"])
        np.testing.assert_allclose(rows[fitted], expected, rtol=1e-9)
    drawn = lines(axis)["workers 4×"]
    np.testing.assert_allclose(np.interp(rows["runs"], drawn.get_xdata(), drawn.get_ydata()), rows["fit"], rtol=1e-3)


def test_without_a_fit_the_lines_are_the_means(scaling):
    (axis,), numbers = thesis("6.17", scaling)
    rows = numbers[numbers["scaling"] == "baseline"]
    assert "fit" not in numbers
    np.testing.assert_array_equal(lines(axis)["baseline"].get_ydata(), rows["mean"])


def test_lines_of_many_points_are_the_seeds_moving_averages_and_the_caption_says_the_window(tmp_path):
    for seed in range(3):
        write_job(tmp_path / f"{seed}.h5", small_config(runs=200, workers=1, seed=seed))
    settings = Settings(reader.read([tmp_path]).jobs, [])
    with style.used():
        picture = validation.over(settings, Options())
    (axis,), rows = picture.figure.axes, picture.numbers
    files = [read(tmp_path / f"{seed}.h5")["validation/loss"][:, 2].mean(axis=1) for seed in range(3)]
    seeds = [values[48:53].mean() for values in files]  # of 100 validations
    half = 4.302652729911275 * np.std(seeds, ddof=1) / 3**0.5
    expected = np.array([np.mean(seeds), np.mean(seeds) - half, np.mean(seeds) + half])
    np.testing.assert_allclose(rows.loc[50, ["smooth", "smooth_low", "smooth_high"]].to_numpy(float), expected)
    line = axis.lines[-1]
    np.testing.assert_array_equal(line.get_ydata(), rows["smooth"])
    caption = picture.figure.get_supxlabel().replace("\n", " ")
    assert "Lines: centred moving averages over 5 validations." in caption
    assert "polynomial" not in caption


@pytest.mark.parametrize("degree", [None, 3])
def test_intervals_end_at_what_is_possible_and_the_caption_says_so(tmp_path, degree):
    for seed, accuracy in enumerate((0.05, 0.5, 0.95)):
        write_job(tmp_path / f"{seed}.h5", small_config(runs=40, workers=1, seed=seed, task=Glyphs()))
        source = read(tmp_path / f"{seed}.h5")
        source["validation/metric"][...] = accuracy
        results.write(tmp_path / f"{seed}.h5", source.arrays, source.attributes)
    settings = Settings(reader.read([tmp_path]).jobs, [])
    with style.used():
        picture = validation.over(settings, Options(degree=degree))
    rows = picture.numbers
    assert (rows["low"].min(), rows["high"].max()) == (0, 1)
    (band,) = picture.figure.axes[0].collections
    assert band.get_paths()[0].vertices[:, 1].min() >= 0
    assert band.get_paths()[0].vertices[:, 1].max() <= 1
    assert "Intervals are cut at 0 and 100 %." in picture.figure.get_supxlabel().replace("\n", " ")
    (*_, end) = comparison.final(settings, "metric", Options()).itertuples()
    assert (end.low, end.high) == (0, 1)
    assert end.half == pytest.approx(4.302652729911275 * 0.45 / 3**0.5)  # what ± says is the interval's own


def caption(picture):
    return picture.figure.get_supxlabel().replace("\n", " ")


def test_two_seeds_have_no_interval_and_the_caption_says_so(tmp_path):
    for seed in range(2):
        write_job(tmp_path / f"{seed}.h5", small_config(runs=40, workers=1, seed=seed))
    with style.used():
        picture = validation.over(Settings(reader.read([tmp_path]).jobs, []), Options())
    assert "Mean of 2 seeds. Fewer than 3 seeds: no interval." in caption(picture)
    assert not picture.figure.axes[0].collections


def test_a_polynomial_takes_five_points_a_degree(scaling):
    _, numbers = thesis("6.17", scaling, Options(degree=4))  # 20 points
    assert numbers["fit"].notna().all()
    (axis,), numbers = thesis("6.17", scaling, Options(degree=5))
    assert numbers["fit"].isna().all()
    rows = numbers[numbers["scaling"] == "baseline"]
    np.testing.assert_array_equal(lines(axis)["baseline"].get_ydata(), rows["mean"])


def test_the_normal_interval_is_the_narrower_one(scaling):
    widths = [
        (t["high"] - t["low"]).mean()
        for t in (thesis("6.17", scaling, Options(interval=kind))[1] for kind in ("t", "normal"))
    ]
    assert widths[0] / widths[1] == pytest.approx(4.302652729911275 / 1.959963984540054)


@pytest.mark.parametrize(("number", "column", "x_label"), [
    ("6.23", "seen_tasks", "training tasks seen"), ("6.24", "wall_s", "wall time (s)"),
])  # fmt: skip
def test_what_learning_costs_is_shown_in_a_panel_for_each_way_to_scale(scaling, number, column, x_label):
    axes, numbers = thesis(number, scaling)
    assert [axis.get_title() for axis in axes] == ["more workers", "more tasks"]  # this sweep has no epochs
    assert [labels(axis)[0] for axis in axes] == ["baseline", "baseline"]
    assert axes[0].get_xlabel() == x_label
    rows = numbers[numbers["scaling"] == "tasks 4x"]
    drawn = lines(axes[1])["tasks 4×"].get_xdata()
    np.testing.assert_allclose([drawn[0], drawn[-1]], rows[column].iloc[[0, -1]])
    assert axes[0].get_xlim() == axes[1].get_xlim()


@pytest.mark.parametrize("number", ["6.23", "6.24"])
def test_curves_are_whole_in_every_panel(partial, number):
    for path in partial.glob("*.h5"):
        source = read(path)
        source["validation/metric"][...] = 0.9 if "tasks" in path.name else 0.5  # the first panel has none of 0.9
        results.write(path, source.arrays, source.attributes)
    axes, numbers = thesis(number, partial)
    for axis in axes:
        low, high = axis.get_ylim()
        assert low <= numbers["mean"].min() < numbers["mean"].max() <= high


def test_durations_of_a_run_stand_in_percent_beside_those_of_the_thesis(scaling):
    (axis,), numbers = thesis("6.25", scaling)
    assert labels(axis) == ["thesis", "workers", "tasks"]
    told = dict(zip(numbers["scaling"], numbers["thesis"], strict=True))
    assert told == pytest.approx(
        {"baseline": 1, "workers 2x": 0.9767, "workers 4x": 1.2496, "tasks 2x": 1.958, "tasks 4x": 3.7696}
    )
    own = dict(zip(numbers["scaling"], numbers["relative"], strict=True))
    assert own["baseline"] == pytest.approx(1)
    assert own["tasks 4x"] == pytest.approx(3.93, abs=0.1)  # 322 ms to 82 ms


def test_validation_is_no_part_of_a_runs_duration(tmp_path):
    write_job(tmp_path / "a.h5", small_config(runs=40, workers=1))
    (job,) = reader.read([tmp_path]).jobs
    assert timing.run_seconds(job) == pytest.approx(0.052, rel=0.06)  # 5 tasks of 10 ms and 2 ms; a validation is 5 ms


def test_wall_time_goes_on_to_a_thousand_runs_at_the_measured_pace(scaling):
    axes, numbers = thesis("6.26", scaling)
    ends = numbers[numbers["extrapolated"]].set_index("scaling")
    assert (ends["runs"] == 1000).all()
    walls = [read(scaling / f"scaling=baseline,seed={seed}.h5")["runs/wall_s"] for seed in range(3)]
    expected = np.mean([wall[-1] + 960 * (wall[-1] - wall[0]) / 39 for wall in walls])
    assert ends.loc["baseline", "wall_s"] == pytest.approx(expected)
    assert [line.get_linestyle() for line in axes[0].lines].count(":") == 3


def test_one_setting_has_one_colour_in_all_figures(scaling):
    colours = [
        {label: to_hex(line.get_color()) for axis in thesis(number, scaling)[0] for label, line in lines(axis).items()}
        for number in ("6.17", "6.23", "6.24")
    ]
    for label in ("baseline", "workers 2×", "workers 4×"):
        assert len({each[label] for each in colours}) == 1
    assert len(set(colours[1].values())) == 5


def test_colours_stay_where_points_are_missing(scaling, partial):
    for seed in range(3):
        (partial / f"scaling=workers-2x,seed={seed}.h5").unlink()
    whole, part = (lines(thesis("6.17", folder)[0][0]) for folder in (scaling, partial))
    assert set(part) == {"baseline", "workers 4×"}
    assert part["workers 4×"].get_color() == whole["workers 4×"].get_color()


def test_an_implementation_test_has_a_curve_for_each_adaptation_step(tmp_path):
    write_job(tmp_path / "a.h5", small_config(runs=40, workers=1))
    (axis,), numbers = thesis("6.3", tmp_path)
    assert labels(axis) == ["before adaptation", "after 1 adaptation step", "after 2 adaptation steps"]
    assert axis.get_ylabel() == "validation loss\n(squared error)"
    assert set(numbers["step"]) == {0, 1, 2}


def test_another_experiment_than_the_thesiss_is_drawn_and_noted(tmp_path):
    write_job(tmp_path / "a.h5", small_config(workers=1))
    with style.used():
        _, notes = figures.draw("6.1", reader.read([tmp_path]), Options())
    assert notes == ["the thesis's figure 6.1 has task Omniglot; these files have Sinusoid"]


@pytest.mark.parametrize(("runs", "seeds", "words"), [
    ([6], [0], "one seed, so there is no interval"),
    ([6, 30, 30], [0, 1, 2], "some points are of 2 of 3 seeds only"),
    ([6, 6], [0, 1], "3 points are too few for a polynomial of degree 10: it takes 50"),
    ([1, 1], [0, 1], "no validation yet"),
])  # fmt: skip
def test_curves_that_rest_on_little_are_drawn_and_noted(tmp_path, runs, seeds, words):
    write_job(tmp_path / "good.h5", small_config(runs=30, workers=1, tasks=9))
    for seed, done in zip(seeds, runs, strict=True):
        write_job(tmp_path / f"{seed}.h5", small_config(runs=30, workers=1, seed=seed), runs=done)
    settings = Settings(reader.read([tmp_path]).jobs, ["tasks"])
    with style.used():
        picture = validation.over(settings, Options(degree=10))
    assert any(words in note for note in picture.notes)
    assert np.isfinite(picture.figure.axes[0].get_ylim()).all()


def test_losses_that_are_no_numbers_leave_gaps(tmp_path):
    for seed in range(2):
        write_job(tmp_path / f"{seed}.h5", small_config(runs=30, workers=1, seed=seed))
        source = read(tmp_path / f"{seed}.h5")
        source["validation/loss"][3:5] = np.nan
        results.write(tmp_path / f"{seed}.h5", source.arrays, source.attributes)
    table = validation.curves(Settings(reader.read([tmp_path]).jobs, []), "loss", Options(degree=2))
    assert np.flatnonzero(table["mean"].isna()).tolist() == [3, 4]
    assert table["fit"].notna().sum() == len(table) - 2


@pytest.mark.parametrize(
    ("name", "values"),
    [("task.root", ("data/a.h5", "data/b.h5")), ("task.root", ("a.h5", "b.h5")), ("task.split", ("splits/v1.json", "v2.json")),
     ("task.root", (f"/{'long/' * 20}a", f"/{'long/' * 20}b")), ("task.split_seed", (1234567, 1234568))],
)  # fmt: skip
def test_settings_that_differ_have_names_that_differ(name, values):
    shown = [words.setting(name, value) for value in values]
    assert len(set(shown)) == 2
    assert all(each.endswith(str(value)[-6:]) for each, value in zip(shown, values, strict=True))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model.path", ("models_v1.Net", "models_v2.Net")),
        ("optimizer.lr", (0.00123456, 0.001234561)),
        ("task.note", ("very " * 20 + "good", "very " * 20 + "bad")),
    ],
)
def test_settings_with_the_same_words_are_named_in_full(tmp_path, name, values):
    class Two(Settings):
        def __init__(self):
            self.by, self.jobs, self.notes = (name,), {}, []
            self._every = [(value,) for value in values]

    two = Two()
    shown = [two.label((value,)) for value in values]
    assert shown == [f"{words.FIELDS.get(name, name)} {value}" for value in values]
    assert two.some(two._every[:0]).label((values[0],)) == shown[0]


@pytest.mark.parametrize("name", ["curves", "scaling"])
def test_a_setting_whose_name_begins_with_an_underscore_stands_in_the_legend(tmp_path, name):
    for place, (path, ranks) in enumerate((path, ranks) for path in ("_own.net", "own.net") for ranks in (1, 2)):
        model = Module(path=path)
        write_job(tmp_path / f"{place}.h5", small_config(model=model, workers=2), ranks)
    with style.used():
        picture, _ = figures.draw(name, reader.read([tmp_path]), Options(), by=["model.path"])
    assert " _own.net" in labels(picture.figure.axes[0])


def test_a_word_that_is_short_for_a_reduction_is_so_in_that_field_alone():
    assert words.setting("task_reduction", "mean") == "arithmetic mean"
    assert words.setting("model.arguments.pool", "mean") == "mean"


def test_a_colour_that_one_setting_always_has_is_no_other_s():
    names = ["ArithmeticMean", "LossMedian", "own.SoftMin", "LossMovingAverage", "own.Other"]
    assert len({style.colour(name, names) for name in names}) == len(names)


def resumed_on_more_ranks(path):
    """A job whose first 15 runs took 1 s on one rank, and whose last 15 took 0.1 s on two."""
    write_job(path, small_config(runs=30, workers=2, validation=Validation(every=0)), 2)
    source = results.read(path)
    for name in (*results.RANK_TIMES, "work_s", "data_s"):
        source[f"ranks/{name}"][:15, 1] = np.nan
    source["ranks/work_s"][:15, 0], source["ranks/work_s"][15:] = 1.0, 0.1
    for name in ("data_s", *results.RANK_TIMES):
        source[f"ranks/{name}"][:] *= 0
    source["runs/wall_s"][:] = np.cumsum([1.0] * 15 + [0.1] * 15)
    results.write(path, source.arrays, source.attributes)
    return source


def test_a_job_resumed_on_fewer_ranks_is_timed_on_these(tmp_path):
    source = resumed_on_more_ranks(tmp_path / "a.h5")
    for name in (*results.RANK_TIMES, "work_s", "data_s"):
        source[f"ranks/{name}"][:] = source[f"ranks/{name}"][::-1]
    source["runs/wall_s"][:] = np.cumsum([0.1] * 15 + [1.0] * 15)
    arrays = source.arrays | {name: source[name][:1] for name in ("ranks/host", "ranks/device")}
    results.write(tmp_path / "a.h5", arrays, source.attributes)
    found = reader.read([tmp_path])
    assert found.jobs[0].ranks == 1
    assert timing.run_seconds(found.jobs[0]) == pytest.approx(1.0)
    assert {b: a for a, b in report._tiles(found)}["time of all ranks"] == words.duration(15 * 0.1 * 2 + 15 * 1.0)


def test_seeds_on_different_numbers_of_ranks_are_noted_and_a_duration_is_not_negative(tmp_path):
    for seed, ranks in enumerate((1, 1, 2)):
        write_job(tmp_path / f"{seed}.h5", small_config(runs=9, workers=2, seed=seed), ranks)
    settings = Settings(reader.read([tmp_path]).jobs, [])
    assert settings.notes == ["all: its seeds ran on 1, 2 ranks, and their times are not alike"]
    table = timing.durations(settings, (), Options())
    assert (table[["low", "low_s"]] >= 0).all(axis=None)


def test_a_worker_whose_update_alone_was_not_finite_is_noted(tmp_path):
    write_job(tmp_path / "a.h5", small_config(runs=9, workers=3), 1)
    source = results.read(tmp_path / "a.h5")
    source["workers/weight"][:] = 1 / 3
    assert checked.cautions(source) == []
    source["workers/weight"][4, 1] = 0
    assert checked.cautions(source) == ["not finite in 1 of 9 runs: worker 1; they counted 0 there"]


def test_runs_on_fewer_ranks_than_most_are_not_timed_as_theirs(tmp_path):
    source = resumed_on_more_ranks(tmp_path / "a.h5")
    settings = Settings(reader.read([tmp_path]).jobs, [])
    assert timing.run_seconds(settings.all_jobs[0]) == pytest.approx(0.1)
    assert checked.cautions(source) == []
    table = timing.shares(settings).set_index("part")
    assert table.loc["rest", "share"] == pytest.approx(0, abs=1e-9)


def test_a_seed_that_ended_early_neither_turns_time_back_nor_passes_for_measured(tmp_path):
    for seed, (runs, slow) in enumerate(((40, 1), (10, 20))):
        path = tmp_path / f"{seed}.h5"
        config = small_config(runs=40, workers=1, seed=seed, validation=Validation(every=2, tasks=3, steps=1))
        write_job(path, config, status="interrupted" if runs < 40 else "complete", runs=runs)
        source = results.read(path)
        source["runs/wall_s"][:] = slow * np.arange(1, runs + 1)
        results.write(path, source.arrays, source.attributes)
    settings = Settings(reader.read([tmp_path]).jobs, [])
    assert validation.curves(settings, "loss", Options())["wall_s"].diff().dropna().round(6).unique().tolist() == [21.0]
    table = timing.wall_times(settings, 60)
    assert table.loc[~table["extrapolated"], "runs"].tolist() == list(range(1, 11))
    np.testing.assert_allclose(table["wall_s"], 10.5 * table["runs"])


def test_time_does_not_turn_back_at_a_gap_between_seeds(tmp_path):
    for seed, (runs, slow) in enumerate(((40, 1), (35, 2))):
        path = tmp_path / f"{seed}.h5"
        write_job(
            path, small_config(runs=runs, workers=1, seed=seed, validation=Validation(every=10, tasks=3, steps=1))
        )
        source = results.read(path)
        source["runs/wall_s"][:] = slow * np.arange(1, runs + 1)
        results.write(path, source.arrays, source.attributes)
    table = validation.curves(Settings(reader.read([tmp_path]).jobs, []), "loss", Options())
    assert table["wall_s"].round(6).tolist() == [15.0, 30.0, 45.0, 52.5, 60.0]


def test_jobs_that_do_not_know_the_time_for_data_are_counted(tmp_path):
    for seed, runs in enumerate((30, 30, 0)):
        status = "complete" if runs else "running"
        write_job(tmp_path / f"{seed}.h5", small_config(runs=30, workers=1, seed=seed), status=status, runs=runs)
    source = results.read(tmp_path / "1.h5")
    source["ranks/data_s"][:] = np.nan
    results.write(tmp_path / "1.h5", source.arrays, source.attributes)
    with style.used():
        figure = timing.time_shares(Settings(reader.read([tmp_path]).jobs, []), Options()).figure
    assert "Of 1 job the time for data is not known" in figure.get_supxlabel().replace("\n", " ")


def test_dark_pictures_paint_nothing_that_was_transparent(tmp_path):
    resumed_on_more_ranks(tmp_path / "a.h5")
    with style.used():
        figure = timing.time_shares(Settings(reader.read([tmp_path]).jobs, []), Options()).figure
        style.darken(figure)
    assert {bar.get_edgecolor()[3] for bar in figure.axes[0].patches} == {0}
    assert style.on_dark((0, 0, 0, 0)) == "none"


def test_only_classes_are_named_by_the_end_of_their_import_path():
    assert words.setting("task", "my.tasks.Waves") == "Waves"
    assert words.setting("model", "hpc_dmaml.models.MLP") == "MLP"
    assert words.setting("task.path", "waves.npz") == "waves.npz"


def test_a_loss_with_fields_or_of_ones_own_is_named_by_its_class():
    assert words.loss(described(GaussianPolicyGradient())) == "GaussianPolicyGradient"
    assert words.loss("class_path: mine.losses.L1\ninit_args: {}\n") == "L1"
    assert words.loss(described(SquaredError())) == "squared error"


def test_files_of_one_seed_count_once(tmp_path):
    for name in "ab":
        write_job(tmp_path / f"{name}.h5", small_config(workers=1))
    settings = Settings(reader.read([tmp_path]).jobs, [])
    assert len(settings.all_jobs) == 1
    assert settings.notes == ["all: left out, as their seeds are there already: b.h5"]


def test_shares_of_a_runs_time_add_up_to_its_duration(scaling):
    settings = Settings(reader.read([scaling]).jobs, ["scaling"])
    table = timing.shares(settings)
    assert table.groupby("scaling", observed=True)["share"].sum().tolist() == pytest.approx([1] * 5)
    base = table[table["scaling"] == "baseline"].set_index("part")["seconds"]
    assert base["exchange"] == pytest.approx(0.002)
    assert base["validation"] == pytest.approx(0.0025, rel=0.05)  # every other run
    with style.used():
        (axis,) = timing.time_shares(settings, Options()).figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [
        "baseline",
        "workers 2×",
        "workers 4×",
        "tasks 2×",
        "tasks 4×",
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("runs", [2, 3, 20])
def test_the_times_of_a_running_jobs_last_run_are_not_known_yet(tmp_path, runs):
    write_job(tmp_path / "a.h5", small_config(runs=40, workers=2), ranks=2, status="running", runs=runs)
    table = timing.shares(Settings(reader.read([tmp_path]).jobs, [])).set_index("part")
    assert table.loc["exchange", "seconds"] == pytest.approx(0.002 if runs > 2 else 0)
    assert table.loc[["data", "gradient"], "seconds"].sum() == pytest.approx(0.05, rel=0.05)


def test_speed_up_counts_training_tasks_and_is_ideal_where_nothing_is_lost(tmp_path):
    for ranks in (1, 2, 4):
        for seed in range(2):
            config = small_config(runs=30, workers=4, tasks=20, seed=seed)
            write_job(tmp_path / f"{ranks}_{seed}.h5", config, ranks)
    table = timing.speed(Settings(reader.read([tmp_path]).jobs, ["ranks"]), Options())
    assert table["ranks"].tolist() == [1, 2, 4]
    assert table["speed_up"].tolist() == pytest.approx([1, 2, 4], rel=0.08)
    np.testing.assert_allclose(table["efficiency"], table["speed_up"] / table["ranks"])


def test_an_efficiency_that_nobody_measured_is_not_drawn(tmp_path, capsys):
    write_job(tmp_path / "a.h5", small_config(runs=30, workers=4), 4)
    code, shown, err = command(capsys, "scaling", tmp_path)
    assert (code, shown) == (2, [])
    assert "that were run on different numbers of ranks" in err
    assert "(ranks: 4)" in err
    write_job(tmp_path / "b.h5", small_config(runs=1, workers=4), 2)  # too short to be timed
    assert command(capsys, "scaling", tmp_path)[0] == 2
    for rate, ranks in ((0.1, 1), (0.1, 2), (0.5, 4)):
        config = small_config(runs=30, workers=4, optimizer=SGD(lr=rate))
        write_job(tmp_path / f"{rate}_{ranks}.h5", config, ranks)
    code, _, err = command(capsys, "scaling", tmp_path)
    assert code == 0
    assert "β 0.5: left out, as it ran on one number of ranks only" in err
    numbers = pd.read_csv(tmp_path / "figure_scaling.csv")
    assert numbers[["optimizer.lr", "ranks"]].to_numpy().tolist() == [[0.1, 1], [0.1, 2]]


def test_a_comparison_shows_every_other_settings_difference(scaling):
    settings = Settings(reader.read([scaling]).jobs, ["scaling"])
    with style.used():
        picture = comparison.compare(settings, Options())
    (axis,) = picture.figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["workers 2×", "workers 4×", "tasks 2×", "tasks 4×"]
    assert axis.get_xlabel() == "final accuracy less that of\nbaseline (percentage points)"
    final = comparison.final(settings, "metric", Options())
    means = final[final["step"] == 2].set_index("scaling")["mean"]
    np.testing.assert_allclose(picture.numbers["mean"], means.iloc[1:] - means.iloc[0])


def test_settings_without_a_value_in_a_field_are_compared_too(tmp_path):
    for clip in (None, 0.5):
        for seed in (0, 1, 2):
            write_job(tmp_path / f"{clip}_{seed}.h5", small_config(clip=clip, seed=seed))
    settings = Settings(reader.read([tmp_path]).jobs, ["clip"])
    for against in ("None", "0.5"):
        (difference,) = comparison.compare(settings, Options(against=against)).numbers["n"]
        assert difference == 3


@pytest.mark.parametrize(
    ("mean", "half", "shown"),
    [
        (0.534, 0.078, "0.534 ± 0.078"),
        (0.00269, 0.00044, "0.0027 ± 0.0004"),
        (4.1031, 1e-9, "4.103 ± 0.000"),
        (0.0001, 5.2, "0.000 ± 5.200"),
        (3.2e-8, 1.1e-9, "3.2e-08 ± 1.1e-09"),
        (0.0, 0.0, "0.000 ± 0.000"),
        (-0.0123, math.nan, "-0.012"),
        (-0.00123, math.inf, "-0.0012 ± inf"),
        (2.5e7, 12.0, "2.5e+07 ± 12"),
    ],
)
def test_small_numbers_and_their_intervals_do_not_look_like_0(mean, half, shown):
    assert words.with_half(mean, half, 3) == shown
    assert words.curve([mean, math.nan], None) == f"loss {words.number(mean, 3)} → nan"


def test_different_losses_are_not_compared_and_side_by_side_they_are_noted(tmp_path, capsys):
    for name, task in (("a", Sinusoid()), ("b", Glyphs())):
        write_job(tmp_path / f"{name}.h5", small_config(task=task, workers=1))
    told = "different losses (cross entropy and squared error), which cannot be compared"
    by_task = [tmp_path, "--by", "task"]
    code, _, err = command(capsys, "compare", *by_task)
    assert code == 2
    assert err == f"figures: variable: Values are of {told}: give a metric that all files have, or files of one loss\n"
    code, _, err = command(capsys, "curves", *by_task)
    assert code == 0
    assert told in err
    with style.used():
        picture, _ = figures.draw("curves", reader.read([tmp_path]), Options(), by=["task"])
    assert told in caption(picture)


def test_a_setting_of_several_fields_is_named_by_its_values_in_any_order(tmp_path):
    for rate in (0.1, 0.2):
        for tasks in (5, 7):
            write_job(tmp_path / f"{rate}_{tasks}.h5", small_config(optimizer=SGD(lr=rate), tasks=tasks))
    settings = Settings(reader.read([tmp_path]).jobs, ["optimizer.lr", "tasks"])
    for against in ("0.2,5", "5,0.2", "β 0.2, 5 tasks"):
        table = comparison.compare(settings, Options(against=against)).numbers
        assert table["reference"].unique().tolist() == ["β 0.2, 5 tasks"]


def test_values_in_their_order_come_before_those_in_another(tmp_path):
    for each in ((2, 2), (2, 4), (4, 2), (4, 4)):
        write_job(tmp_path / f"{each}.h5", small_config(workers=each[0], tasks=each[1]))
    settings = Settings(reader.read([tmp_path]).jobs, ["workers", "tasks"])
    table = comparison.compare(settings, Options(against="4,2")).numbers
    assert table["reference"].unique().tolist() == ["4 workers, 2 tasks"]


def test_paired_differences_are_those_seed_by_seed_of_the_seeds_that_both_have(partial):
    (partial / "scaling=workers-2x,seed=1.h5").unlink()
    settings = Settings(reader.read([partial]).jobs, ["scaling"])
    final = comparison.final(settings, "metric", Options())
    final = final[final["step"] == 2]
    table = comparison.differences(settings, final, ("baseline",), "metric", Options(paired=True)).set_index("scaling")
    values = final.set_index("scaling")["values"]
    for name, seeds in (("workers 2x", (0, 2)), ("tasks 4x", (0, 1, 2))):
        found = stats.summarise(np.array([values[name][seed] - values["baseline"][seed] for seed in seeds]))
        np.testing.assert_allclose(
            table.loc[name, ["mean", "low", "high"]].astype(float), [found.mean, found.low, found.high]
        )
        assert (table.loc[name, "n"], table.loc[name, "n_reference"]) == (len(seeds), len(seeds))


def rates(folder, seeds, steps=(2, 2), runs=30):
    """Two settings, each of some seeds."""
    for rate, own, last in zip((0.1, 0.5), seeds, steps, strict=True):
        for seed in own:
            validated = Validation(every=2, tasks=5, steps=last)
            config = small_config(runs=runs, workers=1, optimizer=SGD(lr=rate), seed=seed, validation=validated)
            write_job(folder / f"{rate}_{seed}.h5", config)
    return Settings(reader.read([folder]).jobs, ["optimizer.lr"])


@pytest.mark.parametrize(
    ("seeds", "paired", "counts", "note"),
    [(((0, 1, 2), (1, 2, 3)), True, "Mean of 2 seeds.", "β 0.5: 2 seeds in common with β 0.1, so there is no interval"),
     (((0, 1, 2), (2, 3, 4)), True, "One seed:", "β 0.5: 1 seed in common with β 0.1, so there is no interval"),
     (((0, 1, 2), (0, 1)), False, "Mean of 2 to 3 seeds", "β 0.5: 2 and 3 seeds, so there is no interval"),
     (((0, 1, 2), (0,)), False, "Mean of 1 to 3 seeds", "β 0.5: 1 and 3 seeds, so there is no interval")],
)  # fmt: skip
def test_a_difference_of_fewer_than_three_seeds_has_no_interval_and_says_so(tmp_path, seeds, paired, counts, note):
    settings = rates(tmp_path, seeds)
    with style.used():
        picture = comparison.compare(settings, Options(paired=paired))
    (row,) = picture.numbers.itertuples()
    assert np.isfinite(row.mean)
    assert np.isnan([row.low, row.high]).all()
    assert f"{note}: it takes 3" in picture.notes
    assert counts in caption(picture)


def test_a_pairing_without_a_common_seed_is_refused(tmp_path):
    settings = rates(tmp_path, ((0, 1, 2), (3, 4, 5)))
    assert len(comparison.compare(settings, Options()).numbers) == 1
    with pytest.raises(ValueError, match=r"paired: no other setting shares a seed with β 0\.1"):
        comparison.compare(settings, Options(paired=True))


def test_settings_of_different_adaptation_steps_are_compared_after_the_last_that_all_have(tmp_path):
    settings = rates(tmp_path, ((0, 1, 2), (0, 1, 2)), steps=(1, 3))
    with style.used():
        curves, difference = validation.over(settings, Options()), comparison.compare(settings, Options())
    assert set(curves.numbers["step"]) == {1}
    final = comparison.final(settings, "loss", Options())
    one, other = final[final["step"] == 1]["mean"]
    np.testing.assert_allclose(difference.numbers["mean"], other - one)
    for picture in (curves, difference):
        assert "Held-out tasks after 1 adaptation step" in caption(picture)
    for draw in (validation.over, comparison.compare):
        with pytest.raises(ValueError, match="step: 2 is more than the 1 adaptation step .* they have 1 or 3"):
            draw(settings, Options(step=2))


def test_a_curve_that_few_seeds_go_on_says_so_in_its_caption_and_in_its_final_values(tmp_path, capsys):
    for seed, done in enumerate((20, 20, 30)):
        write_job(tmp_path / f"{seed}.h5", small_config(runs=30, workers=1, seed=seed), runs=done)
    settings = Settings(reader.read([tmp_path]).jobs, [])
    with style.used():
        picture = validation.over(settings, Options())
    said = caption(picture)
    assert "Mean of 1 to 3 seeds, 95% confidence interval (Student's t). Fewer than 3 seeds: no interval." in said
    assert "Some points are of fewer seeds than others of their curve." in said
    ends = picture.numbers["n"] < 3
    assert picture.numbers[ends][["low", "high", "smooth_low", "smooth_high"]].isna().all(axis=None)
    assert tables.main(["final", str(tmp_path)]) == 0
    assert "note: all: seeds are at 20 to 30 runs" in capsys.readouterr().err
    assert "all: seeds are at 20 to 30 runs." in report.page(reader.read([tmp_path]), Options())


def test_two_seeds_have_no_bar_in_a_runs_duration_and_its_speed_up(partial, tmp_path):
    for path in partial.glob("*seed=2.h5"):
        path.unlink()
    for seed in range(2):
        for ranks in (1, 2):
            write_job(tmp_path / f"{ranks}_{seed}.h5", small_config(runs=30, workers=2, seed=seed), ranks)
    settings = Settings(reader.read([partial]).jobs, ["scaling"])
    with style.used():
        pictures = [
            timing.run_time(settings, Options(), figures.RUN_PERCENT),
            timing.speed_up(Settings(reader.read(sorted(tmp_path.glob("*.h5"))).jobs, ["ranks"]), Options()),
        ]
    for picture in pictures:
        assert set(picture.numbers["n"]) == {2}
        assert picture.numbers[["low", "high"]].isna().all(axis=None)
        assert "Mean of 2 seeds. Fewer than 3 seeds: no interval." in caption(picture)


@pytest.mark.parametrize("variable", ["weight", "loss"])
def test_few_workers_are_lines_and_many_an_image(tmp_path, variable):
    write_job(tmp_path / "few.h5", small_config(runs=10, workers=3))
    write_job(tmp_path / "many.h5", small_config(runs=10, workers=8))
    settings = Settings(reader.read([tmp_path]).jobs, ["workers"])
    with style.used():
        few, many, *bar = workers.of_each(settings, Options(), variable).figure.axes
    assert labels(few) == ["worker 0", "worker 1", "worker 2"]
    assert (many.get_ylabel(), len(many.collections), len(bar)) == ("worker", 1, 1)
    assert many.collections[0].get_array().shape == (8, 10)


def test_returns_stand_over_the_environment_steps_of_training(tmp_path):
    task = Navigation(trajectories=3, horizon=7)
    config = small_config(runs=20, workers=2, task=task, algorithm=MAML(inner_lr=0.1, inner_steps=4))
    write_job(tmp_path / "a.h5", config, metric=Metric("return"))
    with style.used():
        picture = validation.over(Settings(reader.read([tmp_path]).jobs, []), Options(), "environment_steps")
    (axis,), rows = picture.figure.axes, picture.numbers
    np.testing.assert_array_equal(rows["environment_steps"], rows["seen_tasks"] * 3 * 7 * 5)
    np.testing.assert_array_equal(axis.lines[0].get_xdata(), rows["environment_steps"])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("environment steps", "validation return")
    for name, joint, sets in (("joint", True, 9), ("apart", False, 5)):
        reptile = replace(config, algorithm=Reptile(inner_steps=4, joint=joint))
        write_job(tmp_path / f"{name}.h5", reptile, metric=Metric("return"))
        table = validation.curves(Settings(reader.read([tmp_path / f"{name}.h5"]).jobs, []), "metric", Options())
        np.testing.assert_array_equal(table["environment_steps"], table["seen_tasks"] * 3 * 7 * sets)
    early = replace(config, algorithm=replace(config.algorithm, multi_step_runs=5))
    write_job(tmp_path / "b.h5", early, metric=Metric("return"))
    table = validation.curves(Settings(reader.read([tmp_path / "b.h5"]).jobs, []), "metric", Options())
    judged_early = np.minimum(table["runs"], 5) * 2 * 5  # runs, workers, tasks
    np.testing.assert_allclose(table["environment_steps"], 3 * 7 * (table["seen_tasks"] * 5 + 3 * judged_early))
    assert "an upper bound where trajectories end before their horizon" in picture.figure.get_supxlabel().replace(
        "\n", " "
    )


# ---- the command


def command(capsys, *arguments):
    """Exit code, lines of stdout, text of stderr."""
    code = figures.main(list(map(str, arguments)))
    shown = capsys.readouterr()
    return code, shown.out.splitlines(), shown.err


def test_a_sweep_of_workers_is_drawn_over_its_ranks(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("set: {runs: 20, tasks: 8}\ngrid: {workers: [1, 2, 4]}\n")
    found = sweep.load(tmp_path / "s.yaml", tmp_path / "results")
    write_sweep(found)
    for point in found.points:
        write_job(point.output, found.described(point), ranks=point.fields["workers"])
    code, _, err = command(capsys, "scaling", found.folder)
    assert (code, err) == (0, "")
    assert pd.read_csv(found.folder / "figure_scaling.csv")["ranks"].tolist() == [1, 2, 4]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_numbers_stand_beside_the_picture(scaling, tmp_path, capsys, suffix, start):
    picture = tmp_path / f"new/picture.{suffix}"
    code, shown, err = command(capsys, "6.17", scaling, "--output", picture)
    assert (code, shown) == (0, [str(picture), str(picture.with_suffix(".csv"))])
    assert "20 points are too few for a polynomial of degree 10" in err
    assert picture.read_bytes().startswith(start)
    numbers = pd.read_csv(picture.with_suffix(".csv"))
    assert {"scaling", "runs", "mean", "low", "high", "n", "fit", "fit_low", "fit_high"} <= set(numbers.columns)


def test_the_same_files_give_the_same_picture(scaling, tmp_path, capsys):
    for name in "ab":
        assert command(capsys, "6.25", scaling, "--output", tmp_path / f"{name}.svg")[0] == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("name", ["seen_tasks", "wall_time", "weights", "losses", "shares", "compare"])
def test_every_general_figure_is_made_of_a_sweep_as_it_is(partial, capsys, name):
    code, shown, err = command(capsys, name, partial)
    assert (code, err) == (0, "")
    assert shown == [str(partial / f"figure_{name}{suffix}") for suffix in (".png", ".csv")]


def test_files_without_a_sweep_are_told_apart_by_what_differs(tmp_path, capsys):
    for rate in (0.1, 0.01):
        write_job(tmp_path / f"{rate}.h5", small_config(runs=30, workers=1, optimizer=SGD(lr=rate)))
    assert command(capsys, "curves", tmp_path)[0] == 0
    assert pd.read_csv(tmp_path / "figure_curves.csv")["optimizer.lr"].unique().tolist() == [0.01, 0.1]


def test_trajectories_are_drawn_from_their_start_to_their_end_beside_their_goal(tmp_path, capsys):
    from hpc_dmaml.models import GaussianPolicy

    run(
        small_config(task=Navigation(trajectories=2, horizon=6), model=GaussianPolicy((4,)), runs=2),
        tmp_path,
        name="n.h5",
    )
    source = read(tmp_path / "n.h5")
    places, goals = source["trajectories/position"].copy(), source["trajectories/goal"]
    places[1, 0, 1, 3:] = np.nan  # it has arrived
    arrays = {**source.arrays, "trajectories/position": places}
    results.write(tmp_path / "n.h5", arrays, source.attributes)
    settings = Settings(reader.read([tmp_path]).jobs, [])
    with style.used():
        picture = trajectories.walks(settings, Options())
    axes = np.reshape(picture.figure.axes, (len(goals), len(places)))
    for task, goal in enumerate(goals):
        for step in range(len(places)):
            *walked, start, cross = axes[task, step].lines
            drawn = [line.get_xydata() for line in walked]
            expected = [one[np.isfinite(one[:, 0])] for one in places[step, task]]
            assert [len(each) for each in drawn] == [len(each) for each in expected]
            assert all(np.array_equal(a, b) for a, b in zip(drawn, expected, strict=True))
            np.testing.assert_array_equal(start.get_xydata()[0], places[step, task, 0, 0])
            np.testing.assert_array_equal(cross.get_xydata()[0], goal)
    assert len(picture.numbers) == np.isfinite(places[..., 0]).sum()
    assert "Trajectories on held-out tasks" in report.page(reader.read([tmp_path]), Options())


def test_files_without_trajectories_say_so(scaling, capsys):
    code, _, err = command(capsys, "trajectories", scaling)
    assert code == 2
    assert "the files keep none" in err


def test_a_field_that_is_not_set_everywhere_tells_files_apart(tmp_path, capsys):
    for name, clip in (("a", None), ("b", 0.5), ("c", 2.0)):
        write_job(tmp_path / f"{name}.h5", small_config(runs=30, workers=1, algorithm=MAML(inner_lr=0.05), clip=clip))
    assert command(capsys, "curves", tmp_path)[0] == 0
    assert pd.read_csv(tmp_path / "figure_curves.csv").groupby("clip", dropna=False).size().tolist() == [
        15,
        15,
        15,
    ]
    settings = Settings(reader.read([tmp_path]).jobs, ["maml.clip"])
    with style.used():
        (axis,) = validation.over(settings, Options()).figure.axes
    assert labels(axis) == ["clip 0.5", "clip 2", "clip: none"]
    assert all(np.isfinite(line.get_ydata()).all() for line in lines(axis).values())


def test_a_missing_point_is_named_and_the_rest_is_drawn(partial, capsys):
    (partial / "scaling=workers-2x,seed=1.h5").unlink()
    code, _, err = command(capsys, "6.17", partial)
    assert code == 0
    assert "note: sweep scaling: 1 of 15 points are missing: scaling=workers-2x,seed=1" in err


def test_bad_input_is_one_message(scaling, partial, tmp_path, capsys):
    other = tmp_path / "other"
    write_job(other / "sine.h5", small_config(workers=1))
    for point in partial.glob("scaling=baseline*"):
        point.unlink()
    for arguments, message in (
        (["6.99", scaling], "there is no figure '6.99'; --list"),
        (["6.17"], "give result files"),
        (["6.17", tmp_path / "none"], "there is no file or folder"),
        (["6.17", other], "needs the files of a sweep with an axis 'scaling'"),
        (["6.17", partial], "the files of the point baseline are missing"),
        (["6.18", scaling], "figure 6.18 shows epochs scaled; there are only workers, tasks"),
        (["curves", scaling, other], "different experiments are mixed, of Glyphs, Sinusoid"),
        (["curves", scaling, "--by", "seed"], "different experiments are mixed"),
        (["curves", other, "--variable", "accuracy"], "these files have no accuracy; they have loss"),
        (["curves", scaling, "--step", "7"], "7 is more than the 2 adaptation steps"),
        (["curves", scaling, "--fit", "high"], "--fit must be a degree or none"),
        (["curves", scaling, "--level", "95"], "level must be between 0 and 1"),
        (["curves", scaling, "--output", tmp_path / "x.doc"], "--output must end in .pdf, .png, .svg"),
        (["compare", scaling, "--against", "all"], "there is no 'all'; there are baseline; workers 2×"),
        (["environment_steps", other], "these files' tasks have no trajectories"),
        (["weights", other], "all jobs have one worker"),
    ):
        code, shown, err = command(capsys, *arguments)
        assert (code, shown) == (2, [])
        assert err.startswith("figures: ")
        assert message in err
        assert err.count("\n") == 1


def test_the_list_names_every_figure(capsys):
    _, shown, _ = command(capsys, "--list")
    assert [line.split()[0] for line in shown] == list(figures.FIGURES)


@pytest.mark.long
@pytest.mark.parametrize("done", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_setting_that_has_but_begun_hides_no_other_in_any_figure_or_table(partial, done):
    described = sweep.read_folder(partial)
    for point in described.points:
        if point.settings["scaling"] == "tasks 2x":
            write_job(point.output, described.parse(point), point.ranks, "running", runs=done)
    found = reader.read([partial])
    with style.used():
        for name, figure in figures.FIGURES.items():
            if name in ("6.18", "trajectories", "environment_steps", "scaling") or figure.axis not in (None, "scaling"):
                continue  # not of these files
            if figures.is_thesis(name) and figure.axis is None:
                continue
            picture, _ = figures.draw(name, found, Options())
            assert len(picture.numbers), figure.title
    for name, (_, make) in tables.TABLES.items():
        assert len(make(figures.of_thesis(name, found, ["scaling"]), Options())[0]) > 3
    assert "tasks 4×" in report.page(found, Options())


def test_losses_over_orders_of_magnitude_are_drawn_on_a_logarithmic_axis(tmp_path):
    for name, factor in (("even", 1.0), ("spike", 1e4)):
        write_job(tmp_path / name / "a.h5", small_config(runs=30, workers=1))
        source = read(tmp_path / name / "a.h5")
        source["validation/loss"][4] *= factor
        results.write(tmp_path / name / "a.h5", source.arrays, source.attributes)
        with style.used():
            settings = Settings(reader.read([tmp_path / name]).jobs, [])
            (axis,) = validation.over(settings, Options(variable="loss")).figure.axes
        assert axis.get_yscale() == ("log" if factor > 1 else "linear")
