"""The same function as PyTorch and ONNX Runtime, where they are installed: gate order, biases, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_arrays_close, assert_close, element_bound, named, roundings, roundings_of_layers
from cases import CELLS, PLAIN_CELLS, Cell, Problem, given, make_problem

cells = pytest.mark.parametrize("cell", [c for c in PLAIN_CELLS if c.name != "gru_reset_before"], ids=lambda c: c.name)
SHAPE = (6, 4, 5, 20)
ACTIVATION_OF_ONNXRUNTIME = 2**-21  # about how far its activations, rational approximations, are off


@cells
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    _, _, I, H = SHAPE
    problem = make_problem(cell, SHAPE, dtype, rng)
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell.op]
    options = {"nonlinearity": cell.name.removeprefix("rnn_")} if cell.op == "rnn" else {}
    layer = kind(I, H, dtype=getattr(torch, dtype), **options)
    w = problem.w
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(layer, name + "_l0").copy_(torch.tensor(np.array(getattr(w, name))))
    x = torch.tensor(problem.x, requires_grad=True)
    states = [torch.tensor(s[None], requires_grad=True) for s in problem.states]
    y, last = layer(x, tuple(states) if len(states) == 2 else states[0])
    last = last if isinstance(last, tuple) else (last,)
    torch.autograd.backward([y, *last], [torch.tensor(problem.dy), *(torch.tensor(d[None]) for d in problem.dstates)])
    out, grads = problem.run()
    want: dict[str, Any] = {"y": y, "h_n": last[0][0], "dx": x.grad, "dh0": states[0].grad[0]}
    if cell.states == 2:
        want |= {"c_n": last[1][0], "dc0": states[1].grad[0]}
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        want["d" + name] = getattr(layer, name + "_l0").grad
    for results, gradients in ((out, False), (grads, True)):
        theirs = type(results)(**{name: want[name].detach().numpy() for name, _ in named(results)})
        assert_close(results, theirs, dtype, 4 * roundings(problem, gradients=gradients))  # both sides round


@pytest.mark.parametrize("cell", PLAIN_CELLS, ids=lambda c: c.name)
def test_onnxruntime(cell: Cell, rng: np.random.Generator) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx_model import STATES, make_session

    problem = make_problem(cell, SHAPE, "float32", rng)
    w = problem.w
    attributes: dict[str, Any] = {}
    if cell.op == "gru":
        attributes["linear_before_reset"] = int(cell.name == "gru_reset_after")
    if cell.op == "rnn":
        attributes["activations"] = ["Tanh" if cell.name == "rnn_tanh" else "Relu"]
    weights = [w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh]
    session = make_session(cell.op, weights, SHAPE, with_states=True, threads=1, **attributes)
    states = {name: s[None] for name, s in zip(STATES[cell.op], problem.states, strict=True)}
    (y,) = session.run(None, {"X": problem.x} | states)
    assert_close_to_onnxruntime(problem, y[:, 0])


def assert_close_to_onnxruntime(problem: Problem, y: Any) -> None:
    """y, which lies within -1..1. Both sides round, and ONNX Runtime's activations err once in each step."""
    bound = element_bound("float32", 2 * roundings(problem, gradients=False)) + len(y) * ACTIVATION_OF_ONNXRUNTIME
    np.testing.assert_allclose(problem.run()[0].y, y, rtol=0, atol=bound)


def onnxruntime_y(problem: Problem, weights: list[Any], **options: Any) -> Any:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx_model import STATES, make_session

    session = make_session("lstm", weights, SHAPE, with_states=True, threads=1, **options)
    states = {name: s[None] for name, s in zip(STATES["lstm"], problem.states, strict=True)}
    return session.run(None, {"X": problem.x} | states)[0][:, 0]


def test_onnxruntime_peepholes(rng: np.random.Generator) -> None:
    cell = next(c for c in CELLS if c.name == "lstm_peephole")
    problem = make_problem(cell, SHAPE, "float32", rng)
    w = problem.w
    weights, peepholes = [w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh], [w.peephole_i, w.peephole_f, w.peephole_o]
    y = onnxruntime_y(problem, weights, peepholes=peepholes)
    assert_close_to_onnxruntime(problem, y)


def test_onnxruntime_input_forget(rng: np.random.Generator) -> None:
    """Its coupled gates are f = 1 - i: our f, negated, as its i; its own f is not looked at."""
    cell = next(c for c in CELLS if c.name == "lstm_coupled")
    problem = make_problem(cell, SHAPE, "float32", rng)
    weights = []
    for a in given(problem.w).values():
        f, g, o = np.split(a, 3)
        weights.append(np.concatenate([-f, np.full_like(f, 7), g, o]))
    y = onnxruntime_y(problem, weights, input_forget=1)
    assert_close_to_onnxruntime(problem, y)


