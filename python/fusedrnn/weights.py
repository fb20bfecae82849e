"""The weights of a cell: checked by its spec and copied once, on the backend where the arrays are."""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .aliases import Array, Maybe
from .backends import Loaded, load
from .cells.spec import DEFAULTS, HEADS, CellSpec
from .layers.arguments import whole
from .layers.numbers import seed_in_range
from .masks import NAMES, Mask, Sizes, of_seed, probabilities

CLASSES: dict[str, str] = {}  # the names of weights classes, by the names of their functions
MOST = 2**31 - 1  # of steps, rows and layers, when masks are made


class _Array:
    """A parameter of a weights object, read by its name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, w: Weights | None, owner: type) -> Any:
        return self if w is None else w._array(self.name)

    def __set__(self, w: Weights, value: Any) -> None:
        raise AttributeError(f"{self.name}: weights are a snapshot of arrays, and cannot be changed")


class _Option(_Array):
    """An option of a weights object, read by its name."""

    def __get__(self, w: Weights | None, owner: type) -> Any:
        return self if w is None else w._options[self.name]


class _Value(_Array):
    """A value that has a default, read by its name: one of the spec's, or else a probability of regularisation."""

    def __get__(self, w: Weights | None, owner: type) -> Any:
        return self if w is None else w._values.get(self.name, DEFAULTS.get(self.name, 0.0))


