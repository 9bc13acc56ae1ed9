"""Samples are checked where they come in, by one function: what came and what is wanted are named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.run import run_job
from hpc_dmaml.setup import make_learner
from hpc_dmaml.tasks import Samples, Sinusoid, TaskBatch
from hpc_dmaml.tasks.border import check, check_digest, check_sampler, draw
from tests.helpers import small_config


@dataclass(frozen=True)
class Form:
    sample_shape: tuple[int, ...] = (1, 4, 4)
    outputs: int = 5
    loss: str = "cross_entropy"


CLASSES, NUMBERS = Form(), Form((3,), 2, "squared_error")
GOOD = {
    CLASSES: Samples(np.zeros((2, 5, 1, 4, 4), np.uint8), np.arange(5)[None].repeat(2, 0)),
    NUMBERS: Samples(np.zeros((2, 5, 3)), np.zeros((2, 5, 2), np.float32)),
}


@pytest.mark.parametrize("form", GOOD, ids=["classes", "numbers"])
def test_arrays_and_tensors_of_the_right_form_pass(form: Form) -> None:
    check(GOOD[form], form, "x", 2)
    check(Samples(*map(torch.as_tensor, GOOD[form])), form, "x", 2)


def test_class_numbers_may_be_of_any_integer_type_and_are_never_scaled_as_images() -> None:
    for kind in (np.uint8, np.int8, np.int16, np.int32, np.int64):
        samples = Samples(GOOD[CLASSES].x, GOOD[CLASSES].y.astype(kind))
        check(samples, CLASSES, "x", 2)
        x, y = samples.to(torch.device("cpu"), torch.float32)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert y.tolist() == GOOD[CLASSES].y.tolist()


WRONG: dict[str, tuple[Form, dict[str, Any], str]] = {
    "images of another size": (CLASSES, {"x": np.zeros((2, 5, 1, 4, 5))}, r"x must be n samples \(n, 1, 4, 4\).*not shape \(5, 1, 4, 5\)"),
    "images without their channel": (CLASSES, {"x": np.zeros((2, 5, 4, 4))}, r"not shape \(5, 4, 4\)"),
    "channels last": (CLASSES, {"x": np.zeros((2, 5, 4, 4, 1))}, r"not shape \(5, 4, 4, 1\)"),
    "no samples": (CLASSES, {"x": np.zeros((2, 0, 1, 4, 4))}, r"not shape \(0, 1, 4, 4\)"),
    "a number": (CLASSES, {"x": np.array(3.0)}, "not a single number"),
    "truth values": (CLASSES, {"x": np.zeros((2, 5, 1, 4, 4), bool)}, r"not torch\.bool"),
    "complex numbers": (NUMBERS, {"x": np.zeros((2, 5, 3), complex)}, r"not torch\.complex128"),
    "text": (CLASSES, {"x": np.array(["a"])}, "x must be an array of numbers, not ndarray"),
    "a ragged list": (CLASSES, {"x": [[1], [1, 2]]}, "x must be an array of numbers, not list"),
    "too few labels": (CLASSES, {"y": np.zeros((2, 4), int)}, r"y must be 5 class numbers.*not shape \(4,\)"),
    "one-hot labels": (CLASSES, {"y": np.eye(5)[None].repeat(2, 0)}, r"\(not one-hot\), not shape \(5, 5\)"),
    "labels as numbers": (CLASSES, {"y": np.zeros((2, 5))}, r"of an integer type, not torch\.float64"),
    "labels as truth values": (CLASSES, {"y": np.zeros((2, 5), bool)}, r"of an integer type, not torch\.bool"),
    "labels from 1": (CLASSES, {"y": np.arange(1, 6)[None].repeat(2, 0)}, "y must be class numbers from 0 to 4, not 1 to 5"),
    "labels below 0": (CLASSES, {"y": np.arange(-1, 4)[None].repeat(2, 0)}, "not -1 to 3"),
    "targets without their axis": (NUMBERS, {"y": np.zeros((2, 5))}, r"y must be \(5, 2\).*not shape \(5,\)"),
    "too many targets": (NUMBERS, {"y": np.zeros((2, 5, 3))}, r"not shape \(5, 3\)"),
    "whole targets": (NUMBERS, {"y": np.zeros((2, 5, 2), int)}, r"y must be of a floating type, not torch\.int64"),
    "another number of tasks": (NUMBERS, {"y": np.zeros((3, 5, 2))}, "2 tasks in x and 3 in y, where 2 were asked for"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "change", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(form: Form, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^mine .*{message}"):
        check(GOOD[form]._replace(**change), form, "mine", 2)


@given(st.lists(st.integers(0, 4), max_size=4).map(tuple), st.lists(st.integers(0, 4), max_size=4).map(tuple))
def test_only_the_one_shape_passes(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    samples = Samples(np.zeros(x), np.zeros(y, int))
    right = len(x) == 3 and x[2] == 2 and x[1] > 0 and x[0] == 3 and y == (3, x[1])
    try:
        check(samples, Form((2,), 1), "mine", 3)
    except ValueError:
        assert not right
    else:
        assert right


@dataclass(frozen=True)
class Careless(Sinusoid):
    """A family of a user's own, with a fault in one split."""

    fault: str = "targets"
    where: str = "train"

    def sample(self, split, rng, tasks, part=slice(None), queries=None):
        batch = super().sample(split, rng, tasks, part, queries)
        if split != self.where:
            return batch
        if self.fault == "targets":
            return replace(batch, query_set=Samples(batch.query_set.x, batch.query_set.y[..., 0]))
        if self.fault == "part":
            return super().sample(split, rng, tasks, slice(None), queries)
        return batch.support_set, batch.query_set


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("targets", r"train query y must be \(3, 1\).*not shape \(3,\)"),
        ("no batch", "train: sample must give a TaskBatch, not tuple"),
    ],
)
def test_a_family_that_gives_something_else_is_refused_before_any_work(tmp_path, fault: str, message: str) -> None:
    config = small_config(task=Careless(shots=4, queries=3, fault=fault), output=str(tmp_path / "x.h5"))
    with pytest.raises(Refusal, match=f"task Careless: {message}"):
        run_job(config, Communicator())
    assert not (tmp_path / "x.h5").exists()


