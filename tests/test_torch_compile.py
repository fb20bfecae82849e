"""fusedrnn.torch under torch.compile: the bits of eager calls, by the operator."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch._dynamo  # type: ignore[no-redef]  # noqa: E402, F811
from torch import nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from torch_agreement import skip_without_autocast  # noqa: E402
from torch_programs import (  # noqa: E402
    CELLS,
    LAYERS,
    WARNINGS,
    B,
    H,
    I,
    T,
    a_state,
    an_input,
    assert_near,
    assert_operator,
    assert_same,
    compiled,
    leaves,
    make,
    pair,
    results,
)

pytestmark = [*(pytest.mark.filterwarnings(w) for w in WARNINGS), pytest.mark.usefixtures("compiler_anew")]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", LAYERS)
def test_compiled_has_the_bits_of_eager(name: str, backend: str) -> None:
    module = make(name)
    x = an_input(module)
    for arguments in ((x,), (x, a_state(module, x))):
        want = results(module, module, *arguments)
        frt.reset_routes()
        assert_same(results(compiled(module, backend), module, *arguments), want)
        assert_operator()


@pytest.mark.parametrize("keywords", [{}, {"mode": "reduce-overhead"}], ids=str)
def test_compiled_by_inductor(keywords: Any) -> None:
    model = frt.convert(nn.Sequential(nn.Linear(I, I), nn.LSTM(I, H, num_layers=2, bidirectional=True)))
    x = torch.randn(T, B, I)
    want = results(model, model, x)
    frt.reset_routes()
    got = results(torch.compile(model, fullgraph=True, **keywords), model, x)
    for a, b in zip(got, want, strict=True):  # of the Linear, whose code is another
        torch.testing.assert_close(a, b)
    assert_operator()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_calls_of_all_kinds(dtype: Any) -> None:
    module = make("GRU", dtype)
    c = compiled(module)
    x, lengths = an_input(module, dtype), torch.tensor([2, T])
    for arguments, keywords in (((x[:, 0],), {}), ((x[:, 0], torch.randn(1, H, dtype=dtype)), {}),
                                ((x,), {"lengths": lengths}), ((x,), {"lengths": [0, 3]})):  # fmt: skip
        want = results(module, module, *arguments, **keywords)
        frt.reset_routes()
        assert_same(results(c, module, *arguments, **keywords), want)
        assert_operator()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert_same(leaves(c(x)), leaves(module(x)))


def test_compiled_clocks_start_anywhere() -> None:
    module = make("clockwork")
    x = an_input(module)
    for start in (2, torch.tensor([1, 5])):
        want = results(module, module, x, start=start)
        frt.reset_routes()
        assert_same(results(compiled(module), module, x, start=start), want)
        assert_operator()


@pytest.mark.parametrize("name", ["LSTM", "GRU", "indrnn"])
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_compiled_packed_rows(name: str, enforce_sorted: bool) -> None:
    module = make(name)
    lengths = [T, 2] if enforce_sorted else [2, T]
    packed = pack_padded_sequence(an_input(module), lengths, enforce_sorted=enforce_sorted)
    want = leaves(module(packed))
    assert_near(leaves(compiled(module, fullgraph=False)(packed)), want, module)


def test_sizes_change_without_compiling_anew() -> None:
    module = make("gru")
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    c = compiled(module, counter)
    for n, (steps, rows) in enumerate(((5, 2), (7, 3), (2, 9), (11, 4), (6, 5))):
        x = an_input(module, T=steps, B=rows)
        assert_same(results(c, module, x), results(module, module, x))
        assert counter.frame_count <= min(n + 1, 2)
    for steps, rows in ((1, 3), (3, 1), (1, 1)):
        x = an_input(module, T=steps, B=rows)
        assert_same(results(c, module, x), results(module, module, x))


def test_training_and_evaluation_are_told_apart() -> None:
    theirs, module = pair("LSTM", num_layers=2, dropout=0.5)
    x = an_input(module)
    c = compiled(module)
    frt.reset_routes()
    for training, dropout in ((True, 0.5), (False, 0.5), (True, 0.5), (True, 0.0), (True, 0.25), (False, 0.25)):
        for m in (theirs, module):
            m.train(training)
            m.dropout = dropout
        torch.manual_seed(1)
        want = theirs(x)
        torch.manual_seed(1)
        assert_near(c(x), want, module)
    assert_operator()


def test_weights_change_between_compiled_calls() -> None:
    module = make("gru")
    x, c = an_input(module), compiled(module)
    c(x)
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
    assert_same(results(c, module, x), results(module, module, x))
    module.load_state_dict(make("gru").state_dict())
    assert_same(results(c, module, x), results(module, module, x))


def test_whole_steps_compiled() -> None:
    theirs, ours = pair("LSTM")
    x = an_input(ours)
    for m, make_step in ((theirs, lambda f: f), (ours, lambda f: compiled(f, fullgraph=False))):
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1)

        @make_step
        def step(m: Any = m, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            m(x)[0].square().sum().backward()
            optimizer.step()

        for _ in range(3):
            step()
    assert_near(list(ours.parameters()), list(theirs.parameters()), ours)
    assert_operator()


def test_frozen_and_compiled() -> None:
    module = frt.freeze(make("lstm"))
    x = an_input(module)
    with torch.no_grad():
        want, got = module(x), compiled(module)(x)
    assert_same(leaves(got), leaves(want))


def test_a_frozen_module_that_changed_raises_when_compiled() -> None:
    module = frt.freeze(make("lstm"))
    x, c = an_input(module), compiled(module)
    with torch.no_grad():
        c(x)
        module.weight_hh_l0.mul_(2)
        try:
            got = c(x)
        except RuntimeError:
            return
        frt.unfreeze(module)
        assert_same(leaves(got), leaves(module(x)))  # never the old weights


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_in_a_loop_compiled(name: str) -> None:
    class Loop(nn.Module):
        def __init__(self, cell: Any) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Any) -> Any:
            state, outputs = None, []
            for step in x:
                state = self.cell(step, state)
                outputs.append(state[0] if isinstance(state, tuple) else state)
            return torch.stack(outputs)

    theirs, ours = map(Loop, pair(name))
    x = torch.randn(T, B, I, dtype=torch.float64)
    assert_near(results(compiled(ours), ours, x), results(theirs, theirs, x), ours)


def test_compiled_in_place() -> None:
    module = make("gru")
    x = an_input(module)
    want = results(module, module, x)
    frt.reset_routes()
    module.compile(backend="aot_eager", fullgraph=True)
    assert_same(results(module, module, x), want)
    assert_operator()


def test_copies_of_a_compiled_cell_are_its_own() -> None:
    for cell in pair("GRUCell"):
        x = an_input(cell)
        cell.compile(backend="eager")
        cell(x)
        copied = copy.deepcopy(cell)
        with torch.no_grad():
            for p in copied.parameters():
                p.zero_()
        assert not copied(x).any()


def test_compiled_before_and_after_convert() -> None:
    model = nn.Sequential(nn.GRU(I, H)).double()
    x = torch.randn(T, B, I, dtype=torch.float64)
    c = compiled(model)
    want = c(x)
    assert frt.routes() == (0, 0, {})
    assert_near(c(x), want, frt.convert(model))
    assert_near(compiled(model)(x), want, model)
    assert_operator()
    count = frt.routes()
    assert_near(c(x), want, frt.revert(model))
    assert_near(compiled(model)(x), want, model)
    assert frt.routes().fallback == {}
    assert frt.routes().operator <= count.operator + 1


def test_no_graph_breaks() -> None:
    module = make("lstm")
    explained = torch._dynamo.explain(module)(an_input(module))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_without_allow_rnn_the_graph_breaks() -> None:
    module = make("gru")
    model = nn.Sequential(nn.Linear(I, I).double(), module)
    x = an_input(module)
    want = results(model, model, x)
    frt.reset_routes()
    with torch._dynamo.config.patch(allow_rnn=False):
        got = results(compiled(model, fullgraph=False), model, x)
    assert_same(got, want)
    assert frt.routes() == (1, 0, {})


@pytest.mark.parametrize("name", ["GRU", "LSTM"])
@pytest.mark.parametrize("state", ["wide", "rows", "layers", "flat"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_states_that_do_not_fit_raise(name: str, state: str, backend: str) -> None:
    module = make(name)
    x = an_input(module)
    size = {"wide": (1, B, H - 2), "rows": (1, B + 1, H), "layers": (2, B, H), "flat": (B, H)}[state]
    s = torch.randn(size, dtype=x.dtype)
    with pytest.raises(RuntimeError):
        compiled(module, backend, fullgraph=False)(x, s if name == "GRU" else (s, s))


def test_compiled_parameters_that_do_not_fit_raise() -> None:
    module = make("GRU")
    module.weight_hh_l0 = nn.Parameter(torch.randn(3 * H, H - 2, dtype=torch.float64))
    with pytest.raises(RuntimeError):
        compiled(module, fullgraph=False)(an_input(module))


@pytest.mark.parametrize(("keywords", "error"), [
    ({"lengths": torch.tensor([T + 1, 1])}, ValueError), ({"lengths": torch.tensor([-1, 1])}, ValueError),
    ({"lengths": torch.tensor([1.0, 2.0])}, TypeError), ({"lengths": torch.tensor([1, 2, 3])}, ValueError),
    ({"lengths": torch.tensor(2)}, ValueError), ({"start": 2}, ValueError),
], ids=str)  # fmt: skip
def test_compiled_lengths_that_do_not_fit_raise(keywords: Any, error: Any) -> None:
    module = make("GRU")
    with pytest.raises(error):
        module(an_input(module), **keywords)
    with pytest.raises((error, torch._dynamo.exc.TorchDynamoException), match=next(iter(keywords))):
        compiled(module, fullgraph=False)(an_input(module), **keywords)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_autocast_compiled_as_eager(name: str) -> None:
    skip_without_autocast(name)
    theirs, ours = pair(name, torch.float32)
    x = an_input(ours, torch.float32)
    frt.set_fallback("ignore")
    with torch.no_grad(), torch.autocast("cpu"):
        want = leaves(theirs(x))
        assert_same(leaves(ours(x)), want)
        assert [t.dtype for t in leaves(compiled(ours, fullgraph=False)(x))] == [t.dtype for t in want]


def test_checkpointed_and_compiled() -> None:
    module = make("lstm")
    x = an_input(module)
    c = compiled(lambda x: torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False))
    assert_same(results(c, module, x), results(module, module, x))
    assert frt.routes().operator == 2


@pytest.mark.parametrize("forward", ["eager", "compiled"])
@pytest.mark.parametrize("name", ["gru", "LSTM", "GRUCell"])
def test_compiled_autograd(name: str, forward: str) -> None:
    module = make(name)
    x = an_input(module)
    want = results(module, module, x)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        got = results(compiled(module) if forward == "compiled" else module, module, x)
    assert_near(got, want, module)


@pytest.mark.parametrize("transform", ["grad", "jvp"])
def test_transforms_inside_compiled(transform: str) -> None:
    for module in pair("GRU"):
        module.requires_grad_(False)

        def run(x: Any, module: Any = module) -> Any:
            def out(x: Any) -> Any:
                return module(x)[0].sum()

            return torch.func.grad(out)(x) if transform == "grad" else torch.func.jvp(out, (x,), (x,))[1]

        x = an_input(module)
        frt.set_fallback("ignore")
        assert_near(compiled(run, fullgraph=False)(x), run(x), module)


def test_dual_numbers_into_compiled() -> None:
    theirs, ours = (m.requires_grad_(False) for m in pair("GRU"))
    x = an_input(ours)
    frt.set_fallback("ignore")
    with forward_ad.dual_level():
        want, got = (forward_ad.unpack_dual(m(forward_ad.make_dual(x, x))[0]).tangent for m in (theirs, compiled(ours)))
        assert got is not None
        assert_near(got, want, ours)
