"""The programs in examples/: they run, and show what they say."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
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


def printed(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


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


def test_sentiment(tmp_path: Path, rng: np.random.Generator) -> None:
    """Learns to tell snippets of few words apart, from a file as it lies in the real archive."""
    need("rich")
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
    output = printed("sentiment.py", str(tmp_path), "--seeds", "1", "--epochs", "6")
    assert "600 snippets" in output
    found = re.findall(r"^(RNN|GRU|LSTM|LSTM, both directions) +([\d.]+) ± 0.0% right", output, re.MULTILINE)
    assert len(found) == 4
    assert all(float(right) > 90 for _, right in found), output


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
