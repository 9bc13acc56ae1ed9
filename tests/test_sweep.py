"""Sweeps: one file is many points; what is wrong with it is said before anything starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc_dmaml import results, sweep
from hpc_dmaml.algorithms import ANIL, MAML, Reptile
from hpc_dmaml.config import to_yaml
from hpc_dmaml.files import locked
from hpc_dmaml.optimizers import SGD, Adam
from hpc_dmaml.sweep import states
from hpc_dmaml.sweep.__main__ import main
from tests.helpers import ATTRIBUTES, differing
from tests.processes import MPIRUN, ROOT

SHIPPED = sorted((ROOT / "slurm" / "sweeps").glob("*.yaml"))
SMALL = """
description: A sweep of jobs of a fraction of a second
set:
  workers: 2
  task: {class_path: Sinusoid}
  model: {class_path: MLP, init_args: {hidden: [5]}}
  runs: 3
  tasks: 2
  threads: 1
  exchange: gather
  validation: {every: 0, tasks: 2}
grid:
  algorithm.inner_lr: [0.01, 1e-3]
  scaling:
    baseline: {}
    tasks 2x: {tasks: 4}
seeds: [0, 1]
ranks: 1
"""
POINT_3 = (
    "--task Sinusoid --model MLP --model.hidden [5] --runs 3 --tasks 4 --workers 2 --threads 1 --exchange gather "
    "--validation.every 0 --validation.tasks 2 --algorithm.inner_lr 0.01 --seed 1 --output x.h5"
)


def written(folder: Path, text: str = SMALL, name: str = "small.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_the_points_are_the_product_of_axes_and_seeds(tmp_path):
    read = sweep.load(written(tmp_path), tmp_path / "results")
    assert read.axes == ("algorithm.inner_lr", "scaling")
    assert [(p.settings["algorithm.inner_lr"], p.settings["scaling"], p.seed) for p in read.points] == [
        (rate, scaling, seed) for rate in (0.01, 0.001) for scaling in ("baseline", "tasks 2x") for seed in (0, 1)
    ]
    last = read.points[-1]
    assert (last.index, last.name, last.ranks) == (7, "algorithm.inner_lr=0.001,scaling=tasks-2x,seed=1", 1)
    assert last.output == tmp_path / "results" / "small" / f"{last.name}.h5"
    assert last.fields["tasks"] == 4
    config = read.parse(last)
    assert (config.tasks, config.algorithm.inner_lr, config.seed, config.validation.every) == (4, 0.001, 1, 0)
    assert config.output == str(last.output)


def test_a_point_keeps_its_name_when_others_come_or_go(tmp_path):
    before = {point.name for point in sweep.load(written(tmp_path)).points}
    after = {point.name for point in sweep.load(written(tmp_path, SMALL.replace("[0.01,", "[0.1, 0.01,"))).points}
    assert before < after


WORDS = ["on", "off", "yes", "no", "null", "true", "1", "1.0", "010", "1:30", "1_000", "2020-01-01", "1e3", "0x1f", "<<"]  # fmt: skip


@pytest.mark.parametrize("quote", ["", "'"], ids=["plain", "quoted"])
def test_a_label_is_the_text_that_was_written(tmp_path, quote):
    labels = ", ".join(f"{quote}{word}{quote}: {{tasks: {tasks}}}" for tasks, word in enumerate(WORDS, 2))
    read = sweep.load(written(tmp_path, f"grid: {{a: {{{labels}}}}}\nranks: 1\n"))
    assert [(p.settings["a"], p.fields["tasks"]) for p in read.points] == [
        (word, tasks) for tasks, word in enumerate(WORDS, 2)
    ]


@given(labels=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_label_is_a_point_or_two_are_refused_for_their_names(tmp_path, labels):
    axis = {label: {"tasks": tasks} for tasks, label in enumerate(labels, 2)}
    path = written(tmp_path, yaml.safe_dump({"grid": {"a": axis}, "ranks": 1}, sort_keys=False))
    try:
        points = sweep.load(path).points
    except ValueError as error:
        assert "are the same point by its file's name" in str(error)
        slugs = [re.sub(r"[^\w.+-]+", "-", label, flags=re.ASCII).strip("-") for label in labels]
        assert len(set(slugs)) < len(slugs)
    else:
        assert [p.settings["a"] for p in points] == labels
        assert len({p.output for p in points}) == len(labels)


def test_two_labels_of_one_name_are_both_named(tmp_path):
    path = written(tmp_path, "grid: {a: {α: {tasks: 2}, β: {tasks: 3}}}\nranks: 1\n")
    with pytest.raises(ValueError, match="a=α,seed=0 and a=β,seed=0 .* by its file's name, a=,seed=0"):
        sweep.load(path)


@pytest.mark.parametrize(
    ("written_as", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("7", 7),
        ("on", True),
        ("'1e-3'", "1e-3"),
        ('"12e6"', "12e6"),
        ("'true'", "true"),
        ("'7'", "7"),
        ("2020-01-01", "2020-01-01"),
        ("[1e-3, '1e-3', [2e1]]", [0.001, "1e-3", [20.0]]),
        ("{class_path: Module, init_args: {arguments: {x: '12e6', y: 1e1}}}", {"x": "12e6", "y": 10.0}),
    ],
)
def test_a_value_is_a_number_where_it_looks_like_one_and_text_where_it_has_quotes(tmp_path, written_as, value):
    found = sweep.load(written(tmp_path, f"set: {{x: {written_as}}}\nranks: 1\n")).points[0].fields["x"]
    found = found["init_args"]["arguments"] if isinstance(found, dict) else found
    assert found == value
    assert type(found) is type(value)


def test_text_arrives_as_text_in_the_configuration(tmp_path):
    text = "set: {init_from: '12e6', device: 'true', model: Module, model.path: '010', model.arguments: {x: {y: '2e1', n: 3}}}\n"
    read = sweep.load(written(tmp_path, text + "ranks: 1\n"))
    config = read.parse(read.points[0])
    assert (config.init_from, config.device, config.model.path) == ("12e6", "true", "010")
    assert config.model.arguments == {"x": {"y": "2e1", "n": 3}}


@pytest.mark.parametrize("word", ["null", "~", "true", "12e6", "010", "1:30", "2020-01-01", "[1]", "{a: 1}", "", "x"])
@pytest.mark.parametrize(
    "fields",
    [
        "init_from: '{}'",
        "model: Module, model.arguments.x: '{}'",
        "model: {{class_path: Module, init_args: {{arguments: {{x: '{}'}}}}}}",
    ],
)
def test_text_is_never_taken_for_something_else_without_a_word(tmp_path, fields, word):
    read = sweep.load(written(tmp_path, f"set: {{{fields.format(word)}}}\nranks: 1\n"))
    try:
        read.check()
    except ValueError as error:
        assert re.search(rf"point seed=0: .*(init_from|x): the text {re.escape(repr(word))} would be", str(error))
    else:
        config = read.parse(read.points[0])
        if "init_from" in fields:
            assert config.init_from in (word, sweep.in_full(word))
        else:
            assert config.model.arguments["x"] == word


def test_a_number_in_quotes_is_refused_when_listed_and_when_run(tmp_path):
    read = sweep.load(written(tmp_path, "set: {tasks: '2'}\nranks: 1\n"))
    for look in (read.check, lambda: read.parse(read.points[0])):
        with pytest.raises(
            ValueError, match="point seed=0: tasks: the text '2' would be taken for 2; .* leave the quotes"
        ):
            look()


def test_a_value_that_looks_like_an_option_is_none(tmp_path):
    read = sweep.load(written(tmp_path, "set: {init_from: --help}\nranks: 1\n"))
    assert read.parse(read.points[0]).init_from == "--help"


def test_a_home_stands_for_itself_in_a_sweeps_path_and_in_results(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    written(tmp_path)
    assert sweep.load("~/small.yaml", "$SCRATCH/results").folder == tmp_path / "scratch" / "results" / "small"


def test_a_whole_number_may_be_written_with_an_exponent(tmp_path):
    read = sweep.load(written(tmp_path, "set: {workers: 1e1}\nseeds: [1e3, 2.0]\n"))
    assert [(p.ranks, p.seed, p.name) for p in read.points] == [(10, 1000, "seed=1000"), (10, 2, "seed=2")]


def test_a_class_in_the_grid_brings_its_fields_whatever_all_points_have(tmp_path):
    text = "set: {optimizer.lr: 3}\ngrid: {optimizer: [{class_path: SGD, init_args: {lr: 1}}, Adam]}\nranks: 1\n"
    read = sweep.load(written(tmp_path, text))
    assert [read.described(point).optimizer for point in read.points] == [SGD(1.0), Adam(3.0)]


def test_a_class_in_the_grid_keeps_what_the_configuration_says_of_its_fields(tmp_path):
    base = written(tmp_path, "algorithm: {inner_lr: 0.01}", "base.yaml")
    read = sweep.load(written(tmp_path, f"config: {base}\ngrid: {{algorithm: [MAML, ANIL, Reptile]}}\nranks: 1\n"))
    assert [read.described(point).algorithm for point in read.points] == [MAML(0.01), ANIL(0.01), Reptile()]


def test_old_names_are_understood_one_by_one_and_as_a_group(tmp_path):
    old = sweep.load(written(tmp_path, "set: {maml: {clip: 10, inner_lr: 0.01}, maml.task_reduction: sum}\nranks: 1\n"))
    assert old.points[0].fields == {"clip": 10, "algorithm.inner_lr": 0.01, "task_reduction": "sum", "seed": 0}
    old.check()


@pytest.mark.parametrize(
    "fields",
    [
        "optimizer.class_path: SGD, optimizer.init_args.lr: 0.5",
        "optimizer: SGD, optimizer.init_args: {lr: 0.5}",
        "optimizer.class_path: SGD, optimizer: {init_args: {lr: 0.5}}",
    ],
)
def test_classes_and_their_fields_may_be_named_as_jsonargparse_does(tmp_path, fields):
    read = sweep.load(written(tmp_path, f"set: {{{fields}}}\nranks: 1\n"))
    assert read.points[0].fields == {"optimizer": "SGD", "optimizer.lr": 0.5, "seed": 0}
    assert read.described(read.points[0]).optimizer == SGD(lr=0.5)


def test_there_are_as_many_ranks_as_workers_unless_a_number_or_a_label_says_otherwise(tmp_path):
    text = "set: {workers: 4}\ngrid:\n  who: {all: {}, half: {ranks: 2}, more: {workers: 8}}\n"
    assert [p.ranks for p in sweep.load(written(tmp_path, text)).points] == [4, 2, 8]
    assert [p.ranks for p in sweep.load(written(tmp_path, text + "ranks: 1\n")).points] == [1, 2, 1]
    assert "ranks" not in sweep.load(written(tmp_path, text)).points[1].fields


def test_a_folder_of_results_says_which_points_belong_there(tmp_path):
    one = sweep.load(written(tmp_path), tmp_path / "results")
    one.copy()
    moved = (tmp_path / "results" / "small").rename(tmp_path / "elsewhere")
    other = sweep.read_folder(moved)
    assert [p.name for p in other.points] == [p.name for p in one.points]
    assert {p.output.parent for p in other.points} == {moved}
    assert sweep.load(moved) == other
    other.points[0].output.touch()
    assert sweep.load(moved / "sweep.yaml", tmp_path / "results") == other


def test_a_figure_that_does_not_exist_is_refused_before_any_job(tmp_path):
    with pytest.raises(ValueError, match=r"figures: there is no figure 'curvess'; did you mean 'curves'\?"):
        sweep.load(written(tmp_path, SMALL + "figures: [curvess]\n")).check()


def test_a_folder_of_results_can_be_read_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    written(Path(), "workers: 3\nclip: 2", "base.yaml")
    one = sweep.load(written(Path(), "config: base.yaml\ngrid: {tasks: [2, 3]}\n"))
    one.copy()
    monkeypatch.chdir(tmp_path)
    other = sweep.read_folder("here/results/small")
    other.check()
    other.copy()  # as every point does that is run from the folder
    assert [(p.ranks, other.described(p).clip) for p in other.points] == [(3, 2.0), (3, 2.0)]
    monkeypatch.chdir("here")
    written(Path(), "workers: 4", "base.yaml")
    assert [p.ranks for p in sweep.read_folder("results/small").points] == [3, 3]  # until it is run again
    sweep.load("small.yaml").copy()
    assert [p.ranks for p in sweep.read_folder("results/small").points] == [4, 4]
    sweep.load(written(Path(), "config: sinusoid\nranks: 1\n")).copy()
    assert sweep.read_folder("results/small").config == "sinusoid"


def test_results_that_cannot_be_written_are_refused_by_the_field(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([str(written(tmp_path)), "--results", str(tmp_path / "file"), "--local"]) == 2
    assert "sweep: error: results: cannot write" in capsys.readouterr().err
    assert main(["x" * 300]) == 2
    assert "sweep: error: sweep: cannot look for x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {}", "grid: must be a mapping, not empty"),
        ("grid: {tasks: []}", "grid: tasks: must be a list of values, or labels"),
        ("grid: {tasks: 3}", "grid: tasks: must be a list of values, or labels"),
        ("seeds: []", "seeds: must be a list of whole numbers, at least one"),
        ("seeds: [0, 0]", "seed=0 and seed=0 .* are the same point"),
        ("seeds: [yes]", "seeds: must be a list of whole numbers"),
        ("grid: {tasks: [2, 2]}", "are the same point"),
        ("grid: {a: {one: {tasks: 2}, two: {tasks: 2}}}", "a=one,seed=0 and a=two,seed=0 .* are the same point"),
        ("grid: {a: {one!: {tasks: 2}, one%: {tasks: 3}}}", "are the same point"),
        ("grid: {clip: [1, 1.0]}", "are the same point"),
        ("grid: {seed: {a: {tasks: 2}}}", "grid: must be another axis"),
        (f"grid: {{a: {{{'x' * 195}: {{tasks: 2}}}}}}", "the name of a=x+,seed=0 has more than 200 letters"),
        (f"grid: {{a: {list(range(400))}, b: {list(range(400))}}}", "of 100,000 points at most"),
        ("seeds: [-1]", "seeds: must be a list of whole numbers"),
        ("seeds: [9223372036854775808]", "seeds: must be a list of whole numbers"),
        ("set: {maml: {inner_lr: 0.1}, algorithm.inner_lr: 0.2}", "set: must be given once, not 'algorithm.inner_lr'"),
        ("set: {help: 1}", "set: must be a field that the sweep does not set itself"),
        ("set: {task.help: Omniglot}", "set: must be a field that the sweep does not set itself"),
        ("set: {'tasks=3 --x': 1}", "set: must be a field's name"),
        ("set: {tasks: !!binary aGk=}", "x.yaml is not a readable sweep: could not determine a constructor"),
        ("set: {tasks: !!int ''}", "x.yaml is not a readable sweep"),
        ("set: {tasks: !!bool maybe}", "x.yaml is not a readable sweep"),
        ("set: {? [a] : 1}", "x.yaml is not a readable sweep"),
        ("set: {<<: {tasks: 2}}", "set: must be a field's name"),
        ("config: [", "x.yaml is not a readable sweep"),
        ("description: [a]", "description: must be text"),
        ("figures: ['--help']", "figures: must be a list of quoted numbers"),
        ("name: ..", "name: must be letters"),
        ("name: ''", "name: must be letters"),
        (
            "grid: {optimizer: [{class_path: SGD, init_args: {lr: 1}}], optimizer.lr: [3]}",
            "grid: optimizer.lr: must be of fields that no other axis sets, not 'optimizer.lr'",
        ),
        (
            "set: {tasks: 1}\ngrid: {tasks: [2], a: {one: {tasks: 3}}}",
            "grid: a: must be of fields that no other axis sets",
        ),
        ("grid: {tasks: [2], a: {one: {tasks: 3}}}", "grid: a: must be of fields that no other axis sets, not 'tasks'"),
        ("gird: {tasks: [2]}", "unknown key: must be one of .*grid.*, not 'gird'"),
        ("set: {seed: 3}", "set: must be a field that the sweep does not set itself"),
        ("set: 3", "set: must be a mapping"),
        ("ranks: none", "ranks: must be a number"),
        ("ranks: workers", "ranks: as many as workers, but the field workers is not given"),
        ("figures: [6.10]", "figures: must be a list of quoted numbers"),
        ("name: a/b", "name: must be letters"),
        ("grid: [", "x.yaml is not a readable sweep"),
        ("set: {tasks: 2, tasks: 3}", "x.yaml is not a readable sweep: tasks is there twice, again in line 1"),
        ("a: &a [*a]", "aliases"),
        ("- 1", "a sweep is a mapping"),
    ],
)
def test_a_sweep_that_is_none_is_refused_by_name(tmp_path, text, message):
    needed = "" if "ranks" in text or text.startswith("-") else "\nranks: 1\n"
    with pytest.raises(ValueError, match=f"x.yaml.*{message}|{message}"):
        sweep.load(written(tmp_path, text + needed, "x.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {taks: [1]}", "point taks=1,seed=0: .*taks"),
        ("config: omniglt", "did you mean 'omniglot'"),
        ("grid: {tasks: [2, 0]}", "point tasks=0,seed=0: tasks must be 1 or more, not 0"),
        ("grid: {epochs: [1, 2]}", "point epochs=2,seed=0: local_lr must be given"),
        ("grid: {weight_generator: [LossMedain]}", "there is no WeightGenerator 'LossMedain'"),
        ("grid: {ranks: [3]}\nset: {workers: 2}", "2 workers do not fit on 3 ranks"),
    ],
)
def test_a_point_that_could_not_run_is_named_when_the_points_are_listed(tmp_path, capsys, text, message):
    path = written(tmp_path, text + "\nranks: 1\n", "x.yaml")
    with pytest.raises(ValueError, match=rf"x\.yaml: {message}" if message.startswith("point") else message):
        sweep.load(path).check()
    assert main([str(path)]) == 2
    assert "error" in capsys.readouterr().err


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["workers", "=", "&a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*sorted(sweep.KEYS), "tasks", "maml", "a.b", ""]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=12,
)


@given(content=st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(sweep.KEYS), ODD)) | ODD)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mapping_of_odd_contents_is_a_sweep_or_is_refused_by_its_path(tmp_path, content):
    path = written(tmp_path, yaml.safe_dump(content, allow_unicode=True))
    with_message(path)


@given(content=st.binary() | st.text(st.sampled_from("{}[]:,-?!&*|>'\"#\n a1.e~%@\\")).map(str.encode))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_a_sweep_or_is_refused_by_its_path(tmp_path, content):
    path = tmp_path / "small.yaml"
    path.write_bytes(b"ranks: 1\nset: " + content)
    with_message(path)


def with_message(path: Path) -> None:
    """Load a sweep, or see a message that is one line and names the file."""
    try:
        sweep.load(path)
    except ValueError as error:
        assert str(path) in str(error) or "config: there is no preset" in str(error)
        assert "Traceback" not in str(error)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("- 1", "a configuration is a mapping"),
        ("[", "not a readable configuration"),
        ("\0", "not a readable configuration"),
    ],
)
def test_a_configuration_that_is_none_is_named(tmp_path, capsys, config, message):
    base = written(tmp_path, config, "base.yaml")
    assert main([str(written(tmp_path, f"config: {base}\n"))]) == 2
    assert re.search(rf"sweep: error: .*base\.yaml.*{message}|base\.yaml: {message}", capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["binary", "empty folder", "missing", "deep"])
def test_what_is_no_sweep_is_one_line(tmp_path, capsys, kind):
    path = tmp_path / "x.yaml"
    if kind == "binary":
        path.write_bytes(bytes(range(256)))
    elif kind == "deep":
        path.write_text("set: " + "[" * 1_000)
    elif kind == "empty folder":
        path.mkdir()
    assert main([str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line


def test_a_list_is_printed_whatever_the_locale_and_where_nobody_reads_it(tmp_path):
    path = written(tmp_path, "grid: {a: {32 β →: {tasks: 2}}}\nranks: 1\n")
    command = [sys.executable, "-m", "hpc_dmaml.sweep", str(path)]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, b"32 beta ->" in done.stdout) == (0, True)
    closed = subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", *command], cwd=tmp_path)
    assert closed.returncode == 0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_sweep_can_run(path):
    read = sweep.load(path)
    read.check()
    assert read.name == path.stem
    assert read.description != read.name


def test_an_index_out_of_range_is_refused(tmp_path):
    command = [sys.executable, "-m", "hpc_dmaml.sweep", str(written(tmp_path)), "--index", "8"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "small.yaml: index: there is no point 8; there are 8, 0 to 7" in done.stderr


def test_a_list_needs_neither_torch_nor_mpi(tmp_path):
    code = (
        "import sys; from hpc_dmaml.sweep.__main__ import main; main(sys.argv[1:]); "
        "print({'torch', 'mpi4py', 'matplotlib'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(written(tmp_path))]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    assert lines[0].split() == ["index", "algorithm.inner_lr", "scaling", "seed", "ranks", "state", "output"]
    assert lines[4].startswith("3      0.01                tasks 2x  1     1      missing  results/small/")
    assert lines[-1] == "set()"


def run_one(folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*launcher, sys.executable, "-m", "hpc_dmaml.sweep", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)


@pytest.mark.long
def test_run_locally_what_is_missing_is_run_and_a_failing_point_stops_no_other(tmp_path):
    text = (
        SMALL.replace("[0.01, 1e-3]", "[0.01]")
        .replace("seeds: [0, 1]", "")
        .replace("ranks: 1", "ranks: workers" if MPIRUN else "ranks: 1")
    )
    path = written(tmp_path, text)
    folder = tmp_path / "results" / "small"
    bad = folder / "algorithm.inner_lr=0.01,scaling=baseline,seed=0.h5"
    folder.mkdir(parents=True)
    bad.write_text("no result")
    done = run_one(tmp_path, str(path), "--local")
    assert done.returncode == 1, done.stderr
    assert f"1 points are not complete: {bad.stem}" in done.stderr
    assert [state.point.output.name for state in states.missing(sweep.read_folder(folder))] == [bad.name]
    bad.unlink()
    done = run_one(tmp_path, str(path), "--local")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done in") == 1
    assert states.missing(sweep.read_folder(folder)) == []


def test_a_point_run_by_index_is_the_job_that_its_settings_describe(tmp_path):
    path = written(tmp_path)
    assert run_one(tmp_path, str(path), "--index", "3").returncode == 0
    point = sweep.read_folder(tmp_path / "results" / "small").points[3]
    subprocess.run([sys.executable, "-m", "hpc_dmaml", *POINT_3.split()], cwd=tmp_path, check=True, capture_output=True)
    one, other = results.read(point.output, verify=True), results.read(tmp_path / "x.h5", verify=True)
    assert differing(one, other) == set()


def fake(
    path: Path, status: str, runs: int = 3, config: str = "runs: 3\nseed: 0\n", restarts: int = 0, tasks: int = 0
) -> None:
    """A result file as far as states look at it, of so many tasks a run."""
    sizes = {"run": runs, "validation": 0, "worker": 1, "rank": 1, "step": 1, "task": 1}
    rows = {name: np.zeros([sizes[d] for d in variable.dimensions]) for name, variable in results.VARIABLES.items()}
    log = results.Log(sizes, {**rows, "runs/run": np.arange(runs), "runs/seen_tasks": tasks * np.arange(1, runs + 1)})
    results.write(path, log.arrays(), {**ATTRIBUTES, "status": status, "config": config, "restarts": restarts})


POINTS = "set: {runs: 3}\nseeds: [0, 1, 2, 3, 4, 5]\nranks: 1\n"


def words(read: sweep.Sweep) -> list[str]:
    return [state.word for state in states.states(read)]


def test_the_state_of_a_point_is_what_its_file_its_lock_and_the_queue_say(tmp_path, monkeypatch):
    read = sweep.load(written(tmp_path, POINTS), tmp_path)
    for point, status in zip(read.points, ("complete", "interrupted", "failed", "running"), strict=False):
        fake(point.output, status, config=f"runs: 3\nseed: {point.seed}\nworkers: 1\n", restarts=point.index)
    read.points[5].output.write_text("garbage")
    assert words(read) == ["complete", "interrupted", "failed", "failed", "missing", "failed"]
    with locked(read.points[3].output):
        assert words(read)[3] == "running"
    (read.folder / "jobs").mkdir()
    states.note_submission(read.folder, "77", list(read.points))
    monkeypatch.setattr(states, "_queue", lambda: {"77_1": "PENDING", "77_4": "RUNNING", "78_2": "RUNNING"})
    assert words(read) == ["complete", "waiting", "failed", "failed", "running", "failed"]
    assert [state.point.index for state in states.missing(read)] == [2, 3, 5]
    monkeypatch.setattr(states, "_queue", dict)
    assert words(read)[4] == "failed"  # its job ended before it wrote anything
    assert [s.restarts for s in states.states(read)][:3] == [0, 1, 2]


def test_a_file_of_other_settings_is_not_taken_for_the_point(tmp_path):
    read = sweep.load(written(tmp_path, POINTS), tmp_path)
    fake(read.points[0].output, "complete", config="runs: 2\nseed: 0\nworkers: 1\n")
    fake(read.points[1].output, "complete", config="runs: 3\nseed: 9\nworkers: 1\n")
    first, second = states.states(read)[:2]
    assert states.differing({"init_from": "~/x.h5"}, {"init_from": str(Path.home() / "x.h5")}) == []
    assert (first.word, first.note) == ("interrupted", "has another runs")  # more runs than before: it goes on
    assert (second.word, second.note) == ("failed", "has another seed")


STARTED = """
config: base.yaml
set:
  runs: 3
  clip: 1
  task: tests.helpers.Poisoned
  model: {class_path: Module, init_args: {path: tests.helpers.Residual, arguments: {width: 7}}}
  optimizer: {class_path: SGD, init_args: {lr: 0.01}}
  schedule: Cosine
  compile: auto
  validation: {steps: 0, tasks: 1}
