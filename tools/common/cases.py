"""The cells and shapes of tests, benchmarks and tools, and problems made of them. How far results may be from the
reference's is in agreement.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import fusedrnn
from fusedrnn.cells.activations import OWN
from fusedrnn.cells.families import SPECS
from fusedrnn.cells.spec import CellSpec
from fusedrnn.masks import NAMES

Array = npt.NDArray[Any]
Shape = tuple[int, int, int, int]  # T, B, I, H


@dataclass(frozen=True)
class Cell:
    """A cell under test: which functions, how many gates, which states, how weights are made."""

    name: str
    op: str  # "lstm": the functions are lstm, lstm_forward, lstm_backward, lstm_cell
    gates: int
    states: int
    weights: Callable[..., Any]
    reserve_slots: int  # the reserve holds so many times T*B*H elements, and h
    gain: float = 1.0  # weights are uniform in +-gain/sqrt(H); relu needs less than 1 to keep states bounded
    kink: bool = False  # the gradient jumps where a pre-activation is 0
    bounded: bool = True  # outputs lie within -1..1 whatever the input
    # Weights beyond the common ones, or None in place of a common one; shapes in units of H.
    extras: tuple[tuple[str, tuple[int, ...] | None], ...] = ()
    required: tuple[str, ...] = ("weight_ih", "weight_hh")
    recurrent_gates: int | None = None  # the blocks of weight_hh, if they are not as many as gates
    normalised: bool = False  # sums run over the units of a row
    below: bool = False  # the cell reads c of the layer below, and gives c of every step: see `side_by_side`
    clocked: bool = False  # units take part in some steps only: see `clockwork`
    projects: bool = False  # h is a product of a matrix, weight_hr, and has fewer units
    heads: int = 1  # of a block-diagonal recurrence

    def __str__(self) -> str:
        return self.name

    @property
    def native(self) -> str:
        """The cell's name in the native list: heads and activations are values of weights."""
        return self.name.removesuffix("_heads").removesuffix("_activations")

    def functions(self, module: ModuleType = fusedrnn) -> tuple[Any, Any, Any, Any]:
        functions: tuple[Any, Any, Any, Any] = tuple(
            getattr(module, self.op + suffix) for suffix in ("", "_forward", "_backward", "_cell")
        )
        return side_by_side(*functions) if self.below else functions

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Those of all weights, by their names."""
        g, r = self.gates * hidden_size, (self.recurrent_gates or self.gates) * hidden_size
        proj_size = self.proj_size(hidden_size)
        seen = proj_size // self.heads
        common = {"weight_ih": (g, input_size), "weight_hh": (r, seen), "bias_ih": (g,), "bias_hh": (r,)}
        if self.projects:
            common["weight_hr"] = (proj_size, hidden_size)
        extras = {name: shape and tuple(n * hidden_size for n in shape) for name, shape in self.extras}
        return {name: shape for name, shape in (common | extras).items() if shape is not None}

    def numbered(self, step: int) -> dict[str, int]:
        """The argument that says which step a call begins with."""
        return {"start": step} if self.clocked else {}

    def hidden_size(self, H: int) -> int:
        """That of a shape: a projection makes fewer units of at least two; heads have as many units each."""
        return max(H, 2) if self.projects else -(-H // self.heads) * self.heads

    def proj_size(self, hidden_size: int) -> int:
        """The units of h and y."""
        return max(1, hidden_size * 2 // 3) if self.projects else hidden_size

    def state_sizes(self, hidden_size: int) -> tuple[int, ...]:
        """How many elements of a row each state has."""
        return tuple(s.length(hidden_size, self.proj_size(hidden_size)) for s in SPECS[self.native].states)


def possible(spec: CellSpec[Any, Any], states: Iterable[Any]) -> list[Any]:
    """The states; but n, by which h is divided, is at least 1 as in all runs from the empty state, so that a step does
    not magnify what it is given."""
    return [1 + abs(a) if s.name == "n" else a for s, a in zip(spec.states, states, strict=True)]


class SideBySideGradients(NamedTuple):
    """`dx` is that of x and c_below, side by side."""

    dx: Array
    dh0: Array
    dc0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array | None
    dbias_hh: Array | None
    dpeephole_i: Array | None
    dpeephole_f: Array | None
    dpeephole_o: Array | None
    dpeephole_d: Array | None
    dpeephole_below: Array | None
    dreset_h: Array | None
    dreset_c: Array | None


def side_by_side(infer: Any, forward: Any, backward: Any, step: Any) -> tuple[Any, Any, Any, Any]:
    """The functions of a cell that reads c of the layer below as if it read one sequence, x and c_below side by side,
    and gave one, y and c side by side."""

    def split(x: Array, w: Any) -> tuple[Array, Array]:
        return x[..., : w.input_size], x[..., w.input_size :]

    def joined(out: Any) -> fusedrnn.LSTMOutput:
        return fusedrnn.LSTMOutput(np.concatenate([out.y, out.c], axis=2), out.h_n, out.c_n)

    def infer_joined(x: Array, w: Any, *states: Array, **kwargs: Any) -> Any:
        x, below = split(x, w)
        return joined(infer(x, w, below, *states, **kwargs))

    def forward_joined(x: Array, w: Any, *states: Array, **kwargs: Any) -> tuple[Any, Any]:
        x, below = split(x, w)
        out, reserve = forward(x, w, below, *states, **kwargs)
        return joined(out), reserve

    def backward_joined(reserve: Any, dy: Array | None, *dstates: Array) -> Any:
        dy, dc = (None, None) if dy is None else np.split(dy, 2, axis=2)
        dx, dc_below, *others = backward(reserve, dy, *dstates, **({} if dc is None else {"dc": dc}))
        return SideBySideGradients(np.concatenate([dx, dc_below], axis=2), *others)

    def step_joined(x: Array, w: Any, *states: Array, **kwargs: Any) -> Any:
        x, below = split(x, w)
        return step(x, w, below, *states, **kwargs)

    return infer_joined, forward_joined, backward_joined, step_joined


def clockwork(
    nonlinearity: str, weight_hh: Array, periods: Sequence[int] = (), **arrays: Array | None
) -> fusedrnn.ClockworkRNNWeights:
    """Weights with these periods; by default as many as divide the units, up to 8: then those of the paper, else some
    that do not divide each other, and some alike. Numbers in weight_hh that must be zeros are taken for zeros."""
    hidden_size = weight_hh.shape[0]
    if not periods:
        groups = max(n for n in range(1, 9) if hidden_size % n == 0)
        periods = [2**i for i in range(8)] if groups == 8 else [1, 2, 2, 3, 5, 5, 8][:groups]
    mask = fusedrnn.ClockworkRNNWeights.mask(hidden_size, periods)
    if isinstance(weight_hh, np.ndarray) and weight_hh[~mask].any():
        weight_hh = np.where(mask, weight_hh, 0)
    return fusedrnn.ClockworkRNNWeights(
        weight_hh=weight_hh,
        periods=periods,
        nonlinearity=nonlinearity,
        **arrays,  # type: ignore[arg-type]
    )


def lstm(name: str, gates: str, peepholes: str = "", **options: Any) -> Cell:
    """A variant of the LSTM with these gates and diagonal peepholes."""
    variant = options.pop("variant", "plain")
    extras = tuple((f"peephole_{gate}", (1,)) for gate in peepholes)
    weights = partial(fusedrnn.LSTMWeights, variant=variant)
    return Cell(name, "lstm", len(gates), 2, weights, len(gates) + 1, extras=extras, **options)


def with_heads(cell: Cell, heads: int) -> Cell:
    """The same cell with heads, whose units, of most shapes, fill no vectors."""
    return replace(cell, name=f"{cell.name}_heads", heads=heads, weights=partial(cell.weights, num_heads=heads))


def with_activations(cell: Cell, **activations: Any) -> Cell:
    """The same cell with other activations, which magnify nothing either."""
    return replace(cell, name=f"{cell.name}_activations", weights=partial(cell.weights, **activations))


def matrix_peepholes(suffix: str, peepholes: str) -> Cell:
    extras = tuple((f"peephole_{gate}", (1, 1)) for gate in peepholes)
    # One of each kind must be given: which matrices there are is what makes the cell.
    required = ("weight_ih", "weight_hh", f"peephole_{peepholes[-1]}", f"peephole_{peepholes[0]}")
    name = "lstm_matrix_peephole" + suffix
    return Cell(name, "lstm", 4, 2, fusedrnn.LSTMWeights, 5, extras=extras, required=required)


VARIANTS = {
    "no_input_gate": "fgo",
    "no_forget_gate": "igo",
    "no_output_gate": "ifg",
    "no_input_activation": "ifgo",
    "no_output_activation": "ifgo",
    "coupled": "fgo",
}
BOUNDED = {"no_input_activation": False, "no_output_activation": False}
PEEPHOLES = (("peephole_i", (1,)), ("peephole_f", (1,)), ("peephole_o", (1,)))
INDRNN: Any = {"extras": (("weight_hh", (1,)), ("bias_hh", None))}

# Normalisation divides by at least 1 here, so that a step does not magnify what it is given: see agreement.py.
NORMALISED: Any = {"epsilon": 1.0}
GAINS = ("gain_ih", "gain_hh", "gain_c")

# The cells of every framework come first.
PLAIN_CELLS = [
    lstm("lstm", "ifgo"),
    Cell("gru_reset_after", "gru", 3, 1, fusedrnn.GRUWeights, 4),
    Cell("gru_reset_before", "gru", 3, 1, partial(fusedrnn.GRUWeights, reset_after=False), 4),
    Cell("rnn_tanh", "rnn", 1, 1, fusedrnn.RNNWeights, 0),
    Cell("rnn_relu", "rnn", 1, 1, partial(fusedrnn.RNNWeights, nonlinearity="relu"), 0, 0.25, True, False),
]
CELLS = [
    *PLAIN_CELLS,
    Cell("gru_reset_after_z_new", "gru", 3, 1, partial(fusedrnn.GRUWeights, z_weighs="n"), 4),
    Cell("gru_reset_before_z_new", "gru", 3, 1, partial(fusedrnn.GRUWeights, reset_after=False, z_weighs="n"), 4),
    Cell("indrnn_tanh", "indrnn", 1, 1, partial(fusedrnn.IndRNNWeights, nonlinearity="tanh"), 0, **INDRNN),
    Cell("indrnn_relu", "indrnn", 1, 1, fusedrnn.IndRNNWeights, 0, 0.25, True, False, **INDRNN),
    Cell("clockwork_rnn_tanh", "clockwork_rnn", 1, 1, partial(clockwork, "tanh"), 0, clocked=True),
    Cell("clockwork_rnn_relu", "clockwork_rnn", 1, 1, partial(clockwork, "relu"), 0, 0.25, True, False, clocked=True),
    *(lstm(f"lstm_{v}", gates, variant=v, bounded=BOUNDED.get(v, True)) for v, gates in VARIANTS.items()),
    lstm("lstm_peephole", "ifgo", "ifo"),
    *(
        lstm(f"lstm_{v}_peephole", gates, gates.replace("g", ""), variant=v, bounded=BOUNDED.get(v, True))
        for v, gates in VARIANTS.items()
    ),
    matrix_peepholes("", "ifo"),
    matrix_peepholes("_if", "if"),
    matrix_peepholes("_o", "o"),
    Cell(
        "fgr_lstm",
        "fgr_lstm",
        4,
        3,
        fusedrnn.FGRLSTMWeights,
        5,
        extras=(("weight_gates", (3, 3)), *PEEPHOLES),
        required=("weight_ih", "weight_hh", "weight_gates"),
    ),
    Cell("slstm", "slstm", 4, 4, fusedrnn.SLSTMWeights, 6),
    Cell("slstm_exp", "slstm", 4, 4, partial(fusedrnn.SLSTMWeights, forget_gate="exp"), 5),
    Cell(
        "layer_norm_lstm",
        "layer_norm_lstm",
        4,
        2,
        partial(fusedrnn.LayerNormLSTMWeights, **NORMALISED),
        14,
        bounded=False,  # infinities of opposite sign have no mean
        extras=(("gain_ih", (4,)), ("gain_hh", (4,)), ("gain_c", (1,)), ("bias_c", (1,))),
        required=("weight_ih", "weight_hh", *GAINS),
        normalised=True,
    ),
    Cell(
        "layer_norm_gru",
        "layer_norm_gru",
        3,
        1,
        partial(fusedrnn.LayerNormGRUWeights, **NORMALISED),
        10,
        bounded=False,
        extras=(("gain_ih", (3,)), ("gain_hh", (3,))),
        required=("weight_ih", "weight_hh", *GAINS),
        normalised=True,
    ),
    Cell(
        "depth_gated_lstm",
        "depth_gated_lstm",
        5,
        2,
        fusedrnn.DepthGatedLSTMWeights,
        6,
        bounded=False,
        extras=(*PEEPHOLES, ("peephole_d", (1,)), ("peephole_below", (1,))),
        recurrent_gates=4,
        below=True,
    ),
    Cell(
        "lstm_projected",
        "lstm",
        4,
        2,
        fusedrnn.LSTMWeights,
        6,
        bounded=False,
        required=("weight_ih", "weight_hh", "weight_hr"),
        projects=True,
    ),
    with_heads(lstm("lstm_peephole", "ifgo", "ifo"), 3),
    *(with_heads(cell, 3) for cell in PLAIN_CELLS if cell.op == "gru"),
    with_heads(Cell("slstm", "slstm", 4, 4, fusedrnn.SLSTMWeights, 6), 3),
    with_activations(
        lstm("lstm_peephole", "ifgo", "ifo"),
        gate_activation="hard_sigmoid",
        candidate_activation="softsign",
        output_activation="softsign",
    ),
    with_activations(
        PLAIN_CELLS[2],  # reset-before: all that Keras 2 had at first
        gate_activation=("hard_sigmoid", 1 / 6, 0.5),
        candidate_activation="softsign",
    ),
]
DTYPES = ["float32", "float64"]

# One cell for each way through the drivers: numbers of gates, states, products, phases, vectors and extra sequences.
# The others differ from one of these in their equations alone.
DISTINCT_NAMES = (
    "lstm",
    "gru_reset_after",
    "gru_reset_before",
    "rnn_tanh",
    "indrnn_tanh",
    "clockwork_rnn_tanh",
    "lstm_coupled_peephole",
    "lstm_matrix_peephole",
    "fgr_lstm",
    "slstm",
    "layer_norm_lstm",
    "layer_norm_gru",
    "depth_gated_lstm",
    "lstm_projected",
    "lstm_peephole_heads",
    "gru_reset_after_heads",
    "gru_reset_before_heads",
)
DISTINCT = [next(c for c in CELLS if c.name == name) for name in DISTINCT_NAMES]

# (T, B, I, H): around the vector widths (4, 8, 16), ugly, and zero-sized.
SHAPES = [
    (1, 1, 1, 1),
    (2, 2, 1, 3),
    (50, 1, 3, 7),
    (2, 13, 5, 8),
    (3, 5, 16, 15),
    (50, 2, 2, 16),
    (2, 5, 33, 17),
    (5, 13, 7, 33),
    (1, 13, 65, 65),
    (4, 5, 40, 64),
    (50, 5, 1, 100),
    (7, 29, 20, 50),
    (2, 3, 300, 130),
    (0, 3, 4, 5),
    (3, 0, 4, 5),
    (0, 0, 1, 1),
]
SMALL_SHAPES = [(1, 1, 1, 1), (3, 2, 2, 3), (4, 3, 3, 5)]
FEW_SHAPES = [(2, 5, 33, 17), (5, 13, 7, 33), (50, 5, 1, 100), (3, 0, 4, 5)]
BITS_SHAPES = [(3, 1, 5, 33), (4, 5, 17, 40), (3, 13, 3, 65), (5, 7, 9, 16), (2, 3, 20, 150)]


def grid(shapes: Sequence[Shape], few: Sequence[Shape]) -> list[tuple[Cell, Shape]]:
    """Distinct cells with all shapes, the others with a few."""
    return [(cell, shape) for cell in CELLS for shape in (shapes if cell in DISTINCT else few)]


def make_weights(
    cell: Cell, input_size: int, hidden_size: int, dtype: str, rng: np.random.Generator, *, clear_of_kink: bool = True
) -> Any:
    """Random weights. A cell with a kink gets biases of +-4, which keep its pre-activations on one side: within
    rounding of 0, two right answers may have different gradients."""
    hidden_size = cell.hidden_size(hidden_size)
    k = cell.gain / np.sqrt(hidden_size)
    arrays = {name: rng.uniform(-k, k, s).astype(dtype) for name, s in cell.shapes(input_size, hidden_size).items()}
    if cell.kink and clear_of_kink:
        arrays["bias_ih"] += rng.choice([-4, 4], arrays["bias_ih"].shape).astype(dtype)
    return cell.weights(**arrays)


def given(w: Any) -> dict[str, Array]:
    """The arrays that the weights were given, by name."""
    return {name: a for name, a in w.arrays().items() if a is not None}


def remade(
    cell: Cell, w: Any, change: Callable[[Array], Array] = np.array, replaced: Mapping[str, Any] | None = None
) -> Any:
    """The same weights, each array changed, or replaced; `replaced` may have options of regularisation and activations
    too."""
    arrays = {name: change(a) for name, a in given(w).items()}
    chosen = {name: w._values[name] for name in OWN if name in w._values}
    return cell.weights(**(arrays | chosen | w.regularisation | dict(replaced or {})))


@dataclass
class Problem:
    """Inputs of one run, and the gradients that backward starts from."""

    cell: Cell
    w: Any
    x: Array
    states: list[Array]
    kwargs: dict[str, Any]
    dy: Array
    dstates: list[Array]

    def changed(self, change: Callable[[Array], Array]) -> Problem:
        """The same problem, each array of floating-point numbers changed."""
        w = remade(self.cell, self.w, change)
        states, dstates = [change(s) for s in self.states], [change(s) for s in self.dstates]
        changed = Problem(self.cell, w, change(self.x), states, dict(self.kwargs), change(self.dy), dstates)
        if self.reset_states:
            changed.reset_states = [change(s) for s in self.reset_states]
        return changed

    def of_rows(self, rows: slice) -> Problem:
        kwargs = dict(self.kwargs)
        for name, axis in (("lengths", 0), ("resets", 1)):
            if name in kwargs:
                kwargs[name] = kwargs[name][(slice(None),) * axis + (rows,)]
        states, dstates = [s[rows] for s in self.states], [s[rows] for s in self.dstates]
        some = Problem(self.cell, self.w, self.x[:, rows], states, kwargs, self.dy[:, rows], dstates)
        if self.reset_states:
            some.reset_states = [s[rows] if s.ndim == 2 else s for s in self.reset_states]
        return some

    @property
    def reset_states(self) -> list[Array]:
        """The states before episodes, if there are some."""
        given = self.kwargs.get("reset_state")
        return [] if given is None else list(given) if isinstance(given, tuple) else [given]

    @reset_states.setter
    def reset_states(self, states: list[Array]) -> None:
        self.kwargs["reset_state"] = tuple(states) if len(states) > 1 else states[0]

    def as_float64(self) -> Problem:
        return self.changed(lambda a: a.astype("float64"))

    def run(self, module: ModuleType = fusedrnn) -> tuple[Any, Any]:
        """Forward and backward; the outputs and the gradients."""
        _, forward, backward, _ = self.cell.functions(module)
        out, reserve = forward(self.x, self.w, *self.states, **self.kwargs)
        return out, backward(reserve, self.dy, *self.dstates)


def options_of(cell: Cell, p: float) -> dict[str, float]:
    """All options of regularisation that the cell has."""
    spec = SPECS[cell.native]
    lacking = {
        "zoneout_c": not any(s.name == "c" and s.alone for s in spec.states),
        "candidate_dropout": spec.candidate is None,
        "recurrent_dropout": spec.recurrence is None,
        "weight_dropout": spec.recurrence is None,
    }
    return {name: p for name in NAMES if not lacking.get(name)}


def regularised(problem: Problem, options: Mapping[str, float], rng: np.random.Generator) -> Problem:
    """The same problem with these options, under random masks."""
    problem.w = remade(problem.cell, problem.w, replaced=options)
    T, B, _ = problem.x.shape
    masks = problem.w.masks(T, B, int(rng.integers(2**63)))
    problem.kwargs["masks"] = {name: rng.random(m.shape) < options[name] for name, m in masks.items()}
    return problem


def make_problem(
    cell: Cell,
    shape: Shape,
    dtype: str,
    rng: np.random.Generator,
    *,
    lengths: bool = False,
    reverse: bool = False,
    resets: bool = False,
) -> Problem:
    """`resets` cuts rows into episodes, of which h begins in each row with its own state, and others with one for all
    rows."""
    T, B, I, H = shape

    def normal(*size: int) -> Array:
        return rng.standard_normal(size).astype(dtype)

    kwargs: dict[str, Any] = {"reverse": reverse}
    if lengths:
        kwargs["lengths"] = rng.integers(0, T + 1, B)
    H = cell.hidden_size(H)
    w = make_weights(cell, I, H, dtype, rng)
    states = possible(SPECS[cell.native], [normal(B, size) for size in cell.state_sizes(H)])
    dstates = [normal(B, size) for size in cell.state_sizes(H)]
    P = cell.proj_size(H)
    x, dy = (normal(T, B, I + H), normal(T, B, 2 * H)) if cell.below else (normal(T, B, I), normal(T, B, P))
    problem = Problem(cell, w, x, states, kwargs, dy, dstates)
    if resets:
        kwargs["resets"] = rng.random((T, B)) < 0.3
        before = [normal(*((B,) if i == 0 else ()), n) for i, n in enumerate(cell.state_sizes(H))]
        problem.reset_states = possible(SPECS[cell.native], before)
    return problem
