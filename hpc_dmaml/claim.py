"""The right to write a job's output, taken before any work."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from hpc_dmaml.communicator import Refusal
from hpc_dmaml.files import Busy, Lock, lock_file, locked
from hpc_dmaml.launch import BAD_INPUT, FAILED, INTERRUPTED
from hpc_dmaml.launcher import slurm_restarts

STILL = 3
"""After so many restarts by SLURM that came to nothing a job is given up."""
PATIENCE_S = 600.0
"""So long a job that SLURM has restarted waits for its output. After a node's failure, processes of its last start may
live on elsewhere, or a network file system may not know yet that they are dead."""
LOOK_EVERY_S = 1.0
_VAIN = b"waited for in vain\n"


def claim(output: Path, resumes: bool, asked: Callable[[], bool], stack: ExitStack) -> Lock:
    """Lock the output until `stack` closes, and see that it can be written.

    Raises ValueError or Refusal where another process has it; a wait ends early when a stop is `asked` for.
    """
    if output.exists() and not resumes:
        raise ValueError(f"output: {output} exists and is never overwritten; go on with it by --resume {output}")
    try:
        lock = _wait(output, asked, stack) if slurm_restarts() else stack.enter_context(locked(output, wait=False))
    except Busy as error:
        raise ValueError(f"output: another job is writing {output}") from error
    except OSError as error:
        raise ValueError(f"output: cannot write {output}: {error}") from error
    if output.exists() and not resumes:
        raise Refusal(
            f"output: {output} has just been written by another job", INTERRUPTED if slurm_restarts() else BAD_INPUT
        )
    return lock


def _wait(output: Path, asked: Callable[[], bool], stack: ExitStack) -> Lock:
    """Lock the output when its holder is gone. Raises Refusal, with the code to exit with, where it stays."""
    start, said = time.monotonic(), False
    while True:
        try:
            lock = stack.enter_context(locked(output, wait=False))
        except Busy:
            if asked() or time.monotonic() - start >= PATIENCE_S:
                raise _postponed(output) from None
        else:
            with suppress(OSError):
                os.truncate(lock_file(output), 0)  # what was waited for in vain is gone
            return lock
        if not said:
            said = True
            message = f"another process is still writing {output}: waiting for its end, up to {PATIENCE_S:g} s"
            print(f"hpc_dmaml: {message}", file=sys.stderr, flush=True)
        time.sleep(LOOK_EVERY_S)


def _postponed(output: Path) -> Refusal:
    """What to say after a wait in vain. Such waits are counted in the lock file, which goes when its holder goes."""
    waits = 0
    with suppress(OSError), lock_file(output).open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(_VAIN)
        waits = file.tell() // len(_VAIN)
    message = f"output: another process is still writing {output}"
    if waits >= STILL:
        return Refusal(f"{message}, which was waited for {waits} times: end it, and start this job again", FAILED)
    return Refusal(f"{message}: this job is to be started again", INTERRUPTED)
