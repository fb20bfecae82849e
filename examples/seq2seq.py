"""Sequence to sequence with recurrent layers: an encoder and a decoder, attention with its gradients, beam search."""

import numpy as np

import fusedrnn
from training import cross_entropy, uniform

END = 0  # the symbol before and after each sequence that a decoder makes


class SequenceToSequence:
    """A bidirectional LSTM reads symbols. Its last states start an LSTM that makes other symbols, each from the one
    before. Attention comes after the decoder, so that in training each layer runs over whole sequences in one call.
    Symbols are numbers; they come in as one-hot vectors, of which weight_ih makes the embeddings."""

    def __init__(self, classes_in, classes_out, units, seed):
        rng, options = np.random.default_rng(seed), {"batch_first": True, "forget_bias": 1}
        self.encoder = fusedrnn.LSTM(classes_in, units // 2, bidirectional=True, rng=rng, **options)
        self.decoder = fusedrnn.LSTM(classes_out, units, rng=rng, **options)
        self.attention = Attention(units, classes_out, rng)
        layers = {"encoder": self.encoder, "decoder": self.decoder, "attention": self.attention}
        self.parameters = named(**{name: layer.parameters for name, layer in layers.items()})
        self.one_hot_in, self.one_hot_out = (np.eye(n, dtype="float32") for n in (classes_in, classes_out))

    def encode(self, inputs):
        """Of lists of symbols: states (B, S, units), the decoder's first state, lengths, and the tape."""
        symbols, lengths = padded(inputs)
        out, tape = self.encoder.forward(self.one_hot_in[symbols], lengths=lengths)
        return out.y, tuple(np.hstack(state)[None] for state in (out.h_n, out.c_n)), lengths, tape

    def gradients(self, inputs, outputs, dropped, rng):
        """Of the mean cross-entropy of the outputs' symbols, by name of the parameter."""
        encoded, start, lengths, tape = self.encode(inputs)
        symbols, steps = padded([[END, *output, END] for output in outputs])
        out, tape_out = self.decoder.forward(self.one_hot_out[symbols[:, :-1]], start, lengths=steps - 1)
        kept = (rng.random((*out.y.shape[:2], 2 * out.y.shape[2]), "float32") >= dropped) / np.float32(1 - dropped)
        scores, _, tape_scores = self.attention.forward(out.y, encoded, lengths, kept)
        valid, dscores = np.arange(1, steps.max()) < steps[:, None], np.zeros_like(scores)
        _, dscores[valid] = cross_entropy(scores[valid], symbols[:, 1:][valid])
        dh, dencoded, of_attention = self.attention.backward(tape_scores, dscores)
        g = self.decoder.backward(tape_out, dh)
        dlast = tuple(np.stack(np.split(dstate[0], 2, axis=1)) for dstate in (g.dh0, g.dc0))  # of both directions
        of_encoder = self.encoder.backward(tape, dencoded, dlast).parameters
        return named(encoder=of_encoder, decoder=g.parameters, attention=of_attention)

    def decode(self, inputs, width, longest):
        """The symbols that a beam of this width finds for each input; 1 is greedy."""
        encoded, start, lengths, _ = self.encode(inputs)
        encoded, lengths = np.repeat(encoded, width, axis=0), np.repeat(lengths, width)

        def step(symbols, state):
            out = self.decoder(self.one_hot_out[symbols[:, None]], state)
            return self.attention.forward(out.y, encoded, lengths)[0][:, 0], (out.h_n, out.c_n)

        start = tuple(np.repeat(state, width, axis=1) for state in start)
        return beam_search(step, start, len(inputs), width, longest)

    def attended(self, given, made):
        """How much each symbol of `made`, and the end after them, attended to each symbol of `given`."""
        encoded, start, lengths, _ = self.encode([given])
        out = self.decoder(self.one_hot_out[[[END, *made]]], start)
        return self.attention.forward(out.y, encoded, lengths)[1][0]


class Attention:
    """Scores of `classes` from a decoder's states h (B, T, H) and an encoder's `encoded` (B, S, H): the "general"
    attention of Luong, Pham & Manning (2015), after the decoder."""

    def __init__(self, units, classes, rng):
        shapes = {"keys": (units, units), "mixed": (units, 2 * units), "scores": (classes, units)}
        self.parameters = {name: uniform(rng, *shape) for name, shape in shapes.items()}

    def forward(self, h, encoded, lengths, kept=1.0):
        """Scores (B, T, classes), weights (B, T, S), the tape. Steps of `encoded` past `lengths` (B,) weigh nothing.
        `kept`, a mask of dropout (B, T, 2*H), multiplies contexts and states."""
        keys = times(encoded, self.parameters["keys"].T)
        past = np.where(np.arange(encoded.shape[1]) < lengths[:, None], 0, -np.inf).astype(h.dtype)
        weights = np.exp(log_softmax(h @ keys.swapaxes(1, 2) + past[:, None]))
        both = np.concatenate([weights @ encoded, h], axis=-1) * kept
        mixed = np.tanh(times(both, self.parameters["mixed"].T))
        return times(mixed, self.parameters["scores"].T), weights, (h, encoded, keys, weights, both, mixed, kept)

    def backward(self, tape, dscores):
        """Gradients of h, of `encoded` and, by name, of the parameters."""
        h, encoded, keys, weights, both, mixed, kept = tape
        dmixed = times(dscores, self.parameters["scores"]) * (1 - mixed * mixed)  # before tanh
        dcontext, dh = np.split(times(dmixed, self.parameters["mixed"]) * kept, 2, axis=-1)
        dweights = dcontext @ encoded.swapaxes(1, 2)
        dfits = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))  # before softmax
        dkeys = dfits.swapaxes(1, 2) @ h
        dencoded = weights.swapaxes(1, 2) @ dcontext + times(dkeys, self.parameters["keys"])
        products = {"keys": (dkeys, encoded), "mixed": (dmixed, both), "scores": (dscores, mixed)}
        gradients = {name: np.tensordot(d, x, axes=((0, 1), (0, 1))) for name, (d, x) in products.items()}
        return dh + dfits @ keys, dencoded, gradients


