"""What `forward` of a layer keeps for `backward`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _core
from ..kept import Kept
from .arguments import Form, PackedForm

if TYPE_CHECKING:
    from .layer import Layer


class Tape(Kept):
    """The memory and arrays that a layer's `forward` keeps for its `backward`, which leaves them as they are. It refers
    to x, which must not change before; y and parameters may."""

    __slots__ = ("_form", "_layer", "_seed", "_stack")

    def __init__(
        self, layer: Layer, stack: _core.Stack, form: Form | PackedForm, seed: int | None, kept: Any, nbytes: int
    ) -> None:
        super().__init__(kept, nbytes)
        self._layer, self._stack, self._form, self._seed = layer, stack, form, seed

    @property
    def layer(self) -> Layer:
        return self._layer

    @property
    def seed(self) -> int | None:
        """The seed of the masks of dropout, with which `forward` makes them again; None without dropout."""
        return self._seed

    def __repr__(self) -> str:
        sizes = f"seq_len={self._form.seq_len}, batch_size={self._form.batch_size}"
        return f"<fusedrnn.Tape of {self._layer!r}, {sizes}, {self._nbytes} bytes>"
