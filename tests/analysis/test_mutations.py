"""Whatever a file holds, the analysis shows it or says in one line what is wrong with it. HPC_DMAML_MUTATIONS=10000 tries
so many instead of a few; the n-th file is always the same, HPC_DMAML_FIRST says with which to begin."""

from __future__ import annotations

import os
import re
import resource
import time

import numpy as np
import pytest
import scaling_model

pytest.importorskip("pandas")
from hpc_dmaml.analysis import curves, merge, reader, report, tables, watch
from hpc_dmaml.analysis.settings import Options
from hpc_dmaml.results import read
from tests.analysis.mutations import mutate
from tests.analysis.synthetic import write_job
from tests.helpers import small_config

pytestmark = pytest.mark.long
MUTATIONS = int(os.environ.get("HPC_DMAML_MUTATIONS", "24"))
FIRST = int(os.environ.get("HPC_DMAML_FIRST", "0"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A regression, and a classification of more workers."""
    from hpc_dmaml.tasks import Glyphs

    folder = tmp_path_factory.mktemp("sources")
    write_job(folder / "loss.h5", small_config(runs=12, workers=2), 2)
    write_job(folder / "accuracy.h5", small_config(runs=40, workers=8, task=Glyphs()), 4)
    return [read(folder / name) for name in ("loss.h5", "accuracy.h5")]


def test_a_file_with_odd_contents_is_shown_or_refused_by_name(sources, tmp_path, capsys):
    slowest, most = 0.0, 0
    for number in range(FIRST, FIRST + MUTATIONS):
        path = tmp_path / "odd.h5"
        rng = np.random.default_rng(number)
        told = mutate(sources[number % 2], rng, path)
        start = time.perf_counter()
        try:
            _show(path, tmp_path, capsys, number)
        except BaseException as error:
            error.add_note(f"mutation {number}: {told}")
            raise
        slowest = max(slowest, time.perf_counter() - start)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"slowest {slowest:.1f} s, most memory {most / 1024:.0f} MiB")


def _show(path, folder, capsys, number):
    """Every command once: exit code 0, or 2 and one line that names the file."""
    sound = True
    try:
        page = report.page(reader.read([path]), Options())
        assert "</html>" in page
        assert "<script" not in page
    except ValueError as error:
        assert str(path) in str(error)
        sound = False
    if sound and number % 8 == 0:  # it costs a second
        assert curves.main([str(path), "--output", str(folder / "odd.svg")]) in (0, 2)
    for command, arguments in (
        (tables.main, ["final", path, "--output", folder / "odd.csv"]),
        (watch.main, [path, "--once"]),
        (scaling_model.main, [path]),
        (merge.main, [path, "--output", folder / f"merged{number}.csv"]),
    ):
        assert command(list(map(str, arguments))) in (0, 2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", shown.out + shown.err)
    (folder / f"merged{number}.csv").unlink(missing_ok=True)


def test_an_odd_file_among_sound_ones_is_named_on_their_page(sources, tmp_path):
    write_job(tmp_path / "sound.h5", small_config(runs=12, workers=2, seed=1), 2)
    for number in range(FIRST, FIRST + MUTATIONS // 8):
        mutate(sources[0], np.random.default_rng(number), tmp_path / "odd.h5")
        page = report.page(reader.read([tmp_path]), Options())
        assert "sound.h5" in page
        assert "odd.h5" in page
