"""Layers from Keras 3 and Keras 2, and to Keras 3."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..aliases import Array
from ..cells.activations import OWN
from ..layers.layer import Layer
from .activations import activations_of, from_keras_name, options_of, to_keras_name
from .build import Makers, arrays_of, as_array, chosen, file_of, layer_of, need
from .reversed import Reversed
from .tables import (
    KERAS,
    KERAS_BOTH,
    KERAS_CELLS,
    KERAS_RNN,
    KERAS_STACK,
    ONE_GATE,
    THREE_GATES,
    Kind,
    check_system,
    reorder,
)


class Found(NamedTuple):
    """A recurrent layer of a model or a file."""

    class_name: str
    config: Mapping[str, Any]
    weights: Callable[[], Sequence[Array]]  # kernel, recurrent kernel and bias of each cell, forward cells first
    version: str  # of Keras
    complete: bool = True  # whether the configuration is Keras's own; otherwise it is what shapes say, and defaults


def from_keras(source: Any, name: str | None = None, **options: Any) -> Any:
    """Layers from Keras 3, and from Keras 2 (tf.keras): LSTM, GRU, SimpleRNN, Keras 2's CuDNNLSTM, CuDNNGRU, `RNN` of
    cells of these and of stacks of cells of one kind and size, and Bidirectional ones with ``merge_mode="concat"``.
    Each becomes a layer of its own, with `batch_first`; stacked cells one of that depth. Kernels are transposed, gates
    permuted; a single bias becomes `bias_ih`, beside a `bias_hh` of zeros. A layer with `go_backwards` becomes a
    `Reversed`. What Keras drops in training is left out; masks and `return_sequences` are the caller's: ``lengths=``,
    ``out.y`` or ``out.h_n``.

    Args:
        source: a layer or a model, of Keras or tf.keras; a layer's `get_weights()`; or the path of a file, which h5py
            reads: ``.keras``, a whole model's ``.h5``, or one of weights alone, ``.weights.h5``.
        name: of one layer. A layer of a model in the model is named ``"inner/layer"``. Weights alone have the names of
            their layers too, or, as Keras wrote them before, those of groups, such as ``"lstm_1"``.
        options: what weights alone do not say, nor the configuration of a layer of the user's, with recurrent layers
            inside: ``reset_after=False`` of a GRU without biases, ``nonlinearity="relu"``, and options for
            activations, where they are not Keras's defaults; the same for all such layers.

    Returns:
        A layer, if the source is a recurrent layer, or its weights, or a name is given; otherwise a dict of layers by
        name, even of one.

    Raises:
        ValueError: no recurrent layer; no such name; what no layer has: another `merge_mode`, other activations, cells
            of different kinds or sizes in one stack; a file of another kind. TypeError: another source; options
            beside a model, which says all by itself. ImportError: no h5py. OSError: the file cannot be read.
    """
    if isinstance(source, (list, tuple)):
        from .keras_files import of_arrays

        alone = of_arrays([as_array("source", a) for a in source])
        if alone is None:
            raise ValueError(
                "source: expected the arrays of a recurrent layer, as get_weights() gives them, got others"
            )
        return layer_of_found(alone, options)
    makers = found_in(source, **options)
    is_layer = not isinstance(source, (str, os.PathLike)) and not hasattr(source, "layers")
    if name is None and is_layer and [*makers] == [source.name]:
        return makers[source.name]()
    return chosen(makers, name, "a layer, model or file of Keras")


def found_in(source: Any, **options: Any) -> Makers:
    """The layers in a layer, model or path, by name. Raises what `from_keras` does."""
    if isinstance(source, (str, os.PathLike)):
        from .keras_files import layers_in_file

        found = layers_in_file(file_of(source, "from_keras"))
    elif callable(getattr(source, "get_config", None)) and callable(getattr(source, "get_weights", None)):
        found = dict(_in_model("", source))
    else:
        raise TypeError(
            f"source: expected a layer or a model of Keras, its weights, or a path, got {type(source).__name__}"
        )
    if options and found and all(layer.complete for layer in found.values()):
        raise TypeError(f"{next(iter(options))}: expected none beside a model, which has its own")
    return {each: partial(layer_of_found, layer, {} if layer.complete else options) for each, layer in found.items()}


def is_recurrent(class_name: str, config: Mapping[str, Any]) -> bool:
    """Whether it is a recurrent layer, as far as the configuration tells; of cells that have a kind here."""
    if class_name in KERAS:
        return True
    if class_name == KERAS_BOTH:
        return is_recurrent(*entry_of(config["layer"]))
    if class_name == KERAS_RNN:
        cell, of_cell = entry_of(config["cell"])
        return cell in KERAS_CELLS or (
            cell == KERAS_STACK and any(entry_of(c)[0] in KERAS_CELLS for c in of_cell["cells"])
        )
    return False


def entry_of(serialised: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Class and configuration of a layer in a file."""
    return serialised["class_name"].split(">")[-1], serialised["config"]


