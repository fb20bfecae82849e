"""fusedrnn.convert from and to ONNX: the numbers of ONNX Runtime on random nodes, exact round trips, and refusals."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import rounding
from conversions import (
    KINDS,
    assert_same_function,
    assert_same_parameters,
    normal,
    random_layer,
    run_layer,
)
from fusedrnn import convert
from fusedrnn.convert import activations, tables

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402  # where there is one

FLOAT = onnx.TensorProto.FLOAT
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": ["h", "c"], "GRU": ["h"], "RNN": ["h"]}


def info(name: str, shape: Any, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(nodes: list[Any], arrays: dict[str, Any], inputs: list[Any], outputs: list[Any], **others: Any) -> Any:
    tensors = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 14), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **others)


def run_onnx(model: Any, feeds: dict[str, Any]) -> list[Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Any] = session.run(None, feeds)
    return results


class Node:
    """A random node, with its arrays."""

    def __init__(self, rng: np.random.Generator, kind: str, **attributes: Any) -> None:
        self.kind, self.states = kind, STATES[kind]
        I, H, G = int(rng.integers(1, 7)), int(rng.integers(1, 9)), GATES[kind]
        direction = attributes.setdefault("direction", str(rng.choice(["forward", "reverse", "bidirectional"])))
        self.D, self.I, self.H = 1 + (direction == "bidirectional"), I, H
        if kind == "GRU":
            attributes.setdefault("linear_before_reset", int(rng.integers(2)))
        if kind == "LSTM":
            attributes.setdefault("input_forget", int(rng.integers(2)))
        if kind == "RNN" and "activations" not in attributes and rng.integers(2):
            attributes["activations"] = ["Relu"] * self.D
        self.attributes = attributes
        self.arrays = {"W": normal(rng, self.D, G * H, I), "R": normal(rng, self.D, G * H, H)}
        if rng.integers(2):
            self.arrays["B"] = normal(rng, self.D, 2 * G * H)
        if kind == "LSTM" and rng.integers(2):
            self.arrays["P"] = normal(rng, self.D, 3 * H)

    def inputs(self, **names: str) -> list[str]:
        every = ["x", "W", "R", "B", "lengths", "h0", "c0", "P"]
        given = {"x": "x"} | {name: name for name in self.arrays} | names
        inputs = [given.get(name, "") for name in every]
        while not inputs[-1]:
            inputs.pop()
        return inputs

    def node(self, name: str = "", y: str = "y", **names: str) -> Any:
        outputs = [y, *(f"{s}_n" for s in self.states)] if y == "y" else [y]
        return helper.make_node(self.kind, self.inputs(**names), outputs, name, hidden_size=self.H, **self.attributes)

    def model(self, *before: Any, arrays: dict[str, Any] | None = None, name: str = "", **names: str) -> Any:
        """Of this node alone, after nodes that make its weights of other arrays."""
        shapes = {"h0": (self.D, "b", self.H), "c0": (self.D, "b", self.H)}
        inputs = [info("x", ("t", "b", self.I))]
        inputs += [info(n, shapes[n]) for n in names.values() if n in shapes]
        inputs += [info("lengths", ("b",), onnx.TensorProto.INT32)] if "lengths" in names else []
        outputs = [info("y", ("t", self.D, "b", self.H))] + [info(f"{s}_n", shapes["h0"]) for s in self.states]
        weights = self.arrays if arrays is None else arrays
        return model_of([*before, self.node(name, **names)], weights, inputs, outputs)


def as_layer_has_it(node: Node, results: list[Any]) -> dict[str, Any]:
    y = results[0].swapaxes(1, 2)
    return {"y": y.reshape(*y.shape[:2], -1)} | {f"{s}_n": a for s, a in zip(node.states, results[1:], strict=True)}


def assert_runs_alike(node: Node, model: Any, rng: np.random.Generator, with_states: bool = False) -> Any:
    layer = convert.from_onnx(model, "y")
    x = rng.standard_normal((4, 3, node.I)).astype("float32")
    feeds: dict[str, Any] = {"x": x}
    state, lengths = layer.initial_state, None
    if with_states:
        lengths = np.array([4, 1, 3], "int32")
        given = [rng.standard_normal((node.D, 3, node.H)).astype("float32") for _ in node.states]
        feeds |= {"lengths": lengths} | {f"{s}0": a for s, a in zip(node.states, given, strict=True)}
        state = tuple(given) if len(given) > 1 else given[0]
    got = run_layer(layer, x, state, lengths=lengths)
    inner = layer.layer if isinstance(layer, convert.Reversed) else layer
    assert_same_function(got, as_layer_has_it(node, run_onnx(model, feeds)), inner, x, str(layer))
    return layer


@pytest.mark.parametrize("case", range(24))
@pytest.mark.parametrize("kind", KINDS)
def test_nodes(kind: str, case: int, rng: np.random.Generator) -> None:
    """Directions, gates, peepholes, biases; states and lengths as inputs of the call."""
    node = Node(rng, kind)
    names: Any = {"lengths": "lengths"} | {f"{s}0": f"{s}0" for s in node.states} if case % 2 else {}
    layer = assert_runs_alike(node, node.model(**names), rng, with_states=bool(case % 2))
    assert layer.initial_state is None
    assert isinstance(layer, convert.Reversed) == (node.attributes["direction"] == "reverse")


@pytest.mark.parametrize("kind", KINDS)
def test_reversed_layers_take_rows_of_all_forms(kind: str, rng: np.random.Generator) -> None:
    node = Node(rng, kind, direction="reverse")
    layer = convert.from_onnx(node.model(), "y")
    x = rng.standard_normal((4, 3, node.I)).astype("float32")
    want = layer(x)
    assert np.array_equal(layer(x[:, 0]).y, want.y[:, 0])
    first = convert.Reversed(
        type(layer.layer)._of(layer.layer.state_dict(), **(layer.layer.config() | {"batch_first": True}))
    )
    assert np.array_equal(first(x.swapaxes(0, 1)).y.swapaxes(0, 1), want.y)
    assert np.array_equal(first(x.swapaxes(0, 1), lengths=[4, 4, 4]).y.swapaxes(0, 1), want.y)
    assert np.array_equal(layer(x, lengths=[2, 4, 0]).y[:2, 0], layer(x[:2, 0]).y)
    assert repr(layer) == f"Reversed({layer.layer!r})"
    with pytest.raises(TypeError, match="x: expected a numpy.ndarray, got list"):
        layer([1.0])
    with pytest.raises(TypeError, match="x: expected a numpy.ndarray, got Packed"):
        layer(fusedrnn.Packed.from_padded(x, [4, 2, 1]))
    for lengths in ([5, 1, 1], [1, 1], [1.0, 1.0, 1.0], [-1, 1, 1]):
        with pytest.raises((TypeError, ValueError), match="lengths: "):
            layer(x, lengths=lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_initial_states(kind: str, rng: np.random.Generator) -> None:
    node = Node(rng, kind)
    states = {f"{s}0": normal(rng, node.D, 3, node.H) for s in node.states}
    inputs = [info("x", ("t", 3, node.I))]
    outputs = [info("y", None)] + [info(f"{s}_n", None) for s in node.states]
    arrays = node.arrays | states
    model = model_of([node.node(**{name: name for name in states})], arrays, inputs, outputs)
    layer = assert_runs_alike(node, model, rng)
    got = layer.initial_state if len(states) > 1 else (layer.initial_state,)
    assert all(np.array_equal(a, b) for a, b in zip(got, states.values(), strict=True))
    if kind == "LSTM":
        model = model_of([node.node(c0="c0")], arrays, inputs, outputs)
        h, c = convert.from_onnx(model, "y").initial_state
        assert h is None
        assert np.array_equal(c, states["c0"])


def test_computed_constants(rng: np.random.Generator) -> None:
    """Weights that other nodes make of constants, in every way that exporters have."""
    node = Node(rng, "LSTM", direction="bidirectional", input_forget=0)
    W, R = node.arrays["W"], node.arrays["R"]
    node.arrays |= {"B": normal(rng, 2, 8 * node.H)}
    node.arrays.pop("P", None)
    B = node.arrays["B"]
    arrays = {
        "W_t": W.swapaxes(1, 2).copy(),
        "R_0": R[0],
        "R_1": R[1].astype("float64"),
        "zero": np.array([0]),
        "B_flat": np.concatenate([B.ravel(), np.ones(3, "float32")]),
        "B_shape": np.array([2, -1]),
        "starts": np.array([0]),
        "ends": np.array([B.size]),
    }
    before = [
        helper.make_node("Transpose", ["W_t"], ["W_1"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["W_1"], ["W"]),
        helper.make_node("Cast", ["R_1"], ["R_2"], to=FLOAT),
        helper.make_node("Unsqueeze", ["R_0", "zero"], ["R_3"]),
        helper.make_node("Unsqueeze", ["R_2", "zero"], ["R_4"]),
        helper.make_node("Concat", ["R_3", "R_4"], ["R"], axis=0),
        helper.make_node("Slice", ["B_flat", "starts", "ends"], ["B_1"]),
        helper.make_node("Reshape", ["B_1", "B_shape"], ["B"]),
    ]
    layer = assert_runs_alike(node, node.model(*before, arrays=arrays), rng)
    assert_same_parameters(layer, convert.from_onnx(node.model(), "y"))
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(a)) for name, a in node.arrays.items()
    ]
    assert_same_parameters(convert.from_onnx(node.model(*constants, arrays={}), "y"), layer)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_dtypes(dtype: str, rng: np.random.Generator) -> None:
    node = Node(rng, "GRU", direction="forward")
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    arrays = {name: a.astype(dtype) for name, a in node.arrays.items()}
    layer = convert.from_onnx(node.model(arrays=arrays), "y")
    assert layer.dtype == ("float64" if dtype == "float64" else "float32")
    H = node.H
    want = arrays["W"][0].astype(layer.dtype)  # z, r, h
    got = layer.parameters["weight_ih_l0"]  # r, z, n
    assert np.array_equal(got, np.concatenate([want[H : 2 * H], want[:H], want[2 * H :]]))


def test_external_data(rng: np.random.Generator, tmp_path: Path) -> None:
    node = Node(rng, "LSTM")
    path = tmp_path / "a.onnx"
    onnx.save_model(node.model(), str(path), save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").exists()
    got, want = (convert.from_onnx(source, "y") for source in (path, node.model()))
    assert_same_parameters(getattr(got, "layer", got), getattr(want, "layer", want))


def test_layout(rng: np.random.Generator) -> None:
    """ONNX Runtime has none: read by hand."""
    node = Node(rng, "LSTM", direction="bidirectional", layout=1)
    states = {f"{s}0": normal(rng, 3, 2, node.H) for s in node.states}
    inputs, outputs = [info("x", (3, "t", node.I))], [info("y", None)]
    names = {name: name for name in states}
    layer = convert.from_onnx(model_of([node.node(**names)], node.arrays | states, inputs, outputs), "y")
    assert layer.batch_first
    assert all(np.array_equal(a, b.swapaxes(0, 1)) for a, b in zip(layer.initial_state, states.values(), strict=True))
    x = rng.standard_normal((3, 5, node.I)).astype("float32")
    del node.attributes["layout"]
    plain = convert.from_onnx(node.model(), "y")
    assert np.array_equal(
        layer(x, layer.initial_state).y, plain(x.swapaxes(0, 1), layer.initial_state).y.swapaxes(0, 1)
    )


def nested(operator: str, graph: Any) -> Any:
    """A node with an inner graph that has the output `inner_y`."""
    if operator == "If":
        return helper.make_node("If", ["yes"], ["out"], "outer", then_branch=graph, else_branch=graph)
    if operator == "Loop":
        graph.input.extend([info("i", (), onnx.TensorProto.INT64), info("before", (), onnx.TensorProto.BOOL)])
        graph.node.append(helper.make_node("Identity", ["before"], ["after"]))
        graph.output.insert(0, info("after", (), onnx.TensorProto.BOOL))
        return helper.make_node("Loop", ["count", "yes"], ["out"], "outer", body=graph)
    graph.input.extend([info("each", None)])
    return helper.make_node("Scan", ["many"], ["out"], "outer", body=graph, num_scan_inputs=1)


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_inner_graphs(operator: str, rng: np.random.Generator) -> None:
    """W comes from the graph around, R is the inner graph's own, B is computed there of both."""
    node = Node(rng, "GRU", direction="forward")
    node.arrays["B"] = normal(rng, 1, 6 * node.H)
    inner = helper.make_graph(
        [helper.make_node("Concat", ["B_0", "B_1"], ["B"], axis=1), node.node("rnn", y="inner_y")],
        "inner",
        [],
        [info("inner_y", None)],
        [
            numpy_helper.from_array(node.arrays["R"], "R"),
            numpy_helper.from_array(node.arrays["B"][:, : 3 * node.H], "B_0"),
        ],
    )
    arrays = {"W": node.arrays["W"], "B_1": node.arrays["B"][:, 3 * node.H :], "yes": np.array(True)}
    arrays |= {"count": np.array(2), "many": np.zeros((2, 1), "float32")}
    model = model_of([nested(operator, inner)], arrays, [info("x", ("t", "b", node.I))], [info("out", None)])
    found = convert.from_onnx(model)
    branches = ["outer/then_branch/rnn", "outer/else_branch/rnn"] if operator == "If" else ["rnn"]
    assert sorted(found) == sorted(branches)
    for layer in found.values():
        assert_same_parameters(layer, convert.from_onnx(node.model(), "y"))


