"""NVIDIA GPUs: whether there is one, and the precision of products.

Weights made from CUDA arrays run on the GPU; all functions take and return arrays of the same library
(PyTorch or CuPy), on its current stream, without waiting for the GPU.
"""

from __future__ import annotations

import os

from . import _core

__all__ = ["get_float32_products", "is_available", "set_float32_products", "status"]

KERNELS = os.path.join(os.path.dirname(__file__), "kernels.fatbin")  # pathlib would be imported for this line alone
DRIVER, NVML = ("nvcuda.dll", "nvml.dll") if os.name == "nt" else ("libcuda.so.1", "libnvidia-ml.so.1")
PRODUCTS = ("float32", "tf32", "same_bits")
_products = "float32"


def paths() -> tuple[bytes, bytes, bytes]:
    """The driver, the management library and the file of kernels: ``FUSEDRNN_CUDA_DRIVER``, ``FUSEDRNN_CUDA_NVML`` and
    ``FUSEDRNN_CUDA_KERNELS``, else the system's and the one in this package."""
    return (
        os.fsencode(os.environ.get("FUSEDRNN_CUDA_DRIVER", DRIVER)),
        os.fsencode(os.environ.get("FUSEDRNN_CUDA_NVML", NVML)),
        os.fsencode(os.environ.get("FUSEDRNN_CUDA_KERNELS", KERNELS)),
    )


def is_available() -> bool:
    """Whether this build, the driver and a GPU are there, as far as can be told without starting CUDA: forked children
    can use it. Never raises."""
    return bool(_core.cuda_status(*paths())[0])


def status() -> str:
    """One sentence: the part that is missing, or "ok: " and the GPUs: those of the machine before the first call on a
    GPU, and those that ``CUDA_VISIBLE_DEVICES`` leaves after it. Never raises."""
    return _core.cuda_status(*paths())[1].decode(errors="backslashreplace")


def set_float32_products(precision: str) -> None:
    """How products of float32 weights made from now on are computed: "float32" (the default), or "tf32" on tensor
    cores, whose operands have 10 bits of mantissa. Sums and states are float32 in both. The products over all steps at
    once follow the array library's own setting.

    With "same_bits", all results have the bits of the CPU, and calls run step by step, which is slower. That is how
    cells that have no kernel for a whole sequence, and weights of float64, always run.

    Raises:
        ValueError: another precision.
    """
    if precision not in PRODUCTS:
        raise ValueError(f"precision: expected one of {', '.join(map(repr, PRODUCTS))}, got {precision!r}")
    global _products
    _products = precision


def get_float32_products() -> str:
    """See `set_float32_products`."""
    return _products
