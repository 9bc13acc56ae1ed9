"""The configuration: what a command line says is what runs, and what is wrong is said clearly."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hpc_dmaml import results
from hpc_dmaml.algorithms import ANIL, MAML, MetaSGD, Reptile
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import RunConfig, Validation, changes, from_yaml, parse, preset, presets, to_yaml
from hpc_dmaml.config.command_line import is_set
from hpc_dmaml.config.layers import DEFAULTS
from hpc_dmaml.config.values import Word
from hpc_dmaml.models import MLP, Conv4, Module
from hpc_dmaml.optimizers import SGD, Adam
from hpc_dmaml.plain_yaml import dump_yaml, flow_yaml, load_yaml
from hpc_dmaml.run import run_job
from hpc_dmaml.tasks import Glyphs, Omniglot, Sinusoid, TaskFamily
from hpc_dmaml.weight_generators import ArithmeticMean, GeometricMedian, LossMovingAverage
from tests.helpers import run, small_config


def test_no_argument_is_the_default_and_the_glyphs_preset_spells_it_out():
    assert parse([]) == RunConfig() == parse(["--config", "glyphs"])


def test_command_line_overrides_a_preset_which_overrides_the_default():
    config = parse(["--config", "omniglot_5w5s", "--task.shots", "2", "--optimizer.lr", "0.5"])
    assert config.task == Omniglot(ways=5, shots=2, queries=5)
    assert config.optimizer == Adam(lr=0.5)
    assert config.validation.tasks == 100


def test_a_chosen_class_has_its_own_defaults():
    config = parse(["--task", "Sinusoid", "--model", "MLP", "--optimizer", "SGD"])
    assert (config.task, config.model, config.optimizer) == (Sinusoid(), MLP(), SGD())


SGD_OF_FILE = "optimizer: {class_path: SGD, init_args: {lr: 0.5, momentum: 0.9}}"


@pytest.mark.parametrize(
    ("line", "optimizer"),
    [
        ("--config {a}", SGD(lr=0.5, momentum=0.9)),
        ("--config {a} --optimizer Adam", Adam()),
        ("--optimizer Adam --config {a}", Adam()),
        ("--config {a} --optimizer SGD", SGD(lr=0.5, momentum=0.9)),
        ("--optimizer.lr 0.1 --config {a}", SGD(lr=0.1, momentum=0.9)),
        ("--config={a} --optimizer.init_args.lr=0.1", SGD(lr=0.1, momentum=0.9)),
        ("--optimizer.class_path SGD --optimizer.init_args.lr 0.1", SGD(lr=0.1)),
        ("--optimizer.lr 0.1 --optimizer Adam --config {a}", Adam(lr=0.1)),
        ("--optimizer.momentum 0.1 --optimizer SGD", SGD(momentum=0.1)),
        ("--optimizer.lr 1 --optimizer.lr 2", Adam(lr=2.0)),
        ("--optimizer SGD --optimizer Adam", Adam()),
        ("--config {a} --config {b}", SGD(lr=0.25, momentum=0.9)),
        ("--config {b} --config {a}", SGD(lr=0.5, momentum=0.9)),
        ("--config {a} --config {c}", Adam()),
        ("--config {a} --config {c} --config {a}", SGD(lr=0.5, momentum=0.9)),
        ("--optimizer {json} --config {c}", SGD(lr=0.125)),
    ],
)
def test_files_come_first_then_options_and_another_class_starts_from_its_own_defaults(tmp_path, line, optimizer):
    files = {"a": SGD_OF_FILE, "b": "optimizer: {lr: 0.25}", "c": "optimizer: Adam"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    known = {name: str(tmp_path / name) for name in files}
    words = [word.format(**known, json='{"class_path": "SGD", "init_args": {"lr": 0.125}}') for word in line.split()]
    assert parse(words).optimizer == optimizer


DEFAULT_PARTS = [
    ("task", {"shots": 3}),
    ("model", {"filters": 8}),
    ("algorithm", {"inner_lr": 0.125, "inner_steps": 2}),
    ("optimizer", {"lr": 0.05}),
    ("schedule", {"warm_up": 7}),
    ("weight_generator", {"window": 4}),
]


@pytest.mark.parametrize(("part", "chosen"), DEFAULT_PARTS, ids=[part for part, _ in DEFAULT_PARTS])
def test_to_name_the_class_that_is_there_already_changes_nothing(tmp_path, monkeypatch, part, chosen):
    if part == "weight_generator":  # the default one has no fields
        monkeypatch.setitem(DEFAULTS, part, LossMovingAverage)
    for name, content in (("fields", {part: chosen}), ("dotted", {f"{part}.{f}": v for f, v in chosen.items()})):
        (tmp_path / name).write_text(dump_yaml(content))
        without = parse(["--config", str(tmp_path / name)])
        kind = type(getattr(without, part))
        assert {f: getattr(getattr(without, part), f) for f in chosen} == chosen
        assert parse(["--config", str(tmp_path / name), f"--{part}", kind.__name__]) == without
        (tmp_path / "class").write_text(dump_yaml({part: kind.__name__}))
        assert parse(["--config", str(tmp_path / name), "--config", str(tmp_path / "class")]) == without


def test_a_class_derived_from_the_default_one_keeps_its_fields_and_another_starts_from_its_own(tmp_path):
    (tmp_path / "x").write_text("algorithm: {inner_lr: 0.125, inner_steps: 2}")
    chosen = ["--config", str(tmp_path / "x"), "--algorithm"]
    assert parse([*chosen, "ANIL"]).algorithm == ANIL(0.125, 2)
    assert parse([*chosen, "Reptile"]).algorithm == Reptile()


def test_items_of_a_mapping_are_set_one_by_one_and_a_file_replaces_the_whole(tmp_path):
    (tmp_path / "a").write_text("model: {class_path: Module, init_args: {arguments: {width: 1, deep: {x: 2}}}}")
    (tmp_path / "b").write_text("model: {arguments: {other: 3}}")
    chosen = ["--config", str(tmp_path / "a")]
    assert parse([*chosen, "--model.arguments.deep.y", "[4]"]).model.arguments == {
        "width": 1,
        "deep": {"x": 2, "y": [4]},
    }
    assert parse([*chosen, "--config", str(tmp_path / "b")]).model.arguments == {"other": 3}


def test_a_value_in_a_file_keeps_its_type_and_a_word_becomes_what_its_field_wants(tmp_path):
    (tmp_path / "x").write_text(
        'model: {class_path: Module, init_args: {arguments: {a: "3", b: 3, c: "null", d: 1e-3}}}'
    )
    assert parse(["--config", str(tmp_path / "x")]).model.arguments == {"a": "3", "b": 3, "c": "null", "d": 0.001}
    assert parse(["--model", "Module", "--model.arguments.a", "3"]).model.arguments == {"a": 3}
    assert parse(["--model", "Module", "--model.arguments.a", "'3'"]).model.arguments == {"a": "3"}
    assert parse(["--output", "5"]).output == "5"
    assert parse(["--runs", "1e3"]) == parse(["--runs", "1_000"]) == parse(["--runs", "1000"])
    (tmp_path / "y").write_text('runs: "7"')
    with pytest.raises(ValueError, match=r"y: runs must be a whole number, not '7'"):
        parse(["--config", str(tmp_path / "y")])


@given(st.integers(0, 2**62), st.integers(0, 3))
def test_a_number_is_decimal_whatever_zeros_it_begins_with(number, zeros):
    assert parse(["--seed", "0" * zeros + str(number)]).seed == number
    assert load_yaml(f"x: {'0' * zeros}{number}") == {"x": number}


@pytest.mark.parametrize("text", ["0x1f", "0b1", "0o7", "1:30"])
def test_what_only_yaml_takes_for_a_number_is_text(text):
    assert load_yaml(text) == text
    with pytest.raises(ValueError, match=f"seed must be a whole number, not '{text}'"):
        parse(["--seed", text])


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_a_word_of_a_field_may_be_one_that_yaml_takes_for_a_truth_value(tmp_path, word):
    (tmp_path / "x").write_text(f"compile: {word}")
    assert parse(["--config", str(tmp_path / "x")]).compile == parse(["--compile", word]).compile == word


def test_a_flag_may_be_told_that_it_is_not_set():
    assert is_set("trust", {"trust": Word("")})
    assert is_set("trust", {"trust": Word("true")})
    assert not is_set("trust", {"trust": Word("false")})
    assert not is_set("trust", {})
    with pytest.raises(ValueError, match="trust must be true or false, not 'perhaps'"):
        is_set("trust", {"trust": Word("perhaps")})


@pytest.mark.parametrize(
    "text",
    [
        "optimizer.lr: 0.1\noptimizer: {lr: 0.2}",
        "optimizer: {class_path: SGD, init_args: {lr: 0.2}}\noptimizer.init_args.lr: 0.1",
        "validation: {every: 3}\nvalidation.every: 4",
        "maml: {inner_lr: 0.1}\nalgorithm.inner_lr: 0.2",
    ],
)
def test_a_file_gives_a_field_once_dotted_or_nested(tmp_path, text):
    (tmp_path / "x").write_text(text)
    with pytest.raises(ValueError, match=r"x: (optimizer.lr|validation.every|algorithm.inner_lr) is there twice"):
        parse(["--config", str(tmp_path / "x")])


def test_on_the_command_line_the_last_counts_dotted_or_nested():
    assert parse(["--optimizer", "{lr: 0.5}", "--optimizer.lr", "0.25"]).optimizer == Adam(0.25)
    assert parse(["--optimizer.lr", "0.25", "--optimizer", "{lr: 0.5}"]).optimizer == Adam(0.5)


@pytest.mark.parametrize("line", ["--config {}", "--resume auto --output {}"])
def test_a_name_that_no_file_can_have_is_refused_by_the_field(line):
    field = line.split()[-2].strip("-")
    with pytest.raises(ValueError, match=f"^{field}: cannot look for x+: File name too long"):
        parse(line.format("x" * 300).split())


def test_home_and_variables_stand_for_themselves_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.yaml").write_text("output: $SCRATCH/x.h5\ninit_from: ~/y.h5")
    config = parse(["--config", "~/x.yaml"])
    assert (config.output, config.init_from) == (str(tmp_path / "x.h5"), str(tmp_path / "y.h5"))
    with pytest.raises(ValueError, match="no environment variable NOWHERE"):
        parse(["--output", "$NOWHERE/x.h5"])


options = {
    "config": st.sampled_from([name for name in presets() if "shots" in preset(name).read_text()]),
    "runs": st.integers(1, 9),
    "optimizer": st.sampled_from(["SGD", "Adam", "TorchOptimizer"]),
    "optimizer.lr": st.floats(0.001, 2),
    "model": st.sampled_from(["MLP", "Conv4", "Module"]),
    "task": st.sampled_from(["Glyphs", "Omniglot", "Sinusoid", "tests.helpers.Poisoned"]),
    "task.shots": st.integers(1, 9),
    "weight_generator": st.sampled_from(["LossMedian", "GeometricMedian"]),
    "clip": st.none() | st.floats(1, 9),
    "algorithm": st.sampled_from(["MAML", "MetaSGD", "Reptile", "{inner_lr: 0.25}"]),
    "local_optimizer": st.sampled_from(["null", "SGD", "Adam"]),
    "checkpoint.every_s": st.none() | st.integers(1, 9),
    "output": st.sampled_from(["null", "5", "1e3", "x y.h5", "ä: b"]),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_printed_is_what_would_run_wherever_the_option_stands(tmp_path, capsys, data):
    names = data.draw(st.lists(st.sampled_from(sorted(options)), max_size=6))
    values = [data.draw(options[name]) for name in names]
    line = [[f"--{n}", "null" if value is None else str(value)] for n, value in zip(names, values, strict=True)]
    how = data.draw(st.sampled_from(["--print_config", "--print_config=skip_default", "--print_config=skip_unset"]))
    place = data.draw(st.integers(0, len(line)))
    printing = [*line[:place], [how], *line[place:]]
    wanted = parse([word for words in line for word in words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        parse([word for words in printing for word in words])
    assert not exit_.value.code
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert parse(["--config", str(tmp_path / "printed.yaml")]) == wanted


def test_without_defaults_little_is_printed(capsys):
    with pytest.raises(SystemExit):
        parse(["--print_config=skip_default", "--task", "Sinusoid", "--clip", "2"])
    assert capsys.readouterr().out == "task:\n  class_path: Sinusoid\nclip: 2.0\n"


def test_classes_of_the_user_are_named_by_import_path():
    config = parse(["--task", "tests.helpers.Poisoned", "--task.share", "0.5"])
    assert type(config.task).__name__ == "Poisoned"
    assert from_yaml(to_yaml(config)) == config


@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_a_whole_configuration(preset):
    config = parse(["--config", preset])
    assert from_yaml(to_yaml(config)) == config


configurations = st.builds(
    RunConfig,
    seed=st.integers(0, 2**63 - 1),
    runs=st.integers(1, 10**9),
    workers=st.none() | st.integers(1, 10**6),
    exchange=st.sampled_from(["gather", "allreduce"]),
    weight_generator=st.builds(ArithmeticMean)
    | st.builds(LossMovingAverage, st.integers(1, 9))
    | st.builds(GeometricMedian, st.integers(1, 9), st.floats(1e-9, 1)),
    task=st.builds(Glyphs, *(st.integers(-5, 50),) * 3) | st.builds(Sinusoid, st.integers()),
    model=st.builds(
        Conv4,
        st.integers(),
        st.sampled_from(["stride", "max_pool"]),
        global_pool=st.booleans(),
        init=st.sampled_from(["pytorch", "glorot"]),
    )
    | st.builds(
        Module, arguments=st.dictionaries(st.text("ab"), st.sampled_from(["3", 3, "null", None, "1e3", ["["], "yes"]))
    )
    | st.builds(MLP, st.lists(st.integers(), max_size=3).map(tuple)),
    optimizer=st.builds(SGD, st.floats(1e-9, 10)) | st.builds(Adam, st.floats(1e-9, 10)),
    algorithm=st.builds(MAML, st.floats(1e-9, 10), st.integers(0, 9), st.booleans())
    | st.builds(ANIL, adapted=st.lists(st.text(), max_size=2).map(tuple))
    | st.builds(Reptile, joint=st.booleans()),
    local_optimizer=st.none() | st.builds(Adam, st.floats(1e-9, 10)),
    clip=st.none() | st.floats(1e-9, 1e9),
    validation=st.builds(Validation, st.integers(0, 9), st.integers(1, 9), st.integers(0, 9)),
    output=st.none() | st.text("abcäß -_.", min_size=1).map(lambda name: f"results/{name}.h5"),
)


@settings(max_examples=60, deadline=None)
@given(configurations)
def test_a_configuration_survives_its_yaml(config):
    assert from_yaml(to_yaml(config)) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tassk Glyphs", "tassk"),
        ("--task.wys 3", "wys"),
        ("--task Omnigl", "task: there is no TaskFamily 'Omnigl'; known are"),
        ("--seed x", "seed must be a whole number, not 'x'"),
        ("--tasks -1", "tasks must be 1 or more, not -1"),
        ("--runs 0", "runs must be 1 or more, not 0"),
        *(
            (f"--{name} 1000001", f"{name} must be 1,000,000 or less, not 1000001")
            for name in ("tasks", "workers", "epochs", "validation.tasks", "validation.steps", "algorithm.inner_steps")
        ),
        ("--algorithm.inner_lr nan", "algorithm.inner_lr.*nan"),
        ("--clip 0", "clip must be positive"),
        ("--optimizer.lr -1", "optimizer.lr must be positive"),
        ("--validation.tasks 0", "validation.tasks must be 1 or more"),
        ("--exchange scatter", "exchange.*scatter"),
        ("--epochs 2", "local_lr must be given"),
        ("--config omniglt", "did you mean 'omniglot'"),
        ("--resume auto", "auto needs --output"),
        ("--resume nothing.h5", "there is no file nothing.h5"),
        ("--weight_generator LossMovingAverage --weight_generator.window 0", "window must be 1 or more"),
        ("--rnus 3", "there is no option --rnus; did you mean --runs?"),
        ("--task.wys 3", "task: Glyphs has no field 'wys'; did you mean --task.ways?"),
        ("--print_conf", "--print_conf needs a value; did you mean --print_config?"),
        ("--print_config=all", "the flags are skip_default and skip_unset, not 'all'"),
        ("--trust=maybe", "trust must be true or false, not 'maybe'"),
        ("--runs", "--runs needs a value"),
        ("--runs --seed 3", "--runs needs a value"),
        ("--runs 3 4", "'4' belongs to no option"),
        ("omniglt", "'omniglt' belongs to no option; did you mean 'omniglot'?"),
        ("--runs 1.5", "runs must be a whole number, not '1.5'"),
        ("--runs true", "runs must be a whole number, not 'true'"),
        ("--tf32 maybe", "tf32 must be true or false, not 'maybe'"),
        ("--clip x", "clip must be a number or null, not 'x'"),
        ("--exchange x", "exchange must be one of gather, allreduce, not 'x'"),
        ("--optimizer.betas [1]", "optimizer.betas must be a list of 2: a number, a number, not '[1]'"),
        ("--model MLP --model.hidden [a]", "model.hidden must be a list, each item a whole number"),
        ("--maml /etc/passwd", "algorithm: there is no Algorithm '/etc/passwd'; known are ANIL, BOIL"),
        ("--task /etc/passwd", "task: there is no TaskFamily '/etc/passwd'"),
        ("--task sinusoid", "did you mean 'Sinusoid'?"),
        ("--task tests.test_config.Unfinished", "task: tests.test_config.Unfinished is not complete: write load()"),
        ("--task tests.test_config.NoData", "task: tests.test_config.NoData is not a dataclass: put @dataclass"),
        ("--task tests.test_config.Needing", "task.size must be given: Needing has no default for it"),
        ("--task tests.test_config.Failing", "task: Failing cannot be made: ZeroDivisionError: on purpose"),
        (
            "--task tests.test_config.parse",
            "tests.test_config.parse is a function, not a class derived from hpc_dmaml.tasks",
        ),
        (
            "--task tests.test_config.RunConfig",
            "tests.test_config.RunConfig is not derived from hpc_dmaml.tasks.TaskFam",
        ),
        ("--task tests.test_config.Nothing", "task: cannot import 'tests.test_config.Nothing': AttributeError"),
        ("--task nowhere.Nothing", "task: cannot import 'nowhere.Nothing': No module named 'nowhere'"),
    ],
)
def test_bad_input_is_one_clear_message(arguments, message):
    message = message if ".*" in message else re.escape(message)
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        parse(arguments.split())
    assert "\n" not in str(error.value)


class Unfinished(TaskFamily): ...


class NoData(TaskFamily):
    def load(self):
        return Sinusoid().load()


@dataclass(frozen=True)
class Needing(Sinusoid):
    size: int = field(kw_only=True)


@dataclass(frozen=True)
class Failing(Sinusoid):
    def __post_init__(self) -> None:
        raise ZeroDivisionError("on purpose")


def test_a_module_of_the_users_that_fails_is_named_with_its_error(tmp_path, monkeypatch):
    (tmp_path / "broken_tasks.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"task: cannot import 'broken_tasks.Circles': RuntimeError: not today"):
        parse(["--task", "broken_tasks.Circles"])


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(20))
"""Twenty lines that stand for 9²⁰ words."""


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "a: &a [*a]",
        "runs: [",
        "!!python/object/apply:os.system ['true']",
        "\0",
        "7",
        "1: 2",
        "? [a]\n: 1",
        "runs: 3\nruns: 4",
        "maml: {inner_lr: 0.1, inner_lr: 0.2}",
        "task: {class_path: pathlib.Path}",
        LAUGHS + "task: *a20",
        "seed: " + "9" * 5000,
        "task: " + "[" * 999,
    ],
    ids=lambda text: text[:20],
)
def test_a_broken_or_hostile_yaml_file_is_refused_by_name(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.yaml: ."):
        parse(["--config", str(tmp_path / "x.yaml")])
    with pytest.raises(ValueError, match="not a configuration"):
        from_yaml(text)


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ValueError, match=r"x\.yaml: 'utf-8' codec can't decode"):
        parse(["--config", str(tmp_path / "x.yaml")])


NOISE = [
    "[",
    "}",
    ": ",
    "- ",
    "&a ",
    "*a",
    "!!set ",
    "null",
    ".nan",
    "-1",
    "\0",
    "\t",
    "'",
    '"',
    "|",
    "---",
    "class_path: x",
    "<<",
]


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(data=st.data())
def test_noise_in_a_configuration_is_refused_or_makes_another_valid_one(data):
    text = to_yaml(RunConfig())
    for noise in data.draw(st.lists(st.sampled_from(NOISE), min_size=1, max_size=3)):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + noise + text[place + data.draw(st.integers(0, 5)) :]
    try:
        config = from_yaml(text)
    except ValueError as error:
        assert str(error).startswith("not a configuration: ")
    else:
        assert from_yaml(to_yaml(config)) == config


def test_changes_names_the_fields_that_differ():
    assert changes(RunConfig(), RunConfig(runs=5, clip=1.0, task=Sinusoid())) == [
        "runs",
        "task",
        "clip",
    ]


def test_of_a_part_of_the_same_class_its_fields_are_named_and_of_another_the_part():
    start = RunConfig(optimizer=SGD(0.1), algorithm=MAML(0.1))
    other = replace(start, optimizer=Adam(0.1), algorithm=MAML(0.2, 3), local_optimizer=SGD())
    assert changes(start, other) == ["algorithm.inner_lr", "algorithm.inner_steps", "optimizer", "local_optimizer"]


def test_what_was_below_maml_keeps_its_meaning(tmp_path):
    """On the command line, in a file, and where both are there."""
    old = parse(
        ["--maml.inner_lr", "0.25", "--maml.inner_steps", "3", "--maml.task_reduction", "sum", "--maml.clip", "2"]
    )
    new = parse(
        ["--algorithm.inner_lr", "0.25", "--algorithm.inner_steps", "3", "--task_reduction", "sum", "--clip", "2"]
    )
    assert old == new
    (tmp_path / "x.yaml").write_text("maml: {inner_lr: 0.25, inner_steps: 3, task_reduction: sum, clip: 2}")
    assert parse(["--config", str(tmp_path / "x.yaml")]) == new
    both = parse(["--config", str(tmp_path / "x.yaml"), "--algorithm", "MetaSGD", "--maml.inner_steps", "2"])
    assert both.algorithm == MetaSGD(0.25, 2)
    whole = '{"inner_lr": 0.25, "inner_steps": 3, "task_reduction": "sum", "clip": 2}'
    assert parse(["--maml", whole]) == new
    for twice in ("maml: {clip: 2}\nclip: 3", "clip: 3\nmaml: {clip: 2}", "maml: {inner_lr: 1}\nalgorithm: ANIL"):
        (tmp_path / "x.yaml").write_text(twice)
        with pytest.raises(ValueError, match="is another name of|is there twice"):
            parse(["--config", str(tmp_path / "x.yaml")])


def test_an_algorithm_derived_from_the_one_below_keeps_what_was_said_of_its_fields():
    assert parse(["--config", "sinusoid", "--algorithm", "ANIL"]).algorithm == ANIL(0.01, 1)
    assert parse(["--config", "sinusoid", "--algorithm", "Reptile"]).algorithm == Reptile()
    assert parse(["--algorithm", "ANIL", "--algorithm.inner_lr", "0.3"]).algorithm == ANIL(0.3)


def test_a_worker_has_no_optimizer_of_its_own_unless_one_is_named():
    assert parse([]).local_optimizer is None
    assert parse(["--local_optimizer", "Adam", "--local_optimizer.lr", "0.1", "--epochs", "3"]).local_optimizer == Adam(
        0.1
    )
    assert parse(["--local_optimizer", "Adam", "--local_optimizer", "null"]).local_optimizer is None
    for line, message in (
        ("--local_optimizer.lr 0.1", "local_optimizer is null, so it has no field 'lr': give its class too"),
        ("--local_optimizer Adam --local_optimizer.lr 0", "local_optimizer.lr must be positive"),
        ("--local_optimizer SGD --local_lr 0.1", "local_lr must be left out where there is a local_optimizer"),
        ("--local_optimizer Adma", "there is no Optimizer 'Adma'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(line.split())


def test_help_explains_every_field():
    text = subprocess.run(
        [sys.executable, "-m", "hpc_dmaml", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for item in fields(RunConfig):
        assert f"--{item.name}" in text, item.name


def test_help_promises_no_file_for_a_group_of_fields(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    text = capsys.readouterr().out
    assert "--validation.every" in text
    assert "Path to a configuration file" not in text
    assert "--validation CONFIG" not in text


def test_help_on_a_part_without_a_class_lists_the_classes(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(["--task.help"])
    assert "--task.help CLASS explains one of Arrays, " in capsys.readouterr().out


def test_the_command_line_is_read_without_torch_and_mpi():
    code = "import sys; from hpc_dmaml.config import parse; parse([]); print({'torch', 'mpi4py'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@dataclass(frozen=True)
class Choosing(Sinusoid):
    """Of a user: fields that a file writes otherwise than Python."""

    chosen: tuple[int, ...] = ()
    note: str = ""
    missing: float = float("nan")
    extra: dict[str, object] = field(default_factory=lambda: {"a": (1, 2)})


def test_fields_that_a_file_writes_otherwise_are_no_change():
    config = small_config(task=Choosing())
    assert changes(config, from_yaml(to_yaml(config))) == []
    assert changes(config, small_config(task=Choosing(missing=1.0))) == ["task.missing"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Choosing(chosen=tuple(range(30_000))), r"could not store this configuration: it has 2\d\d,\d{3} characters"),
        (Choosing(extra={"width": np.int64(7)}), r"could not store this configuration: .*cannot represent an object"),
    ],
    ids=["long", "no plain number"],
)
def test_what_no_file_could_store_is_refused_before_any_work(tmp_path, task, message):
    with pytest.raises(Refusal, match=message):
        run(small_config(task=task), tmp_path)
    assert not list(tmp_path.glob("*.h5"))


def test_many_values_take_little_room(tmp_path):
    source = run(small_config(task=Choosing(chosen=tuple(range(7000)))), tmp_path)
    assert results.read(source.path).config["task"]["init_args"]["chosen"] == list(range(7000))


def test_runs_that_were_made_stay(tmp_path):
    path = str(run(small_config(runs=3), tmp_path).path)
    with pytest.raises(Refusal, match=r"runs: .* has made 3 runs already: give as many or more, not 2"):
        run_job(parse(["--resume", path, "--runs", "2"]), Communicator())
    assert results.read(path).config["runs"] == 3


def test_a_folder_is_no_output(tmp_path):
    with pytest.raises(Refusal, match="output: .* is a folder; give a file in it"):
        run_job(small_config(output=str(tmp_path)), Communicator())


@pytest.mark.parametrize("word", ["--print_config=skip_default", "--help"])
def test_one_rank_prints(capsys, monkeypatch, word):
    monkeypatch.setenv("PMI_RANK", "1")
    with pytest.raises(SystemExit, match="0"):
        parse([word])
    assert capsys.readouterr().out == ""


@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])) | st.text("\x85\u2028\u2029 ,:'\"[]{}#\n1e-.")
)
def test_any_text_is_read_back_as_it_was_on_many_lines_or_one(text):
    for content in (text, [text, [text]], {"a": text, "b": [text], "c": {}, "d": []}):
        for dump in (dump_yaml, flow_yaml):
            assert load_yaml(dump(content)) == content


def test_what_a_file_resumes_is_not_passed_over_by_auto(tmp_path):
    (tmp_path / "again.yaml").write_text("resume: results/x.h5\nruns: 9\n")
    words = ["--resume", "auto", "--output", str(tmp_path / "y.h5"), "--config", str(tmp_path / "again.yaml")]
    with pytest.raises(
        ValueError, match=r"resume: auto is given beside .* resumes results/x.h5: give --resume results/x.h5"
    ):
        parse(words)
