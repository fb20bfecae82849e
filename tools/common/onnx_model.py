"""Recurrent layers as ONNX Runtime sessions, from weights in fusedrnn's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# fusedrnn's gate blocks in the order of ONNX: i, o, f, c; z, r, h.
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
STATES = {"lstm": ("H0", "C0"), "gru": ("H0",), "rnn": ("H0",)}


def make_session(
    op: str,
    weights: list[Any],
    shape: tuple[int, int, int, int],
    *,
    with_states: bool,
    threads: int,
    peepholes: list[Any] | None = None,
    **attributes: Any,
) -> Any:
    """Weights are weight_ih, weight_hh, bias_ih, bias_hh; shape is T, B, I, H; peepholes are those of i, f, o. Feeds: X
    (T, B, I) and, `with_states`, H0 and C0 (1, B, H); the result is Y (T, 1, B, H). A GRU without attributes is
    reset-before."""
    import onnx

    T, B, I, H = shape
    tensors = _tensors(op, [weights], "")
    states = STATES[op] if with_states else ()
    inputs = ["X", "W", "R", "B", *(["", *states] if states else [])]
    if peepholes:
        p_i, p_f, p_o = peepholes
        tensors["P"] = np.concatenate([p_i, p_o, p_f])[None]
        inputs.append("P")
    node = onnx.helper.make_node(op.upper(), inputs, ["Y"], hidden_size=H, **attributes)

    return _session(
        [node],
        {"X": (T, B, I)} | dict.fromkeys(states, (1, B, H)),
        {"Y": (T, 1, B, H)},
        tensors,
        threads,
    )


def make_stack_session(
    op: str,
    weights: list[list[list[Any]]],
    shape: tuple[int, int, int, int],
    *,
    with_states: bool,
    threads: int,
    **attributes: Any,
) -> Any:
    """Layers above each other: `weights` of each layer, of each of its directions. Feeds: X (T, B, I) and,
    `with_states`, H0_0 and C0_0 of layer 0, ...; results: Y (T, directions, B, H) of the highest layer and,
    `with_states`, H1_0 and C1_0, ... after the last step."""
    import onnx

    T, B, I, H = shape
    D = len(weights[0])
    nodes, x = [], "X"
    tensors: dict[str, Any] = {}
    inputs: dict[str, tuple[int, ...]] = {"X": (T, B, I)}
    outputs: dict[str, tuple[int, ...]] = {}
    direction = {"direction": "bidirectional" if D == 2 else "forward"}
    for layer, of_layer in enumerate(weights):
        tensors |= _tensors(op, of_layer, f"_{layer}")
        before = [f"{state}_{layer}" for state in STATES[op]] if with_states else []
        after = [name.replace("0", "1", 1) for name in before]
        inputs |= dict.fromkeys(before, (D, B, H))
        outputs |= dict.fromkeys(after, (D, B, H))
        names = [x, f"W_{layer}", f"R_{layer}", f"B_{layer}", *(["", *before] if before else [])]
        y = f"Y_{layer}"
        nodes.append(onnx.helper.make_node(op.upper(), names, [y, *after], hidden_size=H, **direction, **attributes))
        if layer + 1 < len(weights):  # (T, D, B, H) becomes (T, B, D*H)
            x = f"X_{layer + 1}"
            nodes.append(onnx.helper.make_node("Transpose", [y], [f"{y}_t"], perm=[0, 2, 1, 3]))
            nodes.append(onnx.helper.make_node("Reshape", [f"{y}_t", "rows"], [x]))
    if len(weights) > 1:
        tensors["rows"] = np.array([T, B, D * H])
    outputs = {f"Y_{len(weights) - 1}": (T, D, B, H)} | outputs
    return _session(nodes, inputs, outputs, tensors, threads)


def _tensors(op: str, directions: list[list[Any]], suffix: str) -> dict[str, Any]:
    """Of one layer, from weight_ih, weight_hh, bias_ih, bias_hh of each direction."""

    def reorder(a: Any) -> Any:
        return np.concatenate([np.split(a, len(ORDER[op]))[j] for j in ORDER[op]])

    w_ih, w_hh, b_ih, b_hh = ([reorder(arrays[k]) for arrays in directions] for k in range(4))
    biases = [np.concatenate(both) for both in zip(b_ih, b_hh, strict=True)]
    return {f"W{suffix}": np.stack(w_ih), f"R{suffix}": np.stack(w_hh), f"B{suffix}": np.stack(biases)}


def _session(
    nodes: list[Any],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, ...]],
    tensors: dict[str, Any],
    threads: int,
) -> Any:
    import onnx
    import onnxruntime

    def values(dims: Mapping[str, tuple[int, ...]]) -> list[Any]:
        return [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, d) for name, d in dims.items()]

    arrays = [onnx.numpy_helper.from_array(a, name) for name, a in tensors.items()]
    graph = onnx.helper.make_graph(nodes, "layers", values(inputs), values(outputs), arrays)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
