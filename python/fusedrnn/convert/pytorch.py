"""Layers from PyTorch and back."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..cells.families import LAYERS, SPECS
from ..layers.config import name_of
from ..layers.layer import Layer
from .build import Makers, arrays_of, as_array, chosen, file_of, need
from .tables import BY_GATES, KINDS, NAMES, check_system

PARAMETERS = {p.name for spec in SPECS.values() for p in spec.parameters}
_FIRST = re.compile(r"(?:(?P<prefix>.*)\.)?weight_ih(?:_l0)?")
_PLACE = re.compile(r"(?P<parameter>\w+?)(?:_l(?P<layer>\d+)(?P<reverse>_reverse)?)?")


def from_torch(source: Any, name: str | None = None, **arguments: Any) -> Any:
    """Layers from PyTorch: `nn.LSTM`, `nn.GRU` (which resets after the product), `nn.RNN`, their cells (a layer of
    depth 1 each), and modules of `fusedrnn.torch`, with depth, directions, projections, with or without biases.
    Parameters are copied, in the same order; those of float16 or bfloat16 become float32.

    Args:
        source: a module; a state dict, or a checkpoint that holds one in its dicts, of tensors or arrays; or the path
            of a file of those: ``.safetensors``, a TorchScript archive, or what `torch.save` wrote, which is read with
            ``weights_only=True``.
        name: of one layer: of the module within the model, which is the prefix of its parameters.
        arguments: what a state dict does not say, such as ``nonlinearity="relu"``, ``batch_first=True``, `dropout`,
            ``reset_after=False``; the same for all layers that are converted. A module says all by itself. The kind
            follows from the number of gates: four an LSTM, three a GRU, one an RNN. Cells that torch.nn lacks have
            other numbers: give their modules.

    Returns:
        A layer, if the source is itself a recurrent module, or the state dict of one, or a name is given; otherwise a
        dict of layers by name, even of one.

    Raises:
        ValueError: no recurrent layer; no such name; a file that cannot be read safely; names or shapes that fit no
            layer. TypeError: another source; other dtypes; arguments beside a module. ImportError: no PyTorch, or no
            package `safetensors`, for a file that needs it. OSError: the file cannot be read.
    """
    found = found_in(source, **arguments)
    if name is None and "" in found and len(found) == 1:
        return found[""]()
    return chosen(found, name, "a module, state dict or file of PyTorch")


def found_in(source: Any, **arguments: Any) -> Makers:
    """The layers in a module, state dict or path, by name. Raises what `from_torch` does."""
    if isinstance(source, (str, os.PathLike)):
        source = _read(file_of(source, "from_torch"))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.jit.ScriptModule):
        source = source.state_dict()
    if torch is not None and isinstance(source, torch.nn.Module):
        if arguments:
            raise TypeError(f"{next(iter(arguments))}: expected none beside a module, which has its own")
        return _in_module(torch.nn, source)
    if isinstance(source, Mapping):
        return _in_state_dicts(source, arguments)
    raise TypeError(f"source: expected an nn.Module, a state dict or a path, got {type(source).__name__}")


def _read(path: Path) -> Any:
    """The state dict or checkpoint in a file."""
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    torch = need("torch", "torch")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(name.endswith("/constants.pkl") for name in file.namelist()):
                return torch.jit.load(str(path), map_location="cpu")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as e:  # all kinds, for files that are damaged or others, too
        raise ValueError(
            f"path: expected a file of tensors that torch.load reads with weights_only=True, got {path.name!r}. A file "
            "of a whole module runs code of the file when it is read: if you trust it, pass "
            f"torch.load(path, weights_only=False) ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})"
        ) from e


def _read_safetensors(path: Path) -> dict[str, Any]:
    safetensors = need("safetensors", "files")
    framework = "numpy"
    try:
        need("torch", "torch")
        framework = "pt"  # which has bfloat16
    except ImportError:
        pass
    try:
        with safetensors.safe_open(path, framework=framework) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    except OSError:
        raise
    except Exception as e:
        raise ValueError(f"path: expected a file of safetensors, got {path.name!r}: {e}") from e


def _in_module(nn: Any, source: Any) -> Makers:
    recurrent = (nn.RNNBase, nn.RNNCellBase)
    return {
        path: partial(_of_module, module, isinstance(module, nn.RNNCellBase))
        for path, module in source.named_modules()
        if isinstance(module, recurrent)
    }


def _of_module(module: Any, is_cell: bool) -> Layer:
    """A layer from the values that a call of the module would read: parametrisations are applied."""
    suffix = "Cell" if is_cell else ""
    names = [cls.__name__.removesuffix(suffix) for cls in type(module).__mro__]
    family = getattr(module, "_family", None) or next((name for name in names if name in KINDS), None)
    if family is None:
        raise ValueError(f"module: expected a subclass of {NAMES} of torch.nn, got {type(module).__name__}")
    given = ["input_size", "hidden_size", "bias"]
    if not is_cell:
        given += ["num_layers", "batch_first", "dropout", "bidirectional"]
    arguments = {name: getattr(module, name) for name in given}
    options = LAYERS[family]._options
    own = dict(getattr(module, "cell_options", {}))
    if "nonlinearity" in options.defaults and "nonlinearity" not in own:
        own["nonlinearity"] = module.nonlinearity
    if options.projects:
        own["proj_size"] = getattr(module, "proj_size", 0)
    layer = LAYERS[family].__new__(LAYERS[family])
    layer._configure(**arguments, **own)
    arrays = {name: getattr(module, name.removesuffix("_l0") if is_cell else name) for name in layer._config.shapes}
    return _made(family, arrays, arguments | own)


def _in_state_dicts(source: Mapping[Any, Any], arguments: dict[str, Any]) -> Makers:
    found = list(_state_dicts("", source))
    return {
        (f"{path}.{prefix}".strip(".") if len(found) > 1 else prefix): partial(_of_prefix, prefix, arrays, arguments)
        for path, arrays in found
        for prefix in _prefixes(arrays)
    }


def _prefixes(arrays: Mapping[Any, Any]) -> list[str]:
    """Of the layers, and cells, in a state dict."""
    matches = (_FIRST.fullmatch(key) for key in arrays if isinstance(key, str))
    return list(dict.fromkeys(m["prefix"] or "" for m in matches if m))


def _state_dicts(path: str, source: Mapping[Any, Any]) -> Any:
    """Dicts with recurrent layers among nested ones, and where they are."""
    if _prefixes(source):
        yield path, source
        return
    for key, value in source.items():
        if isinstance(value, Mapping):
            yield from _state_dicts(f"{path}.{key}".strip("."), value)


def _of_prefix(prefix: str, state_dict: Mapping[str, Any], arguments: dict[str, Any]) -> Layer:
    """The layer whose parameters have this prefix."""
    dot, arrays, places = f"{prefix}." if prefix else "", {}, []
    for key, value in state_dict.items():
        m = _PLACE.fullmatch(key[len(dot) :]) if isinstance(key, str) and key.startswith(dot) else None
        if m and m["parameter"] in PARAMETERS:
            places.append((int(m["layer"] or 0), bool(m["reverse"])))
            arrays[name_of(m["parameter"], *places[-1])] = value
    if (weight_hh := arrays.get("weight_hh_l0")) is None:
        raise ValueError("weight_hh_l0: expected beside weight_ih_l0, got none")
    recurrent, inputs = as_array("weight_hh_l0", weight_hh, 2), as_array("weight_ih_l0", arrays["weight_ih_l0"], 2)
    projection = arrays.get("weight_hr_l0")
    H = (recurrent if projection is None else as_array("weight_hr_l0", projection, 2)).shape[1]
    gates, rest = divmod(len(recurrent), H)
    if rest or gates not in BY_GATES:
        raise ValueError(f"weight_hh_l0: expected 4, 3 or 1 gates of {H} rows, got shape {recurrent.shape}")
    sizes = {"input_size": inputs.shape[1], "hidden_size": H, "num_layers": 1 + max(at for at, _ in places)}
    flags = {"bias": "bias_ih_l0" in arrays, "bidirectional": any(reverse for _, reverse in places)}
    projects = {} if projection is None else {"proj_size": projection.shape[0]}
    return _made(BY_GATES[gates].layer, arrays, {**sizes, **flags, **projects, **arguments})


def _made(family: str, tensors: Mapping[str, Any], arguments: dict[str, Any]) -> Layer:
    arrays = {name: as_array(name, value) for name, value in tensors.items()}
    dtype = "float64" if any(a.dtype == "float64" for a in arrays.values()) else "float32"
    return LAYERS[family]._of({name: a.astype(dtype) for name, a in arrays.items()}, **{"dtype": dtype, **arguments})


def to_torch(layer: Layer) -> Any:
    """The `nn.LSTM`, `nn.GRU` or `nn.RNN` of a layer, with copies of its parameters: sizes, depth, directions,
    projection, `batch_first`, `dropout` and dtype are the same. A GRU whose z weighs n gets the rows of z negated.

    Raises:
        ValueError: a cell, or an option, that torch.nn lacks: `fusedrnn.torch` has a module of the layer's name.
        TypeError: no layer. ImportError: no PyTorch.
    """
    family = getattr(layer, "_registered", "")
    hint = f"; fusedrnn.torch.{family} has it" if family else ""
    allowed = {"nonlinearity": ("tanh", "relu"), "z_weighs": ("h_prev", "n"), "proj_size": ()}
    kind = check_system(layer, "torch.nn", allowed, hint)
    torch = need("torch", "torch")
    names = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    names += ["proj_size"] if layer.proj_size else []
    arguments = {name: getattr(layer, name) for name in names}
    arguments |= {name: layer.options[name] for name in ("nonlinearity",) if name in layer.options}
    module = getattr(torch.nn, kind.layer)(**arguments, dtype=getattr(torch, str(layer.dtype)))
    arrays = {
        name_of(name, *place): torch.from_numpy(a)
        for place in layer._config.places
        for name, a in arrays_of(layer, *place).items()
    }
    module.load_state_dict(arrays)
    return module
