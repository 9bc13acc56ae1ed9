"""The input of all figures and tables: jobs grouped by setting, and options for the numbers made of their files."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hpc_dmaml.analysis import command, reader, stats, style, words
from hpc_dmaml.losses.metric import Metric
from hpc_dmaml.old_names import modern
from hpc_dmaml.requirements import require

NOT_NEGATIVE = {"cross_entropy", "squared_error"}
"""Losses that are never negative."""
BASELINE = ("baseline",)
FAMILIES = ("workers", "epochs", "tasks")
"""The ways to scale, in the thesis's order."""
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Options:
    """How numbers are made of files, and which of them are drawn."""

    interval: stats.Kind = "t"
    level: float = stats.LEVEL
    degree: int | None = None
    """Degree of the thesis's polynomial fit; None for a moving average."""
    step: int | None = None
    """Adaptation step of the validation; None for the last."""
    last: float = 0.1
    """Final values are means over this last part of the validations, at least one."""
    variable: str | None = None
    """loss, metric or the metric's name; None for the metric where all jobs have the same, else the loss."""
    against: str | None = None
    """The setting that others are compared with; None for the first."""
    paired: bool = False
    """Differences seed by seed, for settings that share each seed's start and tasks: seeds vary more than settings."""

    def __post_init__(self) -> None:
        require(0 < self.level < 1, "level", self.level, "between 0 and 1")
        require(self.degree is None or self.degree >= 1, "degree", self.degree, "1 or more")
        require(self.step is None or self.step >= 0, "step", self.step, "0 (before adaptation) or more")
        require(0 < self.last <= 1, "last", self.last, "above 0, up to 1")

    @classmethod
    def of(cls, given: argparse.Namespace) -> Options:
        """The options of a command line."""
        return cls(**{each.name: getattr(given, each.name) for each in fields(cls) if hasattr(given, each.name)})

    @property
    def words(self) -> str:
        return f"{self.level:.0%} confidence interval ({stats.NAMES[self.interval]})"

    def summarise(self, values: np.ndarray) -> stats.Summary:
        return stats.summarise(values, self.interval, self.level)


