"""Draws the cells of docs/cells.md: one panel each, what flows where in one step.

python tools/draw_cells.py        # writes docs/cells.png; needs matplotlib
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GATE, OPERATION, STATE, PEEPHOLE = "#cfe2f3", "#fce5cd", "#eeeeee", "#a64d79"
Point = tuple[float, float]


@dataclass(frozen=True)
class Lstm:
    """What a panel of the LSTM family shows."""

    title: str
    gates: str = "ifgo"
    input_activation: bool = True
    output_activation: bool = True
    coupled: bool = False
    peepholes: str = ""  # "p" diagonal, "P" full matrices
    recurrent_gates: bool = False
    depth: bool = False


def node(axes: Any, at: Point, text: str, colour: str = OPERATION, size: float = 0.3) -> None:
    circle = colour == OPERATION
    patch = (
        plt.Circle(at, size * 0.75, facecolor=colour, edgecolor="black", linewidth=0.8, zorder=3)
        if circle
        else plt.Rectangle(
            (at[0] - size, at[1] - size * 0.8),
            2 * size,
            1.6 * size,
            facecolor=colour,
            edgecolor="black",
            linewidth=0.8,
            zorder=3,
        )
    )
    axes.add_patch(patch)
    axes.text(*at, text, ha="center", va="center", fontsize=8, zorder=4)


def arrow(axes: Any, start: Point, end: Point, bend: float = 0, colour: str = "black", style: str = "-") -> None:
    axes.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "linewidth": 0.9,
            "linestyle": style,
            "shrinkA": 8,
            "shrinkB": 8,
            "connectionstyle": f"arc3,rad={bend}",
            "mutation_scale": 8,
        },
        zorder=2,
    )


def frame(axes: Any, title: str) -> None:
    axes.set(xlim=(-0.9, 7.4), ylim=(-0.9, 4.4), aspect="equal", title=title)
    axes.title.set_fontsize(9)
    axes.axis("off")


GATE_AT: dict[str, Point] = {"f": (1.2, 1.2), "i": (2.4, 1.2), "g": (3.6, 1.2), "o": (4.8, 1.2), "d": (0.1, 1.2)}


def draw_peepholes(axes: Any, spec: Lstm) -> None:
    style = ":" if spec.peepholes == "p" else "-"
    for gate in spec.gates:
        if gate in "if":
            arrow(axes, (-0.3, 3.4), GATE_AT[gate], 0.1, PEEPHOLE, style)
        if gate == "o":
            arrow(axes, (4.2, 3.4), GATE_AT[gate], -0.2, PEEPHOLE, style)
    label = "p *" if spec.peepholes == "p" else "P ·"
    axes.text(0.15, 2.55, label, color=PEEPHOLE, fontsize=8)


def draw_lstm(axes: Any, spec: Lstm) -> None:
    frame(axes, spec.title)
    bottom: Point = (2.4, -0.4)
    node(axes, bottom, "x, h", STATE, 0.42)
    node(axes, (-0.3, 3.4), "c", STATE)
    node(axes, (3.0, 3.4), "+")
    node(axes, (4.2, 3.4), "c'", STATE)
    node(axes, (6.6, 2.3), "h'", STATE)
    for gate in spec.gates:
        name = {"g": "g" if spec.input_activation else "g lin."}.get(gate, f"σ {gate}")
        node(axes, GATE_AT[gate], name, GATE, 0.38)
        arrow(axes, bottom, GATE_AT[gate])
    if "f" in spec.gates:
        node(axes, (1.2, 3.4), "×")
        arrow(axes, (-0.3, 3.4), (1.2, 3.4))
        arrow(axes, GATE_AT["f"], (1.2, 3.4))
        arrow(axes, (1.2, 3.4), (3.0, 3.4))
    else:
        arrow(axes, (-0.3, 3.4), (3.0, 3.4))
    if "i" in spec.gates or spec.coupled:
        node(axes, (3.0, 2.3), "×")
        arrow(axes, GATE_AT["g"], (3.0, 2.3))
        arrow(axes, (3.0, 2.3), (3.0, 3.4))
        arrow(axes, GATE_AT["f"] if spec.coupled else GATE_AT["i"], (3.0, 2.3))
        if spec.coupled:
            axes.text(1.95, 2.05, "1 - f", fontsize=8)
    else:
        arrow(axes, GATE_AT["g"], (3.0, 3.4))
    arrow(axes, (3.0, 3.4), (4.2, 3.4))
    before = (4.2, 3.4)
    if spec.output_activation:
        node(axes, (5.4, 3.4), "tanh", GATE, 0.38)
        arrow(axes, (4.2, 3.4), (5.4, 3.4))
        before = (5.4, 3.4)
    if "o" in spec.gates:
        node(axes, (5.4, 2.3), "×")
        arrow(axes, before, (5.4, 2.3))
        arrow(axes, GATE_AT["o"], (5.4, 2.3))
        arrow(axes, (5.4, 2.3), (6.6, 2.3))
    else:
        arrow(axes, before, (6.6, 2.3))
    if spec.peepholes:
        draw_peepholes(axes, spec)
    if spec.recurrent_gates:
        node(axes, (5.9, -0.4), "i, f, o", STATE, 0.5)
        for gate in "ifo":
            arrow(axes, (5.9, -0.4), GATE_AT[gate], 0.1, "#38761d")
        axes.text(5.0, 0.25, "R ·", color="#38761d", fontsize=8)
    if spec.depth:
        node(axes, (-0.3, -0.4), "c below", STATE, 0.55)
        node(axes, (0.6, 2.3), "×")
        arrow(axes, (-0.3, -0.4), (0.6, 2.3), 0.35, "#38761d")
        arrow(axes, GATE_AT["d"], (0.6, 2.3))
        arrow(axes, (0.6, 2.3), (3.0, 3.4), 0, "#38761d")
        arrow(axes, (-0.3, -0.4), GATE_AT["d"], 0, PEEPHOLE, ":")


def draw_gru(axes: Any, title: str, reset_after: bool) -> None:
    frame(axes, title)
    node(axes, (-0.3, 3.4), "h", STATE)
    node(axes, (2.4, -0.4), "x, h", STATE, 0.42)
    for gate, at in (("σ r", (1.2, 1.2)), ("n", (3.6, 1.2)), ("σ z", (4.8, 1.2))):
        node(axes, at, gate, GATE, 0.38)
        if gate != "n":
            arrow(axes, (2.4, -0.4), at)
    node(axes, (2.4, 1.2), "×")
    arrow(axes, (1.2, 1.2), (2.4, 1.2))
    arrow(axes, (2.4, 1.2), (3.6, 1.2))
    arrow(axes, (2.4, -0.4), (2.4, 1.2))
    arrow(axes, (2.4, -0.4), (3.6, 1.2))
    axes.text(1.75, 0.2, "U h" if reset_after else "h", fontsize=8, ha="center")
    axes.text(3.0, 1.45, "" if reset_after else "U ·", fontsize=8, ha="center")
    axes.text(3.35, 0.2, "W x", fontsize=8, ha="center")
    node(axes, (4.2, 3.4), "mix")
    arrow(axes, (-0.3, 3.4), (4.2, 3.4))
    arrow(axes, (3.6, 1.2), (4.2, 3.4))
    arrow(axes, (4.8, 1.2), (4.2, 3.4))
    axes.text(1.9, 3.55, "z", fontsize=8)
    axes.text(3.25, 2.3, "1 - z", fontsize=8)
    node(axes, (6.6, 3.4), "h'", STATE)
    arrow(axes, (4.2, 3.4), (6.6, 3.4))


def draw_rnn(axes: Any, title: str, recurrent: str) -> None:
    frame(axes, title)
    node(axes, (-0.3, 3.4), "h", STATE)
    node(axes, (3.0, -0.4), "x", STATE)
    node(axes, (3.0, 3.4), "+")
    node(axes, (4.6, 3.4), "f", GATE)
    node(axes, (6.6, 3.4), "h'", STATE)
    arrow(axes, (-0.3, 3.4), (3.0, 3.4))
    axes.text(1.2, 3.6, recurrent, fontsize=8)
    arrow(axes, (3.0, -0.4), (3.0, 3.4))
    axes.text(3.15, 1.4, "W ·", fontsize=8)
    arrow(axes, (3.0, 3.4), (4.6, 3.4))
    arrow(axes, (4.6, 3.4), (6.6, 3.4))


def draw_clockwork(axes: Any, title: str) -> None:
    """Groups of units, and which sees which."""
    frame(axes, title)
    at: list[Point] = [(0.2, 2.3), (2.4, 2.3), (4.6, 2.3)]
    node(axes, (2.4, -0.4), "x", STATE)
    for centre, label in zip(at, ("1", "2", "4"), strict=True):
        node(axes, centre, f"h, every\n{label} step{'s' * (label > '1')}", GATE, 0.75)
        arrow(axes, (2.4, -0.4), (centre[0], centre[1] - 0.4))
    for slow, fast in ((1, 0), (2, 1)):
        arrow(axes, (at[slow][0] - 0.5, 2.3), (at[fast][0] + 0.5, 2.3))
    arrow(axes, (4.6, 2.7), (0.2, 2.7), 0.35)
    axes.text(2.4, 3.75, "U ·", fontsize=8, ha="center")
    axes.text(3.65, 0.45, "W ·", fontsize=8)
    axes.text(5.8, 2.2, "...", fontsize=12)


def draw_layer_norm(axes: Any, title: str) -> None:
    """What goes into the gates, and, of the LSTM, from c to h."""
    frame(axes, title)
    for state, at, product in (("x", 0.2, "W ·"), ("h", 2.6, "U ·")):
        node(axes, (at, -0.4), state, STATE)
        node(axes, (at, 1.2), "norm", GATE, 0.42)
        arrow(axes, (at, -0.4), (at, 1.2))
        axes.text(at + 0.15, 0.25, product, fontsize=8)
        arrow(axes, (at, 1.2), (1.4, 2.3))
    node(axes, (1.4, 2.3), "+")
    node(axes, (1.4, 3.4), "gates", GATE, 0.45)
    arrow(axes, (1.4, 2.3), (1.4, 3.4))
    node(axes, (3.6, 3.4), "c'", STATE)
    arrow(axes, (1.4, 3.4), (3.6, 3.4))
    node(axes, (5.0, 3.4), "norm", GATE, 0.42)
    node(axes, (6.5, 3.4), "tanh", GATE, 0.38)
    arrow(axes, (3.6, 3.4), (5.0, 3.4))
    arrow(axes, (5.0, 3.4), (6.5, 3.4))
    node(axes, (6.5, 2.3), "×")
    arrow(axes, (6.5, 3.4), (6.5, 2.3))
    arrow(axes, (1.4, 3.4), (6.5, 2.3), 0.15)
    axes.text(4.6, 2.05, "o", fontsize=8)
    node(axes, (6.5, 1.2), "h'", STATE)
    arrow(axes, (6.5, 2.3), (6.5, 1.2))


LSTMS = [
    Lstm("LSTM"),
    Lstm("no forget gate (1997)", "igo"),
    Lstm("no input gate", "fgo"),
    Lstm("no output gate", "ifg"),
    Lstm("no input activation", input_activation=False),
    Lstm("no output activation", output_activation=False),
    Lstm("coupled gates", "fgo", coupled=True),
    Lstm("diagonal peepholes", peepholes="p"),
    Lstm("full-matrix peepholes", peepholes="P"),
    Lstm("full gate recurrence", recurrent_gates=True, peepholes="p"),
    Lstm("depth gate", "ifgod", depth=True, peepholes="p"),
]


def main() -> None:
    figure, all_axes = plt.subplots(6, 3, figsize=(10, 14.4))
    panels = iter(all_axes.flat)
    for spec in LSTMS:
        draw_lstm(next(panels), spec)
    draw_gru(next(panels), "GRU, reset after", True)
    draw_gru(next(panels), "GRU, reset before", False)
    draw_rnn(next(panels), "simple RNN", "U ·")
    draw_rnn(next(panels), "IndRNN", "u *")
    draw_clockwork(next(panels), "clockwork RNN")
    draw_layer_norm(next(panels), "layer-normalised LSTM")
    for empty in panels:
        empty.axis("off")
    figure.tight_layout()
    path = Path(__file__).parent.parent / "docs" / "cells.png"
    figure.savefig(path, dpi=90)
    print(path)


if __name__ == "__main__":
    main()
