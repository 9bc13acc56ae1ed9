"""The analysis's scripts import their neighbours plainly, as when they are started from the command line."""

import sys
from pathlib import Path

ANALYSIS = Path(__file__).parents[2] / "analysis"
if str(ANALYSIS) not in sys.path:
    sys.path.append(str(ANALYSIS))