def test_names(rng: np.random.Generator) -> None:
    """Names of nodes, of outputs where they have none or share it; a dict even of one."""
    nodes = [Node(rng, kind, direction="forward") for kind in KINDS]
    arrays = {f"{name}{i}": a for i, n in enumerate(nodes) for name, a in n.arrays.items()}
    made = [
        n.node(name, y=f"y{i}", **{key: f"{key}{i}" for key in n.arrays})
        for i, (n, name) in enumerate(zip(nodes, ("same", "same", ""), strict=True))
    ]
    model = model_of(made, arrays, [info("x", None)], [info("y0", None)])
    assert list(convert.from_onnx(model)) == ["y0", "y1", "y2"]
    assert list(convert.from_onnx(nodes[0].model(name="rnn"))) == ["rnn"]


def test_local_functions(rng: np.random.Generator) -> None:
    """Newer exporters of PyTorch put parts of a model into functions."""
    node = Node(rng, "LSTM", direction="forward")
    inputs = ["x", *node.arrays]
    opsets = [helper.make_opsetid("", 14)]
    function = helper.make_function("local", "layer", inputs, ["y"], [node.node()], opsets)
    calls = [helper.make_node("layer", inputs, ["out"], domain="local")]
    model = model_of(calls, node.arrays, [info("x", ("t", "b", node.I))], [info("out", None)], functions=[function])
    model.opset_import.append(helper.make_opsetid("local", 1))
    (layer,) = convert.from_onnx(model).values()
    assert_same_parameters(layer, convert.from_onnx(node.model(), "y"))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantised_weights(dtype: str, per_channel: bool, rng: np.random.Generator) -> None:
    """The weights of DynamicQuantizeLSTM. ONNX Runtime quantises x as well, each number within half of a 255th of its
    range. So a sum that a gate reads is off by at most d, which is the sum of a column of W times that. After one step
    c is within (1/4 + 1)d, as i is within d/4 and g within d, and y within d/4 more."""
    node = Node(rng, "LSTM", input_forget=0)
    limits = np.iinfo(dtype)
    arrays = {name: a for name, a in node.arrays.items() if name in "BP"}
    floats = {}
    for name in ("W", "R"):
        shape = (node.D, node.arrays[name].shape[2], 4 * node.H)
        scales = (node.D, 4 * node.H) if per_channel else (node.D,)
        arrays[name] = rng.integers(limits.min, limits.max, shape).astype(dtype)
        arrays[f"{name}_scale"] = rng.uniform(0.001, 0.003, scales).astype("float32")
        arrays[f"{name}_zero"] = np.full(scales, 0 if dtype == "int8" else 128, dtype)
        scale, zero = (arrays[f"{name}_{of}"].reshape(node.D, 1, -1) for of in ("scale", "zero"))
        floats[name] = ((arrays[name].astype("float64") - zero) * scale).astype("float32").swapaxes(1, 2)
    inputs = node.inputs()
    inputs += [""] * (8 - len(inputs)) + ["W_scale", "W_zero", "R_scale", "R_zero"]
    made = helper.make_node(
        "DynamicQuantizeLSTM", inputs, ["y"], domain="com.microsoft", hidden_size=node.H, **node.attributes
    )
    model = model_of([made], arrays, [info("x", ("t", "b", node.I))], [info("y", None)])
    layer = convert.from_onnx(model, "y")
    node.arrays |= floats
    want = convert.from_onnx(node.model(), "y")
    assert_same_parameters(getattr(layer, "layer", layer), getattr(want, "layer", want))
    if "P" not in arrays:
        x = rng.standard_normal((1, 3, node.I)).astype("float32")
        step = (max(x.max(), 0) - min(x.min(), 0)) / 255
        d = np.abs(floats["W"]).sum(2).max() * step / 2
        y = run_onnx(model, {"x": x})[0].swapaxes(1, 2).reshape(1, 3, -1)
        np.testing.assert_allclose(layer(x).y, y, rtol=0, atol=1.5 * d + rounding("float32", node.I + node.H + 20))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_exports(kind: str, tmp_path: Path) -> None:
    """Two layers of both directions, whose weights lie in inner nodes' order; the batch is dynamic."""
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, kind)(3, 4, 2, bidirectional=True).eval()
    axes = {"x": {0: "steps", 1: "rows"}}
    options: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": axes, "dynamo": False}
    torch.onnx.export(module, (torch.zeros(5, 2, 3),), str(tmp_path / "a.onnx"), **options)
    found, want = convert.from_onnx(tmp_path / "a.onnx"), convert.from_torch(module)
    for at, layer in enumerate(found.values()):
        for name, a in layer.state_dict().items():
            assert a.tobytes() == want.parameters[name.replace("_l0", f"_l{at}")].tobytes(), name
    assert len(found) == 2


