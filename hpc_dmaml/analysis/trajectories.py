"""Trajectories of a policy on held-out tasks, before adaptation and after each step of it (the thesis's figure 3.7)."""

from __future__ import annotations

import pandas as pd

from hpc_dmaml.analysis import reader, style
from hpc_dmaml.analysis.settings import Options, Settings
from hpc_dmaml.analysis.style import Picture

GOAL = "trajectories/goal"
POSITION = "trajectories/position"


def shown(settings: Settings) -> reader.Job | None:
    """The job whose trajectories are drawn: the first that has some, which are of its last validation."""
    return next((job for job in settings.all_jobs if POSITION in job.read("trajectories").arrays), None)


def positions(job: reader.Job) -> pd.DataFrame:
    """A row for each task, step, trajectory and time: x and y, before each step of the trajectory until its end."""
    places = job.read("trajectories")[POSITION]
    index = pd.MultiIndex.from_product(
        [range(size) for size in places.shape[:4]], names=["step", "task", "trajectory", "time"]
    )
    table = pd.DataFrame(places.reshape(-1, 2), index, ["x", "y"]).dropna().reset_index()
    return table.sort_values(["task", "step", "trajectory", "time"], ignore_index=True)


def walks(settings: Settings, options: Options) -> Picture:
    """Picture of trajectories, a row for each task: its goal is the cross, its start the dot."""
    job = shown(settings)
    if job is None:
        raise ValueError(
            "trajectories: the files keep none: they are those of navigation, from its first validation on"
        )
    table, goals = positions(job), job.read("trajectories")[GOAL]
    steps = int(table["step"].max()) + 1
    width = style.PAGE_IN if steps > 2 else style.COLUMN_IN
    figure, axes = style.subplots(len(goals), steps, height=width / steps, wide=steps > 2, sharex=True, sharey=True)
    for (task, step), rows in table.groupby(["task", "step"]):
        axis = axes[task, step]
        for _, one in rows.groupby("trajectory"):
            axis.plot(one["x"], one["y"], color=style.BLUE, alpha=0.6, linewidth=0.7)
        axis.plot(*rows[["x", "y"]].iloc[0], "o", color=style.GREY, ms=4)
        axis.plot(*goals[task], "x", color=style.VERMILION, ms=6, mew=1.6)
        axis.set_aspect("equal")
    for step, axis in enumerate(axes[0]):
        axis.set_title(f"after step {step}" if step else "before adaptation")
    for task, axis in enumerate(axes[:, 0]):
        axis.set_ylabel(f"task {task}")
    number = int(table["trajectory"].max()) + 1
    of = "" if len(settings.all_jobs) == 1 else f" Of {job.path.name}."
    text = (
        f"{number} trajectories of each task, from the dot; the cross is its goal, which the policy does not see.{of}"
    )
    style.caption(figure, text)
    return Picture(figure, table)
