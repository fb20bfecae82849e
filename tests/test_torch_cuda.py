"""Modules for PyTorch by the CUDA backend, without a GPU: tensors on the CPU stand for those on an emulated one. What a
real GPU must still show is in test_torch_cuda_gpu.py."""

from __future__ import annotations

import copy
import ctypes
import itertools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from agreement import assert_arrays_close  # noqa: E402
from cuda_cases import ROUNDOFF, TensorsOnCpu  # noqa: E402
from fusedrnn.backends import arrays  # noqa: E402
from fusedrnn.torch import gpu, routing  # noqa: E402
from torch_agreement import as_leaves, assert_agrees, assert_near, by_kernels, results, roundings, tensors  # noqa: E402
from torch_pairs import CELLS, LAYERS, bits, flat, one_or_all  # noqa: E402

T, B, I, H = 4, 3, 5, 6
CPU = torch.device("cpu")


@pytest.fixture
def on_gpu(
    roomy: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> Iterator[Callable[[bool], None]]:
    """All tensors count as tensors on the GPU; and a function that says whether they do."""
    monkeypatch.setitem(arrays.LIBRARIES, "torch", TensorsOnCpu)
    torch.manual_seed(int(rng.integers(2**31)))
    frt.reset_routes()

    def switch(on: bool) -> None:
        monkeypatch.setattr(routing, "is_on_cpu", lambda t: not on)

    switch(True)
    yield switch
    gpu.plan_of.cache_clear()
    frt.set_fallback("warn")


def layers(kind: str = "GRU", **options: Any) -> Any:
    return getattr(frt, kind)(I, H, **options)


def theirs_of(ours: Any) -> Any:
    """torch.nn's module of the same parameters."""
    return frt.revert(copy.deepcopy(ours))


def states_of(module: Any, lead: tuple[int, ...]) -> Any:
    """Random ones that need gradients."""
    layout = module._layout()
    return one_or_all([torch.randn(*lead, units, requires_grad=True) for units in layout.units])


# Results and gradients.

CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {  # options, and the shape of the input
    "one layer": ({}, (T, B, I)),
    "both directions of two layers": ({"num_layers": 2, "bidirectional": True}, (T, B, I)),
    "batch first": ({"num_layers": 2, "batch_first": True}, (B, T, I)),
    "one row": ({"bidirectional": True, "batch_first": True}, (T, I)),
    "without biases": ({"bias": False}, (T, B, I)),
    "one step": ({}, (1, B, I)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", LAYERS)
def test_results_and_gradients(kind: str, case: str, on_gpu: Any) -> None:
    options, shape = CASES[case]
    ours = layers(kind, **options)
    runs = ours.num_layers * (1 + ours.bidirectional)
    x = torch.randn(shape, requires_grad=True)
    for arguments in ((x,), (x, states_of(ours, (runs, B) if len(shape) == 3 else (runs,)))):
        with by_kernels(1):
            assert_agrees(ours, theirs_of(ours), arguments, T, B)
        with by_kernels(1), torch.no_grad():
            inferred = tensors(ours(*arguments))
        assert bits(inferred) == bits(tensors(ours(*arguments)))
        assert not any(t.requires_grad or t._is_view() for t in inferred)


def test_rnn_with_relu(on_gpu: Any) -> None:
    ours = layers("RNN", nonlinearity="relu")
    with by_kernels(1):
        assert_agrees(ours, theirs_of(ours), (torch.randn(T, B, I, requires_grad=True),), T, B)


@pytest.mark.parametrize("rows", ["batch", "one row"])
@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind: str, rows: str, on_gpu: Any) -> None:
    ours = layers(kind)
    lead = (B,) if rows == "batch" else ()
    with by_kernels(2):
        for arguments in ((torch.randn(*lead, I, requires_grad=True),), (torch.randn(*lead, I), states_of(ours, lead))):
            assert_agrees(ours, theirs_of(ours), arguments, 1, B)
    ours.zero_grad()
    x, theirs = torch.randn(T, *lead, I), theirs_of(ours)
    got, want = list[Any](), list[Any]()
    for module, states in ((ours, got), (theirs, want)):
        hx = None
        for t in range(T):
            hx = module(x[t], hx)
            states += flat(hx)
        sum(s.sin().sum() for s in flat(hx)).backward()
    assert_near(got, want, ours, T, B, 2)
    assert_near([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()], ours, T, B, 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", LAYERS)
def test_formats_of_16_bits(kind: str, dtype: str, on_gpu: Any) -> None:
    """With the bound of cuda_cases.compare_by_norm, for the steps of both layers."""
    ours = layers(kind, num_layers=2, dtype=getattr(torch, dtype))
    x = torch.randn(T, B, I, requires_grad=True).to(ours.weight_ih_l0.dtype)
    theirs = theirs_of(ours).double()
    named = []
    for module, given in ((ours, x), (theirs, x.double())):
        leaf = given.detach().requires_grad_()
        outputs = tensors(module(leaf))
        assert all(o.dtype == leaf.dtype for o in outputs)
        seeds = [torch.linspace(-1, 1, o.numel()).view(o.shape).to(ours.weight_ih_l0.dtype) for o in outputs]
        torch.autograd.backward(outputs, [s.to(o.dtype) for s, o in zip(seeds, outputs, strict=True)])
        named.append([*outputs, leaf.grad, *(p.grad for p in module.parameters())])
    assert frt.routes() == (1, 0, {})
    bound = 2 * np.sqrt(8 * T * 2) * ROUNDOFF[dtype]
    for a, b in zip(*named, strict=True):
        assert (a.double() - b).norm() <= bound * b.norm()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("sorted_", [True, False])
def test_packed_sequences(kind: str, sorted_: bool, on_gpu: Any) -> None:
    """And the same rows with `lengths`, on the CPU or on the GPU."""
    ours = layers(kind, num_layers=2, bidirectional=True)
    lengths = [4, 3, 1] if sorted_ else [1, 4, 3]
    x, hx = torch.randn(T, B, I, requires_grad=True), states_of(ours, (4, B))
    packed = pack_padded_sequence(x.detach(), torch.tensor(lengths), enforce_sorted=sorted_)
    packed = packed._replace(data=packed.data.requires_grad_())
    for arguments in ((packed,), (packed, hx)):
        with by_kernels(1):
            assert_agrees(ours, theirs_of(ours), arguments, T, B)
    want = ours(packed, hx)
    for given in (lengths, torch.tensor(lengths)):
        y, last = ours(x, hx, lengths=given)
        assert_near([y, *flat(last)], [pad_packed_sequence(want[0])[0], *flat(want[1])], ours, T, B, 2)
    y.sum().backward()
    past = torch.arange(T)[:, None] >= torch.tensor(lengths)
    assert not x.grad[past].any()
    assert not y[past].any()
    assert not frt.routes().fallback


@pytest.mark.parametrize("dropout", [0.4, 1.0])
def test_dropout_between_layers(dropout: float, on_gpu: Any) -> None:
    """By PyTorch's generator."""
    ours = layers("LSTM", num_layers=3, bidirectional=True, dropout=dropout)
    theirs, x = theirs_of(ours), torch.randn(T, B, I, requires_grad=True)
    found = []
    for module in (ours, theirs):
        torch.manual_seed(3)
        found.append(results(module, (as_leaves(x, torch.float32),)))
    assert frt.routes() == (3, 0, {})  # a layer each
    for got, want, gradients in zip(*found, (False, True), strict=True):
        assert_arrays_close(got, want, "float32", 2 * roundings(ours, T, B, gradients=gradients))
    ours.eval()
    with by_kernels(1):
        ours(x)


# Further cells, and what the backend does not run.


def expected(module: Any) -> str | None:
    """Why the backend does not take the module, if it does not."""
    found = gpu.plan_or_reason(module._layout(), next(module.parameters()).dtype, CPU)
    return found if isinstance(found, str) else None


def assert_routed(reason: str | None, calls: int) -> None:
    assert frt.routes() == ((calls, 0, {}) if reason is None else (0, 0, {reason: calls}))


FURTHER: list[tuple[str, dict[str, Any]]] = [
    ("IndRNN", {}),
    ("GRU", {"reset_after": False}),
    ("GRU", {"z_weighs": "n"}),
    ("GRU", {"num_heads": 2}),
    ("LSTM", {"variant": "coupled", "peepholes": "diagonal"}),
    ("LSTM", {"proj_size": 4}),
    ("LSTM", {"gate_activation": "hard_sigmoid"}),
    ("LayerNormLSTM", {}),
    ("LayerNormGRU", {}),
    ("ClockworkRNN", {"periods": (1, 2)}),
    ("FGRLSTM", {}),
    ("SLSTM", {}),
    ("DepthGatedLSTM", {}),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # PyTorch's, of its own operator
@pytest.mark.filterwarnings("ignore::fusedrnn.torch.FallbackWarning")
@pytest.mark.parametrize(("kind", "options"), [*((kind, {}) for kind in LAYERS), *FURTHER], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_cells(kind: str, options: dict[str, Any], dtype: str, on_gpu: Any) -> None:
    """Against the kernels of the CPU: in float64, whose bits are the same on a GPU, with lengths. The first states are
    such as a cell comes to."""
    ours = layers(kind, num_layers=2, bidirectional=True, dtype=getattr(torch, dtype), **options)
    x, lengths = torch.randn(T, B, I, dtype=getattr(torch, dtype)), None if dtype == "float32" else [2, 4, 3]
    on_gpu(False)
    hx, found = ours(torch.randn_like(x))[1], []
    frt.reset_routes()
    for on in (True, False):
        on_gpu(on)
        leaves = as_leaves((x, hx), x.dtype, itertools.repeat(True))
        found.append(results(ours, leaves, lengths=lengths))
        if on:
            reason = expected(ours)
            assert_routed(reason, 1)
    for got, want, gradients in zip(*found, (False, True), strict=True):
        if dtype == "float64" and reason is None:
            assert {n: a.tobytes() for n, a in got.items()} == {n: a.tobytes() for n, a in want.items()}
        else:
            assert_arrays_close(got, want, dtype, 2 * roundings(ours, T, B, gradients=gradients))


def test_every_family_is_tried() -> None:
    assert {kind for kind, _ in FURTHER} | {*LAYERS} == {name for name in frt.modules.MODULES if "Cell" not in name}


@pytest.mark.filterwarnings("ignore::fusedrnn.torch.FallbackWarning")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "IndRNN"])
def test_resets(kind: str, packed: bool, on_gpu: Any) -> None:
    ours = layers(kind, bidirectional=True)
    lengths = [4, 3, 1]
    x, hx, before = torch.randn(T, B, I, requires_grad=True), states_of(ours, (2, B)), states_of(ours, (2,))
    resets = torch.rand(T, B) < 0.4
    found = []
    for on in (True, False):
        on_gpu(on)
        of_rows: Any = {"resets": resets, "lengths": lengths}
        leaves = as_leaves((x, hx, before), torch.float32)
        given = leaves[0]
        if packed:
            given = pack_padded_sequence(given, torch.tensor(lengths))
            of_rows = {"resets": pack_padded_sequence(resets, torch.tensor(lengths)).data}
        outputs = tensors(ours(given, leaves[1], reset_state=leaves[2], **of_rows))
        sum(o.sin().sum() for o in outputs).backward()
        found.append([*outputs, *(t.grad for t in tensors(leaves))])
    assert frt.routes() == (2, 0, {})
    assert_near(found[0], found[1], ours, T, B, 2)


REASONS: dict[str, Any] = {
    "no driver": lambda m: m.setenv("FUSEDRNN_CUDA_DRIVER", "/nowhere/libcuda.so.1"),
    "no kernels": lambda m: m.setenv("FUSEDRNN_CUDA_KERNELS", "/nowhere/kernels.fatbin"),
}


@pytest.mark.parametrize("missing", REASONS)
@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_without_a_driver_or_kernels(kind: str, missing: str, on_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    REASONS[missing](monkeypatch)
    ours, x = layers(kind), torch.randn(B, I)
    with pytest.warns(frt.FallbackWarning, match="on device cpu: CUDA: ") as told:
        got = ours(x)
    assert missing.removeprefix("no ") in str(told[0].message)
    assert bits(flat(got)) == bits(flat(theirs_of(ours)(x)))
    ours(x)
    assert list(frt.routes().fallback.values()) == [2]
    frt.set_fallback("error")
    with pytest.raises(frt.FallbackError, match="on device cpu: CUDA: "):
        ours(x)


DROPS = {"zoneout_h": 0.2, "zoneout_c": 0.1, "input_dropout": 0.2, "recurrent_dropout": 0.3, "weight_dropout": 0.2}


@pytest.mark.filterwarnings("ignore::fusedrnn.torch.FallbackWarning")
@pytest.mark.parametrize("packed", [False, True])
def test_regularisation_has_the_masks_of_the_cpu(packed: bool, on_gpu: Any) -> None:
    """And in float64 the bits."""
    ours = layers("LSTM", num_layers=2, bidirectional=True, dropout=0.4, dtype=torch.float64, **DROPS)
    x, found = torch.randn(T, B, I, dtype=torch.float64), list[Any]()
    for on in (True, False):
        on_gpu(on)
        torch.manual_seed(5)
        leaf = x.clone().requires_grad_()
        given = pack_padded_sequence(leaf, torch.tensor([4, 3, 1])) if packed else leaf
        outputs = tensors(ours(given))
        grads = torch.autograd.grad(sum(o.sin().sum() for o in outputs), [leaf, *ours.parameters()])
        with torch.no_grad():
            in_training = tensors(ours(given))
            inferred = tensors(ours.eval()(given))
        ours.train()
        found.append([bits(of) for of in (outputs, grads, in_training, inferred)])
        if on:
            assert_routed(expected(ours), 3)
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_autocast_casts_all_tensors(kind: str, on_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does to those of torch.nn's layers on a GPU."""
    monkeypatch.setattr(routing, "of_state", lambda: None)  # which leaves calls on the CPU under autocast to PyTorch
    ours, x = layers(kind), torch.randn(B, I, requires_grad=True)
    cast, low = copy.deepcopy(ours).bfloat16(), x.detach().bfloat16().requires_grad_()
    want = tensors(cast(low))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = tensors(ours(x))
        with torch.no_grad():
            assert bits(t.float() for t in tensors(frt.freeze(ours)(x))) == bits(t.float() for t in want)
    sum(t.sum() for t in want).backward()
    sum(t.sum() for t in got).backward()
    assert all(t.dtype == torch.bfloat16 for t in got)
    assert bits(t.float() for t in got) == bits(t.float() for t in want)
    grads = [[low.grad, *(p.grad for p in cast.parameters())], [x.grad, *(p.grad for p in ours.parameters())]]
    assert bits(g.float() for g in grads[0]) == bits(grads[1])
    assert frt.routes() == (3, 0, {})


WRONG: dict[str, Any] = {
    "another size": lambda x, h: (x[..., 1:], h),
    "another dtype": lambda x, h: (x.double(), h),
    "another state": lambda x, h: (x, h[:, 1:]),
    "a state of another dtype": lambda x, h: (x, h.double()),
    "no tensor": lambda x, h: (x.tolist(), h),
}


@pytest.mark.filterwarnings("ignore::fusedrnn.torch.FallbackWarning")
@pytest.mark.parametrize("what", WRONG)
def test_errors_are_those_of_pytorch(what: str, on_gpu: Any) -> None:
    ours = layers()
    arguments = WRONG[what](torch.randn(T, B, I), torch.randn(1, B, H))
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # whatever it is
        theirs_of(ours)(*arguments)
    with pytest.raises(type(theirs.value)) as got:
        ours(*arguments)
    assert str(got.value) == str(theirs.value)


def test_lengths_on_the_gpu_are_not_looked_at(on_gpu: Any) -> None:
    ours, x = layers("LSTM", bidirectional=True), torch.randn(T, B, I)
    with pytest.raises(ValueError, match="lengths: expected integers in 0..4, got 2..5"):
        ours(x, lengths=[2, 5, 4])
    with pytest.raises(ValueError, match=r"lengths: expected \(3,\) integers"):
        ours(x, lengths=torch.tensor([2, 4]))
    with pytest.raises(TypeError, match="lengths: expected integers"):
        ours(x, lengths=torch.tensor([2.0, 4.0, 3.0]))
    for dtype in (torch.int64, torch.int32):
        got = ours(x, lengths=torch.tensor([2, 50, -1], dtype=dtype))
        assert bits(tensors(got)) == bits(tensors(ours(x, lengths=[2, 4, 0])))
    assert frt.routes().fallback == {}


# Autograd.


def test_parameters_are_read_at_each_call(on_gpu: Any) -> None:
    """Whatever changed them."""
    ours, x = layers(num_layers=2), torch.randn(T, B, I)
    optimizer = torch.optim.SGD(ours.parameters(), 0.5)

    def inferred() -> list[bytes]:
        with torch.no_grad():
            return bits(tensors(ours(x)))

    def assert_new(seen: list[Any]) -> None:
        with torch.no_grad():
            assert_near(ours(x), theirs_of(ours)(x), ours, T, B, 2)
        assert inferred() not in seen
        seen.append(inferred())

    seen = [inferred()]
    ours(x)[0].sum().backward()
    optimizer.step()
    assert_new(seen)
    ours.weight_hh_l0.data.mul_(2)
    assert_new(seen)
    ours.weight_ih_l1.detach().numpy()[:] *= 2
    assert_new(seen)
    ours.bias_hh_l0 = nn.Parameter(torch.ones(3 * H))
    assert_new(seen)
    assert frt.routes().fallback == {}


@pytest.mark.parametrize("which", ["x", "hx", "weight_ih_l0", "weight_hh_l0", "bias_hh_l0"])
def test_changes_in_place_before_backward_are_refused(which: str, on_gpu: Any) -> None:
    """Those of outputs are not."""
    ours, x, hx = layers(), torch.randn(T, B, I), torch.randn(1, B, H)
    y, last = ours(x, hx)
    want = torch.autograd.grad(y.sum() + last.sum(), list(ours.parameters()), retain_graph=True)
    loss = y.sum() + last.sum()
    with torch.no_grad():
        y.zero_(), last.zero_()
        assert bits(torch.autograd.grad(loss, list(ours.parameters()), retain_graph=True)) == bits(want)
        (x if which == "x" else hx if which == "hx" else getattr(ours, which)).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_outputs_may_change_in_place(on_gpu: Any) -> None:
    for ours, x in (
        (layers("LSTM"), torch.randn(T, B, I)),
        (layers("LSTM", batch_first=True), torch.randn(T, I)),
        (layers("LSTMCell"), torch.randn(B, I)),
        (layers("GRUCell"), torch.randn(I)),
    ):
        for t in tensors(ours(x)):
            t.mul_(2).sum().backward(retain_graph=True)


def test_a_graph_is_freed_after_backward(on_gpu: Any) -> None:
    ours, x = layers("LSTM", num_layers=2), torch.randn(T, B, I, requires_grad=True)
    y, _ = ours(x)
    first = torch.autograd.grad(y.sum(), [x, *ours.parameters()], retain_graph=True)
    assert bits(torch.autograd.grad(y.sum(), [x, *ours.parameters()])) == bits(first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(y.sum(), [x])


def test_only_what_is_wanted(on_gpu: Any) -> None:
    ours, x, hx = layers("LSTM"), torch.randn(T, B, I), states_of(layers("LSTM"), (1, B))
    want = torch.autograd.grad(ours(x, hx)[0].sum(), [hx[1], *ours.parameters()])
    ours.weight_ih_l0.requires_grad_(False)
    found = torch.autograd.grad(ours(x, (hx[0].detach(), hx[1]))[0].sum(), [hx[1], ours.weight_hh_l0])
    assert bits(found) == bits([want[0], want[2]])
    last = torch.autograd.grad(ours(x, hx)[1][1].sum(), [hx[0]], retain_graph=True)  # no gradient of y
    assert last[0].abs().sum() > 0


def test_saved_tensors_go_through_hooks(on_gpu: Any) -> None:
    """All that is large; and come back in another form, or are refused."""
    ours, x = layers("LSTM", num_layers=2, bidirectional=True), torch.randn(T, B, I, requires_grad=True)
    ends = [x, *ours.parameters()]
    want = torch.autograd.grad(ours(x)[0].sum(), ends)
    packed = list[Any]()

    def pack(t: Any) -> Any:
        packed.append(t)
        return t.double() if t.is_floating_point() else t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = ours(x)[0]
    slots = T * B * H * 4 * 4  # at least four gates of four runs
    assert sum(t.numel() for t in packed) > slots
    setting = y.grad_fn.kept[0]
    assert not [t for k in setting.kept for t in k.laid_out() if t is not None]
    assert bits(torch.autograd.grad(y.sum(), ends)) == bits(want)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t[:1]):
        y = ours(x)[0]
    with pytest.raises(RuntimeError, match="saved tensors: expected shape"):
        y.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant: bool, on_gpu: Any) -> None:
    ours = layers("GRU", num_layers=2, dropout=0.3)
    x, found = torch.randn(T, B, I, requires_grad=True), []
    for call in (ours, lambda x: checkpoint(ours, x, use_reentrant=reentrant)):
        ours.zero_grad(), torch.manual_seed(1)
        x.grad = None
        call(x)[0].sin().sum().backward()
        found.append(bits([x.grad, *(p.grad for p in ours.parameters())]))
    assert found[0] == found[1]
    assert frt.routes().fallback == {}


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS, "IndRNN"])
def test_double_backward(kind: str, on_gpu: Any) -> None:
    """Against PyTorch's operators in float64."""
    ours = layers(kind)
    lead = (B,) if "Cell" in kind else (T, B)
    x = torch.randn(*lead, I, requires_grad=True)
    hx = states_of(ours, (B,) if "Cell" in kind else (1, B))
    double = copy.deepcopy(ours).double()
    found = []
    for module, on in ((ours, True), (double, False)):
        on_gpu(on)
        dtype = next(module.parameters()).dtype
        leaves = as_leaves((x, hx), dtype)
        ends = [*tensors(leaves), *module.parameters()]
        loss = sum(o.sin().sum() for o in tensors(module(*leaves)))
        first = torch.autograd.grad(loss, ends, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), ends)
        found.append({str(i): g.detach().numpy() for i, g in enumerate((*first, *second))})
    assert_arrays_close(found[0], found[1], "float32", 4 * roundings(ours, T, B, gradients=True))
    assert frt.routes().fallback == {}


def test_batched_gradients_and_transforms(on_gpu: Any) -> None:
    ours, x = layers("GRU"), torch.randn(T, B, I, requires_grad=True)
    y = ours(x)[0]
    seeds = torch.randn(2, *y.shape)
    (batched,) = torch.autograd.grad(y, x, seeds, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, x, s, retain_graph=True)[0] for s in seeds]
    assert_near(batched, torch.stack(each), ours, T, B, 2)
    with pytest.warns(frt.FallbackWarning, match="torch.func transform"):
        torch.func.grad(lambda x: ours(x)[0].sum())(x.detach())


