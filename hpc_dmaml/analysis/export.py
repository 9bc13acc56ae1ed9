"""Export result files to TensorBoard, to be viewed after the job, as compute nodes have no network.

    hpc_dmaml export tensorboard results/scaling        # writes results/scaling/tensorboard, with a folder for each job
    tensorboard --logdir results/scaling/tensorboard

Over runs, counted from 1: loss and metric of validation, after each adaptation step, and of training, as the workers'
mean; and a rank's mean times. Leaves out values that are not finite. Needs tensorboard, and neither MPI nor torch.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np

from hpc_dmaml.analysis import checked, command, merge, stats
from hpc_dmaml.results import RANK_TIMES, Results


def series(job: Results) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The scalars of a job: tag, runs (n,) from 0, values (n,)."""
    runs, validated = job["runs/run"], job["validation/run"]
    metric = job.metric
    for name, variable in {"loss": "loss", **({metric.name: "metric"} if metric else {})}.items():
        yield f"training/{name}", runs, stats.mean(job[f"workers/{variable}"], axis=1)
        for step, values in enumerate(stats.over_tasks(job[f"validation/{variable}"]).T):
            yield f"validation_{name}/{f'after step {step}' if step else 'before adaptation'}", validated, values
    for name in ("work_s", *RANK_TIMES):
        yield f"rank/{name}", runs, stats.mean(job[f"ranks/{name}"], axis=1)
    yield "training/seen_tasks", runs, job["runs/seen_tasks"].astype(float)


def to_tensorboard(path: Path, folder: Path) -> None:
    """Write a job's numbers to a new folder, all or nothing. Raises ValueError where the file cannot be read, OSError
    where the folder cannot be written."""
    from tensorboard.summary import Writer

    job = checked.read(path, "runs", "workers", "ranks", "validation")
    start_s = 0.0
    with suppress(ValueError, OverflowError):
        start_s = datetime.datetime.fromisoformat(str(job.attributes["start"])).timestamp()
    wall_s = dict(zip(job["runs/run"].tolist(), np.nan_to_num(stats.known(job["runs/wall_s"])).tolist(), strict=True))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        written = Path(temporary) / folder.name  # of the usual permissions, unlike `temporary`
        with _silent_threads(), closing(Writer(str(written))) as writer:
            for tag, runs, values in series(job):
                for run, value in zip(runs.tolist(), values.tolist(), strict=True):
                    if np.isfinite(value):
                        writer.add_scalar(tag, value, run + 1, wall_time=start_s + wall_s[run])
            writer.flush()  # raises what its thread could not write
        written.rename(folder)


@contextmanager
def _silent_threads() -> Iterator[None]:
    """Let a thread end without its traceback; TensorBoard's writer raises the thread's error itself."""
    usual, threading.excepthook = threading.excepthook, lambda _: None
    try:
        yield
    finally:
        threading.excepthook = usual


@command.command("export")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write result files as TensorBoard reads them.")
    parser.add_argument("format", choices=["tensorboard"])
    parser.add_argument("sources", nargs="+", type=command.path, metavar="FILE", help="result files and folders")
    parser.add_argument("--output", type=command.path, help="folder to write; default: tensorboard, beside the files")
    given = parser.parse_args(arguments)
    first = given.sources[0]
    output = given.output or (first if first.is_dir() else first.parent) / "tensorboard"
    found = [(name, path) for name, path in merge.find(given.sources) if path.name not in merge.SWEEP_FILES]
    folders = {output / Path(name).with_suffix(""): path for name, path in found}
    if there := next((folder for folder in folders if folder.exists()), None):
        raise ValueError(f"{there} exists and is never added to, as the two would be drawn as one run")
    left_out = 0
    with command.naming(output):
        for folder, path in folders.items():
            try:
                to_tensorboard(path, folder)
            except ValueError as error:
                left_out += 1
                print(f"note: left out: {error}", file=sys.stderr)
    if left_out == len(folders):
        raise ValueError("no file could be read")
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
