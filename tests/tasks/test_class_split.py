"""Which classes train, validate and test: as people write it down, in files, lists and folders."""

from __future__ import annotations

import json
import shutil

import pytest

from hpc_dmaml.tasks import ImageFolder
from hpc_dmaml.tasks.class_split import NAMED, check_disjoint, read_classes, read_lists
from tests.tasks.folders import make_images, shades

EXPECTED = {"train": {0, 1, 2, 3}, "validation": {4, 5, 6}, "test": {7, 8}}
NAMES = {split: [f"class{c}" for c in sorted(classes)] for split, classes in EXPECTED.items()}


def image_folder(root, split=None, **fields) -> ImageFolder:
    return ImageFolder(root=str(root), split=split and str(split), ways=2, size=(8, 8), channels=1, **fields)


def lists(folder, header: str = "filename,label", row: str = "{c}_{i}.png,class{c}", names=("train", "val", "test")):
    """A folder of lists of the images of EXPECTED."""
    (folder / "lists").mkdir()
    for name, classes in zip(names, EXPECTED.values(), strict=True):
        rows = [row.format(c=c, i=i) for c in sorted(classes) for i in range(3)]
        (folder / "lists" / f"{name}.csv").write_text("\n".join([*([header] if header else []), *rows]) + "\n")
    return folder / "lists"


def test_a_split_may_be_json_or_csv(folder):
    (folder / "split.json").write_text(json.dumps(NAMES | {"source": "by hand"}))
    rows = "".join(f"{name},{split}\n" for split, members in NAMES.items() for name in members)
    (folder / "split.csv").write_text("class,split\n" + rows)
    for split in ("split.json", "split.csv"):
        assert shades(image_folder(folder / "images", folder / split)) == EXPECTED


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename", "class{c}/{c}_{i}.png"),
        ("filename,label", "class{c}/{c}_{i}.png,n{c:08}"),
        ("filename,label", r"class{c}\{c}_{i}.png,n{c:08}"),
        ("\tfilename\tlabel", "{c}{i}\tclass{c}/{c}_{i}.png\tn{c:08}"),
        ("path;class;size", "./class{c}/{c}_{i}.png;n{c:08};12"),
        ("filename,label", "{c}_{i}.png,class{c}"),
    ],
)
def test_lists_may_name_images_in_class_folders(folder, header, row):
    assert shades(image_folder(folder / "images", lists(folder, header, row))) == EXPECTED


@pytest.mark.parametrize("row", ["{c}_{i}.png,n{c:08}", "{c}_{i}.png,class{c}"])
def test_lists_may_name_images_that_lie_all_in_one_folder(folder, row):
    (folder / "flat").mkdir()
    for path in folder.glob("images/*/*.png"):
        path.rename(folder / "flat" / path.name)
    family = image_folder(folder / "flat", lists(folder, row=row))
    assert shades(family) == EXPECTED
    for path in folder.glob("flat/5_*.png"):  # a class that is not there at all may not be needed
        path.unlink()
    family.prepare()
    sampler = family.load()
    sampler.check("train")
    with pytest.raises(ValueError, match=r"lists lists 5_0\.png, which is not in .*flat"):
        sampler.check("validation")
    (folder / "flat" / "0_2.png").unlink()  # a part of a class is a mistake
    with pytest.raises(ValueError, match=r"lists lists 0_2\.png, which is not in .*flat"):
        family.prepare()


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("train", "valid", "test"), ("Train", "VALIDATION", "Test")]
)
def test_folders_of_class_folders_are_splits(folder, names):
    for name, classes in zip(names, EXPECTED.values(), strict=True):
        (folder / "nested" / name).mkdir(parents=True)
        for c in classes:
            shutil.copytree(folder / "images" / f"class{c}", folder / "nested" / name / f"class{c}")
    assert shades(image_folder(folder / "nested")) == EXPECTED


def test_folders_of_splits_may_stand_beside_others_and_hold_no_class_twice(folder, capsys):
    root = folder / "nested"
    for name in ("train", "val", "test"):
        make_images(root / name, name=f"{name}{{}}", classes=3)
    make_images(root / "annotations" / "deep", classes=1)
    assert shades(image_folder(root)) == {split: {0, 1, 2} for split in EXPECTED}
    assert "left out 1 folder: beside train, val and test (1)" in capsys.readouterr().err
    shutil.copytree(root / "train" / "train0", root / "val" / "train0")
    with pytest.raises(ValueError, match="'train0' is in train and in validation"):
        shades(image_folder(root))
    (root / "val").rename(root / "valid")
    make_images(root / "validation", classes=1)
    with pytest.raises(ValueError, match="two folders for validation: valid and validation"):
        shades(image_folder(root))


