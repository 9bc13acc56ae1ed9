"""Workers and ranks: every task is done once, by the ranks of its worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_dmaml.placement import Placement, check

POSSIBLE = st.tuples(st.integers(1, 12), st.integers(1, 12), st.booleans()).map(
    lambda t: (t[0], t[0] * t[1]) if t[2] else (t[0] * t[1], t[0])
)


@given(POSSIBLE, st.integers(1, 40))
def test_every_task_of_every_worker_is_done_by_one_rank(ranks_and_workers, tasks):
    ranks, workers = ranks_and_workers
    done = []
    for rank in range(ranks):
        placement = Placement(ranks, workers, rank)
        for worker in placement.hosted:
            done += [(worker, task) for task in range(tasks)[placement.share(tasks)]]
    assert sorted(done) == [(worker, task) for worker in range(workers) for task in range(tasks)]


@given(POSSIBLE, st.integers(1, 40))
def test_shares_differ_by_one_task_at_most(ranks_and_workers, tasks):
    ranks, workers = ranks_and_workers
    shares = [Placement(ranks, workers, rank).share(tasks) for rank in range(ranks)]
    sizes = [s.stop - s.start for s in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("ranks", "workers", "nearest", "other_ranks"),
    [(4, 6, "4 or 8", "3 or 6"), (3, 2, "1 or 3", "2 or 4"), (16, 5, "4 or 8", "15 or 20")],
)
def test_numbers_that_do_not_divide_are_refused_with_the_nearest_that_do(ranks, workers, nearest, other_ranks):
    told = f"nearest that do on {ranks} ranks are {nearest}, and {workers} workers fit on {other_ranks} ranks"
    with pytest.raises(ValueError, match=told):
        check(ranks, workers, tasks=100)


def test_more_ranks_than_tasks_for_a_worker_are_refused():
    with pytest.raises(ValueError, match="4 ranks to a worker of only 3 tasks"):
        check(ranks=8, workers=2, tasks=3)
