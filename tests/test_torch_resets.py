"""Resets of the modules for PyTorch: the bits of layers, and gradients of any order."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fusedrnn  # noqa: E402
import fusedrnn.torch as frt  # noqa: E402
from agreement import element_bound  # noqa: E402
from cases import Cell, possible  # noqa: E402
from fusedrnn.torch.traced import Rows  # noqa: E402
from stacks import STACKED, make_layer  # noqa: E402
from torch_agreement import assert_near, by_kernels  # noqa: E402
from torch_pairs import bits, flat, loss_of, one_or_all  # noqa: E402

T, B, I, H = 7, 3, 4, 12
cells = pytest.mark.parametrize("cell", STACKED, ids=str)
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])


class Case:
    """A module with the parameters of a layer, and a call with resets; states before episodes are each row's own or,
    the second, for all rows."""

    def __init__(self, cell: Cell, rng: np.random.Generator, dtype: str = "float32", **options: Any) -> None:
        self.layer = make_layer(cell, I, H, 2, dtype=dtype, rng=1, **options)
        config = self.layer.config()
        self.module = getattr(frt, type(self.layer).__name__)(**config | {"dtype": getattr(torch, dtype)})
        self.module.load_state_dict({name: torch.from_numpy(a) for name, a in self.layer.state_dict().items()})
        runs = 2 * self.layer.num_directions
        units = [s.length(H, self.layer.proj_size or H) for s in self.layer.spec.states]

        def normal(*shape: int) -> Any:
            return torch.from_numpy(rng.standard_normal(shape).astype(dtype)).requires_grad_()

        self.x = normal(T, B, I)
        states = [normal(runs, B, n) for n in units]
        before = [normal(runs, *((B,) if i != 1 else ()), n) for i, n in enumerate(units)]
        self.states, self.before = (
            [s.detach().requires_grad_() for s in possible(self.layer.spec, of)] for of in (states, before)
        )
        self.resets = torch.from_numpy(rng.random((T, B)) < 0.3)

    def call(self, module: Any = None, x: Any = None, states: Any = None, before: Any = None, **kwargs: Any) -> Any:
        hx = one_or_all(states or self.states)
        given = {"resets": self.resets, "reset_state": one_or_all(before or self.before)} | kwargs
        return flat((self.module if module is None else module)(self.x if x is None else x, hx, **given))

    @property
    def leaves(self) -> list[Any]:
        return [self.x, *self.states, *self.before]


def arrays(tensors: Any) -> list[Any]:
    return [t.detach().numpy() for t in tensors]


@cells
@directions
@pytest.mark.parametrize("lengths", [None, [7, 0, 4]], ids=["whole", "lengths"])
def test_the_bits_of_layers(cell: Cell, bidirectional: bool, lengths: Any, rng: np.random.Generator) -> None:
    case = Case(cell, rng, bidirectional=bidirectional)
    state, before = one_or_all(arrays(case.states)), one_or_all(arrays(case.before))
    x = case.x.detach().numpy()
    out, tape = case.layer.forward(x, state, resets=case.resets.numpy(), reset_state=before, lengths=lengths)
    with by_kernels(None):
        got = case.call(lengths=lengths)
        assert bits(got) == [a.tobytes() for a in out]
        with torch.no_grad():
            assert bits(case.call(lengths=lengths)) == bits(got)
        d = [torch.from_numpy(rng.standard_normal(o.shape).astype("f4")) for o in got]
        grads = torch.autograd.grad(got, case.leaves, d)
    want = case.layer.backward(tape, d[0].numpy(), one_or_all(arrays(d[1:])))
    names = [s.name for s in case.layer.spec.states]
    expected = [want.dx, *(getattr(want, f"d{n}0") for n in names), *(getattr(want, f"dreset_{n}") for n in names)]
    shared = 2 + len(names)  # the state that all rows share: PyTorch adds up its rows in an order of its own
    for i, (a, b) in enumerate(zip(grads, expected, strict=True)):
        if i == shared:
            np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=element_bound("float32", B) * B * np.abs(b).max())
        else:
            assert a.numpy().tobytes() == b.tobytes(), i


@pytest.mark.parametrize("cell", [c for c in STACKED if c.name in ("lstm", "rnn_tanh")], ids=str)
@directions
def test_derivatives_of_any_order(cell: Cell, bidirectional: bool, rng: np.random.Generator) -> None:
    case = Case(cell, rng, "float64", bidirectional=bidirectional)
    n = len(case.states)

    def run(x: Any, *tensors: Any) -> Any:
        return tuple(case.call(None, x, list(tensors[:n]), list(tensors[n:]), lengths=[7, 2, 5]))

    assert torch.autograd.gradcheck(run, case.leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, case.leaves, fast_mode=True)


@cells
@directions
def test_pytorchs_operators_agree(cell: Cell, bidirectional: bool, rng: np.random.Generator) -> None:
    case = Case(cell, rng, "float64", bidirectional=bidirectional)
    with by_kernels(None):
        want = case.call(lengths=[7, 2, 5])
    rows = Rows([7, 2, 5], None, case.resets, one_or_all(case.before))
    got = flat(case.module._by_torch(case.x, one_or_all(case.states), rows))
    assert_near(tuple(got), tuple(want), case.module, T, B)


@directions
def test_forms_of_a_call(bidirectional: bool, rng: np.random.Generator) -> None:
    case = Case(STACKED[0], rng, bidirectional=bidirectional)
    want = case.call(lengths=[4, 7, 2])
    first = frt.LSTM(I, H, 2, bidirectional=bidirectional, batch_first=True)
    first.load_state_dict(case.module.state_dict())
    y, *last = case.call(first, case.x.transpose(0, 1), resets=case.resets.t(), lengths=[4, 7, 2])
    assert bits([y.transpose(0, 1), *last]) == bits(want)

    pack = torch.nn.utils.rnn.pack_padded_sequence
    lengths = torch.tensor([4, 7, 2])
    packed = pack(case.x, lengths, enforce_sorted=False)
    resets = pack(case.resets.unsqueeze(2).float(), lengths, enforce_sorted=False).data[:, 0].bool()
    out, hx = case.module(packed, one_or_all(case.states), resets=resets, reset_state=one_or_all(case.before))
    padded = torch.nn.utils.rnn.pad_packed_sequence(out)[0]
    assert bits([padded, *flat(hx)]) == bits(want)

    want = case.call()
    alone = case.call(
        None, case.x[:, 1], [s[:, 1] for s in case.states], [case.before[0][:, 1], case.before[1]],
        resets=case.resets[:, 1],
    )  # fmt: skip
    assert bits(alone) == bits([want[0][:, 1], *(s[:, 1] for s in want[1:])])
    without = case.module(case.x, resets=case.resets)[0]
    zeros = [torch.zeros_like(s) for s in case.states]
    assert bits([without]) == bits(case.call(None, None, zeros, zeros)[:1])


@pytest.mark.parametrize("cell", [c for c in STACKED if not c.below], ids=str)
def test_single_steps(cell: Cell, rng: np.random.Generator) -> None:
    layer = make_layer(cell, I, H, 1, rng=1)
    config = layer.config()
    given = {k: v for k, v in config.items() if k not in ("num_layers", "batch_first", "dropout", "bidirectional")}
    module = getattr(frt, type(layer).__name__ + "Cell")(**given | {"dtype": torch.float32})
    module.load_state_dict({name.removesuffix("_l0"): torch.from_numpy(a) for name, a in layer.state_dict().items()})
    x, resets = rng.standard_normal((T, B, I)).astype("f4"), rng.random((T, B)) < 0.3
    before = [rng.standard_normal((B, s.length(H, layer.proj_size or H))).astype("f4") for s in layer.spec.states]
    want = layer(x, resets=resets, reset_state=one_or_all([s[None] for s in before]))
    hx, since = None, np.zeros(B, int)
    for t in range(T):
        start = {"start": torch.from_numpy(since)} if cell.clocked else {}
        hx = module(
            torch.from_numpy(x[t]), hx, resets=torch.from_numpy(resets[t]), **start,
            reset_state=one_or_all([torch.from_numpy(s) for s in before]),
        )  # fmt: skip
        since = np.where(resets[t], 0, since) + 1
        assert flat(hx)[0].detach().numpy().tobytes() == want.y[t].tobytes()


@directions
@pytest.mark.usefixtures("compiler_anew")
def test_compiled(bidirectional: bool, rng: np.random.Generator) -> None:
    case = Case(STACKED[0], rng, bidirectional=bidirectional)
    leaves = [*case.leaves, *case.module.parameters()]
    want = case.call()
    grads = torch.autograd.grad(loss_of(want), leaves)
    compiled = torch.compile(case.module, backend="aot_eager", fullgraph=True)
    got = case.call(compiled)
    assert bits(got) == bits(want)
    assert bits(torch.autograd.grad(loss_of(got), leaves)) == bits(grads)


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"resets": torch.zeros(T, B)}, TypeError, "resets: expected torch.bool, got torch.float32"),
        ({"resets": torch.zeros(B, T, dtype=torch.bool)}, ValueError, "resets: expected shape (7, 3), got (3, 7)"),
        ({"reset_state": torch.zeros(2, B, H)}, TypeError, "reset_state: expected a tuple of 2 tensors, got Tensor"),
        (
            {"reset_state": (torch.zeros(2, H), torch.zeros(2, B, H + 1))},
            ValueError,
            "reset_state: expected (2, 3, 12) or (2, 12) of torch.float32, got (2, 3, 13) of torch.float32",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(kwargs: Any, error: Any, text: str) -> None:
    with pytest.raises(error) as e:
        frt.LSTM(I, H, 2)(torch.zeros(T, B, I), **kwargs)
    assert str(e.value) == text


def test_the_layer_of_numpy_has_the_same_names() -> None:
    about_rows = {"lengths", "resets", "reset_state"}
    for call in (fusedrnn.LSTM.__call__, fusedrnn.LSTM.forward, frt.LSTM.forward):
        assert about_rows <= inspect.signature(call).parameters.keys()
