from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fakegpu
import fusedrnn
from fusedrnn import _core


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name alone."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(autouse=True)
def _restore_settings() -> Iterator[None]:
    isa, threads = fusedrnn.isa(), fusedrnn.get_num_threads()
    yield
    fusedrnn.set_isa(isa)
    fusedrnn.set_num_threads(threads)
    _core.set_schedule("auto")


def pytest_report_header() -> str:
    return f"fusedrnn {fusedrnn.__version__}: ISA {fusedrnn.isa()} of {fusedrnn.available_isas()}"


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NVIDIA driver for tests, with an emulated GPU."""
    if fakegpu.compiler() is None:
        pytest.skip("no C++ compiler to build the emulated GPU with")
    return fakegpu.build_driver(tmp_path_factory.mktemp("cuda"))


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
