"""The data of speech.py, as the package aeon ships them, and its plot: nine men say the vowels a and e; 12 LPC cepstrum
coefficients a frame, 7 to 29 frames an utterance (Kudo, Toyama & Shimbo, Pattern Recognition Letters 20, 1999)."""

import zipfile
from pathlib import Path

import torch

FEATURES, SPEAKERS = 12, 9


def read(folder, part):
    """Pairs of an utterance (frames, FEATURES) and its speaker, from 0."""
    (wheel,) = Path(folder).glob("aeon-1.6.0-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts").decode()
    rows = [line.split(":") for line in text.partition("@data\n")[2].splitlines()]
    return [(torch.tensor([[float(v) for v in of.split(",")] for of in row[:-1]]).T, int(row[-1]) - 1) for row in rows]


def prepared(folder, validate):
    """What to learn from and what to test on, with features scaled by the former."""
    train = read(folder, "TRAIN")  # 30 utterances of each speaker, one speaker after the other
    if validate:
        train, test = ([pair for i, pair in enumerate(train) if (i % 30 < 20) == learn] for learn in (True, False))
    else:
        test = read(folder, "TEST")
    std, mean = torch.std_mean(torch.cat([x for x, _ in train]), dim=0)
    return [[((x - mean) / std, speaker) for x, speaker in part] for part in (train, test)]


def by_gaussians(train, test):
    """Accuracy of one normal distribution of the frames of each speaker, frames taken as independent."""
    frames = [torch.cat([x for x, speaker in train if speaker == s]) for s in range(SPEAKERS)]
    fits = [torch.distributions.MultivariateNormal(x.mean(dim=0), x.T.cov()) for x in frames]
    found = [int(torch.stack([fit.log_prob(x).sum() for fit in fits]).argmax()) for x, _ in test]
    return 100 * sum(s == speaker for s, (_, speaker) in zip(found, test, strict=True)) / len(test)


def plot(path, losses, names):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, height_ratios=(2, 1), layout="tight")
    epochs = range(1, losses.shape[-1] + 1)
    solid, dashed = {"color": "#0072b2", "linewidth": 3, "alpha": 0.5}, {"color": "#d55e00", "linestyle": "--"}
    for i, style in enumerate((solid, dashed)):
        top.plot(epochs, losses[:, i].T, **style)[0].set_label(names[i])
    top.set(yscale="log", ylabel="loss in training, nats")
    top.legend()
    difference = abs(losses[:, 0] - losses[:, 1]).max(axis=0)
    bottom.plot(epochs, difference, color="#555555", label="largest of the seeds")
    bottom.set(yscale="log", xlabel="epoch", ylabel="difference, nats")
    bottom.legend()
    figure.savefig(path)
