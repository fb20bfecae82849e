"""Layers from nodes of ONNX, and models of ONNX from layers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..aliases import Array
from ..layers.layer import Layer
from .activations import activations_of, check_coupled, from_onnx_lists, options_of, to_onnx_attributes
from .build import Makers, as_array, chosen, file_of, layer_of, need
from .onnx_graph import Scope, label
from .reversed import Reversed
from .tables import (
    COUPLED,
    COUPLED_GATES,
    COUPLED_ONNX,
    FOUR_GATES,
    ONNX_INPUTS,
    ONNX_OPERATORS,
    ONNX_QUANTIZED,
    PEEPHOLES,
    QUANTIZED_INPUTS,
    THREE_GATES,
    Kind,
    check_system,
    reorder,
)

DOMAINS = {ONNX_QUANTIZED: ("com.microsoft",)}


def from_onnx(source: Any, name: str | None = None) -> Any:
    """Layers from the nodes LSTM, GRU and RNN of a model of ONNX, each of depth 1: with one or both directions,
    peepholes, coupled gates (`input_forget`), both GRUs (`linear_before_reset`), and activations that some cell has.
    Gates are permuted; both biases are kept. ``layout=1`` becomes `batch_first`. A node with direction "reverse"
    becomes a `Reversed`. Weights may be initializers, or computed of constants by other nodes; those of float16 and
    bfloat16 become float32. The weights of a `DynamicQuantizeLSTM` of ONNX Runtime are dequantised to float32, so that
    results are not those of its products of integers.

    Y ``(T, D, B, H)`` of the node is y ``(T, B, D*H)`` of the layer: ``y.reshape(T, B, D, H).swapaxes(1, 2)``. Initial
    states that are constants come back as ``layer.initial_state``, as a call takes it, which files of the layer do not
    keep; it is None otherwise. Initial states that are no constants, and sequence_lens, are inputs of the call: `state`
    and `lengths`.

    Args:
        source: the path of a file, whose external data are read too, or a `ModelProto`.
        name: of one node. One without a name has that of its first output; one in a graph inside `If`, `Loop` or
            `Scan`, whose name others have as well, is named with the path to it: ``"If_3/then_branch/lstm"``.

    Returns:
        The layer of this name; without a name a dict of layers, even of one.

    Raises:
        ValueError: no such node; weights that are no constants; `clip`; activations that no cell has, or other ones in
            each direction; no model of ONNX. TypeError: another source. ImportError: no package `onnx`. OSError: the
            file cannot be read.
    """
    return chosen(found_in(source), name, "a model of ONNX")


def found_in(source: Any) -> Makers:
    """The layers in a path or model, by name. Raises what `from_onnx` does."""
    onnx = need("onnx", "onnx")
    need("onnx.reference", "onnx")
    if isinstance(source, (str, os.PathLike)):
        source = _read(onnx, file_of(source, "from_onnx"))
    elif not isinstance(source, onnx.ModelProto):
        raise TypeError(f"source: expected a path or a ModelProto, got {type(source).__name__}")
    if len(source.functions):
        source = need("onnx.inliner", "onnx").inline_local_functions(source)
    every = [
        (path, node, scope)
        for path, node, scope in Scope(onnx, source.graph, source.opset_import).nodes()
        if node.op_type in ONNX_OPERATORS and node.domain in DOMAINS.get(node.op_type, ("", "ai.onnx"))
    ]
    count = Counter(label(node) for _, node, _ in every)
    names = [(path if count[label(node)] > 1 else "") + label(node) for path, node, _ in every]
    names = [
        n if names.count(n) == 1 else path + node.output[0] for n, (path, node, _) in zip(names, every, strict=True)
    ]
    return {n: partial(_of_node, onnx, node, scope) for n, (_, node, scope) in zip(names, every, strict=True)}


def _read(onnx: Any, path: Path) -> Any:
    try:
        model = onnx.load(str(path))
    except OSError:
        raise
    except Exception as e:  # of protobuf, for files of all other kinds
        raise ValueError(f"path: expected a model of ONNX, got {path.name!r}: {e}") from e
    if not model.ir_version or not len(model.opset_import):  # which protobuf finds in many files that are none
        raise ValueError(f"path: expected a model of ONNX, got {path.name!r}")
    return model


def _of_node(onnx: Any, node: Any, scope: Scope) -> Layer | Reversed:
    kind, quantized = ONNX_OPERATORS[node.op_type], node.op_type == ONNX_QUANTIZED
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    inputs = dict(zip(QUANTIZED_INPUTS if quantized else _inputs(kind), node.input, strict=False))
    if "clip" in attributes:
        raise ValueError(f"clip: expected none, as no cell here clips what activations read, got {attributes['clip']}")
    arrays = _constants(scope, inputs, quantized)
    directions = len(arrays["W"])
    direction = _text(attributes.get("direction", "forward"))
    if direction not in ("forward", "reverse", "bidirectional") or directions != 1 + (direction == "bidirectional"):
        raise ValueError(f"direction: expected one that fits {directions} in W, got {direction!r}")
    names, alpha, beta = (attributes.get(f"activation{name}") for name in ("s", "_alpha", "_beta"))
    activations = from_onnx_lists(kind, directions, [_text(n) for n in names or ()], alpha, beta)
    coupled = bool(kind is FOUR_GATES and attributes.get("input_forget", 0))
    if coupled:
        check_coupled(activations[0])
    options = options_of(kind, activations) | (COUPLED if coupled else {})
    if kind is FOUR_GATES and "P" in arrays:
        options["peepholes"] = "diagonal"
    if kind is THREE_GATES:
        options["reset_after"] = bool(attributes.get("linear_before_reset", 0))
    batch_first = bool(attributes.get("layout", 0))
    weights = [_parameters(kind, {name: a[d] for name, a in arrays.items()}, coupled) for d in range(directions)]
    layer = layer_of(kind, weights, bidirectional=directions == 2, batch_first=batch_first, **options)
    made = Reversed(layer) if direction == "reverse" else layer
    made.initial_state = _initial_state(scope, inputs, kind, layer)
    return made


def _inputs(kind: Kind) -> tuple[str, ...]:
    """The names of an operator's inputs. One of one state has neither initial_c nor P."""
    return ONNX_INPUTS if kind is FOUR_GATES else ONNX_INPUTS[:6]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _constants(scope: Scope, inputs: Mapping[str, str], quantized: bool) -> dict[str, Array]:
    """W, R, and B and P if there are any, each of all directions."""
    found = {}
    for name, ndim in (("W", 3), ("R", 3), ("B", 2), ("P", 2)):
        if not (value := inputs.get(name)):
            continue
        if (a := scope.value(value)) is None:
            raise ValueError(f"{name}: expected a constant, got {value!r}, which is computed of inputs of the model")
        if quantized and ndim == 3:
            a = _dequantised(a, *(scope.value(inputs.get(f"{name}_{of}", "")) for of in ("scale", "zero_point")))
        found[name] = as_array(name, a, ndim)
    if missing := {"W", "R"} - found.keys():
        raise ValueError(f"{min(missing)}: expected a constant, got none")
    return found


