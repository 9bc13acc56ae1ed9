"""Navigation: what a policy walks, what it is told of it, and what is learned from that."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_dmaml.algorithms import MAML
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig, Validation, parse
from hpc_dmaml.engine import Engine, InnerLoop, meta_gradient, objective_for
from hpc_dmaml.evaluate import evaluate
from hpc_dmaml.evaluate import parse as parse_evaluation
from hpc_dmaml.models import Conv4, GaussianPolicy, Module
from hpc_dmaml.optimizers import SGD, Adam
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import Court, Navigation, TaskFamily
from hpc_dmaml.tasks.navigation import Plane, Points
from hpc_dmaml.tasks.rollouts import RIDGE, Trajectories, advantages, baseline, normalised, samples
from hpc_dmaml.weight_generators import LossWeighted
from tests.engine.reference import call, distance
from tests.helpers import differing, run, small_config

FAMILIES: dict[str, Plane] = {
    "navigation": Navigation(trajectories=3, horizon=7),
    "court": Court(trajectories=3, horizon=7),
    "court, distance alone": Court(trajectories=2, horizon=5, difficulty="very_hard"),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def tasks(family: Plane, number: int = 4) -> Points:
    batch = family.sample("train", generator(0, Purpose.TRAINING, 0), number)
    return batch.to(torch.device("cpu"), torch.float64)


def act(x: Tensor) -> Tensor:
    """Some policy, the same to the last bit for a task alone and among others."""
    mean = torch.stack([x.sum(-1).sin(), x[..., 0].cos()], -1)
    return torch.cat([mean, torch.full_like(mean, -1.0)], -1)


@every_family
def test_whoever_walks_the_tasks_walks_the_same(family: Plane) -> None:
    """Alone, in parts, or all at once; the query's walk is another than the inner steps'."""
    batch = tasks(family)
    whole = batch.walk(1, act)
    for part in (slice(0, 1), slice(1, 3), slice(3, 4)):
        for one, other in zip(batch.part(part).walk(1, act), whole, strict=True):
            assert (one is None and other is None) or torch.equal(one, other[part])
    assert torch.equal(batch.walk(1, act).actions, whole.actions)
    assert not torch.equal(batch.walk(0, act).actions, whole.actions)
    assert not torch.equal(batch.query(act).y, batch.support(1, act).y)
    assert not torch.equal(whole.actions[0, 0], whole.actions[0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_a_walk_is_the_rule_step_by_step(seed: int) -> None:
    """By plain numbers: the position, clipped steps, −distance after them, nothing behind the end."""
    family = Navigation(trajectories=2, horizon=40, extent=0.2)
    batch = family.sample("train", generator(seed, Purpose.TRAINING, 0), 1).to(torch.device("cpu"), torch.float64)
    goal = batch.goals[0]
    homing = lambda x: torch.cat([(goal - x) / 0.2, torch.full_like(x, -2.0)], -1)  # noqa: E731
    walked = batch.walk(0, homing)
    noise = batch._noise(0)[0]
    ended = 0
    for n in range(2):
        position, is_over = np.zeros(2), False
        for t in range(40):
            assert walked.made[0, n, t] == (not is_over)
            if is_over:
                assert walked.rewards[0, n, t] == 0
                ended += 1
                continue
            np.testing.assert_allclose(walked.states[0, n, t], position, atol=1e-12)
            action = (goal.numpy() - position) / 0.2 + np.exp(-2.0) * noise[n, t].numpy()
            np.testing.assert_allclose(walked.actions[0, n, t], action, rtol=1e-9)
            position = position + 0.1 * np.clip(action, -1, 1)
            away = position - goal.numpy()
            np.testing.assert_allclose(walked.rewards[0, n, t], -np.hypot(*away), rtol=1e-9)
            is_over = bool((np.abs(away) < 0.01).all())
    assert ended  # a trajectory that ends early was among them


def test_the_court_turns_and_steps_as_the_thesis_says() -> None:
    court, goal = Court(), torch.tensor([[[200.0, 100.0]]])
    at = torch.tensor([[[100.0, 100.0]]])
    for action, where in (
        ((-0.5, 1.0), (90, 100)),
        ((-1.0, 1.0), (100, 110)),
        ((0.5, 0.0), (105, 100)),
        ((1, -1), (100, 100)),
    ):
        after, reward, is_last = court.move(at, torch.tensor([[action]], dtype=torch.float32), goal)
        np.testing.assert_allclose(after[0, 0], where, rtol=1e-5)
        assert reward.item() == pytest.approx(-np.hypot(where[0] - 200, where[1] - 100) / 10 - 1, rel=1e-5)
        assert not is_last
    after, reward, is_last = court.move(torch.tensor([[[196.0, 100.0]]]), torch.tensor([[[0.0, -1.0]]]), goal)
    assert (reward.item(), is_last.item()) == (1000.0, True)
    after, _, _ = court.move(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[-0.25, 1.0]]]), goal)
    assert (after >= 0).all()


@every_family
def test_who_goes_straight_for_the_goal_does_best(family: Plane) -> None:
    family = replace(family, horizon=60)
    batch = tasks(family, 20)
    walked = batch.walk(0, act).rewards.sum(-1).mean(-1)
    assert (batch.oracle() > walked).all()
    if isinstance(family, Court):
        assert batch.oracle().max() > 900


def a_walk(seed: int = 0) -> Trajectories:
    """Of 2 tasks, 3 trajectories, 6 steps, some of which end early."""
    rng = torch.Generator().manual_seed(seed)
    states, actions = (torch.randn(2, 3, 6, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    lengths = torch.tensor([[6, 3, 5], [1, 6, 4]])
    made = (torch.arange(6) < lengths.unsqueeze(-1)).double()
    return Trajectories(states, actions, torch.randn(2, 3, 6, generator=rng, dtype=torch.float64) * made, made)


def test_the_baseline_is_each_tasks_ridge_regression_of_the_returns_to_come() -> None:
    of = a_walk()
    found = baseline(of, 0.9)
    for b in range(2):
        rows, wanted = [], []
        for n in range(3):
            for t in range(int(of.made[b, n].sum())):
                s = of.states[b, n, t].numpy()
                rows.append([*s, *s**2, t / 100, (t / 100) ** 2, (t / 100) ** 3, 1.0])
                wanted.append(sum(0.9 ** (u - t) * of.rewards[b, n, u].item() for u in range(t, 6)))
        features = np.array(rows)
        weights = np.linalg.solve(features.T @ features + RIDGE * np.eye(8), features.T @ np.array(wanted))
        np.testing.assert_allclose(found[b][of.made[b] > 0], features @ weights, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("discount", "smoothing"), [(0.9, 1.0), (0.99, 0.7), (1.0, 0.0)])
def test_advantages_are_the_sum_that_defines_them(discount: float, smoothing: float) -> None:
    of = a_walk()
    value, found = baseline(of, discount), advantages(of, discount, smoothing)
    for b, n in np.ndindex(2, 3):
        length = int(of.made[b, n].sum())
        v = [*value[b, n, :length].tolist(), 0.0]
        delta = [of.rewards[b, n, t].item() + discount * v[t + 1] - v[t] for t in range(length)]
        for t in range(6):
            expected = sum((discount * smoothing) ** k * delta[t + k] for k in range(length - t)) if t < length else 0.0
            assert found[b, n, t].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_steps_that_were_not_made_count_nowhere() -> None:
    of = a_walk()
    given = samples(of, 0.9, 1.0)
    made, advantage = of.made.reshape(2, -1) > 0, given.y[..., 2]
    for b in range(2):
        assert advantage[b][made[b]].mean().item() == pytest.approx(0, abs=1e-12)
        assert advantage[b][made[b]].std(correction=0).item() == pytest.approx(1, abs=1e-6)
        assert (advantage[b][~made[b]] == 0).all()
    loss = Navigation().loss
    torch.testing.assert_close(loss.measure(given.x, given.y), of.rewards.sum(-1).mean(-1))
    z = torch.randn(2, 18, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for b in range(2):
        alone = [each[b : b + 1, made[b]] for each in (z, given.y)]
        assert loss.value(*alone).item() == pytest.approx(loss.value(z, given.y)[b].item(), rel=1e-12)
    assert normalised(of.made, of.made).abs().max() < 1e-6


@pytest.mark.parametrize("form", ["log_probability", "ratio"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_meta_gradient_is_that_of_autograd_with_the_trajectories_held_fixed(
    form: Any, steps: int, activation: Any
) -> None:
    """Of both ways to differentiate. MAML's own estimator: what was sampled is not differentiated."""
    family = Navigation(trajectories=2, horizon=6, form=form)
    torch.manual_seed(0)
    module = GaussianPolicy((5,), activation, log_sigma=-0.3).build((2,), 4).double()
    batch, inner = tasks(family, 3), InnerLoop(0.3, steps)
    theta, layout, loss = flatten(module).requires_grad_(), Layout.of(module), family.loss
    losses = []
    for b in range(3):
        own, alone = theta, batch.part(slice(b, b + 1))
        for step in range(steps + 1):
            named = layout.views(own)
            policy = lambda x, named=named: call(module, named, x[0])[None].detach()  # noqa: E731
            x, y = alone.support(step, policy) if step < steps else alone.query(policy)
            value = loss.value(call(module, named, x[0])[None], y)[0]
            if step < steps:
                gradients = torch.autograd.grad(value, list(named.values()), create_graph=True)
                own = own - 0.3 * torch.cat([g.reshape(-1) for g in gradients])
        losses.append(value)
    expected = torch.autograd.grad(torch.stack(losses).sum(), theta)[0]
    for layerwise in (True, False):
        objective = objective_for(module, (2,), loss, layerwise=layerwise)
        assert objective.derivatives == ("layerwise" if layerwise else "autograd")
        for chunk in (1, 3):
            found = meta_gradient(Engine(objective, chunk), theta.detach(), batch, inner)
            assert distance(found.gradient, expected) < 1e-9
            torch.testing.assert_close(found.losses, -found.metric)


