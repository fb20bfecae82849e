"""Garbage for everything that can be called: an answer or one of a few exceptions, and nothing broken afterwards."""

from __future__ import annotations

import os
import re
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

import fusedrnn
from cases import CELLS, Cell, make_problem
from fusedrnn import _core, backends
from stacks import STACKED, make_layer

from . import pool
from .follow import Log, shape_of
from .known import Known, known
from .memory import growth
from .pool import POOL, Rng, nearly
from .targets import (
    Target,
    callers,
    parameters,
    problem_of,
    targets,
    uninitialised_classes,
    valid_arguments,
)

EXPECTED = (ValueError, TypeError, MemoryError, NotImplementedError, OverflowError)
MOST_MEMORY = 4 << 30
LEAK_CHECK_EVERY = 200  # calls

# As long as they are asked to be: larger integers than this one are left out where they are valid.
# The most rounds of probes; meetings also take threads, and each round of many threads is slow.
PROBES = {"probe_fma": 2**16, "probe_read": 2**16, "probe_meeting": 32}

PATHS = [*(os.fsencode(path) for path in pool.paths()), b"", b"/\xff"]
VARIABLES = (b"FUSEDRNN_CUDA_DRIVER", b"FUSEDRNN_CUDA_NVML", b"FUSEDRNN_CUDA_KERNELS")


def weights(rng: Rng) -> Any:
    return problem_of(CELLS[rng.integers(len(CELLS))], rng).w


def reserve(rng: Rng, used: bool = False) -> Any:
    problem = problem_of(CELLS[rng.integers(len(CELLS))], rng)
    _, forward, backward, _ = problem.cell.functions()
    _, kept = forward(problem.x, problem.w, *problem.states, **problem.kwargs)
    if used:
        backward(kept, problem.dy)
    return kept


def constructor_of(cls: Any) -> Target:
    return next(t for t in targets() if t.function is cls)


@cache
def early(cls: Any) -> Any:
    """A subclass whose objects read what they can before the constructor of the class has run."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in dir(cls):
            with suppress(AttributeError):
                getattr(self, name)
        cls.__init__(self, *args, **kwargs)

    name = f"Early{cls.__name__}"
    globals()[name] = type(name, (cls,), {"__init__": __init__, "__module__": __name__})  # where pickle finds it
    return globals()[name]


def uninitialised(rng: Rng, base: type) -> Any:
    """An object that no constructor has seen, or one that its constructor has refused."""
    classes = [c for c in uninitialised_classes() if issubclass(c, base)]
    cls = classes[rng.integers(len(classes))]
    made = cls if rng.random() < 0.7 else early(cls)
    w = made.__new__(made)
    if rng.random() < 0.5 and (arguments := valid_arguments(constructor_of(cls), rng)):
        with suppress(*EXPECTED):
            w.__init__(*arguments[0], **arguments[1] | {"weight_hh": None})
    return w


def early_weights(rng: Rng) -> Any:
    cls: Any = type(weights(rng))
    arguments = valid_arguments(constructor_of(cls), rng)
    return weights(rng) if arguments is None else early(cls)(*arguments[0], **arguments[1])


def kept(rng: Rng) -> Any:
    """What the native layer's forward gives for backward."""
    return reserve(rng)._kept


def layer(rng: Rng) -> fusedrnn.Layer:
    cell = STACKED[rng.integers(len(STACKED))]
    return make_layer(cell, 2, 6, int(rng.integers(1, 3)), bidirectional=bool(rng.random() < 0.3), dropout=0.5, rng=0)


def tape(rng: Rng, used: bool = False) -> fusedrnn.Tape:
    of = layer(rng)
    out, made = of.forward(np.ones((2, 3, 2), "float32"))
    if used:
        of.backward(made, out.y)
    return made


def stream(rng: Rng) -> fusedrnn.Stream:
    return make_layer(STACKED[rng.integers(len(STACKED))], 2, 6, 2, rng=0).stream(int(rng.integers(1, 4)))


