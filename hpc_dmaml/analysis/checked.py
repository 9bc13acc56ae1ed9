"""Check, once, what the analysis requires of a result file beyond `results.read`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpc_dmaml import results
from hpc_dmaml.analysis.words import printable, some
from hpc_dmaml.losses.metric import ACCURACY

LEAST = {"seed": 0, "runs": 1, "workers": 1, "epochs": 1, "tasks": 1}
"""Integer fields of every configuration, and their least values."""
SLOW = 1.5
"""Ratio to the median rank's working time from which a rank is reported as slow; equal ranks differ by a few percent."""
RUNS_TO_TIME = 5
"""Fewest runs on which such a report rests."""
NEVER_0 = ("ArithmeticMean", "LossWeighted", "LossMovingAverage", "GradientNorm")
"""Weight generators for which a weight of 0 means an update that was not finite."""
LONGEST = 30
"""Most characters of a metric's name and of its unit; longer ones are cut."""


def read(path: Path, *groups: str) -> results.Results:
    """Read the arrays of some groups of a file, and check its configuration, workers and ranks. Raises ValueError,
    naming the file and the field."""
    source = results.read(path, *groups)
    try:
        _check(source.config)
        for name in results.VARIABLES:
            if name in source.arrays and 0 in source[name].shape[1:]:
                raise ValueError(f"{name} is of shape {source[name].shape}: there is nothing in it")
        if "ranks" in groups and not (len(source["ranks/host"]) and len(source["ranks/device"])):
            raise ValueError("ranks/host names no rank")
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    told = {name: printable(source.attributes[name], LONGEST) for name in ("metric", "metric_unit")}
    return replace(source, attributes={**source.attributes, **told})


def chance(attributes: Mapping[str, Any]) -> float | None:
    """The accuracy of guessing, or None outside classification."""
    guessed = results.metric_in(attributes) == ACCURACY and attributes["loss"] == "cross_entropy"
    return 1 / int(attributes["outputs"]) if guessed else None


def cautions(job: results.Results) -> list[str]:
    """Notes on workers whose losses were not all finite, and on slow ranks."""
    return [note for note in (_lost_workers(job), _slow_ranks(job)) if note]


def _lost_workers(job: results.Results) -> str:
    """A note on the workers whose losses or updates were not all finite; empty where there are none."""
    lost = ~np.isfinite(job["workers/loss"])
    if job.config.get("weight_generator", {}).get("class_path") in NEVER_0:
        lost |= job["workers/weight"] == 0
    which = ", ".join(map(str, np.flatnonzero(lost.any(axis=0))[:8]))
    where = f"{lost.any(axis=1).sum()} of {len(lost)} runs"
    return f"not finite in {where}: worker {which}; they counted 0 there" if lost.any() else ""


def ranks_of_runs(job: results.Results) -> np.ndarray:
    """Number of ranks in each run, (n,): the log has room for the most ranks of all starts."""
    return np.isfinite(job["ranks/work_s"]).sum(axis=1)


def _slow_ranks(job: results.Results) -> str:
    """A note on the ranks that work `SLOW` times as long as the median rank, for whom all others wait; else empty."""
    hosts = job["ranks/host"]
    alike = ranks_of_runs(job) == len(hosts)  # a resume may have changed their number
    work_s = job["ranks/work_s"][1:, : len(hosts)][alike[1:]]  # the first run warms up
    if len(work_s) < RUNS_TO_TIME or work_s.shape[1] < 2:
        return ""
    median_s = np.median(work_s, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a file may say that ranks worked for no time
        ratio = median_s / np.quantile(median_s, 0.5, method="lower")
    slow = [
        f"rank {rank} ({host}) {times:.1f} ×"
        for rank, (host, times) in enumerate(zip(hosts, ratio, strict=True))
        if SLOW < times < np.inf
    ]
    return f"slow, and all wait for them: {some(slow, 4)} the usual time" if slow else ""


def _check(given: Mapping[str, Any]) -> None:
    for name, least in LEAST.items():
        value = given.get(name)
        _require(type(value) is int and least <= value < 2**63, name, f"a whole number, {least} or more", value)
    for name in ("task", "model"):
        kind = given[name].get("class_path") if isinstance(given.get(name), dict) else None
        _require(isinstance(kind, str), name, "a class with its class_path", given.get(name))
    checkpoint = given.get("checkpoint", {})
    every_s = checkpoint.get("every_s") or 0 if isinstance(checkpoint, dict) else None
    rule = "a group of fields, every_s of it a number or nothing"
    _require(isinstance(every_s, int | float) and 0 <= every_s < 1e12, "checkpoint", rule, checkpoint)


def _require(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"config: {name} must be {rule}, not {printable(repr(value), 60)}")
