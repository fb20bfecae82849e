"""Puts what tests, tools and benchmarks share (tools/common), and what examples share, on the path of modules: import
this first."""

import sys
from pathlib import Path

for folder in ("examples", "tools/common"):
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))
