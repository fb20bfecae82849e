"""Recurrent layers of other systems as layers of fusedrnn, and back.

    from fusedrnn import convert

    layers = convert.from_onnx("model.onnx")  # a dict by the names of nodes
    out = layers["encoder"](x)

Each function says what it maps to what. Weights are copied, gates permuted; what no layer can represent is refused with
the reason. The packages of a system are imported when a function needs them, and not before.
"""

from .keras import from_keras, to_keras
from .onnx import from_onnx, to_onnx
from .others import from_dynet, from_gates, from_haste, from_onednn, from_tf1
from .pytorch import from_torch, to_torch
from .reversed import Reversed

__all__ = [
    "Reversed",
    "from_dynet",
    "from_gates",
    "from_haste",
    "from_keras",
    "from_onednn",
    "from_onnx",
    "from_tf1",
    "from_torch",
    "to_keras",
    "to_onnx",
    "to_torch",
]
