"""Promise 5, safe: many Python threads at once, on the same objects, while settings and parameters change. On a
free-threaded Python nothing but the package itself keeps them apart; elsewhere the interpreter changes threads as often
as it can. What a thread may get is said in docs/threads.md: its own bits, or an error that is named there."""

from __future__ import annotations

import ctypes
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_same_bits
from by_address import ByAddress
from cases import CELLS, Array, Cell, make_problem, remade
from children import child
from fusedrnn import _core
from fusedrnn.layers import parameters, results

T, B, I, H = 6, 3, 5, 9
THREADS = 6
BUSY = "stream: expected one call at a time, got one during another"
free_threaded = pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")


@pytest.fixture(autouse=True)
def _threads_take_short_turns() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each returns in a thread of its own, or the exception that it raises; all begin at the same time."""
    barrier, found = threading.Barrier(len(works)), [None] * len(works)

    def run(place: int) -> None:
        barrier.wait()
        try:
            found[place] = works[place]()
        except Exception as e:
            found[place] = e  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    return found


def meanwhile(change: Callable[[int], None], *works: Callable[[], Any]) -> list[Any]:
    """The same, while another thread calls change(0), change(1), ... again and again."""
    done = threading.Event()

    def changes() -> None:
        number = 0
        while not done.is_set():
            change(number)
            number += 1

    def all_works() -> list[Any]:
        try:
            return at_once(*works)
        finally:
            done.set()

    changed, found = at_once(changes, all_works)
    assert changed is None
    return list(found)


def times(count: int, work: Callable[[], Any]) -> Callable[[], list[Any]]:
    return lambda: [work() for _ in range(count)]


def flat(value: Any) -> list[Array]:
    """The arrays in results, in order."""
    if isinstance(value, np.ndarray):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [a for v in values for a in flat(v)]


def bits(value: Any) -> list[bytes]:
    if isinstance(value, Exception):
        raise value
    return [a.tobytes() for a in flat(value)]


def normal(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype("float32")


# Values: each thread gets what one thread gets.


@pytest.mark.parametrize("hidden", [40, 400])  # weights that one thread packs, and several
@pytest.mark.parametrize("cell", CELLS[:2], ids=str)
def test_weights_that_nobody_has_packed(cell: Cell, hidden: int, rng: np.random.Generator) -> None:
    fusedrnn.set_num_threads(2)
    problem = make_problem(cell, (3, 2, 8, hidden), "float32", rng)
    want = problem.run()
    for _ in range(3):
        problem.w = remade(problem.cell, problem.w)
        for results_of_run in at_once(*[problem.run] * THREADS):
            for got, expected in zip(results_of_run, want, strict=True):
                assert_same_bits(got, expected)


def test_a_layer_whose_parameters_have_just_changed() -> None:
    """Nobody gets the outputs of parameters that were there before: not while another thread packs the new ones."""
    layer, fresh = (fusedrnn.GRU(I, H, 2, rng=1) for _ in range(2))
    x = normal(T, B, I)
    for _ in range(20):
        layer.parameters["bias_ih_l0"][:] += 0.25
        fresh.load_state_dict(layer.state_dict())
        want = bits(fresh(x))
        assert all(bits(got) == want for got in at_once(*[lambda: layer(x)] * THREADS))
        assert bits(layer(x)) == want


@pytest.mark.quick
def test_a_call_between_two_looks_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, at the place where it is most likely to go wrong."""
    layer, fresh, x = fusedrnn.GRU(I, H, rng=1), fusedrnn.GRU(I, H, rng=2), normal(T, B, I)
    layer(x)
    ask, others = parameters.Watch.may_have_changed, [lambda: layer(x)]

    def interrupted(*arguments: Any) -> bool:
        while others:
            at_once(others.pop())
        return ask(*arguments)

    layer.load_state_dict(fresh.state_dict())
    monkeypatch.setattr(parameters.Watch, "may_have_changed", interrupted)
    assert bits(layer(x)) == bits(fresh(x))
    assert not others


