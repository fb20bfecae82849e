"""A stack of layers of one cell, for NumPy arrays: inference, training, streams."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import _core
from ..aliases import Array, Lengths
from ..cells.spec import CellSpec, Parameter
from ..weights import Weights
from .arguments import Form, dtype_of, flag, form_of, number, whole
from .initial import initial
from .numbers import seed_in_range, seed_of, seed_of_call
from .options import Options
from .parameters import IncompatibleKeys, Parameters, Watch, load
from .results import gradients_of
from .stream import Stream
from .tape import Tape

RECURRENT = ("uniform", "orthogonal")
MOST_UNITS = 2**31 - 1
LAYERS: dict[str, type[Layer]] = {}  # the classes by their names


class Layer:
    """The base of the layers of all cells; each has a class of its own, such as `fusedrnn.LSTM`.

    Args:
        input_size: I, the numbers of a step of a row of the input.
        hidden_size: H, the units of a layer.
        num_layers: how many layers lie above each other; each reads the outputs of the one below.
        bias: False for layers without biases.
        batch_first: x and y are ``(B, T, .)``, as PyTorch has it; states are the same.
        dropout: the probability with which `forward` replaces an output of a layer below the highest by zero; the
            others are divided by ``1 - dropout``. Plain calls drop nothing.
        bidirectional: each layer also runs from the last step to the first; outputs lie side by side.
        proj_size: P, the units of h if it is projected (Sak et al. 2014); 0 for none. For `LSTM`.
        dtype: "float32" or "float64".
        rng: where initial parameters and masks of dropout come from: an int, a `numpy.random.Generator`, or None for
            the system. One int gives the same bits everywhere.
        forget_bias: the first value of biases of a gate f, such as 1 (Gers et al. 2000); None for that of other biases.
        recurrent_init: "uniform", or "orthogonal" for weight_hh with orthonormal columns, as Keras has it. The bits of
            orthogonal matrices depend on NumPy and its LAPACK.

    Parameters are named as in PyTorch: ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``,
    ``weight_ih_l0_reverse``, ...; those of a cell's own alike. At first all are uniform in ``+-1/sqrt(hidden_size)``,
    as in PyTorch, if the cell's own documentation says nothing else.

    Raises:
        ValueError: sizes, probabilities or options out of range; options that no cell has together.
        TypeError: an argument of another type; an unknown option.
    """

    _options: Options

    def __init_subclass__(cls, weights: type[Weights] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if weights is None:
            return
        cls._options = Options(weights)
        LAYERS[cls.__name__] = cls
        own = list(inspect.signature(Layer.__init__).parameters.values())
        arguments = [p for p in own if p.kind is not p.VAR_KEYWORD and (p.name != "proj_size" or cls._options.projects)]
        cls.__signature__ = inspect.Signature(arguments[1:] + cls._options.parameters())  # type: ignore[attr-defined]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype: Any = "float32",
        rng: Any = None,
        forget_bias: float | None = None,
        recurrent_init: str = "uniform",
        **options: Any,
    ) -> None:
        if not hasattr(self, "_options"):
            raise TypeError(f"Layer: expected the class of a cell, one of {', '.join(LAYERS)}")
        name = type(self).__name__
        self.input_size = whole("input_size", input_size, 1, MOST_UNITS)
        self.hidden_size = whole("hidden_size", hidden_size, 1, MOST_UNITS)
        self.num_layers = whole("num_layers", num_layers, 1, 1024)
        self.bias, self.batch_first = flag("bias", bias), flag("batch_first", batch_first)
        self.bidirectional = flag("bidirectional", bidirectional)
        self.dropout = number("dropout", dropout)
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout: expected a number in 0..1, got {dropout}")
        self.proj_size = whole("proj_size", proj_size, 0, self.hidden_size - 1)
        self.dtype = dtype_of(dtype)
        self.options = self._options.complete(name, options)
        self.spec: CellSpec[Any, Any] = self._options.choose(self.options, self.proj_size)
        self.seed = seed_of(rng)
        self._calls = 0  # of forward
        arrays = self._initial(forget_bias, recurrent_init)
        self._set_up({key: np.ascontiguousarray(a, self.dtype) for key, a in arrays.items()})
        if self.spec.values:  # checked, and in their own types, by weights
            self.options |= self._made_weights(0, 0)._values

    def _set_up(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays
        self._watch = Watch(arrays)
        self._weights: list[Weights] = []  # of each layer and direction, as last seen
        self._native: _core.Stack | None = None

    # Sizes.

    @property
    def num_directions(self) -> int:
        return 1 + self.bidirectional

    @property
    def output_size(self) -> int:
        """The numbers of a step of a row of y."""
        return self.num_directions * (self.proj_size or self.hidden_size)

    @property
    def num_parameters(self) -> int:
        """The numbers in all parameters."""
        return sum(a.size for a in self._arrays.values())

    def _places(self) -> list[tuple[int, int]]:
        """Layers and directions, in the order of states."""
        return [(layer, d) for layer in range(self.num_layers) for d in range(self.num_directions)]

    def _given(self) -> list[Parameter]:
        return [p for p in self.spec.parameters if self.bias or not p.is_bias]

    def _shape(self, p: Parameter, layer: int) -> tuple[int, ...]:
        return p.shape(self.output_size if layer else self.input_size, self.hidden_size, self.proj_size or None)

    def _initial(self, forget_bias: float | None, recurrent_init: str) -> dict[str, Array]:
        spec = self.spec
        if recurrent_init not in RECURRENT:
            raise ValueError(
                f"recurrent_init: expected one of {', '.join(map(repr, RECURRENT))}, got {recurrent_init!r}"
            )
        orthogonal = recurrent_init == "orthogonal"
        if orthogonal and (spec.recurrence is None or spec.mask is not None):
            raise ValueError(f"recurrent_init: expected 'uniform' for cell {spec.cell!r}, got {recurrent_init!r}")
        if forget_bias is not None:
            forget_bias = number("forget_bias", forget_bias)
            if "f" not in spec.gates or not self.bias:
                lacks = "no biases" if "f" in spec.gates else "no gate f"
                raise ValueError(f"forget_bias: expected None, as there are {lacks}, got {forget_bias}")
        arrays = {}
        for layer, d in self._places():
            for p in self._given():
                shape, place = self._shape(p, layer), {"layer": layer, "direction": d}
                value = initial(
                    spec, p, shape, self.hidden_size, self.seed, place, orthogonal=orthogonal, forget_bias=forget_bias
                )
                if spec.mask is not None and p is spec.recurrence:
                    value = value * spec.mask(self.hidden_size, self.options)
                arrays[_name(p.name, layer, d)] = value
        return arrays

    # Parameters.

    @property
    def parameters(self) -> Parameters:
        """The parameters by name: the layer's own arrays. A change in place has its effect in the next call."""
        self._watch.hand_out()
        return Parameters(self._arrays)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters by name, which `load_state_dict`, and PyTorch's with tensors of them, accept."""
        return {name: a.copy() for name, a in self._arrays.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copies parameters from arrays, or tensors of PyTorch, by name.

        Args:
            state_dict: by the names of the parameters, of their shapes and dtype.
            strict: whether each parameter must be there, and nothing else. Otherwise the parameters that are there are
                copied.

        Returns:
            ``missing_keys`` and ``unexpected_keys``, which are empty if strict.

        Raises:
            ValueError: names are missing or unexpected; shapes differ. TypeError: dtypes differ. All of them are named,
                and nothing has been copied.
        """
        self._watch.hand_out()
        return load(self._arrays, state_dict, strict)

    def save(self, path: Any) -> None:
        """Writes class, options and parameters to a file, which `fusedrnn.load` reads. The suffix says how: ``.npz``,
        or ``.safetensors`` (needs the package `safetensors`). A file of this name is replaced at the end, or not at
        all.

        Raises:
            ValueError: another suffix. ImportError: no package `safetensors`. OSError: the file cannot be written.
        """
        from .files import save

        save(self, path)

    def config(self) -> dict[str, Any]:
        """The arguments of the constructor that made it, but for those that initial values came from."""
        names = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
        names += ["proj_size"] if self._options.projects else []
        return {name: getattr(self, name) for name in names} | {"dtype": str(self.dtype)} | self.options

    def _arrays_of(self, layer: int, direction: int) -> dict[str, Array]:
        """By the names in the spec."""
        return {p.name: self._arrays[_name(p.name, layer, direction)] for p in self._given()}

    def _made_weights(self, layer: int, direction: int) -> Weights:
        values = {name: self.options[name] for name in self.spec.values}
        weights: Any = self._options.weights
        made: Weights = weights(**self._arrays_of(layer, direction), **self.spec.options, **values)
        return made

    def _stack(self) -> _core.Stack:
        """The native layers, whose weights are the parameters as they are now."""
        if self._native is not None and not self._watch.may_have_changed():
            return self._native
        self._watch.look_again()
        weights, changed = list(self._weights), self._native is None
        for i, (layer, d) in enumerate(self._places()):
            arrays = self._arrays_of(layer, d)
            if i < len(weights) and all(_core.same_bits(a, weights[i]._array(name)) for name, a in arrays.items()):
                continue
            weights[i : i + 1] = [self._made_weights(layer, d)]
            changed = True
        native = self._native
        if native is None or changed:
            native = _core.make_stack(tuple(w._loaded for w in weights), self.num_directions)
            self._weights, self._native = weights, native
        return native

    # Calls.

    def __call__(self, x: Array, state: Any = None, *, lengths: Lengths = None, **inputs: Any) -> Any:
        """Inference over a sequence: nothing is dropped, and nothing is kept.

        Args:
            x: ``(T, B, I)``; ``(B, T, I)`` with `batch_first`; ``(T, I)`` for one row.
            state: the initial state, h0, or a tuple ``(h0, c0)`` where the cell has several states, each ``(num_layers
                * num_directions, B, H)``, or without B for one row. None, also in place of one, for zeros.
            lengths: ``(B,)`` integers in 0..T, or None for T: how many steps each row has. Steps past them are not
                read.
            inputs: for `ClockworkRNN`, ``start``: the number of the first step, an int or ``(B,)`` integers.

        Returns:
            ``y``, as x, with ``num_directions*H`` units (of both directions side by side), zero past a row's length;
            and the states after each row's last step, ``h_n``, ``c_n``, as `state`. With a projection, h has P units.

        Raises:
            ValueError: shapes and values that do not fit. TypeError: an argument that is no array, or another dtype.
        """
        form, native = self._arguments(x, state, lengths, inputs)
        return self._outputs(form, self._stack().infer(*native))

    def forward(
        self, x: Array, state: Any = None, *, lengths: Lengths = None, seed: int | None = None, **inputs: Any
    ) -> tuple[Any, Tape]:
        """Forward for training, with dropout between layers. Arguments and outputs are those of a plain call, whose
        bits the outputs have if there is no dropout.

        Args:
            seed: of the masks of dropout, such as an earlier tape's; None for the next of the layer's own.

        Returns:
            The outputs, and a tape for `backward`.
        """
        form, (native_x, states, lengths, start) = self._arguments(x, state, lengths, inputs)
        dropout = self.dropout if self.num_layers > 1 else 0.0
        if seed is not None:
            seed = seed_in_range("seed", seed)
        elif dropout:
            seed = seed_of_call(self.seed, self._calls)
        stack = self._stack()
        results, kept, nbytes = stack.forward(native_x, states, lengths, start, dropout, seed or 0)
        self._calls += 1
        return self._outputs(form, results), Tape(self, stack, form, seed if dropout else None, kept, nbytes)

    def backward(self, tape: Tape, dy: Array | None = None, dstate: Any = None) -> Any:
        """Gradients of a loss, from its gradients with respect to the outputs of `forward`.

        Args:
            tape: from `forward`. It is used up.
            dy: as y, or None for zeros; not read past a row's length.
            dstate: the gradient of the last state, as `state`: dh_n, or a tuple ``(dh_n, dc_n)``; None for zeros.

        Returns:
            ``dx``, as x; the gradients of the initial state, ``dh0``, ``dc0``; and ``parameters``, a dict of the
            gradients of parameters by the names of the parameters.

        Raises:
            ValueError: a tape of another layer, or one that has been used; shapes that do not fit. TypeError: no tape;
                an argument that is no array, or another dtype.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected a Tape, as forward returns it, got {type(tape).__name__}")
        if tape._layer is not self:
            raise ValueError("tape: expected one of this layer's forward, got another layer's")
        form, spec = tape._form, self.spec
        symbol = "num_directions*" + ("proj_size" if self.proj_size else "hidden_size")
        dy = form.take("dy", symbol, self.output_size, dy)
        dstates = form.take_state(spec, "dstate", dstate)
        try:
            kept = tape._kept.pop()
        except IndexError:
            raise ValueError("tape: expected one that no backward has used, got one that has been used") from None
        try:
            results, parameters = tape._stack.backward(kept, dy, dstates)
        except BaseException:
            if not tape._stack.overwritten(kept):
                tape._kept.append(kept)
            raise
        gradients = {
            _name(p.name, layer, d): of_weights[f"d{p.name}"]
            for (layer, d), of_weights in zip(self._places(), parameters, strict=True)
            for p in self._given()
        }
        first = (form.give_state(results[f"d{s.name}0"]) for s in spec.states)
        return gradients_of(spec)(form.give(results["dx"]), *first, gradients)

    def stream(self, batch_size: int = 1) -> Stream:
        """A stream of this many rows: it runs step by step with the weights as they are now, and keeps its state.

        Raises:
            ValueError: a bidirectional layer, which has to see the last step before the first; a batch size below 1.
        """
        if self.bidirectional:
            raise ValueError("stream: expected a layer of one direction: the other one begins with the last step")
        batch_size = whole("batch_size", batch_size, 1, 2**40)
        return Stream(self, batch_size, _core.make_stream(self._stack(), batch_size))

    def _arguments(self, x: Any, state: Any, lengths: Any, inputs: dict[str, Any]) -> tuple[Form, tuple[Any, ...]]:
        for name in inputs:
            if name != self.spec.numbered:
                raise TypeError(f"{type(self).__name__}: unexpected argument {name!r}")
        form = form_of(x, self.input_size, self.batch_first)
        if lengths is not None and not form.batched:
            raise ValueError(
                f"lengths: expected None for one row, x (seq_len, input_size), got {type(lengths).__name__}"
            )
        start = inputs.get(self.spec.numbered) if self.spec.numbered else None
        states = form.take_state(self.spec, "state", state)
        return form, (form.take("x", "input_size", self.input_size, x), states, lengths, start)

    def _outputs(self, form: Form, results: dict[str, Any]) -> Any:
        y = form.give(results["y"])
        return self.spec.of_layer(y, *(form.give_state(results[f"{s.name}_n"]) for s in self.spec.states))

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        sizes = [str(self.input_size), str(self.hidden_size)]
        others = [
            f"{name}={value!r}"
            for name, value in self.config().items()
            if name not in ("input_size", "hidden_size") and value != defaults[name].default
        ]
        return f"{type(self).__name__}({', '.join(sizes + others)})"

    def __getstate__(self) -> dict[str, Any]:
        without = ("_arrays", "_watch", "_weights", "_native")
        return {name: value for name, value in self.__dict__.items() if name not in without} | {
            "arrays": self.state_dict()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self._set_up(state.pop("arrays"))
        self.__dict__.update(state)


def _name(parameter: str, layer: int, direction: int) -> str:
    """PyTorch's name."""
    return f"{parameter}_l{layer}{'_reverse' if direction else ''}"
