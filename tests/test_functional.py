"""`hpc_dmaml.meta_gradient`, in a training loop of one's own: exact for any module and loss, and it changes nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import hpc_dmaml
from examples import own_loop
from hpc_dmaml import InnerLoop, meta_gradient
from hpc_dmaml.engine import rates
from hpc_dmaml.engine.meta_gradient import Keep
from hpc_dmaml.functional import NamedGradients
from hpc_dmaml.losses import SquaredError
from hpc_dmaml.parameters import Layout
from tests.engine.reference import PROBLEMS, Problem, adapted_losses, plain_loop
from tests.helpers import docstring_command
from tests.processes import ROOT

problems = pytest.mark.parametrize("name", ["mlp", "conv4_max_pool", "layers_without_formulas", "not_a_chain"])


def tensors(problem: Problem, **sizes: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Support and query of some tasks, in double precision."""
    batch = problem.batch(**sizes).to(torch.device("cpu"), torch.float64)
    return (*batch.support_set,), (*batch.query_set,)  # type: ignore[return-value]


def flat(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([each.reshape(-1) for each in named.values()])


@problems
@pytest.mark.parametrize("inner", [InnerLoop(0.2), InnerLoop(0.2, 3), InnerLoop(0.2, 2, True)], ids=str)
def test_it_is_the_mean_over_the_tasks_of_what_autograd_gives(name: str, inner: InnerLoop) -> None:
    problem = PROBLEMS[name]
    module = problem.module()
    expected, losses = plain_loop(module, problem.loss, problem.batch(), inner)
    found = meta_gradient(module, problem.loss, *tensors(problem), inner)
    assert list(found.gradients) == [name for name, _ in module.named_parameters()]
    torch.testing.assert_close(flat(found.gradients), expected / 3)
    torch.testing.assert_close(found.losses, losses)
    assert found.derivatives == ("layerwise" if problem.fast else "autograd")


@problems
def test_it_is_what_central_differences_give(name: str) -> None:
    problem = PROBLEMS[name]
    module, inner, h = problem.module(), InnerLoop(0.2, 2), 1e-6
    layout = Layout.of(module)
    theta, direction = layout.flatten(module), F.normalize(torch.randn(layout.size, dtype=torch.float64), dim=0)
    ahead, behind = (
        meta_gradient(
            module, problem.loss, *tensors(problem), inner, parameters=layout.views(theta + shift * direction)
        ).losses
        for shift in (h, -h)
    )
    slope = flat(meta_gradient(module, problem.loss, *tensors(problem), inner).gradients) @ direction
    assert ((ahead - behind).mean() / (2 * h)).item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-7)


def huber(z: Tensor, y: Tensor) -> Tensor:
    return F.huber_loss(z, y, delta=0.3)


@pytest.mark.parametrize(("name", "named", "function"), [
    ("mlp", "squared_error", F.mse_loss),
    ("not_a_chain", "cross_entropy", F.cross_entropy),
    ("conv4_max_pool", "cross_entropy", nn.CrossEntropyLoss()),
    ("mlp", SquaredError(), nn.MSELoss()),
])  # fmt: skip
def test_a_loss_is_a_name_or_an_object_or_a_function_of_one_task(
    name: str, named: object, function: Callable[[Tensor, Tensor], Tensor]
) -> None:
    problem = PROBLEMS[name]
    module = problem.module()
    one, other = (
        meta_gradient(module, loss, *tensors(problem), InnerLoop(0.2, 2))  # type: ignore[arg-type]
        for loss in (named, function)
    )
    torch.testing.assert_close(one.gradients, other.gradients)
    torch.testing.assert_close(one.losses, other.losses)
    assert one.metric.isnan().all() == (name == "mlp")
    assert other.metric.isnan().all()


