"""Garbage: values that no caller should pass, by kind. Each draw is a new object, made from random numbers alone."""

from __future__ import annotations

import decimal
import enum
import itertools
import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import fusedrnn
from cases import CELLS, DTYPES, Array

Rng = np.random.Generator
INTEGERS = [0, 1, -1, 2, 3, 7, 255, -128, 2**16, 2**30, 2**31 - 1, 2**31 - 2, 2**31, -(2**31), 2**32, 2**40]
INTEGERS += [2**62, 2**62 - 1, 2**63 - 1, -(2**63), 2**63, 2**64, 2**64 - 1, 2**70, -(2**70), 10**400]
ENDS = [2**31 - 1] * 3 + [2**31 - 2, 2**31, -(2**31)]
FLOATS = [0.0, -0.0, 1.0, -1.5, 1e-5, 5e-324, 1e-40, 1e308, float("inf"), float("-inf"), float("nan")]
LITTLE_DTYPES = [
    "f2",
    "f8",
    "f4",
    "i1",
    "i4",
    "i8",
    "u8",
    "?",
    "c8",
    "c16",
    "g",
    "O",
    "S4",
    "U3",
    "V4",
    "M8[s]",
    "m8[ns]",
]


NUMBERS = ("float32", "float64", "int64")
MOST_DIMENSIONS = 64 if int(np.__version__.split(".")[0]) >= 2 else 32


class Refusal(ValueError):
    """What the methods below raise."""


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise Refusal("asked")


class RaisesEverywhere:
    """Every protocol that a library may ask for is there, and raises."""

    __index__ = __int__ = __float__ = __complex__ = __len__ = __iter__ = __bool__ = __array__ = _refuse
    __getitem__ = __eq__ = __hash__ = __repr__ = __str__ = __format__ = __contains__ = __call__ = _refuse
    __fspath__ = __buffer__ = __array_finalize__ = __getstate__ = _refuse


class Obstinate:
    """A key of a dict that raises whatever else it is asked for."""

    def __hash__(self) -> int:
        return hash("bias_hh")

    __eq__ = __str__ = __repr__ = _refuse


class Emptier:
    """Empties the dict that it stands in, whatever it is asked: what asks next, of what it has from there, asks memory
    that is free."""

    def __init__(self, home: dict[Any, Any]) -> None:
        self.home = home

    def _empty(self, *args: Any) -> Any:
        self.home.clear()
        return -1

    __index__ = __len__ = __iter__ = __getitem__ = __array__ = __eq__ = _empty
    __hash__ = object.__hash__

    def __str__(self) -> str:
        self.home.clear()
        return "x"


class EmptyingArray(np.ndarray[Any, Any]):
    """An array that does so when it is copied."""

    home: dict[Any, Any] | None = None

    def __array_finalize__(self, obj: Any) -> None:
        if isinstance(obj, EmptyingArray) and obj.home is not None:
            obj.home.clear()


def emptied(value: dict[Any, Any], rng: Rng) -> dict[Any, Any]:
    """A dict of which a value, or a key of an object that is nowhere else, empties it."""
    copied = dict(value)
    names = [name for name in copied if type(name) is str]
    if not names or rng.random() < 0.4:
        copied[Emptier(copied)] = Anything()
        return copied
    name = names[rng.integers(len(names))]
    a = copied[name]
    if type(a) is np.ndarray and a.ndim > 0 and not a.dtype.hasobject and rng.random() < 0.7:
        pages = np.frombuffer(mmap.mmap(-1, 2 * a.nbytes + 1), a.dtype, 2 * a.size)  # which free memory is without
        wide: Any = pages[::2].reshape(a.shape).view(EmptyingArray)
        wide[...] = a
        wide.home = copied
        copied[name] = wide
    else:
        copied[name] = Emptier(copied)
    return copied


