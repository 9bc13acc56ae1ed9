"""The configuration: what a command line says is what runs, and what is wrong is said clearly."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hpc_dmaml.config import Maml, RunConfig, Validation, changes, from_yaml, parse, presets, to_yaml
from hpc_dmaml.models import MLP, Conv4
from hpc_dmaml.optimizers import SGD, Adam
from hpc_dmaml.tasks import Glyphs, Omniglot, Sinusoid
from hpc_dmaml.weight_generators import ArithmeticMean, GeometricMedian, LossMovingAverage


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
    model=st.builds(Conv4, st.integers(), st.sampled_from(["stride", "max_pool"]))
    | st.builds(MLP, st.lists(st.integers(), max_size=3).map(tuple)),
    optimizer=st.builds(SGD, st.floats(1e-9, 10)) | st.builds(Adam, st.floats(1e-9, 10)),
    maml=st.builds(Maml, st.floats(1e-9, 10), st.integers(0, 9), st.booleans(), clip=st.none() | st.floats(1e-9, 1e9)),
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
        ("--seed x", "seed must be a whole number, not .x."),
        ("--tasks -1", "tasks must be 1 or more, not -1"),
        ("--runs 0", "runs must be 1 or more, not 0"),
        ("--maml.inner_lr nan", "maml.inner_lr.*nan"),
        ("--maml.clip 0", "maml.clip must be positive"),
        ("--optimizer.lr -1", "optimizer.lr must be positive"),
        ("--validation.tasks 0", "validation.tasks must be 1 or more"),
        ("--exchange scatter", "exchange.*scatter"),
        ("--epochs 2", "local_lr must be given"),
        ("--config omniglt", "did you mean 'omniglot'"),
        ("--resume auto", "auto needs --output"),
        ("--resume nothing.h5", "there is no file nothing.h5"),
        ("--weight_generator LossMovingAverage --weight_generator.window 0", "window must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_message(arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        parse(arguments.split())


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
    assert changes(RunConfig(), RunConfig(runs=5, maml=Maml(clip=1.0), task=Sinusoid())) == [
        "runs",
        "task",
        "maml.clip",
    ]


def test_help_explains_every_field():
    text = subprocess.run(
        [sys.executable, "-m", "hpc_dmaml", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for item in fields(RunConfig):
        assert f"--{item.name}" in text, item.name


def test_the_command_line_is_read_without_torch_and_mpi():
    code = "import sys; from hpc_dmaml.config import parse; parse([]); print({'torch', 'mpi4py'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
