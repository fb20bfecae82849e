"""Where kernels run. A backend takes a cell's weights, and makes its calls.

Weights choose their backend once, by where their arrays are. A backend is a class, or a function, that is called with
the spec, its parameters by name (among other arguments), the values of further options, and a format. It returns
`Loaded`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .. import _core
from ..cells.spec import CellSpec
from .arrays import is_foreign, library_of

States = tuple[Any, ...]  # in the spec's order; None for empty ones


class Loaded(Protocol):
    """Weights on a backend. Results come by name; `inputs` are the cell's further inputs by name."""

    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def proj_size(self) -> int: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def format(self) -> str:
        """How weights are stored, and in which precision they are multiplied."""

    def array(self, name: str) -> Any:
        """A parameter; None if it was not given."""

    def infer(self, x: Any, states: States, lengths: Any, reverse: bool, inputs: dict[str, Any]) -> dict[str, Any]: ...
    def forward(
        self, x: Any, states: States, lengths: Any, reverse: bool, inputs: dict[str, Any]
    ) -> tuple[dict[str, Any], Any, int]:
        """The results, the object that backward needs, and its size in bytes. Where the weights have options of
        regularisation, an input `masks` says where masks come from (`masks.Source`), which have been checked. On a GPU
        the object can be taken apart, for PyTorch's autograd: see `cuda.Kept`."""

    def backward(self, kept: Any, dy: Any, dstates: States, dabove: Any) -> dict[str, Any]:
        """The gradients. `kept` is left as it is."""

    def step(self, x: Any, states: States, out: States, inputs: dict[str, Any]) -> tuple[Any, ...]:
        """The new states, in `out` where that is not None."""


_native_cells: dict[str, tuple[CellSpec[Any, Any], _core.Cell]] = {}


def native_cell(spec: CellSpec[Any, Any]) -> _core.Cell:
    """The native cell of a spec. Raises ValueError if there is none, or if it is another cell than the spec says."""
    known, cell = _native_cells.get(spec.cell, (None, None))
    if cell is None or known is not spec:
        parameters = [(p.name, p.role, p.gates, p.depth, p.required, p.symbols) for p in spec.parameters]
        states = [(s.name, s.units, s.symbols, s.empty) for s in spec.states]
        further = spec.below is not None, spec.numbered is not None
        cell = _core.make_cell(spec.cell, parameters, len(spec.gates), states, *further)
        _native_cells[spec.cell] = spec, cell
    return cell


def load(
    spec: CellSpec[Any, Any], arrays: Mapping[str, Any], values: Mapping[str, Any], format: str | None = None
) -> Loaded:
    """The weights on the backend that their arrays choose: that of the device where they are."""
    weight = arrays.get("weight_ih")
    if is_foreign(weight):
        from .dlpack import DLPackWeights  # with the first array of such a library

        return DLPackWeights(spec, arrays, values, format)
    library = library_of(weight)
    if library is None:
        return _core.make_weights(native_cell(spec), arrays, values, format)
    from .cuda import load_on_gpu  # with the first CUDA array

    return load_on_gpu(library, spec, arrays, values, format)
