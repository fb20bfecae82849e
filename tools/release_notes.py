"""Prints what the changelog says of a version: `python tools/release_notes.py 0.2.0`. Exits with a message if that is
nothing, or if the package has another version."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def notes_of(version: str, changelog: str) -> str | None:
    """The section of a version with its date; None if there is none."""
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)"
    found = re.search(heading, changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else None


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    version = sys.argv[1]
    found = re.search(r'__version__ = "(.+)"', (ROOT / "python" / "fusedrnn" / "_version.py").read_text())
    if found is None or found[1] != version:
        sys.exit(f"the package has version {found and found[1]}, and not {version}")
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    if cited is None or cited[1] != version:
        sys.exit(f"CITATION.cff has version {cited and cited[1]}, and not {version}")
    notes = notes_of(version, (ROOT / "CHANGELOG.md").read_text())
    if not notes:
        sys.exit(f"CHANGELOG.md has nothing on version {version}")
    print(notes)


if __name__ == "__main__":
    main()
