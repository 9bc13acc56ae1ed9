"""Watch jobs in a terminal while they run: progress, validation, workers, parts of the time, time left.

    hpc_dmaml watch results/x.h5              # redrawn in place until the job ends
    hpc_dmaml watch results/scaling/*.h5      # several: one line per job
    hpc_dmaml watch results/x.h5 --once       # show one view and exit; also for a batch log or `watch -n 60`

It only reads, and re-reads a file when it has been replaced. Where the output is not a terminal, it prints a line for
each new state. Exit code: 0 all jobs are complete (with --once: all could be shown), 1 one failed or is dead, 75 one
was interrupted, 2 bad input, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpc_dmaml.alive import PACE, is_alive, pace_s
from hpc_dmaml.analysis import checked, command, stats, words
from hpc_dmaml.files import is_locked
from hpc_dmaml.losses.metric import Metric
from hpc_dmaml.results import Results

GROUPS = ("runs", "workers", "ranks", "validation")
BARS = 10
"""Most workers that are shown one by one; more are summarised."""
DAY_S = 86_400
"""Most seconds between two looks."""
CODES = {"complete": 0, "running": 0, "interrupted": 75, "dead": 1, "failed": 1, "unreadable": 1}
BLOCKS = "▁▂▃▄▅▆▇█"


def view(job: Results, status: str, now_s: float, width: int = 80) -> list[str]:
    """A job as lines for a terminal of `width` columns. `status`: the file's, or dead. `now_s`: seconds since 1970."""
    runs, total = len(job["runs/run"]), int(job.config["runs"])
    name = f"{job.path}  "
    lines = [(name if len(name) + len(status) < width else f"…{name[-(width - len(status) - 1) :]}") + status]
    share, left = runs / max(1, total), _left(job, status, now_s)
    head, tail = f"run {runs}/{total}  ", f" {share:4.0%}" + (f"  {words.clock(left)} left" if left is not None else "")
    lines.append(head + bar(share, max(8, min(40, width - len(head + tail)))) + tail)
    lines.append(_facts(job, status, now_s))
    lines += ["", *_validation(job, width), "", *_workers(job, width), "", _shares(job), *_warnings(job, status)]
    shown = [words.printable(line, width) for line in lines]
    return [line for n, line in enumerate(shown) if line or (n and shown[n - 1])]


def row(job: Results, status: str, now_s: float, width: int = 80, name_width: int = 24) -> str:
    """A job in one line."""
    runs, total = len(job["runs/run"]), int(job.config["runs"])
    left = _left(job, status, now_s)
    name = job.path.name if len(job.path.name) <= name_width else "…" + job.path.name[1 - name_width :]
    end = f"{words.clock(left)} left" if left is not None else status
    found = _curve(job)
    value = f"{found[0].name} {words.number(found[1][-1, -1], 3)}" if found else ""
    line = f"{name:{name_width}} {bar(runs / max(1, total), 10)} {f'{runs}/{total}':>11}  {value:14}  {end}"
    return words.printable(line, width)


def bar(share: float, width: int) -> str:
    """A share between 0 and 1 as a bar, to an eighth of a column; the rest dotted."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8) if np.isfinite(share) else 0
    part = "▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else ""
    return ("█" * (eighths // 8) + part).ljust(width, "·")


def spark(values: np.ndarray, width: int) -> str:
    """Numbers (n,) as blocks between their minimum and maximum; averaged if more than `width`; a gap for NaN."""
    values = stats.known(values)
    if len(values) > width:
        values = np.array([stats.mean(part) for part in np.array_split(values, width)])
    known = values[np.isfinite(values)]
    if not len(known):
        return ""
    low, spread = known.min(), np.ptp(known)
    levels = (values - low) / spread * 7 if spread > 0 else np.where(np.isfinite(values), 3.0, np.nan)
    return "".join(BLOCKS[round(level)] if np.isfinite(level) else " " for level in levels)


def _facts(job: Results, status: str, now_s: float) -> str:
    """Pace, tasks seen and age of what is shown."""
    wall = job["runs/wall_s"]
    said = []
    if len(wall):
        said += [
            f"{pace_s(job):.3g} s a run",
            f"{job['runs/seen_tasks'][-1]:,} tasks seen",
            f"{words.clock(wall[-1])} worked",
        ]
    age = _age(job, now_s)
    if age is not None and status != "complete":
        said.append(f"as of {words.clock(age)} ago")
    return ", ".join(said) or "no run yet"


def _validation(job: Results, width: int) -> list[str]:
    """The last validation, for each adaptation step, and the last step's over the runs."""
    found = _curve(job)
    if found is None:
        return ["no validation yet"]
    metric, curve = found  # (V, S + 1)
    name = words.metric(metric)
    steps = [words.number(value, 3) for value in curve[-1]]
    if len(steps) > 6:
        steps = [*steps[:4], "…", steps[-1]]
    ends = stats.known(curve[:, -1])
    head = f"{name} of held-out tasks, before adaptation and after each step (run {job['validation/run'][-1] + 1})"
    if len(head) > width:
        head = f"validation {name} before and after each step (run {job['validation/run'][-1] + 1})"
    good = np.nanmax if metric.higher_is_better else np.nanmin
    best = f"best {words.number(good(ends), 3)}" if np.isfinite(ends).any() else ""
    room = max(8, min(48, width - len(best) - 22))
    return [head, "  " + " → ".join(steps), f"  over runs  {spark(ends, room)}  {best}"]