def test_a_layer_whose_parameters_change_meanwhile() -> None:
    """Outputs are then anything; those of the next call are right."""
    layer, x = fusedrnn.LSTM(I, H, 2, rng=1), normal(T, B, I)
    states = [{name: a * factor for name, a in layer.state_dict().items()} for factor in (1, -1)]
    want = []
    for state in states:
        layer.load_state_dict(state)
        want.append(bits(layer(x)))
    for last in (0, 1):
        work = times(30, lambda: layer(x))
        for got in meanwhile(lambda n: layer.load_state_dict(states[n % 2]) and None, *[work] * 3):
            assert all(a.shape == b.shape for out in got for a, b in zip(flat(out), flat(layer(x)), strict=True))
        layer.load_state_dict(states[last])
        assert all(bits(got) == want[last] for got in at_once(*[lambda: layer(x)] * THREADS))


def test_training_of_one_layer() -> None:
    """Forward and backward, and one tape by all threads."""
    layer, x, dy = fusedrnn.GRU(I, H, 2, bidirectional=True, rng=1), normal(T, B, I), normal(T, B, 2 * H)
    _, tape = layer.forward(x)
    want = bits(layer.backward(tape, dy))

    def step() -> Any:
        out, own = layer.forward(x)
        return layer.backward(own, dy), layer.backward(tape, dy), layer.backward(tape, 0 * out.y + dy)

    for got in at_once(*[times(5, step)] * THREADS):
        assert all(bits(gradients) == want for of_step in got for gradients in of_step)


def test_calls_with_dropout_share_no_masks() -> None:
    """Nor with a call that fails, whose number the next one takes; nor with one while the layer is copied."""
    layer, x = fusedrnn.GRU(I, H, 2, dropout=0.5, rng=1), normal(T, B, I)

    def call() -> int | None:
        return layer.forward(x)[1].seed

    def fail() -> None:
        with pytest.raises(ValueError, match="lengths"):
            layer.forward(x, lengths=[T + 1] * B)

    works = [times(40, call)] * 3 + [times(40, fail)] * 2 + [times(20, layer.__getstate__)]
    seeds = [seed for got in at_once(*works)[:3] for seed in got]
    assert len({*seeds, call()}) == 121
    again = fusedrnn.GRU(I, H, 2, dropout=0.5, rng=1)
    assert {again.forward(x)[1].seed for _ in range(130)} >= {*seeds}


@pytest.mark.parametrize("settings", ["threads", "schedules", "memory"])
def test_settings_change_meanwhile(settings: str) -> None:
    layer, x, dy = fusedrnn.LSTM(I, 40, 2, rng=1), normal(T, 8, I), normal(T, 8, 40)
    runner = ByAddress(layer)

    def change(n: int) -> None:
        if settings == "threads":
            fusedrnn.set_num_threads(1 + n % 3)
            fusedrnn.set_thread_source(("pool", "auto", "openmp")[n % 3])
        elif settings == "schedules":
            _core.set_schedule(("rows", "units", "wave", "2x2", "auto")[n % 5])
            _core.set_in_place(("always", "never", "auto")[n % 3])
            fusedrnn.set_isa(fusedrnn.available_isas()[n % len(fusedrnn.available_isas())])
            _core.set_machine([("start", 1.0 + n % 3)])
        else:
            fusedrnn.release_memory()

    def step() -> Any:
        out, tape = layer.forward(x)
        return out, layer.backward(tape, dy), runner.infer(x, (None, None), None, None)

    want = bits(step())
    try:
        found = meanwhile(change, *[times(8, step)] * 3)
    finally:
        _core.set_in_place("auto")
        fusedrnn.set_thread_source("auto")
    assert all(bits(of_step) == want for got in found for of_step in got)


