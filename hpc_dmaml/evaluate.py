"""The command `python -m hpc_dmaml.evaluate FILE.h5`: accuracy on test tasks, as papers report it. Also under mpirun."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpc_dmaml import console, results, stopping
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig, require, stored_in
from hpc_dmaml.launch import COMPLETE, launch


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
    split: Literal["train", "validation", "test"] = "test"
    """Where the tasks come from."""
    seed: int = 0
    """Seed of the draw of the tasks: the same for every job, so that jobs are compared on the same tasks."""
    shots: int | None = None
    """Support samples (of each class). Default: as in training."""
    queries: int | None = None
    """Query samples (of each class). Default: as in training."""
    root: str | None = None
    """Folder of the data, if it is elsewhere than in training."""
    device: str = "auto"
    """As in training."""

    def __post_init__(self) -> None:
        require(self.tasks >= 1, "tasks", self.tasks, "1 or more")
        require(self.steps is None or self.steps >= 0, "steps", self.steps, "0 or more")


def parse(arguments: list[str] | None = None) -> tuple[Evaluation, RunConfig]:
    """The evaluation that a command line asks for, and the configuration of its file, changed accordingly."""
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="python -m hpc_dmaml.evaluate", description=Evaluation.__doc__, exit_on_error=False)
    parser.add_class_arguments(Evaluation, None, as_positional=True)
    try:
        evaluation = Evaluation(**parser.instantiate(parser.parse_args(arguments)).as_dict())
    except (ArgumentError, TypeError) as error:
        raise ValueError(str(error)) from error
    config = stored_in(results.read(evaluation.file))
    changed: dict[str, Any] = {n: getattr(evaluation, n) for n in ("shots", "queries", "root")}
    changed = {name: value for name, value in changed.items() if value is not None}
    try:
        task = replace(config.task, **changed)  # type: ignore[type-var]
    except TypeError as error:
        raise ValueError(f"{evaluation.file} was trained on {type(config.task).__name__}: {error}") from error
    return evaluation, replace(config, task=task, device=evaluation.device, seed=evaluation.seed)


def evaluate(settings: tuple[Evaluation, RunConfig], comm: Communicator) -> int:
    """Print the mean over the test tasks ± 1.96 σ/√tasks, before adaptation and after each step."""
    from hpc_dmaml.meta_model import load
    from hpc_dmaml.parameters import flatten
    from hpc_dmaml.randomness import Purpose
    from hpc_dmaml.setup import load_task, make_learner, use_device
    from hpc_dmaml.validation import validate

    evaluation, config = settings
    node = comm.split_node()
    sampler = load_task(config.task, comm, node)
    device = use_device(config, comm, node)
    with comm.agreeing():
        module = load(evaluation.file, evaluation.which).module
        learner = make_learner(config, sampler, module, device)
    steps = config.validation.steps if evaluation.steps is None else evaluation.steps
    key = (Purpose.EVALUATION, 0)
    theta = flatten(module)
    loss, accuracy = validate(learner, theta, comm, evaluation.split, key, evaluation.tasks, steps)
    if comm.rank == 0:
        print(f"{Path(evaluation.file)}: {evaluation.which} parameters, {evaluation.tasks} {evaluation.split} tasks")
        for step, (losses, accuracies) in enumerate(zip(loss, accuracy, strict=True)):
            text = f"after step {step}" if step else "before adaptation"
            text = f"{text:<18}  loss {_interval(losses, 3)}"
            if not np.isnan(accuracies).all():
                text += f"   accuracy {_interval(100 * accuracies, 2)} %"
            print(text)
    return COMPLETE


def _interval(values: np.ndarray, digits: int) -> str:
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


if __name__ == "__main__":
    stopping.release()
    console.settle()
    sys.exit(launch(parse, evaluate))
