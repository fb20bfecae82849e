"""The LSTM and its variants; `call` says what holds for all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..aliases import Array, Lengths, Maybe, Resets, States
from ..call import Reserve, backward, forward, infer, step
from ..layers.layer import Layer
from ..weights import Weights, one_of
from .activations import OWN, Activation
from .results import LSTMOutput
from .spec import HEADS, C, CellSpec, H, Parameter, StateSpec, affine, vectors

if TYPE_CHECKING:
    from typing import Unpack

    from ..masks import Masks, Regularisation

__all__ = ["LSTM", "LSTMGradients", "LSTMWeights", "lstm", "lstm_backward", "lstm_cell", "lstm_forward"]


class LSTMGradients(NamedTuple):
    """Gradients of an LSTM, each of its argument's shape. The gradient of a parameter that is None is None."""

    dx: Array
    dh0: Array
    dc0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Maybe
    dbias_hh: Maybe
    dpeephole_i: Maybe = None
    dpeephole_f: Maybe = None
    dpeephole_o: Maybe = None
    dweight_hr: Maybe = None
    dreset_h: Maybe = None
    dreset_c: Maybe = None


VARIANTS = {
    "plain": "ifgo",
    "no_input_gate": "fgo",
    "no_forget_gate": "igo",
    "no_output_gate": "ifg",
    "no_input_activation": "ifgo",
    "no_output_activation": "ifgo",
    "coupled": "fgo",
}  # and their gates
WITHOUT = {"no_input_activation": "candidate_activation", "no_output_activation": "output_activation"}
PEEPHOLES = {"peephole_i": "i", "peephole_f": "f", "peephole_o": "o"}  # and the gates that they belong to
PLAIN = CellSpec(
    "lstm",
    LSTMOutput,
    LSTMGradients,
    affine(4),
    "ifgo",
    (H, C),
    options={"variant": "plain"},
    values=(HEADS, *OWN),
    layer_options={"variant": "plain", "peepholes": None},
    candidate="g",
)
BY_VARIANT = {"plain": PLAIN} | {
    name: PLAIN.variant(
        f"lstm_{name}",
        parameters=affine(len(gates)),
        gates=gates,
        options={"variant": name},
        values=tuple(value for value in PLAIN.values if value != WITHOUT.get(name)),
        layer_options={"variant": name, "peepholes": None},
    )
    for name, gates in VARIANTS.items()
    if name != "plain"
}
WITH_PEEPHOLES = {  # diagonal ones, of all gates of the variant
    name: plain.variant(
        f"{plain.cell}_peephole",
        parameters=plain.parameters + vectors(*(p for p, gate in PEEPHOLES.items() if gate in plain.gates)),
        layer_options={**plain.options, "peepholes": "diagonal"},
    )
    for name, plain in BY_VARIANT.items()
}
WITH_MATRICES = [  # the matrices that are given choose the cell; a layer has all of them
    PLAIN.variant(
        cell,
        parameters=PLAIN.parameters + tuple(Parameter(p, "matrix") for p in peepholes),
        values=(),
        layer_options={**PLAIN.options, "peepholes": "full"} if len(peepholes) == len(PEEPHOLES) else None,
    )
    for cell, peepholes in {
        "lstm_matrix_peephole_if": ("peephole_i", "peephole_f"),
        "lstm_matrix_peephole_o": ("peephole_o",),
        "lstm_matrix_peephole": tuple(PEEPHOLES),
    }.items()
]
PROJECTED = PLAIN.variant(
    "lstm_projected",
    layer_options=PLAIN.layer_options,
    values=tuple(OWN),
    parameters=(
        *(p._replace(columns="proj_size") if p.name == "weight_hh" else p for p in PLAIN.parameters),
        Parameter("weight_hr", "matrix", required=True, rows="proj_size"),
    ),
    states=(StateSpec("h", size="proj_size"), C),
)
SPECS = (*BY_VARIANT.values(), *WITH_PEEPHOLES.values(), *WITH_MATRICES, PROJECTED)


