"""The networks that `lags.py` compares, one recurrent layer and one of outputs, in NumPy; and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import _common  # noqa: F401
import fusedrnn
from grammar import Array
from lag_tasks import Sequences, Task
from training import Adam, cross_entropy, uniform

Rng = np.random.Generator


@dataclass(frozen=True)
class Kind:
    """A row of the table."""

    name: str
    layer: type[fusedrnn.Layer]
    rate: float = 0.01
    options: dict[str, Any] = field(default_factory=dict)
    opened: bool = False  # gates begin open for as long as the lag: see `open_gates`


UNITS = 32  # of each
BATCH = 16  # sequences of a step of the optimiser
CHECK_EVERY = 50  # batches, where the criterion is of new sequences
# Rates are those by which trials with another seed succeeded.
KINDS = [
    Kind("RNN", fusedrnn.RNN, 0.002),
    Kind("clockwork RNN", fusedrnn.ClockworkRNN, 0.002, {"periods": (1, 2, 4, 8, 16, 32, 64, 128)}),
    Kind("GRU", fusedrnn.GRU),
    Kind("LSTM", fusedrnn.LSTM, options={"forget_bias": 1}),
    Kind("LSTM of 1997", fusedrnn.LSTM, options={"variant": "no_forget_gate"}),
    Kind("GRU, opened", fusedrnn.GRU, opened=True),
    Kind("LSTM, opened", fusedrnn.LSTM, opened=True),
    Kind("LSTM with peepholes, opened", fusedrnn.LSTM, options={"peepholes": "diagonal"}, opened=True),
    Kind("sLSTM, opened", fusedrnn.SLSTM, opened=True),
]
KEEPS, WRITES = "fz", "i"  # the gates by which a state is kept, and those by which it is written


def open_gates(layer: fusedrnn.Layer, lag: int, rng: Rng) -> None:
    """First biases by which states last for 1 to `lag` steps: log u at the gates that keep, u uniform in 1..lag, and
    -log u at those that write (Tallec & Ollivier 2018, "Can recurrent neural networks warp time?", section 2)."""
    H = layer.hidden_size
    gates = dict(zip(layer.spec.gates, layer.parameters["bias_ih_l0"].reshape(-1, H), strict=True))
    chosen = np.log(rng.uniform(1, lag, H))
    for name, bias in gates.items():
        if name in KEEPS + WRITES:
            bias[...] = chosen if name in KEEPS else -chosen


class Network:
    """Reads symbols or numbers; tells a class, a number or the next symbols.

    A step's symbol is one of many, one-hot. The product of weight_ih with it is a column of weight_ih: `columns` has
    them as rows, and the layer's own weight_ih is the unit matrix and stays so."""

    def __init__(self, task: Task, kind: Kind, rng: Rng) -> None:
        self.task, self.kind = task, kind
        seed = int(rng.integers(2**31))
        if task.symbols:
            rows = kind.layer(1, UNITS, **kind.options).parameters["weight_ih_l0"].shape[0]
            self.layer = kind.layer(rows, UNITS, rng=seed, **kind.options)
            self.layer.parameters["weight_ih_l0"][...] = np.eye(rows)
        else:
            self.layer = kind.layer(task.inputs, UNITS, rng=seed, **kind.options)
        self.parameters = dict(self.layer.parameters)
        if task.symbols:
            del self.parameters["weight_ih_l0"]
            k = UNITS**-0.5
            self.parameters["columns"] = rng.uniform(-k, k, (task.symbols, rows)).astype("float32")
        if kind.opened:
            open_gates(self.layer, task.lag, rng)
        self.parameters["weight"] = uniform(rng, task.outputs, UNITS)
        self.parameters["bias"] = np.zeros(task.outputs, "float32")

    @property
    def size(self) -> int:
        """The number of weights that the outputs depend on: those that clocks make zeros are none; two biases that are
        added count once."""
        zeros = np.count_nonzero(self.parameters["weight_hh_l0"] == 0)
        alone = UNITS if self.kind.layer is fusedrnn.GRU else 0  # r multiplies the bias_hh of n
        twice = self.parameters["bias_hh_l0"].size - alone
        return int(sum(p.size for p in self.parameters.values()) - zeros - twice)

    def input(self, x: Array) -> Array:
        found: Array = self.parameters["columns"][x] if self.task.symbols else x.astype("float32")
        return found

    def scores(self, h: Array) -> Array:
        found: Array = h @ self.parameters["weight"].T + self.parameters["bias"]
        return found

    def _told(self, out: Any, s: Sequences) -> tuple[Array, Array]:
        """Where outputs are learned, as a mask (T, B) or (B,), and the units there."""
        if not self.task.every_step:
            return np.ones(len(s.lengths), bool), out.h_n[-1]
        valid = np.arange(len(out.y))[:, None] < s.lengths
        return valid, out.y[valid]

    def activations(self, scores: Array) -> Array:
        if not self.task.classes:
            return 1 / (1 + np.exp(-scores))
        e = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))

    def errors_of(self, h_n: Array, y: Array, s: Sequences) -> Array:
        """Of each sequence, as `Criterion` has it."""
        if s.legal is not None:
            scores = self.scores(y)
            least, most = np.where(s.legal, scores, np.inf).min(axis=2), np.where(s.legal, -np.inf, scores).max(axis=2)
            valid = np.arange(len(y))[:, None] < s.lengths
            return np.asarray(((least <= most) & valid).any(axis=0), float)
        p = self.activations(self.scores(h_n))
        if self.task.classes:
            return np.asarray(np.abs(p - (s.truth[:, None] == np.arange(self.task.outputs))).max(axis=1))
        return np.asarray(np.abs(p[:, 0] - s.truth))

    def errors(self, s: Sequences) -> Array:
        out = self.layer(self.input(s.x), lengths=s.lengths)
        return self.errors_of(out.h_n[-1], out.y, s)

    def gradients(self, s: Sequences) -> tuple[dict[str, Array], Array]:
        """Those of the loss, which is cross-entropy, and the errors before the step."""
        x = self.input(s.x)
        out, tape = self.layer.forward(x, lengths=s.lengths)
        told, h = self._told(out, s)
        scores = self.scores(h)
        if self.task.classes:
            _, dscores = cross_entropy(scores, s.target[told])
        else:
            dscores = ((self.activations(scores) - s.target[:, None]) / len(scores)).astype("float32")
        found = {"weight": dscores.T @ h, "bias": dscores.sum(axis=0)}
        dh = dscores @ self.parameters["weight"]
        dy = dstate = None
        if self.task.every_step:
            dy = np.zeros_like(out.y)
            dy[told] = dh
        else:
            further = len(self.layer.spec.states) - 1
            dstate = (dh[None], *[None] * further) if further else dh[None]
        g = self.layer.backward(tape, dy, dstate)
        found |= g.parameters
        if self.task.symbols:
            found["columns"] = self._summed(g.dx, s.x)
        return found, self.errors_of(out.h_n[-1], out.y, s)

    def _summed(self, dx: Array, symbols: Array) -> Array:
        """The gradient of `columns`: the sums of dx over the steps of each symbol."""
        flat = symbols.ravel()
        order = np.argsort(flat, kind="stable")
        kinds, starts = np.unique(flat[order], return_index=True)
        found = np.zeros_like(self.parameters["columns"])
        found[kinds] = np.add.reduceat(dx.reshape(len(flat), -1)[order], starts)
        return found


def succeeds(network: Network, rng: np.random.Generator) -> bool:
    """On new sequences. Those after the first 256 are drawn only where these pass."""
    criterion = network.task.criterion
    errors = network.errors(network.task.test(rng, 256))
    while criterion.holds(errors):
        if len(errors) >= criterion.among:
            return True
        errors = np.concatenate([errors, network.errors(network.task.test(rng, 256))])
    return False


def trained(task: Task, kind: Kind, seed: int, cap: int) -> tuple[Network, int | None]:
    """The network, and the sequences until it succeeded."""
    rng, fresh = np.random.default_rng(seed).spawn(2)
    network = Network(task, kind, rng)
    optimiser = Adam(network.parameters, kind.rate)
    criterion, recent = task.criterion, np.array([])
    for seen in range(BATCH, cap + BATCH, BATCH):
        gradients, errors = network.gradients(task.draw(rng, BATCH))
        optimiser.step(gradients)
        if criterion.recent:
            recent = np.concatenate([recent, errors])[-criterion.among :]
            if len(recent) == criterion.among and criterion.holds(recent):
                return network, seen
        elif seen // BATCH % CHECK_EVERY == 0 and succeeds(network, fresh):
            return network, seen
    return network, None