def test_a_function_of_ones_own_is_differentiated_twice() -> None:
    problem = PROBLEMS["mlp"]
    module, inner = problem.module(), InnerLoop(0.5, 2)
    (x, y), (query_x, query_y) = tensors(problem)
    own = {name: p.detach().requires_grad_() for name, p in module.named_parameters()}
    losses = []
    for b in range(len(x)):
        at = own
        for _ in range(inner.steps):
            slopes = torch.autograd.grad(
                huber(functional_call(module, at, (x[b],)), y[b]), [*at.values()], create_graph=True
            )
            at = {name: p - inner.lr * slope for (name, p), slope in zip(at.items(), slopes, strict=True)}
        losses.append(huber(functional_call(module, at, (query_x[b],)), query_y[b]))
    expected = torch.autograd.grad(torch.stack(losses).mean(), [*own.values()])
    found = meta_gradient(module, huber, (x, y), (query_x, query_y), inner)
    torch.testing.assert_close(found.gradients, dict(zip(own, expected, strict=True)))


@pytest.mark.parametrize("filters", [6, 64], ids=["two layers", "one layer for both"])
def test_batch_norm_of_a_single_pixel_is_refused_as_in_pytorch(filters: int) -> None:
    module = nn.Sequential(
        nn.Conv2d(1, filters, 2, bias=False), nn.BatchNorm2d(filters), nn.Flatten(), nn.Linear(filters, 2)
    )
    one = torch.rand(2, 1, 1, 2, 2), torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="batch norm needs more than one sample, or pixel, of a task"):
        meta_gradient(module, "cross_entropy", one, one, InnerLoop(0.1))


def test_outputs_of_any_shape_go_to_a_function() -> None:
    class Squeezed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, 0]

    plain = nn.Linear(3, 1)
    squeezed = Squeezed(3, 1)
    squeezed.load_state_dict(plain.state_dict())
    x, y = torch.randn(2, 2, 5, 3), torch.randn(2, 2, 5)
    one = meta_gradient(squeezed, F.mse_loss, (x[0], y[0]), (x[1], y[1]), InnerLoop(0.1))
    other = meta_gradient(plain, "squared_error", (x[0], y[0, ..., None]), (x[1], y[1, ..., None]), InnerLoop(0.1))
    torch.testing.assert_close(one.gradients, other.gradients)


@problems
def test_the_module_stays_as_it_was(name: str) -> None:
    problem = PROBLEMS[name]
    module = problem.module()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    modes, random = [part.training for part in module.modules()], torch.get_rng_state()
    meta_gradient(module, problem.loss, *tensors(problem), InnerLoop(0.2, 2))
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_gradients_add_up_in_grad_as_those_of_backward_do() -> None:
    problem = PROBLEMS["mlp"]
    module = problem.module()
    found = meta_gradient(module, problem.loss, *tensors(problem), InnerLoop(0.2))
    kept = {name: each.clone() for name, each in found.gradients.items()}
    for times in (1, 2):
        found.accumulate(module)
        torch.testing.assert_close(
            {n: p.grad for n, p in module.named_parameters()}, {n: times * g for n, g in kept.items()}
        )
    torch.testing.assert_close(found.gradients, kept)


@problems
def test_it_is_the_same_from_parameters_alone(name: str) -> None:
    problem = PROBLEMS[name]
    module, inner = problem.module(), InnerLoop(0.2, 3)
    kept, again = (meta_gradient(module, problem.loss, *tensors(problem), inner, keep=k) for k in get_args(Keep))
    torch.testing.assert_close(kept.gradients, again.gradients)


def test_a_frozen_parameter_neither_adapts_nor_has_a_gradient() -> None:
    module = PROBLEMS["mlp"].module()
    frozen = next(iter(dict(module.named_parameters())))
    module.get_parameter(frozen).requires_grad_(False)
    found = meta_gradient(module, "squared_error", *tensors(PROBLEMS["mlp"]), InnerLoop(0.2, 2))
    expected, _ = plain_loop(module, "squared_error", PROBLEMS["mlp"].batch(), InnerLoop(0.2, 2))
    assert frozen not in found.gradients
    torch.testing.assert_close(flat(found.gradients), expected / 3)


