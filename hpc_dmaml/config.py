"""The one configuration of a job: its fields, their ranges, and how command line and YAML files become it."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from hpc_dmaml import results
from hpc_dmaml.models import Conv4, Model
from hpc_dmaml.optimizers import SGD, Adam, Optimizer
from hpc_dmaml.tasks import Glyphs, TaskFamily
from hpc_dmaml.weight_generators import ArithmeticMean, WeightGenerator

PRESETS = Path(__file__).with_name("presets")
STRATEGIES = (TaskFamily, Model, Optimizer, WeightGenerator)
MAY_CHANGE = {
    "runs", "exchange", "checkpoint", "output", "resume", "time_limit_s", "device", "threads", "check_every",
}  # fmt: skip
"""Fields that may have other values when a job is resumed: they change no number, or only how many runs there are."""


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise ValueError, naming the field, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {rule}, not {value}")


def positive(name: str, value: float | None) -> None:
    require(value is None or (math.isfinite(value) and value > 0), name, value, "positive")


@dataclass(frozen=True)
class Maml:
    """MAML: how a task adapts, and what is differentiated."""

    inner_lr: float = 0.4
    """Inner learning rate α of the adaptation."""
    inner_steps: int = 1
    """Inner steps in training."""
    first_order: bool = False
    """Leave out the second derivatives (first-order MAML)."""
    task_reduction: Literal["sum", "mean"] = "mean"
    """A worker's meta-gradient is the sum (the thesis's "gradient sum") or the mean over its tasks ("arithmetic")."""
    clip: float | None = None
    """Limit each component of a worker's meta-gradient to ± this."""

    def __post_init__(self) -> None:
        positive("maml.inner_lr", self.inner_lr)
        require(self.inner_steps >= 0, "maml.inner_steps", self.inner_steps, "0 or more")
        positive("maml.clip", self.clip)


