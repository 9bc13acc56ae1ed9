"""The time of runs: duration, wall time, the parts of it, and speed-up with more ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hpc_dmaml.analysis import checked, reader, stats, style, words
from hpc_dmaml.analysis.settings import BASELINE, Key, Options, Settings, ratio
from hpc_dmaml.analysis.style import Picture

PARTS = ("data", "gradient", "exchange", "wait", "validation")
"""Parts of a rank's time: drawing tasks and sampling trajectories, the rest of its work, and what follows it."""


def run_seconds(job: reader.Job) -> float:
    """Duration of a run without its validation, in seconds: the median over the runs on `job.ranks` ranks, but the first
    (warm-up). NaN if it is not known."""
    source = job.read("runs", "ranks")
    validation = np.nan_to_num(stats.known(source["ranks/validation_s"], axis=None)).max(axis=1, initial=0.0)
    seconds = np.diff(stats.known(source["runs/wall_s"])) - validation[1:]
    seconds = seconds[(checked.ranks_of_runs(source)[1:] == job.ranks) & (seconds > 0)]
    return float(np.median(seconds)) if len(seconds) else float("nan")


# ---- duration of a run


def durations(settings: Settings, baseline: Key, options: Options) -> pd.DataFrame:
    """Duration of a run, a row for each setting: run_s, low_s, high_s, n; relative (to the baseline of the same seed,
    or to its mean where that seed is missing), low, high."""
    seconds = {k: {job.seed: run_seconds(job) for job in jobs} for k, jobs in settings.jobs.items()}
    if baseline not in seconds:
        raise ValueError(f"there is no {settings.label(baseline)} to compare with")
    base = seconds[baseline]
    if not np.isfinite(list(base.values())).any():
        raise ValueError(f"the files of {settings.label(baseline)} do not say how long a run takes: it needs two runs")
    mean, rows = float(stats.mean(np.array(list(base.values())))), []
    for key, own in seconds.items():
        absolute = options.summarise(np.array(list(own.values())))
        relative = options.summarise(np.array([value / base.get(seed, mean) for seed, value in own.items()]))
        absolute, relative = (each.within(0, np.inf) for each in (absolute, relative))
        rows.append({
            **settings.columns(key), "run_s": absolute.mean, "low_s": absolute.low, "high_s": absolute.high,
            "n": absolute.n, "relative": relative.mean, "low": relative.low, "high": relative.high,
        })  # fmt: skip
    return pd.DataFrame(rows)


def run_time(settings: Settings, options: Options, published: Mapping[str, Mapping[float, float]]) -> Picture:
    """Picture of a run's duration over the ratio, in percent of the baseline; hollow: the thesis's, `published`."""
    table = durations(settings, BASELINE, options)
    figure, ((axis,),) = style.subplots()
    for (family, part), shape in zip(settings.families.items(), ("o-", "s--", "^-."), strict=False):
        rows = pd.concat([part.rows(table, key) for key in part.jobs])
        ratios, told, colour = list(map(ratio, part.jobs)), published[family], style.FIXED[family]
        errors = np.abs(rows[["low", "high"]].to_numpy().T - rows["relative"].to_numpy())
        axis.errorbar(ratios, rows["relative"], errors, fmt=shape, color=colour, capsize=2, label=family)
        known = [each for each in ratios if each in told]
        axis.plot(known, [told[each] / 100 for each in known], "D", mfc="none", mec=colour, ms=6, mew=0.8)
        table.loc[rows.index, "thesis"] = [told.get(each, np.nan) / 100 for each in ratios]
    axis.plot([], [], "D", mfc="none", mec=style.GREY, ms=5, mew=0.8, label="thesis")
    low, high = axis.get_ylim()
    if high > 4 * low > 0:
        axis.set_yscale("log", base=2)
    style.doubling(axis, sorted({ratio(key) for key in settings.jobs}))
    style.percent(axis)
    axis.set_xlabel("ratio to the baseline")
    axis.set_ylabel("duration of a run")
    style.legend_below(axis, columns=2)
    base = float(settings.rows(table, BASELINE)["run_s"].iloc[0])
    text = f"Median run without validation; 100 % is {base:.3g} s."
    style.caption(figure, settings.caption(text, options, counts=table["n"]))
    return Picture(figure, table)


# ---- wall time


