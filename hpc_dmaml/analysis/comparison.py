"""The final values of validation of each setting, and their differences from those of one setting."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hpc_dmaml.analysis import stats, style
from hpc_dmaml.analysis.settings import Key, Options, Settings
from hpc_dmaml.analysis.style import Picture


def final(settings: Settings, variable: str, options: Options) -> pd.DataFrame:
    """A row for each setting and adaptation step: mean over the last part of the validations.

    Columns: the setting, variable, step, runs (done, on average), mean, half (of the interval), low, high (cut at what is
    possible), n, and values (by seed).
    """
    rows = []
    for key, jobs in settings.jobs.items():
        ends, runs, seeds = [], [], []
        for job in jobs:
            values = stats.known(stats.over_tasks(job.read("validation")[f"validation/{variable}"]))  # (V, S + 1)
            if len(values):
                ends.append(stats.mean(values[-max(1, round(options.last * len(values))) :], axis=0))
                runs.append(len(job.read("runs")["runs/run"]))
                seeds.append(job.seed)
        if not ends:
            continue
        steps = max(map(len, ends))
        ends = [np.pad(end, (0, steps - len(end)), constant_values=np.nan) for end in ends]
        summary = options.summarise(np.array(ends))
        possible = summary.within(*settings.limits(variable))
        for step in range(steps):
            rows.append({
                **settings.columns(key), "variable": settings.quantity(variable).name, "step": step, "runs": float(np.mean(runs)),
                "mean": summary.mean[step], "half": summary.high[step] - summary.mean[step],
                "low": possible.low[step], "high": possible.high[step],
                "n": int(summary.n[step]), "values": {seed: float(end[step]) for seed, end in zip(seeds, ends, strict=True)},
            })  # fmt: skip
    if not rows:
        raise ValueError("the files hold no validation yet")
    return pd.DataFrame(rows)


def differences(settings: Settings, reference: Key, variable: str, options: Options) -> pd.DataFrame:
    """Final values of each other setting minus those of the `reference`: mean, low, high, n, n_reference.

    The interval is Welch's or, with `paired`, that of the differences seed by seed, of the seeds that both have.
    """
    table = final(settings, variable, options)
    table = table[table["step"] == (table["step"].max() if options.step is None else options.step)]
    samples = {tuple(row[name] for name in settings.by): row["values"] for _, row in table.iterrows()}
    if reference not in samples:
        raise ValueError(f"there is no validation yet of {settings.label(reference)}, to compare with: see --against")
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
            **settings.columns(key), "variable": settings.quantity(variable).name, "reference": settings.label(reference),
            "mean": found.mean, "low": low, "high": high,
            "n": int(np.isfinite(own).sum()), "n_reference": int(np.isfinite(other).sum()),
        })  # fmt: skip
    if not rows:
        raise ValueError("a comparison needs two settings or more")
    return pd.DataFrame(rows)


def compare(settings: Settings, options: Options) -> Picture:
    """Picture of the final validation of every other setting minus that of one, with the difference's interval."""
    reference, variable = _reference(settings, options.against), settings.variable(options)
    table = differences(settings, reference, variable, options)
    others = settings.shown_in(table)
    figure, axis = style.named_rows([others.label(key) for key in others.jobs], 1.4)
    shown = table.assign(mean=stats.known(table["mean"]))
    for place, key in enumerate(others.jobs):
        row = others.rows(shown, key).iloc[0]
        error = np.nan_to_num([[row["mean"] - row["low"]], [row["high"] - row["mean"]]])
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
    text = f"Means over the last {options.last:.0%} of the validations; interval {how}."
    style.caption(figure, settings.caption(text, options))
    left_out = [key for key in settings.jobs if key not in others.jobs and key != reference]
    return Picture(figure, table, tuple(f"{settings.label(key)}: no validation yet" for key in left_out))


def _reference(settings: Settings, against: str | None) -> Key:
    """The setting to compare with: the one given by its values or in words; else the first."""
    for key in settings.jobs:
        if against is None or against in (settings.label(key), ",".join(map(str, key))):
            return key
    raise ValueError(f"against: there is no {against!r}; there are {', '.join(map(settings.label, settings.jobs))}")
