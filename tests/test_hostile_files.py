"""Result files that were made to do harm: they are refused with a ValueError, and nothing that they name is run or opened."""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import hpc_dmaml
from hpc_dmaml import evaluate, results
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import parse
from hpc_dmaml.files import add_checksum
from hpc_dmaml.models import Module
from hpc_dmaml.run import run_job
from hpc_dmaml.tasks import Sinusoid
from tests.helpers import Poisoned, run, small_config
from tests.mutations import CANARY, SECRET, mutated, watched

MUTATIONS = int(os.environ.get("HPC_DMAML_MUTATIONS", "100"))
FIRST = int(os.environ.get("HPC_DMAML_MUTATIONS_FROM", "0"))
"""Set both to go through many in parts."""
SLOWEST_S, LARGEST_KIB = 10, 2**20


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return run(small_config(), tmp_path_factory.mktemp("good")).path


def resume(path: Path) -> int:
    """Go on with a file, to the runs that the good one has."""
    return run_job(parse(["--resume", str(path), "--runs", "3", "--time_limit_s", "1"]), Communicator())


READERS = {
    "read": results.read,
    "load": hpc_dmaml.load,
    "evaluate": lambda path: evaluate.parse([str(path)]),
    "evaluation": lambda path: evaluate.evaluate(evaluate.parse([str(path), "--tasks", "3"]), Communicator()),
    "resume": resume,
}


@pytest.fixture
def changed(good, tmp_path):
    """A function that changes a copy of the good file, gives it a checksum that fits, and gives its path."""

    def make(change) -> Path:
        path = tmp_path / "bad.h5"
        shutil.copyfile(good, path)
        with h5py.File(path, "r+") as file:
            change(file)
        add_checksum(path)
        return path

    return make


@pytest.fixture
def configured(changed):
    """The same, for changes of its configuration."""

    def make(change) -> Path:
        def rewrite(file):
            content = yaml.safe_load(file.attrs["config"])
            change(content)
            file.attrs["config"] = yaml.safe_dump(content)

        return changed(rewrite)

    return make