@dataclass(frozen=True)
class Validation:
    """Validation: the meta-model adapts to held-out tasks."""

    every: int = 10
    """Runs between validations; 0 for none. The last run is always validated."""
    tasks: int = 20
    """Held-out tasks, spread over the ranks."""
    steps: int = 3
    """Adaptation steps."""
    fixed: bool = False
    """The same tasks at every validation."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "validation.every", self.every, "0 or more")
        require(self.tasks >= 1, "validation.tasks", self.tasks, "1 or more")
        require(self.steps >= 0, "validation.steps", self.steps, "0 or more")


@dataclass(frozen=True)
class Checkpoint:
    """How often the output file is replaced by a newer one. It is log and checkpoint in one."""

    every: int | None = None
    """Runs between two; default: by time alone."""
    every_s: float | None = 30.0
    """Seconds between two; stretched where writing would take more than 2 % of the time."""

    def __post_init__(self) -> None:
        require(self.every is None or self.every >= 1, "checkpoint.every", self.every, "1 or more")
        require(self.every_s is None or self.every_s >= 0, "checkpoint.every_s", self.every_s, "0 or more")


@dataclass(frozen=True)
class RunConfig:
    """A job: every field of it."""

    seed: int = 0
    """Seed of all random draws."""
    runs: int = 300
    """Runs: rounds of work, exchange and update."""
    workers: int | None = None
    """Workers W. Default: one a rank. Several workers share a rank, or several ranks a worker."""
    epochs: int = 1
    """MAML steps that a worker makes in a run."""
    tasks: int = 2
    """Tasks of a worker in an epoch."""
    exchange: Literal["gather", "allreduce"] = "allreduce"
    """gather: rank 0 gathers all updates and broadcasts θ, bitwise the same for any ranks that divide the workers.
    allreduce: one weighted sum, memory O(P). Generators that look at updates always gather."""
    weight_generator: WeightGenerator = field(default_factory=ArithmeticMean)
    """How much each worker counts."""
    task: TaskFamily = field(default_factory=Glyphs)
    """Where the tasks come from."""
    model: Model = field(default_factory=Conv4)
    """What is meta-learned."""
    optimizer: Optimizer = field(default_factory=Adam)
    """The outer optimizer."""
    local_lr: float | None = None
    """Rate of a worker's own steps between epochs. Default: optimizer.lr for SGD."""
    maml: Maml = field(default_factory=Maml)
    validation: Validation = field(default_factory=Validation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    time_limit_s: float | None = None
    """Stop in good order after so many seconds, to be resumed."""
    output: str | None = None
    """HDF5 file to write; must not exist. Default: a new one under results/."""
    resume: str | None = None
    """Go on with this HDF5 file, whose configuration holds; or auto: go on with `output` if it exists, else start."""
    init_from: str | None = None
    """Start from the parameters of this HDF5 file."""
    device: str = "auto"
    """auto: the GPU of this rank's place on the node, if there is one; or cpu, cuda, cuda:1, …"""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of all computation."""
    threads: int | None = None
    """CPU threads of a rank. Default: OMP_NUM_THREADS, or a fair share of the node's cores."""
    chunk: int | None = None
    """Tasks computed at once. Default: as many as keep the working set in cache."""
    keep: Literal["activations", "parameters"] = "activations"
    """Of each inner step store everything, or parameters alone: less memory, one more forward and backward a step."""
    tf32: bool = False
    """Allow TensorFloat-32 on GPUs: faster, less precise."""
    check_every: int = 50
    """Runs between checks that all ranks have the same parameters; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("runs", "epochs", "tasks"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("workers", "threads", "chunk"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "1 or more")
        require(0 <= self.seed < 2**63, "seed", self.seed, "between 0 and 2**63 - 1")
        require(self.check_every >= 0, "check_every", self.check_every, "0 or more")
        for name in ("local_lr", "time_limit_s"):
            positive(name, getattr(self, name))
        positive("optimizer.lr", self.optimizer.lr)
        if self.epochs > 1 and self.worker_lr is None:
            raise ValueError(
                f"local_lr must be given when epochs is {self.epochs} and the optimizer is "
                f"{type(self.optimizer).__name__}: only SGD's lr says how far a worker steps by itself"
            )

    @property
    def worker_lr(self) -> float | None:
        """The rate of a worker's own steps, if there is one."""
        return self.optimizer.lr if self.local_lr is None and isinstance(self.optimizer, SGD) else self.local_lr


def parse(arguments: list[str] | None = None) -> RunConfig:
    """The configuration that a command line describes; `arguments` defaults to sys.argv[1:].

    A job to be resumed has the configuration of its file; then `resume` and `output` are that file. Raises ValueError
    with one readable message. `--help` and `--print_config` print and exit, as argparse does.
    """
    from jsonargparse import ArgumentError

    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    try:
        first = parser.parse_args([a for a in arguments if not a.startswith("--print_config")])
        source = resume_source(first.resume, first.output)
        stored = None if source is None else stored_in(results.read(source, verify=True))
        if stored is not None:
            parser.set_defaults(_flat(_plain(stored)))
        else:
            # Chosen classes start from their own defaults, not from those of the default class (as jsonargparse would
            # have it where names are the same): so look which they are, and parse again with them as defaults.
            parser.set_defaults({n: {"class_path": first[n].class_path} for n in _strategy_fields()})
        config = _instantiate(parser, parser.parse_args(arguments))
    except (ArgumentError, TypeError, RecursionError) as error:
        raise ValueError(_readable(str(error))) from error
    if stored is None:
        return replace(config, resume=None)
    changed = [name for name in changes(stored, config) if name.split(".")[0] not in MAY_CHANGE]
    if changed:
        raise ValueError(
            f"resume: {source} was started with other values of {', '.join(changed)}; only "
            f"{', '.join(sorted(MAY_CHANGE))} may change"
        )
    return replace(config, resume=str(source), output=str(source))


def _readable(message: str) -> str:
    """An error of jsonargparse on one line, naming the field first; with the known classes where one was misspelt."""
    message = re.sub(r'Parser key "(.*?)":', r"\1:", " ".join(message.split()))
    misspelt = re.search(r"(\w+): Expected a dot import path string: (\S+)", message)
    if misspelt:
        name, given = misspelt.groups()
        base = next(b for b in STRATEGIES if isinstance(getattr(RunConfig(), name), b))
        known = ", ".join(sorted(kind.__name__ for kind in _leaves(base)))
        return f"{name}: there is no {base.__name__} {given!r}; known are {known}, or the import path of your own"
    return message


def _leaves(kind: type[Any]) -> list[type[Any]]:
    """The classes below `kind` that have none below themselves."""
    below: list[type[Any]] = kind.__subclasses__()
    return [leaf for each in below for leaf in _leaves(each)] if below else [kind]


def resume_source(resume: str | None, output: str | None) -> Path | None:
    """The file to go on with, if there is one. Raises ValueError where `resume` does not say which."""
    if resume != "auto":
        return None if resume is None else Path(resume)
    if output is None:
        raise ValueError("resume: auto needs --output, the file to go on with if it exists")
    return Path(output) if Path(output).exists() else None


def changes(one: RunConfig, other: RunConfig) -> list[str]:
    """The names of the fields in which two configurations differ."""
    left, right = _flat(_plain(one)), _flat(_plain(other))
    return [name for name in left if left[name] != right[name]]


def from_yaml(text: str) -> RunConfig:
    """The configuration that `to_yaml` wrote. Raises ValueError."""
    from jsonargparse import ArgumentError

    parser = _parser()
    try:
        check_yaml(text)
        return _instantiate(parser, parser.parse_string(text))
    except (ArgumentError, TypeError, RecursionError, ValueError) as error:
        raise ValueError(f"not a configuration: {error}") from error


def check_yaml(text: str) -> None:
    """Raise ValueError for what is no YAML, or has aliases or a key twice.

    A few lines of aliases can stand for more than fits anywhere; of two values YAML would take the last, and be silent.
    """
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("aliases (*name) have no place in it")
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    for mapping in _mappings(root):
        given = set()
        for key in (key for key, _ in mapping.value if isinstance(key, yaml.ScalarNode)):
            if key.value in given:
                raise ValueError(f"{key.value} is there twice, again in line {key.start_mark.line + 1}")
            given.add(key.value)


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """All mappings in a YAML document."""
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def stored_in(source: results.Results) -> RunConfig:
    """The configuration of the job that wrote a file. Raises ValueError, naming the file."""
    try:
        return from_yaml(source.attributes["config"])
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, which `from_yaml` and `--config` read."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries; strategies with their class."""
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if not is_dataclass(value):
        return value
    content = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if not isinstance(value, STRATEGIES):
        return content
    kind = type(value)
    own = kind.__module__.startswith("hpc_dmaml.")
    return {"class_path": kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}", "init_args": content}


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """Nested groups as dotted names; strategies as they are."""
    flat = {}
    for name, value in content.items():
        if isinstance(value, dict) and "class_path" not in value:
            flat.update({f"{name}.{below}": v for below, v in value.items()})
        else:
            flat[name] = value
    return flat


def _strategy_fields() -> list[str]:
    default = RunConfig()
    return [f.name for f in fields(RunConfig) if isinstance(getattr(default, f.name), STRATEGIES)]


def _instantiate(parser: Any, values: Any) -> RunConfig:
    values = parser.instantiate(values)
    return RunConfig(**{f.name: values[f.name] for f in fields(RunConfig)})


def _parser() -> Any:
    from jsonargparse import (
        ActionConfigFile,
        ArgumentError,
        ArgumentParser,
        set_parsing_settings,
    )

    class PresetOrFile(ActionConfigFile):
        """`--config NAME`: a preset by its name, else a YAML file."""

        def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
            path = preset(values)
            try:
                check_yaml(path.read_text(encoding="utf-8"))
                super().__call__(parser, cfg, str(path), option_string)
            except (ArgumentError, TypeError, RecursionError, OSError, ValueError) as error:
                raise ValueError(f"config: {path}: {_readable(str(error))}") from error

    set_parsing_settings(subclasses_enabled=list(STRATEGIES), docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="python -m hpc_dmaml",
        description="Distributed model-agnostic meta-learning: start it under mpirun or srun, or as one process.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action=PresetOrFile, help=f"Preset ({', '.join(presets())}) or YAML file.")
    parser.add_class_arguments(RunConfig, None)
    return parser


def presets() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset(name: str) -> Path:
    """The file of a preset, or `name` itself as a file. Raises ValueError with the nearest name."""
    if name in presets():
        return PRESETS / f"{name}.yaml"
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, presets(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the presets are {', '.join(presets())}"
        raise ValueError(f"config: there is no preset and no file {name!r}; {hint}")
    return path