def test_folders_of_class_folders_that_are_no_splits_are_named_as_what_they_are(folder, capsys):
    for name in ("cats", "dogs"):
        make_images(folder / "super" / name, classes=2)
    (folder / "super" / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no folder with images"):
        image_folder(folder / "super").prepare()
    told = "left out 3 folders: that hold folders, not images (2), without images (1)"
    assert told in capsys.readouterr().err


def test_classes_that_are_called_like_splits_are_classes(folder):
    """Trains and tests are things too: where folders hold images themselves, they are classes."""
    for old, new in (("class0", "train"), ("class1", "test")):
        (folder / "images" / old).rename(folder / "images" / new)
    assert sum(map(len, shades(image_folder(folder / "images")).values())) == 10


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_are_read_as_spreadsheets_write_them(tmp_path, encoding, delimiter, end):
    path, empty = tmp_path / "split.csv", delimiter
    rows = [("Class ", " Split"), ("Käfer", "train"), ('"a, b; c"', " Val "), ("Käfer", "train"), ("x", "TEST")]
    path.write_bytes(end.join([*(delimiter.join(row) for row in rows), empty, ""]).encode(encoding))
    assert read_classes(path) == {"train": ["Käfer"], "validation": ["a, b; c"], "test": ["x"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_read_in_what_encoding_an_editor_writes(tmp_path, encoding):
    (tmp_path / "split.json").write_bytes('{"train": ["Käfer"], "val": ["x"]}'.encode(encoding))
    assert read_classes(tmp_path / "split.json") == {"train": ["Käfer"], "validation": ["x"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.json", "{", "cannot read"),
        ("s.json", "[" * 100_000, "cannot read"),
        ("s.json", "[]", "cannot read"),
        ("s.json", '{"train": ["class1"], "train": ["class2"]}', "a name appears twice"),
        ("s.json", '{"train": [1]}', "must hold three lists of class names"),
        ("s.json", '{"class0": "train"}', "must hold three lists of class names"),
        ("s.json", '{"train": [], "validation": [], "test": []}', "names no class"),
        ("s.json", '{"train": ["class0", "class1"]}', "the validation split has no classes"),
        ("s.json", '{"trian": ["class0"]}', "'trian' is not a split"),
        (
            "s.json",
            '{"train": ["no"], "test": ["class1", "class2"]}',
            "'no' into train, but .*images has no such class",
        ),
        ("s.json", '{"train": ["no"], "test": ["neither"]}', "'no' into train, but .*images has no such class"),
        (
            "s.json",
            '{"train": ["class1"], "test": ["class1"]}',
            "a class into two splits: 'class1' is in train and in test",
        ),
        ("s.csv", "", "has no column label or class"),
        ("s.csv", "a,b\n1,2\n", "has no column label or class; its first line is 'a,b'"),
        ("s.csv", "class,split\nclass0,training\n", "'training' is not a split"),
        ("s.csv", "class,split\nclass0\n", "line 2 has 1 columns, the first line 2"),
        ("s.csv", "class,split\nclass0,train,test\n", "line 2 has 3 columns, the first line 2"),
        ("s.csv", 'class,split\n"class0,train\nclass1,test\n', "cannot read"),
        ("s.csv", "class,split\n", "names no class"),
        ("s.csv", b"class,split\nK\xe4fer,train\n", "cannot read .* 'utf-8' codec"),
        ("no.csv", None, "cannot read .*no.csv: No such file"),
    ],
)
def test_a_bad_split_is_named(folder, name, content, message):
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    family = image_folder(folder / "images", folder / name)
    with pytest.raises(ValueError, match=message):
        for split in ("train", "validation", "test"):
            family.prepare()
            family.load().check(split)


def test_a_split_that_does_not_fit_at_all_costs_no_decoding(folder):
    (folder / "s.json").write_text('{"train": ["a"], "validation": ["b"], "test": ["c"]}')
    for split in (folder / "s.json", folder / "gone.json", lists(folder, row="x{c}_{i}.png,n{c}")):
        with pytest.raises(ValueError, match=r"task\.split"):
            image_folder(folder / "images", split).prepare()
    assert not list(folder.glob("*.h5"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.csv": "filename,label\na.png,a\n"}, "must hold train.csv, val.csv and test.csv"),
        ({"val.csv": "filename\na/0.png\n", "valid.csv": "filename\nb/0.png\n"}, "two lists for validation"),
        ({"train.csv": "filename\n0.png\n"}, "does not say which class '0.png' is of"),
        ({"train.csv": "name,label\n0.png,a\n"}, "no column filename or file or path or image"),
        ({"train.csv": "filename,label\n0.png,a\n0.png,b\n"}, "lists 0.png as 'b', and it is 'a' already"),
    ],
)
def test_bad_lists_are_named(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_lists(tmp_path)


def test_an_image_that_is_listed_twice_is_one_and_other_files_are_no_lists(tmp_path):
    (tmp_path / "train.csv").write_text("filename,label\na/0.png,a\n./a/0.png,a\na/1.png,a\n")
    (tmp_path / "._train.csv").write_bytes(b"\0\5\x16\7")
    (tmp_path / "labels.csv").write_text("id,name\n0,a\n")
    assert read_lists(tmp_path) == {"train": {"a": ["a/0.png", "a/1.png"]}}


def test_home_and_variables_in_paths_are_replaced(folder, monkeypatch):
    (folder / "split.json").write_text(json.dumps(NAMES))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("SCRATCH", str(folder))
    assert shades(image_folder("~/images", "${SCRATCH}/split.json")) == EXPECTED
    with pytest.raises(ValueError, match=r"task\.root: .*NOWHERE"):
        image_folder("$NOWHERE/images").prepare()


# ---- published splits, which are known by name

SIZES = {"cifar_fs": (64, 16, 20), "fc100": (60, 20, 20)}


@pytest.mark.parametrize("name", SIZES)
def test_a_published_split_is_named_and_finds_its_classes_in_a_plain_folder(tmp_path, name):
    """CIFAR-100 has a class `train`, which is no folder of a split."""
    split = read_classes(NAMED[name])
    check_disjoint(split, NAMED[name])
    assert tuple(map(len, split.values())) == SIZES[name]
    assert all(members == sorted(members) for members in split.values())
    classes = [each for members in split.values() for each in members]
    assert len(classes) == 100
    assert "train" in classes
    for each in classes:
        make_images(tmp_path / "images", classes=1, images=2, name=each)
    family = image_folder(tmp_path / "images", name)
    family.prepare()
    assert tuple(len(family.load().splits[s]) for s in ("train", "validation", "test")) == SIZES[name]


def test_both_splits_are_of_the_same_classes_and_fc100_keeps_what_is_alike_together():
    cifar_fs, fc100 = (read_classes(NAMED[name]) for name in SIZES)
    assert {c for part in cifar_fs.values() for c in part} == {c for part in fc100.values() for c in part}
    for alike, split in (
        ({"maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"}, "train"),
        ({"hamster", "mouse", "rabbit", "shrew", "squirrel"}, "validation"),
        ({"baby", "boy", "girl", "man", "woman"}, "test"),
    ):
        assert alike <= set(fc100[split])
        assert not alike <= set(cifar_fs[split])


def test_a_name_means_the_published_split_wherever_one_stands_and_a_path_one_s_own(folder, monkeypatch):
    (folder / "fc100").write_text("class,split\n" + "".join(f"{n},{s}\n" for s, part in NAMES.items() for n in part))
    monkeypatch.chdir(folder)
    assert shades(image_folder("images", "./fc100")) == EXPECTED
    with pytest.raises(ValueError, match=r"fc100\.json puts 'apple' into train, but images has no such class"):
        image_folder("images", "fc100").prepare()


def test_a_name_that_is_not_known_says_which_are(folder):
    with pytest.raises(
        ValueError, match=r"cannot read cifarfs: No such file or directory; known by name are cifar_fs, fc100"
    ):
        image_folder(folder / "images", "cifarfs").prepare()


def test_where_no_class_of_a_split_is_there_one_that_is_there_is_shown(folder):
    """As where images lie in train/ and test/ of the data set's own making."""
    (folder / "images").rename(folder / "train")
    (folder / "images").mkdir()
    (folder / "train").rename(folder / "images" / "train")
    with pytest.raises(ValueError, match=r"no such class; one that it has is 'train/class0'"):
        image_folder(folder / "images", "cifar_fs").prepare()
