"""The pictures of `lags.py`: how gradients shrink with the distance, and what gates and states do over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

import _common  # noqa: F401
import fusedrnn
from fusedrnn.reference.backend import ReferenceWeights
from grammar import Array
from lag_networks import KINDS, Kind, Network, trained
from lag_tasks import TASKS, Sequences, Task, X, Y

TASK = "6a"  # what networks of the pictures learn
SEED = 0
STEPS = 100  # of the sequences by which gradients go
COLOURS = ["#000000", "#999999", "#009e73", "#0072b2", "#e69f00", "#009e73", "#0072b2", "#d55e00", "#cc79a7"]
DASHED = ("GRU", "LSTM")


def in_float64(layer: fusedrnn.Layer, kind: Kind) -> fusedrnn.Layer:
    twin = kind.layer(layer.input_size, layer.hidden_size, dtype="float64", **kind.options)
    twin.load_state_dict({name: p.astype("float64") for name, p in layer.parameters.items()})
    return twin


def gradient_norms(network: Network, rng: np.random.Generator) -> Array:
    """Of d loss / d state, of all states together, after each step from the last back (STEPS + 1,): 1 at the last. The
    loss is a product of the last h with random numbers; norms are geometric means over 64 sequences."""
    layer, count = in_float64(network.layer, network.kind), 64
    s = network.task.draw(rng, count)
    x, tapes, state = network.input(s.x)[:STEPS].astype("float64"), [], None
    for t in range(STEPS):
        clock: Any = {"start": t} if layer.spec.numbered else {}
        out, tape = layer.forward(x[t : t + 1], state, **clock)
        tapes.append(tape)
        state = out[1] if len(layer.spec.states) == 1 else tuple(out[1:])
    dh = rng.standard_normal((1, count, layer.hidden_size))
    dstate: Any = dh if len(layer.spec.states) == 1 else (dh, *[None] * (len(layer.spec.states) - 1))
    norms = [np.linalg.norm(dh[0], axis=1)]
    for tape in reversed(tapes):
        g = layer.backward(tape, None, dstate)
        parts = [getattr(g, f"d{state.name}0") for state in layer.spec.states]
        dstate = parts[0] if len(parts) == 1 else tuple(parts)
        norms.append(np.linalg.norm(np.concatenate(parts, axis=2)[0], axis=1))
    logs = np.log(np.maximum(norms, 1e-300)).mean(axis=1)
    found: Array = np.exp(logs - logs[0])
    return found


def draw_gradients(task: Task, networks: list[tuple[Network, int | None]], path: Path) -> None:
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.2), sharey=True)
    for (network, _), colour in zip(networks, COLOURS, strict=True):
        kind = network.kind
        rng = np.random.default_rng(SEED)
        first = np.mean([np.log(gradient_norms(Network(task, kind, rng), rng)) for _ in range(5)], axis=0)
        style = {"color": colour, "linestyle": "--" if kind.name in DASHED else "-", "linewidth": 1.3}
        axes[0].semilogy(np.exp(first), label=kind.name, **style)
        axes[1].semilogy(gradient_norms(network, np.random.default_rng(SEED)), **style)
    axes[0].set(title="before training, mean of five networks", ylabel="norm of d loss / d state, 1 at the last step")
    axes[1].set(title=f"after training: {task.title}", ylim=(1e-20, 1e4))
    for axis in axes:
        axis.set_xlabel("steps before the last")
        axis.grid(alpha=0.3)
    failed = [network.kind.name for network, sequences in networks if not sequences]
    axes[1].text(98, 1e-19, "\n".join(["did not learn it:", *failed]), ha="right", fontsize=9)
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    figure.legend(ncols=5, loc="lower center", fontsize=9)
    figure.savefig(path, dpi=100)


def trace(network: Network, x: Array) -> dict[str, Array]:
    """Gates, candidates and states of each step (T, H), over one sequence x (T, I), by the equations."""
    layer = network.layer
    arrays = {name.removesuffix("_l0"): p for name, p in layer.parameters.items()}
    w = ReferenceWeights(layer.spec, arrays, {name: layer.options[name] for name in layer.spec.values})
    states = tuple(np.full((1, layer.hidden_size), s.empty, "float32") for s in layer.spec.states)
    found: dict[str, list[Array]] = {}
    for step in x:
        states, saved = w.equations.step(w.w, step[None], states)
        values = {name: saved[name] for name in layer.spec.gates if name in saved}
        values |= {s.name: a for s, a in zip(layer.spec.states, states, strict=True)}
        if "n" in values and "c" in values:  # of the sLSTM, whose memory is c / n
            values["c"] = values["c"] / values["n"]
        for name, value in values.items():
            found.setdefault(name, []).append(value[0])
    return {name: np.array(value) for name, value in found.items()}


def carrier(network: Network, s: Sequences, marked: Array) -> tuple[int, dict[str, Array]]:
    """The unit whose memory tells best all the way which symbol came first, and the trace of the first sequence. Its
    twin has the other symbol there."""
    length = s.lengths[0]
    symbols = s.x[:length, 0].copy()
    one = trace(network, network.input(symbols))
    symbols[marked[0]] = X + Y - symbols[marked[0]]
    memory = "c" if "c" in one else "h"
    other = trace(network, network.input(symbols))
    apart = np.abs(one[memory] - other[memory])[marked[0] : -1] / np.abs(one[memory]).max(axis=0)
    return int(apart.min(axis=0).argmax()), one


COLOUR_OF_GATE = {"i": "#0072b2", "r": "#0072b2", "f": "#d55e00", "z": "#d55e00", "o": "#009e73"}


def draw_unit(right: Any, found: dict[str, Array], memory: str, unit: int) -> None:
    """Gates and memory of one unit."""
    for name, colour in COLOUR_OF_GATE.items():
        if name in found:
            right.plot(found[name][:, unit], color=colour, linewidth=1)
    state = right.twinx()
    state.plot(found[memory][:, unit], color="black", linewidth=1.5)
    state.set_ylabel(memory)
    right.set(title=f"unit {unit}", ylabel="gates", ylim=(-0.05, 1.05))


def draw_gates(task: Task, networks: list[tuple[Network, int | None]], path: Path) -> None:
    """On the left the memory of all units, c or h; on the right the unit that `carrier` finds."""
    plt = pyplot()
    gated = [(network, sequences) for network, sequences in networks if len(network.layer.spec.gates) > 1]
    figure, axes = plt.subplots(len(gated), 2, figsize=(12, 2.1 * len(gated) + 0.5), sharex=True)
    s = task.draw(np.random.default_rng(SEED), 1)
    marked = np.flatnonzero(s.x[: s.lengths[0], 0] >= X)
    for (network, sequences), (left, right) in zip(gated, axes, strict=True):
        unit, found = carrier(network, s, marked)
        memory = "c" if "c" in found else "h"
        most = np.quantile(np.abs(found[memory]).max(axis=0), 0.75)  # a few units may count far
        shown = left.imshow(found[memory].T, aspect="auto", cmap="PuOr", vmin=-most, vmax=most, interpolation="nearest")
        figure.colorbar(shown, ax=left, label=memory, extend="both")
        left.set(title=network.kind.name + ("" if sequences else ": did not learn it"), ylabel="unit")
        draw_unit(right, found, memory, unit)
        for t in marked:
            left.axvline(t, color="black", linestyle=":", linewidth=1)
            right.axvline(t, color="#555555", linestyle=":", linewidth=1)
    for axis in axes[-1]:
        axis.set_xlabel("step; dotted: X or Y comes")
    names = {"gate i or r": "#0072b2", "gate f or z": "#d55e00", "gate o": "#009e73", "c or h (right axes)": "black"}
    lines = [plt.Line2D([], [], color=colour, label=name) for name, colour in names.items()]
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.legend(handles=lines, ncols=4, loc="upper center")
    figure.savefig(path, dpi=90)


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    return plt


def draw_all(folder: Path) -> None:
    fusedrnn.set_num_threads(1)
    task = next(task for task in TASKS if task.name == TASK)
    networks = [trained(task, kind, SEED, task.cap) for kind in track(KINDS, "training")]
    draw_gradients(task, networks, folder / "gradients.png")
    draw_gates(task, networks, folder / "gates.png")
