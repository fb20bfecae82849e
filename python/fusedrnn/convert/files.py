"""What the command line looks for in files: their recurrent layers, and the runtimes that they come from."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..aliases import Array
from ..layers.layer import Layer
from . import keras, onnx, pytorch
from .build import Makers, need
from .tables import SUFFIXES

Call = Callable[[Array], Array]  # from x to y, both as the layer has them


class System(NamedTuple):
    name: str  # of its runtime
    found_in: Callable[[Any], Makers]
    run: Callable[[Layer, int], Call]  # the same layer in the system, on so many threads


def _onnx_runtime(layer: Layer, threads: int) -> Call:
    if layer.dtype != "float32":
        raise ValueError(f"dtype: expected float32, as ONNX Runtime has no nodes for others, got {layer.dtype}")
    runtime = need("onnxruntime", "peers")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    model = onnx.to_onnx(layer).SerializeToString()
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(["y"], {"x": x})[0]


def _torch(layer: Layer, threads: int) -> Call:
    torch = need("torch", "torch")
    torch.set_num_threads(threads)
    module = pytorch.to_torch(layer).eval()

    def call(x: Array) -> Array:
        with torch.inference_mode():
            y: Array = module(torch.from_numpy(x))[0].numpy()
            return y

    return call


def _keras(layer: Layer, threads: int) -> Call:
    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        need("torch", "torch").set_num_threads(threads)
    model = keras.to_keras(layer)
    backend = need("keras", "keras").ops

    def call(x: Array) -> Array:
        batch = x if layer.batch_first else x.swapaxes(0, 1)  # Keras has the batch first
        y: Array = backend.convert_to_numpy(backend.stop_gradient(model(batch)))
        return y if layer.batch_first else y.swapaxes(0, 1)

    return call


SYSTEMS = {
    "from_onnx": System("ONNX Runtime", onnx.found_in, _onnx_runtime),
    "from_torch": System("torch.nn", pytorch.found_in, _torch),
    "from_keras": System("Keras", keras.found_in, _keras),
}


def system_of(path: Any) -> System:
    """By the suffix. Raises ValueError for another one."""
    function = SUFFIXES.get(Path(path).suffix.lower())
    if function is None:
        raise ValueError(f"path: expected a suffix among {', '.join(SUFFIXES)}, got {Path(path).name!r}")
    return SYSTEMS[function]
