"""Every cell as a module for PyTorch: the bits of the NumPy layer, derivatives, options, first values, copies."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import rounding, roundings_of_layers
from cases import possible
from fusedrnn.cells.families import LAYERS
from fusedrnn.cells.spec import CellSpec
from stacks import by_name

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from torch_agreement import skip_without_autocast  # noqa: E402
from torch_pairs import bits, flat, loss_of, natively, one_or_all  # noqa: E402

T, B, I, H = 5, 3, 4, 12
PERIODS = (1, 2, 3)
LENGTHS = [3, 5, 1]
Spec = CellSpec[Any, Any]
OF_LAYERS = [(name, spec) for name, kind in LAYERS.items() for spec in kind._options.specs]
OF_CELLS = [(name, spec) for name, spec in OF_LAYERS if hasattr(frt, f"{name}Cell")]
layers = pytest.mark.parametrize(("name", "spec"), OF_LAYERS, ids=[spec.cell for _, spec in OF_LAYERS])
cells = pytest.mark.parametrize(("name", "spec"), OF_CELLS, ids=[spec.cell for _, spec in OF_CELLS])
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.manual_seed(sum(map(ord, request.node.name)))
    yield
    frt.set_fallback("warn")


def options_of(spec: Spec, hidden_size: int = H) -> dict[str, Any]:
    options = dict(spec.layer_options or {})
    if "periods" in spec.values:
        options["periods"] = PERIODS
    if spec.projection:
        options["proj_size"] = hidden_size - 1
    return options


def make(name: str, spec: Spec, *sizes: int, dtype: str = "float64", **arguments: Any) -> Any:
    """A module, on one side of a kink if its cell has one."""
    sizes = sizes or (I, H)
    of = {**options_of(spec, sizes[1]), **arguments}
    module = getattr(frt, name)(*sizes, dtype=getattr(torch, dtype), **of)
    if spec.options.get("nonlinearity") == "relu":
        with torch.no_grad():
            for n, p in module.named_parameters():
                if n.startswith("bias_ih"):
                    p += torch.where(torch.arange(p.numel()) % 2 == 1, 4.0, -4.0)
                elif n.startswith("weight_hh"):
                    p *= 0.25
    return module


def layer_of(name: str, module: Any, spec: Spec, **arguments: Any) -> fusedrnn.Layer:
    """The NumPy layer with the module's parameters."""
    dtype = str(module.weight_ih_l0.dtype).removeprefix("torch.")
    sizes = (module.input_size, module.hidden_size, module.num_layers)
    options = {"bidirectional": module.bidirectional, **options_of(spec, module.hidden_size), **arguments}
    layer = getattr(fusedrnn, name)(*sizes, dtype=dtype, **options)
    layer.load_state_dict(module.state_dict())
    return layer  # type: ignore[no-any-return]


def units(spec: Spec, hidden_size: int = H) -> list[int]:
    return [s.length(hidden_size, hidden_size - 1 if spec.projection else hidden_size) for s in spec.states]


