"""Sources of values as layers, each overriding those before: defaults, a resumed file, YAML files, the command line.

A layer is a flat mapping: values by their names on the command line ("optimizer.lr"), classes by their part's ("task").
A layer that changes a part's class drops the values that lower layers give to the part's fields, unless the new class
is derived from the lower one, as ANIL from MAML, and so has its fields. Where lower layers name no class, the part's
default is the lower one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, get_args, get_origin

from yaml import YAMLError

from hpc_dmaml import results
from hpc_dmaml.config.fields import DECIDED, MAY_CHANGE, STRATEGIES, RunConfig
from hpc_dmaml.config.values import Word, hints, make, shown, typed
from hpc_dmaml.importing import Trusted, allow, did_you_mean, find, is_own, path_of
from hpc_dmaml.old_names import OLD_GROUP, modernised
from hpc_dmaml.plain_yaml import dump_yaml, load_yaml

Layer = dict[str, Any]

TYPES = hints(RunConfig)
PARTS = {name: base for name, hint in TYPES.items() for base in STRATEGIES if base in (hint, *get_args(hint))}
"""The fields whose value is an instance of a strategy's class, with the strategies' base classes; some may be None."""
GROUPS = {name: hint for name, hint in TYPES.items() if is_dataclass(hint)}
_DEFAULT = RunConfig()
DEFAULTS: Layer = {name: None if (part := getattr(_DEFAULT, name)) is None else type(part) for name in PARTS}


def layer(content: Mapping[str, Any], trusted: Trusted = lambda path: True) -> Layer:
    """Flatten nested content, as read from a YAML file, to a layer. Raises ValueError.

    A file may give a field once, dotted or nested; on the command line, the last of two values counts.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"it must be a mapping of fields and values, not {shown(content)}")
    flat: Layer = {}
    content = {name: typed(name, value, Any) if name == OLD_GROUP else value for name, value in content.items()}
    for name, value in modernised(content).items():
        if not isinstance(name, str):
            raise ValueError(f"{shown(name)} is not the name of a field")
        if name in PARTS:
            below = _part(name, value, trusted)
        elif name in GROUPS:
            below = _below(name, value)
        else:
            below = {name: value}
        for twice in flat.keys() & below.keys():
            if not isinstance(value, Word):
                raise ValueError(f"{twice} is there twice, dotted and nested: give it once")
        flat |= below
    for name in _import_fields(flat):
        if isinstance(path := flat.get(name), str) and not path.startswith("torch.nn."):  # looked up, not imported
            allow(name, path, trusted)
    return flat


def _part(name: str, value: Any, trusted: Trusted) -> Layer:
    """The layer of a part, given as a class, as class_path and init_args, or as a mapping of some of its fields."""
    value = typed(name, value, Any)
    if value is None and DEFAULTS[name] is None:
        return {name: None}
    if not isinstance(value, Mapping):
        value = {"class_path": value}
    own = {"class_path", "init_args"} & value.keys()
    if not own:
        return _below(name, value)
    if len(own) < len(value):
        raise ValueError(f"{name} must have class_path and init_args alone, not {shown(list(value))}")
    chosen = {name: find(name, PARTS[name], value["class_path"], trusted)} if "class_path" in value else {}
    return chosen | _below(name, value.get("init_args") or {})


def _below(name: str, value: Any) -> Layer:
    """The layer of the fields of a group."""
    value = typed(name, value, Any)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping of its fields, not {shown(value)}")
    return {f"{name}.{below}": item for below, item in value.items()}


def over(lower: Layer, upper: Layer) -> Layer:
    """Merge two layers; `upper` takes precedence."""
    result = dict(lower)
    for name in sorted(upper, key=_depth):
        if not _is_kind_of(upper[name], result.get(name, DEFAULTS.get(name, ...))):
            result = {other: value for other, value in result.items() if not other.startswith(f"{name}.")}
        result[name] = upper[name]
    return result


def _is_kind_of(value: Any, other: Any) -> bool:
    """Whether `value` equals `other`, or is a class derived from it, and so has its fields."""
    return bool(value == other) or (isinstance(value, type) and isinstance(other, type) and issubclass(value, other))


def _depth(name: str) -> int:
    return name.count(".")


def build(flat: Layer) -> RunConfig:
    """Build the configuration from a layer, with defaults for all other fields. Raises ValueError."""
    values, kinds = checked(flat)
    made = {
        name: make(kind, name, {f: values.pop(f"{name}.{f}") for f in hints(kind) if f"{name}.{f}" in values})
        for name, kind in kinds.items()
    }
    return make(RunConfig, "", {**values, **made})


def checked(flat: Layer) -> tuple[dict[str, Any], dict[str, type[Any]]]:
    """A layer's values, converted to their fields' types, and the classes of groups and parts. Raises ValueError."""
    flat = over(DEFAULTS, flat)
    kinds = GROUPS | {name: flat.pop(name) for name in PARTS if flat.get(name) is not None}
    types = {name: hint for name, hint in TYPES.items() if name not in kinds}
    types |= {f"{name}.{field}": hint for name, kind in kinds.items() for field, hint in hints(kind).items()}
    values: dict[str, Any] = {}
    for name in sorted(flat, key=_depth):
        mapping = next((other for other in types if name.startswith(f"{other}.") and _holds_items(types[other])), None)
        if name in types:
            values[name] = typed(name, flat[name], types[name])
        elif mapping is not None:
            *parents, last = name.removeprefix(f"{mapping}.").split(".")
            inner = values[mapping] = dict(values.get(mapping) or {})
            for parent in parents:
                inner[parent] = inner = dict(inner.get(parent) or {})
            inner[last] = typed(name, flat[name], Any)
        else:
            raise ValueError(_unknown(name, flat[name], kinds, types))
    return values, kinds


