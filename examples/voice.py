"""Where in a sound somebody speaks, frame by frame as it comes, by the model of Silero (MIT licence) that its package,
here of version 6.2.3, ships as an ONNX file: ONNX Runtime computes what lies before the LSTM, a stream of fusedrnn the
LSTM, NumPy the rest. Beside it ONNX Runtime has the whole model, which has branches (`If`) around its LSTM, and the
same model in a file without branches: all on the same frames, in turns, on one thread.

pip install '.[onnx]' onnxruntime && pip install --no-deps silero-vad    # its dependencies are not needed
python examples/voice.py                                                 # two minutes of sound
python examples/voice.py --seconds 600 --plot latency.png                # with '.[bench]', which has matplotlib
"""

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import fusedrnn
from fusedrnn import convert

RATE, FRAME, CONTEXT = 16000, 512, 64  # samples a second, of a frame, and of the frame before that a frame begins with
FILE, WITHOUT_IF = "silero_vad_16k_op15.onnx", "silero_vad_16k_sequence.onnx"
LSTM, BEFORE_LSTM = "/model/decoder/rnn/LSTM", "/model/encoder/3/activation/Relu_output_0"


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def frames_of(samples):
    """(1, CONTEXT + FRAME) each."""
    padded = np.concatenate([np.zeros(CONTEXT, "float32"), samples])
    for start in range(0, len(samples) - FRAME + 1, FRAME):
        yield padded[None, start : start + CONTEXT + FRAME]


class Whole:
    """A model in ONNX Runtime: gives the probability of speech in each frame."""

    def __init__(self, model, state, **options):
        self.session, self.state, self.options = session(model), state, options

    def __call__(self, frame):
        probability, *state = self.session.run(None, {"input": frame, **self.state, **self.options})
        self.state = dict(zip(self.state, state, strict=True))
        return probability.item()


class Streamed:
    """The same, with the LSTM in fusedrnn."""

    def __init__(self, model):
        extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
        self.encoder = session(extractor.extract_model(["input"], [BEFORE_LSTM]))
        self.stream = convert.from_onnx(model, LSTM).stream()
        constants = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
        self.weight = constants["model.decoder.decoder.2.weight"].reshape(-1)
        self.bias = constants["model.decoder.decoder.2.bias"].item()
        self.seconds = []  # of the LSTM and what comes after it

    def __call__(self, frame):
        (features,) = self.encoder.run(None, {"input": frame})  # (1, 128, 1)
        start = time.perf_counter()
        h = self.stream.step(features[:, :, 0])
        probability = 1 / (1 + np.exp(-(np.maximum(h[0], 0) @ self.weight + self.bias)))
        self.seconds.append(time.perf_counter() - start)
        return probability.item()


def sound(seconds, rng):
    """A made-up voice that says vowels for two seconds and is silent for two, in turns, in a little noise."""
    t = np.arange(seconds * RATE) / RATE
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t) + 8 * np.sin(2 * np.pi * 5 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = [  # frequency, width and height, all slowly changing vowels
        (500 + 250 * np.sin(2 * np.pi * 1.7 * t), 90, 1.0),
        (1500 + 600 * np.sin(2 * np.pi * 1.1 * t + 1), 120, 0.5),
        (2600, 160, 0.2),
    ]
    voice = np.zeros_like(t)
    for k in range(1, 40):
        height = sum(a / (1 + ((k * pitch - f) / width) ** 2) for f, width, a in formants)
        voice += height * np.sin(k * phase)
    syllables = (t % 4 < 2) * np.clip(np.sin(2 * np.pi * 4 * t) + 0.4, 0, 1)
    return (0.15 * syllables * voice + 0.003 * rng.standard_normal(len(t))).astype("float32")


def plot(times, path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    every = np.concatenate(list(times.values()))
    bins = np.geomspace(every.min(), every.max(), 100)
    for name, of_frames in times.items():
        plt.hist(of_frames, bins, histtype="step", label=name.strip())
    plt.loglog()
    ticks = [digit * 10**power for power in range(6) for digit in (1, 2, 5) if bins[0] < digit * 10**power < bins[-1]]
    plt.xticks(ticks, ticks)
    plt.minorticks_off()
    plt.xlabel("microseconds a frame")
    plt.ylabel("frames")
    plt.legend()
    plt.savefig(path)


def main():
    parser = argparse.ArgumentParser(description="Finds speech by Silero's model, with the LSTM in fusedrnn.")
    parser.add_argument("--seconds", type=int, default=120, help="of sound")
    parser.add_argument("--plot", metavar="FILE", help="a histogram of the times of frames")
    args = parser.parse_args()
    folder = Path(importlib.util.find_spec("silero_vad").origin).parent / "data"
    model, without_if = onnx.load(folder / FILE), onnx.load(folder / WITHOUT_IF)
    fusedrnn.set_num_threads(1)
    zeros = np.zeros((2, 1, 128), "float32")  # h and c
    systems = {
        "ONNX Runtime": Whole(model, {"state": zeros}, sr=np.array(RATE)),
        "ONNX Runtime without If": Whole(without_if, {"h": zeros[:1], "c": zeros[1:]}),
        "LSTM in fusedrnn": (streamed := Streamed(model)),
    }
    names = list(systems)
    times, found = {name: [] for name in names}, {name: [] for name in names}
    for i, frame in enumerate(frames_of(sound(args.seconds, np.random.default_rng(0)))):
        for name in names[i % 3 :] + names[: i % 3]:
            start = time.perf_counter()
            found[name].append(systems[name](frame))
            times[name].append(1e6 * (time.perf_counter() - start))
    probabilities = np.array(list(found.values()))
    ours, difference = probabilities[-1], np.ptp(probabilities, axis=0).max()
    assert difference < 1e-4, difference
    print(f"speech in {(ours > 0.5).sum()} of {len(ours)} frames; probabilities differ by at most {difference:.1e}")
    times["  of which LSTM and output"] = 1e6 * np.array(streamed.seconds)
    percentiles = 50, 90, 99, 99.9
    print(f"{'microseconds a frame':26}" + "".join(f"{p:8}%" for p in percentiles))
    for name, of_frames in times.items():
        print(f"{name:26}" + "".join(f"{q:9.0f}" for q in np.percentile(of_frames, percentiles)))
    if args.plot:
        plot(times, args.plot)


if __name__ == "__main__":
    main()
