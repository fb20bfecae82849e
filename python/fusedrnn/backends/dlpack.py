"""Arrays of any library, such as JAX, that has DLPack and the ``__array_namespace__`` of the array API standard.

Arrays are lent to the backend of the device on which they lie, as arrays of a library that it computes with, and its
results are lent back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from .. import _core
from ..cells.spec import CellSpec
from . import States, load
from .arrays import LIBRARIES, Library, NumPy, is_foreign

CUDA = 2  # DLPack's number of this type of device
Device = tuple[int, int]  # DLPack's type, and which of them


class DLPackWeights:
    """Weights of another library, on the backend of their device."""

    def __init__(
        self, spec: CellSpec[Any, Any], arrays: Mapping[str, Any], values: Mapping[str, Any], format: str | None
    ) -> None:
        first = spec.parameters[0].name
        weight: Any = arrays[first]
        self.spec, self.namespace = spec, weight.__array_namespace__()
        self.device = _device_of(first, weight)
        self.library = _gpu_library(first, weight) if self.device[0] == CUDA else NumPy(np)
        self.dtype: Any = weight.dtype
        with self._running():
            taken = {p.name: self._take(p.name, arrays.get(p.name), not p.required) for p in spec.parameters}
            self.inner = load(spec, taken, values, format)

    @property
    def input_size(self) -> int:
        return self.inner.input_size

    @property
    def hidden_size(self) -> int:
        return self.inner.hidden_size

    @property
    def proj_size(self) -> int:
        return self.inner.proj_size

    @property
    def format(self) -> str:
        return self.inner.format

    def array(self, name: str) -> Any:
        a = self.inner.array(name)
        with self._running():
            return None if a is None else self._give(self.library.copy(a))  # weights are a snapshot

    def infer(self, x: Any, states: States, lengths: Any, reverse: bool, inputs: dict[str, Any]) -> dict[str, Any]:
        with self._running():
            return self._give_all(self.inner.infer(*self._call(x, states, lengths, reverse, inputs)))

    def forward(
        self, x: Any, states: States, lengths: Any, reverse: bool, inputs: dict[str, Any]
    ) -> tuple[dict[str, Any], Any, int]:
        with self._running():
            results, kept, nbytes = self.inner.forward(*self._call(x, states, lengths, reverse, inputs))
            return self._give_all(results), kept, nbytes

    def backward(self, kept: Any, dy: Any, dstates: States, dabove: Any) -> dict[str, Any]:
        with self._running():
            taken = self._take("dy", dy, True), self._states("d{}_n", dstates)
            return self._give_all(self.inner.backward(kept, *taken, self._take(f"d{self.spec.above}", dabove, True)))

    def step(self, x: Any, states: States, out: States, inputs: dict[str, Any]) -> tuple[Any, ...]:
        with self._running():
            to = tuple(self._target(f"out ({s.name})", a) for s, a in zip(self.spec.states, out, strict=True))
            new = self.inner.step(self._take("x", x), self._states("{}", states), to, self._inputs(inputs))
            return tuple(self._give(a) if given is None else given for a, given in zip(new, out, strict=True))

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Around all work. DLPack has no way to say until when a GPU reads what was lent: until it has, nothing is
        given back."""
        try:
            with self.library.current(self.device[1]):
                yield
        finally:
            if self.library.waits:
                self.library.current_stream(self.device[1]).synchronize()

    # Arguments.

    def _call(self, x: Any, states: States, lengths: Any, reverse: bool, inputs: dict[str, Any]) -> tuple[Any, ...]:
        lent = self._take("x", x), self._states("{}0", states), self._take_if_foreign("lengths", lengths)
        return *lent, reverse, self._inputs(inputs)

    def _inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        taken = {
            name: self._take(name, a, True) if name == self.spec.below else self._take_if_foreign(name, a)
            for name, a in inputs.items()
        }
        before = inputs.get("reset_state")
        if before is not None and len(before) == len(self.spec.states):  # the backend refuses others
            taken["reset_state"] = self._states("reset_state ({})", before)
        return taken

    def _states(self, form: str, states: States) -> States:
        return tuple(self._take(form.format(s.name), a, True) for s, a in zip(self.spec.states, states, strict=True))

    def _take_if_foreign(self, name: str, a: Any) -> Any:
        """An argument that need not be an array of this library: the backend checks what is none of any."""
        return self._take(name, a) if is_foreign(a) else a

    def _take(self, name: str, a: Any, optional: bool = False) -> Any:
        """The array as one of the backend's library, on the same memory."""
        if optional and a is None:
            return None
        self._require(name, a)
        return _shared(name, a, self.library.module.from_dlpack)

    def _target(self, name: str, a: Any) -> Any:
        """An array to write to, which may not be a copy. NumPy sees whether it is read-only; the others do not."""
        if a is None:
            return None
        self._require(name, a)
        if self.library.waits:
            raise ValueError(_core.wrong_layout(name, "writeable", "read-only"))
        return _shared(name, a, lambda a: np.from_dlpack(a, copy=False))

    def _require(self, name: str, a: Any) -> None:
        if not (is_foreign(a) and a.__array_namespace__() is self.namespace):
            raise TypeError(_core.wrong_type(name, f"an array of {self.namespace.__name__}", type(a).__name__))
        device = _device_of(name, a)
        if device != self.device:
            raise ValueError(f"{name}: expected an array on DLPack's device {self.device}, got one on device {device}")

    # Results.

    def _give(self, a: Any) -> Any:
        if a is None:
            return None
        given = self.namespace.from_dlpack(a)
        if given.dtype != self.dtype:  # JAX without 64 bits: nothing is cast silently
            raise TypeError(f"results: expected dtype {self.dtype}, got {given.dtype} from {self.namespace.__name__}")
        return given

    def _give_all(self, results: dict[str, Any]) -> dict[str, Any]:
        return {name: self._give(a) for name, a in results.items()}


def _device_of(name: str, a: Any) -> Device:
    def ask(a: Any) -> Device:
        kind, number = a.__dlpack_device__()
        return int(kind), int(number)

    device: Device = _shared(name, a, ask)
    return device


def _shared(name: str, a: Any, ask: Any) -> Any:
    """What DLPack gives of an array. Raises TypeError where it gives nothing, as for a traced array."""
    try:
        return ask(a)
    except Exception as e:  # whatever a library raises
        got = f"{type(a).__name__} of dtype {getattr(a, 'dtype', None)}"
        eager = "" if hasattr(a, "__dlpack_device__") else " (calls are eager, and cannot be traced)"
        raise TypeError(f"{name}: expected an array that DLPack can share, got {got}{eager}: {e}") from e


def _gpu_library(name: str, a: Any) -> Library:
    """The first library that can read the array, those before others that have been imported."""
    reasons = []
    for root in sorted(LIBRARIES, key=lambda root: root not in sys.modules):
        try:
            library = LIBRARIES[root](import_module(root))
            library.module.from_dlpack(a)
        except Exception as e:  # not installed, or without CUDA
            reasons.append(f"{root}: {e}")
        else:
            return library
    raise ImportError(f"{name}: expected a library that reads an array on a GPU, got none: {'; '.join(reasons)}")
