"""Algorithms: each is exact against autograd and central differences, and adapts as it says. A new one is a row below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpc_dmaml import load, results
from hpc_dmaml.algorithms import ANIL, BOIL, LSLR, MAML, Algorithm, MetaSGD, Reptile, check_head, whole_layout
from hpc_dmaml.engine import Engine, InnerLoop, adapt, for_tasks, objective_for
from hpc_dmaml.models import GaussianPolicy, Module
from hpc_dmaml.optimizers import SGD, Adam
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.start import beginning
from hpc_dmaml.tasks import Act, Batch, Navigation, Samples, TaskBatch
from tests.engine.reference import PROBLEMS, Problem, adapted_losses, distance
from tests.helpers import differing, run, small_config

Alpha = Callable[[Tensor, int], Tensor]
"""From φ (P + Q,) and an inner step to the rate of every parameter (P,), as the paper defines it."""


class Case(NamedTuple):
    algorithm: MAML
    alpha: Callable[[Layout], Alpha]
    learns: int = 0
    """Values besides θ, for `PROBLEM`."""


PROBLEM = PROBLEMS["mlp"]
LAYERS = 3
LAYOUT = Layout.of(PROBLEM.module())
STEPS = 2


def masked(chosen: Callable[[str], bool]) -> Callable[[Layout], Alpha]:
    """The rate 0.2 for some parameters, by name, and 0 for the others."""

    def make(layout: Layout) -> Alpha:
        named = zip(layout.names, layout.sizes, strict=True)
        mask = torch.cat([torch.full((size,), 0.2 * chosen(n), dtype=torch.float64) for n, size in named])
        return lambda phi, step: mask

    return make


def by_layer_and_step(layout: Layout) -> Alpha:
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in layout.names))

    def alpha(phi: Tensor, step: int) -> Tensor:
        values = phi[layout.size :].reshape(len(layers), STEPS)
        return torch.cat(
            [
                values[layers.index(name.rpartition(".")[0]), min(step, STEPS - 1)].expand(size)
                for name, size in zip(layout.names, layout.sizes, strict=True)
            ]
        )

    return alpha


HEAD = f"{4}."
CASES: dict[str, Case] = {
    "MAML": Case(MAML(0.2, STEPS), masked(lambda name: True)),
    "first order": Case(MAML(0.2, STEPS, first_order=True), masked(lambda name: True)),
    "frozen layer": Case(MAML(0.2, STEPS, adapted=("2.*", "4.bias")), masked(lambda n: n[0] == "2" or n == "4.bias")),
    "ANIL": Case(ANIL(0.2, STEPS), masked(lambda name: name.startswith(HEAD))),
    "BOIL": Case(BOIL(0.2, STEPS), masked(lambda name: not name.startswith(HEAD))),
    "MetaSGD": Case(MetaSGD(0.2, STEPS), lambda layout: lambda phi, step: phi[layout.size :], LAYOUT.size),
    "MetaSGD in units": Case(
        MetaSGD(0.2, STEPS, scale=0.05), lambda layout: lambda phi, step: 0.05 * phi[layout.size :], LAYOUT.size
    ),
    "LSLR": Case(LSLR(0.2, STEPS), by_layer_and_step, LAYERS * STEPS),
    "multi-step loss": Case(MAML(0.2, STEPS, multi_step_runs=10), masked(lambda name: True)),
    "MAML++": Case(LSLR(0.2, STEPS, multi_step_runs=10), by_layer_and_step, LAYERS * STEPS),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def at_random(algorithm: Algorithm, problem: Problem, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A module, and φ of it with rates that are no longer all the same."""
    module = problem.module(seed)
    phi = beginning(algorithm, Layout.of(module), module)
    size = Layout.of(module).size
    noise = torch.randn(len(phi) - size, generator=torch.Generator().manual_seed(seed), dtype=phi.dtype)
    phi[size:] += 0.1 * noise
    return module, phi


def engine(problem: Problem, module: nn.Module, layerwise: bool = True) -> Engine:
    return Engine(objective_for(module, problem.sample_shape, problem.loss, layerwise=layerwise), 2)


def query_loss(case: Case, module: nn.Module, problem: Problem, phi: Tensor, batch: TaskBatch) -> Tensor:
    """Σ over the tasks and steps of the weighted query losses in the first run, on the autograd graph of φ."""
    algorithm, layout = case.algorithm, Layout.of(module)
    alpha = case.alpha(layout)
    inner = InnerLoop(0.0, algorithm.inner_steps, algorithm.first_order, weights=algorithm.weights(0))
    rate = lambda step: alpha(phi, step)  # noqa: E731
    return adapted_losses(module, problem.loss, phi[: layout.size], batch, inner, rate).sum()


