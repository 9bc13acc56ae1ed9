"""The numbers behind the pictures: from the jobs of some settings to tidy tables, one row for each thing that is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hpc_dmaml.analysis import metrics, reader, stats, style
from hpc_dmaml.losses.metric import Metric
from hpc_dmaml.old_names import modern

NOT_NEGATIVE = {"cross_entropy", "squared_error"}
"""Losses."""
PARTS = ("work", "exchange", "wait", "validation")
"""What a rank's time goes to, as the columns of the table ranks name it."""


@dataclass(frozen=True)
class Options:
    """How numbers are made of files."""

    interval: stats.Kind = "t"
    level: float = stats.LEVEL
    degree: int | None = None
    """Of the thesis's polynomial fit; None for a moving average."""
    step: int | None = None
    """Adaptation step of the validation; None for the last."""
    last: float = 0.1
    """Final values are means over this last part of the validations, at least one."""

    def __post_init__(self) -> None:
        for good, name, value, rule in (
            (0 < self.level < 1, "level", self.level, "between 0 and 1"),
            (self.degree is None or self.degree >= 1, "degree", self.degree, "1 or more"),
            (self.step is None or self.step >= 0, "step", self.step, "0 (before adaptation) or more"),
            (0 < self.last <= 1, "last", self.last, "above 0, up to 1"),
        ):
            if not good:
                raise ValueError(f"{name} must be {rule}, not {value}")

    @property
    def words(self) -> str:
        return f"{self.level:.0%} confidence interval ({stats.NAMES[self.interval]})"

    def summarise(self, values: np.ndarray) -> stats.Summary:
        return stats.summarise(values, self.interval, self.level)


class Settings:
    """Jobs by what tells them apart, and how each setting is called and drawn."""

    def __init__(self, jobs: Sequence[reader.Job], by: Sequence[str], every: Iterable[tuple[Any, ...]] = ()) -> None:
        """`by`: axes or fields. `every`: all settings of the sweep, so that colours stay where some are left out.

        Raises ValueError where a setting's jobs are no repetitions of one another.
        """
        self.by, self.notes = tuple(map(modern, by)), list[str]()
        self.jobs = {key: self._once(key, members) for key, members in reader.grouped(jobs, self.by).items()}
        self._every = list(dict.fromkeys([*every, *self.jobs]))
        self.jobs = {key: self.jobs[key] for key in self._every if key in self.jobs}  # in the sweep's order

    def _once(self, key: tuple[Any, ...], jobs: list[reader.Job]) -> list[reader.Job]:
        """Of files of the same seed, the first: they are no independent repetitions."""
        once = {job.seed: job for job in reversed(jobs)}
        twice = [job.path.name for job in jobs if job not in once.values()]
        if twice:
            self.notes.append(f"{self.label(key)}: left out, as their seeds are there already: {', '.join(twice)}")
        return sorted(once.values(), key=lambda job: job.seed)

    def label(self, key: tuple[Any, ...]) -> str:
        return ", ".join(style.words(n, v) for n, v in zip(self.by, key, strict=True)) or "all"

    def line(self, key: tuple[Any, ...]) -> dict[str, Any]:
        """Colour and line style, as options of `Axes.plot`."""
        if len(self.by) == 1:
            return style.line(key[0], [each[0] for each in self._every])
        return style.line(key, self._every)

    def columns(self, key: tuple[Any, ...]) -> dict[str, Any]:
        """What a row of a table says of the setting."""
        return dict(zip(self.by, key, strict=True))

    def frame(self, key: tuple[Any, ...], columns: Any) -> pd.DataFrame:
        """A table of columns, with what says of the setting in front."""
        table = pd.DataFrame(columns)
        for place, (name, value) in enumerate(self.columns(key).items()):
            table.insert(place, name, [value] * len(table))  # a value may be a tuple: to pandas a column of its own
        return table

    def some(self, keys: Iterable[tuple[Any, ...]]) -> Settings:
        """Only these settings, looking as before."""
        part = object.__new__(Settings)
        part.by, part.notes, part._every = self.by, self.notes, self._every
        part.jobs = {key: self.jobs[key] for key in keys if key in self.jobs}
        return part

    @property
    def all_jobs(self) -> list[reader.Job]:
        return [job for jobs in self.jobs.values() for job in jobs]

    @property
    def metric(self) -> Metric | None:
        """The one that all jobs are judged by, if there is such a one."""
        found = {job.metric for job in self.all_jobs}
        return found.pop() if len(found) == 1 else None

    def cut(self, table: pd.DataFrame) -> str:
        """What to say of a table of the variable whose limits end at what is possible."""
        least, most = self.limits("loss" if table["variable"].iloc[0] == metrics.LOSS.name else "metric")
        drawn = table["n"].max() >= stats.FEWEST
        if not drawn or not ((table["low"] == least).any() or (table["high"] == most).any()):
            return ""
        return f"Intervals are cut at {'0 and 100 %' if most == 1 else '0'}."

    def limits(self, variable: str) -> tuple[float, float]:
        """Between which the variable lies by its nature."""
        if self.quantity(variable).is_share:
            return 0.0, 1.0
        losses = {str(job.attributes["loss"]) for job in self.all_jobs}
        return (0.0 if variable == "loss" and losses <= NOT_NEGATIVE else -np.inf), np.inf

    def quantity(self, variable: str) -> Metric:
        """What the numbers of the variable are, loss or metric. Raises ValueError where the jobs have no metric in common."""
        if variable == "metric" and self.metric is None:
            raise ValueError("the files have no metric in common")
        return (variable == "metric" and self.metric) or metrics.LOSS

    @property
    def few_seeds(self) -> str:
        """What to say where no interval means something; nothing where each does, or where there is none."""
        two = self.repeated and min(len(jobs) for jobs in self.jobs.values() if len(jobs) > 1) < stats.FEWEST
        return "2 seeds: interval not meaningful." if two else ""

    @property
    def has_best(self) -> bool:
        """Are there settings to compare, each of seeds enough?"""
        return len(self.jobs) > 1 and all(len(jobs) >= stats.FEWEST for jobs in self.jobs.values())

    @property
    def seeds(self) -> str:
        """How many repetitions there are, in words."""
        counts = sorted({len(jobs) for jobs in self.jobs.values()})
        return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"

    @property
    def repeated(self) -> bool:
        """Is there a setting with more than one seed?"""
        return any(len(jobs) > 1 for jobs in self.jobs.values())


