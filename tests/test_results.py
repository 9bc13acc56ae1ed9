"""The result file: plain HDF5, replaced as a whole, and an error that names the file where it is broken."""

from __future__ import annotations

import errno
import io
import resource

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hpc_dmaml import results
from hpc_dmaml.config import RunConfig, Validation
from hpc_dmaml.files import add_checksum
from hpc_dmaml.losses.metric import ACCURACY, Metric
from hpc_dmaml.results import Log
from hpc_dmaml.tasks import Glyphs, Sinusoid
from tests.analysis.synthetic import as_schema_1, write_job
from tests.helpers import ATTRIBUTES, run, small_config

SEAL = b"\nhpc_dmaml seal " + 32 * b"0"
SIZES = {"worker": 2, "rank": 1, "step": 3, "task": 4}


def filled_log(runs: int) -> Log:
    log = Log(SIZES)
    for run_number in range(runs):
        log.append({name: row(name, run_number) for name in results.VARIABLES})
    return log


def row(name: str, number: int) -> np.ndarray:
    return np.full([SIZES[d] for d in results.VARIABLES[name].dimensions[1:]], float(number))


def test_what_is_written_is_read(tmp_path):
    arrays = filled_log(5).arrays()
    results.write(tmp_path / "x.h5", arrays, ATTRIBUTES)
    source = results.read(tmp_path / "x.h5", verify=True)
    assert source.status == "running"
    assert source.config == {"runs": 3}
    for name, values in arrays.items():
        np.testing.assert_array_equal(source[name], values, err_msg=name)


def test_a_file_shows_itself_in_three_lines(tmp_path):
    path = tmp_path / "x.h5"
    config = RunConfig(runs=40, workers=2, seed=7, validation=Validation(every=10, tasks=5, steps=2))
    write_job(path, config, status="interrupted", runs=25)
    source = results.read(path)
    curve = " → ".join(f"{accuracy:.2f}" for accuracy in source["validation/metric"][-1].mean(1))
    assert repr(source).splitlines() == [
        f"{path}: interrupted, 25 of 40 runs in 2 s",
        "Glyphs, Conv4, MAML, Adam, ArithmeticMean, seed 7",
        f"validation accuracy {curve}, before adaptation and after each step of it, after run 20",
    ]
    assert repr(results.read(path, "workers")).splitlines()[::2] == [
        f"{path}: interrupted",
        "validations were not read",
    ]


def test_a_file_shows_nothing_that_would_speak_to_a_terminal(tmp_path):
    told = {**ATTRIBUTES, "config": 'task: {class_path: "Evil\\x1b[2J"}\nmodel: []\nruns: [3]\n'}
    results.write(tmp_path / "x.h5", filled_log(0).arrays(), told)
    assert repr(results.read(tmp_path / "x.h5")).splitlines()[1:] == ["Evil?[2J, seed 0", "no validation yet"]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("workers/los", "there are workers/loss, workers/metric, .*; did you mean 'workers/loss'"),
        ("workers/nope", "there are workers/loss, workers/metric, workers/weight, workers/work_s, workers/worker"),
        ("worker/loss", "did you mean 'workers/loss'"),
    ],
)
def test_an_array_that_is_not_there_is_answered_with_those_that_are(tmp_path, asked, answer):
    results.write(tmp_path / "x.h5", filled_log(1).arrays(), ATTRIBUTES)
    with pytest.raises(ValueError, match=f"holds no {asked}; {answer}" if "there" in answer else answer):
        results.read(tmp_path / "x.h5")[asked]


def test_an_empty_log_has_the_shapes_of_a_full_one(tmp_path):
    results.write(tmp_path / "x.h5", Log(SIZES).arrays(), ATTRIBUTES)
    source = results.read(tmp_path / "x.h5")
    assert source["workers/loss"].shape == (0, 2)
    assert source["validation/loss"].shape == (0, 3, 4)


def test_arrays_carry_dimension_scales_units_and_descriptions(tmp_path):
    results.write(tmp_path / "x.h5", filled_log(2).arrays(), ATTRIBUTES)
    with h5py.File(tmp_path / "x.h5") as file:
        for name, variable in results.VARIABLES.items():
            assert file[name].attrs["units"] == variable.units
            assert file[name].attrs["description"]
            for dimension, axis in zip(variable.dimensions, file[name].dims, strict=True):
                assert axis.label == dimension
        assert file["workers/loss"].dims[0][0] == file["runs/run"]
        assert file["validation/loss"].dims[2][0] == file["validation/task"]


