"""Will it rain in Seattle tomorrow, and how warm will it get? A GRU that has read the days until today, against saying
that tomorrow will be as today. The data, of vega_datasets, are NOAA's: 1,461 days of 2012 to 2015. The network learns
from the first three years and is tested on the last; what it does not learn itself (units, dropout, steps) was chosen
by learning from two years and testing on the third.

pip install '.[bench]' && pip install --no-deps vega_datasets
python examples/rain.py                                   # five seeds
python examples/rain.py --seeds 10 --plot rain.png
"""

import argparse
import csv
import importlib.util
from pathlib import Path

import numpy as np
from rich.progress import track

import fusedrnn
from training import Adam, uniform

DAYS, BATCH, FIRST = 60, 16, 10  # of a window; windows; days that only warm up
UNITS, DROPPED, DEGREES = 8, 0.3, 3.0  # the unit of changes of temperature: about their standard deviation


def read():
    """Features (days, 7), whether it rains (days,), the highest temperature (days,) in degrees Celsius, the years."""
    folder = Path(importlib.util.find_spec("vega_datasets").origin).parent / "_data"
    with (folder / "seattle-weather.csv").open() as file:
        rows = list(csv.DictReader(file))
    numbers = np.array([[float(r[k]) for k in ("precipitation", "temp_max", "temp_min", "wind")] for r in rows])
    rains, warmest = numbers[:, 0] > 0, numbers[:, 1].copy()
    season = 2 * np.pi * np.arange(len(rows)) / 365.25
    numbers[:, 0] = np.log1p(numbers[:, 0])
    columns = numbers, rains[:, None], np.sin(season)[:, None], np.cos(season)[:, None]
    return np.hstack(columns).astype("float32"), rains, warmest, np.array([int(r["date"][:4]) for r in rows])


def learned(data, days, seed, steps):
    """Chances of rain and changes of the highest temperature, of the day after each, learned from the first `days`."""
    x, rains, warmest, _ = data
    x = (x - x[:days].mean(axis=0)) / x[:days].std(axis=0)
    rng = np.random.default_rng(seed)
    gru = fusedrnn.GRU(x.shape[1], UNITS, rng=seed)
    parameters = {**gru.parameters, "weight": uniform(rng, 2, UNITS), "bias": np.zeros(2, "float32")}
    optimiser = Adam(parameters, 3e-3)
    change = np.diff(warmest, append=warmest[-1]).astype("float32") / np.float32(DEGREES)
    for _ in track(range(steps), f"seed {seed}", transient=True):
        at = rng.integers(0, days - DAYS, BATCH) + np.arange(DAYS)[:, None]  # (T, B)
        # Dropout of features and of units, of the same ones on all days of a window (Gal & Ghahramani 2016).
        kept_x, kept_y = ((rng.random((BATCH, n)) >= DROPPED) / np.float32(1 - DROPPED) for n in (x.shape[1], UNITS))
        out, tape = gru.forward(x[at] * kept_x)
        y = out.y * kept_y
        scores = y @ parameters["weight"].T + parameters["bias"]
        dscores = np.zeros_like(scores)
        dscores[..., 0] = 1 / (1 + np.exp(-scores[..., 0])) - rains[at + 1]  # of cross-entropy
        dscores[..., 1] = np.clip(scores[..., 1] - change[at], -1, 1)  # of the loss of Huber (1964)
        dscores[:FIRST] = 0
        dscores /= dscores[FIRST:, :, 0].size
        gradients = gru.backward(tape, (dscores @ parameters["weight"]) * kept_y).parameters
        gradients |= {"weight": np.einsum("tbs,tbh->sh", dscores, y), "bias": dscores.sum(axis=(0, 1))}
        optimiser.step(gradients)
    scores = gru(x).y @ parameters["weight"].T + parameters["bias"]
    return 1 / (1 + np.exp(-scores[:, 0])), DEGREES * scores[:, 1]


def plot(path, warmest, chance, change, tested):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 6), sharex=True)
    days = np.arange(1, tested.sum() + 1)
    top.plot(days, warmest[tested], label="measured", color="#555555", linewidth=1)
    top.plot(days, (warmest + change)[:-1][tested[1:]], label="told the day before", color="#d55e00", linewidth=1)
    top.set_ylabel("highest temperature, °C")
    bottom.plot(days, chance[:-1][tested[1:]], color="#0072b2", linewidth=1)
    bottom.set_ylabel("chance of rain, told the day before")
    bottom.set_xlabel("day of the last year")
    top.legend()
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description="Rain and temperature of tomorrow, by a GRU.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument(
        "--test", type=int, default=2015, choices=(2013, 2014, 2015), help="learned from the years before"
    )
    parser.add_argument("--plot", metavar="FILE", help="the last seed's predictions")
    args = parser.parse_args()
    fusedrnn.set_num_threads(1)
    data = _, rains, warmest, years = read()
    tested = years == args.test
    today = np.flatnonzero(tested) - 1  # the days before those that are told
    often = rains[tested].mean()
    print(f"{args.test}, always the more frequent weather: right on {100 * max(often, 1 - often):.1f}%")
    same = (rains[today] == rains[tested]).mean(), np.abs(warmest[today] - warmest[tested]).mean()
    print(f"as today: rain right on {100 * same[0]:.1f}%, temperature off by {same[1]:.2f} °C")
    found = []
    for seed in range(args.seeds):
        chance, change = learned(data, tested.argmax(), seed, args.steps)
        right = ((chance[today] > 0.5) == rains[tested]).mean()
        off = np.abs(warmest[today] + change[today] - warmest[tested]).mean()
        found.append((100 * right, off))
        print(f"seed {seed}: rain right on {100 * right:.1f}%, temperature off by {off:.2f} °C")
    (right, off), (right_spread, off_spread) = np.mean(found, axis=0), np.std(found, axis=0)
    print(f"GRU: rain right on {right:.1f} ± {right_spread:.1f}%, ", end="")
    print(f"temperature off by {off:.2f} ± {off_spread:.2f} °C")
    if args.plot:
        plot(args.plot, warmest, chance, change, tested)


if __name__ == "__main__":
    main()
