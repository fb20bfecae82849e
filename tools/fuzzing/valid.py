"""Valid calls: random cells, shapes, values, layouts and settings, held to the promises about bits and inputs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import fusedrnn
from cases import Array, given, possible
from fusedrnn import _core
from stacks import STACKED, Composed, by_name, make_layer

from .drawn import Calls, Case, Inputs, Settings, arranged, draw_case, draw_settings, log_uniform, row_of, settings
from .follow import Log, shape_of
from .layouts import Arranger, Laid, Rng, guarded_output, with_special_values
from .memory import Watch, growth
from .promises import Wrong, require_same
from .regularised import check_regularised

LEAK_CHECK_EVERY = 50  # calls


def everything(calls: Calls, i: Inputs) -> tuple[list[Any], list[Any]]:
    """The outputs, of inference and of training, and the gradients."""
    inferred = calls.infer(i)
    out, reserve = calls.forward(i)
    require_same(inferred, out, "inference against training")
    return out, calls.backward(i, reserve)


def check_bits(case: Case, rng: Rng) -> tuple[list[Any], list[Any]]:
    """Laid out anew, under other settings: the same bits as plainly on one thread; nothing that was given changes."""
    arranger = Arranger(rng)
    i = arranged(case, arranger)
    with settings(case.settings):
        out, gradients = everything(case.calls, i)
    if changed := arranger.changed():
        raise Wrong(f"inputs changed: {'; '.join(changed)}")
    for name, a in given(i.w).items():
        require_same([a], [case.arrays[name]], f"{name} read back")
    isas = [isa for isa in fusedrnn.available_isas() if isa != case.settings.isa] or fusedrnn.available_isas()
    with settings(Settings(isas[rng.integers(len(isas))], 1, "auto")):
        want, want_gradients = everything(case.calls, case.inputs)
    require_same(out, want, "outputs, laid out plainly on one thread of another ISA")
    require_same(gradients, want_gradients, "gradients, laid out plainly on one thread of another ISA")
    return out, gradients


def check_row(case: Case, out: list[Any], gradients: list[Any], rng: Rng) -> None:
    """A row alone, cut to its length or not, gives what it gives in its batch."""
    B = case.shape[1]
    if B == 0:
        return
    row, i = int(rng.integers(B)), case.inputs
    steps = None if i.lengths is None or rng.random() < 0.5 else int(i.lengths[row])
    one, cut = slice(row, row + 1), slice(steps)
    with settings(draw_settings(rng)):
        alone, alone_gradients = everything(case.calls, row_of(i, row, steps))
    want = [a[one] if a.ndim == 2 else a[cut, one] for a in out]
    require_same(alone, want, "a row alone: outputs")
    if any(a[steps:, one].any() for a in out if a.ndim == 3 and steps is not None):
        raise Wrong("outputs past a row's length are not zeros")
    states = len(i.states)
    want = [gradients[0][cut, one], *(g[one] for g in gradients[1 : 1 + states])]
    require_same(alone_gradients[: 1 + states], want, "a row alone: gradients")


def check_steps(case: Case, out: list[Any], rng: Rng) -> None:
    """Single steps, some with `out=`, give what one call gives, and write nowhere else."""
    T, B, _, H = case.shape
    i = case.inputs
    if i.lengths is not None or T > 60:
        return
    states = i.states
    written: list[tuple[Laid, bytes]] = []
    with settings(draw_settings(rng)):
        for count, t in enumerate(reversed(range(T)) if i.reverse else range(T)):
            given_out = None
            if rng.random() < 0.5:
                laid = [guarded_output((B, size), case.dtype, rng) for size in case.cell.state_sizes(H)]
                given_out = tuple(a.array for a in laid)
                written += [(a, surroundings(a)) for a in laid]
            start = None if i.start is None else i.start + count
            states = case.calls.step(i, t, states, start, given_out)
            if given_out is not None and any(a is not b for a, b in zip(states, given_out, strict=True)):
                raise Wrong("a step does not return the arrays that it was given to write to")
            require_same([states[0]], [out[0][t, :, :H]], f"step {t} of {T} alone")
    if T > 0:
        require_same(list(states), out[1 : 1 + len(states)], "the last state, of single steps")
    if any(surroundings(a) != before for a, before in written):
        raise Wrong("a step wrote outside the arrays that it was given to write to")


def surroundings(laid: Laid) -> bytes:
    return laid.memory.tobytes()[: laid.memory.nbytes - laid.array.nbytes]


def check_cut(case: Case, out: list[Any], rng: Rng) -> None:
    """Two calls, one after the other, give what one call gives."""
    T, i = case.shape[0], case.inputs
    if i.lengths is not None or i.reverse:
        return
    cut = int(rng.integers(T + 1))
    first, second = slice(None, cut), slice(cut, None)

    def part(steps: slice, states: Any, start: Any) -> list[Array]:
        below = None if i.below is None else i.below[steps]
        return case.calls.infer(replace(i, x=i.x[steps], below=below, states=states, start=start))

    with settings(draw_settings(rng)):
        a = part(first, i.states, i.start)
        states = tuple(a[1 : 1 + len(i.states)])
        b = part(second, states, None if i.start is None else i.start + cut)
    joined = [np.concatenate([p, q]) if p.ndim == 3 else q for p, q in zip(a, b, strict=True)]
    require_same(joined, out, f"two calls, of {cut} and {T - cut} steps")


INTEGER_FORMS: tuple[Callable[[Array], Any], ...] = (
    list,
    tuple,
    lambda a: a.tolist(),
    *(lambda a, kind=kind: a.astype(kind) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "u8", "q", "Q")),
)


def check_integers(case: Case, rng: Rng) -> None:
    """`lengths` and `start` may be any integers, arrays or sequences of them."""
    i = case.inputs
    form = INTEGER_FORMS[rng.integers(len(INTEGER_FORMS))]
    changed: dict[str, Any] = {}
    for name, a in (("lengths", i.lengths), ("start", i.start)):
        if isinstance(a, np.ndarray):
            given_form = form(a)
            if np.array_equal(np.array(given_form, dtype=object), a):  # not where numbers do not fit
                changed[name] = given_form
    if changed:
        want = case.calls.infer(i)
        what = ", ".join(f"{name} as {type(a).__name__} {getattr(a, 'dtype', '')}" for name, a in changed.items())
        try:
            got = case.calls.infer(replace(i, **changed))
        except (TypeError, ValueError) as e:
            raise Wrong(f"integers refused: {what}: {e}") from None
        require_same(got, want, f"integers: {what}")


def check_snapshot(case: Case, out: list[Any]) -> None:
    """Later changes to the arrays that weights were made from have no effect."""
    arrays = {name: np.array(a) for name, a in case.arrays.items()}
    w = case.cell.weights(**arrays, **case.options)
    for a in arrays.values():
        a[...] = 7
    require_same(case.calls.infer(replace(case.inputs, w=w)), out, "weights whose arrays were changed")


def check_layers(case: Case, rng: Rng) -> None:
    """Layers above each other have the bits of functions called one after another, under other settings."""
    if case.cell not in STACKED:
        return
    sizes = (int(rng.integers(1, 9)), 6 * int(rng.integers(1, 9)), int(rng.integers(1, 4)))
    arguments: dict[str, Any] = {
        "bidirectional": bool(rng.random() < 0.5),
        "bias": bool(rng.random() < 0.8),
        "dtype": case.dtype,
    }
    layer = make_layer(case.cell, *sizes, rng=int(rng.integers(2**32)), **arguments)
    T, B = (int(rng.integers(0, most)) for most in (20, 8))
    x = rng.standard_normal((T, B, sizes[0])).astype(case.dtype)
    runs, widths = sizes[2] * layer.num_directions, case.cell.state_sizes(sizes[1])
    states = possible(layer.spec, [rng.standard_normal((runs, B, n)).astype(case.dtype) for n in widths])
    kwargs: dict[str, Any] = {} if rng.random() < 0.5 else {"lengths": rng.integers(0, T + 1, B)}
    with settings(draw_settings(rng)):
        out, tape = layer.forward(x, tuple(states) if len(states) > 1 else states[0], **kwargs)
        gradients = by_name(layer.backward(tape, out.y))
    with settings(Settings(fusedrnn.available_isas()[0], 1, "auto")):
        composed = Composed(case.cell, layer)
        want, made = composed.run(x, states, **kwargs)
        dwant = composed.gradients(made, out.y, [np.zeros_like(s) for s in states])
    require_same(list(out), list(want), f"{layer!r}: outputs")
    if not (case.cell.clocked and layer.bidirectional):  # whose dx is added clock by clock
        require_same([gradients[name] for name in dwant], list(dwant.values()), f"{layer!r}: gradients")


def copies(w: Any, rng: Rng) -> Iterator[tuple[str, Any]]:
    """Weights that were copied, and how; of a pickle, by any protocol."""
    protocol = int(rng.integers(pickle.HIGHEST_PROTOCOL + 1))
    yield "copy", copy.copy(w)
    yield "deepcopy", copy.deepcopy(w)
    yield f"pickle by protocol {protocol}", pickle.loads(pickle.dumps(w, protocol))
    yield "copy of a deepcopy of a copy", copy.copy(copy.deepcopy(copy.copy(w)))


def check_copies(case: Case, out: list[Any], rng: Rng) -> None:
    """Weights that were copied or pickled, before or after calls packed them, are the same in all that can be seen, and
    outlive what they were copied from."""
    w = case.inputs.w if rng.random() < 0.5 else case.cell.weights(**case.arrays, **case.options)
    text, made = repr(w), list(copies(w, rng))
    del w
    for way, other in made:
        if repr(other) != text:
            raise Wrong(f"weights by {way}: {other!r} in place of {text}")
        for name, a in other.arrays().items():
            if a is not None and (a.flags.writeable or a.tobytes() != case.arrays[name].tobytes()):
                raise Wrong(f"weights by {way}: {name} has other bits, or can be written to")
        if given(other).keys() != case.arrays.keys():
            raise Wrong(f"weights by {way}: they have {', '.join(given(other))}")
    way, other = made[rng.integers(len(made))]
    require_same(case.calls.infer(replace(case.inputs, w=other)), out, f"weights by {way}")


def check_activations(case: Case, rng: Rng) -> None:
    """The same bits on every ISA, wherever the numbers lie."""
    a = with_special_values(rng.standard_normal(log_uniform(rng, 1, 500)).astype(case.dtype) * 3, rng)
    for function in (_core.sigmoid, _core.tanh):
        want = None
        for isa in fusedrnn.available_isas():
            arranger = Arranger(rng)
            with settings(Settings(isa, 1, "auto")):
                got = function(arranger(a, "x"))
            want = got if want is None else want
            require_same([got], [want], f"{function.__name__} on {isa}")
            if changed := arranger.changed():
                raise Wrong(f"inputs changed: {'; '.join(changed)}")


def check_leaks(case: Case, rng: Rng) -> None:
    """Memory does not grow when a call is repeated."""
    seed = int(rng.integers(2**32))
    with settings(replace(case.settings, threads=min(case.settings.threads, 2))):
        if grown := growth(lambda: everything(case.calls, arranged(case, Arranger(np.random.default_rng(seed))))):
            raise Wrong(f"memory: {grown}")


def checks_of(case: Case, rng: Rng, with_leaks: bool) -> Iterator[Callable[[], None]]:
    """The checks of a case, each to be made whatever the ones before found."""
    results: tuple[list[Any], list[Any]] | None = None

    def bits_of_all() -> None:
        nonlocal results
        results = check_bits(case, rng)

    yield bits_of_all
    yield lambda: check_integers(case, rng)
    yield lambda: check_activations(case, rng)
    yield lambda: check_layers(case, rng)
    yield lambda: check_regularised(case, rng)
    if results is not None:
        out, gradients = results
        yield lambda: check_row(case, out, gradients, rng)
        yield lambda: check_steps(case, out, rng)
        yield lambda: check_cut(case, out, rng)
        yield lambda: check_snapshot(case, out)
        yield lambda: check_copies(case, out, rng)
    if with_leaks:
        yield lambda: check_leaks(case, rng)


def make_call(seed: int, index: int, log: Log, watch: Watch) -> None:
    rng = np.random.default_rng([seed, 1, index])
    log.begin(index, "draw", f"a case of seed {seed}, number {index}")
    case = draw_case(rng)
    log.begin(index, case.cell.name, case.describe())
    work = np.prod([float(n) for n in case.shape])
    with_leaks = index % LEAK_CHECK_EVERY == LEAK_CHECK_EVERY - 1 and bool(work < 3e4)
    for check in checks_of(case, rng, with_leaks):
        try:
            check()
        except Wrong as e:
            log.failure(shape_of(str(e).split(":")[0]), str(e))
            log.count("broken promises")
        except Exception as e:
            log.failure(f"{type(e).__name__}: {shape_of(str(e))}", f"a valid call raised {type(e).__name__}: {e}")
            log.count(type(e).__name__)
        else:
            log.count("checks kept")
    log.count("cases", *(["leak checks"] if with_leaks else []))
    if grown := watch.grown():
        log.failure("memory of the process", grown)
