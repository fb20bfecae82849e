"""Array libraries that fusedrnn knows by DLPack alone, in the hands of tests."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

import fusedrnn
from fusedrnn.backends import load

CPU = 1  # DLPack's number of this type of device


class Plain:
    """An array with all that is needed, and no more."""

    def __init__(self, data: Any, device: tuple[int, int] = (CPU, 0)) -> None:
        self.data, self.device = data, device

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype.name)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return plain

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)


def exportable(a: Any) -> Any:
    """The array, or a copy if it is read-only, which DLPack could not say in its first versions."""
    return a if a.flags.writeable else a.copy()


plain: Any = ModuleType("plain")
plain.from_dlpack = lambda a: Plain(exportable(np.from_dlpack(a)), a.__dlpack_device__())
Plain.__module__ = "plain"


class Library:
    """A library in the hands of a test."""

    writeable = True

    def __init__(self, namespace: Any = plain, kind: type = Plain) -> None:
        self.namespace, self.kind = namespace, kind

    def make(self, a: Any) -> Any:
        return self.namespace.from_dlpack(exportable(a))

    def numpy(self, a: Any) -> np.ndarray[Any, Any]:
        assert isinstance(a, self.kind)
        on_cpu: Any = a
        return np.from_dlpack(on_cpu)


class Jax(Library):
    writeable = False

    def __init__(self, jax: Any) -> None:
        super().__init__(jax.numpy, jax.Array)

    def make(self, a: Any) -> Any:
        return self.namespace.asarray(a)


class Through:
    """The functions of fusedrnn for NumPy's arrays, by way of another library's."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def __getattr__(self, name: str) -> Any:
        function = getattr(fusedrnn, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.back(function(*map(self.to, args), **{name: self.to(a) for name, a in kwargs.items()}))

        return call

    def to(self, a: Any) -> Any:
        if isinstance(a, fusedrnn.Weights):
            return a.on(lambda spec, given, values: load(spec, {k: self.to(v) for k, v in given.items()}, values))
        if isinstance(a, tuple):
            return tuple(map(self.to, a))
        return self.library.make(a) if isinstance(a, np.ndarray) else a

    def back(self, a: Any) -> Any:
        if isinstance(a, tuple):
            return getattr(type(a), "_make", tuple)(map(self.back, a))
        return a if a is None or isinstance(a, fusedrnn.call.Reserve) else self.library.numpy(a)
