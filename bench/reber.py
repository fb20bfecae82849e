"""The embedded Reber grammar, learned by RNN, LSTM and GRU: what gates are for.

Experiment 1 of Hochreiter & Schmidhuber, "Long short-term memory" (1997). A string of the embedded grammar is B, then T
or P, then a string of the Reber grammar, then the same T or P again, then E. Read symbol by symbol, the network has to
tell which symbols may come next; to know the last but one, it must remember the second through the whole string. There
are 256 training and 256 test strings; a trial succeeds when, over both sets, the outputs of all legal next symbols are
the most active ones at every step. One string, one step of the optimiser: strings count as in the paper.

    python bench/reber.py --trials 30
    python bench/reber.py --cells         # every cell of the library

prints the table of successes beside the paper's, and draws learning curves and, for one string, the LSTM's gates and
cell state over time. `lags.py` has longer strings, and tasks that plain RNNs fail.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import _common  # noqa: F401
import fusedrnn
from cases import CELLS, Cell
from grammar import Array, Batch, String, batch_of, encode, strings
from training import Adam

PLAIN = {"lstm": "lstm", "gru": "gru_reset_after", "rnn": "rnn_tanh"}


def cell_named(name: str) -> Cell:
    return next(c for c in CELLS if c.name == PLAIN.get(name, name))


OPENED = ("lstm", "depth_gated_lstm")  # whose forget gates begin open (Gers et al. 2000)


@dataclass
class Layer:
    """A recurrent layer's weights."""

    cell: Cell
    inputs: int
    units: int
    names: list[str] = field(default_factory=list)
    parameters: list[Array] = field(default_factory=list)

    def initialise(self, rng: np.random.Generator) -> None:
        k = 1 / np.sqrt(self.units)
        shapes = {name: s for name, s in self.cell.shapes(self.inputs, self.units).items() if name != "bias_hh"}
        self.names = list(shapes)
        self.parameters = [rng.uniform(-k, k, s).astype(np.float32) for s in shapes.values()]
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if name.startswith("gain"):  # of a normalisation
                parameter[...] = 1
        if self.cell.op in OPENED and "f" in self.weights().gates:
            at = self.weights().gates.index("f") * self.units
            self.parameters[self.names.index("bias_ih")][at : at + self.units] += 1

    def weights(self) -> Any:
        return self.cell.weights(**dict(zip(self.names, self.parameters, strict=True)))

    def size(self) -> int:
        """The number of weights, without those that clocks make zeros."""
        unseen = np.sum(~self.weights().mask(self.units, self.weights().periods)) if self.cell.clocked else 0
        return int(sum(p.size for p in self.parameters) - unseen)

    def function(self, suffix: str = "") -> Any:
        return getattr(fusedrnn, self.cell.op + suffix)

    def gradients(self, result: Any) -> list[Array]:
        return [getattr(result, f"d{name}") for name in self.names]


@dataclass
class Network:
    """A recurrent layer, or two where a cell reads c of the layer below, and a softmax over the seven symbols."""

    cell: Cell
    hidden: int
    layers: list[Layer] = field(default_factory=list)
    parameters: list[Array] = field(default_factory=list)  # the layers', then those of the softmax

    def initialise(self, rng: np.random.Generator) -> None:
        widths = [7, self.hidden] if self.cell.below else [7]
        self.layers = [Layer(self.cell, inputs, self.hidden) for inputs in widths]
        for layer in self.layers:
            layer.initialise(rng)
        units = self.layers[-1].weights().proj_size
        k = 1 / np.sqrt(units)
        softmax = [rng.uniform(-k, k, s).astype(np.float32) for s in ((7, units), (7,))]
        self.parameters = [*(p for layer in self.layers for p in layer.parameters), *softmax]

    def size(self) -> int:
        return sum(layer.size() for layer in self.layers) + sum(p.size for p in self.parameters[-2:])

    def forward(self, x: Array, suffix: str = "", **lengths: Array) -> tuple[Array, list[Any]]:
        """y of the last layer, and the reserves of all, for the suffix "_forward"."""
        reserves: list[Any] = []
        below: list[Array] = []
        for layer in self.layers:
            result = layer.function(suffix)(x, layer.weights(), *below, **lengths)
            out = result[0] if suffix else result
            reserves += [result[1]] if suffix else []
            x, below = out.y, [out.c] if layer.cell.below else []
        return x, reserves

    def backward(self, reserves: list[Any], dy: Array) -> list[Array]:
        """Gradients of the layers' parameters."""
        gradients: list[Array] = []
        below: dict[str, Array] = {}
        for layer, reserve in zip(reversed(self.layers), reversed(reserves), strict=True):
            g = layer.function("_backward")(reserve, dy, **below)
            gradients = layer.gradients(g) + gradients
            dy, below = g.dx, {"dc": g.dc_below} if layer.cell.below else {}
        return gradients

    def learn(self, string: String, optimiser: Adam) -> float:
        """One step on one string: cross-entropy with the symbols that came. Returns the loss of a step."""
        *_, w_out, b_out = self.parameters
        y, reserves = self.forward(string.x, "_forward")
        h = y[:, 0]
        logits = h @ w_out.T + b_out
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        target, steps = string.symbols[1:], np.arange(len(h))
        loss = (np.log(total[:, 0]) - logits[steps, target]).mean()
        p[steps, target] -= 1
        gradients = self.backward(reserves, (p @ w_out)[:, None])
        optimiser.step(dict(enumerate([*gradients, p.T @ h, p.sum(axis=0)])))
        return float(loss)

    def succeeds(self, batch: Batch) -> bool:
        """Whether, at every step of every string, the least active legal symbol beats the most active illegal one."""
        *_, w_out, b_out = self.parameters
        logits = self.forward(batch.x, lengths=batch.lengths)[0] @ w_out.T + b_out
        least = np.where(batch.legal, logits, np.inf).min(axis=2)
        most = np.where(batch.legal, -np.inf, logits).max(axis=2)
        return bool(((least > most) | ~batch.valid).all())


