"""The command line of `python -m hpc_dmaml`, and the parts that the package's command lines share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from hpc_dmaml import results
from hpc_dmaml.config.fields import MAY_CHANGE, STRATEGIES, RunConfig
from hpc_dmaml.config.layers import (
    GROUPS,
    PARTS,
    TYPES,
    Layer,
    build,
    checked,
    contradictions,
    decided,
    imports,
    layer,
    nested,
    over,
    plain,
    stored_in,
)
from hpc_dmaml.config.values import Word, typed
from hpc_dmaml.files import expanded, there_is
from hpc_dmaml.importing import did_you_mean, find, own
from hpc_dmaml.launcher import launched_rank
from hpc_dmaml.plain_yaml import dump_yaml, load_yaml

PRESETS = Path(__file__).parents[1] / "presets"
FLAGS = ("help", "trust", "print_config")
"""Options that need no value."""
PATHS = ("output", "resume", "init_from")
"""Fields in which ~ and $VARIABLES are expanded, as in a shell."""


def parse(arguments: list[str] | None = None) -> RunConfig:
    """Parse a command line into a configuration; `arguments` defaults to sys.argv[1:].

    The files given by `--config` come first, wherever they stand, each overriding the previous; then the other options;
    the last of two values counts. A resumed job starts from the configuration in its file, and `resume` and `output`
    are that file. Raises ValueError with one readable message. `--help` and `--print_config` print and exit.
    """
    options, positional = split(sys.argv[1:] if arguments is None else arguments)
    if positional:
        raise ValueError(f"{positional[0]!r} belongs to no option" + did_you_mean(positional[0], presets()))
    special = [(name, value) for name, value in options if name in (*FLAGS, "config") or name.endswith(".help")]
    given = dict(special)
    trust = is_set("trust", given)
    for name, value in special:
        if name.endswith("help"):
            _help(name, value)
    asked: Layer = {}
    for file in (value for name, value in special if name == "config"):
        asked = read(preset(file), asked)
    in_files = asked.get("resume")
    asked = over(asked, layer({name: value for name, value in options if (name, value) not in special}))
    if asked.get("resume") == "auto" and in_files not in (None, "auto"):
        raise ValueError(
            f"resume: auto is given beside a configuration file that resumes {in_files}: give --resume {in_files}"
        )
    for name in PATHS:
        if name in asked:
            path = typed(name, asked[name], TYPES[name])
            asked[name] = None if path is None else str(expanded(path))
    source = resume_source(asked.get("resume"), asked.get("output"))
    if source is None:
        config = replace(build(asked), resume=None)
    else:
        named = imports(asked)
        stored = stored_in(
            results.read(source, "runs", "validation", "checkpoint", verify=True), lambda path: trust or path in named
        )
        output = asked.get("output") or source
        if os.path.realpath(output) != os.path.realpath(source):
            raise ValueError(
                f"output: a resumed job goes on in its own file, {source}, not in {output}: leave output out, or resume a copy"
            )
        config = _resumed(source, stored, build(over(layer(plain(stored)), asked)))
    if "print_config" in given:
        _print(config, given["print_config"])
    return config


def split(words: Iterable[str], flags: Iterable[str] = FLAGS) -> tuple[list[tuple[str, Word]], list[str]]:
    """Split a command line into options, (name, value) in order, and positional words. Raises ValueError.

    `--name VALUE` and `--name=VALUE` are equivalent; the value of a flag is empty unless given with `=`.
    """
    options, positional, left = [], [], list(words)
    while left:
        word = left.pop(0)
        word = "--help" if word == "-h" else word
        if not word.startswith("--"):
            positional.append(word)
            continue
        name, separator, value = word[2:].partition("=")
        if not separator and name not in flags:
            if left and not left[0].startswith("--"):
                value = left.pop(0)
            elif not name.endswith(".help"):
                raise ValueError(f"--{name} needs a value" + did_you_mean(name, flags, "--"))
        options.append((name.replace(".init_args.", "."), Word(value)))
    return options, positional


def is_set(flag: str, given: Mapping[str, Word]) -> bool:
    """Whether a flag is given, alone or as true. Raises ValueError for a value that is no truth value."""
    return flag in given and bool(given[flag] == "" or typed(flag, given[flag], bool))


def read(path: Path, lower: Layer) -> Layer:
    """Merge a YAML file into the layer `lower`, and check the values. Raises ValueError, naming the file."""
    try:
        flat = over(lower, layer(load_yaml(path.read_text(encoding="utf-8")) or {}))
        checked(flat)
    except (OSError, ValueError) as error:
        raise ValueError(f"config: {path}: {error}") from error
    return flat


def resume_source(resume: str | None, output: str | None) -> Path | None:
    """The file to resume, or None. Raises ValueError for `auto` without an output."""
    if resume != "auto":
        return None if resume is None else Path(resume)
    if output is None:
        raise ValueError("resume: auto needs --output, the file to resume if it exists")
    return Path(output) if there_is("output", Path(output)) else None


def _resumed(source: Path, stored: RunConfig, config: RunConfig) -> RunConfig:
    """The configuration of a resumed job. Raises ValueError where it changes a field that is not in `MAY_CHANGE`."""
    check_goes_on(source, stored, config)
    return replace(decided(stored, config), resume=str(source), output=str(source))


def check_goes_on(source: str | Path, stored: RunConfig, config: RunConfig) -> None:
    """Raise ValueError where a job may not go on with a configuration, as it was started with another one."""
    changed = contradictions(stored, config)
    if changed:
        raise ValueError(
            f"resume: {source} was started with other values of {', '.join(changed)}; only "
            f"{', '.join(sorted(MAY_CHANGE))} may change"
        )


def presets() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset(name: str) -> Path:
    """The file of the preset `name`, or `name` as a path. Raises ValueError, suggesting the nearest preset."""
    if name in presets():
        return PRESETS / f"{name}.yaml"
    path = expanded(name)
    if not there_is("config", path) or path.is_dir():
        hint = did_you_mean(name, presets()) or f"; the presets are {', '.join(presets())}"
        raise ValueError(f"config: there is no preset and no file {name!r}{hint}")
    return path


def _print(config: RunConfig, flags: str) -> NoReturn:
    """Print a configuration as YAML that `--config` reads, and exit; `flags` leave out defaults or unset fields."""
    chosen = set(filter(None, flags.split(",")))
    if not chosen <= {"skip_default", "skip_unset"}:
        raise ValueError(f"--print_config: the flags are skip_default and skip_unset, not {flags!r}")
    kept = layer(plain(config)) if not chosen else shortest(config, "skip_default" not in chosen)
    if launched_rank(os.environ) == 0:
        print(dump_yaml(nested(kept)), end="")
    sys.exit(0)


def shortest(config: RunConfig, only_unset: bool = False) -> Layer:
    """The layer of a configuration without fields that have their default; `only_unset`: of these, only the None."""
    kept = layer(plain(config))
    for name, value in list(kept.items()):
        rest = {other: v for other, v in kept.items() if other != name}
        if (value is None or not only_unset) and _gives(rest, config):
            kept = rest
    return kept


def _gives(flat: Layer, config: RunConfig) -> bool:
    try:
        return build(flat) == config
    except ValueError:
        return False


def _help(name: str, chosen: str) -> NoReturn:
    """Print help on the fields of the job, or of a chosen class, or the classes that there are, and exit."""
    words, part = [f"--{name}"], name.removesuffix(".help")
    if part in PARTS and chosen:
        kind = find(part, PARTS[part], chosen, lambda path: True)
        words.append(f"{kind.__module__}.{kind.__qualname__}")
    elif part in PARTS:
        if launched_rank(os.environ) == 0:
            print(
                f"--{name} CLASS explains one of {', '.join(sorted(own(PARTS[part])))}, or of your own by its import path"
            )
        sys.exit(0)
    elif name != "help":
        raise ValueError(f"--{name}: there is no such help; --help shows all fields")
    parser = help_parser("python -m hpc_dmaml", "Distributed model-agnostic meta-learning: start it under mpirun or srun, "
                         "or as one process.", [*words[1:], "hpc_dmaml"])  # fmt: skip
    parser.add_argument("--config", help=f"Preset ({', '.join(presets())}) or YAML file; may be given several times.")
    parser.add_argument(
        "--print_config", nargs="?", help="Print the configuration as YAML, and exit; =skip_default: short."
    )
    parser.add_argument("--trust", action="store_true", help="Import your own classes that the resumed file names.")
    parser.add_class_arguments(RunConfig, None)
    for action in parser._actions:
        if action.dest in GROUPS:  # jsonargparse would read a file there; `parse` does not
            action.help = argparse.SUPPRESS
    if launched_rank(os.environ) == 0:
        parser.parse_args(words)
    sys.exit(0)


def help_parser(program: str, description: str | None, importable: Iterable[str] = ()) -> Any:
    """A parser that is only used to print help."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(
        subclasses_enabled=list(STRATEGIES),
        docstring_parse_attribute_docstrings=True,
        import_path_allowlist=list(importable),
    )
    return ArgumentParser(prog=program, description=description)