class LSTMWeights(Weights, specs=SPECS):
    """Weights of an LSTM (Hochreiter & Schmidhuber 1997), gates stacked ``i, f, g, o`` as in PyTorch. A variant
    may lack some of these gates; G is the number of its gates.

    A snapshot: later changes to the arrays have no effect; make a new object after each optimiser step. The arrays can
    be read back, read-only, under their names.

    Args:
        weight_ih: ``(G*hidden_size, input_size)``, float32 or float64.
        weight_hh: ``(G*hidden_size, hidden_size)``, of the same dtype, like all others; with `weight_hr`,
            ``(4*hidden_size, proj_size)``; with heads, ``(G*hidden_size, hidden_size/num_heads)``.
        bias_ih: ``(G*hidden_size,)`` or None for zeros.
        bias_hh: ``(G*hidden_size,)`` or None for zeros.
        variant: the cell, as in "LSTM: A Search Space Odyssey" (Greff et al. 2015, section 3; peepholes are separate):

            - ``"plain"``: ``c = f * c_prev + i * g``, ``h = o * tanh(c)`` (with the forget gate of Gers et al. 2000);
            - ``"no_forget_gate"`` (NFG; Hochreiter & Schmidhuber 1997): ``c = c_prev + i * g``, gates ``i, g, o``;
            - ``"no_input_gate"`` (NIG): ``c = f * c_prev + g``, gates ``f, g, o``;
            - ``"no_output_gate"`` (NOG): ``h = tanh(c)``, gates ``i, f, g``;
            - ``"no_input_activation"`` (NIAF): g is its pre-activation, without tanh;
            - ``"no_output_activation"`` (NOAF): ``h = o * c``;
            - ``"coupled"`` (CIFG): ``c = f * c_prev + (1 - f) * g``, gates ``f, g, o``.
        peephole_i, peephole_f, peephole_o: peephole weights, each optional. Of shape ``(hidden_size,)`` they are
            diagonal (Gers & Schmidhuber 2000): i and f see ``peephole * c_prev``, o sees ``peephole_o * c``. Of shape
            ``(hidden_size, hidden_size)``, for the plain variant, they are full matrices: ``peephole @ c_prev`` and
            ``peephole_o @ c``. All given peepholes are of one kind.
        weight_hr: ``(proj_size, hidden_size)`` with ``proj_size < hidden_size``, or None: a projection (Sak et al.
            2014, section 2.1, without the non-recurrent one), ``h = weight_hr @ (o * tanh(c))``, so that y and the
            state h have proj_size units. For the plain variant without peepholes.
        num_heads: a divisor of hidden_size: the recurrence is block-diagonal. Head k has units ``k*hidden_size/
            num_heads`` to ``(k+1)*hidden_size/num_heads - 1`` of each gate, which see h_prev of their own head alone: a
            row of weight_hh has the columns of its head. For cells without a projection or full-matrix peepholes.
        gate_activation, candidate_activation, output_activation: the functions in place of sigmoid in the gates i, f
            and o, of tanh in g, and of tanh in ``h = o * tanh(c)``, for trained models that need them: "sigmoid",
            "tanh", "hard_sigmoid" (``clip(0.2*x + 0.5, 0, 1)``, as Keras 2 has it; with other numbers a tuple
            ``("hard_sigmoid", alpha, beta)``), "relu", "softsign" (``x / (1 + |x|)``) or "linear". For cells without
            full-matrix peepholes, and of a variant that leaves an activation out, not that one.

    Raises:
        ValueError: shapes do not fit; an unknown variant; a peephole of a gate that the variant lacks; a projection of
            another variant or with peepholes; num_heads that does not divide hidden_size, or of a cell without heads;
            an unknown activation, or one that the cell does not have.
        TypeError: not arrays, or another dtype; num_heads is no integer; an activation is no name.
    """

    variant: str
    peephole_i: Maybe
    peephole_f: Maybe
    peephole_o: Maybe
    weight_hr: Maybe
    gate_activation: Activation
    candidate_activation: Activation
    output_activation: Activation

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Maybe = None,
        bias_hh: Maybe = None,
        *,
        variant: str = "plain",
        peephole_i: Maybe = None,
        peephole_f: Maybe = None,
        peephole_o: Maybe = None,
        weight_hr: Maybe = None,
        num_heads: int = 1,
        gate_activation: Activation = "sigmoid",
        candidate_activation: Activation = "tanh",
        output_activation: Activation = "tanh",
        **regularisation: Unpack[Regularisation],
    ) -> None:
        one_of("variant", variant, VARIANTS)
        arguments = locals()
        plain = peephole_i is peephole_f is peephole_o is None
        spec = BY_VARIANT[variant] if plain else _with_peepholes(variant, arguments)
        if weight_hr is not None:
            if spec is not PLAIN:
                raise ValueError(f"weight_hr: expected None, as {spec.cell!r} has no projection, got an array")
            spec = PROJECTED
        super().__init__(spec, arguments)


