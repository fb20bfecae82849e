"""Modules for PyTorch on a real GPU, against torch.nn's, which run by cuDNN. Skipped where there is none; the same
modules run on an emulated GPU in test_torch_cuda.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusedrnn

torch = pytest.importorskip("torch")
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from agreement import assert_arrays_close  # noqa: E402
from cuda_cases import ROUNDOFF  # noqa: E402
from torch_agreement import as_leaves, roundings, tensors  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (fusedrnn.cuda.is_available() and torch.cuda.is_available()), reason=f"no GPU: {fusedrnn.cuda.status()}"
    ),
]
LAYERS, CELLS = ("RNN", "LSTM", "GRU"), ("RNNCell", "LSTMCell", "GRUCell")
T, B, I, H = 30, 9, 40, 96


@pytest.fixture(autouse=True)
def _no_fallback() -> Iterator[None]:
    torch.manual_seed(0)
    frt.reset_routes()
    frt.set_fallback("error")
    yield
    frt.set_fallback("warn")
    torch.cuda.set_sync_debug_mode("default")


def layers(kind: str, dtype: str = "float32", **options: Any) -> Any:
    return getattr(frt, kind)(I, H, device="cuda", dtype=getattr(torch, dtype), **options)


def given(*shape: int, dtype: str = "float32") -> Any:
    return torch.randn(shape, device="cuda").to(getattr(torch, dtype)).requires_grad_()


def run(module: Any, *arguments: Any, **keywords: Any) -> list[Any]:
    """The outputs, and the gradients of a sum of them with factors."""
    outputs = tensors(module(*arguments, **keywords))
    ends = [*(t for t in tensors(arguments) if t.requires_grad), *module.parameters()]
    return [*outputs, *torch.autograd.grad(outputs, ends, factors(outputs))]


def factors(outputs: list[Any]) -> list[Any]:
    """Of all signs, and the same numbers in every format and on every device."""
    return [(torch.arange(o.numel(), device=o.device) % 7 - 3).view(o.shape).to(o.dtype) for o in outputs]


def assert_agrees(ours: Any, arguments: Any, steps: int, want: Any = None, **keywords: Any) -> None:
    """With cuDNN in float64: in float32 with the bound of torch_agreement, in 16 bits with that of
    cuda_cases.compare_by_norm."""
    theirs = frt.revert(copy.deepcopy(ours)).double()
    got = run(ours, *arguments, **keywords)
    want = want or run(theirs, *as_leaves(arguments, torch.float64))
    dtype = str(got[0].dtype).removeprefix("torch.")
    assert all(t.is_cuda and t.dtype == got[0].dtype for t in got)
    if dtype == "float32":
        named = [{str(i): t.detach().cpu().numpy() for i, t in enumerate(of)} for of in (got, want)]
        assert_arrays_close(named[0], named[1], dtype, roundings(ours, steps, B, gradients=True))
        return
    bound = 2 * np.sqrt(8 * steps * getattr(ours, "num_layers", 1)) * ROUNDOFF[dtype]
    for a, b in zip(got, want, strict=True):
        assert (a.double() - b).norm() <= bound * b.norm()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind: str, dtype: str) -> None:
    ours = layers(kind, dtype, num_layers=2, bidirectional=True)
    hx = tuple(given(4, B, H, dtype=dtype) for _ in ours._layout().units)
    assert_agrees(ours, (given(T, B, I, dtype=dtype), hx if len(hx) > 1 else hx[0]), T)
    assert frt.routes() == (1, 0, {})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind: str, dtype: str) -> None:
    assert_agrees(layers(kind, dtype), (given(B, I, dtype=dtype),), 1)
    assert frt.routes() == (1, 0, {})


FURTHER = [
    ("LSTM", {}),
    ("LSTM", {"proj_size": 20}),
    ("LSTM", {"zoneout_h": 0.2, "weight_dropout": 0.3, "dropout": 0.4}),
    ("GRU", {"num_heads": 4}),
    ("IndRNN", {}),
    ("LayerNormLSTM", {}),
    ("LayerNormGRU", {}),
    ("FGRLSTM", {}),
    ("SLSTM", {}),
    ("DepthGatedLSTM", {}),
]


@pytest.mark.parametrize(("kind", "options"), FURTHER, ids=str)
def test_float64_has_the_bits_of_the_cpu(kind: str, options: dict[str, Any]) -> None:
    ours = layers(kind, "float64", num_layers=2, bidirectional=True, **options)
    x, resets, found = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B) < 0.1, []
    for device in ("cuda", "cpu"):
        module, leaf = copy.deepcopy(ours).to(device), x.to(device, copy=True).requires_grad_()
        torch.manual_seed(7)
        found.append([t.cpu() for t in run(module, leaf, lengths=[T, *range(1, B)], resets=resets.to(device))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert frt.routes() == (2, 0, {})


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences_and_lengths(kind: str) -> None:
    ours = layers(kind, num_layers=2, bidirectional=True)
    lengths = torch.randint(1, T + 1, (B,))
    lengths[0] = T
    packed = pack_padded_sequence(given(T, B, I).detach(), lengths, enforce_sorted=False)
    packed = packed._replace(data=packed.data.requires_grad_())
    assert_agrees(ours, (packed,), T)
    x, want = pad_packed_sequence(packed)[0].detach(), ours(packed)
    for of_rows in (lengths, lengths.cuda()):
        got = ours(x, lengths=of_rows)
        pairs = zip([got[0], *tensors(got[1])], [pad_packed_sequence(want[0])[0], *tensors(want[1])], strict=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("kind", LAYERS)
def test_repeated_steps_have_the_same_bits(kind: str) -> None:
    ours, x = layers(kind, num_layers=2), given(T, B, I)
    first = run(ours, x)
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(run(ours, x), first, strict=True))


@pytest.mark.parametrize("kind", [*LAYERS, "SLSTM"])
def test_nothing_waits_for_the_gpu(kind: str) -> None:
    ours = layers(kind, num_layers=2, bidirectional=True, dropout=0.5)
    x, lengths = given(T, B, I), torch.randint(0, T + 1, (B,), device="cuda")
    packed = pack_padded_sequence(x.detach(), [T] * B)
    for arguments, keywords in (((x,), {}), ((x,), {"lengths": lengths}), ((packed,), {})):
        run(ours, *arguments, **keywords)
        torch.cuda.set_sync_debug_mode("error")
        run(ours, *arguments, **keywords)
        torch.cuda.set_sync_debug_mode("default")


def warmed_up(step: Any) -> None:
    """As PyTorch asks for before a capture."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)


