"""The command `python -m hpc_dmaml.evaluate FILE.h5`: accuracy on test tasks, as papers report it. Also under mpirun."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from hpc_dmaml import console, results, stopping
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig, require, stored_in
from hpc_dmaml.config.command_line import help_parser, split
from hpc_dmaml.config.values import Word, hints, make, typed
from hpc_dmaml.files import expanded
from hpc_dmaml.importing import did_you_mean
from hpc_dmaml.launch import COMPLETE, importing, launch
from hpc_dmaml.losses import Metric, PolicyGradient, named
from hpc_dmaml.tasks import ImageFolder, Split, TaskSampler
from hpc_dmaml.tasks.image_classes import FewShotImages, FewShotSampler

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_dmaml.state import Validation
    from hpc_dmaml.trained_model import TrainedModel


@dataclass(frozen=True)
class Evaluation:
    """Test a meta-model on tasks that it was not trained on."""

    file: str
    """Result file of a job."""
    tasks: int = 600
    """Test tasks, spread over the ranks."""
    steps: int | None = None
    """Adaptation steps. Default: as in the job's validation."""
    which: Literal["last", "best"] = "last"
    """The last parameters, or the best by validation."""
    split: Literal["train", "validation", "test", "all"] = "test"
    """Which classes the tasks come from; all: every class of a data set that was not trained on, whose own split, if
    training had one, is then of no use."""
    seed: int = 0
    """Seed of the draw of the tasks: the same for every job, so that jobs are compared on the same tasks."""
    shots: int | None = None
    """Support samples (of each class). Default: as in training."""
    queries: int | None = None
    """Query samples (of each class). Default: as in training."""
    root: str | None = None
    """Folder of the data, if it is elsewhere than in training, or of other data. Where training split its classes at
    random, and this folder has too few for that, all of them are tested on, and it is said."""
    device: str = "auto"
    """As in training."""
    trust: bool = False
    """Import the parts of your own that the file names, which runs their code."""

    def __post_init__(self) -> None:
        require(self.tasks >= 1, "tasks", self.tasks, "1 or more")
        require(self.steps is None or self.steps >= 0, "steps", self.steps, "0 or more")


def parse(arguments: list[str] | None = None) -> tuple[Evaluation, RunConfig]:
    """The evaluation that a command line asks for, and the configuration of its file, changed accordingly."""
    options, positional = split(sys.argv[1:] if arguments is None else arguments)
    given: dict[str, Any] = {**dict(options), **({"file": Word(positional[0])} if positional else {})}
    if "help" in given:
        _help()
    types = hints(Evaluation)
    for name in given:
        if name not in types:
            raise ValueError(f"there is no option --{name}" + did_you_mean(name, types, "--"))
    if positional[1:]:
        raise ValueError(f"{positional[1]!r} belongs to no option: one file at a time")
    given |= {"trust": True} if "trust" in given else {}
    given |= {name: Word(expanded(given[name])) for name in ("file", "root") if name in given}
    evaluation: Evaluation = make(Evaluation, "", {name: typed(name, v, types[name]) for name, v in given.items()})
    config = stored_in(results.read(evaluation.file), lambda _: evaluation.trust)
    changed: dict[str, Any] = {n: getattr(evaluation, n) for n in ("shots", "queries", "root")}
    changed = {name: value for name, value in changed.items() if value is not None}
    if isinstance(config.task, FewShotImages):
        changed |= {"flip": False, "shift": 0, "jitter": 0.0}  # tested are the images as they are, on any split
    if evaluation.split == "all" and isinstance(config.task, ImageFolder):
        changed["split"] = None
    try:
        task = replace(config.task, **changed)  # type: ignore[type-var]
    except TypeError as error:
        raise ValueError(f"{evaluation.file} was trained on {type(config.task).__name__}: {error}") from error
    return evaluation, replace(config, task=task, device=evaluation.device, seed=evaluation.seed)


def _help() -> NoReturn:
    parser = help_parser("python -m hpc_dmaml.evaluate", Evaluation.__doc__)
    parser.add_class_arguments(Evaluation, None, as_positional=True, skip={"trust"})
    parser.add_argument("--trust", action="store_true", help="Import the parts of your own that the file names.")
    parser.parse_args(["--help"])
    sys.exit(0)


