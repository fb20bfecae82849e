"""The (embedded) Reber grammar: its strings, and what may follow at each step (Hochreiter & Schmidhuber 1997, section
5.1). `reber.py` learns it, `lags.py` one that is long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SYMBOLS = "BTPSXVE"

# state: the symbols that may come, and the states that they lead to; 7 is the end.
REBER: dict[int, dict[str, int]] = {
    0: {"B": 1},
    1: {"T": 2, "P": 3},
    2: {"S": 2, "X": 4},
    3: {"T": 3, "V": 5},
    4: {"X": 3, "S": 6},
    5: {"P": 4, "V": 6},
    6: {"E": 7},
}


@dataclass(frozen=True)
class String:
    """A string as numbers: `symbols[t]` is read at step t, `legal[t]` says what may follow it."""

    text: str
    symbols: npt.NDArray[np.intp]
    legal: npt.NDArray[np.bool_]

    @property
    def x(self) -> Array:
        """One-hot input (T, 1, 7): every symbol but the last."""
        return np.eye(7, dtype=np.float32)[self.symbols[:-1], None]


def reber_string(rng: np.random.Generator) -> tuple[str, list[str]]:
    """A string of the Reber grammar, and for each symbol but the last those that may follow it."""
    state, text, legal = 0, "", []
    while state != 7:
        choices = "".join(REBER[state])
        if text:
            legal.append(choices)
        text += choices[rng.integers(len(choices))]
        state = REBER[state][text[-1]]
    return text, legal


def embedded_string(rng: np.random.Generator) -> tuple[str, list[str]]:
    inner, legal = reber_string(rng)
    arm = "TP"[rng.integers(2)]
    return f"B{arm}{inner}{arm}E", ["TP", "B", *legal, arm, "E"]


def encode(text: str, legal: list[str]) -> String:
    symbols = np.array([SYMBOLS.index(s) for s in text])
    return String(text, symbols, np.array([[s in choices for s in SYMBOLS] for choices in legal]))


def strings(rng: np.random.Generator, grammar: str, count: int) -> list[String]:
    make = embedded_string if grammar == "embedded" else reber_string
    return [encode(*make(rng)) for _ in range(count)]


@dataclass(frozen=True)
class LongStrings:
    """B strings as numbers (T + 1, B), padded on the right; `legal` (T, B, 7) says what may follow each symbol. All may
    where a string inside ends: a network need not count whether B or E comes."""

    symbols: npt.NDArray[np.intp]
    lengths: npt.NDArray[np.intp]  # (B,): the steps, which are one less than the symbols
    legal: npt.NDArray[np.bool_]


def long_strings(rng: np.random.Generator, count: int, lag: int) -> LongStrings:
    """Embedded strings whose second symbol comes again more than `lag` steps later: strings of the Reber grammar follow
    each other inside, and only the last has its E."""
    B, E = SYMBOLS.index("B"), SYMBOLS.index("E")
    choices = ["".join(REBER[state]) for state in range(6)]
    symbol = np.array([[SYMBOLS.index(s) for s in (c[0], c[-1])] for c in choices] + [[B, B]])
    after = np.array([[REBER[state][s] for s in (c[0], c[-1])] for state, c in enumerate(choices)] + [[1, 1]])
    may = np.array([[s in c for s in SYMBOLS] for c in [*choices, SYMBOLS]])

    arm = np.array([SYMBOLS.index("T"), SYMBOLS.index("P")])[rng.integers(2, size=count)]
    symbols, legal = [np.full(count, B), arm], [np.tile(may[1], (count, 1)), np.tile(may[0], (count, 1))]
    state, steps = np.zeros(count, int), np.zeros(count, int)  # of the strings inside; -1 after the last
    while (state >= 0).any():
        last = (state == 6) & (len(symbols) > lag)
        chance = rng.integers(2, size=count)
        symbols.append(np.where(last, E, symbol[state, chance]))
        steps[last] = len(symbols) + 1
        state = np.where(last | (state < 0), -1, after[state, chance])
        legal.append(may[state])
    text = np.stack([*symbols, *[arm] * 2])
    rows, allowed = np.arange(count), np.stack([*legal, legal[-1]])
    text[steps - 1, rows], text[steps, rows] = arm, E
    allowed[steps - 2, rows] = arm[:, None] == np.arange(len(SYMBOLS))
    allowed[steps - 1, rows] = np.arange(len(SYMBOLS)) == E
    return LongStrings(text[: steps.max() + 1], steps, allowed[: steps.max()])


@dataclass(frozen=True)
class Batch:
    """Many strings at once, padded on the right."""

    x: Array
    lengths: npt.NDArray[np.int64]
    legal: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]


def batch_of(many: list[String]) -> Batch:
    lengths = np.array([len(s.legal) for s in many])
    shape = (lengths.max(), len(many), 7)
    x, legal = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for i, s in enumerate(many):
        x[: lengths[i], i], legal[: lengths[i], i] = s.x[:, 0], s.legal
    return Batch(x, lengths, legal, np.arange(shape[0])[:, None] < lengths)
