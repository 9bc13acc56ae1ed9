"""A job as its user sees it: one process, from the command line to the file, and what can be done with the file."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hpc_dmaml
from hpc_dmaml import evaluate as evaluation
from hpc_dmaml import progress, results
from hpc_dmaml.algorithms import MAML
from hpc_dmaml.claim import claim_new
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import Checkpoint, Validation, from_yaml, parse
from hpc_dmaml.files import is_locked, locked
from hpc_dmaml.models import Conv4, Module
from hpc_dmaml.optimizers import SGD, Adam, TorchOptimizer
from hpc_dmaml.parameters import flatten
from hpc_dmaml.run import run_job
from hpc_dmaml.schedules import Cosine
from hpc_dmaml.tasks import Sinusoid
from hpc_dmaml.training_tasks import TrainingTasks
from hpc_dmaml.weight_generators import LossMovingAverage
from tests.helpers import Poisoned, differing, run, small_config

SMALL = [
    "--task",
    "Sinusoid",
    "--model",
    "MLP",
    "--runs",
    "4",
    "--tasks",
    "3",
    "--threads",
    "1",
    "--validation.every",
    "2",
    "--validation.tasks",
    "4",
]
SMALL += ["--algorithm.inner_lr", "0.01"]


def command(*arguments: str, cwd: Path, module: str = "hpc_dmaml") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


def test_the_file_holds_every_run_worker_and_validation(tmp_path):
    source = run(small_config(workers=2), tmp_path)
    assert source.status == "complete"
    assert source["runs/run"].tolist() == [0, 1, 2]
    assert source["runs/seen_tasks"].tolist() == [10, 20, 30]
    assert source["workers/loss"].shape == (3, 2)
    np.testing.assert_array_equal(source["workers/weight"], 0.5)
    assert source["validation/run"].tolist() == [1, 2]
    assert source["validation/loss"].shape == (2, 3, 5)
    assert (source["ranks/work_s"] > 0).all()
    assert np.isfinite(source["ranks/exchange_s"]).all()
    assert source.config["workers"] == 2
    assert from_yaml(source.attributes["config"]).task == Sinusoid(shots=4, queries=3)


def test_the_same_seed_gives_the_same_numbers_to_the_last_bit_and_another_seed_others(tmp_path):
    config = small_config(exchange="gather", optimizer=Adam(), local_lr=0.01, epochs=2, dtype="float32")
    one, same = run(config, tmp_path, name="1.h5"), run(config, tmp_path, name="2.h5")
    assert not differing(one, same)
    other = run(replace(config, seed=1), tmp_path, name="3.h5")
    assert not np.array_equal(other["meta_model/parameters"], one["meta_model/parameters"])


def test_one_worker_with_sgd_is_maml_as_one_writes_it_down(tmp_path):
    """θ after a run is θ − β · the meta-gradient of the plain autograd loop."""
    from hpc_dmaml.start import build_module

    config = small_config(runs=1, workers=1)
    source = run(config, tmp_path)
    module = build_module(config, (1,), 1)
    batch = TrainingTasks(config.task.load(), config).batch(0, 0, 0, slice(0, 5), flatten(module))
    named = dict(module.named_parameters())
    losses = []
    for b in range(5):
        fast = named
        (x, y), (query_x, query_y) = ((s.x[b], s.y[b]) for s in (batch.support_set, batch.query_set))
        loss = (torch.func.functional_call(module, fast, (x,)) - y).square().mean()
        steps = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
        fast = {n: p - 0.05 * g for (n, p), g in zip(fast.items(), steps, strict=True)}
        losses.append((torch.func.functional_call(module, fast, (query_x,)) - query_y).square().mean())
    gradients = torch.autograd.grad(sum(losses) / 5, list(named.values()))
    expected = torch.cat([(p - 0.02 * g).reshape(-1) for p, g in zip(named.values(), gradients, strict=True)])
    np.testing.assert_allclose(source["meta_model/parameters"], expected.detach(), rtol=1e-12, atol=1e-14)
    assert source["workers/loss"][0, 0] == pytest.approx(float(sum(losses).detach()) / 5)


def test_several_epochs_are_several_steps_of_a_worker(tmp_path):
    """One worker, SGD: two epochs in a run walk as far as the worker's own two steps, λ-averaged over one worker."""
    source = run(small_config(runs=1, epochs=2, workers=2), tmp_path, name="two.h5")
    own_steps = []
    for local_lr in (0.02, 1e-12):
        changed = small_config(runs=1, epochs=2, workers=2, local_lr=local_lr)
        own_steps.append(run(changed, tmp_path, name=f"{local_lr}.h5")["meta_model/parameters"])
    np.testing.assert_array_equal(source["meta_model/parameters"], own_steps[0])
    assert np.abs(own_steps[0] - own_steps[1]).max() > 1e-6


