"""The thesis's figures by their numbers, and general ones by name, from the files of a sweep or from any files.

    python analysis/figures.py 6.17 results/scaling                      # writes results/scaling/figure_6.17.png and .csv
    python analysis/figures.py curves results/x --by optimizer.lr --output rates.pdf
    python analysis/figures.py compare results/weight_generators --against ArithmeticMean
    python analysis/figures.py --list

PNG, SVG or PDF by suffix; the numbers of each picture stand beside it as CSV. Files of running or interrupted jobs take
part; what is missing is said, and the rest is drawn. Needs pandas, and neither MPI nor torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_dmaml.analysis import command, plots, reader, stats, style
from hpc_dmaml.analysis.measures import Options, Settings
from hpc_dmaml.analysis.plots import Picture
from hpc_dmaml.old_names import modern

RUN_PERCENT: dict[str, dict[float, float]] = {
    "workers": {1: 100, 2: 97.67, 4: 124.96, 8: 131.01, 16: 143.03},
    "epochs": {1: 100, 2: 194.26, 4: 374.03, 8: 742.42, 16: 1498.17},
    "tasks": {1: 100, 2: 195.8, 4: 376.96, 8: 745.58, 16: 1520.85},
}
"""Table 6.4 of the thesis: duration of a run over the ratio, in percent."""
SCALING, OMNIGLOT, MINI_IMAGENET, SINUSOID = "scaling", "Omniglot", "ImageFolder", "Sinusoid"
Draw = Callable[[Settings, Options, str], Picture]


@dataclass(frozen=True)
class Thesis:
    """A figure of the thesis."""

    title: str
    draw: Draw
    axis: str | None = None
    """The sweep's axis that tells its curves apart."""
    family: str | None = None
    """Of an axis of scaled settings, only these and the baseline."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What the thesis's experiment had; other values are noted."""


def _scaled(title: str, draw: Draw, family: str | None = None) -> Thesis:
    return Thesis(title, draw, SCALING, family)


def _by_steps(data: str, task: str) -> Thesis:
    return Thesis(f"Implementation test: {data}", plots.over_runs_by_step, fields={"task": task})


def _beta(data: str, task: str, workers: int) -> Thesis:
    title = f"Search of β: {data}, {style.words('workers', workers)}"
    return Thesis(title, plots.over_runs, "optimizer.lr", fields={"task": task, "workers": workers})


def _over(x: str) -> Draw:
    return lambda settings, options, title: plots.over_runs(settings, options, title, x, panels=True)


THESIS = {
    "6.1": _by_steps("Omniglot", OMNIGLOT),
    "6.2": _by_steps("mini-ImageNet", MINI_IMAGENET),
    "6.3": _by_steps("sinusoid", SINUSOID),
    "6.4": Thesis("Number of workers: Omniglot", plots.over_runs, "workers", fields={"task": OMNIGLOT}),
    "6.5": _beta("Omniglot", OMNIGLOT, 1),
    "6.6": _beta("Omniglot", OMNIGLOT, 10),
    "6.7": _beta("mini-ImageNet", MINI_IMAGENET, 1),
    "6.8": _beta("mini-ImageNet", MINI_IMAGENET, 10),
    "6.9": _beta("sinusoid", SINUSOID, 1),
    "6.10": _beta("sinusoid", SINUSOID, 10),
    "6.11": Thesis("Number of workers: sinusoid", plots.over_runs, "workers", fields={"task": SINUSOID}),
    "6.16": Thesis("Inner steps, 10 workers", plots.over_runs, "algorithm.inner_steps", fields={"workers": 10}),
    "6.17": _scaled("Workers scaled: accuracy over runs", plots.over_runs, "workers"),
    "6.18": _scaled("Epochs scaled: accuracy over runs", plots.over_runs, "epochs"),
    "6.19": _scaled("Tasks scaled: accuracy over runs", plots.over_runs, "tasks"),
    "6.23": _scaled("Accuracy against seen tasks", _over("seen_tasks")),
    "6.24": _scaled("Accuracy against wall time", _over("wall_s")),
    "6.25": _scaled("Duration of a run", lambda s, o, t: plots.run_time(s, o, t, RUN_PERCENT)),
    "6.26": _scaled("Wall time of 1,000 runs", plots.extrapolation),
}
"""By its number in the thesis. It numbers the subjects; where it leaves open what exactly is drawn, this is our reading."""
GENERAL = {
    "curves": "validation over runs, a curve for each setting",
    "seen_tasks": "validation over the training tasks seen",
    "wall_time": "validation over wall time",
    "environment_steps": "validation, as the return, over the environment steps of training (reinforcement learning)",
    "weights": "weight of each worker over runs",
    "losses": "training loss of each worker over runs",
    "shares": "what a run's time goes to: work, exchange, wait, validation",
    "scaling": "speed-up and efficiency over ranks",
    "compare": "final values of each setting less those of one (--against), with the difference's interval",
}


