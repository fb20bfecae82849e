"""The graph of a layer in ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..aliases import Array
from ..cells.activations import OWN
from ..layers.layer import Layer
from .build import arrays_of
from .tables import COUPLED, COUPLED_GATES, PEEPHOLES, Kind, reorder

OPSET, IR = 14, 8
# Options that ONNX can represent, beside the defaults, and those that have no part in inference: see `check_system`.
ALLOWED = {
    "nonlinearity": ("tanh", "relu"),
    "reset_after": (True, False),
    "z_weighs": ("h_prev", "n"),
    "variant": ("plain", *COUPLED.values()),
    "peepholes": (None, "diagonal"),
    **dict.fromkeys(("input_dropout", "recurrent_dropout", "candidate_dropout", "weight_dropout", *OWN), ()),
}
STATES = ("h", "c")


class _Graph:
    """Nodes and constants, as they are added."""

    def __init__(self, onnx: Any) -> None:
        self.onnx, self.nodes, self.constants = onnx, [], []  # type: ignore[var-annotated]

    def constant(self, name: str, a: Any) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(a), name))
        return name

    def node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]


def model_of(onnx: Any, kind: Kind, layer: Layer, attributes: dict[str, Any], state: bool, lengths: bool) -> Any:
    g, names, L = _Graph(onnx), STATES[: kind.states], layer.num_layers
    x = g.node("Transpose", ["x"], ["x_by_steps"], perm=[1, 0, 2]) if layer.batch_first else "x"
    rows = g.constant("rows", np.array([0, 0, layer.output_size]))  # T, B and all units, for Reshape
    before = {s: [f"{s}0_l{at}" for at in range(L)] if L > 1 else [f"{s}0"] for s in names if state}
    after = {s: [f"{s}_n_l{at}" for at in range(L)] if L > 1 else [f"{s}_n"] for s in names}
    if L > 1 and state:
        sizes = g.constant("directions", np.full(L, layer.num_directions))
        for s in names:
            g.node("Split", [f"{s}0", sizes], before[s], axis=0)
    for at in range(L):
        given = [before[s][at] if state else "" for s in names]
        inputs = [x, *_weights(g, kind, layer, at), "lengths" if lengths else "", *given]
        inputs += _peepholes(g, layer, at)
        while not inputs[-1]:
            inputs.pop()
        by_direction = f"y_by_direction_l{at}"
        outputs = [by_direction, *(after[s][at] for s in names)]
        g.nodes.append(onnx.helper.make_node(kind.layer, inputs, outputs, f"l{at}", **_attributes(layer), **attributes))
        g.node("Transpose", [by_direction], [f"y_by_row_l{at}"], perm=[0, 2, 1, 3])
        last = "y" if at + 1 == L and not layer.batch_first else f"y_l{at}"
        x = g.node("Reshape", [f"y_by_row_l{at}", rows], [last])
    if layer.batch_first:
        g.node("Transpose", [x], ["y"], perm=[1, 0, 2])
    if L > 1:
        for s in names:
            g.node("Concat", after[s], [f"{s}_n"], axis=0)
    return _model(g, layer, names, state, lengths)


def _attributes(layer: Layer) -> dict[str, Any]:
    found = {"hidden_size": layer.hidden_size, "direction": "bidirectional" if layer.bidirectional else "forward"}
    if "reset_after" in layer.options:
        found["linear_before_reset"] = int(layer.options["reset_after"])
    if COUPLED.items() <= layer.options.items():
        found["input_forget"] = 1
    return found


def _weights(g: _Graph, kind: Kind, layer: Layer, at: int) -> list[str]:
    """The names of W, R and B of a layer."""
    names: Mapping[str, tuple[str, ...]] = {"W": ("weight_ih",), "R": ("weight_hh",), "B": ("bias_ih", "bias_hh")}
    places = [arrays_of(layer, at, d) for d in range(layer.num_directions)]
    inputs = []
    for name, parameters in names.items():
        if name == "B" and not layer.bias:
            inputs.append("")
            continue
        of_places = [np.concatenate([_ordered(kind, layer, arrays[p]) for p in parameters]) for arrays in places]
        inputs.append(g.constant(f"{name}_l{at}", np.stack(of_places)))
    return inputs


def _ordered(kind: Kind, layer: Layer, a: Array) -> Array:
    """Rows in the order of ONNX. Of a coupled LSTM those of i are those of f negated, and those of f, which are not
    used, are zero."""
    if layer.spec.gates != COUPLED_GATES or not COUPLED.items() <= layer.options.items():
        return reorder(a, kind.gates, kind.orders["ONNX"])
    blocks = dict(zip(COUPLED_GATES, np.split(a, len(COUPLED_GATES)), strict=True))
    blocks |= {"i": -blocks["f"], "f": np.zeros_like(blocks["f"])}
    return np.concatenate([blocks[gate] for gate in kind.orders["ONNX"]])


def _peepholes(g: _Graph, layer: Layer, at: int) -> list[str]:
    """The name of P of a layer, if it has peepholes."""
    if layer.options.get("peepholes") is None:
        return []
    of_places = []
    for d in range(layer.num_directions):
        found = {name[-1]: a for name, a in arrays_of(layer, at, d).items() if name.startswith("peephole_")}
        if "i" not in found:
            found |= {"i": -found["f"], "f": np.zeros_like(found["f"])}
        of_places.append(np.concatenate([found[gate] for gate in PEEPHOLES["ONNX"]]))
    return [g.constant(f"P_l{at}", np.stack(of_places))]


def _model(g: _Graph, layer: Layer, names: tuple[str, ...], state: bool, lengths: bool) -> Any:
    onnx, helper = g.onnx, g.onnx.helper
    number = helper.np_dtype_to_tensor_dtype(layer.dtype)
    first = ["B", "T"] if layer.batch_first else ["T", "B"]
    of_state = [layer.num_layers * layer.num_directions, "B", layer.hidden_size]

    def info(name: str, shape: list[Any], dtype: int = number) -> Any:
        return helper.make_tensor_value_info(name, dtype, shape)

    inputs = [info("x", [*first, layer.input_size])] + [info(f"{s}0", of_state) for s in names if state]
    inputs += [info("lengths", ["B"], onnx.TensorProto.INT32)] if lengths else []
    outputs = [info("y", [*first, layer.output_size])] + [info(f"{s}_n", of_state) for s in names]
    graph = helper.make_graph(g.nodes, "fusedrnn", inputs, outputs, g.constants)
    return helper.make_model(
        graph, producer_name="fusedrnn", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR
    )
