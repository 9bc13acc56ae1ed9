"""All SLURM tests of a session share one cluster."""

from __future__ import annotations

import pytest

from tests.slurm.cluster import Unavailable, booted


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    try:
        with booted(tmp_path_factory.mktemp("slurm"), tmp_path_factory.mktemp("jobs")) as cluster:
            yield cluster
    except Unavailable as reason:
        pytest.skip(str(reason))
