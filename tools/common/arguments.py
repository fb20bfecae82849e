"""Small arguments that are right, for tests that make one of them wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

import fusedrnn

T, B, I, H = 4, 3, 5, 6

# What is replaced, which exception that raises, and a part of its text.
Bad = tuple[dict[str, Any], type[Exception], str]


def array(*shape: int, dtype: Any = np.float32) -> Any:
    return np.ones(shape, dtype)


def lstm_weights(**change: Any) -> Any:
    arrays = {
        "weight_ih": array(4 * H, I),
        "weight_hh": array(4 * H, H),
        "bias_ih": array(4 * H),
        "bias_hh": array(4 * H),
    }
    return fusedrnn.LSTMWeights(**(arrays | change))


def clockwork_weights(**change: Any) -> Any:
    weight_hh = change.pop("weight_hh", np.eye(H, dtype="f4"))
    return fusedrnn.ClockworkRNNWeights(array(H, I), weight_hh, **({"periods": (1, 2)} | change))