def test_sum_over_tasks_is_the_mean_times_their_number(tmp_path):
    mean = run(small_config(runs=1), tmp_path, name="mean.h5")["meta_model/parameters"]
    total = small_config(runs=1, task_reduction="sum", optimizer=SGD(lr=0.02 / 5))
    np.testing.assert_allclose(run(total, tmp_path, name="sum.h5")["meta_model/parameters"], mean, rtol=1e-12)


def test_workers_that_are_not_finite_count_nothing_and_the_log_says_so(tmp_path, capsys):
    source = run(small_config(workers=6, runs=4, task=Poisoned(), weight_generator=LossMovingAverage()), tmp_path)
    lost = np.isnan(source["workers/loss"])
    assert 0 < lost.sum() < lost.size
    assert (source["workers/weight"][lost] == 0).all()
    np.testing.assert_allclose(source["workers/weight"].sum(1), 1)
    assert np.isfinite(source["meta_model/parameters"]).all()
    assert "is not finite; they count 0" in capsys.readouterr().out


def test_a_job_without_any_finite_worker_stops_and_keeps_its_last_good_state(tmp_path, capsys):
    config = small_config(runs=9, task=Poisoned(share=1.0), output=str(tmp_path / "x.h5"))
    assert run_job(config, Communicator()) == 1
    source = results.read(tmp_path / "x.h5", verify=True)
    assert source.status == "failed"
    assert len(source["runs/run"]) == 0
    assert np.isfinite(source["meta_model/parameters"]).all()
    assert "has diverged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Conv4()}, "model Conv4 needs images"),
        ({"model": Module("torch.nn.Linear", {"in_features": 3, "out_features": 1})}, "cannot take a task's samples"),
        (
            {"model": Module("torch.nn.Linear", {"in_features": 1, "out_features": 2})},
            r"gives \(4, 2\).*the task needs \(4, 1\)",
        ),
        ({"model": Module("torch.nn.NoSuch")}, "cannot import 'torch.nn.NoSuch'"),
        ({"model": Module("torch.nn.Identity")}, "no parameters to learn"),
        ({"optimizer": TorchOptimizer("LBFGS"), "local_lr": 0.1}, "cannot step a flat vector"),
        ({"optimizer": TorchOptimizer("NoSuch"), "local_lr": 0.1}, "no optimizer 'NoSuch'"),
        ({"device": "cuda:77"}, "device: 'cuda:77' is not available"),
        ({"task": Sinusoid(shots=0)}, "task.shots must be 1 or more"),
        ({"init_from": "nothing.h5"}, "there is no file nothing.h5"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work_and_any_file(tmp_path, changes, message):
    with pytest.raises(Refusal, match=message):
        run_job(small_config(**changes, output=str(tmp_path / "x.h5")), Communicator())
    assert list(tmp_path.iterdir()) == []


def test_any_module_of_the_user_can_be_learned(tmp_path):
    source = run(small_config(model=Module("tests.helpers.Residual", {"width": 4})), tmp_path)
    assert source["meta_model/names"].tolist() == ["enter.weight", "enter.bias", "leave.weight", "leave.bias"]
    assert source["meta_model/shapes"].tolist() == ["4,1", "4", "1,4", "1"]


@pytest.mark.parametrize("name", ["Adagrad", "AdamW", "RMSprop", "NAdam", "Rprop"])
def test_optimizers_of_torch_step_the_flat_vector(tmp_path, name):
    source = run(small_config(optimizer=TorchOptimizer(name, 1e-3)), tmp_path)
    assert np.isfinite(source["meta_model/parameters"]).all()


def test_the_rate_of_an_optimizer_of_torch_is_given_in_one_place(tmp_path):
    with pytest.raises(Refusal, match="arguments must leave out lr, which is a field of its own, not 0.5"):
        run(small_config(optimizer=TorchOptimizer("SGD", arguments={"lr": 0.5})), tmp_path)


@dataclass(frozen=True)
class Overshoot(SGD):
    def _step(self, theta, gradient, state, lr):
        theta.fill_(float("inf"))


@pytest.mark.parametrize("exchange", ["gather", "allreduce"])
def test_a_step_that_is_not_finite_is_not_taken(tmp_path, capsys, exchange):
    config = small_config(optimizer=Overshoot(0.1), exchange=exchange)
    assert run_job(replace(config, output=str(tmp_path / "job.h5")), Communicator()) == 1
    assert "run 0: the step of Overshoot" in capsys.readouterr().err
    assert np.isfinite(results.read(tmp_path / "job.h5")["meta_model/parameters"]).all()


def test_an_existing_output_is_never_overwritten(tmp_path):
    path = run(small_config(), tmp_path).path
    before = path.read_bytes()
    with pytest.raises(Refusal, match=r"job\.h5 exists and is never overwritten; go on with it by --resume"):
        run_job(small_config(output=str(path)), Communicator())
    assert path.read_bytes() == before


def test_two_jobs_cannot_write_one_file(tmp_path):
    with locked(tmp_path / "x.h5"), pytest.raises(Refusal, match="another job is writing"):
        run_job(small_config(output=str(tmp_path / "x.h5")), Communicator())


def test_a_job_that_was_given_no_output_takes_a_name_that_no_other_job_has_or_is_about_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    for _ in range(2):
        assert run_job(small_config(runs=1), Communicator()) == 0
    with locked(Path("results/sinusoid_now_3.h5")):
        assert run_job(small_config(runs=1), Communicator()) == 0
    found = sorted(path.name for path in Path("results").iterdir())
    assert found == ["sinusoid_now.h5", "sinusoid_now_2.h5", "sinusoid_now_4.h5"]


def test_of_two_jobs_that_choose_a_name_at_once_the_later_one_takes_the_next(tmp_path, monkeypatch):
    """Where the first has just written its file when the other locks the name."""
    first, second = tmp_path / "x.h5", tmp_path / "x_2.h5"

    def late(path, wait):
        first.touch()
        return locked(path, wait)

    monkeypatch.setattr("hpc_dmaml.claim.locked", late)
    with ExitStack() as stack:
        output, _ = claim_new([first, second], stack)
        assert output == second
        assert is_locked(second)
        assert not is_locked(first)
    assert not is_locked(second)


def test_a_place_where_no_job_can_write_is_refused_at_once_not_at_every_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results").touch()
    with pytest.raises(Refusal, match="output: cannot write results/sinusoid_"):
        run_job(small_config(), Communicator())


def test_a_device_that_cannot_compute_is_refused(tmp_path):
    with pytest.raises(Refusal, match="device: 'meta' is not available"):
        run(small_config(device="meta"), tmp_path)


def test_a_name_that_is_too_long_is_refused_by_the_field(tmp_path):
    with pytest.raises(Refusal, match="^output: cannot look for .*: File name too long"):
        run(small_config(), tmp_path, name="x" * 300)


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match="cannot write"):
        run_job(small_config(output=str(tmp_path / "file" / "x.h5")), Communicator())


