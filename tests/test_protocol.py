"""What a test says of seeds, of the best checkpoints together, and of one query at a time, against the same by hand."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, nll_loss

import hpc_dmaml
from hpc_dmaml import evaluate, protocol
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import Validation
from hpc_dmaml.engine import objective_for
from hpc_dmaml.losses import CrossEntropy, Metric
from hpc_dmaml.models import Conv4, GaussianPolicy, Module
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.run import run_job
from hpc_dmaml.setup import make_learner
from hpc_dmaml.state import Validation as Validated
from hpc_dmaml.stopping import Stop
from hpc_dmaml.tasks import Glyphs, Navigation, Samples, Sinusoid, TaskBatch
from hpc_dmaml.tasks.border import draw
from hpc_dmaml.validation import one_query_at_a_time, validate
from tests.helpers import run, small_config

KEPT = Validation(every=1, tasks=4, steps=2, keep=3)
LETTERS = small_config(
    task=Glyphs(ways=3, shots=2, queries=2), model=Conv4(filters=4, blocks=2), validation=KEPT, runs=4
)
SINES = small_config(validation=KEPT, runs=4)
TASKS = 3


class WithNorm(nn.Module):
    """No chain of known layers, with a batch norm."""

    def __init__(self, sample_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(784, 6), nn.BatchNorm1d(6), nn.Linear(6, outputs)

    def forward(self, x):
        hidden = self.norm(self.enter(x.flatten(1)))
        return self.leave(hidden * hidden.sigmoid())


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """The files of three seeds."""
    folder = tmp_path_factory.mktemp("letters")
    return [run(replace(LETTERS, seed=seed), folder, name=f"{seed}.h5").path for seed in range(3)]


@pytest.fixture(scope="module")
def sines(tmp_path_factory):
    return [run(SINES, tmp_path_factory.mktemp("sines")).path]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Modules of a user's own."""
    config = replace(LETTERS, model=Module("tests.test_protocol.WithNorm"))
    return [run(config, tmp_path_factory.mktemp("others")).path]


def numbers(files, folder, *arguments):
    """The rows of the CSV of a test, by section and step, numbers as such."""
    path = folder / f"{len(list(folder.iterdir()))}.csv"
    words = [*map(str, files), "--csv", str(path), "--tasks", str(TASKS), "--trust", *arguments]
    assert evaluate.evaluate(evaluate.parse(words), Communicator()) == 0
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["file"], int(row["step"])): row for row in csv.DictReader(file)}


def drawn(model, split="test"):
    """The tasks of the test, one after another: support and query."""
    sampler, rng = model.config.task.load(), generator(0, Purpose.EVALUATION, 0)
    batch = draw(sampler, split, rng, TASKS).to(torch.device("cpu"), torch.float64)
    return [
        tuple(Samples(*(each[i] for each in part)) for part in (batch.support_set, batch.query_set))
        for i in range(TASKS)
    ]


def by_hand(models, step, inductive=False):
    """Loss and metric of each task: every model adapts by `adapt`, and the mean of what they predict is judged."""
    values = []
    for support, query in drawn(models[0]):
        z = []
        for model in models:
            adapted = model.adapt(*support, steps=step)
            with torch.no_grad():
                if inductive:
                    z.append(torch.stack([adapted(torch.cat([support.x, x[None]]))[-1] for x in query.x]))
                else:
                    z.append(adapted(query.x))
        z = torch.stack(z)
        if model.loss == CrossEntropy():
            p = z.softmax(-1).mean(0)
            values.append((nll_loss(p.log(), query.y).item(), (p.argmax(-1) == query.y).double().mean().item()))
        else:
            values.append((mse_loss(z.mean(0), query.y).item(), float("nan")))
    return np.array(values).T


def check_rows(rows, path, models, name, inductive=False):
    for step in range(3):
        loss, accuracy = by_hand(models, step, inductive)
        row = rows[str(path), step]
        assert float(row[f"{name}loss"]) == pytest.approx(loss.mean(), rel=1e-10)
        assert float(row[f"{name}loss_half_95"]) == pytest.approx(1.96 * loss.std(ddof=1) / TASKS**0.5, rel=1e-8)
        if f"{name}accuracy_share" in row:
            assert float(row[f"{name}accuracy_share"]) == pytest.approx(accuracy.mean())


