"""Pages that are made of other files, in docs/generated: the reference, of docstrings; the programs of examples/; the
tables of bench/results/, by the code of bench/ that prints them; and the texts that lie outside of docs/. Links from
one text to another work in the repository as they stand, and are mended here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import figures_page
import reference_pages

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MADE = DOCS / "generated"
TEXTS = {
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "bench/README.md": "benchmarks",
    "bench/NOTES.md": "notes",
    "tools/README.md": "tools",
}
PROGRAMS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "examples").glob("*.py"))] + ["bench/reber.py"]
PAGES = {name: MADE / f"{page}.md" for name, page in TEXTS.items()}
PAGES |= {name: MADE / f"programs/{Path(name).stem}.md" for name in PROGRAMS}
LINK = re.compile(r"\]\(([^()#:\s]+)(#[^()\s]*)?\)")


def page_of(target: Path) -> Path:
    """The file that a link to `target` leads to on the site."""
    name = target.relative_to(ROOT).as_posix()
    return MADE / "figures.md" if name.startswith("bench/results") else PAGES.get(name, target)


def relinked(text: str, source: Path, page: Path) -> str:
    """The text of `source` with links that lead on from `page`."""

    def link(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        if not target.exists():
            return match[0]  # code that looks like a link; or a broken one, of which MyST warns
        to = page_of(target)
        return f"]({os.path.relpath(to, page.parent)}{match[2] or ''})"

    return LINK.sub(link, text)


def write(pages: dict[Path, str]) -> None:
    """Leaves a page alone that is as it was, so that Sphinx need not read it again, and removes those of before."""
    for page in {*MADE.rglob("*.md"), *MADE.rglob("*.rst")} - pages.keys():
        page.unlink()
    for page, text in pages.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def program(name: str) -> str:
    path = os.path.relpath(ROOT / name, PAGES[name].parent)
    return f"# {name}\n\n```{{literalinclude}} {path}\n:language: python\n```\n"


def make(app: Any, config: Any) -> None:
    pages = {PAGES[name]: relinked((ROOT / name).read_text(), ROOT / name, PAGES[name]) for name in TEXTS}
    pages |= {PAGES[name]: program(name) for name in PROGRAMS}
    pages |= {MADE / "api" / page: text for page, text in reference_pages.pages().items()}
    pages[MADE / "figures.md"] = figures_page.page(ROOT / "bench/results", MADE)
    write(pages)


def mend(app: Any, name: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md" and MADE not in path.parents:
        source[0] = relinked(source[0], path, path)


def setup(app: Any) -> dict[str, Any]:
    app.connect("config-inited", make)
    app.connect("source-read", mend)
    app.connect("autodoc-process-signature", reference_pages.plain_signature)
    return {"parallel_read_safe": True}