@pytest.mark.parametrize("exchange", ["gather", "allreduce"])
def test_a_resumed_job_ends_where_an_uninterrupted_one_does(tmp_path, exchange):
    config = small_config(runs=6, workers=3, exchange=exchange, optimizer=Adam(), weight_generator=LossMovingAverage(3))
    whole = run(config, tmp_path, name="whole.h5")
    first = run(replace(config, runs=4), tmp_path, name="parts.h5")
    resumed = replace(config, output=str(first.path), resume=str(first.path))
    assert run_job(resumed, Communicator()) == 0
    parts = results.read(first.path, verify=True)
    assert parts.attributes["restarts"] == 1
    # Four runs end with a validation of their own; the restart is noted.
    assert differing(whole, parts) == {"checkpoint/restarts"}


def test_the_file_is_whole_after_every_run(tmp_path, monkeypatch):
    written = []
    write = results.write

    def noted(path, arrays, attributes, lock=None):
        write(path, arrays, attributes, lock)
        written.append((len(results.read(path, verify=True)["runs/run"]), attributes["status"]))

    monkeypatch.setattr(results, "write", noted)
    run(small_config(runs=3, checkpoint=Checkpoint(every=1)), tmp_path)
    assert written == [(1, "running"), (2, "running"), (3, "running"), (3, "complete")]


