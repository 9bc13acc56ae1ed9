"""The networks that a configuration builds."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from hpc_dmaml.models import Conv4, GaussianPolicy, ResNet12


def test_with_global_pooling_the_linear_layer_sees_the_mean_of_each_filter():
    torch.manual_seed(0)
    network = Conv4(8, global_pool=True).build((1, 28, 28), 5)
    assert isinstance(network, nn.Sequential)
    assert network[-1].in_features == 8
    x = torch.rand(3, 1, 28, 28)
    before = network[:-3](x)
    assert before.shape == (3, 8, 2, 2)
    torch.testing.assert_close(network(x), network[-1](before.mean((2, 3))))


def test_glorot_draws_uniform_weights_of_its_width_and_no_biases():
    for model, shape, outputs in ((Conv4(init="glorot"), (1, 28, 28), 5), (GaussianPolicy(), (4,), 6)):
        layers = [m for m in model.build(shape, outputs).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert layers
        for layer in layers:
            receptive = layer.weight[0, 0].numel()
            width = (6 / (receptive * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
            assert 0.95 * width < layer.weight.abs().max() <= width
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("model", [Conv4(), ResNet12()])
def test_samples_that_are_no_images_with_channels_first_are_refused_with_what_makes_them_so(model):
    for shape, told in (
        ((28, 28, 3), "looks like (H, W, C): use x.transpose(0, 3, 1, 2)"),
        ((28, 30), "use x.reshape(-1, 1, 28, 30)"),
        ((7,), "try --model MLP"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            model.build(shape, 5)
    model.build((3, 28, 28), 5)
    Conv4(blocks=2).build((64, 4, 4), 5)