@pytest.mark.quick
def test_a_runner_of_all_threads() -> None:
    layer, x, dy = fusedrnn.LSTM(I, H, 2, rng=1), normal(T, B, I), normal(T, B, H)
    calls = ByAddress(layer)

    def step() -> Any:
        out, kept = calls.forward(x, (None, None), None, None)
        return calls.infer(x, (None, None), None, None), out, calls.backward(kept, dy, (None, None))

    want = bits(step())
    assert all(bits(of_step) == want for got in at_once(*[times(10, step)] * THREADS) for of_step in got)


# A stream, which runs one call at a time.


def refused(found: Any) -> bool:
    """Whether the stream was in another call; else the call has succeeded."""
    if not isinstance(found, Exception):
        return False
    assert (type(found), str(found)) == (RuntimeError, BUSY)
    return True


def attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RuntimeError as e:
        return e


@pytest.mark.quick
@pytest.mark.parametrize("refreshing", [False, True])
def test_a_stream_loses_no_step(refreshing: bool) -> None:
    """Steps that were not refused, by whichever threads, are steps of one sequence; also where others give the stream
    the layer's parameters, which are the same."""
    layer, x = fusedrnn.LSTM(I, H, 2, rng=1), normal(B, I)
    stream, alone = layer.stream(B), layer.stream(B)
    works = [times(100, lambda: attempt(lambda: stream.step(x)))] * 4
    others = [times(100, lambda: attempt(stream.refresh)), times(100, lambda: attempt(stream.clone))]
    found = at_once(*works, *(others if refreshing else ()))
    steps = sum(not refused(each) for got in found[:4] for each in got)
    assert all(refused(each) or each is not stream for got in found[4:] for each in got)
    for _ in range(steps):
        last = alone.step(x)
    assert steps > 0
    assert bits(stream.state) == bits(alone.state)
    assert last.tobytes() in {each.tobytes() for got in found[:4] for each in got if not refused(each)}


