"""Dance tunes written as text (ABC notation), character by character: an LSTM reads one long stream of tunes by
truncated backpropagation through time, is measured in bits a character on tunes that it has not seen, and writes one.
The tunes are those of two collections in music21's corpus, Ryan's Mammoth Collection (1883) and O'Neill's Music of
Ireland (1903). Kept are the lines of notes and the fields M (metre), L (unit length) and K (key). Of tunes that share
much of their melody, in whatever key, one is kept. Eight of ten tunes are learned from, one chooses the epoch and the
order of the baseline, one tests. The baseline is interpolated Kneser-Ney (Chen & Goodman 1999), of fixed counts and of
counts that go on through the tunes of the test, as a compressor's do: tunes repeat their phrases.

pip install '.[bench]'
pip download --no-deps music21==10.5.1 -d data            # 20 MB, of which 1.2 are read
python examples/music.py data                             # three seeds
pip install verovio cairosvg && python examples/music.py data --seeds 1 --save tune   # tune.abc, .mid, .svg and .png
"""

import argparse

import numpy as np
from rich.progress import Progress

import fusedrnn
from training import Adam, cross_entropy, uniform
from tunes import copied, distinct, full_bars, kneser_ney, read, save

DROPPED, RATE = 0.3, 6e-3
ROWS, SEGMENT = 16, 64  # rows of a batch; characters of a segment


class Writer:
    """An LSTM over characters (as unit vectors), with a state of zeros at the beginning of each tune."""

    def __init__(self, tunes, units, seed):
        self.characters = sorted(set("".join(tunes)))  # all others are one more
        self.vectors = np.eye(len(self.characters) + 1, dtype="float32")
        self.layer = fusedrnn.LSTM(len(self.vectors), units, rng=seed, forget_bias=1)
        head = uniform(np.random.default_rng(seed), len(self.vectors), units), np.zeros(len(self.vectors), "float32")
        self.parameters = {**self.layer.parameters, "weight": head[0], "bias": head[1]}

    def scores(self, y):
        return y @ self.parameters["weight"].T + self.parameters["bias"]

    def stream(self, tunes):
        """The tunes, as numbers of characters, after the end of another tune; and where tunes begin."""
        numbers = {character: i for i, character in enumerate(self.characters)}
        symbols = np.array([numbers.get(c, len(numbers)) for c in "\n\n" + "".join(tunes)])
        ends = symbols == numbers["\n"]
        return symbols[1:], ends[1:] & ends[:-1]

    def bits(self, tunes):
        symbols, begins = self.stream(tunes)
        y = self.layer(self.vectors[symbols[:-1]], resets=begins[:-1]).y
        return cross_entropy(self.scores(y), symbols[1:])[0] / np.log(2)

    def learn(self, tunes, optimiser, rates, rng):
        """Reads the tunes once, as ROWS streams, a segment at a time: the state goes on, its gradient does not. The
        learning rate goes from the first to the second of `rates`."""
        symbols, begins = self.stream(tunes)
        steps = len(symbols) // ROWS
        symbols, begins = (of[: ROWS * steps].reshape(ROWS, steps).T for of in (symbols, begins))
        state = None
        for start in range(0, steps - 1, SEGMENT):
            optimiser.rate = rates[0] + (rates[1] - rates[0]) * start / steps
            targets = symbols[start + 1 : start + 1 + SEGMENT]
            here = slice(start, start + len(targets))
            out, tape = self.layer.forward(self.vectors[symbols[here]], state, resets=begins[here])
            state = tuple(out[1:])
            kept = (rng.random(out.y.shape, "float32") >= DROPPED) / np.float32(1 - DROPPED)
            y = out.y * kept
            _, dscores = cross_entropy(self.scores(y), targets)
            gradients = self.layer.backward(tape, (dscores @ self.parameters["weight"]) * kept).parameters
            gradients |= {"weight": np.tensordot(dscores, y, ((0, 1), (0, 1))), "bias": dscores.sum(axis=(0, 1))}
            optimiser.step(gradients)

    def write(self, temperature, rng, longest=2000):
        """A tune, character by character; low temperatures prefer what is likely."""
        stream, tune = self.layer.stream(), "\n"
        while not tune.endswith("\n\n") and len(tune) < longest:
            y = stream.step(self.vectors[self.characters.index(tune[-1])])
            p = np.exp(self.scores(y)[:-1].astype("float64") / temperature)
            tune += self.characters[rng.choice(len(p), p=p / p.sum())]
        return tune[1:]


def learned(parts, units, epochs, seed, tick):
    """A writer of the epoch in which it was best on the validation tunes."""
    rng, writer, best = np.random.default_rng(seed), Writer(parts[0], units, seed), (np.inf, None)
    optimiser = Adam(writer.parameters, RATE)
    for epoch in range(epochs):
        tunes = [parts[0][i] for i in rng.permutation(len(parts[0]))]
        rates = [RATE * (1 - (epoch + end) / epochs) for end in (0, 1)]  # zero after the last epoch
        writer.learn(tunes, optimiser, rates, rng)
        bits = writer.bits(parts[1])
        if bits < best[0]:
            best = bits, {name: p.copy() for name, p in writer.parameters.items()}
        tick(f"seed {seed}: {bits:.3f} bits")
    for name, p in writer.parameters.items():
        p[:] = best[1][name]
    return writer


def main():
    parser = argparse.ArgumentParser(description="Tunes in ABC notation, character by character, by an LSTM.")
    parser.add_argument("folder", help="with the wheel of music21 10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--save", metavar="NAME", help="the tune as NAME.abc; NAME.svg, NAME.mid by verovio")
    args = parser.parse_args()
    fusedrnn.set_num_threads(1)
    every = list(read(args.folder))
    tunes = distinct(every)
    order = np.random.default_rng(0).permutation(len(tunes))
    parts = [[tunes[i] for i in some] for some in np.split(order, [8 * len(order) // 10, 9 * len(order) // 10])]
    texts = ["".join(part) for part in parts]
    print(f"{len(every)} tunes, {len(tunes)} distinct; characters: {' '.join(str(len(text)) for text in texts)}")
    for name, learn in (("counts of the training tunes", False), ("counts that go on", True)):
        validation, test = (kneser_ney(texts[0], text, learn) for text in texts[1:])
        best = validation.argmin()
        print(f"Kneser-Ney, {name}: {test[best]:.3f} bits a character, order {best}")
    found = []
    with Progress(transient=True) as progress:
        task = progress.add_task("learning", total=args.seeds * args.epochs)

        def tick(said):
            progress.update(task, advance=1, description=said)

        for seed in range(args.seeds):
            writer = learned(parts, args.units, args.epochs, seed, tick)
            found.append(writer.bits(parts[2]))
            progress.console.print(f"seed {seed}: {found[-1]:.3f} bits a character")
    print(f"LSTM: {np.mean(found):.3f} ± {np.std(found):.3f} bits a character")
    rng = np.random.default_rng(0)
    written = [writer.write(args.temperature, rng) for _ in range(20)]
    for name, some in (("written", written), ("of the test", parts[2])):
        full = np.mean([bar for tune in some for bar in full_bars(tune)])
        longest = [copied(tune, texts[0]) for tune in some]
        print(
            f"{len(some)} tunes {name}: {100 * full:.1f}% of bars full; characters in a row that some training", end=""
        )
        print(f" tune has, too: {np.median(longest):.0f} in the median, at most {max(longest)}")
    print(abc := "X:1\n" + written[0])
    if args.save:
        save(args.save, abc)


if __name__ == "__main__":
    main()
