"""The command `python -m hpc_dmaml.evaluate FILE [FILE …]`: accuracy on test tasks, as papers report it. Also under mpirun."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from hpc_dmaml import console, results, stopping
from hpc_dmaml.analysis import stats
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import REPEATS, RunConfig, changes, require, stored_in
from hpc_dmaml.config.command_line import FLAGS, help_parser, is_set, shortest, split
from hpc_dmaml.config.layers import layer, plain
from hpc_dmaml.config.values import Word, hints, make, typed
from hpc_dmaml.files import expanded, writing
from hpc_dmaml.importing import did_you_mean, path_of
from hpc_dmaml.launch import COMPLETE, importing, launch
from hpc_dmaml.losses import PolicyGradient, named
from hpc_dmaml.requirements import count
from hpc_dmaml.tasks import Arrays, ImageFolder, Split, TaskBatch, TaskSampler
from hpc_dmaml.tasks.image_classes import FewShotImages, FewShotSampler

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_dmaml.state import Validation
    from hpc_dmaml.tasks import Batch
    from hpc_dmaml.tasks.data_mark import DataMark
    from hpc_dmaml.tasks.rollouts import Watch
    from hpc_dmaml.trained_model import TrainedModel
    from hpc_dmaml.worker import Learner


@dataclass(frozen=True)
class Evaluation:
    """Test a meta-model on tasks that it was not trained on."""

    files: tuple[str, ...]
    """Result files of one job, or of jobs of one setting that differ in their seed, for the mean over seeds."""
    tasks: int = 600
    """Test tasks, spread over the ranks."""
    steps: int | None = None
    """Adaptation steps. Default: as in the job's validation."""
    which: Literal["last", "best", "ensemble"] = "last"
    """The last parameters; the best by validation; or the mean prediction (of class probabilities, or of outputs in
    regression) of all best parameters that the job has kept (validation.keep), each adapted separately."""
    inductive: bool = False
    """Also report results for one query at a time, so that batch norm cannot see the other queries: its statistics are
    those of the support set and this query. The support set is computed again for each query."""
    split: Literal["train", "validation", "test", "all"] = "test"
    """Which classes the tasks come from; all: every class of a data set that was not trained on, ignoring any split."""
    seed: int = 0
    """Seed for drawing the tasks, independent of the job's seed, so that jobs are compared on the same tasks."""
    shots: int | None = None
    """Support samples (per class). Default: as in training."""
    queries: int | None = None
    """Query samples (per class). Default: as in training."""
    root: str | None = None
    """Folder (of `Arrays`, the file) of the data, if it has moved since training, or of other data. Where training split
    its classes at random, and this folder has too few classes for that, tasks are drawn from all of them, as the output
    then says."""
    device: str = "auto"
    """As in training."""
    csv: str | None = None
    """CSV file to write the numbers to as well; must not exist."""
    trust: bool = False
    """Import your own classes that the file names, which runs their code."""

    def __post_init__(self) -> None:
        require(len(self.files) > 0, "files", "none", "one file or more")
        count("tasks", self.tasks)
        count("steps", self.steps, least=0)


