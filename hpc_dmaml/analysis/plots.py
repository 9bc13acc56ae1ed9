"""What the pictures show: each function takes settings and gives a figure and the numbers in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from hpc_dmaml.analysis import measures, metrics, reader, stats, style
from hpc_dmaml.analysis.drawing import (
    after,
    binned,
    caption,
    draw_curve,
    draw_workers,
    frame_means,
    is_fitted,
    name_axes,
    number,
    time_unit,
)
from hpc_dmaml.analysis.measures import Options, Settings

X = {
    "runs": "runs",
    "seen_tasks": "training tasks seen",
    "wall_s": "wall time",
    "environment_steps": "environment steps",
}
FAMILIES = ("workers", "epochs", "tasks")
"""The ways to scale, in the thesis's order."""
LONG = 22
"""Characters of a name beside the axes, from which on the picture gets the width of a page."""
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Picture:
    figure: Figure
    numbers: pd.DataFrame
    """What is drawn, and its intervals."""
    notes: tuple[str, ...] = ()
    """Sentences: where it is not what one would expect."""


def chosen_variable(settings: Settings, variable: str | None) -> str:
    """loss or metric: the given one, which may be the metric's own name; else the metric where all jobs have the same.

    Raises ValueError where the jobs have no such metric, or not all the same.
    """
    metric, found = settings.metric, {job.metric for job in settings.all_jobs}
    names = ["loss", *([metric.name, "metric"] if metric else [])]
    if variable is None:
        return "loss" if metric is None else "metric"
    if variable in names:
        return "loss" if variable == "loss" else "metric"
    if len(found) > 1:
        different = ", ".join(sorted({metrics.words(each) if each else "none" for each in found}))
        raise ValueError(
            f"variable: these files have different metrics ({different}): give loss, or files of one metric"
        )
    raise ValueError(f"variable: these files have no {variable}; they have {' and '.join(names[:2])}")


def over_runs(
    settings: Settings, options: Options, title: str, x: str = "runs", variable: str | None = None, panels: bool = False
) -> Picture:
    """Validation over runs, seen tasks, wall time or environment steps: one curve a setting. `panels`: one for each way to scale."""
    variable = chosen_variable(settings, variable)
    table = measures.curves(settings, variable, options)
    if x not in table:
        raise ValueError("environment_steps: these files' tasks have no trajectories")
    if table[x].isna().all():
        raise ValueError(f"no {X[x]} at a validation is finite")
    groups = families(settings) if panels else {"": settings}
    figure, axes = style.subplots(1, len(groups), height=2.6, sharey=True, wide=len(settings.jobs) > style.MANY)
    scale, unit = time_unit(table["wall_s"].max()) if x == "wall_s" else (1.0, "")
    for axis, (name, part) in zip(axes[0], groups.items(), strict=True):
        for key in part.jobs:
            label, line = part.label(key), part.line(key)
            draw_curve(
                axis, _of(table, part, key), x, scale, label, line, 0.13 if len(part.jobs) <= style.MANY else 0.06
            )
        name_axes(axis, settings, variable, X[x] + unit)
        frame_means(axis, table["mean"])
        axis.set_title(name and f"more {name}")
        axis.set_xlim(left=0)
        style.legend(axis, len(part.jobs))
    if len(groups) > 1:
        # The same places in all panels: what comes further to the left is cheaper.
        ends = table.groupby(list(settings.by), observed=True)[x].max() / scale
        wide = 0 < ends.min() < ends.max() / 8
        for axis in axes[0]:
            if wide:
                style.log(axis, "x")
            axis.set_xlim(ends.min() / 30 if wide else 0, ends.max() * 1.05)
            axis.label_outer()
    for axis in axes[0]:
        axis.xaxis.set_major_formatter(number)
    style.title(figure, title)
    step = int(table["step"].iloc[0])
    text = f"Held-out tasks {after(step)}."
    if x == "environment_steps":
        text += " Environment steps of training: an upper bound where trajectories end before their horizon."
    caption(figure, settings, options, text, table)
    return Picture(figure, table, gaps(settings, table, options))


