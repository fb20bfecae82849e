"""The modules for PyTorch under functional forms, transforms of their gradients, forward mode, threads and modes: as
torch.nn's, by the kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.autograd import functional  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from torch_pairs import (  # noqa: E402
    DOUBLE,
    KINDS,
    LAYERS,
    SINGLE,
    Pair,
    bits,
    flat,
    gradients,
    loss_of,
    natively,
    one_or_all,
)  # fmt: skip

forward_ad: Any = torch.autograd.forward_ad
kinds = pytest.mark.parametrize("kind", KINDS)
layers = pytest.mark.parametrize("kind", LAYERS)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    threads = torch.get_num_threads()
    frt.set_fallback("warn")
    yield
    frt.set_fallback("warn")
    torch.set_num_threads(threads)


# Functional forms.


def of_parameters(pair: Pair, module: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    names = list(dict(module.named_parameters()))

    def run(x: Any, *parameters: Any) -> Any:
        given = dict(zip(names, parameters, strict=True))
        return loss_of(flat(torch.func.functional_call(module, given, (x, one_or_all(pair.states)))))

    return run, (pair.x, *(p.detach().clone().requires_grad_() for p in module.parameters()))


@kinds
def test_functional_call(kind: str) -> None:
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        given = {n: (p * 2).detach().requires_grad_() for n, p in module.named_parameters()}
        out = flat(torch.func.functional_call(module, given, (pair.x, pair.hx)))
        again = pair.call(module)
        return [*torch.autograd.grad(loss_of(out), [pair.x, *given.values()]), *out, *again]

    pair.assert_same(run, calls=2)


@kinds
@pytest.mark.parametrize(
    "of", ["jacobian", "jacobian vectorize", "hessian", "hessian vectorize", "vjp", "vhp", "hvp", "jvp"]
)
def test_torch_autograd_functional(kind: str, of: str) -> None:
    pair = Pair(kind)
    name, *vectorize = of.split()

    def run(module: Any) -> list[Any]:
        call, ends = of_parameters(pair, module)
        if name in ("jacobian", "hessian"):
            x = pair.x[:2].detach()  # two steps, or rows
            states = [s[..., :2, :] if pair.of_cell else s for s in pair.states]

            def ends_of(x: Any) -> Any:
                out = [o[..., :2] for o in pair.call(module, x, states)[:2]]
                return torch.cat([o.flatten() for o in out]) if name == "jacobian" else loss_of(out)

            return [getattr(functional, name)(ends_of, x, vectorize=bool(vectorize))]
        vectors: Any = torch.tensor(2.0, dtype=DOUBLE) if name == "vjp" else tuple(torch.ones_like(t) for t in ends)
        return flat(getattr(functional, name)(call, ends, vectors))

    pair.assert_same(run, times=3)


@kinds
@pytest.mark.parametrize("create", [False, True], ids=["", "create_graph"])
def test_batches_of_gradients(kind: str, create: bool) -> None:
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        outputs = pair.call(module)
        torch.manual_seed(0)
        many = [torch.randn(4, *o.shape, dtype=DOUBLE) for o in outputs]
        ends = [pair.x, *pair.states, *module.parameters()]
        return list(torch.autograd.grad(outputs, ends, many, is_grads_batched=True, create_graph=create))

    pair.assert_same(run, times=3, calls=1)


@kinds
def test_vmap_over_the_gradient(kind: str) -> None:
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        outputs = pair.call(module)
        ends = [pair.x, *module.parameters()]
        basis = torch.eye(outputs[-1].numel(), dtype=DOUBLE).view(-1, *outputs[-1].shape)
        return list(torch.vmap(lambda g: torch.autograd.grad(outputs[-1], ends, g, retain_graph=True,
                                                             materialize_grads=True))(basis))  # fmt: skip

    pair.assert_same(run, times=3, calls=1)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@kinds
def test_forward_mode(kind: str) -> None:
    """Falls back, and tells: tangents are right."""
    pair = Pair(kind)
    direction = torch.randn_like(pair.x)

    def run(module: Any) -> list[Any]:
        with forward_ad.dual_level():
            x = forward_ad.make_dual(pair.x.detach(), direction)
            return [part for o in pair.call(module, x) for part in forward_ad.unpack_dual(o)]

    frt.reset_routes()
    with pytest.warns(frt.FallbackWarning, match="forward-mode differentiation"):
        got = run(pair.ours)
    assert frt.routes() == (0, 0, {"forward-mode differentiation": 1})
    assert len(got) == 2 * len(pair.call(pair.theirs))
    pair.assert_close(got, run(pair.theirs), 3)
    with natively():
        pair.call(pair.ours)
    frt.set_fallback("error")
    with pytest.raises(frt.FallbackError):
        run(pair.ours)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@kinds
@pytest.mark.parametrize("create", [False, True], ids=["", "create_graph"])
def test_forward_over_reverse(kind: str, create: bool) -> None:
    """A graph of the kernels, whose incoming gradients have tangents: theirs come out."""
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        outputs = pair.call(module)
        with forward_ad.dual_level():
            dual = [forward_ad.make_dual(torch.ones_like(o), o.detach().cos()) for o in outputs]
            ends = [pair.x, *module.parameters()]
            found = [forward_ad.unpack_dual(g) for g in torch.autograd.grad(outputs, ends, dual, create_graph=create)]
        assert all(f.tangent is not None for f in found)
        return [*(f.primal for f in found), *(f.tangent for f in found)]

    pair.assert_same(run, times=3, calls=1)


# Threads and modes.


@kinds
def test_backward_in_another_thread(kind: str) -> None:
    pair = Pair(kind, SINGLE)
    want = bits(gradients(pair, pair.ours))
    with natively(1), ThreadPoolExecutor(1) as pool:
        loss = loss_of(pair.call(pair.ours))
        ends = [pair.x, *pair.states, *pair.ours.parameters()]
        assert bits(pool.submit(torch.autograd.grad, loss, ends).result()) == want


@kinds
@pytest.mark.parametrize("torch_threads", [1, 2])
def test_threads_that_share_a_module(kind: str, torch_threads: int) -> None:
    torch.set_num_threads(torch_threads)
    pair, count, rounds = Pair(kind, SINGLE), 4, 6
    xs = [torch.randn_like(pair.x).requires_grad_() for _ in range(count)]

    def run(x: Any) -> list[bytes]:
        ends = [x, *pair.ours.parameters()]
        return bits([*(outputs := pair.call(pair.ours, x)), *torch.autograd.grad(loss_of(outputs), ends)])

    want = [run(x) for x in xs]
    start = threading.Barrier(count)

    def work(x: Any) -> list[list[bytes]]:
        start.wait()
        return [run(x) for _ in range(rounds)]

    with natively(count * rounds), ThreadPoolExecutor(count) as pool:
        for got, expected in zip(pool.map(work, xs), want, strict=True):
            assert got == [expected] * rounds


@kinds
def test_inference_mode(kind: str) -> None:
    pair = Pair(kind, SINGLE)
    want = bits(pair.call(pair.ours))
    with natively(2):
        with torch.inference_mode():
            outputs = pair.call(pair.ours)
            x = pair.x.clone()
        assert all(o.is_inference() for o in outputs)
        assert bits(outputs) == want
        with torch.no_grad():  # an inference tensor outside, without a graph
            assert bits(pair.call(pair.ours, x)) == want
    for module in (pair.theirs, pair.ours):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            pair.call(module, x)


@kinds
def test_no_grad_and_set_grad_enabled(kind: str) -> None:
    pair = Pair(kind, SINGLE)
    with natively(4):
        want = bits(pair.call(pair.ours))
        with torch.no_grad():
            outputs = pair.call(pair.ours)
            with torch.enable_grad():
                assert pair.call(pair.ours)[-1].grad_fn is not None
        assert not any(o.requires_grad for o in outputs)
        assert bits(outputs) == want
        with torch.no_grad():
            pair.call(pair.ours, pair.x.detach())
