"""Python processes for tests of what could end or stop one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def child(code: str, **environment: str) -> str:
    """What a Python process prints that runs `code`; it must exit with 0, in time, and complain of nothing."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        # With no threads of NumPy's, which would get signals and hold locks too.
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OPENBLAS_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.strip()
