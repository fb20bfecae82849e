"""Aliases of types, for signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Of any shape, as numpy.typing.NDArray has it, which takes half a millisecond to import.
Array = np.ndarray[Any, np.dtype[np.floating[Any]]]
Maybe = Array | None  # an argument that may be None, for zeros; a result that is None where its argument was
Integers = np.ndarray[Any, np.dtype[np.integer[Any]]] | Sequence[int]  # one for each row of a batch
Lengths = Integers | None
Start = int | Integers
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Resets = Bools | None
States = Array | tuple[Maybe, ...] | None  # one state, or those of a cell that has several
