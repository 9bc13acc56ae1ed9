"""YAML as configurations and sweeps use it: one document of plain values, every key once, nothing that stands for more."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
LONGEST, DEEPEST = 50_000, 50
"""Characters, and mappings and lists within one another. A configuration has a thousand and four; with what a file can hold
a parser would be busy for minutes."""


def load_yaml(text: str, text_keys: bool = False) -> Any:
    """The content of a YAML text; with `text_keys` every key is text, as it was written. Raises ValueError."""
    return copy.deepcopy(_loaded(text, text_keys))


@lru_cache(16)  # a file is asked for its configuration by several
def _loaded(text: str, text_keys: bool) -> Any:
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters; at most {LONGEST:,} can be a configuration")
    try:
        return yaml.load(text, _TextKeys if text_keys else _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def dump_yaml(content: Any) -> str:
    """A text of which `load_yaml` gives the content again."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """What JSON has too, and what was meant. A few lines of aliases can stand for more than fits anywhere; of two values YAML
    would take the last, and be silent; it takes 1e-3, without a point, for text, 1:30.5 for a number, and 2026-01-01 for
    an object."""

    depth = 0
    yaml_constructors = dict(yaml.SafeLoader.yaml_constructors)  # noqa: RUF012  (as PyYAML has it)

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
    first: [(tag, pattern) for tag, pattern in known if tag not in (f"{_TAG}float", f"{_TAG}timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF))$"
        r"|\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
for _kind in ("binary", "omap", "pairs", "set", "timestamp"):  # what JSON, and so the command line, does not have
    del _Loader.yaml_constructors[_TAG + _kind]


class _TextKeys(_Loader):
    """A key is the text that was written: the label `on` is no truth value, and 1 and 1.0 are two labels."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    key.tag = f"{_TAG}str"
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would take for a number, and writes out what stands in two places."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True
