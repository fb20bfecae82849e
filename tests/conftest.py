from __future__ import annotations

import ctypes
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import fakegpu
import fusedrnn
from cases import BITS_SHAPES, SMALL_SHAPES
from fusedrnn import _core

os.environ.pop("FUSEDRNN_MACHINE", None)  # tests have the default costs


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name alone."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(autouse=True)
def _restore_settings() -> Iterator[None]:
    isa, threads, machine = fusedrnn.isa(), fusedrnn.get_num_threads(), _core.machine()
    yield
    if _core.machine() != machine:
        _core.set_machine(machine)
    fusedrnn.set_isa(isa)
    fusedrnn.set_num_threads(threads)
    _core.set_schedule("auto")


def pytest_report_header() -> str:
    return f"fusedrnn {fusedrnn.__version__}: ISA {fusedrnn.isa()} of {fusedrnn.available_isas()}"


# The first check, `pytest -m quick`: these files, and of files with a grid of shapes the tests of one shape.
QUICK_FILES = {"test_minimal", "test_errors", "test_errors_weights", "test_clockwork", "test_record", "test_light"}
QUICK_SHAPES = {"test_parity": (5, 13, 7, 33), "test_bits": BITS_SHAPES[1], "test_gradients": SMALL_SHAPES[1]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file, parameters = item.path.stem, getattr(item, "callspec", None)
        shape = parameters.params.get("shape") if parameters else None
        if file in QUICK_FILES or (shape is not None and shape == QUICK_SHAPES.get(file)):
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NVIDIA driver for tests, with an emulated GPU; built once for all processes of a run."""
    import fcntl  # of POSIX alone

    if fakegpu.compiler() is None:
        pytest.skip("no C++ compiler to build the emulated GPU with")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "driver"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = folder / fakegpu.DRIVER
        return built if built.exists() else fakegpu.build_driver(folder)


@pytest.fixture(params=fakegpu.MACHINES)
def gpu(request: pytest.FixtureRequest, driver: Path) -> Iterator[ctypes.CDLL]:
    """Emulated GPUs on which kernels are cut up in different ways."""
    with fakegpu.installed(driver, request.param) as library:
        yield library


@pytest.fixture
def roomy(driver: Path) -> Iterator[ctypes.CDLL]:
    """An emulated GPU."""
    with fakegpu.installed(driver, "roomy") as library:
        yield library


@pytest.fixture
def on_gpu(
    roomy: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> Iterator[Callable[[bool], None]]:
    """All of PyTorch's tensors count as tensors on the emulated GPU; and a function that says whether they do."""
    torch = pytest.importorskip("torch")
    import fusedrnn.torch as frt
    from cuda_cases import TensorsOnCpu
    from fusedrnn.backends import arrays
    from fusedrnn.torch import gpu, routing

    def switch(on: bool) -> None:
        monkeypatch.setattr(routing, "is_on_cpu", lambda t: not on)

    monkeypatch.setitem(arrays.LIBRARIES, "torch", TensorsOnCpu)
    torch.manual_seed(int(rng.integers(2**31)))
    frt.reset_routes()
    switch(True)
    yield switch
    gpu.plan_of.cache_clear()
    frt.set_fallback("warn")


@pytest.fixture
def compiler_anew(rng: np.random.Generator) -> Iterator[None]:
    """PyTorch's compiler, which takes recurrent layers, and the counts of fusedrnn.torch, as in a new process."""
    import torch

    import fusedrnn.torch as frt

    torch.manual_seed(int(rng.integers(2**31)))
    torch._dynamo.reset()
    frt.reset_routes()
    with torch._dynamo.config.patch(allow_rnn=True):
        yield
    frt.set_fallback("warn")
