"""The one configuration of a job: its fields, their ranges, and how command line and YAML files become it.

`fields` says what there is, `layers` what holds where several say something, `values` what type it has; `command_line` is
what a user types. What a result file holds is read the same way, and imports nothing that is not trusted.
"""

from hpc_dmaml.config.command_line import parse, preset, presets, resume_source
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
from hpc_dmaml.config.layers import changes, from_yaml, own_parts, stored_in, to_yaml
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
