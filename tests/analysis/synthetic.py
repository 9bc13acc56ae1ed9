"""Result files of jobs that never ran: plausible curves and times from formulas, in the real format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import yaml

from hpc_dmaml import results
from hpc_dmaml.config import RunConfig, to_yaml
from hpc_dmaml.files import add_checksum
from hpc_dmaml.losses.metric import ACCURACY, Metric
from hpc_dmaml.sweep import Sweep
from hpc_dmaml.tasks import Sinusoid

SEAL_BYTES = 48
"""At the end of a file."""


def write_job(
    path: Path,
    config: RunConfig,
    ranks: int = 1,
    status: str = "complete",
    runs: int | None = None,
    metric: Metric | None = None,
) -> None:
    """A job of `config` (with workers), or the first `runs` of it.

    A run takes 10 ms a task of a rank and 2 ms more, a validation 5 ms; accuracy rises from chance, faster with more
    workers, tasks and epochs; losses fall; weights are about equal. Another `metric` comes better by the same formula, from
    -40 to 60, or down from 40.
    """
    rng = np.random.default_rng(config.seed)
    workers, tasks = config.workers or ranks, config.tasks * config.epochs
    classified = not isinstance(config.task, Sinusoid)
    metric = ACCURACY if classified and metric is None else metric
    validation = config.validation
    log = results.Log({"worker": workers, "rank": ranks, "step": validation.steps + 1, "task": validation.tasks})
    speed = (workers * config.tasks) ** 0.5 * config.epochs**0.6 / 1000
    wall = 0.5
    for run in range(config.runs if runs is None else runs):
        level = 1 - np.exp(-speed * (run + 1))
        due = bool(validation.every) and ((run + 1) % validation.every == 0 or run + 1 == config.runs)
        work_s = 0.01 * tasks * workers / ranks * rng.uniform(0.95, 1.05, ranks)
        wall += work_s.max() + 0.002 + 0.005 * due
        log.append(
            {
                "runs/run": run,
                "runs/seen_tasks": (run + 1) * workers * tasks,
                "runs/wall_s": wall,
                "workers/loss": (2 - level) * rng.uniform(0.9, 1.1, workers),
                "workers/metric": np.full(workers, _as(metric, 0.2 + 0.7 * level)),
                "workers/weight": rng.dirichlet(np.full(workers, 50.0)),
                "workers/work_s": np.full(workers, 0.01 * tasks),
                "ranks/work_s": work_s,
                "ranks/data_s": 0.3 * work_s,
                "ranks/exchange_s": np.full(ranks, 0.002),
                "ranks/wait_s": work_s.max() - work_s,
                "ranks/validation_s": np.full(ranks, 0.005 * due),
            }
        )
        if due:
            shape = (validation.steps + 1, validation.tasks)
            step = np.arange(shape[0])[:, None] / max(1, validation.steps)
            share = np.clip(0.2 + 0.75 * level * step**0.3 + rng.normal(0, 0.1, shape), 0, 1)
            log.append(
                {
                    "validation/run": run,
                    "validation/loss": 1.6 - 1.2 * level * step**0.3 + rng.uniform(0, 0.2, shape),
                    "validation/metric": _as(metric, share),
                }
            )
    if status == "running" and len(log):
        log.complete_times(np.full((ranks, len(results.RANK_TIMES)), np.nan))  # they come with the next run
    attributes = {
        "config": to_yaml(replace(config, workers=workers)), "seed": config.seed, "versions": "", "git_commit": "",
        "start": "2026-01-01T00:00:00+00:00", "end": "", "written": "", "sample_shape": [1], "status": status,
        "outputs": 5, "loss": "cross_entropy" if classified else "squared_error", "restarts": 0, "best_run": 0, "best_score": 0.0,
        **results.metric_attributes(metric),
    }  # fmt: skip
    more = {"ranks/host": ["node1"] * ranks, "ranks/device": ["cpu"] * ranks, "meta_model/parameters": np.zeros(3)}
    results.write(path, {**log.arrays(), **more}, attributes)


def _as(metric: Metric | None, share: np.ndarray | float) -> np.ndarray | float:
    """Numbers of a metric for shares of 1; NaN where there is none."""
    if metric is None:
        return np.nan * share
    return share if metric.is_share else 100 * share - 40 if metric.higher_is_better else 40 * (1 - share)


def as_schema_1(path: Path) -> None:
    """Make a file what it would have been before files knew metrics and algorithms; it keeps a checksum."""
    path.write_bytes(path.read_bytes()[:-SEAL_BYTES])
    with h5py.File(path, "r+") as file:
        for group in ("workers", "validation"):
            file.move(f"{group}/metric", f"{group}/accuracy")
        for name in results.metric_attributes(None):
            del file.attrs[name]
        content = yaml.safe_load(file.attrs["config"])
        if "algorithm" in content:
            own = content.pop("algorithm")["init_args"]
            old = {name: own[name] for name in ("inner_lr", "inner_steps", "first_order")}
            content["maml"] = old | {name: content.pop(name) for name in ("task_reduction", "clip")}
        file.attrs["config"] = yaml.safe_dump(content, sort_keys=False)
        file.attrs["schema"] = 1
    add_checksum(path)


def write_sweep(sweep: Sweep, without: tuple[str, ...] = ()) -> None:
    """All points of a sweep, but those named, and the copy of its file."""
    sweep.copy()
    for point in sweep.points:
        if point.name not in without:
            write_job(point.output, sweep.parse(point), point.ranks)