def curves(settings: Settings, variable: str, options: Options, step: int | None = None) -> pd.DataFrame:
    """Validation over runs, loss or metric (`variable`): a row for each setting and validation.

    Columns: the setting, variable (its name), step, runs (done), seen_tasks, wall_s, in reinforcement learning
    environment_steps, mean, low, high, n (seeds), window and
    smooth, smooth_low, smooth_high: mean and limits of the seeds' moving averages over so many validations; with
    `options.degree` also fit, fit_low, fit_high: the polynomials through mean and limits, each fitted over the runs by itself.
    """
    parts = []
    for key, jobs in settings.jobs.items():
        table = reader.table(jobs, "validation", [variable])
        if table.empty:
            continue
        wanted = options.step if step is None else step
        last = int(table["step"].max())
        if wanted is not None and wanted > last:
            raise ValueError(f"step: {wanted} is more than the {last} adaptation steps of the validation")
        table = table[table["step"] == (last if wanted is None else wanted)]
        wide = table.pivot(index="run", columns="job", values=[variable, "seen_tasks", "wall_s"])
        values = stats.known(wide[variable].to_numpy()).T
        window = stats.window_for(len(wide))
        possible = settings.limits(variable)
        summary, smooth = (
            options.summarise(each).within(*possible) for each in (values, stats.smoothed(values, window))
        )
        rows = {
            "variable": settings.quantity(variable).name, "step": last if wanted is None else wanted,
            "runs": wide.index.to_numpy() + 1,
            **{x: stats.mean(stats.known(wide[x].to_numpy()), axis=1) for x in ("seen_tasks", "wall_s")},
            "mean": summary.mean, "low": summary.low, "high": summary.high, "n": summary.n,
            "window": window, "smooth": smooth.mean, "smooth_low": smooth.low, "smooth_high": smooth.high,
        }  # fmt: skip
        if (steps := steps_of_a_task(jobs[0])) is not None:
            rows["environment_steps"] = rows["seen_tasks"] * steps
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


def steps_of_a_task(job: reader.Job) -> int | None:
    """Steps in the environment that learning from one task takes, at most: trajectories may end before their horizon. It
    draws them anew for each inner step and for the query. None where the tasks have no trajectories."""
    names = ("task.trajectories", "task.horizon", "algorithm.inner_steps")
    found = [each for each in map(job.fields.get, names) if isinstance(each, int)]
    if len(found) < len(names):
        return None
    trajectories, horizon, inner_steps = found
    return trajectories * horizon * (inner_steps + 1)


