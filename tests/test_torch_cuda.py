"""Modules for PyTorch by the CUDA backend, without a GPU: tensors on the CPU stand for those on an emulated one. What a
real GPU must still show is in test_torch_cuda_gpu.py."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from agreement import assert_arrays_close  # noqa: E402
from cuda_cases import ROUNDOFF  # noqa: E402
from fusedrnn.torch import gpu, routing  # noqa: E402
from torch_agreement import as_leaves, assert_agrees, assert_near, by_kernels, results, roundings, tensors  # noqa: E402
from torch_gpu import B, H, I, T, layers, states_of, theirs_of  # noqa: E402
from torch_pairs import CELLS, LAYERS, bits, flat  # noqa: E402

CPU = torch.device("cpu")


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
