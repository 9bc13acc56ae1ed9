"""The cache of decoded images: whole, made from the images that are there now, or made again."""

from __future__ import annotations

import os
import resource
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from hpc_dmaml.tasks import ImageFolder, image_cache
from tests.tasks.folders import damaged, make_images, shades


def image_folder(root) -> ImageFolder:
    return ImageFolder(root=str(root), ways=2, size=(8, 8))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_cache_is_never_believed(tmp_path, data):
    path, classes = tmp_path / "cache.h5", [("one", [1, 2]), ("two", [3])]
    image_cache.build(path, "mark", classes, (1, 4, 4), "numbers", lambda item: np.full((1, 4, 4), item, np.uint8))
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


def test_an_image_in_the_place_of_another_is_noticed_even_if_it_looks_the_same_from_outside(folder):
    """Same name, same size in bytes, same time of modification: as when another version of a data set is unpacked."""
    path = folder / "images" / "class3" / "3_0.bmp"
    Image.new("L", (10, 10), 60).save(path)
    stat, first = path.stat(), image_folder(folder / "images").prepare()
    Image.new("L", (10, 10), 200).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert image_folder(folder / "images").prepare() != first
    images = image_folder(folder / "images").load().images
    assert (images == 200).all((1, 2, 3)).sum() == 1


def test_a_cache_of_an_older_version_is_made_again(folder, monkeypatch):
    family = image_folder(folder / "images")
    classes = [("class", sorted(folder.glob("images/class0/*.png")))]
    mark = image_cache.fingerprint("images")
    image_cache.build(folder / "x.h5", mark, classes, (1, 2, 2), "x", lambda item: np.zeros((1, 2, 2), np.uint8))
    monkeypatch.setattr(image_cache, "VERSION", image_cache.VERSION + 1)
    assert not image_cache.is_valid(folder / "x.h5", image_cache.fingerprint("images"))
    assert shades(family)


def test_the_digest_tells_other_images_and_not_other_places(folder):
    shutil.copytree(folder / "images", folder / "copy" / "images")
    digests = [image_folder(root).prepare() for root in (folder / "images", folder / "copy" / "images")]
    assert digests[0] == digests[1] == image_folder(folder / "images").load().digest
    (folder / "copy" / "images" / "class9").rename(folder / "copy" / "images" / "class_9")
    assert image_folder(folder / "copy" / "images").prepare() != digests[0]


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "a\nb"])
def test_folders_may_have_any_name(tmp_path, name):
    root = make_images(tmp_path / name, name=name[:-1] + "{}")
    assert set.union(*shades(image_folder(root)).values()) == set(range(10))


def test_classes_may_have_names_that_are_no_text(tmp_path):
    root = make_images(tmp_path / "images", name=os.fsdecode(b"caf\xe9{}"))
    assert set.union(*shades(image_folder(root)).values()) == set(range(10))
    assert os.fsdecode(b"caf\xe97") in image_cache.load(next(tmp_path.glob("*.h5"))).names


def test_a_cache_that_cannot_be_written_names_the_setting(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    (folder / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    with pytest.raises(ValueError, match=r"cannot write .*\.h5, the cache of .*images: .*task\.root.*XDG_CACHE_HOME"):
        image_folder(folder / "images").prepare()


def test_a_full_disk_is_said_without_what_hdf5_adds(folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        with pytest.raises(
            ValueError, match=r"cannot write \S+, the cache of .*: \[Errno 27\] File too large\. It is next to"
        ):
            image_folder(folder / "images").prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_cache_that_is_gone_is_named(folder):
    image_folder(folder / "images").prepare()
    (cache,) = folder.glob("*.h5")
    cache.unlink()
    with pytest.raises(ValueError, match=r"cannot read .*images_3x8x8_.*\.h5, the cache of decoded images"):
        image_folder(folder / "images").load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_that_cannot_be_written_is_no_obstacle(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (folder).chmod(0o555)
    ImageFolder(root=str(folder / "images"), ways=2).prepare()
    assert list((folder / "cache").rglob("*.h5"))
