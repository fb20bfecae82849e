"""What users do to modules of fusedrnn.torch: convert, freeze, copy, move, share; and what has no kernel."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, skip_init  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from torch_agreement import assert_near, by_kernels, tensors  # noqa: E402

NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
I, H, T, B = 4, 6, 5, 3
modules = pytest.mark.parametrize("name", NAMES)
layers = pytest.mark.parametrize("name", NAMES[:3])


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    frt.reset_routes()
    yield
    frt.set_fallback("warn")
    frt.reset_routes()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def argument(name: str, dtype: Any = torch.float32) -> Any:
    return torch.randn(*((B,) if name.endswith("Cell") else (T, B)), I, dtype=dtype)


def same(a: Any, b: Any) -> bool:
    return all(map(torch.equal, tensors(a), tensors(b)))


def weight(module: Any, which: str = "weight_ih") -> Any:
    return getattr(module, weight_name(module, which))


def weight_name(module: Any, which: str = "weight_ih") -> str:
    return which if isinstance(module, nn.RNNCellBase) else f"{which}_l0"


# Conversion.


@modules
def test_convert_and_revert_in_place(name: str) -> None:
    torch.set_default_dtype(torch.float64)

    class Own(getattr(nn, name)):  # type: ignore[misc]
        pass

    rnn, own, linear = getattr(nn, name)(I, H), Own(I, H), nn.Linear(I, H)
    shared = nn.Module()
    shared.rnn = rnn
    model = nn.ModuleList([rnn, own, linear, shared])
    x, seen = argument(name, torch.float64), []
    rnn.register_forward_hook(lambda *_: seen.append("hook"))
    want, parameters, keys = rnn(x), [id(p) for p in model.parameters()], list(model.state_dict())
    assert frt.convert(model) is model
    assert frt.convert(model) is model  # again: nothing to do
    assert [type(m) for m in model] == [getattr(frt, name), Own, nn.Linear, nn.Module]
    assert model[0] is rnn is shared.rnn
    assert isinstance(rnn, getattr(nn, name))
    assert [id(p) for p in model.parameters()] == parameters
    with by_kernels():
        assert_near(rnn(x), want, rnn, T, B)
    assert seen == ["hook"] * 2
    assert list(model.state_dict()) == keys
    assert frt.revert(model) is model
    assert type(rnn) is getattr(nn, name)
    assert vars(rnn).keys() == vars(getattr(nn, name)(I, H)).keys()
    with by_kernels(0):
        assert same(rnn(x), want)
    assert b"fusedrnn" not in pickle.dumps(frt.revert(frt.convert(nn.LSTM(I, H))).__dict__["_parameters"])
    assert type(frt.convert(rnn)) is getattr(frt, name)


def test_convert_takes_modules_alone() -> None:
    for function in (frt.convert, frt.revert, frt.freeze, frt.unfreeze):
        with pytest.raises(TypeError, match="model: expected an nn.Module, got list"):
            function([nn.LSTM(I, H)])


@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk of memory")
@modules
def test_parametrised_modules(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    rnn = getattr(nn, name)(I, H)
    parametrizations.weight_norm(rnn, weight_name(rnn))
    twin = copy.deepcopy(rnn)
    x, cls = argument(name, torch.float64), type(rnn)
    with torch.no_grad():
        want = rnn(x)
    frt.convert(rnn)
    assert isinstance(rnn, getattr(frt, name))
    assert parametrize.is_parametrized(rnn)
    assert type(twin) is cls
    assert not isinstance(twin, getattr(frt, name))
    assert list(rnn.state_dict()) == list(twin.state_dict())
    with by_kernels(2), torch.no_grad():  # torch.nn keeps what it computed, and copies no graph
        assert_near(rnn(x), want, rnn, T, B)
        assert_near(copy.deepcopy(rnn)(x), want, rnn, T, B)
    grads = []
    for module in (rnn, twin):
        tensors(module(x))[0].sum().backward()
        grads.append({key: p.grad for key, p in module.named_parameters()})
    assert grads[0].keys() == grads[1].keys()
    assert_near(list(grads[0].values()), list(grads[1].values()), rnn, T, B)
    parametrize.remove_parametrizations(rnn, weight_name(rnn))
    assert type(rnn) is getattr(frt, name)
    with by_kernels():
        assert_near(rnn(x), want, rnn, T, B)
    frt.freeze(rnn)
    with torch.no_grad(), by_kernels(2):
        assert_near(rnn(x), want, rnn, T, B)
        assert_near(frt.freeze(frt.convert(twin))(x), want, rnn, T, B)
    frt.revert(twin)
    assert not isinstance(twin, getattr(frt, name))
    assert isinstance(twin, getattr(nn, name))
    assert_near(twin(x), want, rnn, T, B)


def test_models_of_further_cells_are_left_by_revert() -> None:
    model = nn.ModuleList([frt.LSTM(I, H, peepholes="diagonal"), frt.LayerNormGRU(I, H), frt.LSTM(I, H)])
    classes = [type(m) for m in model]
    assert [type(m) for m in frt.revert(model)] == [*classes[:2], nn.LSTM]


# Frozen weights.

CHANGES: dict[str, Callable[[Any], Any]] = {
    "an optimizer's step": lambda m: step(m),
    "a state dict": lambda m: m.load_state_dict(copy.deepcopy(m.state_dict())),
    "a change in place": lambda m: torch.no_grad()(weight(m).mul_)(2),
    "a new parameter": lambda m: setattr(m, weight_name(m), nn.Parameter(weight(m).detach().clone())),
    "a bias": lambda m: torch.no_grad()(weight(m, "bias_ih").zero_)(),
    "new data": lambda m: setattr(weight(m), "data", weight(m).detach().clone()),
    "float64": lambda m: m.to(torch.float64),
    "to_empty": lambda m: m.to_empty(device="cpu").reset_parameters(),  # what was there before may be NaN
    "reset_parameters": lambda m: m.reset_parameters(),
}


def step(module: Any) -> None:
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(module.parameters(), 0.1).step()


@modules
def test_frozen_modules_have_the_same_bits(name: str) -> None:
    rnn = getattr(frt, name)(I, H)
    x = argument(name)
    x.requires_grad_()
    ends = [x, *rnn.parameters()]

    def gradients() -> Any:
        return torch.autograd.grad(tensors(rnn(x))[0].square().sum(), ends)

    with by_kernels(8):
        want, dwant = rnn(x), gradients()
        assert frt.freeze(rnn) is rnn
        assert frt.freeze(frt.freeze(rnn)) is rnn
        with torch.no_grad():
            assert same(rnn(x), want)
        with torch.inference_mode():
            assert same(rnn(x), want)
        assert all(map(torch.equal, gradients(), dwant))
        assert same(rnn(x), want)
        assert frt.unfreeze(rnn) is rnn
        with torch.no_grad():
            weight(rnn).mul_(2)
            assert not same(rnn(x), want)
            frt.freeze(rnn)
            assert not same(rnn(x), want)


@modules
@pytest.mark.parametrize("change", CHANGES)
def test_frozen_modules_see_changes(name: str, change: str) -> None:
    rnn = frt.freeze(getattr(frt, name)(I, H))
    x = argument(name)
    with torch.no_grad():
        rnn(x)
    CHANGES[change](rnn)
    x = x.to(next(rnn.parameters()).dtype)
    with torch.no_grad():
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"(weight|bias)_.* was (changed in place|replaced) after fusedrnn"):
                rnn(x)
        with by_kernels(2):
            got = frt.freeze(rnn)(x)
            assert same(got, frt.unfreeze(rnn)(x))


@modules
def test_copies_of_frozen_modules_are_not_frozen(name: str) -> None:
    rnn = frt.freeze(getattr(frt, name)(I, H))
    x = argument(name)
    for other in (copy.copy(rnn), copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        assert other._keeper().frozen is None
        with by_kernels(1), torch.no_grad():
            weight(other).add_(0)
            other(x)
        frt.freeze(rnn)
    assert vars(frt.revert(rnn)).keys() == vars(getattr(nn, name)(I, H)).keys()


# Copies, other processes, old pickles.


PROGRAM = """
import sys
import torch
import fusedrnn.torch as frt

