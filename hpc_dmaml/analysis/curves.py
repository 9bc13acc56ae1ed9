"""Plot a job's validation: loss and metric over runs, one line for each adaptation step.

    hpc_dmaml curves results/job.h5 [--output picture.svg] [--smooth 5]

Reads the HDF5 file of a finished, running or interrupted job; needs neither MPI nor torch. PNG, SVG or PDF by suffix.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from matplotlib.figure import Figure

from hpc_dmaml import results
from hpc_dmaml.analysis import checked, command, stats, style, words


def plot(source: results.Results, smooth: int = 1) -> Figure:
    """The figure of one file: a panel for the loss, and one for the metric where there is one."""
    run, loss, values = (source[f"validation/{name}"] for name in ("run", "loss", "metric"))
    metric = source.metric
    if not len(run):
        raise ValueError(f"{source.path} holds no validation yet (status {source.status})")
    panels = [("query loss", loss)]
    if metric is not None and np.isfinite(values).any():
        panels.append((f"query {words.metric(metric)}", values))
    figure, axes = style.subplots(1, len(panels), wide=loss.shape[1] > style.MANY)
    colours = style.steps(loss.shape[1])
    gaps = 0
    for axis, (label, values) in zip(axes[0], panels, strict=True):
        means = stats.known(stats.over_tasks(values), axis=None)
        gaps += np.isnan(means).sum()
        for step, colour in enumerate(colours):
            name = "before adaptation" if step == 0 else f"after step {step}"
            style.plot(axis, run + 1, stats.smoothed(means[:, step], smooth, centred=False), color=colour, label=name)
        axis.set_xlabel("run")
        axis.set_ylabel(label)
    if metric is not None and len(panels) == 2:
        chance = checked.chance(source.attributes)
        if chance is not None:
            axes[0][1].axhline(chance, color=style.GREY, linestyle=":", linewidth=0.8, label="chance")
        if metric.is_share:
            axes[0][1].set_ylim(0, 1.02)
            style.percent(axes[0][1])
    elif (means[np.isfinite(means)] > 0).all():
        style.log(axes[0][0])
    style.legend(axes[0][-1], len(axes[0][-1].get_legend_handles_labels()[0]))
    workers = words.setting("workers", source["workers/loss"].shape[1])
    task = words.setting("task", source.config["task"]["class_path"])
    unfinished = "" if source.status == "complete" else f", {source.status}"
    smoothed = f", moving average of {smooth} validations" if smooth > 1 else ""
    style.title(figure, f"{task}, {workers}{unfinished}: mean of {loss.shape[2]} held-out tasks{smoothed}")
    if gaps:
        style.caption(figure, f"Gaps: {gaps} means are {stats.GAPS}.")
    return figure


@command.command("curves")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plot a job's validation: loss and metric over runs.")
    parser.add_argument("file", type=command.path, help="HDF5 file of a job")
    parser.add_argument("--output", type=command.path, help="picture to write (.png, .svg or .pdf); default: FILE.png")
    parser.add_argument("--smooth", type=int, default=1, help="moving average over this many validations")
    given = parser.parse_args(arguments)
    output = given.output or given.file.with_suffix(".png")
    if given.smooth < 1:
        raise ValueError(f"--smooth must be 1 or more, not {given.smooth}")
    source = checked.read(given.file, "validation", "workers")
    with style.used():
        style.save(plot(source, given.smooth), output)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
