"""Arrays of other libraries, in and out by DLPack: JAX's, those of the array API's own strict library, and those of a
library that has no more than the protocol. What comes out has the bits that NumPy's arrays give."""

from __future__ import annotations

import copy
import ctypes
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fakegpu
import fusedrnn
from agreement import assert_same_bits
from arguments import B, H, I, T, array
from cases import CELLS, DISTINCT, DTYPES, Cell, Problem, make_problem, make_weights, options_of, regularised, remade
from fusedrnn.backends import arrays
from fusedrnn.backends.dlpack import CUDA, DLPackWeights
from libraries import Jax, Library, Plain, Through, plain

reads_flags = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="for this NumPy, all arrays of others are read-only"
)
GPU_CELLS = [c for c in CELLS if c.name in ("lstm", "gru_reset_before", "depth_gated_lstm", "clockwork_rnn_tanh")]


@pytest.fixture(params=["plain", "array_api_strict", "jax"])
def library(request: pytest.FixtureRequest) -> Iterator[Library]:
    if request.param == "plain":
        yield Library()
        return
    module = pytest.importorskip(request.param)
    if request.param == "array_api_strict":
        yield Library(module, type(module.zeros(0)))
        return
    with in_64_bits(module), module.default_device(module.devices("cpu")[0]):
        yield Jax(module)


@contextmanager
def in_64_bits(jax: Any) -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def assert_alike(problem: Problem, library: Library) -> None:
    """Inference, forward and backward, and a step."""
    through: Any = Through(library)
    for got, want in zip(problem.run(through), problem.run(), strict=True):
        assert_same_bits(got, want)
    arguments = problem.x, problem.w, *problem.states
    kwargs = {name: a for name, a in problem.kwargs.items() if name != "masks"}
    infer, _, _, step = problem.cell.functions(through)
    want_infer, _, _, want_step = problem.cell.functions()
    assert_same_bits(infer(*arguments, **kwargs), want_infer(*arguments, **kwargs))
    if len(problem.x):
        one = problem.x[0], *arguments[1:]
        for a, b in zip(as_tuple(step(*one)), as_tuple(want_step(*one)), strict=True):
            np.testing.assert_array_equal(a, b)


def as_tuple(a: Any) -> tuple[Any, ...]:
    return a if isinstance(a, tuple) else (a,)


@pytest.mark.parametrize("cell", DISTINCT, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_numpy(cell: Cell, dtype: str, library: Library, rng: np.random.Generator) -> None:
    assert_alike(make_problem(cell, (5, 3, 7, 9), dtype, rng), library)
    assert_alike(make_problem(cell, (4, 2, 5, 6), dtype, rng, lengths=True, reverse=True, resets=True), library)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (3, 0, 4, 5), (9, 8, 64, 64)], ids=str)
def test_sizes(shape: Any, library: Library, rng: np.random.Generator) -> None:
    """None at all, and so many that results lie in buffers."""
    assert_alike(make_problem(DISTINCT[0], shape, "float32", rng), library)


def test_regularisation(library: Library, rng: np.random.Generator) -> None:
    problem = make_problem(DISTINCT[0], (4, 3, 5, 6), "float32", rng)
    assert_alike(regularised(problem, options_of(problem.cell, 0.5), rng), library)


def lstm_of(library: Library, dtype: str = "float32", **change: Any) -> Any:
    given = {"weight_ih": array(4 * H, I, dtype=dtype) / 8, "weight_hh": array(4 * H, H, dtype=dtype) / 8}
    return fusedrnn.LSTMWeights(**({name: library.make(a) for name, a in given.items()} | change))


@pytest.mark.parametrize("cell", [c for c in CELLS if not c.clocked], ids=str)
def test_constructors(cell: Cell, library: Library, rng: np.random.Generator) -> None:
    w = make_weights(cell, I, H, "float32", rng)
    assert repr(remade(cell, w, library.make)) == repr(w)


