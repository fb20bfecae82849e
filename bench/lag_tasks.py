"""Tasks whose answer lies far back in a sequence: experiments 2 to 6 of Hochreiter & Schmidhuber, "Long short-term
memory" (1997, sections 5.2 to 5.6), and the embedded Reber grammar of their experiment 1, made long. `lags.py` learns
them.

Each experiment is a row of TASKS: how sequences are drawn, the paper's criterion, and the sequences that its LSTM
took (the mean of the successful trials)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from grammar import Array, long_strings

Rng = np.random.Generator
X, Y = 6, 7  # the symbols of experiment 6 whose order is told


@dataclass(frozen=True)
class Sequences:
    """B sequences, padded on the right: symbols (T, B) or numbers (T, B, I), with the number of steps of each.

    What is learned is a class or a number at the last step, or the next symbol at every step. `truth` is the answer
    where `target` has noise."""

    x: Array
    lengths: Array  # (B,)
    target: Array  # (B,), or (T, B) for the next symbols
    truth: Array  # (B,)
    legal: Array | None = None  # (T, B, symbols): those that may come next, where these are what counts


@dataclass(frozen=True)
class Criterion:
    """A trial succeeds when, among so many sequences, the error of at most `allowed` is above `wrong`, and the mean of
    all below `mean`. The error of a sequence is the largest of an output at its last step; of the grammar it is 1 where
    an illegal symbol is as active as a legal one, else 0."""

    wrong: float
    allowed: int
    among: int
    mean: float = np.inf
    recent: bool = False  # the last sequences that were learned, when they were seen first; else new ones

    def holds(self, errors: Array) -> bool:
        """Whether it does, as far as these go: of fewer sequences, none may be above `wrong` beyond `allowed`."""
        return bool(np.count_nonzero(errors > self.wrong) <= self.allowed and errors.mean() < self.mean)


@dataclass(frozen=True)
class Task:
    name: str
    title: str
    lag: int  # the least number of steps from what must be kept to where it is needed
    draw: Callable[[Rng, int], Sequences]
    outputs: int
    criterion: Criterion
    cap: int  # of sequences
    symbols: int = 0  # the different ones, of which a step has one; else
    inputs: int = 0  # the numbers of a step
    classes: bool = True  # or a number within 0..1
    every_step: bool = False  # tells the next symbol at each step
    draw_test: Callable[[Rng, int], Sequences] | None = None  # where others are learned than those that count
    trials: int = 10  # of each network, in a full run
    paper: str = ""  # the sequences that the paper's LSTM took

    def test(self, rng: Rng, count: int) -> Sequences:
        return (self.draw_test or self.draw)(rng, count)


def between(rng: Rng, low: int, high: int, count: int) -> Array:
    """Whole numbers within low..high, both included."""
    return rng.integers(low, high + 1, count)


def next_symbols(symbols: Array) -> Sequences:
    """Of sequences (T + 1, B) of one length; the last is what counts."""
    x, target = symbols[:-1], symbols[1:]
    return Sequences(x, np.full(x.shape[1], len(x)), target, target[-1])


def first_comes_again(rng: Rng, count: int, p: int, noisy: bool) -> Sequences:
    """Experiments 2a and 2b: x or y, p - 1 others, and the first again. The others, of p - 1 kinds, come in their order
    or at random."""
    first = rng.integers(p - 1, p + 1, (1, count))
    others = np.arange(p - 1)[:, None] + np.zeros((1, count), int)
    if noisy:
        others = rng.integers(p - 1, size=(p - 1, count))
    return next_symbols(np.concatenate([first, others, first]))


def distractors(rng: Rng, count: int, q: int, p: int) -> Sequences:
    """Experiment 2c: b, then x or y, then q or more of p distractors (each further one with a chance of 9 in 10), then
    e; x or y again is told there."""
    e, b, x = p, p + 1, p + 2
    more = rng.geometric(0.1, count) - 1
    lengths = q + more + 3
    symbols = rng.integers(p, size=(lengths.max(), count))
    answer = rng.integers(2, size=count)
    symbols[0], symbols[1] = b, x + answer
    symbols[lengths - 1, np.arange(count)] = e
    return Sequences(symbols, lengths, answer, answer)


def two_sequences(
    rng: Rng, count: int, T: int, N: int, noise: float = 0.0, values: tuple[float, float] = (0, 1), blur: float = 0.0
) -> Sequences:
    """Experiment 3, after Bengio et al. 1994: the first N elements are 1 or -1, the others Gaussian noise of variance
    0.2. Further noise of variance `noise` lies on the first, and of variance `blur` on what is learned."""
    lengths = between(rng, T, T + T // 10, count)
    x = rng.normal(0, np.sqrt(0.2), (lengths.max(), count))
    answer = rng.integers(2, size=count)
    x[:N] = 2 * answer - 1 + rng.normal(0, np.sqrt(noise), (N, count))
    truth = np.array(values)[1 - answer]
    return Sequences(x[..., None], lengths, truth + rng.normal(0, np.sqrt(blur), count), truth)


def two_marked(rng: Rng, count: int, T: int, product: bool) -> Sequences:
    """Experiments 4 and 5: the sum or the product of two marked numbers, one of the first ten and one of the
    others of the first T/2 - 1. Marks are 1; they are -1 at the first and the last step, which are none of the two."""
    lengths = between(rng, T, T + T // 10, count)
    rows = np.arange(count)
    x = np.zeros((lengths.max(), count, 2))
    x[..., 0] = rng.uniform(0 if product else -1, 1, x.shape[:2])
    one = rng.integers(10, size=count)
    two = rng.integers(T // 2 - 2, size=count)
    two += two >= one
    x[one, rows, 1] = x[two, rows, 1] = 1
    absent = 1.0 if product else 0.0
    a, b = (np.where(at > 0, x[at, rows, 0], absent) for at in (one, two))
    x[0, :, 1] = x[lengths - 1, rows, 1] = -1
    truth = a * b if product else 0.5 + (a + b) / 4
    return Sequences(x, lengths, truth, truth)


def temporal_order(rng: Rng, count: int, places: list[tuple[int, int]]) -> Sequences:
    """Experiment 6: E, symbols a to d, B at the end; X or Y at one step within each of `places`. The order is told."""
    E, B = 4, 5
    lengths = between(rng, 100, 110, count)
    symbols = rng.integers(4, size=(lengths.max(), count))
    rows, answer = np.arange(count), np.zeros(count, int)
    symbols[0], symbols[lengths - 1, rows] = E, B
    for low, high in places:
        which = rng.integers(2, size=count)
        symbols[between(rng, low, high, count), rows] = X + which
        answer = 2 * answer + which
    return Sequences(symbols, lengths, answer, answer)


def long_grammar(rng: Rng, count: int, low: int, high: int) -> Sequences:
    """Experiment 1, with longer strings: see `grammar.long_strings`. Their lag is at least one of low..high."""
    s = long_strings(rng, count, int(rng.integers(low, high + 1)))
    x, target = s.symbols[:-1], s.symbols[1:]
    return Sequences(x, s.lengths, target, target[s.lengths - 1, np.arange(count)], s.legal)


def _grammar(lag: int, cap: int) -> Task:
    return Task(
        f"1-{lag}", f"embedded Reber grammar, lag over {lag}", lag, partial(long_grammar, low=5, high=lag), 7,
        Criterion(0.5, 0, 512), cap, symbols=7, every_step=True, trials=30,
        draw_test=partial(long_grammar, low=lag, high=lag),
    )  # fmt: skip


def _distractors(q: int, cap: int, paper: str) -> Task:
    return Task(
        f"2c-{q}", f"{q} or more distractors", q + 1, partial(distractors, q=q, p=q), 2, Criterion(0.2, 0, 10_000), cap,
        symbols=q + 4, paper=paper,
    )  # fmt: skip


TASKS = [
    _grammar(50, 50_000),
    _grammar(100, 50_000),
    Task("2a", "the first symbol again, no noise", 100, partial(first_comes_again, p=100, noisy=False), 101,
         Criterion(0.25, 0, 10_000), 50_000, symbols=101, every_step=True, paper="5,040"),
    Task("2b", "the first symbol again, noise between", 100, partial(first_comes_again, p=100, noisy=True), 101,
         Criterion(0.25, 0, 10_000), 50_000, symbols=101, every_step=True, paper="5,680"),
    _distractors(100, 100_000, "31,000"),
    _distractors(1000, 10_000, "49,000"),
    Task("3a", "two sequences, one element", 100, partial(two_sequences, T=100, N=1), 1,
         Criterion(0.2, 0, 256, 0.01), 100_000, inputs=1, classes=False, paper="64,330"),
    Task("3b", "the same with noise on the element", 100, partial(two_sequences, T=100, N=1, noise=0.2), 1,
         Criterion(0.2, 5, 256, 0.04), 100_000, inputs=1, classes=False, paper="78,430"),
    Task("3c", "the same, targets 0.2 and 0.8 with noise", 98,
         partial(two_sequences, T=100, N=3, values=(0.2, 0.8), blur=0.1), 1,
         Criterion(0.1, 0, 256, 0.015), 100_000, inputs=1, classes=False, paper="269,650"),
    Task("4", "adding", 50, partial(two_marked, T=100, product=False), 1,
         Criterion(0.04, 0, 2000, 0.01, recent=True), 100_000, inputs=2, classes=False, paper="74,000"),
    Task("5", "multiplication", 50, partial(two_marked, T=100, product=True), 1,
         Criterion(0.04, 139, 2000, recent=True), 100_000, inputs=2, classes=False, paper="482,000"),
    Task("6a", "temporal order of two", 40, partial(temporal_order, places=[(10, 20), (50, 60)]), 4,
         Criterion(0.3, 0, 2000, 0.1, recent=True), 100_000, symbols=8, paper="31,390"),
    Task("6b", "temporal order of three", 33, partial(temporal_order, places=[(10, 20), (33, 43), (66, 76)]), 8,
         Criterion(0.3, 0, 2000, 0.1, recent=True), 100_000, symbols=8, paper="571,100"),
]  # fmt: skip