@every_case
@pytest.mark.parametrize("problem", ["mlp", "conv4_stride", "conv4_max_pool", "layers_without_formulas"])
@pytest.mark.parametrize("layerwise", [True, False])
def test_its_update_is_the_gradient_that_autograd_finds(case: Case, problem: str, layerwise: bool) -> None:
    if case.algorithm.adapted != ("*",) and problem != "mlp":
        case = replace_adapted(case)
    of = PROBLEMS[problem]
    if isinstance(case.algorithm, ANIL | BOIL) and problem != "mlp":
        last = Layout.of(of.module()).names[-1].rpartition(".")[0]
        is_head = isinstance(case.algorithm, ANIL)
        case = case._replace(alpha=masked(lambda name: (name.rpartition(".")[0] == last) == is_head))
    module, phi = at_random(case.algorithm, of)
    batch = of.batch()
    found = case.algorithm.update(engine(of, module, layerwise), phi, batch, run=0)
    leaf = phi.clone().requires_grad_()
    (expected,) = torch.autograd.grad(query_loss(case, module, of, leaf, batch), leaf)
    assert found.gradient.shape == phi.shape
    assert distance(found.gradient, expected) < 1e-10


def replace_adapted(case: Case) -> Case:
    """For a model with other names: the weights alone adapt."""
    return Case(replace(case.algorithm, adapted=("*weight",)), masked(lambda name: name.endswith("weight")))


@every_case
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_its_update_equals_central_differences(case: Case, steps: int) -> None:
    if case.algorithm.first_order:
        return  # is no derivative
    algorithm = replace(case.algorithm, inner_steps=steps)
    module, phi = at_random(algorithm, PROBLEM)
    batch, of = PROBLEM.batch(), engine(PROBLEM, module)
    direction = torch.nn.functional.normalize(
        torch.randn(phi.shape, generator=torch.Generator().manual_seed(3)).double(), dim=0
    )
    h, weights = 1e-6, algorithm.weights(0) or (*[0.0] * (steps - 1), 1.0)

    def loss(at: Tensor) -> Tensor:
        """By the algorithm's own adaptation."""
        start, part = for_tasks(of.objective.unflatten(at[: LAYOUT.size], 1), 3), batch.to(at.device, at.dtype)
        path = list(algorithm.adapt(of.objective, at, start, part, steps))[1:]
        curve = [of.objective.value(parameters, *part.query_set)[0].sum() for parameters in path]
        return torch.stack([w * each for w, each in zip(weights, curve, strict=True)]).sum()

    slope = ((loss(phi + h * direction) - loss(phi - h * direction)) / (2 * h)).item()
    found = algorithm.update(of, phi, batch, run=0).gradient @ direction
    assert found.item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@every_case
def test_what_it_learns_besides_the_parameters_has_names_and_starts_at_the_inner_rate(case: Case) -> None:
    whole = whole_layout(case.algorithm, LAYOUT)
    assert whole.model == LAYOUT
    assert whole.size == LAYOUT.size + case.learns
    phi = beginning(case.algorithm, LAYOUT, PROBLEM.module())
    assert torch.equal(phi[: LAYOUT.size], flatten(PROBLEM.module()))
    torch.testing.assert_close(
        phi[LAYOUT.size :] * getattr(case.algorithm, "scale", 1), torch.full_like(phi, 0.2)[LAYOUT.size :]
    )
    assert all(":" in name for name in whole.names[len(LAYOUT.names) :])


@every_case
def test_parameters_that_do_not_adapt_stay_and_are_learned_all_the_same(case: Case) -> None:
    module, phi = at_random(case.algorithm, PROBLEM)
    of, batch = engine(PROBLEM, module), PROBLEM.batch().to(phi.device, phi.dtype)
    start = for_tasks(of.objective.unflatten(phi[: LAYOUT.size], 1), 3)
    *_, adapted = case.algorithm.adapt(of.objective, phi, start, batch, STEPS)
    moved = (of.objective.flatten(adapted) != phi[: LAYOUT.size]).any(0)
    update = case.algorithm.update(of, phi, batch, 0).gradient[: LAYOUT.size]
    adapts = case.alpha(LAYOUT)(phi, 0) != 0
    assert not (moved & ~adapts).any()
    for of_these in (moved[adapts], update[adapts] != 0, update[~adapts] != 0):  # some units answer to no sample
        assert not len(of_these) or of_these.double().mean() > 0.6