@pytest.mark.parametrize("files", ["letters", "sines", "others"])
def test_an_ensemble_is_the_mean_of_what_the_best_say_after_each_has_adapted(files, tmp_path, request):
    path = request.getfixturevalue(files)[0]
    best = hpc_dmaml.load_best(path, trust=True)
    assert len(best) == 3
    check_rows(numbers([path], tmp_path, "--which", "ensemble"), path, best, "")
    check_rows(numbers([path], tmp_path, "--which", "best"), path, best[:1], "")


@pytest.mark.parametrize("files", ["letters", "others"])
def test_one_query_at_a_time_is_judged_beside_the_support_set_alone(files, tmp_path, request):
    path = request.getfixturevalue(files)[0]
    rows, last = numbers([path], tmp_path, "--inductive"), hpc_dmaml.load(path, trust=True)
    check_rows(rows, path, [last], "")
    check_rows(rows, path, [last], "inductive_", inductive=True)
    assert any(row["loss"] != row["inductive_loss"] for row in rows.values())


def test_an_ensemble_can_be_asked_one_query_at_a_time(letters, tmp_path):
    rows = numbers(letters[:1], tmp_path, "--which", "ensemble", "--inductive")
    check_rows(rows, letters[0], hpc_dmaml.load_best(letters[0]), "inductive_", inductive=True)


def test_without_batch_norm_it_makes_no_difference_who_else_is_asked(sines, tmp_path):
    for row in numbers(sines, tmp_path, "--inductive").values():
        assert float(row["inductive_loss"]) == pytest.approx(float(row["loss"]), rel=1e-12)


@dataclass(frozen=True)
class Shifted(TaskBatch):
    """Judged on other samples than those of `query_set`."""

    def query(self, act):
        return Samples(self.query_set.x + 1, self.query_set.y)


@dataclass(frozen=True)
class ShiftedSines(Sinusoid):
    def sample(self, split, rng, tasks, part=slice(None), queries=None):
        found = super().sample(split, rng, tasks, part, queries)
        return Shifted(found.support_set, found.query_set)


def test_queries_are_those_that_a_batch_gives(tmp_path):
    source = run(replace(SINES, task=ShiftedSines(shots=4, queries=3)), tmp_path)
    for row in numbers([source.path], tmp_path, "--inductive").values():
        assert float(row["inductive_loss"]) == pytest.approx(float(row["loss"]), rel=1e-12)


