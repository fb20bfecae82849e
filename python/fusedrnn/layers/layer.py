"""A stack of layers of one cell, for NumPy arrays: inference, training, streams."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..aliases import Array, Lengths, Resets
from ..cells.spec import CellSpec
from ..masks import Mask, Masks, source_of
from ..weights import Weights
from .arguments import Form, PackedForm, flag, form_of, probability, whole
from .config import Config, config_of, name_of
from .initial import Initial
from .masks import copied, of_seed, options_of
from .numbers import Calls, seed_in_range, seed_of, seed_of_call
from .options import Options
from .packed import Packed
from .parameters import IncompatibleKeys, Parameters, Seen, Watch, load
from .results import gradients_of
from .stream import Stream
from .tape import Tape

LAYERS: dict[str, type[Layer]] = {}  # the classes of the families by their names: `cells.families` has all of them


class _Fixed:
    """An attribute of the layer's configuration, which does not change."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: Layer | None, owner: type) -> Any:
        return self if layer is None else getattr(layer._config, self.name)

    def __set__(self, layer: Layer, value: Any) -> None:
        raise AttributeError(f"{self.name}: a layer keeps its sizes and options: make another one")


class _Probability(_Fixed):
    """An option of regularisation."""

    def __get__(self, layer: Layer | None, owner: type) -> Any:
        return self if layer is None else layer._config.regularisation.get(self.name, 0.0)