NATIVE: dict[str, Callable[[Rng], Any]] = {
    "weights": weights,
    "reserve": reserve,
    "used reserve": lambda rng: reserve(rng, used=True),
    "uninitialised weights": lambda rng: uninitialised(rng, fusedrnn.Weights),
    "uninitialised reserve": lambda rng: uninitialised(rng, fusedrnn.Reserve),
    "early weights": early_weights,
    "native weights": lambda rng: weights(rng)._loaded,
    "native cell": lambda rng: backends.native_cell(weights(rng).spec),
    "spec": lambda rng: weights(rng).spec,
    "kept": kept,
    "memory": lambda rng: kept(rng)[0],
    "layer": layer,
    "uninitialised layer": lambda rng: uninitialised(rng, fusedrnn.Layer),
    "tape": tape,
    "used tape": lambda rng: tape(rng, used=True),
    "stream": stream,
    "packed": lambda rng: fusedrnn.Packed.from_padded(np.ones((3, 2, 2), "float32"), [1 + rng.integers(3), 3]),
    "native stack": lambda rng: layer(rng)._stack(),
    "native stream": lambda rng: stream(rng)._native,
    "kept by a stack": lambda rng: tape(rng)._kept,
}
KINDS = POOL | NATIVE
# Native classes whose objects there are without a GPU.
NATIVE_OBJECTS = {
    _core.Weights: "native weights",
    _core.Cell: "native cell",
    _core.Memory: "memory",
    _core.Stack: "native stack",
    _core.Stream: "native stream",
}


def draw_kind(rng: Rng) -> tuple[str, Any]:
    kind = list(KINDS)[rng.integers(len(KINDS))]
    return kind, KINDS[kind](rng)


def describe(value: Any, depth: int = 3) -> str:
    """In words, without a call of anything that the value defines."""
    kind = type(value)
    if kind in (tuple, list) and depth > 0:
        inner = ", ".join(describe(v, depth - 1) for v in value[:6]) + (", ..." if len(value) > 6 else "")
        return f"[{inner}]" if kind is list else f"({inner}{',' if len(value) == 1 else ''})"
    if kind is dict and depth > 0:
        return "{" + ", ".join(f"{describe(k)}: {describe(v, depth - 1)}" for k, v in value.items()) + "}"
    if isinstance(value, np.ndarray):
        plain = np.ndarray.view(value, np.ndarray)
        return f"<{kind.__name__} {plain.dtype} {plain.shape} strides {plain.strides}>"
    if kind is int and abs(value) > 2**80:
        return f"<int of {value.bit_length()} bits>"
    if value is None or kind in (int, float, bool, str, bytes, np.int64, np.float64):
        text = repr(value)
        return text if len(text) < 60 else f"{text[:50]}...{len(value)}"
    return f"<class {value.__name__}>" if kind is type else f"<{kind.__module__}.{kind.__qualname__}>"


Path = tuple[int | str, ...]