# Models of layers.


ACTIVATIONS: dict[str, list[Any]] = {
    "gate_activation": ["sigmoid", "hard_sigmoid", ("hard_sigmoid", 0.25, 0.5)],
    "candidate_activation": ["softsign", "hard_sigmoid", "relu", "linear"],
    "output_activation": ["softsign", "sigmoid", "linear"],
}


def exported(rng: np.random.Generator, kind: str, **others: Any) -> Any:
    options: dict[str, Any] = {}
    if kind == "LSTM":
        options = {"variant": str(rng.choice(["plain", "coupled"])), "peepholes": [None, "diagonal"][rng.integers(2)]}
    if kind == "GRU":
        options = {"reset_after": bool(rng.integers(2)), "z_weighs": str(rng.choice(["h_prev", "n"]))}
    if kind == "RNN":
        options = {"nonlinearity": str(rng.choice(["tanh", "relu"]))}
    for place, names in ACTIVATIONS.items():
        if place in getattr(fusedrnn, kind)._options.defaults and rng.integers(2):
            options[place] = names[rng.integers(len(names))]
    return random_layer(rng, kind, **(options | others))


@pytest.mark.parametrize("case", range(16))
@pytest.mark.parametrize("kind", KINDS)
def test_models_of_layers(kind: str, case: int, rng: np.random.Generator, tmp_path: Path) -> None:
    layer = exported(rng, kind, dropout=0.5, input_dropout=0.5)
    path = tmp_path / "a.onnx"
    model = convert.to_onnx(layer, path, state=bool(case & 1), lengths=bool(case & 2))
    onnx.checker.check_model(model, full_check=True)
    assert path.read_bytes() == model.SerializeToString()
    steps, rows = 4, 3
    x = rng.standard_normal((rows, steps, layer.input_size) if layer.batch_first else (steps, rows, layer.input_size))
    feeds: dict[str, Any] = {"x": x.astype("float32")}
    state = lengths = None
    if case & 1:
        shape = (layer.num_layers * layer.num_directions, rows, layer.hidden_size)
        given = [rng.standard_normal(shape).astype("float32") for _ in STATES[kind]]
        feeds |= {f"{s}0": a for s, a in zip(STATES[kind], given, strict=True)}
        state = tuple(given) if len(given) > 1 else given[0]
    if case & 2:
        feeds["lengths"] = lengths = np.array([4, 1, 2], "int32")
    names = [output.name for output in model.graph.output]
    want = dict(zip(names, run_onnx(model, feeds), strict=True))
    assert_same_function(run_layer(layer, feeds["x"], state, lengths=lengths), want, layer, feeds["x"])
    back = convert.from_onnx(path)
    assert list(back) == [f"l{at}" for at in range(layer.num_layers)]
    for at, one in enumerate(back.values()):
        for name, a in one.state_dict().items():
            theirs = layer.parameters[name.replace("_l0", f"_l{at}")]
            if layer.options.get("z_weighs") == "n":
                z = slice(layer.hidden_size, 2 * layer.hidden_size)
                theirs = theirs.copy()
                theirs[z] = -theirs[z]
            assert a.tobytes() == theirs.tobytes(), name
        assert one.options == layer.options | ({"z_weighs": "h_prev"} if kind == "GRU" else {})


