"""The command `python -m hpc_dmaml`: one process of a job. Start it under mpirun or srun, or alone."""

from __future__ import annotations

import sys
from functools import partial

from hpc_dmaml import console
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig, parse
from hpc_dmaml.launch import importing, launch
from hpc_dmaml.stopping import Stop


def job(config: RunConfig, comm: Communicator, stop: Stop) -> int:
    with importing():  # torch: an error on the command line should be reported before that
        from hpc_dmaml.run import run_job

    return run_job(config, comm, stop)


if __name__ == "__main__":
    console.settle()
    with Stop() as stop:
        sys.exit(launch(parse, partial(job, stop=stop)))
