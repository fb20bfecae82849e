"""The sLSTM: its stabilised form is that of the paper without m, and what happens where numbers are extreme."""

from __future__ import annotations

import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_close, named, roundings
from cases import CELLS, Array, make_problem
from fusedrnn.reference.common import recurrent

SLSTM = [c for c in CELLS if c.op == "slstm"]
T, B, I, H = 6, 4, 3, 7
INF = float("inf")
modules = pytest.mark.parametrize("module", [fusedrnn, fusedrnn.reference], ids=["kernels", "reference"])
gates = pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def unstabilised(x: Array, w: Any, states: list[Array]) -> Any:
    """The paper's equations 8 to 14, without m; c and n are exp(m) times the states c and n."""
    h, c, n, m = states
    c, n, ys = c * np.exp(m), n * np.exp(m), []
    for x_t in x:
        a = x_t @ w.weight_ih.T + w.bias_ih + recurrent(w.weight_hh, h) + w.bias_hh
        a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
        f = np.exp(a_f) if w.forget_gate == "exp" else 1 / (1 + np.exp(-a_f))
        c, n = f * c + np.exp(a_i) * np.tanh(a_g), f * n + np.exp(a_i)
        h = c / n / (1 + np.exp(-a_o))
        ys.append(h)
    return np.stack(ys), h, c, n


@pytest.mark.parametrize("cell", SLSTM, ids=str)
@modules
@pytest.mark.parametrize("empty", [False, True], ids=["states", "empty"])
def test_the_stabilised_form_is_the_plain_one(
    cell: Any, module: ModuleType, empty: bool, rng: np.random.Generator
) -> None:
    problem = make_problem(cell, (T, B, I, H), "float64", rng)
    states = [np.full_like(s, -INF if i == 3 else 0) for i, s in enumerate(problem.states)] if empty else problem.states
    y, h, c, n = unstabilised(problem.x, problem.w, states)
    out = module.slstm(problem.x, problem.w, *([None] * 4 if empty else states))
    scale = np.exp(out.m_n)
    want = fusedrnn.SLSTMOutput(y, h, c / scale, n / scale, out.m_n)
    assert_close(out, want, "float64", roundings(problem, gradients=False), given=problem.states)


def one_unit(dtype: str, forget_gate: str, a: Any, *states: float, module: ModuleType = fusedrnn) -> dict[str, float]:
    """A step of one unit with these pre-activations, and the gradients of its states and of the pre-activations where
    each output has the gradient 1."""
    w = fusedrnn.SLSTMWeights(
        np.zeros((4, 1), dtype), np.zeros((4, 1), dtype), np.array(a, dtype), forget_gate=forget_gate
    )
    one = np.ones((1, 1), dtype)
    given: list[Any] = [np.full((1, 1), s, dtype) for s in states] or [None] * 4
    out, reserve = module.slstm_forward(one[None], w, *given)
    g = module.slstm_backward(reserve, one[None], None, one, one, one)
    found = {name: value.item() for name, value in named(out)}
    found |= {name: value.item() for name, value in named(g) if name in ("dh0", "dc0", "dn0", "dm0")}
    return found | dict(zip(("da_i", "da_f", "da_g", "da_o"), g.dbias_ih.tolist(), strict=True))


@modules
@gates
@dtypes
def test_the_empty_state(module: ModuleType, forget_gate: str, dtype: str) -> None:
    """Whatever the gates i and f, the first step takes g alone, and nothing of its gradients goes to the states."""
    for a_i in (0.5, -200.0, 300.0, INF, -INF):
        for a_f in (0.3, -300.0, 300.0, INF, -INF):
            got = one_unit(dtype, forget_gate, (a_i, a_f, 0.25, 0.0), module=module)
            finite = np.clip(a_i, np.finfo(dtype).min, np.finfo(dtype).max)
            eps = float(np.finfo(dtype).eps)
            np.testing.assert_allclose(got["c_n"], np.tanh(0.25), rtol=2 * eps)
            np.testing.assert_allclose(got["h_n"], np.tanh(0.25) / 2, rtol=4 * eps)
            assert (got["n_n"], got["m_n"]) == (1, finite), (a_i, a_f)
            assert [got[f"d{s}0"] for s in "hcnm"] == [0, 0, 0, 0], (a_i, a_f)
            assert (got["da_i"], got["da_f"]) == (1, 0), (a_i, a_f)


