"""The same problems on a GPU, real or emulated, under any array library; how far results may be from the reference."""

from __future__ import annotations

from typing import Any

import numpy as np

import fakegpu
import fusedrnn
from agreement import assert_agrees, assert_same_bits, named
from cases import CELLS, Cell, Problem, make_problem, options_of, regularised, remade
from fusedrnn.backends import arrays

FORMATS = ["float32", "tf32", "bfloat16", "float16"]
ROUNDOFF = {"float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8, "float16": 2.0**-11}
KNOWN = [
    c
    for c in CELLS
    if c.op in ("rnn", "lstm", "gru", "indrnn") and "matrix" not in c.name and not c.projects and c.native == c.name
]
ONE_OF_EACH = [
    c for c in KNOWN if c.name in ("rnn_tanh", "lstm", "lstm_coupled_peephole", "gru_reset_after", "gru_reset_before")
]


CASES = ["plain", "reverse lengths", "resets", "reverse lengths resets", "masks", "reverse lengths resets masks"]


def problem_of(
    cell: Cell, shape: tuple[int, int, int, int], dtype: str, case: str, rng: np.random.Generator
) -> Problem:
    """A problem with what the case names."""
    options = {name: name in case for name in ("lengths", "reverse", "resets")}
    problem = make_problem(cell, shape, dtype, rng, **options)
    return regularised(problem, options_of(cell, 0.4), rng) if "masks" in case else problem


def same_bits(dtype: str) -> str:
    """The format whose results have the bits of the CPU's."""
    return "same_bits" if dtype == "float32" else dtype


class Arrays:
    """An array library in the hands of a test. This one is fakegpu."""

    def make(self, a: Any, dtype: str) -> Any:
        """On the GPU."""
        return fakegpu.asarray(a, dtype)

    def numpy(self, a: Any) -> np.ndarray[Any, Any]:
        """A copy; bfloat16 as that of ml_dtypes."""
        return fakegpu.asnumpy(a)

    def back(self, results: Any) -> Any:
        """The same named tuple, of NumPy's arrays."""
        return type(results)(*(None if a is None else self.numpy(a) for a in results))

    def weights(self, problem: Problem, dtype: str) -> Any:
        return remade(problem.cell, problem.w, lambda a: self.make(a, dtype))


class TorchArrays(Arrays):
    """PyTorch's tensors on a device."""

    def __init__(self, device: str) -> None:
        import torch

        self.torch, self.device = torch, device

    def make(self, a: Any, dtype: str) -> Any:
        return self.torch.tensor(a, device=self.device).to(getattr(self.torch, dtype))

    def numpy(self, a: Any) -> np.ndarray[Any, Any]:
        if a.dtype == self.torch.bfloat16:
            bits: np.ndarray[Any, Any] = a.view(self.torch.int16).cpu().numpy()
            return bits.view(fakegpu.numpy_dtype("bfloat16")).copy()
        copy: np.ndarray[Any, Any] = a.cpu().numpy().copy()
        return copy


class TensorsOnCpu(arrays.Torch):
    """The backend's adapter for tensors on the CPU, which stand for those on an emulated GPU: all of it but streams."""

    device_type = "cpu"

    def current_stream(self, device: int) -> Any:
        return None

    def stream(self, device: int) -> int:
        return fakegpu.STREAM

    def capturing(self, device: int) -> bool:
        return False

    def record(self, device: int) -> Any:
        return None


def storage(format: str) -> str:
    return "float32" if format in ("tf32", "same_bits") else format


def rounded(problem: Problem, format: str) -> Problem:
    """The same problem, of numbers that the format has."""
    dtype = fakegpu.numpy_dtype(storage(format))
    return problem.changed(lambda a: a.astype(dtype).astype("float32"))


def run(problem: Problem, format: str, arrays: Arrays) -> tuple[Any, Any]:
    """Forward and backward on the GPU, and that inference gives the same bits as training, if nothing is dropped."""
    p, dtype = problem, storage(format)
    infer, forward, backward, _ = p.cell.functions(fusedrnn)
    fusedrnn.cuda.set_float32_products(format if format in ("tf32", "same_bits") else "float32")
    w = arrays.weights(p, dtype)
    x, states = arrays.make(p.x, dtype), [arrays.make(s, dtype) for s in p.states]
    kwargs = dict(p.kwargs)
    if "resets" in kwargs:
        kwargs["resets"] = arrays.make(kwargs["resets"], "bool")
    if p.reset_states:
        before = [arrays.make(s, dtype) for s in p.reset_states]
        kwargs["reset_state"] = tuple(before) if len(before) > 1 else before[0]
    out, reserve = forward(x, w, *states, **kwargs)
    outputs = arrays.back(out)
    if "masks" not in kwargs:
        assert_same_bits(outputs, arrays.back(infer(x, w, *states, **kwargs)))
    grads = arrays.back(backward(reserve, arrays.make(p.dy, dtype), *(arrays.make(s, dtype) for s in p.dstates)))
    assert all(a.dtype == fakegpu.numpy_dtype(dtype) for _, a in named(outputs) + named(grads))
    return outputs, grads


def compare_exactly(problem: Problem, arrays: Arrays) -> None:
    """float32, with the bounds of the CPU's."""
    assert_agrees(problem, run(problem, "float32", arrays))


def compare_by_norm(problem: Problem, format: str, arrays: Arrays) -> None:
    """Formats with few bits: a worst case over all terms would say nothing, so roundings count as independent.

    A step rounds, to nearest, at most eight numbers on the way to a result (W x, operands, gates, c, y, and in
    backward as many gradients), each by a relative error of at most u; so many of them, over all steps and not
    magnified by any, come to sqrt(8 * T) * u of an array's norm, and twice that is allowed. Sums are float32. (This is
    for arrays of some size: one number may be the difference of larger ones.)
    """
    T = problem.x.shape[0]
    problem = rounded(problem, format)
    out, grads = run(problem, format, arrays)
    want_out, want_grads = problem.as_float64().run(fusedrnn.reference)
    bound = 2 * np.sqrt(8 * max(1, T)) * ROUNDOFF[format]
    for (name, a), (_, b) in zip(named(out) + named(grads), named(want_out) + named(want_grads), strict=True):
        error = np.linalg.norm((a.astype("float64") - b).ravel())
        assert error <= bound * np.linalg.norm(b.ravel()), (
            f"{name}: {error / np.linalg.norm(b.ravel()):.3g}, {bound:.3g}"
        )
