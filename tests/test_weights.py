"""Weights as objects: never half made, collected with what they refer to, copied and pickled whole."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import gc
import pickle
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import fakegpu
import fusedrnn
from agreement import assert_same_bits
from arguments import B, H, I, T, array, clockwork_weights, lstm_weights
from cases import CELLS, Cell, make_problem
from fusedrnn import _core

cells = pytest.mark.parametrize("cell", CELLS, ids=str)


def test_weights_that_no_constructor_has_seen() -> None:
    w = fusedrnn.LSTMWeights.__new__(fusedrnn.LSTMWeights)
    for name in ("weight_ih", "input_size", "hidden_size", "dtype", "cell", "gates", "variant", "spec"):
        with pytest.raises(AttributeError, match="LSTMWeights: these weights have not been initialised"):
            getattr(w, name)
    for call in (w.arrays, lambda: fusedrnn.lstm(array(T, B, I), w), lambda: pickle.dumps(w)):
        with pytest.raises(AttributeError, match="these weights have not been initialised"):
            call()
    assert repr(w) == "<fusedrnn.LSTMWeights, not initialised>"
    assert repr(copy.copy(w)) == repr(w)


def test_a_subclass_that_reads_too_early() -> None:
    class Early(fusedrnn.GRUWeights):
        def __init__(self, *arrays: Any) -> None:
            with pytest.raises(AttributeError, match="Early: these weights have not been initialised"):
                _ = self.weight_ih
            super().__init__(*arrays)

    assert Early(array(3 * H, I), array(3 * H, H)).weight_ih.shape == (3 * H, I)


def test_weights_whose_constructor_raised() -> None:
    kept = []

    class Keeping(fusedrnn.RNNWeights):
        def __init__(self, *arrays: Any) -> None:
            kept.append(self)
            super().__init__(*arrays)

    with pytest.raises(ValueError, match="weight_hh: expected shape"):
        Keeping(array(H, I), array(H, I))
    with pytest.raises(AttributeError, match="Keeping: these weights have not been initialised"):
        _ = kept[0].weight_hh
    Keeping.__init__(kept[0], array(H, I), array(H, H))  # a second attempt may succeed
    assert kept[0].hidden_size == H


def test_a_second_initialisation_is_refused() -> None:
    w = lstm_weights()
    before = fusedrnn.lstm(array(T, B, I), w).y
    with pytest.raises(RuntimeError, match="LSTMWeights: weights are a snapshot, and cannot be initialised again"):
        fusedrnn.LSTMWeights.__init__(w, array(3 * H, I), array(3 * H, H), variant="coupled")
    assert w.variant == "plain"
    np.testing.assert_array_equal(fusedrnn.lstm(array(T, B, I), w).y, before)


def test_arrays_and_options_cannot_be_replaced() -> None:
    w = lstm_weights()
    for name in ("weight_ih", "bias_hh", "peephole_o", "variant"):
        with pytest.raises(AttributeError, match=f"{name}: weights are a snapshot of arrays, and cannot be changed"):
            setattr(w, name, None)
    with pytest.raises(AttributeError, match="'LSTMWeights' object has no attribute 'weight'"):
        _ = w.weight


@pytest.mark.parametrize("name", ["Weights", "Cell", "Memory", "CudaCell", "CudaRun"])
def test_native_objects_are_made_by_functions_alone(name: str) -> None:
    cls = getattr(_core, name)
    for make in (cls, lambda: cls.__new__(cls), lambda: object.__new__(cls)):
        with pytest.raises(TypeError):
            make()
    with pytest.raises(TypeError, match="is not an acceptable base type"):
        type("Derived", (cls,), {})


def test_a_reserve_that_no_constructor_has_seen() -> None:
    reserve = fusedrnn.Reserve.__new__(fusedrnn.Reserve)
    for name in ("nbytes", "weights", "cell", "dtype"):
        with pytest.raises(AttributeError):
            getattr(reserve, name)
    with pytest.raises(AttributeError):
        fusedrnn.lstm_backward(reserve, None)


@cells
def test_weights_that_refer_to_their_own_reserve_are_collected(cell: Cell, rng: np.random.Generator) -> None:
    """The reserve refers to the weights, and to inputs that may refer to anything."""

    class Labelled(np.ndarray):
        pass

    problem = make_problem(cell, (3, 2, 4, 5), "float32", rng)
    x, w = problem.x.view(Labelled), problem.w
    _, w.last = cell.functions()[1](x, w, *problem.states)
    w.view, x.reserve = w.weight_ih, w.last  # type: ignore[attr-defined]
    alive = weakref.ref(w)
    del problem, w, x
    gc.collect()
    assert alive() is None


def round_trips(w: Any) -> list[Any]:
    return [copy.copy(w), copy.deepcopy(w), *(pickle.loads(pickle.dumps(w, p)) for p in range(6))]


@cells
def test_copies_and_pickles_are_whole(cell: Cell, rng: np.random.Generator) -> None:
    """Arrays, options and format, and attributes of the user's own; the same bits come of them."""
    problem = make_problem(cell, (3, 2, 4, 9), "float64", rng)
    problem.w.label = ["mine"]
    want = problem.run()
    for w in round_trips(problem.w):
        assert type(w) is type(problem.w)
        assert w is not problem.w
        assert w.label == ["mine"]
        assert w.spec is problem.w.spec
        assert (w.cell, w._options, w.dtype) == (cell.native, problem.w._options, "float64")
        for name, a in problem.w.arrays().items():
            b = w.arrays()[name]
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(a, b)
                assert not b.flags.writeable
        for got, expected in zip(type(problem)(**vars(problem) | {"w": w}).run(), want, strict=True):
            assert_same_bits(got, expected)
    assert copy.copy(problem.w).label is problem.w.label
    assert copy.deepcopy(problem.w).label is not problem.w.label


