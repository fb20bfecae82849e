"""All that can be called, found by looking; and valid arguments, found by making valid calls and watching them."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import numpy as np

import fusedrnn
from cases import CELLS, Cell, Problem, given, make_problem, remade
from fusedrnn import _core, backends
from stacks import STACKED, make_layer

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Rng = np.random.Generator

# `fusedrnn.reference` is not here: it is a text to read, which leaves checks to NumPy.
MODULES = {"fusedrnn": fusedrnn, "fusedrnn.cuda": fusedrnn.cuda, "fusedrnn._core": _core}
PROTOCOLS: tuple[Callable[[Any], Any], ...] = (
    copy.copy,
    copy.deepcopy,
    pickle.dumps,
    repr,
    hash,
    bool,
    weakref.ref,
    dir,
)


@dataclass(frozen=True)
class Target:
    """Something to call; `home` and `name` are where callers find it, `owner` the class of `self` if it takes one."""

    path: str
    home: Any
    name: str
    function: Callable[..., Any]
    owner: Any = None

    @property
    def is_native(self) -> bool:
        """Whether the native layer gets the arguments as they are, `self` included."""
        is_python = inspect.isfunction(self.function) or inspect.isclass(self.function)
        return self.home is not None and not is_python


def _reader(name: str) -> Callable[[Any], Any]:
    return lambda self: getattr(self, name)


def _members(path: str, cls: type) -> list[Target]:
    """Methods and properties that a class defines itself. __init__ is one, as objects may get it late, or twice."""
    found: list[Target] = []
    if issubclass(cls, tuple):
        return found  # those of named tuples are Python's own
    for name, member in vars(cls).items():
        if name.startswith("_") and name not in ("__init__", "__repr__"):
            continue
        if isinstance(member, property):
            found.append(Target(f"{path}.{name}", cls, name, member.fget or member.__get__, cls))
        elif isinstance(member, (staticmethod, classmethod)):
            found.append(Target(f"{path}.{name}", cls, name, getattr(cls, name)))
        elif callable(member):
            found.append(Target(f"{path}.{name}", cls, name, member, cls))
        elif hasattr(member, "__get__"):
            found.append(Target(f"{path}.{name}", cls, name, _reader(name), cls))
    return found


@cache
def targets() -> list[Target]:
    """Everything, in an order that is the same in every process."""
    found: dict[str, Target] = {}
    seen: set[type] = set()
    for module_name, module in MODULES.items():
        for name in sorted(getattr(module, "__all__", dir(module))):
            value, path = getattr(module, name), f"{module_name}.{name}"
            if not callable(value) or (name.startswith("__") and name.endswith("__")):
                continue
            found[path] = Target(path, module, name, value)
            if inspect.isclass(value) and value not in seen:
                seen.add(value)
                found |= {t.path: t for t in _members(path, value)}
    for protocol in PROTOCOLS:
        path = f"{protocol.__module__}.{protocol.__qualname__}"
        found[path] = Target(path, None, "", protocol, object)
    return list(found.values())


def _gives_objects(cls: Any) -> bool:
    """Whether __new__ alone gives an object, which no constructor has seen. Native classes refuse."""
    try:
        cls.__new__(cls)
    except TypeError:
        return False
    return True


@cache
def uninitialised_classes() -> list[Any]:
    """Those of which there are objects that no constructor has seen; named tuples have no constructor."""
    classes = [t.function for t in targets() if inspect.isclass(t.function) and t.home is not None]
    return [c for c in classes if not issubclass(c, tuple) and _gives_objects(c)]


def parameters(target: Target, rng: Rng) -> list[tuple[str, str]]:
    """Names and types, as Python or pybind11 tells them; of one overload where there are several."""
    f = target.function
    if inspect.isclass(f) and "__init__" in vars(f):
        f = vars(f)["__init__"]
    if inspect.isfunction(f):
        return [(p.name, str(p.annotation)) for p in inspect.signature(f).parameters.values() if p.name != "self"]
    overloads = re.findall(r"^(?:\d+\. )?\w+\((.*)\) ->", f.__doc__ or "", re.MULTILINE)
    overloads = [text for text in overloads if text != "*args, **kwargs"]
    if not overloads:
        return []
    parts = re.split(r", (?![^\[]*\])", overloads[rng.integers(len(overloads))])
    pairs = [part.partition(": ")[::2] for part in parts if part not in ("/", "*", "")]
    return [(name, annotation) for name, annotation in pairs if name != "self"]


def exercise_layer(problem: Problem) -> None:
    layer = make_layer(problem.cell, 3, 6, 2, dropout=0.5, dtype=problem.x.dtype)
    x = problem.x[..., :1] + np.zeros(3, problem.x.dtype)
    layer(x)
    out, tape = layer.forward(x, seed=1)
    layer.backward(tape, out.y)
    packed = fusedrnn.Packed.from_padded(x, [max(1, len(x) - row) for row in range(x.shape[1])])
    out, tape = layer.forward(packed)
    layer.backward(tape, out.y).dx.to_padded()
    layer.load_state_dict(layer.state_dict())
    stream = layer.stream(x.shape[1])
    stream.step(x[0], np.empty((x.shape[1], layer.output_size), x.dtype))
    stream.state = stream.state
    stream.reset([0])
    stream.refresh()
    stream.clone()


@mock.patch.dict(backends._native_cells, clear=True)  # which are made once, else
def exercise(problem: Problem) -> None:
    """Every call that a user of a cell makes, and the reference's, which has the native layer read integers."""
    w = remade(problem.cell, problem.w)
    infer, forward, backward, step = problem.cell.functions()
    infer(problem.x, w, *problem.states, **problem.kwargs)
    new = step(problem.x[0], w, *problem.states)
    out = tuple(np.empty_like(a) for a in (new if isinstance(new, tuple) else (new,)))
    step(problem.x[0], w, *problem.states, out=out if len(out) > 1 else out[0])
    _, reserve = forward(problem.x, w, *problem.states, **problem.kwargs)
    backward(reserve, problem.dy, *problem.dstates)
    if problem.cell in STACKED:
        exercise_layer(problem)
    problem.cell.functions(fusedrnn.reference)[0](problem.x, w, *problem.states, **problem.kwargs)
    given(w)