def _dequantised(a: Any, scale: Any, zero_point: Any) -> Array:
    """``(D, G*H, .)`` in float32 of ``(D, ., G*H)``, whose scales are those of each direction, ``(D,)``, or of each of
    its columns, ``(D, G*H)``."""
    if scale is None or zero_point is None:
        raise ValueError("scale: expected constants, got values that are computed of inputs of the model")
    scale, zero_point = (v.reshape(len(a), 1, -1) for v in (scale, zero_point))
    integers = a.astype("int32") - zero_point.astype("int32")
    dequantised: Array = (integers.astype("float32") * scale).swapaxes(1, 2)
    return dequantised


def _parameters(kind: Kind, arrays: Mapping[str, Array], coupled: bool) -> dict[str, Array]:
    """Those of one direction, in the order used here."""
    order = (COUPLED_ONNX, COUPLED_GATES) if coupled else (kind.orders["ONNX"], kind.gates)
    found = {"weight_ih": arrays["W"], "weight_hh": arrays["R"]}
    if "B" in arrays:
        if arrays["B"].size % 2:
            raise ValueError(f"B: expected the biases of inputs and of the recurrence, got {arrays['B'].size} numbers")
        found["bias_ih"], found["bias_hh"] = np.split(arrays["B"], 2)
    found = {name: reorder(a, *order, name=name) for name, a in found.items()}
    peepholes = {}
    if "P" in arrays:
        gates = PEEPHOLES["ONNX"]
        order = ("fo_", "fo") if coupled else (gates, gates)
        peepholes = dict(zip(order[1], np.split(reorder(arrays["P"], *order, name="P"), len(order[1])), strict=True))
    if coupled:
        H = found["weight_hh"].shape[1]
        for a in found.values():
            np.negative(a[:H], out=a[:H])
        peepholes = {gate: -p if gate == "f" else p for gate, p in peepholes.items()}
    return found | {f"peephole_{gate}": p for gate, p in peepholes.items()}


def _initial_state(scope: Scope, inputs: Mapping[str, str], kind: Kind, layer: Layer) -> Any:
    """The constants among the initial states, in the form of a layer's state; None if there are none."""
    values = [scope.value(inputs.get(f"initial_{state}", "")) for state in ("h", "c")[: kind.states]]
    states = [None if a is None else as_array("initial_state", a, 3).astype(layer.dtype) for a in values]
    if layer.batch_first:  # where ONNX has the batch first in states too
        states = [None if a is None else np.ascontiguousarray(a.swapaxes(0, 1)) for a in states]
    if all(a is None for a in states):
        return None
    return states[0] if kind.states == 1 else tuple(states)


def to_onnx(layer: Layer, path: Any = None, *, state: bool = False, lengths: bool = False) -> Any:
    """A model of ONNX (opset 14, IR version 8) that computes a plain call of a layer: a node for each of its layers.
    Its input x and its outputs y, h_n and, of an LSTM, c_n have the layer's shapes and names. ONNX Runtime runs it in
    float32; it has no such nodes for float64.

    Both biases are kept, so that `from_onnx` gives the same bits for each layer. Dropout has no part in inference. A
    GRU whose z weighs n gets the rows of z negated, and a coupled LSTM those of f, negated, as rows of i.

    Args:
        layer: of a cell that ONNX has: LSTM (plain or coupled, with or without diagonal peepholes), GRU (both), RNN.
        path: of a file to write the model to, too; or None.
        state: whether the model takes initial states, as inputs h0 and c0; otherwise they are zeros.
        lengths: whether it takes an input lengths, int32 ``(B,)``; otherwise all rows have T steps.

    Returns:
        The `ModelProto`.

    Raises:
        ValueError: a cell, or an option, that ONNX lacks. TypeError: no layer. ImportError: no package `onnx`. OSError:
            the file cannot be written.
    """
    from .onnx_model import ALLOWED, model_of

    kind = check_system(layer, "ONNX", ALLOWED)
    activations = activations_of(kind, layer)
    if COUPLED.items() <= layer.options.items():
        check_coupled(activations[0])
    attributes = to_onnx_attributes(activations, layer.num_directions)
    model = model_of(need("onnx", "onnx"), kind, layer, attributes, state, lengths)
    if path is not None:
        Path(path).write_bytes(model.SerializeToString())
    return model