def config(task: TaskFamily | None = None, **changes: Any) -> RunConfig:
    task = task or Navigation(trajectories=3, horizon=8)
    base = small_config(task=task, model=GaussianPolicy((6,)), tasks=3, optimizer=Adam(0.01), algorithm=MAML(0.1))
    return replace(base, **changes)


@every_family
def test_a_job_reports_returns_and_goes_on_to_the_last_bit(family: Plane, tmp_path: Path) -> None:
    of = config(family, runs=4, workers=2, weight_generator=LossWeighted())
    whole = run(of, tmp_path)
    metric = whole.metric
    assert metric is not None
    assert (metric.name, metric.higher_is_better) == ("return", True)
    np.testing.assert_array_equal(whole["workers/loss"], -whole["workers/metric"])
    np.testing.assert_array_equal(whole["validation/loss"], -whole["validation/metric"])
    assert whole.attribute("best_score") == whole["validation/metric"][:, -1].mean(-1).max()
    run(replace(of, runs=2), tmp_path, name="parts.h5")
    parts = run(replace(of, resume=str(tmp_path / "parts.h5")), tmp_path, name="parts.h5")
    assert not differing(whole, parts) - {"checkpoint/restarts"}


@every_family
def test_a_file_keeps_a_few_trajectories_before_and_after_each_step(family: Plane, tmp_path: Path) -> None:
    of = config(family, runs=2, validation=Validation(every=2, tasks=6, steps=2, fixed=True))
    whole, chunked = run(of, tmp_path), run(replace(of, chunk=1), tmp_path, name="chunked.h5")
    positions, goals = whole["trajectories/position"], whole["trajectories/goal"]
    assert positions.shape == (3, 4, min(5, family.trajectories), family.horizon, 2)
    assert goals.shape == (4, 2)
    drawn = family.sample("validation", generator(of.seed, Purpose.VALIDATION, 0), 6)
    np.testing.assert_array_equal(goals, drawn.goals[:4])
    assert (positions[:, :, :, 0] == drawn.starts[:4, None]).all()
    assert not np.array_equal(positions[0], positions[2])
    np.testing.assert_allclose(chunked["trajectories/position"], positions)


