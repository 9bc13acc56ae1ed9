"""The documentation's settings for Sphinx. Nothing is fetched: no inventories of other projects, no fonts.

The tables of the file format are made from the package, so that they cannot go stale.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import hpc_dmaml
from hpc_dmaml import results, validity

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project, author, release = "hpc_dmaml", "the hpc_dmaml developers", hpc_dmaml.__version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "hpc_dmaml"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {"source_edit_link": None}
html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shape(dimensions: Sequence[str]) -> str:
    return f"({', '.join(dimensions)}{',' if len(dimensions) == 1 else ''})"


myst_substitutions = {
    "variables": table(
        ("array", "shape", "unit", "what it is"),
        (
            (f"`/{name}`", shape(each.dimensions), each.units or "the metric's", each.description)
            for name, each in results.VARIABLES.items()
        ),
    ),
    "state_arrays": table(
        ("array", "shape", "what it is"),
        ((f"`/{name}`", shape(each.dimensions), each.description) for name, each in validity.STATE.items()),
    ),
    "attributes": table(
        ("attribute", "type", "what it is"),
        ((f"`{name}`", each.kind.__name__, each.description) for name, each in validity.ATTRIBUTES.items()),
    ),
    "schema": str(results.SCHEMA),
    "statuses": ", ".join(f"`{status}`" for status in results.STATUSES),
}


def as_fields(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and a section Args: written as reStructuredText has these."""
    inside = False
    for number, line in enumerate(lines):
        parts = re.split(r"(`+[^`]+`+)", line)
        text = "".join(f"``{part.strip('`')}``" if part.startswith("`") else part.replace("*", r"\*") for part in parts)
        inside = line == "Args:" or (inside and not line[:1].strip())
        lines[number] = "" if line == "Args:" else re.sub(r"^    (\w+): ", r":param \1: ", text) if inside else text


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", as_fields)