@pytest.mark.parametrize("names", ["all", "one"])
def test_parameters_by_name_stand_in_for_the_modules_own(names: str) -> None:
    problem = PROBLEMS["not_a_chain"]
    module, other = problem.module(seed=0), problem.module(seed=1)
    given = {n: p for n, p in other.named_parameters() if names == "all" or n == "scale"}
    expected = problem.module(seed=0)
    expected.load_state_dict(given, strict=False)
    one, two = (
        meta_gradient(at, problem.loss, *tensors(problem), InnerLoop(0.2, 2), parameters=instead)
        for at, instead in ((module, given), (expected, None))
    )
    torch.testing.assert_close(one.gradients, two.gradients)


def test_inner_rates_that_are_learned_have_gradients_too() -> None:
    problem = PROBLEMS["mlp"]
    module = problem.module()
    layout = Layout.of(module)
    found = meta_gradient(
        module, problem.loss, *tensors(problem), InnerLoop(rates(layout, 0.2, "layer", 2, learned=True), 2)
    )
    scale = torch.full((2,), 0.2, dtype=torch.float64, requires_grad=True)
    losses = adapted_losses(
        module,
        problem.loss,
        layout.flatten(module).requires_grad_(),
        problem.batch(),
        InnerLoop(0.2, 2),
        lambda k: scale[k],
    )
    torch.testing.assert_close(sum(found.rates.values()), torch.autograd.grad(losses.mean(), scale)[0])


def test_arrays_and_bytes_are_taken_to_the_parameters_precision() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 2, 8, 8), dtype=np.uint8)
    labels = np.arange(18).reshape(3, 6) % 3
    module = PROBLEMS["conv4_max_pool"].module(dtype=torch.float32)
    one, other = (
        meta_gradient(module, "cross_entropy", (x[0], labels), (x[1], labels), InnerLoop(0.2))
        for x in (images, torch.from_numpy(images / 255))
    )
    assert {each.dtype for each in one.gradients.values()} == {torch.float32}
    torch.testing.assert_close(one.gradients, other.gradients)


X, Y = torch.randn(2, 4, 3), torch.randn(2, 4, 2)
LINEAR = partial(nn.Linear, 3, 2)
RATES = rates(Layout.of(LINEAR()), 0.1)
DOUBLE_BIAS = LINEAR()
DOUBLE_BIAS.bias.data = DOUBLE_BIAS.bias.data.double()