def test_results_do_not_depend_on_how_many_tasks_are_computed_at_once(tmp_path: Path) -> None:
    together, one_by_one = (run(config(chunk=n), tmp_path, name=f"{n}.h5") for n in (3, 1))
    for name in ("meta_model/parameters", "validation/metric"):
        np.testing.assert_allclose(one_by_one[name], together[name], rtol=1e-9)


def test_a_policy_learns_to_adapt(tmp_path: Path) -> None:
    """Goals on a small square, short trajectories: after one step the return is better than before, and than at first."""
    task = Navigation(trajectories=20, horizon=20)
    of = config(
        task, runs=60, tasks=10, model=GaussianPolicy((30,)), optimizer=Adam(0.01), algorithm=MAML(0.5), dtype="float32"
    )
    source = run(replace(of, validation=Validation(every=30, tasks=30, steps=1, fixed=True)), tmp_path)
    before, after = source["validation/metric"][-1].mean(-1)
    assert after > before + 1


def test_evaluation_stands_beside_an_oracle_and_a_random_initialisation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(config(), tmp_path).path
    assert evaluate(parse_evaluation([str(path), "--tasks", "5", "--steps", "1"]), Communicator()) == 0
    text = capsys.readouterr().out
    assert text.count("after step 1") == 2
    assert "from a random initialisation:" in text
    assert "who knows the task:  return -" in text


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"trajectories": 0}, "task.trajectories must be 1 or more, not 0"),
        ({"horizon": 0}, "task.horizon must be 1 or more"),
        ({"discount": 1.5}, "task.discount must be from 0 to 1"),
        ({"extent": -1.0}, "task.extent must be positive"),
    ],
)
def test_fields_out_of_range_are_refused_by_name(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Navigation(**bad).load()


def test_a_policy_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model Conv4 needs images"):
        run(config(model=Conv4()), tmp_path)
    with pytest.raises(ValueError, match="GaussianPolicy gives means and as many log σ, but the task wants 3 outputs"):
        GaussianPolicy().build((2,), 3)


def test_an_untrained_policy_stays_where_it_starts_on_average() -> None:
    """As Finn's: a mean that drifts before anything is learned leads a navigator away by hundreds of its returns."""
    policy = GaussianPolicy().build((2,), 4)
    at_start = policy(torch.zeros(1, 2))[0]
    assert at_start[:2].tolist() == [0, 0]
    further = policy(torch.tensor([[0.1, -0.2], [0.2, -0.4]]))[:, :2]
    torch.testing.assert_close(further[1], 2 * further[0])


def test_the_preset_is_what_it_says() -> None:
    preset = parse(["--config", "navigation"])
    assert preset.task == Navigation(trajectories=20, horizon=100)
    assert isinstance(preset.model, GaussianPolicy)
    assert preset.algorithm == MAML(0.5, 1, beyond=0.5)


def test_any_module_of_the_users_can_be_a_policy(tmp_path: Path) -> None:
    source = run(config(model=Module("tests.helpers.Residual"), optimizer=SGD(1e-3)), tmp_path)
    assert source.attribute("derivatives") == "autograd"


@pytest.mark.long
def test_the_trajectories_of_a_trained_policy_are_drawn(tmp_path: Path) -> None:
    path = run(config(), tmp_path).path
    script = Path(__file__).parents[2] / "examples" / "trajectories.py"
    command = [sys.executable, str(script), str(path), "--tasks", "2", "--output", str(tmp_path / "x.png")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    sines = run(small_config(), tmp_path, name="sines.h5").path
    refused = subprocess.run([*command[:2], str(sines)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "was trained on Sinusoid, which has no positions to draw" in refused.stderr
