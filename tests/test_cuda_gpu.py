"""The CUDA backend on a real GPU, with PyTorch's tensors and CuPy's arrays. Skipped where there is none; the same
checks run on an emulated GPU in test_cuda.py. `FUSEDRNN_CUDA_REPEATS=10000` hunts races for longer:
those between blocks, no sanitizer sees."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_same_bits, named
from cases import CELLS, DTYPES, SHAPES, Cell, make_problem
from cuda_cases import (
    CASES,
    FORMATS,
    KNOWN,
    ONE_OF_EACH,
    Arrays,
    TorchArrays,
    compare_by_norm,
    compare_exactly,
    problem_of,
    run,
    same_bits,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not fusedrnn.cuda.is_available(), reason=f"no GPU: {fusedrnn.cuda.status()}"),
]
REPEATS = int(os.environ.get("FUSEDRNN_CUDA_REPEATS", "200"))
# Over one block, several blocks, several groups of rows; weights on chip and streamed.
LARGE = [(9, 1, 40, 128), (6, 7, 64, 650), (5, 70, 33, 512), (3, 300, 20, 257), (3, 16, 16, 2048)]


class CupyArrays(Arrays):
    def __init__(self) -> None:
        self.cupy = pytest.importorskip("cupy")

    def make(self, a: Any, dtype: str) -> Any:
        return self.cupy.asarray(a, dtype)

    def numpy(self, a: Any) -> np.ndarray[Any, Any]:
        copy: np.ndarray[Any, Any] = a.get()
        return copy


@pytest.fixture(params=["torch", "cupy"])
def arrays(request: pytest.FixtureRequest) -> Arrays:
    if request.param == "cupy":
        return CupyArrays()
    pytest.importorskip("torch")
    return TorchArrays("cuda")


@pytest.fixture
def tensors() -> TorchArrays:
    pytest.importorskip("torch")
    return TorchArrays("cuda")


@pytest.mark.parametrize("cell", KNOWN, ids=lambda c: c.name)
@pytest.mark.parametrize("shape", SHAPES + LARGE, ids=str)
@pytest.mark.parametrize("case", ["forward", "reverse with lengths"])
def test_float32(
    cell: Cell, shape: tuple[int, int, int, int], case: str, tensors: TorchArrays, rng: np.random.Generator
) -> None:
    options = {"lengths": True, "reverse": True} if case != "forward" else {}
    compare_exactly(make_problem(cell, shape, "float32", rng, **options), tensors)


@pytest.mark.parametrize("format", FORMATS[1:])
@pytest.mark.parametrize("cell", KNOWN, ids=lambda c: c.name)
@pytest.mark.parametrize("shape", [(5, 13, 7, 33), *LARGE], ids=str)
def test_formats(
    cell: Cell, shape: tuple[int, int, int, int], format: str, tensors: TorchArrays, rng: np.random.Generator
) -> None:
    compare_by_norm(make_problem(cell, shape, "float32", rng, lengths=shape[0] == 5), format, tensors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.parametrize("shape", [(5, 13, 7, 33), (40, 17, 70, 130)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_stepwise_kernels_have_the_bits_of_the_cpu(
    cell: Cell, shape: tuple[int, int, int, int], dtype: str, case: str, tensors: TorchArrays, rng: np.random.Generator
) -> None:
    if cell.below:
        pytest.skip("the test joins sequences by NumPy")
    problem = problem_of(cell, shape, dtype, case, rng)
    for got, want in zip(run(problem, same_bits(dtype), tensors), problem.run(), strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("format", ["bfloat16", "float16"])
@pytest.mark.parametrize("cell", [c for c in CELLS if c not in KNOWN and not c.below], ids=str)
def test_stepwise_formats(cell: Cell, format: str, tensors: TorchArrays, rng: np.random.Generator) -> None:
    compare_by_norm(make_problem(cell, (5, 13, 7, 33), "float32", rng, lengths=True), format, tensors)


def test_the_stepwise_kernels_in_a_graph(tensors: TorchArrays) -> None:
    torch = tensors.torch
    given = [torch.randn(s, device="cuda", dtype=torch.float64) / 8 for s in ((192, 16), (192, 64))]
    x = torch.randn(50, 4, 16, device="cuda", dtype=torch.float64)
    w = fusedrnn.GRUWeights(*given)
    want = fusedrnn.gru(x, w).y
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fusedrnn.gru(x, w)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out.y, want)


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
def test_both_libraries(cell: Cell, arrays: Arrays, rng: np.random.Generator) -> None:
    compare_exactly(make_problem(cell, (5, 13, 7, 33), "float32", rng, lengths=True), arrays)


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(20, 5, 8, 512), (7, 66, 8, 130)], ids=str)
def test_run_to_run_bits(
    cell: Cell, format: str, shape: tuple[int, int, int, int], tensors: TorchArrays, rng: np.random.Generator
) -> None:
    problem = make_problem(cell, shape, "float32", rng, lengths=True)
    first = run(problem, format, tensors)
    for _ in range(REPEATS):
        for a, b in zip(first, run(problem, format, tensors), strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_against_cudnn(kind: str, dtype: str, tensors: TorchArrays, rng: np.random.Generator) -> None:
    """PyTorch's layers, with the norm-wise bound of compare_by_norm for the format of fewer bits."""
    torch = tensors.torch
    layer = getattr(torch.nn, kind)(40, 96).to("cuda", getattr(torch, dtype))
    parameters = [p.detach() for p in layer.parameters()]
    w = getattr(fusedrnn, f"{kind}Weights")(*parameters)
    x = torch.randn(30, 9, 40, device="cuda").to(getattr(torch, dtype)).requires_grad_()
    y, _ = layer(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    infer, forward, backward = (getattr(fusedrnn, kind.lower() + s) for s in ("", "_forward", "_backward"))
    out, reserve = forward(x, w)
    grads = backward(reserve, dy)
    pairs = [(infer(x, w).y, y), (out.y, y), (grads.dx, x.grad)]
    pairs += [
        (g, p.grad) for g, p in zip((a for n, a in named(grads) if "weight" in n), layer.parameters(), strict=False)
    ]
    bound = 4 * np.sqrt(8 * 30) * {"float32": 96 * 2.0**-24, "float16": 2.0**-11}[dtype]
    for ours, theirs in pairs:
        ours, theirs = ours.double(), theirs.double()
        assert (ours - theirs).norm() <= bound * theirs.norm()


def test_the_current_stream(tensors: TorchArrays, rng: np.random.Generator) -> None:
    """Work waits for what the stream does before it, and nothing else: here, for a slow fill of x."""
    torch = tensors.torch
    w = fusedrnn.GRUWeights(*(torch.randn(s, device="cuda") / 8 for s in ((192, 16), (192, 64))))
    source = torch.randn(50, 4, 16, device="cuda")
    want = fusedrnn.gru(source, w).y
    torch.cuda.synchronize()
    x, stream = torch.zeros_like(source), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.copy_(source)
        got = fusedrnn.gru(x, w).y
    stream.synchronize()
    assert torch.equal(got, want)


def test_weights_made_on_another_stream(tensors: TorchArrays) -> None:
    """A call waits for slow weights, and their memory for the call. Into a graph goes no such order."""
    torch = tensors.torch
    given = [torch.randn(s, device="cuda") / 8 for s in ((192, 16), (192, 64))]
    x = torch.randn(50, 4, 16, device="cuda")
    want, reserve = fusedrnn.gru_forward(x, fusedrnn.GRUWeights(*given))
    want_grads = fusedrnn.gru_backward(reserve, want.y)
    torch.cuda.synchronize()
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    for _ in range(20):
        with torch.cuda.stream(first):
            torch.cuda._sleep(5_000_000)
            w = fusedrnn.GRUWeights(*(a + 0 for a in given))
        with torch.cuda.stream(second):
            out, reserve = fusedrnn.gru_forward(x, w)
            torch.cuda._sleep(5_000_000)
            grads = fusedrnn.gru_backward(reserve, out.y)
        del w, reserve
        with torch.cuda.stream(first):
            waste = [torch.full((n,), 1e9, device="cuda") for n in (64 * 192, 16 * 192, 192 * 80) for _ in range(4)]
        torch.cuda.synchronize()
        assert torch.equal(out.y, want.y)
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(named(grads), named(want_grads), strict=True))
        del waste
    w, graph = fusedrnn.GRUWeights(*given), torch.cuda.CUDAGraph()
    fusedrnn.gru(x, w)
    with torch.cuda.graph(graph):
        out = fusedrnn.gru(x, w)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out.y, want.y)