def over_runs_by_step(settings: Settings, options: Options, title: str) -> Picture:
    """Validation over runs: one curve an adaptation step. For a single setting."""
    variable = chosen_variable(settings, None)
    last = int(measures.curves(settings, variable, options)["step"].iloc[0])
    # Of many steps a few: the first ones change most.
    few = np.linspace(0, last, last + 1) if last < style.MANY else np.geomspace(1, last + 1, style.MANY) - 1
    steps = sorted({round(step) for step in few})
    tables = [measures.curves(settings, variable, options, step) for step in steps]
    figure, axes = style.subplots(height=2.7)
    for step, table, colour, dashes in zip(steps, tables, style.steps(len(tables)), style.DASHES, strict=False):
        line = {"color": colour, "linestyle": dashes}
        draw_curve(axes[0, 0], table, "runs", 1.0, after(step), line)
    name_axes(axes[0, 0], settings, variable, X["runs"])
    frame_means(axes[0, 0], pd.concat(tables)["mean"])
    axes[0, 0].set_xlim(left=0)
    axes[0, 0].xaxis.set_major_formatter(number)
    style.legend(axes[0, 0], len(tables))
    style.title(figure, title)
    caption(figure, settings, options, "Held-out tasks.", tables[0])
    return Picture(figure, pd.concat(tables, ignore_index=True), gaps(settings, tables[0], options))


def run_time(
    settings: Settings, options: Options, title: str, published: Mapping[str, Mapping[float, float]] | None = None
) -> Picture:
    """Duration of a run over the ratio, in percent of the baseline; hollow: `published` numbers of the thesis."""
    table = measures.durations(settings, ("baseline",), options)
    figure, axes = style.subplots()
    axis = axes[0, 0]
    for (family, part), shape in zip(families(settings).items(), ("o-", "s--", "^-."), strict=False):
        rows = pd.concat([_of(table, part, key) for key in part.jobs])
        ratios = [_ratio(key) for key in part.jobs]
        colour = style.FIXED[family]
        errors = np.nan_to_num(np.abs(rows[["low", "high"]].to_numpy().T - rows["relative"].to_numpy()))
        axis.errorbar(ratios, rows["relative"], errors, fmt=shape, color=colour, capsize=2, label=family)
        told = published[family] if published else {}
        known = [ratio for ratio in ratios if ratio in told]
        axis.plot(known, [told[ratio] / 100 for ratio in known], "D", mfc="none", mec=colour, ms=6, mew=0.8)
        for key, ratio in zip(part.jobs, ratios, strict=True):
            table.loc[matching(table, part.by, key), "thesis"] = told.get(ratio, np.nan) / 100
    if published:
        axis.plot([], [], "D", mfc="none", mec=style.GREY, ms=5, mew=0.8, label="thesis")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    ticks = sorted({_ratio(key) for key in settings.jobs})
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    style.percent(axis)
    axis.minorticks_off()
    axis.set_xlabel("ratio to the baseline")
    axis.set_ylabel("duration of a run")
    style.legend_below(axis, columns=2)
    style.title(figure, title)
    base = float(_of(table, settings, ("baseline",))["run_s"].iloc[0])
    text = f"Median run without validation; 100 % is {base:.3g} s."
    caption(figure, settings, options, text)
    return Picture(figure, table)


def extrapolation(settings: Settings, options: Options, title: str, runs: int = 1000) -> Picture:
    """Wall time over runs, extrapolated (dotted) to `runs`; one panel for each way to scale."""
    table = measures.wall_times(settings, runs)
    figure, axes = style.subplots(1, len(families(settings)), height=3.0, sharey=True)
    scale, unit = time_unit(table["wall_s"].max())
    for axis, (family, part) in zip(axes[0], families(settings).items(), strict=True):
        for key in part.jobs:
            rows = _of(table, part, key)
            measured, line = rows[~rows["extrapolated"]], part.line(key)
            on = rows.iloc[-2:]
            total = f"{on['wall_s'].iloc[-1] / scale:.3g} {unit.strip(' ()')}"
            axis.plot(measured["runs"], measured["wall_s"] / scale, label=f"{part.label(key)}: {total}", **line)
            if on["extrapolated"].any():
                axis.plot(on["runs"], on["wall_s"] / scale, color=line["color"], linestyle=":", linewidth=0.9)
            axis.plot(on["runs"].iloc[-1], on["wall_s"].iloc[-1] / scale, "o", color=line["color"], ms=3)
        axis.set_title(f"more {family}")
        axis.set_xlabel("runs")
        axis.set_ylabel("wall time" + unit)
        axis.set_xlim(0, runs * 1.03)
        axis.label_outer()
        style.legend_below(axis)
    axes[0, 0].set_ylim(bottom=0)
    style.title(figure, title)
    caption(
        figure,
        settings,
        None,
        f"Lines: measured, validation included; dotted: at each job's mean pace to {runs:,} runs.",
    )
    return Picture(figure, table)


