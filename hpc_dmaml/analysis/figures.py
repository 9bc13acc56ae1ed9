"""Draw the thesis's figures by number, and general ones by name, from the files of a sweep or from any files.

    hpc_dmaml figures 6.17 results/scaling                           # writes results/scaling/figure_6.17.png and .csv
    hpc_dmaml figures curves results/x --by optimizer.lr --output rates.pdf
    hpc_dmaml figures compare results/weight_generators --against ArithmeticMean
    hpc_dmaml figures --list

PNG, SVG or PDF by suffix; the numbers of each picture are written beside it as CSV. Running and interrupted jobs are
included; what is missing is reported, and the rest is drawn. Needs pandas, and neither MPI nor torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hpc_dmaml.analysis import (
    command,
    comparison,
    reader,
    stats,
    style,
    timing,
    trajectories,
    validation,
    words,
    workers,
)
from hpc_dmaml.analysis.settings import BASELINE, Options, Settings, add_options
from hpc_dmaml.analysis.style import Picture

RUN_PERCENT: dict[str, dict[float, float]] = {
    "workers": {1: 100, 2: 97.67, 4: 124.96, 8: 131.01, 16: 143.03},
    "epochs": {1: 100, 2: 194.26, 4: 374.03, 8: 742.42, 16: 1498.17},
    "tasks": {1: 100, 2: 195.8, 4: 376.96, 8: 745.58, 16: 1520.85},
}
"""Table 6.4 of the thesis: duration of a run over the ratio, in percent."""
ACCURACY: validation.Published = {
    workers: {0: 0.42, 100: at_100, 1000: at_1000}
    for workers, at_100, at_1000 in (
        (1, 0.72, 0.83), (2, 0.74, 0.86), (4, 0.77, 0.87), (8, 0.80, 0.88), (16, 0.83, 0.885),
    )
}  # fmt: skip
"""Figure 6.17 of the thesis, read off by eye (± 0.01): accuracy by workers, at the start, after 100 and 1,000 runs."""
SCALING, OMNIGLOT, MINI_IMAGENET, SINUSOID = "scaling", "Omniglot", "ImageFolder", "Sinusoid"


@dataclass(frozen=True)
class Figure:
    """How a figure is drawn, and how jobs are grouped for it."""

    title: str
    draw: Callable[[Settings, Options], Picture]
    axis: str | None = None
    """In figures of the thesis: the sweep's axis that distinguishes the curves."""
    family: str | None = None
    """Of an axis of scaled settings, draw only this family and the baseline."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the thesis's experiment; other values are noted."""
    along: Sequence[str] = ()
    """Fields that are grouped by last, after all others except `without`."""
    without: Sequence[str] = ()


def _over(x: str, panels: bool = False) -> Callable[[Settings, Options], Picture]:
    return partial(validation.over, x=x, panels=panels)


def _by_steps(data: str, task: str) -> Figure:
    return Figure(f"Implementation test: {data}", validation.by_step, fields={"task": task})


def _beta(data: str, task: str, workers: int) -> Figure:
    title = f"Search of β: {data}, {words.setting('workers', workers)}"
    return Figure(title, validation.over, "optimizer.lr", fields={"task": task, "workers": workers})


FIGURES = {
    "6.1": _by_steps("Omniglot", OMNIGLOT),
    "6.2": _by_steps("mini-ImageNet", MINI_IMAGENET),
    "6.3": _by_steps("sinusoid", SINUSOID),
    "6.4": Figure("Number of workers: Omniglot", validation.over, "workers", fields={"task": OMNIGLOT}),
    "6.5": _beta("Omniglot", OMNIGLOT, 1),
    "6.6": _beta("Omniglot", OMNIGLOT, 10),
    "6.7": _beta("mini-ImageNet", MINI_IMAGENET, 1),
    "6.8": _beta("mini-ImageNet", MINI_IMAGENET, 10),
    "6.9": _beta("sinusoid", SINUSOID, 1),
    "6.10": _beta("sinusoid", SINUSOID, 10),
    "6.11": Figure("Number of workers: sinusoid", validation.over, "workers", fields={"task": SINUSOID}),
    "6.16": Figure("Inner steps, 10 workers", validation.over, "algorithm.inner_steps", fields={"workers": 10}),
    "6.17": Figure("Workers scaled: accuracy over runs", partial(validation.over, published=ACCURACY), SCALING, "workers"),
    "6.18": Figure("Epochs scaled: accuracy over runs", validation.over, SCALING, "epochs"),
    "6.19": Figure("Tasks scaled: accuracy over runs", validation.over, SCALING, "tasks"),
    "6.23": Figure("Accuracy against seen tasks", _over("seen_tasks", panels=True), SCALING),
    "6.24": Figure("Accuracy against wall time", _over("wall_s", panels=True), SCALING),
    "6.25": Figure("Duration of a run", partial(timing.run_time, published=RUN_PERCENT), SCALING),
    "6.26": Figure("Wall time of 1,000 runs", timing.extrapolation, SCALING),
    "curves": Figure("validation over runs, a curve for each setting", validation.over),
    "seen_tasks": Figure("validation over the training tasks seen", _over("seen_tasks")),
    "wall_time": Figure("validation over wall time", _over("wall_s")),
    "environment_steps": Figure(
        "validation, as the return, over the environment steps of training (reinforcement learning)",
        _over("environment_steps"),
    ),
    "weights": Figure("weight of each worker over runs", partial(workers.of_each, variable="weight")),
    "losses": Figure("training loss of each worker over runs", partial(workers.of_each, variable="loss")),
    "shares": Figure("what a run's time goes to: data or sampling, gradient, exchange, wait, validation", timing.time_shares),
    "trajectories": Figure(
        "where a policy walks on held-out tasks, before and after each adaptation step (navigation)", trajectories.walks
    ),
    "scaling": Figure("speed-up and efficiency over ranks", timing.speed_up, along=["ranks"], without=["workers", "tasks"]),
    "compare": Figure("final values of each setting less those of one (--against), with the difference's interval",
                      comparison.compare),
}  # fmt: skip
"""Figures by number in the thesis, or by name. Where the thesis leaves open what exactly is drawn, this is our reading.
A new figure is a function of settings and options, and a line here."""


