"""Print a job's header, its progress, its result and the next commands. Only rank 0 prints."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from hpc_dmaml.analysis import words
from hpc_dmaml.config import own_parts
from hpc_dmaml.files import operand
from hpc_dmaml.losses import CrossEntropy
from hpc_dmaml.rounds import Round
from hpc_dmaml.setup import Job
from hpc_dmaml.state import Validation

LINE_EVERY_S = 5.0
"""Seconds between two lines in a batch log, where no bar can be drawn."""


class Bar:
    """Progress as a bar on a terminal, and as a line every few seconds elsewhere."""

    def __init__(self, unit: str, total: int, done: int = 0, file: TextIO | None = None) -> None:
        """`done`: units of the `total` done before the start. `file`: for the lines; default the standard output."""
        self._unit, self._total, self._first, self._done, self._file = unit, total, done, done, file
        self._last_line = self._start = time.monotonic()
        self._bar = tqdm(total=total, initial=done, unit=unit, disable=not sys.stderr.isatty(), smoothing=0.1)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._bar.close()

    def show(self, done: int, text: str = "", always: bool = False) -> None:
        """Show that `done` units are done. `always`: with a line even if none is due yet."""
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._done)
        self._done, now = done, time.monotonic()
        if self._bar.disable and (always or now - self._last_line >= LINE_EVERY_S):
            self._last_line = now
            pace = (now - self._start) / (done - self._first)
            left = f"{pace:.2f} s/{self._unit}, {pace * (self._total - done):.0f} s left"
            self.print("  ".join(filter(None, (f"{self._unit} {done}/{self._total}", text, left))))

    def print(self, line: str) -> None:
        if self._bar.disable:
            _say(line, self._file)
        else:
            self._bar.write(line)


class Progress:
    """A header, then a bar of the runs, then the result."""

    def __init__(self, job: Job) -> None:
        self.job, self.first_run = job, job.state.run
        self.active = job.comm.rank == 0
        self._bar: Bar
        self._start = time.monotonic()
        self._validation = ""

    def __enter__(self) -> Progress:
        if self.active:
            self._header()
            self._bar = Bar("run", self.job.config.runs, self.first_run)
        return self

    def __exit__(self, *error: object) -> None:
        if self.active:
            self._bar.close()

    def _header(self) -> None:
        job, config = self.job, self.job.config
        sampler, workers = job.learner.sampler, job.placement.workers
        exchange = "gather" if config.exchange == "gather" or config.weight_generator.needs_gram else "allreduce"
        lines = {
            "task": _describe(config.task),
            "model": f"{_describe(config.model)}: {job.learner.engine.objective.layout.size:,} parameters, "
            f"{job.learner.engine.objective.derivatives} derivatives",
            "algorithm": f"{_describe(config.algorithm)}, {_describe(config.optimizer)}",
            "workers": f"{workers} on {job.comm.size} rank{'s' * (job.comm.size != 1)} ({job.placement.describe()}), "
            f"{config.epochs} epoch{'s' * (config.epochs != 1)} of {config.tasks} tasks, "
            + (f"each by its own {_describe(config.local_optimizer)}, " if config.local_optimizer else "")
            + f"{type(config.weight_generator).__name__}, {exchange}",
            "device": f"{job.device}, {config.dtype}"
            + (f", compiled in {compiler.seconds:.0f} s" if (compiler := job.learner.engine.compiler) else ""),
            "output": str(job.output) + (f" (resumed at run {self.first_run})" if self.first_run else ""),
        }
        if isinstance(job.learner.loss, CrossEntropy):
            lines["chance"] = f"{1 / sampler.outputs:.0%}"
        for name, text in lines.items():
            _say(f"{name:>9}  {text}")
        for warning in job.warnings:
            _say(f"warning: {warning}", sys.stderr)

    def show(self, done: Round) -> None:
        """Show one more run."""
        if not self.active:
            return
        run, reports = done.run, done.reports
        if done.validation is not None:
            self._validation = ", validation " + self._curve(done.validation)
        lost = np.flatnonzero(~reports.finite)
        if len(lost):
            self._bar.print(f"run {run}: the loss or update of workers {lost.tolist()} is not finite; they count 0")
        text = f"loss {words.number(reports.loss[reports.finite].mean(), 3)}{self._validation}"
        self._bar.show(run + 1, text, always=run + 1 == self.job.config.runs)

    def finish(self, validation: Validation | None, stopped: bool, written: Path | None) -> None:
        """Print the result and the next commands. `written`: the file, or None."""
        if not self.active:
            return
        self._bar.close()
        trust = " --trust" * bool(own_parts(self.job.config))
        if stopped:
            _say(
                "Stopped as asked."
                + (f" Go on with: python -m hpc_dmaml --resume {quote(operand(written))}{trust}" if written else "")
            )
            return
        _say(f"Done in {time.monotonic() - self._start:.0f} s.")
        if validation is not None:
            _say(f"Held-out tasks, before adaptation and after each step: {self._curve(validation)}")
        if written is not None:
            _say(f"Plot it:  hpc_dmaml curves {quote(operand(written))}")
            _say(f"Test it:  hpc_dmaml evaluate {quote(operand(written))}{trust}")

    def fail(self, message: str, written: Path | None) -> None:
        """Print why the job ends. `written`: the file with its last good state, or None."""
        if self.active:
            self._bar.close()
            where = f" The last good state is in {written}" if written else ""
            _say(f"hpc_dmaml: {message}.{where}", sys.stderr)

    def _curve(self, validation: Validation) -> str:
        """Means over the tasks for each adaptation step."""
        metric = self.job.learner.loss.metric
        return words.curve((validation.loss if metric is None else validation.metric).mean(1), metric)


def _say(line: str, file: TextIO | None = None) -> None:
    """Print, ignoring errors: a full disk under a batch log must not end a job."""
    with suppress(OSError):
        print(line, file=file, flush=True)


def _describe(strategy: Any) -> str:
    """A strategy as Omniglot(ways=5, shots=1, …), without most of the fields that have their default."""
    shown = []
    for item in fields(strategy):
        value = getattr(strategy, item.name)
        if value != item.default or item.name in ("ways", "shots", "lr", "inner_lr", "inner_steps"):
            shown.append(f"{item.name}={value}")
    return f"{type(strategy).__name__}({', '.join(shown)})"
