"""Parts of a user's own: examples/own_parts.py does what it says, and what is wrong with such a part is said before any work."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hpc_dmaml
from examples import own_parts
from hpc_dmaml import results
from hpc_dmaml.algorithms import MAML, Algorithm
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import from_yaml, parse, to_yaml
from hpc_dmaml.engine import Engine, MetaGradient
from hpc_dmaml.losses import Loss, SquaredError
from hpc_dmaml.models import Model
from hpc_dmaml.optimizers import Optimizer
from hpc_dmaml.run import run_job
from hpc_dmaml.schedules import Schedule
from hpc_dmaml.tasks import Batch, Samples, Sinusoid, TaskFamily
from hpc_dmaml.weight_generators import WeightGenerator
from tests.helpers import differing, docstring_command, run, small_config
from tests.processes import MPIRUN, ROOT


def call(*command: str) -> subprocess.CompletedProcess[str]:
    words = [{"mpirun": str(MPIRUN), "python": sys.executable}.get(word, word) for word in command]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


TRAINING = docstring_command(own_parts, "mpirun")
FEW = ["--runs", "6", "--tasks", "2", "--validation.every", "3", "--validation.tasks", "5", "--threads", "1"]

# ---- the example


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The file of the docstring's command with few runs, and what the command printed."""
    if MPIRUN is None:
        pytest.skip("no mpirun")
    path = str(tmp_path_factory.mktemp("trained") / "x.h5")
    done = call(*TRAINING, *FEW, "--output", path)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return path, done.stdout


def test_its_metric_is_shown_and_stands_in_the_file(trained):
    path, shown = trained
    assert shown.count("Done in") == 1
    assert "Held-out tasks, before adaptation and after each step: worst error" in shown
    source = results.read(path, verify=True)
    assert source.metric == own_parts.Huber.metric
    told = [source.attribute(name) for name in ("metric", "metric_unit", "metric_direction")]
    assert told == ["worst error", "cm", "lower"]
    assert np.isfinite(source["validation/metric"]).all()
    assert int(source.attribute("best_run")) >= 0


def test_evaluate_asks_for_trust_and_shows_the_metric_with_its_unit(trained):
    command = [trained[0] if word.endswith(".h5") else word for word in docstring_command(own_parts, "python")]
    assert "--trust" in command
    done = call(*command, "--tasks", "9")
    assert done.returncode == 0, done.stderr
    assert [line.endswith(" cm") and "worst error" in line for line in done.stdout.splitlines()[1:]] == [True] * 4
    refused = call(*[word for word in command if word != "--trust"])
    assert refused.returncode == 2
    assert "asks to import examples.own_parts." in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_it_is_loaded_only_where_it_is_trusted_and_adapts(trained):
    with pytest.raises(ValueError, match=r"asks to import examples\.own_parts\."):
        hpc_dmaml.load(trained[0])
    model = hpc_dmaml.load(trained[0], trust=True)
    assert isinstance(model.config.algorithm, own_parts.Falling)
    times = torch.linspace(0, 6, 10)[:, None]
    spring = model.adapt(times, torch.cos(times), steps=9)  # more than it was trained with
    assert spring(times).shape == (10, 1)
    assert (spring(times) - torch.cos(times)).abs().mean() < (model.module(times) - torch.cos(times)).abs().mean()


def example_config(*more: str):
    return parse([*TRAINING[TRAINING.index("--task") :], "--workers", "2", *FEW, *more])


@pytest.mark.parametrize("more", [[], ["--optimizer", "examples.own_parts.Lion"]], ids=["Adam", "Lion"])
def test_a_resumed_job_is_the_uninterrupted_one(tmp_path, more):
    whole = run(example_config(*more, "--runs", "5"), tmp_path, name="whole.h5")
    path = run(example_config(*more, "--runs", "3"), tmp_path).path
    with pytest.raises(ValueError, match=r"asks to import examples\.own_parts\."):
        parse(["--resume", str(path), "--runs", "5"])
    assert run_job(parse(["--resume", str(path), "--trust", "--runs", "5"]), Communicator()) == 0
    assert differing(whole, results.read(path)) == {"checkpoint/restarts"}


def test_its_whole_algorithm_learns_to_adapt(tmp_path):
    whole = ["--algorithm", "examples.own_parts.Proximal", "--runs", "150", "--tasks", "25", "--optimizer.lr", "0.01"]
    source = run(parse(["--config", "sinusoid", *whole, "--validation.every", "75"]), tmp_path)
    first, last = source["validation/loss"].mean(2)
    assert last[-1] < 0.5 * last[0]
    assert last[-1] < 0.9 * first[-1]