def test_steps_beyond_the_training_s_take_the_last_one_s_rates() -> None:
    algorithm = LSLR(0.2, STEPS)
    module, phi = at_random(algorithm, PROBLEM)
    of, batch = engine(PROBLEM, module), PROBLEM.batch().to(phi.device, phi.dtype)
    start = for_tasks(of.objective.unflatten(phi[: LAYOUT.size], 1), 3)
    path = list(algorithm.adapt(of.objective, phi, start, batch, 4))
    alpha = by_layer_and_step(LAYOUT)(phi, STEPS - 1)
    gradient = of.objective.flatten(of.objective.gradient(path[3], *batch.support_set).value)
    torch.testing.assert_close(of.objective.flatten(path[4]), of.objective.flatten(path[3]) - alpha * gradient)


@pytest.mark.parametrize("algorithm", [MAML(0.2, 1, beyond=0.5), LSLR(0.2, 2, beyond=0.5)])
def test_in_steps_beyond_the_training_s_the_rates_are_multiplied(algorithm: MAML) -> None:
    module, phi = at_random(algorithm, PROBLEM)
    of, batch = engine(PROBLEM, module), PROBLEM.batch().to(phi.device, phi.dtype)
    start = for_tasks(of.objective.unflatten(phi[: LAYOUT.size], 1), 3)
    halved, plain = (
        list(a.adapt(of.objective, phi, start, batch, 4)) for a in (algorithm, replace(algorithm, beyond=1.0))
    )
    trained = algorithm.inner_steps
    for k in range(trained + 1):
        assert torch.equal(of.objective.flatten(halved[k]), of.objective.flatten(plain[k]))
    moved = of.objective.flatten(plain[trained + 1]) - of.objective.flatten(plain[trained])
    torch.testing.assert_close(
        of.objective.flatten(halved[trained + 1]), of.objective.flatten(plain[trained]) + moved / 2
    )


def test_the_order_of_the_derivatives_and_the_weights_of_the_steps_follow_from_the_run() -> None:
    module, phi = at_random(MAML(), PROBLEM)
    of, batch = engine(PROBLEM, module), PROBLEM.batch()
    annealed = MAML(0.2, 2, first_order_runs=3)
    for number, order in ((0, True), (2, True), (3, False)):
        expected = MAML(0.2, 2, first_order=order).update(of, phi, batch, 0).gradient
        assert torch.equal(annealed.update(of, phi, batch, number).gradient, expected)
    weights = [MAML(0.2, 4, multi_step_runs=10).weights(number) for number in (0, 5, 9, 10, 10**6)]
    assert weights[0] == pytest.approx((0.25, 0.25, 0.25, 0.25))
    assert weights[1] == pytest.approx((0.125, 0.125, 0.125, 0.625))
    assert weights[2] == pytest.approx((0.025, 0.025, 0.025, 0.925))
    assert weights[3:] == [None, None]
    assert MAML(0.2, 1, multi_step_runs=10).weights(0) is None


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_reptile_goes_where_the_adaptation_leads(joint: bool, steps: int) -> None:
    problem, algorithm = PROBLEMS["conv4_stride"], Reptile(0.2, steps, joint)
    module, batch = problem.module(), problem.batch(5)
    of, phi = engine(problem, module), flatten(module)
    found = algorithm.update(of, phi, batch, 0)
    part = batch.to(phi.device, phi.dtype)
    both = Samples(*(torch.cat(each, 1) for each in zip(part.support_set, part.query_set, strict=True)))
    given = TaskBatch(both, both) if joint else part
    *_, adapted = adapt(of.objective, of.objective.unflatten(phi, 5), given, 0.2, steps)
    assert distance(found.gradient, (phi - of.objective.flatten(adapted)).sum(0)) < 1e-12
    losses, _ = of.objective.value(adapted, *part.query_set)
    torch.testing.assert_close(found.losses, losses)