def test_further_inputs(library: Library, rng: np.random.Generator) -> None:
    """c_below and its gradient; start, and lengths, as arrays of either library, and as sequences."""
    through: Any = Through(library)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape)

    deep = fusedrnn.DepthGatedLSTMWeights(normal(5 * H, I), normal(4 * H, H), peephole_below=normal(H))
    x, below = normal(T, B, I), normal(T, B, H)
    (out, reserve), (want, want_reserve) = (m.depth_gated_lstm_forward(x, deep, below) for m in (through, fusedrnn))
    assert_same_bits(out, want)
    dc = normal(T, B, H)
    got, expected = (
        m.depth_gated_lstm_backward(r, None, dc=dc) for m, r in ((through, reserve), (fusedrnn, want_reserve))
    )
    assert got.dc_below is not None
    assert_same_bits(got, expected)

    clocks = fusedrnn.ClockworkRNNWeights(*map(library.make, (normal(H, I), np.eye(H))), periods=(1, 3))
    start, lengths = np.array([5, 1, 2]), np.array([3, 0, 4])
    plain_clocks = fusedrnn.ClockworkRNNWeights(
        *map(library.numpy, (clocks.weight_ih, clocks.weight_hh)), periods=(1, 3)
    )
    want = fusedrnn.clockwork_rnn(x, plain_clocks, start=start, lengths=lengths)
    for make in (library.make, np.array, list):
        found = fusedrnn.clockwork_rnn(library.make(x), clocks, start=make(start), lengths=make(lengths))
        assert_same_bits(through.back(found), want)


