"""What the examples share: the optimiser Adam, cross-entropy with its gradient, first values of a matrix."""

import numpy as np


class Adam:
    """Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019); gradients longer than `clip`, all
    together, are cut to that length. Changes the arrays of `parameters` in place."""

    def __init__(self, parameters, rate=1e-3, decay=0.0, clip=1.0):
        self.parameters, self.rate, self.decay, self.clip, self.steps = parameters, rate, decay, clip, 0
        self.moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in parameters.items()}

    def step(self, gradients):
        self.steps += 1
        length = np.sqrt(sum(float(np.vdot(gradients[name], gradients[name])) for name in self.parameters))
        scale = min(1.0, self.clip / length) if length > 0 else 1.0
        rate = self.rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for name, p in self.parameters.items():
            (m, v), g = self.moments[name], scale * gradients[name]
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= rate * m / (np.sqrt(v) + 1e-8) + self.rate * self.decay * p


def cross_entropy(scores, targets):
    """The mean over all but the last axis of `scores`, of the classes `targets`, in nats; and its gradient."""
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    right = np.take_along_axis(p, targets[..., None], axis=-1)
    np.put_along_axis(gradient := p.copy(), targets[..., None], right - 1, axis=-1)
    return float(-np.log(np.maximum(right, 1e-30)).mean()), gradient / np.float32(targets.size)


def uniform(rng, *shape):
    """First values of a matrix whose rows multiply vectors of shape[-1] elements."""
    k = shape[-1] ** -0.5
    return rng.uniform(-k, k, shape).astype("float32")
