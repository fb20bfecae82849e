"""What `forward` of a layer keeps for `backward`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _core
from ..kept import Kept
from ..masks import Mask, Source
from .arguments import Form, PackedForm
from .masks import of_seed

if TYPE_CHECKING:
    from .layer import Layer


class Tape(Kept):
    """The memory and arrays that a layer's `forward` keeps for its `backward`, which leaves them as they are. It refers
    to x, which must not change before; y and parameters may."""

    __slots__ = ("_dropout", "_form", "_layer", "_source", "_stack")

    def __init__(
        self,
        layer: Layer,
        stack: _core.Stack,
        form: Form | PackedForm,
        dropout: float,
        source: Source,
        kept: Any,
        nbytes: int,
    ) -> None:
        super().__init__(kept, nbytes)
        self._layer, self._stack, self._form, self._dropout, self._source = layer, stack, form, dropout, source

    @property
    def layer(self) -> Layer:
        return self._layer

    @property
    def seed(self) -> int | None:
        """The seed of the masks, with which `forward` makes them again; None if nothing is dropped, or if `forward` was
        given masks."""
        return self._source if isinstance(self._source, int) else None

    @property
    def masks(self) -> dict[str, Mask]:
        """The masks of forward, read-only, by name, as `forward` takes them; empty if nothing is dropped."""
        if self._source is None:
            return {}
        if isinstance(self._source, dict):
            return dict(self._source)
        sizes = self._form.seq_len, self._form.batch_size
        return of_seed(self._layer._config, self._dropout, *sizes, self._source)

    def __repr__(self) -> str:
        sizes = f"seq_len={self._form.seq_len}, batch_size={self._form.batch_size}"
        return f"<fusedrnn.Tape of {self._layer!r}, {sizes}, {self._nbytes} bytes>"
