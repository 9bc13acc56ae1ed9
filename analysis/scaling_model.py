"""The calculator of benchmarks/scaling_model.py."""

import runpy
import sys
from pathlib import Path

root = Path(__file__).parents[1]
sys.path.insert(0, str(root))

if __name__ == "__main__":
    runpy.run_path(str(root / "benchmarks" / "scaling_model.py"), run_name="__main__")
