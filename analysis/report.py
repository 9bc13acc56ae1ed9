"""The command `hpc_dmaml report`, from a clone and without installation: see hpc_dmaml/analysis/report.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from hpc_dmaml.analysis.report import main

if __name__ == "__main__":
    sys.exit(main())
