"""Whether a snippet of a film review is for or against the film: an embedding of words, a recurrent layer over as many
steps as the snippet has words, and a layer on its last state. An RNN, a GRU, an LSTM and a bidirectional LSTM learn
from 8 of 10 snippets, stop where they were best on the ninth, and are tested on the tenth. The snippets are of reviews
that Pang & Lee collected (ACL 2005); a snippet is for the film where the mean of at least 20 people's ratings is above
zero (Hutto & Gilbert, ICWSM 2014, whose data the source distribution of vaderSentiment carries).

pip install '.[bench]'
pip download --no-deps --no-binary :all: vaderSentiment==3.3.2 -d data
python examples/sentiment.py data                         # five seeds: some minutes
python examples/sentiment.py data --seeds 1 --epochs 2
"""

import argparse
import io
import re
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rich.progress import Progress

import fusedrnn
from training import Adam, cross_entropy, uniform

EMBEDDING, UNITS, BATCH, DROPPED, KNOWN = 64, 64, 50, 0.5, 2  # KNOWN: times that a word must have been seen
LAYERS = {
    "RNN": (fusedrnn.RNN, {}),
    "GRU": (fusedrnn.GRU, {}),
    "LSTM": (fusedrnn.LSTM, {"forget_bias": 1}),
    "LSTM, both directions": (fusedrnn.LSTM, {"forget_bias": 1, "bidirectional": True}),
}


def read(folder):
    """Lists of words, and 1 for snippets that are for the film."""
    (archive,) = Path(folder).glob("vader*3.3.2.tar.gz")
    with tarfile.open(archive) as outer:
        inner = next(m for m in outer if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=io.BytesIO(outer.extractfile(inner).read())) as data:
            file = next(m for m in data if m.name.endswith("movieReviewSnippets_GroundTruth.txt"))
            lines = data.extractfile(file).read().decode("utf-8", "replace").splitlines()
    rows = [line.split("\t") for line in lines if line.count("\t") >= 2]
    texts = [re.findall(r"[a-z]+|'[a-z]+|[!?]", text.lower()) or ["?"] for _, _, text, *_ in rows]
    return texts, np.array([float(mean) > 0 for _, mean, *_ in rows], int)


class Classifier:
    def __init__(self, name, words, seed):
        rng = np.random.default_rng(seed)
        kind, options = LAYERS[name]
        self.layer = kind(EMBEDDING, UNITS, rng=seed, **options)
        self.both = 2 if self.layer.bidirectional else 1
        self.embedding = (0.1 * rng.standard_normal((words, EMBEDDING))).astype("float32")
        head = {"weight": uniform(rng, 2, self.both * UNITS), "bias": np.zeros(2, "float32")}
        self.parameters = {**self.layer.parameters, "embedding": self.embedding, **head}

    def scores(self, h_n):
        return np.hstack(h_n[-self.both :]) @ self.parameters["weight"].T + self.parameters["bias"]

    def __call__(self, words, lengths):
        return self.scores(self.layer(self.embedding[words], lengths=lengths).h_n)

    def gradients(self, words, lengths, labels, rng):
        x = self.embedding[words]
        kept = [(rng.random(shape) >= DROPPED) / np.float32(1 - DROPPED)
                for shape in (x.shape, (self.both, len(lengths), UNITS))]  # fmt: skip
        out, tape = self.layer.forward(x * kept[0], lengths=lengths)
        h = out.h_n[-self.both :] * kept[1]
        _, dscores = cross_entropy(self.scores(h), labels)
        dh = np.stack(np.split(dscores @ self.parameters["weight"], self.both, axis=1)) * kept[1]
        g = self.layer.backward(tape, dstate=dh if len(out) == 2 else (dh, None))
        dembedding = np.zeros_like(self.embedding)
        np.add.at(dembedding, words, g.dx * kept[0])
        head = {"weight": dscores.T @ np.hstack(h), "bias": dscores.sum(axis=0)}
        return {**g.parameters, "embedding": dembedding, **head}


def divided(texts, rng):
    """Which snippets are for training, validation and test; and a number of each word that training knows, from 1."""
    parts = np.array_split(rng.permutation(len(texts)), 10)
    train = np.concatenate(parts[:8])
    counts = Counter(word for i in train for word in texts[i])
    known = (word for word, n in counts.items() if n >= KNOWN)
    return train, parts[8], parts[9], {word: i for i, word in enumerate(known, start=1)}


def batches(texts, labels, which, numbers):
    """Words as numbers (T, B), lengths and labels, in the order of `which`."""
    for start in range(0, len(which), BATCH):
        some = which[start : start + BATCH]
        lengths = np.array([len(texts[i]) for i in some])
        words = np.zeros((lengths.max(), len(some)), int)
        for row, i in enumerate(some):
            words[: lengths[row], row] = [numbers.get(word, 0) for word in texts[i]]
        yield words, lengths, labels[some]


def accuracy(model, *data):
    right = [model(words, lengths).argmax(axis=1) == labels for words, lengths, labels in batches(*data)]
    return 100 * np.concatenate(right).mean()


def learned(name, texts, labels, seed, epochs, tick):
    """Accuracy on the snippets kept for the test, and seconds an epoch."""
    rng = np.random.default_rng(seed)
    train, validation, test, numbers = divided(texts, rng)
    model = Classifier(name, len(numbers) + 1, seed)
    optimiser = Adam(model.parameters, 2e-3)
    best, found, seconds = 0.0, 0.0, []
    for _ in range(epochs):
        start = time.perf_counter()
        for words, lengths, of_rows in batches(texts, labels, rng.permutation(train), numbers):
            optimiser.step(model.gradients(words, lengths, of_rows, rng))
        seconds.append(time.perf_counter() - start)
        if (now := accuracy(model, texts, labels, validation, numbers)) > best:
            best, found = now, accuracy(model, texts, labels, test, numbers)
        tick()
    return found, np.median(seconds)


def main():
    parser = argparse.ArgumentParser(description="Sentiment of film reviews, by recurrent layers.")
    parser.add_argument("folder", help="with the source distribution of vaderSentiment 3.3.2")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    texts, labels = read(args.folder)
    words = np.median([len(text) for text in texts])
    print(f"{len(texts)} snippets, {words:.0f} words in the median, {100 * labels.mean():.1f}% of them for the film")
    results = {}
    with Progress(transient=True) as progress:
        task = progress.add_task("learning", total=len(LAYERS) * args.seeds * args.epochs)
        for name in LAYERS:
            runs = [learned(name, texts, labels, seed, args.epochs, lambda: progress.advance(task))
                    for seed in range(args.seeds)]  # fmt: skip
            results[name] = np.array(runs)
    for name, runs in results.items():
        found, seconds = runs.T
        print(f"{name:22} {found.mean():.1f} ± {found.std():.1f}% right, {seconds.mean():.2f} s an epoch")


if __name__ == "__main__":
    main()
