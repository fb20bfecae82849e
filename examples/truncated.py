"""Truncated backpropagation through time (Williams & Peng 1990): one long stream of symbols, a segment at a time.

The state passes from segment to segment, gradients do not. Forward gives the bits of one call over the whole stream.
The task: say each symbol of a stream again, five steps later.

python examples/truncated.py
"""

import sys

import numpy as np

import fusedrnn

SEGMENTS, SEGMENT, ROWS, SYMBOLS, DELAY = int(sys.argv[1]) if len(sys.argv) > 1 else 400, 20, 16, 4, 5


def segments_of(layer, x, state=None):
    """Calls of a layer over segments of a sequence (T, B, .): outputs, tapes, and the state after the last."""
    for start in range(0, len(x), SEGMENT):
        out, tape = layer.forward(x[start : start + SEGMENT], state)
        state = tuple(out[1:]) if len(out) > 2 else out[1]  # it goes on; its gradient is not asked for
        yield out, tape


def main():
    rng = np.random.default_rng(0)
    symbols = rng.integers(0, SYMBOLS, (SEGMENTS * SEGMENT, ROWS))
    x = np.eye(SYMBOLS, dtype="float32")[symbols]
    targets = np.roll(symbols, DELAY, axis=0)
    layer = fusedrnn.GRU(SYMBOLS, 48, rng=0)
    weight = (rng.standard_normal((SYMBOLS, 48)) / 7).astype("float32")
    parameters = {**layer.parameters, "weight": weight}
    squares = {name: np.zeros_like(p) for name, p in parameters.items()}
    right = []
    for i, (out, tape) in enumerate(segments_of(layer, x)):
        scores = out.y @ weight.T
        target = targets[i * SEGMENT : (i + 1) * SEGMENT]
        right.append((scores.argmax(axis=2) == target).mean())
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        dscores = (p / p.sum(axis=2, keepdims=True) - np.eye(SYMBOLS, dtype="float32")[target]) / target.size
        gradients = layer.backward(tape, dscores @ weight).parameters
        gradients["weight"] = np.einsum("tbs,tbh->sh", dscores, out.y)
        for name, p in parameters.items():  # RMSprop (Tieleman & Hinton 2012)
            squares[name] += 0.05 * (gradients[name] ** 2 - squares[name])
            p -= 0.003 * gradients[name] / (np.sqrt(squares[name]) + 1e-6)
    last = right[-len(right) // 10 :]
    print(f"{100 * np.mean(last):.1f}% of the symbols of the last {len(last)} segments of {len(right)}")


if __name__ == "__main__":
    main()