@pytest.mark.parametrize(("changes", "message"), [
    ({"loss": "squared_eror"}, "squared_eror.*did you mean 'squared_error'"),
    ({"loss": nn.MSELoss}, "loss must be one of cross_entropy, squared_error, a Loss, or a function"),
    ({"loss": partial(F.mse_loss, reduction="none")}, r"loss must give one number.*not shape \(4, 2\)"),
    ({"loss": lambda z, y: 0.0}, "loss must give one number.* not float"),
    ({"loss": "cross_entropy"}, r"support y must be 4 class numbers.*\(not one-hot\), not shape"),
    ({"support": (X, Y[..., 0])}, r"support y must be \(4, 2\)"),
    ({"loss": ["squared_error"]}, "loss must be one of"),
    ({"module": F.relu}, "module must be of the class Module, not <function relu"),
    ({"keep": "all"}, "keep must be activations or parameters, not 'all'"),
    ({"inner": 0.1}, r"inner must be of the class InnerLoop, not 0\.1"),
    ({"query": (X[:1], Y[:1])}, "query has 1 tasks in x and 1 in y, where 2"),
    ({"query": (X[..., :2], Y)}, r"query x must be n samples \(n, 3\) for a task, not shape \(4, 2\)"),
    ({"support": X}, r"support must be a pair \(x, y\) of tensors or arrays: it is a Tensor"),
    ({"support": (X[0, 0], Y[0])}, r"support x must be \(tasks, samples, …\).*not \(3,\)"),
    ({"support": (X[:0], Y[:0]), "query": (X[:0], Y[:0])}, "at least one of each"),
    ({"module": nn.Linear(5, 2)}, r"model: Linear gives no outputs for a task's x \(4, 3\): mat1 and mat2"),
    ({"module": nn.Flatten(0)}, "model: it has no parameters to learn"),
    ({"module": nn.LazyLinear(2)}, "model: weight has no shape yet"),
    ({"module": nn.Sequential(LINEAR(), nn.Flatten(0))}, r"gives \(8,\) for a task's x \(4, 3\) where the loss needs \(4, "),
    ({"module": DOUBLE_BIAS}, "parameters must be of one precision.*float32 on cpu and torch.float64"),
    ({"parameters": {"wieght": X}}, "no trainable parameter 'wieght'; there are weight, bias; did you mean 'weight'"),
    ({"parameters": {"weight": X}}, r"parameters: weight must be \(2, 3\), not \(2, 4, 3\)"),
    ({"inner": InnerLoop(rates(Layout(("a",), ((3,),)), 0.1))}, "inner.lr: rates of the parameters a, where the model has weight, bias"),
    ({"inner": InnerLoop(RATES._replace(values=torch.ones(2)))}, r"inner.lr: values must be \(1,\), not Tensor \(2,\)"),
    ({"inner": InnerLoop(RATES._replace(values=np.ones(1)))}, r"inner.lr: values must be \(1,\), not ndarray \(1,\)"),
    ({"parameters": {"weight": np.ones((2, 3))}}, "parameters: weight must be a dense tensor, not ndarray"),
    ({"parameters": {"weight": torch.ones(2, 3, device="meta")}}, "parameters: weight must be a dense tensor"),
    ({"parameters": [X]}, "parameters must be a mapping of names to tensors, not list"),
    ({"loss": lambda z, y: z.new_zeros(())}, "model: Linear with this loss cannot be differentiated as MAML needs it: element 0"),
    ({"loss": lambda z, y: {}[z]}, r"loss: it cannot take outputs \(4, 2\) and targets \(4, 2\) of a task"),
    ({"module": nn.Sequential(LINEAR(), nn.Hardsigmoid())}, "cannot be differentiated.*hardsigmoid.*; first_order=True may do"),
    ({"support": (X, Y.to_sparse())}, r"support must be a pair.*: a tensor of it is not dense"),
    ({"support": (X, Y.to("meta"))}, r"support must be a pair.*: a tensor of it has no values \(device meta\)"),
    ({"loss": lambda z, y: (z - y.div_(2)).square().mean()}, "loss: it changes the targets in place"),
    ({"module": torch.compile(LINEAR())}, "OptimizedModule is not supported; give the module that it wraps"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    fitting = {"module": LINEAR(), "loss": "squared_error", "support": (X, Y), "query": (X, Y), "inner": InnerLoop(0.1)}
    meta_gradient(**fitting)
    with pytest.raises(ValueError, match=message):
        meta_gradient(**{**fitting, **changes})


def test_a_penalty_on_the_modules_parameters_is_refused_as_it_would_not_adapt() -> None:
    module = LINEAR()
    with pytest.raises(ValueError, match="loss: it uses the module's own parameters"):
        penalised = lambda z, y: F.mse_loss(z, y) + module.weight.square().sum()  # noqa: E731
        meta_gradient(module, penalised, (X, Y), (X, Y), InnerLoop(0.1))


@pytest.mark.parametrize("targets", [Y > 0, torch.complex(Y, -Y).to(torch.complex128)], ids=["mask", "complex"])
def test_masks_and_complex_numbers_reach_a_loss_as_they_are(targets: Tensor) -> None:
    module = LINEAR().double()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return -z[y].mean() if y.dtype == torch.bool else (z - y).abs().square().mean()

    found = meta_gradient(module, loss, (X, targets), (X, targets), InnerLoop(0.0))
    for task in range(2):
        torch.testing.assert_close(found.losses[task], loss(module(X[task].double()), targets[task]).detach())


@pytest.mark.parametrize("block", [torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)])
def test_a_block_in_which_there_are_no_exact_derivatives_is_named(block: Callable[[], Any]) -> None:
    with block(), pytest.raises(ValueError, match=r"torch\.(inference_mode|autocast)"):
        meta_gradient(LINEAR(), "squared_error", (X, Y), (X, Y), InnerLoop(0.1))


@pytest.mark.parametrize(("field", "value"), [
    ("lr", -0.1), ("lr", "0.1"), ("lr", 10**400), ("lr", torch.tensor(0.1)), ("steps", 1.5), ("steps", -1), ("steps", True),
    ("first_order", "no"), ("weights", (1.0,)), ("weights", 0.5), ("weights", ("a", "b")), ("weights", (1.0, float("nan"))),
])  # fmt: skip
def test_an_inner_loop_that_is_none_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"inner.{field} must be"):
        InnerLoop(**{"lr": 0.1, "steps": 2, field: value})  # type: ignore[arg-type]


def test_numbers_may_be_those_of_numpy() -> None:
    numpy = InnerLoop(np.float64(0.1), np.int64(2))
    found = meta_gradient(LINEAR(), "squared_error", (X, Y), (X, Y), numpy)
    assert found.losses.shape == (2,)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"per": "module"}, "per must be all or layer or parameter, not 'module'"),
    ({"scale": 0}, "scale must be positive, not 0"),
    ({"initial": float("nan")}, "initial must be a number, 0 or more, not nan"),
    ({"steps": 0}, "steps must be a whole number, 1 or more, not 0"),
    ({"adapted": "0.*"}, "adapted must be a list of patterns, not '0.*'"),
])  # fmt: skip
def test_rates_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rates(Layout.of(LINEAR()), **{"initial": 0.1, **arguments})  # type: ignore[arg-type]