def run(rnn, x, queue):
    with torch.no_grad():
        y = rnn(x)
        next(rnn.parameters()).fill_(0.25)
    queue.put((torch.utils._pytree.tree_leaves(y)[0].numpy().copy(), frt.routes().native))

if __name__ == "__main__":
    name, method, dims = sys.argv[1:]
    rnn, x = getattr(frt, name)(4, 6), torch.randn(5, 3, 4)[0 if int(dims) == 2 else slice(None)]
    with torch.no_grad():
        want = torch.utils._pytree.tree_leaves(rnn(x))[0]
    assert rnn.share_memory() is rnn
    assert all(p.is_shared() for p in rnn.parameters())
    context = torch.multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=run, args=(rnn, x, queue))
    process.start()
    y, native = queue.get()
    process.join()
    assert process.exitcode == 0
    assert torch.equal(torch.from_numpy(y), want)
    assert native >= 1
    assert bool((next(rnn.parameters()) == 0.25).all())
    with torch.no_grad():
        assert not torch.equal(torch.utils._pytree.tree_leaves(rnn(x))[0], want)
    assert frt.routes() == (2, 0, {})
"""


@modules
def test_other_processes(name: str, tmp_path: Path) -> None:
    """A module in memory that processes share, of which one changes a weight."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    method = "spawn" if name == "LSTM" else "fork"
    subprocess.run([sys.executable, str(program), name, method, str(argument(name).dim())], check=True, timeout=600)


