"""Tasks in environments of Gymnasium: what is sampled depends on nothing but task, step and trajectory."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from examples import own_environment
from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import Checkpoint, Validation, from_yaml, own_parts, parse, to_yaml
from hpc_dmaml.launch import launch
from hpc_dmaml.models import MLP, GaussianPolicy
from hpc_dmaml.optimizers import Adam
from hpc_dmaml.requirements import TaskFailure
from hpc_dmaml.run import run_job
from hpc_dmaml.tasks import Gymnasium
from hpc_dmaml.tasks.rollouts import QUERY, Watch, first_success
from tests.helpers import differing, docstring_command, run, small_config
from tests.processes import needs_mpirun
from tests.test_mpirun import mpirun

gymnasium = pytest.importorskip("gymnasium")
spaces = gymnasium.spaces


class Point(gymnasium.Env):
    """A point on a line with a goal; its observation is a row of a position and a constant."""

    observation_space = spaces.Box(-np.inf, np.inf, (1, 2))
    action_space = spaces.Box(-0.5, 0.5, (1,), np.float32)

    def __init__(self, slip: float = 0.0) -> None:
        self.slip, self.goal = slip, 0.0

    def sample_tasks(self, number):
        return [{"goal": goal} for goal in self.np_random.uniform(-1, 1, number)]

    def set_task(self, task):
        self.goal = task["goal"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.normal()
        return self._seen(), {}

    def step(self, action):
        self.position += self._pushed(action) + self.slip * self.np_random.normal()
        return self._seen(), -abs(self.position - self.goal), self._ends(), False, {}

    def _seen(self):
        return np.array([[self.position, 1.0]])

    def _pushed(self, action):
        assert self.action_space.contains(action)
        return float(action[0])

    def _ends(self):
        return False


class Left(Point):
    """Pushed by numbers that begin with −1."""

    action_space = spaces.Discrete(3, start=-1)

    def _pushed(self, action):
        assert self.action_space.contains(action)
        return 0.3 * action


class Ending(Point):
    """An episode ends far from the start."""

    def _ends(self):
        return abs(self.position) > 1


class Wandering(Point):
    """Its goal moves, in the task that it was given."""

    def set_task(self, task):
        self.task = task

    def step(self, action):
        self.task["goal"] += 0.1
        self.goal = self.task["goal"]
        return super().step(action)


class Wrapped(gymnasium.Wrapper):
    """The task is set inside, by the other of the two names."""

    def __init__(self):
        super().__init__(gymnasium.wrappers.TimeLimit(Point(0.1), 4))

    def reset_task(self, task):
        self.env.unwrapped.set_task(task)


class Reaching(Point):
    """Success is to be near the goal, which lies elsewhere in the test."""

    tells_success = True

    def sample_tasks(self, number, split):
        sign = -1 if split == "test" else 1
        return [{"goal": sign * goal} for goal in self.np_random.uniform(0.5, 1, number)]

    def step(self, action):
        seen, reward, *_ = super().step(action)
        return seen, reward, False, False, {"success": -reward < 0.3}


class Breaking(Point):
    def step(self, action):
        raise OSError("the simulator is gone")


class Fragile(Point):
    """Breaks down in the middle of a job."""

    left = 2000

    def step(self, action):
        Fragile.left -= 1
        if Fragile.left < 0:
            raise OSError("the simulator is gone")
        return super().step(action)


class Unrewarding(Point):
    def step(self, action):
        return self._seen(), np.nan, False, False, {}


class Vectorial(Point):
    def step(self, action):
        return self._seen(), np.zeros(2), False, False, {}


class Long(Point):
    def step(self, action):
        return np.append(self._seen(), 0.0), 0.0, False, False, {}


class Blind(Point):
    observation_space = spaces.Discrete(2)


class Manifold(Point):
    action_space = spaces.MultiBinary(2)


class TooFew(Point):
    def sample_tasks(self, number):
        return []


class Aimless(gymnasium.Env):
    observation_space, action_space = Point.observation_space, Point.action_space


class NoEnvironment:
    pass


def family(kind=Point, **changes) -> Gymnasium:
    return Gymnasium(**{"path": f"{__name__}.{kind.__name__}", "trajectories": 3, "horizon": 6, **changes})


def batch(of: Gymnasium, tasks: int = 4, part=slice(None)):
    drawn = of.load().sample("train", np.random.default_rng(5), tasks, part)
    return drawn.to(torch.device("cpu"), torch.float64)


def act(x):
    """A policy: mean and log σ; or three logits."""
    return torch.stack([-0.3 * x[..., 0], torch.full_like(x[..., 0], -0.5)], -1)


def choose(x):
    return torch.stack([x[..., 0], torch.zeros_like(x[..., 0]), -x[..., 0]], -1)


KINDS = [
    (family(Point, arguments={"slip": 0.1}), act),
    (family(Left, arguments={"slip": 0.1}), choose),
    (family(Ending, horizon=12), act),
    (family(Wrapped), act),
    (family(Wandering), act),
    (family(Point, ranges={"slip": (0.0, 1.0)}), act),
]


@pytest.mark.parametrize(("of", "policy"), KINDS, ids=lambda of: getattr(of, "name", ""))
def test_trajectories_do_not_depend_on_which_tasks_are_sampled_together_or_again(of, policy):
    whole = batch(of)
    for step in (0, 1, QUERY):
        expected = whole.walk(step, policy)
        for part in (slice(0, 1), slice(1, 4), slice(3, 4)):
            for some in (whole.part(part), batch(of, part=part)):
                given = some.walk(step, policy)
                pairs = [(a, b[part]) for a, b in zip(given, expected, strict=True) if b is not None]
                assert len(pairs) == 5
                assert all(torch.equal(a, b) for a, b in pairs)
    support, query = whole.support(0, policy), whole.query(policy)
    assert not torch.equal(support.x, query.x)
    assert support.x.shape == (4, of.trajectories * of.horizon, 2)
    assert all(each.isfinite().all() for each in (*support, *query))


@pytest.mark.parametrize("kind", [Point, Left, Ending])
def test_trajectories_are_those_of_a_plain_loop(kind):
    of, policy = family(kind, horizon=12), choose if kind is Left else act
    whole, choices = batch(of), 3 if kind is Left else 1
    given = whole.walk(1, policy)
    env = kind()
    for b, n in ((0, 0), (2, 1)):
        rng = np.random.Generator(np.random.Philox(key=[int(whole.keys[b]), 1]))
        seeds, noise = rng.integers(2**31, size=3), torch.from_numpy(rng.standard_normal((3, 12, choices)))
        env.set_task(whole.tasks[b])
        state, _ = env.reset(seed=int(seeds[n]))
        made = 1.0
        for t in range(12):
            assert given.made[b, n, t] == made
            if not made:
                assert not any(each[b, n, t].any() for each in given if each is not None)
                continue
            x = torch.from_numpy(state).reshape(-1)
            assert torch.equal(given.states[b, n, t], x)
            z = policy(x)
            if kind is Left:
                action = int(given.actions[b, n, t])
                gumbel = -(-torch.distributions.Normal(0, 1).cdf(noise[n, t]).log()).log()
                assert action == int((z + gumbel).argmax())
                state, reward, ends, *_ = env.step(action - 1)
            else:
                action = z[0] + z[1].exp() * noise[n, t]
                assert torch.equal(given.actions[b, n, t], action)
                state, reward, ends, *_ = env.step(action.numpy().clip(-0.5, 0.5).astype(np.float32))
            assert given.rewards[b, n, t] == reward
            made = float(not ends)


def test_success_is_the_share_of_trajectories_that_have_it_at_any_step():
    environments = family(Reaching, trajectories=20).load()
    whole = environments.sample("train", np.random.default_rng(5), 6).to(torch.device("cpu"), torch.float64)
    walked, watch = whole.walk(QUERY, act), Watch(first_success)
    away = (walked.states[..., 0] + walked.actions[..., 0].clamp(-0.5, 0.5)) - torch.tensor(
        [[[task["goal"]]] for task in whole.tasks]
    )
    expected = (away.abs() < 0.3).any(-1).double().mean(-1)
    assert 0 < expected.mean() < 1
    x, y = whole.watched(watch).query(act)
    assert torch.allclose(environments.loss.measure(x, y), expected)
    assert torch.allclose(environments.loss.reported(x, x, y), -walked.rewards.sum(-1).mean(-1))
    firsts = [watch.kept[key][0] for key in whole.keys.tolist()]
    assert [float((first < 6).mean()) for first in firsts] == expected.tolist()
    assert all(walked.success[b, n, t] for b, of in enumerate(firsts) for n, t in enumerate(of) if t < 6)


def test_an_environment_may_have_other_tasks_in_each_split():
    environments = family(Reaching).load()
    goals = {
        split: [task["goal"] for task in environments.sample(split, np.random.default_rng(0), 5).tasks]
        for split in ("train", "test")
    }
    assert min(goals["train"]) > 0 > max(goals["test"])


def test_steps_behind_an_end_are_masked():
    made = batch(family(Ending, horizon=12)).walk(0, act).made
    lengths = made.sum(-1)
    assert (made.cumprod(-1) == made).all()
    assert lengths.min() < 12
    assert len(lengths.unique()) > 1
    assert (batch(family(Wrapped)).walk(0, act).made.sum(-1) == 4).all()  # by a time limit of its own


def test_discrete_actions_come_with_the_policys_probabilities():
    environments = family(Left).load()
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((20000, 3)))
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    drawn = environments.actions(p.log().expand(20000, 3), noise)
    assert torch.allclose(drawn.long().flatten().bincount() / 20000, p.float(), atol=0.02)


def test_shapes_and_loss_follow_from_the_environment():
    point, left = family(Point).load(), family(Left, form="ratio").load()
    assert (point.sample_shape, point.outputs, left.outputs) == ((2,), 2, 3)
    assert type(point.loss).__name__ == "GaussianPolicyGradient"
    assert (type(left.loss).__name__, left.loss.form) == ("CategoricalPolicyGradient", "ratio")


def test_environments_are_made_once():
    whole = batch(family(Point))
    whole.walk(0, act)
    before = [place.env for place in whole.environments.places(12)]
    whole.walk(1, act)
    assert all(a is b.env for a, b in zip(before, whole.environments.places(12), strict=True))


def test_success_is_what_a_job_is_judged_by(tmp_path):
    result = run(job(Reaching, runs=2), tmp_path)
    assert (result.metric.name, result.metric.is_share) == ("success", True)
    assert ((result["workers/metric"] >= 0) & (result["workers/metric"] <= 1)).all()
    assert (result["workers/loss"] > 0).all()  # of distances


def test_a_policy_that_is_not_finite_gives_a_return_that_is_not():
    assert batch(family(Point)).walk(0, lambda x: act(x) * np.nan).rewards[..., 0].isnan().all()


def job(kind=Point, **changes):
    model = MLP(hidden=(6,)) if kind is Left else GaussianPolicy(hidden=(6,))
    settings = {"model": model, "optimizer": Adam(lr=0.01), "validation": Validation(every=2, tasks=3, steps=1)}
    return small_config(task=family(kind), **{**settings, **changes})


@pytest.mark.parametrize("kind", [Point, Left, Ending])
def test_a_job_trains_and_a_resumed_one_is_the_same(kind, tmp_path):
    whole = run(job(kind, runs=4), tmp_path, name="whole.h5")
    assert whole.attribute("metric") == "return"
    assert np.isfinite(whole["workers/loss"]).all()
    chunked = run(job(kind, runs=4, chunk=2), tmp_path, name="chunked.h5")
    assert np.allclose(whole["workers/loss"], chunked["workers/loss"])
    run(job(kind, runs=2), tmp_path, name="half.h5")
    resumed = run(job(kind, runs=4, resume=str(tmp_path / "half.h5")), tmp_path, name="half.h5")
    assert differing(whole, resumed) <= {"checkpoint/restarts"}


@needs_mpirun
def test_ranks_that_share_the_tasks_give_what_one_gives(tmp_path):
    path = f"{__name__}.Ending"
    options = ["--task", "Gymnasium", "--task.path", path, "--task.horizon", "8", "--task.trajectories", "3"]
    options += ["--model", "GaussianPolicy", "--runs", "3", "--tasks", "2", "--workers", "2", "--exchange", "gather"]
    options += ["--validation.tasks", "3", "--validation.steps", "1", "--dtype", "float64", "--chunk", "1"]
    for ranks in (1, 2):
        done = mpirun(ranks, "hpc_dmaml", *options, "--output", f"{ranks}.h5", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (results.read(tmp_path / f"{ranks}.h5", verify=True) for ranks in (1, 2))
    assert differing(one, two) <= {"ranks/rank", "ranks/device"}


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (family(Blind), r"observations of .*Blind must be a Box, not Discrete\(2\)"),
        (family(Manifold), r"actions of .*Manifold must be a Box or Discrete, not MultiBinary"),
        (family(Breaking), r"task: .*Breaking, task \{'goal': .*\}: step failed: the simulator is gone"),
        (family(Unrewarding), r"task: .*Unrewarding, task \{'goal': .*\}: the reward is not finite"),
        (family(Vectorial), r"Vectorial, task .*: the reward must be 1 number, not 2"),
        (family(Long), r"Long, task .*: the observation must be \d numbers?, not \d"),
        (family(TooFew), r"TooFew.sample_tasks\(\d\) gives 0 tasks"),
        (family(Aimless), r"Aimless has no tasks: it needs sample_tasks"),
        (family(NoEnvironment), "NoEnvironment, which has no observation_space, action_space, reset, step"),
        (family(Point, arguments={"mass": 1}), "Point cannot be made: TypeError: .*'mass'"),
        (family(Point, horizon=0), "task.horizon must be 1 or more"),
        (family(Point, ranges={"slip": (1.0, 0.0)}), "task.ranges.slip must be a range"),
        (family(Point, path="tests.nowhere.Env"), "task.path: cannot import 'tests.nowhere.Env'"),
        (family(Point, path="torch.nn.functional.os.system"), "task.path: .* makes no environment"),
        (family(Point, path="math.pi"), "is a float, not a class or function"),
        (Gymnasium(environment="HalfCheetah-v55"), "has no environment 'HalfCheetah-v55'; did you mean"),
        (Gymnasium(environment="antigravity:Env-v0"), "has no environment 'antigravity:Env-v0'"),
        (Gymnasium(environment="Pendulum-v1"), "Pendulum-v1 has no tasks"),
        (Gymnasium(environment="HalfCheetahDirection", ranges={"a": (0.0, 1.0)}), "task.ranges must be left out"),
        (Gymnasium(), "task must be given an environment or a path"),
    ],
    ids=lambda each: each.name if isinstance(each, Gymnasium) else "",
)
def test_what_is_wrong_is_refused_and_named(of, message, tmp_path):
    with pytest.raises(Refusal, match=message):
        run(replace(job(), task=of), tmp_path)


def test_the_example_of_an_environment_of_ones_own_trains(tmp_path):
    command = docstring_command(own_environment, "mpirun")
    arguments = command[command.index("hpc_dmaml") + 1 :]
    few = "--runs 2 --tasks 2 --task.trajectories 2 --task.horizon 4 --validation.every 2 --validation.tasks 2 --threads 1"
    found = run(parse([*arguments, *few.split()]), tmp_path)
    assert found.status == "complete"
    assert found.config["task"]["init_args"]["path"] == "examples.own_environment.Room"
    assert np.isfinite(found["validation/metric"]).all()


def test_an_environment_that_fails_in_the_middle_is_named(tmp_path):
    with pytest.raises(TaskFailure, match=r"task: .*Fragile, task \{'goal': .*\}: step failed: the simulator is gone"):
        run(job(Fragile, runs=100), tmp_path)
    assert Fragile.left < 0


def test_it_ends_the_job_with_one_message_and_the_file_as_it_last_was(tmp_path, capsys, monkeypatch):
    codes: list[int] = []
    monkeypatch.setattr(Communicator, "abort", lambda self, code: codes.append(code))
    monkeypatch.setattr(Fragile, "left", 2000)
    config = replace(job(Fragile, runs=100), output=str(tmp_path / "x.h5"), checkpoint=Checkpoint(every=1))
    with pytest.raises(TaskFailure):
        launch(lambda: config, run_job)
    shown = capsys.readouterr().err
    assert codes == [1]
    assert "Traceback" not in shown
    assert shown.count("the simulator is gone") == 1
    assert results.read(tmp_path / "x.h5", verify=True)["runs/run"].size > 0


@pytest.mark.parametrize(("name", "extra"), [("HalfCheetahDirection", "mujoco"), ("Pendulum-v1", "gymnasium")])
def test_without_gymnasium_the_message_says_what_to_install(name, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ValueError, match=rf'pip install "hpc_dmaml\[{extra}\]"'):
        Gymnasium(environment=name).load()


def test_without_mujoco_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ValueError, match=r'pip install "hpc_dmaml\[mujoco\]"'):
        Gymnasium(environment="HalfCheetahDirection").load()


def test_a_file_may_name_an_environment_that_is_registered_but_import_none(tmp_path):
    registered = replace(small_config(), task=Gymnasium(environment="Pendulum-v1", ranges={"g": (5.0, 15.0)}))
    assert own_parts(registered) == []
    assert from_yaml(to_yaml(registered), lambda path: False) == registered
    with pytest.raises(ValueError, match="asks to import .*Point.*--trust"):
        from_yaml(to_yaml(job()), lambda path: False)


def test_constructor_arguments_are_tasks(tmp_path):
    of = Gymnasium(environment="Pendulum-v1", ranges={"g": (5.0, 15.0)}, trajectories=2, horizon=5)
    result = run(replace(job(), task=of), tmp_path)
    assert np.isfinite(result["workers/loss"]).all()


@pytest.mark.parametrize("preset", ["half_cheetah_direction", "half_cheetah_velocity", "ant_direction"])
def test_a_real_robot_runs(preset, tmp_path):
    pytest.importorskip("mujoco")
    config = parse(["--config", preset])
    short = replace(config.task, trajectories=2, horizon=5)
    config = replace(config, task=short, runs=2, tasks=2, validation=Validation(every=1, tasks=2, steps=1), threads=1)
    result = run(config, tmp_path)
    assert np.isfinite(result["workers/loss"]).all()


@pytest.mark.parametrize("name", ["HalfCheetahDirection", "HalfCheetahVelocity", "AntDirection"])
def test_a_robot_is_rewarded_for_the_velocity_that_the_task_wants(name):
    pytest.importorskip("mujoco")
    env = Gymnasium(environment=name).load().places(1)[0].env
    action, earned = np.full(env.action_space.shape, 0.7), []
    tasks = {"HalfCheetahDirection": (1.0, -1.0), "HalfCheetahVelocity": (0.0, 2.0), "AntDirection": (0.0, np.pi / 2)}
    for task in tasks[name]:
        env.set_task(task)
        env.reset(seed=0)
        for _ in range(5):
            _, reward, *_, info = env.step(action)
        costs = info["reward_ctrl"] + info.get("reward_contact", 0) + info.get("reward_survive", 0)
        earned.append(reward - costs)
    v, w = info["x_velocity"], info.get("y_velocity")
    expected = {"HalfCheetahDirection": (v, -v), "HalfCheetahVelocity": (-abs(v), -abs(v - 2)), "AntDirection": (v, w)}
    assert np.allclose(earned, expected[name])
    weight = 0.005 if name == "AntDirection" else 0.05
    assert np.isclose(info["reward_ctrl"], -weight * np.square(action).sum())
