"""The final values of validation of each setting, and their differences from those of one setting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from hpc_dmaml.analysis import reader, stats, style, words
from hpc_dmaml.analysis.settings import Key, Options, Settings
from hpc_dmaml.analysis.style import Picture


def final(settings: Settings, variable: str, options: Options) -> pd.DataFrame:
    """A row for each setting and adaptation step: mean over the last part of the validations. A seed of which one of these
    is a gap has none: that of the others would be too good.

    Columns: the setting, variable, step, runs (done, on average), mean, half (of the interval), low, high (cut at what is
    possible), n, and by seed values and runs_of. `notes` says what the means leave out.
    """
    rows = []
    for key, jobs in settings.jobs.items():
        ends, runs = [], {}
        for job in jobs:
            values = stats.known(stats.over_tasks(job.read("validation")[f"validation/{variable}"]))  # (V, S + 1)
            if len(values):
                ends.append(values[-max(1, round(options.last * len(values))) :].mean(axis=0))
                runs[job.seed] = len(job.read("runs")["runs/run"])
        if not ends:
            continue
        steps = max(map(len, ends))
        ends = [np.pad(end, (0, steps - len(end)), constant_values=np.nan) for end in ends]
        summary = options.summarise(np.array(ends))
        possible = summary.within(*settings.limits(variable))
        for step in range(steps):
            rows.append({
                **settings.columns(key), "variable": settings.quantity(variable).name, "step": step,
                "runs": float(np.mean(list(runs.values()))),
                "mean": summary.mean[step], "half": summary.high[step] - summary.mean[step],
                "low": possible.low[step], "high": possible.high[step], "n": int(summary.n[step]),
                "values": {seed: float(end[step]) for seed, end in zip(runs, ends, strict=True)}, "runs_of": runs,
            })  # fmt: skip
    if not rows:
        raise ValueError("the files hold no validation yet")
    return pd.DataFrame(rows)


def explained(settings: Settings, variable: str, options: Options) -> str:
    """What the numbers of a table of `final` values are."""
    quantity = settings.quantity(variable)
    unit = quantity.suffix and f" in {quantity.suffix}"
    return (
        f"{quantity.name[:1].upper()}{quantity.name[1:]}{unit} before adaptation and after each step of it; "
        f"means over the last {options.last:.0%} of the validations{' and the seeds' * settings.repeated}. "
        f"{settings.mixed(variable)}"
    ).strip()


def notes(settings: Settings, ends: pd.DataFrame) -> tuple[str, ...]:
    """Notes on `final` values of fewer seeds than there are, or of seeds that have not come equally far."""

    def of(key: Key, jobs: list[reader.Job]) -> Iterator[str]:
        rows = settings.rows(ends, key)
        runs = [] if rows.empty else rows["runs_of"].iloc[0].values()
        if len(runs) < len(jobs):
            yield f"no validation yet{f' of {len(jobs) - len(runs)} of {len(jobs)} seeds' if runs else ''}"
        few = rows[rows["n"] < len(runs)]
        if len(few):
            where = "" if len(few) == len(rows) else f" at step {words.some(list(map(str, few['step'])))}"
            yield f"{len(runs) - few['n'].min()} of {len(jobs)} seeds left out{where}: {stats.GAPS}"
        if len(set(runs)) > 1:
            yield f"seeds are at {min(runs):,} to {max(runs):,} runs"

    return tuple(f"{settings.label(key)}: {note}" for key, jobs in settings.jobs.items() for note in of(key, jobs))


def differences(
    settings: Settings, ends: pd.DataFrame, reference: Key, variable: str, options: Options
) -> pd.DataFrame:
    """Final values of each other setting minus those of the `reference`: mean, low, high, n, n_reference. `ends`: those
    of `final` at one step.

    The interval is Welch's or, with `paired`, that of the differences seed by seed, of the seeds that both have.
    """
    samples = {
        key: {seed: end for seed, end in rows["values"].iloc[0].items() if np.isfinite(end)}
        for key in settings.jobs
        if len(rows := settings.rows(ends, key))
    }
    named = settings.label(reference)
    if reference not in samples:
        raise ValueError(f"there is no validation yet of {named}, to compare with: see --against")
    least, most = settings.limits(variable)
    rows = []
    compared = stats.paired_difference if options.paired else stats.difference
    for key, values in samples.items():
        if key == reference:
            continue
        both = (values, samples[reference])
        shared = [seed for seed in both[0] if seed in both[1]]
        own, other = ([each[seed] for seed in (shared if options.paired else each)] for each in both)
        found = compared(own, other, options.interval, options.level)
        low, high = np.clip([found.low, found.high], least - most, most - least)
        rows.append({
            **settings.columns(key), "variable": settings.quantity(variable).name, "reference": named,
            "mean": found.mean, "low": low, "high": high, "n": len(own), "n_reference": len(other),
        })  # fmt: skip
    if not rows:
        raise ValueError("a comparison needs two settings or more")
    if not any(row["n"] and row["n_reference"] for row in rows):
        whose = f"whose final {settings.quantity(variable).name} is finite"
        if options.paired:
            raise ValueError(f"paired: no other setting shares a seed with {named} {whose}")
        raise ValueError(f"{named} has no seed {whose}, or no other setting has one")
    return pd.DataFrame(rows)


def compare(settings: Settings, options: Options) -> Picture:
    """Picture of the final validation of every other setting minus that of one, with the difference's interval. Raises
    ValueError for different losses."""
    reference, variable = _reference(settings, options.against), settings.variable(options)
    if mixed := settings.mixed(variable):
        raise ValueError(f"variable: {mixed.rstrip('.')}: give a metric that all files have, or files of one loss")
    ends = final(settings, variable, options)
    step = settings.step(options)
    ends = ends[ends["step"] == step]
    table = differences(settings, ends, reference, variable, options)
    others = settings.shown_in(table)
    figure, axis = style.named_rows([others.label(key) for key in others.jobs], 1.4)
    shown = table.assign(mean=stats.known(table["mean"]))
    for place, key in enumerate(others.jobs):
        row = others.rows(shown, key).iloc[0]
        error = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        axis.errorbar(row["mean"], place, xerr=error, marker="o", capsize=3, color=others.line(key)["color"])
    axis.axvline(0, color=style.GREY, linewidth=0.8)
    axis.set_ylim(len(table) - 0.5, -0.5)
    quantity = settings.quantity(variable)
    unit = quantity.suffix and f" ({quantity.suffix})"
    if quantity.is_share:
        axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g}" if value else "0")
        unit = " (percentage points)"
    axis.set_xlabel(f"final {quantity.name} less that of\n{settings.label(reference)}{unit}")
    how = "of the differences seed by seed" if options.paired else "by Welch"
    means = f"means over the last {options.last:.0%} of the validations"
    text = f"Held-out tasks {words.after(step)}, {means}; interval {how}."
    left_out = (
        f"Left out: seeds that end in values {stats.GAPS}." if ends["n"].lt(ends["runs_of"].map(len)).any() else ""
    )
    counts = [*table["n"], *table["n_reference"]]
    style.caption(figure, settings.caption(text, options, left_out, counts=counts))
    return Picture(figure, table, (*notes(settings, ends), *_without_interval(others, table, options)))


def _without_interval(others: Settings, table: pd.DataFrame, options: Options) -> Iterator[str]:
    """Notes on differences of too few seeds for an interval."""
    for key in others.jobs:
        row = others.rows(table, key).iloc[0]
        if min(row["n"], row["n_reference"]) < stats.FEWEST:
            shared = f"{words.count(int(row['n']), 'seed')} in common with {row['reference']}"
            seeds = shared if options.paired else f"{row['n']} and {row['n_reference']} seeds"
            yield f"{others.label(key)}: {seeds}, so there is no interval: it takes {stats.FEWEST}"


def _reference(settings: Settings, against: str | None) -> Key:
    """The setting to compare with: the one given by its values, in any order, or in words; else the first."""
    if against is None:
        return next(iter(settings.jobs))
    values = {key: ",".join(map(str, key)) for key in settings.jobs}
    exact = [key for key, text in values.items() if against in (settings.label(key), text)]
    for key in exact or [key for key, text in values.items() if sorted(text.split(",")) == sorted(against.split(","))]:
        return key
    raise ValueError(f"against: there is no {against!r}; there are {'; '.join(map(settings.label, settings.jobs))}")
