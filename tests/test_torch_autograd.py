"""What autograd asks of the modules for PyTorch: derivatives of any order, equal to those of torch.nn, by the kernels.
They refuse and allow what those of torch.nn do."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from torch_pairs import (  # noqa: E402
    DOUBLE,
    KINDS,
    LAYERS,
    SINGLE,
    H,
    Pair,
    bits,
    flat,
    gradients,
    loss_of,
    natively,
    one_or_all,
    parameter_grads,
    product_of,
)

kinds = pytest.mark.parametrize("kind", KINDS)
OPTIONS = [*((kind, {}) for kind in KINDS), ("LSTM", {"proj_size": 2}), ("GRU", {"bias": False}),
           ("RNN", {"batch_first": True, "nonlinearity": "tanh"}), ("LSTMCell", {"bias": False})]  # fmt: skip


# Derivatives.


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
def test_three_derivatives(kind: str, options: dict[str, Any]) -> None:
    pair = Pair(kind, **options)
    if options.get("batch_first"):
        pair.x = pair.x.detach().transpose(0, 1).contiguous().requires_grad_()

    def run(module: Any) -> list[Any]:
        ends, found, loss = [pair.x, *pair.states, *module.parameters()], [], loss_of(pair.call(module))
        for _ in range(3):
            grads = torch.autograd.grad(loss, ends, create_graph=True)
            found += grads
            loss = product_of(grads)
        return found

    pair.assert_same(run, times=9)


@kinds
def test_second_derivative_in_float32(kind: str) -> None:
    pair = Pair(kind, SINGLE)
    with natively():
        first = gradients(pair, pair.ours, create_graph=True)
        second = torch.autograd.grad(product_of(first), [pair.x, *pair.states, *pair.ours.parameters()])
    pair.x, pair.states = (
        pair.x.detach().double().requires_grad_(),
        [s.detach().double().requires_grad_() for s in pair.states],
    )
    twin = pair.theirs.double()
    want = gradients(pair, twin, create_graph=True)
    want2 = torch.autograd.grad(product_of(want), [pair.x, *pair.states, *twin.parameters()])
    pair.assert_close(first, want, 1, "float32")
    pair.assert_close(second, want2, 3, "float32")


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_second_derivative_of_packed_rows(kind: str, dtype: Any) -> None:
    pair = Pair(kind)
    packed = torch.nn.utils.rnn.pack_padded_sequence(pair.x.detach(), [2, 5, 3], enforce_sorted=False)

    def run(module: Any, dtype: Any = DOUBLE) -> list[Any]:
        module, states = module.to(dtype), [s.detach().to(dtype).requires_grad_() for s in pair.states]
        data = packed.data.to(dtype).requires_grad_()
        (y, *_), *last = module(packed._replace(data=data), one_or_all(states))
        ends = [data, *states, *module.parameters()]
        first = torch.autograd.grad(loss_of([y, *flat(tuple(last))]), ends, create_graph=True)
        return [*first, *torch.autograd.grad(product_of(first), ends)]

    with natively(1):
        got = run(pair.ours, dtype)
    pair.assert_close(got, run(pair.theirs), 3, str(dtype).removeprefix("torch."))


@kinds
@pytest.mark.parametrize("frozen", ["weights", "x", "h0", "biases", "all but weight_hh"])
def test_second_derivatives_of_some(kind: str, frozen: str) -> None:
    """A first gradient that is wanted for a tensor whose second one is not, and the other way round."""
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        named = {"x": pair.x, "h0": pair.states[0], **dict(module.named_parameters())}
        out = {"weights": [n for n in named if n.startswith("weight")], "x": ["x"], "h0": ["h0"],
               "biases": [n for n in named if n.startswith("bias")],
               "all but weight_hh": [n for n in named if not n.startswith("weight_hh")]}[frozen]  # fmt: skip
        ends = [t for n, t in named.items() if n not in out]
        for n in out:
            named[n].requires_grad_(False)
        first = torch.autograd.grad(loss_of(pair.call(module)), ends, create_graph=True)
        for n in out:
            named[n].requires_grad_(True)
        some = ends[: max(1, len(ends) // 2)]
        return [*first, *torch.autograd.grad(product_of(first[-1:]), some, retain_graph=True),
                *torch.autograd.grad(product_of(first), ends)]  # fmt: skip

    pair.assert_same(run, times=3, calls=1)


@kinds
def test_gradient_penalty(kind: str) -> None:
    pair = Pair(kind)

    def run(module: Any) -> dict[str, Any]:
        head = nn.Linear(2 * H if not pair.of_cell else H, 1, dtype=DOUBLE)
        torch.nn.init.constant_(head.weight, 0.3)
        score = head(pair.call(module)[0])
        (dx,) = torch.autograd.grad(score.sum(), pair.x, create_graph=True)
        ((dx.norm(2, dim=-1) - 1) ** 2).mean().backward()
        return {n: g for n, g in parameter_grads(module).items() if g is not None}

    pair.assert_same(run, times=3, calls=1)


@kinds
def test_backward_twice(kind: str) -> None:
    pair = Pair(kind, SINGLE)
    with natively(1):
        loss = loss_of(pair.call(pair.ours))
        loss.backward(retain_graph=True)
        first = {n: g.clone() for n, g in parameter_grads(pair.ours).items()}
        pair.ours.zero_grad()
        loss.backward()
    assert bits(first.values()) == bits(parameter_grads(pair.ours).values())
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


# In-place changes.


def changed(pair: Pair, module: Any, what: str, outputs: Any) -> None:
    parameters = dict(module.named_parameters())
    targets = {"x": pair.x, "h0": pair.states[0], "h0 view": pair.states[0][..., :1], "output": outputs[0]}
    targets |= {"last": outputs[-1]} | {n.removesuffix("_l0"): p for n, p in parameters.items()}
    with torch.no_grad():
        targets[what].mul_(1.5)


@kinds
@pytest.mark.parametrize("what", ["x", "h0", "h0 view", "weight_hh", "weight_ih"])
def test_changes_that_are_refused(kind: str, what: str) -> None:
    pair = Pair(kind)
    for module in (pair.theirs, pair.ours):
        outputs = pair.call(module)
        changed(pair, module, what, outputs)
        told = "modified by an inplace operation" if module is pair.ours else "modified"
        with pytest.raises(RuntimeError, match=told):
            loss_of(outputs).backward()


@kinds
@pytest.mark.parametrize("what", ["output", "last", "bias_ih", "bias_hh"])
def test_changes_that_are_allowed(kind: str, what: str) -> None:
    """Where torch.nn allows them: its gradients, of outputs as they were."""
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        outputs = pair.call(module)
        loss = sum(o.sum() for o in outputs)
        changed(pair, module, what, outputs)
        return list(torch.autograd.grad(loss, [pair.x, *pair.states, *module.parameters()]))

    with natively(1):
        got = run(pair.ours)
    try:
        want = run(pair.theirs)
    except RuntimeError as e:  # allowed by us alone: then the gradients of no change
        assert "modified by an inplace operation" in str(e)  # noqa: PT017
        pair.theirs.load_state_dict(pair.ours.state_dict())
        with torch.no_grad():
            for n, p in pair.theirs.named_parameters():
                p.div_(1.5 if n.removesuffix("_l0") == what else 1)
        want = list(torch.autograd.grad(sum(o.sum() for o in pair.call(pair.theirs)),
                                        [pair.x, *pair.states, *pair.theirs.parameters()]))  # fmt: skip
    pair.assert_close(got, want)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "RNNCell"])  # torch.nn's keeps its output
def test_operations_in_place_on_outputs(kind: str) -> None:
    """As part of the graph: y.mul_(2), a mask written into y, relu_."""
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        y, *last = pair.call(module)
        y.mul_(2)
        y[..., ::2].zero_()
        last = [nn.functional.leaky_relu_(s, 0.1) for s in last]
        return list(torch.autograd.grad(loss_of([y, *last]), [pair.x, *pair.states, *module.parameters()]))

    pair.assert_same(run, times=2, calls=1)


def test_a_bias_that_changed_is_refused_by_second_derivatives() -> None:
    pair = Pair("GRU")
    loss = loss_of(pair.call(pair.ours))
    with torch.no_grad():
        pair.ours.bias_hh_l1.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, pair.x, create_graph=True)


# Which gradients, of which outputs.


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [*((kind, w) for kind in KINDS for w in ("x", "h0", "x h0", "weight_hh", "bias_ih")),
     *((kind, w) for kind in LAYERS for w in ("_l1", "_reverse"))],
)  # fmt: skip
def test_gradients_of_some_tensors(kind: str, wanted: str) -> None:
    pair = Pair(kind, grad=False)
    tensors = {"x": pair.x, "h0": pair.states[0]}
    for n in tensors.keys() & set(wanted.split()):
        tensors[n].requires_grad_()

    def run(module: Any) -> dict[str, Any]:
        for n, p in module.named_parameters():
            p.requires_grad_(wanted in n)
        pair.x.grad = pair.states[0].grad = None
        loss_of(pair.call(module)).backward()
        return {**parameter_grads(module), **{n: t.grad for n, t in tensors.items()}}

    pair.assert_same(run, calls=1)


@kinds
@pytest.mark.parametrize("which", [0, 1, -1], ids=["first", "second", "last"])
@pytest.mark.parametrize("create", [False, True], ids=["", "create_graph"])
def test_gradients_of_one_output(kind: str, which: int, create: bool) -> None:
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        outputs = pair.call(module)
        ends = [pair.x, *pair.states, *module.parameters()]
        return list(torch.autograd.grad(loss_of([outputs[which % len(outputs)]]), ends, create_graph=create,
                                        allow_unused=True))  # fmt: skip

    pair.assert_same(run, calls=1)


def strided(g: Any) -> Any:
    wide = torch.zeros(*g.shape[:-1], 3 * g.shape[-1], dtype=g.dtype)
    wide[..., 1::3] = g
    return wide[..., 1::3]


DY: dict[str, Callable[[Any], Any]] = {
    "expanded": lambda g: g[..., :1].expand(g.shape),
    "zero stride": lambda g: torch.ones((), dtype=g.dtype).expand(g.shape),
    "same in each step": lambda g: g[:1].expand(g.shape),
    "same in each row": lambda g: g[..., :1, :].expand(g.shape),
    "transposed": lambda g: g.transpose(0, -1).contiguous().transpose(0, -1),
    "time inside": lambda g: g.transpose(0, 1).contiguous().transpose(0, 1),
    "left half": lambda g: torch.cat([g, g + 1], -1)[..., : g.shape[-1]],
    "right half": lambda g: torch.cat([g + 1, g], -1)[..., g.shape[-1] :],
    "every second row": lambda g: torch.stack([g, g + 1], -2)[..., 0, :],
    "overlapping": lambda g: g.flatten().repeat(3).as_strided(g.shape, (*[1] * (g.dim() - 1), 1)),
    "strided": strided,
    "unaligned": lambda g: torch.cat([g.flatten()[:1], g.flatten()])[1:].view(g.shape),
    "negative bit": lambda g: torch.complex(g, -g).conj().imag,
    "from the end": lambda g: g.flip(0),
}


@kinds
@pytest.mark.parametrize("form", DY)
@pytest.mark.parametrize("create", [False, True], ids=["", "create_graph"])
def test_forms_of_gradients(kind: str, form: str, create: bool) -> None:
    pair = Pair(kind)
    outputs = pair.call(pair.ours)
    given = [DY[form](torch.randn_like(o)) for o in outputs]
    assert all(g.is_neg() == (form == "negative bit") for g in given)
    ends = [pair.x, *pair.states, *pair.ours.parameters()]
    got = torch.autograd.grad(outputs, ends, given, create_graph=create)
    plain = [g.resolve_neg().clone(memory_format=torch.contiguous_format) for g in given]
    assert bits(got) == bits(torch.autograd.grad(pair.call(pair.ours), ends, plain))
    want = torch.autograd.grad(pair.call(pair.theirs), [pair.x, *pair.states, *pair.theirs.parameters()], plain)
    pair.assert_close(got, want)


# Hooks.


@kinds
def test_hooks(kind: str) -> None:
    pair, log = Pair(kind), []

    def run(module: Any) -> list[Any]:
        told: list[str] = []

        def tell(name: str, result: Any = None) -> Any:
            told.append(name)
            return result

        def thrice(o: Any) -> Any:
            return (o[0] * 3, *o[1:]) if isinstance(o, tuple) else o * 3

        module.register_forward_pre_hook(lambda m, a, k: tell("pre", ((a[0] * 2, *a[1:]), k)), with_kwargs=True)
        module.register_forward_hook(lambda m, a, o: tell("forward", thrice(o)))
        module.register_full_backward_pre_hook(lambda m, g: tell("backward pre"))
        module.register_full_backward_hook(lambda m, gi, go: tell(f"backward {len(gi)} {len(go)}"))
        weight = next(p for n, p in module.named_parameters() if n.startswith("weight_hh"))
        weight.register_hook(lambda g: g * 7)
        weight.register_post_accumulate_grad_hook(lambda p: tell(f"accumulated {tuple(p.grad.shape)}"))
        x = pair.x.clone()
        x.register_hook(lambda g: tell("x", g + 1))
        x.retain_grad()
        outputs = pair.call(module, x)
        outputs[0].register_hook(lambda g: g * 2)
        outputs[-1].retain_grad()
        loss_of(outputs).backward()
        log.append(told)
        return [x.grad, outputs[-1].grad, *parameter_grads(module).values()]

    pair.assert_same(run, calls=1)
    assert sorted(log[0]) == sorted(log[1])


@kinds
def test_anomalies_are_told(kind: str) -> None:
    pair = Pair(kind)
    with (  # noqa: PT031
        pytest.warns(UserWarning, match="Anomaly Detection has been enabled"),
        torch.autograd.detect_anomaly(),
    ):
        gradients(pair, pair.ours)
        outputs = pair.call(pair.ours)
        with pytest.warns(UserWarning, match="Error detected in"), pytest.raises(RuntimeError, match="returned nan"):
            (outputs[0] * float("nan")).sum().backward()


@kinds
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_checkpoint(kind: str, reentrant: bool) -> None:
    pair = Pair(kind, SINGLE)
    want = bits(gradients(pair, pair.ours))
    with natively(2):
        run = lambda x, *states: tuple(pair.call(pair.ours, x, states))  # noqa: E731
        loss_of(checkpoint(run, pair.x, *pair.states, use_reentrant=reentrant)).backward()
    assert bits([pair.x.grad, *(s.grad for s in pair.states), *parameter_grads(pair.ours).values()]) == want


def to_disk(t: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(t, file)
    return file


def unaligned(t: Any) -> Any:
    return torch.cat([t.new_zeros(1), t.detach().reshape(-1)])[1:].view(t.shape)


def noncontiguous(t: Any) -> Any:
    return torch.stack([t.detach(), t.detach()], -1)[..., 0]


PACKING: dict[str, tuple[Any, Any]] = {
    "offload": (lambda t: t.detach().numpy().copy(), torch.from_numpy),
    "disk": (to_disk, lambda f: torch.load(io.BytesIO(f.getvalue()))),
    "unaligned": (unaligned, lambda t: t),
    "noncontiguous": (noncontiguous, lambda t: t),
    "negative bit": (lambda t: torch._neg_view(-t.detach()), lambda t: t),
    "index": (lambda t: [t.detach().clone()], lambda a: a[0]),
}


@kinds
@pytest.mark.parametrize("form", [*PACKING, "save_on_cpu"])
@pytest.mark.parametrize("create", [False, True], ids=["", "create_graph"])
def test_saved_tensors_hooks(kind: str, form: str, create: bool) -> None:
    pair = Pair(kind, SINGLE)
    want = bits(gradients(pair, pair.ours))
    with natively(1), save_on_cpu() if form == "save_on_cpu" else saved_tensors_hooks(*PACKING[form]):
        loss = loss_of(pair.call(pair.ours))
    ends = [pair.x, *pair.states, *pair.ours.parameters()]
    assert bits(torch.autograd.grad(loss, ends, create_graph=create)) == want


def test_a_graph_keeps_half_of_what_torch_keeps() -> None:
    """Of a float32 LSTM: x, h and five numbers of each unit and step against oneDNN's workspace."""

    def kept(module: Any, x: Any) -> int:
        seen: dict[int, int] = {}

        def pack(t: Any) -> Any:
            storage = t.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return t

        with saved_tensors_hooks(pack, lambda t: t):
            assert module(x)[0].requires_grad
        own = {p.untyped_storage().data_ptr() for p in module.parameters()}
        return sum(nbytes for address, nbytes in seen.items() if address not in own)

    x = torch.randn(200, 16, 128)
    ours, theirs = kept(frt.LSTM(128, 128), x), kept(nn.LSTM(128, 128), x)
    assert x.nbytes <= ours <= 7 * x.nbytes + 4096
    assert ours <= theirs / 2


def test_nothing_is_kept_without_a_graph() -> None:
    module = frt.LSTM(4, 6)

    def pack(t: Any) -> Any:
        raise AssertionError("kept")

    with saved_tensors_hooks(pack, lambda t: t), natively(2):
        with torch.no_grad():
            module(torch.randn(5, 3, 4))
        module.requires_grad_(False)
        assert not module(torch.randn(5, 3, 4))[0].requires_grad
