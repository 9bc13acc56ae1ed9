"""Normalised channels: the model's first layer holds the training classes' mean and deviation, wherever it is used."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import hpc_dmaml
from hpc_dmaml import state
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import Validation
from hpc_dmaml.engine.layers.normalization import Normalization
from hpc_dmaml.evaluate import evaluate, parse
from hpc_dmaml.models import Conv4
from hpc_dmaml.run import run_job
from hpc_dmaml.start import build_module
from hpc_dmaml.tasks import Glyphs, ImageFolder
from hpc_dmaml.tasks.image_classes import Classes, FewShotSampler
from tests.helpers import differing, run, small_config
from tests.tasks.folders import make_images

VALIDATION = Validation(every=2, tasks=3, steps=2)


@pytest.fixture
def config(tmp_path):
    make_images(tmp_path / "images")
    task = ImageFolder(root=str(tmp_path / "images"), ways=2, size=(6, 6), normalize=True)
    return small_config(task=task, tasks=2, model=Conv4(filters=4, blocks=2), validation=VALIDATION)


def sampler(images: np.ndarray, rotations: bool = False) -> FewShotSampler:
    """Three classes of two images each: two train, one tests."""
    split = {
        "train": Classes.of(np.array([0, 2]), np.array([2, 2]), rotations),
        "test": Classes.of(np.array([4]), np.array([2])),
    }
    return FewShotSampler(images, split, Glyphs(ways=2))


@pytest.mark.parametrize("rotations", [False, True])
def test_mean_and_deviation_are_those_of_all_training_pixels(rotations):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 5), dtype=np.uint8)
    found, train = sampler(images, rotations).statistics(), images[:4] / 255
    np.testing.assert_allclose(found["mean"], train.mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(found["std"], train.std((0, 2, 3)), rtol=1e-12)


def test_a_channel_of_one_shade_is_not_blown_up():
    images = np.full((6, 2, 5, 5), 77, np.uint8)
    images[::2, 1] = 0
    found = sampler(images).statistics()
    np.testing.assert_array_equal(found["std"], [1, 77 / 255 / 2])


def test_the_file_holds_the_numbers_of_training_and_other_images_are_tested_with_them(config, tmp_path, monkeypatch):
    path, expected = run(config, tmp_path).path, config.task.load().statistics()
    front = hpc_dmaml.load(path).module.get_submodule("normalize")
    np.testing.assert_allclose(front.mean, expected["mean"], rtol=1e-15)
    np.testing.assert_allclose(front.std, expected["std"], rtol=1e-15)
    make_images(tmp_path / "dark", classes=3)
    used = []
    monkeypatch.setattr(
        "hpc_dmaml.validation.validate",
        lambda learner, *_: used.append(learner) or state.Validation(*np.zeros((2, 3, 4))),
    )
    assert evaluate(parse([str(path), "--root", str(tmp_path / "dark"), "--tasks", "4"]), Communicator()) == 0
    (layer,) = (layer for layer in used[0].engine.objective.layers if isinstance(layer, Normalization))
    np.testing.assert_array_equal(layer.mean, front.mean)
    assert abs(used[0].sampler.statistics()["mean"] - expected["mean"]).min() > 0.1


def test_an_adapted_model_takes_images_between_0_and_1(config, tmp_path):
    """It is the plain network, adapted by hand on images that are normalised by hand."""
    model = hpc_dmaml.load(run(config, tmp_path).path)
    mean, std = (torch.tensor(values)[:, None, None] for values in config.task.load().statistics().values())
    x, labels = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8), torch.arange(2)
    by_hand = copy.deepcopy(model.module.get_submodule("model"))
    normalised = (x.double() / 255 - mean) / std
    for _ in range(2):
        loss = nn.functional.cross_entropy(by_hand(normalised), labels)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), gradients, strict=True):
                p -= 0.3 * g
    for given in (x, x.double() / 255):
        adapted = model.adapt(given, labels, steps=2, lr=0.3)
        torch.testing.assert_close(adapted(x.double() / 255), by_hand(normalised))


def test_a_resumed_job_goes_on_with_the_numbers_that_it_began_with(config, tmp_path, monkeypatch):
    whole = run(replace(config, runs=4), tmp_path, name="whole.h5")
    path = run(replace(config, runs=2), tmp_path, name="parts.h5").path
    monkeypatch.setattr(FewShotSampler, "statistics", lambda self: pytest.fail("they are in the file"))
    assert run_job(replace(config, runs=4, resume=str(path), output=str(path)), Communicator()) == 0
    assert differing(whole, hpc_dmaml.results.read(path)) == {"checkpoint/restarts"}


def test_a_warm_start_on_other_images_keeps_the_numbers_that_its_parameters_know(config, tmp_path):
    first = run(config, tmp_path, name="first.h5")
    make_images(tmp_path / "dark", classes=5)
    task = replace(config.task, root=str(tmp_path / "dark"), fractions=(0.6, 0.4, 0))
    second = run(replace(config, task=task, init_from=str(first.path)), tmp_path, name="second.h5")
    for name in ("mean", "std"):
        path = f"meta_model/constants/normalize.{name}"
        np.testing.assert_array_equal(second[path], first[path])
        assert (first[path] != task.load().statistics()[name]).all()


def test_the_network_behind_it_starts_as_it_would_without(config):
    with_it, without = (
        build_module(replace(config, task=replace(config.task, normalize=on)), (3, 6, 6), 2) for on in (True, False)
    )
    for name, values in without.state_dict().items():
        assert torch.equal(with_it.state_dict()[f"model.{name}"], values)