def final(settings: Settings, variable: str, options: Options) -> pd.DataFrame:
    """Where validation ends: a row for each setting and adaptation step; mean over the last part of the validations.

    Columns: the setting, variable, step, runs (done, on average), mean, half (of the interval), low, high (cut at what is
    possible), n, and values (one a seed).
    """
    rows = []
    for key, jobs in settings.jobs.items():
        ends, runs = [], []
        for job in jobs:
            values = stats.known(stats.over_tasks(job.read("validation")[f"validation/{variable}"]))  # (V, S + 1)
            if len(values):
                ends.append(stats.mean(values[-max(1, round(options.last * len(values))) :], axis=0))
                runs.append(len(job.read("runs")["runs/run"]))
        if not ends:
            continue
        steps = max(map(len, ends))
        ends = [np.pad(end, (0, steps - len(end)), constant_values=np.nan) for end in ends]
        summary = options.summarise(np.array(ends))
        possible = summary.within(*settings.limits(variable))
        for step in range(steps):
            row = {
                **settings.columns(key), "variable": settings.quantity(variable).name, "step": step, "runs": float(np.mean(runs)),
                "mean": summary.mean[step], "half": summary.high[step] - summary.mean[step],
                "low": possible.low[step], "high": possible.high[step],
                "n": int(summary.n[step]), "values": tuple(float(end[step]) for end in ends),
            }  # fmt: skip
            rows.append(row)
    if not rows:
        raise ValueError("the files hold no validation yet")
    return pd.DataFrame(rows)


def differences(settings: Settings, reference: tuple[Any, ...], variable: str, options: Options) -> pd.DataFrame:
    """Final values of each other setting less those of the `reference`: mean, low, high (Welch), n, n_reference."""
    table = final(settings, variable, options)
    table = table[table["step"] == (table["step"].max() if options.step is None else options.step)]
    samples = {tuple(row[name] for name in settings.by): row["values"] for _, row in table.iterrows()}
    if reference not in samples:
        raise ValueError(f"there is no setting {settings.label(reference)}")
    least, most = settings.limits(variable)
    width, rows = most - least, []
    for key, values in samples.items():
        if key == reference:
            continue
        found = stats.difference(values, samples[reference], options.interval, options.level)
        low, high = np.clip([found.low, found.high], -width, width)
        row = {
            **settings.columns(key), "variable": settings.quantity(variable).name, "reference": settings.label(reference),
            "mean": found.mean, "low": low, "high": high,
            "n": int(np.isfinite(values).sum()), "n_reference": int(np.isfinite(samples[reference]).sum()),
        }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def run_seconds(job: reader.Job) -> float:
    """Duration of a run without its validation, in seconds: the median over all runs but the first, which warms up. NaN
    where the file does not say it."""
    source = job.read("runs", "ranks")
    validation = np.nan_to_num(stats.known(source["ranks/validation_s"], axis=None)).max(axis=1)
    seconds = np.diff(stats.known(source["runs/wall_s"])) - validation[1:]
    seconds = seconds[seconds > 0]
    return float(np.median(seconds)) if len(seconds) else float("nan")