def wall_times(settings: Settings, runs: int) -> pd.DataFrame:
    """Wall time over runs, extrapolated to `runs` at each job's mean pace. Means over the seeds.

    Columns: the setting, runs (done), wall_s, n, extrapolated (whether not all seeds have come that far).
    """
    parts = []
    for key, jobs in settings.jobs.items():
        table = reader.table(jobs, "runs", ["wall_s"])
        if table.empty:
            continue
        wide = table.pivot(index="run", columns="job", values="wall_s")
        done = wide.index.to_numpy() + 1
        walls = stats.known(wide.to_numpy())
        walls = walls[:, np.isfinite(walls).any(axis=0)].T
        if not len(walls):
            continue
        # Seeds that ended early leave gaps, at which the mean would jump: extrapolate them at their own pace.
        filled = np.array([stats.at_pace(done, wall) for wall in walls])
        shortest = min(done[np.isfinite(wall)][-1] for wall in walls)
        part = settings.frame(key, {"runs": done, "wall_s": filled.mean(axis=0), "extrapolated": done > shortest})
        part = part[done <= runs]
        if done[-1] < runs:
            on = np.array([stats.at_pace(np.append(done, runs), np.append(wall, np.nan))[-1] for wall in filled])
            row = settings.frame(key, {"runs": [runs], "wall_s": [on.mean()], "extrapolated": [True]})
            part = pd.concat([part, row], ignore_index=True)
        parts.append(part.assign(n=len(walls)))
    if not parts:
        raise ValueError("the files hold no wall time yet")
    table = pd.concat(parts, ignore_index=True)
    return table.assign(wall_s=stats.known(table["wall_s"]))


def extrapolation(settings: Settings, options: Options, runs: int = 1000) -> Picture:
    """Picture of wall time over runs, extrapolated (dotted) to `runs`; one panel for each way to scale."""
    table = wall_times(settings, runs)
    figure, axes = style.subplots(1, len(settings.families), height=3.0, sharey=True)
    scale, unit = words.unit_of(table["wall_s"].max())
    for axis, (family, part) in zip(axes[0], settings.families.items(), strict=True):
        for key in part.shown_in(table).jobs:
            rows, line = part.rows(table, key), part.line(key)
            x, y, colour = rows["runs"], rows["wall_s"] / scale, line["color"]
            measured = ~rows["extrapolated"]
            label = f"{part.label(key)}: {y.iloc[-1]:.3g} {unit}"
            axis.plot(x[measured], y[measured], label=style.entry(label), **line)
            if not measured.all():
                on = slice(max(0, int(measured.sum()) - 1), None)
                axis.plot(x.iloc[on], y.iloc[on], color=colour, linestyle=":", linewidth=0.9)
            axis.plot(x.iloc[-1], y.iloc[-1], "o", color=colour, ms=3)
        axis.set_title(f"more {family}")
        axis.set_xlabel("runs")
        axis.set_ylabel(f"wall time ({unit})")
        axis.set_xlim(0, runs * 1.03)
        axis.label_outer()
        style.legend_below(axis)
    axes[0, 0].set_ylim(bottom=0)
    text = f"Lines: measured, validation included; dotted: at each job's mean pace to {runs:,} runs."
    style.caption(figure, settings.caption(text, None))
    return Picture(figure, table)


# ---- parts of a run's time


def shares(settings: Settings) -> pd.DataFrame:
    """Parts of a run's time, a row for each setting and part: seconds per run and share, means over runs, ranks, seeds.

    The parts are `PARTS` and rest: drawing tasks of the validation, weights, writing. The first run (warm-up) is left
    out.
    """
    rows = []
    for key, jobs in settings.jobs.items():
        seconds = []
        for job in jobs:
            source = job.read("runs", "ranks")
            wall = stats.mean(np.diff(stats.known(source["runs/wall_s"])))
            if np.isfinite(wall):
                data, work, *others = (
                    _known_mean(source[f"ranks/{part}_s"][1:]) for part in ("data", "work", *PARTS[2:])
                )
                parts = [data, work - data, *others]
                seconds.append([*parts, max(0.0, float(wall) - sum(parts))])
        if seconds and np.sum(seconds) > 0:
            mean = np.mean(seconds, axis=0)
            for part, value in zip((*PARTS, "rest"), mean, strict=True):
                rows.append({**settings.columns(key), "part": part, "seconds": value, "share": value / mean.sum()})
    if not rows:
        raise ValueError("the files hold fewer than two runs: there is nothing to time")
    return pd.DataFrame(rows)


def _known_mean(values: np.ndarray) -> float:
    """Mean over the ranks of each run, then over the runs, without gaps, which are from ranks that a resume added or
    removed, and the last run of a running job."""
    return float(np.nan_to_num(stats.mean(stats.mean(stats.known(values, axis=None), axis=1))))