def test_what_is_said_of_a_query_depends_on_the_others_only_where_all_are_asked_at_once():
    module = Conv4(filters=4, blocks=2).build((1, 8, 8), 3).double()
    objective = objective_for(module, (1, 8, 8), "cross_entropy")
    parameters = objective.unflatten(objective.layout.flatten(module), 2)
    x, y = torch.rand(2, 9, 1, 8, 8, dtype=torch.float64), torch.zeros(2, 9, dtype=torch.int64)
    batch = TaskBatch(Samples(x[:, :4], y[:, :4]), Samples(x[:, 4:], y[:, 4:]))
    part = replace(batch, query_set=Samples(x[:, 4:6], y[:, 4:6]))
    alone = [one_query_at_a_time(objective, parameters, each)[:, :2] for each in (batch, part)]
    together = [objective.outputs(parameters, each.query_set.x)[:, :2] for each in (batch, part)]
    torch.testing.assert_close(*alone, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(*together)


@pytest.mark.parametrize("inductive", [False, True])
@pytest.mark.parametrize("config", [LETTERS, SINES], ids=["letters", "sines"])
def test_an_ensemble_of_equal_models_is_one_of_them(config, inductive):
    sampler = config.task.load()
    torch.manual_seed(0)
    module = config.model.build(sampler.sample_shape, sampler.outputs).double()
    learner = make_learner(config, sampler, module, torch.device("cpu"))
    phi, where = learner.engine.objective.layout.flatten(module), ("test", (Purpose.EVALUATION, 0), TASKS, 2)
    one, three = (
        validate(learner, each, Communicator(), *where, inductive=inductive) for each in (phi, phi.expand(3, -1))
    )
    np.testing.assert_allclose(three.loss, one.loss, rtol=1e-12)
    np.testing.assert_array_equal(three.metric, one.metric)


def test_the_mean_prediction_has_the_mean_probabilities():
    z = torch.randn(4, 2, 3, 5, dtype=torch.float64)
    p = z.softmax(-1).mean(0)
    torch.testing.assert_close(CrossEntropy().mean_prediction(z).exp(), p)
    targets = torch.randint(5, (2, 3))
    expected = -p.gather(-1, targets[..., None]).log().mean((1, 2))
    torch.testing.assert_close(CrossEntropy().value(CrossEntropy().mean_prediction(z), targets), expected)
    assert (
        expected
        <= torch.stack([cross_entropy(each.transpose(1, 2), targets, reduction="none").mean(1) for each in z]).mean(0)
    ).all()


def section(losses, accuracies, seed):
    return protocol.Section(f"{seed}.h5", f"{seed}.h5:", (Validated(np.array(losses), np.array(accuracies)),), seed)


HAND = [  # two steps, two tasks
    section([[1.0, 3.0], [1.0, 2.0]], [[0.2, 0.2], [0.5, 0.7]], 7),
    section([[2.0, 4.0], [1.0, 2.0]], [[0.2, 0.2], [0.6, 1.0]], 8),
    section([[3.0, 5.0], [1.0, 2.0]], [[0.2, 0.2], [0.7, 0.7]], 9),
]


def test_over_seeds_it_is_students_interval_of_the_means_and_over_tasks_each_counts_once():
    seeds, tasks = protocol.over_files(HAND)
    # Means 2, 3, 4: s = 1, and t = 4.3027 for two degrees of freedom.
    assert protocol.interval(seeds.found[0].loss, seeds.quantile)[0] == pytest.approx((3, 4.302653 / 3**0.5))
    assert protocol.interval(seeds.found[0].metric, seeds.quantile)[1] == pytest.approx((0.7, 4.302653 * 0.1 / 3**0.5))
    # The tasks' means over the seeds are 2 and 4: s = √2.
    assert protocol.interval(tasks.found[0].loss, tasks.quantile)[0] == pytest.approx((3, 1.96))
    assert protocol.interval(tasks.found[0].metric, tasks.quantile)[1] == pytest.approx((0.7, 0.196))


def test_what_is_printed():
    seeds, tasks = protocol.over_files(HAND)
    assert protocol.text(tasks, Metric("accuracy", "share")).splitlines() == [
        "mean over 2 tasks ± 95 % (a task by its mean over 3 seeds)",
        "before adaptation   loss 3.000 ± 1.960   accuracy 20.00 ± 0.00 %",
        "after step 1        loss 1.500 ± 0.980   accuracy 70.00 ± 19.60 %",
    ]
    assert protocol.text(seeds, None).splitlines() == [
        "mean over 3 seeds ± 95 % (Student's t over their means)",
        "before adaptation   loss 3.000 ± 2.484",
        "after step 1        loss 1.500 ± 0.000",
    ]
    both = seeds._replace(heading="x.h5:", found=(*HAND[0].found, *HAND[1].found), quantile=1.96)
    assert protocol.text(both, Metric("distance", "m")).splitlines() == [
        "x.h5:",
        "                    all queries at once                             one query at a time",
        "before adaptation   loss 2.000 ± 1.960   distance 0.200 ± 0.000 m   loss 3.000 ± 1.960   distance 0.200 ± 0.000 m",
        "after step 1        loss 1.500 ± 0.980   distance 0.600 ± 0.196 m   loss 1.500 ± 0.980   distance 0.800 ± 0.392 m",
    ]


def test_a_single_task_has_no_interval_and_a_loss_that_diverged_is_shown():
    assert protocol.table(Validated(np.array([[1.0]]), np.array([[0.5]])), Metric("accuracy", "share")) == [
        "loss 1.000   accuracy 50.00 %"
    ]
    diverged = protocol.table(Validated(np.array([[1.0, np.nan]]), np.array([[0.5, 0.5]])), Metric("accuracy", "share"))
    assert diverged == ["loss nan   accuracy 50.00 ± 0.00 %"]


def test_two_seeds_have_no_interval():
    two = protocol.over_files(HAND[:2])[0]
    assert two.heading == "mean over 2 seeds (no interval for fewer than 3)"
    assert "±" not in protocol.text(two, None)
    assert "± 95 %" in protocol.over_files(HAND)[0].heading


def test_a_seed_that_diverged_makes_no_mean_look_better():
    broken = section([[1.0, np.nan], [1.0, 2.0]], [[0.2, 0.2], [0.5, 0.7]], 10)
    for found in protocol.over_files([*HAND, broken]):
        (loss, half), after = protocol.interval(found.found[0].loss, found.quantile)
        assert np.isnan([loss, half]).all()
        assert np.isfinite(after).all()


def test_several_files_are_judged_on_the_same_tasks_and_their_numbers_written(letters, tmp_path, capsys):
    rows = numbers(letters, tmp_path)
    said = capsys.readouterr().out
    for path in letters:
        alone = numbers([path], tmp_path)
        assert [rows[key] for key in alone] == list(alone.values())
        printed = [line for line in capsys.readouterr().out.splitlines() if re.match("before|after", line)]
        assert "\n".join(printed) in said
    columns = {
        name: [[float(rows[str(path), step][name]) for path in letters] for step in range(3)]
        for name in ("loss", "accuracy_share")
    }
    for name, values in columns.items():
        for step, of_files in enumerate(values):
            for summary, n in (("seeds", 3), ("tasks", TASKS)):
                row = rows[summary, step]
                assert (float(row[name]), int(row["n"]), row["seed"]) == (pytest.approx(np.mean(of_files)), n, "")
            half = 4.302653 * np.std(of_files, ddof=1) / 3**0.5
            assert float(rows["seeds", step][f"{name}_half_95"]) == pytest.approx(half, rel=1e-6)
    first = rows[str(letters[0]), 0]
    told = {"seed": "0", "n": "3", "test.seed": "0", "test.which": "last", "task": "Glyphs", "task.ways": "3",
            "algorithm": "MAML", "algorithm.inner_lr": "0.05", "dtype": "float64"}  # fmt: skip
    assert {name: first[name] for name in told} == told
    assert not {"output", "threads", "device"} & first.keys()


def refused(words, message):
    with pytest.raises((ValueError, Refusal), match=message):
        evaluate.evaluate(evaluate.parse([*map(str, words), "--tasks", "3"]), Communicator())


def test_files_that_are_no_repetitions_of_one_setting_are_refused_by_what_differs(letters, sines, tmp_path):
    other = run(replace(LETTERS, seed=5, optimizer=replace(LETTERS.optimizer, lr=0.5), epochs=2), tmp_path).path
    refused([letters[0], other], r"0\.h5 and .*job\.h5 differ in epochs, optimizer\.lr: a mean over seeds needs")
    refused([letters[0], sines[0]], "differ in task")
    refused([*letters, letters[1]], "have the same seed 1: give one of them")
    short = run(
        replace(LETTERS, seed=6, checkpoint=replace(LETTERS.checkpoint, every=1)), tmp_path, name="short.h5"
    ).path
    assert len(numbers([letters[0], short], tmp_path)) == 12  # how often a file was written is no setting


def test_seeds_that_are_not_equally_far_are_refused(letters, tmp_path):
    stop = Stop()
    stop.ask()
    path = tmp_path / "stopped.h5"
    assert run_job(replace(LETTERS, seed=6, output=str(path)), Communicator(), stop) == 75
    refused([letters[0], path], "are not equally far, after 4 and 0 runs")


def test_a_csv_that_cannot_be_written_is_refused_before_any_work(letters, tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_dmaml.setup.load_task", lambda *_: pytest.fail("this is work"))
    there = tmp_path / "there.csv"
    there.write_text("mine", encoding="utf-8")
    refused([letters[0], "--csv", there], r"csv: .*there\.csv exists and is never overwritten")
    assert there.read_text(encoding="utf-8") == "mine"
    refused([letters[0], "--csv", there / "x.csv"], r"csv: cannot write .*x\.csv")
    assert [each.name for each in tmp_path.iterdir()] == ["there.csv"]


def test_an_ensemble_of_one_is_refused_with_what_to_do(tmp_path):
    path = run(small_config(), tmp_path).path
    refused([path, "--which", "ensemble"], r"job\.h5 holds only one of its best.*validation\.keep, 1 in this job")


@pytest.mark.parametrize("which", ["best", "ensemble"])
def test_without_a_validation_there_are_no_best_parameters(tmp_path, which):
    path = run(small_config(validation=Validation(every=0)), tmp_path).path
    refused([path, "--which", which], r"which: .*job\.h5 has no best parameters, as no validation of it was finite")


def test_ranks_that_read_a_file_while_it_is_written_notice(letters, monkeypatch):
    gather = Communicator.all_gather_objects

    def one_rank_was_later(self, value):
        found = gather(self, value)
        return [*found, ["another φ"]] if isinstance(value, list) and all(isinstance(e, str) for e in value) else found

    monkeypatch.setattr(Communicator, "all_gather_objects", one_rank_was_later)
    refused([letters[0]], "a file was written while the ranks read it, and they hold different parameters: try again")


@pytest.mark.parametrize("asked", [["--which", "ensemble"], ["--inductive"]])
def test_reinforcement_learning_is_refused(tmp_path, asked):
    task = Navigation(trajectories=2, horizon=3)
    path = run(small_config(task=task, model=GaussianPolicy((4,)), validation=KEPT), tmp_path).path
    refused([path, *asked], f"{asked[-1].strip('-')} is for supervised tasks")
