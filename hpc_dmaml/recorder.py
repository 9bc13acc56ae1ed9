"""What rank 0 writes down, and when: log and checkpoint of a job, in one file. The other ranks' recorder does nothing."""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hpc_dmaml import results
from hpc_dmaml.claim import STILL
from hpc_dmaml.config import to_yaml
from hpc_dmaml.exchange import RankReport, Reports
from hpc_dmaml.files import Taken
from hpc_dmaml.launcher import slurm_restarts
from hpc_dmaml.losses.metric import ACCURACY
from hpc_dmaml.parameters import constant_arrays
from hpc_dmaml.setup import Job
from hpc_dmaml.stopping import Stop
from hpc_dmaml.versions import git_commit, versions

WRITING_SHARE = 0.02
"""Writing takes at most this part of the time: the interval between two writes is stretched for it."""


class Recorder:
    """Keeps the log's rows and the checkpoint's state, and replaces the output file when it is time to."""

    def __init__(self, job: Job, places: list[tuple[str, str]], stop: Stop) -> None:
        """`places`: host and device of each rank. `stop`: is asked for where another process has taken the output.

        The log of a job that is resumed passes from `job.previous` to here.
        """
        self.job, self.stop = job, stop
        self.active = job.comm.rank == 0
        self.best: tuple[float, np.ndarray, int] | None = None
        self.memory = np.empty((0, job.placement.workers))
        """Losses of the last runs that the weight generator looks back on."""
        self.last_validation: tuple[np.ndarray, np.ndarray] | None = None
        previous, job.previous = job.previous, None
        self.first_run = 0
        self._restarts: list[int] = []
        self._past_s, self._start = 0.0, time.monotonic()
        started = _now()
        if previous is not None:
            self.memory = previous["checkpoint/memory"]
            if len(previous["runs/run"]):
                self.first_run = int(previous["runs/run"][-1]) + 1
                self._past_s = float(previous["runs/wall_s"][-1])
            self._restarts = [*map(int, previous["checkpoint/restarts"]), self.first_run]
            started = str(previous.attribute("start"))
            if self.active:
                score, run = float(previous.attribute("best_score")), int(previous.attribute("best_run"))
                parameters = previous["meta_model/best_parameters"]
                self.best = (score, parameters, run) if np.isfinite(score) else None
        config = job.config
        sizes = {
            "worker": job.placement.workers,
            "rank": job.placement.ranks,
            "step": config.validation.steps + 1,
            "task": config.validation.tasks,
        }
        self.log = results.Log(sizes, previous.arrays if self.active and previous is not None else None)
        self._attributes = {
            "config": to_yaml(config),
            "seed": config.seed,
            "versions": versions(),
            "git_commit": git_commit() if self.active else "",
            "start": started,
            "sample_shape": list(job.learner.sampler.sample_shape),
            "outputs": job.learner.sampler.outputs,
            "loss": job.learner.sampler.loss,
            **results.metric_attributes(ACCURACY if job.learner.sampler.loss == "cross_entropy" else None),
            "derivatives": job.learner.objective.derivatives,
        }
        self._ranks = {"ranks/host": [host for host, _ in places], "ranks/device": [device for _, device in places]}
        self._last_write, self._last_run, self._write_s = time.monotonic(), self.first_run, 0.0
        if self.active and (previous is not None or slurm_restarts()):
            self._write(job.output, "running")  # a restart counts, even if it is killed before it makes a run

    def stands_still(self) -> bool:
        """Has SLURM restarted this job `STILL` times without a run between? Then it would go on like that for ever. The
        same on every rank."""
        still = slurm_restarts() >= STILL and self._restarts[-STILL:] == [self.first_run] * STILL
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
        self.complete_times(reports.ranks[:, RankReport._fields.index("exchange_s") :])
        unknown = np.full(len(reports.ranks), np.nan)
        self.log.append(
            {
                "runs/run": run,
                "runs/seen_tasks": (run + 1) * self.job.placement.workers * config.epochs * config.tasks,
                "runs/wall_s": self._past_s + time.monotonic() - self._start,
                "workers/loss": reports.loss,
                "workers/metric": reports.accuracy,
                "workers/weight": weights,
                "workers/work_s": reports.work_s,
                "ranks/work_s": times[RankReport._fields.index("work_s")],
                **{f"ranks/{name}": unknown for name in results.RANK_TIMES},
            }
        )
        if validation is not None:
            self.last_validation = loss, accuracy = validation
            self.log.append({"validation/run": run, "validation/loss": loss, "validation/metric": accuracy})
            score = float((-loss if np.isnan(accuracy).all() else accuracy)[-1].mean())
            # A task that diverged makes it NaN.
            if np.isfinite(score) and (self.best is None or score > self.best[0]):
                self.best = (score, self.job.model.theta.cpu().numpy().copy(), run)
        if self._is_due(run) or self.stop.in_haste():
            self._write(self.job.output, "running")

    def save(self) -> None:
        """Write at once what is new since the last write. Not while a run is being noted, or θ changes."""
        if self.active and len(self.log) > self._last_run:
            self._write(self.job.output, "running")

    def complete_times(self, times: np.ndarray | None) -> None:
        """The times (R, 3) of the last run, if there was one."""
        if times is not None and len(self.log) > self.first_run:
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
        start, written = time.monotonic(), False
        lock = self.job.lock if path == self.job.output else None
        try:
            results.write(path, self._arrays(), {**self._attributes, **self._state(status)}, lock)
            written = True
        except Taken as error:
            _warn(f"{error}. This job stops")
            self.stop.ask()
        except OSError as error:
            _warn(f"cannot write {path}: {error.strerror or error}. What was written before stands")
        self._last_write, self._last_run = time.monotonic(), len(self.log)
        self._write_s = self._last_write - start
        return written

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