def time_shares(settings: Settings, options: Options) -> Picture:
    """Picture of the parts of a run's time: a bar for each setting."""
    table = shares(settings)
    settings = settings.shown_in(table)
    figure, axis = style.named_rows([settings.label(key) for key in settings.jobs], 1.5)
    for place, key in enumerate(settings.jobs):
        rows, left = settings.rows(table, key), 0.0
        for part, share in zip(rows["part"], rows["share"], strict=True):
            axis.barh(place, share, left=left, height=0.7, color=style.FIXED[part], label=part if not place else None)
            left += share
        total = rows["seconds"].sum()
        axis.text(1.01, place, f"{total * 1e3:.3g} ms" if total < 1 else f"{total:.3g} s", va="center", fontsize=7)
    axis.invert_yaxis()
    axis.grid(visible=False)
    axis.set_xlim(0, 1.16)
    axis.set_xticks(np.linspace(0, 1, 5))
    style.percent(axis, "x")
    axis.set_xlabel("share of a run's time; at the end its duration")
    axis.legend(loc="lower center", bbox_to_anchor=(0.43, 1.0), ncols=6, handlelength=0.7, columnspacing=0.7)
    text = "Means over runs (but the first), ranks and seeds. Data: drawing tasks, sampling trajectories. Wait: for slower ranks."
    known = [job.read("ranks")["ranks/data_s"] for job in settings.all_jobs]
    older = sum(bool(len(data_s) and np.isnan(data_s).all()) for data_s in known)
    unknown = f"Of {words.count(older, 'job')} the time for data is not known, and part of gradient." if older else ""
    style.caption(figure, settings.caption(text, None, unknown))
    return Picture(figure, table)


# ---- more ranks


def speed(settings: Settings, options: Options) -> pd.DataFrame:
    """Training tasks per second, speed-up and efficiency over the ranks, for settings whose last name is ranks.

    Columns: the setting with ranks, tasks_per_s, low, high, n, speed_up (relative to the curve's fewest ranks r, whose
    own speed-up is set to r), ideal, efficiency (speed_up / ideal). A curve of only one number of ranks is left out, as
    its efficiency would be 100 % without any measurement. Raises ValueError where there is no other.
    """
    curves: dict[Key, dict[int, stats.Summary]] = {}
    for (*curve, ranks), jobs in settings.jobs.items():
        rates = np.array([job.tasks_of_a_run / run_seconds(job) for job in jobs])
        if np.isfinite(rates).any():
            curves.setdefault(tuple(curve), {})[ranks] = options.summarise(rates)
    rows = []
    for setting, points in curves.items():
        fewest = min(points)
        for ranks, rate in points.items() if len(points) > 1 else ():
            speed_up = rate.mean / points[fewest].mean * fewest
            rows.append({
                **settings.columns((*setting, ranks)), "tasks_per_s": rate.mean, "low": rate.low, "high": rate.high,
                "n": rate.n, "speed_up": speed_up, "ideal": float(ranks), "efficiency": speed_up / ranks,
            })  # fmt: skip
    if not rows:
        there = ", ".join(map(str, sorted({key[-1] for key in settings.jobs})))
        raise ValueError(
            "scaling needs jobs, of two runs or more, that were run on different numbers of ranks (mpirun -n) and are "
            f"otherwise the same; these files have, for each setting, one (ranks: {there})"
        )
    return pd.DataFrame(rows)


def speed_up(settings: Settings, options: Options) -> Picture:
    """Picture of speed-up and efficiency over the ranks, in training tasks per second, beside the ideal. Workers, tasks
    and ranks vary along a curve, and do not distinguish curves."""
    if settings.by[-1:] != ("ranks",):
        by = [name for name in settings.by if name not in ("workers", "tasks", "ranks")]
        settings = Settings(settings.all_jobs, [*by, "ranks"])
    table = speed(settings, options)
    figure, ((left, right),) = style.subplots(1, 2)
    curves = {key: settings.rows(table, key) for key in dict.fromkeys(key[:-1] for key in settings.jobs)}
    lone = [f"{settings.label(key)}: left out, as it ran on one number of ranks only"
            for key, rows in curves.items() if rows.empty]  # fmt: skip
    curves = {key: rows.sort_values("ranks") for key, rows in curves.items() if len(rows)}
    for place, (key, rows) in enumerate(curves.items()):
        line: dict[str, Any] = {"color": style.COLOURS[place % 7], "marker": "o", "capsize": 2}
        line |= style.line(key[0], [each[0] for each in curves]) if len(key) == 1 else {}
        label = style.entry(settings.label(key)) if key else "measured"
        half = ((rows["high"] - rows["low"]) / 2 / rows["tasks_per_s"]).to_numpy(float)
        for axis, column in ((left, "speed_up"), (right, "efficiency")):
            axis.errorbar(rows["ranks"], rows[column], half * rows[column], label=label, **line)
    ranks = sorted(map(float, table["ranks"].unique()))
    left.plot(ranks, ranks, ":", color=style.GREY, label="ideal")
    right.axhline(1, linestyle=":", color=style.GREY)
    left.set_ylabel("speed-up")
    style.doubling(left, ranks, "y")
    right.set_ylabel("efficiency")
    right.set_ylim(0, max(1.1, np.nanmax(stats.known(table["efficiency"])) * 1.1))
    style.percent(right)
    for axis in (left, right):
        style.doubling(axis, ranks)
        axis.set_xlabel("ranks")
    style.legend(left, len(curves) + 1)
    text = "Training tasks a second, validation apart, against the fewest ranks of each curve."
    style.caption(figure, settings.caption(text, options, counts=table["n"]))
    return Picture(figure, table, tuple(lone))
