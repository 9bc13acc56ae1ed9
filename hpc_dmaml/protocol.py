"""Format the numbers of a test, of one file or of several seeds' files, as text and as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpc_dmaml.analysis import stats
from hpc_dmaml.analysis.words import with_half
from hpc_dmaml.files import replacing_csv
from hpc_dmaml.losses import Metric
from hpc_dmaml.state import Validation

NORMAL = 1.96
"""Half the width of a 95 % interval in standard errors, by the normal distribution, as in papers."""
WAYS = ("all queries at once", "one query at a time")
"""The ways in which a test predicts: transductive, and inductive if requested."""


class Section(NamedTuple):
    """A mean over test tasks, or over seeds, for each adaptation step."""

    name: str
    """Name of the rows in the CSV: a file, "seeds", "tasks" or "untrained"."""
    heading: str
    found: tuple[Validation, ...]
    """(steps + 1, n) of n tasks or seeds, for each of `WAYS`."""
    seed: int | None = None
    """Seed of the file's job."""
    quantile: float = NORMAL


def over_files(sections: Sequence[Section]) -> list[Section]:
    """Means over several seeds' files: over the seeds, and over the tasks, which are the same for all files.

    Over seeds the interval is Student's t over the files' means, for the spread of further seeds. Over tasks each task
    counts once, with its mean over the seeds, as its values under several seeds are not independent of one another.
    """
    ways = list(zip(*(section.found for section in sections), strict=True))
    n, tasks = len(sections), ways[0][0].loss.shape[-1]
    seeds = tuple(
        Validation(*(np.stack([a.mean(1) for a in each], 1) for each in zip(*way, strict=True))) for way in ways
    )
    pooled = tuple(Validation(*(np.mean(each, 0) for each in zip(*way, strict=True))) for way in ways)
    is_enough = n >= stats.FEWEST
    student = float(stats.t_quantile(stats.LEVEL, n - 1)) if is_enough else math.nan
    spread = "± 95 % (Student's t over their means)" if is_enough else f"(no interval for fewer than {stats.FEWEST})"
    return [
        Section("seeds", f"mean over {n} seeds {spread}", seeds, quantile=student),
        Section("tasks", f"mean over {tasks} tasks ± 95 % (a task by its mean over {n} seeds)", pooled),
    ]


def text(section: Section, metric: Metric | None) -> str:
    """The heading, and one line for each adaptation step."""
    columns = [table(found, metric, section.quantile) for found in section.found]
    if len(columns) > 1:
        columns = [[way, *column] for way, column in zip(WAYS, columns, strict=True)]
    steps = [""] * (len(columns) - 1) + step_names(len(section.found[0].loss))
    widths = [max(map(len, column)) + 3 for column in columns]
    rows = zip(steps, *columns, strict=True)
    lines = [f"{step:<20}" + "".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=True)) for step, *cells in rows]
    return "\n".join([section.heading, *(line.rstrip() for line in lines)])


def step_names(steps: int) -> list[str]:
    return ["before adaptation", *(f"after step {step}" for step in range(1, steps))]


def table(found: Validation, metric: Metric | None, quantile: float = NORMAL) -> list[str]:
    """Loss and metric for each adaptation step."""
    losses = [shown(*each, 3) for each in interval(found.loss, quantile)]
    if metric is None:
        return [f"loss {loss}" for loss in losses]
    measured = [with_unit(*each, metric) for each in interval(found.metric, quantile)]
    return [f"loss {loss}   {metric.name} {value}" for loss, value in zip(losses, measured, strict=True)]


def with_unit(mean: float, half: float, metric: Metric) -> str:
    """Mean ± half the interval, and the unit; shares in per cent."""
    factor, digits = (100, 2) if metric.is_share else (1, 3)
    return f"{shown(factor * mean, factor * half, digits)} {metric.suffix}".rstrip()


def shown(mean: float, half: float, digits: int) -> str:
    """Mean ± half the interval, if there is one. A mean that is NaN was measured as such, and is shown."""
    return with_half(mean, half, digits) if mean == mean else "nan"


def interval(values: np.ndarray, quantile: float = NORMAL) -> list[tuple[float, float]]:
    """Mean of each row (…, n), and half its interval: `quantile` · s/√n, s with n − 1; NaN of a single value."""
    n = values.shape[-1]
    half = quantile * values.std(-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(len(values), np.nan)
    return list(zip(values.mean(-1).tolist(), half.tolist(), strict=True))


def write_csv(path: Path, sections: Sequence[Section], metric: Metric | None, settings: Mapping[str, Any]) -> None:
    """A row for each section and adaptation step: means and halves of the 95 % intervals in full precision, the metric
    with its unit in the column's name; and the `settings`, the same in all rows. Replaces the file atomically."""
    rows = [{**row, **settings} for section in sections for row in _rows(section, metric)]
    with replacing_csv(path) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _rows(section: Section, metric: Metric | None) -> list[dict[str, Any]]:
    columns = {}
    for way, found in zip(("", "inductive_"), section.found, strict=False):
        columns[f"{way}loss"] = interval(found.loss, section.quantile)
        if metric is not None:
            unit = f"_{metric.unit}" if metric.unit != "1" else ""
            columns[f"{way}{metric.name}{unit}"] = interval(found.metric, section.quantile)
    steps, n = section.found[0].loss.shape
    return [
        {"file": section.name, "seed": section.seed, "n": n, "step": step}
        | {
            f"{name}{part}": values[step][i]
            for name, values in columns.items()
            for i, part in enumerate(("", "_half_95"))
        }
        for step in range(steps)
    ]
