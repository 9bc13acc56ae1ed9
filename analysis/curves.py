"""The command `hpc_dmaml curves`, from a clone and without installation: see hpc_dmaml/analysis/curves.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from hpc_dmaml.analysis.curves import main
from hpc_dmaml.analysis.stats import smoothed as moving_average  # noqa: F401  (by the name that it had here)

if __name__ == "__main__":
    sys.exit(main())