class _Snapshot(NamedTuple):
    """Parameters as they were last seen. In one piece, as several threads may look and pack at once: the last one's
    stays, and each knows how old its own is."""

    native: _core.Stack
    weights: list[Weights]  # in it, of each layer and direction
    seen: Seen  # before they were compared with the parameters, or copied


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
        proj_size: P, the units of h if it is projected (Sak et al. 2014); 0 for none.
        dtype: "float32" or "float64".
        zoneout_h, zoneout_c, input_dropout, recurrent_dropout, candidate_dropout, weight_dropout: probabilities of
            what `forward` drops, or keeps, in each layer and direction: see `Weights`.
        rng: where initial parameters and masks of dropout come from: an int, a `numpy.random.Generator`, or None for
            the system. One int gives the same bits everywhere.
        forget_bias: the first value of bias_ih of a gate f, such as 1 (Gers et al. 2000), and 0 for its bias_hh; None
            for the same as other biases.
        recurrent_init: "uniform", or "orthogonal" for weight_hh with orthonormal columns, as Keras has it. The bits of
            orthogonal matrices depend on NumPy and its LAPACK.

    Parameters are named as in PyTorch: ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``,
    ``weight_ih_l0_reverse``, ...; those of a cell's own alike. At first all are uniform in ``+-1/sqrt(hidden_size)``,
    as in PyTorch, if the cell's own documentation says nothing else.

    Raises:
        ValueError: sizes, probabilities or options out of range; options that no cell has together.
        TypeError: an argument of another type; an unknown option.
    """

    _options: Options  # of the family
    _registered: str  # the name of the class of the family, also in its subclasses
    _config: Config
    initial_state: Any = None  # of layers from `convert.from_onnx`, where it is a constant
    if TYPE_CHECKING:
        input_size: int
        hidden_size: int
        num_layers: int
        bias: bool
        batch_first: bool
        bidirectional: bool
        proj_size: int
        dtype: np.dtype[Any]
        options: dict[str, Any]
        regularisation: dict[str, float]
        zoneout_h: float
        zoneout_c: float
        input_dropout: float
        recurrent_dropout: float
        candidate_dropout: float
        weight_dropout: float
        spec: CellSpec[Any, Any]
        num_directions: int
        output_size: int
    else:
        input_size, hidden_size, num_layers, bias, batch_first = (_Fixed() for _ in range(5))
        bidirectional, proj_size, dtype, options, spec, num_directions, output_size = (_Fixed() for _ in range(7))
        regularisation = _Fixed()
        zoneout_h, zoneout_c, input_dropout = (_Probability() for _ in range(3))
        recurrent_dropout, candidate_dropout, weight_dropout = (_Probability() for _ in range(3))

    def __init_subclass__(cls, weights: type[Weights] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if weights is None:
            return
        if cls.__name__ in LAYERS:
            raise TypeError(f"{cls.__name__}: expected a class without `weights`, as there is a layer of this name")
        cls._options, cls._registered = Options(weights), cls.__name__
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
        sizes: Any = (input_size, hidden_size, num_layers)
        flags: Any = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
        self._configure(*sizes, **flags, dropout=dropout, proj_size=proj_size, dtype=dtype, **options)
        first = Initial(self._config, forget_bias, recurrent_init)
        self.seed = seed_of(rng)
        self._set_up(first.arrays(self.seed))
        self._check_values()

    def _configure(self, *sizes: Any, dropout: Any = 0.0, **arguments: Any) -> None:
        """Sets all but seed and parameters."""
        if not hasattr(self, "_options"):
            from ..cells.families import LAYERS

            raise TypeError(f"Layer: expected the class of a cell, one of {', '.join(LAYERS)}")
        self._config = config_of(type(self).__name__, self._options, *sizes, **arguments)
        self.dropout = dropout

    @classmethod
    def _of(cls, arrays: Mapping[str, Array], **arguments: Any) -> Layer:
        """A layer with these parameters, whose shapes are checked before anything of their size is made."""
        layer = cls.__new__(cls)
        layer._configure(**arguments)
        shapes, dtype = layer._config.shapes, layer.dtype
        found = {name: (a.shape, a.dtype) for name, a in arrays.items()}
        for name in shapes.keys() | found.keys():
            if found.get(name) != (expected := (shapes.get(name), dtype)):
                raise ValueError(f"{name}: expected {expected if name in shapes else 'none'}, got {found.get(name)}")
        layer.seed = seed_of(None)
        layer._set_up({name: np.array(arrays[name]) for name in shapes})
        layer._check_values()
        return layer

    def _check_values(self) -> None:
        """Has options that belong to weights checked by them, which also know their types."""
        if self.spec.own_values:
            made = self._made_weights(0, 0)._values
            values = {name: made[name] for name in self.spec.own_values}
            self._config = replace(self._config, options=self.options | values)

    def _set_up(self, arrays: dict[str, Array]) -> None:
        self._arrays = {name: a if a.flags.writeable else a.copy() for name, a in arrays.items()}
        self._watch = Watch(self._arrays)
        self._snapshot: _Snapshot | None = None
        self._calls = Calls()  # of forward, with dropout

    @property
    def dropout(self) -> float:
        """The probability with which `forward` drops an output of a layer below the highest. It can be set."""
        return self._dropout

    @dropout.setter
    def dropout(self, value: float) -> None:
        self._dropout = probability("dropout", value)

    @property
    def num_parameters(self) -> int:
        """How many numbers all parameters have together."""
        return sum(a.size for a in self._arrays.values())

    # Parameters.

    @property
    def parameters(self) -> Parameters:
        """The parameters by name: the layer's own arrays. A change in place has its effect in the next call."""
        parameters = Parameters(self._arrays)
        self._watch.hand_out()
        return parameters

    @parameters.setter
    def parameters(self, value: Any) -> None:
        """For ``layer.parameters |= ...``, which has changed the arrays."""
        if not isinstance(value, Parameters) or any(a is not self._arrays.get(name) for name, a in value.items()):
            raise AttributeError("parameters: expected `load_state_dict`, or a change of the arrays in place")

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
        try:
            return load(self._arrays, state_dict, flag("strict", strict))
        finally:
            self._watch.hand_out()

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
        """The arguments that make a layer like this one, but for those of the first values."""
        names = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
        names += ["proj_size"] if self._options.projects else []
        sizes = {name: getattr(self, name) for name in names} | {"dtype": str(self.dtype)}
        return sizes | self.options | self.regularisation

    def _arrays_of(self, layer: int, direction: int) -> dict[str, Array]:
        """By the names in the spec."""
        return {p.name: self._arrays[name_of(p.name, layer, direction)] for p in self._config.parameters}

    def _made_weights(self, layer: int, direction: int) -> Weights:
        values = {name: self.options[name] for name in self.spec.values}
        weights: Any = self._options.weights
        made: Weights = weights(
            **self._arrays_of(layer, direction), **self.spec.options, **values, **self.regularisation
        )
        return made

    @property
    def _weights(self) -> list[Weights]:
        """Of each layer and direction, as last seen."""
        return self._snapshot.weights if self._snapshot else []

    def _stack(self) -> _core.Stack:
        """The native layers, whose weights are the parameters as they are now."""
        last = self._snapshot
        if last is not None and not self._watch.may_have_changed(last.seen):
            return last.native
        seen = self._watch.look()
        native, weights = (None, []) if last is None else (last.native, list(last.weights))
        for i, (layer, d) in enumerate(self._config.places):
            arrays = self._arrays_of(layer, d)
            if i < len(weights) and all(_core.same_bits(a, weights[i]._array(name)) for name, a in arrays.items()):
                continue
            weights[i : i + 1] = [self._made_weights(layer, d)]
            native = None
        if native is None:
            native = _core.make_stack(tuple(w._loaded for w in weights), self.num_directions)
        self._snapshot = _Snapshot(native, weights, seen)
        return native

    # Calls.

    def __call__(
        self,
        x: Array | Packed,
        state: Any = None,
        *,
        lengths: Lengths = None,
        resets: Resets = None,
        reset_state: Any = None,
        **inputs: Any,
    ) -> Any:
        """Inference over a sequence: nothing is dropped, and nothing is kept.

        Args:
            x: ``(T, B, I)``; ``(B, T, I)`` with `batch_first`; ``(T, I)`` for one row; or a `Packed` of I units.
            state: the initial state, h0, or a tuple ``(h0, c0)`` where the cell has several states, each ``(num_layers
                * num_directions, B, H)``, or without B for one row. None, also in place of one, for the
                empty state: zeros, but for a state of which the cell says something else.
            lengths: ``(B,)`` integers in 0..T, or None for T: how many steps each row has. Steps past them are not
                read.
            resets: bools, as x without its last dimension (of a `Packed` x: of its data), or None: where a row's new
                episode begins. Neither state nor gradient passes between the step before and this one, in either
                direction: as if the row were cut there.
            reset_state: the state before the first step of an episode, as `state`, or without B for all rows; None for
                zeros. A direction that runs backwards in time begins with an episode's last step.
            inputs: for cells with clocks, ``start``: the number of the first step, an int or ``(B,)`` integers.

        Returns:
            ``y``, as x, with ``num_directions*H`` units (of both directions side by side), zero past a row's length;
            and ``h_n``, ``c_n``, as `state`, after the step with which each direction ends. With a projection, h has P
            units. Of a `Packed` x, y is a `Packed`, and the rows of all states are in its order.

        Raises:
            ValueError: shapes and values that do not fit. TypeError: an argument that is no array, or another dtype.
        """
        form, native = self._arguments(x, state, lengths, resets, reset_state, inputs)
        return self._outputs(form, self._stack().infer(*native))

    def forward(
        self,
        x: Array | Packed,
        state: Any = None,
        *,
        lengths: Lengths = None,
        resets: Resets = None,
        reset_state: Any = None,
        seed: int | None = None,
        masks: Masks = None,
        **inputs: Any,
    ) -> tuple[Any, Tape]:
        """Forward for training, with dropout and zoneout. Arguments and outputs are those of a plain call, whose bits
        the outputs have if there is neither.

        Args:
            seed: of the masks, such as an earlier tape's; None for the next of the layer's own.
            masks: the masks themselves in place of a seed, by name, as `masks` gives them, or a tape.

        Returns:
            The outputs, and a tape for `backward`.
        """
        form, native = self._arguments(x, state, lengths, resets, reset_state, inputs)
        dropout = self.dropout if self.num_layers > 1 else 0.0
        options, source = options_of(self._config, dropout) if dropout or self.regularisation else {}, None
        if seed is not None or masks is not None:
            source = source_of(options, seed, masks)
        if isinstance(source, dict):
            source = copied(self._config, dropout, form.seq_len, form.batch_size, source)
        stack = self._stack()
        call = self._calls.take() if options and source is None else None
        if call is not None:
            source = seed_of_call(self.seed, call)
        try:
            results, kept, nbytes = stack.forward(*(*native, dropout, 0 if source is None else source))
        except BaseException:
            if call is not None:
                self._calls.give_back(call)
            raise
        return self._outputs(form, results), Tape(self, stack, form, dropout, source, kept, nbytes)

    def masks(self, seq_len: int, batch_size: int, seed: int) -> dict[str, Mask]:
        """The masks that a seed gives in a call of this size; `forward` takes them as `masks`.

        Returns:
            Bool arrays, True where something is dropped, or keeps its old value. Those of a layer and direction are
            named as its parameters are, ``zoneout_h_l0``, ``input_dropout_l1_reverse``: see `Weights.masks` for their
            shapes. ``dropout_l0 (T, B, num_directions*H)`` is that of the outputs of layer 0, and so on.
        """
        steps, rows = whole("seq_len", seq_len, 0, _core.MOST_ROWS), whole("batch_size", batch_size, 0, _core.MOST_ROWS)
        dropout = self.dropout if self.num_layers > 1 else 0.0
        return of_seed(self._config, dropout, steps, rows, seed_in_range("seed", seed))

    def backward(self, tape: Tape, dy: Array | Packed | None = None, dstate: Any = None) -> Any:
        """Gradients of a loss, from its gradients with respect to the outputs of `forward`.

        Args:
            tape: from `forward`. It may be used again.
            dy: as y, or None for zeros; not read past a row's length.
            dstate: the gradient of the last state, as `state`: dh_n, or a tuple ``(dh_n, dc_n)``; None for zeros.

        Returns:
            ``dx``, as x; the gradients of the initial state, ``dh0``, ``dc0``; ``parameters``, a dict of the
            gradients of parameters by the names of the parameters; and, where `reset_state` was given, those of its
            arrays, ``dreset_h``, ``dreset_c``.

        Raises:
            ValueError: a tape of another layer; shapes that do not fit. TypeError: no tape; an argument that is no
                array, or another dtype.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected a Tape, as forward returns it, got {type(tape).__name__}")
        if tape._layer is not self:
            raise ValueError("tape: expected one of this layer's forward, got another layer's")
        form, spec = tape._form, self.spec
        symbol = "num_directions*" + ("proj_size" if self.proj_size else "hidden_size")
        dy = form.take("dy", symbol, self.output_size, dy)
        dstates = form.take_state(spec, "dstate", dstate)
        results, parameters = tape._stack.backward(tape._kept, dy, dstates)
        gradients = {
            name_of(p.name, layer, d): of_weights[f"d{p.name}"]
            for (layer, d), of_weights in zip(self._config.places, parameters, strict=True)
            for p in self._config.parameters
        }
        first = (form.give_state(results[f"d{s.name}0"]) for s in spec.states)
        before_episodes = [results.get(f"dreset_{s.name}") for s in spec.states]
        of_reset_state = any(a is not None for a in before_episodes)
        kind = gradients_of(spec, of_reset_state)
        return kind(form.give(results["dx"]), *first, gradients, *(before_episodes if of_reset_state else ()))

    def stream(self, batch_size: int = 1, **inputs: Any) -> Stream:
        """A stream of this many rows: it runs step by step with the weights as they are now, and keeps its state.

        Args:
            batch_size: B.
            inputs: for cells with clocks, ``start``: the steps that came before, an int or ``(B,)`` integers.

        Raises:
            ValueError: a bidirectional layer, which has to see the last step before the first; a batch size below 1.
        """
        if self.bidirectional:
            raise ValueError("stream: expected a layer of one direction: the other one begins with the last step")
        batch_size = whole("batch_size", batch_size, 1, _core.MOST_ROWS)
        native = _core.make_stream(self._stack(), batch_size)
        native.set_start(self._start(inputs))
        return Stream(self, batch_size, native)

    def _start(self, inputs: dict[str, Any]) -> Any:
        """The number of the first step, if the cell numbers its steps. Raises TypeError for other inputs."""
        for name in inputs:
            if name != self.spec.numbered:
                raise TypeError(f"{type(self).__name__}: unexpected argument {name!r}")
        return inputs.get(self.spec.numbered) if self.spec.numbered else None

    def _arguments(
        self, x: Any, state: Any, lengths: Any, resets: Any, reset_state: Any, inputs: dict[str, Any]
    ) -> tuple[Form | PackedForm, tuple[Any, ...]]:
        start = self._start(inputs)
        form = form_of(x, self.input_size, self.batch_first)
        if lengths is not None and not form.batched:
            raise ValueError(
                f"lengths: expected None for one row, x (seq_len, input_size), got {type(lengths).__name__}"
            )
        if lengths is not None and form.batch_sizes is not None:
            raise ValueError(
                f"lengths: expected None beside a Packed x, which has its own, got {type(lengths).__name__}"
            )
        states = form.take_state(self.spec, "state", state)
        sequence = form.take("x", "input_size", self.input_size, x)
        of_episodes = form.take_resets(resets), form.take_reset_state(self.spec, reset_state)
        return form, (sequence, states, lengths, start, form.batch_sizes, *of_episodes)

    def _outputs(self, form: Form | PackedForm, results: dict[str, Any]) -> Any:
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
        """Weights are packed anew where they are needed."""
        without = ("_watch", "_snapshot", "_calls")
        n = self._calls.take()
        self._calls.give_back(n)
        return {name: value for name, value in self.__dict__.items() if name not in without} | {"calls": n}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        calls = state.pop("calls")
        self.__dict__.update(state)
        self._set_up(self._arrays)
        self._calls = Calls(calls)
