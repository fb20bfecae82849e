"""What surrounds the code: the history of the benchmarks, release notes, and versions that stand in several files."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fusedrnn

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "CHANGELOG.md").exists(), reason="needs the checkout")


def record(cpu: str, ms: dict[str, float]) -> dict[str, Any]:
    """Results of LSTM inference at two sizes of the grid, of which the second takes ten times as long, and one step."""
    sizes = {(1, 1, 32, 32): 1.0, (100, 1, 256, 256): 1.0, (100, 16, 256, 256): 10.0}
    results = [
        {
            "case": dict(zip("TBIH", size, strict=True), op="lstm", mode="infer", dtype="float32"),
            "ms": {name: value * factor for name, value in ms.items()},
        }
        for size, factor in sizes.items()
    ]
    machine = {"machine": {"cpu": cpu}, "threads": 2, "versions": {"fusedrnn": "0.1.0"}}
    return machine | {"commit": "0123abc", "date": "2020-01-01", "results": results}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_history_of_results_is_read_from_git(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    import history

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    file = tmp_path / "results" / "cpu.json"
    file.parent.mkdir()
    git("init")
    committed = [record("A", {"fusedrnn": 1, "torch": 2}), record("B", {"fusedrnn": 1, "torch": 3, "onnxruntime": 4})]
    for i, version in enumerate(committed):
        file.write_text(json.dumps(version))
        git("add", ".")
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", str(i))
    file.write_text("not committed")
    found = history.versions(file)
    assert found == committed
    assert history.means(found) == {"lstm infer float32": [pytest.approx(2), pytest.approx(3)]}
    history.plot(found, history.means(found), tmp_path / "out" / "history.png")
    assert (tmp_path / "out" / "history.png").read_bytes().startswith(b"\x89PNG")
    command = [sys.executable, history.__file__, str(tmp_path / "results" / "other.json")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "is committed" in refused.stderr


def test_release_notes_are_the_section_of_a_version() -> None:
    notes_of = runpy.run_path(str(ROOT / "tools" / "release_notes.py"))["notes_of"]
    changelog = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2020-01-02\n\n### Added\n- b\n\n## [0.1.0]\n- a\n"
    ours = (ROOT / "CHANGELOG.md").read_text()
    assert notes_of("0.2.0", changelog) == "### Added\n- b"
    assert notes_of("0.1.0", changelog) is None  # it has no date
    assert notes_of("0.2", changelog) is None
    assert notes_of(fusedrnn.__version__, ours.replace("not released yet", "2020-01-02"))
    assert notes_of("0.1.0", ours) is None


def test_the_citation_has_this_version() -> None:
    assert f"\nversion: {fusedrnn.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_hooks_have_the_versions_of_the_extra() -> None:
    (lint,) = re.findall(r"^lint = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    hooks = re.findall(r"additional_dependencies: \[\"?(.*?)\"?\]\n", (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(hooks) == 4
    assert {f'"{hook}"' for hook in hooks} <= set(lint.split(", "))
