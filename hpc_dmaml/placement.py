"""Assign workers to ranks: whole workers to a rank, or a worker's tasks to several ranks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """R ranks and W workers, seen from one rank. If R divides W, a rank hosts W/R whole workers, one after another; if
    W divides R, a group of R/W ranks shares one worker's tasks."""

    ranks: int
    workers: int
    rank: int

    @property
    def group_size(self) -> int:
        """Ranks that share a worker; 1 where a rank hosts whole workers."""
        return max(1, self.ranks // self.workers)

    @property
    def hosted(self) -> range:
        """The workers that this rank works for."""
        if self.group_size > 1:
            return range(self.rank // self.group_size, self.rank // self.group_size + 1)
        each = self.workers // self.ranks
        return range(self.rank * each, (self.rank + 1) * each)

    @property
    def place_in_group(self) -> int:
        return self.rank % self.group_size

    def share(self, tasks: int) -> slice:
        """This rank's part of a worker's tasks: parts differ by one task at most."""
        return share(tasks, self.place_in_group, self.group_size)

    def describe(self) -> str:
        if self.group_size > 1:
            return f"each worker's tasks on {self.group_size} ranks"
        each = self.workers // self.ranks
        return "one worker a rank" if each == 1 else f"{each} workers a rank"


def share(number: int, index: int, parts: int) -> slice:
    """Part `index` of `number` things cut into `parts` parts whose sizes differ by one at most."""
    return slice(number * index // parts, number * (index + 1) // parts)


def check(ranks: int, workers: int, tasks: int) -> None:
    """Raise ValueError unless the workers and their tasks can be placed on the ranks."""
    if ranks % workers and workers % ranks:
        raise ValueError(
            f"workers: {workers} workers do not fit on {ranks} ranks, as one number must divide the other; the nearest "
            f"that do on {ranks} ranks are {_nearest(workers, ranks)}, and {workers} workers fit on "
            f"{_nearest(ranks, workers)} ranks (mpirun -n)"
        )
    if ranks // workers > tasks:
        raise ValueError(
            f"workers: {ranks} ranks for {workers} workers give {ranks // workers} ranks to a worker of only {tasks} "
            "tasks; use fewer ranks, more workers, or more tasks"
        )


def _nearest(number: int, other: int) -> str:
    """The nearest numbers below and above `number` that divide `other`, or are divided by it."""
    possible = [n for n in range(1, 2 * max(number, other) + 1) if not (other % n and n % other)]
    below = max((n for n in possible if n < number), default=None)
    above = min((n for n in possible if n > number), default=None)
    return " or ".join(str(n) for n in (below, above) if n is not None)
