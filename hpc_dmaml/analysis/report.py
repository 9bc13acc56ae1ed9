"""One page that shows what ran and what came out of it, for any files: a sweep, folders, a single job.

    python analysis/report.py results/scaling                               # writes results/scaling/report.html
    python analysis/report.py results/a.h5 results/b.h5 --output report.html

The page stands alone: pictures and style are in it, it needs no network and runs no script. Sweeps, and jobs of different
tasks, get a part each. Jobs that still run or were interrupted take part; what is missing is said. Options and errors are
those of figures.py.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from hpc_dmaml import results
from hpc_dmaml.analysis import command, figures, measures, pieces, plots, reader, stats, style, tables
from hpc_dmaml.analysis.measures import Options, Settings
from hpc_dmaml.analysis.pieces import escape
from hpc_dmaml.files import is_locked

PANELS = 6
"""Settings whose workers are drawn; of more, those with most workers."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself sees to it that the page loads nothing."""


@dataclass(frozen=True)
class Part:
    """Jobs that can be compared with one another."""

    title: str
    found: reader.Collection
    """Its jobs alone, and their sweep."""
    settings: Settings | None
    """None where the files cannot be told apart by settings: `problem` says why."""
    problem: str = ""


def page(found: reader.Collection, options: Options, by: Sequence[str] | None = None, title: str | None = None) -> str:
    """The report as HTML."""
    parts = divided(found, by)
    if title is None:
        title = parts[0].title if len(parts) == 1 else f"{len(parts)} experiments"
    links = [f'<a href="#part-{n}">{escape(part.title)}</a>' for n, part in enumerate(parts)]
    warnings = [*found.notes, *(note for part in parts for note in cautions(part))]
    with style.used(), matplotlib.rc_context({"legend.frameon": False}):
        bodies = [
            (f'<h2 id="part-{n}">{escape(part.title)}</h2>' if len(parts) > 1 else "") + _body(part, options)
            for n, part in enumerate(parts)
        ]
    css = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>",
            f'<header><p class="kind">hpc_dmaml report</p><h1>{escape(title)}</h1>',
            f'<p class="lead">{escape(_summary(found))}</p></header>',
            f"<nav>{' '.join(links)}</nav>" if len(parts) > 1 else "",
            _tiles(found),
            _warnings(list(dict.fromkeys(warnings))),
            *bodies,
            f"<footer>Made {escape(now)} from {pieces.count(len(found.jobs), 'file')}. Held-out tasks throughout; pictures follow the "
            "numbers that figures.py and tables.py write as CSV.</footer>\n</body>\n</html>\n",
        ]
    )


def divided(found: reader.Collection, by: Sequence[str] | None = None) -> list[Part]:
    """A part for each sweep, and for the jobs of each task besides."""
    groups: dict[str, tuple[list[reader.Job], Any]] = {}
    places = {point.output.resolve(): sweep for sweep in found.sweeps for point in sweep.points}
    for job in found.jobs:
        sweep = places.get(job.path.resolve())
        key = str(sweep.folder) if sweep else str(job.fields["task"])
        groups.setdefault(key, ([], sweep))[0].append(job)
    parts = []
    for key, (jobs, sweep) in groups.items():
        own = replace(found, jobs=tuple(jobs), sweeps=(sweep,) if sweep else (), notes=())
        title = sweep.description if sweep else jobs[0].path.name if len(jobs) == 1 else style.words("task", key)
        try:
            names = list(by) if by is not None else figures.default_by(own)
            parts.append(Part(title, own, Settings(jobs, names, figures.every(own, names))))
        except ValueError as error:
            parts.append(Part(title, own, None, str(error)))
    return parts


def cautions(part: Part) -> list[str]:
    """What to mind about the jobs themselves: restarts, workers that were not finite, code that was changed."""
    notes = [part.problem] if part.problem else list(part.settings.notes) if part.settings else []
    for job in part.found.jobs:
        restarts = int(job.attributes.get("restarts", 0))
        if restarts:
            notes.append(f"{job.path.name} was restarted {restarts} time{'s' * (restarts > 1)}")
        if job.status == "running" and not is_locked(job.path):
            notes.append(f"{job.path.name}: its lock is free: it was killed, or runs where the lock cannot be seen")
        lost = ~np.isfinite(job.read("workers")["workers/loss"])
        if lost.any():
            which = ", ".join(map(str, np.flatnonzero(lost.any(axis=0))[:8]))
            notes.append(
                f"{job.path.name}: not finite in {lost.any(axis=1).sum()} of {len(lost)} runs: worker {which}; "
                "they counted 0 there"
            )
        gaps = np.isnan(stats.known(stats.over_tasks(job.read("validation")["validation/loss"]))).any(axis=1)
        if gaps.any():
            notes.append(f"{job.path.name}: {gaps.sum()} of {len(gaps)} validations are left out: {stats.GAPS}")
    commits = sorted({str(job.attributes.get("git_commit", "")) for job in part.found.jobs} - {""})
    if len(commits) > 1:
        notes.append(f"{part.title}: made by {len(commits)} versions of the code")
    return notes


