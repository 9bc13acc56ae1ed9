"""Predict the scaling to 1,024 ranks, from a measured job and a network's latency and bandwidth.

    python benchmarks/scaling_model.py results/job.h5 --latency_us 2 --bandwidth_gb_s 12
    python benchmarks/scaling_model.py --work_s 0.2 --parameters 112965

Assumptions, per run of R ranks with one worker each (n bytes of parameters, latency a, time b = 1/bandwidth per byte):

    work       as measured, with the same mean on every rank and the measured standard deviation σ
    waiting    for the slowest of R: σ √(2 ln R), the expected maximum of R normal numbers
    report     a small Allgather, recursive doubling: a log₂R + 100 b R
    allreduce  recursive halving and doubling (Rabenseifner): 2 a log₂R + 2 n b (R − 1)/R
    gather     a tree into rank 0, whose link carries everything: a log₂R + n b (R − 1), and a broadcast by scatter and
               allgather: 2 a log₂R + 2 n b (R − 1)/R

One rank per node and link, no contention, no overlap of work and exchange (the program has none), without validation
and writing. Memory copies and the optimizer are part of the measured work.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from hpc_dmaml.analysis import checked, command, stats

RANKS = [2**k for k in range(11)]


def waiting_s(spread_s: float, ranks: int) -> float:
    return spread_s * math.sqrt(2 * math.log(ranks))


def exchange_s(kind: str, ranks: int, size_bytes: int, latency_s: float, per_byte_s: float) -> float:
    """Seconds of one exchange, report included."""
    rounds, moved = math.ceil(math.log2(ranks)), size_bytes * per_byte_s
    if ranks == 1:
        return 0.0
    report = rounds * latency_s + 100 * ranks * per_byte_s
    spread_out = 2 * rounds * latency_s + 2 * moved * (ranks - 1) / ranks
    if kind == "allreduce":
        return report + spread_out
    return report + rounds * latency_s + moved * (ranks - 1) + spread_out


def measured(path: Path) -> tuple[float, float, int]:
    """A job's mean work in seconds, its standard deviation over the ranks of a run, and the bytes of its parameters."""
    source = checked.read(path, "ranks", "meta_model")
    work = stats.known(source["ranks/work_s"], axis=None)
    if np.isnan(work).all():
        raise ValueError(f"{path} holds no time of a run")
    work = work[1:] if len(work) > 1 else work  # the first run warms up
    many = work[np.isfinite(work).sum(axis=1) > 1]
    spread = np.sqrt(np.nanmean(np.nanvar(many, axis=1, ddof=1))) if len(many) else np.nanstd(work)
    return float(stats.mean(work)), float(spread), source["meta_model/parameters"].nbytes


def table(work_s: float, spread_s: float, size_bytes: int, latency_s: float, per_byte_s: float) -> list[str]:
    """The predictions as lines of a Markdown table, and from how many ranks on the exchange dominates."""
    lines = [
        "| ranks | work ms | waiting ms | allreduce ms | gather ms | efficiency, allreduce | efficiency, gather |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    dominated: dict[str, int] = {}
    for ranks in RANKS:
        wait = waiting_s(spread_s, ranks) if ranks > 1 else 0.0
        cost = {k: exchange_s(k, ranks, size_bytes, latency_s, per_byte_s) for k in ("allreduce", "gather")}
        efficiency = {k: work_s / (work_s + wait + seconds) for k, seconds in cost.items()}
        for kind, seconds in cost.items():
            if seconds > work_s:
                dominated.setdefault(kind, ranks)
        milliseconds = (work_s, wait, cost["allreduce"], cost["gather"])
        lines.append(
            f"| {ranks} | " + " | ".join(f"{1e3 * s:.3g}" for s in milliseconds)
            + f" | {efficiency['allreduce']:.0%} | {efficiency['gather']:.0%} |"
        )  # fmt: skip
    for kind in ("allreduce", "gather"):
        at = f"from {dominated[kind]} ranks on" if kind in dominated else f"not up to {RANKS[-1]} ranks"
        lines.append(f"{kind}: the exchange takes longer than the work {at}.")
    return lines


@command.command("scaling_model")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Predict how a job scales to 1,024 ranks.")
    parser.add_argument(
        "file", type=command.path, nargs="?", help="HDF5 file of a job, for work, spread and parameters"
    )
    parser.add_argument("--work_s", type=float, help="work of a rank in a run, in seconds")
    parser.add_argument("--spread_s", type=float, help="its standard deviation over the ranks")
    parser.add_argument("--parameters", type=int, help="parameters of the model, 4 bytes each")
    parser.add_argument("--latency_us", type=float, default=2.0, help="latency of a message, in µs")
    parser.add_argument("--bandwidth_gb_s", type=float, default=12.0, help="bandwidth of a link, in GB/s")
    given = parser.parse_args(arguments)
    work_s, spread_s, size = measured(given.file) if given.file else (given.work_s, 0.0, 4 * (given.parameters or 0))
    work_s = given.work_s or work_s
    spread_s = spread_s if given.spread_s is None else given.spread_s
    if not work_s or not size:
        raise ValueError("give the file of a job, or --work_s and --parameters")
    times = (work_s, given.latency_us, given.bandwidth_gb_s)
    if not all(0 < number < math.inf for number in (*times, size)) or not 0 <= spread_s < math.inf:
        raise ValueError("times, latency, bandwidth and parameters must be positive, the spread 0 or more")
    print("\n".join(table(work_s, spread_s, size, given.latency_us * 1e-6, 1e-9 / given.bandwidth_gb_s)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
