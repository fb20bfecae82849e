"""Tests the installed fusedrnn, as it comes out of a wheel: each cell forward and backward against the reference
(tests/test_minimal.py), the programs of README as far as they need NumPy alone, and a part of the record of bits.

    pip install "$(echo fusedrnn-*.whl)[check]"
    python tools/check_wheel.py

The options of the checkout, which need more packages, and its settings of the environment are left out.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    for name in [name for name in os.environ if name.startswith("FUSEDRNN_")]:
        del os.environ[name]
    import fusedrnn

    fusedrnn.show_config()
    if ROOT in Path(fusedrnn.__file__).resolve().parents:
        sys.exit(f"expected an installed package, got {fusedrnn.__file__}")
    common = ROOT / "tools" / "common"
    options = ["-q", "-c", os.devnull, f"--rootdir={ROOT}", "--import-mode=importlib", "-p", "no:cacheprovider"]
    options += ["-o", f"pythonpath={shlex.quote(common.as_posix())}", "-o", "markers=quick: the first check"]
    options += ["-rs"]  # README's last program needs PyTorch
    tests = ROOT / "tests"
    failed = pytest.main([*options, str(tests / "test_minimal.py"), f"{tests / 'test_docs.py'}::test_blocks[README]"])
    if failed:
        sys.exit(int(failed))
    sys.exit(subprocess.run([sys.executable, str(ROOT / "tools" / "bits.py"), "--quick"]).returncode)


if __name__ == "__main__":
    main()