ranks: 2
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A sweep of one point, and a function that writes the files that it is made of, changed, and loads them."""
    monkeypatch.chdir(tmp_path)

    def made(*changes: tuple[str, str]) -> sweep.Sweep:
        texts = {"small.yaml": STARTED, "base.yaml": "algorithm: {inner_lr: 0.1}\nlocal_lr: 1.0\n"}
        for old, new in changes:
            assert any(old in text for text in texts.values())
            texts = {name: text.replace(old, new) for name, text in texts.items()}
        for name, text in texts.items():
            written(tmp_path, text, name)
        return sweep.load("small.yaml")

    complete(made())
    return made


def complete(of: sweep.Sweep) -> None:
    """Write the file that the first point would have."""
    config = of.described(of.points[0])
    decided = replace(config, compile="off", output="elsewhere.h5")
    fake(of.points[0].output, "complete", config=to_yaml(decided), tasks=2 * config.tasks)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("width: 7", "width: 8"), "model.arguments"),
        (("lr: 0.01", "lr: 0.02"), "optimizer.lr"),
        (("class_path: SGD", "class_path: Adam"), "optimizer"),
        (("  clip: 1\n", ""), "clip"),
        (("inner_lr: 0.1", "inner_lr: 0.2"), "algorithm.inner_lr"),
        (("local_lr: 1.0", ""), "local_lr"),
        (("config: base.yaml", ""), "local_lr"),
        (("schedule: Cosine", "schedule: {class_path: Cosine, init_args: {runs: 9}}"), "schedule.runs"),
    ],
    ids=lambda each: each if isinstance(each, str) else each[1].strip(),
)
def test_a_point_whose_settings_have_changed_since_is_not_complete_and_is_not_gone_on_with(
    started, capsys, change, field
):
    read = started(change)
    (state,) = states.states(read)
    assert state.word == "failed"
    assert re.fullmatch(rf"has another (.*, )?{re.escape(field)}(, .*)?", state.note)
    assert main(["small.yaml", "--missing"]) == 0
    assert f"\nseed=0: {state.note}\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match=rf"point seed=0: resume: .*seed=0\.h5 .* other values of (.*, )?{field}"):
        read.parse(read.points[0])


@pytest.mark.parametrize(
    "changes",
    [(), (("compile: auto", "compile: off"),), (("runs: 3", "runs: 3\n  exchange: gather\n  threads: 1"),)],
    ids=["nothing", "what was decided", "what may change"],
)
def test_a_point_is_complete_whatever_set_up_decided_and_whatever_may_change(started, changes):
    assert words(started(*changes)) == ["complete"]


def test_a_point_of_more_runs_is_not_complete_and_goes_on(started):
    constant = "schedule: Cosine", "schedule: Constant"
    complete(started(constant))
    read = started(constant, ("runs: 3", "runs: 5"))
    assert [(s.word, s.note) for s in states.states(read)] == [("interrupted", "has another runs")]
    assert read.parse(read.points[0]).runs == 5


@pytest.mark.parametrize(
    ("change", "field"), [(("runs: 3", "runs: 5"), "schedule.runs"), (("ranks: 2", "ranks: 1"), "workers")]
)
def test_what_set_up_decides_by_runs_and_ranks_is_compared_too(started, change, field):
    """A schedule that ends with the runs, and a worker for each rank."""
    read = started(change)
    assert [(s.word, s.note) for s in states.states(read)] == [("failed", f"has another {field}")]


def test_a_file_that_names_another_class_of_a_users_is_not_complete_and_imports_nothing(started):
    read = started()
    fake(read.points[0].output, "complete", config="runs: 3\ntask: {class_path: nowhere.Nothing}\n")
    (state,) = states.states(read)
    assert state.word == "failed"
    assert "asks to import nowhere.Nothing" in state.note


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"model": {"class_path": "MLP", "init_args": {"hidden": [8]}}, "model.init": "glorot"}, []),
        ({"model": {"class_path": "MLP", "init_args": {"hidden": [16]}}}, ["model"]),
        ({"model": {"class_path": "hpc_dmaml.models.MLP"}, "model.hidden": [8.0]}, []),
        ({"model": {"class_path": "MLP", "init_args": {"hidden": [16]}}, "model.hidden": [8]}, []),
        ({"model": "Conv4", "model.hidden": [8, 8]}, ["model", "model.hidden"]),
        ({"compile": True, "seed": 0}, []),
        ({"compile": False, "seed": 1}, ["compile", "seed"]),
    ],
)
def test_what_a_point_sets_is_compared_without_importing_anything(fields, names):
    stored = {"class_path": "MLP", "init_args": {"hidden": [8], "init": "glorot"}}
    assert states.differing(fields, {"model": stored, "compile": "on", "seed": 0}) == names


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_to_a_sweep_that_runs_locally_stops_its_point_and_the_sweep(tmp_path, number):
    endless = SMALL.replace("runs: 3", "runs: 1000000\n  checkpoint.every: 1")
    command = [sys.executable, "-m", "hpc_dmaml.sweep", str(written(tmp_path, endless)), "--local"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("   output"):
                process.send_signal(number)
                break
        process.stdout.read()  # to the end of the last process that writes to it
    assert process.returncode == 75
    (only,) = (tmp_path / "results" / "small").glob("*.h5")
    assert results.read(only, verify=True).status == "interrupted"


def test_a_signal_at_the_end_of_a_point_stops_the_sweep_too(tmp_path):
    """The point completes, and does not say that it was asked to stop."""
    text = (
        "set: {workers: 1, runs: 3, tasks: 1, task: Sinusoid, model: MLP, validation: {every: 0}}\nseeds: [0, 1, 2]\n"
    )
    command = [sys.executable, "-m", "hpc_dmaml.sweep", str(written(tmp_path, text)), "--local"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Test it"):
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
    assert process.returncode == 75
    assert len(list((tmp_path / "results" / "small").glob("*.h5"))) == 1


def test_a_point_that_ends_by_its_own_time_limit_stops_no_other(tmp_path):
    text = (
        "set: {workers: 1, runs: 1000000, tasks: 1, task: Sinusoid, model: MLP, validation: {every: 0}, time_limit_s: 1}\n"
        "seeds: [0, 1]\n"
    )
    done = run_one(tmp_path, str(written(tmp_path, text)), "--local")
    assert done.returncode == 1
    assert "2 points are not complete: seed=0 (interrupted), seed=1 (interrupted)" in done.stderr
    assert len(list((tmp_path / "results" / "small").glob("*.h5"))) == 2


FREE = """
set: {workers: 1, task: Sinusoid, model: MLP, optimizer: TorchOptimizer, optimizer.arguments.alpha: 0.5}
grid: {optimizer.arguments: [{}, {momentum: 0.9}]}
"""


def test_free_arguments_on_the_grid_are_whole(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "optimizer: {class_path: TorchOptimizer, init_args: {name: RMSprop, arguments: {alpha: 0.5}}}\n"
    )
    from_base = FREE.replace(", optimizer: TorchOptimizer, optimizer.arguments.alpha: 0.5", "")
    for text in (FREE, f"config: {tmp_path}/base.yaml\n{from_base}"):
        read = sweep.load(written(tmp_path, text))
        found = [read.described(point).optimizer.arguments for point in read.points]
        assert found == [{}, {"momentum": 0.9}]


def test_a_class_on_the_grid_keeps_the_fields_that_all_points_have(tmp_path):
    text = """