def durations(settings: Settings, baseline: tuple[Any, ...], options: Options) -> pd.DataFrame:
    """Duration of a run, a row for each setting: run_s, low_s, high_s, n; relative (to the baseline of the same seed,
    or to its mean where that seed is missing), low, high."""
    seconds = {k: {job.seed: run_seconds(job) for job in jobs} for k, jobs in settings.jobs.items()}
    if baseline not in seconds:
        raise ValueError(f"there is no {settings.label(baseline)} to compare with")
    base = seconds[baseline]
    if not np.isfinite(list(base.values())).any():
        raise ValueError(f"the files of {settings.label(baseline)} do not say how long a run takes: it needs two runs")
    rows = []
    for key, own in seconds.items():
        absolute = options.summarise(np.array(list(own.values())))
        mean = float(stats.mean(np.array(list(base.values()))))
        ratios = [value / base.get(seed, mean) for seed, value in own.items()]
        relative = options.summarise(np.array(ratios))
        row = {
            **settings.columns(key), "run_s": absolute.mean, "low_s": absolute.low, "high_s": absolute.high,
            "n": absolute.n, "relative": relative.mean, "low": relative.low, "high": relative.high,
        }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def wall_times(settings: Settings, runs: int) -> pd.DataFrame:
    """Wall time over runs, and on to so many `runs` at each job's mean pace. Means over the seeds.

    Columns: the setting, runs (done), wall_s, n, extrapolated (the last row of a setting that has not come so far).
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
        # Seeds that ended early leave gaps, which would make the mean jump: they go on at their own pace.
        filled = np.array([_at_pace(done, wall) for wall in walls])
        part = settings.frame(key, {"runs": done, "wall_s": filled.mean(axis=0), "extrapolated": False})[done <= runs]
        if done[-1] < runs:
            on = np.array([_at_pace(np.append(done, runs), np.append(wall, np.nan))[-1] for wall in filled])
            row = settings.frame(key, {"runs": [runs], "wall_s": [on.mean()], "extrapolated": [True]})
            part = pd.concat([part, row], ignore_index=True)
        parts.append(part.assign(n=len(walls)))
    if not parts:
        raise ValueError("the files hold no wall time yet")
    table = pd.concat(parts, ignore_index=True)
    return table.assign(wall_s=stats.known(table["wall_s"]))


def shares(settings: Settings) -> pd.DataFrame:
    """What a run's time goes to, a row for each setting and part: seconds a run and share, means over runs, ranks, seeds.

    The parts are `PARTS` and rest: drawing tasks of the validation, weights, writing. The first run, which warms up, is
    left out.
    """
    rows = []
    for key, jobs in settings.jobs.items():
        seconds = []
        for job in jobs:
            source = job.read("runs", "ranks")
            wall = stats.mean(np.diff(stats.known(source["runs/wall_s"])))
            if np.isfinite(wall):
                parts = [_known_mean(source[f"ranks/{part}_s"][1:]) for part in PARTS]
                seconds.append([*parts, max(0.0, float(wall) - sum(parts))])
        if seconds and np.sum(seconds) > 0:
            mean = np.mean(seconds, axis=0)
            for part, value in zip((*PARTS, "rest"), mean, strict=True):
                rows.append({**settings.columns(key), "part": part, "seconds": value, "share": value / mean.sum()})
    if not rows:
        raise ValueError("the files hold fewer than two runs: there is nothing to time")
    return pd.DataFrame(rows)


def speed(settings: Settings, options: Options) -> pd.DataFrame:
    """Training tasks a second over the ranks, for settings whose last name is ranks; speed-up and efficiency.

    Columns: the setting with ranks, tasks_per_s, low, high, n, speed_up (to the fewest ranks of the same curve, and as
    many times faster as there are ranks there), ideal, efficiency (speed_up / ideal). A curve measured on one number of
    ranks alone is left out: its efficiency of 100 % would be nobody's measurement. Raises ValueError where no other is.
    """
    curves: dict[tuple[Any, ...], dict[int, stats.Summary]] = {}
    for (*curve, ranks), jobs in settings.jobs.items():
        tasks = [job.fields["workers"] * job.fields["epochs"] * job.fields["tasks"] for job in jobs]
        rates = np.array([n / run_seconds(job) for n, job in zip(tasks, jobs, strict=True)])
        if np.isfinite(rates).any():
            curves.setdefault(tuple(curve), {})[ranks] = options.summarise(rates)
    rows = []
    for setting, points in curves.items():
        fewest = min(points)
        for ranks, rate in points.items() if len(points) > 1 else ():
            speed_up = rate.mean / points[fewest].mean * fewest
            row = {
                **settings.columns((*setting, ranks)), "tasks_per_s": rate.mean, "low": rate.low, "high": rate.high,
                "n": rate.n, "speed_up": speed_up, "ideal": float(ranks), "efficiency": speed_up / ranks,
            }  # fmt: skip
            rows.append(row)
    if not rows:
        there = ", ".join(map(str, sorted({key[-1] for key in settings.jobs})))
        raise ValueError(
            "scaling needs jobs, of two runs or more, that were run on different numbers of ranks (mpirun -n) and are "
            f"otherwise the same; these files have, for each setting, one (ranks: {there})"
        )
    return pd.DataFrame(rows)


def _known_mean(values: np.ndarray) -> float:
    """Without gaps: ranks that came or went with a resume, and the last run of a job that still runs."""
    return float(np.nan_to_num(stats.mean(stats.known(values, axis=None))))


def _at_pace(runs: np.ndarray, wall_s: np.ndarray) -> np.ndarray:
    """Wall times with the missing ones at the end filled in at the mean pace of those before; the first run warms up."""
    first, last = np.flatnonzero(np.isfinite(wall_s))[[0, -1]]
    pace = (wall_s[last] - wall_s[first]) / (runs[last] - runs[first]) if last > first else wall_s[last] / runs[last]
    return np.where(np.arange(len(runs)) <= last, wall_s, wall_s[last] + pace * (runs - runs[last]))
