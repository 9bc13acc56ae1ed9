"""Validation over runs, seen tasks, wall time or environment steps: numbers, pictures and notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hpc_dmaml.analysis import reader, stats, style, words
from hpc_dmaml.analysis.settings import Key, Options, Settings, ratio
from hpc_dmaml.analysis.style import Picture

X = {
    "runs": "runs",
    "seen_tasks": "training tasks seen",
    "wall_s": "wall time",
    "environment_steps": "environment steps",
}
TRAJECTORIES = ("task.trajectories", "task.horizon", "algorithm.inner_steps")
"""Fields that say how many environment steps a task takes."""
MANY_DOTS = 300
"""Points of a curve with more than this many are drawn as pixels, also in a vector picture."""
WIDE = 20
"""A loss whose maximum is more than this many times its median is drawn on a logarithmic axis."""
Published = Mapping[float, Mapping[int, float]]
"""The thesis's accuracies for a family of scaled settings: {ratio: {runs: accuracy}}."""


def curves(settings: Settings, variable: str, options: Options, step: int | None = None) -> pd.DataFrame:
    """Validation over runs, loss or metric (`variable`): a row for each setting and validation.

    Columns: the setting, variable (its name), step, runs (done), seen_tasks, wall_s, in reinforcement learning
    environment_steps, mean, low, high, n (seeds), window and smooth, smooth_low, smooth_high: mean and limits of the
    seeds' moving averages over `window` validations; with `options.degree` also fit, fit_low, fit_high: the polynomials
    through mean and limits, each fitted over the runs separately.
    """
    parts, wanted = [], settings.step(options) if step is None else step
    for key, jobs in settings.jobs.items():
        table = reader.table(jobs, "validation", [variable])
        if table.empty:
            continue
        wide = table[table["step"] == wanted].pivot(
            index="run", columns="job", values=[variable, "seen_tasks", "wall_s"]
        )
        values = stats.known(wide[variable].to_numpy()).T
        done = wide.index.to_numpy() + 1
        window, possible = stats.window_for(len(wide)), settings.limits(variable)
        summary, smooth = (
            options.summarise(each).within(*possible) for each in (values, stats.smoothed(values, window))
        )
        rows = {
            "variable": settings.quantity(variable).name, "step": wanted, "runs": done,
            "seen_tasks": stats.mean(stats.known(wide["seen_tasks"].to_numpy()), axis=1),
            "wall_s": stats.mean_time(done, stats.known(wide["wall_s"].to_numpy()).T),
            "mean": summary.mean, "low": summary.low, "high": summary.high, "n": summary.n,
            "window": window, "smooth": smooth.mean, "smooth_low": smooth.low, "smooth_high": smooth.high,
        }  # fmt: skip
        if has_trajectories(jobs[0]):
            rows["environment_steps"] = _environment_steps(jobs[0], rows["runs"], rows["seen_tasks"])
        if options.degree is not None:
            for name, column in (("fit", "mean"), ("fit_low", "low"), ("fit_high", "high")):
                polynomial = stats.fit(rows["runs"], rows[column], options.degree)
                there = np.isfinite(stats.known(rows[column]))
                fitted = np.full(len(there), np.nan) if polynomial is None else polynomial(rows["runs"])
                rows[name] = np.where(there, np.clip(fitted, *possible), np.nan)
        parts.append(settings.frame(key, rows))
    if not parts:
        raise ValueError("the files hold no validation yet")
    if not any(part["n"].any() for part in parts):
        raise ValueError(f"no validation {settings.quantity(variable).name} is finite")
    table = pd.concat(parts, ignore_index=True)
    return table.assign(**{x: stats.known(table[x]) for x in ("seen_tasks", "wall_s")})


def has_trajectories(job: reader.Job) -> bool:
    """Whether the job's tasks take environment steps, and say how many; an algorithm of one's own may draw any number."""
    own = "." in str(job.fields.get("algorithm"))
    return not own and all(isinstance(job.fields.get(name), int) for name in TRAJECTORIES)


def _environment_steps(job: reader.Job, runs: np.ndarray, seen_tasks: np.ndarray) -> np.ndarray:
    """Most environment steps that training has taken after so many runs and tasks (trajectories may end before their
    horizon).

    New ones are drawn for each inner step and for the query; while the query counts after each step, for each of these;
    where Reptile adapts on the query too, in each inner step.
    """
    trajectories, horizon, inner_steps = map(job.fields.__getitem__, TRAJECTORIES)
    sets = inner_steps * (2 if job.fields.get("algorithm.joint") else 1) + 1
    multi_step_runs = job.fields.get("algorithm.multi_step_runs")
    early = np.minimum(1, multi_step_runs / runs) if isinstance(multi_step_runs, int) else 0
    return seen_tasks * trajectories * horizon * (sets + max(0, inner_steps - 1) * early)


