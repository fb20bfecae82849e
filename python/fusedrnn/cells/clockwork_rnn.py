"""The clockwork RNN; `call` says what holds for all cells."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..aliases import Array, Bools, Lengths, Maybe, Resets, Start, States
from ..call import Reserve, backward, forward, infer, step
from ..layers.layer import Layer
from ..weights import Weights, one_of
from .results import Gradients, Output
from .spec import CellSpec, affine

if TYPE_CHECKING:
    from typing import Unpack

    from ..masks import Masks, Regularisation

__all__ = [
    "ClockworkRNN",
    "ClockworkRNNWeights",
    "clockwork_rnn",
    "clockwork_rnn_backward",
    "clockwork_rnn_cell",
    "clockwork_rnn_forward",
]


MOST_UNITS = 1 << 20  # whose mask would take a terabyte

CLOCKWORK_RNN = CellSpec(
    "clockwork_rnn",
    Output,
    Gradients,
    affine(1),
    "h",
    cell="clockwork_rnn_tanh",
    options={"nonlinearity": "tanh"},
    values=("periods",),
    numbered="start",
    mask=lambda hidden_size, options: ClockworkRNNWeights.mask(hidden_size, options["periods"]),
)

BY_NONLINEARITY = {
    "tanh": CLOCKWORK_RNN,
    "relu": CLOCKWORK_RNN.variant("clockwork_rnn_relu", options={"nonlinearity": "relu"}),
}
SPECS = tuple(BY_NONLINEARITY.values())


class ClockworkRNNWeights(Weights, specs=SPECS):
    """Weights of a clockwork RNN (Koutnik et al. 2014, section 3): hidden units are cut into as many groups of equal
    size as there are periods. In step t a group whose period divides t computes ``h = f(W x + U h_prev + b)``, the
    others keep their h. A group sees itself and the groups whose periods are not shorter than its own, so weight_hh is
    block-upper-triangular: see `mask`.

    Args:
        weight_ih: ``(hidden_size, input_size)``, float32 or float64.
        weight_hh: ``(hidden_size, hidden_size)``, of the same dtype, like all others; zeros where `mask` is False.
        bias_ih: ``(hidden_size,)`` or None for zeros.
        bias_hh: ``(hidden_size,)`` or None for zeros.
        periods: one for each group, positive integers in steps, in rising order: ``(1, 2, 4, 8)``.
        nonlinearity: "tanh" or "relu".

    Raises:
        ValueError: shapes do not fit; periods that are not positive, that fall, or whose number does not divide
            hidden_size; weight_hh other than zero where a unit would see a shorter period; an unknown nonlinearity.
        TypeError: not arrays, or another dtype; periods that are no integers.
    """

    periods: tuple[int, ...]
    nonlinearity: str

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Maybe = None,
        bias_hh: Maybe = None,
        *,
        periods: Iterable[int],
        nonlinearity: str = "tanh",
        **regularisation: Unpack[Regularisation],
    ) -> None:
        one_of("nonlinearity", nonlinearity, BY_NONLINEARITY)
        periods = tuple(_integers(periods))
        super().__init__(BY_NONLINEARITY[nonlinearity], locals())

    @staticmethod
    def mask(hidden_size: int, periods: Iterable[int]) -> Bools:
        """``(hidden_size, hidden_size)`` bool: where weight_hh may be other than zero: the unit of the row sees the
        unit of the column.

        Raises:
            ValueError, TypeError: as the constructor.
        """
        if isinstance(hidden_size, bool) or not hasattr(hidden_size, "__index__"):
            raise TypeError(f"hidden_size: expected int, got {type(hidden_size).__name__}")
        if not 1 <= hidden_size <= MOST_UNITS:
            raise ValueError(f"hidden_size: expected an integer in 1..{MOST_UNITS}, got {hidden_size}")
        every = _integers(periods)
        if not every or every != sorted(every) or hidden_size % len(every) != 0:
            raise ValueError(
                "periods: expected positive integers, none smaller than the one before, as many as there are groups "
                f"of equal size in hidden_size = {hidden_size} units, got {tuple(every)}"
            )
        period = np.repeat(every, hidden_size // len(every))
        return period[:, None] <= period


def _integers(periods: Iterable[int]) -> list[int]:
    if isinstance(periods, (str, bytes)) or not isinstance(periods, Iterable):
        raise TypeError(f"periods: expected a sequence of int, got {type(periods).__name__}")
    every = []
    for i, period in enumerate(periods):
        if isinstance(period, (bool, np.bool_)) or not hasattr(period, "__index__"):
            raise TypeError(f"periods: expected int, got {type(period).__name__} at index {i}")
        value = operator.index(period)
        if not 0 < value <= 2**62:
            raise ValueError(f"periods: expected integers in 1..2**62, got {value} at index {i}")
        every.append(value)
    return every


class ClockworkRNN(Layer, weights=ClockworkRNNWeights):
    """Layers of clockwork RNNs: see `Layer` for arguments and calls, `ClockworkRNNWeights` for the cell. The clocks of
    all layers count the same steps, which a call numbers from `start` on.

    Args:
        periods: one for each group of units, as for `ClockworkRNNWeights`.
        nonlinearity: "tanh" or "relu".
    """


def clockwork_rnn(
    x: Array,
    w: ClockworkRNNWeights,
    h0: Maybe = None,
    *,
    start: Start = 0,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
) -> Output:
    """Clockwork RNN inference over a sequence (Koutnik et al. 2014, section 3): ``h = f(W x + U h_prev + b)`` for the
    groups whose period divides the number of the step, ``h = h_prev`` for the others, which cost nothing.

    Args:
        x: ``(T, B, I)``.
        w: the weights.
        h0: ``(B, H)`` or None for zeros.
        start: the number of a row's first step: an int, or ``(B,)`` integers. To go on with a sequence, give the number
            of steps that came before. In step 0 all groups compute.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time. A row's steps are numbered in the order in which they run.
        resets: ``(T, B)`` bool, or None: where a new episode of the row begins: see `call`.
        reset_state: h before the first step of an episode, ``(B, H)``, or ``(H,)`` for all rows; None for zeros.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n (B, H)``, the state after the row's last step.
    """
    return infer(CLOCKWORK_RNN, x, w, (h0,), lengths, reverse, resets, reset_state, start=start)


def clockwork_rnn_forward(
    x: Array,
    w: ClockworkRNNWeights,
    h0: Maybe = None,
    *,
    start: Start = 0,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[Output, Reserve]:
    """Forward for training: the bits of `clockwork_rnn` in ``y``, zero past a row's length, and in the states after
    the row's last step; and a reserve for `clockwork_rnn_backward`, of ``T*B*H`` elements. See `lstm_forward`."""
    return forward(
        CLOCKWORK_RNN, x, w, (h0,), lengths, reverse, resets, reset_state, start=start, seed=seed, masks=masks
    )


def clockwork_rnn_backward(reserve: Reserve, dy: Maybe, dh_n: Maybe = None) -> Gradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `clockwork_rnn_forward`. See
    `lstm_backward`.

    Returns:
        dx, dh0, dweight_ih, dweight_hh (zeros where `ClockworkRNNWeights.mask` is False), dbias_ih, dbias_hh.
    """
    return backward(CLOCKWORK_RNN, reserve, dy, (dh_n,))


def clockwork_rnn_cell(
    x: Array,
    w: ClockworkRNNWeights,
    h: Maybe = None,
    *,
    start: Start = 0,
    resets: Resets = None,
    reset_state: States = None,
    out: Maybe = None,
) -> Array:
    """Step number `start` of `clockwork_rnn`: ``x (B, I)``, ``h (B, H)`` or None; returns h. See `lstm_cell`."""
    return step(CLOCKWORK_RNN, x, w, (h,), out, resets, reset_state, start=start)
