"""The documentation's settings for Sphinx. Nothing is fetched: no inventories of other projects, no fonts.

The tables of the file format and of the presets are made from the package, so that they cannot go stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import hpc_dmaml
from hpc_dmaml import results, validity
from hpc_dmaml.config import preset, presets

project, author, release = "hpc_dmaml", "the hpc_dmaml developers", hpc_dmaml.__version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "hpc_dmaml"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {"source_edit_link": None}
html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
suppress_warnings = ["toc.empty_glob"]  # pages that a branch may not have yet

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
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
        ("array", "shape"), ((f"`/{name}`", shape(dimensions)) for name, dimensions in validity.STATE.items())
    ),
    "attributes": table(
        ("attribute", "type"), ((f"`{name}`", kind.__name__) for name, kind in validity.ATTRIBUTES.items())
    ),
    "schema": str(results.SCHEMA),
    "statuses": ", ".join(f"`{status}`" for status in results.STATUSES),
    "presets": ", ".join(f"`{name}`" for name in sorted(presets())),
}
