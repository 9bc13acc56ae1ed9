"""Field `compile` of a job: what is compiled, when, and what becomes of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest

from hpc_dmaml import compiling
from hpc_dmaml.algorithms import MAML, MetaSGD, Reptile
from hpc_dmaml.config import parse
from hpc_dmaml.engine import compiled
from hpc_dmaml.models import Module
from hpc_dmaml.sweep import states
from hpc_dmaml.tasks import Samples, Sinusoid, TaskBatch
from tests.helpers import differing, run, small_config


@pytest.fixture
def shapes(monkeypatch):
    """A compiler that leaves functions as they are; the shapes that it was given."""
    seen = []

    def unchanged(function, tensors):
        seen.append([tuple(each.shape) for each in tensors[-4:]])
        return function

    monkeypatch.setattr(compiled, "_compiled", unchanged)
    return seen


def parameters(source):
    return source["meta_model/parameters"]


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler")
def test_a_compiled_job_learns_the_same_and_resumes_to_the_last_bit(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    whole = run(small_config(compile="on"), tmp_path, name="whole.h5")
    assert " float64, compiled in " in capsys.readouterr().out
    plain = run(small_config(), tmp_path, name="plain.h5")
    np.testing.assert_allclose(parameters(whole), parameters(plain), rtol=1e-10)
    np.testing.assert_allclose(whole["validation/loss"], plain["validation/loss"], rtol=1e-10)
    first = run(small_config(compile="on", runs=1), tmp_path, name="first.h5")
    second = run(small_config(compile="on", resume=str(first.path)), tmp_path, name="second.h5")
    assert np.array_equal(parameters(second), parameters(whole))


@pytest.mark.parametrize("algorithm", [MetaSGD(inner_lr=0.05), Reptile(inner_lr=0.05)], ids=["MetaSGD", "Reptile"])
def test_everything_is_compiled_before_the_first_run(tmp_path, shapes, algorithm):
    config = small_config(algorithm=algorithm, chunk=4, validation=replace(small_config().validation, tasks=34))
    source = run(replace(config, compile="on"), tmp_path, name="compiled.h5")
    of_training = [(5 - 1, 4, 1), (1, 4, 1)] if isinstance(algorithm, MetaSGD) else []
    assert [support for support, *_ in shapes] == [*of_training, (4, 4, 1), (2, 4, 1)]
    assert differing(run(config, tmp_path, name="plain.h5"), source) == set()


def test_a_compiler_that_is_missing_costs_a_warning(tmp_path, monkeypatch, capsys):
    def missing(function, tensors):
        raise RuntimeError("g++ not found")

    monkeypatch.setattr(compiled, "_compiled", missing)
    source = run(small_config(compile="on"), tmp_path, name="compiled.h5")
    assert "warning: compile: nothing is compiled: g++ not found" in capsys.readouterr().err
    assert differing(run(small_config(), tmp_path, name="plain.h5"), source) == set()


def test_a_model_of_ones_own_is_not_compiled(tmp_path, shapes, capsys):
    model = Module(path="tests.test_compiling.odd")
    run(small_config(compile="on", model=model), tmp_path)
    assert "nothing is compiled: the model's derivatives are by autograd" in capsys.readouterr().err
    assert not shapes


@dataclass(frozen=True)
class Halves(TaskBatch):
    """Every inner step takes another half of the support set."""

    def support(self, step, act):
        return Samples(*(each[:, step % 2 :: 2] for each in self.support_set))


@dataclass(frozen=True)
class Halved(Sinusoid):
    def sample(self, split, rng, tasks, part=slice(None), queries=None):
        found = super().sample(split, rng, tasks, part, queries)
        return Halves(found.support_set, found.query_set)


def test_batches_with_methods_of_their_own_are_not_compiled(tmp_path, shapes, capsys):
    config = small_config(task=Halved(shots=4, queries=3), algorithm=MAML(inner_lr=0.05, inner_steps=2))
    source = run(replace(config, compile="on"), tmp_path)
    assert "nothing is compiled: the data of Halved depends on the model or the step" in capsys.readouterr().err
    assert not shapes
    assert differing(run(config, tmp_path, name="plain.h5"), source) == set()


def odd(sample_shape, outputs):
    from torch import nn

    return nn.Sequential(nn.Linear(1, 3), nn.Softplus(), nn.Linear(3, outputs))


@pytest.mark.parametrize(("worth_s", "small_s", "chosen"), [(0, 60, "on"), (1e9, 60, "off"), (0, 0, "off")])
def test_auto_compiles_a_small_network_in_a_long_job(tmp_path, shapes, monkeypatch, worth_s, small_s, chosen):
    monkeypatch.setattr(compiling, "WORTH_S", worth_s)
    monkeypatch.setattr(compiling, "SMALL_S", small_s)
    source = run(small_config(compile="auto"), tmp_path)
    assert source.config["compile"] == chosen  # a resumed job goes on with it
    assert bool(shapes) == (chosen == "on")


@pytest.mark.parametrize("decided", ["on", "off"])
def test_a_job_that_is_resumed_with_auto_goes_on_with_what_was_decided(tmp_path, shapes, decided):
    source = run(small_config(compile=decided, runs=1), tmp_path)
    again = ["--resume", str(source.path), "--compile"]
    assert parse([*again, "auto"]).compile == decided
    with pytest.raises(ValueError, match="started with other values of compile"):
        parse([*again, "off" if decided == "on" else "on"])
    assert states.differing({"compile": "auto", "seed": 0}, source.config) == []
    assert states.differing({"compile": "none"}, source.config) == ["compile"]
