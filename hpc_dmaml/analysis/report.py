"""A report in HTML on jobs and their results, for any files: a sweep, folders, a single job.

    hpc_dmaml report results/scaling                               # writes results/scaling/report.html
    hpc_dmaml report results/a.h5 results/b.h5 --output report.html

The page is self-contained: pictures and style are in it, it needs no network and runs no script. Sweeps, and jobs of
different tasks, get a part each. Running and interrupted jobs are included; what is missing is listed. Options and
errors are those of figures.py. The template is report.html.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from hpc_dmaml import results
from hpc_dmaml.alive import is_alive
from hpc_dmaml.analysis import (
    checked,
    command,
    comparison,
    figures,
    reader,
    stats,
    style,
    tables,
    trajectories,
    validation,
    words,
)
from hpc_dmaml.analysis.settings import BASELINE, Key, Options, Settings, add_options

WORKERS = 6
"""Most settings whose workers are drawn: those with the most workers."""
HEAVY = 400_000
"""A vector picture of more bytes than this is embedded as pixels."""
LONGEST = 500
"""Most characters of a text; a longer one is cut."""


@dataclass(frozen=True)
class Part:
    """Jobs that can be compared with one another."""

    title: str
    found: reader.Collection
    """Only its jobs, and their sweep."""
    settings: Settings | None
    """None where the files cannot be grouped by setting: `problem` says why."""
    problem: str = ""


def page(found: reader.Collection, options: Options, by: Sequence[str] | None = None, title: str | None = None) -> str:
    """The report as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda each: each if hasattr(each, "__html__") else words.printable(str(each), LONGEST),
    )
    environment.globals |= {"words": words, "style": style}
    parts = divided(found, by)
    warnings = dict.fromkeys([*found.notes, *(note for part in parts for note in cautions(part))])
    with style.used(), matplotlib.rc_context({"legend.frameon": False}):
        return environment.get_template("report.html").render(
            title=title or (parts[0].title if len(parts) == 1 else f"{len(parts)} experiments"),
            lead=_lead(found),
            tiles=_tiles(found),
            warnings=list(warnings),
            parts=[(part, _shown(part, options)) for part in parts],
            now=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            files=words.count(len(found.jobs), "file"),
        )


def divided(found: reader.Collection, by: Sequence[str] | None = None) -> list[Part]:
    """A part for each sweep, and for the other jobs of each task."""
    groups: dict[str, tuple[list[reader.Job], Any]] = {}
    places = {point.output.resolve(): sweep for sweep in found.sweeps for point in sweep.points}
    for job in found.jobs:
        sweep = places.get(job.path.resolve())
        groups.setdefault(str(sweep.folder if sweep else job.fields["task"]), ([], sweep))[0].append(job)
    parts = []
    for key, (members, sweep) in groups.items():
        own = replace(found, jobs=tuple(members), sweeps=(sweep,) if sweep else (), notes=())
        alone = members[0].path.name if len(members) == 1 else words.setting("task", key)
        try:
            settings, problem = Settings.of(own, by), ""
        except ValueError as error:
            settings, problem = None, str(error)
        parts.append(Part(sweep.description if sweep else alone, own, settings, problem))
    return parts


def cautions(part: Part) -> Iterator[str]:
    """Warnings on the jobs themselves: restarts, workers that were not finite, slow ranks, versions of the code."""
    yield from [part.problem] if part.problem else part.settings.notes if part.settings else []
    for job in part.found.jobs:
        source, name = job.read("ranks", "workers", "validation", "runs"), job.path.name
        if restarts := int(job.attributes.get("restarts", 0)):
            yield f"{name} was restarted {words.count(restarts, 'time')}"
        if job.status == "running" and not is_alive(source):
            yield f"{name}: its process is gone: it was killed"
        yield from (f"{name}: {note}" for note in checked.cautions(source))
        gaps = np.isnan(stats.known(stats.over_tasks(source["validation/loss"]))).any(axis=1)
        if gaps.any():
            yield f"{name}: {gaps.sum()} of {len(gaps)} validations are left out: {stats.GAPS}"
    commits = {str(job.attributes.get("git_commit", "")) for job in part.found.jobs} - {""}
    if len(commits) > 1:
        yield f"{part.title}: made by {len(commits)} versions of the code"


