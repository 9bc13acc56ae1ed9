"""Distributed model-agnostic meta-learning for few-shot tasks on MPI and SLURM clusters.

`mpirun -n 16 python -m hpc_dmaml` trains; `hpc_dmaml.results.read` reads what it wrote, without MPI and torch;
`hpc_dmaml.load` brings back the trained model.
"""

import sys
from typing import Any

if sys.argv[:1] == ["-m"]:  # Python is looking for one of the commands: no signal may end it before it can answer
    from hpc_dmaml import launcher, stopping

    stopping.hold()
    launcher.announce()

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load` is imported when it is used, because it brings torch."""
    if name == "load":
        from hpc_dmaml.meta_model import load

        return load
    raise AttributeError(f"module 'hpc_dmaml' has no attribute {name!r}")
