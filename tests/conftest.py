from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import pytest

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