def test_every_batch_of_every_split_is_checked() -> None:
    family, rng = Careless(shots=4, queries=3, where="validation"), np.random.default_rng(0)
    assert isinstance(draw(family, "train", rng, 3), TaskBatch)
    with pytest.raises(ValueError, match="validation query y"):
        draw(family, "validation", rng, 3)
    with pytest.raises(ValueError, match="validation support has 3 tasks in x and 3 in y, where 1 were asked for"):
        draw(replace(family, fault="part"), "validation", rng, 3, slice(1, 2))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("sample_shape", [1]),
        ("sample_shape", (0,)),
        ("outputs", 0),
        ("outputs", 1.0),
        ("loss", None),
        ("block_runs", None),
    ],
)
def test_a_sampler_that_does_not_say_what_it_gives_is_refused(attribute: str, value: object) -> None:
    class Silent(Sinusoid):
        pass

    setattr(Silent, attribute, value)
    with pytest.raises(ValueError, match=rf"task: Silent\.{attribute} must be .*TaskSampler"):
        check_sampler(Silent())


def test_ranks_with_data_of_their_own_are_told() -> None:
    class Two(Communicator):
        """Rank 0, with another rank whose tasks are others."""

        size = 2

        def all_gather_objects(self, value: Any) -> list[Any]:
            return [value, [*value[:-1], "other"] if isinstance(value, list) else value]

    config = small_config()
    module = config.model.build((1,), 1).double()
    learner = make_learner(config, config.task.load(), module, torch.device("cpu"), comm=Two())
    assert "the ranks draw different tasks" in learner.warnings[0]
    assert make_learner(config, config.task.load(), module, torch.device("cpu")).warnings == ()


@pytest.mark.parametrize("given", [5, b"1", "a\0b", ["1"]])
def test_what_prepare_gives_is_a_digest_as_text_or_nothing(given):
    with pytest.raises(ValueError, match="task: prepare must give a digest of the data as text, or None, not "):
        check_digest(given)
    assert check_digest(None) is None
    assert check_digest("0f") == "0f"