def _workers(job: Results, width: int) -> list[str]:
    """Loss and weight of each worker in the last run; for many workers, their spread."""
    losses, weights = job["workers/loss"], job["workers/weight"]
    if not len(losses):
        return []
    loss, weight = losses[-1], weights[-1]
    if len(loss) > BARS:
        room = max(8, min(48, width - 14))
        order = np.argsort(loss)  # NaN last
        return [
            f"{len(loss)} workers in the last run, by loss",
            f"  loss    {_spread(loss)}",
            f"          {spark(loss[order], room)}",
            f"  weight  {_spread(weight)}",
            f"          {spark(weight[order], room)}",
        ]
    room = max(6, min(24, (width - 30) // 2))
    top = np.nan_to_num(stats.known(loss)).max()
    lines = [f"worker  {'loss':{room + 9}}weight"]
    for worker, (one, share) in enumerate(zip(loss, weight, strict=True)):
        shown = bar(one / top if top > 0 else 0.0, room) if np.isfinite(one) else "not finite".ljust(room)
        lines.append(f"{worker:6}  {one:<8.3g} {shown:{room}} {share:<5.2f} {bar(share, room)}")
    return lines


def _shares(job: Results) -> str:
    """Parts of the last runs' time, means over the ranks."""
    parts = {p: job[f"ranks/{p}_s"][-PACE:] for p in ("work", "exchange", "wait", "validation")}
    means = {n: stats.mean(np.nan_to_num(stats.known(v, None))) for n, v in parts.items() if np.isfinite(v).any()}
    whole = sum(means.values())
    text = ", ".join(f"{name} {value / whole:.0%}" for name, value in means.items()) if whole > 0 else ""
    return f"time of a rank: {text}" if text else ""


def _warnings(job: Results, status: str) -> list[str]:
    """Warnings; they begin with an exclamation mark."""
    lines = []
    if restarts := int(job.attributes.get("restarts", 0)):
        lines.append(f"! restarted {words.count(restarts, 'time')}")
    lines += [f"! {note}" for note in checked.cautions(job)]
    if status == "dead":
        lines.append("! its process is gone: resume it with python -m hpc_dmaml --resume and this file")
    return lines


def _curve(job: Results) -> tuple[Metric, np.ndarray] | None:
    """The metric, or else the loss, and its means over the tasks (V, S + 1); None without a validation."""
    if not len(job["validation/run"]):
        return None
    metric = job.metric
    values = job["validation/loss" if metric is None else "validation/metric"]
    return metric or words.LOSS, stats.over_tasks(values)


def _left(job: Results, status: str, now_s: float) -> float | None:
    """Seconds until a running job will be complete; None if unknown."""
    runs = len(job["runs/run"])
    if status != "running" or not runs:
        return None
    left = pace_s(job) * (int(job.config["runs"]) - runs) - (_age(job, now_s) or 0.0)
    return max(0.0, left) if np.isfinite(left) else None


def _age(job: Results, now_s: float) -> float | None:
    """Seconds since the file was written; None if unknown."""
    try:
        written_s = datetime.datetime.fromisoformat(str(job.attributes.get("written", ""))).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, now_s - written_s)


def _spread(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "none finite"
    low, middle, high = np.quantile(known, (0, 0.5, 1))
    return f"{low:.3g} to {high:.3g}, median {middle:.3g}"


# ---- files that are replaced


@dataclass
class Watched:
    """A job's file, re-read when it has been replaced."""

    path: Path
    job: Results | None = None
    status: str = "starting"
    changed: bool = False
    """Whether there is anything new since the last look."""
    problem: str = ""
    """Why it could not be read."""
    _stamp: tuple[int, ...] = field(default=())

    def look(self) -> None:
        """Update the status. Raises ValueError for a missing file that no job is about to write, or no result file."""
        before = self.status
        self.changed = self._reread()
        if self.job is None:
            if not is_locked(self.path) and not self._reread():
                raise ValueError(f"there is no file {self.path}, and no job that writes it")
        elif self.job.status == "running" and not is_alive(self.job) and not self._reread():
            self.status = "dead"  # read again before, as it may just have ended properly
        self.changed |= self.status != before

    def _reread(self) -> bool:
        """Read the file if it has been replaced. Returns whether it was read."""
        try:
            found = self.path.stat()
        except OSError:  # not yet there, or a network file system that may come back
            return False
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp == self._stamp:
            return False
        self.job = checked.read(self.path, *GROUPS)
        self.status, self._stamp = self.job.status, stamp
        return True

    @property
    def ended(self) -> bool:
        return self.status not in ("starting", "running")


def screen(watched: Sequence[Watched], now_s: float, width: int) -> list[str]:
    """A view of one job, or a line for each of several."""
    if len(watched) == 1 and watched[0].job is not None:
        return view(watched[0].job, watched[0].status, now_s, width)
    name_width = min(max(len(w.path.name) for w in watched), max(16, width - 56))
    return [_line(each, now_s, width, name_width) for each in watched]


def _line(one: Watched, now_s: float, width: int, name_width: int) -> str:
    """A line for one of several jobs."""
    if one.job is not None and not one.problem:
        return row(one.job, one.status, now_s, width, name_width)
    return f"{one.path.name[:name_width]:{name_width}} {one.problem or 'started, nothing written yet'}"[:width]


def follow(watched: Sequence[Watched], every_s: float, once: bool) -> None:
    """Show the jobs until all have ended."""
    on_terminal, drawn = sys.stdout.isatty(), 0
    while True:
        for one in watched:
            one.problem = ""
            try:
                one.look()
            except ValueError as error:
                if len(watched) == 1:
                    raise
                one.changed = one.status != "unreadable"
                one.status, one.problem = "unreadable", str(error)
        size = shutil.get_terminal_size()
        if once or on_terminal:
            lines = screen(watched, time.time(), size.columns)
            if on_terminal and not once:
                lines = lines[: max(1, size.lines - 1)]  # lines that have scrolled out cannot be redrawn
                print(f"\x1b[{drawn}F\x1b[J" if drawn else "", end="")
                drawn = len(lines)
            print("\n".join(_safe(line, on_terminal, not n) for n, line in enumerate(lines)), flush=True)
        else:
            for one in watched:
                if one.changed and (one.job is not None or one.problem):
                    print(_safe(_line(one, time.time(), 120, len(one.path.name)), False), flush=True)
        if once or all(one.ended for one in watched):
            return
        time.sleep(every_s)


def _safe(line: str, coloured: bool, is_head: bool = False) -> str:
    """A line without control characters; the head bold, warnings yellow."""
    text = words.printable(line)
    if not coloured or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[1m{text}\x1b[0m" if is_head else f"\x1b[33m{text}\x1b[0m" if text.startswith("!") else text


@command.command("watch")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Watch jobs in a terminal while they run.")
    parser.add_argument("files", nargs="+", type=command.path, metavar="FILE", help="result files of jobs")
    parser.add_argument("--once", action="store_true", help="show what there is now, and exit")
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between two looks; default 1")
    given = parser.parse_args(arguments)
    if not 0 < given.every <= DAY_S:
        parser.error(f"--every must be above 0 and at most a day, not {given.every:g}")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without block characters shows question marks
    watched = [Watched(path) for path in dict.fromkeys(given.files)]
    follow(watched, given.every, given.once)
    if given.once:
        return 0
    return max((CODES[one.status] for one in watched), key=[0, 75, 1].index)


if __name__ == "__main__":
    sys.exit(main())
