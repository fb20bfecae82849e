"""The CUDA loader against drivers that are missing, old, empty, or that refuse: every state has its sentence, and none
crashes. Each in a process of its own, as a process opens its driver once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fakegpu

COMMON = Path(fakegpu.__file__).parent
STATUS = "import fusedrnn; print(fusedrnn.cuda.is_available(), fusedrnn.cuda.status())"
# Weights of H = 40 take several blocks on the emulated GPU, which must then run at once.
RUN = """
import fakegpu, numpy as np, fusedrnn
from fusedrnn.backends import arrays
arrays.LIBRARIES["fakegpu"] = fakegpu.Library
def attempt():
    try:
        w = fusedrnn.LSTMWeights(*(fakegpu.asarray(np.ones(s, "float32")) for s in ((160, 3), (160, 40))))
        out = fusedrnn.lstm(fakegpu.asarray(np.ones((2, 9, 3), "float32")), w)
        print("ran", float(out.y.data[0, 0, 0]))
    except Exception as e:
        print(type(e).__name__, e)
"""


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kernels") / "kernels.fatbin"
    path.write_text("run by the emulator")
    return path


def run(code: str, driver: Path | str, kernels: Path | str, **settings: str) -> str:
    environment = {**os.environ, "FUSEDRNN_CUDA_DRIVER": str(driver), "FUSEDRNN_CUDA_KERNELS": str(kernels)}
    environment |= {
        "FUSEDRNN_CUDA_NVML": str(driver),
        "PYTHONPATH": str(COMMON),
        "FAKE_CUDA_SHARED": "12288",
    } | settings
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_build_without_kernels(driver: Path) -> None:
    assert run(STATUS, driver, "/nowhere/kernels.fatbin") == "False this build carries no CUDA kernels"


@pytest.mark.parametrize("path", ["/", "/dev/zero", "/dev/null"])
def test_kernels_that_are_no_file(path: str, driver: Path) -> None:
    assert run(STATUS, driver, path) == f"False the CUDA kernels cannot be read: {path} is no file"


def test_kernels_without_content(driver: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.fatbin"
    empty.touch()
    assert run(STATUS, driver, empty) == f"False the CUDA kernels cannot be read: {empty} is empty"


def test_paths_that_are_no_text(driver: Path) -> None:
    code = "import fusedrnn; print(fusedrnn.cuda.is_available(), ascii(fusedrnn.cuda.status()))"
    assert run(code, driver, "/nowhere/\udcff") == "False 'this build carries no CUDA kernels'"
    got = run(code, "lib\udcff.so", Path(__file__))
    assert got == "False 'no NVIDIA driver: lib\\\\xff.so cannot be loaded'"


def test_no_driver(kernels: Path) -> None:
    want = "False no NVIDIA driver: libcuda-of-nobody.so.1 cannot be loaded"
    assert run(STATUS, "libcuda-of-nobody.so.1", kernels) == want


def test_a_library_that_lacks_what_is_needed(kernels: Path, tmp_path: Path) -> None:
    ancient = fakegpu.build_driver(tmp_path, "-DFAKE_CUDA_ANCIENT", "-O0")
    want = f"False the NVIDIA driver is too old: {ancient} has no cuDriverGetVersion"
    assert run(STATUS, ancient, kernels) == want


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"FAKE_CUDA_VERSION": "11040"}, "the NVIDIA driver is too old: it has CUDA 11.4, expected 12.0 or later"),
        ({"FAKE_CUDA_DEVICES": "0"}, "the NVIDIA driver finds no GPU"),
        ({"FAKE_CUDA_FAIL": "cuDriverGetVersion:1"}, "the NVIDIA driver does not tell its version: CUresult 1"),
        ({"FAKE_CUDA_MAJOR": "7"}, "no GPU of sm_80 or later: found Emulated GPU (sm_70)"),
    ],
)
def test_states_before_any_kernel(driver: Path, kernels: Path, settings: dict[str, str], sentence: str) -> None:
    assert run(STATUS, driver, kernels, **settings) == f"False {sentence}"
    assert run(RUN + "attempt()", driver, kernels, **settings) == f"RuntimeError CUDA: {sentence}"


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        ("cuInit:100", "the NVIDIA driver finds no GPU"),
        ("cuInit:999", "the NVIDIA driver does not start: CUresult 999"),
        ("cuDeviceGetCount:3", "the NVIDIA driver does not list its GPUs: CUresult 3"),
    ],
)
def test_states_that_only_a_start_shows(driver: Path, kernels: Path, failure: str, sentence: str) -> None:
    code = RUN + STATUS + "; attempt(); print(fusedrnn.cuda.is_available(), fusedrnn.cuda.status()); attempt()"
    before, *after = run(code, driver, kernels, FAKE_CUDA_FAIL=failure).splitlines()
    assert before == "True ok: Emulated GPU (sm_90), driver for CUDA 13.0"
    assert after == [f"RuntimeError CUDA: {sentence}", f"False {sentence}", f"RuntimeError CUDA: {sentence}"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"FUSEDRNN_CUDA_NVML": "libnobody.so"}, "the GPUs cannot be listed: libnobody.so cannot be loaded"),
        ({"FUSEDRNN_CUDA_NVML": "libm.so.6"}, "the GPUs cannot be listed: libm.so.6 has no nvmlInit_v2"),
        ({"FAKE_CUDA_FAIL": "nvmlInit_v2:9"}, "the NVIDIA driver does not list its GPUs: NVML error 9, Fake"),
        ({"FAKE_CUDA_FAIL": "nvmlDeviceGetCount_v2:9"}, "the NVIDIA driver does not list its GPUs: NVML error 9, Fake"),
        ({"FAKE_CUDA_FAIL": "nvmlDeviceGetHandleByIndex_v2:4"}, "the NVIDIA driver finds no GPU"),
    ],
)
def test_gpus_that_are_not_listed(driver: Path, kernels: Path, settings: dict[str, str], sentence: str) -> None:
    """They are known once they have been used."""
    code = RUN + STATUS + "; attempt(); print(fusedrnn.cuda.status())"
    before, ran, after = run(code, driver, kernels, **settings).splitlines()
    assert before == f"False {sentence}"
    assert ran.startswith("ran 0.")
    assert after == "ok: Emulated GPU (sm_90), driver for CUDA 13.0"


@pytest.mark.parametrize(
    ("visible", "some"),
    [
        *(("", False), ("-1", False), ("none,0", False), ("1", False)),
        *(("0", True), ("0,-1", True), (" 0", True), ("GPU-8932f937", True), ("MIG-1", True)),
    ],
)
def test_gpus_that_are_hidden(driver: Path, kernels: Path, visible: str, some: bool) -> None:
    """Also by a process that does so after it has asked."""
    code = f"{STATUS}; import os; os.environ['CUDA_VISIBLE_DEVICES'] = {visible!r}; {STATUS}"
    before, after = run(code, driver, kernels).splitlines()
    assert before == "True ok: Emulated GPU (sm_90), driver for CUDA 13.0"
    assert after == (before if some else "False the NVIDIA driver finds no GPU")


def test_children_of_a_process_that_has_asked_can_use_the_gpu(driver: Path, kernels: Path) -> None:
    code = (
        RUN
        + STATUS
        + """
