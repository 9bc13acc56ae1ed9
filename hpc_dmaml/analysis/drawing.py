"""What pictures are made of: curves with their limits, workers, axes, legends and captions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpc_dmaml.analysis import metrics, stats, style
from hpc_dmaml.analysis.measures import Options, Settings

FEW_WORKERS = 6
"""Up to so many are drawn as lines, more as rows of an image."""
PIXELS = 120
"""Runs side by side in an image of workers; more are averaged."""


def draw_curve(
    axis: Axes, rows: pd.DataFrame, x: str, scale: float, label: str, line: dict[str, Any], band: float = 0.13
) -> None:
    """Points of the means, their fit or moving average as a line, and its limits, where they mean something, as a band of so
    much colour."""
    if rows.empty:
        return
    places, colour = rows[x] / scale, line["color"]
    drawn = "fit" if is_fitted(rows) else "smooth"
    if drawn == "fit" or rows["window"].iloc[0] > 1:
        size, alpha = (2, 0.15) if len(rows) > 100 else (3.5, 0.35)
        axis.plot(places, stats.known(rows["mean"]), ".", color=colour, ms=size, alpha=alpha, mew=0, zorder=1.5)
    mean, low, high = (stats.known(rows[name]) for name in (drawn, f"{drawn}_low", f"{drawn}_high"))
    style.plot(axis, places, mean, label=label, **line)
    if rows["n"].max() >= stats.FEWEST:
        axis.fill_between(places, low, high, color=colour, alpha=band, linewidth=0)


def is_fitted(rows: pd.DataFrame) -> bool:
    """Has this curve points enough for the polynomial that was asked for?"""
    return "fit" in rows and bool(rows["fit"].notna().any())


def frame_means(axis: Axes, means: pd.Series) -> None:
    """Limits of few seeds can be far away: the picture is of the means, with room around them."""
    low, high = pd.Series(stats.known(means)).agg(["min", "max"])
    room = 0.6 * (high - low)
    bottom, top = axis.get_ylim()
    if room > 0:
        axis.set_ylim(max(bottom, low - room), min(top, high + room))


def name_axes(axis: Axes, settings: Settings, variable: str, x_label: str) -> None:
    axis.set_xlabel(x_label)
    quantity = settings.quantity(variable)
    if variable == "metric":
        axis.set_ylabel(f"validation {metrics.words(quantity)}")
        chance, *others = {job.chance for job in settings.all_jobs}
        if chance is not None and not others:
            axis.axhline(chance, color=style.GREY, linestyle=":", linewidth=0.8)
        if quantity.is_share:
            style.percent(axis)
            axis.set_ylim(top=min(axis.get_ylim()[1], 1.005))
            axis.set_ylim(bottom=max(axis.get_ylim()[0], -0.005))
    else:
        kinds = {style.words("loss", str(job.attributes["loss"])).replace("_", " ") for job in settings.all_jobs}
        axis.set_ylabel(f"validation loss\n({', '.join(sorted(kinds))})")


def binned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (B + 1,) in runs, and the means (W, B) of the finite `values` (W, n) between them."""
    edges = np.unique(np.linspace(0, values.shape[1], PIXELS + 1).astype(int))
    return edges, np.array([stats.mean(values[:, a:b], axis=1) for a, b in pairwise(edges)]).T


def draw_workers(
    figure: Figure, axis: Axes, edges: np.ndarray, image: np.ndarray, variable: str, norm: Normalize
) -> None:
    """`image`: (W, B) between `edges` (B + 1,) in runs. Lines of few workers, rows of colours of many."""
    workers = len(image)
    words = "weight λ" if variable == "weight" else f"training {variable}"
    if workers > FEW_WORKERS:
        colours = axis.pcolormesh(
            edges, np.arange(workers + 1) - 0.5, image, cmap="viridis", norm=norm, rasterized=True
        )
        is_log = isinstance(norm, LogNorm)
        bar = figure.colorbar(colours, ax=axis, label=words, format=style.LogNumbers() if is_log else None)
        bar.outline.set_linewidth(0.5)
        if is_log:
            bar.minorformatter = style.LogNumbers()
        axis.set_ylabel("worker")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(visible=False)
        return
    for worker, values in enumerate(image):
        places = (edges[1:] + edges[:-1] + 1) / 2
        style.plot(axis, places, values, linewidth=0.8, color=style.COLOURS[worker], label=f"worker {worker}")
    axis.set_ylabel(words)
    axis.set_xlim(0, edges[-1])
    if isinstance(norm, LogNorm):
        style.log(axis)
    assert norm.vmin is not None
    assert norm.vmax is not None
    if norm.vmin < norm.vmax:
        axis.set_ylim(norm.vmin, norm.vmax + 0.05 * (norm.vmax - norm.vmin))
    if variable == "weight":
        axis.axhline(1 / workers, color=style.GREY, linestyle=":", linewidth=0.8)
    if workers > 1:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), labelspacing=0.3, handlelength=1.0)


def after(step: int) -> str:
    return "before adaptation" if step == 0 else f"after {step} adaptation step{'s' * (step > 1)}"


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds of a unit that suits so many seconds, and how to write it on an axis."""
    for size, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return size, f" ({name})"
    return 1.0, " (s)"


def number(value: float, _: int) -> str:
    """On an axis: 500, 20k, 3M."""
    size, letter = (1e6, "M") if value >= 1e6 else (1e3, "k") if value >= 1e3 else (1.0, "")
    return f"{value / size:g}{letter}"


def caption(
    figure: Figure,
    settings: Settings,
    options: Options | None,
    text: str,
    curves: pd.DataFrame | None = None,
    repetitions: bool = True,
) -> None:
    """How the picture was made, and what is not complete. `curves`: the table of those in it."""
    words = [text]
    if repetitions and settings.repeated:
        words.append(f"Mean of {settings.seeds}{', ' + options.words if options else ''}.")
        words.append(settings.few_seeds if options else "")
    elif repetitions:
        words.append("One seed: no confidence interval.")
    if curves is not None:
        words.append(settings.cut(curves))
        words += _how_drawn(curves, list(settings.by), options)
    unfinished = [job for job in settings.all_jobs if job.status != "complete"]
    if unfinished:
        words.append(f"{len(unfinished)} of {len(settings.all_jobs)} jobs are not complete.")
    style.caption(figure, " ".join(filter(None, words)))


def _how_drawn(curves: pd.DataFrame, by: list[str], options: Options | None) -> list[str]:
    """Sentences on the lines of curves, and on what they leave out."""
    words = []
    if np.isnan(stats.known(curves["mean"])).any():
        words.append(f"Left out: means that are {stats.GAPS}.")
    parts = [rows for _, rows in curves.groupby(by, observed=True, dropna=False)] if by else [curves]
    if options is not None and any(map(is_fitted, parts)):
        words.append(f"Lines: polynomial fits of degree {options.degree}.")
    windows = sorted({int(rows["window"].iloc[0]) for rows in parts if not is_fitted(rows)} - {1})
    if windows:
        words.append(f"Lines: centred moving averages over {' or '.join(map(str, windows))} validations.")
    return words