class Call:
    """The tensors of a call of layers, and what it gives in a form of arguments."""

    def __init__(self, module: Any, spec: Spec, batch: int = B) -> None:
        dtype, runs = module.weight_ih_l0.dtype, module.num_layers * (1 + module.bidirectional)
        self.spec, self.batch = spec, batch
        self.x = torch.randn(T, batch, module.input_size, dtype=dtype)
        states = [torch.randn(runs, batch, n, dtype=dtype) for n in units(spec, module.hidden_size)]
        self.states = possible(spec, states)
        self.dstates = [torch.randn_like(s) for s in self.states]
        width = (1 + module.bidirectional) * units(spec, module.hidden_size)[0]
        self.dy = torch.randn(T, batch, width, dtype=dtype)
        self.start: dict[str, Any] = {"start": np.arange(batch)} if spec.numbered else {}

    def of_numpy(self, layer: fusedrnn.Layer, rows: Any = slice(None), **kwargs: Any) -> dict[str, Any]:
        """Outputs and gradients, of rows in another order."""
        start = {k: v[rows] for k, v in self.start.items()}
        states, dstates = ([s[:, rows].numpy() for s in of] for of in (self.states, self.dstates))
        out, tape = layer.forward(self.x[:, rows].numpy(), one_or_all(states), **start, **kwargs)
        gradients = by_name(layer.backward(tape, self.dy[:, rows].numpy(), one_or_all(dstates)))
        return dict(zip(out._fields, out, strict=True)) | gradients

    def of_torch(self, module: Any, form: str = "whole", **kwargs: Any) -> dict[str, Any]:
        """The same of the module; y, x and their gradients as (T, B, .), or packed rows."""
        x = self.x.clone().requires_grad_()
        states = [s.clone().requires_grad_() for s in self.states]
        given: Any = x
        start: dict[str, Any] = {k: torch.as_tensor(v) for k, v in self.start.items()}
        if form == "packed":
            given = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
        elif form == "batch_first":
            given = x.transpose(0, 1)
        elif form == "unbatched":
            given = x[:, 0]
        hx = one_or_all([s[:, 0] for s in states] if form == "unbatched" else states)
        y, last = module(given, hx, **start, **kwargs)
        dy, dstates = self.dy, self.dstates
        if form == "packed":
            y, dy = y.data, pack_padded_sequence(dy, LENGTHS, enforce_sorted=False).data
        elif form == "batch_first":
            y = y.transpose(0, 1)
        elif form == "unbatched":
            dy, dstates = dy[:, 0], [d[:, 0] for d in dstates]
        lasts = list(flat(last))
        named = {**dict(module.named_parameters()), "dx": x}
        names = [s.name for s in self.spec.states]
        named |= {f"d{n}0": s for n, s in zip(names, states, strict=True)}
        grads = torch.autograd.grad([y, *lasts], list(named.values()), [dy, *dstates])
        outputs = {"y": y} | {f"{n}_n": s for n, s in zip(names, lasts, strict=True)}
        return outputs | dict(zip(named, grads, strict=True))


