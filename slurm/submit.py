"""Submit a sweep to SLURM: its points as job arrays, followed by the analysis.

    python slurm/submit.py slurm/sweeps/demo.yaml                  submit it
    python slurm/submit.py slurm/sweeps/demo.yaml --dry-run        show the scripts that would be submitted
    python slurm/submit.py slurm/sweeps/demo.yaml --only-missing   submit what is not complete, running or waiting
    python slurm/submit.py slurm/sweeps/demo.yaml --status         show its progress

Run it in the root of the repository. There is one array for each number of ranks, or several where the cluster limits
their length; scripts and logs go to results/NAME/jobs.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from options import cluster_file, header, options_of, over

from hpc_dmaml import console
from hpc_dmaml import sweep as sweeps
from hpc_dmaml.files import operand
from hpc_dmaml.importing import search_here
from hpc_dmaml.sweep import Point, Sweep
from hpc_dmaml.sweep.states import FAILED, STATES, TAKEN, State, ask, log_file, note_submission, states

Options = dict[str, str]
"""Options of sbatch by name; a flag's value is empty."""
FOR_ANALYSIS = {
    "account", "clusters", "constraint", "mail-type", "mail-user", "partition", "qos", "reservation", "time",
}  # fmt: skip
"""Options of the cluster that the analysis takes over, which is one process on one core."""


def array_script(
    sweep: Sweep,
    points: Sequence[Point],
    options: Options,
    cluster: Path | None = None,
    max_running: int | None = None,
    after: str | None = None,
) -> str:
    """The script of a job array whose tasks are these points, numbered from 0, all with the same number of ranks.

    `options`: those of array.sbatch and of the cluster. `after`: the job that must end first. Raises ValueError where
    sbatch cannot take a path.
    """
    limit = f"%{max_running}" if max_running else ""
    own = {
        "job-name": sweep.name,
        "array": f"0-{len(points) - 1}{limit}",
        "output": log_pattern(sweep, "%A_%a"),
        "ntasks": str(points[0].ranks),
        **({"dependency": f"afterany:{after}"} if after else {}),
    }
    names = "\n".join(f"  [{task}]='{point.name}'" for task, point in enumerate(points))  # names have no quotes
    number = f"{len(points)} point{'s' * (len(points) != 1)}"
    return f"""#!/usr/bin/env bash
# {comment(sweep)}: {number} on {points[0].ranks} rank{"s" * (points[0].ranks != 1)}. Written by slurm/submit.py.
{header(options | own)}

points=(
{names}
)
cd "$SLURM_SUBMIT_DIR" || exit
{source(cluster)}
launch python -m hpc_dmaml.sweep {word(sweep.folder)} --point "${{points[$SLURM_ARRAY_TASK_ID]}}"
"""


def analysis_script(sweep: Sweep, options: Options, cluster: Path | None, after: Sequence[str]) -> str:
    """The script of the job that draws the figures when the jobs `after` have ended, successfully or not."""
    kept = {name: value for name, value in options.items() if name in FOR_ANALYSIS}
    own = {
        "job-name": f"{sweep.name}_analysis",
        "output": log_pattern(sweep, "%j"),
        "ntasks": "1",
        "mem": "4G",
        "dependency": f"afterany:{':'.join(after)}",
    }
    folder = word(sweep.folder)
    commands = [f"python analysis/report.py {folder} --output {word(sweep.folder / 'report.html')}"]
    commands += [f"python analysis/figures.py {shlex.quote(figure)} {folder}" for figure in sweep.figures]
    tried = "\n".join(f"try {command}" for command in commands)
    return f"""#!/usr/bin/env bash
# {comment(sweep)}: the analysis. Written by slurm/submit.py.
{header(kept | own)}

cd "$SLURM_SUBMIT_DIR" || exit
{source(cluster)}
failed=0
try() {{ echo "+ $*"; "$@" || {{ failed=1; echo "this failed: $*" >&2; }}; }} # and the next is tried all the same
{tried}
exit "$failed"
"""


def comment(sweep: Sweep) -> str:
    """A sweep's description on one line."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in sweep.description).split())


def word(path: Path) -> str:
    """A path as one word of a shell's command line."""
    return shlex.quote(operand(path))


def log_pattern(sweep: Sweep, job: str) -> str:
    """A log's path as a pattern for sbatch's --output. Raises ValueError where none can name it."""
    if "\\" in str(sweep.folder):
        raise ValueError(f"{sweep.folder}: sbatch takes no folder with a backslash for logs; give another by --results")
    return str(log_file(Path(str(sweep.folder).replace("%", "%%")), job))


def source(cluster: Path | None) -> str:
    return (f"DMAML_CLUSTER={word(cluster)}\n" if cluster else "") + "source slurm/launch.sh"


def arrays_of(points: Sequence[Point], longest: int) -> list[list[Point]]:
    """Points as job arrays: each with one number of ranks and no longer than `longest`, the most ranks first."""
    by_ranks = sorted(points, key=lambda point: (-point.ranks, point.index))
    groups = [list(group) for _, group in groupby(by_ranks, lambda point: point.ranks)]
    return [group[first : first + longest] for group in groups for first in range(0, len(group), longest)]