# ---- all jobs


def _lead(found: reader.Collection) -> str:
    tasks, models = (sorted({words.setting(n, str(job.fields[n])) for job in found.jobs}) for n in ("task", "model"))
    starts = sorted(str(job.attributes.get("start", ""))[:10] for job in found.jobs)
    when = starts[0] if starts[0] == starts[-1] else f"{starts[0]} to {starts[-1]}"
    return f"{', '.join(tasks)} with {', '.join(models)}" + (f", run {when}" if when else "")


def _tiles(found: reader.Collection) -> list[tuple[str, str]]:
    done = sum(job.status == "complete" for job in found.jobs)
    expected = len(found.jobs) + len(found.missing())
    logs = [job.read("runs", "ranks") for job in found.jobs]
    of_ranks = sum(np.nansum(np.diff(_wall_s(log), prepend=0) * checked.ranks_of_runs(log)) for log in logs)
    seen = sum(int(log["runs/seen_tasks"][-1]) for log in logs if len(log["runs/seen_tasks"]))
    return [
        (f"{done} of {expected}", f"job{'s' * (expected > 1)} complete"),
        (words.short(sum(len(log["runs/run"]) for log in logs)), "runs"),
        (words.short(seen), "training tasks seen"),
        (words.duration(sum(map(_worked_s, logs))), "wall time, all jobs"),
        (words.duration(float(of_ranks)), "time of all ranks"),
    ]


def _worked_s(log: results.Results) -> float:
    """The last known wall time in seconds; 0 without one."""
    wall = _wall_s(log)
    return float(np.append(0, wall[np.isfinite(wall)])[-1])


def _wall_s(log: results.Results) -> np.ndarray:
    return stats.known(log["runs/wall_s"])


# ---- a part


def _shown(part: Part, options: Options) -> dict[str, Any]:
    """What the template shows of a part."""
    settings, members = part.settings, part.found.jobs
    sections: dict[str, list[dict[str, Any]]] = {}
    for section, name, draw in pictures(settings, options) if settings else ():
        sections.setdefault(section, []).append({"name": name, **_or_why(partial(_embedded, draw))})
    same, different = _fields(members)
    logs = [(job, job.read("runs")) for job in members]
    return {
        "final": settings and _or_why(lambda: _final(settings, options)),
        "sections": sections,
        "durations": settings and _is_scaled(settings) and _or_why(lambda: _durations(settings, options)),
        "left_out": settings and len(settings.jobs) > WORKERS and f"The {WORKERS} settings with most workers.",
        "same": same,
        "different": different,
        "where": _where(members),
        "jobs": [(job, len(log["runs/run"]), words.duration(_worked_s(log))) for job, log in logs],
        "missing": part.found.missing(),
    }


