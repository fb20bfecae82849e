"""Weights and arguments of backends that are written in Python, checked by the spec. The native module checks its own;
the text of errors is the native module's in both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from .. import _core
from ..cells.spec import CellSpec, Parameter, StateSpec
from .arrays import Library

OF_ALL_CELLS = ("resets", "reset_state", "masks")  # further inputs
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))  # dtypes


class CheckedWeights:
    """Copies of a cell's parameters, which are arrays of one library, device and dtype."""

    def __init__(
        self,
        library: Library,
        spec: CellSpec[Any, Any],
        arrays: Mapping[str, Any],
        dtypes: tuple[str, ...],
        num_heads: int = 1,
    ) -> None:
        self.library, self.spec = library, spec
        first = spec.parameters[0]
        given: Any = arrays.get(first.name)
        if not library.owns(given):
            raise TypeError(_core.wrong_type(first.name, library.kind, type(given).__name__))
        self.device = library.device(given)
        self.dtype: Any = library.dtype(given)
        if self.dtype not in dtypes:
            raise TypeError(_core.wrong_dtype(first.name, " or ".join(dtypes), self.dtype))
        self.require_rank(first.name, first.symbols, 2, given)
        rows, self.input_size = given.shape
        self.hidden_size = rows // first.gates
        if rows == 0 or rows % first.gates or self.input_size == 0:
            raise ValueError(_core.wrong_size(first.name, first.symbols, tuple(given.shape)))
        self.num_heads = spec.heads(num_heads, self.hidden_size)
        self.proj_size = self._read_proj(arrays)
        with library.current(self.device):
            self.arrays = {p.name: self._copied(p, arrays.get(p.name)) for p in spec.parameters}

    def _copied(self, p: Parameter, a: Any) -> Any:
        if a is None and not p.required:
            return None
        shape = p.shape(self.input_size, self.hidden_size, self.proj_size, self.num_heads)
        return self.library.copy(self.checked(p.name, p.symbols_of(self.num_heads), shape, a))

    def _read_proj(self, arrays: Mapping[str, Any]) -> int:
        """The units of h: those of the matrix that projects, or hidden_size."""
        p = self.spec.projection
        if p is None:
            return int(self.hidden_size)
        matrix: Any = arrays.get(p.name)
        if not self.library.owns(matrix):
            raise TypeError(_core.wrong_type(p.name, self.library.kind, type(matrix).__name__))
        self.require_rank(p.name, p.symbols, 2, matrix)
        proj_size = int(matrix.shape[0])
        if not 1 <= proj_size < self.hidden_size:
            raise ValueError(_core.wrong_proj(p.name, p.symbols, self.hidden_size, tuple(matrix.shape)))
        return proj_size

    def array(self, name: str) -> Any:
        return self.arrays[name]

    def require_rank(self, name: str, symbols: str, rank: int, a: Any) -> None:
        if len(a.shape) != rank:
            raise ValueError(_core.wrong_rank(name, symbols, rank, tuple(a.shape)))

    def require_device(self, name: str, a: Any) -> None:
        device = self.library.device(a)
        if device != self.device:
            raise ValueError(f"{name}: expected an array on device {self.device}, got one on device {device}")

    def checked(self, name: str, symbols: str, shape: tuple[int, ...], a: Any) -> Any:
        """The array, C-contiguous, if it is of this library, device, dtype and shape."""
        if not self.library.owns(a):
            raise TypeError(_core.wrong_type(name, self.library.kind, type(a).__name__))
        self.require_device(name, a)
        dtype = self.library.dtype(a)
        if dtype != str(self.dtype):
            raise TypeError(_core.wrong_dtype(name, str(self.dtype), dtype))
        if tuple(a.shape) != shape:
            raise ValueError(_core.wrong_shape(name, symbols, shape, tuple(a.shape)))
        return self.library.contiguous(a)

    def one_step(self, x: Any) -> Any:
        """The input of one step, ``(B, I)``, as a sequence of one."""
        symbols = "(batch_size, input_size)"
        if self.library.owns(x):
            self.require_rank("x", symbols, 2, x)
        return self.checked("x", symbols, (*getattr(x, "shape", ())[:1], self.input_size), x)[None]

    def inputs_of_step(self, x: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """The further inputs of one step, whose input `one_step` has checked, as those of a sequence of one."""
        B, below, resets = x.shape[0], self.spec.below, inputs.get("resets")
        if resets is not None and self.library.owns(resets):
            if tuple(resets.shape) != (B,):
                raise ValueError(_core.wrong_shape("resets", "(batch_size,)", (B,), tuple(resets.shape)))
            inputs = inputs | {"resets": resets[None]}
        if below and inputs[below] is not None:
            shape = (B, self.hidden_size)
            one = self.checked(below, "(batch_size, hidden_size)", shape, inputs[below])
            inputs = inputs | {below: one[None]}
        return inputs

    def states(self, form: str, batch_size: int, states: tuple[Any, ...]) -> list[Any]:
        """The states, or gradients of states, whose names are `form` of the states' own; None where they are None."""
        return [
            None
            if given is None
            else self.checked(form.format(s.name), s.symbols, (batch_size, self.length_of(s)), given)
            for s, given in zip(self.spec.states, states, strict=True)
        ]

    def length_of(self, state: StateSpec) -> int:
        return state.length(self.hidden_size, self.proj_size)

    def sequence(self, name: str, state: StateSpec, seq_len: int, batch_size: int, a: Any) -> Any:
        """An array like this state of every step, or None."""
        symbols = "(seq_len, " + state.symbols[1:]
        return None if a is None else self.checked(name, symbols, (seq_len, batch_size, self.length_of(state)), a)

    @property
    def above(self) -> StateSpec:
        """The state that is a further output, and c_below of the layer above."""
        return next(s for s in self.spec.states if s.name == self.spec.above)

    def outputs(self, batch_size: int, out: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arrays that a step writes its states to, or None for each that it shall allocate."""
        for s, a in zip(self.spec.states, out, strict=True):
            if a is None:
                continue
            name, shape = f"out ({s.name})", (batch_size, self.length_of(s))
            self.checked(name, s.symbols, shape, a)
            if not self.library.is_contiguous(a):
                raise ValueError(_core.wrong_layout(name, "C-contiguous", "strided"))
        return out


class Arguments:
    """The checked arguments of a call over a sequence; `form` is how it names initial states."""

    def __init__(
        self,
        w: CheckedWeights,
        x: Any,
        states: tuple[Any, ...],
        lengths: Any,
        reverse: bool,
        inputs: dict[str, Any],
        form: str = "{}0",
    ) -> None:
        if not isinstance(reverse, bool):
            raise TypeError(_core.wrong_type("reverse", "bool", type(reverse).__name__))
        if not w.library.owns(x):
            raise TypeError(_core.wrong_type("x", w.library.kind, type(x).__name__))
        symbols = "(seq_len, batch_size, input_size)"
        w.require_rank("x", symbols, 3, x)
        self.w, self.reverse = w, reverse
        self.T, self.B = T, B = x.shape[:2]
        self.x = w.checked("x", symbols, (T, B, w.input_size), x)
        self.states = w.states(form, B, states)
        self.lengths = self._checked_lengths(lengths)
        spec = w.spec
        for name, value in inputs.items():
            if value is not None and name not in (*spec.further_inputs, *OF_ALL_CELLS):
                raise ValueError(_core.not_taken(name, spec.cell, type(value).__name__))
        self.resets = self._checked_resets(inputs.get("resets"))
        given = inputs.get("reset_state")
        self.reset_state = (None,) * len(spec.states) if given is None else self._checked_reset_state(given)
        self.below = w.sequence(spec.below, w.above, T, B, inputs[spec.below]) if spec.below else None
        self.start = None
        if spec.numbered:
            start = inputs[spec.numbered]
            self.start = _core.read_start(0 if start is None else start, B)

    def arrays(self) -> list[Any]:
        """All arrays of the library, None among them."""
        return [self.x, self.lengths, self.resets, self.below, *self.states, *self.reset_state]

    def on(self, w: Any, arrays: Sequence[Any]) -> Arguments:
        """The same call with other arrays, in the order of `arrays`, on other weights."""
        same = copy.copy(self)
        same.w, (same.x, same.lengths, same.resets, same.below, *states) = w, arrays
        count = len(self.states)
        same.states, same.reset_state = states[:count], tuple(states[count:])
        return same

    def _checked_resets(self, resets: Any) -> Any:
        if resets is None:
            return None
        w = self.w
        if not w.library.owns(resets):
            raise TypeError(_core.wrong_type("resets", w.library.kind, type(resets).__name__))
        w.require_device("resets", resets)
        if w.library.dtype(resets) != "bool":
            raise TypeError(_core.wrong_dtype("resets", "bool", w.library.dtype(resets)))
        if tuple(resets.shape) != (self.T, self.B):
            shape = tuple(resets.shape)
            raise ValueError(_core.wrong_shape("resets", "(seq_len, batch_size)", (self.T, self.B), shape))
        return resets

    def _checked_reset_state(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Each ``(B, units)``, or ``(units,)`` for all rows."""
        w, checked = self.w, []
        for s, a in zip(w.spec.states, given, strict=True):
            units, symbols = w.length_of(s), s.symbols
            shape: tuple[int, ...] = (self.B, units)
            if len(getattr(a, "shape", ())) == 1:
                shape, symbols = (units,), "(" + symbols.removeprefix("(batch_size, ")[:-1] + ",)"
            checked.append(None if a is None else w.checked(f"reset_state ({s.name})", symbols, shape, a))
        return tuple(checked)

    def _checked_lengths(self, lengths: Any) -> Any:
        """In the library's memory, int64 in 0..T. Lengths from the CPU are checked. To read lengths on a GPU would mean
        to wait for it: there a length beyond the sequence counts as its end, and a negative one as 0."""
        w, library = self.w, self.w.library
        if lengths is None:
            return None
        if not (library.waits and library.owns(lengths)):
            return library.from_numpy(_core.read_lengths(lengths, self.B, self.T), w.device)
        w.require_device("lengths", lengths)
        if library.dtype(lengths) not in INTEGERS:
            raise TypeError(_core.wrong_type("lengths", "integers", f"dtype {library.dtype(lengths)}"))
        if tuple(lengths.shape) != (self.B,):
            raise ValueError(_core.wrong_shape("lengths", "(batch_size,)", (self.B,), tuple(lengths.shape)))
        return library.contiguous(library.cast(lengths, "int64").clip(0, self.T))
