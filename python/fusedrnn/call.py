"""The four calls of every cell on every backend: inference, forward, backward, one step.

Common to all: float32 or float64, the dtype of the weights; strided inputs are accepted, and copied if they must be;
inputs are never modified; initial states default to *empty* ones, which are zeros, but for a state of which the
function says something else. ``lengths (B,)``, a sequence or array of integers, makes row ``b`` stop after
``lengths[b]`` steps: ``y`` is zero past them, ``h_n`` is the state after the last of them (the initial state for a
length of 0), and steps past them have no part in any gradient. ``reverse=True`` runs from each row's last step to its
first.

``resets (T, B)``, bool, says where a row's new *episode* begins: neither state nor gradient passes between step ``t -
1`` and a step ``t`` with ``resets[t, b]``, as if the row were cut there, and the parts were rows of their own. The
state before the first step of an episode, in the order in which steps run, is ``reset_state``: h, or a tuple (h, c),
each ``(B, H)``, or ``(H,)`` for all rows; None for empty ones. So forward in time it replaces the state before step
``t`` (at ``t = 0`` that is h0), and with `reverse` the state before step ``t - 1``. Clocks start anew. Values past a
row's length are not looked at. ``dreset_h``, ``dreset_c`` are its gradients, each of its shape; None if it was not
given. One step takes ``resets (B,)``.

With weights that were made from CUDA arrays, all other arrays are CUDA arrays of the same library, device and dtype
(float32, float64, bfloat16 or float16), and so are the results; see `fusedrnn.cuda`. So it is with weights that were
made from arrays of another library that has DLPack and ``__array_namespace__``, such as JAX: see `docs/arrays.md`.

All raise ValueError for shapes and values, TypeError for an argument that is no array, or has another dtype.
"""

from __future__ import annotations

from typing import Any

from . import _core
from .aliases import Array, Lengths, Resets
from .aliases import States as ResetState
from .backends import Loaded
from .cells.spec import CellSpec, Gradients, Output
from .kept import Kept
from .masks import Mask, Masks, Sizes, Source, copied, source_of
from .weights import CLASSES, Weights

States = tuple[Array | None, ...]


class Reserve(Kept):
    """The memory and arrays that forward keeps for backward, which runs on the same backend, and leaves it as it is."""

    __slots__ = ("_shape", "_source", "_weights")

    def __init__(self, weights: Weights, kept: Any, nbytes: int, shape: tuple[int, ...], source: Source = None) -> None:
        super().__init__(kept, nbytes)
        self._weights, self._shape, self._source = weights, shape, source

    @property
    def weights(self) -> Weights:
        """The weights of forward."""
        return self._weights

    @property
    def cell(self) -> str:
        """The name of the cell."""
        return self._weights.cell

    @property
    def dtype(self) -> Any:
        return self._weights.dtype

    @property
    def seed(self) -> int | None:
        """The seed of the masks; None if nothing is dropped, or if forward was given masks."""
        return self._source if isinstance(self._source, int) else None

    @property
    def masks(self) -> dict[str, Mask]:
        """The masks of forward, read-only, by the names of options, as forward takes them; empty if nothing is
        dropped."""
        if self._source is None:
            return {}
        if isinstance(self._source, dict):
            return dict(self._source)
        seq_len, batch_size, _ = self._shape
        return self._weights.masks(seq_len, batch_size, self._source)

    def __repr__(self) -> str:
        seq_len, batch_size, _ = self._shape
        sizes = f"seq_len={seq_len}, batch_size={batch_size}, hidden_size={self._weights.hidden_size}"
        return f"<fusedrnn.Reserve of {self.cell}, {sizes}, {self.dtype}, {self._nbytes} bytes>"


def _named(result: Any, results: dict[str, Any]) -> Any:
    """The named tuple `result` of results by name; None for a field without one."""
    return tuple.__new__(result, _core.by_names(result._fields, results))


def _loaded(spec: CellSpec[Any, Any], w: Weights) -> Loaded:
    if isinstance(w, Weights) and w._spec.family == spec.family:
        return w._loaded
    expected = CLASSES.get(spec.family, f"Weights of {spec.family}")
    raise TypeError(f"w: expected {expected}, got {type(w).__name__}")


