"""Tells balanced strings of brackets from others, of different lengths, by a bidirectional LSTM of two layers.

python examples/brackets.py
"""

import sys

import numpy as np

import fusedrnn

STEPS, BATCH, HIDDEN = int(sys.argv[1]) if len(sys.argv) > 1 else 1500, 64, 32
rng = np.random.default_rng(0)


def strings(count):
    """Strings of 2 to 40 brackets as (T, count, 2), one of two numbers set; their lengths; 1 for balanced ones."""
    lengths, labels = 2 * rng.integers(1, 21, count), np.empty(count, int)
    x = np.zeros((lengths.max(), count, 2), "float32")
    for row, length in enumerate(lengths):
        text, depth = [], 0
        for left in range(length, 0, -1):
            text.append(1 if depth == 0 or (depth < left and rng.random() < 0.5) else -1)
            depth += text[-1]
        if rng.random() < 0.7:  # an opening and a closing bracket change places, which may leave the string balanced
            i, j = (rng.choice(np.flatnonzero(np.equal(text, bracket))) for bracket in (1, -1))
            text[i], text[j] = -1, 1
        labels[row] = np.cumsum(text).min() >= 0
        x[np.arange(length), row, np.array(text) % 3 - 1] = 1
    return x, lengths, labels


lstm = fusedrnn.LSTM(2, HIDDEN, num_layers=2, bidirectional=True, forget_bias=1, rng=0)
parameters = {**lstm.parameters, "weight": np.zeros((2, 2 * HIDDEN), "float32"), "bias": np.zeros(2, "float32")}
moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in parameters.items()}


for step in range(1, STEPS + 1):
    x, lengths, labels = strings(BATCH)
    out, tape = lstm.forward(x, lengths=lengths)
    features = np.hstack(out.h_n[-2:])  # of the highest layer, both directions side by side
    scores = features @ parameters["weight"].T + parameters["bias"]
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    dscores = (p / p.sum(axis=1, keepdims=True) - np.eye(2, dtype="float32")[labels]) / BATCH
    dh_n = np.zeros_like(out.h_n)
    dh_n[-2:] = np.stack(np.split(dscores @ parameters["weight"], 2, axis=1))
    gradients = lstm.backward(tape, dstate=(dh_n, None)).parameters
    gradients |= {"weight": dscores.T @ features, "bias": dscores.sum(axis=0)}
    for name, p in parameters.items():  # Adam (Kingma & Ba 2015)
        m, v, g = *moments[name], gradients[name]
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        p -= 0.003 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)

x, lengths, labels = strings(2000)
scores = np.hstack(lstm(x, lengths=lengths).h_n[-2:]) @ parameters["weight"].T + parameters["bias"]
print(f"{100 * (scores.argmax(axis=1) == labels).mean():.1f}% of 2000 new strings, {100 * labels.mean():.1f}% balanced")