class Weights:
    """The base of the weights of all cells.

    A snapshot: later changes to the arrays have no effect; make a new object after each optimiser step. The arrays can
    be read back, read-only, under their names. Made from CUDA arrays (PyTorch's, CuPy's), they lie on that GPU, and
    calls on them run there. Made from arrays of another library that has DLPack and ``__array_namespace__``, such as
    JAX, they take and give arrays of that library, and copies of the weights. Weights can be copied and pickled.

    The weights of all cells take the options of regularisation, by name; forward then needs a seed, or masks:

    - zoneout_h, zoneout_c: the probability with which a unit of h, or of c, keeps its old value in a step; inference
      takes the expectation (Krueger et al. 2017);
    - input_dropout, recurrent_dropout: of units of x, and of h_prev where weight_hh multiplies it: one mask for all
      steps of a row (Gal & Ghahramani 2016);
    - candidate_dropout: of units of the candidate g, or n of a GRU (Semeniuta et al. 2016);
    - weight_dropout: of elements of weight_hh, one mask for a call (Merity et al. 2018).

    Dropout divides what it leaves by 1 minus its probability, and inference drops nothing. An option that a cell does
    not have raises ValueError.
    """

    if TYPE_CHECKING:
        weight_ih: Array
        weight_hh: Array
        bias_ih: Maybe
        bias_hh: Maybe
    else:  # PyTorch's four; None where a cell has no such parameter
        weight_ih, weight_hh, bias_ih, bias_hh = _Array(), _Array(), _Array(), _Array()
    if TYPE_CHECKING:
        zoneout_h: float
        zoneout_c: float
        input_dropout: float
        recurrent_dropout: float
        candidate_dropout: float
        weight_dropout: float
    else:
        zoneout_h, zoneout_c, input_dropout = _Value(), _Value(), _Value()
        recurrent_dropout, candidate_dropout, weight_dropout = _Value(), _Value(), _Value()
    _specs: tuple[CellSpec[Any, Any], ...] = ()  # of the family
    _names: tuple[str, ...] = ()  # of the parameters that any cell of the family has
    _initialised = False
    _loaded: Loaded
    _spec: CellSpec[Any, Any]
    _values: dict[str, Any]

    def __init_subclass__(cls, specs: tuple[CellSpec[Any, Any], ...] = (), **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._specs += specs
        for spec in specs:
            CLASSES[spec.family] = cls.__name__
            cls._names += tuple(name for name in spec.names if name not in cls._names)
        options = {name for spec in specs for name in (*spec.options, *spec.own_values)}
        values = {name for spec in specs for name in spec.values if name in DEFAULTS and name != HEADS}
        for kind, names in ((_Array, cls._names), (_Option, options), (_Value, values)):
            for name in names:
                attribute = kind()
                attribute.__set_name__(cls, name)
                setattr(cls, name, attribute)
        if specs or "__init__" in vars(cls):
            cls.__signature__ = _signature_of(cls) if specs else None  # type: ignore[attr-defined]

    def __init__(
        self,
        spec: CellSpec[Any, Any],
        arguments: dict[str, Any],
        backend: Callable[..., Loaded] = load,
    ) -> None:
        """`arguments` has the spec's parameters and values by name, and options of regularisation as a dict of that
        name; others are ignored."""
        if self._initialised:
            raise RuntimeError(f"{type(self).__name__}: weights are a snapshot, and cannot be initialised again")
        if not isinstance(spec, CellSpec):
            raise TypeError(f"spec: expected a CellSpec, got {type(spec).__name__}")
        if not isinstance(arguments, dict):
            raise TypeError(f"arguments: expected a dict, got {type(arguments).__name__}")
        arguments = dict(arguments)  # another thread may change it meanwhile
        for name in spec.own_values:
            if name not in arguments:
                raise TypeError(f"{name}: expected a value among the arguments, got none")
        given = arguments.get("regularisation")
        if given is not None and not isinstance(given, dict):
            raise TypeError(f"regularisation: expected a dict, got {type(given).__name__}")
        self._spec = spec
        arguments = arguments | spec.checked_values(arguments)
        self._values = spec.given_values(arguments) if spec.values else {}
        if given:
            self._values |= probabilities(type(self).__name__, spec, dict(given))
        self._loaded = backend(spec, arguments, self._values)
        self._initialised = True

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if not self._initialised and not name.startswith("__"):
                raise AttributeError(f"{type(self).__name__}: these weights have not been initialised")
            if self._initialised and name in self._spec.names:
                return self._array(name)
            if self._initialised and name in self._options:
                return self._options[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def spec(self) -> CellSpec[Any, Any]:
        return self._spec

    @property
    def cell(self) -> str:
        """The name of the cell."""
        return self._spec.cell

    @property
    def gates(self) -> str:
        """The gates in the order in which they are stacked, one letter each."""
        return self._spec.gates

    @property
    def input_size(self) -> int:
        return self._loaded.input_size

    @property
    def hidden_size(self) -> int:
        return self._loaded.hidden_size

    @property
    def proj_size(self) -> int:
        """The units of h and y: hidden_size in a cell without a projection."""
        return self._loaded.proj_size

    @property
    def num_heads(self) -> int:
        """The heads of a block-diagonal recurrence: a unit sees h of its own head."""
        return int(self._values.get(HEADS, 1))

    @property
    def dtype(self) -> Any:
        return self._loaded.dtype

    @property
    def _options(self) -> dict[str, Any]:
        return {**self._spec.options, **self._values}

    def _array(self, name: str) -> Any:
        return self._loaded.array(name) if name in self._spec.names else None

    def arrays(self) -> dict[str, Array | None]:
        """The arrays by the names of the arguments that gave them; None for an argument that was None."""
        return {name: self._array(name) for name in self._names or self._spec.names}

    @property
    def regularisation(self) -> dict[str, float]:
        """The options of regularisation that are not 0, by name."""
        return {name: self._values[name] for name in NAMES if name in self._values}

    def masks(self, seq_len: int, batch_size: int, seed: int, *, layer: int = 0, direction: int = 0) -> dict[str, Mask]:
        """The masks that a seed gives in a call of this size, by the names of the options that are not 0; forward takes
        them as `masks`. `docs/layers.md` says which numbers make them.

        Args:
            seq_len, batch_size: T and B.
            seed: as forward has it: an int of 64 bits.
            layer, direction: of layers, the place of the weights.

        Returns:
            Bool arrays, True where something is dropped, or keeps its old value: ``zoneout_h (T, B, H)``, ``zoneout_c``
            and ``candidate_dropout (T, B, H)``, ``input_dropout (B, I)``, ``recurrent_dropout (B, H)``, and
            ``weight_dropout`` of the shape of weight_hh. With a projection, h has P units.
        """
        steps, rows = (whole(name, n, 0, MOST) for name, n in (("seq_len", seq_len), ("batch_size", batch_size)))
        place = whole("layer", layer, 0, MOST), whole("direction", direction, 0, 1)
        sizes = Sizes(self.input_size, self.hidden_size, self.proj_size, steps, rows, self.num_heads)
        return of_seed(self._spec, self.regularisation, sizes, seed_in_range("seed", seed), *place)

    def on(self, backend: Callable[..., Loaded]) -> Weights:
        """The same weights on another backend."""
        other = self.__copy__()
        other._loaded = backend(self._spec, {name: self._array(name) for name in self._spec.names}, self._values)
        return other

    def __repr__(self) -> str:
        if not self._initialised:
            return f"<fusedrnn.{type(self).__name__}, not initialised>"
        options = [f"{name}={value!r}" for name, value in self._options.items()]
        given = [name for name, a in self.arrays().items() if a is not None]
        sizes = f"input_size={self.input_size}, hidden_size={self.hidden_size}, {self._loaded.format}"
        return f"<fusedrnn.{type(self).__name__} of {self.cell}, {', '.join([sizes, *options, *given])}>"

    def __copy__(self) -> Weights:
        other = object.__new__(type(self))
        _set_state(other, *_state(self))
        return other

    def __reduce_ex__(self, protocol: Any) -> Any:
        """By arrays, options and format, so that a copy is packed anew where it is made. A subclass may have a
        `__reduce__` of its own."""
        if type(self).__reduce__ is not object.__reduce__:
            return self.__reduce__()
        form = self._loaded.format
        arrays = {name: self._array(name) for name in self._spec.names}
        attributes, slots = _state(self)
        del attributes["_loaded"]
        return copyreg.__newobj__, (type(self),), (attributes, slots, arrays, form)  # type: ignore[attr-defined]

    def __setstate__(self, state: tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]) -> None:
        attributes, slots, arrays, form = state
        _set_state(self, attributes, slots)
        self._loaded = load(self._spec, arrays, self._values, form)


def _signature_of(cls: type[Weights]) -> inspect.Signature:
    """That of its constructor, with the options of regularisation in place of their dict."""
    found = list(inspect.signature(cls.__init__).parameters.values())[1:]
    plain = [p for p in found if p.kind is not p.VAR_KEYWORD]
    if len(plain) == len(found):
        return inspect.Signature(plain)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(plain + [inspect.Parameter(n, kind, default=0.0, annotation="float") for n in NAMES])


def _state(w: Weights) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes in the dict of the weights, and attributes in slots of subclasses."""
    slots = copyreg._slotnames(type(w))  # type: ignore[attr-defined]
    return dict(w.__dict__), {name: getattr(w, name) for name in slots if hasattr(w, name)}


def _set_state(w: Weights, attributes: dict[str, Any], slots: dict[str, Any]) -> None:
    w.__dict__.update(attributes)
    for name, value in slots.items():
        setattr(w, name, value)


def one_of(name: str, value: Any, valid: Iterable[str]) -> None:
    """Raises ValueError, naming the valid ones, if value is none of them."""
    try:
        known = value in valid
    except (TypeError, ValueError):  # one that cannot be looked up, or compared
        known = False
    if not known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, valid))}, got {value!r}")
