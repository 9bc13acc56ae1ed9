"""The command `python -m hpc_dmaml.sweep`: see the package."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hpc_dmaml import console, stopping
from hpc_dmaml import sweep as sweeps
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig
from hpc_dmaml.files import operand
from hpc_dmaml.launch import BAD_INPUT, COMPLETE, FAILED, INTERRUPTED, launch
from hpc_dmaml.stopping import Stop
from hpc_dmaml.sweep import Sweep, states
from hpc_dmaml.sweep.states import State

STOPPED = (INTERRUPTED, 128 + signal.SIGINT)
MOST_NOTES = 6
"""Most points of which it is said what is wrong with their files."""


def main(arguments: list[str] | None = None) -> int:
    console.settle()
    parser = argparse.ArgumentParser(
        prog="python -m hpc_dmaml.sweep", description="List or run the points of a sweep; by default, list them."
    )
    parser.add_argument("sweep", type=Path, help="YAML file of a sweep, or the folder of its results")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--index", type=int, help="run the point of this index (also under mpirun or srun)")
    what.add_argument("--point", help="run the point of this name")
    what.add_argument("--missing", action="store_true", help="list those that are not complete, running or waiting")
    what.add_argument("--local", action="store_true", help="run the missing points, one after another, without SLURM")
    parser.add_argument("--results", type=Path, default=Path("results"), help="parent of the folder of results")
    given = parser.parse_args(arguments)
    if given.index is not None or given.point is not None:
        return run(given.sweep, given.results, given.point if given.index is None else given.index)
    stopping.release()
    try:
        sweep = sweeps.load(given.sweep, given.results)
        sweep.check()
        if given.local:
            return run_locally(sweep)
        show(sweep, states.missing(sweep) if given.missing else states.states(sweep))
    except (ValueError, OSError) as error:
        print(f"sweep: error: {error}", file=sys.stderr)
        return BAD_INPUT
    return COMPLETE


def run(path: Path, results: Path, key: int | str) -> int:
    """Run one process of a point's job. Returns the exit code."""

    def parse() -> tuple[Sweep, RunConfig]:
        sweep = sweeps.load(path, results)
        return sweep, sweep.parse(sweep.point(key))

    def job(settings: tuple[Sweep, RunConfig], comm: Communicator) -> int:
        sweep, config = settings
        with comm.raising_together():
            if comm.rank == 0:
                sweep.copy()
        from hpc_dmaml.run import run_job  # imports torch

        return run_job(config, comm, stop)

    with Stop() as stop:
        return launch(parse, job)


def run_locally(sweep: Sweep) -> int:
    """Run the missing points. A point that fails does not stop the others; a signal stops all, to be resumed."""
    sweep.copy()
    failed: list[str] = []
    stopped = None
    for point in (state.point for state in states.missing(sweep)):
        print(f"\n{point.name}", flush=True)
        command = [sys.executable, "-m", "hpc_dmaml.sweep", operand(sweep.folder), "--point", point.name]
        mpirun = _mpirun() if point.ranks > 1 else None  # without mpirun, in one process, with the same results
        code, asked = _wait_for([mpirun, "-n", str(point.ranks), *command] if mpirun else command)
        if code != COMPLETE:
            failed.append(f"{point.name}{' (interrupted)' * (code in STOPPED)}")
        if asked or code == 128 + signal.SIGINT:
            stopped = code if code in STOPPED else INTERRUPTED
            break
    if failed:
        print(f"sweep: {len(failed)} points are not complete: {', '.join(failed)}", file=sys.stderr)
    return stopped or (FAILED if failed else COMPLETE)


def _mpirun() -> str | None:
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else shutil.which("mpirun")


def _wait_for(command: list[str]) -> tuple[int, bool]:
    """Run a command and forward signals to it. Returns its exit code, as a shell would, and whether there was a signal:
    a job that was about to end does not say so."""
    process: subprocess.Popen[bytes] | None = None
    asked = False

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if process is not None and number != signal.SIGINT:  # a terminal sends SIGINT to both
            process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)  # mpirun may die on SIGHUP

    heard = [n for n in stopping.SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]  # as by nohup
    before = {number: signal.signal(number, hand_on) for number in heard}
    try:
        process = subprocess.Popen(command)
        if asked:
            process.send_signal(signal.SIGTERM)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code, asked


def show(sweep: Sweep, found: Sequence[State]) -> None:
    """Print a table of points, and what is wrong with the files of the first that have failed."""
    rows = [["index", *sweep.axes, "seed", "ranks", "state", "output"]]
    for state in found:
        point = state.point
        settings = [str(point.settings[axis]) for axis in sweep.axes]
        row = [point.index, *settings, point.seed, point.ranks, state.word, point.output]
        rows.append([" ".join(str(cell).split()) for cell in row])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    notes = [f"{state.point.name}: {state.note}" for state in found if state.word == states.FAILED and state.note]
    print(*notes[:MOST_NOTES], sep="\n", end="\n" * bool(notes))
    if len(notes) > MOST_NOTES:
        print(f"and {len(notes) - MOST_NOTES} more that have failed")


if __name__ == "__main__":
    sys.exit(main())
