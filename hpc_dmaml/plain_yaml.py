"""YAML as configurations and sweeps use it: one document of plain values, every key once, nothing that stands for more."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import Any

import yaml

LONGEST, DEEPEST = 50_000, 50
"""Characters, and mappings and lists within one another. A configuration has a thousand and four; with what a file can hold
a parser would be busy for minutes."""


def load_yaml(text: str) -> Any:
    """The content of a YAML text. Raises ValueError."""
    return copy.deepcopy(_loaded(text))


@lru_cache(16)  # a file is asked for its configuration by several
def _loaded(text: str) -> Any:
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters; at most {LONGEST:,} can be a configuration")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def dump_yaml(content: Any) -> str:
    """A text of which `load_yaml` gives the content again."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def check_yaml(text: str) -> None:
    """Raise ValueError for what is no YAML, or has aliases or a key twice."""
    load_yaml(text)


class _Loader(yaml.SafeLoader):
    """A few lines of aliases can stand for more than fits anywhere; of two values YAML would take the last, and be silent;
    it takes 1e-3, without a point, for text, and 2026-01-01 for an object."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases (*name) have no place in it")
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in given:
                raise ValueError(f"{key.value} is there twice, again in line {key.start_mark.line + 1}")
            given.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would take for a number, and writes out what stands in two places."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True
