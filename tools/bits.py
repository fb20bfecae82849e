"""A record of bits: hashes of what every cell gives, outputs and gradients, over a fixed set of calls.

The bits of a call depend on its inputs alone: all ISAs, schedules and numbers of threads give the same, and so do a
sequence in one call, in two, and step by step. So the record, tools/bits.json, has one hash of outputs and one of
gradients for each case, and holds on every machine. A case is a cell, a dtype, sizes T,B,I,H and at most one option.

    python tools/bits.py                    # check the installed fusedrnn against the record
    python tools/bits.py --quick            # the same for a few cases, in some seconds: what tests run
    python tools/bits.py --write            # write the record anew, unless ISAs or schedules differ
    python tools/bits.py OLD NEW            # compare two builds, each a folder that `pip install --target` wrote
    python tools/bits.py --cell gru --isa avx2

Exits with 1 if anything differs. A check names the cases whose hashes are not the recorded ones, and the arrays that
differ among ISAs, schedules and ways to call. Two builds, which must have all cells of tools/common/cases.py, are
compared array by array, on each ISA with one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fusedrnn
from fusedrnn import _core
from fusedrnn.cells.families import SPECS

sys.path.insert(0, str(Path(__file__).with_name("common")))
from agreement import named
from cases import CELLS, DTYPES, Array, Cell, Problem, Shape, given, possible, remade

RECORD = Path(__file__).with_name("bits.json")
Arrays = dict[str, Array]
Call = tuple[str, str, Arrays]  # what was made: outputs or gradients; the way to make it; its arrays

# (T, B, I, H): around the vector widths 4, 8 and 16, then across the blocks of csrc/cpu.
SHAPES: list[Shape] = [
    (0, 3, 4, 5),
    (3, 0, 4, 5),
    (1, 1, 1, 1),
    (3, 1, 5, 33),
    (5, 7, 9, 16),
    (4, 5, 17, 40),
    (2, 13, 3, 65),
    (2, 70, 2, 7),  # more than kGroupsTogether groups of rows
    (9, 33, 3, 20),  # more steps than kStretch and kRowsTogether
    (2, 7, 3, 150),  # more units than kStrip
    (3, 5, 70, 33),  # few units and many inputs: joined gates
    (2, 3, 2100, 9),  # weights of inputs beyond kNearestBytes, on any ISA
]
PERIODS = [(2,), (1, 1, 1), (2, 3, 5), (1, 4, 2**62), tuple(range(1, 22))]  # of 21 units
QUICK = ["0,3,4,5", "3,1,5,33", "2,13,3,65 lengths reverse", "3,5,4,21 bare", "65536"]

# The schedule that is asked for, and threads. With one thread all schedules are the same; large cases run in some.
SCHEDULES = ["auto 1", "rows 2", "units 3", "auto 2", "one 2", "rows 3", "units 2", "auto 3", "one 3", "2x2 4"]


class Case(NamedTuple):
    name: str
    schedules: list[str]
    make: Callable[[], Callable[[], Iterator[Call]]]  # inputs, and calls on them


def words(name: str, count: int) -> Array:
    """64-bit integers that depend on the name alone: splitmix64, counting from crc32(name) * 2^32 on."""
    state = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    z = state * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def values(name: str, dims: tuple[int, ...], dtype: str, scale: float = 1.0) -> Array:
    """Numbers in -scale..scale: integers of as many bits as the dtype holds, times a power of two if scale is one.
    Nothing is rounded, so they are the same with every NumPy and libm."""
    bits = int(np.finfo(dtype).nmant) + 1
    integers: Array = words(f"{name} {dims}", math.prod(dims)) >> np.uint64(64 - bits)
    numbers: Array = (integers.astype(np.int64) - 2 ** (bits - 1)) * math.ldexp(scale, 1 - bits)
    return numbers.astype(dtype).reshape(dims)


def make_problem(cell: Cell, dtype: str, shape: Shape) -> Problem:
    """For a cell that reads c of the layer below, c_below is the first state, and dc the last gradient of states."""
    T, B, I, H = shape
    H = cell.hidden_size(H)

    def weight(name: str, dims: tuple[int, ...]) -> Array:
        terms = dims[-1] if len(dims) == 2 else H
        return values(name, dims, dtype, math.ldexp(cell.gain, -(terms.bit_length() // 2)))

    w = cell.weights(**{name: weight(name, dims) for name, dims in cell.shapes(I, H).items()})
    states = [values(f"state {i}", (B, size), dtype) for i, size in enumerate(cell.state_sizes(H))]
    states = possible(SPECS[cell.native], states)
    dstates = [values(f"dstate {i}", (B, size), dtype) for i, size in enumerate(cell.state_sizes(H))]
    if cell.below:
        states.insert(0, values("c_below", (T, B, H), dtype))
        dstates.append(values("dc", (T, B, H), dtype))
    x, dy = values("x", (T, B, I), dtype, 2.0), values("dy", (T, B, cell.proj_size(H)), dtype)
    return Problem(replace(cell, below=False), w, x, states, {}, dy, dstates)


def with_arguments(p: Problem, **arguments: Any) -> Problem:
    return replace(p, kwargs=p.kwargs | arguments)


def with_lengths(p: Problem) -> Problem:
    T, B, _ = p.x.shape
    return with_arguments(p, lengths=(words(f"lengths {T} {B}", B) % np.uint64(T + 1)).astype(np.int64))


def with_starts(p: Problem) -> Problem:
    start = np.arange(p.x.shape[1], dtype=np.int64) ** 2
    start[-1] = 2**62 - 2**10
    return with_arguments(p, start=start)


def with_periods(p: Problem, periods: tuple[int, ...]) -> Problem:
    mask = type(p.w).mask(p.w.hidden_size, periods)
    arrays = given(p.w) | {"weight_hh": np.where(mask, p.w.weight_hh, 0)}
    return with_starts(replace(p, w=type(p.w)(**arrays, periods=periods, nonlinearity=p.w.nonlinearity)))


def without(p: Problem, field: str, index: int | None = None) -> Problem:
    """None for dy, for all states or their gradients, or for one of them."""
    old = getattr(p, field)
    new: Any = [a if index not in (None, i) else None for i, a in enumerate(old)] if isinstance(old, list) else None
    return replace(p, **{field: new})


def without_weights(p: Problem, names: Iterable[str]) -> Problem:
    return replace(p, w=remade(p.cell, p.w, replaced=dict.fromkeys(names)))


def scaled(p: Problem, exponent: int) -> Problem:
    x, dy, *others = (np.ldexp(a, exponent) for a in (p.x, p.dy, *p.states, *p.dstates))
    return replace(p, x=x, dy=dy, states=others[: len(p.states)], dstates=others[len(p.states) :])


def with_value(p: Problem, value: float) -> Problem:
    """In three rows: in an input, in a state, in a gradient."""
    x, state, dy = p.x.copy(), p.states[-1].copy(), p.dy.copy()
    x[1, 1, 0], state[2, 0], dy[2, 3, 0] = value, -value, value
    return replace(p, x=x, states=[*p.states[:-1], state], dy=dy)


def options(cell: Cell, dtype: str) -> Iterator[tuple[str, Callable[[Problem], Problem]]]:
    """What may be missing, and what else a call may be given, by name."""
    yield "", lambda p: p
    yield "lengths", with_lengths
    yield "reverse", partial(with_arguments, reverse=True)
    yield "lengths reverse", lambda p: with_arguments(with_lengths(p), reverse=True)
    yield "no dy", partial(without, field="dy")
    count = cell.states + cell.below
    for field in ("states", "dstates"):
        yield f"no {field}", partial(without, field=field)
        yield from ((f"no {field[:-1]} {i}", partial(without, field=field, index=i)) for i in range(count) if count > 1)
    optional = [name for name in cell.shapes(1, 1) if name not in cell.required]
    yield "bare", lambda p: without_weights(without(without(p, "states"), "dstates"), optional)
    yield from ((f"no {name}", partial(without_weights, names=[name])) for name in optional)
    if cell.normalised:
        yield "epsilon 2^-17", lambda p: replace(p, w=cell.weights(**given(p.w), epsilon=2.0**-17))
    if cell.clocked:
        yield "start 5", partial(with_arguments, start=5)
        yield "starts lengths reverse", lambda p: with_arguments(with_starts(with_lengths(p)), reverse=True)
        yield from ((f"periods {','.join(map(str, n))}", partial(with_periods, periods=n)) for n in PERIODS)
    yield "subnormal", lambda p: scaled(without_weights(p, optional), int(np.finfo(dtype).minexp) + 4)
    yield "large", partial(scaled, exponent=4)
    yield "huge", partial(scaled, exponent=int(np.finfo(dtype).maxexp) - 8)
    yield "infinite", partial(with_value, value=np.inf)
    yield "NaN", partial(with_value, value=np.nan)


def outputs_in_steps(p: Problem, out: bool) -> list[Array]:
    """y and the last states, of T single steps; with `out`, they write to two sets of arrays in turn."""
    cell, step, (T, B, _) = p.cell, p.cell.functions()[3], p.x.shape
    sequences, states = p.states[: -cell.states], p.states[-cell.states :]
    turns = [[np.empty((B, size), p.x.dtype) for size in cell.state_sizes(p.w.hidden_size)] for _ in range(2)]
    y = []
    for t in range(T):
        to: dict[str, Any] = {"out": tuple(turns[t % 2]) if cell.states > 1 else turns[t % 2][0]} if out else {}
        now = [None if a is None else a[t] for a in sequences]
        new = step(p.x[t], p.w, *now, *states, **cell.numbered(p.kwargs.get("start", 0) + t), **to)
        states = list(new) if cell.states > 1 else [new]
        y.append(states[0].copy())
    return [np.stack(y), *states]


def outputs_in_parts(p: Problem) -> list[Array]:
    """Of two calls, one for each half of the sequence."""
    cell, infer, half = p.cell, p.cell.functions()[0], len(p.x) // 2
    sequences, states = p.states[: -cell.states], p.states[-cell.states :]
    begins, ends = ([None if a is None else a[part] for a in sequences] for part in np.s_[:half, half:])
    first = infer(p.x[:half], p.w, *begins, *states, **p.kwargs)
    number = cell.numbered(p.kwargs.get("start", 0) + half)
    second = infer(p.x[half:], p.w, *ends, *first[1 : 1 + cell.states], **number)
    return [np.concatenate([a, b]) if a.ndim == 3 else b for a, b in zip(first, second, strict=True)]


def calls(p: Problem, cut: bool) -> Iterator[Call]:
    """The first call of each kind makes all arrays, others perhaps not the last ones."""
    infer = p.cell.functions()[0]
    inferred = dict(named(infer(p.x, p.w, *p.states, **p.kwargs)))
    yield "outputs", "inference", inferred
    out, grads = p.run()
    yield "outputs", "forward", dict(named(out))
    yield "gradients", "backward", dict(named(grads))
    if cut and len(p.x) and not {"lengths", "reverse"} & p.kwargs.keys():
        yield "outputs", "steps", dict(zip(inferred, outputs_in_steps(p, False), strict=False))
        yield "outputs", "steps with out", dict(zip(inferred, outputs_in_steps(p, True), strict=False))
        yield "outputs", "two parts", dict(zip(inferred, outputs_in_parts(p), strict=True))


def case_of(cell: Cell, dtype: str, shape: Shape, option: str = "") -> Case:
    T, B, I, H = shape
    work = T * B * cell.gates * H * (I + H)  # multiply-adds of a forward pass; "auto" shares out 4 million
    small, change = work < 100_000, dict(options(cell, dtype))[option]
    schedules = SCHEDULES if small else SCHEDULES[: 5 if work > 4_000_000 else 3]
    name = f"{cell.name} {dtype} {T},{B},{I},{H} {option}".strip()
    return Case(name, schedules, lambda: partial(calls, change(make_problem(cell, dtype, shape)), small))


def cases_of(cell: Cell, dtype: str, blocks: bool) -> Iterator[Case]:
    """With `blocks`, also those that must be large to cross a block."""
    yield from (case_of(cell, dtype, shape, option) for shape, option in product(SHAPES, ["", "lengths reverse"]))
    yield from (case_of(cell, dtype, (3, 5, 4, 21), option) for option, _ in options(cell, dtype))
    size = np.dtype(dtype).itemsize
    projections = (1056 // size // cell.gates, 33, 2, 16)  # beyond kChunkBytes
    weights = (2, 9, 3, 1050 // max(cell.gates, 3))  # beyond kNearestBytes, most beyond kNearBytes
    gradients = (2, 2**13 // cell.gates + 5, 1, 8)  # in float64 beyond kSourceBytes
    shapes = [projections, weights if size == 4 else gradients] if blocks else []
    yield from (case_of(cell, dtype, shape) for shape in shapes)


def activation_case(name: str, dtype: str, count: int) -> Case:
    """All that the upper 16 bits can be, with lower bits that look random; and so many numbers of common sizes."""

    def make() -> Callable[[], Iterator[Call]]:
        size, function = np.dtype(dtype).itemsize, getattr(_core, name)
        low = np.uint64(8 * size - 16)
        integers = np.arange(2**16, dtype=np.uint64) << low | words(name, 2**16) >> np.uint64(64) - low
        x = np.concatenate([integers.astype(f"u{size}").view(dtype), values(name, (count,), dtype, 2.0)])
        return lambda: iter([("outputs", "", {"y": function(x)})])

    return Case(f"{name} {dtype} {count}", SCHEDULES[:1], make)


def all_cases() -> Iterator[Case]:
    for which in product(("sigmoid", "tanh"), DTYPES, (2**16, 2**22)):
        yield activation_case(*which)
    seen = set()
    for cell in CELLS:
        facts = _core.describe_cell(cell.native)
        structure = (cell.op, len(facts["products"]), facts["phases"], cell.heads)  # cells alike pass over blocks alike
        for dtype in DTYPES:
            yield from cases_of(cell, dtype, structure not in seen)
        seen.add(structure)


def chosen_cases(quick: bool = False, cell: str = "") -> list[Case]:
    return [c for c in all_cases() if cell in c.name and (not quick or c.name.split(" ", 2)[2] in QUICK)]


def bits_of(a: Array) -> Array:
    """The bits of each element as an integer; any NaN as the same."""
    return np.asarray(np.where(np.isnan(a), np.array(np.nan, a.dtype), a).view(f"u{a.itemsize}"))


def digest(arrays: Arrays) -> str:
    sha = hashlib.sha256()
    for name, a in arrays.items():
        sha.update(f"{name} {a.dtype} {a.shape}".encode() + bits_of(a).astype(f"<u{a.itemsize}").tobytes())
    return sha.hexdigest()[:16]


def difference(a: Array, b: Array) -> str:
    """In words; nothing if there is none."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{a.dtype} {a.shape} against {b.dtype} {b.shape}"
    x, y = bits_of(a), bits_of(b)
    if np.array_equal(x, y):
        return ""
    differ = f"{np.count_nonzero(x != y)} of {a.size} elements differ"
    if (np.isnan(a) != np.isnan(b)).any():
        return f"{differ}, some by being NaN"
    top = x.dtype.type(1 << 8 * x.itemsize - 1)
    x, y = (np.where(n & top, ~n, n | top) for n in (x, y))  # integers in the order of the numbers
    return f"{differ}, by at most {np.max(np.maximum(x, y) - np.minimum(x, y))} ulp"


