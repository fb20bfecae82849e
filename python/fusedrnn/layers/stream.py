"""A stream: a layer that runs step by step, and keeps its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..aliases import Array, Resets
from .arguments import Form, whole

if TYPE_CHECKING:
    from .layer import Layer


class Stream:
    """A layer that runs step by step. Its weights are those of the layer at the time when it was made, packed once; its
    state begins empty: zeros, but for a state of which the cell says something else. T steps give the bits of one call
    over T steps.

    Made by `Layer.stream`. A stream runs one step at a time: a call during another raises RuntimeError.
    """

    __slots__ = ("_batch_size", "_layer", "_native", "_step")

    def __init__(self, layer: Layer, batch_size: int, native: _core.Stream) -> None:
        if not isinstance(native, _core.Stream):
            raise TypeError(f"native: expected a native stream, as Layer.stream makes it, got {type(native).__name__}")
        self._layer, self._batch_size = layer, batch_size
        self._native, self._step = native, native.step

    def step(self, x: Array, out: Array | None = None, resets: Resets = None) -> Array:
        """One step of all rows through all layers.

        Args:
            x: ``(B, I)``; also ``(I,)`` for a stream of one row.
            out: a C-contiguous array ``(B, H)``, or ``(H,)`` for x ``(I,)``, to write y to, which does not overlap x;
                nothing is allocated then, up to 4 MB of scratch. With a projection, P in place of H.
            resets: ``(B,)`` bool, or None: which rows begin a new episode with this step, from zeros; their clocks
                start anew.

        Returns:
            y of the highest layer, ``(B, H)``: `out`, or a new array.

        Raises:
            ValueError, TypeError: x, out or resets does not fit. RuntimeError: a call during another.
        """
        return self._step(x, out, resets)

    @property
    def layer(self) -> Layer:
        return self._layer

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    def state(self) -> Any:
        """The state after the last step, as the layer's calls take it: an array ``(num_layers, B, H)``, or a tuple of
        arrays where the cell has several states. A copy; setting it copies. None sets the empty state, also in place
        of one array. The steps that clocks have counted are no part of it."""
        states = self._native.states()
        return states[0] if len(states) == 1 else states

    @state.setter
    def state(self, state: Any) -> None:
        form = Form(True, False, 1, self._batch_size)
        self._native.set_states(form.take_state(self._layer.spec, "state", state))

    def reset(self, rows: Any = None) -> None:
        """Makes the state empty, and sets clocks to their start, of all rows, or of these: integers, or a bool array
        with an element for each row.

        Raises:
            ValueError: a row that the stream does not have. TypeError: no integers.
        """
        if rows is None:
            self._native.reset(list(range(self._batch_size)))
            return
        chosen = np.atleast_1d(np.asarray(rows))
        if chosen.dtype == bool:
            if chosen.shape != (self._batch_size,):
                raise ValueError(_core.wrong_shape("rows", "(batch_size,)", (self._batch_size,), chosen.shape))
            chosen = np.flatnonzero(chosen)
        if chosen.size and not np.issubdtype(chosen.dtype, np.integer):
            raise TypeError(_core.wrong_type("rows", "integers", f"dtype {chosen.dtype}"))
        self._native.reset([whole("rows", row, 0, self._batch_size - 1) for row in chosen.ravel()])

    def refresh(self) -> None:
        """Takes the layer's parameters as they are now; the state stays."""
        self._native.refresh(self._layer._stack)

    def clone(self) -> Stream:
        """Another stream with the same weights and state."""
        return Stream(self._layer, self._batch_size, self._native.copy())

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a Stream cannot be copied or pickled: use `clone`")

    def __repr__(self) -> str:
        return f"<fusedrnn.Stream of {self._layer!r}, batch_size={self._batch_size}>"