# ---- sections


def _body(part: Part, options: Options) -> str:
    sections = []
    if part.settings is not None:
        sections += [_final(part.settings, options), _pictures(part, part.settings, options)]
    return "\n".join([*sections, _what_ran(part), _where(part.found.jobs), _jobs(part.found)])


def _summary(found: reader.Collection) -> str:
    tasks = sorted({style.words("task", str(job.fields["task"])) for job in found.jobs})
    models = sorted({style.words("model", str(job.fields["model"])) for job in found.jobs})
    starts = sorted(str(job.attributes.get("start", ""))[:10] for job in found.jobs)
    when = starts[0] if starts[0] == starts[-1] else f"{starts[0]} to {starts[-1]}"
    return f"{', '.join(tasks)} with {', '.join(models)}" + (f", run {when}" if when else "")


def _tiles(found: reader.Collection) -> str:
    jobs = found.jobs
    done = sum(job.status == "complete" for job in jobs)
    expected = len(jobs) + sum(not point.output.exists() for sweep in found.sweeps for point in sweep.points)
    logs = [job.read("runs") for job in jobs]
    worked = np.nan_to_num([_worked_s(log) for log in logs])
    seen = sum(int(log["runs/seen_tasks"][-1]) for log in logs if len(log["runs/seen_tasks"]))
    tiles = [
        (f"{done} of {expected}", f"job{'s' * (expected > 1)} complete"),
        (pieces.short(sum(len(log["runs/run"]) for log in logs)), "runs"),
        (pieces.short(seen), "training tasks seen"),
        (pieces.duration(float(worked.sum())), "wall time, all jobs"),
        (pieces.duration(float(worked @ [job.ranks for job in jobs])), "time of all ranks"),
    ]
    return (
        '<ul class="tiles">'
        + "".join(f"<li><b>{escape(b)}</b><span>{escape(s)}</span></li>" for b, s in tiles)
        + "</ul>"
    )


def _worked_s(log: results.Results) -> float:
    """Seconds since its start, as far as it says."""
    wall = stats.known(log["runs/wall_s"])
    return float(np.append(np.nan, wall[np.isfinite(wall)])[-1])


def _warnings(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note[:1].upper() + note[1:])}</li>" for note in notes)
    return f'<section class="warnings"><h3>To mind</h3><ul>{items}</ul></section>'


def _final(settings: Settings, options: Options) -> str:
    """The final table; the last column draws mean and interval on one scale."""
    try:
        variable = plots.chosen_variable(settings, None)
        frame = measures.final(settings, variable, options)
    except ValueError as error:
        return f'<h3>Where it ends</h3><p class="note">{escape(str(error))}.</p>'
    quantity = settings.quantity(variable)
    is_share, unit = quantity.is_share, quantity.suffix
    steps = sorted(frame["step"].unique())
    shown = steps if len(steps) <= 7 else [*steps[:5], steps[-1]]
    ends = frame[frame["step"] == steps[-1]]
    shown_ends = ends[np.isfinite(stats.known(ends["mean"]))]
    best = (shown_ends["mean"].max if quantity.higher_is_better else shown_ends["mean"].min)()
    low, high = (float(shown_ends[["low", "mean", "high"]].agg(name).agg(name)) for name in ("min", "max"))
    lines = []
    for key in settings.jobs:
        rows = frame[plots.matching(frame, settings.by, key)].set_index("step")
        if rows.empty:
            continue
        end = rows.loc[steps[-1]]
        colour = settings.line(key)["color"]
        cells = [pieces.number(rows.loc[step], is_share) for step in shown]
        name = f'<i class="swatch" style="{pieces.colours(colour)}"></i>{escape(settings.label(key) if settings.by else "all")}'
        whisker = pieces.whisker(float(end["low"]), float(end["mean"]), float(end["high"]), low, high, colour)
        mark = ' class="best"' if settings.has_best and end["mean"] == best else ""
        lines.append(
            f'<tr{mark}><th scope="row">{name}</th><td>{end["runs"]:g}</td><td>{end["n"]}</td>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + (f'<td class="wide">{whisker}</td>' if len(settings.jobs) > 1 else "")
            + "</tr>"
        )
    head = ["setting", "runs", "seeds", *("before" if s == 0 else f"step {s}" for s in shown)]
    head += ["after the last step"] * (len(settings.jobs) > 1)
    text = f"{quantity.name[:1].upper()}{quantity.name[1:]}{unit and f' in {unit}'} before adaptation and after each step of it; means over the last {options.last:.0%} of the validations"
    text += f" and the seeds, ± half the {options.words}." if settings.repeated else ". One seed: no interval."
    chances = {f"{100 * job.chance:.3g}" for job in settings.all_jobs if job.chance is not None}
    if variable == "metric" and chances:
        text += f" Chance is {', '.join(sorted(chances))}."
    cut = settings.cut(ends) if len(settings.jobs) > 1 else ""
    best_is_bold = "Bold: the best mean." if settings.has_best else ""
    text = " ".join(filter(None, [text, settings.few_seeds, cut, best_is_bold]))
    return f"<h3>Where it ends</h3>{pieces.table(head, lines, text)}"


