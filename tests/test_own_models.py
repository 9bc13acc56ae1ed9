"""A user's own model through a whole job: trained as it is, started alike on every rank, and brought back from its file."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import hpc_dmaml
from hpc_dmaml import results
from hpc_dmaml.algorithms import MAML
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import Validation
from hpc_dmaml.models import GaussianPolicy, Module
from hpc_dmaml.optimizers import SGD, Adam
from hpc_dmaml.run import run_job
from hpc_dmaml.schedules import Schedule
from hpc_dmaml.start import build_module
from hpc_dmaml.tasks import Navigation
from hpc_dmaml.weight_generators import WeightGenerator
from tests.helpers import differing, run, small_config
from tests.processes import SMALL, needs_mpirun
from tests.test_mpirun import mpirun

X = torch.linspace(-3, 3, 12, dtype=torch.float64)[:, None]


def own(name: str, **changes):
    return small_config(model=Module(f"tests.test_own_models.{name}"), **changes)


def load(path, which="last"):
    """These models are ours."""
    return hpc_dmaml.load(path, which, trust=True)


class Frozen(nn.Module):
    """A body that is not to be trained, and that only this process knows."""

    made = 0.5

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(1, 6), nn.BatchNorm1d(6), nn.Linear(6, outputs)
        nn.init.constant_(self.body.weight, Frozen.made)
        self.body.requires_grad_(False)
        self.norm.running_mean.fill_(Frozen.made)
        self.register_buffer("mask", torch.tensor([True, False] * 3))
        self.norm.eval()

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.body(x))) * self.mask)


def test_frozen_parameters_and_buffers_stay_and_come_back_from_the_file(tmp_path, monkeypatch):
    path = run(own("Frozen", runs=6), tmp_path).path
    stored = results.read(path)
    assert list(stored["meta_model/names"]) == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    trained = load(path).module
    answers = trained(X)
    monkeypatch.setattr(Frozen, "made", 9.0)  # as where pre-trained weights on a disk have changed
    again = load(path).module
    assert (again.body.weight == 0.5).all()
    assert (again.norm.running_mean == 0.5).all()
    assert again.mask.tolist() == [True, False] * 3
    torch.testing.assert_close(again(X), answers, rtol=0, atol=0)
    assert run_job(own("Frozen", runs=8, resume=str(path), output=str(path)), Communicator()) == 0
    assert (load(path).module.body.weight == 0.5).all()


def normed(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))


def test_an_adapted_norm_answers_alike_in_training_and_evaluation_mode(tmp_path):
    model = load(run(own("normed", runs=6), tmp_path).path)
    adapted = model.adapt(X, torch.sin(X), steps=2)
    answers = adapted(X)
    torch.testing.assert_close(adapted.eval()(X), answers, rtol=0, atol=0)


# ---- the start


class NumpyStart(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.from_numpy(np.random.randn(1, outputs)))  # noqa: NPY002
        self.v = nn.Parameter(torch.tensor([random.gauss(0, 1)], dtype=torch.float64))

    def forward(self, x):
        return x @ self.w + self.v


def test_the_seed_reaches_the_generators_of_numpy_and_python():
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    one, same, other = (
        torch.cat([p.detach().flatten() for p in build_module(own("NumpyStart", seed=seed), (1,), 1).parameters()])
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert random.getstate() == before[1]


class Unordered(nn.Module):
    """Parameters in the order of a set, which is another in every process; and a start that no seed reaches."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(1, outputs) for name in {"alpha", "beta", "gamma", "delta", "mu"}})
        self.register_buffer("shift", torch.tensor(np.random.default_rng().normal(size=outputs)))
        nn.init.constant_(self.parts["mu"].weight, np.random.default_rng().normal())

    def forward(self, x):
        return torch.tanh(sum(part(x) for part in self.parts.values())) + self.shift