def assert_bits(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert set(got) == set(want)
    for name, a in want.items():
        g = got[name].detach().numpy()
        assert (g.dtype, g.size) == (a.dtype, a.size), name
        assert np.ascontiguousarray(g).tobytes() == np.ascontiguousarray(a).tobytes(), name


# The bits of the NumPy layers.


@layers
@directions
@dtypes
@pytest.mark.parametrize("form", ["whole", "lengths", "batch_first", "unbatched", "packed"])
def test_a_module_has_the_bits_of_the_layer(name: str, spec: Spec, bidirectional: bool, dtype: str, form: str) -> None:
    module = make(name, spec, I, H, 2, dtype=dtype, bidirectional=bidirectional, batch_first=form == "batch_first")
    call, layer = Call(module, spec, 1 if form == "unbatched" else B), layer_of(name, module, spec)
    lengths: dict[str, Any] = {"lengths": [0, 5, 2]} if form == "lengths" else {}
    with natively(1):
        got = call.of_torch(module, form, **lengths)
    if form == "packed":
        rows = torch.tensor(LENGTHS).argsort(descending=True).numpy()
        want = call.of_numpy(layer, rows, lengths=np.array(LENGTHS)[rows])
        back = rows.argsort()
        for n in want:
            if n in ("y", "dx"):
                packed = pack_padded_sequence(torch.from_numpy(want[n][:, back]), LENGTHS, enforce_sorted=False)
                want[n] = packed.data.numpy()
            elif n.endswith("_n") or n.removesuffix("0") in [f"d{s.name}" for s in spec.states]:
                want[n] = want[n][:, back]
        padded = got["dx"]
        got["dx"] = pack_padded_sequence(padded, LENGTHS, enforce_sorted=False).data
    else:
        want = call.of_numpy(layer, **lengths)
    assert_bits(got, want)
    if form == "whole":
        with natively(1), torch.no_grad():
            y, last = module(call.x, one_or_all(call.states), **{k: torch.as_tensor(v) for k, v in call.start.items()})
        names = ["y", *(f"{s.name}_n" for s in spec.states)]
        assert_bits(dict(zip(names, [y, *flat(last)], strict=True)), {n: want[n] for n in names})


@layers
@dtypes
def test_a_module_without_biases_or_states(name: str, spec: Spec, dtype: str) -> None:
    module = make(name, spec, I, H, 2, dtype=dtype, bias=False)
    layer = layer_of(name, module, spec, bias=False)
    x = torch.randn(T, B, I, dtype=getattr(torch, dtype))
    with natively(1):
        y, last = module(x)
    assert_bits({"y": y, **numbered(flat(last))}, {"y": (want := layer(x.numpy()))[0], **numbered(want[1:])})


def numbered(of: Any) -> dict[str, Any]:
    return {str(i): a for i, a in enumerate(of)}


@layers
@directions
def test_state_dicts_are_exchanged(name: str, spec: Spec, bidirectional: bool) -> None:
    module = make(name, spec, I, H, 2, bidirectional=bidirectional)
    layer = layer_of(name, module, spec)
    assert list(layer.state_dict()) == list(module.state_dict())
    assert_bits(module.state_dict(), layer.state_dict())
    other = make(name, spec, I, H, 2, bidirectional=bidirectional)
    found = other.load_state_dict({n: torch.from_numpy(a) for n, a in layer.state_dict().items()})
    assert not found.missing_keys
    assert not found.unexpected_keys
    assert_bits(other.state_dict(), layer.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


# Cells.


@cells
@dtypes
@pytest.mark.parametrize("bias", [True, False], ids=["", "no biases"])
def test_steps_of_a_cell_are_those_of_its_layer(name: str, spec: Spec, dtype: str, bias: bool) -> None:
    cell, layer = (make(n, spec, dtype=dtype, bias=bias) for n in (f"{name}Cell", name))
    layer.load_state_dict({f"{n}_l0": t for n, t in cell.state_dict().items()})
    call = Call(layer, spec)
    with natively(1):
        y, last = layer(call.x, one_or_all(call.states), **call.start)
    state: Any = one_or_all([s[0] for s in call.states])
    with natively(T):
        for t in range(T):
            state = cell(call.x[t], state, **{k: v + t for k, v in call.start.items()})
            assert bits([flat(state)[0]]) == bits([y[t]])
    assert bits(flat(state)) == bits([s[0] for s in flat(last)])
    with natively(2):
        row = cell(call.x[0, 0], one_or_all([s[0, 0] for s in call.states]), **dict.fromkeys(call.start, 0))
        first = cell(call.x[0], one_or_all([s[0] for s in call.states]), **dict.fromkeys(call.start, 0))
    assert bits(flat(row)) == bits([s[0] for s in flat(first)])
    numpy_layer = layer_of(name, layer, spec, bias=bias)
    want = numpy_layer(call.x[:1].numpy(), one_or_all([s.numpy() for s in call.states]))
    got = cell(call.x[0], one_or_all([s[0] for s in call.states]))
    assert bits(flat(got)) == [s[0].tobytes() for s in want[1 : 1 + len(spec.states)]]


@cells
def test_gradients_of_a_loop_are_those_of_the_layer(name: str, spec: Spec) -> None:
    """But for the order in which steps are added up."""
    cell, layer = make(f"{name}Cell", spec), make(name, spec)
    layer.load_state_dict({f"{n}_l0": t for n, t in cell.state_dict().items()})
    call = Call(layer, spec)
    with natively():
        loss_of(flat(layer(call.x, one_or_all(call.states)))[:1]).backward()
        state, ys = one_or_all([s[0] for s in call.states]), []
        for t in range(T):
            state = cell(call.x[t], state, **dict.fromkeys(call.start, t)) if call.start else cell(call.x[t], state)
            ys.append(flat(state)[0])
        loss_of([torch.stack(ys)]).backward()
    for n, p in cell.named_parameters():
        want = getattr(layer, f"{n}_l0").grad
        bound = 8 * rounding("float64", T * roundings_of_layers(layer_of(name, layer, spec), T, B, gradients=True))
        torch.testing.assert_close(p.grad, want, rtol=0, atol=bound * float(want.abs().max()))


# Derivatives.


def as_function(module: Any, spec: Spec, lead: tuple[int, ...], x: Any, **kwargs: Any) -> tuple[Any, tuple[Any, ...]]:
    """The outputs as a function of all tensors, and these."""
    n, names = len(spec.states), list(dict(module.named_parameters()))
    states = [torch.randn(*lead, k, dtype=x.dtype) for k in units(spec, module.hidden_size)]
    tensors = (x, *states, *(p.detach().clone() for p in module.parameters()))

    def run(x: Any, *rest: Any) -> Any:
        given = dict(zip(names, rest[n:], strict=True))
        return tuple(flat(torch.func.functional_call(module, given, (x, one_or_all(rest[:n])), kwargs)))

    return run, tuple(t.requires_grad_() for t in tensors)


@layers
def test_derivatives_are_those_of_differences(name: str, spec: Spec) -> None:
    module = make(name, spec, 2, 3, 2 if spec.below else 1, bidirectional=True)
    runs = 2 * module.num_layers
    run, tensors = as_function(module, spec, (runs, 2), torch.randn(2, 2, 2, dtype=torch.float64), lengths=[2, 1])
    with natively():
        assert torch.autograd.gradcheck(run, tensors, check_batched_grad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


@layers
def test_second_derivatives_of_packed_rows(name: str, spec: Spec) -> None:
    """Those of the same rows padded."""
    module = make(name, spec, 2, 3, 2, bidirectional=True)
    call = Call(module, spec)
    found = []
    for packed in (True, False):
        x = call.x.clone().requires_grad_()
        rows: Any = pack_padded_sequence(x, LENGTHS, enforce_sorted=False) if packed else x
        kwargs: dict[str, Any] = dict(call.start) if packed else {"lengths": LENGTHS, **call.start}
        with natively(1):
            y, last = module(rows, one_or_all(call.states), **kwargs)
        if packed:
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=T)
        ends = [x, *module.parameters()]
        first = torch.autograd.grad(loss_of([y, *flat(last)]), ends, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().mean() for g in first), ends)
        found.append([*first, *second])
    bound = 8 * rounding("float64", 3 * roundings_of_layers(layer_of(name, module, spec), T, B, gradients=True))
    largest = max(float(g.detach().abs().max()) for g in found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=bound * largest)


@cells
def test_derivatives_of_a_cell(name: str, spec: Spec) -> None:
    module = make(f"{name}Cell", spec, 2, 3)
    start: dict[str, Any] = {"start": 2} if spec.numbered else {}
    run, tensors = as_function(module, spec, (2,), torch.randn(2, 2, dtype=torch.float64), **start)
    with natively():
        assert torch.autograd.gradcheck(run, tensors, check_batched_grad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


# PyTorch's operators where there is no kernel.


@layers
@directions
def test_under_a_transform(name: str, spec: Spec, bidirectional: bool) -> None:
    module = make(name, spec, I, H, 2, bidirectional=bidirectional)
    call = Call(module, spec)
    kwargs: dict[str, Any] = {"lengths": LENGTHS, **call.start}
    parameters = dict(module.named_parameters())

    def loss(x: Any, parameters: Any) -> Any:
        return loss_of(flat(torch.func.functional_call(module, parameters, (x, one_or_all(call.states)), kwargs)))

    frt.reset_routes()
    with pytest.warns(frt.FallbackWarning, match=r"a torch.func transform is active"):
        dx, found = torch.func.grad(loss, (0, 1))(call.x, parameters)
    assert frt.routes() == (0, 0, {"a torch.func transform is active": 1})
    x = call.x.clone().requires_grad_()
    with natively(1):
        want = torch.autograd.grad(loss(x, parameters), [x, *parameters.values()])
    bound = 8 * rounding("float64", roundings_of_layers(layer_of(name, module, spec), T, B, gradients=True))
    largest = max(float(w.abs().max()) for w in want)
    for got, w in zip([dx, *found.values()], want, strict=True):
        torch.testing.assert_close(got, w, rtol=0, atol=bound * largest)


@layers
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("way", ["bfloat16", "autocast", "meta", "float16"])
def test_what_has_no_kernel(name: str, spec: Spec, way: str) -> None:
    if way == "autocast":
        skip_without_autocast(spec.cell)
    module = make(name, spec, I, H, 2, dtype="float32", bidirectional=True)
    call = Call(module, spec)
    hx, start = one_or_all(call.states), call.start
    with torch.no_grad():
        want = flat(module(call.x, hx, **start))
    frt.reset_routes()
    if way == "meta":
        module = module.to("meta")
        got = flat(module(call.x.to("meta"), one_or_all([s.to("meta") for s in call.states]), **start))
        assert [o.shape for o in got] == [o.shape for o in want]
        assert all(o.is_meta for o in got)
        assert set(frt.routes().fallback) == {"tensors without numbers (meta)"}
        return
    with pytest.warns(frt.FallbackWarning), torch.no_grad():  # noqa: PT031
        if way == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                got = flat(module(call.x, hx, **start))
        else:
            of = getattr(torch, way)
            module = copy.deepcopy(module).to(of)
            got = flat(module(call.x.to(of), one_or_all([s.to(of) for s in call.states]), **start))
            assert all(o.dtype is of for o in got)
    assert frt.routes()[:2] == (0, 0)
    assert sum(frt.routes().fallback.values()) == 1
    u = 2.0 ** (-11 if way == "float16" else -8)
    n = roundings_of_layers(layer_of(name, make(name, spec, I, H, 2, bidirectional=True), spec), T, B, gradients=False)
    for g, w in zip(got, want, strict=True):
        assert float((g.float() - w).abs().max()) <= 4 * math.sqrt(n) * u * max(1.0, float(w.abs().max()))


# First values, options, copies.


@layers
@pytest.mark.parametrize("of_cell", [False, True], ids=["layers", "cell"])
def test_first_values(name: str, spec: Spec, of_cell: bool) -> None:
    if of_cell and not hasattr(frt, f"{name}Cell"):
        pytest.skip("a cell that reads the layer below has no module")
    module = getattr(frt, f"{name}Cell" if of_cell else name)(I, 48, **options_of(spec, 48))
    every = dict(module.named_parameters())
    for p in spec.parameters:
        a = every[p.name if of_cell else f"{p.name}_l0"].detach()
        low, high = {"zeros": (0, 0), "ones": (1, 1), "unit": (0, 1)}.get(p.initial, (-(48**-0.5), 48**-0.5))
        assert low <= float(a.min()) <= float(a.max()) <= high, p.name
        if low < high:
            assert float(a.min()) < low + (high - low) / 4, p.name
            assert float(a.max()) > high - (high - low) / 4, p.name
        if spec.mask and p is spec.recurrence:
            outside = ~torch.as_tensor(spec.mask(48, module.cell_options))
            assert (a[outside] == 0).all()
            assert (a[~outside] != 0).all()
    before = {n: p.detach().clone() for n, p in every.items()}
    module.reset_parameters()
    kept = [n for n, p in every.items() if torch.equal(p, before[n])]
    assert kept == [n for p in spec.parameters if p.initial in ("zeros", "ones")
                    for n in every if n.removesuffix("_l0") == p.name]  # fmt: skip


@layers
@pytest.mark.parametrize("of_cell", [False, True], ids=["layers", "cell"])
def test_copies_and_names(name: str, spec: Spec, of_cell: bool) -> None:
    kind = f"{name}Cell" if of_cell else name
    if not hasattr(frt, kind):
        pytest.skip("a cell that reads the layer below has no module")
    module = make(kind, spec)
    x = torch.randn((B, I) if of_cell else (T, B, I), dtype=torch.float64)
    want = bits(flat(module(x)))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.copy(module)):
        assert type(twin) is type(module)
        assert repr(twin) == repr(module)
        assert twin.cell_options == module.cell_options
        with natively(1):
            assert bits(flat(twin(x))) == want
    assert pickle.dumps(module) == pickle.dumps(module)
    defaults = LAYERS[name]._options.defaults
    for option, value in module.cell_options.items():
        assert (f"{option}={value!r}" in repr(module)) == (value != defaults[option])
    assert repr(module).startswith(f"{kind}({I}, {H}")
    assert isinstance(module, (nn.RNNCellBase if of_cell else nn.RNNBase))
    found = inspect.signature(getattr(frt, kind)).parameters
    assert set(defaults) <= set(found)
    assert all(found[n].default == d for n, d in defaults.items())


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("LSTM", {"variant": "odd"}, ValueError, "variant"),
    ("LSTM", {"peepholes": "odd"}, ValueError, "peepholes"),
    ("LSTM", {"variant": "coupled", "peepholes": "full"}, ValueError, "variant, peepholes"),
    ("LSTM", {"variant": "coupled", "proj_size": 3}, ValueError, "proj_size"),
    ("LSTM", {"peepholes": "diagonal", "proj_size": 3}, ValueError, "proj_size"),
    ("GRU", {"reset_after": 0}, TypeError, "reset_after"),
    ("GRU", {"z_weighs": "h"}, ValueError, "z_weighs"),
    ("IndRNN", {"nonlinearity": "gelu"}, ValueError, "nonlinearity"),
    ("IndRNN", {"variant": "plain"}, TypeError, "unexpected .*argument 'variant'"),
    ("LayerNormLSTM", {"epsilon": 0.0}, ValueError, "epsilon"),
    ("LayerNormGRU", {"epsilon": "1"}, TypeError, "epsilon"),
    ("ClockworkRNN", {}, TypeError, "missing argument 'periods'"),
    ("ClockworkRNN", {"periods": (2, 1)}, ValueError, "periods"),
    ("ClockworkRNN", {"periods": (1, 2, 3, 4, 5)}, ValueError, "periods"),
    ("FGRLSTM", {"bias": 2}, TypeError, "bias"),
]


