"""The fields of a job, and their ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hpc_dmaml.algorithms import MAML, Algorithm
from hpc_dmaml.models import Conv4, Model
from hpc_dmaml.optimizers import SGD, Adam, Optimizer
from hpc_dmaml.requirements import count, positive, require
from hpc_dmaml.schedules import Constant, Schedule
from hpc_dmaml.tasks import Glyphs, TaskFamily
from hpc_dmaml.weight_generators import ArithmeticMean, WeightGenerator

STRATEGIES = (TaskFamily, Model, Algorithm, Optimizer, Schedule, WeightGenerator)
MAY_CHANGE = {"runs", "exchange", "checkpoint", "time_limit_s", "device", "threads", "check_every"}
"""Fields that may change when a job is resumed: they affect no result, or only the number of runs."""
REPEATS = {
    "seed", "output", "resume", "exchange", "checkpoint.every", "checkpoint.every_s", "time_limit_s", "device", "threads",
    "chunk", "keep", "compile", "check_every", "task.root",
}  # fmt: skip
"""Fields in which the repetitions of one setting may differ."""
DECIDED = {"compile": "auto", "workers": None, "schedule.runs": None}
"""Values that set-up replaces by a decision, stored in the file; a job resumed with such a value keeps the decision."""


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
    """Use the same tasks at every validation."""
    keep: int = 1
    """How many of the best parameter vectors to keep, for the mean prediction of `evaluate --which ensemble`. Each adds
    P numbers to the file: 0.45 MB for the 4 × 64 filters of Conv4 in single precision."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "validation.every", self.every, "0 or more")
        count("validation.tasks", self.tasks)
        count("validation.steps", self.steps, least=0)
        count("validation.keep", self.keep)


@dataclass(frozen=True)
class Checkpoint:
    """How often the output file, which is log and checkpoint in one, is rewritten."""

    every: int | None = None
    """Runs between two writes. Default: by time alone."""
    every_s: float | None = 30.0
    """Seconds between two writes; more where writing would take more than 2 % of the time."""

    def __post_init__(self) -> None:
        require(self.every is None or self.every >= 1, "checkpoint.every", self.every, "1 or more")
        require(self.every_s is None or self.every_s >= 0, "checkpoint.every_s", self.every_s, "0 or more")


@dataclass(frozen=True)
class Heterogeneity:
    """Make workers differ from one another, to study weight generators. Held-out tasks are not affected."""

    noisy_workers: int = 0
    """How many workers, the last ones, train with wrong labels."""
    label_noise: float = 1.0
    """Probability that a label of theirs is replaced by that of another sample of the same support or query set."""
    own_tasks: bool = False
    """Each worker trains on a different part of the tasks: consecutive training classes, or a range of amplitudes of
    sine waves; for any family whose sampler has a method `share`."""

    def __post_init__(self) -> None:
        count("heterogeneity.noisy_workers", self.noisy_workers, least=0)
        require(0 <= self.label_noise <= 1, "heterogeneity.label_noise", self.label_noise, "between 0 and 1")