def verify(case: Case, isas: list[str]) -> tuple[str, list[str]]:
    """The hashes of outputs and gradients, and what differs among the ways to make them."""
    run = case.make()
    first: dict[str, tuple[str, Arrays]] = {}
    odd: dict[str, list[str]] = {}
    for isa, schedule in product(isas, case.schedules):
        name, threads = schedule.split()
        fusedrnn.set_isa(isa)
        fusedrnn.set_num_threads(int(threads))
        _core.set_schedule(name)
        for kind, call, arrays in run():
            way = f"{isa} {schedule} {call}".strip()
            first_way, want = first.setdefault(kind, (way, arrays))
            for array, a in arrays.items():
                if found := difference(want[array], a):
                    odd.setdefault(f"{kind} {array}: {found}: {first_way} against", []).append(way)
    hashes = " ".join(digest(arrays) for _, arrays in first.values())
    return hashes, [f"{case.name}: {what} {', '.join(ways)}" for what, ways in odd.items()]


def survey(cases: list[Case], isas: list[str]) -> tuple[dict[str, str], list[str]]:
    """The record of these cases, and what differs among the ways."""
    record, found = {}, []
    for case in cases:
        record[case.name], lines = verify(case, isas)
        found += lines
    return record, found


def unlike_record(record: dict[str, str], whole: bool = False) -> list[str]:
    """What differs from tools/bits.json, which with `whole` may have no more cases than this record."""
    known = json.loads(RECORD.read_text())["bits"]
    names = record | known if whole else record
    pairs = ((name, known.get(name, "nothing"), record.get(name, "nothing")) for name in names)
    return [f"{name}: recorded {old}, got {new}" for name, old, new in pairs if old != new]


