"""What rank 0 writes down, and when: log and checkpoint of a job, in one file. The other ranks' recorder does nothing."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hpc_dmaml import results
from hpc_dmaml.config import to_yaml
from hpc_dmaml.exchange import RankReport, Reports
from hpc_dmaml.parameters import constant_arrays
from hpc_dmaml.setup import Job

STILL = 3
"""After so many restarts by SLURM without a run between them a job is given up."""
WRITING_SHARE = 0.02
"""Writing takes at most this part of the time: the interval between two writes is stretched for it."""
PACKAGES = ("hpc_dmaml", "torch", "numpy", "h5py", "mpi4py")


class Recorder:
    """Keeps the log's rows and the checkpoint's state, and replaces the output file when it is time to."""

    def __init__(self, job: Job, places: list[tuple[str, str]]) -> None:
        """`places`: host and device of each rank."""
        self.job = job
        self.active = job.comm.rank == 0
        self.best: tuple[float, np.ndarray, int] | None = None
        self.memory = np.empty((0, job.placement.workers))
        """Losses of the last runs that the weight generator looks back on."""
        self.last_validation: tuple[np.ndarray, np.ndarray] | None = None
        rows: results.Arrays = {}
        previous = job.previous
        self._restarts: list[int] = []
        self._past_s, self._start = 0.0, time.monotonic()
        started = _now()
        if previous is not None:
            rows, self.memory = previous.arrays, previous["checkpoint/memory"]
            self.best = (
                float(previous.attribute("best_score")),
                previous["meta_model/best_parameters"],
                int(previous.attribute("best_run")),
            )
            self._restarts = [*map(int, previous["checkpoint/restarts"]), len(previous["runs/run"])]
            self._past_s = float(previous["runs/wall_s"][-1]) if len(previous["runs/wall_s"]) else 0.0
            started = str(previous.attribute("start"))
        config = job.config
        sizes = {
            "worker": job.placement.workers,
            "rank": job.placement.ranks,
            "step": config.validation.steps + 1,
            "task": config.validation.tasks,
        }
        self.log = results.Log(sizes, rows)
        self.first_run = len(self.log)
        self._attributes = {
            "config": to_yaml(config),
            "seed": config.seed,
            "versions": " ".join(f"{name} {_version(name)}" for name in PACKAGES)
            + f" python {platform.python_version()}",
            "git_commit": _git_commit(),
            "start": started,
            "sample_shape": list(job.learner.sampler.sample_shape),
            "outputs": job.learner.sampler.outputs,
            "loss": job.learner.sampler.loss,
            "derivatives": job.learner.objective.derivatives,
        }
        self._ranks = {"ranks/host": [host for host, _ in places], "ranks/device": [device for _, device in places]}
        self._last_write, self._last_run, self._write_s = time.monotonic(), self.first_run, 0.0
        self._slurm_restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        if self.active and (previous is not None or self._slurm_restarts):
            self._write(job.output, "running")  # a restart counts, even if it is killed before it makes a run

    def stands_still(self) -> bool:
        """Has SLURM restarted this job `STILL` times without a run between? Then it would go on like that for ever. The
        same on every rank."""
        still = self._slurm_restarts >= STILL and self._restarts[-STILL:] == [self.first_run] * STILL
        return bool(self.job.comm.broadcast_object(still and self.first_run < self.job.config.runs))

    def record(
        self,
        run: int,
        reports: Reports,
        weights: np.ndarray,
        memory: np.ndarray,
        validation: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        """Note a run, and replace the file if it is time."""
        self.memory = memory
        if not self.active:
            return
        config, times = self.job.config, reports.ranks.T
        # The times of the run before come with this run's reports.
        if len(self.log) > self.first_run:
            self.log.complete_times(reports.ranks[:, RankReport._fields.index("exchange_s") :])
        unknown = np.full(len(reports.ranks), np.nan)
        self.log.append(
            {
                "runs/run": run,
                "runs/seen_tasks": (run + 1) * self.job.placement.workers * config.epochs * config.tasks,
                "runs/wall_s": self._past_s + time.monotonic() - self._start,
                "workers/loss": reports.loss,
                "workers/accuracy": reports.accuracy,
                "workers/weight": weights,
                "workers/work_s": reports.work_s,
                "ranks/work_s": times[RankReport._fields.index("work_s")],
                **{f"ranks/{name}": unknown for name in results.RANK_TIMES},
            }
        )
        if validation is not None:
            self.last_validation = loss, accuracy = validation
            self.log.append({"validation/run": run, "validation/loss": loss, "validation/accuracy": accuracy})
            score = float((-loss if np.isnan(accuracy).all() else accuracy)[-1].mean())
            if self.best is None or not score <= self.best[0]:
                self.best = (score, self.job.model.theta.cpu().numpy().copy(), run)
        if self._is_due(run):
            self._write(self.job.output, "running")

    def complete_times(self, times: np.ndarray | None) -> None:
        """The times (R, 3) of the last run, at the end."""
        if times is not None:
            self.log.complete_times(times)

    def finish(self, status: str) -> Path | None:
        """Write the file for the last time. Gives its path, on every rank: the output, or a file in another folder if
        the output cannot be written, or None if no folder will have it."""
        written = None
        if self.active:
            output = self.job.output
            with suppress(OSError):  # there may be no temporary folder either
                written = next((path for path in _places(output) if self._write(path, status)), None)
            if written is None:
                _warn("the result could not be written anywhere and is lost, but for what was written before")
            elif written != output:
                _warn(f"the result is not in {output} but in {written}: bring it to a safe place")
        return self.job.comm.broadcast_object(written)

    def _is_due(self, run: int) -> bool:
        checkpoint = self.job.config.checkpoint
        since_s = time.monotonic() - self._last_write
        by_runs = checkpoint.every is not None and run + 1 - self._last_run >= checkpoint.every
        by_time = checkpoint.every_s is not None and since_s >= checkpoint.every_s
        return by_runs or (by_time and since_s >= self._write_s / WRITING_SHARE)

    def _write(self, path: Path, status: str) -> bool:
        """Replace the file at `path`. A healthy job outlives a sick disk: failing, it warns, and tries again when the
        next write is due. Returns whether it went well."""
        start, error = time.monotonic(), None
        try:
            results.write(path, self._arrays(), {**self._attributes, **self._state(status)})
        except OSError as caught:
            error = caught
            _warn(f"cannot write {path}: {error.strerror or error}. What was written before stands")
        self._last_write, self._last_run = time.monotonic(), len(self.log)
        self._write_s = self._last_write - start
        return error is None

    def _arrays(self) -> dict[str, Any]:
        model, layout = self.job.model, self.job.layout
        theta = model.theta.cpu().numpy()
        optimizer = {f"checkpoint/optimizer/{name}": value for name, value in model.optimizer_state().items()}
        return {
            **self.log.arrays(),
            **self._ranks,
            "meta_model/parameters": theta,
            "meta_model/best_parameters": theta if self.best is None else self.best[1],
            "meta_model/names": list(layout.names),
            "meta_model/shapes": [",".join(map(str, shape)) for shape in layout.shapes],
            **{f"meta_model/constants/{name}": a for name, a in constant_arrays(self.job.module).items()},
            "checkpoint/memory": self.memory,
            "checkpoint/restarts": np.array(self._restarts, np.int64),
            **optimizer,
        }

    def _state(self, status: str) -> dict[str, Any]:
        score, _, run = self.best or (float("nan"), None, -1)
        return {
            "status": status,
            "end": "" if status == "running" else _now(),
            "written": _now(),
            "restarts": len(self._restarts),
            "best_run": run,
            "best_score": score,
        }


def _places(output: Path) -> Iterator[Path]:
    """Where the last state of a job may go: where it belongs, else the user's state folder, else a temporary one."""
    from platformdirs import user_state_path

    yield output
    name = f"{output.stem}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}.h5"
    yield user_state_path("hpc_dmaml", appauthor=False) / name
    yield Path(tempfile.gettempdir()) / name


def _warn(message: str) -> None:
    with suppress(OSError):
        tqdm.write(f"warning: {message}", file=sys.stderr)  # print would run into a progress bar


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _git_commit() -> str:
    """The commit of the code that runs, if it runs from a clone."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        folder = Path(__file__).parent
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