def over(
    settings: Settings, options: Options, x: str = "runs", panels: bool = False, published: Published | None = None
) -> Picture:
    """Picture of validation over one of `X`: one curve per setting. `panels`: one for each way to scale. `published`:
    the thesis's accuracies, as hollow marks."""
    variable = settings.variable(options)
    table = curves(settings, variable, options)
    if x not in table:
        raise ValueError("environment_steps: these files' tasks have no trajectories")
    if table[x].isna().all():
        raise ValueError(f"no {X[x]} at a validation is finite")
    groups = settings.families if panels else {"": settings}
    figure, axes = style.subplots(1, len(groups), height=2.6, sharey=True, wide=len(settings.jobs) > style.MANY)
    scale, unit = words.unit_of(table["wall_s"].max()) if x == "wall_s" else (1.0, "")
    marked = False
    for axis, part in zip(axes[0], groups.values(), strict=True):
        for key in part.jobs:
            fainter = len(part.jobs) > style.MANY
            _draw(axis, settings.rows(table, key), x, scale, part.label(key), part.line(key), 0.06 if fainter else 0.13)
    # Panels share their y axis, which no longer grows with the curves once its limits are set.
    for axis, (name, part) in zip(axes[0], groups.items(), strict=True):
        _name(axis, settings, variable, X[x] + (unit and f" ({unit})"), table["mean"])
        axis.set_title(name and f"more {name}")
        if published and settings.quantity(variable).name == "accuracy":
            marked |= _mark(axis, settings, published, table["runs"].max())
        style.legend(axis, len(part.jobs))
    if len(groups) > 1:
        # The same x axis in all panels: further to the left is cheaper.
        ends = table.groupby(list(settings.by), observed=True)[x].max() / scale
        wide = 0 < ends.min() < ends.max() / 8
        for axis in axes[0]:
            if wide:
                style.log(axis, "x")
                axis.xaxis.set_major_formatter(_number)
            axis.set_xlim(ends.min() / 30 if wide else 0, ends.max() * 1.05)
            axis.label_outer()
    text = f"Held-out tasks {words.after(int(table['step'].iloc[0]))}."
    if x == "environment_steps":
        text += " Environment steps of training: an upper bound where trajectories end before their horizon."
    if marked:
        text += " Hollow: the thesis's, read off its figure."
    mixed = settings.mixed(variable)
    how = _how_drawn(settings, table, options)
    style.caption(figure, settings.caption(text, options, *how, mixed, counts=table["n"]))
    return Picture(figure, table, (*_gaps(settings, table, options), *filter(None, [mixed])))


def by_step(settings: Settings, options: Options) -> Picture:
    """Picture of validation over runs: one curve per adaptation step. For a single setting."""
    variable = settings.variable(options)
    last = int(curves(settings, variable, options)["step"].iloc[0])
    # Of many steps draw a few: the first ones change most.
    few = np.linspace(0, last, last + 1) if last < style.MANY else np.geomspace(1, last + 1, style.MANY) - 1
    tables = [curves(settings, variable, options, step) for step in sorted({round(step) for step in few})]
    figure, ((axis,),) = style.subplots(height=2.7)
    for table, colour, dashes in zip(tables, style.steps(len(tables)), style.DASHES, strict=False):
        label = words.after(int(table["step"].iloc[0]))
        _draw(axis, table, "runs", 1.0, label, {"color": colour, "linestyle": dashes}, 0.13)
    table = pd.concat(tables, ignore_index=True)
    _name(axis, settings, variable, X["runs"], table["mean"])
    style.legend(axis, len(tables))
    how = _how_drawn(settings, table, options)
    style.caption(figure, settings.caption("Held-out tasks.", options, *how, counts=table["n"]))
    return Picture(figure, table, _gaps(settings, tables[-1], options))


def _draw(axis: Axes, rows: pd.DataFrame, x: str, scale: float, label: str, line: dict[str, Any], band: float) -> None:
    """Draw the means as points, their fit or moving average as a line, and its limits, if seeds are enough, as a band
    of opacity `band`."""
    if rows.empty:
        return
    places, colour = rows[x] / scale, line["color"]
    drawn = "fit" if _is_fitted(rows) else "smooth"
    if drawn == "fit" or rows["window"].iloc[0] > 1:
        size, alpha = (2, 0.15) if len(rows) > 100 else (3.5, 0.35)
        dots = axis.plot(places, stats.known(rows["mean"]), ".", color=colour, ms=size, alpha=alpha, mew=0, zorder=1.5)
        dots[0].set_rasterized(len(rows) > MANY_DOTS)
    mean, low, high = (stats.known(rows[name]) for name in (drawn, f"{drawn}_low", f"{drawn}_high"))
    style.plot(axis, places, mean, label, **line)
    if rows["n"].max() >= stats.FEWEST:
        axis.fill_between(places, low, high, color=colour, alpha=band, linewidth=0)