LAYERS = [
    ("LSTM", {}),
    ("LSTM", {"proj_size": 7}),
    ("GRU", {}),
    ("RNN", {"nonlinearity": "tanh"}),
    ("RNN", {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize(("name", "options"), LAYERS, ids=["lstm", "lstm_projected", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch_first"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_layers_of_torch(
    name: str,
    options: dict[str, Any],
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    rng: np.random.Generator,
) -> None:
    """In float64, where rounding tells a wrong order of anything from the right one."""
    torch = pytest.importorskip("torch")
    (T, B, I, H), kwargs = SHAPE, {"bidirectional": bidirectional, "batch_first": batch_first}
    layer = getattr(fusedrnn, name)(I, H, num_layers, dtype="float64", rng=1, **kwargs, **options)
    theirs = getattr(torch.nn, name)(I, H, num_layers, dtype=torch.float64, **kwargs, **options)
    theirs.load_state_dict({key: torch.from_numpy(a) for key, a in layer.state_dict().items()})
    runs, P = num_layers * (1 + bidirectional), options.get("proj_size", H)

    def arrays(*widths: int) -> list[Any]:
        return [rng.standard_normal((runs, B, n)) for n in widths]

    widths = (P, H) if name == "LSTM" else (P,)
    x = rng.standard_normal((B, T, I) if batch_first else (T, B, I))
    states, dstates = arrays(*widths), arrays(*widths)
    dy = rng.standard_normal((*x.shape[:2], P * (1 + bidirectional)))
    out, tape = layer.forward(x, tuple(states) if len(states) > 1 else states[0])
    g = layer.backward(tape, dy, tuple(dstates) if len(dstates) > 1 else dstates[0])

    tx, ts = (torch.from_numpy(x).requires_grad_(), [torch.from_numpy(s).requires_grad_() for s in states])
    ty, last = theirs(tx, tuple(ts) if len(ts) > 1 else ts[0])
    last = last if isinstance(last, tuple) else (last,)
    torch.autograd.backward([ty, *last], [torch.from_numpy(a) for a in (dy, *dstates)])
    ours = dict(named(out)) | dict(zip(g._fields[:-1], g[:-1], strict=True))
    tensors = [ty, *last, tx.grad, *(s.grad for s in ts)]
    expected = dict(zip(ours, tensors, strict=True)) | {key: p.grad for key, p in theirs.named_parameters()}
    want = {name: a.detach().numpy() for name, a in expected.items()}
    assert_arrays_close(ours | g.parameters, want, "float64", roundings_of_layers(layer, T, B, gradients=True))


def test_state_dicts_of_torch() -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LSTM(5, 6, 2, bidirectional=True, proj_size=4)
    layer = fusedrnn.LSTM(5, 6, 2, bidirectional=True, proj_size=4)
    assert list(layer.parameters) == list(theirs.state_dict())
    assert layer.load_state_dict(theirs.state_dict()) == ([], [])
    for name, p in theirs.named_parameters():
        np.testing.assert_array_equal(layer.parameters[name], p.detach().numpy())
    with pytest.raises(ValueError, match="missing: weight_ih_l0, .*; unexpected: weight"):
        layer.load_state_dict(torch.nn.Linear(3, 4).state_dict())
    tensor = torch.from_numpy(layer.parameters["weight_ih_l0"])  # it shares the memory
    x = np.ones((2, 1, 5), "float32")
    before = layer(x).y
    tensor.add_(1)
    assert (layer(x).y != before).any()


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
def test_layers_of_onnxruntime(bidirectional: bool, rng: np.random.Generator) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx_model import make_stack_session

    (T, B, I, H), directions = SHAPE, ["", "_reverse"][: 1 + bidirectional]
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for op in ("lstm", "gru"):
        layer = getattr(fusedrnn, op.upper())(I, H, 2, bidirectional=bidirectional, rng=2)
        p = layer.state_dict()
        weights = [[[p[f"{name}_l{i}{d}"] for name in names] for d in directions] for i in range(2)]
        extra = {"linear_before_reset": 1} if op == "gru" else {}
        session = make_stack_session(op, weights, SHAPE, with_states=False, threads=1, **extra)
        x = rng.standard_normal((T, B, I)).astype("float32")
        y = session.run(None, {"X": x})[0]
        # Each layer adds its last step's error; gates make the earlier ones fade. Beside it roundings are few.
        bound = layer.num_layers * ACTIVATION_OF_ONNXRUNTIME
        np.testing.assert_allclose(layer(x).y, y.transpose(0, 2, 1, 3).reshape(T, B, -1), rtol=0, atol=bound)
