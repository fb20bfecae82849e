"""What forward keeps for backward, of a function or of a layer."""

from __future__ import annotations

from typing import Any


class Kept:
    """An object of one forward, for as many backwards as are wanted."""

    __slots__ = ("__weakref__", "_kept", "_nbytes")

    def __init__(self, kept: Any, nbytes: int) -> None:
        self._kept, self._nbytes = kept, nbytes

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"a {type(self).__name__} belongs to one forward: it cannot be copied or pickled")