def _pictures(part: Part, settings: Settings, options: Options) -> str:
    """All that the files can show: each picture, or why there is none."""
    draw: dict[str, Callable[[], plots.Picture]] = {}
    families = plots.families(settings) if settings.by == (figures.SCALING,) else {}
    is_scaled = bool(families) and ("baseline",) in settings.jobs
    extra = ""
    if is_scaled:
        for name, family in families.items():
            draw[f"More {name}"] = partial(plots.over_runs, family, options, f"{name.capitalize()} scaled")
        draw["Against seen tasks"] = lambda: plots.over_runs(settings, options, "", "seen_tasks", panels=True)
        draw["Against wall time"] = lambda: plots.over_runs(settings, options, "", "wall_s", panels=True)
        draw["Duration of a run"] = lambda: plots.run_time(settings, options, "", figures.RUN_PERCENT)
        draw["Wall time of 1,000 runs"] = lambda: plots.extrapolation(settings, options, "")
        extra = _durations(part.found, options)
    else:
        draw["Over runs"] = lambda: plots.over_runs(settings, options, "")
        if len(settings.jobs) == 1:
            draw["Each adaptation step"] = lambda: plots.over_runs_by_step(settings, options, "")
        draw["Against seen tasks"] = lambda: plots.over_runs(settings, options, "", "seen_tasks")
        draw["Against wall time"] = lambda: plots.over_runs(settings, options, "", "wall_s")
        if any(measures.steps_of_a_task(job) is not None for job in settings.all_jobs):
            draw["Against environment steps"] = lambda: plots.over_runs(settings, options, "", "environment_steps")
        if len({job.ranks for job in settings.all_jobs}) > 1:
            draw["Speed-up and efficiency"] = lambda: _speed_up(settings, options)
    if len(settings.jobs) > 1 and settings.repeated:
        reference = next(iter(settings.jobs))
        text = f"Difference from {settings.label(reference)}"
        draw[text] = lambda: plots.comparison(settings, options, "", reference)
    curves = list(draw.items())
    chosen = sorted(settings.jobs, key=lambda key: -settings.jobs[key][0].fields["workers"])[:PANELS]
    some = settings.some(key for key in settings.jobs if key in chosen)
    workers: list[tuple[str, Callable[[], plots.Picture]]] = [
        ("Loss of each worker", lambda: plots.per_worker(some, options, "", "loss")),
    ]
    weighted = some.some(key for key, jobs in some.jobs.items() if _is_weighted(jobs[0]))
    if weighted.jobs:
        workers.insert(0, ("Weight of each worker", lambda: plots.per_worker(weighted, options, "", "weight")))
    left_out = len(settings.jobs) - len(some.jobs)
    note = f'<p class="note">The {len(some.jobs)} settings with most workers.</p>' if left_out else ""
    shares = [("Share of work, exchange, wait and validation", lambda: plots.time_shares(settings, options, ""))]
    return "\n".join(
        [
            "<h3>How it gets there</h3>",
            pieces.grid(curves),
            extra,
            "<h3>Workers</h3>",
            note,
            pieces.grid(workers),
            "<h3>Where the time goes</h3>",
            pieces.grid(shares),
        ]
    )


def _is_weighted(job: reader.Job) -> bool:
    """Has it weights to look at? Those of the plain mean are all the same."""
    return job.fields["workers"] > 1 and job.fields["weight_generator"] != "ArithmeticMean"


def _speed_up(settings: Settings, options: Options) -> plots.Picture:
    by = [name for name in settings.by if name not in ("workers", "tasks", "ranks")]
    return plots.speed_up(Settings(settings.all_jobs, [*by, "ranks"]), options, "")