@pytest.mark.long
def test_it_learns_to_adapt(tmp_path):
    few = ["--workers", "1", "--runs", "150", "--tasks", "8", "--optimizer.lr", "0.01", "--validation.tasks", "60"]
    source = run(example_config(*few, "--validation.every", "149", "--validation.fixed", "true"), tmp_path)
    loss, worst = (source[f"validation/{name}"][-1].mean(1) for name in ("loss", "metric"))
    assert loss[-1] < 0.6 * loss[0]
    assert worst[-1] < 0.8 * worst[0]


def test_its_fields_are_explained(capsys):
    with pytest.raises(SystemExit) as done:
        parse(["--task.help", "examples.own_parts.Ringdown"])
    assert done.value.code == 0
    assert "Share of the readings that are wrong" in capsys.readouterr().out


# ---- what is not complete


@dataclass(frozen=True)
class Placed(Sinusoid):
    where: Path = Path("a") / "b"


def test_a_field_may_be_a_path() -> None:
    config = small_config(task=Placed(where=Path("c/d.npz")))
    assert from_yaml(to_yaml(config), lambda _: True) == config


@dataclass(frozen=True)
class NoTasks(TaskFamily): ...


@dataclass(frozen=True)
class NoModel(Model): ...


@dataclass(frozen=True)
class NoAlgorithm(Algorithm): ...


@dataclass(frozen=True)
class NoOptimizer(Optimizer): ...


@dataclass(frozen=True)
class NoSchedule(Schedule): ...


@dataclass(frozen=True)
class NoGenerator(WeightGenerator): ...


@pytest.mark.parametrize(
    ("field", "kind", "methods"),
    [
        ("task", NoTasks, "load()"),
        ("model", NoModel, "build()"),
        ("algorithm", NoAlgorithm, "adapt(), update()"),
        ("optimizer", NoOptimizer, "build(), lr"),
        ("local_optimizer", NoOptimizer, "build(), lr"),
        ("schedule", NoSchedule, "shape()"),
        ("weight_generator", NoGenerator, "weights()"),
    ],
)
def test_a_class_that_is_not_complete_is_refused_with_what_is_to_be_written(field, kind, methods):
    path = f"tests.test_own_parts.{kind.__name__}"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{field}: {path} is not complete: write {methods}')}$"):
        parse([f"--{field}", path])


@dataclass(frozen=True)
class NoValue(Loss):
    """Measures, and gives nothing to minimise."""

    def measure(self, z: Tensor, targets: Tensor) -> Tensor:
        return z.mean((1, 2))


@dataclass(frozen=True)
class LossWithoutValue(Sinusoid):
    @property
    def loss(self):
        return NoValue()


def refusal(folder, **changes: Any) -> str:
    """The message with which a job is refused, before any work."""
    with pytest.raises(Refusal) as error:
        run_job(small_config(output=str(folder / "x.h5"), **changes), Communicator())
    assert error.value.code == 2
    assert not list(folder.iterdir())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_loss_without_value_is_refused_by_name(tmp_path, monkeypatch):
    complaint = "NoValue is not complete: write value()"
    assert refusal(tmp_path, task=LossWithoutValue()) == f"loss: tests.test_own_parts.{complaint}"
    # As users write it: the family's module cannot even be imported.
    text = "from tests.test_own_parts import NoValue, Sinusoid\n\nclass Waves(Sinusoid):\n    loss = NoValue()\n"
    (tmp_path / "my_waves.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    message = f"task: cannot import 'my_waves.Waves': loss: tests.test_own_parts.{complaint}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse(["--task", "my_waves.Waves"])


@dataclass(frozen=True)
class Named(SquaredError):
    metric = "worst error"  # type: ignore[assignment]


@dataclass(frozen=True)
class NamedMetric(Sinusoid):
    loss = Named()


def test_a_metric_that_is_none_is_refused(tmp_path):
    assert refusal(tmp_path, task=NamedMetric()) == (
        "task: NamedMetric: Named.metric must be a Metric with a name, or None, not 'worst error'"
    )


# ---- algorithms


@dataclass(frozen=True)
class Joint(Algorithm):
    """A whole algorithm: the gradient of the query loss, without any adaptation to the support set in training."""

    def update(self, engine: Engine, phi: Tensor, batch: Batch, run: int) -> MetaGradient:
        batch = batch.to(phi.device, phi.dtype)
        objective = engine.objective
        x, y = batch.query(lambda x: x)
        at = objective.gradient(objective.unflatten(phi, len(batch)), x, y)
        return MetaGradient(objective.flatten(at.value).sum(0), at.losses, objective.loss.measure(at.outputs, y))

    def adapt(self, objective, phi, parameters, batch, steps) -> Iterator[Any]:
        yield parameters
        for k in range(steps):
            step = objective.gradient(parameters, *batch.support(k, lambda x: x)).value
            parameters = tuple(p - 0.05 * g for p, g in zip(parameters, step, strict=True))
            yield parameters


def test_a_whole_algorithm_of_ones_own_is_what_maml_is_without_inner_steps(tmp_path):
    mine = run(small_config(algorithm=Joint()), tmp_path, name="mine.h5")
    theirs = run(small_config(algorithm=MAML(inner_lr=0.05, inner_steps=0)), tmp_path)
    for name in ("workers/loss", "validation/loss", "meta_model/parameters"):
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-9)