import ctypes, os, sys
fake = ctypes.CDLL(os.environ["FUSEDRNN_CUDA_DRIVER"])
print(fake.fake_cuda_initialised(), flush=True)
if os.fork() == 0: attempt(); print(fake.fake_cuda_initialised(), flush=True); os._exit(0)
os.wait(); attempt()
"""
    )
    status, before, child, after, parent = run(code, driver, kernels).splitlines()
    assert status.startswith("True ok")
    assert (before, after) == ("0", "1")
    assert child.startswith("ran 0.")
    assert parent == child


def test_all_is_well(driver: Path, kernels: Path) -> None:
    assert run(STATUS, driver, kernels) == "True ok: Emulated GPU (sm_90), driver for CUDA 13.0"
    assert run(RUN + "attempt()", driver, kernels).startswith("ran 0.")


def test_status_touches_no_gpu(driver: Path, kernels: Path) -> None:
    """CUDA does not start, and neither a context nor kernels are made, before something runs."""
    for call in ("cuInit", "cuDevicePrimaryCtxRetain", "cuModuleLoadData"):
        assert run(STATUS, driver, kernels, FAKE_CUDA_FAIL=f"{call}:1").startswith("True ok")


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (200, "INVALID_IMAGE"),  # a file of a newer nvcc than the driver
        (209, "NO_BINARY_FOR_GPU"),
        (218, "INVALID_PTX"),
        (222, "UNSUPPORTED_PTX_VERSION"),
        (300, "INVALID_SOURCE"),
    ],
)
def test_refused_kernels(driver: Path, kernels: Path, result: int, name: str) -> None:
    refused = "the kernels of this build do not fit Emulated GPU with a driver for CUDA 13.0: "
    sentence = f"{refused}CUDA_ERROR_{name}"
    code = RUN + "attempt(); print(fusedrnn.cuda.is_available(), fusedrnn.cuda.status()); attempt()"
    want = [f"RuntimeError CUDA: {sentence}", f"False {sentence}", f"RuntimeError CUDA: {sentence}"]
    assert run(code, driver, kernels, FAKE_CUDA_FAIL=f"cuModuleLoadData:{result}").splitlines() == want


@pytest.mark.parametrize("call", ["cuLaunchCooperativeKernel", "cuLaunchKernel", "cuMemsetD8Async"])
def test_failed_calls(driver: Path, kernels: Path, call: str) -> None:
    """A failed launch is an error, one for want of memory a MemoryError; the next call may succeed."""
    code = RUN + "import os; attempt(); del os.environ['FAKE_CUDA_FAIL']; attempt()"
    failed, ran = run(code, driver, kernels, FAKE_CUDA_FAIL=f"{call}:719").splitlines()
    assert failed == f"RuntimeError CUDA: {call} failed: CUDA_ERROR_LAUNCH_FAILED"
    assert run(RUN + "attempt()", driver, kernels, FAKE_CUDA_FAIL=f"{call}:2").startswith("MemoryError")
    assert ran.startswith("ran 0.")


def test_out_of_memory_where_a_context_is_made(driver: Path, kernels: Path) -> None:
    got = run(RUN + "attempt()", driver, kernels, FAKE_CUDA_FAIL="cuDevicePrimaryCtxRetain:2")
    assert got.startswith("MemoryError")


def test_blocks_that_cannot_run_at_once_are_not_launched(driver: Path, kernels: Path) -> None:
    got = run(RUN + "attempt()", driver, kernels, FAKE_CUDA_OCCUPANCY="0")
    assert got.startswith("RuntimeError CUDA: ")
    assert got.endswith("thread blocks must run at once, and Emulated GPU has room for 0")


def test_too_little_shared_memory(driver: Path, kernels: Path) -> None:
    got = run(RUN + "attempt()", driver, kernels, FAKE_CUDA_SHARED="1024")
    assert got == "RuntimeError CUDA: expected a GPU with 2048 bytes of shared memory for a thread block, got 1024"


def test_after_a_fork(driver: Path, kernels: Path) -> None:
    code = RUN + "attempt()\nimport os\nif os.fork() == 0: attempt(); os._exit(0)\nos.wait()"
    ran, refused = run("import sys; print = lambda *a: __builtins__.print(*a, flush=True)\n" + code, driver,
                       kernels).splitlines()  # fmt: skip
    assert ran.startswith("ran 0.")
    assert refused == "RuntimeError CUDA: this process was forked from one that had opened the NVIDIA driver"


MEANWHILE = """
import ctypes, os, threading, time
fake = ctypes.CDLL(os.environ["FUSEDRNN_CUDA_DRIVER"])
def until_a_call_waits():
    while not fake.fake_cuda_waiting():
        time.sleep(0.001)
