"""Modules of fusedrnn.torch in the place of torch.nn's: the same function, errors, copies; and what is ours alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from agreement import assert_arrays_close  # noqa: E402
from torch_agreement import assert_agrees, assert_near, by_kernels, outcome, results, roundings, tensors  # noqa: E402

LAYERS, CELLS = ("LSTM", "GRU", "RNN"), ("LSTMCell", "GRUCell", "RNNCell")
I, H, T, B = 4, 6, 5, 3
layers = pytest.mark.parametrize("name", LAYERS)
cells = pytest.mark.parametrize("name", CELLS)
modules = pytest.mark.parametrize("name", LAYERS + CELLS)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    frt.reset_routes()
    frt.set_fallback("warn")
    yield
    frt.set_fallback("warn")
    frt.reset_routes()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def pair(name: str, *sizes: Any, **options: Any) -> tuple[Any, Any]:
    """Ours and torch.nn's, with the same parameters."""
    theirs = getattr(nn, name)(*(sizes or (I, H)), **options)
    ours = getattr(frt, name)(*(sizes or (I, H)), **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def argument(name: str, *batch: int, dtype: Any = torch.float32) -> Any:
    """An input: of (T, B) steps, or of (B,) for cells."""
    return torch.randn(*(batch or ((B,) if name.endswith("Cell") else (T, B))), I, dtype=dtype)


def state(name: str, *sizes: int, dtype: Any = torch.float32) -> Any:
    made = tuple(SMALL * torch.randn(*sizes, dtype=dtype) for _ in range(2 if name.startswith("LSTM") else 1))
    return made if len(made) > 1 else made[0]


def same(a: Any, b: Any) -> bool:
    """The same bits."""
    return all(torch.equal(s, t) for s, t in zip(tensors(a), tensors(b), strict=True))


# The same function.


# Of the inputs here: of larger ones tanh is flat, and 1 - y^2 is left with few digits on both sides.
SMALL = 1 / 4


@st.composite
def calls(draw: Any) -> Any:
    name = draw(st.sampled_from(LAYERS))
    I, H, L = draw(st.integers(1, 9)), draw(st.integers(1, 20)), draw(st.integers(1, 3))
    T, B = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    flags = {n: draw(st.booleans()) for n in ("bias", "batch_first", "bidirectional")}
    if name == "RNN":
        flags["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
        if flags["nonlinearity"] == "relu":  # of few units or many layers it leaves a number or none
            H, L = H + 8, 1
    # A few sums of h may all be small differences, whose digits the whole of a gradient would lack.
    P = draw(st.integers(4, H - 1)) if name == "LSTM" and H > 4 and draw(st.booleans()) else 0
    kind = draw(st.sampled_from(["padded", "unbatched", "sorted", "unsorted"]))
    lengths = draw(st.lists(st.integers(1, T), min_size=B, max_size=B))
    wanted = draw(st.lists(st.booleans(), min_size=3, max_size=3))
    return name, (I, H, L), flags | ({"proj_size": P} if P else {}), T, B, kind, lengths, wanted, draw(st.booleans())


@given(calls(), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_same_function(call: Any, dtype: Any, seed: int) -> None:
    name, (I, H, L), options, T, B, kind, lengths, wanted, with_states = call
    torch.manual_seed(seed)
    ours, theirs = pair(name, I, H, L, dtype=dtype, **options)
    batch = 1 if kind == "unbatched" else B
    x = SMALL * torch.randn(T, batch, I, dtype=dtype)
    h0 = state(name, L * (1 + options["bidirectional"]), batch, H, dtype=dtype)
    if "proj_size" in options:
        h0 = (h0[0][..., : options["proj_size"]], h0[1])
    if kind == "unbatched":
        x, h0 = x[:, 0], tuple(h[:, 0] for h in h0) if name == "LSTM" else h0[:, 0]
    elif options["batch_first"]:
        x = x.transpose(0, 1)
    leaves = [t.requires_grad_(w) for t, w in zip((x.detach(), *(h.detach() for h in tensors(h0))), wanted)]  # noqa: B905
    x, h0 = leaves[0], tuple(leaves[1:]) if name == "LSTM" else leaves[1]
    if "sorted" in kind:
        if kind == "sorted":
            lengths.sort(reverse=True)
        x = pack_padded_sequence(x, lengths, options["batch_first"], kind == "sorted")
        x = x._replace(data=x.data.detach().requires_grad_(wanted[0]))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        required = bool(torch.rand(()) < 0.8)
        p.requires_grad_(required), q.requires_grad_(required)
    with by_kernels(2):
        assert_agrees(ours, theirs, (x, h0) if with_states else (x,), T, batch)
        y, want = ours(x)[0], theirs(x)[0]
    assert type(y) is type(want)
    if isinstance(want, PackedSequence):
        for a, b in zip(y[1:], want[1:], strict=True):
            assert a is b or torch.equal(a, b)
    else:
        assert y.shape == want.shape


@given(st.data(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_cells_in_a_loop(data: Any, seed: int) -> None:
    torch.manual_seed(seed)
    name, dtype = data.draw(st.sampled_from(CELLS)), data.draw(st.sampled_from([torch.float32, torch.float64]))
    I, H, B, T = (data.draw(st.integers(1, n)) for n in (9, 20, 5, 4))
    options: dict[str, Any] = {"bias": data.draw(st.booleans())}
    if name == "RNNCell":
        options["nonlinearity"] = data.draw(st.sampled_from(["tanh", "relu"]))
    unbatched, with_state = data.draw(st.booleans()), data.draw(st.booleans())
    ours, theirs = pair(name, I, H, dtype=dtype, **options)
    lead = () if unbatched else (B,)
    h0 = state(name, *lead, H, dtype=dtype)
    arguments = (SMALL * torch.randn(T, *lead, I, dtype=dtype), h0 if with_state else None)
    for t in tensors(arguments):
        t.requires_grad_()

    def loop(cell: Any) -> Any:
        class Loop(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = cell

            def forward(self, x: Any, h: Any) -> Any:
                seen = []
                for step in x:
                    h = self.cell(step, h)
                    seen.append(h)
                return seen

        return Loop()

    with by_kernels(T):
        assert_agrees(loop(ours), loop(theirs), arguments, T, B)


@layers
@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["padded", "batch_first", "unbatched", "packed"])
def test_dropout_has_the_masks_of_torch(name: str, p: float, kind: str) -> None:
    options = {"dropout": p, "bidirectional": True, "batch_first": kind == "batch_first", "dtype": torch.float64}
    ours, theirs = pair(name, I, H, 3, **options)
    x = argument(name, *((T,) if kind == "unbatched" else (T, B)), dtype=torch.float64)
    if kind == "packed":
        x = pack_padded_sequence(x, [2, 5, 3], enforce_sorted=False)
    seen = []
    with by_kernels(6):  # a layer each
        for module in (ours, theirs, ours):
            torch.manual_seed(5)
            seen.append(results(module, (x,)))
    assert all(np.array_equal(a, b) for a, b in zip(seen[0][0].values(), seen[2][0].values(), strict=True))
    for got, want in zip(*seen[:2], strict=True):
        assert_arrays_close(got, want, "float64", roundings(ours, T, B, gradients=True))
    ours.eval(), theirs.eval()
    with by_kernels():
        assert_near(ours(x), theirs(x), ours, T, B)


# What torch.nn refuses, or has no steps for.

WRONG: dict[str, Callable[[Any, Any], Any]] = {
    "nothing": lambda x, h: (),
    "None": lambda x, h: (None,),
    "list": lambda x, h: ([1, 2],),
    "numpy": lambda x, h: (x.numpy(),),
    "no dimension": lambda x, h: (x.sum(),),
    "one row": lambda x, h: (x.flatten()[:I],),
    "one dimension more": lambda x, h: (x[None],),
    "two dimensions more": lambda x, h: (x[None, None],),
    "another width": lambda x, h: (torch.cat((x, x), -1),),
    "no width": lambda x, h: (x[..., :0],),
    "no steps": lambda x, h: (x[:0],),
    "no rows": lambda x, h: (x[:, :0],),
    "float64": lambda x, h: (x.double(),),
    "integers": lambda x, h: (x.long(),),
    "bool": lambda x, h: (x > 0,),
    "complex": lambda x, h: (x + 1j,),
    "meta input": lambda x, h: (x.to("meta"), h),
    "packed by another width": lambda x, h: (pack_padded_sequence(torch.cat((x, x), -1), [5, 3, 2]),),
    "packed rows of no width": lambda x, h: (pack_padded_sequence(x[..., 0], [5, 3, 2]),),
    "packed of more rows than there are": lambda x, h: (PackedSequence(x[0], torch.tensor([3, 3, 3, 3])),),
    "packed of growing steps": lambda x, h: (PackedSequence(x.flatten(0, 1), torch.tensor([3, 4, 8])),),
    "packed of negative steps": lambda x, h: (PackedSequence(x.flatten(0, 1), torch.tensor([16, -1])),),
    "packed by int32": lambda x, h: (PackedSequence(x.flatten(0, 1), torch.tensor([8, 7], dtype=torch.int32)),),
    "packed with a state of more rows": lambda x, h: (pack_padded_sequence(x[:, :2], [5, 3]), h),
}
WRONG_STATES: dict[str, Callable[[Any], Any]] = {
    "a number": lambda h: 1,
    "False": lambda h: False,
    "text": lambda h: "ab",
    "no tuple": lambda h: (),
    "numpy": lambda h: tensors(h)[0].numpy(),
    "a tuple of one": lambda h: (tensors(h)[0],),
    "a tuple of three": lambda h: (tensors(h)[0],) * 3,
    "a list": lambda h: [tensors(h)[0]] * 2,
    "a tuple of None": lambda h: (None, None),
    "one and None": lambda h: (tensors(h)[0], None),
    "a stacked tensor": lambda h: torch.stack([tensors(h)[0]] * 2),
    "the first alone": lambda h: tensors(h)[0],
    "another width": lambda h: mapped(h, lambda t: torch.cat((t, t), -1)),
    "more rows": lambda h: mapped(h, lambda t: torch.cat((t, t), max(t.dim() - 2, 0))),
    "more layers": lambda h: mapped(h, lambda t: torch.cat((t, t), 0)),
    "a dimension more": lambda h: mapped(h, lambda t: t[None]),
    "a dimension less": lambda h: mapped(h, lambda t: t[0]),
    "float64": lambda h: mapped(h, torch.Tensor.double),
    "meta": lambda h: mapped(h, lambda t: t.to("meta")),
}


def mapped(h: Any, function: Any) -> Any:
    return tuple(map(function, h)) if isinstance(h, tuple) else function(h)


# The ways of calls that are a user's own fault: torch.nn says so.
QUIET = {"an empty input", "tensors without numbers (meta)", "arguments that do not fit"}


def assert_same_outcome(name: str, arguments: tuple[Any, ...]) -> None:
    ours, theirs = (outcome(module, *arguments) for module in pair(name))
    if isinstance(theirs, tuple) and isinstance(theirs[0], type):
        assert ours == theirs
    else:
        for a, b in zip(tensors(ours), tensors(theirs), strict=True):
            assert (a.shape, a.dtype, a.device, a.requires_grad) == (b.shape, b.dtype, b.device, b.requires_grad)
            assert a.is_meta or torch.allclose(a, b, atol=1e-6)
    assert set(frt.routes().fallback) <= QUIET


@pytest.mark.parametrize(
    ("name", "wrong"), [(n, w) for n in LAYERS + CELLS for w in WRONG if n in LAYERS or "packed" not in w]
)
def test_bad_inputs(name: str, wrong: str) -> None:
    cell = name.endswith("Cell")
    h = state(name, *(() if cell else (1,)), B, H)
    assert_same_outcome(name, WRONG[wrong](argument(name), h))


# Of these states torch.nn's LSTM reads what lies past their end.
READS_ASTRAY = ("a dimension more", "a dimension less")


@pytest.mark.parametrize(
    ("name", "kind", "wrong"),
    [(n, kind, w) for n in LAYERS + CELLS for kind in ("padded", "unbatched", "packed") for w in WRONG_STATES
     if kind != "packed" or (n in LAYERS and w not in READS_ASTRAY)],
)  # fmt: skip
def test_bad_states(name: str, wrong: str, kind: str) -> None:
    x, cell = argument(name), name.endswith("Cell")
    h = state(name, *(() if cell else (1,)), *(() if kind == "unbatched" else (B,)), H)
    if kind == "unbatched":
        x = x[0] if cell else x[:, 0]
    if kind == "packed":
        x = pack_padded_sequence(x, [2, 5, 1], enforce_sorted=False)
    assert_same_outcome(name, (x, WRONG_STATES[wrong](h)))


def test_packed_rows_that_no_step_has() -> None:
    """torch.nn's GRU leaves them out of its output."""
    ours, theirs = pair("GRU", dtype=torch.float64)
    packed = PackedSequence(torch.randn(10, I, dtype=torch.float64), torch.tensor([3, 3, 3]))
    got, want = ours(packed)[0].data, theirs(packed)[0].data
    assert got.shape == want.shape == (9, H)
    assert_near(got, want, ours, T, B)


@modules
def test_text_of_wrong_arguments(name: str) -> None:
    ours, theirs = pair(name)
    x = argument(name)
    assert outcome(ours, x, None, None) == outcome(theirs, x, None, None)
    assert outcome(ours, x, h0=None) == outcome(theirs, x, h0=None)
    for options in ({"foo": 1}, {"bias": None}, {"nonlinearity": "x"}, {"dropout": 2}, {"proj_size": -1}):
        made = [outcome(lambda m=m, o=options: repr(getattr(m, name)(I, H, **o))) for m in (frt, nn)]
        if "proj_size" not in options or not name.endswith("Cell"):
            assert made[0] == made[1]


@modules
@pytest.mark.parametrize("value", [False, True])
def test_attributes_changed_after_construction(name: str, value: bool) -> None:
    """A cell of torch.nn adds its biases whatever `bias` says; a layer refuses."""
    ours, theirs = pair(name, dtype=torch.float64)
    x = argument(name, dtype=torch.float64)
    for module in (ours, theirs):
        module(x)
        module.bias = value
    got, want = (outcome(module, x) for module in (ours, theirs))
    if isinstance(want[0], type):
        assert got == want
    else:
        assert_near(got, want, ours, T, B)


def detached(module: Any, x: Any) -> Any:
    y = module(x)[0]
    y.detach_()
    return y


def changed(module: Any, x: Any) -> Any:
    y = module(x)[0]
    y[0] = 0
    return y, torch.autograd.grad(y.sum(), module.weight_ih_l0)


def used_later(module: Any, x: Any) -> Any:
    with torch.no_grad():
        y = module(x)[0]
    y[0] = module.weight_hh_l0[0, 0]
    return y, torch.autograd.grad(y.sum(), module.weight_hh_l0)


def states_changed(module: Any, x: Any) -> Any:
    h = tensors(module(x)[1])[0]
    h.mul_(2)
    return h, torch.autograd.grad(h.sum(), module.weight_ih_l0)


@layers
@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch_first"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("use", [detached, changed, used_later, states_changed], ids=lambda f: f.__name__)
def test_outputs_may_be_changed_in_place(name: str, batch_first: bool, bidirectional: bool, use: Any) -> None:
    """In float64, as PyTorch's float32 LSTM forbids more."""
    options = {"batch_first": batch_first, "bidirectional": bidirectional, "dtype": torch.float64}
    ours, theirs = pair(name, I, H, 2, **options)
    x = argument(name, T, B, dtype=torch.float64)
    got, want = (outcome(use, module, x) for module in (ours, theirs))
    if isinstance(want[0], type):
        return  # the outputs of its LSTM are views with batch_first: what torch.nn refuses, ours may allow
    for a, b in zip(tensors(got), tensors(want), strict=True):
        assert a.requires_grad == b.requires_grad
    assert_near(got, want, ours, T, B)
    first, other = tensors(got)[0], tensors(want)[0]
    assert first.stride() == other.stride()


# Lengths, which torch.nn's modules do not have.


@pytest.mark.parametrize("name", [*LAYERS, "LayerNormLSTM", "IndRNN"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch_first"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_lengths_are_packed_sequences(name: str, batch_first: bool, dtype: Any) -> None:
    """Their bits; and rows of no steps keep their first state, which no packed sequence has."""
    ours = getattr(frt, name)(I, H, 2, bidirectional=True, batch_first=batch_first, dtype=dtype)
    lengths = [3, 0, 5, 1]
    full = torch.tensor(lengths) > 0
    x = torch.randn(T, len(lengths), I, dtype=dtype, requires_grad=True)
    given_x = x.transpose(0, 1) if batch_first else x
    h0 = state(name, 4, len(lengths), H, dtype=dtype) if "LSTM" not in name else state("LSTM", 4, 4, H, dtype=dtype)
    with by_kernels(4):
        y, h = ours(given_x, h0, lengths=lengths)
        for other in (torch.tensor(lengths, dtype=torch.int32), np.array(lengths)):
            assert same(ours(given_x, h0, lengths=other), (y, h))
        rows = pack_padded_sequence(x[:, full], [3, 5, 1], enforce_sorted=False)
        packed, last = ours(rows, mapped(h0, lambda s: s[:, full]))
    padded = pad_packed_sequence(packed)[0]
    y = y.transpose(0, 1) if batch_first else y
    assert torch.equal(y[:, full], padded)
    assert not y[:, 1].any()
    for a, b, c in zip(tensors(h), tensors(last), tensors(h0), strict=True):
        assert torch.equal(a[:, full], b)
        assert torch.equal(a[:, 1], c[:, 1])
    want = torch.autograd.grad(padded.square().sum(), [x, *ours.parameters()])
    got = torch.autograd.grad(y.square().sum(), [x, *ours.parameters()])
    assert_near(got, want, ours, T, B)


@pytest.mark.parametrize(
    ("lengths", "error", "text"),
    [
        ([1, 2], ValueError, r"lengths: expected \(3,\) integers, got shape \(2,\)"),
        (2, ValueError, r"lengths: expected \(3,\) integers, got shape \(\)"),
        ([[1, 2, 3]], ValueError, r"lengths: expected \(3,\) integers, got shape \(1, 3\)"),
        ([1, 2, 6], ValueError, r"lengths: expected integers in 0..5, got 1..6"),
        ([1, -1, 2], ValueError, r"lengths: expected integers in 0..5, got -1..2"),
        ([1.0, 2.0, 3.0], TypeError, "lengths: expected integers, got torch.float32"),
        ([True, False, True], TypeError, "lengths: expected integers, got torch.bool"),
    ],
)
@layers
def test_bad_lengths(name: str, lengths: Any, error: type[Exception], text: str) -> None:
    frt.set_fallback("ignore")
    for dtype in (torch.float32, torch.bfloat16):  # and where no kernel is
        ours = getattr(frt, name)(I, H, dtype=dtype)
        with pytest.raises(error, match=text):
            ours(argument(name, dtype=dtype), lengths=lengths)


@layers
def test_lengths_where_none_may_be(name: str) -> None:
    ours = getattr(frt, name)(I, H)
    x = argument(name)
    with pytest.raises(ValueError, match="lengths: expected None for a sequence without a batch"):
        ours(x[:, 0], lengths=[3])
    with pytest.raises(ValueError, match="lengths: expected None beside a PackedSequence"):
        ours(pack_padded_sequence(x, [5, 3, 1]), lengths=[5, 3, 1])
    with pytest.raises(ValueError, match="start: expected None for a cell without clocks"):
        ours(x, start=3)


# Packed rows by PyTorch's operators: derivatives of a higher order, and cells that it does not have.


@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 5, 3]], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("name", [*LAYERS, "LayerNormLSTM", "LayerNormGRU"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_second_derivatives_of_packed_sequences(name: str, lengths: list[int], dtype: Any) -> None:
    """Those of padded rows with the same lengths, in float64."""
    ours = getattr(frt, name)(I, H, bidirectional=True, dtype=dtype)
    x = torch.randn(T, B, I, dtype=dtype)

    def second(module: Any, dtype: Any, packed: bool) -> Any:
        leaf = x.to(dtype, copy=True).requires_grad_()
        if packed:
            y, h = module(pack_padded_sequence(leaf, lengths, enforce_sorted=False))
            y = pad_packed_sequence(y)[0]
        else:
            y, h = module(leaf, lengths=lengths)
        ends = [leaf, *module.parameters()]
        loss = y.square().sum() + sum(s.pow(3).sum() for s in tensors(h))
        (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), ends)

    with by_kernels(2):
        got, want = second(ours, dtype, True), second(copy.deepcopy(ours).double(), torch.float64, False)
    assert_near(got, want, ours, T, B, times=3)


@pytest.mark.parametrize("name", ["LayerNormLSTM", "LayerNormGRU", "IndRNN"])
def test_packed_rows_without_a_kernel(name: str) -> None:
    ours = getattr(frt, name)(I, H, 2, bidirectional=True, dtype=torch.float64)
    packed = pack_padded_sequence(argument(name, T, B, dtype=torch.float64), [2, 5, 3], enforce_sorted=False)
    want = ours(packed)
    with pytest.warns(frt.FallbackWarning, match="autocast"), torch.autocast("cpu"):
        got = ours(packed)
    assert_near(got, want, ours, T, B)