def parse(arguments: list[str] | None = None) -> tuple[Evaluation, RunConfig]:
    """The evaluation that a command line asks for, and the configuration of its files, changed accordingly."""
    options, positional = split(sys.argv[1:] if arguments is None else arguments, (*FLAGS, "inductive"))
    given: dict[str, Any] = dict(options)
    if "help" in given:
        _help()
    types = hints(Evaluation)
    for name in given:
        if name not in types:
            raise ValueError(f"there is no option --{name}" + did_you_mean(name, types, "--"))
    given |= {name: is_set(name, given) for name in ("inductive", "trust")}
    given |= {name: Word(expanded(given[name])) for name in ("csv", "root") if name in given}
    given["files"] = tuple(str(expanded(file)) for file in positional)
    evaluation: Evaluation = make(Evaluation, "", {name: typed(name, v, types[name]) for name, v in given.items()})
    config = _setting(evaluation)
    place = "path" if isinstance(config.task, Arrays) else "root"
    changed: dict[str, Any] = {"shots": evaluation.shots, "queries": evaluation.queries, place: evaluation.root}
    changed = {name: value for name, value in changed.items() if value is not None}
    if isinstance(config.task, FewShotImages):
        changed |= {"flip": False, "shift": 0, "jitter": 0.0}  # test on the original images, on any split
    if evaluation.split == "all" and isinstance(config.task, ImageFolder):
        changed["split"] = None
    known = {item.name for item in fields(config.task)}  # type: ignore[arg-type]
    if unknown := [name for name in changed if name not in known]:
        name = "root" if unknown[0] == place else unknown[0]
        raise ValueError(f"{name}: {evaluation.files[0]} was trained on {type(config.task).__name__}, which has none")
    task = replace(config.task, **changed)  # type: ignore[type-var]
    return evaluation, replace(config, task=task, device=evaluation.device, seed=evaluation.seed)


def _setting(evaluation: Evaluation) -> RunConfig:
    """The configuration of the first file. Raises ValueError where the files are not of one setting."""
    (file, first, runs), *others = (_job(file, evaluation.trust) for file in evaluation.files)
    seeds = {first.seed: file}
    for other, config, made in others:
        differing = [name for name in changes(first, config) if name not in REPEATS]
        if differing:
            raise ValueError(
                f"{file} and {other} differ in {', '.join(differing)}: a mean over seeds needs files of one setting"
            )
        if made != runs:
            raise ValueError(f"{file} and {other} are not equally far, after {runs:,} and {made:,} runs")
        if config.seed in seeds:
            raise ValueError(f"{seeds[config.seed]} and {other} have the same seed {config.seed}: give one of them")
        seeds[config.seed] = other
    if others:
        _check_scipy()
    return first


def _job(file: str, trust: bool) -> tuple[str, RunConfig, int]:
    """A file, its configuration, and its number of runs."""
    source = results.read(file)
    return file, stored_in(source, lambda _: trust), len(source["runs/run"])


def _check_scipy() -> None:
    try:
        stats.t_quantile(stats.LEVEL, 1)
    except ModuleNotFoundError as error:
        raise ValueError(f"a mean over seeds needs {error.name}: pip install 'hpc_dmaml[analysis]'") from error


def _help() -> NoReturn:
    parser = help_parser("python -m hpc_dmaml.evaluate", Evaluation.__doc__)
    parser.add_class_arguments(Evaluation, None, skip={"files", "inductive", "trust"})
    parser.add_argument("files", nargs="+", metavar="FILE", help="Result files of jobs of one setting.")
    parser.add_argument("--inductive", action="store_true", help="Also report results for one query at a time.")
    parser.add_argument("--trust", action="store_true", help="Import your own classes that the file names.")
    parser.parse_args(["--help"])
    sys.exit(0)


