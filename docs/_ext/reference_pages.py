"""The pages of the reference: which names stand on which page. Their texts are docstrings."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import Any

import fusedrnn
import fusedrnn.torch
from fusedrnn.cells import results
from fusedrnn.cells.families import FAMILIES

WITH_METHODS = ("Layer", "Stream", "Tape", "Packed", "Weights", "Reserve")
LAYERS = ["Layer", "Stream", "Tape", "Packed", "load"]
WEIGHTS = ["Weights", "Reserve", *results.__all__]
TYPES = """
In signatures, *Array* is an array of floats, of the shape that the text gives; *Maybe* is an *Array* or None;
*States* is the array of one state, or a tuple of those of a cell that has several, or None; *Lengths* are integers for
each row, or None; *Resets* is an array of bools, or None; *Masks* are arrays of bools by the names of options, or None;
*Activation* is a name, or ``("hard_sigmoid", alpha, beta)``.
"""


def _page(title: str, module: ModuleType, names: list[str], text: str | None = "") -> str:
    parts = [f"{title}\n{'=' * len(title)}", f".. py:currentmodule:: {module.__name__}", text or ""]
    for name in names:
        if inspect.isclass(getattr(module, name)):
            members = "\n   :members:" if module is fusedrnn and name in WITH_METHODS else ""
            parts.append(f".. autoclass:: {name}{members}")
        else:
            parts.append(f".. autofunction:: {name}")
    return "\n\n".join(parts) + "\n"


def _functions_first(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: (name[0].isupper(), name.endswith(("Output", "Gradients")), name))


def pages() -> dict[str, str]:
    """All pages, by file name. Every public name is on one of them."""
    made, named = {}, {*LAYERS, *WEIGHTS}
    for family in FAMILIES:
        classes = ", ".join(name for name in family.__all__ if f"{name}Weights" in family.__all__)
        made[family.__name__.rpartition(".")[2]] = _page(classes, fusedrnn, _functions_first(family.__all__))
        named.update(family.__all__)
    made["layers"] = _page("Layers, streams, packed sequences", fusedrnn, LAYERS)
    calls = f".. py:module:: fusedrnn.call\n\n{fusedrnn.call.__doc__}\n\n.. py:currentmodule:: fusedrnn"
    made["weights"] = _page("Calls, weights, results", fusedrnn, WEIGHTS, calls)
    settings = [name for name in fusedrnn.__all__ if name not in named and inspect.isfunction(getattr(fusedrnn, name))]
    made["settings"] = _page("Settings", fusedrnn, settings)
    for module in (fusedrnn.torch, fusedrnn.convert, fusedrnn.cuda):
        made[module.__name__.rpartition(".")[2]] = _page(module.__name__, module, module.__all__, module.__doc__)
    module = fusedrnn.reference
    same = "\n".join(f"- `{name} <fusedrnn.{name}>`" for name in module.__all__)
    made["reference"] = _page(module.__name__, module, [], f"{module.__doc__}\n\n{same}")
    entries = "\n   ".join(made)
    toctree = f".. toctree::\n   :maxdepth: 1\n\n   {entries}"
    made["index"] = _page("Reference", fusedrnn, [], f"{fusedrnn.__doc__}\n\n{TYPES}\n\n{toctree}")
    return {f"{name}.rst": text for name, text in made.items()}


def plain_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """Types of named tuples as they are written."""
    return (re.sub(r"ForwardRef\('(\w+)'\)", r"\1", signature), returned) if signature else None
