"""What forward keeps for one backward, of a function or of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class Overwriting(Protocol):
    def overwritten(self, kept: Any, /) -> bool:
        """Whether a backward that raised has used `kept` up."""


class Kept:
    """An object that serves one backward."""

    __slots__ = ("__weakref__", "_kept", "_nbytes")

    def __init__(self, kept: Any, nbytes: int) -> None:
        self._nbytes = nbytes
        self._kept = [kept]  # a list, from which one thread alone can take it; empty once it has been used

    @property
    def nbytes(self) -> int:
        return self._nbytes

    @property
    def used(self) -> bool:
        return not self._kept

    def _use(self, name: str, backend: Overwriting, backward: Callable[[Any], Result]) -> Result:
        """The result of backward(kept). Raises ValueError for an object that has been used. One that backward has not
        overwritten when it raises can be used again. `name` is the argument's."""
        try:
            kept = self._kept.pop()
        except IndexError:
            raise ValueError(f"{name}: expected one that no backward has used, got one that has been used") from None
        try:
            return backward(kept)
        except BaseException:
            if not backend.overwritten(kept):
                self._kept.append(kept)
            raise

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"a {type(self).__name__} serves one backward: it cannot be copied or pickled")
