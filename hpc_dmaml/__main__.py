"""The command `python -m hpc_dmaml`: one process of a job. Start it under mpirun or srun, or alone."""

from __future__ import annotations

import sys

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig, parse
from hpc_dmaml.launch import launch


def job(config: RunConfig, comm: Communicator) -> int:
    from hpc_dmaml.run import run_job  # imports torch: a mistake on the command line should not wait for that

    return run_job(config, comm)


if __name__ == "__main__":
    sys.exit(launch(parse, job))