def test_a_variable_that_older_files_lack_is_unknown_in_them(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.delitem(results.VARIABLES, "ranks/data_s")
        results.write(tmp_path / "x.h5", filled_log(2).arrays(), ATTRIBUTES)
    old = results.read(tmp_path / "x.h5", verify=True)
    np.testing.assert_array_equal(old["ranks/data_s"], np.full(old["ranks/work_s"].shape, np.nan))
    assert "ranks/data_s" not in results.read(tmp_path / "x.h5", "validation").arrays
    assert len(Log(SIZES, old.arrays)) == 2


def test_a_file_that_this_process_has_open_can_be_read(job_file):
    with h5py.File(job_file) as file:
        assert results.read(job_file).status == file.attrs["status"]


def test_some_groups_can_be_read_alone(tmp_path):
    results.write(tmp_path / "x.h5", filled_log(2).arrays(), ATTRIBUTES)
    assert {name.split("/")[0] for name in results.read(tmp_path / "x.h5", "validation").arrays} == {"validation"}


def test_a_log_goes_on_from_a_file_and_widens_when_there_are_more_ranks(tmp_path):
    results.write(tmp_path / "x.h5", filled_log(2).arrays(), ATTRIBUTES)
    log = Log({**SIZES, "rank": 2}, results.read(tmp_path / "x.h5").arrays)
    assert len(log) == 2
    times = np.asarray(log.arrays()["ranks/work_s"])
    np.testing.assert_array_equal(times, [[0, np.nan], [1, np.nan]])


def test_a_disk_that_is_full_at_any_point_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.h5"
    results.write(path, filled_log(2).arrays(), ATTRIBUTES)
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, len(before), len(before) // 30):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(OSError, match="File too large"):
                results.write(path, filled_log(3).arrays(), ATTRIBUTES)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0
    results.write(path, filled_log(3).arrays(), ATTRIBUTES)
    assert len(results.read(path, verify=True)["runs/run"]) == 3


class SmallDisk(io.FileIO):
    """A file on a disk with room for 10 bytes."""

    def write(self, data):
        room = 10 - self.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(memoryview(data)[:room])


def test_hdf5_sees_no_error_of_its_file_and_reads_what_it_has_written(tmp_path):
    with SmallDisk(tmp_path / "x", "w+") as file:
        target = results._Unfailing(file)
        assert target.write(b"abcdefgh") == 8
        target.check()
        assert target.write(b"ijklmnop") == 8  # the disk takes two of them
        with pytest.raises(OSError, match="No space left"):
            target.check()
        assert (target.seek(4), target.write(b"EF"), target.seek(0, io.SEEK_END), target.seek(1)) == (4, 2, 16, 1)
        read = bytearray(20)
        assert read[: target.readinto(read)] == b"bcdEFghijklmnop"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=st.integers(1, 40), parts=st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_a_log_written_and_gone_on_with_at_any_time_is_the_one_that_was_not(tmp_path, monkeypatch, block, parts):
    monkeypatch.setattr(results, "BLOCK_NUMBERS", block)
    path, log = tmp_path / "x.h5", Log(SIZES)
    for part in parts:
        for number in range(len(log), len(log) + part):
            log.append({name: row(name, number) for name in results.VARIABLES})
        results.write(path, log.arrays(), ATTRIBUTES)
        log = Log(SIZES, results.read(path).arrays)
    assert len(log) == sum(parts)
    for name, values in log.arrays().items():
        if name in results.VARIABLES:
            expected = [row(name, number) for number in range(sum(parts))]
            np.testing.assert_array_equal(values, np.array(expected).reshape(np.shape(values)), err_msg=name)


def test_the_times_that_come_late_are_those_of_the_last_run():
    log = Log({**SIZES, "rank": 3})
    for number in range(2):
        log.append({name: row(name, number) for name in results.VARIABLES if not name.startswith("ranks/")})
        log.append({name: np.full(2, np.nan) for name in results.VARIABLES if name.startswith("ranks/")})
    log.complete_times(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    nan = np.nan
    for name, expected in {"exchange_s": [1, 4, nan], "wait_s": [2, 5, nan], "validation_s": [3, 6, nan]}.items():
        np.testing.assert_array_equal(log.arrays()[f"ranks/{name}"], [[nan] * 3, expected])


def test_the_state_of_a_file_has_the_last_row_of_its_log_alone(tmp_path):
    more = {"meta_model/parameters": np.arange(3.0), "meta_model/best_parameters": np.ones(3)}
    results.write(tmp_path / "x.h5", {**filled_log(5).arrays(), **more}, ATTRIBUTES)
    state = results.read(tmp_path / "x.h5").state()
    assert state["runs/run"].tolist() == [4]
    assert all(len(state[name]) == 1 for name in results.VARIABLES)
    assert state["meta_model/parameters"].tolist() == [0, 1, 2]
    assert "meta_model/best_parameters" not in state.arrays
    assert state.attributes["config"] == ATTRIBUTES["config"]


def test_a_file_that_is_not_there_foreign_or_of_another_schema_is_named(tmp_path):
    for name, content in {"missing.h5": None, "text.h5": b"hello", "empty.h5": b""}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            results.read(tmp_path / name)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match=r"foreign\.h5 is an HDF5 file, but not a result of this version"):
        results.read(tmp_path / "foreign.h5")


@pytest.fixture(scope="module")
def job_file(tmp_path_factory):
    return run(small_config(), tmp_path_factory.mktemp("job")).path


def damaged(data, good: bytes) -> bytes:
    """Cut off, or with some bytes changed, or with zeros for a block."""
    bad, place = bytearray(good), data.draw(st.integers(0, len(good) - 1), "place")
    match data.draw(st.sampled_from(["cut", "flips", "zeros"]), "kind"):
        case "cut":
            return good[:place]
        case "zeros":
            bad[place : place + 512] = bytes(len(bad[place : place + 512]))
        case "flips":
            for other in {place, *data.draw(st.lists(st.integers(0, len(good) - 1), max_size=3), "places")}:
                bad[other] ^= data.draw(st.integers(1, 255), "flip")
    return bytes(bad)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_by_name(job_file, tmp_path, data):
    good, path = job_file.read_bytes(), tmp_path / "damaged.h5"
    bad = damaged(data, good)
    assume(bad != good)
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r"damaged\.h5 is not a readable result file"):
        results.read(path, verify=True)