def test_float64_is_kept(rng: np.random.Generator) -> None:
    """By the reference of ONNX, as ONNX Runtime has no such kernels."""
    layer = random_layer(rng, "LSTM", dtype="float64", num_layers=1, bidirectional=False, batch_first=False, bias=True)
    x = rng.standard_normal((4, 3, layer.input_size))
    model = convert.to_onnx(layer)
    reference = pytest.importorskip("onnx.reference").ReferenceEvaluator(model)
    want = dict(zip(("y", "h_n", "c_n"), reference.run(None, {"x": x}), strict=True))
    assert_same_function(run_layer(layer, x), want, layer, x)


# Activations of gates.

HARD_GATES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, {"gate_activation": ("hard_sigmoid", 0.2, 0.5)}),
    (
        "LSTM",
        {"activations": ["HardSigmoid", "Softsign", "Relu"], "activation_alpha": [0.25], "activation_beta": [0.625]},
        {
            "gate_activation": ("hard_sigmoid", 0.25, 0.625),
            "candidate_activation": "softsign",
            "output_activation": "relu",
        },
    ),
    ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"], "input_forget": 1}, {}),
    ("GRU", {"activations": ["HardSigmoid", "Relu"], "activation_alpha": [0.25]}, {}),
    ("GRU", {"activations": ["Sigmoid", "Softsign"]}, {"candidate_activation": "softsign"}),
    ("GRU", {"activations": ["Sigmoid", "Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}, {}),
]


@pytest.mark.parametrize(("kind", "attributes", "options"), HARD_GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_activations(
    kind: str, attributes: dict[str, Any], options: dict[str, Any], direction: str, rng: np.random.Generator
) -> None:
    times = 1 + (direction == "bidirectional")
    lists = {name: v * times if isinstance(v, list) else v for name, v in attributes.items()}
    node = Node(rng, kind, direction=direction, **({"input_forget": 0} if kind == "LSTM" else {}) | lists)
    layer = assert_runs_alike(node, node.model(), rng)
    inner = getattr(layer, "layer", layer)
    assert options.items() <= inner.options.items()
    if inner is layer:
        assert_same_parameters(convert.from_onnx(convert.to_onnx(layer), "l0"), layer)


@pytest.mark.parametrize(("kind", "attributes", "options"), HARD_GATES)
def test_options_of_activations(kind: str, attributes: dict[str, Any], options: dict[str, Any]) -> None:
    """What a layer is given, and back."""
    of_kind, lists = tables.KINDS[kind], [attributes.get(f"activation{s}") for s in ("s", "_alpha", "_beta")]
    found = activations.from_onnx_lists(of_kind, 1, *lists)
    assert options.items() <= activations.options_of(of_kind, found).items()
    for directions in (1, 2):
        back = activations.to_onnx_attributes(found, directions)
        again = [back.get(f"activation{s}") for s in ("s", "_alpha", "_beta")]
        assert activations.from_onnx_lists(of_kind, directions, *again) == found


def test_default_activations_by_name(rng: np.random.Generator) -> None:
    """In any case of letters, as ONNX Runtime reads them."""
    node = Node(rng, "LSTM", direction="bidirectional", activations=["sigmoid", "TANH", "Tanh"] * 2)
    assert_runs_alike(node, node.model(), rng)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("LSTM", {"clip": 3.0}, "clip: expected none, as no cell here clips what activations read, got 3.0"),
    (
        "GRU",
        {"activations": ["Sigmoid", "Elu"]},
        "activations: expected one of Sigmoid, Tanh, Relu, Softsign, HardSigmoid, as no cell has others, got 'Elu'",
    ),
    (
        "RNN",
        {"activations": ["Sigmoid"]},
        "activation: expected 'tanh' or 'relu', as no cell of one gate has another, got 'sigmoid'",
    ),
    (
        "RNN",
        {"activations": ["Tanh", "Relu"], "direction": "bidirectional"},
        "activations: expected the same in both directions, as layers have, got [['tanh'], ['relu']]",
    ),
    ("GRU", {"activations": ["Sigmoid"]}, "activations: expected 2, got 1"),
    (
        "LSTM",
        {"input_forget": 1, "activations": ["Softsign", "Tanh", "Tanh"]},
        "gate_activation: expected sigmoid, or hard_sigmoid with beta 0.5, of coupled gates, as 1 - i has to be the "
        "same of the negated i, got 'softsign'",
    ),
]


@pytest.mark.parametrize(("kind", "attributes", "text"), REFUSED)
def test_refusals(kind: str, attributes: dict[str, Any], text: str, rng: np.random.Generator) -> None:
    node = Node(rng, kind, **({"direction": "forward"} | attributes))
    with pytest.raises(ValueError, match=re.escape(text)):
        convert.from_onnx(node.model(), "y")
    with pytest.raises(ValueError, match=re.escape(f"y: {text}")):
        convert.from_onnx(node.model())


def test_weights_that_are_no_constants(rng: np.random.Generator) -> None:
    node = Node(rng, "GRU", direction="forward")
    R = node.arrays.pop("R")
    model = model_of([node.node(R="R")], node.arrays, [info("x", None), info("R", R.shape)], [info("y", None)])
    with pytest.raises(ValueError, match="R: expected a constant, got 'R', which is computed of inputs of the model"):
        convert.from_onnx(model, "y")
    model = model_of([node.node(R="")], node.arrays, [info("x", None)], [info("y", None)])
    with pytest.raises(ValueError, match="R: expected a constant, got none"):
        convert.from_onnx(model, "y")
    before = helper.make_node("RandomNormal", [], ["R"], shape=R.shape)
    model = model_of([before, node.node(R="R")], node.arrays, [info("x", None)], [info("y", None)])
    with pytest.raises(ValueError, match="R: expected a constant, got 'R', which is computed of inputs of the model"):
        convert.from_onnx(model, "y")
    node.arrays["R"] = R[:, 1:]
    with pytest.raises(ValueError, match="weight_hh: expected 3 blocks of one size in axis 0, got shape"):
        convert.from_onnx(node.model(), "y")
    node.attributes["direction"] = "bidirectional"
    with pytest.raises(ValueError, match="direction: expected one that fits 1 in W, got 'bidirectional'"):
        convert.from_onnx(node.model(), "y")


def test_other_sources(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="source: expected a path or a ModelProto, got int"):
        convert.from_onnx(3)
    empty = model_of([], {}, [info("x", None)], [info("x", None)])
    with pytest.raises(ValueError, match="source: expected a model of ONNX with a recurrent layer, got none in it"):
        convert.from_onnx(empty)
    for content in (b"", b"no model of ONNX", b"\x08\x08"):
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"path: expected a model of ONNX, got 'a.onnx'"):
            convert.from_onnx(tmp_path / "a.onnx")
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"path: expected a file for from_onnx, got 'a.pt': use from_torch"):
        convert.from_onnx(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError):
        convert.from_onnx(tmp_path / "b.onnx")


