"""What systems call things, and in which order they stack gates: the only names of cells in this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..aliases import Array


class Kind(NamedTuple):
    """A recurrent layer that several systems have."""

    layer: str  # the name of the class here
    gates: str  # the order of its gates here
    states: int
    orders: Mapping[str, str]  # those of the systems, in the letters used here
    keras: str  # Keras's name


# The letters of systems: PyTorch, oneDNN and Keras write i,f,c,o for i,f,g,o; Keras z,r,h and oneDNN u,r,o for z,r,n;
# TensorFlow 1 i,j,f,o for i,g,f,o. Sources: the documentation of torch.nn.LSTM and GRU; keras/src/layers/rnn; the ONNX
# operators LSTM, GRU and RNN; haste's frameworks/tf/weight_config.py; oneDNN's RNN primitive; DyNet's lstm.h
# (VanillaLSTMBuilder); TensorFlow 1's rnn_cell_impl.py.
KINDS = {
    kind.layer: kind
    for kind in (
        Kind(
            "LSTM",
            "ifgo",
            2,
            {"Keras": "ifgo", "ONNX": "iofg", "haste": "igfo", "oneDNN": "ifgo", "DyNet": "ifog", "TensorFlow": "igfo"},
            "LSTM",
        ),
        Kind("GRU", "rzn", 1, {"Keras": "zrn", "ONNX": "zrn", "haste": "zrn", "oneDNN": "zrn"}, "GRU"),
        Kind("RNN", "h", 1, dict.fromkeys(("Keras", "ONNX", "haste", "oneDNN"), "h"), "SimpleRNN"),
    )
}
NAMES = ", ".join(KINDS)
BY_GATES = {len(kind.gates): kind for kind in KINDS.values()}
ONE_GATE, THREE_GATES, FOUR_GATES = (BY_GATES[n] for n in (1, 3, 4))
PEEPHOLES = {"ONNX": "iof", "oneDNN": "ifo"}  # the order of the three vectors
# Coupled gates: ONNX computes i, and f = 1 - i. Here f is computed: from i negated, as 1 - sigmoid(a) = sigmoid(-a).
COUPLED = {"variant": "coupled"}
COUPLED_GATES, COUPLED_ONNX = "fgo", "fo_g"  # the rows of ONNX's f are not used

KERAS = {kind.keras: kind for kind in KINDS.values()} | {f"CuDNN{name}": KINDS[name] for name in ("LSTM", "GRU")}
KERAS_CELLS = {f"{kind.keras}Cell": kind for kind in KINDS.values()}
KERAS_RNN, KERAS_STACK, KERAS_BOTH = "RNN", "StackedRNNCells", "Bidirectional"

ONNX_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")  # of its operators
ONNX_QUANTIZED = "DynamicQuantizeLSTM"  # of com.microsoft: W and R are transposed, and follow scales and zero points
QUANTIZED_INPUTS = (*ONNX_INPUTS, "W_scale", "W_zero_point", "R_scale", "R_zero_point")
ONNX_OPERATORS = {**KINDS, ONNX_QUANTIZED: FOUR_GATES}
ONNX_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}  # activations

SUFFIXES = {
    ".pt": "from_torch",
    ".pth": "from_torch",
    ".safetensors": "from_torch",
    ".keras": "from_keras",
    ".h5": "from_keras",
    ".hdf5": "from_keras",
    ".onnx": "from_onnx",
}  # and the functions that read such files


def reorder(a: Array, source: str, target: str, axis: int = 0, name: str = "weights") -> Array:
    """Blocks of gates stacked along an axis in the order `source`, in the order `target`; gates that the target lacks
    are left out. Raises ValueError if there are no such blocks."""
    if a.shape[axis] % len(source):
        raise ValueError(f"{name}: expected {len(source)} blocks of one size in axis {axis}, got shape {a.shape}")
    blocks = dict(zip(source, np.split(a, len(source), axis), strict=True))
    return np.concatenate([blocks[gate] for gate in target], axis)


def check_system(layer: Any, system: str, allowed: Mapping[str, tuple[Any, ...]], hint: str = "") -> Kind:
    """The kind of a layer that a system can represent. Raises TypeError for no layer; ValueError, with the reason, for
    a cell or an option that the system lacks: options must have their defaults, or one of the values `allowed`, where
    () stands for all."""
    name = getattr(layer, "_registered", None)
    if name is None:
        raise TypeError(f"layer: expected a layer of fusedrnn, got {type(layer).__name__}")
    if name not in KINDS:
        raise ValueError(f"layer: expected one of {NAMES}, as {system} has no other cells, got {name}{hint}")
    values = layer.options | layer.regularisation | {"proj_size": layer.proj_size}
    for option, value in values.items():
        valid = allowed.get(option, (layer._options.defaults.get(option, 0),))
        if valid and value not in valid:
            expected = " or ".join(map(repr, valid))
            raise ValueError(f"{option}: expected {expected}, as {system} has no other {name}, got {value!r}{hint}")
    return KINDS[name]
