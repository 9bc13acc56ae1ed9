"""Residual networks of any kernels, strides, slopes and image sizes, against autograd; and ResNet-12 itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hpc_dmaml.engine import objective_for
from hpc_dmaml.engine.autograd import AutogradObjective
from hpc_dmaml.engine.layers import Residual
from hpc_dmaml.engine.layerwise import LayerwiseObjective
from hpc_dmaml.models import ResNet12
from hpc_dmaml.parameters import Layout, flatten
from tests.engine.reference import distance

sides = st.integers(5, 11)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A module of one or two blocks, and the shape of the images that it takes."""
    channels, *size = shape = 2, draw(sides), draw(sides)
    blocks: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 2))):
        kernel, stride, slope = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 3)), draw(st.floats(0, 1))
        body = nn.Sequential(
            nn.Conv2d(channels, 3, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(3),
            nn.LeakyReLU(slope),
            nn.Conv2d(3, 3, 3, padding=1),
        )
        shortcut = nn.Sequential(nn.Conv2d(channels, 3, 1, stride, bias=False), nn.BatchNorm2d(3))
        pool = draw(st.sampled_from([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.Identity()]))
        size = [-(-side // stride) for side in size]
        if not isinstance(pool, nn.Identity):
            assume(min(size) > 1)
            size = [(side + 2 * pool.padding - pool.kernel_size) // 2 + 1 for side in size]  # type: ignore[operator]
        assume(min(size) > 0)
        blocks += [Residual(body, shortcut), nn.LeakyReLU(slope), pool]
        channels = 3
    if draw(st.booleans()):
        blocks.append(Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double(), shape


def small_task(shape: tuple[int, ...], tasks: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(tasks, 6, *shape, dtype=torch.float64), torch.arange(6).remainder(2).expand(tasks, 6)


@settings(max_examples=60, deadline=None)
@given(networks(), st.integers(0, 99))
def test_gradient_and_hessian_vector_product_are_those_of_autograd(
    network: tuple[nn.Module, tuple[int, ...]], seed: int
) -> None:
    module, shape = network
    torch.manual_seed(seed)
    x, y = small_task(shape)
    fast = objective_for(module, shape, "cross_entropy")
    assert isinstance(fast, LayerwiseObjective)
    general = AutogradObjective(module, Layout.of(module), fast.loss)
    theta = flatten(module) + 0.1 * torch.randn_like(flatten(module))
    v = torch.randn_like(theta)
    found = []
    for each in (fast, general):
        at = each.gradient(each.unflatten(theta, 2), x, y)
        found.append(
            (at.outputs, each.flatten(at.value), each.flatten(each.hessian_vector(at.record, each.unflatten(v, 2))))
        )
    for mine, expected in zip(*found, strict=True):
        assert distance(mine, expected) < 1e-9


@settings(max_examples=20, deadline=None)
@given(networks(), st.integers(0, 99))
def test_the_hessian_vector_product_is_a_central_difference_of_the_gradient(
    network: tuple[nn.Module, tuple[int, ...]], seed: int
) -> None:
    """Of one of two steps: the other may pass a bend of a LeakyReLU."""
    module, shape = network
    torch.manual_seed(seed)
    x, y = small_task(shape, 1)
    objective = objective_for(module, shape, "cross_entropy")
    theta = flatten(module) + 0.1 * torch.randn_like(flatten(module))
    v = nn.functional.normalize(torch.randn_like(theta), dim=0)

    def gradient(shift: float) -> Tensor:
        return objective.flatten(
            objective.gradient(objective.unflatten(theta + shift * v, 1), x, y, recorded=False).value
        )

    at = objective.gradient(objective.unflatten(theta, 1), x, y)
    product = objective.flatten(objective.hessian_vector(at.record, objective.unflatten(v, 1)))
    differences = [(gradient(h) - gradient(-h)) / (2 * h) for h in (1e-6, 1e-7)]
    assert min((product - each).norm() for each in differences) < 1e-5 * (1 + product.norm())


@pytest.mark.parametrize("layerwise", [True, False])
def test_a_gradient_without_a_record_is_the_same_and_keeps_nothing(layerwise: bool) -> None:
    module = ResNet12((2, 3)).build((2, 9, 6), 3).double()
    objective = objective_for(module, (2, 9, 6), "cross_entropy", layerwise=layerwise)
    parameters, (x, y) = objective.unflatten(flatten(module), 2), small_task((2, 9, 6))
    with_record, without = (objective.gradient(parameters, x, y, recorded) for recorded in (True, False))
    assert without.record is None
    assert torch.equal(objective.flatten(without.value), objective.flatten(with_record.value))


@pytest.mark.parametrize(
    "branches",
    [
        (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3)),),
        (nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(3, 3)),),
        (nn.Identity(), nn.ReLU(inplace=True)),
        (nn.Sequential(Residual(nn.Tanh(), nn.ReLU(inplace=True)), nn.Linear(3, 3)),),
    ],
    ids=["at once", "through a view", "in the shortcut", "in a shortcut inside"],
)
def test_a_branch_that_works_in_place_is_left_to_autograd_and_right(branches: tuple[nn.Module, ...]) -> None:
    module = nn.Sequential(nn.Linear(4, 3), Residual(*branches), nn.Linear(3, 2)).double()
    objective, x = objective_for(module, (4,), "cross_entropy"), torch.randn(1, 6, 4, dtype=torch.float64)
    assert isinstance(objective, AutogradObjective)
    assert torch.equal(objective.outputs(objective.unflatten(flatten(module), 1), x)[0], module(x[0]))


@pytest.mark.parametrize(
    ("channels", "parameters"), [((64, 128, 256, 512), 7_999_365), ((64, 160, 320, 640), 12_427_525)]
)
def test_resnet12_has_the_literature_s_size_and_takes_the_fast_path(channels: tuple[int, ...], parameters: int) -> None:
    module = ResNet12(channels).build((3, 84, 84), 5)
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert isinstance(objective_for(module, (3, 84, 84), "cross_entropy"), LayerwiseObjective)
    assert module(torch.zeros(1, 3, 84, 84)).shape == (1, 5)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (ResNet12(), (3,), r"ResNet12 needs images .* have shape \(3,\)"),
        (ResNet12(), (1, 15, 28), r"model.channels: images of \(15, 28\) are too small to be halved 4 times"),
        (ResNet12(()), (3, 84, 84), r"model.channels must be positive numbers, one a block, not \(\)"),
        (ResNet12((64, 0)), (3, 84, 84), "model.channels must be positive"),
        (ResNet12(slope=-0.1), (3, 84, 84), "model.slope must be 0 to 1, not -0.1"),
    ],
)
def test_resnet12_refuses_by_name_what_it_cannot_be(model: ResNet12, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.build(shape, 5)