"""


@pytest.mark.parametrize(
    "call",
    ["nvmlInit_v2", "cuInit", "cuModuleLoadData", "cuLaunchKernel", "cuLaunchCooperativeKernel", "cuMemsetD8Async"],
)
def test_other_threads_run_while_the_driver_is_called(driver: Path, kernels: Path, call: str) -> None:
    """The call ends when another Python thread lets it."""
    code = RUN + MEANWHILE + "threading.Thread(target=lambda: (until_a_call_waits(), fake.fake_cuda_go())).start()\n"
    code += "print(fusedrnn.cuda.is_available()); attempt(); print(fake.fake_cuda_waiting())"
    available, ran, waited = run(code, driver, kernels, FAKE_CUDA_WAIT=call).splitlines()
    assert (available, waited) == ("True", "1")
    assert ran.startswith("ran 0.")


def test_a_fork_while_kernels_are_loaded(driver: Path, kernels: Path) -> None:
    """The child waits for no thread of its parent."""
    code = RUN + MEANWHILE + "loads = threading.Thread(target=attempt); loads.start(); until_a_call_waits()\n"
    code += "if os.fork() == 0: print(fusedrnn.cuda.status()); attempt(); os._exit(0)\n"
    code += "os.wait(); fake.fake_cuda_go(); loads.join()"
    code = "import sys; print = lambda *a: __builtins__.print(*a, flush=True)\n" + code
    status, refused, ran = run(code, driver, kernels, FAKE_CUDA_WAIT="cuModuleLoadData").splitlines()
    assert status == "this process was forked from one that had opened the NVIDIA driver"
    assert refused == f"RuntimeError CUDA: {status}"
    assert ran.startswith("ran 0.")


def test_a_fork_while_the_driver_is_opened(driver: Path, kernels: Path) -> None:
    code = (
        RUN + MEANWHILE + "asks = threading.Thread(target=fusedrnn.cuda.status); asks.start(); until_a_call_waits()\n"
    )
    code += "if os.fork() == 0: fake.fake_cuda_go(); attempt(); os._exit(0)\n"
    code += "os.wait(); fake.fake_cuda_go(); asks.join(); attempt()"
    code = "import sys; print = lambda *a: __builtins__.print(*a, flush=True)\n" + code
    child, parent = run(code, driver, kernels, FAKE_CUDA_WAIT="nvmlInit_v2").splitlines()
    assert child.startswith("ran 0.")
    assert parent == child


def test_importing_opens_no_driver(kernels: Path) -> None:
    code = (
        "import fusedrnn, sys; print(any('cuda' in line for line in open('/proc/self/maps')), 'torch' in sys.modules)"
    )
    assert run(code, "libcuda.so.1", kernels) == "False False"