@pytest.mark.parametrize(("name", "options", "error", "text"), BAD, ids=str)
def test_bad_options(name: str, options: dict[str, Any], error: type[Exception], text: str) -> None:
    kinds = [name] if "proj_size" in options else [name, f"{name}Cell"]
    for kind in kinds:
        with pytest.raises(error, match=text):
            getattr(frt, kind)(I, H, **options)
    for sizes in ((0, H), (I, 0), (I, -1), ("4", H), (I, H, 0)):
        with pytest.raises((ValueError, TypeError)):
            frt.IndRNN(*sizes)


@layers
def test_bad_states_and_inputs(name: str, spec: Spec) -> None:
    module = make(name, spec)
    call = Call(module, spec)
    states = call.states
    wrong: list[tuple[Any, Any]] = [
        (call.x, one_or_all([s[:, :1] for s in states])), (call.x, one_or_all([s[..., :1] for s in states])),
        (call.x, one_or_all([s[0] for s in states])), (call.x, one_or_all([torch.cat([s, s]) for s in states])),
        (call.x, (*states, states[0])), (call.x, one_or_all([s.float() for s in states])),
        (call.x[..., :1], None), (call.x[0, 0], None), (call.x[None], None), (call.x.float(), None),
        (call.x.long(), None), (call.x[:0], None), (call.x[0], one_or_all(states)),
    ]  # fmt: skip
    if len(states) > 1:
        wrong += [(call.x, states[0]), (call.x, (states[0],)), (call.x, (states[0], None))]
    frt.set_fallback("ignore")
    for x, hx in wrong:
        with pytest.raises((RuntimeError, ValueError, TypeError, AttributeError, IndexError)):
            module(x, hx)
    for lengths in ([T + 1, 1, 1], [-1, 1, 1], [1, 1], [1.0, 1.0, 1.0]):
        with pytest.raises((ValueError, TypeError), match="lengths"):
            module(call.x, lengths=lengths)
    if spec.numbered:
        with pytest.raises(ValueError, match="start"):
            module(call.x, start=-1)
    else:
        with pytest.raises(ValueError, match="start: expected None for a cell without clocks"):
            module(call.x, start=0)
