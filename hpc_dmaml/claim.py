"""Acquire the right to write a job's output, before any work."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from hpc_dmaml.communicator import Refusal
from hpc_dmaml.files import Busy, Lock, lock_file, locked, there_is
from hpc_dmaml.launch import BAD_INPUT, FAILED, INTERRUPTED
from hpc_dmaml.launcher import slurm_restarts

STILL = 3
"""Number of SLURM's restarts without progress after which a job gives up."""
PATIENCE_S = 600.0
"""Seconds for which a job that SLURM has restarted waits for its output. After a node failure, processes of its last
start may still run elsewhere, or a network file system may not know yet that they are dead."""
LOOK_EVERY_S = 1.0
_VAIN = b"waited for in vain\n"


class Taken(Refusal):
    """Another job has written the output, or is about to."""


def claim(output: Path, resumes: bool, asked: Callable[[], bool] | None, stack: ExitStack) -> Lock:
    """Lock the output until `stack` closes, and check that it can be written.

    Raises Refusal where another process holds it; a wait ends early when `asked` says so, and without it there is none.
    Raises ValueError where it cannot be written.
    """
    if there_is("output", output) and output.is_dir():
        raise ValueError(f"output: {output} is a folder; give a file in it")
    if there_is("output", output) and not resumes:
        raise Taken(f"output: {output} exists and is never overwritten; go on with it by --resume {output}")
    waits = asked if slurm_restarts() else None
    try:
        lock = _wait(output, waits, stack) if waits else stack.enter_context(locked(output, wait=False))
    except Busy as error:
        raise Taken(f"output: another job is writing {output}") from error
    except OSError as error:
        raise ValueError(f"output: cannot write {output}: {error}") from error
    if output.exists() and not resumes:
        raise Taken(f"output: {output} has just been written by another job", INTERRUPTED if waits else BAD_INPUT)
    return lock


def claim_new(candidates: Iterable[Path], stack: ExitStack) -> tuple[Path, Lock]:
    """Claim the first of several outputs that is no other job's. Raises ValueError."""
    for output in candidates:
        with suppress(Taken), ExitStack() as own:
            lock = claim(output, False, None, own)
            stack.push(own.pop_all())
            return output, lock
    raise ValueError("output: there is no free name for it: give one")


def _wait(output: Path, asked: Callable[[], bool], stack: ExitStack) -> Lock:
    """Wait for the lock of the output. Raises Refusal, with the exit code, if it stays held."""
    start, said = time.monotonic(), False
    while True:
        try:
            lock = stack.enter_context(locked(output, wait=False))
        except Busy:
            if asked() or time.monotonic() - start >= PATIENCE_S:
                raise _postponed(output) from None
        else:
            with suppress(OSError):
                os.truncate(lock_file(output), 0)  # the waits that `_postponed` counted are over
            return lock
        if not said:
            said = True
            message = f"another process is still writing {output}: waiting for its end, up to {PATIENCE_S:g} s"
            print(f"hpc_dmaml: {message}", file=sys.stderr, flush=True)
        time.sleep(LOOK_EVERY_S)


def _postponed(output: Path) -> Refusal:
    """The refusal after a failed wait. Failed waits are counted in the lock file, which its holder finally removes."""
    waits = 0
    with suppress(OSError), lock_file(output).open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(_VAIN)
        waits = file.tell() // len(_VAIN)
    message = f"output: another process is still writing {output}"
    if waits >= STILL:
        return Refusal(f"{message}, after {waits} waits: end it, and start this job again", FAILED)
    return Refusal(f"{message}: start this job again later", INTERRUPTED)
