"""Where threads come from: the pool, or the OpenMP runtime of the host program. In processes of their own, as a runtime
stays loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fusedrnn

COMMON = Path(__file__).parents[1] / "tools" / "common"
REGION = """
#include <omp.h>
void in_region(void (*call)(void)) {
  #pragma omp parallel num_threads(2)
  if (omp_get_thread_num() == 0) call();
}
"""
PREAMBLE = f"""
import ctypes, os, sys
sys.path.insert(0, {str(COMMON)!r})
import numpy as np
import fusedrnn
from by_address import ByAddress
from fusedrnn import _core

layer = fusedrnn.LSTM(64, 256, 2, rng=0)
x = np.random.default_rng(0).standard_normal((20, 8, 64)).astype("float32")
states = [np.zeros((2, 8, 256), "float32")] * 2
calls = ByAddress(layer)
fusedrnn.set_num_threads(2)
_core.set_schedule("units")

def front_end():
    out, tape = calls.forward(x, states)
    g = calls.backward(tape, out[0])
    return b"".join(a.tobytes() for a in (*out, g["dx"]))

def numpy_call():
    return layer(x).y.tobytes()

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
"""


def run(code: str, **environment: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1", **environment}
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Code that loads a library with a parallel region, and so its runtime: `region.in_region(call)`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    folder = tmp_path_factory.mktemp("openmp")
    (folder / "region.c").write_text(REGION)
    command = [str(compiler), "-shared", "-fPIC", "-fopenmp", "-o", str(folder / "region.so"), str(folder / "region.c")]
    if compiler is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no compiler with OpenMP")
    return f"region = ctypes.CDLL({str(folder / 'region.so')!r}); call = ctypes.CFUNCTYPE(None)\n"


def test_without_a_runtime() -> None:
    """All sources are the pool."""
    code = """
assert _core.openmp_file() == b""
want = front_end()
pool = threads()
assert pool == before + 1, (before, pool)
for source in ("pool", "openmp", "auto"):
    fusedrnn.set_thread_source(source)
    assert fusedrnn.get_thread_source() == source
    assert front_end() == want
assert threads() == pool
"""
    assert run(code) == ""


def test_front_ends_take_the_threads_of_the_host(region: str) -> None:
    """And NumPy the pool's; the runtime may have been loaded after the first call."""
    code = f"""
fusedrnn.set_thread_source("auto")
want = front_end()
assert threads() == before + 1  # of the pool
{region}
assert b"libgomp" in _core.openmp_file()
loaded = threads()
assert front_end() == want
assert threads() == loaded + 1  # of the runtime
numbers = threads()
numpy_call()
fusedrnn.set_thread_source("openmp")
numpy_call()
assert threads() == numbers
"""
    assert run(code) == ""


def test_numpy_takes_the_pool(region: str) -> None:
    code = f"""
{region}
numpy_call()
with_pool = threads()
assert with_pool == before + 1
front_end()
assert threads() == with_pool + 1
fusedrnn.set_thread_source("pool")
front_end()
"""
    assert run(code) == ""


def test_a_call_in_a_region_has_one_thread(region: str) -> None:
    code = f"""
{region}
want = []
def in_region():
    want.append(front_end())
    want.append(threads())
region.in_region(call(in_region))
inside, count = want
assert count == before + 1, (count, before)  # the region's other thread
assert front_end() == inside
"""
    assert run(code) == ""


def test_fewer_threads_than_were_asked_for(region: str) -> None:
    code = f"""
{region}
limited = front_end()
assert threads() == before
fusedrnn.set_thread_source("pool")
assert front_end() == limited
"""
    assert run(code, OMP_THREAD_LIMIT="1") == ""


def test_packing_on_fewer_threads(region: str) -> None:
    """Of weights that are large enough to be packed by several."""
    code = f"""
w = fusedrnn.LSTMWeights(*(np.full(shape, 0.01, "float32") for shape in ((2400, 300), (2400, 600))))
same = fusedrnn.LSTMWeights(*(w.arrays()[name] for name in ("weight_ih", "weight_hh")))
one = np.ones((2, 3, 300), "float32")
fusedrnn.set_thread_source("pool")
want = fusedrnn.lstm(one, w).y
{region}
fusedrnn.set_thread_source("openmp")
assert fusedrnn.lstm(one, same).y.tobytes() == want.tobytes()
"""
    assert run(code, OMP_THREAD_LIMIT="1") == ""


def test_the_child_of_a_fork_takes_the_pool(region: str) -> None:
    code = f"""
{region}
want = front_end()
pid = os.fork()
if pid == 0:
    before_call = threads()
    same = front_end() == want and threads() == before_call + 1
    os._exit(0 if same else 1)
assert os.waitpid(pid, 0)[1] == 0
assert front_end() == want
"""
    assert run(code) == ""


@pytest.mark.parametrize("source", ["pool", "openmp"])
def test_beside_pytorch(source: str) -> None:
    pytest.importorskip("torch")
    code = f"""
import torch
torch.set_num_threads(2)
fusedrnn.set_thread_source({source!r})
a = torch.ones(300, 300)
want = front_end()
for _ in range(20):
    a @ a
    assert front_end() == want
assert b"gomp" in _core.openmp_file() or b"omp" in _core.openmp_file()
fusedrnn.show_config()
"""
    assert f"threads from: {source} (OpenMP runtime: /" in run(code)


def test_the_source_that_the_environment_names() -> None:
    assert run("print(fusedrnn.get_thread_source())", FUSEDRNN_THREAD_SOURCE="openmp") == "openmp"
    code = """
try:
    fusedrnn.get_thread_source()
except ValueError as e:
    print(e)
"""
    text = "FUSEDRNN_THREAD_SOURCE: expected one of 'auto', 'pool', 'openmp', got 'none'"
    assert run(code, FUSEDRNN_THREAD_SOURCE="none") == text


def test_wrong_sources() -> None:
    with pytest.raises(ValueError, match="source: expected one of 'auto', 'pool', 'openmp', got 'gomp'"):
        fusedrnn.set_thread_source("gomp")
    with pytest.raises(TypeError, match="source: expected str, got int"):
        fusedrnn.set_thread_source(1)  # type: ignore[arg-type]
    assert fusedrnn.get_thread_source() in ("auto", "pool", "openmp")


@pytest.mark.parametrize("first", ["threadpoolctl", "fusedrnn"])
def test_threadpoolctl(first: str) -> None:
    """Sees the pool and limits it."""
    pytest.importorskip("threadpoolctl")
    imports = {"threadpoolctl": "import threadpoolctl, fusedrnn", "fusedrnn": "import fusedrnn, fusedrnn.threadpools"}
    code = f"""
{imports[first]}
import threadpoolctl
fusedrnn.set_num_threads(3)
info = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "fusedrnn"]
assert len(info) == 1, info
assert info[0]["num_threads"] == 3 and info[0]["version"] == fusedrnn.__version__ and info[0]["thread_source"] == "auto"
with threadpoolctl.threadpool_limits(limits=1, user_api="fusedrnn"):
    assert fusedrnn.get_num_threads() == 1
with threadpoolctl.threadpool_limits(limits=2):
    assert fusedrnn.get_num_threads() == 2
assert fusedrnn.get_num_threads() == 3
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