@pytest.mark.parametrize("kind", [*LAYERS, "SLSTM", "LayerNormGRU"])
def test_a_training_step_in_a_graph(kind: str) -> None:
    """Which reads x, lengths and the parameters as they are when it is replayed."""
    ours, x = layers(kind, num_layers=2, bidirectional=True), given(T, B, I)
    lengths = torch.randint(0, T + 1, (B,), device="cuda")

    def step() -> list[Any]:
        return run(ours, x, lengths=lengths)

    warmed_up(step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    for _ in range(3):
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
            lengths.copy_(torch.randint(0, T + 1, (B,), device="cuda"))
            for p in ours.parameters():
                p.mul_(0.9)
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(found, step(), strict=True))


def test_inference_with_frozen_weights_in_a_graph() -> None:
    ours, x = frt.freeze(layers("LSTM", num_layers=2)), given(T, B, I).detach()
    with torch.no_grad():
        warmed_up(lambda: ours(x))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = ours(x)[0]
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, ours(x)[0])


def test_streams() -> None:
    """Forward on one stream, after a slow fill of x; backward from another."""
    ours, source = layers("GRU", num_layers=2), given(T, B, I).detach()
    want = run(ours, source.clone().requires_grad_())
    torch.cuda.synchronize()
    x, side = torch.zeros_like(source).requires_grad_(), torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        with torch.no_grad():
            x.copy_(source)
        outputs = tensors(ours(x))
        seeds = factors(outputs)
    torch.cuda.current_stream().wait_stream(side)
    got = [*outputs, *torch.autograd.grad(outputs, [x, *ours.parameters()], seeds)]
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_memory_of_a_graph_is_free_after_backward() -> None:
    ours, x = layers("LSTM", num_layers=2), given(T, 256, I)
    ours(x)[0].sum().backward()  # makes the gradients
    y = ours(x)[0]
    held = torch.cuda.memory_allocated()
    y.sum().backward()
    slots = 4 * T * 256 * H * 4 * 2  # at least: four gates of both layers
    assert torch.cuda.memory_allocated() <= held - slots


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant: bool) -> None:
    """The same masks and bits, and less memory."""
    ours, x = layers("GRU", num_layers=2, dropout=0.3), given(T, 256, I)
    found, held = [], []
    for call in (ours, lambda x: checkpoint(ours, x, use_reentrant=reentrant)):
        torch.manual_seed(1)
        before = torch.cuda.memory_allocated()
        y = call(x)[0]
        held.append(torch.cuda.memory_allocated() - before)
        ours.zero_grad()
        x.grad = None
        y.sin().sum().backward()
        found.append([x.grad.clone(), *(p.grad.clone() for p in ours.parameters())])
        del y
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert held[1] < held[0] / 2


