"""States of the points of a sweep, from their files, their locks and SLURM's queue. Needs neither MPI nor torch."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_dmaml import results
from hpc_dmaml.alive import AT_WORK, is_alive
from hpc_dmaml.analysis import checked
from hpc_dmaml.config import DECIDED, contradictions, from_yaml, own_parts
from hpc_dmaml.files import is_locked, there_is
from hpc_dmaml.sweep import Point, Sweep, in_full

COMPLETE, RUNNING, WAITING, INTERRUPTED, FAILED, MISSING = STATES = (
    "complete", "running", "waiting", "interrupted", "failed", "missing",
)  # fmt: skip
"""States of a point. WAITING: in SLURM's queue; FAILED: also if killed; MISSING: never started."""
TAKEN = (COMPLETE, RUNNING, WAITING)


@dataclass(frozen=True)
class State:
    point: Point
    word: str
    """One of STATES."""
    runs: int
    """Number of runs in its file."""
    restarts: int
    job: str | None
    """The SLURM job that it was last submitted as, JOB_TASK."""
    note: str = ""
    """What is wrong with its file."""


def states(sweep: Sweep) -> list[State]:
    """The state of every point. Raises ValueError where SLURM's queue cannot be asked, or a point could not run."""
    jobs = submitted(sweep.folder)
    queue = _queue() if jobs else {}
    return [_state(sweep, point, jobs.get(point.name), queue) for point in sweep.points]


def missing(sweep: Sweep) -> list[State]:
    """Those of the points that are not complete, running or waiting."""
    return [state for state in states(sweep) if state.word not in TAKEN]


def _state(sweep: Sweep, point: Point, job: str | None, queue: Mapping[str, str]) -> State:
    runs, restarts, word, note = 0, 0, MISSING if job is None else FAILED, ""
    queued = None if job is None else queue.get(job)
    if there_is("results", point.output):
        wanted = sweep.described(point)
        try:
            source = results.read(point.output, "runs")
            runs, restarts = len(source["runs/run"]), int(source.attribute("restarts"))
            alive = source.status == RUNNING and is_alive(
                checked.read(point.output, "runs", "ranks"), queued, submitted=job is not None
            )
            word = source.status if source.status in (COMPLETE, INTERRUPTED) or alive else FAILED
            stored = from_yaml(source.attribute("config"), own_parts(wanted).__contains__)
            other = contradictions(stored, wanted)
            if other:
                word, note = FAILED, f"has another {', '.join(other)}"
            elif runs > wanted.runs:
                word, note = FAILED, f"has made {runs} runs, more than the {wanted.runs} of the sweep"
            elif stored.runs != wanted.runs:
                word, note = INTERRUPTED, "has another runs"
        except ValueError as error:
            word, note = FAILED, str(error)
    if is_locked(point.output) or queued in AT_WORK:
        word = RUNNING
    elif queued is not None:
        word = WAITING
    return State(point, word, runs, restarts, job, note)


def differing(fields: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Fields that a point sets and that have another value in a stored configuration. Imports no class that they name."""
    return [
        name
        for name, value in fields.items()
        if value != DECIDED.get(name, ...) and not _same(_whole(name, value, fields), _stored(config, name))
    ]


def _whole(name: str, value: Any, fields: Mapping[str, Any]) -> Any:
    """A dictionary with the parts of it that other fields set; a class without them, as they are compared themselves."""
    if not isinstance(value, Mapping):
        return value
    below = {n.removeprefix(f"{name}."): v for n, v in fields.items() if n.startswith(f"{name}.")}
    if "class_path" not in value:
        return dict(value) | below
    inside = value.get("init_args")
    if not isinstance(inside, Mapping):
        return value
    return dict(value) | {"init_args": {key: each for key, each in inside.items() if key not in below}}


def _stored(config: Any, name: str) -> Any:
    for part in name.split("."):
        if isinstance(config, Mapping):
            below = config.get("init_args")
            config = (below if isinstance(below, Mapping) else config).get(part)
    return config


def _same(value: Any, stored: Any) -> bool:
    if isinstance(stored, Mapping) and "class_path" in stored:
        given = value if isinstance(value, Mapping) else {"class_path": value}
        one, other = (str(part.get("class_path")).split(".")[-1] for part in (given, stored))
        inside = given.get("init_args")
        return one == other and not (isinstance(inside, Mapping) and differing(inside, stored))
    if isinstance(value, Mapping) and isinstance(stored, Mapping):
        return value.keys() == stored.keys() and all(_same(value[key], stored[key]) for key in value)
    if isinstance(value, list) and isinstance(stored, list):
        return len(value) == len(stored) and all(map(_same, value, stored))
    if isinstance(value, bool) and isinstance(stored, str):  # the words on and off
        return stored == ("on" if value else "off")
    if isinstance(value, str):
        return str(stored) in (value, in_full(value))
    return bool(value == stored) or str(value) == str(stored)


# ---- SLURM


def submitted(folder: Path) -> dict[str, str]:
    """The last job of each point, {name: JOB_TASK}, as recorded by `note_submission`."""
    try:
        text = (folder / "jobs" / "submitted.txt").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    return {name: job for job, name in re.findall(r"^(\d+_\d+) (\S+)$", text, re.MULTILINE)}  # only whole lines


def note_submission(folder: Path, job: str, points: list[Point]) -> None:
    """Record that these points are the tasks of a job array, numbered from 0."""
    with (folder / "jobs" / "submitted.txt").open("a", encoding="utf-8") as file:
        file.writelines(f"{job}_{task} {point.name}\n" for task, point in enumerate(points))


def log_file(folder: Path, job: str) -> Path:
    return folder / "jobs" / f"{job}.out"


def _queue() -> dict[str, str]:
    """This user's jobs in SLURM, {JOB_TASK: state}; empty where there is no SLURM."""
    squeue = shutil.which("squeue")
    if squeue is None:
        return {}
    command = [squeue, "--me", "--noheader", "--array", "--format=%F_%K %T"]
    done = ask(command)
    if done.returncode:
        raise ValueError(f"squeue does not say which jobs there are: {done.stderr.strip()}")
    return dict(re.findall(r"^(\S+) (\S+)$", done.stdout, re.MULTILINE))


def ask(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM. Raises OSError where it does not exist."""
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
