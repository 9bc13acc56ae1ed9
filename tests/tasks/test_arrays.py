"""Data of one's own in arrays: every task has what it should, from its own split; what does not fit is refused by name."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import own_data
from hpc_dmaml import tasks
from hpc_dmaml.algorithms import MAML
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import Validation
from hpc_dmaml.config import parse as parse_job
from hpc_dmaml.evaluate import evaluate, parse
from hpc_dmaml.models import MLP
from hpc_dmaml.optimizers import Adam
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.setup import load_task
from hpc_dmaml.tasks import Arrays
from hpc_dmaml.tasks.border import draw
from tests.helpers import docstring_command, run, small_config
from tests.tasks.test_array_file import ON_FILES, PLAIN, written

SPLITS = ("train", "validation", "test")


def numbered(groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Samples that tell their number."""
    return np.broadcast_to(np.arange(1.0, len(groups) + 1).reshape(-1, *[1] * len(shape)), (len(groups), *shape)).copy()


def numbers(x: Any) -> np.ndarray:
    """Which samples these are, (B, n)."""
    return x.reshape(*x.shape[:2], -1)[..., 0].astype(int) - 1


@st.composite
def groups_and_splits(draw, least: int):
    """Groups of different size whose samples lie in any order, 2 or more in each split; and the split of each group."""
    splits = draw(st.lists(st.sampled_from(SPLITS), max_size=4)) + [s for s in SPLITS for _ in range(2)]
    splits = draw(st.permutations(splits))
    sizes = draw(st.lists(st.integers(least, least + 4), min_size=len(splits), max_size=len(splits)))
    return np.array(draw(st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist()))), np.array(splits)


KEYS = {
    "numbers": lambda g: g * 3 - 5,
    "small numbers": lambda g: (g + 250).astype(np.uint8),
    "text": lambda g: np.char.add("é", g.astype(str)),
}
"""Ways to say which group a sample is of, whose order may not be that of the numbers."""


@ON_FILES
@given(
    drawn=groups_and_splits(least=5),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    key=st.sampled_from(sorted(KEYS)),
    per_sample=st.booleans(),
    way=st.sampled_from([*PLAIN, "npz compressed"]),
    regression=st.booleans(),
    shots=st.integers(1, 3),
    queries=st.integers(1, 2),
)
def test_a_task_has_distinct_samples_of_its_own_split(
    tmp_path, drawn, shape, key, per_sample, way, regression, shots, queries
):
    groups, splits = drawn
    labels, x = KEYS[key](groups), numbered(groups, shape)
    names, which = np.unique(labels, return_inverse=True)
    group_of_name = [groups[which == i][0] for i in range(len(names))]
    split = splits[groups] if per_sample else splits[group_of_name]
    y = np.stack([groups, -groups], -1).astype(np.float32)
    arrays = {"x": x, "split": split.astype("S")} | ({"y": y, "task": labels} if regression else {"class": labels})
    arrays = {n: np.char.encode(a, "utf-8") if a.dtype.kind == "U" else a for n, a in arrays.items()}
    task = Arrays(path=str(written(tmp_path / "x", way, arrays)), ways=2, shots=shots, queries=queries)
    task.prepare()
    sampler = task.load()
    assert sampler.sample_shape == shape
    for split in SPLITS:
        batch = draw(sampler, split, generator(0, Purpose.TRAINING), 4)
        support, query = numbers(batch.support_set.x), numbers(batch.query_set.x)
        for task_support, task_query in zip(support, query, strict=True):
            seen = np.concatenate([task_support, task_query])
            assert len(set(seen)) == len(seen) == (shots + queries) * (1 if regression else 2)
            assert set(splits[groups[seen]]) == {split}
            assert len(set(groups[seen])) == (1 if regression else 2)
        for samples, which in ((batch.support_set, support), (batch.query_set, query)):
            if regression:
                np.testing.assert_array_equal(samples.y, y[which])
            else:
                for label in (0, 1):
                    of = [set(groups[w[y == label]]) for w, y in zip(which, samples.y, strict=True)]
                    assert all(len(each) == 1 for each in of)


def test_without_a_split_classes_are_split_at_random_by_seed(tmp_path):
    arrays = {"x": np.zeros((200, 1), np.float32), "class": np.repeat(np.arange(100), 2)}
    task = Arrays(path=str(written(tmp_path / "x", "npz", arrays)))
    members = {s: set(c.first) for s, c in task.load().splits.items()}
    assert [len(members[s]) for s in SPLITS] == [64, 16, 20]
    assert len(set.union(*members.values())) == 100
    assert {s: set(c.first) for s, c in replace(task, split_seed=1).load().splits.items()} != members
    halves = replace(task, fractions=(0.5, 0.25, 0.25)).load().splits
    assert [len(halves[s]) for s in SPLITS] == [50, 25, 25]
    with pytest.raises(ValueError, match=r"^task\.fractions must be three shares that add up to 1"):
        replace(task, fractions=(0.5, 0.5, 0.5)).load()