def thesis(number: str, found: reader.Collection, options: Options) -> tuple[Picture, list[str]]:
    """A figure of the thesis, and notes. Raises ValueError where the files are not of its experiment."""
    spec = THESIS[number]
    by = [] if spec.axis is None else [spec.axis]
    jobs = list(jobs_for(number, found, by))
    settings = Settings(jobs, by, every(found, by))
    if spec.axis == SCALING:
        check_scaling(settings)
    if spec.family is not None:
        parts = plots.families(settings)
        if spec.family not in parts:
            raise ValueError(
                f"figure {number} shows {spec.family} scaled; there are only {', '.join(parts) or 'others'}"
            )
        settings = parts[spec.family]
    notes = list(settings.notes)
    for name, value in spec.fields.items():
        other = sorted({str(job.value(name)) for job in settings.all_jobs if job.value(name) != value})
        if other:
            notes.append(f"the thesis's figure {number} has {name} {value}; these files have {', '.join(other)}")
    return spec.draw(settings, options, spec.title), notes


def jobs_for(number: str, found: reader.Collection, by: Sequence[str]) -> Sequence[reader.Job]:
    """Those of the sweeps that say that they give this figure or table; else those that have its axis; else all."""
    own = {p.output.resolve() for sweep in found.sweeps if number in sweep.figures for p in sweep.points}
    jobs = [job for job in found.jobs if job.path.resolve() in own] or list(found.jobs)
    if not by:
        return jobs
    having = [job for job in jobs if by[0] in job.settings or by[0] in job.fields]
    if not having:
        raise ValueError(
            f"{number} needs the files of a sweep with an axis {by[0]!r}, beside a copy of its file, sweep.yaml; "
            f"these have {', '.join(found.axes) or 'no sweep.yaml'}"
        )
    return having


def every(found: reader.Collection, by: Sequence[str]) -> list[tuple[Any, ...]]:
    """All settings of the sweeps, also those without files."""
    points = [reader.settings_of(point) for sweep in found.sweeps for point in sweep.points]
    names = [modern(name) for name in by]
    return [tuple(point[name] for name in names) for point in points if names and all(name in point for name in names)]


def check_scaling(settings: Settings) -> None:
    if ("baseline",) not in settings.jobs:
        raise ValueError("the files of the point baseline are missing: nothing says what is scaled")
    if not plots.families(settings):
        raise ValueError(
            'a sweep of scaling has points named as "workers 2x", "epochs 4x" or "tasks 8x"; there are none'
        )


def general(
    name: str, found: reader.Collection, options: Options, given: argparse.Namespace
) -> tuple[Picture, list[str]]:
    """A general figure, and notes."""
    by = given.by if given.by is not None else default_by(found, {"workers", "tasks"} if name == "scaling" else set())
    by = [*by, "ranks"] if name == "scaling" and "ranks" not in by else by
    settings = Settings(found.jobs, by, every(found, by))
    title = given.title or (found.sweeps[0].description if len(found.sweeps) == 1 else GENERAL[name].capitalize())
    draw: dict[str, Callable[[], Picture]] = {
        "curves": lambda: plots.over_runs(settings, options, title, "runs", given.variable),
        "seen_tasks": lambda: plots.over_runs(settings, options, title, "seen_tasks", given.variable),
        "wall_time": lambda: plots.over_runs(settings, options, title, "wall_s", given.variable),
        "environment_steps": lambda: plots.over_runs(settings, options, title, "environment_steps", given.variable),
        "weights": lambda: plots.per_worker(settings, options, title, "weight"),
        "losses": lambda: plots.per_worker(settings, options, title, "loss"),
        "shares": lambda: plots.time_shares(settings, options, title),
        "scaling": lambda: plots.speed_up(settings, options, title),
        "compare": lambda: plots.comparison(
            settings, options, title, reference(settings, given.against), given.variable
        ),
    }
    return draw[name](), settings.notes