LACKING: list[tuple[Any, str]] = [
    (lambda: fusedrnn.LSTM(2, 3, proj_size=2), "proj_size: expected 0, as ONNX has no other LSTM, got 2"),
    (
        lambda: fusedrnn.LSTM(2, 3, variant="coupled", gate_activation=("hard_sigmoid", 0.2, 0.25)),
        "gate_activation: expected sigmoid, or hard_sigmoid with beta 0.5, of coupled gates, as 1 - i has to be the "
        "same of the negated i, got ('hard_sigmoid', 0.2, 0.25)",
    ),
    (lambda: fusedrnn.GRU(2, 4, num_heads=2), "num_heads: expected 1, as ONNX has no other GRU, got 2"),
    (
        lambda: fusedrnn.LSTM(2, 3, variant="no_forget_gate"),
        "variant: expected 'plain' or 'coupled', as ONNX has no other LSTM, got 'no_forget_gate'",
    ),
    (
        lambda: fusedrnn.LSTM(2, 3, peepholes="full"),
        "peepholes: expected None or 'diagonal', as ONNX has no other LSTM, got 'full'",
    ),
    (lambda: fusedrnn.RNN(2, 3, zoneout_h=0.5), "zoneout_h: expected 0.0, as ONNX has no other RNN, got 0.5"),
    (
        lambda: fusedrnn.IndRNN(2, 3),
        "layer: expected one of LSTM, GRU, RNN, as ONNX has no other cells, got IndRNN",
    ),
]


@pytest.mark.parametrize(("make", "text"), LACKING)
def test_what_onnx_lacks(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        convert.to_onnx(make())


def test_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    calls: list[Any] = [lambda: convert.to_onnx(fusedrnn.LSTM(2, 3)), lambda: convert.from_onnx("a.onnx")]
    for call in calls:
        with pytest.raises(ImportError, match=r"this conversion needs onnx: pip install 'fusedrnn\[onnx\]'"):
            call()