def test_tasks_of_one_size_need_no_numbers(tmp_path):
    """x (tasks, n, ...) is the same as x (tasks · n, ...) with the number of each sample's task."""
    rng = np.random.default_rng(0)
    x, y = rng.random((9, 6, 3, 2)), rng.random((9, 6, 1), np.float32)
    split = np.repeat(SPLITS, 3)
    block = {"x": x, "y": y, "split": split}
    flat = {"x": x.reshape(54, 3, 2), "y": y.reshape(54, 1), "task": np.repeat(np.arange(9), 6), "split": split}
    samplers = [Arrays(path=str(written(tmp_path / n, "npz", a)), shots=3, queries=2).load() for n, a in (("b", block), ("f", flat))]  # fmt: skip
    for split in SPLITS:
        one, other = (sampler.sample(split, generator(0, Purpose.TRAINING), 5) for sampler in samplers)
        for a, b in zip((*one.support_set, *one.query_set), (*other.support_set, *other.query_set), strict=True):
            np.testing.assert_array_equal(a, b)
    assert one.support_set.x.shape == (5, 3, 3, 2)
    assert one.query_set.y.shape == (5, 2, 1)


def example(kind: str = "class") -> dict[str, np.ndarray]:
    """A small and good file's arrays: 10 classes of 6 samples, or 10 tasks of 6."""
    rng = np.random.default_rng(0)
    split = np.repeat(SPLITS, (4, 3, 3))
    if kind == "class":
        return {"x": rng.random((60, 3), np.float32), "class": np.arange(60) % 10, "split": split}
    x = rng.random((10, 6, 3))
    block = {"x": x, "y": 2 * x[..., :2], "split": split}
    if kind == "block":
        return block
    return {"x": x.reshape(60, 3), "y": block["y"].reshape(60, 2), "task": np.repeat(np.arange(10), 6), "split": split}


def family(tmp_path, arrays: dict[str, np.ndarray], way: str = "npz", **fields: Any) -> Arrays:
    return Arrays(path=str(written(tmp_path / "mine", way, arrays)), **({"ways": 2, "shots": 2, "queries": 2} | fields))