@pytest.mark.parametrize("kind", LAYERS)
def test_double_backward(kind: str) -> None:
    """Against torch.nn in float64 without cuDNN, which has none."""
    ours, x = layers(kind), given(4, 3, I)
    theirs, found = frt.revert(copy.deepcopy(ours)).double(), []
    for module, leaf in ((ours, x), (theirs, as_leaves(x, torch.float64))):
        ends = [leaf, *module.parameters()]
        with torch.backends.cudnn.flags(enabled=False):
            loss = module(leaf)[0].sin().sum()
            first = torch.autograd.grad(loss, ends, create_graph=True)
            second = torch.autograd.grad(sum((g**2).sum() for g in first), ends)
        found.append({str(i): g.detach().cpu().numpy() for i, g in enumerate((*first, *second))})
    assert_arrays_close(found[0], found[1], "float32", 4 * roundings(ours, 4, 3, gradients=True))


def test_double_backward_beside_cudnn() -> None:
    """Nobody needs to turn cuDNN off."""
    ours, x = layers("LSTM"), given(4, 3, I)
    (first,) = torch.autograd.grad(ours(x)[0].sin().sum(), x, create_graph=True)
    assert torch.autograd.grad((first**2).sum(), x)[0].abs().sum() > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_autocast(kind: str, dtype: str) -> None:
    """Gives the dtypes that torch.nn gives, and numbers as near as the format allows."""
    ours, x = layers(kind), given(*(() if kind in CELLS else (T,)), B, I)
    theirs, found = frt.revert(copy.deepcopy(ours)), []
    for module in (ours, theirs):
        with torch.autocast("cuda", dtype=getattr(torch, dtype)):
            outputs = tensors(module(x))
        grads = torch.autograd.grad(sum(o.float().sum() for o in outputs), [x, *module.parameters()])
        found.append([*outputs, *grads])
    bound = 4 * np.sqrt(8 * T) * ROUNDOFF[dtype]
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        assert (a.double() - b.double()).norm() <= bound * b.double().norm()
    assert frt.routes() == (1, 0, {})


def test_lengths_train_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """By cuDNN, where the backend does not take the module."""
    ours, x = layers("LSTM", "float64"), given(T, B, I, dtype="float64")
    monkeypatch.setattr(frt.gpu, "plan_or_reason", lambda *_: "a test")
    frt.set_fallback("ignore")
    ours(x, lengths=torch.tensor([T, *range(1, B)]))[0].sum().backward()
    assert not x.grad[1:, 1].any()
    assert frt.routes() == (0, 0, {"a test": 1})


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_second_gpu() -> None:
    ours = layers("GRU", num_layers=2)
    x = given(T, B, I)
    want, twin = run(ours, x), copy.deepcopy(ours).to("cuda:1")
    got = run(twin, x.detach().to("cuda:1").requires_grad_())
    assert all(torch.allclose(a, b.to("cuda:0"), atol=1e-4) for a, b in zip(want, got, strict=True))
    frt.set_fallback("warn")
    with pytest.raises(RuntimeError, match="same device"):
        twin(x)
