"""The image families on files: small ones made here, and the real data sets where they are at hand."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import Glyphs, ImageFolder, Omniglot, image_cache
from tests.helpers import DATA

real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    """Printed letters in a cache folder of their own, rendered once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        Glyphs().prepare()
        yield Glyphs().load()


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


@pytest.fixture
def folder(tmp_path):
    """Ten classes of three grey or colour images, each class of one shade."""
    for c in range(10):
        (tmp_path / "images" / f"class{c}").mkdir(parents=True)
        for i in range(3):
            mode, shade = (("L", 20 * c), ("RGB", (20 * c,) * 3))[i % 2]
            Image.new(mode, (12 + i, 10), shade).save(tmp_path / "images" / f"class{c}" / f"{c}_{i}.png")
    return tmp_path


def shades(family: ImageFolder) -> dict[str, set[int]]:
    """The shades of grey that each split's classes have."""
    family.prepare()
    sampler = family.load()
    return {s: {int(sampler.images[f].mean()) // 20 for f in c.first} for s, c in sampler.splits.items()}


def test_folders_are_classes_split_at_random_by_seed(folder):
    family = ImageFolder(root=str(folder / "images"), ways=2, size=(8, 6))
    split = shades(family)
    assert [len(split[s]) for s in ("train", "validation", "test")] == [6, 2, 2]
    assert set.union(*split.values()) == set(range(10))
    assert family.load().sample_shape == (3, 8, 6)
    assert shades(ImageFolder(root=str(folder / "images"), ways=2, size=(8, 6), split_seed=1)) != split


def test_a_split_may_be_json_or_csv_or_ravis_lists(folder):
    expected = {"train": {0, 1, 2, 3}, "validation": {4, 5, 6}, "test": {7, 8}}
    names = {split: [f"class{c}" for c in sorted(classes)] for split, classes in expected.items()}
    (folder / "split.json").write_text(json.dumps(names))
    rows = "".join(f"{name},{split}\n" for split, members in names.items() for name in members)
    (folder / "split.csv").write_text("class,split\n" + rows)
    flat, lists = folder / "flat", folder / "lists"
    flat.mkdir()
    lists.mkdir()
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        lines = []
        for c in sorted(expected[split]):
            for i in range(3):
                shutil.copy(folder / "images" / f"class{c}" / f"{c}_{i}.png", flat)
                lines.append(f"{c}_{i}.png,n{c:08}\n")
        (lists / f"{name}.csv").write_text("filename,label\n" + "".join(lines))
    for root, split in (("images", "split.json"), ("images", "split.csv"), ("flat", "lists")):
        family = ImageFolder(root=str(folder / root), split=str(folder / split), ways=2, size=(8, 8), channels=1)
        assert shades(family) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.json", "{", "cannot read"),
        ("s.json", '{"train": ["class0"]}', "must hold three lists"),
        ("s.json", '{"train": ["no"], "validation": ["class1"], "test": ["class2"]}', "'no' into train"),
        ("s.json", '{"train": ["class1"], "validation": ["class1"], "test": ["class2"]}', "a class into two splits"),
        ("s.csv", "a,b\n1,2\n", "cannot read the columns"),
        ("s.csv", "class,split\nclass0,training\n", "'training' is not a split"),
        ("s.csv", "class,split\nclass0\n", "a row is too short"),
        ("s.json", "[" * 100_000, "cannot read"),
    ],
)
def test_a_bad_split_is_named(folder, name, content, message):
    (folder / name).write_text(content)
    family = ImageFolder(root=str(folder / "images"), split=str(folder / name), ways=2, size=(8, 8))
    with pytest.raises(ValueError, match=message):
        shades(family)


def test_a_broken_image_is_named(folder):
    (folder / "images" / "class3" / "3_1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ValueError, match=r"3_1\.png is not a readable image"):
        ImageFolder(root=str(folder / "images"), ways=2).prepare()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, bytes]:
    """One small picture in several formats."""
    folder, shades = tmp_path_factory.mktemp("pictures"), np.arange(108, dtype=np.uint8).reshape(6, 6, 3)
    for suffix in ("png", "jpg", "webp"):
        Image.fromarray(2 * shades).save(folder / f"x.{suffix}")
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


def damaged(data, good: bytes) -> bytes:
    """Cut off, or with some bytes changed."""
    bad = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=4), "places"):
        bad[place] = data.draw(st.integers(0, 255), "byte")
    return bytes(bad[: data.draw(st.integers(0, len(good)), "length")])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_image_is_read_or_refused_by_name(pictures, tmp_path, data):
    suffix = data.draw(st.sampled_from(sorted(pictures)), "format")
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(damaged(data, pictures[suffix]))
    try:
        assert image_cache.read_image(path, (3, 6, 6)).shape == (3, 6, 6)
    except ValueError as error:
        assert f"{path} is not a readable image" in str(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_cache_is_never_believed(tmp_path, data):
    path, classes = tmp_path / "cache.h5", [("one", [1, 2]), ("two", [3])]
    image_cache.build(path, "mark", classes, (1, 4, 4), lambda item: np.full((1, 4, 4), item, np.uint8), "numbers")
    good = path.read_bytes()
    bad = damaged(data, good)
    assume(bad != good)
    path.write_bytes(bad)
    assert not image_cache.is_valid(path, "mark")
    path.write_bytes(good)
    assert image_cache.is_valid(path, "mark")


def test_a_cache_is_rebuilt_when_it_is_corrupt_or_stale_and_only_then(folder):
    family = ImageFolder(root=str(folder / "images"), ways=2, size=(8, 8))
    family.prepare()
    (cache,) = folder.glob("*.h5")
    made = cache.stat().st_mtime_ns
    family.prepare()
    assert cache.stat().st_mtime_ns == made
    good = cache.read_bytes()
    images = np.array(image_cache.load(cache).images)
    offset = good.index(images[5].tobytes())
    for bad in (good[: len(good) // 2], good[:offset] + b"\xff" + good[offset + 1 :], b""):
        cache.write_bytes(bad)
        family.prepare()
        np.testing.assert_array_equal(image_cache.load(cache).images, images)
    Image.new("L", (20, 20), 255).save(folder / "images" / "class0" / "0_3.png")
    family.prepare()
    assert len(image_cache.load(cache).images) == 31


def test_images_are_mapped_into_memory_not_read(folder):
    family = ImageFolder(root=str(folder / "images"), ways=2, size=(8, 8))
    family.prepare()
    assert isinstance(family.load().images, np.memmap)


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        ImageFolder(root=str(tmp_path / "no")).prepare()
    with pytest.raises(ValueError, match="holds no folder with images"):
        ImageFolder(root=str(tmp_path)).prepare()


def make_omniglot(root: Path, alphabets: int = 50, characters: int = 33) -> None:
    """Omniglot's folders with two tiny drawings each, of 1,623 characters."""
    left = 1623
    for a in range(alphabets):
        subset = "images_background" if a < 30 else "images_evaluation"
        for c in range(min(characters, left)):
            folder = root / subset / f"alphabet{a:02}" / f"character{c + 1:02}"
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("1", (5, 5), (a + c + i) % 2).save(folder / f"{i}.png")
        left -= min(characters, left)


def test_omniglot_is_found_unpacked_and_split_by_seed_or_as_lake(tmp_path):
    make_omniglot(tmp_path / "omniglot-py")
    family = Omniglot(root=str(tmp_path))
    family.prepare()
    sampler = family.load()
    assert {s: len(c) for s, c in sampler.splits.items()} == {"train": 4400, "validation": 400, "test": 1692}
    other = Omniglot(root=str(tmp_path), split_seed=1).load()
    assert set(other.splits["train"].first) != set(sampler.splits["train"].first)
    lake = Omniglot(root=str(tmp_path), split="lake", rotations=False).load()
    assert {s: len(c) for s, c in lake.splits.items()} == {"train": 825, "validation": 165, "test": 633}


def test_without_data_and_network_the_message_says_what_to_put_where(tmp_path, monkeypatch):
    import torchvision

    def no_network(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "Omniglot", no_network)
    with pytest.raises(ValueError, match=r"(?s)task.root.*no route to host.*images_background/ and images_evaluation/"):
        Omniglot(root=str(tmp_path / "omniglot")).prepare()


@real_data
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
    assert batch.support.x.shape == (4, 100, 1, 28, 28)
    assert 0.02 < (batch.support.x > 127).mean() < 0.25  # white strokes on black


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
    assert batch.held_query.x.shape == (2, 75, 3, 84, 84)
    assert 60 < batch.held_query.x.mean() < 200


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_that_cannot_be_written_is_no_obstacle(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (folder).chmod(0o555)
    ImageFolder(root=str(folder / "images"), ways=2).prepare()
    assert list((folder / "cache").rglob("*.h5"))
