"""The image families on files: small ones made here, and the real data sets where they are at hand."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import Glyphs, ImageFolder, Omniglot
from tests.helpers import DATA
from tests.tasks.folders import shades

real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    """Printed letters in a cache folder of their own, rendered once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        Glyphs().prepare()
        yield Glyphs().load()


@pytest.mark.long
def test_letters_are_split_by_script_and_no_outline_stands_twice(glyphs):
    sizes = {split: len(classes) // 4 for split, classes in glyphs.splits.items()}
    assert sizes["train"] > 1000
    assert sizes["validation"] > 60
    assert sizes["test"] > 35
    latin = [glyphs.images[first] for first in glyphs.splits["train"].first[::4][:26]]
    assert len({image.tobytes() for image in latin}) == 26


def test_letters_are_drawn_within_the_image(glyphs):
    ink = glyphs.images.reshape(-1, 28, 28)
    assert (ink.max((1, 2)) > 100).all()
    edge = np.concatenate([ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1]], axis=1)
    assert (edge.max(1) > 127).mean() < 0.01


def test_folders_are_classes_split_at_random_by_seed(folder):
    family = ImageFolder(root=str(folder / "images"), ways=2, size=(8, 6))
    split = shades(family)
    assert [len(split[s]) for s in ("train", "validation", "test")] == [6, 2, 2]
    assert set.union(*split.values()) == set(range(10))
    assert family.load().sample_shape == (3, 8, 6)
    assert shades(ImageFolder(root=str(folder / "images"), ways=2, size=(8, 6), split_seed=1)) != split


def test_a_broken_image_is_named(folder):
    (folder / "images" / "class3" / "3_1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ValueError, match=r"3_1\.png is not a readable image"):
        ImageFolder(root=str(folder / "images"), ways=2).prepare()


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        ImageFolder(root=str(tmp_path / "no")).prepare()
    with pytest.raises(ValueError, match="holds no folder with images"):
        ImageFolder(root=str(tmp_path)).prepare()


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    """Omniglot's folders: 964 + 659 characters of 50 alphabets, 20 drawings of each, all of them links to one."""
    root = tmp_path_factory.mktemp("omniglot")
    drawing = root / "drawing.png"
    Image.new("1", (5, 5), 1).save(drawing)
    for subset, alphabets, characters in (("images_background", 30, 964), ("images_evaluation", 20, 659)):
        for c in range(characters):
            folder = root / "omniglot-py" / subset / f"alphabet{c % alphabets:02}" / f"character{c // alphabets:02}"
            folder.mkdir(parents=True)
            for i in range(20):
                os.link(drawing, folder / f"{i:02}.png")
    return root


def test_omniglot_is_found_unpacked_and_split_by_seed_or_as_lake(omniglot, monkeypatch):
    monkeypatch.setattr("hpc_dmaml.tasks.omniglot._decode", lambda file: np.zeros((1, 28, 28), np.uint8))  # for speed
    (omniglot / "omniglot-py" / "images_background" / "alphabet00" / "._character00").touch()
    family = Omniglot(root=str(omniglot))
    family.prepare()
    sampler = family.load()
    assert {s: len(c) for s, c in sampler.splits.items()} == {"train": 4400, "validation": 400, "test": 1692}
    other = Omniglot(root=str(omniglot), split_seed=1).load()
    assert set(other.splits["train"].first) != set(sampler.splits["train"].first)
    lake = {s: len(c) for s, c in Omniglot(root=str(omniglot), split="lake", rotations=False).load().splits.items()}
    assert lake["train"] + lake["validation"] == 964
    assert 5 * 32 <= lake["validation"] <= 5 * 33  # five of the alphabets
    assert lake["test"] == 659


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("images_background/alphabet07", "images_background has 932 characters where Omniglot has 964"),
        ("images_evaluation/alphabet03/character02", "images_evaluation has 658 characters where Omniglot has 659"),
        ("images_background/alphabet29/character01/19.png", "alphabet29/character01 has 19 drawings where .* has 20"),
    ],
)
def test_an_omniglot_that_is_not_whole_is_refused(omniglot, tmp_path, gone, message):
    missing = omniglot / "omniglot-py" / gone
    missing.rename(tmp_path / "away")
    try:
        with pytest.raises(ValueError, match=rf"task\.root: .*{message}"):
            Omniglot(root=str(omniglot)).prepare()
    finally:
        (tmp_path / "away").rename(missing)


def test_without_data_and_network_the_message_says_what_to_put_where(tmp_path, monkeypatch):
    import torchvision

    def no_network(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "Omniglot", no_network)
    with pytest.raises(ValueError, match=r"(?s)task.root.*no route to host.*images_background/ and images_evaluation/"):
        Omniglot(root=str(tmp_path / "omniglot")).prepare()


@real_data
@pytest.mark.long
def test_real_omniglot(tmp_path):
    for archive in (DATA / "omniglot").glob("*.zip"):
        with zipfile.ZipFile(archive) as file:
            file.extractall(tmp_path)
    family = Omniglot(root=str(tmp_path), ways=20, shots=5, queries=15)
    family.prepare()
    sampler = family.load()
    assert sampler.images.shape == (32460, 1, 28, 28)
    assert (sampler.splits["train"].count == 20).all()
    batch = sampler.sample("test", generator(0, Purpose.TRAINING), 4)
    assert batch.support_set.x.shape == (4, 100, 1, 28, 28)
    assert 0.02 < (batch.support_set.x > 127).mean() < 0.25  # white strokes on black


@real_data
def test_real_photographs(tmp_path):
    with tarfile.open(DATA / "caltech101_84.tar") as file:
        file.extractall(tmp_path / "images", filter="data")
    split = DATA / "class_split_seed0.json"
    family = ImageFolder(root=str(tmp_path / "images"), split=str(split), shots=5, queries=15)
    family.prepare()
    sampler = family.load()
    assert {s: len(c) for s, c in sampler.splits.items()} == {"train": 64, "validation": 16, "test": 20}
    batch = sampler.sample("train", generator(0, Purpose.TRAINING), 2)
    assert batch.query_set.x.shape == (2, 75, 3, 84, 84)
    assert 60 < batch.query_set.x.mean() < 200


def test_what_systems_leave_beside_images_is_no_class_and_what_is_left_out_is_said(folder, capsys, monkeypatch):
    root = folder / "images"
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        shutil.copytree(root / "class0", root / name)
    (root / "class1" / "._1_0.png").write_bytes(bytes(4096))
    (root / "class1" / ".DS_Store").touch()
    for name in ("a.npy", "b.npy", "notes.TXT"):
        (root / "class2" / name).touch()
    (root / "class3" / "deeper").mkdir()
    (root / "empty").mkdir()
    shutil.copy(root / "class0" / "0_0.png", root / "cover.png")
    family = ImageFolder(root=str(root), ways=2, size=(8, 6))
    assert set.union(*shades(family).values()) == set(range(10))
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "left out" in line] == [
        f"{root}: left out 6 files: hidden (2), .npy (2), .txt (1), beside the classes (1); "
        "5 folders: hidden (3), without images (1), inside a class (1)"
    ]
    monkeypatch.setenv("PMI_RANK", "3")  # of many nodes one speaks
    family.prepare()
    assert capsys.readouterr().err == ""
