"""The same functions in plain NumPy, written from the equations: what every kernel is checked against, and a place to
read how the cells work. Same names, arguments and results as in `fusedrnn`, and it takes the same weights objects.

Each cell is two functions on one time step, ``step`` and ``step_backward`` (`lstm.py` is the one to read first); the
walk over time, which is the same for all cells, is in `_sequence.py`. Every function computes in the dtype of the
weights; it is called the reference when that is float64.
"""

from ._ops import (
    depth_gated_lstm,
    depth_gated_lstm_backward,
    depth_gated_lstm_cell,
    depth_gated_lstm_forward,
    fgr_lstm,
    fgr_lstm_backward,
    fgr_lstm_cell,
    fgr_lstm_forward,
    gru,
    gru_backward,
    gru_cell,
    gru_forward,
    indrnn,
    indrnn_backward,
    indrnn_cell,
    indrnn_forward,
    lstm,
    lstm_backward,
    lstm_cell,
    lstm_forward,
    rnn,
    rnn_backward,
    rnn_cell,
    rnn_forward,
)

__all__ = [
    "depth_gated_lstm",
    "depth_gated_lstm_backward",
    "depth_gated_lstm_cell",
    "depth_gated_lstm_forward",
    "fgr_lstm",
    "fgr_lstm_backward",
    "fgr_lstm_cell",
    "fgr_lstm_forward",
    "gru",
    "gru_backward",
    "gru_cell",
    "gru_forward",
    "indrnn",
    "indrnn_backward",
    "indrnn_cell",
    "indrnn_forward",
    "lstm",
    "lstm_backward",
    "lstm_cell",
    "lstm_forward",
    "rnn",
    "rnn_backward",
    "rnn_cell",
    "rnn_forward",
]
