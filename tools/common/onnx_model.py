"""One recurrent layer as an ONNX Runtime session, from weights in fusedrnn's layout."""

from __future__ import annotations

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
    import onnxruntime

    T, B, I, H = shape

    def reorder(a: Any) -> Any:
        return np.concatenate([np.split(a, len(ORDER[op]))[j] for j in ORDER[op]])

    w_ih, w_hh, b_ih, b_hh = map(reorder, weights)
    tensors = {"W": w_ih[None], "R": w_hh[None], "B": np.concatenate([b_ih, b_hh])[None]}
    states = STATES[op] if with_states else ()
    inputs = ["X", "W", "R", "B", *(["", *states] if states else [])]
    if peepholes:
        p_i, p_f, p_o = peepholes
        tensors["P"] = np.concatenate([p_i, p_o, p_f])[None]
        inputs.append("P")
    node = onnx.helper.make_node(op.upper(), inputs, ["Y"], hidden_size=H, **attributes)

    def value(name: str, *dims: int) -> Any:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)

    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [value("X", T, B, I), *(value(s, 1, B, H) for s in states)],
        [value("Y", T, 1, B, H)],
        [onnx.numpy_helper.from_array(a, name) for name, a in tensors.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
