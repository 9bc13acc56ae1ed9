"""The part of YAML that configurations and sweeps use: one document of plain values, unique keys, no aliases."""

from __future__ import annotations

import copy
import math
import re
from functools import lru_cache
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
LONGEST, DEEPEST = 50_000, 50
"""Most characters, and the deepest nesting. A configuration has about a thousand, and four levels; a parser would take
minutes for as much as a file can hold."""


def load_yaml(text: str, text_keys: bool = False) -> Any:
    """Parse a YAML text; with `text_keys` every key is text, as it was written. Raises ValueError."""
    return copy.deepcopy(_loaded(text, text_keys))


@lru_cache(16)  # several callers read the configuration of the same file
def _loaded(text: str, text_keys: bool) -> Any:
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters; at most {LONGEST:,} can be a configuration")
    try:
        return yaml.load(text, _TextKeys if text_keys else _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def dump_yaml(content: Any) -> str:
    """Content as a text that `load_yaml` reads back."""
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    if re.search("[\x85\u2028\u2029]", text):  # which are ends of lines in YAML
        text = yaml.dump(content, Dumper=_Dumper, sort_keys=False)
    return text


def flow_yaml(content: Any) -> str:
    """The same on one line, in ASCII and with its keys in order."""
    text = yaml.dump(content, Dumper=_Dumper, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").rstrip("\n")


class _Loader(yaml.SafeLoader):
    """Accepts only what JSON has too, and avoids surprises of YAML: a few lines of aliases can expand beyond all
    memory; of two values for a key the last silently wins; 1e-3, without a point, would be text, 1:30 a number, 010 an
    eight, and 2026-01-01 an object."""

    depth = 0
    yaml_constructors = dict(yaml.SafeLoader.yaml_constructors)  # noqa: RUF012  (as PyYAML has it)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases (*name) are not allowed")
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

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(str(self.construct_scalar(node)).replace("_", ""))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in (f"{_TAG}int", f"{_TAG}float", f"{_TAG}timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"[-+]?\d[\d_]*$"), list("-+0123456789"))
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF))$"
        r"|\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
for _kind in ("binary", "omap", "pairs", "set", "timestamp"):  # types that JSON, and so the command line, does not have
    del _Loader.yaml_constructors[_TAG + _kind]


class _TextKeys(_Loader):
    """Keeps keys as the text that was written: the label `on` is not a truth value, and 1 and 1.0 are two labels."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    key.tag = f"{_TAG}str"
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader would take for a number, and repeats an object instead of writing an alias."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        """Plain values side by side: a line each would be much longer."""
        return self.represent_sequence(f"{_TAG}seq", data, flow_style=not any(isinstance(v, dict | list) for v in data))


_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(tuple, _Dumper.represent_list)
