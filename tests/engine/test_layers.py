"""One table of layers, each held to the same properties: its four formulas are what they say, whatever the shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jvp
from torch.func import functional_call

from hpc_dmaml.engine.layers import (
    LAYERS,
    Append,
    ConvolutionAndNorm,
    Normalize,
    NormAndPool,
    Record,
    Residual,
    batch_norm,
    convolution,
)

TASKS, SAMPLES = 2, 3
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Row:
    """A module, and the shape of one sample that it takes, as PyTorch has it (channels first)."""

    build: Callable[[], nn.Module]
    in_shape: tuple[int, ...]
    large: bool = False
    """Taken for too large to be unfolded."""
    of_data: bool = False
    """In front of everything: its input has no tangent and needs no gradient."""


def spread(module: Normalize) -> Normalize:
    """With constants that change something."""
    module.mean += torch.tensor([0.5, -0.25])
    module.std *= torch.tensor([0.5, 2.0])
    return module


def residual(inputs: int, outputs: int, stride: int = 1) -> Residual:
    """A block of a ResNet, its shortcut a 1 × 1 convolution and batch norm."""
    body = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )
    return Residual(body, nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)))


TABLE = {
    "linear": Row(lambda: nn.Linear(4, 3), (4,)),
    "linear_without_bias": Row(lambda: nn.Linear(3, 5, bias=False), (3,)),
    "convolution": Row(lambda: nn.Conv2d(2, 3, 3, padding=1, bias=False), (2, 5, 4)),
    "convolution_with_stride": Row(lambda: nn.Conv2d(3, 2, 3, stride=2, padding=1), (3, 6, 7)),
    "convolution_of_any_window": Row(lambda: nn.Conv2d(1, 2, (3, 2), (2, 1), (0, 1)), (1, 6, 5)),
    "convolution_of_single_pixels": Row(lambda: nn.Conv2d(3, 4, 1), (3, 2, 2)),
    "large_convolution": Row(lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4), large=True),
    "large_convolution_of_stride_2": Row(lambda: nn.Conv2d(2, 3, 3, 2, padding=1), (2, 5, 4), large=True),
    "large_convolution_of_one_channel": Row(lambda: nn.Conv2d(1, 2, (2, 3), bias=False), (1, 5, 4), large=True),
    "batch_norm_of_vectors": Row(lambda: nn.BatchNorm1d(4), (4,)),
    "batch_norm_of_images": Row(lambda: nn.BatchNorm2d(2, eps=1e-3), (2, 3, 4)),
    "convolution_and_norm_of_data": Row(
        lambda: ConvolutionAndNorm(nn.Conv2d(1, 12, (2, 1), 2, 1, bias=False), nn.BatchNorm2d(12, eps=1e-3)),
        (1, 5, 6),
        of_data=True,
    ),
    "norm_and_pool": Row(lambda: NormAndPool(nn.BatchNorm2d(3), nn.MaxPool2d(2)), (3, 5, 4)),
    "norm_and_pool_of_any_window": Row(lambda: NormAndPool(nn.BatchNorm2d(2), nn.MaxPool2d(3, 2, 1)), (2, 5, 6)),
    "normalize": Row(lambda: spread(Normalize(2)), (2, 4, 3)),
    "relu_of_vectors": Row(nn.ReLU, (5,)),
    "relu_of_images": Row(nn.ReLU, (2, 3, 3)),
    "leaky_relu_of_vectors": Row(lambda: nn.LeakyReLU(0.1), (5,)),
    "leaky_relu_of_images": Row(lambda: nn.LeakyReLU(0.3), (2, 3, 3)),
    "tanh_of_vectors": Row(nn.Tanh, (5,)),
    "tanh_of_images": Row(nn.Tanh, (2, 3, 3)),
    "append": Row(lambda: Append(2, 0.5), (3,)),
    "max_pool": Row(lambda: nn.MaxPool2d(2), (3, 4, 6)),
    "max_pool_of_an_odd_image": Row(lambda: nn.MaxPool2d(2), (1, 5, 3)),
    "max_pool_of_any_window": Row(lambda: nn.MaxPool2d(3, 2, 1), (2, 5, 6)),
    "average_pool": Row(lambda: nn.AvgPool2d(2), (3, 4, 6)),
    "average_pool_of_any_window": Row(lambda: nn.AvgPool2d((3, 2), 2, 1, True, False), (2, 5, 6)),
    "average_pool_of_a_divisor": Row(lambda: nn.AvgPool2d(2, 1, divisor_override=3), (2, 5, 6)),
    "global_average_pool": Row(lambda: nn.AdaptiveAvgPool2d(1), (3, 5, 4)),
    "global_average_pool_of_a_list": Row(lambda: nn.AdaptiveAvgPool2d([1, 1]), (3, 5, 4)),  # type: ignore[arg-type]
    "average_pool_to_a_size": Row(lambda: nn.AdaptiveAvgPool2d((2, None)), (2, 6, 5)),
    "flatten": Row(nn.Flatten, (2, 3, 4)),
    "residual_sum": Row(lambda: Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh())), (2, 4, 3)),
    "residual_sum_with_shortcut": Row(lambda: residual(2, 3, stride=2), (2, 5, 4)),
    "residual_sum_of_vectors": Row(lambda: Residual(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))), (4,)),
    "residual_sum_in_a_residual_sum": Row(lambda: Residual(residual(2, 3), nn.Conv2d(2, 3, 1)), (2, 4, 3)),
}
"""A new layer is one more row."""
LEARNED = {name: row for name, row in TABLE.items() if list(row.build().parameters())}
"""Those with parameters."""


class Case:
    """A layer of the table with random operands: x, w, ȳ and a direction for each, for two tasks."""

    def __init__(self, row: Row) -> None:
        torch.manual_seed(1)
        self.module, dtype = row.build(), torch.float64
        names = [name for name, _ in self.module.named_parameters()]
        shape = (*row.in_shape[1:], row.in_shape[0]) if len(row.in_shape) == 3 else row.in_shape
        self.layer: Any = LAYERS[type(self.module)].of(self.module, shape)
        self.x, self.x_dot = (torch.randn(TASKS, SAMPLES, *row.in_shape, dtype=dtype) for _ in range(2))
        self.need_x = not row.of_data
        if row.of_data:
            self.x_dot.zero_()
        sizes = [(TASKS, *p.shape) for p in self.module.parameters()]
        self.w, self.w_dot = (tuple(torch.randn(size, dtype=dtype) for size in sizes) for _ in range(2))

        def f(x: Tensor, *w: Tensor) -> Tensor:
            each = [dict(zip(names, (p[b] for p in w), strict=True)) for b in range(TASKS)]
            return torch.stack([functional_call(self.module.to(x.dtype), own, (x[b],)) for b, own in enumerate(each)])

        self.f = f
        self.y_bar, self.y_bar_dot = (torch.randn_like(f(self.x, *self.w)) for _ in range(2))

    def f_backward(self, x: Tensor, y_bar: Tensor, *w: Tensor) -> Tensors:
        """(x̄, w̄) by autograd, itself differentiable."""
        operands = tuple(t if t.requires_grad else t.detach().requires_grad_() for t in (x, *w))
        return torch.autograd.grad(self.f(*operands), operands, y_bar, create_graph=True)

    def pack(self, w: Tensors) -> Tensors:
        each = [self.layer.pack(*(p[b] for p in w)) for b in range(TASKS)]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True))

    def record(self, shift: float = 0.0) -> Record:
        """The layer's own forward and backward, all operands moved along their directions by `shift`."""
        x, y_bar = images(self.x + shift * self.x_dot), images(self.y_bar + shift * self.y_bar_dot)
        w = self.pack(tuple(p + shift * d for p, d in zip(self.w, self.w_dot, strict=True)))
        _, tape = self.layer.forward(x, *w)
        self.x_bar, w_bar = self.layer.backward(tape, w, y_bar, self.need_x)
        return Record(tape, w, y_bar, w_bar)