def test_a_file_that_hdf5_would_never_come_back_from_is_not_given_to_it(job_file, tmp_path):
    """Found by the test above: where the heap of the strings is zero, reading an attribute loops for ever."""
    bad = bytearray(job_file.read_bytes())
    heap = bad.index(b"GCOL") + 16
    bad[heap : heap + 512] = bytes(512)
    (tmp_path / "damaged.h5").write_bytes(bad)
    with pytest.raises(ValueError, match="it was damaged after it was written"):
        results.read(tmp_path / "damaged.h5")
    (tmp_path / "sealed.h5").write_bytes(bad[: -len(SEAL)])
    add_checksum(tmp_path / "sealed.h5")
    with pytest.raises(ValueError, match=r"sealed\.h5 is not a readable result file: its texts are damaged"):
        results.read(tmp_path / "sealed.h5")


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_under_a_valid_checksum_is_refused_by_name_or_harmless(job_file, tmp_path, data):
    (tmp_path / "odd.h5").write_bytes(damaged(data, job_file.read_bytes()[: -len(SEAL)]))
    add_checksum(tmp_path / "odd.h5")
    try:
        assert results.read(tmp_path / "odd.h5", verify=True).status in results.STATUSES
    except ValueError as error:
        assert "odd.h5" in str(error)