def evaluate(settings: tuple[Evaluation, RunConfig], comm: Communicator) -> int:
    """Print mean ± 1.96 σ/√tasks of each file, before adaptation and after each step, and means over several files."""
    with importing():
        import torch

        from hpc_dmaml.parameters import digest
        from hpc_dmaml.progress import Bar
        from hpc_dmaml.protocol import Section, interval, over_files, text, with_unit, write_csv
        from hpc_dmaml.randomness import Purpose, generator
        from hpc_dmaml.setup import load_task, make_learner, use_device
        from hpc_dmaml.start import beginning, build_module
        from hpc_dmaml.tasks.border import draw
        from hpc_dmaml.tasks.environments import Rollouts
        from hpc_dmaml.tasks.rollouts import Watch, first_success
        from hpc_dmaml.validation import validate

    evaluation, config = settings
    node = comm.split_node()
    with ExitStack() as stack:
        with comm.raising_together(), _naming_csv(evaluation.csv):
            if evaluation.csv is not None and comm.rank == 0:
                stack.enter_context(writing(Path(evaluation.csv)))
        with _naming_root(evaluation.root):
            whole, data = load_task(config.task, comm, node, ())
        with comm.raising_together():
            sampler, split, source = _classes(whole, evaluation)
        device = use_device(config, comm, node)
        key = (Purpose.EVALUATION, 0)
        drawn = partial(draw, sampler, split, tasks=evaluation.tasks)
        with comm.raising_together():
            one = drawn(rng=generator(config.seed, *key), part=slice(0, 1))
            _check_supervised(one, evaluation)
            models = [_load(file, evaluation) for file in evaluation.files]
            first = models[0][0].data
            for file, (model, *_) in zip(evaluation.files, models, strict=True):
                _check_form(model, sampler, file)
                relation = _relation(file, model.data, data, evaluation, sampler is not whole)
                if model.data.changed(first):
                    raise ValueError(f"{evaluation.files[0]} and {file} were trained on different data")
            phis = [digest(each.phi.numpy()) for members in models for each in members]
        if any(other != phis for other in comm.all_gather_objects(phis)):
            raise Refusal("a file was written while the ranks read it, and they hold different parameters: try again")
        steps = config.validation.steps if evaluation.steps is None else evaluation.steps

        def tried(learner: Learner, phi: Tensor, watch: Watch | None = None, inductive: bool = False) -> Validation:
            with Bar("task", evaluation.tasks, file=sys.stderr) if comm.rank == 0 else nullcontext() as bar:
                show = bar.show if bar is not None else None
                place = (comm, split, key, evaluation.tasks, steps)
                return validate(learner, phi.to(device), *place, watch, show, inductive)

        def say(*lines: str) -> None:
            if comm.rank == 0:
                print(*lines, sep="\n", flush=True)

        sections, loss = [], named(sampler.loss)
        tells_success = isinstance(loss, PolicyGradient) and loss.judged_by == "success"
        for file, members in zip(evaluation.files, models, strict=True):
            model = members[0]
            learner = make_learner(config, sampler, model.module, device, model.layout, comm, split)
            watch = Watch(first_success) if tells_success else None
            phi = torch.stack([each.phi for each in members]) if evaluation.which == "ensemble" else model.phi
            found = [tried(learner, phi, watch)]
            if evaluation.inductive:
                found.append(tried(learner, phi, inductive=True))
            what = f"mean prediction of the {len(members)} best" if phi.dim() > 1 else f"{evaluation.which} parameters"
            heading = f"{Path(file)}: {what}, {evaluation.tasks} {source}{relation}"
            sections.append(Section(file, heading, tuple(found), model.config.seed))
            say(text(sections[-1], loss.metric))
            if watch is not None:
                everything = drawn(rng=generator(config.seed, *key))
                assert isinstance(everything, Rollouts)
                say(*everything.account(watch.gathered(comm, everything.keys)))
        if len(sections) > 1:
            sections += over_files(sections)
            say(*(text(section, loss.metric) for section in sections[-2:]))
        if one.oracle() is not None and loss.metric is not None:  # then the metric alone says little
            fresh = build_module(config, sampler.sample_shape, sampler.outputs)
            untrained = tried(learner, beginning(config.algorithm, model.layout, fresh))
            oracle = interval(np.asarray(drawn(rng=generator(config.seed, *key)).oracle())[None])[0]
            say(text(Section("untrained", "from a random initialisation:", (untrained,)), loss.metric))
            say(f"who knows the task:  {loss.metric.name} {with_unit(*oracle, loss.metric)}")
        with comm.raising_together(), _naming_csv(evaluation.csv):
            if evaluation.csv is not None and comm.rank == 0:
                write_csv(Path(evaluation.csv), sections, loss.metric, _settings(evaluation, models[0][0].config))
                say(f"written to {evaluation.csv}")
    return COMPLETE