def assert_gradients_close(case: Case, actual: tuple[Tensor | None, Tensors], expected: Tensors) -> None:
    """(x̄, w̄) of the layer and of the module; x̄ only where it is wanted."""
    (x_bar, w_bar), (x_expected, *w_expected) = actual, expected
    assert (x_bar is not None) == case.need_x
    if x_bar is not None:
        assert_all_close((x_bar,), (images(x_expected),))
    assert_all_close(w_bar, case.pack(tuple(w_expected)))


def images(x: Tensor) -> Tensor:
    """(B, n, C, H, W) as the engine has it, (B, n, H, W, C)."""
    return x.movedim(2, -1).contiguous() if x.dim() == 5 else x


def assert_all_close(actual: Tensors, expected: Tensors, tolerance: float = 1e-11) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=TABLE.values(), ids=TABLE)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    if request.param.large:
        monkeypatch.setattr(convolution, "COLUMNS_BYTES", 0)
    return Case(request.param)


def test_forward_is_the_module(case: Case) -> None:
    y, _ = case.layer.forward(images(case.x), *case.pack(case.w))
    assert_all_close((y,), (images(case.f(case.x, *case.w)),))
    assert tuple(y.shape[2:]) == case.layer.out_shape


def test_backward_is_autograd_s(case: Case) -> None:
    at = case.record()
    assert_gradients_close(case, (case.x_bar, at.w_bar), case.f_backward(case.x, case.y_bar, *case.w))


