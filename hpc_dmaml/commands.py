"""The command `hpc_dmaml`: one name for all commands, each of which is imported only when it is called."""

from __future__ import annotations

import difflib
import importlib
import runpy
import sys
from pathlib import Path

from hpc_dmaml import console, importing, stopping

JOBS = {
    "run": ("hpc_dmaml", "train, as one process of a job: start it under mpirun or srun, or alone"),
    "evaluate": (
        "hpc_dmaml.evaluate",
        "test trained files on held-out tasks, of one or several seeds; also under mpirun",
    ),
    "sweep": ("hpc_dmaml.sweep", "list or run the points of a sweep"),
}
"""Commands that can also be run by `python -m`: their modules and help."""
ANALYSIS = {
    "curves": "plot a job's validation: loss and metric over runs",
    "figures": "draw a figure of the thesis by its number, or a general one by name",
    "tables": "print a table of the thesis by its number, or the final results",
    "report": "write one self-contained page about result files",
    "watch": "watch jobs in a terminal while they run",
    "merge": "merge result files into one HDF5 or CSV file, or split it again",
    "export": "write result files as TensorBoard reads them",
}
SUBMIT = Path("slurm/submit.py")
LINES = {
    **{name: line for name, (_, line) in JOBS.items()},
    "submit": f"submit a sweep to SLURM; in the root of a clone, which has {SUBMIT} and the job scripts",
    **ANALYSIS,
}
HELP = "usage: hpc_dmaml COMMAND …\n\n" + "\n".join(f"  {name:10}{line}" for name, line in LINES.items()) + (
    "\n\nhpc_dmaml COMMAND --help shows the options of a command."
)  # fmt: skip


def main() -> int:
    """Run the command that the command line names. Returns its exit code, or exits with it."""
    console.settle()
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(HELP)
        return 0
    if name not in LINES:
        near = difflib.get_close_matches(name, LINES, 1)
        hint = f"did you mean {near[0]}?" if near else "hpc_dmaml --help lists them"
        print(f"hpc_dmaml: there is no command {name!r}; {hint}" if name else HELP, file=sys.stderr)
        return 2
    sys.argv = [f"hpc_dmaml {name}", *arguments]
    if name not in ANALYSIS:
        importing.search_here()
    if name in JOBS:
        stopping.hold()  # no signal may end it before it can handle signals
        runpy.run_module(JOBS[name][0], run_name="__main__", alter_sys=True)
    elif name == "submit":
        if not SUBMIT.exists():
            print(f"submit: there is no {SUBMIT} here: jobs start in the root of a clone, with its slurm/ and analysis/",
                  file=sys.stderr)  # fmt: skip
            return 2
        sys.path.insert(0, str(SUBMIT.parent))
        runpy.run_path(str(SUBMIT), run_name="__main__")
    try:
        return int(importlib.import_module(f"hpc_dmaml.analysis.{name}").main())
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        extra = "tensorboard" if package == "tensorboard" else "analysis"
        print(f"{name}: needs {package}: pip install 'hpc_dmaml[{extra}]'", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
