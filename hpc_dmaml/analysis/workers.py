"""Weight and loss of each worker over runs: lines of few workers, an image of many."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpc_dmaml.analysis import reader, stats, style
from hpc_dmaml.analysis.settings import Options, Settings
from hpc_dmaml.analysis.style import Picture

FEW_WORKERS = 6
"""Most workers that are drawn as lines; more are drawn as rows of an image."""
PIXELS = 120
"""Most columns of an image of workers; the runs are averaged to as many."""


def of_each(settings: Settings, options: Options, variable: str) -> Picture:
    """Picture of the weight or loss of each worker, of each setting's first seed."""
    groups = {key: same[0] for key, same in settings.jobs.items()}
    if variable == "weight":
        groups = {key: job for key, job in groups.items() if job.fields["workers"] > 1}
        if not groups:
            raise ValueError("all jobs have one worker: its weight is 1")
    tables = {key: reader.table([job], "workers", [variable]) for key, job in groups.items()}
    tables = {key: table for key, table in tables.items() if len(table)}
    wide = [table.pivot(index="worker", columns="run", values=variable).to_numpy() for table in tables.values()]
    images = [_binned(stats.known(values, axis=None)) for values in wide]
    # One scale for all panels, so that they compare.
    values = stats.known(np.concatenate([image.ravel() for _, image in images] or [np.empty(0)]))
    if np.isnan(values).all():
        raise ValueError(f"the files hold no run yet, or none whose {variable} is finite")
    top, bottom = np.nanmax(values), 0.0 if variable == "weight" else np.nanmin(values)
    norm = LogNorm(bottom, top) if bottom > 0 and top > 4 * bottom else Normalize(bottom, top)
    columns = min(2, len(tables))
    figure, axes = style.subplots(-(-len(tables) // columns), columns, height=1.7)
    for axis, key, (edges, image) in zip(axes.flat, tables, images, strict=False):
        _draw(figure, axis, edges, image, variable, norm)
        axis.set_title(settings.label(key) if settings.by else "")
        axis.set_xlabel("runs")
    for axis in axes.flat[len(tables) :]:
        axis.set_axis_off()
    first = ", ".join(dict.fromkeys(str(groups[key].seed) for key in tables))
    left_out = f" Gaps: {stats.GAPS}." if np.isnan(values).any() else ""
    most = max(int(np.diff(edges).max()) for edges, _ in images)
    binned = f" Means over up to {most} runs." if most > 1 else ""
    style.caption(figure, settings.caption(f"Seed {first}.{binned}{left_out}", None, counts=()))
    numbers = pd.concat([settings.frame(key, table) for key, table in tables.items()], ignore_index=True)
    return Picture(figure, numbers)


def _binned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (B + 1,) in runs, and the means (W, B) of the finite `values` (W, n) between them."""
    edges = np.unique(np.linspace(0, values.shape[1], PIXELS + 1).astype(int))
    return edges, np.array([stats.mean(values[:, a:b], axis=1) for a, b in pairwise(edges)]).T


def _draw(figure: Figure, axis: Axes, edges: np.ndarray, image: np.ndarray, variable: str, norm: Normalize) -> None:
    """Draw the `image` (W, B) between the `edges` (B + 1,) in runs."""
    workers, is_log = len(image), isinstance(norm, LogNorm)
    name = "weight λ" if variable == "weight" else f"training {variable}"
    if workers > FEW_WORKERS:
        rows = np.arange(workers + 1) - 0.5
        colours = axis.pcolormesh(edges, rows, image, cmap="viridis", norm=norm, rasterized=True)
        bar = figure.colorbar(colours, ax=axis, label=name, format=style.LogNumbers() if is_log else None)
        bar.outline.set_linewidth(0.5)
        if is_log:
            bar.minorformatter = style.LogNumbers()
        axis.set_ylabel("worker")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(visible=False)
        return
    places = (edges[1:] + edges[:-1] + 1) / 2
    for worker, values in enumerate(image):
        style.plot(axis, places, values, linewidth=0.8, color=style.COLOURS[worker], label=f"worker {worker}")
    axis.set_ylabel(name)
    axis.set_xlim(0, edges[-1])
    if is_log:
        style.log(axis)
    low, high = norm.vmin, norm.vmax
    assert low is not None
    assert high is not None
    if low < high:
        axis.set_ylim(low, high + 0.05 * (high - low))
    if variable == "weight":
        axis.axhline(1 / workers, color=style.GREY, linestyle=":", linewidth=0.8)
    if workers > 1:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), labelspacing=0.3, handlelength=1.0)