def time_shares(settings: Settings, options: Options, title: str) -> Picture:
    """What a run's time goes to: a bar a setting, from work to the rest."""
    table = measures.shares(settings)
    names = [settings.label(key) for key in settings.jobs]
    figure, axes = style.subplots(height=1.5 + 0.2 * len(names), wide=max(map(len, names)) > LONG)
    axis = axes[0, 0]
    for place, key in enumerate(settings.jobs):
        rows, left = _of(table, settings, key), 0.0
        for part, share in zip(rows["part"], rows["share"], strict=True):
            axis.barh(place, share, left=left, height=0.7, color=style.FIXED[part], label=part if not place else None)
            left += share
        total = rows["seconds"].sum()
        axis.text(1.01, place, f"{total * 1e3:.3g} ms" if total < 1 else f"{total:.3g} s", va="center", fontsize=7)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(visible=False)
    axis.set_xlim(0, 1.16)
    axis.set_xticks(np.linspace(0, 1, 5))
    style.percent(axis, "x")
    axis.set_xlabel("share of a run's time; at the end its duration")
    axis.legend(loc="lower center", bbox_to_anchor=(0.43, 1.0), ncols=5, handlelength=0.8, columnspacing=0.9)
    style.title(figure, title)
    caption(figure, settings, None, "Means over runs (but the first), ranks and seeds. Wait: for slower ranks.")
    return Picture(figure, table)


def per_worker(settings: Settings, options: Options, title: str, variable: str) -> Picture:
    """Weight or loss of each worker over runs, of each setting's first seed: lines, or an image of many workers."""
    groups = list(settings.jobs.items())
    if variable == "weight":
        groups = [(key, jobs) for key, jobs in groups if jobs[0].fields["workers"] > 1]
        if not groups:
            raise ValueError("all jobs have one worker: its weight is 1")
    tables = [reader.table(jobs[:1], "workers", [variable]) for _, jobs in groups]
    groups = [group for group, table in zip(groups, tables, strict=True) if len(table)]
    tables = [table for table in tables if len(table)]
    wide = [table.pivot(index="worker", columns="run", values=variable).to_numpy() for table in tables]
    images = [binned(stats.known(values, axis=None)) for values in wide]
    # One scale for all panels, so that they compare.
    values = stats.known(np.concatenate([image.ravel() for _, image in images] or [np.empty(0)]))
    if np.isnan(values).all():
        raise ValueError(f"the files hold no run yet, or none whose {variable} is finite")
    top, bottom = np.nanmax(values), 0.0 if variable == "weight" else np.nanmin(values)
    norm = LogNorm(bottom, top) if bottom > 0 and top > 4 * bottom else Normalize(bottom, top)
    columns = min(2, len(groups))
    figure, axes = style.subplots(-(-len(groups) // columns), columns, height=1.7)
    for axis, (key, _), (edges, image) in zip(axes.flat, groups, images, strict=False):
        draw_workers(figure, axis, edges, image, variable, norm)
        axis.set_title(settings.label(key) if settings.by else "")
        axis.set_xlabel("runs")
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    style.title(figure, title)
    parts = [settings.frame(key, table) for table, (key, _) in zip(tables, groups, strict=True)]
    first = ", ".join(dict.fromkeys(str(jobs[0].seed) for _, jobs in groups))
    left_out = f" Gaps: {stats.GAPS}." if np.isnan(values).any() else ""
    caption(figure, settings, None, f"Seed {first}.{left_out}", repetitions=False)
    return Picture(figure, pd.concat(parts, ignore_index=True))


def speed_up(settings: Settings, options: Options, title: str) -> Picture:
    """Speed-up and efficiency over the ranks, in training tasks a second, beside the ideal."""
    table = measures.speed(settings, options)
    curve = list(settings.by[:-1])
    figure, axes = style.subplots(1, 2)
    keys = list(dict.fromkeys(key[:-1] for key in settings.jobs))
    lone = [key for key in keys if not matching(table, curve, key).any()]
    keys = [key for key in keys if key not in lone]
    ranks = np.array(sorted(table["ranks"].unique()), float)
    for place, key in enumerate(keys):
        rows = table[matching(table, curve, key)].sort_values("ranks")
        label = ", ".join(style.words(n, v) for n, v in zip(curve, key, strict=True)) or "measured"
        line = style.line(key[0], [k[0] for k in keys]) if len(key) == 1 else {"color": style.COLOURS[place % 7]}
        half = ((rows["high"] - rows["low"]) / 2 / rows["tasks_per_s"]).to_numpy(float)
        for axis, column in zip(axes[0], ("speed_up", "efficiency"), strict=True):
            axis.errorbar(
                rows["ranks"],
                rows[column],
                np.nan_to_num(half * rows[column]),
                marker="o",
                capsize=2,
                label=label,
                **line,
            )
    axes[0, 0].plot(ranks, ranks, ":", color=style.GREY, label="ideal")
    axes[0, 1].axhline(1, linestyle=":", color=style.GREY)
    axes[0, 0].set_yscale("log", base=2)
    axes[0, 0].set_yticks(ranks, [f"{r:g}" for r in ranks])
    axes[0, 0].set_ylabel("speed-up")
    axes[0, 1].set_ylabel("efficiency")
    axes[0, 1].set_ylim(0, max(1.1, np.nanmax(stats.known(table["efficiency"])) * 1.1))
    style.percent(axes[0, 1])
    for axis in axes[0]:
        axis.set_xscale("log", base=2)
        axis.set_xticks(ranks, [f"{r:g}" for r in ranks])
        axis.minorticks_off()
        axis.set_xlabel("ranks")
    style.legend(axes[0, 0], len(keys) + 1)
    style.title(figure, title)
    caption(
        figure, settings, options, "Training tasks a second, validation apart, against the fewest ranks of each curve."
    )
    names = (", ".join(style.words(n, v) for n, v in zip(curve, key, strict=True)) for key in lone)
    return Picture(figure, table, tuple(f"{name}: left out, as it ran on one number of ranks only" for name in names))


def comparison(
    settings: Settings, options: Options, title: str, reference: Key, variable: str | None = None
) -> Picture:
    """Final validation of every other setting less that of the `reference`, with the difference's interval."""
    variable = chosen_variable(settings, variable)
    table = measures.differences(settings, reference, variable, options)
    if table.empty:
        raise ValueError("a comparison needs two settings or more")
    others = settings.some(key for key in settings.jobs if key != reference)
    names = [others.label(key) for key in others.jobs]
    figure, axes = style.subplots(height=1.4 + 0.2 * len(names), wide=max(map(len, names)) > LONG)
    axis = axes[0, 0]
    shown = table.assign(mean=stats.known(table["mean"]))
    for place, key in enumerate(others.jobs):
        row = _of(shown, others, key).iloc[0]
        error = np.nan_to_num([[row["mean"] - row["low"]], [row["high"] - row["mean"]]])
        axis.errorbar(row["mean"], place, xerr=error, marker="o", capsize=3, color=others.line(key)["color"])
    axis.axvline(0, color=style.GREY, linewidth=0.8)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(table) - 0.5, -0.5)
    quantity = settings.quantity(variable)
    unit = quantity.suffix and f" ({quantity.suffix})"
    if quantity.is_share:
        axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g}" if value else "0")
        unit = " (percentage points)"
    axis.set_xlabel(f"final {quantity.name} less that of\n{settings.label(reference)}{unit}")
    style.title(figure, title)
    text = f"Means over the last {options.last:.0%} of the validations; Welch's interval."
    caption(figure, settings, options, text)
    return Picture(figure, table)


