"""TensorBoard's files: a job's own numbers, over its runs."""

from __future__ import annotations

import resource

import numpy as np
import pytest

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator

from hpc_dmaml import results
from hpc_dmaml.analysis import export, merge
from hpc_dmaml.tasks import Glyphs
from tests.analysis.synthetic import write_job
from tests.helpers import small_config


def scalars(folder):
    """{tag: {run: (value, seconds since 1970)}}"""
    found = EventAccumulator(str(folder), {SCALARS: 0, TENSORS: 0}).Reload()
    return {
        tag: {e.step: (float(e.tensor_proto.float_val[0]), e.wall_time) for e in found.Tensors(tag)}
        for tag in found.Tags()["tensors"]
    }


def test_every_number_of_a_job_stands_at_its_run_and_time(tmp_path, capsys):
    for name in ("a", "b/c"):
        write_job(tmp_path / f"{name}.h5", small_config(runs=6, workers=3, task=Glyphs()), 3)
    source = results.read(tmp_path / "a.h5")
    source["workers/loss"][4, 1] = np.inf
    source["validation/loss"][1, 2, 0] = np.nan
    results.write(tmp_path / "a.h5", source.arrays, source.attributes)
    assert export.main(["tensorboard", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'tensorboard'}\n"
    found = scalars(tmp_path / "tensorboard" / "a")
    accuracy = {run: value for run, (value, _) in found["validation_accuracy/after step 2"].items()}
    assert accuracy == pytest.approx(dict(zip([2, 4, 6], source["validation/metric"][:, 2].mean(axis=1), strict=True)))
    assert list(found["validation_loss/after step 2"]) == [2, 6]  # the other is no number
    losses = source["workers/loss"]
    assert found["training/loss"][5][0] == pytest.approx(losses[4, [0, 2]].mean())
    assert found["training/loss"][3][1] == pytest.approx(1767225600 + source["runs/wall_s"][2])  # since 2026-01-01
    assert found["training/seen_tasks"][6][0] == source["runs/seen_tasks"][-1]
    assert set(scalars(tmp_path / "tensorboard" / "b" / "c")) == set(found)


def test_what_cannot_be_read_is_left_out_with_a_note(tmp_path, capsys):
    write_job(tmp_path / "z.h5", small_config(workers=1))
    assert merge.main([str(tmp_path / "z.h5"), "--output", str(tmp_path / "m.h5")]) == 0
    assert export.main(["tensorboard", str(tmp_path)]) == 0
    assert "note: left out: " in (said := capsys.readouterr().err)
    assert "m.h5 is an archive of results: hpc_dmaml merge --split" in said
    assert [each.name for each in (tmp_path / "tensorboard").iterdir()] == ["z"]
    assert export.main(["tensorboard", str(tmp_path / "m.h5"), "--output", str(tmp_path / "other")]) == 2
    assert "no file could be read" in capsys.readouterr().err


def test_what_is_there_is_not_added_to(tmp_path, capsys):
    write_job(tmp_path / "a.h5", small_config(workers=1))
    assert export.main(["tensorboard", str(tmp_path)]) == 0
    assert export.main(["tensorboard", str(tmp_path / "a.h5"), "--output", str(tmp_path / "tensorboard")]) == 2
    assert "exists and is never added to" in capsys.readouterr().err


def test_a_full_disk_is_one_message(tmp_path, capfd):
    write_job(tmp_path / "a.h5", small_config(workers=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        code = export.main(["tensorboard", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, capfd.readouterr().err) == (2, f"export: cannot write {tmp_path / 'tensorboard'}: File too large\n")
    assert not [path for path in (tmp_path / "tensorboard").rglob("*") if path.is_file()]