def evaluate(settings: tuple[Evaluation, RunConfig], comm: Communicator) -> int:
    """Print the mean over the test tasks ± 1.96 σ/√tasks, before adaptation and after each step."""
    with importing():
        from hpc_dmaml.progress import Bar
        from hpc_dmaml.randomness import Purpose, generator
        from hpc_dmaml.setup import load_task, make_learner, use_device
        from hpc_dmaml.start import beginning, build_module
        from hpc_dmaml.tasks.border import draw
        from hpc_dmaml.tasks.environments import Rollouts
        from hpc_dmaml.tasks.rollouts import Watch, first_success
        from hpc_dmaml.trained_model import load
        from hpc_dmaml.validation import validate

    evaluation, config = settings
    node = comm.split_node()
    sampler = load_task(config.task, comm, node, ())
    with comm.raising_together():
        sampler, split, source = _classes(sampler, evaluation)
    device = use_device(config, comm, node)
    with comm.raising_together():
        model = load(evaluation.file, evaluation.which, evaluation.trust)
        _check_form(model, sampler, evaluation.file)
    learner = make_learner(config, sampler, model.module, device, model.layout, comm, split)
    steps = config.validation.steps if evaluation.steps is None else evaluation.steps
    key = (Purpose.EVALUATION, 0)

    def tried(phi: Tensor, watch: Watch | None = None) -> Validation:
        with Bar("task", evaluation.tasks, file=sys.stderr) if comm.rank == 0 else nullcontext() as bar:
            show = bar.show if bar is not None else None
            return validate(learner, phi.to(device), comm, split, key, evaluation.tasks, steps, watch, show)

    metric = learner.loss.metric
    tells_success = isinstance(learner.loss, PolicyGradient) and learner.loss.judged_by == "success"
    watch = Watch(first_success) if tells_success else None
    found = tried(model.phi, watch)
    lines = _lines(found, metric)
    drawn = partial(draw, sampler, split, tasks=evaluation.tasks)
    if watch is not None:
        everything = drawn(rng=generator(config.seed, *key))
        assert isinstance(everything, Rollouts)
        lines += everything.account(watch.gathered(comm, everything.keys))
    oracle = drawn(rng=generator(config.seed, *key), part=slice(0, 1)).oracle()
    if oracle is not None and metric is not None:  # then the metric alone says little
        fresh = build_module(config, sampler.sample_shape, sampler.outputs)
        untrained = tried(beginning(config.algorithm, model.layout, fresh))
        oracle = drawn(rng=generator(config.seed, *key)).oracle()
        lines += ["from a random initialisation:", *_lines(untrained, metric)]
        lines += [f"who knows the task:  {metric.name} {_shown(np.asarray(oracle), metric)}"]
    if comm.rank == 0:
        print(f"{Path(evaluation.file)}: {evaluation.which} parameters, {evaluation.tasks} {source}")
        print("\n".join(lines))
    return COMPLETE


def _lines(found: Validation, metric: Metric | None) -> list[str]:
    """One line for each adaptation step."""
    lines = []
    for step, (losses, measured) in enumerate(zip(*found, strict=True)):
        text = f"after step {step}" if step else "before adaptation"
        text = f"{text:<18}  loss {_interval(losses, 3)}"
        lines.append(text if metric is None else f"{text}   {metric.name} {_shown(measured, metric)}")
    return lines


def _shown(values: np.ndarray, metric: Metric) -> str:
    shown = _interval(100 * values, 2) if metric.is_share else _interval(values, 3)
    return f"{shown} {metric.suffix}".rstrip()


def _check_form(model: TrainedModel, sampler: TaskSampler, file: str) -> None:
    """Raise ValueError where the tasks are of another form than those of the training."""
    for name in ("sample_shape", "outputs", "loss"):
        trained, came = getattr(model, name), getattr(sampler, name)
        if name == "loss":
            came = named(came)
        if trained != came:
            raise ValueError(f"{file} was trained on tasks with {name} {trained}, but these have {came}")


def _classes(sampler: TaskSampler, evaluation: Evaluation) -> tuple[TaskSampler, Split, str]:
    """The sampler and its split to draw from, and what that is in words."""
    if not isinstance(sampler, FewShotSampler):
        if evaluation.split == "all":
            raise ValueError("split: all is for images in classes")
        return sampler, evaluation.split, f"{evaluation.split} tasks"
    split: Split = "test" if evaluation.split == "all" else evaluation.split
    few = sampler.at_random and len(sampler.splits[split]) < sampler.family.ways
    if evaluation.split != "all" and not (few and evaluation.root is not None):
        return sampler, split, f"{split} tasks"
    pool = sampler.pooled()
    return pool, split, f"tasks of all {len(pool.splits[split])} classes"


def _interval(values: np.ndarray, digits: int) -> str:
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


if __name__ == "__main__":
    stopping.release()
    console.settle()
    sys.exit(launch(parse, evaluate))
