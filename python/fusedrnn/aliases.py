"""Aliases of types, for signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Maybe = Array | None  # an argument that may be None, for zeros; a result that is None where its argument was
Integers = npt.NDArray[np.integer[Any]] | Sequence[int]  # one for each row of a batch
Lengths = Integers | None
Start = int | Integers
Resets = npt.NDArray[np.bool_] | None
States = Array | tuple[Maybe, ...] | None  # one state, or those of a cell that has several
