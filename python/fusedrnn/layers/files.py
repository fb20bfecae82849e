"""Layers in files: class, options and parameters."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..aliases import Array
from ..cells.families import LAYERS
from .layer import Layer

KEY = "fusedrnn"  # of the description: class, options and version of the format, as JSON
VERSION = 1
Arrays = dict[str, Array]


def _write_npz(path: Path, arrays: Arrays, description: str) -> None:
    with path.open("wb") as file:
        named: dict[str, Any] = {KEY: np.array(description), **arrays}
        np.savez(file, **named)


def _read_npz(path: Path) -> tuple[Arrays, str | None]:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
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
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"path: expected a suffix among {', '.join(READERS)}, got {path.name!r}")
    return suffix


def save(layer: Layer, path: Any) -> None:
    path = Path(os.path.realpath(path))
    write = WRITERS[_suffix(path)]
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    description = {"version": VERSION, "class": layer._registered, "arguments": layer.config()}
    part = path.with_name(f".{secrets.token_hex(8)}{_suffix(path)}")
    try:
        write(part, layer.state_dict(), json.dumps(description))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Any) -> Layer:
    """The layer that `Layer.save` wrote to a file. Its masks of dropout begin with a seed of its own.

    Args:
        path: its suffix says how it was written: ``.npz``, or ``.safetensors`` (needs the package `safetensors`).

    Raises:
        ValueError: another suffix; a file that `Layer.save` did not write, or a later version of it did; parameters
            that do not fit. ImportError: no package `safetensors`. OSError: the file cannot be read.
    """
    path = Path(path)
    read = READERS[_suffix(path)]
    path.open("rb").close()
    try:
        return _made(*read(path))
    except (ImportError, MemoryError):
        raise
    except Exception as e:  # readers and constructors raise all kinds for files that are damaged, or others
        raise ValueError(f"path: expected a file that a layer's save wrote, got {path.name!r}: {e}") from e


def _made(arrays: Arrays, text: str | None) -> Layer:
    if text is None:
        raise ValueError("it names no class")
    description = json.loads(text)
    version, name, arguments = (description[key] for key in ("version", "class", "arguments"))
    if version != VERSION:
        raise ValueError(f"version: expected {VERSION}, got {version!r}")
    if name not in LAYERS:
        raise ValueError(f"class: expected one of {', '.join(LAYERS)}, got {name!r}")
    return LAYERS[name]._of(arrays, **arguments)
