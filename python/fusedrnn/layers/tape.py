"""What `forward` of a layer keeps for `backward`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _core
from .arguments import Form

if TYPE_CHECKING:
    from .layer import Layer


class Tape:
    """The memory and arrays that a layer's `forward` keeps for its `backward`, which uses them up. It refers to x and
    y, which must not change before; parameters may."""

    __slots__ = ("__weakref__", "_form", "_kept", "_layer", "_nbytes", "_seed", "_stack")

    def __init__(self, layer: Layer, stack: _core.Stack, form: Form, seed: int | None, kept: Any, nbytes: int) -> None:
        self._layer, self._stack, self._form, self._seed, self._nbytes = layer, stack, form, seed, nbytes
        self._kept = [kept]  # a list, from which one thread alone can take it; empty once it has been used

    @property
    def layer(self) -> Layer:
        return self._layer

    @property
    def seed(self) -> int | None:
        """The seed of the masks of dropout, with which `forward` makes them again; None without dropout."""
        return self._seed

    @property
    def nbytes(self) -> int:
        return self._nbytes

    @property
    def used(self) -> bool:
        return not self._kept

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a Tape serves one backward: it cannot be copied or pickled")

    def __repr__(self) -> str:
        sizes = f"seq_len={self._form.seq_len}, batch_size={self._form.batch_size}"
        return f"<fusedrnn.Tape of {self._layer!r}, {sizes}, {self._nbytes} bytes{', used' if self.used else ''}>"