def test_tangent_is_the_directional_derivative_of_forward(case: Case) -> None:
    y_dot, _ = case.layer.tangent(case.record(), images(case.x_dot), case.pack(case.w_dot))
    _, expected = jvp(case.f, (case.x, *case.w), (case.x_dot, *case.w_dot))
    assert_all_close((y_dot,), (images(expected),))


def test_tangent_backward_is_the_directional_derivative_of_backward(case: Case) -> None:
    at, w_dot = case.record(), case.pack(case.w_dot)
    _, tape_dot = case.layer.tangent(at, images(case.x_dot), w_dot)
    actual = case.layer.tangent_backward(at, tape_dot, w_dot, images(case.y_bar_dot), case.need_x)
    _, expected = jvp(case.f_backward, (case.x, case.y_bar, *case.w), (case.x_dot, case.y_bar_dot, *case.w_dot))
    assert_gradients_close(case, actual, expected)


def test_both_tangents_are_central_differences(case: Case) -> None:
    h, at, w_dot = 1e-6, case.record(), case.pack(case.w_dot)
    y_dot, tape_dot = case.layer.tangent(at, images(case.x_dot), w_dot)
    x_bar_dot, w_bar_dot = case.layer.tangent_backward(at, tape_dot, w_dot, images(case.y_bar_dot), case.need_x)
    wanted = slice(None) if case.need_x else slice(1, None)
    ends = []
    for shift in (h, -h):
        record = case.record(shift)
        y, _ = case.layer.forward(images(case.x + shift * case.x_dot), *record.w)
        ends.append((y, *(case.x_bar, *record.w_bar)[wanted]))
    differences = tuple((ahead - behind) / (2 * h) for ahead, behind in zip(*ends, strict=True))
    assert_all_close((y_dot, *(x_bar_dot, *w_bar_dot)[wanted]), differences, tolerance=1e-7)


@pytest.mark.parametrize("case", LEARNED.values(), ids=LEARNED, indirect=True)
def test_data_has_no_tangent_and_needs_no_gradient(case: Case) -> None:
    """In front of the first parameters ẋ is None, which means 0, and x̄ is not asked for."""
    at, w_dot, y_bar_dot = case.record(), case.pack(case.w_dot), images(case.y_bar_dot)
    x_bar, w_bar = case.layer.backward(at.tape, at.w, at.y_bar, need_x=False)
    y_dot, tape_dot = case.layer.tangent(at, None, w_dot)
    x_bar_dot, w_bar_dot = case.layer.tangent_backward(at, tape_dot, w_dot, y_bar_dot, need_x=False)
    zero = torch.zeros_like(images(case.x))
    y_expected, tape_dot = case.layer.tangent(at, zero, w_dot)
    _, w_expected = case.layer.tangent_backward(at, tape_dot, w_dot, y_bar_dot, case.need_x)
    assert x_bar is None
    assert x_bar_dot is None
    assert_all_close((y_dot, *w_bar, *w_bar_dot), (y_expected, *at.w_bar, *w_expected))