@dataclass(frozen=True)
class RunConfig:
    """All fields of a job."""

    seed: int = 0
    """Seed of all random draws."""
    runs: int = 300
    """Number of runs: rounds of work, exchange and update."""
    workers: int | None = None
    """Number of workers W. Default: one per rank. A rank may host several workers, or several ranks share a worker."""
    epochs: int = 1
    """Outer steps of a worker in a run, each on new tasks."""
    tasks: int = 2
    """Tasks per worker and epoch: the meta-batch."""
    exchange: Literal["gather", "allreduce"] = "allreduce"
    """gather: rank 0 gathers all updates and broadcasts θ, bitwise the same for any number of ranks that divides the
    workers. allreduce: one weighted sum, memory O(P). Weight generators that need the updates always gather."""
    weight_generator: WeightGenerator = field(default_factory=ArithmeticMean)
    """How the workers' updates are weighted."""
    task: TaskFamily = field(default_factory=Glyphs)
    """The task family, from which tasks are drawn."""
    model: Model = field(default_factory=Conv4)
    """The model that is meta-learned."""
    algorithm: Algorithm = field(default_factory=MAML)
    """The meta-learning algorithm: how the model adapts to a task, and the update that follows from it."""
    task_reduction: Literal["sum", "mean"] = "mean"
    """A worker's update is the sum (the thesis's "gradient sum") or the mean over its tasks ("arithmetic")."""
    clip: float | None = None
    """Limit each component of a worker's gradient to ± this."""
    optimizer: Optimizer = field(default_factory=Adam)
    """The outer optimizer."""
    schedule: Schedule = field(default_factory=Constant)
    """How optimizer.lr and local_lr change over the runs."""
    local_lr: float | None = None
    """Learning rate of a worker's own steps between epochs. Default: optimizer.lr for SGD."""
    local_optimizer: Optimizer | None = None
    """Optimizer of a worker's own steps, in place of local_lr: its update is then its parameters' change, φ − φ_w, and
    an outer SGD of lr 1 averages the parameters. Default: none, the update is the sum of the epochs' gradients."""
    local_state: Literal["kept", "fresh"] = "kept"
    """Whether a worker's own optimizer keeps its state from run to run (the file then holds it), or starts afresh."""
    heterogeneity: Heterogeneity = field(default_factory=Heterogeneity)
    validation: Validation = field(default_factory=Validation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    time_limit_s: float | None = None
    """Stop after this many seconds, at the end of a run, to be resumed."""
    output: str | None = None
    """HDF5 file to write; must not exist. Default: a new one under results/."""
    resume: str | None = None
    """Resume this HDF5 file, with its configuration; or auto: resume `output` if it exists, else start."""
    init_from: str | None = None
    """Start from the parameters of this HDF5 file."""
    device: str = "auto"
    """auto: a GPU by the rank's number on its node, or the CPU if there is none; or cpu, cuda, cuda:1, …"""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of all computation."""
    threads: int | None = None
    """CPU threads of a rank. Default: OMP_NUM_THREADS, or a fair share of the node's cores."""
    chunk: int | None = None
    """Tasks computed at once. Default: as many as keep the working set in cache."""
    keep: Literal["activations", "parameters"] = "activations"
    """What to store of each inner step; parameters: less memory, but one more forward and backward pass per step."""
    compile: Literal["off", "on", "auto"] = "off"
    """Compile meta-gradient and adaptation curve on a CPU, for models of known layers: a minute once, cached on disk,
    and small networks are 2 to 3 times as fast. auto: where that pays. Same numbers up to rounding; a resumed job
    continues bit for bit where torch, C++ compiler and processor are the same."""
    tf32: bool = False
    """Allow TensorFloat-32 on GPUs: faster, less precise."""
    check_every: int = 50
    """Runs between checks that all ranks have the same parameters; 0 for none."""

    def __post_init__(self) -> None:
        require(self.runs >= 1, "runs", self.runs, "1 or more")
        require(self.runs < 2**63, "runs", self.runs, "below 2**63")
        for name in ("workers", "epochs", "tasks", "threads", "chunk"):
            count(name, getattr(self, name))
        require(self.threads is None or self.threads <= 1024, "threads", self.threads, "1024 or less")
        require(0 <= self.seed < 2**63, "seed", self.seed, "between 0 and 2**63 - 1")
        require(self.check_every >= 0, "check_every", self.check_every, "0 or more")
        for name in ("local_lr", "time_limit_s", "clip"):
            positive(name, getattr(self, name))
        positive("optimizer.lr", self.optimizer.lr)
        if self.local_optimizer is not None:
            positive("local_optimizer.lr", self.local_optimizer.lr)
            require(self.local_lr is None, "local_lr", self.local_lr, "left out where there is a local_optimizer")
        elif self.epochs > 1 and self.worker_lr is None:
            raise ValueError(
                f"local_lr must be given when epochs is {self.epochs} and the optimizer is "
                f"{type(self.optimizer).__name__}: only SGD's lr is also the rate of a worker's own steps"
            )

    @property
    def worker_lr(self) -> float | None:
        """Learning rate of a worker's own steps without a local_optimizer, or None."""
        return self.optimizer.lr if self.local_lr is None and isinstance(self.optimizer, SGD) else self.local_lr
