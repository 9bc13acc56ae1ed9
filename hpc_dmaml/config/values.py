"""Convert values from a YAML file or the command line to the types of their fields.

A value in a file already has a type, and quoted text stays text. A word of the command line takes its field's type.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hpc_dmaml.importing import saying
from hpc_dmaml.plain_yaml import load_yaml

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null",
         tuple: "a list", list: "a list", dict: "a mapping"}  # fmt: skip

MISFIT = (TypeError, ValueError, OverflowError)


class Word(str):
    """A value on the command line: text, until it is converted to the type of its field."""

    __slots__ = ()


def hints(kind: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    names = [item.name for item in fields(kind) if item.init]
    try:
        known = get_type_hints(kind)
    except Exception:  # names imported under TYPE_CHECKING: the class must check its values itself
        known = {}
    return {name: known.get(name, Any) for name in names}


def typed(name: str, value: Any, hint: Any) -> Any:
    """Convert `value` to the type `hint` of a field. Raises ValueError, naming the field."""
    try:
        return _word(value, hint) if isinstance(value, Word) else _typed(value, hint)
    except MISFIT as error:
        raise ValueError(
            f"{name} must be {_wanted(hint)}, not {str(value) if value is None else repr(value)}"
        ) from error


def shown(value: Any) -> str:
    """A value for a message: its representation, cut to 80 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def make(kind: type[Any], name: str, values: Mapping[str, Any]) -> Any:
    """Instantiate a dataclass from converted values; `name`: the field that it is for. Raises ValueError."""
    for item in fields(kind):
        if item.init and item.name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{name}.{item.name} must be given: {kind.__name__} has no default for it".lstrip("."))
    with saying(f"{name}: {kind.__name__} cannot be made".lstrip(": ")):
        return kind(**values)


def _word(word: Word, hint: Any) -> Any:
    """Convert a word of the command line to the type `hint`: to text only where nothing else fits."""
    try:
        value = load_yaml(word)
    except (ValueError, RecursionError):
        value = str(word)
    if hint is Any or not isinstance(value, str):
        with suppress(*MISFIT):
            return _typed(value, hint)
    return _typed(str(word), hint)


def _typed(value: Any, hint: Any) -> Any:
    """Convert a value to the type `hint`. Raises one of MISFIT where it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _first(value, arguments)
    if origin is Literal:
        return _one_of(value, arguments)
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and type(value) is float and value.is_integer():  # 1e3
        return int(value)
    plain = origin or hint
    if plain is Path and isinstance(value, str):
        return Path(value)
    if plain not in NAMES:  # Any, and other types, which the user's class must check
        return value
    if plain is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not plain:
        raise TypeError
    if plain is dict and arguments:
        return {_typed(key, arguments[0]): _typed(item, arguments[1]) for key, item in value.items()}
    if plain is list and arguments:
        return [_typed(item, arguments[0]) for item in value]
    if plain is tuple and arguments:
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_typed(item, kind) for item, kind in zip(value, kinds, strict=True))
    return value


def _first(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in hints:
        with suppress(*MISFIT):
            return _typed(value, hint)
    raise TypeError


def _one_of(value: Any, choices: tuple[Any, ...]) -> Any:
    if type(value) is bool:  # YAML reads the words on and off as truth values
        value = "on" if value else "off"
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise TypeError


def _wanted(hint: Any) -> str:
    """Describe a type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple and arguments[-1] is not ...:
        return f"a list of {len(arguments)}: " + ", ".join(_wanted(argument) for argument in arguments)
    if origin in (tuple, list):
        return "a list, each item " + _wanted(arguments[0])
    return NAMES.get(origin or hint, getattr(hint, "__name__", str(hint)))
