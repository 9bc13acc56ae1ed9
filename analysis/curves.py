"""Plot a job's validation: loss and accuracy over runs, one line for each adaptation step.

    python analysis/curves.py results/job.h5 [--output picture.svg] [--smooth 5]

Reads the HDF5 file of a finished, running or interrupted job; needs neither MPI nor torch. PNG, SVG or PDF by suffix.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import style
from matplotlib.figure import Figure

from hpc_dmaml import results


def plot(source: results.Results, smooth: int = 1) -> Figure:
    """The figure of one file: a panel for the loss, and one for the accuracy where there is one."""
    run, loss, accuracy = (source[f"validation/{name}"] for name in ("run", "loss", "accuracy"))
    if not len(run):
        raise ValueError(f"{source.path} holds no validation yet (status {source.status})")
    panels = [("query loss", loss)]
    if not np.isnan(accuracy).all():
        panels.append(("query accuracy", accuracy))
    figure, axes = style.subplots(1, len(panels))
    colours = style.steps(loss.shape[1])
    for axis, (label, values) in zip(axes[0], panels, strict=True):
        for step, colour in enumerate(colours):
            mean = moving_average(values[:, step].mean(axis=1), smooth)
            name = "before adaptation" if step == 0 else f"after step {step}"
            axis.plot(run + 1, mean, color=colour, label=name, marker="." if len(run) < 3 else None)
        axis.set_xlabel("run")
        axis.set_ylabel(label)
    if len(panels) == 2:
        chance = 1 / int(source.attributes["outputs"])
        axes[0][1].axhline(chance, color=style.GREY, linestyle=":", linewidth=0.8, label="chance")
        axes[0][1].set_ylim(0, 1.02)
        style.percent(axes[0][1])
    elif (loss > 0).all():
        axes[0][0].set_yscale("log")
    axes[0][-1].legend()
    workers = source["workers/loss"].shape[1]
    task = str(source.config["task"]["class_path"]).rpartition(".")[2]
    unfinished = "" if source.status == "complete" else f", {source.status}"
    smoothed = f", moving average of {smooth} validations" if smooth > 1 else ""
    title = (
        f"{task}, {workers} worker{'s' * (workers != 1)}{unfinished}: mean of {loss.shape[2]} held-out tasks{smoothed}"
    )
    style.title(figure, title)
    return figure


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values, over fewer at the beginning."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (sums[end] - sums[start]) / (end - start)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plot a job's validation: loss and accuracy over runs.")
    parser.add_argument("file", type=Path, help="HDF5 file of a job")
    parser.add_argument("--output", type=Path, help="picture to write (.png, .svg or .pdf); default: FILE.png")
    parser.add_argument("--smooth", type=int, default=1, help="moving average over so many validations")
    given = parser.parse_args(arguments)
    output = given.output or given.file.with_suffix(".png")
    try:
        if given.smooth < 1:
            raise ValueError(f"--smooth must be 1 or more, not {given.smooth}")
        source = results.read(given.file, "validation", "workers")
        with style.used():
            style.save(plot(source, given.smooth), output)
    except (ValueError, OSError) as error:
        print(f"curves: {error}", file=sys.stderr)
        return 2
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