def test_a_file_to_which_another_program_added_something_can_be_read_but_is_no_checkpoint(job_file, tmp_path):
    path = tmp_path / "noted.h5"
    path.write_bytes(job_file.read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "my favourite"
        file["more"] = np.zeros(10_000)
    assert results.read(path).attributes["note"] == "my favourite"
    with pytest.raises(ValueError, match="changed by another program"):
        results.read(path, verify=True)


@pytest.mark.parametrize(
    ("metric", "direction"), [(ACCURACY, "higher"), (Metric("distance", "m", higher_is_better=False), "lower")]
)
def test_a_file_says_what_its_metric_is(tmp_path, metric, direction):
    attributes = {**ATTRIBUTES, **results.metric_attributes(metric)}
    results.write(tmp_path / "x.h5", filled_log(2).arrays(), attributes)
    assert results.read(tmp_path / "x.h5").metric == metric
    with h5py.File(tmp_path / "x.h5") as file:
        for name in results.METRICS:
            told = file[name].attrs
            assert (told["name"], told["units"], told["direction"]) == (metric.name, metric.unit, direction)
            assert f"query {metric.name}" in told["description"]


def test_without_a_metric_there_is_none(tmp_path):
    results.write(tmp_path / "x.h5", filled_log(2).arrays(), ATTRIBUTES)
    assert results.read(tmp_path / "x.h5").metric is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": None}, "has no attribute metric"),
        ({"metric_unit": 1}, "its attribute metric_unit is of type"),
        ({"metric": "return"}, "its metric_direction is ''"),
        ({"metric": "return", "metric_direction": "up"}, "its metric_direction is 'up'"),
        ({"metric_direction": "lower"}, "its metric_direction is 'lower'"),
        ({"config": "maml: {clip: 1.0}\nclip: 2.0\n"}, "maml is another name of clip"),
    ],
)
def test_a_metric_that_is_half_there_and_a_field_of_two_names_are_refused(tmp_path, change, message):
    given = {name: value for name, value in {**ATTRIBUTES, **change}.items() if value is not None}
    results.write(tmp_path / "x.h5", filled_log(1).arrays(), given)
    with pytest.raises(ValueError, match=rf"x\.h5 is not a readable result file: .*{message}"):
        results.read(tmp_path / "x.h5")


@pytest.mark.parametrize("classified", [True, False])
def test_a_file_of_schema_1_is_read_as_one_of_today(tmp_path, classified):
    path, old = tmp_path / "x.h5", {"inner_lr": 0.05, "inner_steps": 1, "first_order": False}
    write_job(path, small_config(task=Glyphs() if classified else Sinusoid()))
    new = results.read(path)
    as_schema_1(path)
    with h5py.File(path) as file:
        assert "workers/accuracy" in file
        assert file.attrs["schema"] == 1
        assert "metric" not in file.attrs
    read = results.read(path, verify=True)
    assert read.metric == new.metric == (ACCURACY if classified else None)
    assert read.config == {**new.config, "algorithm": {"class_path": "MAML", "init_args": old}}
    assert {"task_reduction", "clip"} <= read.config.keys()
    assert read.arrays.keys() == new.arrays.keys()
    for name, values in new.arrays.items():
        np.testing.assert_array_equal(read[name], values, err_msg=name)
    assert read.attributes.keys() == new.attributes.keys()


def test_a_log_goes_on_from_a_file_of_schema_1(tmp_path):
    path = tmp_path / "x.h5"
    write_job(path, small_config(workers=2, task=Glyphs()))
    values = results.read(path)["workers/metric"]
    as_schema_1(path)
    old = results.read(path)
    log = Log({"worker": 2, "rank": 1, "step": 3, "task": 5}, old.arrays)
    results.write(path, {**old.arrays, **log.arrays()}, old.attributes)
    assert results.read(path).attribute("schema") == results.SCHEMA
    np.testing.assert_array_equal(results.read(path)["workers/metric"], values)


def test_a_file_of_schema_1_is_checked_as_strictly(tmp_path):
    path = tmp_path / "x.h5"
    for spoil in (
        lambda file: file.pop("workers/accuracy"),
        lambda file: file.attrs.pop("loss"),
        lambda file: file.attrs.update(loss=[1, 2]),
        lambda file: file.attrs.update(config="maml: {clip: 1.0}\nclip: 2.0\n"),
        lambda file: file.attrs.update(schema=0),
    ):
        write_job(path, small_config(task=Glyphs()))
        as_schema_1(path)
        with h5py.File(path, "r+") as file:
            spoil(file)
        with pytest.raises(ValueError, match=r"x\.h5 is "):
            results.read(path)
