"""The reader: files, folders and sweeps to tidy tables, and one clear message for everything else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.analysis.synthetic import write_job, write_sweep
from tests.helpers import run, small_config

pytest.importorskip("pandas")
import pandas as pd

from hpc_dmaml import results, sweep
from hpc_dmaml.analysis import reader
from hpc_dmaml.models import MLP, Module
from hpc_dmaml.optimizers import SGD
from hpc_dmaml.tasks import ImageFolder
from hpc_dmaml.weight_generators import ArithmeticMean, LossMovingAverage

ANALYSIS = Path(reader.__file__).parent


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A real job."""
    return run(small_config(runs=6, workers=3), tmp_path_factory.mktemp("job"))


@pytest.mark.parametrize(
    ("group", "index"),
    [("runs", ["run"]), ("workers", ["run", "worker"]), ("ranks", ["run", "rank"]), ("validation", ["run", "step"])],
)
def test_every_number_of_a_job_stands_in_its_row(job, group, index):
    (one,) = reader.read([job.path]).jobs
    table = reader.table([one], group).set_index(index)
    for name in ("runs/wall_s", "workers/loss", "ranks/work_s", "validation/loss"):
        if name.startswith(group):
            values = job[name].mean(axis=2) if group == "validation" else job[name]
            assert len(table) == values.size
            rows = job["validation/run"] if group == "validation" else job["runs/run"]
            for place, expected in np.ndenumerate(values):
                row = (int(rows[place[0]]), *place[1:])
                assert table.loc[row if len(row) > 1 else row[0], name.partition("/")[2]] == expected


def test_validations_stand_beside_the_tasks_seen_and_the_time_at_their_runs(job):
    table = reader.table(reader.read([job.path]).jobs, "validation", ["loss"])
    assert list(table.columns) == ["job", "seed", "run", "seen_tasks", "wall_s", "step", "loss"]
    np.testing.assert_array_equal(table["seen_tasks"], (table["run"] + 1) * 15)  # 3 workers of 5 tasks
    np.testing.assert_array_equal(table["wall_s"], job["runs/wall_s"][table["run"]])


def test_each_held_out_task_is_to_be_had(job):
    table = reader.table(reader.read([job.path]).jobs, "validation", ["loss"], each_task=True)
    np.testing.assert_array_equal(table["loss"], job["validation/loss"].ravel())
    np.testing.assert_array_equal(table["task"].unique(), range(5))


def test_axes_and_fields_become_columns_and_nothing_is_there_that_was_not_asked_for(scaling):
    found = reader.read([scaling])
    table = reader.table(found.jobs, "workers", ["loss"], by=["scaling", "optimizer.lr"])
    assert list(table.columns) == ["job", "scaling", "optimizer.lr", "seed", "run", "worker", "loss"]
    assert set(table["scaling"]) == {"baseline", "workers 2x", "workers 4x", "tasks 2x", "tasks 4x"}
    assert len(table) == 40 * 3 * (1 + 2 + 4 + 1 + 1)


def test_what_a_jobs_classes_do_not_have_is_missing_in_its_rows(tmp_path):
    write_job(tmp_path / "a.h5", small_config(weight_generator=LossMovingAverage(window=7)))
    write_job(tmp_path / "b.h5", small_config())
    table = reader.table(reader.read([tmp_path]).jobs, "runs", by=["weight_generator.window", "model.hidden"])
    assert table["weight_generator.window"].isna().tolist() == [False] * 3 + [True] * 3
    assert set(table["model.hidden"]) == {(6,)}


def test_missing_points_are_named_and_the_rest_is_read(partial):
    (partial / "scaling=tasks-2x,seed=1.h5").unlink()
    found = reader.read([partial])
    assert len(found.jobs) == 14
    assert found.notes == ("sweep scaling: 1 of 15 points are missing: scaling=tasks-2x,seed=1",)


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_jobs_that_did_not_end_take_part_and_are_named(tmp_path, status):
    write_job(tmp_path / "a.h5", small_config(runs=10), status=status, runs=4)
    write_job(tmp_path / "b.h5", small_config(runs=10))
    found = reader.read([tmp_path])
    assert reader.table(found.jobs, "runs").groupby("job", observed=True).size().tolist() == [4, 10]
    assert found.notes == (f"{status}, shown as far as it got: a.h5",)