@pytest.mark.long
@needs_mpirun
def test_ranks_whose_models_differ_start_from_that_of_rank_0_and_say_so(tmp_path):
    """Each process has its own order of a set of names; the file may be read by yet another one."""
    model = ["--model", "Module", "--model.path", "tests.test_own_models.Unordered"]
    job = [*SMALL[:2], *SMALL[6:], *model, "--runs", "4", "--workers", "4", "--check_every", "1", "--dtype", "float64"]
    done = mpirun(4, "hpc_dmaml", *job, "--output", "x.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the ranks built different models" in done.stderr
    stored = results.read(tmp_path / "x.h5")
    model = load(tmp_path / "x.h5")
    named = dict(zip(stored["meta_model/names"], stored["meta_model/shapes"], strict=True))
    parts = model.layout.views(torch.from_numpy(stored["meta_model/parameters"]))
    assert list(parts) == list(named)
    for name, values in parts.items():
        assert torch.equal(model.module.get_parameter(name), values)
    assert torch.equal(model.module.shift, torch.from_numpy(stored["meta_model/constants/shift"]))
    resumed = mpirun(2, "hpc_dmaml", "--resume", "x.h5", "--trust", "--runs", "6", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert len(results.read(tmp_path / "x.h5")["runs/run"]) == 6


def differing_by_rank(outputs: int) -> nn.Module:
    import os

    return nn.Linear(1, outputs, bias=os.environ.get("PMI_RANK", "0") == "0")


@needs_mpirun
def test_ranks_that_build_another_model_than_rank_0_are_refused(tmp_path):
    model = ["--model", "Module", "--model.path", "tests.test_own_models.differing_by_rank"]
    done = mpirun(2, "hpc_dmaml", *SMALL[:2], *SMALL[6:], *model, "--runs", "4", "--output", "x.h5", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "rank 0 holds the parameters of another model: bias (1,) there, no bias here" in done.stderr


# ---- adapt and load


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return load(run(small_config(runs=5), tmp_path_factory.mktemp("trained")).path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.zeros(12)}, r"adapt: y must be \(12, 1\)"),
        ({"y": torch.zeros(4, 1)}, r"adapt: y must be \(12, 1\)"),
        ({"x": X[:, 0]}, r"adapt: x must be n samples \(n, 1\)"),
        ({"x": X[:, None]}, r"adapt: x must be n samples \(n, 1\)"),
        ({"x": X * float("nan")}, "adapt: x must be finite"),
        ({"y": X / 0}, "adapt: y must be finite"),
        ({"steps": -1}, "steps must be a whole number, 0 or more, not -1"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"lr": -0.1}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"lr": "0.1"}, "lr must be positive, not '0.1'"),
        ({"lr": 10**400}, "lr must be positive"),
        ({"lr": torch.tensor(0.1)}, r"lr must be positive, not tensor"),
        ({"steps": True}, "steps must be a whole number, 0 or more, not True"),
        ({"x": [[1.0], [2.0, 3.0]]}, "adapt: x and y must be arrays of numbers"),
        ({"x": [None]}, "adapt: x must be an array of numbers, not ndarray of object"),
    ],
)
def test_adapt_refuses_what_it_would_misunderstand(trained, change, message):
    with pytest.raises(ValueError, match=message):
        trained.adapt(**({"x": X, "y": torch.sin(X)} | change))


def test_adapt_takes_arrays_of_numpy_and_any_precision(trained):
    expected = trained.adapt(X, torch.sin(X))(X)
    torch.testing.assert_close(trained.adapt(X.numpy(), np.sin(X.numpy()))(X), expected)
    assert trained.adapt(X.float(), torch.sin(X).float())(X).dtype == torch.float64


def test_adapt_takes_a_whole_number_as_the_inner_rate(trained):
    expected = trained.adapt(X, torch.sin(X), steps=2, lr=1.0)(X)
    for one, two in ((1, 2), (np.int64(1), np.int64(2)), (np.float32(1), np.uint8(2))):
        assert torch.equal(trained.adapt(X, torch.sin(X), steps=two, lr=one)(X), expected)


@pytest.mark.parametrize("arguments", [{"path": None}, {"path": 3}, {"trust": "no"}, {"which": 1}])
def test_load_refuses_other_arguments_by_name(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        hpc_dmaml.load(**{"path": "results.h5", **arguments})


def test_adapt_without_steps_gives_the_meta_model_itself(trained):
    assert torch.equal(trained.adapt(X, torch.sin(X), steps=0)(X), trained.module(X))


def test_byte_images_are_scaled_as_in_training(tmp_path):
    from hpc_dmaml.models import Conv4
    from hpc_dmaml.tasks import Glyphs

    config = small_config(runs=1, tasks=1, task=Glyphs(), model=Conv4(filters=4), validation=Validation(every=0))
    model = load(run(config, tmp_path).path)
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    labels, scaled = torch.arange(5), images.double() / 255
    expected = model.adapt(scaled, labels)(scaled)
    torch.testing.assert_close(model.adapt(images, labels.to(torch.uint8))(scaled), expected)
    with pytest.raises(ValueError, match=r"x must be n samples \(n, 1, 28, 28\)"):
        model.adapt(torch.rand(5, 1, 30, 30), labels)
    with pytest.raises(ValueError, match="y must be class numbers from 0 to 4, not 1 to 5"):
        model.adapt(scaled, labels + 1)


def test_only_the_last_and_the_best_parameters_can_be_asked_for_and_nothing_else_is_read(tmp_path):
    with pytest.raises(ValueError, match="which must be last or best, not 'first'"):
        load(tmp_path / "there_is_none.h5", which="first")


def test_a_loaded_model_shows_which_parameters_of_which_job_it_has(tmp_path):
    source = run(small_config(), tmp_path)
    assert repr(load(source.path, "best")) == f"best parameters of {source!r}"


def with_a_colon(sample_shape, outputs):
    return nn.Sequential(OrderedDict({"in:1": nn.Linear(*sample_shape, 4), "out": nn.Linear(4, outputs)}))


def test_a_name_that_files_could_not_tell_from_the_algorithm_s_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"model: the name of the parameter in:1.weight has a colon"):
        run(own("with_a_colon"), tmp_path)
    assert not list(tmp_path.glob("*.h5"))