@pytest.mark.parametrize("kind", ["class", "block", "task"])
@given(tasks=st.integers(1, 9), a=st.integers(0, 9), b=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_mapped_or_read_whole_or_in_parts_it_is_the_same(tmp_path_factory, kind, tasks, a, b):
    folder, part = tmp_path_factory.mktemp("x"), slice(min(a, b), max(a, b))
    whole = None
    for way in (*PLAIN, "h5 compressed", "npz compressed"):
        arrays = {n: v.astype("S") if v.dtype.kind == "U" else v for n, v in example(kind).items()}
        sampler = family(folder, arrays, way).load()
        whole = whole or sampler.sample("train", generator(1, Purpose.TRAINING), tasks)
        some = sampler.sample("train", generator(1, Purpose.TRAINING), tasks, part)
        expected = whole.part(part)
        for x, y in zip(
            (*some.support_set, *some.query_set), (*expected.support_set, *expected.query_set), strict=True
        ):
            np.testing.assert_array_equal(x, y)
            assert type(x) is np.ndarray


def test_tasks_are_drawn_equally_often_and_so_are_their_samples(tmp_path):
    task = family(tmp_path, example("block") | {"x": numbered(np.arange(60), (3,)).reshape(10, 6, 3)})
    batch = task.load().sample("train", generator(0, Purpose.TRAINING), 6000)
    seen = Counter(numbers(batch.support_set.x).ravel())
    assert set(seen) == set(range(24))
    assert max(abs(count - 500) for count in seen.values()) < 110  # five standard deviations


def test_bytes_are_images_and_other_numbers_are_themselves(tmp_path):
    import torch

    for kind in (np.uint8, np.int16, np.float16, np.float64):
        task = family(tmp_path, example() | {"x": np.full((60, 1, 4, 4), 51, kind)}, shots=1, queries=1)
        batch = draw(task.load(), "train", generator(0, Purpose.TRAINING), 1).to(torch.device("cpu"), torch.float64)
        assert torch.allclose(batch.support_set.x.double(), torch.tensor(0.2 if kind is np.uint8 else 51.0).double())


def changed(kind: str, **changes: Any) -> dict[str, np.ndarray]:
    return {n: np.asarray(a) for n, a in (example(kind) | changes).items() if a is not None}


def holed(kind: str, name: str, *places: tuple[Any, float]) -> dict[str, np.ndarray]:
    arrays = example(kind)
    for place, value in places:
        arrays[name][place] = value
    return arrays


WRONG: dict[str, tuple[dict[str, np.ndarray], dict[str, int], str]] = {
    "no x": (changed("class", x=None), {}, "it must hold x and class .* but of these it holds class, split"),
    "no labels": (changed("class", **{"class": None}), {}, "of these it holds x, split"),
    "labels and targets": (changed("block", label=np.arange(60)), {}, "of these it holds x, y, label, split"),
    "two labels": (changed("class", label=np.arange(60)), {}, "of these it holds x, label, class, split"),
    "tasks of classes": (changed("class", task=np.arange(60)), {}, "of these it holds x, class, task, split"),
    "nothing": ({"data": np.zeros(3)}, {}, "of these it holds none"),
    "labels that are no whole numbers": (changed("class", **{"class": np.arange(60) / 2}), {}, "class must be whole numbers or text, not float64"),
    "labels that are truth values": (changed("class", **{"class": np.arange(60) > 3}), {}, "class must be whole numbers or text, not bool"),
    "one-hot labels": (changed("class", **{"class": np.eye(60, dtype=int)}), {}, r"class must be \(n,\), not of shape \(60, 60\)"),
    "too few labels": (changed("class", **{"class": np.arange(59)}), {}, r"shapes of x, class must begin with the same numbers: that of x with \(60\), that of class with \(59\)"),
    "single numbers": (changed("class", x=np.zeros(60)), {}, r"x must be \(n, \*sample shape\), as \(n, 1\).* not of shape \(60,\)"),
    "no samples": (changed("class", x=np.zeros((0, 3)), **{"class": np.arange(0)}), {}, r"x must be .* not of shape \(0, 3\)"),
    "truth values": (changed("class", x=np.zeros((60, 3), bool)), {}, "x must be bytes.* not bool"),
    "types that PyTorch lacks": (changed("class", x=np.zeros((60, 3), np.uint32)), {}, "x must be .* not uint32"),
    "long doubles": (changed("class", x=np.zeros((60, 3), np.longdouble)), {}, "x must be .* not float128"),
    "x that is text": (changed("class", x=np.full((60, 3), "a")), {}, "x must be .* not <U1"),
    "class numbers as targets": (changed("task", y=np.zeros((60, 1), int)), {}, "y must be of a type float16 to 64, not int64; class numbers go into an array class"),
    "targets without their axis": (changed("task", y=np.zeros(60)), {}, r"y must be \(n, outputs\), as \(n, 1\).* not of shape \(60,\)"),
    "no word of tasks": (changed("task", task=None), {}, r"x must be \(tasks, n, \*sample shape\).*or an array task \(n,\) must say .* not of shape \(60, 3\)"),
    "other tasks in y": (changed("block", y=np.zeros((9, 6, 1))), {}, r"that of x with \(10, 6\), that of y with \(9, 6\)"),
    "other samples in y": (changed("block", y=np.zeros((10, 5, 1))), {}, r"that of x with \(10, 6\), that of y with \(10, 5\)"),
    "tasks of broken numbers": (changed("task", task=np.arange(60) / 6), {}, "task must be whole numbers or text, not float64"),
    "a NaN in x": (holed("class", "x", ((7, 1), np.nan)), {}, r"x must be finite numbers, but 1 are NaN or infinite, the first in x\[7\]"),
    "infinities in y": (holed("block", "y", ((3, 2, 1), np.inf), ((5, 0, 0), -np.inf)), {}, r"y must be finite numbers, but 2 are .* the first in y\[3\]"),
    "split by numbers": (changed("class", split=np.arange(10) % 3), {}, "split must be text, train, validation, test, not int64"),
    "an unknown split": (changed("class", split=np.full(10, "dev")), {}, "split holds 'dev'; the splits are train, validation, test"),
    "a split of another length": (changed("class", split=np.full(11, "train")), {}, r"each of the 60 samples or of the 10 class names, not shape \(11,\)"),
    "a class in two splits": (changed("class", split=np.resize(["train", "val", "test"], 60)), {}, "puts a class into two splits: '0' is in "),
    "a task in two splits": (changed("task", split=np.resize(["train", "val"], 60)), {}, "puts a task into two splits: '0' is in "),
    "one class": (changed("class", split=None, **{"class": np.zeros(60, int)}), {}, "task.ways is 2, but the train split has only 1 classes"),
    "too few classes": (example(), {"ways": 5}, "task.ways is 5, but the train split has only 4 classes"),
    "classes too small": (example(), {"queries": 5}, r"task\.shots \+ task\.queries is 2 \+ 5, but the smallest class of the train split has only 6 samples"),
    "tasks too small": (example("block"), {"queries": 5}, r"task\.shots \+ task\.queries is 2 \+ 5, but the smallest task of the train split has only 6 samples"),
    "no tasks": (changed("block", split=np.full(10, "val")), {}, "the train split has no tasks"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "fields", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_before_any_work_and_the_file_is_named(tmp_path, arrays, fields, message):
    task, alone = family(tmp_path, arrays, **fields), Communicator()
    with pytest.raises(Refusal, match=rf"^task\.path: .*mine\.npz.*{message}"):
        load_task(task, alone, alone)


@pytest.mark.parametrize(("fields", "message"), [({"ways": 1}, "task.ways"), ({"shots": 0}, "task.shots"), ({"queries": 0}, "task.queries")])  # fmt: skip
def test_fields_out_of_range_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=f"^{message} must be . or more"):
        family(tmp_path, example(), **fields).prepare()
    if "ways" not in fields:
        with pytest.raises(ValueError, match=f"^{message} must be . or more"):
            family(tmp_path, example("block"), **fields).prepare()


@pytest.mark.parametrize("kind", ["class", "task", "block"])
def test_a_split_seed_out_of_range_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=r"task\.split_seed must be 0 or more, not -1"):
        family(tmp_path, {name: each for name, each in example(kind).items() if name != "split"}, split_seed=-1).load()


def test_a_file_that_is_not_there_is_named_and_paths_are_as_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", str(tmp_path))
    family(tmp_path, example())
    assert Arrays(path="$MINE/mine.npz", ways=2).load().sample_shape == (3,)
    with pytest.raises(ValueError, match=rf"task\.path: {tmp_path}/other\.h5: there is no such file"):
        Arrays(path="$MINE/other.h5").prepare()
    with pytest.raises(ValueError, match=rf"task\.path: {tmp_path}: it is not a regular file"):
        Arrays(path="$MINE").prepare()
    with pytest.raises(ValueError, match=r"task\.path: .*no environment variable NOWHERE"):
        Arrays(path="$NOWHERE/mine.h5").prepare()


def test_ranks_whose_files_differ_notice_it(tmp_path):
    digest = family(tmp_path, example("task")).prepare()
    assert family(tmp_path, example("task")).prepare() == digest
    assert family(tmp_path, {n: a.astype("S") if n == "split" else a for n, a in example("task").items()}, "h5").prepare() == digest  # fmt: skip
    for name in ("x", "y", "task", "split"):
        other = example("task")
        other[name] = other[name][::-1].copy()
        assert family(tmp_path, other).prepare() != digest


def test_what_fills_the_memory_of_every_rank_is_said_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tasks.arrays, "MUCH", 2000)
    family(tmp_path, example("task"), "npz").prepare()
    assert capsys.readouterr().err == ""
    compressed = family(tmp_path, example("task"), "npz compressed")
    compressed.prepare()
    assert capsys.readouterr().err.count("mine.npz: every rank reads 0.0 GiB") == 1
    monkeypatch.setenv("PMI_RANK", "3")
    compressed.prepare()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("kind", "way"), [("class", "npz"), ("block", "h5"), ("task", "h5 compressed")])
