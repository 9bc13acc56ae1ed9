"""Meta-World: goals of their own for each split, trajectories that depend on nothing before, two ways to count success."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest
import torch

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig, Validation, parse
from hpc_dmaml.evaluate import evaluate
from hpc_dmaml.evaluate import parse as parse_evaluation
from hpc_dmaml.models import GaussianPolicy
from hpc_dmaml.optimizers import Adam
from hpc_dmaml.tasks import MetaWorld
from hpc_dmaml.tasks.meta_world import official_count
from hpc_dmaml.tasks.rollouts import QUERY
from tests.helpers import run, small_config

REACH = MetaWorld(trajectories=2, horizon=20)


@pytest.fixture(scope="module")
def reach():
    pytest.importorskip("metaworld")
    return REACH.load()


def drawn(environments, split, tasks, seed=0):
    return environments.sample(split, np.random.default_rng(seed), tasks).to(torch.device("cpu"), torch.float64)


def act(x):
    """Towards where things lie."""
    return torch.cat([x[..., 4:7] - x[..., :3], torch.zeros_like(x[..., :1]), torch.full_like(x[..., :4], -1.0)], -1)


def test_splits_have_goals_of_their_own(reach):
    goals = {
        split: {tuple(np.frombuffer(task.task.data[-200:], np.uint8)) for task in drawn(reach, split, 50).tasks}
        for split in ("train", "validation", "test")
    }
    assert [len(each) for each in goals.values()] == [50, 50, 50]
    assert not goals["train"] & goals["test"]
    assert not goals["validation"] & (goals["train"] | goals["test"])


@pytest.mark.long
def test_a_batch_has_as_many_tasks_of_each_environment_as_can_be():
    pytest.importorskip("metaworld")
    environments = MetaWorld(benchmark="ML10", trajectories=1, horizon=3).load()
    train, test = (drawn(environments, split, 12) for split in ("train", "test"))
    times = [
        sorted([t.environment for t in b.tasks].count(n) for n in {t.environment for t in b.tasks})
        for b in (train, test)
    ]
    assert times == [[1] * 8 + [2] * 2, [2] * 3 + [3] * 2]
    assert not {t.environment for t in train.tasks} & {t.environment for t in test.tasks}
    first = train.walk(QUERY, act)
    test.walk(QUERY, act)
    again = train.walk(QUERY, act)  # by then the environments have been others' in the meantime
    assert torch.equal(first.states, again.states)
    assert torch.equal(first.rewards, again.rewards)


def test_trajectories_do_not_depend_on_what_was_played_before(reach):
    whole = drawn(reach, "train", 3)
    expected = whole.walk(QUERY, act)
    drawn(reach, "test", 3, seed=1).walk(0, act)
    alone = whole.part(slice(2, 3)).walk(QUERY, act)
    assert torch.equal(alone.states, expected.states[2:])
    assert torch.equal(alone.rewards, expected.rewards[2:])
    assert not torch.equal(expected.states[0], expected.states[2])


def test_a_job_is_judged_by_success_which_evaluation_counts_in_two_ways(tmp_path, capsys):
    pytest.importorskip("metaworld")
    config = small_config(
        task=REACH, model=GaussianPolicy((6,)), runs=2, tasks=2, optimizer=Adam(0.01), validation=Validation(1, 2, 1)
    )
    result = run(config, tmp_path, name="m.h5")
    assert result.metric.name == "success"
    assert "metaworld" in result.attribute("versions")
    assert "reward: v2" in result.attribute("config")
    evaluate(parse_evaluation([str(tmp_path / "m.h5"), "--tasks", "3"]), Communicator())
    shown = capsys.readouterr().out
    assert "success" in shown
    assert "by Meta-World's own count" in shown


def test_who_finishes_first_counts_for_all_in_the_official_count():
    """20 environments of one kind, of which 3 always succeed: 3 of 60 episodes are counted, and they are theirs."""
    never, soon = np.full(3, 500), np.full(3, 10)
    assert official_count(["reach"] * 20, [never] * 17 + [soon] * 3, 500) == 1
    assert official_count(["reach"] * 20, [never] * 20, 500) == 0
    assert official_count(["reach"] * 20, [never] * 19 + [np.array([300, 500, 500])], 500) == pytest.approx(1 / 3)
    # One that succeeds again and again has finished three episodes before the others have finished one.
    assert official_count(["reach"] * 20, [never] * 19 + [np.array([100, 100, 100])], 500) == 1
    # Each kind by itself, and each group of 20.
    assert official_count(["a", "b"], [soon, never], 500) == 0.5
    assert official_count(["a"] * 40, [soon] * 20 + [never] * 20, 500) == 0.5


@pytest.mark.parametrize(
    ("installed", "message"), [(None, "not installed"), ("4.0.0", "requires MuJoCo 3.3.0, but 4.0.0")]
)
def test_what_must_be_installed_is_said(installed, message, monkeypatch):
    def version(name):
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "requires", lambda name: ["gymnasium>=1.1", "mujoco==3.3.0"])
    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ValueError, match=message) as caught:
        MetaWorld().load()
    assert 'pip install "hpc_dmaml[metaworld]"' in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": "reech-v3"}, "no environment 'reech-v3'.*reach-v3"),
        ({"reward": "v3"}, "task.reward must be v1 or v2, not v3"),
        ({"horizon": 501}, "task.horizon must be at most 500"),
    ],
)
def test_fields_are_checked(changes, message):
    pytest.importorskip("metaworld")
    with pytest.raises(ValueError, match=message):
        MetaWorld(**changes).load()


@pytest.mark.parametrize("benchmark", ["ML1", "ML10", "ML45"])
def test_each_benchmark_has_a_preset(benchmark):
    config: RunConfig = parse(["--config", f"meta_world_{benchmark.lower()}"])
    assert isinstance(config.task, MetaWorld)
    assert config.task.benchmark == benchmark
