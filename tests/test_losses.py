"""Losses: their derivatives, their metric, and how a file names them. A new one is a row in `TABLE`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_dmaml.losses import (
    ACCURACY,
    LOSSES,
    CategoricalPolicyGradient,
    CrossEntropy,
    GaussianPolicyGradient,
    Loss,
    Metric,
    SquaredError,
    described,
    named,
)
from hpc_dmaml.losses.policy_gradient import PolicyGradient, joined
from hpc_dmaml.tasks import Sinusoid
from tests.helpers import run, small_config


@dataclass(frozen=True)
class Huber(Loss):
    """A user's own, without formulas."""

    metric = Metric("share within", "share")
    delta: float = 1.0

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.huber_loss(z, targets, reduction="none", delta=self.delta).mean((1, 2))

    def measure(self, z: Tensor, targets: Tensor) -> Tensor:
        return ((z - targets).abs() < self.delta).to(z.dtype).mean((1, 2))


@dataclass(frozen=True)
class Linear(Loss):
    """Its second derivative is 0."""

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return (z * targets).mean((1, 2))


@dataclass(frozen=True)
class Cubed(SquaredError):
    """Another value than that of its base class, whose formulas do not hold for it."""

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return (z - targets).abs().pow(3).mean((1, 2))


class Smoothing:
    """The value, from a class beside."""

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        cross_entropy = torch.nn.functional.cross_entropy
        return cross_entropy(z.transpose(1, 2), targets, reduction="none", label_smoothing=0.2).mean(1)


@dataclass(frozen=True)
class Fast(SquaredError):
    """Formulas of its own for the value of its base class."""

    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Any]:
        return super().gradient(z, targets)

    def tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        return super().tangent(tape, z_dot)


@dataclass(frozen=True)
class Both(Fast, Cubed):
    """The value of one, and the formulas of another."""


class Smoothed(Smoothing, CrossEntropy):
    """With the metric of its base class, and not its formulas."""


@dataclass(frozen=True)
class CubedTwice(Cubed):
    """Formulas of its own again."""

    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Any]:
        error = z - targets
        return self.value(z, targets), 3 * error * error.abs() / error[0].numel(), error

    def tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        return 6 * tape.abs() * z_dot / tape[0].numel()


TABLE: dict[str, Loss] = {
    "with a value of its own": Cubed(),
    "with a value from a class beside": Smoothed(),
    "with formulas of its own again": CubedTwice(),
    "with the value of one and formulas of another": Both(),
    "cross-entropy": CrossEntropy(),
    "squared error": SquaredError(),
    "one's own": Huber(0.7),
    "linear": Linear(),
    "policy gradient of a Gaussian": GaussianPolicyGradient(),
    "the same as a ratio": GaussianPolicyGradient("ratio"),
    "policy gradient of discrete actions": CategoricalPolicyGradient(),
    "the same as a ratio, discrete": CategoricalPolicyGradient("ratio"),
}
every_loss = pytest.mark.parametrize("loss", TABLE.values(), ids=TABLE)


