"""Weights of a cell: checked and copied once, packed for the CPU when first used."""

from __future__ import annotations

from ._core import Weights
from ._results import Array


class LSTMWeights(Weights):
    """Weights of an LSTM, gates stacked ``i, f, g, o`` as in PyTorch.

    A snapshot: later changes to the arrays have no effect; make a new object after each optimiser step. The arrays can
    be read back, read-only, under their names.

    Args:
        weight_ih: ``(4*hidden_size, input_size)``, float32 or float64.
        weight_hh: ``(4*hidden_size, hidden_size)``, of the same dtype, like the biases.
        bias_ih: ``(4*hidden_size,)`` or None for zeros.
        bias_hh: ``(4*hidden_size,)`` or None for zeros.

    Raises:
        ValueError: shapes do not fit.
        TypeError: not arrays, or another dtype.
    """

    def __init__(
        self, weight_ih: Array, weight_hh: Array, bias_ih: Array | None = None, bias_hh: Array | None = None
    ) -> None:
        super().__init__("lstm", weight_ih, weight_hh, bias_ih, bias_hh)


class GRUWeights(Weights):
    """Weights of a GRU, gates stacked ``r, z, n`` as in PyTorch. See `LSTMWeights`, with 3 in place of 4.

    Args:
        weight_ih, weight_hh, bias_ih, bias_hh: as for `LSTMWeights`.
        reset_after: True for ``n = tanh(W_n x + b_Wn + r * (U_n h + b_Un))`` (PyTorch, cuDNN), False for
            ``n = tanh(W_n x + U_n (r * h) + b_n)`` (Cho et al. 2014), where b_n is the sum of the two biases.

    Raises:
        ValueError: shapes do not fit.
        TypeError: not arrays, or another dtype; reset_after is no bool.
    """

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        *,
        reset_after: bool = True,
    ) -> None:
        if not isinstance(reset_after, bool):
            raise TypeError(f"reset_after: expected bool, got {type(reset_after).__name__}")
        super().__init__(
            "gru_reset_after" if reset_after else "gru_reset_before", weight_ih, weight_hh, bias_ih, bias_hh
        )

    @property
    def reset_after(self) -> bool:
        return self.cell == "gru_reset_after"


class RNNWeights(Weights):
    """Weights of a simple RNN (Elman 1990). See `LSTMWeights`, with 1 in place of 4.

    Args:
        weight_ih, weight_hh, bias_ih, bias_hh: as for `LSTMWeights`.
        nonlinearity: "tanh" or "relu".

    Raises:
        ValueError: shapes do not fit, or an unknown nonlinearity.
        TypeError: not arrays, or another dtype.
    """

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        *,
        nonlinearity: str = "tanh",
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(f"rnn_{nonlinearity}", weight_ih, weight_hh, bias_ih, bias_hh)

    @property
    def nonlinearity(self) -> str:
        return self.cell.removeprefix("rnn_")