@contextmanager
def _naming_root(root: str | None) -> Iterator[None]:
    """Add to an error of the data's place in the file, which may be relative to another folder, how to name another."""
    try:
        yield
    except Refusal as error:
        if root is None and str(error).startswith(("task.path: ", "task.root: ")):
            raise Refusal(f"{error}; if the data has moved, --root says where it is now", error.code) from error
        raise


@contextmanager
def _naming_csv(path: str | None) -> Iterator[None]:
    """Raise errors of the CSV file as ValueError, with the field's name."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"csv: cannot write {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"csv: {error}") from error


def _settings(evaluation: Evaluation, config: RunConfig) -> dict[str, Any]:
    """The columns that are the same in all rows of the CSV: the options of the test, the classes of the job's parts,
    and its fields that are not by default."""
    untold = ("files", "csv", "trust", "device")
    options = {f"test.{n}": v for n, v in vars(evaluation).items() if v is not None and n not in untold}
    everything, kept = layer(plain(config)), shortest(config).keys() - REPEATS
    parts = {name: path_of(value) for name, value in everything.items() if isinstance(value, type)}
    return options | parts | {name: value for name, value in everything.items() if name in kept and name not in parts}


def _load(file: str, evaluation: Evaluation) -> list[TrainedModel]:
    """The meta-models that are tested together. Raises ValueError, also if there are too few for an ensemble."""
    from hpc_dmaml.trained_model import load, load_best

    if evaluation.which != "ensemble":
        return [load(file, evaluation.which, evaluation.trust)]
    models = load_best(file, evaluation.trust)
    if len(models) < 2:
        raise ValueError(
            f"which: {file} holds only one of its best parameters, and an ensemble needs two or more: validation.keep, "
            f"{models[0].config.validation.keep} in this job, says how many are kept; merge leaves them out without --checkpoints"
        )
    return models


def _check_supervised(batch: Batch, evaluation: Evaluation) -> None:
    """Raise ValueError where the test needs supervised tasks, whose data does not depend on the model."""
    asked = "which: ensemble" if evaluation.which == "ensemble" else "inductive" if evaluation.inductive else None
    if asked and not isinstance(batch, TaskBatch):
        raise ValueError(
            f"{asked} is for supervised tasks: here the data depends on the model's actions, as in reinforcement "
            "learning, where each policy visits its own states, one at a time"
        )


def _check_form(model: TrainedModel, sampler: TaskSampler, file: str) -> None:
    """Raise ValueError where the tasks have other shapes or another loss than in training."""
    for name in ("sample_shape", "outputs", "loss"):
        trained, came = getattr(model, name), getattr(sampler, name)
        if name == "loss":
            came = named(came)
        if trained != came:
            raise ValueError(f"{file} was trained on tasks with {name} {trained}, but these have {came}")


def _relation(file: str, trained: DataMark, data: DataMark, evaluation: Evaluation, pooled: bool) -> str:
    """How the tasks of a test are related to those of training, in words, where that has to be said. Raises ValueError
    where they are of classes that had another use in training."""
    is_other, moved = (
        trained.has_other_data(data),
        trained.moved(data, evaluation.split) if evaluation.split != "all" else 0,
    )
    if pooled:
        count = trained.trained_on(data)
        known = f", {count} of which have the name of a training class" if count else ""
        return (", of other data than in training" if is_other else "") + known
    if not is_other or evaluation.root is None:
        if moved:
            raise ValueError(
                f"the data or its split has changed since {file} was trained: {moved} of the classes for "
                f"{evaluation.split} were then for another use; restore it, or name other data (--root)"
            )
        return ", of data that has changed since training" if is_other else ""
    named = f" ({moved} of its classes have the name of one that was for another use then)" if moved else ""
    return f", of other data than in training{named}"


def _classes(sampler: TaskSampler, evaluation: Evaluation) -> tuple[TaskSampler, Split, str]:
    """The sampler and the split to draw from, and their description."""
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


if __name__ == "__main__":
    stopping.release()
    console.settle()
    sys.exit(launch(parse, evaluate))