def test_a_policy_adapts_by_reptile_on_trajectories_of_its_own_parameters_alone() -> None:
    """Each inner step samples support and query trajectories anew, with the parameters that it has reached."""
    family, walked = Navigation(trajectories=2, horizon=3), []
    module = GaussianPolicy((4,)).build((2,), 4).double()
    batch = family.sample("train", generator(0, Purpose.TRAINING, 0), 2).to(torch.device("cpu"), torch.float64)
    of, phi = Engine(objective_for(module, (2,), family.loss)), flatten(module)

    class Watched(Batch):
        def support(self, step: int, act: Act) -> Samples:
            walked.append((step, act(torch.ones(2, 1, 2, dtype=torch.float64))[0, 0, 0].item()))
            return batch.support(step, act)

        def query(self, act: Act) -> Samples:
            walked.append((None, act(torch.ones(2, 1, 2, dtype=torch.float64))[0, 0, 0].item()))
            return batch.query(act)

        def __len__(self) -> int:
            return len(batch)

        def part(self, tasks: slice) -> Watched:
            return self

        def to(self, device: torch.device, dtype: torch.dtype) -> Watched:
            return self

    Reptile(0.5, 3).update(of, phi, Watched(), 0)
    steps, seen = zip(*walked, strict=True)
    assert steps == (0, None, 1, None, 2, None, None)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 4


def test_the_head_of_a_policy_is_its_last_layer_with_all_that_follows() -> None:
    policy = Layout.of(GaussianPolicy((5,)).build((2,), 4))
    assert ANIL().patterns(policy) == ("2.weight", "2.bias", "3.values")
    assert BOIL().patterns(policy) == ("0.weight", "0.bias")


def test_the_head_of_a_parametrized_layer_is_the_layer() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    own = tuple(name for name in Layout.of(net).names if name.startswith("2."))
    assert ANIL().patterns(Layout.of(net)) == own
    assert "2.bias" in own
    assert BOIL().patterns(Layout.of(net)) == ("0.weight", "0.bias")
    assert [name for name in LSLR().learned(Layout.of(net)) if ":2" in name] == ["inner_lr:2"]


def test_a_last_layer_that_is_tied_to_another_is_to_be_named() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(7, 4), "hidden": nn.Linear(4, 4), "out": nn.Linear(4, 7)})
    net["out"].weight = net["embed"].weight
    for algorithm in (ANIL(), BOIL()):
        with pytest.raises(ValueError, match=r"out.bias has no weight to be trained with it.*algorithm.adapted"):
            algorithm.patterns(Layout.of(net))


