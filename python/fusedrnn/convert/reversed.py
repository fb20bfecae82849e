"""A layer that runs from the last step to the first, which stacks here have only beside the other direction."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array, Lengths
from ..layers.layer import Layer


class Reversed:
    """A layer of one direction that runs backwards in time: a node of ONNX with direction "reverse", a layer of Keras
    with `go_backwards`. It runs `layer`, which has the parameters, on each row from its last step to its first.

    y has the order of x, as in ONNX. Keras gives it in the order of computation instead, ``y[::-1]`` of this one.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.initial_state: Any = None  # see `from_onnx`

    def __call__(self, x: Array, state: Any = None, *, lengths: Lengths = None) -> Any:
        """Inference, with the arguments, results and errors of the layer's call: ``x (T, B, I)``, or ``(B, T, I)`` with
        `batch_first`, or ``(T, I)``; ``y`` alike; the last state is that after step 0 of a row."""
        out = self.layer(self._turned(x, lengths), state, lengths=lengths)
        return out._replace(y=self._turned(out.y, lengths))

    def _turned(self, x: Any, lengths: Any) -> Any:
        """The steps of each row, up to its length, in reverse order. What the layer refuses stays as it is."""
        if not isinstance(x, np.ndarray):
            raise TypeError(f"x: expected a numpy.ndarray, got {type(x).__name__}")
        if x.ndim not in (2, 3):
            return x
        batch_first = self.layer.batch_first and x.ndim == 3
        steps = x.swapaxes(0, 1) if batch_first else x
        if lengths is None or x.ndim == 2:
            turned = steps[::-1]
        else:
            t, ends = np.arange(len(steps))[:, None], np.asarray(lengths)
            if ends.shape != steps.shape[1:2] or ends.dtype.kind not in "iu" or (ends > len(steps)).any():
                return x
            turned = np.take_along_axis(steps, np.where(t < ends, ends.astype(int) - 1 - t, t)[..., None], 0)
        return np.ascontiguousarray(turned.swapaxes(0, 1) if batch_first else turned)

    def __repr__(self) -> str:
        return f"Reversed({self.layer!r})"
