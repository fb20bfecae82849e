"""Where an aircraft will be in 60 seconds: a GRU that has followed it until now, against going on at the speed and on
the track of now. The data are 1,243 flights over Switzerland on 1 August 2018, a point every 10 seconds, of the OpenSky
network as the package traffic ships them, resampled, with short gaps filled. The GRU tells how far, along and
across the track, the aircraft will be from where constant velocity takes it. Flights are cut at random into 70% to
learn from, 10% to choose the best epoch by, and 20% to test.

pip install '.[bench]'
pip download --no-deps traffic==2.13 -d data              # 28 MB, of which one file is read
python examples/trajectories.py data
python examples/trajectories.py data --seeds 1 --epochs 3 --plot trajectories.png
"""

import argparse
import gzip
import json
import zipfile
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.progress import Progress

import fusedrnn
from training import Adam, uniform

STEP, AHEAD, LEAST, UNITS, BATCH = 10, 6, 20, 64, 32  # seconds; steps; points of a flight; units; flights
DEGREE, KNOT, NEAR = 111.32, 1.852 / 3600, 0.1  # km; km/s; km up to which the loss is about quadratic


def read(folder):
    """Flights without gaps, as arrays of altitude, speed, latitude, longitude, track and vertical rate (points, 6)."""
    (wheel,) = Path(folder).glob("traffic-2.13-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        points = json.loads(gzip.decompress(archive.read("traffic/data/samples/collections/switzerland.json.gz")))

    def flight_of(p):
        return p["icao24"], p["callsign"] or ""

    points.sort(key=lambda p: (flight_of(p), p["timestamp"]))
    names = "altitude", "groundspeed", "latitude", "longitude", "track", "vertical_rate"
    for _, of_flight in groupby(points, key=flight_of):
        flight = list(of_flight)
        values = np.array([[p[name] if p[name] is not None else np.nan for name in names] for p in flight])
        times = np.array([p["timestamp"] for p in flight]) / 1000
        whole = np.isfinite(values).all(axis=1)
        gaps = np.flatnonzero((np.diff(times) != STEP) | ~whole[1:] | ~whole[:-1]) + 1
        yield from (part for part in np.split(values, gaps) if len(part) >= LEAST)


def turned(vectors, track):
    """Vectors (east, north) as (along, across) the track, which is clockwise from the north."""
    (east, north), sin, cos = vectors.T, np.sin(track), np.cos(track)
    return np.stack([east * sin + north * cos, east * cos - north * sin], axis=-1)


def moved(flight, steps):
    """How far (east, north) the aircraft is from each point after so many steps, in km."""
    latitude, longitude = flight[:, 2], flight[:, 3]
    east = (longitude[steps:] - longitude[:-steps]) * DEGREE * np.cos(np.radians(latitude[:-steps]))
    return np.stack([east, (latitude[steps:] - latitude[:-steps]) * DEGREE], axis=-1)


def prepared(flight):
    """Features of each point but the first and the last ones, and how far constant velocity will be off, in km."""
    speed, track = flight[:, 1] * KNOT, np.radians(flight[:, 4])
    turn = (np.diff(track) + np.pi) % (2 * np.pi) - np.pi
    last = turned(moved(flight, 1), track[1:])  # the step that has led here
    columns = flight[1:, 0] / 1e4, speed[1:] / 0.2, flight[1:, 5] / 1e3, 10 * turn, 100 * np.diff(speed), last / 2
    off = turned(moved(flight, AHEAD), track[:-AHEAD])[1:]
    off[:, 0] -= speed[1:-AHEAD] * AHEAD * STEP
    return np.column_stack(columns)[: len(off)].astype("float32"), off.astype("float32")


def batches(flights, order):
    for start in range(0, len(order), BATCH):
        some = [flights[i] for i in order[start : start + BATCH]]
        lengths = np.array([len(x) for x, _ in some])
        x, off = (np.zeros((lengths.max(), len(some), n), "float32") for n in (7, 2))
        for row, (of_row, target) in enumerate(some):
            x[: lengths[row], row], off[: lengths[row], row] = of_row, target
        yield x, off, lengths, np.arange(lengths.max())[:, None] < lengths


def errors(gru, weight, flights, order):
    """Of the network, in km, at every point."""
    parts = ((gru(x, lengths=n).y @ weight.T - off)[valid] for x, off, n, valid in batches(flights, order))
    return np.concatenate([np.linalg.norm(part, axis=-1) for part in parts])


def learned(flights, parts, seed, epochs, tick):
    rng = np.random.default_rng(seed)
    gru, weight = fusedrnn.GRU(7, UNITS, rng=seed), 0.1 * uniform(rng, 2, UNITS)
    optimiser, best, found = Adam({**gru.parameters, "weight": weight}, 2e-3), np.inf, None
    for _ in range(epochs):
        for x, off, lengths, valid in batches(flights, rng.permutation(parts[0])):
            out, tape = gru.forward(x, lengths=lengths)
            error = (out.y @ weight.T - off) * valid[..., None]
            derror = error / np.sqrt(1 + (error**2).sum(axis=-1, keepdims=True) / NEAR**2) / NEAR / float(valid.sum())
            gradients = gru.backward(tape, derror @ weight).parameters
            optimiser.step({**gradients, "weight": np.einsum("tbs,tbh->sh", derror, out.y)})
        if (now := errors(gru, weight, flights, parts[1]).mean()) < best:
            best, found = now, errors(gru, weight, flights, parts[2])
        tick()
    return found


def plot(path, baseline, found):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    share = np.linspace(0, 100, len(baseline))
    for name, of, colour in (("constant velocity", baseline, "#d55e00"), ("GRU", found, "#0072b2")):
        plt.plot(np.sort(of), share, label=name, color=colour)
    plt.xlim(0, 4)
    plt.xlabel("error 60 s ahead, km")
    plt.ylabel("% of points with a smaller error")
    plt.legend()
    plt.savefig(path)


def main():
    parser = argparse.ArgumentParser(description="Where an aircraft will be in 60 seconds, by a GRU.")
    parser.add_argument("folder", help="with the wheel of traffic 2.13")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--plot", metavar="FILE", help="the errors of the last seed")
    args = parser.parse_args()
    flights = [prepared(flight) for flight in read(args.folder)]
    order = np.random.default_rng(0).permutation(len(flights))
    parts = np.split(order, [7 * len(order) // 10, 8 * len(order) // 10])
    baseline = np.concatenate([np.linalg.norm(flights[i][1], axis=-1) for i in parts[2]])
    print(f"{len(flights)} pieces of flights without gaps, {len(baseline)} points to test")
    print(f"constant velocity: {baseline.mean():.3f} km off in the mean, {np.median(baseline):.3f} in the median")
    found = []
    with Progress(transient=True) as progress:
        task = progress.add_task("learning", total=args.seeds * args.epochs)
        for seed in range(args.seeds):
            found.append(learned(flights, parts, seed, args.epochs, lambda: progress.advance(task)))
    means, medians = np.mean(found, axis=1), np.median(found, axis=1)
    print(f"GRU: {means.mean():.3f} ± {means.std():.3f} km off in the mean, ", end="")
    print(f"{medians.mean():.3f} ± {medians.std():.3f} in the median")
    if args.plot:
        plot(args.plot, baseline, found[-1])


if __name__ == "__main__":
    main()