def _with_resets(spec: CellSpec[Any, Any], inputs: dict[str, Any], resets: Resets, state: ResetState) -> dict[str, Any]:
    """Further inputs, and those that all cells have."""
    if resets is not None:
        inputs["resets"] = resets
    if state is not None:
        if len(spec.states) > 1 and not (isinstance(state, tuple) and len(state) == len(spec.states)):
            names = ", ".join(s.name for s in spec.states)
            raise TypeError(f"reset_state: expected a tuple ({names}), got {type(state).__name__}")
        inputs["reset_state"] = state if isinstance(state, tuple) else (state,)
    return inputs


def infer(
    spec: CellSpec[Output, Any],
    x: Any,
    w: Weights,
    states: States,
    lengths: Lengths,
    reverse: bool,
    resets: Resets = None,
    reset_state: ResetState = None,
    **inputs: Any,
) -> Output:
    if resets is not None or reset_state is not None:
        inputs = _with_resets(spec, inputs, resets, reset_state)
    loaded = _loaded(spec, w)
    result: Output = _named(spec.output, loaded.infer(x, states, lengths, reverse, inputs))
    return result


def forward(
    spec: CellSpec[Output, Any],
    x: Any,
    w: Weights,
    states: States,
    lengths: Lengths,
    reverse: bool,
    resets: Resets = None,
    reset_state: ResetState = None,
    seed: int | None = None,
    masks: Masks = None,
    **inputs: Any,
) -> tuple[Output, Reserve]:
    if resets is not None or reset_state is not None:
        inputs = _with_resets(spec, inputs, resets, reset_state)
    loaded = _loaded(spec, w)
    given = w._values or seed is not None or masks is not None
    source = _source(w, x, seed, masks) if given else None
    if source is not None:
        inputs["masks"] = source
    results, kept, nbytes = loaded.forward(x, states, lengths, reverse, inputs)
    return _named(spec.output, results), Reserve(w, kept, nbytes, x.shape, source)


def _source(w: Weights, x: Any, seed: Any, masks: Any) -> Source:
    """Where the masks of a call come from; those of the caller are checked, and copied."""
    source = source_of(w.regularisation, seed, masks)
    shape: tuple[int, ...] = getattr(x, "shape", ())
    if isinstance(source, dict) and len(shape) == 3:  # the backend refuses other x
        T, B, _ = shape
        sizes = Sizes(w.input_size, w.hidden_size, w.proj_size, T, B, w.num_heads)
        return copied(w._spec, w.regularisation, sizes, source)
    return source


def backward(
    spec: CellSpec[Any, Gradients], reserve: Reserve, dy: Array | None, dstates: States, dabove: Array | None = None
) -> Gradients:
    if not isinstance(reserve, Reserve):
        expected = f"a Reserve, as {spec.family}_forward returns it"
        raise TypeError(f"reserve: expected {expected}, got {type(reserve).__name__}")
    w = reserve._weights
    if w._spec.family != spec.family:
        raise TypeError(f"reserve: expected one of {spec.family}_forward, got one of cell {reserve.cell!r}")
    result: Gradients = _named(spec.gradients, w._loaded.backward(reserve._kept, dy, dstates, dabove))
    return result


def step(
    spec: CellSpec[Any, Any],
    x: Any,
    w: Weights,
    states: States,
    out: Any,
    resets: Resets = None,
    reset_state: ResetState = None,
    **inputs: Any,
) -> Any:
    """The new states: an array, or a tuple of arrays where the cell has several."""
    loaded = _loaded(spec, w)
    if resets is not None or reset_state is not None:
        inputs = _with_resets(spec, inputs, resets, reset_state)
    if len(states) == 1:
        return loaded.step(x, states, (out,), inputs)[0]
    if out is not None and not (isinstance(out, tuple) and len(out) == len(states)):
        names = ", ".join(state.name for state in spec.states)
        count = {2: "two", 3: "three", 4: "four"}[len(states)]
        raise TypeError(f"out: expected a tuple ({names}) of {count} arrays, got {type(out).__name__}")
    return loaded.step(x, states, out or (None,) * len(states), inputs)
