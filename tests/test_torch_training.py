"""The modules for PyTorch in training: parametrisations, tied weights, optimisers, carried states. All as with
torch.nn's, by the kernels."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from torch_pairs import (  # noqa: E402
    DOUBLE,
    KINDS,
    LAYERS,
    SINGLE,
    B,
    H,
    I,
    Pair,
    T,
    flat,
    loss_of,
    one_or_all,
    parameter_grads,
)  # fmt: skip

prune: Any = importlib.import_module("torch.nn.utils.prune")
kinds = pytest.mark.parametrize("kind", KINDS)
layers = pytest.mark.parametrize("kind", LAYERS)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    threads = torch.get_num_threads()
    frt.set_fallback("warn")
    yield
    frt.set_fallback("warn")
    torch.set_num_threads(threads)


# Parametrisations.


def with_weight_norm(module: Any) -> None:
    for name in [n for n, _ in module.named_parameters() if n.startswith("weight")]:
        parametrizations.weight_norm(module, name)


def with_old_weight_norm(module: Any) -> None:
    name = next(n for n, _ in module.named_parameters() if n.startswith("weight_hh"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(module, name)


def with_orthogonal(module: Any) -> None:
    name = next(n for n, _ in module.named_parameters() if n.startswith("weight_hh"))
    torch.manual_seed(3)
    parametrizations.orthogonal(module, name)


def with_spectral_norm(module: Any) -> None:
    name = next(n for n, _ in module.named_parameters() if n.startswith("weight_hh"))
    torch.manual_seed(3)
    parametrizations.spectral_norm(module, name)


def with_old_spectral_norm(module: Any) -> None:
    name = next(n for n, _ in module.named_parameters() if n.startswith("weight_ih"))
    torch.manual_seed(3)
    nn.utils.spectral_norm(module, name)


class Halved(nn.Module):
    def forward(self, weight: Any) -> Any:
        return weight / 2


def with_bias_halved(module: Any) -> None:
    for name in [n for n, _ in module.named_parameters() if n.startswith("bias")]:
        parametrize.register_parametrization(module, name, Halved())


def with_pruning(module: Any) -> None:
    for name in [n for n, _ in module.named_parameters()]:
        prune.l1_unstructured(module, name, amount=0.4)


def with_removed_pruning(module: Any) -> None:
    with_pruning(module)
    for name in [n.removesuffix("_orig") for n, _ in module.named_parameters()]:
        prune.remove(module, name)


PARAMETRISED = [with_weight_norm, with_old_weight_norm, with_orthogonal, with_spectral_norm, with_old_spectral_norm,
                with_bias_halved, with_pruning, with_removed_pruning]  # fmt: skip


@kinds
@pytest.mark.parametrize("change", PARAMETRISED, ids=lambda f: f.__name__)
def test_parametrisations(kind: str, change: Callable[[Any], None]) -> None:
    pair = Pair(kind)
    change(pair.ours)
    change(pair.theirs)
    pair.theirs.load_state_dict(pair.ours.state_dict())
    if change is with_spectral_norm:  # whose iterations torch.nn's modules of layers take several times in a call
        pair.ours.eval()
        pair.theirs.eval()

    def run(module: Any) -> list[Any]:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(pair.call(module)).backward()
            optimizer.step()
        with torch.no_grad():
            outputs = pair.call(module.eval())
        return [*outputs, *(p.grad for p in module.parameters()), *module.state_dict().values()]

    pair.assert_same(run, times=12, calls=4)


@layers
def test_weight_drop(kind: str) -> None:
    """As AWD-LSTM's: the Parameter is deleted, and a plain tensor set in its place at each step."""
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        raw = {n: nn.Parameter(p.detach().clone()) for n, p in module.named_parameters() if n.startswith("weight_hh")}
        for name, p in raw.items():
            del module._parameters[name]
            module.register_parameter(f"{name}_raw", p)
        module.flatten_parameters = lambda *_: None
        found: list[Any] = []
        for _ in range(3):
            torch.manual_seed(5)
            for name, p in raw.items():
                dropped = nn.functional.dropout(p, 0.5)
                setattr(module, name, dropped)
                if name in module._flat_weights_names:  # torch.nn's reads its own list
                    module._flat_weights[module._flat_weights_names.index(name)] = dropped
            found += torch.autograd.grad(loss_of(pair.call(module)), [pair.x, *raw.values()])
            with torch.no_grad():
                for p in raw.values():
                    p.mul_(0.9)
        return found

    pair.assert_same(run, times=3, calls=3)