@dataclass(frozen=True)
class Wrong(MAML):
    """MAML that does one thing wrong."""

    how: str = ""

    def learned(self, layout):
        return {"bare": {"alpha": torch.ones(2)}, "numbers": {"my:alpha": 1.0}, "none": None}.get(self.how, {})

    def update(self, engine, phi, batch, run):
        right = super().update(engine, phi, batch, run)
        if self.how == "raises":
            raise KeyError("on purpose")
        if self.how == "in place":
            phi -= right.gradient
        wrong: dict[str, Any] = {
            "short": right._replace(gradient=right.gradient[:-1]),
            "single": right._replace(gradient=right.gradient.float()),
            "mean": right._replace(losses=right.losses.mean()),
            "tuple": tuple(right),
            "nothing": None,
        }
        return wrong.get(self.how, right)

    def adapt(self, objective, phi, parameters, batch, steps):
        given = list(super().adapt(objective, phi, parameters, batch, steps))
        if self.how == "only the end":
            return iter(given[-1:])
        if self.how == "one task":
            return iter([tuple(p[0] for p in each) for each in given])
        return None if self.how == "no adapt" else iter(given)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("short", "Wrong.update: gradient must be a tensor (19,) torch.float64 cpu, not (18,) torch.float64 cpu"),
        ("single", "Wrong.update: gradient must be a tensor (19,) torch.float64 cpu, not (19,) torch.float32 cpu"),
        ("mean", "Wrong.update: losses must be a tensor (1,) torch.float64 cpu, not () torch.float64 cpu"),
        ("tuple", "Wrong.update must give a MetaGradient, not tuple"),
        ("nothing", "Wrong.update must give a MetaGradient, not NoneType"),
        ("raises", "Wrong.update fails on a task: KeyError: 'on purpose'"),
        ("in place", "Wrong changes φ or the parameters that it is given in place: it must work on copies"),
        ("only the end", "Wrong.adapt must give the parameters before adaptation and after each step of it"),
        ("no adapt", "Wrong.adapt fails on a task: TypeError: 'NoneType' object is not iterable"),
        ("bare", "Wrong.learned: 'alpha' needs a colon, as in 'learned:alpha', which no parameter has"),
        ("numbers", "Wrong.learned must give tensors by name: AttributeError: 'float' object has no attribute 'shape'"),
        ("none", "Wrong.learned must give tensors by name: AttributeError: 'NoneType' object has no attribute 'items'"),
    ],
)
def test_an_algorithm_that_does_not_give_what_it_should_is_refused_before_any_work(tmp_path, how, message):
    assert refusal(tmp_path, algorithm=Wrong(inner_lr=0.05, how=how)) == f"algorithm: {message}"


def test_parameters_of_another_shape_are_refused(tmp_path):
    assert "algorithm: Wrong.adapt: parameters must be a tensor (1, " in refusal(
        tmp_path, algorithm=Wrong(how="one task")
    )


# ---- data given a policy


@dataclass(frozen=True)
class Looking(Batch):
    """Sine waves that are read where the model looks: its outputs, which the readings depend on, are the places."""

    phase: Any
    """(B, 1, 1)"""
    places: Any
    """(B, n, 1), where the model is asked where to look."""

    def support(self, step, act):
        x = self.places + step + act(self.places)
        return Samples(x, torch.sin(x + self.phase))

    def query(self, act):
        return Samples(self.places, torch.sin(self.places + self.phase))


@dataclass(frozen=True)
class Looks(TaskFamily):
    sample_shape, outputs, loss = (1,), 1, SquaredError()

    def load(self):
        return self

    def sample(self, split, rng, tasks, part=slice(None), queries=None):
        return Looking(rng.uniform(0, 3, (tasks, 1, 1)), rng.uniform(-3, 3, (tasks, 4, 1))).part(part)


def test_tasks_whose_data_depends_on_the_model_train_and_are_alike_on_all_ways_to_cut_them(tmp_path):
    config = small_config(task=Looks(), algorithm=MAML(inner_lr=0.05, inner_steps=2), workers=2)
    whole = run(config, tmp_path, name="whole.h5")
    cut = run(replace(config, chunk=2), tmp_path, name="cut.h5")
    np.testing.assert_allclose(cut["meta_model/parameters"], whole["meta_model/parameters"], rtol=1e-9)
    assert np.isfinite(whole["validation/loss"]).all()
