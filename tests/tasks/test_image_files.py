"""An image file is read as the eye sees it or refused by name; a folder's images are taken and the rest is counted."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from hpc_dmaml.tasks.image_files import LeftOut, contents, read_image
from tests.tasks.folders import damaged

COLOURS = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]


def coloured() -> Image.Image:
    """Six fields of one colour each, 24 × 16 pixels."""
    fields = np.array(COLOURS, np.uint8).reshape(2, 3, 3)
    return Image.fromarray(fields.repeat(8, 0).repeat(8, 1))


def drawing(mode: str, ink: tuple[int, ...], ground: tuple[int, ...]) -> Image.Image:
    """A square of ink on a ground, 8 × 8."""
    image = Image.new(mode, (8, 8), ground)
    image.paste(ink, (2, 2, 6, 6))
    return image


def grey(path, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return read_image(path, (1, *size))[0]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("RGB", suffix) for suffix in ("png", "bmp", "gif", "webp", "tif", "ppm")),
        *(("P", suffix) for suffix in ("png", "bmp", "gif", "tif")),
        *(("RGBA", suffix) for suffix in ("png", "bmp", "gif", "webp", "tif")),
        *((mode, "tif") for mode in ("CMYK", "YCbCr")),
    ],
)
def test_colours_are_the_same_in_every_mode_and_format(tmp_path, mode, suffix):
    path, picture = tmp_path / f"x.{suffix}", coloured()
    image = picture.quantize(6) if mode == "P" else picture.convert(mode)
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    seen = np.moveaxis(read_image(path, (3, 16, 24)), 0, -1).astype(int)
    assert np.abs(seen - np.asarray(picture)).max() <= 3
    assert np.abs(grey(path, (16, 24)).astype(int) - np.asarray(picture.convert("L"))).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_black_and_white_stay_so_whatever_the_mode(tmp_path, mode):
    drawing("L", 255, 0).convert(mode).save(tmp_path / "x.png")
    np.testing.assert_array_equal(grey(tmp_path / "x.png"), np.asarray(drawing("L", 255, 0)))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays(np.uint16, (3, 5)), st.sampled_from(["png", "tif", "tif, high byte first", "pgm"]))
def test_16_bits_are_scaled_by_their_range_and_not_by_what_a_file_uses_of_it(tmp_path, numbers, kind):
    path = tmp_path / f"x.{kind[:3]}"
    if kind == "pgm":
        path.write_bytes(b"P5 5 3 65535\n" + numbers.astype(">u2").tobytes())
    else:
        mode = "I;16B" if "high" in kind else "I;16"
        Image.frombytes(mode, (5, 3), numbers.astype(">u2" if "high" in kind else "<u2").tobytes()).save(path)
    np.testing.assert_array_equal(grey(path, (3, 5)), np.rint(numbers / 65535 * 255))


def tiff_with(path, old: tuple[int, int], new: int, data: bytes, numbers: np.ndarray) -> None:
    """A 16-bit TIFF file in which one tag (its number and value) has another value, and maybe other data."""
    Image.fromarray(numbers).save(path)
    content = path.read_bytes().replace(
        struct.pack("<HHIHH", old[0], 3, 1, old[1], 0), struct.pack("<HHIHH", old[0], 3, 1, new, 0)
    )
    path.write_bytes(content.replace(numbers.tobytes(), data.ljust(numbers.nbytes, b"\0")))


def test_a_tiff_whose_white_is_0_or_that_has_12_bits_is_scaled_accordingly(tmp_path):
    numbers = np.array([[0, 65535], [4369, 21845]], np.uint16)
    tiff_with(tmp_path / "white.tif", (262, 1), 0, numbers.tobytes(), numbers)
    assert grey(tmp_path / "white.tif", (2, 2)).tolist() == [[255, 0], [238, 170]]
    packed = bytes.fromhex("000fff 111555".replace(" ", ""))  # 0, 4095, 273, 1365: two numbers in three bytes
    tiff_with(tmp_path / "twelve.tif", (258, 16), 12, packed, numbers)
    assert grey(tmp_path / "twelve.tif", (2, 2)).tolist() == [[0, 255], [17, 85]]


@pytest.mark.parametrize(
    "image",
    [
        drawing("LA", (0, 255), (0, 0)),
        drawing("LA", (0, 255), (255, 0)),
        drawing("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)),
        drawing("RGBA", (0, 0, 0, 255), (255, 0, 0, 0)),
        drawing("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
    ],
    ids=["grey", "grey on hidden white", "colour", "colour on hidden red", "opaque"],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_what_is_transparent_shows_white(tmp_path, image, suffix):
    image.save(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(grey(tmp_path / f"x.{suffix}"), np.asarray(drawing("L", 0, 255)))


@pytest.mark.parametrize(
    ("mode", "suffix"), [("1", "png"), ("L", "png"), ("P", "png"), ("I;16", "png"), ("L", "gif"), ("P", "gif")]
)
def test_a_transparent_colour_shows_white(tmp_path, mode, suffix):
    image = Image.fromarray(np.asarray(drawing("L", 0, 1)).astype(np.uint16)) if mode == "I;16" else drawing(mode, 0, 1)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / f"x.{suffix}", transparency=1)
    np.testing.assert_array_equal(grey(tmp_path / f"x.{suffix}"), np.asarray(drawing("L", 0, 255)))


def test_what_is_half_transparent_is_mixed_with_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 51)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", (3, 2, 2))[:, 0, 0].tolist() == [255, 204, 204]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(tmp_path, orientation, suffix):
    """Stored as the camera held it, with an orientation that says how to turn it: `stored` is turned by its inverse."""
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8], upright[:8, 8:] = 255, 128
    turned = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose, 6: np.rot90,
              7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}  # fmt: skip
    stored = Image.fromarray(turned.get(orientation, np.asarray)(upright)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"x.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    assert np.abs(grey(tmp_path / f"x.{suffix}", (16, 24)).astype(int) - upright).max() < 20


def test_a_camera_s_photograph_with_further_pictures_in_it_is_the_photograph(tmp_path):
    first, other = drawing("L", 0, 255), drawing("L", 255, 0)
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[other])
    assert np.abs(grey(tmp_path / "x.jpg").astype(int) - np.asarray(first)).max() < 10


@pytest.mark.parametrize(
    ("name", "image", "options", "message"),
    [
        ("x.tif", Image.fromarray(np.full((8, 8), 1000, np.int32)), {}, "what is white in its whole numbers"),
        ("x.tif", Image.fromarray(np.full((8, 8), 0.5, np.float32)), {}, "what is white in its floating-point numbers"),
        ("x.png", drawing("LA", (255, 255), (255, 0)), {}, "is not visible on white"),
        ("x.png", drawing("RGBA", (9, 9, 9, 0), (200, 0, 0, 0)), {}, "is not visible on white"),
        *(
            (
                f"x.{suffix}",
                drawing("L", 0, 255),
                {"save_all": True, "append_images": [drawing("L", 255, 0)]},
                "a sequence",
            )
            for suffix in ("gif", "png", "tif", "webp")
        ),
    ],
)
def test_what_no_rule_can_show_is_refused_by_name(tmp_path, name, image, options, message):
    image.save(tmp_path / name, **options)
    with pytest.raises(ValueError, match=rf"{name} is not a readable image: .*{message}"):
        read_image(tmp_path / name, (3, 8, 8))


def test_a_file_of_another_kind_under_an_image_s_name_is_not_opened(tmp_path):
    """A PostScript file would start a program."""
    coloured().save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png is not a readable image: cannot identify"):
        read_image(tmp_path / "x.png", (3, 8, 8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, bytes]:
    """One small picture in several formats."""
    folder, shades = tmp_path_factory.mktemp("pictures"), np.arange(108, dtype=np.uint8).reshape(6, 6, 3)
    for suffix in ("png", "jpg", "webp"):
        Image.fromarray(2 * shades).save(folder / f"x.{suffix}")
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_image_is_read_or_refused_by_name(pictures, tmp_path, data):
    suffix = data.draw(st.sampled_from(sorted(pictures)), "format")
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(damaged(data, pictures[suffix]))
    try:
        assert read_image(path, (3, 6, 6)).shape == (3, 6, 6)
    except ValueError as error:
        assert f"{path} is not a readable image" in str(error)


@pytest.fixture
def folder(tmp_path):
    """Two folders and two images, and all that systems and people leave beside them."""
    for name in ("cat", "dog", ".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (tmp_path / name).mkdir()
    for name in ("b.PNG", "a.jpeg", "._a.jpeg", ".DS_Store", "Thumbs.db", "notes.txt", "more.txt", "x.npy", "README"):
        (tmp_path / name).touch()
    return tmp_path


def test_images_and_folders_are_taken_by_name_and_the_rest_is_counted(folder):
    left_out = LeftOut()
    folders, images = contents(folder, left_out)
    assert [path.name for path in folders] == ["cat", "dog"]
    assert [path.name for path in images] == ["a.jpeg", "b.PNG"]
    assert str(left_out) == "7 files: hidden (3), .txt (2), no suffix (1), .npy (1); 4 folders: hidden (4)"


def test_links_are_followed_and_a_link_to_nothing_is_named(folder):
    (folder / "linked").symlink_to(folder / "cat")
    (folder / "c.png").symlink_to(folder / "b.PNG")
    folders, images = contents(folder, LeftOut())
    assert [path.name for path in (*folders, *images)] == ["cat", "dog", "linked", "a.jpeg", "b.PNG", "c.png"]
    (folder / "d.png").symlink_to(folder / "gone.png")
    with pytest.raises(ValueError, match=r"d\.png is a broken link: .*gone\.png"):
        contents(folder, LeftOut())