def default_by(found: reader.Collection, without: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """The axes of the one sweep that all files are of, else every field in which they differ."""
    jobs = found.jobs
    if found.axes and all(axis in job.settings for axis in found.axes for job in jobs):
        return found.axes
    tasks = sorted({style.words("task", job.fields["task"]) for job in jobs})
    if len(tasks) > 1:
        raise ValueError(f"different experiments are mixed, of {', '.join(tasks)}: give the files of one, or --by task")
    return [name for name in reader.varying(jobs) if name not in without]


def reference(settings: Settings, against: str | None) -> tuple[Any, ...]:
    """The setting to compare with: the given one, as it is written in a file or in words; else the first."""
    for key in settings.jobs:
        if against is None or against in (settings.label(key), ",".join(map(str, key))):
            return key
    raise ValueError(f"against: there is no {against!r}; there are {', '.join(map(settings.label, settings.jobs))}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What figures and tables have in common."""
    parser.add_argument(
        "sources", nargs="*", type=command.path, metavar="FILE", help="result files, folders, or a sweep's YAML file"
    )
    parser.add_argument("--by", type=lambda text: [n for n in text.split(",") if n], metavar="FIELD,…",
                        help="fields or axes that tell settings apart; default: the sweep's axes, or what differs")  # fmt: skip
    parser.add_argument("--interval", choices=sorted(stats.NAMES), default="t",
                        help="confidence limits by Student's t (default) or, as in the thesis, normal")  # fmt: skip
    parser.add_argument("--level", type=float, default=stats.LEVEL, help="of the intervals; default 0.95")
    parser.add_argument("--step", type=int, help="adaptation step of the validation; default: the last")
    parser.add_argument("--last", type=float, default=Options.last,
                        help="final values are means over this last part of the validations; default 0.1")  # fmt: skip
    parser.add_argument("--variable", help="loss, metric, or the metric by its name, as accuracy; default: the metric, or "
                        "loss where files have none or different ones")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="say what there is, and exit")


@command.command("figures")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw a figure of the thesis by its number, or a general one by name.")
    parser.add_argument("figure", nargs="?", help="number or name; --list shows them")
    add_options(parser)
    parser.add_argument(
        "--output", type=command.path, help="picture to write (.png, .svg, .pdf); default: beside the files"
    )
    parser.add_argument("--fit", help="degree of a polynomial fit, or none, a moving average where points are many; default: "
                        f"none, and the thesis's {stats.DEGREE} for its figures")  # fmt: skip
    parser.add_argument("--against", metavar="SETTING", help="compare: the setting to compare with; default: the first")
    parser.add_argument("--title", help="title of a general figure")
    given = parser.parse_args(arguments)
    if given.list:
        print(
            "\n".join(
                [f"{n:18}{s.title}" for n, s in THESIS.items()] + [f"{n:18}{text}" for n, text in GENERAL.items()]
            )
        )
        return 0
    if given.figure not in THESIS and given.figure not in GENERAL:
        raise ValueError(f"there is no figure {given.figure!r}; --list shows what there is")
    fit = given.fit or (str(stats.DEGREE) if given.figure in THESIS else "none")
    if fit != "none" and not fit.isdigit():
        raise ValueError(f"--fit must be a degree or none, not {fit!r}")
    degree = None if fit == "none" else int(fit)
    options = Options(given.interval, given.level, degree, given.step, given.last)
    found = reader.read(given.sources)
    output = given.output or default_folder(given.sources, found) / f"figure_{given.figure}.png"
    with style.used():
        if given.figure in THESIS:
            picture, notes = thesis(given.figure, found, options)
        else:
            picture, notes = general(given.figure, found, options, given)
        style.save(picture.figure, output)
    picture.numbers.to_csv(output.with_suffix(".csv"), index=False, errors="backslashreplace")
    for note in (*found.notes, *notes, *picture.notes):
        print(f"note: {note}", file=sys.stderr)
    print(output, output.with_suffix(".csv"), sep="\n")
    return 0


def default_folder(sources: Sequence[Path], found: reader.Collection) -> Path:
    """Where the first source's files are."""
    first = sources[0]
    if first.is_dir():
        return first
    return first.parent if first.suffix == ".h5" else found.sweeps[0].folder


if __name__ == "__main__":
    sys.exit(main())
