"""Promise 6, light: import time, what is imported, size; and that versions agree."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import fusedrnn
from fusedrnn.cells.families import FAMILIES


def run(code: str, *args: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True).stdout


def test_import_costs_at_most_10_ms_beyond_numpy() -> None:
    """Of this process, so that a busy machine changes little."""
    code = "import time, numpy; t = time.process_time(); import fusedrnn; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(5)) < 0.010


def loaded_by(code: str) -> set[str]:
    """Modules of the package."""
    return {name for name in run(f"import sys; {code}; print(*sys.modules)").split() if name.startswith("fusedrnn.")}


def test_modules_load_when_they_are_touched() -> None:
    first = loaded_by("import fusedrnn")
    assert first == {"fusedrnn._version", "fusedrnn._core", "fusedrnn.config"}
    assert loaded_by("import fusedrnn; fusedrnn.cuda.status()") == first | {"fusedrnn.cuda"}
    for code in ("import fusedrnn; fusedrnn.gru", "from fusedrnn import GRU"):
        assert {name for name in loaded_by(code) if name.startswith("fusedrnn.cells.")} == {
            f"fusedrnn.cells.{name}" for name in ("activations", "gru", "results", "spec")
        }
    for name in ("convert", "reference"):
        for code in (f"import fusedrnn; fusedrnn.{name}", f"from fusedrnn import {name}", f"import fusedrnn.{name}"):
            assert f"fusedrnn.{name}" in loaded_by(code)


def test_the_table_of_names_is_that_of_the_modules() -> None:
    for module, names in fusedrnn._NAMES.items():
        found = getattr(import_module(module, "fusedrnn"), "__all__", None)
        assert found is None or names.split() == sorted(found) == found, module
    every = {name for family in FAMILIES for name in family.__all__}
    assert every <= fusedrnn._HOMES.keys() <= set(fusedrnn.__all__) <= set(dir(fusedrnn))


def test_names_are_there_before_anything_is_loaded() -> None:
    code = "import fusedrnn; names = dir(fusedrnn); assert 'fusedrnn.call' not in sys.modules; print(*names)"
    before = run(f"import sys; {code}").split()
    assert set(fusedrnn.__all__) <= set(before)
    stars = run("from fusedrnn import *; print(*globals())").split()
    assert set(fusedrnn.__all__) <= set(stars)
    for code, error in (("fusedrnn.lstn", AttributeError), ("from fusedrnn import lstn", ImportError)):
        with pytest.raises(error, match="lstn"):
            exec(code)


def test_pickles_of_a_process_that_loaded_one_cell_load_in_one_that_loaded_none() -> None:
    code = """
import pickle, sys, numpy as np, fusedrnn
w = fusedrnn.ClockworkRNNWeights(np.ones((2, 1)), np.triu(np.ones((2, 2))), periods=(1, 2))
out = fusedrnn.clockwork_rnn(np.ones((3, 1, 1)), w)
print(pickle.dumps((w, w.spec, out)).hex())
"""
    again = """
import pickle, sys
w, spec, out = pickle.loads(bytes.fromhex(sys.argv[1]))
import fusedrnn, numpy as np
assert w.spec is spec
assert (fusedrnn.clockwork_rnn(np.ones((3, 1, 1)), w).y == out.y).all()
print(type(w) is fusedrnn.ClockworkRNNWeights)
"""
    assert run(again, run(code).strip()) == "True\n"


def test_nothing_heavy_is_imported() -> None:
    loaded = run("import sys, fusedrnn; print(*sys.modules)").split()
    for name in ("torch", "onnx", "onnxruntime", "scipy", "hypothesis", "pytest", "cupy", "jax"):
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