@dataclass
class Trial:
    strings: int | None  # until success
    losses: list[float]
    network: Network
    seconds: float


CHECK_EVERY = 50


def units(cell: Cell) -> int:
    """Gated cells get 16, the others 32."""
    return 16 if cell.gates > 1 else 32


def rate(cell: Cell) -> float:
    return 0.015 if cell.gates > 1 else 0.003


def run_trial(cell: Cell, grammar: str, seed: int, budget: int) -> Trial:
    rng = np.random.default_rng(seed)
    train, test = strings(rng, grammar, 256), strings(rng, grammar, 256)
    everything = batch_of(train + test)
    network = Network(cell, units(cell))
    network.initialise(rng)
    optimiser = Adam(dict(enumerate(network.parameters)), rate(cell))
    losses, start = [], time.perf_counter()
    for seen in range(1, budget + 1):
        losses.append(network.learn(train[rng.integers(256)], optimiser))
        if (seen % CHECK_EVERY == 0 or seen == budget) and network.succeeds(everything):
            return Trial(seen, losses, network, time.perf_counter() - start)
    return Trial(None, losses, network, time.perf_counter() - start)


# What Hochreiter & Schmidhuber 1997 report (table 1): weights, successes, strings until success.
PAPER = [
    ("RTRL (3 units)", "~170", "some fraction", "173,000"),
    ("RTRL (12 units)", "~494", "some fraction", "25,000"),
    ("Elman net (15 units)", "~435", "0%", ">200,000"),
    ("Recurrent cascade-corr.", "~119-198", "50%", "182,000"),
    ("LSTM (3 or 4 blocks)", "264-276", "97-100%", "8,440-39,740"),
]


def print_table(console: Console, grammar: str, trials: dict[str, list[Trial]], budget: int) -> None:
    table = Table(title=f"{grammar} Reber grammar, at most {budget:,} strings a trial")
    for column in ("network", "weights", "successes", "strings to success: median", "most", "seconds"):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=column == "network")
    for op, runs in trials.items():
        done = sorted(t.strings for t in runs if t.strings is not None)
        median = f"{np.median(done):,.0f}" if done else "-"
        most = f"{done[-1]:,}" if done else "-"
        seconds = f"{sum(t.seconds for t in runs):.0f}"
        layers, hidden = len(runs[0].network.layers), runs[0].network.hidden
        name = f"{op.upper() if op in PLAIN else op} ({f'{layers} layers of ' * (layers > 1)}{hidden} units)"
        successes = f"{len(done)} of {len(runs)}"
        table.add_row(name, str(runs[0].network.size()), successes, median, most, seconds)
    if grammar == "embedded":
        table.add_section()
        for row in PAPER:
            table.add_row(f"{row[0]}, 1997", *row[1:], "", "")
    console.print(table)


def lstm_trace(network: Network, string: String) -> dict[str, Array]:
    """The LSTM's gates and cell states over one string, by the equations, from the states that `lstm_cell` gives."""
    w, hidden = network.layers[0].weights(), network.hidden
    h = c = np.zeros((1, hidden), np.float32)
    trace: dict[str, list[Array]] = {"i": [], "f": [], "o": [], "c": []}
    for x in string.x:
        a = x @ w.weight_ih.T + h @ w.weight_hh.T + w.bias_ih
        i, f, _, o = np.split(1 / (1 + np.exp(-a[0])), 4)
        h, c = fusedrnn.lstm_cell(x, w, h, c)
        for name, value in zip("ifoc", (i, f, o, c[0]), strict=True):
            trace[name].append(value)
    return {name: np.array(values) for name, values in trace.items()}


def twin_of(string: String) -> String:
    """The same string with the other second symbol, T for P or P for T."""
    arm = "T" if string.text[1] == "P" else "P"
    return encode(f"B{arm}{string.text[2:-2]}{arm}E", ["E"] * (len(string.text) - 1))