class Liar:
    """Answers that contradict each other: endless, then empty; an index that is no integer; an array that is none."""

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, key: Any) -> Any:
        raise IndexError(key)

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __index__(self) -> Any:
        return "1"

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return [1.0]


class Anything:
    """Has every attribute, each of which can be called and gives another such object."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Anything()


class Indexed:
    """An integer in all but name."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Number(int):
    pass


class Text(str):
    pass


class Pair(tuple[Any, ...]):
    """A tuple whose Python methods lie."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, key: Any) -> Any:
        raise Refusal("asked")


class Choice(enum.IntEnum):
    ONE = 1


class Awkward(np.ndarray[Any, Any]):
    """An array whose attributes raise, where Python is asked for them."""

    @property
    def dtype(self) -> Any:
        raise Refusal("asked")

    shape = flags = ndim = dtype


class Unfinished(np.ndarray[Any, Any]):
    """An array that cannot be copied or viewed."""

    def __array_finalize__(self, obj: Any) -> None:
        if isinstance(obj, Unfinished):
            raise Refusal("asked")


def an_integer(rng: Rng) -> int:
    """Half of the time one at the end of the range of C's int."""
    return INTEGERS[rng.integers(len(INTEGERS))] if rng.random() < 0.5 else ENDS[rng.integers(len(ENDS))]


def a_shape(rng: Rng, most_rank: int = 4) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(0, 7, rng.integers(0, most_rank + 1)))


def an_array(rng: Rng) -> Array:
    return np.ones(a_shape(rng), DTYPES[rng.integers(2)])


def of_another_dtype(rng: Rng) -> Array:
    if rng.random() < 0.2:
        return np.ones(a_shape(rng), ml_dtypes.bfloat16)
    return np.zeros(a_shape(rng), LITTLE_DTYPES[rng.integers(len(LITTLE_DTYPES))])


def structured(rng: Rng) -> Array:
    dtypes: list[Any] = ["f4,i4", [("a", "f4", (2, 2))], {"names": ["a"], "formats": ["f4"], "offsets": [3]}]
    return np.zeros(a_shape(rng), dtypes[rng.integers(3)])


def huge(rng: Rng) -> Array:
    """More elements than memory could hold, all of them the same few bytes."""
    shapes = [(1 << 30, 1 << 14, 3), (1 << 30, 1 << 28, 3), (1 << 45, 3), (1 << 58,), (1 << 20, 1 << 20, 1 << 18)]
    shape = shapes[rng.integers(len(shapes))]
    one = np.ones(3, DTYPES[rng.integers(2)])
    strides = tuple(one.itemsize if n == 3 else 0 for n in shape)
    return np.lib.stride_tricks.as_strided(one, shape, strides, writeable=bool(rng.integers(2)))


def huge_but_empty(rng: Rng) -> Array:
    shapes = [(2**40, 0, 3), (0, 2**40, 3), (2**40, 0), (2**58, 0), (0, 2**58), (2**40, 3, 0)]
    return np.empty(shapes[rng.integers(len(shapes))], DTYPES[rng.integers(2)])


def subclass(rng: Rng) -> Any:
    a = np.ones((2, 3), "f4")
    makers: list[Callable[[], Any]] = [
        lambda: np.ma.masked_array(a, mask=True),
        lambda: a.view(np.recarray),
        lambda: a.view(Awkward),
        lambda: a.view(Unfinished),
        lambda: np.char.array(["a"]),
    ]
    return makers[rng.integers(len(makers))]()


def text(rng: Rng) -> str:
    names = [
        "",
        "x",
        "\0",
        "\ud800",
        "a" * 10**5,
        "lstm\0",
        "é",
        "auto",
        "rows",
        "units",
        "tanh",
        "plain",
        "coupled",
        "n",
    ]
    names += ["float32", "tf32", "h0", "lengths", *fusedrnn.available_isas(), *paths()]
    names += cell_names()
    return names[rng.integers(len(names))]