def _holds_items(hint: Any) -> bool:
    return hint is Any or (get_origin(hint) or hint) is dict


def _unknown(name: str, given: Any, kinds: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    part, _, field = name.partition(".")
    dashes = "--" * isinstance(given, Word)
    if field and part in PARTS and part not in kinds:
        return f"{part} is null, so it has no field {shown(field)}: give its class too"
    if field and part in PARTS:
        known = [other for other in types if other.startswith(f"{part}.")]
        return f"{part}: {kinds[part].__name__} has no field {shown(field)}" + did_you_mean(name, known, dashes)
    what = f"option --{name[:80]}" if dashes else f"field {shown(name)}"
    return f"there is no {what}" + did_you_mean(name, [*types, *PARTS], dashes)


def changes(one: RunConfig, other: RunConfig) -> list[str]:
    """Names of the fields in which two configurations differ; a part whose class differs is listed as one field."""
    left, right = layer(plain(one)), layer(plain(other))
    parts = {name for name in PARTS if left[name] != right[name]}
    return [
        name
        for name in left
        if name in parts or (name in right and not _same(left[name], right[name]) and _top(name) not in parts)
    ]


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are the same in a file, where NaN is NaN and a tuple is a list."""
    return bool(one == other) or (not isinstance(one, type) and dump_yaml(one) == dump_yaml(other))


def contradictions(stored: RunConfig, config: RunConfig) -> list[str]:
    """Names of the fields in which a job may not go on with another configuration than it was started with."""
    wanted = layer(plain(config))
    return [
        name
        for name in changes(stored, config)
        if _top(name) not in MAY_CHANGE | {"output", "resume"} and wanted[name] != DECIDED.get(name, ...)
    ]


def decided(stored: RunConfig, config: RunConfig) -> RunConfig:
    """A configuration with the decisions of set-up that are stored in a file, where it leaves them to set-up."""
    before, flat = layer(plain(stored)), layer(plain(config))
    return build(
        flat | {name: before[name] for name, v in DECIDED.items() if name in before and flat.get(name, ...) == v}
    )


def _top(name: str) -> str:
    return name.partition(".")[0]


def imports(flat: Layer) -> set[str]:
    """The import paths in a layer that lie outside this package: those of the user's own parts."""
    flat = over(DEFAULTS, flat)
    paths = {path_of(flat[name]) for name in PARTS if flat[name] is not None and not is_own(flat[name])}
    return paths | {str(path) for name in _import_fields(flat) if (path := flat.get(name)) is not None}


def own_parts(config: RunConfig) -> list[str]:
    """The import paths of the user's own parts in a configuration, without torch.nn's."""
    return sorted(path for path in imports(layer(plain(config))) if not path.startswith("torch.nn."))


def _import_fields(flat: Layer) -> list[str]:
    """Names of the fields of the chosen classes that hold import paths."""
    return [f"{name}.{field}" for name in PARTS for field in getattr(flat.get(name, DEFAULTS[name]), "imports", ())]


def from_yaml(text: str, trusted: Trusted = lambda path: True) -> RunConfig:
    """Read a configuration that `to_yaml` wrote. Raises ValueError, also for an import that is not trusted."""
    try:
        return build(layer(load_yaml(text), trusted))
    except ValueError as error:
        raise ValueError(f"not a configuration: {error}") from error


def stored_in(source: results.Results, trusted: Trusted) -> RunConfig:
    """The configuration of the job that wrote a file. Raises ValueError, naming the file, also if arrays disagree."""
    try:
        config = from_yaml(source.attribute("config"), trusted)
        seen = (config.workers or 0) * config.epochs * config.tasks
        wanted = {
            "checkpoint/memory": ("workers", lambda a: a.shape[1] == config.workers),
            "validation/step": ("validation.steps", lambda a: len(a) == config.validation.steps + 1),
            "validation/task": ("validation.tasks", lambda a: len(a) == config.validation.tasks),
            "runs/seen_tasks": ("tasks", lambda a: len(a) == 0 or int(a[-1]) == seen * len(a)),
        }
        for name, (field, agrees) in wanted.items():
            if name in source.arrays and not agrees(source[name]):
                raise ValueError(f"{name} is not what {field} of the configuration says")
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error
    return config


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, which `from_yaml` and `--config` read."""
    return dump_yaml(plain(config))


def check_storable(config: RunConfig) -> None:
    """Raise ValueError unless a file can store the configuration."""
    try:
        load_yaml(to_yaml(config))
    except (ValueError, YAMLError) as error:
        raise ValueError(f"a file could not store this configuration: {error}") from error


def nested(flat: Layer) -> dict[str, Any]:
    """The nested content of a layer: the inverse of `layer`."""
    content: dict[str, Any] = {}
    for name, value in flat.items():
        group, _, field = name.partition(".")
        if name in PARTS and value is not None:
            content.setdefault(name, {})["class_path"] = path_of(value)
        elif name in PARTS:
            content[name] = None
        elif group in PARTS:
            content.setdefault(group, {}).setdefault("init_args", {})[field] = value
        elif group in GROUPS:
            content.setdefault(group, {})[field] = value
        else:
            content[name] = value
    return content


def plain(value: Any) -> Any:
    """Convert dataclasses to dictionaries, and strategies to their class_path and init_args."""
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if not is_dataclass(value):
        return str(value) if isinstance(value, PurePath) else value
    content = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if not isinstance(value, STRATEGIES):
        return content
    return {"class_path": path_of(type(value)), "init_args": content}