def times(x, weight):
    """The product of all rows of x (B, T, I) with weight (I, O), as one product of matrices; x @ weight makes B."""
    return np.tensordot(x, weight, 1)


def log_softmax(scores):
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


def beam_search(step, state, rows, width, longest):
    """The likeliest sequences found, one for each of `rows`, by keeping the `width` likeliest beginnings of each at all
    times; with a width of 1, each symbol is the likeliest after those before it (greedy). `step(symbols, state)` takes
    the last symbols (rows*width,), at first END, and gives scores (rows*width, classes) of the next ones and the next
    state, a tuple of arrays (layers, rows*width, H). Sequences stop after END or `longest` symbols."""
    symbols, ended = np.full((rows * width, 1), END), np.zeros(rows * width, bool)
    logp = np.tile(np.where(np.arange(width) == 0, 0, -np.inf), (rows, 1))  # all begin as one
    while not ended.all() and symbols.shape[1] <= longest:
        scores, state = step(symbols[:, -1], state)
        of_next = log_softmax(scores)
        of_next[ended], of_next[ended, END] = -np.inf, 0
        all_logp = (logp[..., None] + of_next.reshape(rows, width, -1)).reshape(rows, -1)
        best = np.argsort(-all_logp, axis=1, kind="stable")[:, :width]
        logp = np.take_along_axis(all_logp, best, axis=1)
        beginning, following = np.divmod(best, of_next.shape[1])
        of = (np.arange(rows)[:, None] * width + beginning).ravel()
        symbols = np.hstack([symbols[of], following.reshape(-1, 1)])
        state, ended = tuple(array[:, of] for array in state), symbols[:, -1] == END
    return [[symbol for symbol in row if symbol != END] for row in symbols[::width].tolist()]


def edit_distance(a, b):
    """The fewest insertions, deletions and substitutions that make b of a (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def padded(rows):
    """Lists of numbers as an array (B, T), and their lengths."""
    lengths = np.array([len(row) for row in rows])
    symbols = np.zeros((len(rows), lengths.max()), int)
    symbols[np.arange(lengths.max()) < lengths[:, None]] = np.concatenate(rows)
    return symbols, lengths


def named(**arrays):
    return {(layer, name): array for layer, of_layer in arrays.items() for name, array in of_layer.items()}