def _durations(found: reader.Collection, options: Options) -> str:
    """Table 6.4."""
    try:
        (head, *rows), _ = tables.run_durations(found, options)
    except ValueError as error:
        return f'<p class="note">{escape(str(error))}.</p>'
    lines = [
        f'<tr><th scope="row">{escape(row[0])}×</th>{"".join(f"<td>{escape(c)}</td>" for c in row[1:])}</tr>'
        for row in rows
    ]
    return pieces.table(head, lines, f"Duration of a run, the baseline's is 100; ± half the {options.words}.")


def _what_ran(part: Part) -> str:
    """The fields in which the jobs agree, and those in which they differ."""
    jobs = part.found.jobs
    names = dict.fromkeys(name for job in jobs for name in job.fields if name not in ("output", "resume"))
    same, different = [], []
    for name in names:
        values = list(dict.fromkeys(job.fields.get(name) for job in jobs))
        if len(values) == 1:
            same.append((name, pieces.value(values[0])))
        else:
            shown = ", ".join(pieces.value(v) for v in values[:8]) + (" …" if len(values) > 8 else "")
            different.append((name, shown))
    both = pieces.facts(different) if different else '<p class="note">All jobs have the same settings.</p>'
    both = both if len(jobs) > 1 else ""
    return (
        f"<h3>What ran</h3>{both}<details><summary>{len(same)} settings "
        f"{'that all jobs have in common' if len(jobs) > 1 else ''}</summary>{pieces.facts(same)}</details>"
    )


def _where(jobs: Sequence[reader.Job]) -> str:
    places: Counter[tuple[str, str]] = Counter()
    for job in jobs:
        source = job.read("ranks")
        places.update(dict.fromkeys(zip(source["ranks/host"], source["ranks/device"], strict=True), 1))
    hosts = [f"{host} ({device}): {count} job{'s' * (count > 1)}" for (host, device), count in sorted(places.items())]
    starts = sorted(str(job.attributes.get("start", "")) for job in jobs)
    ends = sorted(str(job.attributes.get("end", "")) for job in jobs)
    facts = [
        ("hosts and devices", "; ".join(hosts[:12]) + (f" and {len(hosts) - 12} more" if len(hosts) > 12 else "")),
        ("ranks", ", ".join(map(str, sorted({job.ranks for job in jobs})))),
        ("versions", "; ".join(dict.fromkeys(str(job.attributes.get("versions", "")) for job in jobs))),
        ("git commit", ", ".join(dict.fromkeys(str(job.attributes.get("git_commit", "")) for job in jobs))),
        ("first start", starts[0]),
        ("last end", ends[-1]),
    ]
    return f"<h3>Where and when</h3>{pieces.facts([(name, text) for name, text in facts if text])}"


def _jobs(found: reader.Collection) -> str:
    lines = []
    for job in found.jobs:
        log = job.read("runs")
        runs = len(log["runs/run"])
        cells = [
            f'<td class="text {escape(job.status)}">{escape(job.status)}</td>',
            f"<td>{job.seed}</td><td>{runs:,} of {int(job.fields['runs']):,}</td><td>{job.ranks}</td>",
            f"<td>{int(job.attributes.get('restarts', 0))}</td><td>{pieces.duration(_worked_s(log)) if runs else ''}</td>",
            f'<td class="text">{escape(str(job.attributes.get("start", "")))}</td>',
        ]
        lines.append(f'<tr><th scope="row">{escape(job.path.name)}</th>{"".join(cells)}</tr>')
    missing = [point for sweep in found.sweeps for point in sweep.points if not point.output.exists()]
    for point in missing:
        lines.append(
            f'<tr><th scope="row">{escape(point.name)}</th><td class="text failed">missing</td><td>{point.seed}</td>'
            + "<td></td>" * 5
            + "</tr>"
        )
    head = ["file", "status", "seed", "runs", "ranks", "restarts", "wall time", "start"]
    opened = " open" if len(lines) <= 12 else ""
    return f"<h3>Jobs</h3><details{opened}><summary>{pieces.count(len(lines), 'job')}</summary>{pieces.table(head, lines, '', {1, 7})}</details>"


@command.command("report")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write one self-contained page about result files.")
    figures.add_options(parser)
    parser.add_argument(
        "--output", type=command.path, help="page to write (.html); default: report.html beside the files"
    )
    parser.add_argument("--title", help="default: the sweep's description or the file's name")
    given = parser.parse_args(arguments)
    if given.output and given.output.suffix not in (".html", ".htm"):
        raise ValueError(f"--output must end in .html, not {given.output.suffix!r}")
    options = Options(given.interval, given.level, step=given.step, last=given.last)
    found = reader.read(given.sources)
    output = given.output or figures.default_folder(given.sources, found) / "report.html"
    text = page(found, options, given.by, given.title)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8", errors="backslashreplace")
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
