"""Result files changed on purpose, with a checksum that fits again: what somebody could send who wants to do harm, or what a bug could write.

    path = mutated(good, folder / "bad.h5", seed)    # 1 to 3 changes of `good`, by the seed; good itself stays
    with watched(folder) as deeds:
        ...                                          # read it, in any way
    assert not deeds                                 # imports of CANARY, commands, deleted folders, foreign files

A reader may raise ValueError, and nothing else.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from hpc_dmaml.files import add_checksum

CANARY = "hpc_dmaml_canary"
"""A module that nobody may import."""
SECRET = "/etc/passwd"
PATHS = [
    "os.system", "shutil.rmtree", "builtins.eval", "subprocess.Popen", "pathlib.Path", f"{CANARY}.Net", CANARY,
    "torch.hub.load", "torch.nn.modules.os.system", "torch.nn.modules.module.torch.hub.load", "torch.nn.Linear",
    "torch.nn.functional.linear", "torch.nn.Transformer", "torch.nn.LSTM", "hpc_dmaml.files.os.system", "Sinusoid",
    "hpc_dmaml.tasks.sinusoid.np.load", "hpc_dmaml.config.RunConfig", "jsonargparse.set_parsing_settings", "", "..", "Conv4",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, -1, 1, 3, 10**9, 10**18, 10**400, 1e300, float("nan"), float("inf"), "", "x", "3", SECRET, "~", "$HOME",
    [], [1, 2], [10**9] * 5, {}, {"class_path": "os.system", "init_args": {"command": "true"}}, {"a": {"b": [1]}}, "\0", "ä" * 99,
]  # fmt: skip
TEXTS = [
    "", "7", "[1, 2]", "a: &a [*a]", "runs: [", "!!python/object/apply:os.system ['true']", f"config: {SECRET}",
    f"maml: {SECRET}", f"task: {SECRET}", "runs: 3\nruns: 4", "task: " + "[" * 5000, "x" * 200_000, "? [a]\n: 1", "\ud800",
]  # fmt: skip
KINDS = ["i1", "u8", ">i8", "f2", "f4", ">f8", "c16", "?", "S5", "V8", [("a", "i4"), ("b", "f8")]]
_watching: list[list[str]] = []


def mutated(good: Path, bad: Path, seed: int) -> Path:
    """A copy of a result file with 1 to 3 changes, and a checksum that fits."""
    rng = random.Random(seed)
    shutil.copyfile(good, bad)
    with h5py.File(bad, "r+") as file:
        for change in rng.choices(CHANGES, k=rng.randint(1, 3)):
            # HDF5 cannot make some of them, or the last change took away what this one is for
            with suppress(Exception):
                change(file, rng)
    add_checksum(bad)
    return bad


def drop(file: h5py.File, rng: random.Random) -> None:
    del file[_any(file, rng)]


def rename(file: h5py.File, rng: random.Random) -> None:
    file.move(_any(file, rng), rng.choice([_any(file, rng) + "2", "new", "checkpoint/optimizer/new", "a/b/c/d/e/f/g"]))


def replace(file: h5py.File, rng: random.Random) -> None:
    """Another type, shape or content."""
    name = _any(file, rng)
    values = file[name][()]
    match rng.randrange(5):
        case 0:
            values = np.zeros(np.shape(values), rng.choice(KINDS))
        case 1:
            values = np.zeros([rng.choice([0, 1, 2, 3, 7]) for _ in range(rng.randrange(4))])
        case 2:
            values = values[: rng.randrange(len(values) + 1)]
        case 3:
            values = rng.choice(["text", ["1,2", "-3", "x"], np.float64(1), h5py.Empty("f8")])
        case 4:
            values = np.full_like(values, rng.choice([-1, 0, 5, 2**60, np.nan, np.inf]))
    del file[name]
    file[name] = values


def one_value(file: h5py.File, rng: random.Random) -> None:
    dataset = file[_any(file, rng)]
    place = tuple(rng.randrange(size) for size in dataset.shape)
    dataset[place] = rng.choice([-1, 0, 7, 2**60, np.nan, "x", "9" * 20])


def huge(file: h5py.File, rng: random.Random) -> None:
    """A shape that nobody ever filled."""
    name = _any(file, rng)
    shape = file[name].shape or (1,)
    del file[name]
    axis = rng.randrange(len(shape))
    shape = (*shape[:axis], rng.choice([10**9, 10**12]), *shape[axis + 1 :])
    # without chunks the file would be so large, of holes, and its checksum would take as long
    file.create_dataset(name, shape, "f8", chunks=(1,) * len(shape))


def elsewhere(file: h5py.File, rng: random.Random) -> None:
    """Data that is not in the file, or there twice."""
    name = _any(file, rng)
    shape = file[name].shape
    del file[name]
    match rng.randrange(6):
        case 0:
            file[name] = h5py.SoftLink("/" + _any(file, rng))
        case 1:
            file[name] = h5py.ExternalLink(rng.choice([SECRET, file.filename]), "/runs/run")
        case 2:
            layout = h5py.VirtualLayout(shape, "f8")
            layout[...] = h5py.VirtualSource(SECRET, "runs", shape)
            file.create_virtual_dataset(name, layout)
        case 3:
            file.create_dataset(name, shape, "u1", external=[(SECRET, 0, h5py.h5f.UNLIMITED)])
        case 4:
            file[name] = file[_any(file, rng)]
        case 5:
            file[name] = file[rng.choice(["/", name.split("/")[0]])]


def filtered(file: h5py.File, rng: random.Random) -> None:
    name = _any(file, rng)
    del file[name]
    file.create_dataset(name, data=np.zeros((rng.choice([3, 10**6]), 2)), compression=rng.choice(["gzip", "lzf"]))


def strange(file: h5py.File, rng: random.Random) -> None:
    """A type that is no number and no text, or a text that others share."""
    name = _any(file, rng)
    shape = file[name].shape
    del file[name]
    match rng.randrange(4):
        case 0:
            file.create_dataset(name, shape, h5py.vlen_dtype(np.float64))
        case 1:
            file.create_dataset(name, shape, h5py.ref_dtype)[...] = file.ref
        case 2:
            file[name] = np.dtype("f8")
        case 3:
            file.create_dataset(name, shape, h5py.string_dtype())[...] = "x" * 100_000


def attribute(file: h5py.File, rng: random.Random) -> None:
    name = rng.choice([*file.attrs, "new"])
    match rng.randrange(4):
        case 0:
            del file.attrs[name]
        case 1:
            file.attrs[name] = rng.choice([v for v in VALUES if not isinstance(v, dict | None)])
        case 2:
            file.attrs[name] = np.zeros(rng.choice([(), (3,), (2, 2), (1000,)]), rng.choice(KINDS))
        case 3:
            file.attrs[name] = rng.choice([h5py.Empty("f8"), file.ref, np.float64("nan"), np.int64(-1), "running"])


def text(file: h5py.File, rng: random.Random) -> None:
    """The configuration, as any text."""
    given = file.attrs["config"]
    place = rng.randrange(len(given))
    file.attrs["config"] = rng.choice([rng.choice(TEXTS), given + rng.choice(TEXTS), given[:place], given[place:]])


def configuration(file: h5py.File, rng: random.Random) -> None:
    """The configuration with another value, name or class somewhere."""
    content = yaml.safe_load(file.attrs["config"])
    for _ in range(rng.randint(1, 3)):
        inner = content
        while True:
            key = rng.choice(list(inner))
            if not isinstance(inner[key], dict) or not inner[key] or rng.random() < 0.2:
                break
            inner = inner[key]
        match rng.randrange(5):
            case 0:
                inner[key] = rng.choice(VALUES)
            case 1:
                inner[rng.choice([*PATHS, "config", "class_path", "init_args", "task", "resume", "output"])] = (
                    inner.pop(key)
                )
            case 2:
                inner[key] = rng.choice([str(inner[key]), {"class_path": rng.choice(PATHS)}, SECRET])
            case 3:
                part = content[rng.choice(["task", "model", "optimizer", "weight_generator"])]
                part["class_path"] = rng.choice(PATHS)
            case 4:
                arguments = {
                    "path": rng.choice(PATHS),
                    "arguments": {"in_features": rng.choice(VALUES), "out_features": 1},
                }
                content["model"] = {"class_path": "Module", "init_args": arguments}
    file.attrs["config"] = yaml.safe_dump(content)


CHANGES: list[Callable[[h5py.File, random.Random], None]] = [
    drop, rename, replace, replace, one_value, huge, elsewhere, filtered, strange, attribute, attribute, text,
    configuration, configuration, configuration, configuration,
]  # fmt: skip


def _any(file: h5py.File, rng: random.Random) -> str:
    """The path of one of its arrays, that `huge` has not been at: to read or to fill it would take all memory."""
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and (item.size or 0) < 10**6:
            names.append(name)

    file.visititems(note)
    return rng.choice(names)


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """What is done in the block that no result file may cause. `folder`: for the canary."""
    deeds: list[str] = []
    (folder / f"{CANARY}.py").write_text("class Net: ...\n", encoding="utf-8")
    sys.path.insert(0, str(folder))
    if not _watching:
        sys.addaudithook(_audit)
    _watching.append(deeds)
    try:
        yield deeds
    finally:
        _watching[_watching.index(deeds)] = []
        sys.path.remove(str(folder))
        sys.modules.pop(CANARY, None)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what counts, for the block that is watched; a hook stays for ever."""
    named = [str(argument) for argument in arguments[:1]]
    ours = event == "subprocess.Popen" and named == ["git"]
    bad = event in ("os.system", "subprocess.Popen", "shutil.rmtree", "socket.connect") and not ours
    if bad or (event == "import" and named[0].startswith(CANARY)) or (event == "open" and named == [SECRET]):
        for deeds in _watching:
            deeds.append(f"{event} {' '.join(named)}")