class Settings:
    """Jobs grouped by setting, with each setting's name and style."""

    def __init__(self, members: Sequence[reader.Job], by: Sequence[str], every: Iterable[Key] = ()) -> None:
        """`by`: axes or fields. `every`: all settings of the sweep, so that colours stay the same if some are left out.

        Raises ValueError where a setting's jobs are not repetitions of one another.
        """
        self.by, self.notes = tuple(map(modern, by)), list[str]()
        groups = reader.grouped(members, self.by)
        self._every = list(dict.fromkeys([*every, *groups]))
        self.jobs = {key: self._once(key, groups[key]) for key in self._every if key in groups}  # in the sweep's order
        for key, same in self.jobs.items():
            ranks = reader.numbers_of_ranks(same)
            if len(ranks) > 1:
                on = ", ".join(ranks)
                self.notes.append(f"{self.label(key)}: its seeds ran on {on} ranks, and their times are not alike")

    @classmethod
    def of(
        cls,
        found: reader.Collection,
        by: Sequence[str] | None = None,
        along: Sequence[str] = (),
        without: Sequence[str] = (),
    ) -> Settings:
        """Group by the fields `by` and `along`. By default `by` is the sweep's axes, if all files have them, else all
        fields in which the files differ, except `without`."""
        if by is None and found.axes and all(axis in job.settings for axis in found.axes for job in found.jobs):
            by = [axis for axis in found.axes if axis not in without]
        elif by is None:
            tasks = sorted({words.setting("task", job.fields["task"]) for job in found.jobs})
            if len(tasks) > 1:
                different = f"different experiments are mixed, of {', '.join(tasks)}"
                raise ValueError(f"{different}: give the files of one, or --by task")
            by = [name for name in reader.varying(found.jobs) if name not in without]
        by = [*by, *(name for name in along if name not in by)]
        return cls(found.jobs, by, found.every(by))

    def _once(self, key: Key, same: list[reader.Job]) -> list[reader.Job]:
        """Of files of the same seed, keep the first, as they are not independent repetitions."""
        once = {job.seed: job for job in reversed(same)}
        twice = [job.path.name for job in same if job not in once.values()]
        if twice:
            self.notes.append(f"{self.label(key)}: left out, as their seeds are there already: {', '.join(twice)}")
        return sorted(once.values(), key=lambda job: job.seed)

    def label(self, key: Key) -> str:
        """A setting in words, or the first part of one; in full where another one has the same words."""
        text = self._text(key)
        return self._text(key, in_full=True) if text in self._ambiguous else text

    def _text(self, key: Key, in_full: bool = False) -> str:
        return ", ".join(words.setting(*each, in_full) for each in zip(self.by, key, strict=False)) or "all"

    @cached_property
    def _ambiguous(self) -> set[str]:
        """The words that several settings, or first parts of them, have in common."""
        parts = dict.fromkeys(key[:length] for key in self._every for length in range(1, len(key) + 1))
        return {text for text, count in Counter(map(self._text, parts)).items() if count > 1}

    def line(self, key: Key) -> dict[str, Any]:
        """Colour and line style, as options of `Axes.plot`."""
        single = len(self.by) == 1
        return style.line(key[0] if single else key, [each[0] if single else each for each in self._every])

    def columns(self, key: Key) -> dict[str, Any]:
        """The columns by which a row of a table names the setting."""
        return dict(zip(self.by, key, strict=True))

    def frame(self, key: Key, columns: Any) -> pd.DataFrame:
        """A table of columns, preceded by those that name the setting."""
        table = pd.DataFrame(columns)
        for place, (name, value) in enumerate(self.columns(key).items()):
            table.insert(place, name, [value] * len(table))  # pandas would take a tuple for a column
        return table

    def rows(self, table: pd.DataFrame, key: Key) -> pd.DataFrame:
        """The rows of a setting, or of all settings that begin with `key`."""
        same = np.ones(len(table), bool)
        for name, value in zip(self.by, key, strict=False):
            # pandas turns None among numbers into NaN.
            equal = (each == value if value is not None else each is None or each != each for each in table[name])
            same &= np.fromiter(equal, bool, len(table))
        return table[same]

    def some(self, keys: Iterable[Key]) -> Settings:
        """Only these settings, in the same style."""
        part = object.__new__(Settings)
        part.by, part.notes, part._every = self.by, self.notes, self._every
        part.jobs = {key: self.jobs[key] for key in keys if key in self.jobs}
        return part

    def shown_in(self, table: pd.DataFrame) -> Settings:
        """Only the settings of which a table has rows; the files of others hold no data yet."""
        return self.some(key for key in self.jobs if len(self.rows(table, key)))

    @property
    def families(self) -> dict[str, Settings]:
        """The baseline and the scaled settings of a scaling sweep, for each way to scale that it has."""
        keys = {f: [k for k in self.jobs if (s := words.scaled(k[0])) and s[0] == f] for f in FAMILIES if self.by}
        return {family: self.some([BASELINE, *sorted(own, key=ratio)]) for family, own in keys.items() if own}

    @property
    def all_jobs(self) -> list[reader.Job]:
        return [job for same in self.jobs.values() for job in same]

    @property
    def metric(self) -> Metric | None:
        """The metric by which all jobs are judged, or None if they have none in common."""
        found = {job.metric for job in self.all_jobs}
        return found.pop() if len(found) == 1 else None

    def variable(self, options: Options) -> str:
        """loss or metric, by the options. Raises ValueError where the jobs do not have that metric, or have different
        ones."""
        metric, found, asked = self.metric, {job.metric for job in self.all_jobs}, options.variable
        names = ["loss", *([metric.name, "metric"] if metric else [])]
        if asked is None:
            return "loss" if metric is None else "metric"
        if asked in names:
            return "loss" if asked == "loss" else "metric"
        if len(found) > 1:
            different = ", ".join(sorted({words.metric(each) if each else "none" for each in found}))
            raise ValueError(
                f"variable: these files have different metrics ({different}): give loss, or files of one metric"
            )
        raise ValueError(f"variable: these files have no {asked}; they have {' and '.join(names[:2])}")

    def quantity(self, variable: str) -> Metric:
        """The variable, loss or metric, as a Metric. Raises ValueError where the jobs have no metric in common."""
        if variable == "metric" and self.metric is None:
            raise ValueError("the files have no metric in common")
        return (variable == "metric" and self.metric) or words.LOSS

    def mixed(self, variable: str) -> str:
        """A sentence if the variable is the loss, and the jobs have different ones, else nothing."""
        found = {str(job.attributes["loss"]) for job in self.all_jobs}
        if variable != "loss" or len(found) == 1:
            return ""
        names = sorted(set(map(words.loss, found)))
        which = " and ".join(names) if len(names) > 1 else f"{names[0]} with different fields"
        return f"Values are of different losses ({which}), which cannot be compared."

    def step(self, options: Options) -> int:
        """The adaptation step to compare at: the one asked for, else the last that all jobs have. Raises ValueError
        where a job does not have it."""
        steps = sorted({job.steps for job in self.all_jobs})
        if options.step is not None and options.step > steps[0]:
            common = words.count(steps[0], "adaptation step") + " of the validation"
            several = f" that all files have; they have {' or '.join(map(str, steps))}" if len(steps) > 1 else ""
            raise ValueError(f"step: {options.step} is more than the {common}{several}")
        return steps[0] if options.step is None else options.step

    def limits(self, variable: str) -> tuple[float, float]:
        """The least and greatest possible value of the variable."""
        if self.quantity(variable).is_share:
            return 0.0, 1.0
        losses = {str(job.attributes["loss"]) for job in self.all_jobs}
        return (0.0 if variable == "loss" and losses <= NOT_NEGATIVE else -np.inf), np.inf

    def cut(self, table: pd.DataFrame) -> str:
        """A sentence if a table's intervals are cut at the least or greatest possible value, else nothing."""
        least, most = self.limits("loss" if table["variable"].iloc[0] == words.LOSS.name else "metric")
        if not ((table["low"] == least).any() or (table["high"] == most).any()):
            return ""
        return f"Intervals are cut at {'0 and 100 %' if most == 1 else '0'}."

    @property
    def repeated(self) -> bool:
        """Whether there is a setting with more than one seed."""
        return any(len(same) > 1 for same in self.jobs.values())

    @property
    def has_best(self) -> bool:
        """Whether there are settings to compare, each with enough seeds."""
        return len(self.jobs) > 1 and all(len(same) >= stats.FEWEST for same in self.jobs.values())

    def caption(self, text: str, options: Options | None, *more: str, counts: Iterable[int] | None = None) -> str:
        """How a picture was made, and what is not complete. `options`: those of the intervals in it, or None. `counts`:
        of how many seeds its means are (0: none), or None for those of all files."""
        said = [text]
        seeds = {len(same) for same in self.jobs.values()} if counts is None else set(counts) - {0}
        if seeds:
            least, most = min(seeds), max(seeds)
            if most > 1:
                interval = f", {options.words}" if options and most >= stats.FEWEST else ""
                said.append(f"Mean of {f'{least} to ' if least < most else ''}{most} seeds{interval}.")
            said.append(words.few_seeds(seeds) if options or most == 1 else "")
        unfinished = [job for job in self.all_jobs if job.status != "complete"]
        if unfinished:
            more = (*more, f"{len(unfinished)} of {len(self.all_jobs)} jobs are not complete.")
        return " ".join(filter(None, [*said, *more]))


def ratio(key: Key) -> float:
    """By what factor a setting of a scaling sweep is scaled."""
    scaled = words.scaled(key[0])
    return scaled[1] if scaled else 1.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that figures, tables and the report have in common."""
    add = parser.add_argument
    add("sources", nargs="*", type=command.path, metavar="FILE", help="result files, folders, or a sweep's YAML file")
    add("--by", type=lambda text: [n for n in text.split(",") if n], metavar="FIELD,…",
        help="fields or axes that distinguish settings; default: the sweep's axes, or what differs")  # fmt: skip
    add("--interval", choices=sorted(stats.NAMES), default="t",
        help="confidence limits by Student's t (default) or, as in the thesis, normal")  # fmt: skip
    add("--level", type=float, default=stats.LEVEL, help="confidence level of the intervals; default 0.95")
    add("--step", type=int, help="adaptation step of the validation; default: the last")
    add("--last", type=float, default=Options.last,
        help="final values are means over this last part of the validations; default 0.1")  # fmt: skip
    add("--variable", help="loss, metric, or the metric by its name, as accuracy; default: the metric, or loss where "
        "files have none or different ones")  # fmt: skip