# Parameters that are shared.


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("tie", ["directions", "layers", "modules", "another operation", "ih and hh"])
def test_tied_parameters(kind: str, tie: str) -> None:
    pair = Pair(kind)
    other: dict[Any, Any] = {m: copy.deepcopy(m) for m in (pair.ours, pair.theirs)}
    narrow: dict[Any, Any] = {pair.ours: getattr(frt, kind)(H, H, dtype=DOUBLE)}
    narrow[pair.theirs] = getattr(nn, kind)(H, H, dtype=DOUBLE)
    narrow[pair.theirs].load_state_dict(narrow[pair.ours].state_dict())

    def run(module: Any) -> list[Any]:
        if tie == "ih and hh":
            m = narrow[module]
            m.weight_hh_l0 = m.weight_ih_l0
            y = m(torch.linspace(-1, 1, T * B * H, dtype=DOUBLE).view(T, B, H))[0]
            return list(torch.autograd.grad(loss_of([y]), list(m.parameters())))
        if tie == "directions":
            module.weight_hh_l0_reverse = module.weight_hh_l0
            module.bias_ih_l1_reverse = module.bias_ih_l1
        elif tie == "layers":
            module.weight_hh_l1 = module.weight_hh_l0
            module.bias_hh_l1 = module.bias_ih_l1 = module.bias_hh_l0
        elif tie == "modules":
            other[module].weight_hh_l0 = module.weight_hh_l0
            other[module].weight_ih_l1 = module.weight_ih_l1
        outputs = pair.call(module)
        if tie == "modules":
            outputs += pair.call(other[module])
        if tie == "another operation":
            outputs.append(outputs[0][..., :H] @ module.weight_hh_l0.T)
        ends = [pair.x, *dict.fromkeys([*module.parameters(), *other[module].parameters()])]
        first = torch.autograd.grad(loss_of(outputs), ends, create_graph=True, allow_unused=True)
        some = [g for g in first if g is not None]
        return [*first, *torch.autograd.grad(sum(g.mean() for g in some), ends, allow_unused=True)]

    pair.assert_same(run, times=4)


# Optimisers.


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "RMSprop foreach": lambda p: torch.optim.RMSprop(p, lr=0.001, foreach=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=1, max_iter=2),
}


def train(pair: Pair, module: Any, optimizer: Any, steps: int = 4, clip: float = 0.0, accumulate: int = 1,
          set_to_none: bool = True, after: Any = None) -> list[Any]:  # fmt: skip
    """The parameters after several steps."""

    def closure() -> Any:
        optimizer.zero_grad(set_to_none=set_to_none)
        for n in range(accumulate):
            outputs = pair.call(module, pair.x.detach() * (1 + n), [s.detach() for s in pair.states])
            loss = sum(o.square().mean() for o in outputs)
            loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        if after is not None:
            after(module)
    return list(module.parameters())


@kinds
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_of_optimizers(kind: str, name: str) -> None:
    pair = Pair(kind)
    # LBFGS divides by differences of gradients, which shrink from step to step, and so multiplies their roundings.
    steps = 1 if name == "LBFGS" else 4
    pair.assert_same(lambda m: train(pair, m, OPTIMIZERS[name](m.parameters()), steps=steps), times=8)


def trained(pair: Pair, module: Any, **kwargs: Any) -> list[Any]:
    return train(pair, module, torch.optim.SGD(module.parameters(), lr=0.1), **kwargs)


@kinds
def test_clipping_and_accumulation(kind: str) -> None:
    for given in ({"clip": 0.05}, {"accumulate": 3}, {"accumulate": 2, "set_to_none": False, "clip": 0.1}):
        pair = Pair(kind)
        kwargs: Any = given
        pair.assert_same(partial(trained, pair, **kwargs), times=8)


@kinds
def test_averaged_models(kind: str) -> None:
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        averaged = torch.optim.swa_utils.AveragedModel(module)
        ema = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
        assert type(ema.module) is type(module)

        def after(m: Any) -> None:
            averaged.update_parameters(m)
            ema.update_parameters(m)

        train(pair, module, torch.optim.SGD(module.parameters(), lr=0.1), after=after)
        return [*pair.call(averaged), *pair.call(ema), *averaged.parameters(), *ema.parameters()]

    pair.assert_same(run, times=8, calls=6)


@kinds
def test_gradients_lie_as_their_parameters_and_are_their_own(kind: str) -> None:
    """So that fused optimisers, DDP and in-place clipping may use them."""
    pair = Pair(kind, SINGLE)
    loss_of(pair.call(pair.ours)).backward()
    grads = [p.grad for p in pair.ours.parameters()]
    assert all(g.is_contiguous() and g.dtype is SINGLE for g in grads)
    assert len({g.untyped_storage().data_ptr() for g in grads}) == len(grads)


# States that are carried.


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("every", [2, 6], ids=["truncated", "whole"])
def test_a_loop_over_a_cell(kind: str, every: int) -> None:
    pair = Pair(kind)
    xs = torch.randn(6, B, I, dtype=DOUBLE)

    def run(module: Any) -> dict[str, Any]:
        state: Any = pair.hx
        loss: Any = 0
        for t, x in enumerate(xs):
            state = module(x, state)
            loss = loss + loss_of(flat(state))
            if (t + 1) % every == 0:
                loss.backward()
                state, loss = one_or_all([s.detach() for s in flat(state)]), 0
        return parameter_grads(module)

    pair.assert_same(run, times=6, calls=6)


@layers
def test_stateful_training(kind: str) -> None:
    pair = Pair(kind)
    xs = torch.randn(4, T, B, I, dtype=DOUBLE)

    def run(module: Any) -> list[Any]:
        optimizer, state = torch.optim.SGD(module.parameters(), lr=0.1), None
        for x in xs:
            optimizer.zero_grad()
            y, state = module(x, state)
            y.square().mean().backward()
            optimizer.step()
            state = one_or_all([s.detach() for s in flat(state)])
        return [*flat(state), *module.parameters()]

    pair.assert_same(run, times=8, calls=4)


@layers
def test_a_graph_that_goes_on_from_call_to_call(kind: str) -> None:
    """The state is not detached; one module is called three times in one graph."""
    pair = Pair(kind)

    def run(module: Any) -> list[Any]:
        state, ys = pair.hx, []
        for _ in range(3):
            y, state = module(pair.x, state)
            ys.append(y)
        return list(torch.autograd.grad(loss_of([*ys, *flat(state)]), [pair.x, *pair.states, *module.parameters()]))

    pair.assert_same(run, times=3, calls=3)