def longest_array() -> int:
    """The cluster's MaxArraySize, which exceeds all task numbers; SLURM's default where it is unknown."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]).stdout, re.MULTILINE)
    except OSError:
        found = None
    return max(1, int(found[1])) if found else 1001


def submit(
    sweep: Sweep, points: Sequence[Point], options: Options, cluster: Path | None, max_running: int | None, dry: bool
) -> None:
    """Submit arrays and analysis, or show their scripts.

    `max_running` limits the whole sweep: as an array's limit is its own, the arrays then wait for one another.
    """
    jobs: list[str] = []
    if not dry:
        sweep.copy()
        (sweep.folder / "jobs").mkdir(exist_ok=True)
    stamp = time.strftime("%Y%m%d_%H%M%S")
    for number, array in enumerate(arrays_of(points, longest_array()), 1):
        after = jobs[-1] if max_running and jobs else None
        text = array_script(sweep, array, options, cluster, max_running, after)
        jobs.append(_hand_in(sweep, f"{stamp}_{number}_{array[0].ranks}_ranks", text, dry))
        if not dry:
            note_submission(sweep.folder, jobs[-1], array)
            print(f"job {jobs[-1]}: {len(array)} points on {array[0].ranks} ranks")
    job = _hand_in(sweep, f"{stamp}_analysis", analysis_script(sweep, options, cluster, jobs), dry)
    if not dry:
        print(f"job {job}: the analysis, when they have ended: {sweep.folder / 'report.html'}")


def _hand_in(sweep: Sweep, name: str, text: str, dry: bool) -> str:
    """Write a script beside the results and submit it. Returns the job's number, or JOB in a dry run."""
    path = sweep.folder / "jobs" / f"{name}.sbatch"
    if dry:
        print(f"# ---- {path}\n{text}")
        return "JOB"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")  # for paths that are not UTF-8
    done = ask(["sbatch", "--parsable", operand(path)])
    if done.returncode:
        raise ValueError(f"sbatch refuses {path}: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]  # a cluster's name may follow


def show_status(sweep: Sweep) -> None:
    """Print how many points are in each state, and the end of the log of each that failed."""
    found = states(sweep)
    counts = Counter(state.word for state in found)
    words = ", ".join(f"{counts[word]} {word}" for word in STATES if counts[word])
    print(f"{sweep.name}: {len(found)} points: {words}; {sum(state.restarts for state in found)} restarts")
    for state in found:
        if state.word == FAILED:
            print(f"\n{_failure(sweep, state)}")


def _failure(sweep: Sweep, state: State) -> str:
    lines = [f"failed: {state.point.name}, after {state.runs} runs" + (f": {state.note}" if state.note else "")]
    if state.job is not None:
        log = log_file(sweep.folder, state.job)
        lines += [f"  job {state.job} {_ending(state.job)}".rstrip(), f"  log {log}"]
        if log.exists():
            lines += [f"  | {line}" for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]]
    return "\n".join(lines)


def _ending(job: str) -> str:
    """How a job ended, from scontrol, which remembers some minutes, else from SLURM's accounting; empty if unknown."""
    for command, pattern in (
        (["scontrol", "--oneliner", "show", "job", job], r"JobState=(\S+).*?ExitCode=(\S+)"),
        (["sacct", "-nXP", "-o", "State,ExitCode", "-j", job], r"([^|\n]+)\|(\S+)"),
    ):
        try:
            done = ask(command)
        except OSError:
            continue
        found = re.search(pattern, done.stdout)
        if done.returncode == 0 and found:
            return f"({found[1]}, exit code {found[2]})"
    return ""


def chosen_points(sweep: Sweep, only_missing: bool) -> list[Point]:
    """The points to submit. Raises ValueError where some would run twice, or none is left."""
    found = states(sweep)
    left = [state.point for state in found if state.word not in TAKEN]
    if not only_missing and len(left) < len(found):
        taken = f"{len(found) - len(left)} of {len(found)} points are complete, running or waiting"
        raise ValueError(f"{sweep.folder}: {taken}; --only-missing submits the rest")
    if not left:
        raise ValueError(f"{sweep.folder}: nothing is missing")
    return left


def read_options(cluster: Path | None) -> Options:
    """The options of array.sbatch, overridden by the cluster's. Raises ValueError."""
    return over(options_of(Path(__file__).with_name("array.sbatch")), options_of(cluster))


def main(arguments: list[str] | None = None) -> int:
    console.settle()
    parser = argparse.ArgumentParser(description="Submit a sweep to SLURM, or show its progress.")
    parser.add_argument("sweep", type=Path, help="YAML file of a sweep, or the folder of its results")
    parser.add_argument(
        "--cluster", help="file with the settings of your cluster; default: DMAML_CLUSTER, slurm/cluster.sh"
    )
    parser.add_argument("--max-running", type=int, help="most points that run at once")
    parser.add_argument("--only-missing", action="store_true", help="submit what is not complete, running or waiting")
    parser.add_argument("--dry-run", action="store_true", help="show the scripts, submit nothing")
    parser.add_argument("--status", action="store_true", help="how many points are done, running, waiting, failed")
    parser.add_argument("--results", type=Path, default=Path("results"), help="parent of the folder of results")
    given = parser.parse_args(arguments)
    try:
        sweep = sweeps.load(given.sweep, given.results)
        cluster = cluster_file(given.cluster)
        options = read_options(cluster)
        if "clusters" in options:  # also for SLURM's commands that are asked
            os.environ.setdefault("SLURM_CLUSTERS", options["clusters"])
        if given.status:
            show_status(sweep)
            return 0
        if given.max_running is not None and given.max_running < 1:
            raise ValueError(f"--max-running must be 1 or more, not {given.max_running}")
        sweep.check()
        points = chosen_points(sweep, given.only_missing)
        submit(sweep, points, options, cluster, given.max_running, given.dry_run)
    except (ValueError, OSError) as error:
        print(f"submit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    search_here()
    sys.exit(main())