def test_resets_may_be_numpys(library: Library, rng: np.random.Generator) -> None:
    w, x, resets = lstm_of(library), library.make(array(T, B, I)), rng.random((T, B)) < 0.5
    got, want = (fusedrnn.lstm(x, w, resets=a).y for a in (resets, library.make(resets)))
    np.testing.assert_array_equal(library.numpy(got), library.numpy(want))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_weights(again: Any, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plain", plain)  # for pickle
    monkeypatch.setattr(plain, "Plain", Plain, raising=False)
    try:
        again(library.make(array(1)))
    except TypeError as e:
        pytest.skip(f"arrays that cannot be copied: {e}")  # of older versions of array-api-strict
    w = lstm_of(library, "float64")
    assert repr(w) == repr(lstm_of(Library(np, np.ndarray), "float64"))
    assert w.dtype == w.weight_ih.dtype == library.make(array(1, dtype="float64")).dtype
    assert w.bias_ih is None
    for one in (w, again(w)):
        np.testing.assert_array_equal(library.numpy(one.weight_hh), array(4 * H, H) / 8)
        y = fusedrnn.lstm(library.make(array(T, B, I, dtype="float64")), one).y
        assert isinstance(y, library.kind)


@reads_flags
def test_weights_are_a_snapshot() -> None:
    library = Library()
    given = library.make(array(4 * H, H))
    w = lstm_of(library, weight_hh=given)
    given.data[:] = 0
    read: Any = w.weight_hh
    read.data[:] = 0
    assert (library.numpy(w.weight_hh) == 1).all()


@reads_flags
def test_arrays_are_not_copied(library: Library) -> None:
    a = library.make(array(T, B, I))
    lent = lstm_of(library)._loaded._take("x", a)
    assert lent.ctypes.data == library.numpy(a).ctypes.data


@reads_flags
def test_strided_arrays(library: Library, rng: np.random.Generator) -> None:
    x = rng.standard_normal((B, 2 * T, I)).astype("float32").transpose(1, 0, 2)[::2]
    w = lstm_of(library)
    want = fusedrnn.lstm(x, lstm_of(Library(np, np.ndarray))).y
    assert isinstance(library, Jax) or not library.numpy(library.make(x)).flags.c_contiguous
    np.testing.assert_array_equal(library.numpy(fusedrnn.lstm(library.make(x), w).y), want)


@reads_flags
def test_out(library: Library) -> None:
    w, x = lstm_of(library), library.make(array(B, I))
    out = library.make(array(B, H)), library.make(array(B, H))
    if not library.writeable:
        with pytest.raises(ValueError, match=r"out \(h\): expected a writeable array, got a read-only one"):
            fusedrnn.lstm_cell(x, w, out=out)
        return
    want = fusedrnn.lstm_cell(x, w)
    got = fusedrnn.lstm_cell(x, w, out=out)
    assert all(a is b for a, b in zip(got, out, strict=True))
    for a, b in zip(out, want, strict=True):
        np.testing.assert_array_equal(library.numpy(a), library.numpy(b))


@reads_flags
def test_out_may_not_be_a_copy() -> None:
    class Copied(Plain):
        def __dlpack__(self, *, copy: bool | None = None, **options: Any) -> Any:
            if copy is False:
                raise BufferError("only by a copy")
            return self.data.copy().__dlpack__(**options)

    library = Library()
    w, x = lstm_of(library), Copied(array(B, I))
    step: Any = fusedrnn.lstm_cell
    assert isinstance(step(x, w)[0], Plain)
    with pytest.raises(TypeError, match=r"out \(h\): expected an array that DLPack can share, got Copied"):
        step(x, w, out=(Copied(array(B, H)), None))


OTHER = [
    ({"x": array(T, B, I)}, TypeError, "x: expected an array of {}, got ndarray"),
    ({"x": None}, TypeError, "x: expected an array of {}, got NoneType"),
    ({"h0": array(B, H)}, TypeError, "h0: expected an array of {}, got ndarray"),
    ({"c0": 0}, TypeError, "c0: expected an array of {}, got int"),
    ({"reset_state": (array(H), None)}, TypeError, "reset_state (h): expected an array of {}, got ndarray"),
    ({"lengths": np.ones(2, int)}, ValueError, "lengths: expected shape (batch_size,) = (3,), got (2,)"),
    ({"lengths": 3}, TypeError, "lengths: expected a sequence or numpy.ndarray of integers, got int"),
    ({"weight_hh": array(4 * H, H)}, TypeError, "weight_hh: expected an array of {}, got ndarray"),
    ({"weight_hh": None}, TypeError, "weight_hh: expected an array of {}, got NoneType"),
    ({"weight_ih": array(4 * H, I)}, TypeError, "weight_hh: expected a numpy.ndarray, got"),
]


@pytest.mark.parametrize(("change", "error", "text"), OTHER)
def test_arrays_of_another_library(change: dict[str, Any], error: Any, text: str, library: Library) -> None:
    weights = {name: change[name] for name in change if name.startswith("weight")}
    arguments = {name: change[name] for name in change if name not in weights}
    with pytest.raises(error) as raised:
        fusedrnn.lstm(**({"x": library.make(array(T, B, I)), "w": lstm_of(library, **weights)} | arguments))
    assert text.format(library.namespace.__name__) in str(raised.value)


def test_wrong_arrays_of_the_library(library: Library) -> None:
    """The backend's own checks."""
    w = lstm_of(library)
    with pytest.raises(TypeError, match="x: expected dtype float32, got int64"):
        fusedrnn.lstm(library.make(array(T, B, I, dtype="int64")), w)
    with pytest.raises(ValueError, match=r"= \(4, 3, 5\), got \(4, 3, 6\)"):
        fusedrnn.lstm(library.make(array(T, B, I + 1)), w)
    with pytest.raises(TypeError, match="weight_ih: expected dtype float32 or float64, got bool"):
        lstm_of(library, weight_ih=library.make(array(4 * H, I, dtype=bool)))
    layer_norm: Any = fusedrnn.LayerNormGRUWeights
    with pytest.raises(ValueError, match="epsilon: expected at least 1.175e-38, the smallest normal float32"):
        layer_norm(library.make(array(3 * H, I)), None, gain_ih=None, gain_hh=None, epsilon=1e-40)


def test_backward_checks_as_well(library: Library) -> None:
    out, reserve = fusedrnn.lstm_forward(library.make(array(T, B, I)), lstm_of(library))
    for change in ({"dy": array(T, B, H)}, {"dy": None, "dh_n": array(B, H)}):
        with pytest.raises(TypeError, match=f"{list(change)[-1]}: expected an array of .*, got ndarray"):
            fusedrnn.lstm_backward(reserve, **change)
    assert isinstance(fusedrnn.lstm_backward(reserve, out.y).dx, library.kind)


def test_arrays_on_other_devices() -> None:
    w = lstm_of(Library())
    with pytest.raises(
        ValueError, match=r"x: expected an array on DLPack's device \(1, 0\), got one on device \(2, 1\)"
    ):
        fusedrnn.lstm(Plain(array(T, B, I), (CUDA, 1)), w)  # type: ignore[arg-type]


def test_an_array_without_data() -> None:
    class Lazy:
        def __array_namespace__(self, *, api_version: str | None = None) -> Any:
            return plain

    eager = r"expected an array that DLPack can share, got Lazy of dtype None \(calls are eager, and cannot be traced\)"
    with pytest.raises(TypeError, match=f"x: {eager}"):
        fusedrnn.lstm(Lazy(), lstm_of(Library()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"weight_ih: {eager}"):
        lstm_of(Library(), weight_ih=Lazy())


def test_traced_arrays_of_jax() -> None:
    jax: Any = pytest.importorskip("jax")
    w, x = lstm_of(Jax(jax)), jax.numpy.ones((T, B, I))
    for transform in (jax.jit, jax.grad):
        with pytest.raises(TypeError, match=r"x: expected .*Tracer of dtype float32 \(calls are eager"):
            transform(lambda x: fusedrnn.lstm(x, w).y.sum())(x)


def test_jax_without_64_bits_casts_nothing_silently() -> None:
    jax: Any = pytest.importorskip("jax")
    with in_64_bits(jax):
        w, x = lstm_of(Jax(jax), "float64"), jax.numpy.ones((T, B, I))
    with pytest.raises(TypeError, match="results: expected dtype float64, got float32"):
        fusedrnn.lstm(x, w)


def test_a_donated_result_is_nothing_to_the_reserve() -> None:
    """JAX may write over an array that it is told to."""
    jax: Any = pytest.importorskip("jax")
    library = Jax(jax)
    x = np.ones((9, 8, 64), "float32")
    w = fusedrnn.LSTMWeights(*(library.make(np.ones((256, 64), "float32") / 64) for _ in range(2)))
    out, reserve = fusedrnn.lstm_forward(library.make(x), w)
    dy = library.make(np.ones_like(x))
    want = Through(library).back(fusedrnn.lstm_backward(reserve, dy))
    jax.jit(lambda a: a * 0 + 7, donate_argnums=0)(out.y).block_until_ready()
    assert_same_bits(Through(library).back(fusedrnn.lstm_backward(reserve, dy)), want)


def test_results_wait_for_arrays_that_are_being_computed() -> None:
    jax: Any = pytest.importorskip("jax")
    library = Jax(jax)
    a = jax.numpy.ones((600, 600)) / 600
    for _ in range(20):
        a = a @ a
    x = a[: T * B * I].reshape(-1)[: T * B * I].reshape(T, B, I)
    got = library.numpy(fusedrnn.lstm(x, lstm_of(library)).y)
    np.testing.assert_array_equal(got, fusedrnn.lstm(np.asarray(x), lstm_of(Library(np, np.ndarray))).y)


def test_numpys_own_arrays_go_the_straight_way() -> None:
    class Sub(np.ndarray[Any, Any]):
        pass

    assert not isinstance(lstm_of(Library(np, np.ndarray), weight_ih=array(4 * H, I).view(Sub))._loaded, DLPackWeights)
    with pytest.raises(TypeError, match=r"weight_ih: expected a numpy.ndarray, got numpy.float32"):
        lstm_of(Library(np, np.ndarray), weight_ih=np.float32(1))
    code = """
import sys, numpy as np, fusedrnn
fusedrnn.rnn(np.ones((1, 1, 1)), fusedrnn.RNNWeights(np.ones((1, 1)), np.ones((1, 1))))
print("fusedrnn.backends.dlpack" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# GPUs.


class OnGpu(Library):
    """The plain library's arrays, on an emulated GPU."""

    def make(self, a: Any) -> Any:
        return Plain(np.array(a), (CUDA, 0))


class Fake(Library):
    """An array library that the CUDA backend knows."""

    def make(self, a: Any) -> Any:
        return fakegpu.asarray(a)

    def numpy(self, a: Any) -> Any:
        return fakegpu.asnumpy(a)


@pytest.mark.parametrize("cell", GPU_CELLS, ids=str)
def test_arrays_on_an_emulated_gpu(
    cell: Cell, roomy: ctypes.CDLL, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By way of the library that can read them, of those that the CUDA backend knows, and with its bits."""
    waits: list[Any] = []
    monkeypatch.setattr(fakegpu.Stream, "synchronize", lambda stream: waits.append(stream))
    problem = make_problem(cell, (5, 3, 7, 9), "float32", rng, lengths=True)
    through: Any = Through(OnGpu())
    got = problem.run(through)
    assert len(waits) == 3  # for weights, forward and backward
    for a, b in zip(got, problem.run(Through(Fake())), strict=True):  # type: ignore[arg-type]
        assert_same_bits(a, b)
    w = through.to(problem.w)
    assert w._loaded.library.name == "fakegpu"
    assert w.weight_ih.device == (CUDA, 0)


def test_out_on_a_gpu_is_refused(roomy: ctypes.CDLL) -> None:
    library = OnGpu()
    out = library.make(array(B, H)), None
    with pytest.raises(ValueError, match=r"out \(h\): expected a writeable array, got a read-only one"):
        fusedrnn.lstm_cell(library.make(array(B, I)), lstm_of(library), out=out)  # type: ignore[arg-type]


def test_arrays_on_a_gpu_need_a_library_that_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusedrnn.backends.dlpack.LIBRARIES", {"no_such_library": arrays.CuPy})
    with pytest.raises(ImportError, match="weight_ih: expected a library .*: No module named 'no_such_library'"):
        lstm_of(OnGpu())


class JaxOnGpu(Jax):
    def __init__(self, jax: Any) -> None:
        super().__init__(jax)
        try:
            self.jax, self.gpu = jax, jax.devices("gpu")[0]
        except RuntimeError as e:
            pytest.skip(str(e))

    def make(self, a: Any) -> Any:
        return self.jax.device_put(a, self.gpu)

    def numpy(self, a: Any) -> Any:
        assert a.devices() == {self.gpu}
        return np.asarray(a)


class TorchOnGpu(Library):
    def make(self, a: Any) -> Any:
        import torch

        return torch.tensor(a, device="cuda")

    def numpy(self, a: Any) -> Any:
        return a.cpu().numpy()


@pytest.mark.gpu
@pytest.mark.skipif(not fusedrnn.cuda.is_available(), reason=f"no GPU: {fusedrnn.cuda.status()}")
@pytest.mark.parametrize("cell", GPU_CELLS, ids=str)
def test_arrays_of_jax_on_a_gpu(cell: Cell, rng: np.random.Generator) -> None:
    pytest.importorskip("torch")
    through: Any = Through(JaxOnGpu(pytest.importorskip("jax")))
    problem, known = make_problem(cell, (5, 13, 7, 33), "float32", rng, lengths=True), Through(TorchOnGpu())
    for a, b in zip(problem.run(through), problem.run(known), strict=True):  # type: ignore[arg-type]
        assert_same_bits(a, b)
