"""Whether tensors are what kernels take, and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import _core

PLAIN = (Tensor, nn.Parameter)  # the types that kernels take: a subclass may mean anything
BITS = {torch.float32: 32, torch.float64: 64}  # of the dtypes of kernels
_DTYPES = {bits: dtype for dtype, bits in BITS.items()}

Maybe: TypeAlias = "Tensor | None"
Found = tuple[bool, tuple[int, ...]] | None
Shapes = Sequence[tuple[int, ...] | None]


def _read_in_python(tensors: Sequence[Any], shapes: Shapes, bits: int) -> Found:
    """What `read` does, where PyTorch has no C exchange (before 2.10)."""
    dtype, addresses, graph = _DTYPES.get(bits), [], False
    for t, shape in zip(tensors, shapes, strict=True):
        if t is None:
            addresses.append(0)
            continue
        if not (type(t) in PLAIN and t.is_cpu and t.dtype is dtype and t.layout is torch.strided) or t.is_neg():
            return None
        if (shape is not None and t.shape != shape) or not t.is_contiguous():
            return None
        try:
            address = t.data_ptr()
        except RuntimeError:  # no memory of its own
            return None
        if not address:
            return None
        addresses.append(address)
        graph = graph or t.requires_grad
    return graph, tuple(addresses)


def _reader() -> Callable[[Sequence[Any], Shapes, int], Found]:
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return _read_in_python
    try:
        return _core.make_tensor_reader(capsule, *PLAIN).read
    except ValueError:  # another version of DLPack
        return _read_in_python


# read(tensors, shapes, bits): whether one of them requires a gradient, and their addresses, 0 for None; None if one of
# them is not plain, on the CPU, of floats of so many bits, contiguous, and of its shape, if that is not None.
read = _reader()
