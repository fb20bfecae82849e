"""The programs in examples/: they run, and show what they say."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
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


def test_the_examples_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 150


def test_the_program_of_the_docs_is_short() -> None:
    assert len((EXAMPLES / "brackets.py").read_text().splitlines()) < 60
