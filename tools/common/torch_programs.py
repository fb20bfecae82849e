"""Modules of fusedrnn.torch for tests of what traces, transforms and watches PyTorch's programs, and their results."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import fusedrnn.torch as frt
from agreement import assert_arrays_close

T, B, I, H = 5, 2, 3, 4  # of all problems, if not told otherwise
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn": ("RNN", {"nonlinearity": "relu", "bias": False}),
    "lstm": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "lstm_projected": ("LSTM", {"proj_size": 2, "batch_first": True}),
    "gru": ("GRU", {"num_layers": 2, "batch_first": True}),
    "peepholes": ("LSTM", {"peepholes": "diagonal"}),
    "indrnn": ("IndRNN", {"num_layers": 2}),
    "clockwork": ("ClockworkRNN", {"periods": (1, 3)}),
    "layer_norm": ("LayerNormLSTM", {"bidirectional": True}),
}
OF_TORCH = ["rnn", "lstm", "lstm_projected", "gru"]
CELLS = ["RNNCell", "LSTMCell", "GRUCell"]

# What PyTorch itself warns of, of modules of its own as well.
WARNINGS = [
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:`isinstance.treespec, LeafSpec:FutureWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",  # Dynamo
    "ignore:There is a performance drop:UserWarning",  # vmap of cells
    "ignore:Attempted to insert a get_attr Node:UserWarning",  # linearize
    "ignore:The tensor attributes self._flat_weights:UserWarning",  # export
]


def make(name: str, dtype: Any = torch.float64, **options: Any) -> Any:
    family, own = LAYERS.get(name, (name, {}))
    return getattr(frt, family)(I, H, dtype=dtype, **own | options)


def pair(name: str, dtype: Any = torch.float64, **options: Any) -> tuple[Any, Any]:
    """torch.nn's module and ours, of the same parameters."""
    family, own = LAYERS.get(name, (name, {}))
    theirs = getattr(nn, family)(I, H, dtype=dtype, **own | options)
    ours = make(name, dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def an_input(module: Any, dtype: Any = torch.float64, T: int = T, B: int = B) -> Any:
    if isinstance(module, nn.RNNCellBase):
        return torch.randn(B, I, dtype=dtype)
    return torch.randn(*((B, T) if module.batch_first else (T, B)), I, dtype=dtype)


def a_state(module: Any, x: Any) -> Any:
    """A first state of another size at each place where sizes may differ."""
    _, last = module(x)
    return torch.utils._pytree.tree_map(torch.randn_like, last)


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, PackedSequence):
        return [tree.data]
    if isinstance(tree, (tuple, list)):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree]


def results(run: Any, module: Any, *arguments: Any, **keywords: Any) -> list[Any]:
    """Outputs, and gradients of arguments and parameters, of a sum that weighs all outputs differently."""
    module.zero_grad()
    arguments = torch.utils._pytree.tree_map(
        lambda t: t.detach().clone().requires_grad_(t.is_floating_point()), arguments
    )
    outputs = leaves(run(*arguments, **keywords))
    sum((torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape).cos() * y).sum() for y in outputs).backward()
    found = [*outputs, *(t.grad for t in leaves(arguments)), *(p.grad for p in module.parameters())]
    return [None if t is None else t.detach().clone() for t in found]


def assert_same(got: list[Any], want: list[Any]) -> None:
    """The same bits."""
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


def assert_near(got: Any, want: Any, module: Any) -> None:
    """After the roundings of a float64 layer's outputs and gradients."""
    shapes = [p.shape for p in module.parameters() if p.dim() == 2]
    n = (sum(k for _, k in shapes) + 20 * len(shapes) + max(k for k, _ in shapes) + T * B) * T
    a, b = ({str(i): t.detach().numpy() for i, t in enumerate(leaves(tree))} for tree in (got, want))
    assert_arrays_close(a, b, "float64", n)


def compiled(function: Any, backend: str = "aot_eager", **options: Any) -> Any:
    return torch.compile(function, backend=backend, fullgraph=options.pop("fullgraph", True), **options)


def assert_operator() -> None:
    assert frt.routes().operator > 0
    assert frt.routes() == (0, frt.routes().operator, {})
