"""Autograd through modules on an emulated GPU, and what else is true of a module there: see test_torch_cuda.py."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from agreement import assert_arrays_close  # noqa: E402
from fusedrnn.torch import gpu  # noqa: E402
from torch_agreement import as_leaves, assert_near, by_kernels, roundings, tensors  # noqa: E402
from torch_gpu import B, H, I, T, layers, states_of, theirs_of  # noqa: E402
from torch_pairs import CELLS, LAYERS, bits  # noqa: E402


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


@pytest.mark.parametrize(("kind", "options"), [("LSTM", {"proj_size": 2}), ("GRU", {"num_heads": 3}), ("SLSTM", {})])
def test_gradcheck(kind: str, options: dict[str, Any], on_gpu: Any) -> None:
    """Against differences, first and second derivatives."""
    ours = getattr(frt, kind)(2, 3, num_layers=2, dtype=torch.float64, **options)
    names = [name for name, _ in ours.named_parameters()]

    def call(x: Any, *parameters: Any) -> Any:
        return tensors(torch.func.functional_call(ours, dict(zip(names, parameters, strict=True)), (x,)))

    given = [torch.randn(2, 1, 2, dtype=torch.float64), *(p.detach().clone() for p in ours.parameters())]
    leaves = [t.requires_grad_() for t in given]
    with by_kernels(None):
        assert torch.autograd.gradcheck(lambda *t: tuple(call(*t)), leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda *t: tuple(call(*t)), leaves, fast_mode=True)


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
