"""fusedrnn.torch under what traces, transforms and watches PyTorch's programs: the results of eager calls, or of
torch.nn."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch._dynamo  # type: ignore[no-redef]  # noqa: E402, F811
from torch import nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from torch_agreement import skip_without_autocast  # noqa: E402
from torch_programs import (  # noqa: E402
    CELLS,
    LAYERS,
    OF_TORCH,
    WARNINGS,
    B,
    H,
    I,
    T,
    an_input,
    assert_near,
    assert_operator,
    assert_same,
    leaves,
    make,
    pair,
    results,
)

pytestmark = [*(pytest.mark.filterwarnings(w) for w in WARNINGS), pytest.mark.usefixtures("compiler_anew")]


# torch.export.


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_exported_programs_are_portable(name: str, strict: bool) -> None:
    module = make(name)
    x = an_input(module)
    program = torch.export.export(module, (x,), strict=strict)
    assert "fusedrnn" not in str(program.graph)
    assert frt.routes().operator == 0
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert "fusedrnn" not in str(torch.export.load(file).graph)
    file.seek(0)
    x = an_input(module)
    assert_near(torch.export.load(file).module()(x), module(x), module)


@pytest.mark.parametrize("strict", [True, False])
def test_exported_batch_sizes_are_dynamic(strict: bool) -> None:
    for module in pair("LSTM"):
        program = torch.export.export(
            module, (an_input(module),), strict=strict, dynamic_shapes=({1: torch.export.Dim("rows")},)
        )
        x = an_input(module, B=7)
        assert_near(program.module()(x), module(x), module)


def test_exported_lengths_stay_arguments() -> None:
    module = make("GRU")
    x = an_input(module)
    program = torch.export.export(module, (x,), {"lengths": torch.tensor([2, T])}, strict=False)
    lengths = torch.tensor([T, 3])
    assert_near(program.module()(x, lengths=lengths), module(x, lengths=lengths), module)


# torch.jit.


@pytest.mark.parametrize(
    ("name", "inside"),  # torch.nn's layers, scripted by themselves, have no forward
    [*((name, True) for name in [*OF_TORCH, *CELLS]), *((name, False) for name in CELLS)],
)
def test_scripted(name: str, inside: bool) -> None:
    class Model(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.inner(x)

    module = make(name)
    model = Model(module) if inside else module
    x = an_input(module)
    want = results(model, model, x)
    scripted = torch.jit.script(model)
    assert_near(results(scripted, scripted, x), want, module)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    assert_near(leaves(torch.jit.load(file)(x)), want[: len(leaves(module(x)))], module)


def test_scripting_reverts_the_model() -> None:
    """PyTorch puts what it scripts into the model itself."""
    model = nn.Sequential(make("GRU"))
    parameters = list(model.parameters())
    torch.jit.script(model)
    assert type(model[0]) is nn.GRU
    frt.convert(model)(an_input(model[0]))
    assert frt.routes() == (1, 0, {})
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_jit_trace_bakes_no_numbers_in(name: str) -> None:
    module = make(name)
    traced = torch.jit.trace(module, (an_input(module),), check_trace=False)
    other = make(name)
    traced.load_state_dict(other.state_dict())
    x = an_input(module)
    assert_near(results(traced, traced, x), results(other, other, x), module)


# torch.fx.


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.indrnn, self.cell = frt.LSTM(I, H), frt.GRU(H, H), frt.IndRNN(H, H), frt.GRUCell(H, H)

    def forward(self, x: Any, h: Any, c: Any, lengths: Any) -> Any:
        y, last = self.lstm(x, (h, c))
        z, _ = self.lstm(input=x, hx=last, lengths=lengths)
        z, _ = self.gru(y + z, lengths=lengths)
        z, _ = self.indrnn(z, hx=h)
        return self.cell(z[0], hx=z[1]), last


def test_fx() -> None:
    model = Several()
    arguments = (torch.randn(T, B, I), torch.randn(1, B, H), torch.randn(1, B, H), torch.tensor([2, T]))
    want = leaves(model(*arguments))
    graph = torch.fx.symbolic_trace(model)
    assert {n.target for n in graph.graph.nodes if n.op == "call_module"} == {"lstm", "gru", "indrnn", "cell"}
    frt.reset_routes()
    again = torch.fx.symbolic_trace(graph)
    runs = [
        graph,
        again,
        torch.fx.Transformer(graph).transform(),
        copy.deepcopy(graph),
        torch.fx.Interpreter(graph).run,
    ]
    for run in runs:
        assert_same(leaves(run(*arguments)), want)
    assert frt.routes() == (5 * len(runs), 0, {})


def test_fx_of_a_state_alone() -> None:
    class Model(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner
            self.register_buffer("x", torch.randn(T, B, I, dtype=torch.float64))

        def forward(self, h: Any) -> Any:
            return self.inner(self.x, h)[0]

    h = torch.randn(1, B, H, dtype=torch.float64)
    for module in pair("GRU"):
        model = Model(module)
        assert_same(leaves(torch.fx.symbolic_trace(model)(h)), leaves(model(h)))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_make_fx(name: str, mode: str) -> None:
    module = make(name)

    def run(parameters: Any, x: Any) -> Any:
        outputs = leaves(torch.func.functional_call(module, parameters, (x,)))
        return outputs, torch.autograd.grad(outputs[0].square().sum(), list(parameters.values()))

    parameters = {n: p.detach().requires_grad_() for n, p in module.named_parameters()}
    first, other_batch = (7, 9) if mode == "symbolic" else (B, B)  # sizes that are equal become one symbol
    graph = make_fx(run, tracing_mode=mode)(parameters, an_input(module, B=first))
    assert ("fusedrnn" in str(graph.graph)) == (name not in CELLS)
    other, x = make(name), an_input(module, B=other_batch)
    parameters = {n: p.detach().requires_grad_() for n, p in other.named_parameters()}
    assert_near(graph(parameters, x), run(parameters, x), module)


# Fake tensors, modes and subclasses.


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_fake_tensors(name: str) -> None:
    from torch._subclasses import FakeTensorMode

    real = make(name)
    x = an_input(real)
    want = results(real, real, x)
    with FakeTensorMode():
        module = make(name)
        outputs = leaves(module(an_input(module)))
        sum(y.sum() for y in outputs).backward()
        got = [*outputs, *(p.grad for p in module.parameters())]
    del want[len(outputs)]  # of x
    assert [(t.shape, t.stride(), t.dtype) for t in got] == [(t.shape, t.stride(), t.dtype) for t in want]


class Log(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((function, args))
        return function(*args, **kwargs or {})


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("keep", [True, False])
def test_operators_are_sound(name: str, keep: bool) -> None:
    module = make(name).requires_grad_(keep)
    x = an_input(module)
    want = results(module, module, x) if keep else leaves(module(x))
    frt.reset_routes()
    with Log() as log:
        assert_same(results(module, module, x) if keep else leaves(module(x)), want)
    assert_operator()
    ours = [(f, args) for f, args in log.calls if f.namespace == "fusedrnn"]
    assert len(ours) == 1 + keep
    for function, arguments in ours:
        inputs = [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments]
        # A reserve has gaps between its arrays, which nobody writes: two of them are not equal.
        further = () if keep else ("test_aot_dispatch_dynamic",)
        torch.library.opcheck(function, inputs, test_utils=(*CHECKS, *further))


def test_dual_numbers_under_a_mode() -> None:
    theirs, ours = (m.requires_grad_(False) for m in pair("GRU"))
    x = an_input(ours)
    frt.set_fallback("ignore")
    with forward_ad.dual_level(), Log():
        want, got = (forward_ad.unpack_dual(m(forward_ad.make_dual(x, x))[0]).tangent for m in (theirs, ours))
        assert got is not None
        assert_near(got, want, ours)


def test_autocast_under_a_mode() -> None:
    skip_without_autocast("LSTM")
    theirs, ours = pair("LSTM", torch.float32)
    x = an_input(ours, torch.float32)
    frt.set_fallback("ignore")
    with torch.autocast("cpu"), Log():
        assert_same(leaves(ours(x)), leaves(theirs(x)))


def test_states_that_do_not_fit_under_modes() -> None:
    from torch._subclasses import FakeTensorMode

    for mode in (Log, FakeTensorMode):
        with mode():
            module = make("GRU")
            with pytest.raises(RuntimeError, match="Expected hidden size"):
                module(an_input(module), torch.randn(1, B, H + 1, dtype=torch.float64))


def test_flops_are_counted() -> None:
    """Two for each element of a matrix and each row of each step, and twice as many in backward."""
    from torch.utils.flop_counter import FlopCounterMode

    for name in LAYERS:
        module = make(name)
        with FlopCounterMode(display=False) as counter:
            module(an_input(module))[0].sum().backward()
        matrices = sum(p.numel() for p in module.parameters() if p.dim() == 2)
        assert counter.get_total_flops() == 3 * 2 * T * B * matrices


def test_function_modes_see_plain_results() -> None:
    from torch.overrides import TorchFunctionMode

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return function(*args, **kwargs or {})

    module = make("lstm")
    x = an_input(module)
    want = results(module, module, x)
    with Watch():
        assert_same(results(module, module, x), want)
    assert frt.routes() == (2, 0, {})


class Named(torch.Tensor):  # type: ignore[name-defined]
    pass


def two(t: Any) -> Any:
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(t, t.clone())


@pytest.mark.parametrize("wrap", [lambda t: t.as_subclass(Named), two], ids=["subclass", "wrapper"])
def test_subclasses_stay_what_they_are(wrap: Any) -> None:
    theirs, ours = pair("GRU")
    frt.set_fallback("ignore")
    x = wrap(an_input(ours))
    want, got = theirs(x)[0], ours(x)[0]
    assert type(got) is type(want) is type(x)
    assert [*frt.routes()[:2], sum(frt.routes().fallback.values())] == [0, 0, 1]


def test_parameters_of_a_subclass() -> None:
    for module in pair("GRU"):
        module.weight_ih_l0 = nn.Parameter(module.weight_ih_l0.data.as_subclass(Named))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", frt.FallbackWarning)
            assert type(module(an_input(module))[0]) is Named


def test_profiled() -> None:
    module = make("LSTM")
    x = an_input(module)
    want = results(module, module, x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert_same(results(module, module, x), want)
    assert any("Backward" in e.key for e in profile.key_averages())
    assert frt.routes() == (2, 0, {})


# torch.func.

TRANSFORMS = {
    "grad": lambda p, out, loss, x: torch.func.grad(loss)(p, x),
    "grad of grad": lambda p, out, loss, x: torch.func.grad(lambda x: torch.func.grad(loss, 1)(p, x).cos().sum())(x),
    "vmap": lambda p, out, loss, x: torch.vmap(lambda x: out(p, x))(torch.stack([x, 2 * x])),
    "vmap of grad": lambda p, out, loss, x: torch.vmap(torch.func.grad(loss), (None, 0))(p, torch.stack([x, x + 1])),
    "vmap of parameters": lambda p, out, loss, x: torch.vmap(out, (0, None))(
        {n: torch.stack([v, 2 * v]) for n, v in p.items()}, x
    ),
    "jvp": lambda p, out, loss, x: torch.func.jvp(lambda x: out(p, x), (x,), (x,)),
    "vjp": lambda p, out, loss, x: torch.func.vjp(lambda x: out(p, x), x)[1](out(p, x)),
    "jacrev": lambda p, out, loss, x: torch.func.jacrev(out)(p, x),
    "jacfwd": lambda p, out, loss, x: torch.func.jacfwd(out, 1)(p, x),
    "hessian": lambda p, out, loss, x: torch.func.hessian(loss, 1)(p, x),
    "linearize": lambda p, out, loss, x: torch.func.linearize(lambda x: out(p, x), x)[1](x),
    "functionalize": lambda p, out, loss, x: torch.func.functionalize(out)(p, x),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", *CELLS])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_func_as_torch(transform: str, name: str, dtype: Any) -> None:
    theirs, ours = pair(name, dtype)
    x = an_input(ours, dtype)
    frt.set_fallback("ignore")

    def run(module: Any) -> Any:
        def out(parameters: Any, x: Any) -> Any:
            return leaves(torch.func.functional_call(module, parameters, (x,)))[0]

        def loss(parameters: Any, x: Any) -> Any:
            return out(parameters, x).square().sum()

        parameters = {n: p.detach() for n, p in module.named_parameters()}
        try:
            return TRANSFORMS[transform](parameters, out, loss, x)
        except (RuntimeError, NotImplementedError) as e:
            return e

    want, got = run(theirs), run(ours)
    if isinstance(want, Exception):
        assert type(got) is type(want)
    else:
        assert not isinstance(got, Exception), got
        torch.testing.assert_close(got, want)