def test_no_validation_where_none_is_wanted(tmp_path):
    source = run(small_config(validation=Validation(every=0)), tmp_path)
    assert len(source["validation/run"]) == 0


def test_the_trained_model_adapts_and_exports(tmp_path):
    path = run(small_config(runs=20), tmp_path).path
    model = hpc_dmaml.load(path, which="best")
    x = torch.linspace(-3, 3, 12, dtype=torch.float64)[:, None]
    y = 2 * torch.sin(x)
    before = (model.module(x) - y).square().mean()
    adapted = model.adapt(x, y, steps=50)
    assert (adapted(x) - y).square().mean() < 0.7 * before
    assert (model.module(x) - y).square().mean() == before
    np.testing.assert_array_equal(
        torch.cat([p.reshape(-1) for p in model.state_dict().values()]),
        results.read(path)["meta_model/best_parameters"],
    )


def test_a_job_can_start_from_another_ones_parameters(tmp_path):
    first = run(small_config(), tmp_path, name="first.h5")
    warm = small_config(init_from=str(first.path), algorithm=MAML(inner_lr=0.05, inner_steps=0), runs=1)
    second = run(replace(warm, optimizer=SGD(lr=1e-30)), tmp_path, name="second.h5")
    np.testing.assert_array_equal(second["meta_model/parameters"], first["meta_model/parameters"])
    single = run(replace(warm, optimizer=SGD(lr=1e-30), dtype="float32"), tmp_path, name="single.h5")
    np.testing.assert_array_equal(single["meta_model/parameters"], first["meta_model/parameters"].astype(np.float32))
    assert single["meta_model/parameters"].dtype == np.float32
    other = small_config(init_from=str(first.path), model=Module("tests.helpers.Residual"))
    with pytest.raises(Refusal, match="parameters of another model"):
        run_job(replace(other, output=str(tmp_path / "third.h5")), Communicator())


def test_the_command_trains_tells_what_comes_next_and_that_works(tmp_path):
    trained = command(*SMALL, "--output", "x.h5", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "run 4/4" in trained.stdout
    assert "hpc_dmaml curves x.h5" in trained.stdout
    tested = command("x.h5", "--tasks", "20", "--shots", "5", "--steps", "2", cwd=tmp_path, module="hpc_dmaml.evaluate")
    assert tested.returncode == 0, tested.stderr
    assert "20 test tasks" in tested.stdout
    assert len([line for line in tested.stdout.splitlines() if "±" in line]) == 3
    resumed = command("--resume", "x.h5", "--runs", "6", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert len(results.read(tmp_path / "x.h5")["runs/run"]) == 6


def test_without_an_output_every_job_gets_a_file_of_its_own(tmp_path):
    for _ in range(2):
        assert command(*SMALL, cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "results").glob("sinusoid_*.h5"))) == 2