def send(cases: list[Case], isas: list[str]) -> None:
    """To standard output: where the build is, then the arrays of each case, then None."""
    pickle.dump(fusedrnn.__file__, sys.stdout.buffer)
    fusedrnn.set_num_threads(1)
    for case in cases:
        run, arrays = case.make(), dict[str, Array]()
        for isa in isas:
            fusedrnn.set_isa(isa)
            for _, way, made in run():
                arrays |= {f"{isa} {way} {name}": a for name, a in made.items()}
        pickle.dump((case.name, arrays), sys.stdout.buffer)
    pickle.dump(None, sys.stdout.buffer)


def receive(build: str, options: list[str]) -> Iterator[tuple[str, Arrays]]:
    """What `send` says in a process that imports this build."""
    command = [sys.executable, __file__, "--send", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": build}) as process:
        assert process.stdout
        path = Path(pickle.load(process.stdout))
        if not path.resolve().is_relative_to(Path(build).resolve()):
            raise RuntimeError(f"{build}: expected a build that Python imports from there, got {path}")
        while item := pickle.load(process.stdout):
            yield item


def compare(builds: list[str], options: list[str]) -> Iterator[str]:
    for (case, a), (_, b) in zip(*(receive(build, options) for build in builds), strict=True):
        for name in a | b:
            what = difference(a[name], b[name]) if name in a and name in b else "in one build alone"
            if what:
                yield f"{case}: {name}: {what}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs="*", metavar="OLD NEW", help="two builds to compare with each other")
    parser.add_argument("--write", action="store_true", help="write the record")
    parser.add_argument("--quick", action="store_true", help="a few cases")
    parser.add_argument("--cell", default="", help="cases in whose name this occurs")
    parser.add_argument("--isa", choices=fusedrnn.available_isas(), help="this one alone")
    parser.add_argument("--send", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if len(args.builds) not in (0, 2) or (args.write and len(sys.argv) > 2):
        parser.error("expected two builds or none, and --write alone")
    cases, isas = chosen_cases(args.quick, args.cell), [args.isa] if args.isa else fusedrnn.available_isas()
    if args.send:
        return send(cases, isas)
    if args.builds:
        quick, isa = ["--quick"] * args.quick, [f"--isa={args.isa}"] if args.isa else []
        found = list(compare(args.builds, [*quick, *isa, f"--cell={args.cell}"]))
    else:
        record, found = survey(cases, isas)
        if not args.write:
            found += unlike_record(record, whole=not (args.quick or args.cell))
        elif not found:
            RECORD.write_text(json.dumps({"version": fusedrnn.__version__, "bits": record}, indent=1) + "\n")
    print(*found, f"{len(cases)} cases on {', '.join(isas)}: {len(found)} differences", sep="\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