@cache
def cell_names() -> list[str]:
    """Those of the native layer."""
    return [c.weights(**{n: np.zeros(s, "f4") for n, s in c.shapes(1, c.hidden_size(1)).items()}).cell for c in CELLS]


def paths() -> list[str]:
    """A folder, a text, an executable, nothing."""
    return ["/", str(Path(__file__).parent), __file__, "/proc/self/exe", "/nowhere", "/dev/null", "libm.so.6"]


def a_list(rng: Rng) -> Any:
    loop: list[Any] = []
    loop.append(loop)
    lists = [[], [1], [1.0, 2.0], [None], [[1, 2], [3]], ["1"], loop, [-1] * 3, [True], [2**70], [an_array(rng)]]
    return lists[rng.integers(len(lists))]


def a_tuple(rng: Rng) -> tuple[Any, ...]:
    tuples: list[tuple[Any, ...]] = [
        (),
        (None,),
        (None,) * 2,
        (None,) * 3,
        (1,),
        (an_array(rng),) * 2,
        Pair((None,) * 2),
    ]
    return tuples[rng.integers(len(tuples))]


def a_number(rng: Rng) -> Any:
    value = an_integer(rng)
    makers: list[Callable[[], Any]] = [
        lambda: Indexed(value),
        lambda: Number(value),
        lambda: Choice.ONE,
        lambda: Fraction(1, 3),
        lambda: decimal.Decimal(1),
        lambda: np.int8(rng.integers(-128, 128)),
        lambda: np.uint64(2**63),
        lambda: np.float32("nan"),
        lambda: np.float64(1.0),
        lambda: np.bool_(True),
        lambda: np.datetime64(0, "s"),
        lambda: 1j,
    ]
    return makers[rng.integers(len(makers))]()


def an_object(rng: Rng) -> Any:
    objects: list[Any] = [object(), ..., NotImplemented, object.__init__, len, np, fusedrnn, iter(""), range(3)]
    objects += [{1}, frozenset(), Anything(), Exception("x"), lambda: None, iter([1]), Path("/"), slice(None)]
    return objects[rng.integers(len(objects))]


def a_class(rng: Rng) -> Any:
    classes: list[Any] = [int, object, type, np.ndarray, np.float32, fusedrnn.Reserve, fusedrnn.Weights, Liar]
    return [*classes, fusedrnn.LSTMWeights, fusedrnn.GRUWeights][rng.integers(len(classes) + 2)]


def a_buffer(rng: Rng) -> Any:
    a: Any = np.ones((2, 3), "f4")
    return [memoryview(a), memoryview(b"abc"), bytearray(8), b"", b"\xff" * 12, a.data.cast("B")][rng.integers(6)]


def a_dict(rng: Rng) -> Any:
    dicts: list[Any] = [{}, {"x": 1}, {1: None}, {"weight_ih": an_array(rng)}, {"start": 1}, {"c_below": an_array(rng)}]
    dicts += [emptied({"start": 1}, rng)]
    return [*dicts, {Text("start"): None}, {Obstinate(): 1}][rng.integers(len(dicts) + 2)]


# Those that depend on nothing but random numbers; `garbage.py` adds weights and reserves.
POOL: dict[str, Callable[[Rng], Any]] = {
    "None": lambda rng: None,
    "bool": lambda rng: bool(rng.integers(2)),
    "int": an_integer,
    "float": lambda rng: FLOATS[rng.integers(len(FLOATS))],
    "number": a_number,
    "str": text,
    "str subclass": lambda rng: Text(text(rng)),
    "buffer": a_buffer,
    "list": a_list,
    "tuple": a_tuple,
    "dict": a_dict,
    "object": an_object,
    "class": a_class,
    "raises everywhere": lambda rng: RaisesEverywhere(),
    "liar": lambda rng: Liar(),
    "array": an_array,
    "array of another dtype": of_another_dtype,
    "array of another byte order": lambda rng: np.ones(a_shape(rng), ["f4", "f8", "i8"][rng.integers(3)]).astype(">f4"),
    "array of no dimensions": lambda rng: np.array(rng.random(), DTYPES[rng.integers(2)]),
    "array of many dimensions": lambda rng: np.ones((1,) * MOST_DIMENSIONS, "f4"),
    "structured array": structured,
    "huge array": huge,
    "huge but empty array": huge_but_empty,
    "subclass of array": subclass,
}


