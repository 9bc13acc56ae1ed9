"""Training on data of one's own, and testing on other data: what is needed is asked for, and nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import Validation, from_yaml
from hpc_dmaml.evaluate import evaluate, parse
from hpc_dmaml.setup import load_task
from hpc_dmaml.tasks import Arrays, ImageFolder
from tests.helpers import run, small_config
from tests.tasks.folders import make_images


def job(root, **fields):
    """A small job on images, trained."""
    validation, seed = fields.pop("validation", Validation(every=2, tasks=3, steps=1)), fields.pop("seed", 0)
    task = ImageFolder(**{"root": str(root), "ways": 2, "size": (6, 6), "channels": 1, **fields})
    return run(small_config(task=task, tasks=2, validation=validation, seed=seed), root.parent).path


@pytest.fixture
def tested(capsys):
    def tested(*arguments) -> list[str]:
        """What the command says, line by line; the first says what was tested on."""
        capsys.readouterr()
        assert evaluate(parse([str(a) for a in arguments] + ["--tasks", "4"]), Communicator()) == 0
        return capsys.readouterr().out.splitlines()

    return tested


def test_data_of_ones_own_need_no_more_classes_than_a_task_has(folder, tested):
    """A random fifth of three classes would be one; none of the three was trained on."""
    trained, own = job(folder / "images"), make_images(folder / "own", classes=3)
    assert "4 tasks of all 3 classes" in tested(trained, "--root", own)[0]
    make_images(folder / "one", classes=1)
    with pytest.raises(Refusal, match=r"task\.ways is 2, but the test split has only 1 classes"):
        tested(trained, "--root", folder / "one")


def test_the_same_data_elsewhere_are_split_as_in_training(folder, tested):
    trained = job(folder / "images")
    shutil.copytree(folder / "images", folder / "moved" / "images")
    lines = tested(trained)
    assert "4 test tasks" in lines[0]
    assert tested(trained, "--root", folder / "moved" / "images") == lines


def test_data_that_are_no_longer_there_can_be_named(folder, tested):
    trained = job(folder / "images")
    (folder / "images").rename(folder / "gone")
    with pytest.raises(Refusal, match=r"task\.root: there is no folder .*; if the data has moved, --root says where"):
        tested(trained)


def test_a_split_that_somebody_made_is_never_widened(folder, tested):
    for name, classes in (("train", (0, 1, 2)), ("val", (3, 4)), ("test", (5,))):
        for c in classes:
            shutil.copytree(folder / "images" / f"class{c}", folder / "nested" / name / f"class{c}")
    trained = job(folder / "nested")
    for arguments in ((trained,), (trained, "--root", folder / "nested")):
        with pytest.raises(Refusal, match="the test split has only 1 classes"):
            tested(*arguments)
    assert "4 validation tasks" in tested(trained, "--split", "validation")[0]
    shutil.rmtree(folder / "nested" / "train")
    assert "4 validation tasks" in tested(trained, "--split", "validation")[0]


def test_a_split_file_asks_for_the_classes_of_the_split_that_is_tested(folder, tested):
    names = [f"class{c}" for c in range(10)]
    (folder / "split.json").write_text(json.dumps({"train": names[:4], "val": names[4:7], "test": names[7:]}))
    trained = job(folder / "images", split=str(folder / "split.json"))
    lines = tested(trained)
    for name in names[:7]:
        shutil.rmtree(folder / "images" / name)
    changed = tested(trained)
    assert changed[0] == lines[0] + ", of data that has changed since training"
    assert changed[1:] == lines[1:]
    with pytest.raises(Refusal, match="puts 'class0' into train, but .*images has no such class"):
        tested(trained, "--split", "train")


def test_all_classes_of_other_data_are_tested_on_where_that_is_asked_for(folder, tested):
    (folder / "split.json").write_text(
        '{"train": ["class0", "class1"], "val": ["class2", "class3"], "test": ["class4"]}'
    )
    trained, own = job(folder / "images", split=str(folder / "split.json")), make_images(folder / "own", name="my{}")
    with pytest.raises(Refusal, match="puts 'class0' into train, but .*own has no such class"):
        tested(trained, "--root", own)
    assert "4 tasks of all 10 classes" in tested(trained, "--root", own, "--split", "all")[0]


def test_a_class_of_training_never_becomes_one_of_the_test(folder, tested):
    """A class that joins the folder changes the random split of all."""
    source = job(folder / "images", split_seed=3)
    before = tested(source)
    shutil.copytree(folder / "images" / "class0", folder / "images" / "a_new_one")
    with pytest.raises(Refusal, match="2 of the classes for test were then for another use"):
        tested(source)
    with pytest.raises(Refusal, match="the data or its splits have changed since .*job.h5 was written"):
        resumed(source)
    assert "other data than in training (2 of its classes have" in tested(source, "--root", folder / "images")[0]
    shutil.rmtree(folder / "images" / "a_new_one")
    assert tested(source) == before
    resumed(source)


def test_a_split_that_was_edited_is_noticed(folder, tested):
    names, split = [f"class{c}" for c in range(10)], folder / "split.json"
    split.write_text(json.dumps({"train": names[:4], "val": names[4:7], "test": names[7:]}))
    source = job(folder / "images", split=str(split))
    split.write_text(json.dumps({"train": names[:4], "val": names[4:6], "test": names[6:]}))
    with pytest.raises(Refusal, match="1 of the classes for test were then for another use"):
        tested(source)
    split.write_text(json.dumps({"train": names[1:4], "val": names[4:7], "test": names[7:]}))
    assert "4 test tasks" in tested(source)[0]
    with pytest.raises(Refusal, match="the data or its splits have changed"):
        resumed(source)


def test_a_test_on_classes_of_training_says_so(folder, tested):
    found = tested(job(folder / "images"), "--split", "all")[0]
    assert "4 tasks of all 10 classes, 6 of which have the name of a training class" in found


class Shared(ImageFolder):
    """With a further split, of the classes of another one."""

    def load(self):
        sampler = super().load()
        sampler.splits["held_out"] = sampler.splits["test"]
        return sampler


def test_splits_that_share_classes_are_no_change_of_the_data(folder, tested):
    task = Shared(root=str(folder / "images"), ways=2, size=(6, 6), channels=1)
    source = run(small_config(task=task, tasks=2, validation=Validation(every=0)), folder).path
    assert "4 test tasks" in tested(source, "--trust")[0]


def test_files_of_different_data_have_no_mean_over_seeds(folder, tested):
    make_images(folder / "b" / "images", name="my{}")
    one, other = job(folder / "images"), job(folder / "b" / "images", seed=1)
    with pytest.raises(Refusal, match="were trained on different data"):
        tested(one, other)


def test_arrays_that_have_changed_or_moved_are_noticed_as_well(tmp_path, tested):
    x, labels = np.random.default_rng(0).random((40, 3), np.float32), np.repeat(np.arange(10), 4)
    np.savez(tmp_path / "a.npz", x=x, label=labels)
    task = Arrays(path=str(tmp_path / "a.npz"), ways=2)
    source = run(small_config(task=task, tasks=2, validation=Validation(every=0)), tmp_path).path
    before = tested(source)
    (tmp_path / "a.npz").rename(tmp_path / "b.npz")
    assert tested(source, "--root", tmp_path / "b.npz") == before
    np.savez(tmp_path / "a.npz", x=x + 1, label=labels)
    with pytest.raises(Refusal, match="the data or its splits have changed"):
        resumed(source)


def resumed(source):
    config = from_yaml(results.read(source).attributes["config"])
    run(replace(config, resume=str(source), runs=config.runs + 1), source.parent, name=source.name)


def test_numbers_in_classes_are_for_images_alone(folder, tested):
    sine_waves = run(small_config(), folder).path
    with pytest.raises(Refusal, match="split: all is for images in classes"):
        tested(sine_waves, "--split", "all")


def test_training_asks_for_training_and_for_validation_if_there_is_any(folder):
    few = make_images(folder / "few", classes=4)  # 3 train, none validates, 1 tests
    with pytest.raises(Refusal, match="the validation split has no classes"):
        job(few)
    with pytest.raises(Refusal, match=r"task\.ways is 4, but the train split has only 3 classes"):
        job(few, ways=4, validation=Validation(every=0))
    assert job(few, validation=Validation(every=0)).exists()


def test_a_cache_is_not_tested_on_when_its_images_are_gone(folder, tested):
    trained = job(folder / "images")
    shutil.rmtree(folder / "images")
    with pytest.raises(Refusal, match=r"task\.root: there is no folder .*images"):
        tested(trained)
    assert list(folder.glob("images_*.h5"))


class Overtaken(ImageFolder):
    """Between this job's preparation and its loading another one caches changed images in the same place."""

    def prepare(self) -> str:
        prepared = super().prepare()
        image = next(self._path("root").glob("*/*.png"))
        image.write_bytes(next(p for p in self._path("root").glob("*/*.png") if p.parent != image.parent).read_bytes())
        super().prepare()
        return prepared


def test_what_is_loaded_is_what_was_prepared(folder):
    family = ImageFolder(root=str(folder / "images"), ways=2, size=(6, 6))
    alone = Communicator()
    load_task(family, alone, alone)
    with pytest.raises(Refusal, match="not all ranks see the same data"):
        load_task(Overtaken(root=str(folder / "images"), ways=2, size=(6, 6)), alone, alone)