def test_a_whole_job_learns_and_is_tested(tmp_path, capsys, kind, way):
    """The targets are twice the inputs; the samples of a class are all the same."""
    arrays = example(kind)
    if kind == "class":
        arrays["x"] = np.random.default_rng(0).standard_normal((10, 3))[arrays["class"]]
    arrays = {n: a.astype("S") if a.dtype.kind == "U" else a for n, a in arrays.items()}
    algorithm, validation = MAML(inner_lr=1.0 if kind == "class" else 0.05), Validation(every=60, tasks=20)
    config = small_config(task=family(tmp_path, arrays, way), runs=60, model=MLP(hidden=(16,)), optimizer=Adam(lr=0.02))
    job = run(replace(config, algorithm=algorithm, validation=validation), tmp_path)
    assert job["workers/loss"][-10:].mean() < 0.5 * job["workers/loss"][:10].mean()
    capsys.readouterr()
    pool = [["--split", "all"]] if kind == "class" else []
    for arguments in ([], ["--shots", "1", "--queries", "3"], *pool):
        assert evaluate(parse([str(job.path), "--tasks", "5", *arguments]), Communicator()) == 0
        assert f"5 {'tasks of all 10 classes' if '--split' in arguments else 'test tasks'}" in capsys.readouterr().out


def test_the_example_of_arrays_of_ones_own_learns(tmp_path, monkeypatch):
    path = str(tmp_path / "new" / "machines.npz")
    monkeypatch.setattr(sys, "argv", ["own_data.py", path])
    own_data.main()
    command = docstring_command(own_data, "mpirun")
    few = ["--runs", "100", "--workers", "2", "--threads", "1", "--validation.every", "99", "--validation.tasks", "100"]
    found = run(parse_job([*command[command.index("hpc_dmaml") + 1 :], "--task.path", path, *few]), tmp_path)
    before, *_, after = found["validation/metric"][-1].mean(-1)
    assert before < 0.3
    assert after > 0.6