@dataclass
class Call:
    target: Target
    args: list[Any]
    kwargs: dict[str, Any]
    kinds: list[str] = field(default_factory=list)
    environment: dict[bytes, bytes] = field(default_factory=dict)
    outputs: tuple[int | str, ...] = ()  # where arguments stand that may be written to

    def describe(self) -> str:
        parts = [*map(describe, self.args), *(f"{k}={describe(v)}" for k, v in self.kwargs.items())]
        environment = "".join(f"{os.fsdecode(k)}={os.fsdecode(v)} " for k, v in self.environment.items())
        kinds = f"  # {', '.join(self.kinds)}" if self.kinds else ""
        return f"{environment}{self.target.path}({', '.join(parts)}){kinds}"

    def make(self) -> Any:
        return self.target.function(*self.args, **self.kwargs)

    def places(self) -> Iterator[tuple[Path, Any]]:
        """Where values stand, in tuples, lists and dicts too."""

        def inside(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
            yield path, value
            if type(value) in (tuple, list) and len(path) < 4:
                for i, v in enumerate(value):
                    yield from inside((*path, i), v)
            if type(value) is dict and len(path) < 4:
                for key, v in value.items():
                    if type(key) is str:
                        yield from inside((*path, key), v)

        for i, value in enumerate(self.args):
            yield from inside((i,), value)
        for name, value in self.kwargs.items():
            yield from inside((name,), value)

    def put(self, path: Path, new: Any) -> None:
        def within(value: Any, rest: Path) -> Any:
            if not rest:
                return new
            if type(value) is dict:
                return {key: within(v, rest[1:]) if key is rest[0] else v for key, v in value.items()}
            return type(value)(within(v, rest[1:]) if i == rest[0] else v for i, v in enumerate(value))

        first, *rest = path
        if isinstance(first, int):
            self.args[first] = within(self.args[first], tuple(rest))
        else:
            self.kwargs[first] = within(self.kwargs[first], tuple(rest))


# The kind of values by words in the type that a parameter has; the first that is found counts.
KIND_OF_TYPE = {"Sequence": "list", "Iterable": "list", "tuple": "tuple", "dict": "dict", "Mapping": "dict"}
KIND_OF_TYPE |= {"bool": "bool", "str": "str", "Weights": "weights", "Reserve": "reserve", "CellSpec": "spec"}
KIND_OF_TYPE |= {"Cell": "native cell", "int": "int", "Int": "int", "Array": "array", "ndarray": "array"}


def plausible(annotation: str, rng: Rng) -> tuple[str, Any]:
    """A value of the type that a parameter has, or any."""
    if rng.random() < 0.4:
        return draw_kind(rng)
    kind = next((kind for word, kind in KIND_OF_TYPE.items() if word in annotation), None)
    return draw_kind(rng) if kind is None else (kind, KINDS[kind](rng))


@cache
def instances_of(owner: Any) -> list[Cell]:
    """The cells whose weights are of a class."""
    rng = np.random.default_rng(0)
    return [c for c in CELLS if isinstance(make_problem(c, (1, 1, 1, 1), "float32", rng).w, owner)]


# What protocols are asked of.
HOLDERS = [kind for kind in NATIVE if kind != "spec"]


def draw_self(target: Target, rng: Rng) -> tuple[str, Any]:
    """An object to call a method of; where the native layer looks at it first, also one of another class."""
    owner, kind = target.owner, ""
    if target.is_native and rng.random() < 0.3:
        return draw_kind(rng)
    if target.home is None:
        kind = HOLDERS[rng.integers(len(HOLDERS))]
    elif owner in NATIVE_OBJECTS:
        kind = NATIVE_OBJECTS[owner]
    elif rng.random() < (0.5 if target.name == "__init__" else 0.2) and owner in uninitialised_classes():
        return f"uninitialised {owner.__name__}", uninitialised(rng, owner)
    elif issubclass(owner, fusedrnn.Reserve):
        kind = ["reserve", "used reserve"][rng.integers(2)]
    elif issubclass(owner, fusedrnn.Tape):
        kind = ["tape", "used tape"][rng.integers(2)]
    elif issubclass(owner, fusedrnn.Packed):
        kind = "packed"
    elif issubclass(owner, (fusedrnn.Layer, fusedrnn.Stream)):
        kind = "layer" if issubclass(owner, fusedrnn.Layer) else "stream"
    elif cells := instances_of(owner):
        return "weights", problem_of(cells[rng.integers(len(cells))], rng).w
    return (kind, KINDS[kind](rng)) if kind else draw_kind(rng)


def another(value: Any, rng: Rng) -> tuple[str, Any]:
    """Another value of the same type."""
    kind = "array" if isinstance(value, np.ndarray) else type(value).__name__
    return (kind, KINDS[kind](rng)) if kind in KINDS else draw_kind(rng)


def change_number(call: Call, rng: Rng) -> None:
    """Takes an argument away, or adds one."""
    call.kinds.append("number of arguments")
    if call.args and rng.random() < 0.5:
        del call.args[rng.integers(len(call.args))]
    elif rng.random() < 0.5:
        call.args.append(draw_kind(rng)[1])
    else:
        call.kwargs["unknown"] = None


def change_value(call: Call, rng: Rng) -> None:
    """Replaces a value: by one that is almost the same, one of the same type, that of another argument, or any."""
    places = list(call.places())
    integers = [path for path, old in places if type(old) is int]
    if integers and rng.random() < 0.3:  # counts and sizes are what arithmetic overflows by
        call.kinds.append("int")
        call.put(integers[rng.integers(len(integers))], pool.an_integer(rng))
        return
    if rng.random() < 0.5:  # arrays are many
        places = [(path, old) for path, old in places if not isinstance(old, np.ndarray)] or places
    path, old = places[rng.integers(len(places))]
    way = rng.choice(["nearly", "another", "borrowed", "any"], p=(0.35, 0.2, 0.1, 0.35))
    if way == "borrowed":
        kind, new = "another argument's", places[rng.integers(len(places))][1]
    else:
        kind, new = nearly(old, rng) if way == "nearly" else another(old, rng) if way == "another" else draw_kind(rng)
    call.kinds.append(kind)
    call.put(path, new)


def mutate(call: Call, rng: Rng) -> None:
    if rng.random() < 0.06 or not (call.args or call.kwargs):
        change_number(call, rng)
    else:
        change_value(call, rng)


def draw_target(rng: Rng) -> Target:
    """Mostly one that the calls of cells reach, and of those mostly the native layer's."""
    if rng.random() < 0.4:
        return targets()[rng.integers(len(targets()))]
    reached = reached_targets(bool(rng.random() < 0.6))
    return reached[rng.integers(len(reached))]


@cache
def reached_targets(native: bool) -> list[Target]:
    reached = [t for t in targets() if t.path in callers() and t.path.startswith("fusedrnn._core.") == native]
    return [t for t in reached if t.owner is None or parameters(t, np.random.default_rng(0))]


def draw_call(rng: Rng) -> Call:
    target = draw_target(rng)
    valid = valid_arguments(target, rng) if rng.random() < 0.75 else None
    wanted = [] if target.home is None else parameters(target, rng)
    names = [name for name, _ in wanted]
    if valid is not None:
        call = Call(target, list(valid[0]), dict(valid[1]))
        for _ in range([0, 1, 1, 1, 1, 1, 2, 3][rng.integers(8)]):
            mutate(call, rng)
    else:
        drawn = [plausible(annotation, rng) for _, annotation in wanted]
        call = Call(target, [value for _, value in drawn], {}, [kind for kind, _ in drawn])
        if drawn and rng.random() < 0.1:
            mutate(call, rng)
    if target.owner is not None:
        kind, self = draw_self(target, rng)
        call.args.insert(0, self)
        call.kinds.append(f"self: {kind}")
        names.insert(0, "self")
    call.outputs = ("out", names.index("out")) if "out" in names else ()
    if target.home is fusedrnn.cuda or target.name == "show_config":
        call.environment = {name: PATHS[rng.integers(len(PATHS))] for name in VARIABLES if rng.random() < 0.6}
    return call


def fingerprints(call: Call) -> dict[Path, int]:
    """Of all arrays that are given, but for those that may be written to; of huge ones, of the few bytes behind. And of
    weights, from when they have been made: nothing changes them."""
    found = {}
    for path, value in call.places():
        if isinstance(value, fusedrnn.Weights) and "_loaded" in vars(value):
            arrays = [b"" if a is None else a.tobytes() for a in value.arrays().values()]
            found[path] = zlib.crc32(b"|".join([repr(value).encode(), *arrays]))
        if not isinstance(value, np.ndarray) or path[0] in call.outputs:
            continue
        plain = np.ndarray.view(value, np.ndarray)
        while plain.size > 2**20 and isinstance(plain.base, np.ndarray):
            plain = plain.base
        if not plain.dtype.hasobject and plain.size <= 2**20:
            found[path] = zlib.crc32(plain.tobytes())
    return found


def is_as_long_as_asked(call: Call) -> bool:
    integers = (v.value if isinstance(v, pool.Indexed) else v for v in call.args)
    return call.target.name in PROBES and any(
        isinstance(v, (int, np.integer)) and PROBES[call.target.name] < v <= 2**40 for v in integers
    )


@contextmanager
def restored(environment: dict[bytes, bytes]) -> Iterator[None]:
    """With these variables; settings and variables are afterwards what they were before."""
    isa, threads, products = fusedrnn.isa(), fusedrnn.get_num_threads(), fusedrnn.cuda.get_float32_products()
    machine = _core.machine()
    before = {name: os.environb[name] for name in environment if name in os.environb}
    os.environb.update(environment)
    try:
        yield
    finally:
        for name in environment:
            del os.environb[name]
        os.environb.update(before)
        fusedrnn.set_isa(isa)
        fusedrnn.set_num_threads(threads)
        fusedrnn.cuda.set_float32_products(products)
        _core.set_schedule("auto")
        if _core.machine() != machine:
            _core.set_machine(machine)


@cache
def known_good() -> list[Known]:
    """A problem of each cell."""
    rng = np.random.default_rng(0)
    return [known(cell, (3, 2, 3, 9), rng) for cell in CELLS]


def slots_of(kind: type) -> set[str]:
    return {name for k in kind.__mro__ for name in getattr(k, "__slots__", ())}


def is_of_uninitialised(call: Call, e: AttributeError) -> bool:
    """Whether an object was given that has not been initialised, and it is one of its attributes that is missing."""
    kinds, text = " ".join(call.kinds).lower(), str(e)
    for kind in (fusedrnn.Reserve, fusedrnn.Packed):
        if f"uninitialised {kind.__name__.lower()}" in kinds and any(name in text for name in slots_of(kind)):
            return True
    name = re.search(r"no attribute '(\w+)'", text)
    own = text.endswith("these weights have not been initialised") or (name and name.group(1) in weights_attributes())
    return "uninitialised" in kinds and bool(own)


@cache
def weights_attributes() -> set[str]:
    """The attributes of the weights of any cell, and of layers, tapes and streams."""
    rng = np.random.default_rng(0)
    names = {name for cls in uninitialised_classes() if issubclass(cls, fusedrnn.Weights) for name in dir(cls)}
    return names | {name for made in (layer(rng), tape(rng), stream(rng)) for name in dir(made)}


def kind_of(e: Exception) -> str:
    return next(t.__name__ for t in EXPECTED if isinstance(e, t))


def attempt(call: Call) -> tuple[str, str | None]:
    """What came of a call, in a word; and what is wrong with that."""
    try:
        call.make()
    except EXPECTED as e:
        wrong = call.target.path == "fusedrnn.cuda.is_available" and not call.args and not call.kwargs
        return kind_of(e), f"expected never to raise, raised {type(e).__name__}: {e}" if wrong else None
    except AttributeError as e:
        return type(e).__name__, None if is_of_uninitialised(call, e) else f"raised {type(e).__name__}: {e}"
    except RuntimeError as e:
        second = call.target.name == "__init__" and str(e).endswith("and cannot be initialised again")
        known = second or str(e).startswith("CUDA")
        return type(e).__name__, None if known else f"raised {type(e).__name__}: {e}"
    except Exception as e:
        return type(e).__name__, f"raised {type(e).__name__}: {e}"
    return "answer", None


def check_leaks(call: Call) -> str | None:
    with restored(call.environment):
        return growth(lambda: attempt(call))


def make_call(seed: int, index: int, log: Log, withheld: set[str]) -> None:
    log.begin(index, "draw", f"a call of seed {seed}, number {index}")
    call = draw_call(np.random.default_rng([seed, 2, index]))
    path = call.target.path
    log.begin(index, path, call.describe(), call.kinds)
    if withheld & {*call.kinds, *(f"{path}|{kind}" for kind in call.kinds)}:
        log.count("withheld")
    elif is_as_long_as_asked(call):
        log.count("left out")
    else:
        check(call, index, log)


def check(call: Call, index: int, log: Log) -> None:
    """Makes a call and holds what is expected of it."""
    path = call.target.path
    before, start = fingerprints(call), time.monotonic()
    with restored(call.environment):
        outcome, wrong = attempt(call)
    seconds = time.monotonic() - start
    log.count("calls", outcome)
    if wrong:
        log.failure(f"{outcome}: {shape_of(wrong)}", wrong[:400])
    after = fingerprints(call)
    if changed := [where for where, a in before.items() if after.get(where, a) != a]:  # some dicts empty themselves
        log.failure(f"{path}: inputs changed", f"inputs changed: arguments {changed}")
    good = known_good()[index % len(CELLS)]
    if not good.holds():
        log.failure(f"{path}: other bits", f"afterwards {good.problem.cell.name} gives other bits than before")
    if index % LEAK_CHECK_EVERY == LEAK_CHECK_EVERY - 1 and seconds < 0.005:
        log.count("leak checks")
        if grown := check_leaks(call):
            log.failure(f"{path}: memory", f"memory: {grown}")


def prepare() -> None:
    """Before the first call: little memory, so that what is too large is refused at once; the bits that are right."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    known_good()
