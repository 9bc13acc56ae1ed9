"""Distributed model-agnostic meta-learning for few-shot tasks on MPI and SLURM clusters.

`mpirun -n 16 python -m hpc_dmaml` trains; `hpc_dmaml.results.read` reads what it wrote, without MPI and torch;
`hpc_dmaml.load` loads the trained model; `hpc_dmaml.meta_gradient` is the engine, for a training loop of your own.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_dmaml import results
    from hpc_dmaml.engine import InnerLoop
    from hpc_dmaml.functional import meta_gradient
    from hpc_dmaml.trained_model import load, load_best

if sys.argv[:1] == ["-m"]:  # `python -m` is importing a command: no signal may end it before it can handle signals
    from hpc_dmaml import launcher, stopping

    stopping.hold()
    launcher.announce()

__version__ = "0.1.0"
__all__ = ["InnerLoop", "load", "load_best", "meta_gradient", "results"]
_HOMES = {
    "InnerLoop": "hpc_dmaml.engine",
    "load": "hpc_dmaml.trained_model",
    "load_best": "hpc_dmaml.trained_model",
    "meta_gradient": "hpc_dmaml.functional",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, because most of them import torch."""
    if name == "results":
        return importlib.import_module("hpc_dmaml.results")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hpc_dmaml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
