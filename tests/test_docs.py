"""Runs every Python block of the documentation, page by page, the blocks of a page in one namespace. A comment in the
Markdown says what a page's blocks need beforehand (``<!-- invisible-code-block: python ...``) or why a block cannot run
(``<!-- skip: next "reason" -->``)."""

from __future__ import annotations

import importlib
import pydoc
import unittest
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import fusedrnn

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HAVE_BLOCKS = [path for path in PAGES if "```python" in path.read_text()]


PEERS = ("torch", "keras", "h5py", "onnx", "onnxruntime", "safetensors", "jax")


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras's variables on PyTorch
@pytest.mark.parametrize("page", HAVE_BLOCKS, ids=lambda page: page.stem)
def test_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    skipped = []
    for example in Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(page).examples():
        try:
            example.evaluate()
        except unittest.SkipTest as reason:
            skipped.append(f"the block after line {example.line}: {reason}")
        except ModuleNotFoundError as error:
            if error.name not in PEERS:
                raise
            pytest.skip(f"{error.name} is not installed")
    if skipped:
        pytest.skip("; ".join(skipped))


def test_reference_has_every_public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "docs/_ext")
    pages = importlib.import_module("reference_pages").pages()
    found = {line.split()[-1] for page in pages.values() for line in page.splitlines() if line.startswith(".. auto")}
    modules = {"__version__", "convert", "cuda", "reference"}
    assert found >= {*fusedrnn.__all__} - modules
    assert found >= {*fusedrnn.convert.__all__, *fusedrnn.torch.__all__, *fusedrnn.cuda.__all__}


def test_help_says_signatures() -> None:
    """pybind11 writes "Overloaded function" in place of a signature where a name is defined twice."""
    for module in (fusedrnn, fusedrnn._core, fusedrnn.convert, fusedrnn.cuda):
        assert "Overloaded function" not in pydoc.render_doc(module)