def problem_of(cell: Cell, rng: Rng) -> Problem:
    """A small one, without some of what need not be given."""
    T, B, I, H = (int(rng.integers(1, most)) for most in (4, 4, 5, 6))
    dtype = "float32" if rng.integers(2) else "float64"
    problem = make_problem(cell, (T, B, I, H), dtype, rng, lengths=bool(rng.integers(2)), reverse=bool(rng.integers(2)))
    kept = {name: a for name, a in given(problem.w).items() if name in cell.required or rng.random() < 0.7}
    problem.w = cell.weights(**kept)
    if rng.random() < 0.5:
        problem.states, problem.dstates = [], []
        problem.kwargs.pop("lengths", None)
    return problem


def _place(target: Target) -> tuple[Any, str] | None:
    """Where a function can be put in the place of the target, to watch its arguments."""
    if target.home is None:
        return None
    home, name = (target.function, "__init__") if inspect.isclass(target.function) else (target.home, target.name)
    if name not in vars(home) or isinstance(vars(home)[name], property):
        return None
    return (home, name) if callable(getattr(home, name)) else None


def _noting(path: str, function: Callable[..., Any], called: set[str]) -> Callable[..., Any]:
    def note(*args: Any, **kwargs: Any) -> Any:
        called.add(path)
        return function(*args, **kwargs)

    return note


@cache
def callers() -> dict[str, list[Cell]]:
    """The cells whose calls reach a target, by the target's path."""
    reached: dict[str, list[Cell]] = {}
    for cell in CELLS:
        rng, called = np.random.default_rng(0), set[str]()
        problem = make_problem(cell, (1, 1, 1, 1), "float32", rng, lengths=True)
        with ExitStack() as patches:
            for target in targets():
                if place := _place(target):
                    patches.enter_context(mock.patch.object(*place, _noting(target.path, getattr(*place), called)))
            exercise(problem)
        for path in called:
            reached.setdefault(path, []).append(cell)
    return reached


class _Captured(Exception):
    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.arguments: Arguments = args, kwargs


def _capture(*args: Any, **kwargs: Any) -> Any:
    raise _Captured(args, kwargs)


def valid_arguments(target: Target, rng: Rng) -> Arguments | None:
    """Those of a valid call, `self` left out, watched and not made; None where no cell's calls reach the target."""
    place, cells = _place(target), callers().get(target.path)
    if place is None or not cells:
        return None
    some = [cells[i] for i in rng.integers(len(cells), size=3)]
    problem = problem_of(max(some, key=lambda cell: len(cell.extras)), rng)  # rather one with many arguments
    with mock.patch.object(*place, _capture):
        try:
            exercise(problem)
        except _Captured as e:
            args, kwargs = e.arguments
            takes_self = inspect.isclass(target.function) or target.owner is not None
            return (args[1:] if takes_self else args), kwargs
    return None  # reached only by weights that have what this one's have not
