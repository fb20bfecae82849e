"""Layers in files: class, options and parameters."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..aliases import Array
from .layer import LAYERS, Layer

KEY = "fusedrnn"  # of the description: class, options and version of the format, as JSON
VERSION = 1
Arrays = dict[str, Array]


def _write_npz(path: Path, arrays: Arrays, description: str) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{KEY: np.array(description)}, **arrays)


def _read_npz(path: Path) -> tuple[Arrays, str | None]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    description = arrays.pop(KEY, None)
    return arrays, None if description is None else str(description)


def _write_safetensors(path: Path, arrays: Arrays, description: str) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, path, metadata={KEY: description})


def _read_safetensors(path: Path) -> tuple[Arrays, str | None]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in list(file.keys())}, (file.metadata() or {}).get(KEY)


WRITERS: dict[str, Callable[[Path, Arrays, str], None]] = {".npz": _write_npz, ".safetensors": _write_safetensors}
READERS = {".npz": _read_npz, ".safetensors": _read_safetensors}


def _suffix(path: Path) -> str:
    if path.suffix not in READERS:
        raise ValueError(f"path: expected a suffix among {', '.join(READERS)}, got {path.name!r}")
    return path.suffix


def save(layer: Layer, path: Any) -> None:
    path = Path(path)
    write = WRITERS[_suffix(path)]
    description = {"version": VERSION, "class": type(layer).__name__, "arguments": layer.config()}
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write(part, layer.state_dict(), json.dumps(description))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Any) -> Layer:
    """The layer that `Layer.save` wrote to a file.

    Args:
        path: its suffix says how it was written: ``.npz``, or ``.safetensors`` (needs the package `safetensors`).

    Raises:
        ValueError: another suffix; a file that `Layer.save` did not write, or a later version of it did; parameters
            that do not fit. ImportError: no package `safetensors`. OSError: the file cannot be read.
    """
    path = Path(path)
    arrays, text = READERS[_suffix(path)](path)
    if text is None:
        raise ValueError(f"path: expected a file that a layer's save wrote, got {path.name!r}, which says no class")
    description = json.loads(text)
    if description["version"] != VERSION:
        raise ValueError(f"path: expected version {VERSION} of the format, got {description['version']!r}")
    if description["class"] not in LAYERS:
        raise ValueError(f"path: expected a class among {', '.join(LAYERS)}, got {description['class']!r}")
    layer = LAYERS[description["class"]](**description["arguments"], rng=0)
    layer.load_state_dict(arrays)
    return layer