@pytest.mark.quick
def test_a_refresh_while_another_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused: it could end before the other, which may have looked before parameters changed. Steps go on."""
    layer, fresh, x = fusedrnn.GRU(I, H, rng=1), fusedrnn.GRU(I, H, rng=2), normal(B, I)
    stream, alone = layer.stream(B), layer.stream(B)
    look, found = layer._stack, []

    def interrupted() -> Any:
        seen = look()
        layer.load_state_dict(fresh.state_dict())
        found.extend(at_once(lambda: attempt(stream.refresh), lambda: attempt(lambda: stream.step(x))))
        return seen

    monkeypatch.setattr(layer, "_stack", interrupted)
    stream.refresh()
    monkeypatch.undo()
    assert refused(found[0])
    assert found[1].tobytes() == alone.step(x).tobytes()
    stream.refresh()
    of_fresh = fresh.stream(B)
    of_fresh.state = alone.state
    assert stream.step(x).tobytes() == of_fresh.step(x).tobytes()


def test_all_calls_of_a_stream() -> None:
    """They are refused or succeed; the stream goes on."""
    layer, x = fusedrnn.ClockworkRNN(I, 12, 2, periods=(1, 2, 3), rng=1), normal(B, I)
    stream, out = layer.stream(B), np.empty((B, 12), "float32")
    calls: list[Callable[[], Any]] = [
        lambda: stream.step(x),
        lambda: stream.step(x, out),
        lambda: stream.step(x, None, np.array([True, False, True])),
        lambda: stream.state,
        lambda: setattr(stream, "state", None),
        lambda: stream.reset([1]),
        stream.reset,
        stream.refresh,
        lambda: stream.clone().step(x),
        lambda: layer.parameters["bias_ih_l0"].__iadd__(1),
    ]
    for got in at_once(*(times(30, lambda call=call: attempt(call)) for call in calls)):  # type: ignore[misc]
        assert not isinstance(got, Exception), got
        for each in got:
            refused(each)  # or it has succeeded
    stream.refresh()
    stream.reset()
    want = layer(x[None]).y[0]
    assert stream.step(x).tobytes() == want.tobytes()


# Dicts and lists that another thread changes during the call.


def toggled(items: dict[str, Any], names: list[str]) -> Callable[[int], None]:
    """Takes items out of the dict, and puts them back."""
    whole = dict(items)

    def change(n: int) -> None:
        name = names[n // 2 % len(names)]
        if n % 2 == 0:
            items.pop(name, None)
        else:
            items[name] = whole[name]

    return change


def test_a_state_dict_changes_meanwhile() -> None:
    """It is all there, or something is missing, and nothing has been copied."""
    layer, x = fusedrnn.GRU(I, H, rng=1), normal(T, B, I)
    state = layer.state_dict()
    want = bits(layer(x))

    def load() -> Any:
        try:
            return layer.load_state_dict(state)
        except ValueError as e:
            return None if str(e).startswith("state_dict: missing: ") else e

    for got in meanwhile(toggled(state, ["bias_hh_l0", "weight_ih_l0"]), *[times(100, load)] * 3):
        assert not isinstance(got, Exception), got
    assert bits(layer(x)) == want


def test_masks_change_meanwhile() -> None:
    layer, x = fusedrnn.GRU(I, H, 2, dropout=0.5, zoneout_h=0.25, rng=1), normal(T, B, I)
    masks = dict(layer.masks(T, B, 3))
    want = bits(layer.forward(x, masks=masks)[0])

    def call() -> Any:
        try:
            return bits(layer.forward(x, masks=masks)[0])
        except ValueError as e:
            return want if str(e).startswith("masks: expected one of ") else e

    for got in meanwhile(toggled(masks, list(masks)), *[times(50, call)] * 3):
        assert got == [want] * 50


def test_arguments_of_native_calls_change_meanwhile() -> None:
    """The dict of parameters, that of further inputs, and lengths."""
    w = fusedrnn.GRUWeights(normal(3 * H, I), normal(3 * H, H), normal(3 * H), normal(3 * H))
    cell, x, native = fusedrnn.backends.native_cell(w.spec), normal(T, B, I), w._loaded
    arrays = {name: np.array(a) for name, a in w.arrays().items()}
    inputs: dict[str, Any] = {"resets": np.zeros((T, B), bool), "reset_state": (normal(B, H),)}
    lengths = [T] * B
    want = bits(native.infer(x, (None,), None, False, {}))
    changes = [toggled(arrays, ["bias_ih", "bias_hh"]), toggled(inputs, list(inputs))]

    def change(n: int) -> None:
        for each in changes:
            each(n)
        lengths[:] = [T] * (B - n % 2)

    def make() -> Any:
        return _core.make_weights(cell, arrays, {}, None).infer(x, (None,), None, False, {})

    def infer() -> Any:
        return native.infer(x, (None,), None, False, inputs)

    def of_lengths() -> Any:
        try:
            return native.infer(x, (None,), lengths, False, {})
        except ValueError as e:
            told = str(e) == "lengths: expected shape (batch_size,) = (3,), got (2,)"
            return native.infer(x, (None,), None, False, {}) if told else e

    made, *found = meanwhile(change, times(100, make), times(100, infer), times(100, of_lengths))
    assert not isinstance(made, Exception), made
    assert all(bits(each) == want for got in found for each in got)


def test_a_list_of_tensors_that_is_emptied_while_it_is_read() -> None:
    """By Python code that a tensor runs, or by another thread in its place."""

    class Device(ctypes.Structure):
        _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))

    class DataType(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))

    class Found(ctypes.Structure):  # DLPack's tensor
        _fields_ = (
            ("data", ctypes.c_void_p),
            ("device", Device),
            ("ndim", ctypes.c_int32),
            ("dtype", DataType),
            ("shape", ctypes.POINTER(ctypes.c_int64)),
            ("strides", ctypes.POINTER(ctypes.c_int64)),
            ("byte_offset", ctypes.c_uint64),
        )

    borrow_type = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Found))

    class Exchange(ctypes.Structure):
        _fields_ = (
            ("version", ctypes.c_uint32 * 2),
            ("others", ctypes.c_void_p * 4),
            ("borrow", borrow_type),
            ("stream", ctypes.c_void_p),
        )

    number, size = ctypes.c_float(0), (ctypes.c_int64 * 1)(1)

    def borrow(tensor: int, found: Any) -> int:
        found[0] = Found(ctypes.addressof(number), Device(1, 0), 1, DataType(2, 32, 1), size, None, 0)
        return 0

    exchange = Exchange((1, 0), (None,) * 4, borrow_type(borrow), None)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    capsule = new(ctypes.addressof(exchange), b"dlpack_exchange_api", None)
    tensors: list[Any] = []
    shapes: list[Any] = []

    class Tensor:
        requires_grad = False

        def is_neg(self) -> bool:
            tensors.clear()
            shapes.clear()
            return False

    reader = _core.make_tensor_reader(capsule, Tensor, Tensor)
    for count in (1, 2, 50):
        tensors[:] = [Tensor() for _ in range(count)]
        shapes[:] = [(int("1"),) for _ in range(count)]
        assert reader.read(tensors, shapes, 32) == (False, (ctypes.addressof(number),) * count)
    wrong: Any
    for wrong in (5, "ab", {}):
        with pytest.raises(TypeError, match="tensors: expected a tuple or list, got "):
            reader.read(wrong, [], 32)


# Things that are made when they are first asked for.


def test_the_class_of_gradients_is_made_once() -> None:
    for n in range(20):
        fields = ("dx", f"d{n}", "parameters")
        assert len(set(at_once(*[lambda fields=fields: results._gradients(fields)] * THREADS))) == 1


def test_names_that_many_threads_touch_first() -> None:
    """Modules are imported by several threads, each in another order; all find the same objects, and can call them."""
    code = """
        import random, sys, threading
        sys.setswitchinterval(1e-6)
        barrier, found, wrong = threading.Barrier(8), [{} for _ in range(8)], []
        def touch(i):
            try:
                barrier.wait()
                import fusedrnn
                names = [name for name in fusedrnn.__all__ if name != "__version__"]
                random.Random(10 * SEED + i).shuffle(names)
                for name in names:
                    found[i][name] = getattr(fusedrnn, name)
                layer = fusedrnn.GRU(2, 3, rng=0)
                import numpy as np
                assert layer(np.ones((2, 1, 2), "f4")).y.any()
            except BaseException as e:
                wrong.append(e)
        threads = [threading.Thread(target=touch, args=(i,)) for i in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(wrong or [n for n in found[0] for each in found if each[n] is not found[0][n]], len(found[0]))
    """
    for seed in range(2):
        assert child(code.replace("SEED", str(seed))) == f"[] {len(fusedrnn.__all__) - 1}"


# A free-threaded Python.


def test_the_native_module_knows_its_python() -> None:
    assert bool(sysconfig.get_config_var("Py_GIL_DISABLED")) == _core.FREE_THREADED


@pytest.mark.quick
@free_threaded
def test_the_gil_stays_off() -> None:
    """After the import, and after all parts have been used; Python would warn."""
    code = """
        import importlib, pkgutil, sys
        import numpy as np, fusedrnn
        assert not sys._is_gil_enabled()
        for module in pkgutil.walk_packages(fusedrnn.__path__, "fusedrnn."):
            if module.name.split(".")[1] not in ("torch", "threadpools", "__main__"):
                importlib.import_module(module.name)
        z = lambda *shape: np.zeros(shape, "f4")
        out, tape = (layer := fusedrnn.LSTM(2, 3)).forward(z(4, 1, 2))
        layer.backward(tape, out.y), layer.stream().step(z(1, 2)), fusedrnn.cuda.status()
        fusedrnn.reference.gru(z(2, 1, 2), fusedrnn.GRUWeights(z(9, 2), z(9, 3)))
        print(sys._is_gil_enabled())
    """
    assert child(code, PYTHONWARNINGS="error", PYTHON_GIL="") == "False"
