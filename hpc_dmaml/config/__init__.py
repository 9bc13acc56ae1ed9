"""A job's configuration: its fields, their ranges, and how it is built from a command line and YAML files.

`fields` defines the fields, `layers` which source takes precedence, `values` the types, `command_line` the options. The
configuration in a result file is read the same way, and imports nothing that is not trusted.
"""

from hpc_dmaml.config.command_line import check_goes_on, parse, preset, presets, resume_source
from hpc_dmaml.config.fields import (
    DECIDED,
    MAY_CHANGE,
    REPEATS,
    STRATEGIES,
    Checkpoint,
    Heterogeneity,
    RunConfig,
    Validation,
)
from hpc_dmaml.config.layers import changes, check_storable, contradictions, from_yaml, own_parts, stored_in, to_yaml
from hpc_dmaml.plain_yaml import load_yaml
from hpc_dmaml.requirements import positive, require

__all__ = [
    "DECIDED",
    "MAY_CHANGE",
    "REPEATS",
    "STRATEGIES",
    "Checkpoint",
    "Heterogeneity",
    "RunConfig",
    "Validation",
    "changes",
    "check_goes_on",
    "check_storable",
    "contradictions",
    "from_yaml",
    "load_yaml",
    "own_parts",
    "parse",
    "positive",
    "preset",
    "presets",
    "require",
    "resume_source",
    "stored_in",
    "to_yaml",
]