class Swapped(nn.Module):
    """Its head is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(4, 2), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def test_a_head_that_is_not_the_last_to_be_registered_is_to_be_named() -> None:
    module, x = Swapped(), torch.randn(5, 3)
    layout = Layout.of(module)
    for algorithm in (ANIL(), BOIL()):
        with pytest.raises(ValueError, match=r"would take body\.1\.weight for the .* but head is called last"):
            check_head(algorithm, layout, module, x)
    for algorithm in (ANIL(adapted=("head.*",)), MAML()):
        check_head(algorithm, layout, module, x)
    check_head(ANIL(), Layout.of(module.body), module.body, x)
    policy = GaussianPolicy((5,)).build((3,), 4)
    check_head(ANIL(), Layout.of(policy), policy, x)


def test_a_head_may_have_any_name() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b[1]": nn.Linear(2, 2)})
    assert ANIL().rates(Layout.of(net)).fixed == {"a.weight", "a.bias"}  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [("inner_lr", 0), ("inner_steps", -1), ("first_order_runs", -1)])
def test_fields_out_of_range_are_refused_by_name(bad: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=f"algorithm.{bad[0]} must be"):
        MAML(**dict([bad]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "fits"), [(1, True), (np.float32(0.25), True), (None, False), ("0.1", False), (torch.tensor(0.1), False)]
)
def test_rates_of_a_subclass_are_a_number_or_rates(given: object, fits: bool) -> None:
    class Own(MAML):
        def rates(self, layout: Layout) -> object:  # type: ignore[override]
            return given

    layout = Layout.of(nn.Linear(2, 1))
    if fits:
        assert Own().learned(layout) == {}
    else:
        with pytest.raises(ValueError, match=r"algorithm: Own\.rates must give a number or Rates, not "):
            Own().learned(layout)


def test_a_model_of_one_layer_has_no_body() -> None:
    with pytest.raises(ValueError, match="BOIL adapts all but the last layer, and the model has one layer alone"):
        BOIL().learned(Layout.of(nn.Linear(2, 1)))


WHOLE: dict[str, Algorithm] = {
    "ANIL": ANIL(0.05, 2),
    "BOIL": BOIL(0.05, 2),
    "frozen": MAML(0.05, adapted=("0.*",)),
    "MetaSGD": MetaSGD(0.05, 2),
    "LSLR": LSLR(0.05, 2, multi_step_runs=2, first_order_runs=1),
    "Reptile": Reptile(0.05, 3),
}
every_algorithm = pytest.mark.parametrize("algorithm", WHOLE.values(), ids=WHOLE)


@every_algorithm
def test_a_job_that_was_interrupted_goes_on_to_the_last_bit(algorithm: Algorithm, tmp_path: Path) -> None:
    config = small_config(algorithm=algorithm, runs=4, workers=2, epochs=2, local_lr=0.01, optimizer=Adam(0.01))
    whole = run(config, tmp_path)
    run(replace(config, runs=2), tmp_path, name="parts.h5")
    parts = run(replace(config, resume=str(tmp_path / "parts.h5")), tmp_path, name="parts.h5")
    assert not differing(whole, parts) - {"checkpoint/restarts"}


@every_algorithm
def test_a_trained_model_adapts_as_validation_does(algorithm: Algorithm, tmp_path: Path) -> None:
    """One held-out task: the loss after each step, from the file alone."""
    config = small_config(algorithm=algorithm, runs=3, optimizer=Adam(0.01))
    source = run(config, tmp_path)
    trained = load(source.path)
    from hpc_dmaml.randomness import Purpose, generator

    batch = config.task.load().sample("validation", generator(0, Purpose.VALIDATION, 2), 5)
    x, y = (torch.from_numpy(each[1]) for each in batch.query_set)
    for steps in range(3):
        adapted = trained.adapt(batch.support_set.x[1], batch.support_set.y[1], steps)
        loss = torch.nn.functional.mse_loss(adapted(x), y).item()
        assert loss == pytest.approx(source["validation/loss"][-1, steps, 1], rel=1e-10)
    if trained.learned.numel():
        with pytest.raises(ValueError, match="has learned its inner rates"):
            trained.adapt(batch.support_set.x[1], batch.support_set.y[1], lr=0.1)


def test_learned_rates_stand_in_the_file_by_name_and_start_a_job_that_goes_on_from_it(tmp_path: Path) -> None:
    source = run(small_config(algorithm=MetaSGD(0.05), optimizer=Adam(0.01)), tmp_path)
    names = source["meta_model/names"].tolist()
    assert names[4:] == [f"inner_lr:{name}" for name in names[:4]]
    assert len(source["meta_model/parameters"]) == 2 * 19
    still = small_config(
        init_from=str(source.path), runs=1, optimizer=SGD(1e-300), validation=small_config().validation
    )
    again = run(replace(still, algorithm=MetaSGD(0.9)), tmp_path, name="same.h5")
    np.testing.assert_array_equal(again["meta_model/parameters"], source["meta_model/parameters"])
    scaled = run(replace(still, algorithm=MetaSGD(0.9, scale=0.1)), tmp_path, name="scaled.h5")
    np.testing.assert_allclose(0.1 * scaled["meta_model/parameters"][19:], source["meta_model/parameters"][19:])
    plain = run(replace(still, algorithm=MAML(0.05)), tmp_path, name="plain.h5")
    np.testing.assert_array_equal(plain["meta_model/parameters"], source["meta_model/parameters"][:19])
    other = run(replace(still, algorithm=LSLR(0.3), init_from=str(plain.path)), tmp_path, name="other.h5")
    np.testing.assert_array_equal(other["meta_model/parameters"][19:], [0.3, 0.3])
    np.testing.assert_array_equal(other["meta_model/parameters"][:19], plain["meta_model/parameters"])


def test_an_algorithm_that_does_not_fit_the_model_is_refused_before_any_work(tmp_path: Path) -> None:
    from hpc_dmaml.communicator import Refusal

    for algorithm, model, message in (
        (MAML(adapted=("head.*",)), small_config().model, "no parameter of the model is named 'head"),
        (BOIL(), Module("torch.nn.Linear", {"in_features": 1, "out_features": 1}), "has one layer alone"),
    ):
        with pytest.raises(Refusal, match=message):
            run(small_config(algorithm=algorithm, model=model), tmp_path)
        assert not results_in(tmp_path)


def results_in(folder: Path) -> list[Path]:
    return list(folder.glob("*.h5"))


def test_a_file_of_another_algorithm_is_not_gone_on_with(tmp_path: Path) -> None:
    source = run(small_config(algorithm=MetaSGD(0.05)), tmp_path)
    with pytest.raises(ValueError, match="holds the parameters of another model: inner_lr:0"):
        run(small_config(algorithm=MAML(0.05), resume=str(source.path), runs=4), tmp_path)
    assert results.read(source.path).status == "complete"
