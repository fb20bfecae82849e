"""Puts what tests, tools and benchmarks share (tools/common) on the path of modules: import this first."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tools" / "common"))