def _in_model(path: str, layer: Any) -> Iterator[tuple[str, Found]]:
    """The recurrent layers of a model, of models and layers in it, and of their wrappers."""
    class_name = type(layer).__name__
    if class_name in (KERAS_RNN, KERAS_BOTH, *KERAS) and is_recurrent(class_name, layer.get_config()):
        package = type(layer).__module__.split(".")[0]
        version = getattr(sys.modules.get(package), "__version__", "")
        yield path or layer.name, Found(class_name, layer.get_config(), layer.get_weights, version)
    elif hasattr(layer, "layer"):  # a wrapper, such as TimeDistributed
        yield from _in_model(path or layer.name, layer.layer)
    else:
        for each in getattr(layer, "layers", None) or getattr(layer, "_layers", None) or ():
            if hasattr(each, "name"):
                yield from _in_model(f"{path}/{each.name}" if path else each.name, each)


def layer_of_found(found: Found, options: Mapping[str, Any]) -> Layer | Reversed:
    """The layer of a recurrent layer of Keras."""
    both = found.class_name == KERAS_BOTH
    class_name, of_layer = entry_of(found.config["layer"]) if both else (found.class_name, found.config)
    cells = _cells_of(class_name, of_layer)
    if both:
        _check_directions(found.config, of_layer, cells)
    (kind, cell), depth, directions = cells[0], len(cells), 1 + both
    weights = [as_array("weights", a) for a in found.weights()]
    count = 2 + bool(cell.get("use_bias", True))
    if len(weights) != count * depth * directions:
        raise ValueError(f"weights: expected {count * depth * directions} arrays, got {len(weights)}")
    places = [weights[i : i + count] for i in range(0, len(weights), count)]
    chosen_by = _activations(kind, cell, found.version)
    if kind is THREE_GATES:  # the first versions of Keras 2 had no reset_after, and reset before the product
        chosen_by["reset_after"] = bool(cell.get("reset_after", of_cudnn(places[0])))
    converted = [_parameters(kind, *place) for place in places]
    batch_first = not of_layer.get("time_major", False)  # an option of Keras 2
    layer = layer_of(kind, converted, bidirectional=both, batch_first=batch_first, **(chosen_by | dict(options)))
    return Reversed(layer) if of_layer.get("go_backwards") and not both else layer


def _check_directions(
    config: Mapping[str, Any], forward: Mapping[str, Any], cells: Sequence[tuple[Kind, Mapping[str, Any]]]
) -> None:
    """Raises ValueError for both directions as no layer has them; `cells` are those of the forward layer."""
    if config.get("merge_mode") != "concat":
        raise ValueError(
            "merge_mode: expected 'concat', as directions lie side by side here, "
            f"got {config.get('merge_mode')!r}: convert the layers of both directions, and combine their outputs"
        )
    if forward.get("go_backwards"):
        raise ValueError(
            "go_backwards: expected False in a bidirectional layer, as the first direction here runs forwards, got True"
        )
    if len(cells) > 1:
        raise ValueError("layer: expected one cell in each direction, as layers here join directions, got a stack")
    if config.get("backward_layer"):
        backward = _cells_of(*entry_of(config["backward_layer"]))
        if [_essence(*cell) for cell in backward] != [_essence(*cell) for cell in cells]:
            raise ValueError("backward_layer: expected the cell of the forward layer, as layers have, got another one")


def _cells_of(class_name: str, config: Mapping[str, Any]) -> list[tuple[Kind, Mapping[str, Any]]]:
    """Kind and configuration of the cells of a recurrent layer, from the lowest."""
    if class_name in KERAS:
        return [(KERAS[class_name], config)]
    if class_name != KERAS_RNN:
        raise ValueError(
            f"layer: expected one of {', '.join(KERAS)}, as no layer here has another cell, got {class_name}"
        )
    cell, of_cell = entry_of(config["cell"])
    entries = [entry_of(c) for c in of_cell["cells"]] if cell == KERAS_STACK else [(cell, of_cell)]
    for name, _ in entries:
        if name not in KERAS_CELLS:
            raise ValueError(f"cell: expected one of {', '.join(KERAS_CELLS)}, as no layer has another, got {name}")
    cells = [(KERAS_CELLS[name], c) for name, c in entries]
    if any(_essence(*c) != _essence(*cells[0]) for c in cells):
        raise ValueError("cells: expected one kind and size, as the layers of a stack have, got different ones")
    return cells


