"""Recurrent layers in files of Keras, read by h5py alone."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..aliases import Array
from .build import need
from .keras import Found, entry_of, is_recurrent, of_cudnn
from .tables import BY_GATES, KERAS_BOTH, KERAS_CELLS, KERAS_RNN, KERAS_STACK, THREE_GATES

PARTS = {"config.json", "metadata.json", "model.weights.h5"}  # of a .keras file
INSIDE = ("layers", "_layer_checkpoint_dependencies")  # the group of a model's layers, since Keras 3 and before


def layers_in_file(path: Path) -> dict[str, Found]:
    """The recurrent layers by name. Raises ValueError for a file that Keras did not write."""
    h5py = need("h5py", "keras")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if missing := PARTS - set(file.namelist()):
                raise ValueError(f"path: expected a .keras file, got {path.name!r} without {min(missing)}")
            model = json.loads(file.read("config.json"))
            version = json.loads(file.read("metadata.json")).get("keras_version", "")
            weights = h5py.File(io.BytesIO(file.read("model.weights.h5")), "r")
        return dict(_of_keras_3("", "", model, weights, version))
    if not h5py.is_hdf5(path):
        raise ValueError(f"path: expected a file of Keras, .keras, .h5 or .weights.h5, got {path.name!r}")
    weights = h5py.File(io.BytesIO(path.read_bytes()), "r")
    if "model_config" in weights.attrs:
        model, version = json.loads(_text(weights.attrs["model_config"])), _text(weights.attrs.get("keras_version", ""))
        return dict(_of_legacy(model, weights["model_weights"], version))
    return dict(_of_legacy_weights(weights) if "layer_names" in weights.attrs else _of_weights("", weights))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _array(dataset: Any) -> Array:
    """The numbers of a dataset; those of bfloat16 lie there as two raw bytes each."""
    a = np.asarray(dataset[()])
    if a.dtype == "V2":
        return (a.view("u2").astype("u4") << 16).view("f4")
    return a


# Files with a configuration, of Keras 3 (and Keras 2.12 and later as .keras): groups follow the classes of layers.


def _of_keras_3(
    path: str, group: str, serialised: Mapping[str, Any], file: Any, version: str
) -> Iterator[tuple[str, Found]]:
    """The recurrent layers of a serialised layer or model, whose weights are in this group."""
    class_name, config = entry_of(serialised)
    if not isinstance(config, Mapping):
        return
    if is_recurrent(class_name, config):
        yield (
            path or config["name"],
            Found(class_name, config, partial(_read_group, file, group, class_name, config), version),
        )
    elif "layers" in config:
        inside = next((name for name in INSIDE if f"{group}/{name}".strip("/") in file), INSIDE[0])
        within = f"{group}/{inside}".strip("/")
        names = _group_names(config["layers"], _members(file, within))
        for each, theirs in zip(config["layers"], names, strict=True):
            name = each["config"].get("name", "") if isinstance(each["config"], Mapping) else ""
            yield from _of_keras_3(f"{path}/{name}" if path else name, f"{within}/{theirs}", each, file, version)
    elif isinstance(config.get("layer"), Mapping) and "class_name" in config["layer"]:  # a wrapper
        yield from _of_keras_3(path or config["name"], f"{group}/layer", config["layer"], file, version)
    elif not group or group in file:  # a layer of the user's, which may have recurrent layers
        yield from _of_weights(path, file[group] if group else file)


def _group_names(entries: Sequence[Mapping[str, Any]], groups: Iterable[str]) -> list[str]:
    """The groups of the members of a list: their classes in lower case, with numbers where there are several. Keras 2
    left some of the numbers out, so that the order of the groups counts if there are as many as members of a class."""
    classes = [_snake(entry_of(entry)[0]) for entry in entries]
    named: dict[str, list[str]] = {}
    for name in set(classes):
        found = sorted((g for g in groups if re.fullmatch(rf"{name}(_\d+)?", g)), key=_number)
        count = classes.count(name)
        named[name] = found if len(found) == count else [f"{name}_{i}" if i else name for i in range(count)]
    return [named[name].pop(0) for name in classes]


def _snake(name: str) -> str:
    """As Keras has it."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _members(file: Any, group: str) -> list[str]:
    return list(file[group]) if group in file else []


def _read_group(file: Any, group: str, class_name: str, config: Mapping[str, Any]) -> list[Array]:
    """The weights of a recurrent layer, cell after cell."""
    if class_name == KERAS_BOTH:
        both = [entry_of(config["layer"]), entry_of(config.get("backward_layer") or config["layer"])]
        groups = (f"{group}/forward_layer", f"{group}/backward_layer")
        return [a for each, entry in zip(groups, both, strict=True) for a in _read_group(file, each, *entry)]
    cells = [f"{group}/cell"]
    if class_name == KERAS_RNN and entry_of(config["cell"])[0] == KERAS_STACK:
        inside = f"{group}/cell/cells"
        entries = config["cell"]["config"]["cells"]
        cells = [f"{inside}/{name}" for name in _group_names(entries, _members(file, inside))]
    return [a for cell in cells for a in _read_vars(file, cell)]


def _read_vars(file: Any, cell: str) -> list[Array]:
    if f"{cell}/vars" not in file:
        raise ValueError(f"weights: expected the group {cell}/vars in the file, got none")
    members = file[f"{cell}/vars"]
    return [_array(members[key]) for key in sorted(members, key=int)]


# Files with a configuration, of Keras 2 and of Keras 3 as .h5: a group for each layer of the highest model.