def _or_why(shown: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of `shown`, or why there is none."""
    try:
        return shown()
    except ValueError as error:
        return {"problem": str(error)}


def _durations(settings: Settings, options: Options) -> dict[str, Any]:
    (head, *rows), numbers, *_ = tables.run_durations(settings, options)
    text = f"Duration of a run, the baseline's is 100. {tables.spread(numbers['n'], options)}"
    return {"head": head, "rows": rows, "text": text}


def _is_scaled(settings: Settings) -> bool:
    return settings.by == (figures.SCALING,) and bool(settings.families) and BASELINE in settings.jobs


def pictures(settings: Settings, options: Options) -> Iterator[tuple[str, str, Callable[[], style.Picture]]]:
    """Section, name and drawing function of each figure that the files allow."""

    def figure(name: str, of: Settings = settings) -> Callable[[], style.Picture]:
        return lambda: figures.FIGURES[name].draw(of, options)

    section = "How it gets there"
    if _is_scaled(settings):
        for number in ("6.17", "6.18", "6.19"):
            if (family := figures.FIGURES[number].family) in settings.families:
                yield section, f"More {family}", figure(number, settings.families[str(family)])
        yield section, "Against seen tasks", figure("6.23")
        yield section, "Against wall time", figure("6.24")
        yield section, "Duration of a run", figure("6.25")
        yield section, "Wall time of 1,000 runs", figure("6.26")
    else:
        yield section, "Over runs", figure("curves")
        if len(settings.jobs) == 1:
            yield section, "Each adaptation step", figure("6.1")
        yield section, "Against seen tasks", figure("seen_tasks")
        yield section, "Against wall time", figure("wall_time")
        if any(map(validation.has_trajectories, settings.all_jobs)):
            yield section, "Against environment steps", figure("environment_steps")
        if len({job.ranks for job in settings.all_jobs}) > 1:
            yield section, "Speed-up and efficiency", figure("scaling")
    if trajectories.shown(settings):
        yield section, "Trajectories on held-out tasks", figure("trajectories")
    if len(settings.jobs) > 1 and settings.repeated:
        yield section, f"Difference from {settings.label(next(iter(settings.jobs)))}", figure("compare")
    section = "Workers"
    some = settings.some(sorted(settings.jobs, key=lambda key: -settings.jobs[key][0].fields["workers"])[:WORKERS])
    some = settings.some(key for key in settings.jobs if key in some.jobs)  # in their order
    weighted = some.some(key for key, same in some.jobs.items() if _is_weighted(same[0]))
    if weighted.jobs:
        yield section, "Weight of each worker", figure("weights", weighted)
    yield section, "Loss of each worker", figure("losses", some)
    section = "Where the time goes"
    yield section, "Share of data, gradient, exchange, wait and validation", figure("shares")


def _is_weighted(job: reader.Job) -> bool:
    """Whether its weights are worth drawing: those of the plain mean are all the same."""
    return job.fields["workers"] > 1 and job.fields["weight_generator"] != "ArithmeticMean"


def _embedded(draw: Callable[[], style.Picture]) -> dict[str, Any]:
    """A picture for light and for dark pages as data URLs."""
    figure = draw().figure
    light = _data_url(figure)
    style.darken(figure)
    return {"light": light, "dark": _data_url(figure), "wide": figure.get_figwidth() > style.COLUMN_IN}


def _data_url(figure: Figure) -> Markup:
    """A transparent picture: vectors, or, for very many points, pixels."""
    buffer, kind = io.BytesIO(), "svg+xml"
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    if buffer.tell() > HEAVY:
        buffer, kind = io.BytesIO(), "png"
        figure.savefig(buffer, format="png", transparent=True, dpi=250)
    return Markup(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}")


def _final(settings: Settings, options: Options) -> dict[str, Any]:
    """The final table; the last column draws mean and interval on one scale, after the last step that all settings have."""
    variable = settings.variable(options)
    frame = comparison.final(settings, variable, options)
    quantity = settings.quantity(variable)
    steps = sorted(frame["step"].unique())
    last = settings.step(options)
    shown = steps if len(steps) <= 7 else sorted({*steps[:5], last, steps[-1]})
    ends = frame[frame["step"] == last]
    known = ends[np.isfinite(stats.known(ends["mean"]))]
    enough = known.loc[known["n"] >= stats.FEWEST, "mean"]
    best = (enough.max if quantity.higher_is_better else enough.min)() if settings.has_best else np.nan
    least, most = (float(known[["low", "mean", "high"]].agg(name).agg(name)) for name in ("min", "max"))

    def row(key: Key) -> dict[str, Any]:
        by_step = settings.rows(frame, key).set_index("step")
        end = by_step.loc[last]
        low, mean, high = (float(end[name]) for name in ("low", "mean", "high"))
        scale = 92 / (most - least or 1.0)
        drawn = [min(100.0, max(0.0, 4 + scale * (each - least))) for each in (low, mean, high)]
        return {
            "name": settings.label(key), "colour": settings.line(key)["color"], "runs": f"{end['runs']:.0f}", "n": end["n"],
            "cells": [words.mean_and_half(by_step.loc[step], quantity.is_share) if step in by_step.index else ""
                      for step in shown],
            "best": mean == best,
            "dot": drawn[1] if least <= mean <= most else None,
            "whisker": (drawn[0], drawn[2]) if low == low and high == high else None,
        }  # fmt: skip

    text = f"{comparison.explained(settings, variable, options)} {tables.spread(ends['n'], options)}"
    chances = sorted({f"{100 * job.chance:.3g}" for job in settings.all_jobs if job.chance is not None})
    if variable == "metric" and chances:
        text += f" Chance is {', '.join(chances)}."
    more = (
        settings.cut(ends) if len(settings.jobs) > 1 else "",
        f"Bold: the best mean of {stats.FEWEST} seeds or more." if best == best else "",
    )
    return {
        "steps": ["before" if step == 0 else f"step {step}" for step in shown],
        "rows": [row(key) for key in settings.jobs if len(settings.rows(frame, key))],
        "several": len(settings.jobs) > 1,
        "end": words.after(last),
        "notes": comparison.notes(settings, frame),
        "text": " ".join(filter(None, [text, *more])),
    }


def _fields(members: Sequence[reader.Job]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The fields in which the jobs agree, and those in which they differ, with their values."""
    same: list[tuple[str, str]] = []
    different: list[tuple[str, str]] = []
    for name in dict.fromkeys(n for job in members for n in job.fields if n not in ("output", "resume")):
        values = [words.value(value) for value in dict.fromkeys(job.fields.get(name) for job in members)]
        shown = ", ".join(values[:8]) + (" …" if len(values) > 8 else "")
        (same if len(values) == 1 else different).append((name, shown))
    return same, different


def _where(members: Sequence[reader.Job]) -> list[tuple[str, str]]:
    places: Counter[tuple[str, str]] = Counter()
    for job in members:
        source = job.read("ranks")
        places.update(set(zip(source["ranks/host"], source["ranks/device"], strict=True)))
    hosts = [f"{host} ({device}): {words.count(n, 'job')}" for (host, device), n in sorted(places.items())]
    told = {
        name: [str(job.attributes.get(name, "")) for job in members]
        for name in ("versions", "git_commit", "start", "end")
    }
    facts = [
        ("hosts and devices", "; ".join(hosts[:12]) + (f" and {len(hosts) - 12} more" if len(hosts) > 12 else "")),
        ("ranks", ", ".join(reader.numbers_of_ranks(members))),
        ("versions", "; ".join(dict.fromkeys(told["versions"]))),
        ("git commit", ", ".join(dict.fromkeys(told["git_commit"]))),
        ("first start", min(told["start"])),
        ("last end", max(told["end"])),
    ]
    return [(name, text) for name, text in facts if text]


@command.command("report")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write one self-contained page about result files.")
    add_options(parser)
    parser.add_argument(
        "--output", type=command.path, help="page to write (.html); default: report.html beside the files"
    )
    parser.add_argument("--title", help="default: the sweep's description or the file's name")
    given = parser.parse_args(arguments)
    if given.output and given.output.suffix not in (".html", ".htm"):
        raise ValueError(f"--output must end in .html, not {given.output.suffix!r}")
    options = Options.of(given)
    found = reader.read(given.sources)
    output = given.output or found.folder / "report.html"
    text = page(found, options, given.by, given.title)
    with command.writing(output) as file:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