def _with_peepholes(variant: str, arguments: dict[str, Any]) -> CellSpec[LSTMOutput, LSTMGradients]:
    """The cell for the peepholes among the arguments."""
    given = {name: arguments[name] for name in PEEPHOLES if arguments[name] is not None}
    diagonal = WITH_PEEPHOLES[variant]
    for name in given:
        if name not in diagonal.names:
            raise ValueError(
                f"{name}: expected None, as variant {variant!r} has no gate {PEEPHOLES[name]}, got an array"
            )
    shapes = {name: tuple(p.shape) for name, p in given.items() if len(getattr(p, "shape", ())) == 2}
    if not shapes:
        return diagonal
    if variant != "plain":
        name, shape = next(iter(shapes.items()))
        reason = f"as variant {variant!r} has no full-matrix peepholes"
        raise ValueError(f"{name}: expected shape (hidden_size,), {reason}, got {shape}")
    return next(spec for spec in WITH_MATRICES if given.keys() <= set(spec.names))


class LSTM(Layer, weights=LSTMWeights):
    """Layers of LSTM cells, as `torch.nn.LSTM`: see `Layer` for arguments and calls, `LSTMWeights` for the cells.

    Args:
        variant: "plain", or a variant of "LSTM: A Search Space Odyssey": see `LSTMWeights`.
        peepholes: None; "diagonal" for those of all gates of the variant; "full" for full matrices, of the plain
            variant.
        num_heads: see `LSTMWeights`; for cells without a projection or full peepholes.
        gate_activation, candidate_activation, output_activation: see `LSTMWeights`.
        proj_size: see `Layer`; for the plain variant without peepholes.
    """


def lstm(
    x: Array,
    w: LSTMWeights,
    h0: Maybe = None,
    c0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
) -> LSTMOutput:
    """LSTM inference over a sequence (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000)::

        i, f, o = sigmoid(W x + U h_prev + b)     g = tanh(W_g x + U_g h_prev + b_g)
        c = f * c_prev + i * g                    h = o * tanh(c)

    The weights say which variant, and which peepholes: see `LSTMWeights`.

    Args:
        x: ``(T, B, I)``.
        w: the weights.
        h0, c0: ``(B, H)`` or None for zeros.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time.
        resets: ``(T, B)`` bool, or None: where a new episode of the row begins: see `call`.
        reset_state: the state before the first step of an episode: a tuple ``(h, c)``, each like the initial one, or
            without B for all rows; None for zeros.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)``, the states after the row's last step. With a
        projection, h has proj_size units: ``y (T, B, P)``, ``h0`` and ``h_n (B, P)``.
    """
    return infer(PLAIN, x, w, (h0, c0), lengths, reverse, resets, reset_state)


def lstm_forward(
    x: Array,
    w: LSTMWeights,
    h0: Maybe = None,
    c0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[LSTMOutput, Reserve]:
    """Forward for training: the bits of `lstm` in ``y``, zero past a row's length, and in the states after the
    row's last step; and a reserve for `lstm_backward`, of ``(G+2)*T*B*H`` elements, G the number of gates, or
    ``(6*H+P)*T*B`` with a projection.

    The reserve refers to ``x``, ``h0``, ``c0`` and ``reset_state``; they must not change before backward. ``y`` may.

    Args:
        seed, masks: where masks come from, if the weights have options of regularisation: an int of 64 bits, or a dict
            as `w.masks` gives it. `reserve.seed` and `reserve.masks` tell them.
    """
    return forward(PLAIN, x, w, (h0, c0), lengths, reverse, resets, reset_state, seed=seed, masks=masks)


def lstm_backward(reserve: Reserve, dy: Maybe, dh_n: Maybe = None, dc_n: Maybe = None) -> LSTMGradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `lstm_forward`.

    Args:
        reserve: from `lstm_forward`. It may be used again.
        dy: ``(T, B, H)`` or None for zeros; not read past a row's length.
        dh_n, dc_n: ``(B, H)`` or None for zeros.

    Returns:
        dx, dh0, dc0, dweight_ih, dweight_hh, dbias_ih, dbias_hh, dpeephole_i, dpeephole_f, dpeephole_o, dweight_hr,
        dreset_h, dreset_c.
    """
    return backward(PLAIN, reserve, dy, (dh_n, dc_n))


def lstm_cell(
    x: Array,
    w: LSTMWeights,
    h: Maybe = None,
    c: Maybe = None,
    *,
    resets: Resets = None,
    reset_state: States = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """One step of `lstm`: T of them give the bits of one call over T steps.

    Args:
        x: ``(B, I)``.
        w: the weights.
        h, c: the states, ``(B, H)`` or None for zeros.
        resets: ``(B,)`` bool, or None: where a new episode begins, before this step.
        reset_state: as for `lstm`.
        out: two C-contiguous arrays ``(B, H)`` to write h and c to, which overlap none of the inputs; nothing is
            allocated then. A stream takes turns with two pairs.

    Returns:
        h, c, each ``(B, H)``.
    """
    return step(PLAIN, x, w, (h, c), out, resets, reset_state)
