"""How long an epoch of sentiment.py takes with PyTorch. The same model is written with torch.nn, as one would write it:
an embedding, packed sequences, dropout, Adam, clipping. It is timed so, and changed by one call of
fusedrnn.torch.convert, in turns with the program in NumPy. All three start with the same weights, which the program
proves by their scores, and read the same batches, which are made before the clock starts.

pip install '.[bench,torch]'
pip download --no-deps --no-binary :all: vaderSentiment==3.3.2 -d data
python examples/sentiment_torch.py data                   # as many threads as PyTorch takes
python examples/sentiment_torch.py data --threads 1
"""

import argparse
import time

import numpy as np
import torch
from rich.progress import Progress
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
import fusedrnn.torch as frt
from sentiment import DROPPED, EMBEDDING, LAYERS, UNITS, Classifier, batches, divided, read
from training import Adam

RATE, CLIP = 2e-3, 1.0
NAMES = "NumPy and fusedrnn", "torch.nn", "torch.nn, converted"


class Twin(nn.Module):
    """The model of sentiment.py, with its parameters."""

    def __init__(self, model):
        super().__init__()
        self.embedding = nn.Embedding(*model.embedding.shape)
        kind = getattr(nn, type(model.layer).__name__)
        self.layer = kind(EMBEDDING, UNITS, bidirectional=model.layer.bidirectional)
        self.linear = nn.Linear(model.both * UNITS, 2)
        self.dropout = nn.Dropout(DROPPED)
        arrays = {f"layer.{name}": a for name, a in model.layer.parameters.items()}
        arrays["embedding.weight"] = model.embedding
        arrays |= {f"linear.{name}": model.parameters[name] for name in ("weight", "bias")}
        self.load_state_dict({name: torch.tensor(a) for name, a in arrays.items()})

    def forward(self, words, lengths):
        x = self.dropout(self.embedding(words))
        _, h_n = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        h_n = h_n[0] if isinstance(h_n, tuple) else h_n  # an LSTM has c_n, too
        return self.linear(self.dropout(torch.cat([*h_n], dim=1)))


def numpy_steps(model, rng):
    optimiser = Adam(model.parameters, RATE, clip=CLIP)

    def step(words, lengths, labels):
        optimiser.step(model.gradients(words, lengths, labels, rng))

    return step


def torch_steps(model):
    optimizer = torch.optim.Adam(model.parameters(), RATE)

    def step(words, lengths, labels):
        loss = nn.functional.cross_entropy(model(words, lengths), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step


def right(scores, data):
    found = [scores(words, lengths).argmax(1) == labels for words, lengths, labels in data]
    return 100 * np.concatenate([np.asarray(part) for part in found]).mean()


def timed(name, texts, labels, epochs, tick):
    """Seconds of all epochs (3, epochs) and the accuracy after them on the validation's part (3,)."""
    rng = np.random.default_rng(0)
    train, validation, _, numbers = divided(texts, rng)
    model = Classifier(name, len(numbers) + 1, seed=0)
    torch.manual_seed(0)
    twins = Twin(model), frt.convert(Twin(model))

    def both(which):
        """Batches as arrays, and the same memory as tensors."""
        arrays = list(batches(texts, labels, which, numbers))
        return arrays, [tuple(map(torch.from_numpy, batch)) for batch in arrays]

    arrays, tensors = both(validation)
    for twin in twins:
        twin.eval()
        with torch.no_grad():
            np.testing.assert_allclose(twin(*tensors[0][:2]), model(*arrays[0][:2]), rtol=1e-4, atol=1e-5)
        twin.train()
    steps = numpy_steps(model, rng), *map(torch_steps, twins)
    seconds = np.zeros((3, epochs))
    for epoch in range(epochs):
        data = both(rng.permutation(train))
        for i in np.roll(range(3), epoch):
            start = time.perf_counter()
            for batch in data[min(i, 1)]:
                steps[i](*batch)
            seconds[i, epoch] = time.perf_counter() - start
            tick()
    with torch.no_grad():
        return seconds, [right(model, arrays), *(right(twin.eval(), tensors) for twin in twins)]


def main():
    parser = argparse.ArgumentParser(description="How long an epoch of sentiment.py takes with PyTorch.")
    parser.add_argument("folder", help="with the source distribution of vaderSentiment 3.3.2")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    fusedrnn.set_num_threads(args.threads)
    frt.set_fallback("error")  # no call that PyTorch's operators would take instead
    texts, labels = read(args.folder)
    results = {}
    with Progress(transient=True) as progress:
        task = progress.add_task("timing", total=len(LAYERS) * 3 * args.epochs)
        for name in LAYERS:
            results[name] = timed(name, texts, labels, args.epochs, lambda: progress.advance(task))
    print(f"seconds an epoch, median of {args.epochs}, {args.threads} threads")
    for name, (seconds, accuracies) in results.items():
        for way, taken, accuracy in zip(NAMES, np.median(seconds, axis=1), accuracies, strict=True):
            print(f"{name:22} {way:20} {taken:.2f} s, then {accuracy:.1f}% right")


if __name__ == "__main__":
    main()