def test_a_job_before_its_first_run_is_no_obstacle(tmp_path):
    write_job(tmp_path / "a.h5", small_config(), status="running", runs=0)
    for group in reader.GROUPS:
        assert reader.table(reader.read([tmp_path]).jobs, group).empty


def test_unreadable_files_are_left_out_and_named(partial):
    (partial / "broken.h5").write_bytes(b"nothing of use")
    found = reader.read([partial])
    assert len(found.jobs) == 15
    assert found.notes[0].startswith(f"left out: {partial / 'broken.h5'} is not a readable result file")


def test_where_no_file_can_be_read_there_is_one_message(tmp_path):
    with pytest.raises(ValueError, match="no result file"):
        reader.read([tmp_path])
    with pytest.raises(ValueError, match="there is no file or folder"):
        reader.read([tmp_path / "none"])
    (tmp_path / "broken.h5").write_bytes(b"nothing of use")
    with pytest.raises(ValueError, match=r"broken\.h5 is not a readable result file"):
        reader.read([tmp_path])


def test_files_of_another_schema_are_refused(job, tmp_path):
    results.write(tmp_path / "x.h5", job.arrays, {**job.attributes, "schema": 99})
    with pytest.raises(ValueError, match="not a result of this version"):
        reader.read([tmp_path / "x.h5"])


def test_a_file_that_its_sweep_describes_otherwise_is_named(partial):
    text = (partial / "sweep.yaml").read_text()
    (partial / "sweep.yaml").write_text(text.replace("tasks: 32", "tasks: 64"))
    notes = reader.read([partial]).notes
    assert len(notes) == 3
    assert notes[0] == "scaling=tasks-4x,seed=0.h5 was run with other settings than its sweep.yaml has: tasks"


def test_a_point_whose_configuration_is_odd_is_named(partial):
    path = partial / "scaling=tasks-4x,seed=0.h5"
    source = results.read(path)
    config = {**source.config, "validation": {"init_args": [1]}, "tasks": 33}
    results.write(path, source.arrays, {**source.attributes, "config": yaml.safe_dump(config)})
    found = reader.read([partial])
    assert len(found.jobs) == 15
    assert found.notes[0].startswith(f"{path.name} was run with other settings than its sweep.yaml has: ")
    assert "tasks" in found.notes[0]


def test_a_file_without_the_fields_of_all_jobs_is_left_out_and_named(partial):
    for name, seed in (("workers", 0), ("task", 1)):
        path = partial / f"scaling=tasks-4x,seed={seed}.h5"
        source = results.read(path)
        config = {key: value for key, value in source.config.items() if key != name}
        results.write(path, source.arrays, {**source.attributes, "config": yaml.safe_dump(config)})
    found = reader.read([partial])
    assert len(found.jobs) == 13
    assert (
        f"left out: {partial / 'scaling=tasks-4x,seed=0.h5'}: config: workers must be a whole number" in found.notes[0]
    )
    assert "config: task must be a class with its class_path, not None" in found.notes[1]


def test_settings_come_in_the_order_of_the_sweep_or_of_their_values(tmp_path):
    for rate in (0.1, 0.001, 0.01):
        write_job(tmp_path / f"{rate}.h5", small_config(optimizer=SGD(lr=rate)))
    groups = reader.grouped(reader.read([tmp_path]).jobs, ["optimizer.lr"])
    assert list(groups) == [(0.001,), (0.01,), (0.1,)]


def test_what_tells_files_apart_is_neither_seed_nor_what_comes_with_a_class(tmp_path):
    for seed, generator in enumerate((ArithmeticMean(), LossMovingAverage(window=7))):
        write_job(tmp_path / f"{seed}.h5", small_config(seed=seed, weight_generator=generator))
    assert reader.varying(reader.read([tmp_path]).jobs) == ["weight_generator"]