def test_a_subclass_with_a_constructor_of_its_own_is_copied() -> None:
    for w in round_trips(Sized(H)):
        assert isinstance(w, Sized)
        assert (w.size, w.place) == (H, "in a slot")
        assert w.weight_hh.shape == (H, H)


class Sized(fusedrnn.RNNWeights):
    __slots__ = ("place",)

    def __init__(self, size: int) -> None:
        self.size, self.place = size, "in a slot"
        super().__init__(array(size, I), array(size, size))


class Reduced(fusedrnn.RNNWeights):
    def __init__(self, size: int) -> None:
        super().__init__(array(size, I), array(size, size))

    def __reduce__(self) -> Any:
        return Reduced, (self.hidden_size,)


def test_a_subclass_may_say_how_it_is_pickled() -> None:
    again = pickle.loads(pickle.dumps(Reduced(H)))
    assert isinstance(again, Reduced)
    assert again.hidden_size == H


def test_a_subclass_may_have_other_bases() -> None:
    class Noting:
        noted: ClassVar[list[str]] = []

        def __init_subclass__(cls, note: str = "", **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.noted.append(note)

    class Both(fusedrnn.GRUWeights, Noting, note="seen"):
        pass

    assert Both.noted == ["seen"]
    assert Both(array(3 * H, I), array(3 * H, H)).cell == "gru_reset_after"


def test_a_parameter_that_a_cell_lacks_is_none() -> None:
    assert fusedrnn.IndRNNWeights(array(H, I), array(H)).bias_hh is None


def test_a_reserve_is_what_forward_made() -> None:
    _, reserve = fusedrnn.lstm_forward(array(T, B, I), lstm_weights())
    for name in ("weights", "nbytes", "cell", "dtype"):
        with pytest.raises(AttributeError):
            setattr(reserve, name, None)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="a Reserve belongs to one forward: it cannot be copied or pickled"):
            copied(reserve)


def test_functions_can_be_pickled() -> None:
    for module in (fusedrnn, fusedrnn.reference):
        assert pickle.loads(pickle.dumps(module.lstm_forward)) is module.lstm_forward
    assert "reference" in dir(fusedrnn)


def test_an_interrupted_backward_leaves_its_reserve(rng: np.random.Generator) -> None:
    """An exception that a signal raises is delivered after the kernel."""
    problem = make_problem(CELLS[0], (200, 8, 64, 128), "float32", rng)

    class Alarm(Exception):
        pass

    def ring(*_: Any) -> None:
        raise Alarm

    _, reserve = fusedrnn.lstm_forward(problem.x, problem.w)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002)  # the kernel takes some 10 ms
        with pytest.raises(Alarm):
            fusedrnn.lstm_backward(reserve, problem.dy)
            while True:  # on a machine where it takes less
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    _, fresh = fusedrnn.lstm_forward(problem.x, problem.w)
    again, want = (fusedrnn.lstm_backward(r, problem.dy) for r in (reserve, fresh))
    assert_same_bits(again, want)


def test_the_base_of_all_weights() -> None:
    """It takes a spec, and the parameters by name."""
    spec, arrays = lstm_weights().spec, lstm_weights().arrays()
    w = fusedrnn.Weights(spec, arrays)
    assert w.weight_ih.shape == (4 * H, I)
    np.testing.assert_array_equal(fusedrnn.lstm(array(T, B, I), w).y, fusedrnn.lstm(array(T, B, I), lstm_weights()).y)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="spec"):
        w.spec = spec  # type: ignore[misc]
    with pytest.raises(TypeError, match="spec: expected a CellSpec, got int"):
        fusedrnn.Weights(5, arrays)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight_ih: expected a numpy.ndarray, got NoneType"):
        fusedrnn.Weights(spec, {})
    with pytest.raises(TypeError, match="arguments: expected a dict, got ndarray"):
        fusedrnn.Weights(spec, array(3))
    clockwork = clockwork_weights()
    with pytest.raises(TypeError, match="periods: expected a value among the arguments, got none"):
        fusedrnn.Weights(clockwork.spec, clockwork.arrays())
    other = dataclasses.replace(spec, parameters=spec.parameters[:2])  # another spec of the same native cell
    assert list(fusedrnn.Weights(other, arrays).arrays()) == ["weight_ih", "weight_hh"]


def test_another_process_reads_a_pickle(tmp_path: Path) -> None:
    w = lstm_weights(peephole_o=array(H), bias_hh=None)
    (tmp_path / "w").write_bytes(pickle.dumps(w))
    code = "import pickle, sys; w = pickle.load(open(sys.argv[1], 'rb')); print(repr(w))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "w"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(w)


def test_a_repr_says_what_the_weights_are() -> None:
    got = repr(lstm_weights(peephole_o=array(H), bias_hh=None))
    assert got == (
        "<fusedrnn.LSTMWeights of lstm_peephole, input_size=5, hidden_size=6, float32, variant='plain', "
        "weight_ih, weight_hh, bias_ih, peephole_o>"
    )


def test_weights_on_a_gpu_keep_their_format(roomy: ctypes.CDLL) -> None:
    arrays = [fakegpu.asarray(np.ones(s, "float32")) for s in ((4 * H, I), (4 * H, H))]
    fusedrnn.cuda.set_float32_products("tf32")
    try:
        w = fusedrnn.LSTMWeights(*arrays)
    finally:
        fusedrnn.cuda.set_float32_products("float32")
    x = fakegpu.asarray(np.ones((T, B, I), "float32"))
    for again in round_trips(w):
        assert again._loaded.format == "tf32"
        np.testing.assert_array_equal(fusedrnn.lstm(x, again).y.data, fusedrnn.lstm(x, w).y.data)