# ---- weight generators


class Bad(WeightGenerator):
    """Gives no weights from the third run on."""

    needs_gram = False
    calls = 0

    def weights(self, losses, memory, gram):
        Bad.calls += 1
        return np.full(len(losses), np.nan if Bad.calls > 4 else 1.0)  # the first two are a trial


class BadOnGram(Bad):
    needs_gram = True


@pytest.mark.parametrize("generator", [Bad(), BadOnGram()], ids=["allreduce", "gather"])
def test_a_generator_that_goes_wrong_ends_the_job_with_its_name_and_the_last_good_state(
    tmp_path, generator, capsys, monkeypatch
):
    monkeypatch.setattr(Bad, "calls", 0)
    monkeypatch.setattr("hpc_dmaml.recorder.to_yaml", lambda config: "runs: 9\n")  # this one is no dataclass
    monkeypatch.setattr("hpc_dmaml.setup.check_storable", lambda config: None)
    config = small_config(runs=9, workers=2, weight_generator=generator, output=str(tmp_path / "x.h5"))
    assert run_job(config, Communicator()) == 1
    assert f"{type(generator).__name__} gave the weights" in capsys.readouterr().err
    stored = results.read(tmp_path / "x.h5", verify=True)
    assert stored.status == "failed"
    assert len(stored["runs/run"]) == 2


@dataclass(frozen=True)
class Leap(Schedule):
    at: int = 2

    def shape(self, run: int) -> float:
        return 1000 if run == self.at else 1.0


class Exploding:
    """An optimizer whose long steps end nowhere."""

    def _step(self, theta, gradient, state, lr):
        super()._step(theta, gradient, state, lr)
        if lr > 1:
            theta.fill_(torch.inf)


class ExplodingSGD(Exploding, SGD):
    pass


class ExplodingAdam(Exploding, Adam):
    pass


@pytest.mark.parametrize("optimizer", [ExplodingSGD(lr=0.01, momentum=0.9), ExplodingAdam(lr=0.01)])
def test_a_step_that_is_not_finite_leaves_the_state_of_the_optimizer_as_it_was(tmp_path, optimizer, capsys):
    config = small_config(runs=5, optimizer=optimizer, schedule=Leap(at=2))
    assert run_job(replace(config, output=str(tmp_path / "x.h5")), Communicator()) == 1
    assert "the step of" in capsys.readouterr().err
    failed = results.read(tmp_path / "x.h5", verify=True)
    before = run(replace(config, runs=2), tmp_path, name="before.h5")
    kept = {name for name in before.arrays if name.startswith(("meta_model/", "checkpoint/"))}
    assert any(name.startswith("checkpoint/optimizer/") for name in kept)
    assert not kept & differing(failed, before)


def test_a_generator_that_never_gives_weights_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(Bad, "calls", 99)
    monkeypatch.setattr("hpc_dmaml.setup.check_storable", lambda config: None)
    config = small_config(weight_generator=Bad(), output=str(tmp_path / "x.h5"))
    with pytest.raises(Refusal, match="weight_generator: tried on losses"):
        run_job(config, Communicator())
    assert list(tmp_path.iterdir()) == []


def test_a_policy_is_not_adapted_to_samples(tmp_path):
    task = Navigation(trajectories=2, horizon=3)
    source = run(small_config(task=task, model=GaussianPolicy((4,)), algorithm=MAML(inner_lr=0.1)), tmp_path)
    with pytest.raises(ValueError, match="adapt: a policy adapts to trajectories of its own, not to samples"):
        load(source.path).adapt(torch.zeros(5, 2), torch.zeros(5, 6))