@pytest.mark.parametrize(
    ("arguments", "apart"),
    [
        ([{}, {"width": 8}], "model.arguments"),
        ([{"width": 8}, {"width": 40}], "model.arguments.width"),
        ([{"width": 8}, {"width": 40}, {"width": 8, "depth": 3}], "model.arguments"),
        ([{"width": 8}, {"depth": 8}], "model.arguments"),
        ([{"a": {"k": {"z": 1}}}, {"a": {"k": {"z": 2}}}, {"a": {"k": {}}}, {"a": {}}], "model.arguments.a.k"),
    ],
)
def test_models_of_other_arguments_are_not_seeds_of_one_setting(tmp_path, arguments, apart):
    for seed, each in enumerate(arguments):
        write_job(tmp_path / f"{seed}.h5", small_config(seed=seed, model=Module("my.Net", each)))
    jobs = reader.read([tmp_path]).jobs
    assert reader.varying(jobs) == [apart]
    assert len(reader.grouped(jobs, [apart])) == len(arguments)
    with pytest.raises(ValueError, match=f"files differ in {apart};"):
        reader.grouped(jobs, [])


def test_equal_arguments_are_one_setting_however_they_are_written(tmp_path):
    for seed, arguments in enumerate(({"o": {"x": 1, "y": 2}}, {"o": {"y": 2.0, "x": 1}})):
        write_job(tmp_path / f"{seed}.h5", small_config(seed=seed, model=Module("my.Net", arguments)))
    assert reader.varying(reader.read([tmp_path]).jobs) == []


def test_a_class_and_its_fields_tell_files_apart_together(tmp_path):
    for seed, (hidden, model) in enumerate(((6, "MLP"), (7, "MLP"), (0, "Module"))):
        built = MLP(hidden=(hidden,)) if model == "MLP" else Module("my.Net")
        write_job(tmp_path / f"{seed}.h5", small_config(seed=seed, model=built))
    assert reader.varying(reader.read([tmp_path]).jobs) == ["model", "model.hidden"]


def test_files_of_any_suffix_and_sweeps_without_a_copy_have_a_folder(tmp_path):
    write_job(tmp_path / "job.hdf5", small_config())
    assert reader.read([tmp_path / "job.hdf5"]).folder == tmp_path
    (tmp_path / "s.yaml").write_text("set: {runs: 3, workers: 1}\nseeds: [0]\n")
    (tmp_path / "results/s").mkdir(parents=True)
    write_job(tmp_path / "results/s/seed=0.h5", small_config())
    with contextlib.chdir(tmp_path):
        assert reader.read(["s.yaml"]).folder == Path("results/s")


def test_a_file_beside_a_sweep_is_none_of_its_points(partial):
    write_job(partial / "other.h5", small_config())
    (job,), title = (found := reader.read([partial / "other.h5"])).jobs, found.title
    assert (job.settings, found.sweeps, found.notes, title) == ({}, (), (), "")
    assert reader.read([partial / "scaling=baseline,seed=0.h5"]).title == "Scaled on synthetic letters"
    assert reader.read([partial]).title == ""
    (partial / "sweep.yaml").write_text("description: About seeds\nset: {workers: 1}\nseeds: [0]\n")
    write_job(partial / "seed=0.h5", small_config())
    assert reader.read([partial / "seed=0.h5"]).title == "About seeds"


def test_mixed_experiments_are_refused_with_what_tells_them_apart(tmp_path):
    write_job(tmp_path / "a.h5", small_config())
    write_job(tmp_path / "b.h5", small_config(tasks=7))
    jobs = reader.read([tmp_path]).jobs
    with pytest.raises(ValueError, match="mixed: all files together: 2 files differ in tasks; .* --by tasks"):
        reader.grouped(jobs, [])
    assert len(reader.grouped(jobs, ["tasks"])) == 2


