"""What bench/lags.py learns is what the paper describes, and its networks, criteria and resumed runs are right."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from grammar import REBER, SYMBOLS
from lag_networks import KINDS, Kind, Network
from lag_tasks import TASKS, Criterion, Sequences, Task, distractors

TASK = {task.name: task for task in TASKS}
KIND = {kind.name: kind for kind in KINDS}
COUNT = 300


def drawn(name: str, rng: np.random.Generator) -> Sequences:
    s = TASK[name].test(rng, COUNT)
    assert s.x.shape[:2] == (s.lengths.max(), COUNT)
    return s


@pytest.mark.parametrize("lag", [50, 100])
def test_long_grammar(lag: int, rng: np.random.Generator) -> None:
    """Strings that an automaton accepts, with what it may read next."""
    s = drawn(f"1-{lag}", rng)
    assert s.legal is not None
    for b in range(COUNT):
        steps = s.lengths[b]
        text = "".join(SYMBOLS[i] for i in s.x[:steps, b]) + SYMBOLS[s.target[steps - 1, b]]
        assert (s.target[: steps - 1, b] == s.x[1:steps, b]).all()
        arm, inner = text[1], text[2:-2]
        assert (text[0], text[-2], text[-1]) == ("B", arm, "E")
        assert len(text) - 2 - 1 > lag
        expected, state = ["TP", "B"], 0
        for symbol in inner:
            state = 1 if (state, symbol) == (6, "B") else REBER[state][symbol]
            expected.append({6: SYMBOLS, 7: arm}.get(state, "".join(REBER.get(state, {}))))
        assert state == 7
        found = ["".join(np.array(list(SYMBOLS))[may]) for may in s.legal[:steps, b]]
        assert [set(may) for may in found] == [set(may) for may in [*expected, "E"]]


@pytest.mark.parametrize("name", ["2a", "2b"])
def test_first_symbol(name: str, rng: np.random.Generator) -> None:
    s = drawn(name, rng)
    assert (s.truth == s.x[0]).all()
    assert set(s.x[0]) == {99, 100}
    assert s.x[1:].max() == 98
    assert (s.target[:-1] == s.x[1:]).all()
    in_order = (s.x[1:] == np.arange(99)[:, None]).all()
    assert in_order == (name == "2a")


def test_distractors(rng: np.random.Generator) -> None:
    s = drawn("2c-100", rng)
    e, b, x, y = range(100, 104)
    assert set(s.x[0]) == {b}
    assert (np.where(s.truth == 1, y, x) == s.x[1]).all()
    assert (s.x[s.lengths - 1, np.arange(COUNT)] == e).all()
    between = [s.x[2 : n - 1, i] for i, n in enumerate(s.lengths)]
    assert all(part.max() < 100 for part in between)
    assert min(len(part) for part in between) == 100
    # Further ones: 9 in the mean, with a variance of 90.
    assert np.mean([len(part) for part in between]) == pytest.approx(109, abs=4 * (90 / COUNT) ** 0.5)


@pytest.mark.parametrize("name", ["3a", "3b", "3c"])
def test_two_sequences(name: str, rng: np.random.Generator) -> None:
    s = drawn(name, rng)
    signs = np.sign(s.x[0, :, 0])
    wrong = (signs > 0) != (s.truth < 0.5)
    assert wrong.mean() <= (0.05 if name == "3b" else 0)  # noise of variance 0.2 turns a sign with a chance of 1.3%
    assert set(s.truth) == ({0.2, 0.8} if name == "3c" else {0, 1})
    assert (s.target - s.truth).std() == pytest.approx(0.1**0.5 if name == "3c" else 0, rel=0.2)
    assert s.x[3:].std() == pytest.approx(0.2**0.5, rel=0.02)


@pytest.mark.parametrize("name", ["4", "5"])
def test_two_marked(name: str, rng: np.random.Generator) -> None:
    s = drawn(name, rng)
    for b in range(COUNT):
        x = s.x[: s.lengths[b], b]
        assert x[0, 1] == x[-1, 1] == -1
        at = np.flatnonzero(x[:, 1] == 1)
        assert len(at) in (1, 2)  # one of them may have been the first step
        assert at[0] < 10 or len(at) == 1
        assert at[-1] < 49
        want = np.prod(x[at, 0]) if name == "5" else 0.5 + x[at, 0].sum() / 4
        assert s.truth[b] == pytest.approx(want)
        assert 0 <= want <= 1


@pytest.mark.parametrize(("name", "classes"), [("6a", 4), ("6b", 8)])
def test_temporal_order(name: str, classes: int, rng: np.random.Generator) -> None:
    s = drawn(name, rng)
    for b in range(COUNT):
        x = s.x[: s.lengths[b], b]
        marked = x[x >= 6] - 6
        assert 2 ** len(marked) == classes
        assert int("".join(map(str, marked)), 2) == s.truth[b]
        assert x[0] == 4
        assert x[-1] == 5
        assert ((x < 4) | (x >= 6))[1:-1].all()
    assert set(s.truth) == set(range(classes))
    assert 100 <= s.lengths.min() <= s.lengths.max() <= 110


def test_criterion() -> None:
    errors = np.array([0.1, 0.1, 0.5])
    assert not Criterion(0.3, 0, 3).holds(errors)
    assert Criterion(0.3, 1, 3).holds(errors)
    assert not Criterion(0.3, 1, 3, mean=0.2).holds(errors)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_columns_are_those_of_weight_ih(kind: Kind, rng: np.random.Generator) -> None:
    """A network of symbols computes what its layer does of one-hot input, with the same gradients."""
    network = Network(TASK["6a"], kind, rng)
    s = TASK["6a"].draw(rng, 5)
    plain = kind.layer(8, network.layer.hidden_size, **kind.options)
    for name, p in network.layer.parameters.items():
        plain.parameters[name][...] = p if name != "weight_ih_l0" else network.parameters["columns"].T
    x = np.eye(8, dtype="float32")[s.x]
    out, tape = plain.forward(x, lengths=s.lengths)
    assert out.y.tobytes() == network.layer(network.input(s.x), lengths=s.lengths).y.tobytes()

    scores = network.scores(out.h_n[-1])
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    dh = ((p - (s.target[:, None] == np.arange(4))) / 5) @ network.parameters["weight"]
    state = dh[None] if len(out) == 2 else (dh[None], *[None] * (len(out) - 2))
    g = plain.backward(tape, None, state)
    found, errors = network.gradients(s)
    assert errors == pytest.approx(np.abs(p - (s.truth[:, None] == np.arange(4))).max(axis=1), rel=1e-5)
    want = g.parameters["weight_ih_l0"].T
    # Sums of at most 5 * 110 terms, in two orders, from scores that were rounded in two ways.
    bound = 550 * float(np.finfo("float32").eps * np.abs(want).max())
    assert found["columns"] == pytest.approx(want, rel=0, abs=bound)


def test_opened_gates(rng: np.random.Generator) -> None:
    """Forget gates of the first steps keep a state for up to the lag."""
    network = Network(TASK["6a"], KIND["LSTM, opened"], rng)
    i, f, _, o = network.layer.parameters["bias_ih_l0"].reshape(4, -1)
    assert (f == -i).all()
    assert np.exp(f).min() >= 1
    assert 0.8 * 40 < np.exp(f).max() <= 40
    assert np.abs(o).max() < 1


def short(task: Task) -> Task:
    return replace(task, lag=6, draw=partial(distractors, q=5, p=5), symbols=9)


def test_trials() -> None:
    """What is near is learned, and what lies far is not, within few sequences."""
    from lags import run_trial

    near = run_trial(short(TASK["2c-100"]), KIND["GRU, opened"], 0, 20_000)
    assert near.sequences is not None
    assert near.wrong < 26  # one in a hundred
    far = run_trial(TASK["2c-100"], KIND["RNN"], 0, 1600)
    assert far.sequences is None
    assert far.wrong > 1000


def test_goes_on(tmp_path: Path) -> None:
    """A second run makes the trials that are missing, and no others."""
    results = tmp_path / "lags.jsonl"
    script = Path(__file__).parent.parent / "bench" / "lags.py"
    common = [
        sys.executable,
        str(script),
        "--results",
        str(results),
        "--cap",
        "32",
        "--tasks",
        "3a",
        "4",
        "--jobs",
        "1",
    ]

    def run(*arguments: str) -> str:
        return subprocess.run([*common, *arguments], capture_output=True, text=True, check=True).stdout

    run("--trials", "1", "--kinds", "RNN", "GRU")
    first = results.read_text().splitlines()
    assert len(first) == 4
    table = run("--trials", "2", "--kinds", "RNN", "GRU")
    lines = results.read_text().splitlines()
    assert lines[:4] == first
    assert len({json.dumps({**json.loads(line), "seconds": 0}) for line in lines}) == len(lines) == 8
    assert "| 3a two sequences, one element | 32 | 64,330 | 0/2 | 0/2 |" in table
    assert "GRU: 3a 3,329, 4 3,425" in table