@pytest.mark.parametrize("case", LEARNED.values(), ids=LEARNED, indirect=True)
def test_parameters_that_all_tasks_share_do_as_well_as_copies(case: Case) -> None:
    """Before the first step θ is one tensor for all tasks, expanded."""
    layer, w_dot, y_bar, y_bar_dot = case.layer, case.pack(case.w_dot), images(case.y_bar), images(case.y_bar_dot)

    def all_four(w: Tensors) -> Tensors:
        y, tape = layer.forward(images(case.x), *w)
        x_bar, w_bar = layer.backward(tape, w, y_bar, case.need_x)
        at = Record(tape, w, y_bar, w_bar)
        y_dot, tape_dot = layer.tangent(at, images(case.x_dot), w_dot)
        x_bar_dot, w_bar_dot = layer.tangent_backward(at, tape_dot, w_dot, y_bar_dot, case.need_x)
        return tuple(t for t in (y, x_bar, *w_bar, y_dot, x_bar_dot, *w_bar_dot) if t is not None)

    shared = tuple(p[:1].expand_as(p) for p in case.pack(case.w))
    assert_all_close(all_four(shared), all_four(tuple(p.clone() for p in shared)))


def test_single_precision_is_as_accurate_as_the_module_s(case: Case) -> None:
    exact = images(case.f(case.x, *case.w))
    x, w = case.x.float(), tuple(p.float() for p in case.w)
    y, _ = case.layer.forward(images(x), *case.pack(w))
    theirs = images(case.f(x, *w))
    assert (y - exact).norm() <= 3 * (theirs - exact).norm() + 1e-7 * exact.norm()


@pytest.mark.parametrize("contrast", [1, 0.1, 0.01, 0.001])
def test_a_norm_folded_into_the_convolution_is_as_accurate_as_behind_it(contrast: float) -> None:
    """The folded variance is a small difference of large numbers where images have little contrast."""
    errors: dict[str, list[float]] = {"ours": [], "theirs": []}
    for seed in range(20):
        torch.manual_seed(seed)
        module = ConvolutionAndNorm(nn.Conv2d(1, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64))
        layer = LAYERS[ConvolutionAndNorm].of(module, (28, 28, 1))
        x = 1 - contrast * torch.rand(1, 5, 1, 28, 28)
        y, _ = layer.forward(images(x), *(p[None] for p in layer.pack(*module.parameters())))
        theirs = module(x[0])
        exact = module.double()(x[0].double())
        for name, value in (("ours", y[0]), ("theirs", images(theirs[None])[0])):
            errors[name].append((value - images(exact[None])[0]).norm().item())
    assert median(errors["ours"]) <= 2 * median(errors["theirs"])


def test_sums_in_one_pass_are_those_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    u, v = torch.randn(2, 1, 20_000, 3, dtype=torch.float64)
    two = batch_norm.sums(u, v)
    monkeypatch.setattr(batch_norm, "ONE_PASS_BYTES", 0)
    assert_all_close(batch_norm.sums(u, v), two)


def test_ties_in_max_pool_go_to_the_first_pixel_as_in_pytorch() -> None:
    module, x = nn.MaxPool2d(2), torch.tensor([[[[1.0, 1, 0, 2], [1, 1, 2, 2]]]], dtype=torch.float64)
    layer = LAYERS[nn.MaxPool2d].of(module, (2, 4, 1))
    _, tape = layer.forward(images(x[None]))
    x_bar, _ = layer.backward(tape, (), torch.tensor([[[[[3.0], [5.0]]]]], dtype=torch.float64), need_x=True)
    assert x_bar.flatten().tolist() == [3, 0, 0, 5, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, dilation=2),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(2, affine=False),
        nn.Flatten(0),
        nn.LeakyReLU(-0.1),
        nn.AdaptiveAvgPool2d(4),
        nn.AdaptiveAvgPool2d((0, 1)),
        Residual(nn.LayerNorm(6)),
        Residual(nn.Conv2d(2, 2, 6)),
        Residual(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1)),
        Residual(nn.Sequential(nn.LeakyReLU(inplace=True), nn.Conv2d(2, 2, 1))),
    ],
    ids=str,
)
def test_an_option_without_formulas_is_left_to_autograd(module: nn.Module) -> None:
    assert LAYERS[type(module)].of(module, (6, 6, 2)) is None
