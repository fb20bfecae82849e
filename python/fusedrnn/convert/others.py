"""Layers from the arrays of haste, oneDNN, DyNet and TensorFlow 1, and from one matrix for each gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..aliases import Array
from ..layers.layer import Layer
from .build import as_array, layer_of
from .tables import BY_GATES, FOUR_GATES, KINDS, ONE_GATE, PEEPHOLES, THREE_GATES, Kind, reorder


def _kind_of(name: str, gates: float, kinds: Mapping[int, Kind] = BY_GATES) -> Kind:
    if gates not in kinds:
        raise ValueError(f"{name}: expected {', '.join(map(str, sorted(kinds)))} gates, got {gates:g}")
    return kinds[int(gates)]


def from_haste(source: Mapping[str, Any], *, batch_first: bool = False) -> Layer:
    """An LSTM (four gates i, g, f, o) or a GRU (z, r, g; it resets after the product) of haste.

    Args:
        source: by haste's names: ``kernel (I, G*H)``, ``recurrent_kernel (H, G*H)``, ``bias (G*H,)``, and of a GRU
            ``recurrent_bias (3*H,)``: `state_dict()` of haste_pytorch's `LSTM` or `GRU`, of tensors or arrays. The
            forget bias is in the bias already.
        batch_first: of the layer. Zoneout and DropConnect, which haste does not keep among the parameters, are left
            out.

    Raises:
        ValueError: names or shapes that fit neither; parameters of others of haste's layers. TypeError: other dtypes.
    """
    arrays = {name: as_array(name, value, 2 if "kernel" in name else 1) for name, value in source.items()}
    _names(arrays, ("kernel", "recurrent_kernel", "bias"), ("recurrent_bias",))
    recurrent = arrays["recurrent_kernel"]
    kind = _kind_of("recurrent_kernel", recurrent.shape[1] / len(recurrent), {n: BY_GATES[n] for n in (3, 4)})
    order = kind.orders["haste"], kind.gates
    second = arrays.get("recurrent_bias")
    if (second is None) != (kind is FOUR_GATES):
        raise ValueError(
            f"recurrent_bias: expected {'none' if kind is FOUR_GATES else 'one'} beside {len(kind.gates)} gates"
        )
    parameters = {
        "weight_ih": reorder(arrays["kernel"], *order, axis=1, name="kernel").T,
        "weight_hh": reorder(recurrent, *order, axis=1, name="recurrent_kernel").T,
        "bias_ih": reorder(arrays["bias"], *order, name="bias"),
    }
    parameters["bias_hh"] = np.zeros_like(parameters["bias_ih"]) if second is None else reorder(second, *order)
    return layer_of(kind, [parameters], batch_first=batch_first)  # type: ignore[no-any-return]


def _names(arrays: Mapping[str, Any], required: Sequence[str], optional: Sequence[str]) -> None:
    """Raises ValueError if names are missing, or others are there."""
    if missing := [name for name in required if name not in arrays]:
        raise ValueError(f"source: expected {', '.join(required)}, got no {missing[0]}")
    if others := [name for name in arrays if name not in (*required, *optional)]:
        raise ValueError(f"source: expected {', '.join((*required, *optional))}, got {others[0]} as well")


def from_onednn(
    weights_layer: Any,
    weights_iter: Any,
    bias: Any = None,
    *,
    weights_peephole: Any = None,
    weights_projection: Any = None,
    linear_before_reset: bool | None = None,
    nonlinearity: str = "tanh",
) -> Layer:
    """Layers from the arrays of oneDNN's RNN primitives: vanilla LSTM (gates i, f, c, o; also with peepholes, or a
    projection), vanilla GRU (u, r, o; it resets before the product), LBR GRU (it resets after), vanilla RNN.

    Args:
        weights_layer: ``(L, D, I, G, H)``, the format ldigo; D = 2 for bidirectional_concat.
        weights_iter: ``(L, D, H, G, H)``, or ``(L, D, P, G, H)`` with a projection.
        bias: ``(L, D, G, H)``, or None; of an LBR GRU ``(L, D, 4, H)`` with the recurrent bias of o as the fourth.
        weights_peephole: ``(L, D, 3, H)``, of i, f, o.
        weights_projection: ``(L, D, H, P)``, the format ldio.
        linear_before_reset: whether a GRU is an LBR one: None for what the bias says, or without one False.
        nonlinearity: of a vanilla RNN: "tanh" or "relu".

    Raises:
        ValueError: shapes that do not fit; options of another primitive. TypeError: other dtypes.
    """
    w, r = as_array("weights_layer", weights_layer, 5), as_array("weights_iter", weights_iter, 5)
    b = None if bias is None else as_array("bias", bias, 4)
    L, D, _, G, _H = w.shape
    kind = _kind_of("weights_layer", G)
    options: dict[str, Any] = {}
    if kind is ONE_GATE:
        options["nonlinearity"] = nonlinearity
    lbr = b is not None and b.shape[2] == 4 and kind is THREE_GATES
    if kind is THREE_GATES:
        if linear_before_reset not in (None, lbr) and b is not None:
            raise ValueError(f"bias: expected {4 if linear_before_reset else 3} rows, got shape {b.shape}")
        options["reset_after"] = lbr if linear_before_reset is None else linear_before_reset
    if D not in (1, 2):
        raise ValueError(f"weights_layer: expected 1 or 2 directions, got {D}")
    further = {"weights_peephole": weights_peephole, "weights_projection": weights_projection}
    others = {name: as_array(name, a, 4) for name, a in further.items() if a is not None}
    if "weights_peephole" in others:
        options["peepholes"] = "diagonal"
    places = []
    for at in range(L):
        for d in range(D):
            of_place = None if b is None else b[at, d]
            parameters = _of_onednn(kind, w[at, d], r[at, d], of_place, lbr)
            places.append(parameters | _further({name: a[at, d] for name, a in others.items()}))
    return layer_of(kind, places, bidirectional=D == 2, **options)  # type: ignore[no-any-return]


def _of_onednn(kind: Kind, w: Array, r: Array, b: Array | None, lbr: bool) -> dict[str, Array]:
    """Of one layer and direction: w and r ``(., G, H)``."""
    order, G = (kind.orders["oneDNN"], kind.gates), len(kind.gates)
    found = {
        name: reorder(a.transpose(1, 2, 0).reshape(-1, len(a)), *order, name=name)
        for name, a in (("weight_ih", w), ("weight_hh", r))
    }
    if b is not None:
        if len(b) != G + lbr:
            raise ValueError(f"bias: expected {G + lbr} rows, got {len(b)}")
        recurrent = np.zeros_like(b[:G])
        recurrent[G - 1 :] = b[G:] if lbr else 0  # that of o, which stays apart from the input's
        found |= {name: reorder(a.ravel(), *order) for name, a in (("bias_ih", b[:G]), ("bias_hh", recurrent))}
    return found


def _further(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Peepholes and projection of one layer and direction."""
    found: dict[str, Array] = {}
    if (p := arrays.get("weights_peephole")) is not None:
        found |= {f"peephole_{gate}": row for gate, row in zip(PEEPHOLES["oneDNN"], p, strict=True)}
    if (p := arrays.get("weights_projection")) is not None:
        found["weight_hr"] = p.T
    return found


