"""Weights of a cell: checked and copied once, packed for the CPU or GPU when first used."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core
from ._cuda_arrays import library_of
from ._results import Array


class Weights(_core.Weights):
    """What the weights of all cells have in common.

    A snapshot: later changes to the arrays have no effect; make a new object after each optimiser step. The arrays can
    be read back, read-only, under their names. Made from CUDA arrays (PyTorch's, CuPy's), they lie on that GPU, and
    calls on them run there; cells that cannot raise NotImplementedError.
    """

    _names: tuple[str, ...] = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    _extras: tuple[str, ...] = ()  # arrays beyond those, in the order of the native cell's
    _are_blocks = False  # whether those are matrices, not vectors of H

    def __init__(
        self,
        cell: str,
        weight_ih: Any,
        weight_hh: Any,
        bias_ih: Any,
        bias_hh: Any,
        *rest: Any,
        **options: Any,
    ) -> None:
        library = library_of(weight_ih)
        if library is None:
            super().__init__(cell, weight_ih, weight_hh, bias_ih, bias_hh, *rest, **options)
            return
        from ._cuda import DeviceWeights  # loads nothing unless somebody has CUDA arrays

        common = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
        device = DeviceWeights(library, cell, common, rest[0] if rest else [])
        super().__init__(cell, device.input_size, device.hidden_size, device)

    def arrays(self) -> dict[str, Array | None]:
        """The arrays by the names of the arguments that gave them; None for those that were not given."""
        return {name: getattr(self, name) for name in self._names}

    def _extra(self, name: str) -> Array | None:
        if name not in self._extras:
            return None
        k = self._extras.index(name)
        return self._block(k) if self._are_blocks else self._vector(k)


class Extra:
    """An array among a class's `_extras`, read by its name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, w: Weights | None, owner: type) -> Any:
        return self if w is None else w._extra(self.name)


def required(arrays: dict[str, Array | None]) -> None:
    """Raises TypeError for None: a vector or matrix that the native layer takes for zeros, but the cell needs."""
    for name, array in arrays.items():
        if array is None:
            raise TypeError(f"{name}: expected a numpy.ndarray, got NoneType")


def one_of(what: str, value: Any, valid: tuple[str, ...]) -> None:
    """Raises ValueError, naming the valid ones, if value is none of them."""
    if value not in valid:
        raise ValueError(f"{what}: expected one of {', '.join(map(repr, valid))}, got {value!r}")


LSTM_GATES = {
    "plain": "ifgo",
    "no_input_gate": "fgo",
    "no_forget_gate": "igo",
    "no_output_gate": "ifg",
    "no_input_activation": "ifgo",
    "no_output_activation": "ifgo",
    "coupled": "fgo",
}
LSTM_VARIANTS = tuple(LSTM_GATES)


class LSTMWeights(Weights):
    """Weights of an LSTM (Hochreiter & Schmidhuber 1997), gates stacked ``i, f, g, o`` as in PyTorch, without those
    that the variant has not; G is their number.

    A snapshot: later changes to the arrays have no effect; make a new object after each optimiser step. The arrays can
    be read back, read-only, under their names.

    Args:
        weight_ih: ``(G*hidden_size, input_size)``, float32 or float64.
        weight_hh: ``(G*hidden_size, hidden_size)``, of the same dtype, like all others.
        bias_ih: ``(G*hidden_size,)`` or None for zeros.
        bias_hh: ``(G*hidden_size,)`` or None for zeros.
        variant: the cell, as in "LSTM: A Search Space Odyssey" (Greff et al. 2015, section 3; peepholes are separate):

            - ``"plain"``: ``c = f * c_prev + i * g``, ``h = o * tanh(c)`` (with the forget gate of Gers et al. 2000);
            - ``"no_forget_gate"`` (NFG; Hochreiter & Schmidhuber 1997): ``c = c_prev + i * g``, gates ``i, g, o``;
            - ``"no_input_gate"`` (NIG): ``c = f * c_prev + g``, gates ``f, g, o``;
            - ``"no_output_gate"`` (NOG): ``h = tanh(c)``, gates ``i, f, g``;
            - ``"no_input_activation"`` (NIAF): g is its pre-activation, without tanh;
            - ``"no_output_activation"`` (NOAF): ``h = o * c``;
            - ``"coupled"`` (CIFG): ``c = f * c_prev + (1 - f) * g``, gates ``f, g, o``.
        peephole_i, peephole_f, peephole_o: peephole weights, each optional. Of shape ``(hidden_size,)`` they are
            diagonal (Gers & Schmidhuber 2000): i and f see ``peephole * c_prev``, o sees ``peephole_o * c``. Of shape
            ``(hidden_size, hidden_size)``, for the plain variant, they are full matrices: ``peephole @ c_prev`` and
            ``peephole_o @ c``. All that are given are of one kind.

    Raises:
        ValueError: shapes do not fit; an unknown variant; a peephole of a gate that the variant has not.
        TypeError: not arrays, or another dtype.
    """

    _names = (*Weights._names, "peephole_i", "peephole_f", "peephole_o")

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        *,
        variant: str = "plain",
        peephole_i: Array | None = None,
        peephole_f: Array | None = None,
        peephole_o: Array | None = None,
    ) -> None:
        one_of("variant", variant, LSTM_VARIANTS)
        cell = "lstm" if variant == "plain" else f"lstm_{variant}"
        self._variant = variant
        if peephole_i is peephole_f is peephole_o is None:
            super().__init__(cell, weight_ih, weight_hh, bias_ih, bias_hh)
            return
        given = {"peephole_i": peephole_i, "peephole_f": peephole_f, "peephole_o": peephole_o}
        cell, named = _peepholes(cell, variant, {k: p for k, p in given.items() if p is not None})
        self._extras = tuple(named)
        self._are_blocks = "matrix" in cell
        arrays = [(name, 1, array) for name, array in named.items()]
        vectors, blocks = ([], arrays) if self._are_blocks else (arrays, [])
        super().__init__(cell, weight_ih, weight_hh, bias_ih, bias_hh, vectors, blocks)

    @property
    def variant(self) -> str:
        return self._variant

    @property
    def gates(self) -> str:
        """The gates in the order in which they are stacked: ``"ifgo"``, without those that the variant has not."""
        return LSTM_GATES[self._variant]

    peephole_i = Extra()
    peephole_f = Extra()
    peephole_o = Extra()