def test_resume_auto_starts_goes_on_and_refuses_other_settings(tmp_path):
    auto = (*SMALL, "--output", "x.h5", "--resume", "auto")
    assert command(*auto, cwd=tmp_path).returncode == 0
    again = command(*auto, "--runs", "5", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    refused = command(*auto, "--algorithm.inner_lr", "0.5", "--seed", "9", cwd=tmp_path)
    assert refused.returncode == 2
    assert "started with other values of seed, algorithm.inner_lr" in refused.stderr


def test_a_resumed_job_goes_on_in_its_own_file_and_in_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(small_config(), tmp_path, name="x.h5")
    Path("link.h5").symlink_to("x.h5")
    Path("copied.yaml").write_text("output: y.h5")
    for more in (["--output", "y.h5"], ["--config", "copied.yaml"]):
        with pytest.raises(ValueError, match=r"output: a resumed job goes on in its own file, x\.h5, not in y\.h5"):
            parse(["--resume", "x.h5", *more])
    for output in ("x.h5", "./x.h5", str(tmp_path / "x.h5"), "link.h5", "null"):
        config = parse(["--resume", "x.h5", "--output", output])
        assert (config.resume, config.output) == ("x.h5", "x.h5")
    with pytest.raises(ValueError, match="other values of seed; only check_every, .* may change") as refused:
        parse(["--resume", "x.h5", "--seed", "9"])
    assert "output" not in str(refused.value)  # it may not change


def test_what_set_up_has_decided_is_kept_where_a_resumed_job_leaves_it_open(tmp_path):
    path = run(small_config(schedule=Cosine()), tmp_path).path
    config = parse(
        ["--resume", str(path), "--runs", "9", "--workers", "null", "--compile", "auto", "--schedule.runs", "null"]
    )
    assert (config.runs, config.workers, config.compile, config.schedule) == (9, 1, "off", Cosine(runs=3))


def test_a_job_resumed_through_a_symbolic_link_goes_on_in_the_file_that_it_stands_for(tmp_path):
    path = run(small_config(), tmp_path).path
    link = tmp_path / "link.h5"
    link.symlink_to(path)
    assert run_job(parse(["--resume", str(link), "--runs", "5"]), Communicator()) == 0
    assert link.is_symlink()
    assert len(results.read(path, verify=True)["runs/run"]) == 5


def test_bad_input_ends_with_code_2_one_message_and_no_file(tmp_path):
    for arguments in (["--task.ways", "0"], ["--task", "Sinusoid"], ["--config", "nope"], ["--workers", "0"]):
        refused = command(*arguments, "--output", "x.h5", cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.count("hpc_dmaml: error:") == 1
        assert "Traceback" not in refused.stderr
        assert not (tmp_path / "x.h5").exists()


def test_ranks_with_other_parameters_are_found_out():
    from hpc_dmaml.rounds import check_digests

    check_digests(np.array([7.0, 7.0]), run=3)
    with pytest.raises(RuntimeError, match="run 3: rank 2 has other parameters than rank 0"):
        check_digests(np.array([7.0, 7.0, 8.0]), run=3)


def test_an_evaluation_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    path = run(small_config(), tmp_path).path
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0)
    assert evaluation.evaluate(evaluation.parse([str(path), "--tasks", "70"]), Communicator()) == 0
    said = capsys.readouterr()
    assert [line.split("  ")[0] for line in said.err.splitlines()] == ["task 32/70", "task 64/70", "task 70/70"]
    assert "70 test tasks" in said.out
    assert "task 32" not in said.out
