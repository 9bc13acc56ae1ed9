"""A YAML file as a mapping of what JSON has too: what else YAML would make of plain words is kept from happening."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hpc_dmaml.config import check_yaml

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Values as in configuration files: 1e-3 is a number, also without a point, a date is text, and so is what has
    quotes. A key is the text that was written: the label `on` is no truth value, and 1 and 1.0 are two labels."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (as PyYAML has it)
        first: [(tag, pattern) for tag, pattern in known if tag not in (f"{_TAG}float", f"{_TAG}timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    yaml_constructors = dict(yaml.SafeLoader.yaml_constructors)  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    key.tag = f"{_TAG}str"
        return super().construct_mapping(node, deep)


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


def read(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ValueError, which calls the file a `what`, for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
        check_yaml(text)
        content = yaml.load(text, _Loader)
    except FileNotFoundError as error:
        raise ValueError(f"there is no {what} {path}") from error
    except (OSError, ValueError, LookupError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a readable {what}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a {what} is a mapping, not {type(content).__name__}")
    return content