def carrier(network: Network, many: list[String]) -> tuple[float, int]:
    """The unit whose cell state tells T from P all the way: the largest least difference, over the steps of a string,
    between its cell states in the string and in its twin; the mean over strings. That difference, and the unit."""
    least = []
    for string in many:
        a, b = (lstm_trace(network, s)["c"][1:-1] for s in (string, twin_of(string)))
        least.append(np.abs(a - b).min(axis=0))
    score = np.mean(least, axis=0)
    return float(score.max()), int(score.argmax())


def draw(trials: dict[str, list[Trial]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(9, 10), height_ratios=[1.3, 1.6, 1])
    for op, colour in (("rnn", "tab:orange"), ("gru", "tab:green"), ("lstm", "tab:blue")):
        for k, trial in enumerate(trials.get(op, [])):
            smooth = np.convolve(trial.losses, np.full(100, 0.01), "valid")
            axes[0].plot(smooth, color=colour, alpha=0.35, linewidth=0.8, label=op.upper() if k == 0 else None)
    axes[0].set(
        xlabel="strings",
        ylabel="cross-entropy a symbol",
        title="embedded Reber grammar, each line a trial",
        xscale="log",
    )
    axes[0].legend()

    rng = np.random.default_rng(1)
    many = strings(rng, "embedded", 400)
    done = [t.network for t in trials["lstm"] if t.strings is not None]
    scores = [carrier(network, many[:40]) for network in done]
    clearest = int(np.argmax([score for score, _ in scores]))  # the trial in which one unit alone does most of it
    network, unit = done[clearest], scores[clearest][1]
    string = next(s for s in many if s.text[1] == "P" and len(s.text) >= 16)
    trace, at = lstm_trace(network, string), np.arange(len(string.text) - 1)
    shown = axes[1].imshow(trace["c"].T, aspect="auto", cmap="coolwarm", vmin=-3, vmax=3)
    figure.colorbar(shown, ax=axes[1], label="cell state c")
    axes[1].set(title=f"the LSTM reads {string.text}: unit {unit} carries the second symbol to the end", ylabel="unit")
    axes[1].set_xticks(at, string.text[:-1])
    axes[1].axhline(unit - 0.5, color="black", linewidth=0.8)
    axes[1].axhline(unit + 0.5, color="black", linewidth=0.8)
    twin = twin_of(string)
    for name, style in (("i", ":"), ("f", "--"), ("o", "-.")):
        axes[2].plot(at, trace[name][:, unit], style, label=f"gate {name}", color="gray")
    axes[2].plot(at, trace["c"][:, unit], color="tab:blue", label="c after P")
    axes[2].plot(at, lstm_trace(network, twin)["c"][:, unit], color="tab:red", label="c, had it been T")
    axes[2].set_xticks(at, string.text[:-1])
    axes[2].set(title=f"unit {unit}: gates and cell state")
    axes[2].legend(fontsize=7, ncols=5)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def compare_cells(args: argparse.Namespace, console: Console) -> None:
    """Every cell on the embedded grammar: one layer, or two of a cell that has a depth gate."""
    trials: dict[str, list[Trial]] = {}
    with Progress(console=console, transient=True) as progress:
        cells = [cell for cell in CELLS if cell.heads == 1]
        task = progress.add_task("", total=len(cells) * args.trials)
        for cell in cells:
            progress.update(task, description=cell.name)
            trials[cell.name] = []
            for seed in range(args.trials):
                trials[cell.name].append(run_trial(cell, "embedded", seed, args.budget))
                progress.advance(task)
    print_table(console, "embedded", trials, args.budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--budget", type=int, default=8440, help="strings a trial (default: the paper's fastest LSTM)")
    parser.add_argument("--cells", action="store_true", help="every cell on the embedded grammar, no picture")
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent / "out" / "reber.png")
    args = parser.parse_args()
    if args.cells and args.picture != parser.get_default("picture"):
        parser.error("--cells draws no picture")
    fusedrnn.set_num_threads(1)
    console = Console(width=110)
    if args.cells:
        compare_cells(args, console)
        return
    embedded: dict[str, list[Trial]] = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=6 * args.trials)
        for grammar in ("plain", "embedded"):
            trials: dict[str, list[Trial]] = {}
            for op in ("rnn", "gru", "lstm"):
                progress.update(task, description=f"{grammar} grammar, {op}")
                trials[op] = []
                for seed in range(args.trials):
                    trials[op].append(run_trial(cell_named(op), grammar, seed, args.budget))
                    progress.advance(task)
            print_table(progress.console, grammar, trials, args.budget)
            embedded = trials
    if any(t.strings is not None for t in embedded["lstm"]):
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        draw(embedded, args.picture)
        console.print(f"written: {args.picture}")
    else:
        console.print("no LSTM trial succeeded: no picture")


if __name__ == "__main__":
    main()