@layers
def test_old_pickles(name: str) -> None:
    """Those of PyTorch 1.0: no proj_size, and `all_weights` of parameters."""
    want = getattr(frt, name)(I, H, 2, bidirectional=True)
    state = dict(want.__getstate__())
    for key in ("proj_size", "_flat_weights", "_flat_weights_names", "_all_weights"):
        state.pop(key)
    state["all_weights"] = want.all_weights
    old = getattr(frt, name).__new__(getattr(frt, name))
    old.__setstate__(state)
    x = argument(name)
    with by_kernels(2):
        assert same(old(x), want(x))
    assert old.all_weights[0][0] is want.weight_ih_l0


@modules
def test_saved_files_keep_attributes(name: str) -> None:
    rnn = getattr(frt, name)(I, H, bias=False)
    rnn.note, rnn.more = "of a user", nn.Parameter(torch.ones(2))
    file = io.BytesIO()
    torch.save({"model": nn.Sequential(rnn), "state": rnn.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    other = loaded["model"][0]
    assert (other.note, list(other.state_dict())) == ("of a user", list(rnn.state_dict()))
    x = argument(name)
    with by_kernels(2):
        assert same(other(x), rnn(x))


# No kernel.


@modules
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_dtypes_without_a_kernel(name: str, dtype: Any) -> None:
    theirs = getattr(nn, name)(I, H).to(dtype)
    ours = frt.convert(copy.deepcopy(theirs))
    x = argument(name, dtype)
    reason = f"no kernel for {dtype}"
    with pytest.warns(frt.FallbackWarning, match=reason) as told:
        got = ours(x)
    assert same(got, theirs(x))
    ours(x)  # told once
    assert len(told) == 1
    assert told[0].filename == __file__
    assert frt.routes() == (0, 0, {reason: 2})
    frt.set_fallback("error")
    with pytest.raises(frt.FallbackError, match=reason):
        ours(x)
    with pytest.raises(ValueError, match="action: expected one of 'warn', 'error', 'ignore', got 'never'"):
        frt.set_fallback("never")
    frt.set_fallback("ignore")
    frt.reset_routes()
    ours(x)
    assert frt.routes().fallback == {reason: 1}
    frt.set_fallback("error")
    with by_kernels():
        ours.float()(x.float())


# Devices and dtypes.


@modules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("way", ["to_empty", "skip_init", "assign", "default device", "arguments", "default dtype"])
def test_construction(name: str, dtype: Any, way: str) -> None:
    cls, want = getattr(frt, name), getattr(nn, name)(I, H, dtype=dtype)
    if way == "to_empty":
        rnn = cls(I, H, device="meta", dtype=dtype).to_empty(device="cpu")
    elif way == "skip_init":
        rnn = skip_init(cls, I, H, dtype=dtype)
    elif way == "assign":
        rnn = cls(I, H, device="meta", dtype=dtype)
        rnn.load_state_dict(want.state_dict(), assign=True)
    elif way == "default device":
        with torch.device("meta"):
            rnn = cls(I, H, dtype=dtype)
        assert next(rnn.parameters()).is_meta
        rnn.to_empty(device="cpu")
    elif way == "arguments":
        rnn = cls(I, H, device="cpu", dtype=dtype)
    else:
        torch.set_default_dtype(dtype)
        rnn = cls(I, H)
        torch.set_default_dtype(torch.float32)
    assert type(rnn) is cls
    assert {(p.dtype, p.device.type) for p in rnn.parameters()} == {(dtype, "cpu")}
    rnn.load_state_dict(want.state_dict())
    x = argument(name, dtype)
    with by_kernels():
        got = rnn(x)
    assert_near(got, want(x), rnn, T, B)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(tensors(got), tensors(want(x)), strict=True))


@modules
@pytest.mark.parametrize("default", ["device", "dtype"])
def test_defaults_of_torch_do_not_matter_to_calls(name: str, default: str) -> None:
    """Nor does a default device of tensors without numbers."""
    rnn = getattr(frt, name)(I, H)
    x = argument(name).requires_grad_()
    packed = [] if name.endswith("Cell") else [nn.utils.rnn.pack_padded_sequence(x, [5, 3, 1])]
    lengths = {} if name.endswith("Cell") else {"lengths": [5, 0, 1]}
    want = [rnn(x), rnn(x, **lengths), *(rnn(p) for p in packed)]
    dwant = torch.autograd.grad(sum(tensors(w)[0].sum() for w in want), x, retain_graph=True)
    if default == "device":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(torch.float64)
    with by_kernels(len(want)):
        got = [rnn(x), rnn(x, **lengths), *(rnn(p) for p in packed)]
    dgot = torch.autograd.grad(sum(tensors(w)[0].sum() for w in got), x)
    frt.freeze(rnn)
    with torch.no_grad(), by_kernels():
        assert same(rnn(x), want[0])
    assert same(got, want)
    assert same(dgot, dwant)


@modules
def test_inference_mode(name: str) -> None:
    rnn = getattr(frt, name)(I, H)
    x = argument(name)
    with by_kernels(4):
        want = rnn(x)
        with torch.inference_mode():
            got, made = rnn(x), getattr(frt, name)(I, H)
            inside = x.clone()
            made(inside)
        assert same(got, want)
        assert all(t.is_inference() for t in tensors(got))
        with torch.no_grad():
            assert same(rnn(inside), want)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        tensors(rnn(inside))[0].sum().backward()


@modules
def test_threads_on_one_module(name: str) -> None:
    rnn, count = getattr(frt, name)(I, H), 4
    inputs = [argument(name) for _ in range(count)]
    want = [(rnn(x), torch.autograd.grad(tensors(rnn(x))[0].sum(), weight(rnn))) for x in inputs]
    wrong: list[int] = []
    barrier = threading.Barrier(count)

    def run(i: int) -> None:
        barrier.wait()
        for _ in range(20):
            got = rnn(inputs[i])
            if not (
                same(got, want[i][0]) and same(torch.autograd.grad(tensors(got)[0].sum(), weight(rnn)), want[i][1])
            ):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not frt.routes().fallback