def _is_fitted(rows: pd.DataFrame) -> bool:
    """Whether this curve has a polynomial fit, and so points enough for one."""
    return "fit" in rows and bool(rows["fit"].notna().any())


def _name(axis: Axes, settings: Settings, variable: str, x_label: str, means: pd.Series) -> None:
    """Set the labels and limits of the axes."""
    axis.set_xlabel(x_label)
    axis.xaxis.set_major_formatter(_number)
    quantity = settings.quantity(variable)
    if variable == "metric":
        axis.set_ylabel(f"validation {words.metric(quantity)}")
        chance, *others = {job.chance for job in settings.all_jobs}
        if chance is not None and not others:
            axis.axhline(chance, color=style.GREY, linestyle=":", linewidth=0.8)
        if quantity.is_share:
            style.percent(axis)
            low, high = axis.get_ylim()
            axis.set_ylim(max(low, -0.005), min(high, 1.005))
    else:
        kinds = {words.loss(str(job.attributes["loss"])) for job in settings.all_jobs}
        axis.set_ylabel(f"validation loss\n({', '.join(sorted(kinds))})")
    # The limits of few seeds can be far away: show the means, with room around them.
    known = pd.Series(stats.known(means))
    low, high = known.agg(["min", "max"])
    room, (bottom, top) = 0.6 * (high - low), axis.get_ylim()
    if variable == "loss" and low > 0 and high > WIDE * known.median():
        style.log(axis)
        axis.set_ylim(low / 1.3, high * 1.3)
    elif room > 0:
        axis.set_ylim(max(bottom, low - room), min(top, high + room))
    axis.set_xlim(left=0)


def _mark(axis: Axes, settings: Settings, published: Published, most: int) -> bool:
    """Draw the thesis's accuracies for its settings, up to `most` runs. Returns whether there are any."""
    drawn = [(key, told) for key in settings.jobs if (told := published.get(ratio(key)))]
    for key, told in drawn:
        points = {run: accuracy for run, accuracy in told.items() if run <= most}
        line = {"mfc": "none", "mec": settings.line(key)["color"], "ms": 5, "mew": 0.9, "clip_on": False}
        axis.plot(list(points), list(points.values()), "D", zorder=3, **line)
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, *points.values()), min(1.005, max(high, 0.02 + max(points.values()))))
    return bool(drawn)


def _number(value: float, _: float) -> str:
    """A number as a label of an axis: 500, 20k, 3M."""
    size, letter = (1e6, "M") if value >= 1e6 else (1e3, "k") if value >= 1e3 else (1.0, "")
    return f"{value / size:g}{letter}"


def _how_drawn(settings: Settings, table: pd.DataFrame, options: Options) -> list[str]:
    """Sentences on how the curves are drawn, and on what they leave out."""
    said = [settings.cut(table)]
    parts = [rows for key in settings.jobs if len(rows := settings.rows(table, key))]
    if any(0 < rows["n"].min() < rows["n"].max() for rows in parts):
        said.append("Some points are of fewer seeds than others of their curve.")
    if np.isnan(stats.known(table["mean"])).any():
        said.append(f"Left out: means that are {stats.GAPS}.")
    if any(map(_is_fitted, parts)):
        said.append(f"Lines: polynomial fits of degree {options.degree}.")
    windows = sorted({int(rows["window"].iloc[0]) for rows in parts if not _is_fitted(rows)} - {1})
    if windows:
        said.append(f"Lines: centred moving averages over {' or '.join(map(str, windows))} validations.")
    return said


def _gaps(settings: Settings, table: pd.DataFrame, options: Options) -> tuple[str, ...]:
    """Notes on curves with fewer data than they should have."""

    def of(key: Key, jobs: list[reader.Job]) -> list[str]:
        rows = settings.rows(table, key)
        if rows.empty:
            return ["no validation yet"]
        notes = []
        if len(jobs) == 1:
            notes.append("one seed, so there is no interval")
        elif 0 < rows["n"].min() < len(jobs):
            notes.append(f"some points are of {rows['n'].min()} of {len(jobs)} seeds only")
        missing = np.isnan(stats.known(table["mean"]))[rows.index].sum()
        if missing:
            notes.append(f"{missing} of {len(rows)} points are left out: {stats.GAPS}")
        if options.degree and not _is_fitted(rows):
            few = f"{len(rows)} points are too few for a polynomial of degree {options.degree}"
            notes.append(f"{few}: it takes {stats.POINTS_A_DEGREE * options.degree}")
        return notes

    return tuple(f"{settings.label(key)}: {note}" for key, jobs in settings.jobs.items() for note in of(key, jobs))
