"""Graphs of ONNX: their nodes, also those of inner graphs, and the values that are constants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


class Scope:
    """The names of a graph, and of the graphs around it. A value is constant if it is an initializer, or a node makes
    it of nothing but constants."""

    def __init__(self, onnx: Any, graph: Any, opsets: Any, outer: Scope | None = None) -> None:
        self._onnx, self._graph, self._opsets, self._outer = onnx, graph, opsets, outer
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: dict[str, Any] = {}  # those whose outputs are constant
        self._local = {value.name for value in graph.input} | self._initializers.keys()
        self._values: dict[str, Any] = {}
        for node in graph.node:  # each after those whose outputs it reads
            self._local.update(node.output)
            inner = any(a.HasField("g") or len(a.graphs) for a in node.attribute)
            if not inner and node.op_type not in RANDOM and all(not i or self.is_constant(i) for i in node.input):
                self._nodes.update(dict.fromkeys(node.output, node))

    def is_constant(self, name: str) -> bool:
        if name in self._local or self._outer is None:
            return name in self._initializers or name in self._nodes
        return self._outer.is_constant(name)

    def value(self, name: str) -> Any:
        """The array of a constant, or None. Raises ValueError if what makes it cannot be computed."""
        if not name or not self.is_constant(name):
            return None
        if name not in self._local and self._outer is not None:
            return self._outer.value(name)
        if name not in self._values:
            if name in self._initializers:
                self._values[name] = self._onnx.numpy_helper.to_array(self._initializers[name])
            else:
                self._run(self._nodes[name])
        return self._values[name]

    def _run(self, node: Any) -> None:
        """Computes the outputs of a node by the reference implementation of ONNX."""
        helper, reference = self._onnx.helper, self._onnx.reference
        given = {name: self.value(name) for name in node.input if name}
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype), None)
            for name, a in given.items()
        ]
        outputs = [name for name in node.output if name]
        infos = [helper.make_tensor_value_info(name, 0, None) for name in outputs]
        graph = helper.make_graph([node], "constant", inputs, infos)
        try:
            model = helper.make_model(graph, opset_imports=self._opsets)
            self._values.update(zip(outputs, reference.ReferenceEvaluator(model).run(None, given), strict=True))
        except Exception as e:  # of all kinds, from operators that the reference lacks, too
            raise ValueError(f"{outputs[0]}: expected a constant that can be computed, got {node.op_type}: {e}") from e

    def nodes(self, path: str = "") -> Iterator[tuple[str, Any, Scope]]:
        """All nodes, also those of inner graphs: where each is, and the names that it sees."""
        for node in self._graph.node:
            yield path, node, self
            for a in node.attribute:
                for graph in [a.g] if a.HasField("g") else a.graphs:
                    inner = Scope(self._onnx, graph, self._opsets, self)
                    yield from inner.nodes(f"{path}{label(node)}/{a.name}/")


def label(node: Any) -> str:
    """A node's name, or that of its first output if it has none."""
    return str(node.name or next((name for name in node.output if name), ""))