def test_gradients_are_added_in_the_parameters_precision_and_to_their_own_module_alone() -> None:
    module = LINEAR()
    values = {name: parameter.double() for name, parameter in module.named_parameters()}
    found = meta_gradient(module, "squared_error", (X, Y), (X, Y), InnerLoop(0.1), parameters=values)
    for times in (1, 2):
        found.accumulate(module)
        torch.testing.assert_close(module.weight.grad, (times * found.gradients["weight"]).float())
    with pytest.raises(ValueError, match=r"module has no parameter weight \(2, 3\): these gradients are of another"):
        found.accumulate(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "layers",
    [
        lambda norm: [norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)],
        lambda norm: [nn.Linear(3, 4), nn.Tanh(), norm(nn.Linear(4, 2), dim=1)],
        lambda norm: [nn.Unflatten(1, (1, 3)), norm(nn.Conv1d(1, 2, 2), dim=None), nn.Flatten(), nn.Linear(4, 2)],
    ],
)
def test_weight_norm_whose_second_derivative_pytorch_has_wrong_is_exact(layers: Callable[..., list[nn.Module]]) -> None:
    module = nn.Sequential(*layers(nn.utils.parametrizations.weight_norm)).double()
    x, y, inner, h = X.double(), Y.double(), InnerLoop(0.1, 2), 1e-6

    def loss(parameters: dict[str, Tensor]) -> NamedGradients:
        return meta_gradient(module, "squared_error", (x, y), (x.roll(1, 1), y), inner, parameters=parameters)

    own = {name: parameter.detach() for name, parameter in module.named_parameters()}
    for name, gradient in loss(own).gradients.items():
        direction = torch.randn_like(gradient)
        up, down = (loss(own | {name: own[name] + s * direction}).losses.mean() for s in (h, -h))
        torch.testing.assert_close((up - down) / (2 * h), (gradient * direction).sum(), rtol=1e-5, atol=1e-8)


def test_the_package_shows_what_is_public_and_imports_none_of_it_before_it_is_used() -> None:
    code = (
        "import sys, hpc_dmaml; print(dir(hpc_dmaml)); print({'torch', 'numpy', 'h5py', 'mpi4py'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['InnerLoop', '__version__', 'load', 'load_best', 'meta_gradient', 'results']",
        "set()",
    ]
    assert all(getattr(hpc_dmaml, name) is not None for name in hpc_dmaml.__all__)


@pytest.mark.long
def test_the_example_learns_to_adapt() -> None:
    command = [sys.executable, *docstring_command(own_loop, "python")[1:], "--steps", "1500"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    before, after = (float(line.split()[-1]) for line in done.stdout.splitlines()[-2:])
    assert after < 0.6 * before