def gaps(settings: Settings, curves: pd.DataFrame, options: Options) -> tuple[str, ...]:
    """What to say of curves that rest on less than they should."""
    notes = []
    lost = curves[np.isnan(stats.known(curves["mean"]))]
    for key, jobs in settings.jobs.items():
        rows, label = _of(curves, settings, key), settings.label(key)
        if rows.empty:
            notes.append(f"{label}: no validation yet")
            continue
        if len(jobs) == 1:
            notes.append(f"{label}: one seed, so there is no interval")
        elif 0 < rows["n"].min() < len(jobs):
            notes.append(f"{label}: some points are of {rows['n'].min()} of {len(jobs)} seeds only")
        if missing := len(_of(lost, settings, key)):
            notes.append(f"{label}: {missing} of {len(rows)} points are left out: {stats.GAPS}")
        if options.degree and not is_fitted(rows):
            few = f"{len(rows)} points are too few for a polynomial of degree {options.degree}"
            notes.append(f"{label}: {few}: it takes {stats.POINTS_A_DEGREE * options.degree}")
    return tuple(notes)


def families(settings: Settings) -> dict[str, Settings]:
    """The settings of a scaling sweep, the baseline and the scaled ones, for each way to scale that there is."""
    found = {}
    for family in FAMILIES:
        keys = [key for key in settings.jobs if (s := style.scaled(key[0])) and s[0] == family]
        if keys:
            keys.sort(key=_ratio)
            found[family] = settings.some([("baseline",), *keys])
    return found


def matching(table: pd.DataFrame, names: Any, key: Key) -> np.ndarray:
    """Which rows of a table are of a setting, (rows,) bool."""
    same = np.ones(len(table), bool)
    for name, value in zip(names, key, strict=True):
        # What is None among numbers, pandas makes NaN.
        equal = (each == value if value is not None else each is None or each != each for each in table[name])
        same &= np.fromiter(equal, bool, len(table))
    return same


def _ratio(key: Key) -> float:
    """How many times the baseline a setting of a scaling sweep is."""
    scaled = style.scaled(key[0])
    return scaled[1] if scaled else 1.0


def _of(table: pd.DataFrame, settings: Settings, key: Key) -> pd.DataFrame:
    return table[matching(table, settings.by, key)]