def from_dynet(forward: Sequence[Any], backward: Sequence[Any] | None = None) -> Layer:
    """An LSTM from the parameters of DyNet's VanillaLSTMBuilder: gates i, f, o, g, and a 1 that DyNet adds to f at run
    time, which becomes `bias_hh` of f.

    Args:
        forward: of each layer, from the lowest, ``(Wx, Wh, b)``: ``(4*H, I)``, ``(4*H, H)``, ``(4*H,)``.
        backward: the same of a second builder that reads the rows from their ends, whose outputs lie beside those of
            the first: a layer in both directions. For depth 1: a deeper pair of builders does not meet between layers.

    Raises:
        ValueError: shapes that do not fit; two deep builders. TypeError: other dtypes.
    """
    directions = [list(forward)] + ([] if backward is None else [list(backward)])
    if backward is not None and any(len(builder) != 1 for builder in directions):
        raise ValueError(
            f"backward: expected builders of one layer, as directions of layers here meet in the next one, "
            f"got {len(directions[0])} and {len(directions[1])}"
        )
    order = FOUR_GATES.orders["DyNet"], FOUR_GATES.gates
    places = []
    for builder in directions:
        for layer in builder:
            named = zip(("Wx", "Wh", "b"), layer, (2, 2, 1), strict=True)
            w, r, b = (reorder(as_array(name, a, ndim), *order, name=name) for name, a, ndim in named)
            places.append({"weight_ih": w, "weight_hh": r, "bias_ih": b, "bias_hh": _forget(b, 1.0)})
    return layer_of(FOUR_GATES, places, bidirectional=backward is not None)  # type: ignore[no-any-return]


def _forget(bias: Array, value: float) -> Array:
    """A bias that adds this value to the gate f."""
    added = np.zeros_like(bias).reshape(len(FOUR_GATES.gates), -1)
    added[FOUR_GATES.gates.index("f")] = value
    return added.ravel()


