"""Write the log and checkpoint of a job to one file, on rank 0. The recorders of other ranks write nothing."""

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
from hpc_dmaml.files import Taken
from hpc_dmaml.launcher import slurm_restarts
from hpc_dmaml.losses import described
from hpc_dmaml.parameters import constant_arrays
from hpc_dmaml.rounds import Round
from hpc_dmaml.setup import Job
from hpc_dmaml.state import next_best
from hpc_dmaml.stopping import Stop
from hpc_dmaml.versions import git_commit, versions

WRITING_SHARE = 0.02
"""Greatest share of the time for writing: the interval between two writes is lengthened accordingly."""


class Recorder:
    """Keeps the log's rows and the checkpoint's state, and replaces the output file when that is due."""

    def __init__(self, job: Job, places: list[tuple[str, str]], stop: Stop) -> None:
        """`places`: host and device of each rank. `stop`: requested if another process has taken over the output.

        The log of a resumed job is moved from `job.previous` to here.
        """
        self.job, self.stop = job, stop
        self.active = job.comm.rank == 0
        previous, job.previous = job.previous, None
        self.first_run = job.state.run
        self._restarts: list[int] = []
        self._past_s, self._start = 0.0, time.monotonic()
        started = _now()
        if previous is not None:
            if self.first_run:
                self._past_s = float(previous["runs/wall_s"][-1])
            self._restarts = [*map(int, previous["checkpoint/restarts"]), self.first_run]
            started = str(previous.attribute("start"))
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
            "loss": described(job.learner.loss),
            "data": job.data.data,
            **results.metric_attributes(job.learner.loss.metric),
            "derivatives": job.learner.engine.objective.derivatives,
        }
        self._ranks = {"ranks/host": [host for host, _ in places], "ranks/device": [device for _, device in places]}
        self._last_write, self._last_run, self._write_s = time.monotonic(), self.first_run, 0.0
        if self.active and (previous is not None or slurm_restarts()):
            self._write(job.output, "running")  # a restart counts, even if it is killed before it makes a run

    def stands_still(self) -> bool:
        """Whether SLURM has restarted this job `STILL` times without a run in between, as it would do for ever. The
        same on every rank."""
        still = slurm_restarts() >= STILL and self._restarts[-STILL:] == [self.first_run] * STILL
        return bool(self.job.comm.broadcast_object(still and self.first_run < self.job.config.runs))

    def record(self, done: Round) -> None:
        """Record a round, and replace the file if that is due."""
        if not self.active:
            return
        config, reports = self.job.config, done.reports
        # This round's reports contain the times of the round before.
        self.complete_times(np.stack([reports.of(name) for name in results.RANK_TIMES], 1))
        unknown = np.full(len(reports.ranks), np.nan)
        self.log.append(
            {
                "runs/run": done.run,
                "runs/seen_tasks": (done.run + 1) * self.job.placement.workers * config.epochs * config.tasks,
                "runs/wall_s": self._past_s + time.monotonic() - self._start,
                "workers/loss": reports.loss,
                "workers/metric": reports.metric,
                "workers/weight": done.weights,
                "workers/work_s": reports.work_s,
                "ranks/work_s": reports.of("work_s"),
                "ranks/data_s": reports.of("data_s"),
                **{f"ranks/{name}": unknown for name in results.RANK_TIMES},
            }
        )
        if done.validation is not None:
            values = done.validation._asdict()
            self.log.append({"validation/run": done.run, **{f"validation/{name}": a for name, a in values.items()}})
        if done.writes or (self.stop.in_haste() and not self.job.state.own.are_kept):
            self._write(self.job.output, "running")

    def save(self) -> None:
        """Write at once if there are new runs since the last write, and rank 0 has all state. Must not be called while
        a run is recorded, or θ changes."""
        if self.active and len(self.log) > self._last_run and not self.job.state.own.are_kept:
            self._write(self.job.output, "running")

    def complete_times(self, times: np.ndarray | None) -> None:
        """Fill in the times (R, 3) of the last run, if there was one."""
        if times is not None and len(self.log) > self.first_run:
            self.log.complete_times(times)

    def finish(self, status: str) -> Path | None:
        """Write the file for the last time. Returns its path, on every rank: the output, or a file in another folder if
        the output cannot be written, or None if no folder can be written."""
        written = None
        self.job.state.own.gather(self.job.comm)
        if self.active:
            output = self.job.output
            with suppress(OSError):  # there may be no temporary folder either
                written = next((path for path in _places(output) if self._write(path, status)), None)
            if written is None:
                _warn("the result could not be written anywhere and is lost, except for what was written before")
            elif written != output:
                _warn(f"the result is not in {output} but in {written}: bring it to a safe place")
        return self.job.comm.broadcast_object(written)

    def is_due(self, run: int) -> bool:
        """Whether to replace the file at the end of this run; False on all ranks but 0."""
        if not self.active:
            return False
        checkpoint = self.job.config.checkpoint
        since_s = time.monotonic() - self._last_write
        by_runs = checkpoint.every is not None and run + 1 - self._last_run >= checkpoint.every
        by_time = checkpoint.every_s is not None and since_s >= checkpoint.every_s
        return self.stop.in_haste() or by_runs or (by_time and since_s >= self._write_s / WRITING_SHARE)

    def _write(self, path: Path, status: str) -> bool:
        """Replace the file at `path`. Returns whether that succeeded: a job survives a failing disk, with a warning,
        and tries again when the next write is due."""
        start, written = time.monotonic(), False
        lock = self.job.lock if path == self.job.output else None
        try:
            results.write(path, self._arrays(), {**self._attributes, **self._state(status)}, lock)
            written = True
        except Taken as error:
            _warn(f"{error}. This job stops")
            self.stop.ask()
        except OSError as error:
            _warn(f"cannot write {path}: {error.strerror or error}. The file as last written is kept")
        self._last_write, self._last_run = time.monotonic(), len(self.log)
        self._write_s = self._last_write - start
        return written

    def _arrays(self) -> dict[str, Any]:
        state, layout = self.job.state, self.job.layout
        model, theta = state.model, state.model.theta.cpu().numpy()
        optimizer = {f"checkpoint/optimizer/{name}": value for name, value in model.optimizer_state().items()}
        return {
            **self.log.arrays(),
            **self._ranks,
            "meta_model/parameters": theta,
            "meta_model/best_parameters": state.best[0].parameters if state.best else theta,
            "meta_model/names": list(layout.names),
            "meta_model/shapes": [",".join(map(str, shape)) for shape in layout.shapes],
            **{f"meta_model/constants/{name}": a for name, a in constant_arrays(self.job.module).items()},
            **next_best(state.best),
            **self.job.data.stored(),
            "checkpoint/memory": state.memory,
            "checkpoint/restarts": np.array(self._restarts, np.int64),
            **optimizer,
            **state.own.gathered,
            **state.trajectories,
        }

    def _state(self, status: str) -> dict[str, Any]:
        best = self.job.state.best
        return {
            "status": status,
            "end": "" if status == "running" else _now(),
            "written": _now(),
            "restarts": len(self._restarts),
            "best_run": best[0].run if best else -1,
            "best_score": best[0].score if best else float("nan"),
        }


def _places(output: Path) -> Iterator[Path]:
    """Where to try to write a job's last state: to its output, in the user's state folder, in a temporary folder."""
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
