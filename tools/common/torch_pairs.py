"""Modules for PyTorch beside torch.nn's own of equal parameters, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import fusedrnn.torch as frt
from agreement import assert_arrays_close
from torch_agreement import by_kernels, roundings

T, B, I, H = 5, 3, 4, 6
LAYERS, CELLS = ("RNN", "LSTM", "GRU"), ("RNNCell", "LSTMCell", "GRUCell")
KINDS = (*LAYERS, *CELLS)
DOUBLE, SINGLE = torch.float64, torch.float32


@contextmanager
def natively(calls: int | None = None) -> Iterator[None]:
    """All calls of the modules run by the kernels, this many if that is told."""
    frt.reset_routes()
    with by_kernels(calls):
        yield


class Pair:
    """Our module and torch.nn's, of equal parameters; and the tensors of a call."""

    def __init__(self, kind: str, dtype: Any = DOUBLE, grad: bool = True, **options: Any) -> None:
        self.of_cell = kind.endswith("Cell")
        if not self.of_cell:
            options = {"num_layers": 2, "bidirectional": True, **options}
        self.ours = getattr(frt, kind)(I, H, dtype=dtype, **options)
        self.theirs = getattr(nn, kind)(I, H, dtype=dtype, **options)
        self.theirs.load_state_dict(self.ours.state_dict())
        runs = getattr(self.ours, "num_layers", 1) * (1 + getattr(self.ours, "bidirectional", False))
        lead = () if self.of_cell else (runs,)
        units = [getattr(self.ours, "proj_size", 0) or H, H] if "LSTM" in kind else [H]
        self.x = torch.randn((B, I) if self.of_cell else (T, B, I), dtype=dtype, requires_grad=grad)
        self.states = [torch.randn(*lead, B, n, dtype=dtype, requires_grad=grad) for n in units]

    @property
    def hx(self) -> Any:
        return one_or_all(self.states)

    def call(self, module: Any, x: Any = None, states: Any = ()) -> list[Any]:
        """The outputs, flat: y, if there is one, and the last states."""
        states = states or self.states
        return flat(module(self.x if x is None else x, one_or_all(states)))

    def roundings(self, times: int = 1) -> int:
        return times * roundings(self.ours, 1 if self.of_cell else T, B, gradients=True)

    def assert_close(self, got: Any, want: Any, times: int = 1, dtype: str = "float64") -> None:
        """Lists of tensors or None, or dicts, after so many times the roundings of forward and backward."""
        g, w = ({str(k): t for k, t in named(of) if t is not None} for of in (got, want))
        assert_arrays_close({k: t.detach().numpy() for k, t in g.items()},
                            {k: t.detach().numpy() for k, t in w.items()}, dtype, self.roundings(times))  # fmt: skip

    def assert_same(self, run: Callable[[Any], Any], times: int = 1, calls: int | None = None) -> None:
        """run(module) gives the same tensors for both modules, and ours natively."""
        with natively(calls):
            got = run(self.ours)
        self.assert_close(got, run(self.theirs), times)


def one_or_all(states: Any) -> Any:
    return tuple(states) if len(states) > 1 else states[0]


def named(of: Any) -> Any:
    return of.items() if isinstance(of, dict) else enumerate(of)


def flat(out: Any) -> list[Any]:
    return [t for o in out for t in flat(o)] if isinstance(out, tuple) else [out]


def loss_of(outputs: Any) -> Any:
    """All of whose derivatives depend on all outputs."""
    return product_of([o.sin() for o in outputs])


def product_of(tensors: Any) -> Any:
    """With vectors."""
    return sum((t * torch.linspace(-0.5, 1.5, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in tensors)


def gradients(pair: Pair, module: Any, **kwargs: Any) -> list[Any]:
    ends = [pair.x, *pair.states, *module.parameters()]
    return list(torch.autograd.grad(loss_of(pair.call(module)), ends, **kwargs))


def parameter_grads(module: Any) -> dict[str, Any]:
    return {name: p.grad for name, p in module.named_parameters()}


def bits(tensors: Any) -> list[bytes]:
    return [t.detach().contiguous().numpy().tobytes() for t in tensors]
