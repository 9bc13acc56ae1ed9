"""Training on data of one's own, and testing on other data: what is needed is asked for, and nothing else."""

from __future__ import annotations

import json
import shutil

import pytest

from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import Validation
from hpc_dmaml.evaluate import evaluate, parse
from hpc_dmaml.setup import load_task
from hpc_dmaml.tasks import ImageFolder
from tests.helpers import run, small_config
from tests.tasks.folders import make_images


def job(root, **fields):
    """A small job on images, trained."""
    validation = fields.pop("validation", Validation(every=2, tasks=3, steps=1))
    task = ImageFolder(**{"root": str(root), "ways": 2, "size": (6, 6), "channels": 1, **fields})
    return run(small_config(task=task, tasks=2, validation=validation), root.parent).path


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
    assert tested(trained) == lines
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