def example(loss: Loss, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of 3 tasks of 5 samples, targets, and a direction."""
    rng = torch.Generator().manual_seed(seed)
    z, z_dot, numbers = torch.randn(3, 3, 5, 4, generator=rng, dtype=torch.float64)
    if isinstance(loss, PolicyGradient):  # two actions of two components each, or one of four; some steps were not made
        discrete = isinstance(loss, CategoricalPolicyGradient)
        action = torch.randint(4, (3, 5, 1), generator=rng).double() if discrete else numbers[..., :2]
        made = torch.tensor([1.0, 1, 1, 0, 1], dtype=torch.float64).expand(3, 5)
        return z, joined(action, numbers[..., 2], made, numbers[..., 3] * made, made / 5), z_dot
    return z, torch.randint(4, (3, 5), generator=rng) if loss.targets == "classes" else numbers, z_dot


@every_loss
def test_the_gradient_is_autograds_and_the_tangent_its_change(loss: Loss) -> None:
    z, y, z_dot = example(loss)
    losses, z_bar, tape = loss.gradient(z, y)
    leaf = z.clone().requires_grad_()
    values = loss.value(leaf, y)
    (expected,) = torch.autograd.grad(values.sum(), leaf, create_graph=True)
    torch.testing.assert_close(losses, values.detach())
    torch.testing.assert_close(z_bar, expected.detach())
    tangent, h = loss.tangent(tape, z_dot), 1e-6
    if expected.requires_grad:
        torch.testing.assert_close(tangent, torch.autograd.grad(expected, leaf, z_dot, materialize_grads=True)[0])
    if not loss.stops_gradients:
        change = (loss.gradient(z + h * z_dot, y)[1] - loss.gradient(z - h * z_dot, y)[1]) / (2 * h)
        torch.testing.assert_close(tangent, change, rtol=1e-6, atol=1e-8)
    assert not losses.requires_grad
    assert not z_bar.requires_grad


@every_loss
def test_tasks_do_not_know_of_each_other(loss: Loss) -> None:
    z, y, _ = example(loss)
    for b in range(3):
        torch.testing.assert_close(loss.value(z, y)[b], loss.value(z[b : b + 1], y[b : b + 1])[0])


def test_accuracy_is_the_share_of_right_answers_and_a_loss_without_a_metric_measures_nothing() -> None:
    z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert CrossEntropy().metric == ACCURACY
    assert CrossEntropy().measure(z, torch.tensor([[0, 1], [1, 0]])).tolist() == [1.0, 0.5]
    assert SquaredError().metric is None
    assert SquaredError().measure(z, z).isnan().all()


def test_a_model_that_diverged_has_no_accuracy() -> None:
    z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[torch.nan, torch.nan], [1.0, 0.0]]])
    assert str(CrossEntropy().measure(z, torch.tensor([[0, 1], [0, 1]])).tolist()) == "[1.0, nan]"


@every_loss
def test_a_file_names_a_loss_with_its_settings(loss: Loss) -> None:
    assert named(described(loss)) == loss
    assert named(loss) is loss


@pytest.mark.parametrize("name", LOSSES)
def test_the_package_s_own_have_short_names(name: str) -> None:
    assert described(named(name)) == name


def test_what_a_file_names_is_imported_only_where_it_is_trusted() -> None:
    with pytest.raises(ValueError, match="asks to import tests.test_losses.Huber"):
        named(described(Huber()), lambda path: False)


@dataclass(frozen=True)
class Weighted(Linear):
    weights: tuple[float, ...] = (1.0, 2.0)


def test_a_loss_may_have_a_tuple_as_a_field() -> None:
    """YAML has lists alone."""
    assert named(described(Weighted((0.5, 3.0))), lambda path: True) == Weighted((0.5, 3.0))


@dataclass(frozen=True)
class Mixing(Loss):
    """The tasks are held against one another."""

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return (z - z.mean(0)).square().mean((1, 2))


@dataclass(frozen=True)
class Unmeasured(Linear):
    metric = Metric("score")


@dataclass(frozen=True)
class Scalar(Loss):
    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return (z - targets).square().mean()


@dataclass(frozen=True)
class Sines(Sinusoid):
    """With a loss of the test's."""

    loss: Any = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Mixing(), "loss Mixing.value of a task depends on the other tasks"),
        (
            Scalar(),
            r"loss Scalar.value must give a number for each task, shape \(1,\) of torch.float64, not shape \(\)",
        ),
        (Unmeasured(), "Unmeasured has a metric, so write measure()"),
        (Huber, "Sines.loss must be a Loss, or the name of one"),
        ("hinge", "there is no loss 'hinge'"),
    ],
)
def test_a_loss_that_is_none_is_refused_before_any_work(loss: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(small_config(task=Sines(loss=loss)), tmp_path)
    assert not list(tmp_path.glob("*.h5"))


class Untaped(SquaredError):
    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Any]:
        return (*super().gradient(z, targets)[:2], None)


class Halved(Linear):
    def tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        return 0 * z_dot


class Tangential(SquaredError):
    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return (z - targets).abs().mean((1, 2))

    def tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        return 0 * z_dot


class Formulas:
    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Any]:
        raise NotImplementedError

    def tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        raise NotImplementedError


class Mixed(Formulas, Linear):  # type: ignore[misc]
    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return (z * targets).mean((1, 2))


def test_formulas_from_a_class_beside_are_kept() -> None:
    assert type(Mixed()).gradient is Formulas.gradient


@pytest.mark.parametrize("kind", [Untaped, Halved, Tangential])
def test_one_formula_without_the_other_is_refused(kind: type[Loss]) -> None:
    with pytest.raises(ValueError, match=f"loss: {kind.__name__} must have formulas of its own for both gradient and"):
        kind()


@dataclass(frozen=True)
class Unnameable(Linear):
    array: Any = None


@pytest.mark.parametrize("loss", [Unnameable(np.ones(3)), Unnameable(object())], ids=["array", "object"])
def test_a_loss_whose_settings_cannot_be_written_down_is_refused(loss: Loss) -> None:
    with pytest.raises(ValueError, match="task: the loss Unnameable.*cannot be named in a file"):
        described(loss)


@pytest.mark.parametrize("text", ["hinge", "class_path: x", "{class_path: Huber, init_args: {}}", "[1]", "{a: [", 3])
def test_what_is_no_loss_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="loss"):
        named(text)