def test_functional_call_takes_its_parameters(on_gpu: Any) -> None:
    ours, x = layers("LSTM"), torch.randn(T, B, I)
    parameters = {n: (p.detach() * 2).requires_grad_() for n, p in ours.named_parameters()}
    other = layers("LSTM")
    other.load_state_dict(parameters)
    with by_kernels(2):
        got = torch.func.functional_call(ours, parameters, (x,))
        assert bits(tensors(got)) == bits(tensors(other(x)))


# Modules as a whole.


def test_copies_and_converted_modules(on_gpu: Any) -> None:
    model = nn.Sequential(nn.GRU(I, H, num_layers=2))
    x = torch.randn(T, B, I)
    want = model(x)
    frt.convert(model)
    with by_kernels(3):
        got = model(x)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert bits(tensors(twin(x))) == bits(tensors(got))
    assert_near(got, want, model[0], T, B, 2)


def test_frozen_weights(on_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, x = layers("LSTM", num_layers=2, bidirectional=True), torch.randn(T, B, I)
    with torch.no_grad():
        want = bits(tensors(ours(x)))
        frt.freeze(ours)
        with monkeypatch.context() as m:
            m.delattr(gpu, "load")
            assert bits(tensors(ours(x))) == want
    ours(x)[0].sum().backward()
    assert frt.routes() == (3, 0, {})
    with torch.no_grad():
        ours.weight_hh_l1.add_(1)
        with pytest.raises(RuntimeError, match="weight_hh_l1 was changed in place after fusedrnn.torch.freeze"):
            ours(x)
        ours.weight_hh_l1 = nn.Parameter(torch.randn(H, 4 * H).T)  # which cannot be checked by its address
        frt.freeze(ours)
        assert bits(tensors(ours(x))) != want


@contextmanager
def nothing_is_read() -> Iterator[None]:
    """Fails where a tensor's value is asked for."""

    def fails(*_: Any, **__: Any) -> Any:
        raise AssertionError("a value was read")

    with pytest.MonkeyPatch.context() as m:
        for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"):
            m.setattr(torch.Tensor, name, fails)
        yield


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_no_value_is_read(dropout: float, on_gpu: Any) -> None:
    """Which would mean to wait for the GPU."""
    ours = layers("LSTM", num_layers=2, bidirectional=True, dropout=dropout)
    x, lengths = torch.randn(T, B, I), torch.tensor([4, 0, 3])
    hx = states_of(ours, (4, B))
    ours(x)
    with nothing_is_read():
        y, (h, c) = ours(x, hx, lengths=lengths)
        torch.autograd.backward([y, h, c], [y.detach(), h.detach(), c.detach()])
    assert frt.routes().fallback == {}
