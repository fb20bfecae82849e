"""Regularisation of modules for PyTorch: the bits of layers under the masks of a seed of PyTorch's generator."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from cases import Cell, options_of  # noqa: E402
from fusedrnn.torch.module import new_seed  # noqa: E402
from fusedrnn.torch.traced import Rows  # noqa: E402
from stacks import STACKED, make_layer  # noqa: E402
from torch_agreement import assert_near, by_kernels  # noqa: E402
from torch_pairs import bits, flat, loss_of  # noqa: E402

P, BETWEEN = 0.3, 0.4
T, B, I, H = 6, 3, 4, 12
cells = pytest.mark.parametrize("cell", STACKED, ids=str)
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
LSTM = STACKED[0]


class Case:
    """A module with the options that its cell has, dropout between its layers, and the parameters of a layer."""

    def __init__(self, cell: Cell, dtype: str = "float32", options: Any = None, size: int = H, **others: Any) -> None:
        options = options_of(cell, P) if options is None else options
        self.layer = make_layer(cell, I, size, 2, dtype=dtype, rng=1, dropout=BETWEEN, **options, **others)
        given = self.layer.config() | {"dtype": getattr(torch, dtype)}
        self.module = getattr(frt, type(self.layer).__name__)(**given)
        self.module.load_state_dict({name: torch.from_numpy(a) for name, a in self.layer.state_dict().items()})
        self.x = torch.randn(T, B, I, dtype=getattr(torch, dtype), requires_grad=True)

    @property
    def leaves(self) -> list[Any]:
        return [self.x, *self.module.parameters()]

    def call(self, module: Any = None, x: Any = None, **kwargs: Any) -> list[Any]:
        """Under the masks of one seed, whatever the call."""
        torch.manual_seed(3)
        return flat((self.module if module is None else module)(self.x if x is None else x, **kwargs))


def seed_of_calls() -> int:
    torch.manual_seed(3)
    return int(new_seed())


# What a call gives.


@cells
@directions
@pytest.mark.parametrize("about", ["whole", "lengths", "resets"])
def test_the_bits_of_layers(cell: Cell, bidirectional: bool, about: str, rng: np.random.Generator) -> None:
    """In training; with gradients, and without."""
    case = Case(cell, bidirectional=bidirectional)
    rows: dict[str, Any] = {"lengths": [T, 0, 3]} if about == "lengths" else {}
    if about == "resets":
        rows["resets"] = rng.random((T, B)) < 0.3
    x = case.x.detach().numpy()
    out, tape = case.layer.forward(x, seed=seed_of_calls(), **rows)
    if about == "resets":
        rows["resets"] = torch.from_numpy(rows["resets"])
    with by_kernels():
        got = case.call(**rows)
    assert bits(got) == [a.tobytes() for a in out]
    with torch.no_grad(), by_kernels():
        assert bits(case.call(**rows)) == bits(got)
    d = [torch.from_numpy(rng.standard_normal(o.shape).astype("f4")) for o in got]
    grads = torch.autograd.grad(got, case.leaves, d)
    last = tuple(t.numpy() for t in d[1:])
    want = case.layer.backward(tape, d[0].numpy(), last if len(last) > 1 else last[0])
    names = ["x", *dict(case.module.named_parameters())]
    for name, a, b in zip(names, grads, [want.dx, *(want.parameters[n] for n in names[1:])], strict=True):
        assert a.numpy().tobytes() == b.tobytes(), name


@pytest.mark.parametrize("cell", [c for c in STACKED if c.name in ("lstm", "gru_reset_after")], ids=str)
@directions
def test_derivatives_of_any_order(cell: Cell, bidirectional: bool) -> None:
    case = Case(cell, "float64", size=3, bidirectional=bidirectional)
    leaves = [case.x[:3, :2].detach().requires_grad_(), *case.module.parameters()]

    def run(x: Any, *parameters: Any) -> Any:
        given = dict(zip(dict(case.module.named_parameters()), parameters, strict=True))
        torch.manual_seed(3)
        return tuple(flat(torch.func.functional_call(case.module, given, (x,), {"lengths": [3, 2]})))

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@cells
@directions
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_pytorchs_operators_agree(cell: Cell, bidirectional: bool, training: bool) -> None:
    case = Case(cell, "float64", bidirectional=bidirectional)
    case.module.train(training)
    with by_kernels(), torch.no_grad():
        want = case.call(lengths=[T, 2, 5])
    torch.manual_seed(3)
    got = flat(case.module._by_torch(case.x, None, Rows([T, 2, 5], None, None, None)))
    assert_near(tuple(got), tuple(want), case.module, T, B)


@cells
def test_evaluation(cell: Cell) -> None:
    """With zoneout, the expectation, for whose gradients there is no kernel; without, nothing is dropped."""
    options = options_of(cell, P)
    for zoneout in (True, False):
        case = Case(cell, options={n: p for n, p in options.items() if zoneout or not n.startswith("zoneout")})
        case.module.eval()
        want = [a.tobytes() for a in case.layer(case.x.detach().numpy())]
        with torch.no_grad(), by_kernels():
            assert bits(case.call()) == want
        with torch.no_grad(), by_kernels():
            assert bits(case.call(frt.freeze(case.module))) == want
        if not zoneout:
            with by_kernels():
                assert bits(case.call()) == want


def test_gradients_in_evaluation_are_told() -> None:
    case = Case(LSTM)
    case.module.eval()
    frt.reset_routes()
    reason = "gradients of the expectation of zoneout (a module in evaluation)"
    with pytest.warns(frt.FallbackWarning, match="gradients of the expectation of zoneout"):
        got = case.call()
    assert frt.routes().fallback == {reason: 1}
    with torch.no_grad():
        want = case.call()
    assert_near(tuple(got), tuple(want), case.module, T, B)
    frt.set_fallback("error")
    try:
        with pytest.raises(frt.FallbackError, match="gradients of the expectation of zoneout"):
            case.call()
    finally:
        frt.set_fallback("warn")


# Seeds.


def test_a_seed_of_pytorch_gives_the_masks() -> None:
    case, outputs = Case(LSTM), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(case.module(case.x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(case.module(case.x)[0], case.module(case.x)[0])


@pytest.mark.parametrize("reentrant", [False, True], ids=str)
def test_checkpoints_have_the_same_masks(reentrant: bool) -> None:
    case = Case(LSTM)
    want = torch.autograd.grad(loss_of(case.call()[:1]), list(case.module.parameters()))
    torch.manual_seed(3)
    y, _ = checkpoint(case.module, case.x, use_reentrant=reentrant)
    loss_of([y]).backward()
    assert bits([p.grad for p in case.module.parameters()]) == bits(want)


# Forms and ways of a call.


@directions
def test_forms_of_a_call(bidirectional: bool) -> None:
    case = Case(LSTM, bidirectional=bidirectional)
    lengths = torch.tensor([T, 4, 2])
    want = case.call(lengths=lengths)
    first = frt.LSTM(**case.layer.config() | {"dtype": torch.float32, "batch_first": True})
    first.load_state_dict(case.module.state_dict())
    y, *last = case.call(first, case.x.transpose(0, 1), lengths=lengths)
    assert bits([y.transpose(0, 1), *last]) == bits(want)
    packed = pack_padded_sequence(case.x, lengths)
    torch.manual_seed(3)
    out, hx = case.module(packed)
    assert bits([pad_packed_sequence(out)[0], *hx]) == bits(want)
    # Masks are those of the first row, as it is alone.
    alone, row = case.call(None, case.x[:, 0]), case.call(None, case.x[:, :1])
    assert bits(alone) == bits([row[0][:, 0], *(s[:, 0] for s in row[1:])])


@pytest.mark.parametrize("cell", [c for c in STACKED if c.name in ("lstm", "gru_reset_after") or c.below], ids=str)
@directions
@pytest.mark.usefixtures("compiler_anew")
def test_compiled(cell: Cell, bidirectional: bool) -> None:
    """One operator for all layers. The seed is drawn in the graph."""
    case = Case(cell, bidirectional=bidirectional)
    want = case.call()
    grads = torch.autograd.grad(loss_of(want), case.leaves)
    compiled = torch.compile(case.module, backend="aot_eager", fullgraph=True)
    frt.reset_routes()
    got = case.call(compiled)
    assert bits(got) == bits(want)
    assert bits(torch.autograd.grad(loss_of(got), case.leaves)) == bits(grads)
    assert frt.routes() == (0, 1, {})
    assert not torch.equal(compiled(case.x)[0], compiled(case.x)[0])
    case.module.eval()
    with torch.no_grad():
        want = case.call()
        assert bits(case.call(compiled)) == bits(want)


def test_derivatives_of_the_operator() -> None:
    """It is given its seed, so that all calls have the same masks."""
    case = Case(LSTM, "float64", size=3)
    operator = getattr(torch.ops.fusedrnn, case.module._operators(False)[0][0]).default
    seed, states = torch.tensor(seed_of_calls()), [None] * 4

    def run(x: Any, *parameters: Any) -> Any:
        return operator(x, None, None, None, seed, *states, *parameters, BETWEEN, False)[:3]

    assert bits(run(*case.leaves)) == bits(case.call())
    assert torch.autograd.gradcheck(run, case.leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, case.leaves, fast_mode=True)
    with pytest.raises(ValueError, match=r"expected seed as \(\) torch.int64 on the CPU, got \(2,\) torch.int64"):
        operator(case.x, None, None, None, torch.zeros(2, dtype=torch.int64), *states, *case.leaves[1:], 0.0, False)


@pytest.mark.parametrize("cell", [c for c in STACKED if not c.below], ids=str)
def test_cells(cell: Cell) -> None:
    """A step is a sequence of one step, which draws a seed of its own."""
    options = options_of(cell, P)
    layer = make_layer(cell, I, H, 1, rng=1, **options)
    config = layer.config()
    given = {k: v for k, v in config.items() if k not in ("num_layers", "batch_first", "dropout", "bidirectional")}
    module = getattr(frt, type(layer).__name__ + "Cell")(**given | {"dtype": torch.float32})
    module.load_state_dict({name.removesuffix("_l0"): torch.from_numpy(a) for name, a in layer.state_dict().items()})
    x = torch.randn(B, I, requires_grad=True)
    out, tape = layer.forward(x.detach().numpy()[None], seed=seed_of_calls())
    torch.manual_seed(3)
    with by_kernels():
        new = flat(module(x))
    assert bits(new) == [s.tobytes() for s in out[1:]]
    dx = torch.autograd.grad(new[0].sum(), x)[0]
    assert dx.numpy().tobytes() == layer.backward(tape, np.ones_like(out.y)).dx.tobytes()
    module.eval()
    with torch.no_grad(), by_kernels():
        assert bits(flat(module(x))) == [s.tobytes() for s in layer(x.detach().numpy()[None])[1:]]


# Options.


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_options(kind: str) -> None:
    module: Any = getattr(frt, kind)(3, 4, zoneout_h=0.25, weight_dropout=0.5)
    assert module.regularisation == {"zoneout_h": 0.25, "weight_dropout": 0.5}
    x = torch.randn(5, 3)
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(twin).endswith("zoneout_h=0.25, weight_dropout=0.5)")
        assert twin.regularisation == module.regularisation
        torch.manual_seed(3)
        out = flat(twin(x))
        torch.manual_seed(3)
        assert bits(out) == bits(flat(module(x)))
    assert getattr(frt, kind)(3, 4, zoneout_h=0.0).regularisation == {}
    with pytest.raises(ValueError, match=r"zoneout_h: expected a number in 0\.\.1, got 2"):
        getattr(frt, kind)(3, 4, zoneout_h=2)
    with pytest.raises(ValueError, match="zoneout_c: expected 0, as 'gru_reset_after' has no state c, got 0.5"):
        frt.GRU(3, 4, zoneout_c=0.5)


def test_torch_nn_has_its_own_dropout_between_layers() -> None:
    """Where nothing is dropped inside of cells, masks are torch.nn's."""
    module, theirs = frt.LSTM(I, H, 2, dropout=BETWEEN), torch.nn.LSTM(I, H, 2, dropout=BETWEEN)
    theirs.load_state_dict(module.state_dict())
    x = torch.randn(T, B, I)
    torch.manual_seed(3)
    got = flat(module(x))
    torch.manual_seed(3)
    assert_near(tuple(got), tuple(flat(theirs(x))), module, T, B)