def _peepholes(cell: str, variant: str, given: dict[str, Array]) -> tuple[str, dict[str, Array | None]]:
    """The native cell for these peepholes, and the arrays that it takes, in its order."""
    names = [f"peephole_{gate}" for gate in "ifo" if gate in LSTM_GATES[variant]]
    for name in given:
        if name not in names:
            raise ValueError(f"{name}: expected None, as variant {variant!r} has no gate {name[-1]}, got an array")
    matrices = [name for name, p in given.items() if isinstance(p, np.ndarray) and p.ndim == 2]
    if not matrices:
        return f"{cell}_peephole", {name: given.get(name) for name in names}
    if variant != "plain":
        shape = given[matrices[0]].shape
        raise ValueError(
            f"{matrices[0]}: expected shape (hidden_size,), as variant {variant!r} has no full-matrix peepholes, "
            f"got {shape}"
        )
    names = [n for n in names if n in given or (n != "peephole_o" and {"peephole_i", "peephole_f"} & given.keys())]
    suffix = {3: "", 2: "_if", 1: "_o"}[len(names)]
    return f"lstm_matrix_peephole{suffix}", {name: given.get(name) for name in names}


class GRUWeights(Weights):
    """Weights of a GRU, gates stacked ``r, z, n`` as in PyTorch. See `LSTMWeights`, with 3 in place of 4.

    Args:
        weight_ih, weight_hh, bias_ih, bias_hh: as for `LSTMWeights`.
        reset_after: True for ``n = tanh(W_n x + b_Wn + r * (U_n h + b_Un))`` (PyTorch, cuDNN), False for
            ``n = tanh(W_n x + U_n (r * h) + b_n)`` (Cho et al. 2014), where b_n is the sum of the two biases.
        z_weighs: what z multiplies: "h_prev" for ``h = (1 - z) * n + z * h_prev`` (PyTorch, cuDNN, Cho et al. 2014),
            "n" for ``h = (1 - z) * h_prev + z * n`` (Chung et al. 2014, and many papers since).

    Raises:
        ValueError: shapes do not fit; an unknown z_weighs.
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
        z_weighs: str = "h_prev",
    ) -> None:
        if not isinstance(reset_after, bool):
            raise TypeError(f"reset_after: expected bool, got {type(reset_after).__name__}")
        one_of("z_weighs", z_weighs, ("h_prev", "n"))
        cell = f"gru_reset_{'after' if reset_after else 'before'}{'_z_new' if z_weighs == 'n' else ''}"
        super().__init__(cell, weight_ih, weight_hh, bias_ih, bias_hh)

    @property
    def reset_after(self) -> bool:
        return self.cell.startswith("gru_reset_after")

    @property
    def z_weighs(self) -> str:
        return "n" if self.cell.endswith("_z_new") else "h_prev"


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
        one_of("nonlinearity", nonlinearity, ("tanh", "relu"))
        super().__init__(f"rnn_{nonlinearity}", weight_ih, weight_hh, bias_ih, bias_hh)

    @property
    def nonlinearity(self) -> str:
        return self.cell.removeprefix("rnn_")