def test_jobs_on_different_data_are_not_averaged_though_their_classes_are_as_many(tmp_path):
    for seed, place in enumerate(("birds", "cars")):
        path = tmp_path / f"{place}.h5"
        write_job(path, small_config(seed=seed, task=ImageFolder(root=str(tmp_path / place))))
        source = results.read(path)
        results.write(path, source.arrays, {**source.attributes, "data": f"{seed}" * 16})
    jobs = reader.read([tmp_path]).jobs
    assert reader.varying(jobs) == ["task.root"]
    with pytest.raises(ValueError, match=r"2 files differ in task\.root; .* --by task\.root"):
        reader.grouped(jobs, [])
    assert len(reader.grouped(jobs, ["task.root"])) == 2


def test_other_data_at_the_same_place_is_told_apart_by_its_digest(tmp_path):
    for seed in range(2):
        path = tmp_path / f"{seed}.h5"
        write_job(path, small_config(seed=seed, task=ImageFolder(root="birds")))
        source = results.read(path)
        results.write(path, source.arrays, {**source.attributes, "data": f"{seed}" * 16})
    jobs = reader.read([tmp_path]).jobs
    assert reader.varying(jobs) == ["data"]
    assert list(reader.grouped(jobs, ["data"])) == [("00000000",), ("11111111",)]


def test_a_field_that_is_not_there_is_answered_though_nothing_tells_the_files_apart(job):
    with pytest.raises(ValueError, match=r"no file has a field 'xyz'; these tell the files apart: none$"):
        reader.grouped(reader.read([job.path]).jobs, ["xyz"])


def test_a_misspelt_field_is_answered_with_the_nearest(job):
    with pytest.raises(ValueError, match=r"no file has a field 'optimiser.lr'; did you mean optimizer.lr"):
        reader.grouped(reader.read([job.path]).jobs, ["optimiser.lr"])


def test_a_table_or_column_that_is_not_there_is_refused(job):
    jobs = reader.read([job.path]).jobs
    with pytest.raises(ValueError, match="there is no table 'walls'; there are runs, workers"):
        reader.table(jobs, "walls")
    with pytest.raises(ValueError, match="the table runs has no column loss; it has seen_tasks, wall_s"):
        reader.table(jobs, "runs", ["loss"])


def test_reading_needs_neither_torch_nor_mpi():
    code = f"import sys; sys.path.append({str(ANALYSIS)!r}); import figures, tables, merge; print({{'torch', 'mpi4py'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_each_file_is_read_once_as_long_as_there_is_room_for_its_log(scaling, monkeypatch):
    read, names = results.read, []
    monkeypatch.setattr(results, "read", lambda path, *groups: names.append(path) or read(path, *groups))
    jobs = reader.read([scaling]).jobs
    tables = [reader.table(jobs, group) for group in reader.GROUPS]
    assert sorted(names) == sorted(job.path for job in jobs)
    monkeypatch.setattr(reader, "KEPT", 0)
    again = reader.read([scaling]).jobs
    for group, table in zip(reader.GROUPS, tables, strict=True):
        pd.testing.assert_frame_equal(reader.table(again, group), table)
    assert len(names) == len(jobs) * (1 + 1 + len(reader.GROUPS))


def test_a_sweep_that_was_changed_between_its_points_is_named(tmp_path):
    text = """
set: {runs: 3, workers: 1, tasks: 4, model: {class_path: Module, init_args: {path: my.Net}}}
grid:
  weight_generator: [ArithmeticMean, LossMedian]
  model.arguments: [{}, {width: 8}, {width: 16}]
  depth: {plain: {}, deep: {model.arguments.depth: 3}}
"""
    (tmp_path / "s.yaml").write_text(text)
    found = sweep.load(tmp_path / "s.yaml", tmp_path / "results")
    write_sweep(found)
    assert reader.read([found.folder]).notes == ()
    config = found.described(found.points[0])
    write_job(found.points[0].output, replace(config, clip=2.0))
    assert "the files of sweep s differ in clip, which its points do not set" in reader.read([found.folder]).notes