def _essence(kind: Kind, config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must be the same in all cells of one layer."""
    names = ("units", "activation", "recurrent_activation", "use_bias", "reset_after")
    return (kind, *(config.get(name) for name in names))


def _activations(kind: Kind, cell: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Keras's `activation` is that of the candidate and, of an LSTM, of the output."""
    activation = from_keras_name(cell.get("activation", "tanh"), version)
    if kind is ONE_GATE:
        return options_of(kind, [activation])
    gates = from_keras_name(cell.get("recurrent_activation", "sigmoid"), version)
    return options_of(kind, [gates, activation, activation][: 1 + kind.states])


def of_cudnn(weights: Sequence[Array]) -> bool:
    """Whether weights are those of Keras 2's layers of cuDNN, which have two biases in one row."""
    return len(weights) == 3 and weights[2].shape == (2 * weights[1].shape[1],)


def _parameters(kind: Kind, kernel: Array, recurrent: Array, bias: Array | None = None) -> dict[str, Array]:
    """Those of a cell here. A bias of two rows has those of the input and of the recurrence. In the kernels of cuDNN's
    layers each gate has the numbers of its ``(H, .)`` matrix, row by row, under the shape ``(., H)``."""
    order = kind.orders["Keras"], kind.gates
    kernels = {"weight_ih": kernel, "weight_hh": recurrent}
    if bias is not None and of_cudnn((kernel, recurrent, bias)):
        G, H = len(kind.gates), len(recurrent)
        kernels = {
            name: np.concatenate([np.reshape(gate, (H, -1)).T for gate in np.split(a, G, 1)], 1)
            for name, a in kernels.items()
        }
        bias = bias.reshape(2, -1)
    arrays = {name: reorder(a, *order, axis=1, name=name).T for name, a in kernels.items()}
    if bias is not None:
        b_ih, b_hh = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        arrays |= {"bias_ih": reorder(b_ih, *order), "bias_hh": reorder(b_hh, *order)}
    return arrays


def to_keras(layer: Layer) -> Any:
    """A layer of Keras 3, built and with the same parameters: `LSTM`, `GRU` of both forms, or `SimpleRNN`, in a
    `Bidirectional` if it has two directions; a `Sequential` of them if it is deeper than one. They return sequences,
    and take ``(B, T, I)``. Keras has one bias for each gate, but for a GRU that resets after the product: it gets the
    sum of both, which is rounded once. A GRU whose z weighs n gets the rows of z negated. Dropout between layers is
    left out.

    Raises:
        ValueError: a cell, or an option, that Keras lacks. TypeError: no layer. ImportError: no Keras.
    """
    kind = check_system(
        layer,
        "Keras",
        {
            "nonlinearity": ("tanh", "relu"),
            "reset_after": (True, False),
            "z_weighs": ("h_prev", "n"),
            **dict.fromkeys(OWN, ()),
        },
    )
    keras = need("keras", "keras")
    gates, *others = [to_keras_name(a) for a in activations_of(kind, layer)]
    arguments: dict[str, Any] = {
        "activation": (others or [gates])[0],
        "use_bias": layer.bias,
        "dtype": str(layer.dtype),
    }
    if others:
        arguments["recurrent_activation"] = gates
    if len(set(others)) > 1:
        raise ValueError(f"output_activation: expected that of the candidate, as Keras has one for both, got {others}")
    if "reset_after" in layer.options:
        arguments["reset_after"] = layer.options["reset_after"]
    made = []
    for at in range(layer.num_layers):
        each = getattr(keras.layers, kind.keras)(layer.hidden_size, return_sequences=True, **arguments)
        if layer.bidirectional:
            each = keras.layers.Bidirectional(each, merge_mode="concat", dtype=str(layer.dtype))
        each.build((None, None, layer.output_size if at else layer.input_size))
        places = [arrays_of(layer, at, d) for d in range(layer.num_directions)]
        each.set_weights([a for arrays in places for a in _weights(kind, layer, arrays)])
        made.append(each)
    if len(made) == 1:
        return made[0]
    return keras.Sequential([keras.Input((None, layer.input_size), dtype=str(layer.dtype)), *made])


def _weights(kind: Kind, layer: Layer, arrays: Mapping[str, Array]) -> list[Array]:
    """Keras's arrays of a cell."""
    order = kind.gates, kind.orders["Keras"]
    weights = [reorder(arrays[name], *order).T for name in ("weight_ih", "weight_hh")]
    if not layer.bias:
        return weights
    biases = [reorder(arrays[name], *order) for name in ("bias_ih", "bias_hh")]
    both = layer.options.get("reset_after", False)
    total = np.sum(biases, axis=0, dtype="float64").astype(layer.dtype)
    return [*weights, np.stack(biases) if both else total]