def changed_array(a: Any, rng: Rng) -> tuple[str, Any]:
    """An array that is almost the one that was right, and how it differs."""
    makers: dict[str, Callable[[], Any]] = {
        "dtype": lambda: a.astype(LITTLE_DTYPES[rng.integers(12)]),
        "byte order": lambda: a.astype(a.dtype.newbyteorder()),
        "bytes swapped": lambda: a.view(a.dtype.newbyteorder()),
        "an axis before": lambda: a[None],
        "an axis after": lambda: a[..., None],
        "an axis fewer": lambda: a[..., 0],
        "a column fewer": lambda: a[..., :-1],
        "a row fewer": lambda: a[1:],
        "twice the rows": lambda: np.concatenate([a, a]),
        "transposed": lambda: a.T,
        "flat": lambda: a.ravel(),
        "no columns": lambda: a[..., :0],
        "no rows": lambda: a[:0],
        "2^40 rows": lambda: np.lib.stride_tricks.as_strided(a, (1 << 40, *a.shape[1:]), (0, *a.strides[1:])),
        "2^40 rows of nothing": lambda: np.empty((2**40, 0, *a.shape[2:]), a.dtype),
        "awkward": lambda: a.view(Awkward),
        "unfinished": lambda: a.view(Unfinished),
        "masked": lambda: np.ma.masked_array(a),
        "a list": lambda: a.tolist(),
        "a memoryview": lambda: memoryview(a),
        "read-only": lambda: np.broadcast_to(a, a.shape),
        "NaN or huge": lambda: np.full_like(a, 2**62 if a.dtype.kind == "i" else np.nan),
        "negative": lambda: -a,
    }
    name = list(makers)[rng.integers(len(makers))]
    return f"nearly: {name}", makers[name]()


def nearly(value: Any, rng: Rng) -> tuple[str, Any]:
    """A value that is almost the one that was right, and its kind."""
    if type(value) is dict and rng.random() < 0.3:
        return "emptied dict", emptied(value, rng)
    if type(value) is np.ndarray and 0 < value.ndim < 4 and 0 < value.size < 1000 and str(value.dtype) in NUMBERS:
        return changed_array(value, rng)
    return f"nearly {type(value).__name__}", _nearly(value, rng)


def _nearly(value: Any, rng: Rng) -> Any:
    values: list[Any] = [None]
    if isinstance(value, bool):
        values = [int(value)]
    elif isinstance(value, int) and abs(value) < 2**60:
        values = [value + 1, value - 1, -value, float(value), str(value), Indexed(value), np.int64(value)]
    elif isinstance(value, str):
        values = [value + "x", value[:-1], value.upper(), value.encode(errors="replace"), Text(value), value + "\0"]
    elif type(value) is tuple:
        values = [value[1:], (*value, None), list(value), Pair(value), tuple(reversed(value))]
    elif type(value) is list:
        values = [value[1:], [*value, None], tuple(value), iter(value), value * 2]
    elif isinstance(value, dict):
        values = [dict(itertools.islice(value.items(), 1, None)), OrderedDict(value)]
        values += [value | {"unknown": 1}, value | {1: None}]
        named = {k: v for k, v in value.items() if type(k) is str}
        values += [{k: v for k, v in named.items() if k != "bias_hh"} | {Obstinate(): 1}]
        values += [{Text(k): v for k, v in named.items()}, {f"{k}x": v for k, v in named.items()}]
    return values[rng.integers(len(values))]
