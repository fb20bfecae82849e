"""Cells as data. Everything that runs a cell, on any backend, reads its spec, and knows no cell by name.

Names follow from the names of parameters and states: a state ``c`` is given as ``c0`` (a step: ``c``), returned
as ``c_n``, and has the gradients ``dc_n`` and ``dc0``, and ``dreset_c`` before episodes; the gradient of a parameter
``bias_ih`` is ``dbias_ih``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from .activations import OWN, Activation, checked

Output = TypeVar("Output", covariant=True)
Gradients = TypeVar("Gradients", covariant=True)

Role = Literal["weight_ih", "matrix", "bias_ih", "bias_hh", "vector"]
Size = Literal["hidden_size", "proj_size"]  # H, or P: the units of h in a cell that projects
HEADS = "num_heads"  # a value of cells whose recurrence may be block-diagonal: see CellSpec.heads
# Values that every cell of a family has as here, if it has no other: weights keep others alone.
DEFAULTS: Mapping[str, Any] = {HEADS: 1} | OWN


def _multiple(n: int, symbol: str = "hidden_size") -> str:
    return symbol if n == 1 else f"{n}*{symbol}"


class Parameter(NamedTuple):
    """An array of weights. Its role says which part it has in the native cell: ``weight_ih``, rows of a recurrent
    ``matrix``, a bias, or a ``vector`` of other weights. Matrices and vectors are given in the native cell's order."""

    name: str
    role: Role
    gates: int = 1  # its rows, in units of hidden_size
    depth: int = 1  # the columns of a matrix, in units of hidden_size
    required: bool = False  # None is not allowed; elsewhere it stands for zeros
    rows: Size = "hidden_size"  # a cell whose matrix has rows of proj_size projects
    columns: Size = "hidden_size"
    bias: bool = False  # of a vector: a layer without biases has none
    initial: Literal["uniform", "unit", "zeros", "ones"] = "uniform"  # in +-1/sqrt(hidden_size), or in 0..1

    @property
    def is_bias(self) -> bool:
        return self.bias or self.role in ("bias_ih", "bias_hh")

    @property
    def symbols(self) -> str:
        """Its shape, in words."""
        return self.symbols_of(1)

    def symbols_of(self, num_heads: int) -> str:
        """Its shape where there are so many heads, in words."""
        rows = _multiple(self.gates, self.rows)
        if self.role == "weight_ih":
            return f"({rows}, input_size)"
        each = "" if num_heads == 1 else f"/{HEADS}"
        return f"({rows}, {_multiple(self.depth, self.columns)}{each})" if self.role == "matrix" else f"({rows},)"

    def shape(
        self, input_size: int, hidden_size: int, proj_size: int | None = None, num_heads: int = 1
    ) -> tuple[int, ...]:
        sizes = {"hidden_size": hidden_size, "proj_size": proj_size or hidden_size}
        rows = self.gates * sizes[self.rows]
        if self.role == "weight_ih":
            return rows, input_size
        return (rows, self.depth * sizes[self.columns] // num_heads) if self.role == "matrix" else (rows,)


def affine(gates: int, recurrent_gates: int | None = None) -> tuple[Parameter, ...]:
    """PyTorch's four: weight_ih, weight_hh, bias_ih and bias_hh. weight_hh and bias_hh may have fewer gates."""
    recurrent = recurrent_gates or gates
    return (
        Parameter("weight_ih", "weight_ih", gates, required=True),
        Parameter("weight_hh", "matrix", recurrent, required=True),
        Parameter("bias_ih", "bias_ih", gates),
        Parameter("bias_hh", "bias_hh", recurrent),
    )


def vectors(*names: str, gates: int = 1, required: bool = False, **others: Any) -> tuple[Parameter, ...]:
    """Vectors of weights, each of this number of gates."""
    return tuple(Parameter(name, "vector", gates, required=required, **others) for name in names)


class StateSpec(NamedTuple):
    """A state that a row carries from step to step: ``(B, units*H)``, or ``(B, P)``."""

    name: str
    units: int = 1
    size: Size = "hidden_size"
    empty: float = 0.0  # what each element is where a row begins and None stands for the state: 0 or -inf
    alone: bool = True  # whether zoneout may keep it while the other states change

    @property
    def symbols(self) -> str:
        return f"(batch_size, {_multiple(self.units, self.size)})"

    def length(self, hidden_size: int, proj_size: int) -> int:
        return self.units * (proj_size if self.size == "proj_size" else hidden_size)


H, C = StateSpec("h"), StateSpec("c")


DEFAULT: Mapping[str, Any] = {}  # layer_options that are the options


@dataclass(frozen=True)
class CellSpec(Generic[Output, Gradients]):
    """One cell of a family. The cells of a family differ in parameters, gates and options, and share all else. Raises
    ValueError if results are not named after states and parameters."""

    family: str  # the name of the public functions
    output: type[Output]  # of inference and forward: a NamedTuple
    gradients: type[Gradients]  # of backward: a NamedTuple
    parameters: tuple[Parameter, ...]  # weight_ih first
    gates: str  # in the order in which they are stacked, one letter each
    states: tuple[StateSpec, ...] = (H,)
    cell: str = ""  # its name in the native list; by default the family's
    options: Mapping[str, Any] = field(
        default_factory=dict, hash=False
    )  # the arguments of the weights that choose this cell
    # The names of further arguments of the weights, which belong to each object. With `HEADS` among them, the matrix,
    # which must be the only one, may be block-diagonal; activations among them may be chosen.
    values: tuple[str, ...] = ()
    below: str | None = None  # a further input (T, B, H): a state of the layer below
    above: str | None = None  # the state of every step, (T, B, H), which is a further output
    names: tuple[str, ...] = field(init=False)  # of the parameters
    numbered: str | None = None  # a further input, the number of each row's first step
    candidate: str | None = None  # the gate whose value a step adds to a state, and which dropout may drop
    # The options of a layer that choose this cell: by default `options`; None for a cell that layers do not have.
    layer_options: Mapping[str, Any] | None = field(default_factory=lambda: DEFAULT, hash=False)
    layer_output: type[Any] | None = None  # of a layer, a NamedTuple: by default `output`
    # Where the recurrent matrix of a layer with these options may be other than zero; None: everywhere.
    mask: Callable[[int, Mapping[str, Any]], Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell", self.cell or self.family)
        if self.layer_options is DEFAULT:
            object.__setattr__(self, "layer_options", self.options)
        object.__setattr__(self, "names", tuple(p.name for p in self.parameters))
        results = ["y", *(f"{s.name}_n" for s in self.states), *([self.above] if self.above else [])]
        if list(self.output._fields) != results:  # type: ignore[attr-defined]
            raise ValueError(f"output: expected the fields {', '.join(results)} of {self.cell}")
        states = (form.format(s.name) for s in self.states for form in ("{}0", "reset_{}"))
        names = {f"d{name}" for name in ("x", *states, *self.names)}
        if missing := names - set(self.gradients._fields):  # type: ignore[attr-defined]
            raise ValueError(f"gradients: expected the fields {', '.join(sorted(missing))} of {self.cell}")

    @property
    def recurrence(self) -> Parameter | None:
        """The recurrent matrix of h."""
        return next((p for p in self.parameters if p.role == "matrix"), None)

    @property
    def of_layer(self) -> type[Any]:
        """The output of a layer."""
        return self.layer_output or self.output

    @property
    def projection(self) -> Parameter | None:
        """The matrix that makes h, of proj_size units, of hidden_size units."""
        return next((p for p in self.parameters if p.rows == "proj_size"), None)

    @property
    def own_values(self) -> tuple[str, ...]:
        """The values that weights alone can check."""
        return tuple(name for name in self.values if name not in DEFAULTS)

    def heads(self, num_heads: Any, hidden_size: int | None = None) -> int:
        """The number of heads, checked: of units that see h of their own head alone. Raises ValueError for one that
        the cell, or the hidden size, does not allow; TypeError if it is no integer."""
        if isinstance(num_heads, bool) or not hasattr(num_heads, "__index__"):
            raise TypeError(f"{HEADS}: expected int, got {type(num_heads).__name__}")
        count = num_heads.__index__()
        if count != 1 and HEADS not in self.values:
            raise ValueError(f"{HEADS}: expected 1, as cell {self.cell!r} has no heads, got {count}")
        if not 1 <= count < 2**63 or (hidden_size is not None and hidden_size % count):
            size = "" if hidden_size is None else f" = {hidden_size}"
            raise ValueError(f"{HEADS}: expected a divisor of hidden_size{size}, got {count}")
        return int(count)

    def activation(self, place: str, value: Any) -> Activation:
        """The activation of this place, checked. Raises ValueError or TypeError for one that the cell does not have."""
        activation = checked(place, value)
        if activation != OWN[place] and place not in self.values:
            raise ValueError(f"{place}: expected {OWN[place]!r}, as cell {self.cell!r} has no other, got {value!r}")
        return activation

    def checked_values(self, arguments: Mapping[str, Any], hidden_size: int | None = None) -> dict[str, Any]:
        """The arguments that have defaults, checked: heads and activations."""
        found: dict[str, Any] = {name: self.activation(name, arguments[name]) for name in OWN if name in arguments}
        return found | ({HEADS: self.heads(arguments[HEADS], hidden_size)} if HEADS in arguments else {})

    def given_values(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The values among the arguments, but for those that are the defaults."""
        return {
            name: arguments[name]
            for name in self.values
            if name not in DEFAULTS or arguments.get(name, DEFAULTS[name]) != DEFAULTS[name]
        }

    @property
    def further_inputs(self) -> tuple[str, ...]:
        return tuple(name for name in (self.below, self.numbered) if name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A spec of the package is pickled by its name, so that the pickle of weights does not depend on what a spec
        holds."""
        from .families import SPECS  # all of them, which a program with one cell does not load

        return (_known, (self.cell,)) if SPECS.get(self.cell) is self else super().__reduce_ex__(protocol)

    def variant(self, cell: str, **changes: Any) -> CellSpec[Output, Gradients]:
        """Another cell of the family."""
        return replace(self, **({"layer_options": DEFAULT, "cell": cell} | changes))


def _known(cell: str) -> CellSpec[Any, Any]:
    from .families import SPECS

    return SPECS[cell]