def test_mutated_files_are_refused_or_read_and_nothing_they_name_is_run(good, tmp_path, capsys):
    """HPC_DMAML_MUTATIONS says how many; each within 10 s and 1 GB more than the process had."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest, refused = 0.0, 0
    with watched(tmp_path) as deeds:
        for seed in range(FIRST, FIRST + MUTATIONS):
            path = mutated(good, tmp_path / "bad.h5", seed)
            for name, reader in READERS.items():  # the last of which changes the file
                start = time.monotonic()
                try:
                    reader(path)
                except ValueError as error:
                    assert "\n" not in str(error), (seed, name, error)
                    refused += 1
                except BaseException as error:
                    raise AssertionError(f"seed {seed}, {name}: {type(error).__name__}: {error}") from error
                slowest = max(slowest, time.monotonic() - start)
                assert not deeds, (seed, name, deeds)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    with capsys.disabled():
        print(f" {MUTATIONS} files, {refused} times refused, slowest {slowest:.1f} s, {grown >> 10} MiB more ", end="")
    assert refused > MUTATIONS  # most of what is changed matters
    assert grown < LARGEST_KIB
    assert slowest < SLOWEST_S or MUTATIONS < 1000  # a busy machine is no fault of a file


CLASSES = {
    "a command": {"class_path": "os.system", "init_args": {"command": "true"}},
    "a function that deletes": {"class_path": "shutil.rmtree", "init_args": {"path": "x"}},
    "a class of another kind": {"class_path": "pathlib.Path"},
    "a class by another's name": {"class_path": "hpc_dmaml.files.Path"},
    "a user's class": {"class_path": f"{CANARY}.Net"},
    "a module": {"class_path": CANARY},
}


@pytest.mark.parametrize("part", ["task", "model", "optimizer", "weight_generator"])
@pytest.mark.parametrize("named", CLASSES.values(), ids=CLASSES)
def test_no_class_that_a_file_names_is_imported(configured, tmp_path, part, named):
    path = configured(lambda content: content.update({part: named}))
    with watched(tmp_path) as deeds:
        for reader in READERS.values():
            if reader is not results.read:
                with pytest.raises(ValueError, match=rf"bad\.h5: not a configuration: {part}: .*{named['class_path']}"):
                    reader(path)
        assert not deeds


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("os.system", "model.path: the file asks to import os.system, .*--trust"),
        ("shutil.rmtree", "model.path: the file asks to import shutil.rmtree"),
        (f"{CANARY}.Net", f"asks to import {CANARY}.Net"),
        ("torch.hub.load", "asks to import torch.hub.load"),
        ("torch.nn.modules.os.system", "torch.nn has no such module"),
        ("torch.nn.modules.module.torch.hub.load", "torch.nn has no such module"),
        ("torch.nn.functional.linear", "torch.nn has no such module"),
        ("torch.nn.Transformer", "not a model by itself"),
    ],
)
def test_no_module_that_a_file_names_is_imported_or_called(configured, tmp_path, module, message):
    chosen = {"class_path": "Module", "init_args": {"path": module, "arguments": {"command": "true"}}}
    path = configured(lambda content: content.update(model=chosen))
    with watched(tmp_path) as deeds:
        for name in ("load", "evaluation", "resume"):
            with pytest.raises(ValueError, match=message):
                READERS[name](path)
        assert not deeds


@pytest.mark.parametrize("where", ["config", "task", "algorithm", "model", "validation"])
def test_a_stored_configuration_opens_no_other_file(configured, tmp_path, where):
    path = configured(lambda content: content.update({where: SECRET}))
    with watched(tmp_path) as deeds:
        for name in ("load", "evaluate", "resume"):
            with pytest.raises(ValueError, match=r"bad\.h5: not a configuration: ") as error:
                READERS[name](path)
            assert "root:" not in str(error.value)
        assert not deeds


@pytest.mark.parametrize(
    "arguments", [{"in_features": 10**9, "out_features": 10**9}, {"in_features": 10**30, "out_features": 1}]
)
def test_a_model_that_is_larger_than_its_file_is_refused_before_it_is_built(configured, arguments):
    chosen = {"class_path": "Module", "init_args": {"path": "torch.nn.Linear", "arguments": arguments}}
    path = configured(lambda content: content.update(model=chosen))
    for name in ("load", "resume"):
        with pytest.raises(ValueError, match="another model|cannot be made|do not fit"):
            READERS[name](path)


def test_what_a_command_line_names_itself_is_trusted_in_the_file_that_it_resumes(tmp_path):
    """A job that SLURM requeues has all its options again; any other resume says that it trusts the file."""
    own = ["--task", "tests.helpers.Poisoned", "--model", "Module", "--model.path", "tests.helpers.Residual"]
    path = run(small_config(task=Poisoned(shots=4, queries=3), model=Module("tests.helpers.Residual")), tmp_path).path
    stored = parse(["--resume", str(path), "--trust"])
    assert type(stored.task) is Poisoned
    assert parse(["--resume", "auto", "--output", str(path), *own]) == stored
    for some in ([], own[:2], own[2:]):
        with pytest.raises(ValueError, match=r"asks to import tests\.helpers\.(Poisoned|Residual), .*--trust"):
            parse(["--resume", str(path), *some])
    with pytest.raises(ValueError, match="trust=True"):
        hpc_dmaml.load(path)
    assert hpc_dmaml.load(path, trust=True).state_dict().keys() == {
        "enter.weight",
        "enter.bias",
        "leave.weight",
        "leave.bias",
    }
    assert evaluate.parse([str(path), "--trust"])[1].task == stored.task
    for more in ([], ["--trust=false"]):
        with pytest.raises(ValueError, match="--trust"):
            evaluate.parse([str(path), *more])


@pytest.mark.parametrize(("task", "trust"), [(Poisoned(), " --trust"), (Sinusoid(), "")])
def test_an_interrupted_job_says_how_it_goes_on(tmp_path, capsys, task, trust):
    output = str(tmp_path / "x.h5")
    assert run_job(small_config(task=task, output=output, time_limit_s=1e-9), Communicator()) == 75
    assert f"Go on with: python -m hpc_dmaml --resume {output}{trust}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{file} --taks 3", "there is no option --taks; did you mean --tasks?"),
        ("{file} --tasks x", "tasks must be a whole number, not 'x'"),
        ("{file} {file}", "have the same seed 0: give one of them"),
        ("--tasks 3", "files must be one file or more, not none"),
        ("$NOWHERE/x.h5", "no environment variable NOWHERE"),
        ("{file} --root x", "root: .*was trained on Sinusoid"),
    ],
)
def test_an_evaluation_is_refused_with_one_clear_message(good, line, message):
    with pytest.raises(ValueError, match=message):
        evaluate.parse([word.format(file=good) for word in line.split()])


def test_an_evaluation_finds_its_file_by_variables(good, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(good.parent))
    assert evaluate.parse(["--tasks", "1e1", "$SCRATCH/job.h5"])[0].tasks == 10


def deleted(name):
    return lambda file: file.__delitem__(name)


def stored(name, values, **options):
    """Another array of this name."""

    def change(file):
        if name in file:
            del file[name]
        file.create_dataset(name, data=values, **options)

    return change


def claiming(name, shape):
    def change(file):
        del file[name]
        file.create_dataset(name, shape, "f8", chunks=(1,) * len(shape))

    return change


def linked(name, link):
    def change(file):
        del file[name]
        file[name] = link

    return change


def virtual(file):
    del file["runs/wall_s"]
    layout = h5py.VirtualLayout((3,), "f8")
    layout[...] = h5py.VirtualSource(SECRET, "x", (3,))
    file.create_virtual_dataset("runs/wall_s", layout)


def external(file):
    del file["runs/wall_s"]
    file.create_dataset("runs/wall_s", (3,), "f8", external=[(SECRET, 0, h5py.h5f.UNLIMITED)])


CONTENTS = {
    "no losses": (deleted("workers/loss"), "it has no workers/loss"),
    "losses of other workers": (stored("workers/loss", np.zeros((3, 2))), "of worker, where others have"),
    "flat losses": (stored("workers/loss", np.zeros(3)), "workers/loss has 1 dimensions, not 2"),
    "losses as text": (stored("workers/loss", [["a"], ["b"], ["c"]]), "workers/loss is of type object"),
    "a gap": (stored("runs/run", [0, 1, 3]), "runs/run has gaps"),
    "validations after the end": (stored("validation/run", [1, 7]), "goes on after the last run"),
    "terabytes": (claiming("workers/loss", (3, 10**12)), "workers/loss claims more data"),
    "a billion workers": (claiming("workers/worker", (10**9,)), "workers/worker claims more data"),
    "a soft link": (linked("runs/wall_s", h5py.SoftLink("/runs/run")), "runs/wall_s is a link"),
    "an external link": (linked("runs/wall_s", h5py.ExternalLink(SECRET, "/x")), "runs/wall_s is a link"),
    "virtual data": (virtual, "runs/wall_s has its data in another file"),
    "external data": (external, "runs/wall_s has its data in another file"),
    "compressed data": (stored("more", np.zeros(9999), compression="gzip"), "more is compressed or filtered"),
    "a type": (linked("runs/wall_s", np.dtype("f8")), "runs/wall_s is not a plain array"),
    "complex numbers": (stored("more", np.zeros(3, "c16")), "more is not a plain array"),
    "no config": (lambda file: file.attrs.__delitem__("config"), "it has no attribute config"),
    "config as a number": (lambda file: file.attrs.__setitem__("config", 3), "attribute config is of type int64"),
    "a negative shape": (lambda file: file.attrs.__setitem__("sample_shape", [-1]), "sample_shape and outputs are no"),
    "other parameters": (stored("meta_model/parameters", np.zeros(7)), "has 19 of parameter, where others have 7"),
    "shapes of others": (stored("meta_model/shapes", ["3", "4", "5", "6"]), "are not those of 19 parameters"),
    "shapes that are none": (stored("meta_model/shapes", ["3", "4", "x", "-6"]), "shapes are not valid shapes"),
}


@pytest.mark.parametrize(("change", "message"), CONTENTS.values(), ids=CONTENTS)
def test_impossible_content_under_a_valid_checksum_is_refused_by_name(changed, tmp_path, change, message):
    path = changed(change)
    with watched(tmp_path) as deeds:
        for reader in READERS.values():
            with pytest.raises(ValueError, match=rf"bad\.h5 is not a readable result file: .*{message}"):
                reader(path)
        assert not deeds


def test_a_file_of_holes_is_not_gone_through(good, tmp_path):
    with (tmp_path / "bad.h5").open("wb") as file:
        file.write(good.read_bytes())
        file.truncate(10**13)
    with pytest.raises(
        ValueError, match=r"bad\.h5 is not a readable result file: of its 1\d+ bytes most were never written"
    ):
        results.read(tmp_path / "bad.h5")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.h5")
    with pytest.raises(ValueError, match=r"x.h5 is not a readable result file: it is not a regular file"):
        results.read(tmp_path / "x.h5")


def test_a_text_that_many_share_is_not_read_many_times(changed):
    def change(file):
        del file["ranks/device"]
        del file["ranks/host"]
        size = 2000
        file.create_dataset("ranks/host", data=np.full(size, "", object), dtype=h5py.string_dtype())
        file.create_dataset("ranks/device", data=np.full(size, "", object), dtype=h5py.string_dtype())
        file["ranks/host"][0] = "x" * 200_000

    path = changed(change)
    content = bytearray(path.read_bytes()[:-48])
    with h5py.File(path, "r") as file:
        place = file["ranks/host"].id.get_offset()
    content[place : place + 16 * 2000] = content[place : place + 16] * 2000  # all refer to the first
    path.write_bytes(content)
    add_checksum(path)
    with pytest.raises(ValueError, match="ranks/host holds more text than the file"):
        results.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (stored("checkpoint/memory", np.zeros((0, 1))), None),
        (stored("checkpoint/optimizer/exp_avg", np.zeros(19)), "checkpoint/optimizer is not the state of SGD"),
        (deleted("checkpoint/memory"), "holds no checkpoint: merge leaves it out"),
        (deleted("meta_model/names"), "holds no meta_model/names"),
    ],
)
def test_a_resume_needs_the_whole_state(changed, change, message):
    path = changed(change)
    if message is None:
        assert resume(path) == 0
    else:
        with pytest.raises(ValueError, match=message):
            resume(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("workers", 10**6), ("validation", {"tasks": 10**6}), ("validation", {"steps": 7}), ("tasks", 10**6)],
)
def test_a_configuration_that_does_not_fit_its_log_is_refused(configured, field, value):
    path = configured(lambda c: c[field].update(value) if isinstance(value, dict) else c.update({field: value}))
    for name in ("load", "resume"):
        with pytest.raises(ValueError, match="of the configuration says"):
            READERS[name](path)


def test_a_number_of_workers_that_nothing_in_the_file_bears_out_costs_no_memory(changed):
    def claim(file):
        content = yaml.safe_load(file.attrs["config"])
        file.attrs["config"] = yaml.safe_dump({**content, "workers": 10**6})
        del file["checkpoint/memory"]

    path, before = changed(claim), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"bad\.h5: runs/seen_tasks is not what tasks of the configuration says"):
        resume(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < LARGEST_KIB