@modules
@gates
@dtypes
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_nothing_overflows(module: ModuleType, forget_gate: str, dtype: str) -> None:
    """From a state that a run may give, |h| is at most 1 and all is a number, whatever the pre-activations."""
    largest = float(np.finfo(dtype).max)
    values = (0.0, 1e4, -1e4, 1e30, -1e30, INF, -INF)
    for a_i in values:
        for a_f in values:
            for m in (0.0, 1e30, -1e30, largest, -largest, -INF):
                got = one_unit(dtype, forget_gate, (a_i, a_f, 1.0, 1.0), 0.5, 0.9, 1.5, m, module=module)
                context = f"{a_i} {a_f} {m}: {got}"
                assert not np.isnan(list(got.values())).any(), context
                assert abs(got["h_n"]) <= 1, context
                assert got["n_n"] >= 1, context
                assert abs(got["c_n"]) <= got["n_n"], context


@gates
def test_a_tie_goes_to_the_input_gate(forget_gate: str) -> None:
    a_f = 0.0 if forget_gate == "exp" else INF
    for zero in (0.0, -0.0):
        for module in (fusedrnn, fusedrnn.reference):
            got = one_unit("float64", forget_gate, (zero, a_f, 0.0, 0.0), 0.0, 0.0, 1.0, 0.0, module=module)
            # n = f * n_prev + i with f = i = 1: the gradients of i and f are 1, that of m is 1 - 1 - 1.
            assert (got["n_n"], got["dm0"], got["da_i"]) == (2, 1, 0)


@modules
@pytest.mark.parametrize("where", ["x", "h0", "c0", "n0", "m0"])
def test_nan_is_passed_on(module: ModuleType, where: str, rng: np.random.Generator) -> None:
    problem = make_problem(SLSTM[0], (3, 2, I, H), "float32", rng)
    given = dict(zip(("x", "h0", "c0", "n0", "m0"), [problem.x, *problem.states], strict=True))
    given[where] = given[where].copy()
    given[where][..., 0, 0] = np.nan
    out = module.slstm(given.pop("x"), problem.w, *given.values())
    assert np.isnan(out.y[-1, 0]).any()
    assert not np.isnan(out.y[:, 1]).any()
    reached = np.isnan(out.c_n[0]) if where != "n0" else np.isnan(out.n_n[0])
    assert reached.any()
    if where in ("x", "h0"):
        assert np.isnan(out.m_n[0]).all()


@gates
def test_options_errors_and_pickles(forget_gate: str, rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal(shape).astype("float32") for shape in ((4 * H, I), (4 * H, H))]
    w = fusedrnn.SLSTMWeights(*arrays, forget_gate=forget_gate)
    again = pickle.loads(pickle.dumps(w))
    assert again.forget_gate == forget_gate
    layer = fusedrnn.SLSTM(I, H, 2, forget_gate=forget_gate, rng=1)
    assert f"forget_gate={forget_gate!r}" in repr(layer) or forget_gate == "sigmoid"
    x = rng.standard_normal((T, B, I)).astype("float32")
    out, other = layer(x), pickle.loads(pickle.dumps(layer))(x)
    for a, b in zip(out, other, strict=True):
        np.testing.assert_array_equal(a, b)
    text = "forget_gate: expected one of 'sigmoid', 'exp', got 'tanh'"
    with pytest.raises(ValueError, match=text):
        fusedrnn.SLSTMWeights(*arrays, forget_gate="tanh")
    with pytest.raises(ValueError, match=text):
        fusedrnn.SLSTM(I, H, forget_gate="tanh")
    with pytest.raises(TypeError, match=r"out: expected a tuple \(h, c, n, m\) of four arrays, got ndarray"):
        fusedrnn.slstm_cell(x[0], w, out=x[0])


@gates
def test_streams_begin_and_begin_again_with_the_empty_state(forget_gate: str, rng: np.random.Generator) -> None:
    layer = fusedrnn.SLSTM(I, H, 2, forget_gate=forget_gate, rng=1)
    x = rng.standard_normal((T, B, I)).astype("float32")
    want = layer(x)
    stream = layer.stream(B)
    empty = stream.state
    assert [float(s.min()) for s in empty] == [float(s.max()) for s in empty] == [0, 0, 0, -INF]
    for how in ("new", "reset", "rows", "None"):
        if how == "reset":
            stream.reset()
        elif how == "rows":
            stream.reset(range(B))
        elif how == "None":
            stream.state = None
        for t in range(T):
            np.testing.assert_array_equal(stream.step(x[t]), want.y[t], err_msg=how)
    for a, b in zip(stream.state, want[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@gates
def test_derivatives_of_any_order_from_the_empty_state(forget_gate: str) -> None:
    """By PyTorch's operators, through which -inf would make NaN of a product with 0."""
    torch = pytest.importorskip("torch")
    import fusedrnn.torch as frt

    torch.manual_seed(0)
    module = frt.SLSTM(I, H, forget_gate=forget_gate, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: module(x)[0], x, fast_mode=True)