def _of_legacy(model: Mapping[str, Any], weights: Any, version: str) -> Iterator[tuple[str, Found]]:
    config = model["config"]
    for entry in config if isinstance(config, list) else config["layers"]:  # Keras 2.1's Sequential is a list
        name = entry["config"]["name"]
        yield from _of_legacy_entry(name, entry, weights, name, version)


def _of_legacy_entry(
    path: str, entry: Mapping[str, Any], weights: Any, group: str, version: str
) -> Iterator[tuple[str, Found]]:
    """The recurrent layers of an entry, whose weights are among those of this group."""
    class_name, config = entry_of(entry)
    if is_recurrent(class_name, config):
        within = config["name"] if "/" in path else ""
        yield path, Found(class_name, config, partial(_read_legacy, weights, group, within), version)
    elif "layers" in config:
        for each in config["layers"]:
            yield from _of_legacy_entry(f"{path}/{each['config']['name']}", each, weights, group, version)
    elif isinstance(config.get("layer"), Mapping) and "class_name" in config["layer"]:
        yield from _of_legacy_entry(path, config["layer"], weights, group, version)


def _read_legacy(weights: Any, group: str, within: str) -> list[Array]:
    """The weights of a group, in their order; of a model in the model those whose path has the layer's name."""
    names = _legacy_names(weights[group], "weight_names")
    found = [name for name in names if not within or within in name.split("/")]
    return [_array(weights[group][name]) for name in found]


def _legacy_names(group: Any, attribute: str) -> list[str]:
    """A list of names in attributes, which are cut up where they are long."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    parts = iter(range(len(group.attrs)))
    chunks = [f"{attribute}{i}" for i in parts if f"{attribute}{i}" in group.attrs]
    return [_text(name) for chunk in chunks for name in group.attrs[chunk]]


# Files of weights alone: what the shapes of cells say.


def _of_weights(path: str, group: Any) -> Iterator[tuple[str, Found]]:
    """Of Keras 3: the groups that have a cell, or both directions."""
    cells = None
    if "forward_layer" in group and "backward_layer" in group:
        cells = [c for d in ("forward_layer", "backward_layer") for c in _cells_in(group[d])]
    elif "cell" in group:
        cells = _cells_in(group)
    if cells:
        yield path, _guessed(cells, "forward_layer" in group)
        return
    for key, member in group.items():
        if hasattr(member, "items") and "vars" in member:
            name = _text(member["vars"].attrs.get("name", key))
            yield from _of_weights(f"{path}/{name}".strip("/"), member)
        elif hasattr(member, "items"):  # a list of layers
            yield from _of_weights(path, member)


def _cells_in(group: Any) -> list[list[Array]]:
    """The weights of the cells of a group, if they are a kernel, a recurrent kernel and perhaps a bias."""
    if "cell" not in group:
        return []
    cell = group["cell"]
    members = [cell["cells"][key] for key in sorted(cell["cells"], key=_number)] if "cells" in cell else [cell]
    found = [[_array(m["vars"][key]) for key in sorted(m["vars"], key=int)] for m in members if "vars" in m]
    return [weights for weights in found if _is_cell(weights)]


def _number(name: str) -> tuple[int, str]:
    """Of a member of a list of cells: "cell", "cell_1", ..."""
    m = re.search(r"_(\d+)$", name)
    return (int(m[1]) if m else 0), name


def _is_cell(weights: Sequence[Array]) -> bool:
    if len(weights) not in (2, 3) or any(a.ndim != 2 for a in weights[:2]):
        return False
    (_, columns), (H, others) = weights[0].shape, weights[1].shape
    return columns == others and columns % H == 0 and columns // H in BY_GATES


def _of_legacy_weights(file: Any) -> Iterator[tuple[str, Found]]:
    """Of Keras 2: the groups whose weights are those of a cell, or of two of the same shapes."""
    for name in _legacy_names(file, "layer_names"):
        paths = _legacy_names(file[name], "weight_names")
        if any("recurrent_kernel" in path for path in paths) and (found := of_arrays(_read_legacy(file, name, ""))):
            yield name, found


CELLS = {2: (2, 1), 3: (3, 1), 4: (2, 2), 6: (3, 2)}  # the arrays of a cell, and the directions, by all arrays


def of_arrays(weights: Sequence[Array]) -> Found | None:
    """The layer with such weights, in one direction or in both; None if there is none."""
    count, directions = CELLS.get(len(weights), (0, 0))
    cells = [list(weights[i * count : (i + 1) * count]) for i in range(directions)]
    return _guessed(cells, directions == 2) if cells and all(map(_is_cell, cells)) else None


def _guessed(cells: list[list[Array]], both: bool) -> Found:
    """With the defaults of Keras for all that shapes do not say. A GRU resets before if its bias has one row."""
    kind = BY_GATES[cells[0][0].shape[1] // len(cells[0][1])]
    keras_cell = next(name for name, k in KERAS_CELLS.items() if k is kind)
    bias = cells[0][2] if len(cells[0]) == 3 else None
    config = {"units": len(cells[0][1]), "use_bias": bias is not None}
    if kind is THREE_GATES:
        config["reset_after"] = bias is None or bias.ndim == 2 or of_cudnn(cells[0])
    entries = [{"class_name": keras_cell, "config": config}] * (len(cells) // (1 + both))
    of_layer = {"cell": {"class_name": KERAS_STACK, "config": {"cells": entries}}}
    found: tuple[str, Mapping[str, Any]] = KERAS_RNN, of_layer
    if both:
        found = KERAS_BOTH, {"merge_mode": "concat", "layer": {"class_name": KERAS_RNN, "config": of_layer}}
    return Found(*found, partial(_flat, cells), "", complete=False)


def _flat(cells: list[list[Array]]) -> list[Array]:
    return [a for cell in cells for a in cell]