def is_thesis(name: str) -> bool:
    return name[:1].isdigit()


def draw(
    name: str, found: reader.Collection, options: Options, by: Sequence[str] | None = None
) -> tuple[Picture, list[str]]:
    """Draw a figure; returns it, and notes. Raises ValueError where the files are not of its experiment."""
    figure = FIGURES[name]
    if is_thesis(name):
        settings = of_thesis(name, found, [] if figure.axis is None else [figure.axis])
    else:
        settings = Settings.of(found, by, figure.along, figure.without)
    if figure.family is not None:
        parts = settings.families
        if figure.family not in parts:
            there = ", ".join(parts) or "others"
            raise ValueError(f"figure {name} shows {figure.family} scaled; there are only {there}")
        settings = parts[figure.family]
    notes = list(settings.notes)
    for field_name, value in figure.fields.items():
        other = sorted({str(job.value(field_name)) for job in settings.all_jobs if job.value(field_name) != value})
        if other:
            notes.append(f"the thesis's figure {name} has {field_name} {value}; these files have {', '.join(other)}")
    return figure.draw(settings, options), notes


def of_thesis(number: str, found: reader.Collection, by: Sequence[str]) -> Settings:
    """The jobs of the sweeps that list this figure or table, else all jobs; of these, those that have the axis `by`."""
    own = {p.output.resolve() for sweep in found.sweeps if number in sweep.figures for p in sweep.points}
    members = [job for job in found.jobs if job.path.resolve() in own] or list(found.jobs)
    if by:
        members = [job for job in members if by[0] in job.settings or by[0] in job.fields]
        if not members:
            raise ValueError(
                f"{number} needs the files of a sweep with an axis {by[0]!r}, beside a copy of its file, sweep.yaml; "
                f"these have {', '.join(found.axes) or 'no sweep.yaml'}"
            )
    settings = Settings(members, by, found.every(by))
    if list(by) == [SCALING] and BASELINE not in settings.jobs:
        raise ValueError("the files of the point baseline are missing, to which the others are compared")
    if list(by) == [SCALING] and not settings.families:
        raise ValueError(
            'a sweep of scaling has points named as "workers 2x", "epochs 4x" or "tasks 8x"; there are none'
        )
    return settings


@command.command("figures")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw a figure of the thesis by its number, or a general one by name.")
    parser.add_argument("figure", nargs="?", help="number or name; --list shows them")
    parser.add_argument("--list", action="store_true", help="list all figures, and exit")
    add_options(parser)
    parser.add_argument(
        "--output", type=command.path, help="picture to write (.png, .svg, .pdf); default: beside the files"
    )
    parser.add_argument("--fit", help="degree of a polynomial fit, or none, a moving average where points are many; default: "
                        f"none, and the thesis's {stats.DEGREE} for its figures")  # fmt: skip
    parser.add_argument("--against", metavar="SETTING", help="compare: the setting to compare with; default: the first")
    parser.add_argument(
        "--paired", action="store_true", help="compare: seed by seed, where settings share a seed's tasks"
    )
    parser.add_argument("--title", help="title of a general figure")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(f"{name:18}{figure.title}" for name, figure in FIGURES.items()))
        return 0
    if given.figure not in FIGURES:
        raise ValueError(f"there is no figure {given.figure!r}; --list shows what there is")
    title = FIGURES[given.figure].title
    fit = given.fit or (str(stats.DEGREE) if is_thesis(given.figure) else "none")
    if fit != "none" and not fit.isdigit():
        raise ValueError(f"--fit must be a degree or none, not {fit!r}")
    given.degree = None if fit == "none" else int(fit)
    options = Options.of(given)
    found = reader.read(given.sources)
    output = given.output or found.folder / f"figure_{given.figure}.png"
    with style.used():
        picture, notes = draw(given.figure, found, options, given.by)
        if not is_thesis(given.figure):
            title = given.title or (found.title or title.capitalize())
        style.title(picture.figure, title)
        style.save(picture.figure, output)
    with command.writing(output.with_suffix(".csv")) as file:
        picture.numbers.to_csv(file, index=False, errors="backslashreplace")
    for note in (*found.notes, *notes, *picture.notes):
        print(f"note: {note}", file=sys.stderr)
    print(output, output.with_suffix(".csv"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