def from_tf1(
    kernel: Any,
    bias: Any,
    *,
    forget_bias: float = 1.0,
    w_i_diag: Any = None,
    w_f_diag: Any = None,
    w_o_diag: Any = None,
    projection: Any = None,
) -> Layer:
    """An LSTM from the variables of TensorFlow 1's `LSTMCell` or `BasicLSTMCell`: gates i, j, f, o, and a forget bias
    that is added at run time, which becomes `bias_hh` of f.

    Args:
        kernel: ``(I+H, 4*H)``, or ``(I+P, 4*H)`` with a projection.
        bias: ``(4*H,)``.
        forget_bias: the argument of the cell, which is not among its variables. It is 1 by default there.
        w_i_diag, w_f_diag, w_o_diag: peepholes, ``(H,)``: all or none.
        projection: ``projection/kernel (H, P)``. No cell here has it beside peepholes.

    Raises:
        ValueError: shapes that do not fit; some peepholes; peepholes and a projection. TypeError: other dtypes.
    """
    order = FOUR_GATES.orders["TensorFlow"], FOUR_GATES.gates
    both, b = reorder(as_array("kernel", kernel, 2), *order, axis=1, name="kernel").T, as_array("bias", bias, 1)
    parameters = {"bias_ih": reorder(b, *order, name="bias")}
    parameters["bias_hh"] = _forget(parameters["bias_ih"], forget_bias)
    units = len(both) // len(FOUR_GATES.gates)
    if projection is not None:
        parameters["weight_hr"] = as_array("projection", projection, 2).T
        units = len(parameters["weight_hr"])
    if both.shape[1] <= units:
        raise ValueError(f"kernel: expected more than {units} rows, those of h, got shape {np.shape(kernel)}")
    parameters |= {"weight_ih": both[:, :-units], "weight_hh": both[:, -units:]}
    diagonals = {"peephole_i": w_i_diag, "peephole_f": w_f_diag, "peephole_o": w_o_diag}
    given = {name: as_array(f"w_{name[-1]}_diag", a, 1) for name, a in diagonals.items() if a is not None}
    if len(given) not in (0, len(diagonals)):
        raise ValueError(f"w_i_diag, w_f_diag, w_o_diag: expected all or none, got {len(given)}")
    options: dict[str, Any] = {"peepholes": "diagonal"} if given else {}
    return layer_of(FOUR_GATES, [parameters | given], **options)  # type: ignore[no-any-return]


def from_gates(
    weight_ih: Mapping[str, Any],
    weight_hh: Mapping[str, Any],
    bias_ih: Mapping[str, Any] | None = None,
    bias_hh: Mapping[str, Any] | None = None,
    *,
    transposed: bool = False,
    **options: Any,
) -> Layer:
    """A layer from separate matrices for each gate, by the letters used here: i, f, g, o of an LSTM; r, z, n of a GRU;
    h of an RNN.

    Args:
        weight_ih: each ``(H, I)``.
        weight_hh: each ``(H, H)``.
        bias_ih, bias_hh: each ``(H,)``. A gate, or all, may lack either: zeros. Without any the layer has no biases.
        transposed: whether matrices are ``(I, H)`` and ``(H, H)`` of row vectors, ``x @ W``.
        options: of the layer, such as ``reset_after=False``, ``z_weighs="n"``, ``batch_first=True``.

    Raises:
        ValueError: letters of no kind of layer; shapes that do not fit. TypeError: other dtypes; unknown options.
    """
    kinds = [kind for kind in KINDS.values() if set(weight_ih) == set(weight_hh) == set(kind.gates)]
    if not kinds:
        every = ", ".join(kind.gates for kind in KINDS.values())
        raise ValueError(f"weight_ih: expected the gates of one of {every}, got {', '.join(weight_ih)}")
    (kind,) = kinds
    parameters = {}
    for name, matrices in (("weight_ih", weight_ih), ("weight_hh", weight_hh)):
        each = [as_array(f"{name}[{gate!r}]", matrices[gate], 2) for gate in kind.gates]
        parameters[name] = np.concatenate([a.T for a in each] if transposed else each)
    if bias_ih or bias_hh:
        H = parameters["weight_hh"].shape[1]
        for name, vectors in (("bias_ih", bias_ih or {}), ("bias_hh", bias_hh or {})):
            if others := set(vectors) - set(kind.gates):
                raise ValueError(f"{name}: expected gates among {kind.gates}, got {min(others)}")
            zeros = np.zeros(H, parameters["weight_ih"].dtype)
            each = [as_array(f"{name}[{gate!r}]", vectors.get(gate, zeros), 1) for gate in kind.gates]
            parameters[name] = np.concatenate(each)
    return layer_of(kind, [parameters], **options)  # type: ignore[no-any-return]