set: {workers: 1, algorithm.inner_lr: 0.123}
grid: {how: {whole: {algorithm: {class_path: ANIL}}, named: {algorithm: ANIL}}}
"""
    read = sweep.load(written(tmp_path, text))
    assert [read.described(point).algorithm for point in read.points] == [ANIL(inner_lr=0.123)] * 2
    crossed = "set: {workers: 1}\ngrid: {algorithm.inner_lr: [0.1, 0.2], algorithm: [{class_path: ANIL}, {class_path: MAML}]}\n"
    read = sweep.load(written(tmp_path, crossed))
    found = [read.described(point).algorithm for point in read.points]
    assert found == [ANIL(inner_lr=0.1), MAML(inner_lr=0.1), ANIL(inner_lr=0.2), MAML(inner_lr=0.2)]


def test_numbers_that_json_lacks_stay_numbers_in_free_arguments(tmp_path):
    text = "set: {workers: 1, model: {class_path: Module, init_args: {path: my.Net, arguments: {width: .inf, l: [.nan, 😀]}}}}\n"
    read = sweep.load(written(tmp_path, text))
    found = read.described(read.points[0]).model.arguments
    assert (found["width"], str(found["l"])) == (float("inf"), "[nan, '😀']")


def test_signs_beyond_ascii_and_no_limit_arrive_as_they_are(tmp_path):
    text = SMALL.replace("threads: 1", "threads: 1\n  checkpoint.every_s: .inf").replace(
        "{class_path: Sinusoid}", "{class_path: Omniglot, init_args: {root: sw/😀}}"
    )
    read = sweep.load(written(tmp_path, text))
    config = read.described(read.points[0])
    assert (config.checkpoint.every_s, config.task.root) == (float("inf"), "sw/😀")


def test_fewer_runs_than_were_made_are_not_complete(started):
    constant = "schedule: Cosine", "schedule: Constant"
    complete(started(constant))
    read = started(constant, ("runs: 3", "runs: 1"))
    (state,) = states.states(read)
    assert (state.word, state.note) == ("failed", "has made 3 runs, more than the 1 of the sweep")


def test_runs_that_the_sweep_leaves_out_are_the_default_and_not_the_files(started):
    constant = "schedule: Cosine", "schedule: Constant"
    complete(started(constant))
    read = started(constant, ("  runs: 3\n", ""))
    assert read.parse(read.points[0]).runs == 300


def test_another_sweep_of_the_same_name_is_not_taken_for_the_one_before(tmp_path, capsys):
    small = "set: {workers: 1, runs: 1, task: Sinusoid, model: MLP}\nseeds: [0, 1]\n"
    first = sweep.load(written(tmp_path, small), tmp_path / "results")
    first.copy()
    fake(first.points[0].output, "complete", config="runs: 1\n")
    first.copy()
    assert capsys.readouterr().err == ""
    sweep.load(written(tmp_path, small.replace("[0, 1]", "[1, 2]")), tmp_path / "results").copy()
    assert "holds results that are no points of" in (told := capsys.readouterr().err)
    assert "small.yaml: seed=0. For another sweep, give another name or --results" in told
