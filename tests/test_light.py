"""Promise 6, light: import time, what is imported, size; and that versions agree."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import fusedrnn


def run(code: str, *args: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True).stdout


def test_import_costs_at_most_50_ms_beyond_numpy() -> None:
    """Of this process, so that a busy machine changes little."""
    code = "import time, numpy; t = time.process_time(); import fusedrnn; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(5)) < 0.050


def test_nothing_heavy_is_imported() -> None:
    loaded = run("import sys, fusedrnn; print(*sys.modules)").split()
    for name in ("torch", "onnx", "onnxruntime", "scipy", "hypothesis", "pytest", "cupy"):
        assert name not in loaded


def test_the_extension_needs_no_library_beyond_the_systems() -> None:
    core = next(Path(fusedrnn.__file__).parent.glob("_core*.so"))
    needed = set(re.findall(rb"lib[a-z0-9_+-]+\.so\.\d+", core.read_bytes()))
    assert needed <= {
        b"libstdc++.so.6",
        b"libgcc_s.so.1",
        b"libc.so.6",
        b"libm.so.6",
        b"libpthread.so.0",
        b"libcuda.so.1",
    }


def test_the_installed_version_is_this_one() -> None:
    assert version("fusedrnn") == fusedrnn.__version__


def test_public_names_have_docstrings() -> None:
    for name in fusedrnn.__all__:
        if name != "__version__":
            assert getattr(fusedrnn, name).__doc__, name


def test_docstrings_say_what_a_length_does() -> None:
    for name in fusedrnn.__all__:
        if name.endswith(("_forward", "Output")) or f"{name}_forward" in fusedrnn.__all__:
            text = " ".join((getattr(fusedrnn, name).__doc__ or "").split())
            assert "zero past a row's length" in text, name
            assert "after the row's last step" in text, name


def test_the_reference_has_the_same_names_and_signatures() -> None:
    import inspect

    for name in fusedrnn.reference.__all__:
        mine, theirs = (
            list(inspect.signature(getattr(m, name)).parameters.values()) for m in (fusedrnn, fusedrnn.reference)
        )
        assert [(p.name, p.kind, p.default) for p in mine] == [(p.name, p.kind, p.default) for p in theirs], name


def test_show_config_prints() -> None:
    out = run("import fusedrnn; fusedrnn.show_config()")
    assert f"fusedrnn {fusedrnn.__version__}" in out
    assert "threads" in out


def test_inference_needs_no_memory_that_grows_with_the_sequence() -> None:
    """What one call adds to the peak, beyond y. Pre-activations of all 3000 steps would be 98 MB."""
    code = """
import numpy as np, fusedrnn, sys
T, B, H = int(sys.argv[1]), 16, 128
w = fusedrnn.LSTMWeights(np.zeros((4 * H, H), "f4"), np.zeros((4 * H, H), "f4"))
x = np.zeros((T, B, H), "f4")
fusedrnn.lstm(x[:1], w)
def kib(name):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(name))
open("/proc/self/clear_refs", "w").write("5")
before = kib("VmRSS")
y = fusedrnn.lstm(x, w).y
print(kib("VmHWM") * 1024 - before * 1024 - y.nbytes)
"""
    added = [int(run(code, str(T))) for T in (100, 3000)]
    assert max(added) < 6 << 20  # two chunks of half a MiB, x's first touch of the reading, huge pages' rounding
